"""A trained network as a chain of populations of spiking neurons, each after one linear map.

The synapse commutes with the linear map, so it can be part of the neurons after the map instead of those before. A step is then

    J[t] = (1 - 1/τs)·J[t-1] + W·s_in[t] + S·s_around[t] + V·s[t-1]                (1)
    u[t] = (1 - 1/τm)·u[t-1]·(1 - s[t-1]) + J[t] + b                               (2)
    B[t] = (1 - 1/τa)·B[t-1] + r·s[t-1]                                            (3)
    s[t] = 1 if u[t] > θ + B[t] else 0                                             (4)

where J, u and B are τs/g times their values in ``neuron.py`` and ``recurrent.py``, with g the factor of a pooling layer before
the map. So W is the layer's own weight, V is its lateral one divided by g, and b, θ and the rise r of an adaptive threshold are
its own times τs/g. S is the shortcut of a residual block, or the unit matrix if it has no weights, and includes its own factor
of pooling. Spikes are 0 and 1, so a map only adds weights where there are spikes. The network's input is numbers, not spikes.

Every map is a convolution over rows and columns. A fully connected one has a kernel as large as its input. Missing axes have
size 1.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsslbp.layers import Convolution, Dropout, Flatten, Linear, MaxPool, Recurrent, Residual, Spiking, SumPool, Vote
from tsslbp.layers.convolution import rows_and_columns
from tsslbp.layers.quantisation import whole_numbers
from tsslbp.network.network import Network
from tsslbp.utils.errors import UserError

Array = NDArray[Any]
Shape = tuple[int, int, int]
"""Channels, rows, columns."""
Pair = tuple[int, int]
"""Along rows, along columns."""
INPUT = -1
"""Number of the network's input, in place of a population."""


