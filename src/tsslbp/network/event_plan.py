"""A network for the kernel of inference from events (``csrc/events.h``): its plan, and its weights.

A plan is a list of numbers, stage by stage, and one array of weights that it points into. The layout of neurons is [row,
column, channel]. Weights are ordered by source: those from one neuron to all its targets are adjacent.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tsslbp.layers import (
    BatchNorm,
    Conv1d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    Recurrent,
    Residual,
    Spiking,
    SumPool,
    Vote,
)
from tsslbp.layers.called import is_known
from tsslbp.layers.convolution import rows_and_columns
from tsslbp.neuron import LIF

VECTOR = 64
"""Bytes of a vector in the kernel; rows of weights are padded to whole vectors."""
COLUMNS = 8
"""Adjacent vectors of weights in a fully connected layer."""
FEW = 16
"""Most channels of an input for which a plan has the first layer's response to a background."""
NONE, INPUT = -2, -1
"""Sources of a map that are not stages: nothing, or the network's input."""


class Declined(Exception):
    """The kernel cannot compute a layer."""


@dataclass(frozen=True)
class _Heard:
    """The signal that enters a layer: a stage's spikes, summed over windows of ``pool`` pixels (height, width)."""

    stage: int
    shape: tuple[int, int, int]
    """Channels, height and width after pooling; of one axis the height is 1."""
    tau_s: float
    """Of the spikes' synapse."""
    pool: tuple[int, int] = (1, 1)
    factor: float = 1.0
    flat: bool = False

    @property
    def features(self) -> int:
        return math.prod(self.shape)


