"""Runs a written NIR graph in other simulators and counts spikes and answers that differ from the network's own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tsslbp.exchange import simulators
from tsslbp.exchange.certificate import guaranteed
from tsslbp.exchange.onset import ONSET
from tsslbp.exchange.outgoing import UNIT, as_written, neurons_of_layer
from tsslbp.layers import quantisation
from tsslbp.network.network import Network
from tsslbp.utils.signals import within

DTYPES = (torch.float32, torch.float64)
AT_ONCE = 100
"""Samples in memory together."""


@dataclass
class Comparison:
    """Spikes of a simulator compared with those of the network."""

    simulator: str
    version: str
    dtype: torch.dtype
    differ: dict[str, int]
    """By layer, neurons and steps of all samples at which one spikes and the other does not."""
    of: dict[str, int]
    """By layer, neurons times steps of all samples: its neuron steps."""
    refused: str = ""
    """Error of a simulator that did not run the graph."""
    answers: int = 0
    """Samples with another answer, if the output is read from its voltage."""

    @property
    def total(self) -> int:
        return sum(self.differ.values())


@dataclass
class Checked:
    """Results of a check."""

    samples: int
    comparisons: list[Comparison]
    guaranteed: dict[torch.dtype, int]
    """Samples whose spikes are the same in every exact simulator (:mod:`tsslbp.exchange.certificate`)."""
    voltage: bool
    """Whether the output is read from its voltage; then its answers are compared."""


def check(
    network: Network,
    graph: Any,
    x: Tensor,
    which: dict[str, simulators.Simulator] | None = None,
    say: Callable[[str], None] = lambda line: None,
    lengths: Tensor | None = None,
) -> Checked:
    """Compare the spikes of a network with those of simulators that run its graph.

    Args:
        network: in evaluation mode.
        graph: a ``nir.NIRGraph``, as :func:`tsslbp.exchange.nir.to_nir` makes it.
        x: network input, ``[B, ...]`` or ``[T, B, ...]``.
        which: simulators by name; by default all that are installed.
        say: gets a line before each simulator.
        lengths: steps of each sequence, ``[B]``; those after its end are not compared.
    """
    found = simulators.installed() if which is None else which
    axis = 0 if network.is_static(x) else 1
    parts = x.split(AT_ONCE, axis)
    ends = [None] * len(parts) if lengths is None else lengths.split(AT_ONCE)
    compared = []
    for name, simulator in found.items():
        for dtype in DTYPES:
            say(f"{name}, {_called(dtype)}")
            compared.append(_compare(network, graph, [*zip(parts, ends, strict=True)], name, simulator, dtype))
    say("margins")
    proofs = [guaranteed(network, part, DTYPES) for part in parts]
    shares = {dtype: sum(int(proof[dtype].sum()) for proof in proofs) for dtype in DTYPES}
    return Checked(x.shape[axis], compared, shares, not network.spikes_last)


@torch.no_grad()
def _compare(
    network: Network,
    graph: Any,
    parts: Sequence[tuple[Tensor, Tensor | None]],
    name: str,
    simulator: simulators.Simulator,
    dtype: torch.dtype,
) -> Comparison:
    made, own = Comparison(name, simulator.version, dtype, {}, {}), as_written(network, dtype)
    for part, ends in parts:
        currents = own.activity(part.to(dtype))
        steps = driven(graph, part.to(dtype), network.time_steps if network.is_static(part) else None)
        try:
            theirs = simulator.run(graph, steps)
        except Exception as error:  # each library has its own errors
            made.refused = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return made
        for layer, train in own.trains(currents).items():
            train = train.flatten(2)
            other = theirs[neurons_of_layer(layer)][..., : train.shape[2]]  # without an onset
            made.differ[layer] = made.differ.get(layer, 0) + int(within(train ^ other, ends).sum())
            made.of[layer] = made.of.get(layer, 0) + int(within(torch.ones_like(train), ends).sum())
        if not network.spikes_last:
            voltages = currents["output"], theirs[neurons_of_layer("output")]
            ours, others = (own.vote(within(voltage, ends)).sum(0).argmax(-1) for voltage in voltages)
            made.answers += int((ours != others).sum())
    return made


def driven(graph: Any, x: Tensor, time_steps: int | None = None) -> Tensor:
    """Input of a graph, ``[T, B, ...]``: network input at every step, rounded for weights of few bits, and an onset channel if
    the graph has one.

    ``x`` is ``[T, B, ...]``, or ``[B, ...]`` for ``time_steps`` steps.
    """
    if UNIT in graph.metadata:
        x = quantisation.on_grid(x)
    steps = x if time_steps is None else x.expand(time_steps, *x.shape)
    if ONSET not in graph.metadata:
        return steps
    onset = torch.zeros_like(steps[:, :, :1])
    onset[0] = 1
    return torch.cat([steps, onset], 2)


def lines(checked: Checked) -> Iterator[str]:
    """The results as text."""
    for each in checked.comparisons:
        who = f"{each.simulator} {each.version}".strip() + f", {_called(each.dtype)}"
        if each.refused:
            yield f"{who}: does not run it ({each.refused})"
            continue
        where = ", ".join(f"{layer} {count:,}" for layer, count in each.differ.items() if count)
        answers = f" and {each.answers:,} of {checked.samples:,} answers" if checked.voltage else ""
        counts = f"{each.total:,} of {sum(each.of.values()):,} neuron steps{answers}"
        yield f"{who}: {counts} differ" + (f" ({where})" if where else "")
    for dtype, count in checked.guaranteed.items():
        share = 100 * count / checked.samples
        yield f"guaranteed by margin in {_called(dtype)}: {share:.1f} % of {checked.samples:,} samples"
    if checked.voltage:
        yield "the output is read from its voltage: its answers are compared, and the spikes of the other layers"


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