@dataclass(frozen=True, eq=False)
class Map:
    """A linear map from one population to another.

    Args:
        source: number of the sending population; INPUT is the input of the network.
        sent: shape of its output, before pooling.
        entering: shape after pooling.
        largest: windows of max pooling, in which spikes of a step count as one.
        summed: windows of sum pooling, after those.
        weight: ``[out, in/groups, rows, columns]``.
        step: step size of each channel's integer weights, ``[out]``; None for weights in floating point.
        stride, padding, dilation, groups: of the convolution.
    """

    source: int
    sent: Shape
    entering: Shape
    largest: Pair
    summed: Pair
    weight: Array
    step: Array | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def windows(self) -> int:
        """Number of windows of its max pooling, 0 without."""
        if self.largest == (1, 1):
            return 0
        rows, columns = (size // inside for size, inside in zip(self.sent[1:], self.largest, strict=True))
        return self.sent[0] * rows * columns


@dataclass(frozen=True)
class Rise:
    """An adaptive threshold, equation (3).

    Args:
        tau_a: τa in steps.
        by: r.
    """

    tau_a: float
    by: float


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons, equations (1) to (4), and the maps in front of them.

    Args:
        name: the layer's.
        shape: its neurons.
        map: W.
        shortcut: S, or None.
        lateral: V, ``[out, out]``, or None.
        bias, threshold: b and θ of every channel, ``[out]``.
        rise: of the threshold; None if that is fixed.
    """

    name: str
    shape: Shape
    map: Map
    shortcut: Map | None
    lateral: Array | None
    bias: Array
    threshold: Array
    rise: Rise | None

    @property
    def neurons(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape))

    @property
    def maps(self) -> tuple[Map, ...]:
        """W, and S if there is one."""
        return (self.map,) if self.shortcut is None else (self.map, self.shortcut)


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
    """A network in evaluation as a chain.

    Raises:
        UserError: an ANN, or a part that chains do not have; its layer is named.
    """
    a = network.architecture
    if not a.spikes_last:
        silent = "an output that is read from its voltage" if network.is_spiking else f"a network of {a.neuron} units"
        raise UserError(f"{silent} has no spikes to send; train it with --neuron spiking --readout spikes")
    neuron = network.neuron
    if not neuron.reset:
        raise UserError("its neurons are not reset by a spike, a control for studies; only neurons with a reset are written")
    network.check_as_noted()
    builder = _Builder(network)
    for name, layer in network.layers.named_children():
        builder.add(name, layer)
    return Chain(tuple(builder.made), builder.voters, neuron.tau_m, neuron.tau_s)


@dataclass(frozen=True)
class _Sent:
    """Input of the next layer: its source, shape before and after pooling, windows of pooling, and factor g."""

    source: int
    shape: Shape
    entering: Shape
    largest: Pair = (1, 1)
    summed: Pair = (1, 1)
    factor: float = 1.0


class _Builder:
    """Goes through the layers and keeps the input of the next one."""

    def __init__(self, network: Network) -> None:
        self.neuron, self.voters = network.neuron, 1
        self.made: list[Population] = []
        channels, *sizes = network.architecture.input_shape
        shape = (channels, *rows_and_columns(sizes))
        self.sent = _Sent(INPUT, shape, shape)

    def add(self, name: str, layer: nn.Module, around: tuple[_Sent, Spiking | None] | None = None) -> None:
        """Add a layer; ``around`` is the input of a shortcut to its neurons, and the shortcut's layer."""
        match layer:
            case Flatten() | Dropout():
                pass
            case Vote():
                self.voters = layer.voters
            case SumPool() | MaxPool():
                self._pool(name, layer)
            case Residual():
                around = self.sent, layer.shortcut
                for inner, part in layer.named_layers():
                    self.add(f"{name}.{inner}", part, around if inner == layer.last_name else None)
            case Spiking():
                population = self._population(name, layer, around)
                self.sent = _Sent(len(self.made), population.shape, population.shape)
                self.made.append(population)
            case _:
                raise UserError(f"layer {name!r}: a {type(layer).__name__} is not written yet")

    def _pool(self, name: str, layer: SumPool | MaxPool) -> None:
        size = (1 if len(layer.axes) == 1 else layer.size, layer.size)
        sent = self.sent
        channels, *sizes = sent.entering
        entering = (channels, sizes[0] // size[0], sizes[1] // size[1])
        if isinstance(layer, SumPool):
            factor = sent.factor * layer.pool.factor
            self.sent = replace(sent, entering=entering, summed=_times(sent.summed, size), factor=factor)
        elif sent.source != INPUT and sent.summed == (1, 1):
            self.sent = replace(sent, entering=entering, largest=_times(sent.largest, size))
        else:
            raise UserError(
                f"layer {name!r} takes the maximum of what are no spikes; put it directly behind a layer with neurons"
            )

    def _population(self, name: str, layer: Spiking, around: tuple[_Sent, Spiking | None] | None) -> Population:
        if any(isinstance(getattr(layer.neuron, tau), torch.Tensor) for tau in ("tau_m", "tau_s")):
            raise UserError(
                f"layer {name!r} has time constants of its own, which C does not do yet; train it with at most threshold in "
                "--learn and --per-neuron"
            )
        made, shape = _map(name, layer, self.sent)
        scale = self.neuron.tau_s / self.sent.factor
        bias = torch.zeros(shape[0]) if layer.bias is None else layer.bias.detach()
        shortcut = None
        if around is not None:
            beside, through = around
            part = beside.factor / self.sent.factor
            shortcut = _unit(name, beside, shape, part) if through is None else _map(name, through, beside, part)[0]
            if through is not None and through.bias is not None:
                bias = bias + through.bias.detach()
        lateral = rise = None
        if isinstance(layer, Recurrent):
            lateral = _array(layer.effective_lateral().detach()) / self.sent.factor
            if layer.adaptation is not None:
                rise = Rise(layer.adaptation.tau_a, layer.adaptation.beta * scale)
        threshold = np.broadcast_to(_array(torch.as_tensor(layer.neuron.threshold).detach()).flatten(), shape[0])
        return Population(name, shape, made, shortcut, lateral, _array(bias) * scale, threshold * scale, rise)


def _map(name: str, layer: Spiking, sent: _Sent, part: float = 1.0) -> tuple[Map, Shape]:
    """The linear map of a layer times ``part``, and its output shape."""
    if layer.norm is not None or layer.gain is not None:
        raise UserError(f"layer {name!r} is normalised or standardised; call fold() on the network first")
    weight, step = layer.effective_weight().detach(), None
    if layer.limit is not None:
        step = _array(whole_numbers(weight, layer.limit.detach(), layer.bits)[1]) * part
    place = (sent.source, sent.shape, sent.entering, sent.largest, sent.summed)
    out, values = len(weight), _array(weight) * part
    if isinstance(layer, Linear | Recurrent):
        return Map(*place, values.reshape(out, *sent.entering), step), (out, 1, 1)
    if not isinstance(layer, Convolution):
        raise UserError(f"layer {name!r}: a {type(layer).__name__} is not written yet")
    rows = weight.dim() == 4
    sizes = layer.sizes(sent.entering[1:] if rows else sent.entering[2:])
    stride, padding, dilation = layer.in_two_axes()
    made = Map(*place, values if rows else values[:, :, None], step, stride, padding, dilation, layer.groups)
    return made, (out, *rows_and_columns(sizes))


def _unit(name: str, sent: _Sent, shape: Shape, part: float) -> Map:
    """The unit matrix times ``part``, which is the step of its weights."""
    if sent.entering != shape:
        raise UserError(f"layer {name!r} gets a shortcut from what is not flat; put a fully connected layer before its block")
    weight, step = np.full((shape[0], 1, 1, 1), part), np.full(shape[0], part)
    return Map(sent.source, sent.shape, sent.entering, sent.largest, sent.summed, weight, step, groups=shape[0])


def _array(x: torch.Tensor) -> Array:
    return x.double().numpy()


def _times(a: Pair, b: Pair) -> Pair:
    return a[0] * b[0], a[1] * b[1]
