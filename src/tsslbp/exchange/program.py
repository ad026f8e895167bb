"""A network and its input in the form from which C is written, and with which it is compared."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tsslbp import data, encoding
from tsslbp.data.audio import WINDOW
from tsslbp.exchange.chain import Array, Chain, chain
from tsslbp.exchange.integer import IntegerNetwork, integer, whole_input
from tsslbp.layers import Spiking
from tsslbp.layers.quantisation import INPUT_LARGEST, INPUT_UNIT
from tsslbp.network.network import Network
from tsslbp.training import Model
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import length_mask
from tsslbp.utils.spec import parse_spec


@dataclass(frozen=True, eq=False)
class Entry:
    """How samples enter C.

    Args:
        model: that takes them.
        meaning: of a byte, ``[C, 256]`` by channel or ``[1, 256]``; None if C takes network input.
        spikes: whether that is 0 and 1.
    """

    model: Model
    meaning: Tensor | None
    spikes: bool

    @staticmethod
    def of(model: Model) -> "Entry":
        """The entry for a model. Raises UserError for a preparation that C does not have."""
        inputs = model.inputs
        spikes = encoding.get(inputs.encoding) is not None or inputs.delta > 0
        if spikes or not model.stores_bytes or inputs.bin > 1 or inputs.filters:
            return Entry(model, None, spikes)
        channels = len(inputs.normalisation.std)
        values = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, channels, 1, 1)
        meaning = inputs.normalisation.normalise(values).flatten(1).T
        if inputs.sequence and bool((meaning[:, :2] != torch.arange(2)).any()):  # padding must mean 0, and an event 1
            return Entry(model, None, False)
        return Entry(model, meaning, False)

    @property
    def sequence(self) -> bool:
        """Whether the input changes from step to step."""
        inputs = self.model.inputs
        return (inputs.sequence and not inputs.filters) or self.spikes

    @property
    def varies(self) -> bool:
        """Whether samples may have fewer steps than others."""
        return self.sequence or self.model.inputs.filters is not None

    @property
    def once(self) -> bool:
        """Whether an input is 1 for any number of events in a step, as in recordings; else it may be their number."""
        facts = self.model.facts  # files of version 0.1.0 have none
        return self.spikes or facts is None or max(facts.high) <= 1

    def network_input(self, samples: data.Split) -> Tensor:
        """Samples as network input, ``[N, ...]`` or ``[T, N, ...]``."""
        return self.model.inputs(samples.x, 0, samples.lengths)

    def steps(self, samples: data.Split) -> Tensor:
        """How many steps the network takes of each sample, ``[N]``."""
        steps = self.model.inputs.steps(samples.lengths)
        return torch.full((len(samples),), self.model.network.time_steps) if steps is None else steps

    def lengths(self, samples: data.Split) -> Tensor:
        """How many steps of each sample enter C, ``[N]``."""
        inputs = self.model.inputs
        if not inputs.filters:
            return self.steps(samples)
        return torch.full((len(samples),), inputs.filters.steps) if samples.lengths is None else inputs.lengths(samples.lengths)

    def of_samples(self, samples: data.Split, whole: bool) -> Array:
        """Samples as input of C: a row each, of ``network_input``, or of float before the filters."""
        if filters := self.model.inputs.filters:
            return filters.rounded(self.model.inputs.series(samples.x, samples.lengths)).flatten(1).numpy()
        if self.meaning is not None:
            return samples.x.flatten(1).numpy()
        x = self.network_input(samples)
        x = (x.transpose(0, 1) if self.sequence else x).flatten(1)
        return x.byte().numpy() if self.spikes else whole_input(x).short().numpy() if whole else x.numpy()

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest whole number of the input."""
        if self.spikes:
            return 0, INPUT_UNIT
        if self.meaning is None:
            return -INPUT_LARGEST, INPUT_LARGEST
        whole = whole_input(self.meaning)
        return int(whole.min()), int(whole.max())


def means(entry: Entry, whole: bool) -> str:
    """What enters a program, in words."""
    if entry.meaning is not None:
        return "numbers from 0 to 255 as they are stored"
    if entry.spikes:
        return "spikes, 0 or 1"
    unit = f", in whole numbers of 1/{INPUT_UNIT}, cut at -{INPUT_LARGEST} and {INPUT_LARGEST}" if whole else ""
    return f"numbers as the network takes them{unit}"


