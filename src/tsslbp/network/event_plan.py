"""A network for the kernel of inference from events (``csrc/events.h``): its plan, and its weights.

A plan is a list of numbers, stage by stage, and one array of weights that it points into. The layout of neurons is [row,
column, channel]. Weights are ordered by source: those from one neuron to all its targets are adjacent.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tsslbp.layers import BatchNorm, Spiking, Vote
from tsslbp.layers.convolution import rows_and_columns
from tsslbp.network.lower import affine, lower
from tsslbp.network.program import INFERENCE, INPUT, Map, Program, Shape, Stage, require
from tsslbp.neuron import LIF
from tsslbp.utils.errors import UserError

VECTOR = 64
"""Bytes of a vector in the kernel; rows of weights are padded to whole vectors."""
COLUMNS = 8
"""Adjacent vectors of weights in a fully connected layer."""
FEW = 16
"""Most channels of an input for which a plan has the first layer's response to a background."""
NONE = -2
"""Source of a map that is not there."""


class Declined(Exception):
    """The kernel cannot compute a layer."""


@dataclass(frozen=True)
class _Heard:
    """The signal that enters a map: spikes of a stage of the kernel, summed over windows of ``pool`` pixels (height, width)."""

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
        _need(not any(module.training for module in net.modules()))  # a dropout alone may be
        _need(_plain(net.neuron) and len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64})
        _need(all(type(x) in (Tensor, nn.Parameter) and not x.is_inference() and x.device.type == "cpu" for x in tensors))
        _need(not any(x.is_shared() for x in tensors))  # other processes may change them
        _need(all(bool(x.isfinite().all()) for x in tensors))
        shape = net.architecture.input_shape
        self.net, self.axes, self.dtype = net, len(shape) - 1, dtypes.pop()
        self.vector = VECTOR // self.dtype.itemsize
        self.input = (shape[0], *rows_and_columns(shape[1:]))
        self.sent = {INPUT: _Heard(INPUT, self.input, net.neuron.tau_s, flat=not self.axes)}
        self.pools: dict[str, _Heard] = {}
        self.numbers: list[float] = []
        self.weights: list[Tensor] = []
        self.offset = self.stages = 0
        self.states: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        self.state_size = math.prod(shape)
        self.parts = True
        program = _program(net)
        self.vote: Vote | None = net.layers[-1] if program.voters > 1 else None
        for number, stage in enumerate(program.stages):
            self.sent[number] = self.stage(stage)

    def plan(self) -> Tensor:
        """The numbers that the kernel reads."""
        numbers = [*self.input, self.net.neuron.tau_s, self.stages, *self.numbers]
        return torch.tensor(numbers, dtype=torch.float64)

    def stage(self, stage: Stage) -> _Heard:
        """Write a stage; returns what it sends."""
        layer, heard = self.layer(stage.name), self.heard(stage.map)
        weight, bias = _affine(self.net, stage.map)
        shape = _image(stage.shape)
        first, second = self.map(stage.map, weight, heard, shape), [float(NONE)]
        if stage.shortcut is not None:
            beside = self.heard(stage.shortcut)
            _need(beside.stage != INPUT and beside.tau_s == heard.tau_s and stage.lateral is None)
            if stage.shortcut.weight is None:
                second = [beside.stage, *beside.pool, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, beside.factor, -1, -1]
            else:
                more, offset = _affine(self.net, stage.shortcut)
                second = self.map(stage.shortcut, more, beside, shape)
                bias = bias if offset is None else offset if bias is None else bias + offset
        neuron, lateral, adapting = layer.neuron, -1, stage.unit.adaptation
        if stage.lateral is not None:
            _need(heard.tau_s == neuron.tau_s)
            lateral = self.rows(layer.effective_lateral().detach().t())
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
        self.states[stage.name] = (self.state_size, layer.state_rows, stage.shape)
        self.state_size += (layer.state_rows + 1) * stage.size
        self.stages += 1
        return _Heard(self.stages - 1, shape, neuron.tau_s, flat=len(stage.shape) == 1)

    def layer(self, name: str) -> Any:
        layer = self.net.layers.get_submodule(name)
        _need(layer.backend == "auto" and layer.by_changes and _plain(layer.neuron))
        return layer

    def heard(self, by: Map) -> _Heard:
        """What enters a map. Max pooling is a stage of the kernel; sums are the next map's."""
        heard = self.sent[by.source]
        for op in by.ops:
            if op.kind == "flatten":
                heard = replace(heard, flat=True)
            elif op.kind in ("sum", "max"):
                _need(heard.stage != INPUT and not heard.flat)
                height, shape = op.size if self.axes == 2 else 1, _image(op.shape)
                if op.kind == "sum":
                    pool = (heard.pool[0] * height, heard.pool[1] * op.size)
                    _need(math.prod(pool) <= 255)
                    heard = replace(heard, shape=shape, pool=pool, factor=heard.factor * op.factor)
                    continue
                if op.name not in self.pools:
                    self.numbers += [*shape, heard.stage, height, op.size]
                    self.pools[op.name] = _Heard(self.stages, shape, heard.tau_s)
                    self.stages += 1
                    self.parts = False
                heard = self.pools[op.name]
        return heard

    def map(self, by: Map, weight: Tensor, heard: _Heard, shape: tuple[int, int, int]) -> list[float]:
        """The numbers of a map, whose weights are added."""
        weight = weight * heard.factor
        if by.kind == "convolution":
            two = weight if weight.dim() == 4 else weight.unsqueeze(2)
            (sh, sw), (ph, pw), (dh, dw) = (
                rows_and_columns(sizes, without) for sizes, without in ((by.stride, 1), (by.padding, 0), (by.dilation, 1))
            )
            kh, kw = two.shape[2:]
            # [kernel row, input channel, kernel column, neurons of its group]
            by_group = two.unflatten(0, (by.groups, -1)).permute(3, 0, 2, 4, 1).flatten(1, 2)
            more = 0
            if sw == 1 and dw == 1 and by.groups == 1:
                by_group = by_group.flip(2).flatten(2)
                more = self.vector - 1 if kw > 1 and len(weight) % self.vector else 0
            at, flat = self.rows(by_group, more), False
        else:
            kh = kw = sh = sw = dh = dw = 1
            ph = pw = 0
            columns = weight
            if heard.stage != INPUT:  # the layout of trains is [row, column, channel]
                columns = weight.unflatten(1, heard.shape).permute(0, 2, 3, 1).flatten(1)
            at, flat = self.columns(columns.t()), True
        background = self.background(by, weight, shape) if heard.stage == INPUT else -1
        return [heard.stage, *heard.pool, flat, kh, kw, sh, sw, ph, pw, dh, dw, by.groups, 1, at, background]

    def background(self, by: Map, weight: Tensor, shape: tuple[int, int, int]) -> int:
        """Add the first map's output for images that are 1 in one channel and 0 in the others; returns its offset."""
        channels, *pixels = self.net.architecture.input_shape
        if math.prod(pixels) == 1 or channels > FEW:
            return -1
        images = torch.eye(channels, dtype=self.dtype).view(channels, channels, *[1] * len(pixels)).expand(-1, -1, *pixels)
        layer: Any = self.net.get_submodule(by.layer)
        made = layer.convolve(images, weight) if by.kind == "convolution" else images.flatten(1) @ weight.t()
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


def _program(net: Any) -> Program:
    try:
        require(program := lower(net), INFERENCE)
    except UserError as reason:
        raise Declined from reason
    return program


def _image(shape: Shape) -> tuple[int, int, int]:
    """A shape as channels, rows and columns."""
    return (shape[0], *rows_and_columns(shape[1:]))


def _affine(net: Any, by: Map) -> tuple[Tensor, Tensor | None]:
    layer: Spiking = net.get_submodule(by.layer)
    own = (*layer.own_weights, *(["bias"] if layer.bias is not None else []))
    _need({*own} <= layer._parameters.keys())  # nobody would notice changes of other tensors
    if layer.norm is not None:
        _need(type(layer.norm) is BatchNorm and not layer.norm.training)
        _need(all(x.shape == layer.weight.shape[:1] for x in layer.norm.state_dict().values()))
    return affine(net, by)


def _plain(neuron: Any) -> bool:
    """Whether the kernel knows these neurons, with plain numbers as constants and a reset."""
    numbers = all(type(x) in (int, float) for x in (neuron.tau_m, neuron.tau_s, neuron.threshold))
    return type(neuron) is LIF and numbers and neuron.reset


def _need(fits: bool) -> None:
    if not fits:
        raise Declined
