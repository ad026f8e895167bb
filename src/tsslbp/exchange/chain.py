"""A trained network as a chain of populations of neurons that send spikes, each with one linear map in front of it.

The synapse commutes with the linear map, so the neurons behind it can have it instead of those before. A step is then

    J[t] = (1 - 1/τs)·J[t-1] + W·s_in[t] + V·s[t-1]                                (1)
    u[t] = (1 - 1/τm)·u[t-1]·(1 - s[t-1]) + J[t] + b                               (2)
    s[t] = 1 if u[t] > θ else 0                                                    (3)

where J and u are τs/g times what they are in ``neuron.py``, with g the factor of a pooling layer before the map. So W is the
layer's own weight, V is its lateral one divided by g, and b and θ are its own times τs/g. Spikes are 0 and 1, so a map only has
to add up weights where there are any. What enters the first population are numbers, in place of s_in.

Every map is a convolution over rows and columns. A fully connected one has a kernel as large as what enters it, and what has no
rows or columns has one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsslbp.errors import UserError
from tsslbp.layers import Convolution, Dropout, Flatten, Linear, MaxPool, Recurrent, Spiking, SumPool, Vote
from tsslbp.layers.convolution import Sizes
from tsslbp.networks import Network
from tsslbp.quantisation import whole_numbers

Array = NDArray[Any]
Shape = tuple[int, int, int]
"""Channels, rows, columns."""
Pair = tuple[int, int]
"""Along rows, along columns."""


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons, equations (1) to (3), and the map in front of them.

    Args:
        name: the layer's.
        sent: shape of what is sent to it, before pooling.
        entering: shape of what enters its map.
        shape: its own.
        largest: windows in which spikes of a step count as one.
        summed: windows in which spikes add up, behind those.
        weight: W, ``[out, in/groups, rows, columns]``.
        lateral: V, ``[out, out]``, or None.
        bias, threshold: b and θ of every channel, ``[out]``.
        step: what the weights of a channel are whole numbers of, ``[out]``; None of weights in floating point.
        stride, padding, dilation, groups: of the map.
    """

    name: str
    sent: Shape
    entering: Shape
    shape: Shape
    largest: Pair
    summed: Pair
    weight: Array
    lateral: Array | None
    bias: Array
    threshold: Array
    step: Array | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def neurons(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Chain:
    """Populations one after the other.

    Args:
        populations: at least one.
        voters: neurons of the last for each class.
        tau_m, tau_s: time constants in steps.
    """

    populations: tuple[Population, ...]
    voters: int
    tau_m: float
    tau_s: float

    @property
    def classes(self) -> int:
        """How many the votes are for."""
        return self.populations[-1].neurons // self.voters


def chain(network: Network) -> Chain:
    """The chain that a network is, in evaluation.

    Raises:
        UserError: an ANN, or a part that no chain has; its layer is named.
    """
    if not network.is_spiking:
        raise UserError(
            f"a network of {network.architecture.neuron} units has no spikes to send; train it with --neuron spiking"
        )
    neuron = network.neuron
    if not neuron.reset:
        raise UserError("its neurons are not reset by a spike, a control for studies; only neurons with a reset are written")
    builder = _Builder(network)
    for name, layer in network.layers.named_children():
        builder.add(name, layer)
    return Chain(tuple(builder.made), builder.voters, neuron.tau_m, neuron.tau_s)


class _Builder:
    """Goes through the layers, and knows what is sent to the next one."""

    def __init__(self, network: Network) -> None:
        self.neuron, self.voters = network.neuron, 1
        self.made: list[Population] = []
        channels, *sizes = network.architecture.input_shape
        self.sent = self.entering = _shape(channels, sizes)
        self._unpooled()

    def _unpooled(self) -> None:
        self.largest = self.summed = (1, 1)
        self.factor = 1.0

    def add(self, name: str, layer: nn.Module) -> None:
        match layer:
            case Flatten() | Dropout():
                pass
            case Vote():
                self.voters = layer.voters
            case SumPool() | MaxPool():
                self._pool(name, layer)
            case Spiking():
                population = self._population(name, layer)
                self.made.append(population)
                self.sent = self.entering = population.shape
                self._unpooled()
            case _:
                kind = type(layer).__name__
                raise UserError(f"layer {name!r}: a {kind} is more than one layer behind another; it is not written yet")

    def _pool(self, name: str, layer: SumPool | MaxPool) -> None:
        if not self.made:
            raise UserError(f"layer {name!r} pools the input; pool the samples before they enter, and leave it out")
        size = (1 if layer.axes == "L" else layer.size, layer.size)
        channels, *sizes = self.entering
        self.entering = (channels, sizes[0] // size[0], sizes[1] // size[1])
        if isinstance(layer, SumPool):
            self.summed = _times(self.summed, size)
            self.factor *= layer.pool.factor
        elif self.summed == (1, 1):
            self.largest = _times(self.largest, size)
        else:
            raise UserError(f"layer {name!r} takes the maximum of sums; pool maxima first")

    def _population(self, name: str, layer: Spiking) -> Population:
        weight, lateral, step = layer.effective_weight().detach(), None, None
        if isinstance(layer, Recurrent):
            if layer.adaptation is not None:
                raise UserError(f"layer {name!r} has adaptive thresholds (A), which are not written yet; train R instead")
            lateral = layer.effective_lateral().detach()
        if layer.norm is not None or layer.gain is not None:
            raise UserError(f"layer {name!r} is normalised or standardised; call fold() on the network first")
        if layer.limit is not None:
            _, step = whole_numbers(weight, layer.limit.detach(), layer.bits)
        if any(isinstance(getattr(layer.neuron, tau), torch.Tensor) for tau in ("tau_m", "tau_s")):
            raise UserError(
                f"layer {name!r} has time constants of its own, which are not written yet; only thresholds may differ"
            )
        out, scale = len(weight), self.neuron.tau_s / self.factor
        threshold = torch.as_tensor(layer.neuron.threshold).detach()
        bias = torch.zeros(out) if layer.bias is None else layer.bias.detach()
        plain = Population(
            name,
            self.sent,
            self.entering,
            (out, 1, 1),
            self.largest,
            self.summed,
            _array(weight).reshape(out, *self.entering) if weight.dim() == 2 else _array(weight),
            None if lateral is None else _array(lateral) / self.factor,
            _array(bias) * scale,
            np.broadcast_to(_array(threshold), out) * scale,
            None if step is None else _array(step),
        )
        if isinstance(layer, Linear | Recurrent):
            return plain
        if not isinstance(layer, Convolution):
            raise UserError(f"layer {name!r}: a {type(layer).__name__} is not written yet")
        rows = weight.dim() == 4
        sizes = layer.sizes(self.entering[1:] if rows else self.entering[2:])
        return replace(
            plain,
            weight=_array(weight if rows else weight.unsqueeze(2)),
            shape=_shape(out, sizes),
            stride=_pair(layer.stride, rows, 1),
            padding=_pair(layer.padding, rows, 0),
            dilation=_pair(layer.dilation, rows, 1),
            groups=layer.groups,
        )


def _array(x: torch.Tensor) -> Array:
    return x.double().numpy()


def _pair(size: Sizes, rows: bool, without: int) -> Pair:
    """A size along rows and columns, if there are rows."""
    *before, last = size if isinstance(size, tuple | list) else (size, size)
    return (before[0] if rows else without, last)


def _shape(channels: int, sizes: Sequence[int]) -> Shape:
    rows, columns = (*[1] * (2 - len(sizes)), *sizes)
    return channels, rows, columns


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]