def coded(model: Model) -> str:
    """How the spikes that enter a program come of what was measured, as sentences."""
    inputs, norm = model.inputs, model.inputs.normalisation
    if inputs.delta:
        ways = zip(norm.mean, norm.std, strict=True)
        made = ", ".join(f"raw·{1 / (norm.scale * std):.9g} {-mean / std:+.9g}" for mean, std in ways)
        return (
            f"Spikes stand for changes of δ = {inputs.delta:g}. Of each channel, v is {made}, and r, which begins at 0, is "
            "what was received. Where v - r is at least δ, the channel's up input spikes and r rises by δ; where r - v is at "
            "least δ, its down input spikes and r falls by δ. All up inputs come first, then all down inputs."
        )
    if inputs.encoding == encoding.CONSTANT:
        return ""
    name, options = parse_spec(inputs.encoding, "encoding")
    i = f"where i is raw / {norm.scale:g}."
    if name == "latency":
        return f"Each input spikes once, in step round((1 - i)·(T - 1)), halves to even, and never for i = 0, {i}"
    return f"Each input spikes in each step with probability {options.get('rate', '1')}·i, {i}"


def measured(model: Model) -> str:
    """What is measured for a model of sounds, as a sentence; empty for others, whose numbers are the user's own."""
    rate, bands = model.inputs.rate, model.sample_shape[-1]
    if not rate:
        return ""
    return (
        f"A measured step is the logarithms of the energies of {bands} mel bands in {WINDOW:g} s of sound, with {rate:,} "
        f"samples in a second, within ±1: in Python, tsslbp.data.audio.energies(frames, {rate}, {bands})."
    )


@dataclass(frozen=True, eq=False)
class Program:
    """A network for C.

    Args:
        entry: how samples enter.
        chain: the network.
        whole: the integer network; None for ``float``.
    """

    entry: Entry
    chain: Chain
    whole: IntegerNetwork | None

    @staticmethod
    def of(model: Model, bits: str | None = None) -> "Program":
        """The program of a model; ``bits`` rounds the weights of a network that was trained in floating point.

        Raises:
            UserError: a network or a preparation that C does not have, other bits than it was trained with.
        """
        own = model.network.architecture.bits
        if bits is not None and own not in ("float", bits):
            raise UserError(f"--bits is {bits}; the weights were trained with {own}, leave it out")
        if bits is not None and own == "float":
            model = replace(model, network=rounded(model.network, bits))
        entry, links = Entry.of(model), chain(model.network)
        if model.network.architecture.bits == "float":
            return Program(entry, links, None)
        return Program(entry, links, integer(links, *entry.range, model.network.time_steps))

    def response(self, samples: data.Split) -> tuple[dict[str, Tensor], Tensor]:
        """Responses in Python: spikes by population, ``[T, N, channels, ...]`` of bool; evidence ``[N, classes]``.

        Nothing counts after the end of a sequence.
        """
        net, x, ends = self.entry.model.network, self.entry.network_input(samples), self.entry.steps(samples)
        inside = length_mask(ends, net.time_steps)
        if self.whole is None:
            with torch.inference_mode():
                currents = net.activity(x)
                spikes = {name: net.fired(psc) for name, psc in currents.items()}
                *_, output = currents.values()
                evidence = net.evidence(net.vote(output), ends).sum(0) * self.chain.voters
        else:
            steps = list(self.whole.steps(whole_input(x), net.time_steps if net.is_static(x) else None))
            names = [population.name for population in self.chain.populations]
            spikes = {name: torch.stack([step.spikes[name] for step in steps]) > 0 for name in names}
            evidence = torch.stack([step.evidence for step in steps])[ends - 1, torch.arange(len(ends))]
        return {name: train & inside.view(*inside.shape, *[1] * (train.dim() - 2)) for name, train in spikes.items()}, evidence


def rounded(network: Network, bits: Any) -> Network:
    """A network with its weights rounded to few bits after training, and with small leaks."""
    made = Network(replace(network.architecture, bits=bits))
    made.load_state_dict({**made.state_dict(), **network.state_dict()})
    for layer in made.modules():
        if isinstance(layer, Spiking):
            layer.quantise(bits)
    return made.eval()