class Planner:
    """Goes through the layers of a :class:`~tsslbp.network.Network` and writes the kernel's numbers (``csrc/plan.h``).

    ``tensors`` are its parameters and buffers. Raises Declined if the kernel cannot compute it.
    """

    def __init__(self, net: Any, tensors: list[Tensor]) -> None:
        dtypes = {tensor.dtype for tensor in tensors}
        _need(_plain(net.neuron) and len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64})
        _need(all(type(x) in (Tensor, nn.Parameter) and not x.is_inference() and x.device.type == "cpu" for x in tensors))
        _need(not any(x.is_shared() for x in tensors))  # other processes may change them
        _need(all(bool(x.isfinite().all()) for x in tensors))
        shape = net.architecture.input_shape
        self.net, self.axes, self.dtype = net, len(shape) - 1, dtypes.pop()
        self.vector = VECTOR // self.dtype.itemsize
        self.input = (shape[0], *rows_and_columns(shape[1:]))
        self.heard = _Heard(INPUT, self.input, net.neuron.tau_s, flat=not self.axes)
        self.numbers: list[float] = []
        self.weights: list[Tensor] = []
        self.offset = self.stages = 0
        self.states: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        self.state_size = math.prod(shape)
        self.parts = True
        self.vote: Vote | None = None
        self._walk()

    def plan(self) -> Tensor:
        """The numbers that the kernel reads."""
        numbers = [*self.input, self.net.neuron.tau_s, self.stages, *self.numbers]
        return torch.tensor(numbers, dtype=torch.float64)

    def _walk(self) -> None:
        block, entered = None, self.heard
        for name, layer, inside in self.net.unpacked():
            _need(self.vote is None and not layer.training and is_known(layer))
            _need(inside is None or (type(inside.block) is Residual and is_known(inside.block)))
            if (inside and inside.name) != block:
                block, entered = inside and inside.name, self.heard
            if isinstance(layer, Spiking):
                self.spiking(name, layer, entered if inside and inside.last else None, inside and inside.block.shortcut)
            elif isinstance(layer, MaxPool | SumPool):
                self.pool(layer)
            elif type(layer) is Vote:
                self.vote = layer
            elif type(layer) is Flatten:
                self.heard = replace(self.heard, flat=True)
            else:
                _need(type(layer) is Dropout)
        _need(self.stages > 0 and self.heard.pool == (1, 1) and self.heard.shape[1:] == (1, 1))

    def spiking(self, name: str, layer: Spiking, entered: _Heard | None, shortcut: Spiking | None) -> None:
        _need(type(layer) in (Linear, Conv1d, Conv2d, Recurrent) and layer.backend == "auto" and layer.by_changes)
        _need(shortcut is None or is_known(shortcut))
        heard, neuron = self.heard, layer.neuron
        _need(_plain(neuron))
        weight, bias = _affine(layer)
        shape: tuple[int, int, int]
        if isinstance(layer, (Conv1d, Conv2d)):
            _need(self.axes == weight.dim() - 2)
            sizes = layer.sizes(heard.shape[-self.axes :])
            _need(min(sizes) > 0)
            shape = (len(weight), *rows_and_columns(sizes))
        else:
            shape = (len(weight), 1, 1)
        first = self.map(layer, weight, heard, shape)
        second = [float(NONE)]
        if entered is not None:
            _need(entered.stage != INPUT and entered.tau_s == heard.tau_s and type(layer) is not Recurrent)
            if shortcut is None:
                _need(entered.shape == shape)
                second = [entered.stage, *entered.pool, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, entered.factor, -1, -1]
            else:
                _need(type(shortcut) in (Linear, Conv1d, Conv2d))
                more, beside = _affine(shortcut)
                made = shortcut.sizes(entered.shape[-self.axes :]) if isinstance(shortcut, (Conv1d, Conv2d)) else ()
                _need((len(more), *rows_and_columns(made)) == shape)
                second = self.map(shortcut, more, entered, shape)
                bias = bias if beside is None else beside if bias is None else bias + beside
        lateral, adapting = -1, None
        if isinstance(layer, Recurrent):
            _need(heard.tau_s == neuron.tau_s)
            lateral, adapting = self.rows(layer.effective_lateral().detach().t()), layer.adapting
        self.numbers += [
            *shape,
            -1,
            *(neuron.tau_m, neuron.tau_s, neuron.threshold, heard.tau_s),
            -1 if bias is None else self.add(bias.repeat(shape[2])),
            lateral,
            adapting is not None,
            *(adapting or (1.0, 0.0)),
            *first,
            *second,
        ]
        own = shape if isinstance(layer, Conv2d) else (shape[0], shape[2]) if isinstance(layer, Conv1d) else shape[:1]
        self.states[name] = (self.state_size, layer.state_rows, own)
        self.state_size += (layer.state_rows + 1) * math.prod(shape)
        self.heard = _Heard(self.stages, shape, neuron.tau_s, flat=not isinstance(layer, (Conv1d, Conv2d)))
        self.stages += 1

    def map(self, layer: Spiking, weight: Tensor, heard: _Heard, shape: tuple[int, int, int]) -> list[float]:
        """The numbers of a map, whose weights are added."""
        weight = weight * heard.factor
        if isinstance(layer, (Conv1d, Conv2d)):
            two = weight if weight.dim() == 4 else weight.unsqueeze(2)
            groups = layer.groups
            (sh, sw), (ph, pw), (dh, dw) = layer.in_two_axes()
            kh, kw = two.shape[2:]
            _need(heard.shape[0] == two.shape[1] * groups and not heard.flat)
            # [kernel row, input channel, kernel column, neurons of its group]
            by_group = two.unflatten(0, (groups, -1)).permute(3, 0, 2, 4, 1).flatten(1, 2)
            more = 0
            if sw == 1 and dw == 1 and groups == 1:
                by_group = by_group.flip(2).flatten(2)
                more = self.vector - 1 if kw > 1 and len(weight) % self.vector else 0
            at, flat = self.rows(by_group, more), False
        else:
            _need(weight.shape[1] == heard.features and heard.flat)
            kh = kw = sh = sw = dh = dw = groups = 1
            ph = pw = 0
            columns = weight
            if heard.stage != INPUT:  # the layout of trains is [row, column, channel]
                columns = weight.unflatten(1, heard.shape).permute(0, 2, 3, 1).flatten(1)
            at, flat = self.columns(columns.t()), True
        background = self.background(layer, weight, shape) if heard.stage == INPUT else -1
        return [heard.stage, *heard.pool, flat, kh, kw, sh, sw, ph, pw, dh, dw, groups, 1, at, background]

    def background(self, layer: Spiking, weight: Tensor, shape: tuple[int, int, int]) -> int:
        """Add the first map's output for images that are 1 in one channel and 0 in the others; returns its offset."""
        channels, *pixels = self.net.architecture.input_shape
        if math.prod(pixels) == 1 or channels > FEW:
            return -1
        images = torch.eye(channels, dtype=self.dtype).view(channels, channels, *[1] * len(pixels)).expand(-1, -1, *pixels)
        made = layer.convolve(images, weight) if isinstance(layer, (Conv1d, Conv2d)) else images.flatten(1) @ weight.t()
        lines = made.reshape(channels, shape[0], shape[1], shape[2]).permute(0, 2, 3, 1).flatten(2)
        return self.add(nn.functional.pad(lines, (0, -lines.shape[2] % self.vector + self.vector)))

    def rows(self, weight: Tensor, more: int = 0) -> int:
        """Add rows of weights (the last axis) with ``more`` zeros, padded to whole vectors; returns their offset."""
        return self.add(nn.functional.pad(weight, (0, more + -(weight.shape[-1] + more) % self.vector)))

    def columns(self, weight: Tensor) -> int:
        """Add rows of weights, ``[inputs, neurons]``, cut into columns of COLUMNS vectors; returns their offset."""
        padded = nn.functional.pad(weight, (0, -weight.shape[1] % self.vector))
        return self.add(torch.cat([part.flatten() for part in padded.split(COLUMNS * self.vector, 1)]))

    def add(self, numbers: Tensor) -> int:
        at = self.offset
        numbers = numbers.detach().to(self.dtype).flatten()
        numbers = nn.functional.pad(numbers, (0, -len(numbers) % self.vector))
        self.weights.append(numbers)
        self.offset += len(numbers)
        return at

    def pool(self, layer: MaxPool | SumPool) -> None:
        heard, (c, h, w) = self.heard, self.heard.shape
        size = layer.pool.size if isinstance(layer, SumPool) else layer.size
        height = size if self.axes == 2 else 1
        shape = (c, h // height, w // size)
        _need(heard.stage != INPUT and not heard.flat and self.axes == len(layer.axes))
        if isinstance(layer, SumPool):  # the next map sums the spikes
            pool = (heard.pool[0] * height, heard.pool[1] * size)
            _need(math.prod(pool) <= 255)
            self.heard = replace(heard, shape=shape, pool=pool, factor=heard.factor * layer.pool.factor)
            return
        _need(heard.pool == (1, 1) and layer.tau_s == heard.tau_s)
        self.numbers += [*shape, heard.stage, height, size]
        self.heard = _Heard(self.stages, shape, heard.tau_s)
        self.stages += 1
        self.parts = False


def _affine(layer: Spiking) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in evaluation."""
    own = (*layer.own_weights, *(["bias"] if layer.bias is not None else []))
    _need(is_parametrized(layer) or {*own} <= layer._parameters.keys())  # nobody would notice changes of other tensors
    weight, bias = layer.effective_weight().detach(), layer.bias
    if layer.norm is None:
        _need(bias is None or bias.shape == weight.shape[:1])
        return weight, None if bias is None else bias.detach()
    _need(type(layer.norm) is BatchNorm and is_known(layer.norm) and not layer.norm.training)
    _need(all(x.shape == weight.shape[:1] for x in layer.norm.state_dict().values()))
    factor, shift = layer.norm.affine()
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), shift


def _plain(neuron: Any) -> bool:
    """Whether the kernel knows these neurons, with plain numbers as constants and a reset."""
    numbers = all(type(x) in (int, float) for x in (neuron.tau_m, neuron.tau_s, neuron.threshold))
    return type(neuron) is LIF and numbers and neuron.reset


def _need(fits: bool) -> None:
    if not fits:
        raise Declined
