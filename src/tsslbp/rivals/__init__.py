"""Complete models with their own learning rules, each with the reference experiment of its paper.

They cannot be rules on this library's layers, as their neurons or computations differ; those that can are in ``rules/``. The
facts about each model are here; its module is imported when its experiment is run.
"""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

Support = Literal["feed-forward", "recurrent", "parts", "kernels", "spike times"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A learning rule or a model: a row of ``docs/rules.md``."""

    summary: str
    """One line."""
    paper: str
    """Where it comes from."""
    cites: tuple[str, ...]
    """Keys of its papers in ``papers.bib``."""
    stores: str
    """What it must keep in order to learn, in addition to weights and inputs."""
    local: bool
    """A weight changes by what its two neurons know and an error sent to the later one; no other weights are needed."""
    online: bool
    """It learns forward in time, and its memory does not grow with the number of steps."""
    supports: tuple[Support, ...]
    """Its uses."""


@dataclass(frozen=True, kw_only=True)
class Rival(Entry):
    """A model with its own module in this folder."""

    module: str

    def experiment(self, seed: int = 0, quick: bool = False) -> dict[str, Any]:
        """Run its paper's experiment; returns JSON values, among them ``passed``."""
        return importlib.import_module(f"tsslbp.rivals.{self.module}").experiment(seed, quick)


RIVALS: dict[str, Rival] = {
    "tempotron": Rival(
        module="tempotron",
        summary="one neuron that learns to fire for some patterns of spike times and to stay silent for others",
        paper="Gütig & Sompolinsky, Nat. Neurosci. 2006",
        cites=("gutig2006tempotron",),
        stores="spike times of the pattern at hand",
        local=True,
        online=False,
        supports=("feed-forward", "spike times"),
    ),
    "liquid": Rival(
        module="liquid",
        summary="liquid state machine: a fixed random column of neurons with a trained linear readout",
        paper="Maass, Natschläger & Markram, Neural Comput. 2002",
        cites=("maass2002real", "markram1998differential"),
        stores="liquid state, one float per neuron and trial",
        local=False,
        online=False,
        supports=("recurrent",),
    ),
    "smooth-gate": Rival(
        module="smooth_gate",
        summary="exact gradient of neurons whose synapse is a smooth gate in place of the threshold",
        paper="Huh & Sejnowski, NeurIPS 2018, arXiv 1706.04698",
        cites=("huh2018gradient",),
        stores="membrane, current, resets and synapse, four floats per neuron and step",
        local=False,
        online=False,
        supports=("recurrent",),
    ),
    "superspike-online": Rival(
        module="superspike",
        summary="three-factor rule for precise output spikes: a surrogate gradient from traces, and an error fed back",
        paper="Zenke & Ganguli, Neural Comput. 2018, arXiv 1705.11146",
        cites=("zenke2018superspike",),
        stores="eligibility trace, two floats per weight and trial",
        local=True,
        online=True,
        supports=("feed-forward",),
    ),
    "e-prop-online": Rival(
        module="eprop",
        summary="recurrent networks with adaptive thresholds that learn from eligibility traces and an error fed back",
        paper="Bellec et al., Nat. Commun. 2020",
        cites=("bellec2020solution",),
        stores="eligibility traces, two floats per weight and trial, or three where neurons adapt",
        local=True,
        online=True,
        supports=("recurrent",),
    ),
    "eventprop-exact": Rival(
        module="eventprop",
        summary="exact gradient of spike times in continuous time, without a grid",
        paper="Wunderlich & Pehle, Sci. Rep. 2021, arXiv 2009.08378",
        cites=("wunderlich2021event",),
        stores="spikes, with a time and a current each",
        local=False,
        online=False,
        supports=("feed-forward", "spike times"),
    ),
}
"""Every model by the name that ``tsslbp check`` takes."""
