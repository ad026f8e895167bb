"""Every learning rule and model in one table, for ``tsslbp rules``, ``tsslbp cite`` and ``docs/rules.md``."""

import re
from collections.abc import Mapping
from importlib import metadata, resources
from typing import get_args

from tsslbp import rules
from tsslbp.rivals import RIVALS, Entry, Support
from tsslbp.utils import tables
from tsslbp.utils.errors import unknown
from tsslbp.utils.spec import name_of

HEAD = """# Learning rules and models

`tsslbp rules --markdown` makes this page from the code. `tsslbp rules` also lists the options, and `tsslbp cite --rule NAME`
prints BibTeX. [How to choose a rule](how-to-choose-a-rule.md) gives advice.

- **stores**: what it must keep in order to learn, in addition to weights and inputs.
- **local**: a weight's update uses what its two neurons know and an error sent to the post-synaptic one, and no other weights.
- **online**: it learns forward in time, and what it keeps does not grow with the number of steps.
- **recurrent**: it trains networks whose neurons are connected to each other, or is such a network.
- **parts**: it takes sequences in parts, each of which hands its state to the next, and the gradient is that of the whole.
- **kernels**: it runs on the compiled kernels. Other rules run on PyTorch operations.
- **spike times**: it takes sequences of spike times, not of steps.
"""


def of_rules() -> dict[str, Entry]:
    """The rules for this library's layers, by their name in ``rule="name"``."""
    return {name: _of_rule(rules.get(name)) for name in rules.RULES}


def entries() -> dict[str, Entry]:
    """All of them, rules first."""
    return {**of_rules(), **RIVALS}


def cite(name: str) -> str:
    """BibTeX of this software and of a rule's or model's papers; options as in ``"tssl(reset=False)"`` are ignored.

    Raises:
        UserError: an unknown name.
    """
    known, name = entries(), name_of(name)
    if name not in known:
        raise unknown("rule", name, known)
    return "\n\n".join([software(), *(papers()[key] for key in known[name].cites)])


def papers() -> dict[str, str]:
    """BibTeX of every paper behind a rule or model, by its key."""
    text = resources.files("tsslbp.rivals").joinpath("papers.bib").read_text(encoding="utf-8")
    return {key: entry for entry, key in re.findall(r"(^@\w+{(\w+),.*?^}$)", text, flags=re.DOTALL | re.MULTILINE)}


def software() -> str:
    """BibTeX of this version of the software, as in ``CITATION.cff``."""
    return f"""@software{{tsslbp,
  author  = {{{{The tsslbp developers}}}},
  title   = {{tsslbp: Train deep spiking neural networks by spike timing}},
  version = {{{metadata.version("tsslbp")}}},
  year    = {{2026}}
}}"""


def markdown() -> str:
    """The text of ``docs/rules.md``."""
    on_layers = '## Rules for the layers: `rule="NAME"`, `--rule NAME`'
    models = "## Complete models from other papers: `tsslbp check NAME`"
    return "\n".join([HEAD, on_layers, "", _table(of_rules()), models, "", _table(RIVALS)])


def _of_rule(rule: rules.Rule) -> Entry:
    supports: list[Support] = ["feed-forward"]
    if rule.takes_parts:
        supports += ["recurrent", "parts"]
    if rule.numbers is not None:
        supports.append("kernels")
    # The rest is the same for all: functional.py keeps the membrane potential, time runs backwards, and the error comes through
    # the weights of the layer above.
    stores = "membrane potential, one float per neuron and step"
    return Entry(
        summary=rule.summary,
        paper=rule.paper,
        cites=rule.cites,
        stores=stores,
        local=False,
        online=False,
        supports=tuple(supports),
    )


def _table(rows: Mapping[str, Entry]) -> str:
    columns = get_args(Support)

    def yes(it: bool) -> str:
        return "yes" if it else "–"

    lines = []
    for name, entry in rows.items():
        papers = f"{entry.paper}: {', '.join(f'`{key}`' for key in entry.cites)}"
        facts = [yes(entry.local), yes(entry.online), *(yes(column in entry.supports) for column in columns)]
        lines.append([f"`{name}`", entry.summary, entry.stores, *facts, papers])
    return tables.markdown(["name", "what it is", "stores", "local", "online", *columns, "paper"], lines)
