"""The commands about learning rules and models: list them, cite them, and repeat the experiments of their papers."""

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

from tsslbp import rules
from tsslbp.cli.parse import parse
from tsslbp.cli.show import console
from tsslbp.rivals import RIVALS, catalogue
from tsslbp.rivals.check import check, numbers, save
from tsslbp.utils import files
from tsslbp.utils.tables import aligned


@dataclass(frozen=True)
class Rules:
    """List the learning rules with their options, and the complete models to compare with."""

    markdown: bool = False
    """Print the table of docs/rules.md."""


def rules_(arguments: list[str]) -> None:
    """``tsslbp rules``."""
    if parse(Rules, "rules", arguments).markdown:
        print(catalogue.markdown(), end="")
        return
    for name, entry in catalogue.entries().items():
        if name == next(iter(RIVALS)):
            console.print('Options go in brackets: --rule "tssl(reset=False, clip=1)"\n')
            console.print("Complete models from other papers. tsslbp check NAME repeats the experiment of its paper:")
        console.print(f"{name}: {entry.summary}")
        console.print(f"    source: {entry.paper}")
        if name in rules.RULES:
            console.print(f"    options: {', '.join(f'{field.name}={field.default}' for field in fields(rules.get(name)))}")
        console.print(f"    stores: {entry.stores}")
        how = [word for word, is_so in (("local", entry.local), ("online", entry.online)) if is_so]
        console.print(f"    {', '.join([*how, *entry.supports])}")


@dataclass(frozen=True)
class Cite:
    """Print BibTeX of this software and of the papers behind a rule or model."""

    rule: str = "tssl"
    """A name that tsslbp rules lists."""


def cite(arguments: list[str]) -> None:
    """``tsslbp cite``."""
    print(catalogue.cite(parse(Cite, "cite", arguments).rule))


@dataclass(frozen=True)
class Check:
    """Repeat the experiment of another model's paper. The exit code is 1 if the model did not do what it should."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the model. tsslbp rules lists them."""
    seeds: int = 1
    """Number of seeds, counted from 0."""
    quick: bool = False
    """Run a smaller experiment that takes seconds."""
    out: Path = Path("results/checks")
    """Folder for the result, NAME.json or NAME-quick.json."""


def check_(arguments: list[str]) -> None:
    """``tsslbp check``."""
    options = parse(Check, "check", arguments)
    files.check_folder(options.out, "choose another --out")
    result = check(options.name, options.seeds, options.quick)
    columns = [numbers(run) for run in result["runs"]]
    console.print(aligned([[key, *(column.get(key, "") for column in columns)] for key in columns[0]]))
    console.print(f"result: {save(result, options.out)}")
    if not result["passed"]:
        sys.exit(1)
