"""Inference from events: whole networks in one call of C++ (``csrc/events.h``), in which what is silent costs nothing.

A :class:`~tsslbp.networks.Network` asks here first. Where gradients are off, the network is in evaluation mode, and all its
layers are such as the kernel knows, the answer comes from the kernel; else it is None, and the network goes through its layers.
The spikes are the same; where a membrane potential lies within rounding of the threshold they may differ, because inputs are
added up in another order. For a sample that order is always the same, whatever the batch size, threads or instruction set.
"""

import functools
import math
import operator
import weakref
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook

from tsslbp.kernels.cpp import NOT_LOADED
from tsslbp.layers import (
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Recurrent,
    Spiking,
    SumPool1d,
    SumPool2d,
    Vote,
)
from tsslbp.neuron import LIF
from tsslbp.signal import constant_current

VECTOR = 64
"""Bytes of a vector in the kernel; rows of weights are padded to whole ones."""
FEW = 16
"""Channels of an input up to which a plan has what the first layer makes of a background."""
NONE, INPUT = -2, -1
"""What a map hears if not a stage: nothing, or the network's input."""


class _Declined(Exception):
    """The kernel does not know a layer, or not as it stands."""


@dataclass(frozen=True)
class _Heard:
    """The signal that enters a layer: a stage's spikes, summed over windows of ``pool`` pixels (height, width)."""

    stage: int
    shape: tuple[int, int, int]
    """Channels, height and width after pooling; of one axis the height is 1."""
    tau_s: float
    """Of the synapse that the spikes went through."""
    pool: tuple[int, int] = (1, 1)
    factor: float = 1.0
    flat: bool = False

    @property
    def features(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Plan:
    """A network as the kernel takes it, and what it was made from."""

    weights: Tensor
    numbers: Tensor
    states: dict[str, tuple[int, int, tuple[int, ...]]]
    """Of every layer by name: where its state begins in what the kernel hands on, its rows, and its shape."""
    state_size: int
    """Numbers of a sample's state; 0 if the kernel takes no parts of sequences through this network."""
    vote: Vote | None
    seen: "_Seen"
    responses: dict[int, Tensor] = field(default_factory=dict)
    """Responses of a constant current by number of steps: a cache."""

    def run(self, x: Tensor, response: Tensor | None, before: Tensor | None, keep: bool) -> list[Tensor] | None:
        """Output currents ``[T, B, classes]`` and, with ``keep``, the state after; None where a number is not finite."""
        made: list[Tensor] = torch.ops.tsslbp.infer.default(x, self.weights, self.numbers, response, before, keep)
        if made and self.vote is not None:
            made[0] = self.vote(made[0])
        return made or None

    def layers(self, state: Tensor) -> dict[str, Tensor]:
        """The layers' states by name, ``[rows, B, ...]``, as views of what the kernel handed on, ``[B, state_size]``."""
        batch, made = state.shape[0], {}
        for name, (begin, rows, shape) in self.states.items():
            strides: tuple[int, ...] = (1,)
            if len(shape) > 1:  # neurons lie as [row, column, channel]
                strides = (1, *(shape[0] * math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))))
            size = math.prod(shape)
            made[name] = state.as_strided((rows, batch, *shape), (size, self.state_size, *strides), begin)
        return made


class _Seen:
    """What a plan was made from: modules and tensors as they were."""

    def __init__(self, net: Any) -> None:
        modules = list(net.modules())  # the network itself and the container of its layers come first
        self.values = [(vars(module), tuple(vars(module).values())) for module in modules]
        dicts = [d for module in modules for d in (module._parameters, module._buffers, module._modules)]
        self.contents = [(d, tuple(d.values())) for d in dicts if d]
        self.empty = [d for d in dicts if not d]
        self.hooks = [d for module in modules[2:] for d in (module._forward_hooks, module._forward_pre_hooks)]
        tensors = (tensor for module in modules for tensor in (*module._parameters.values(), *module._buffers.values()))
        # an alias keeps the memory, so that no other tensor can come to lie there
        self.tensors = [(x, x.detach(), x.data_ptr(), _version(x)) for x in tensors if x is not None]
        _count_fused_steps()
        self.fused_steps = _FUSED_STEPS[0]

    def still(self) -> bool:
        """Whether nothing has changed. (What was written past PyTorch's version counters, through ``.data``, shows nowhere.)"""
        if self.fused_steps != _FUSED_STEPS[0] or any(self.hooks) or any(self.empty):
            return False
        for now, before in (*self.values, *self.contents):
            if len(now) != len(before) or not all(map(operator.is_, now.values(), before)):
                return False
        return all(_version(x) == version and x.data_ptr() == pointer for x, _, pointer, version in self.tensors)


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


_FUSED_STEPS = [0]
"""Steps of fused optimisers, which write weights past PyTorch's version counters: what a plan is valid for, as those are."""


@functools.cache
def _count_fused_steps() -> None:
    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        _FUSED_STEPS[0] += any(group.get("fused") for group in optimizer.param_groups)

    register_optimizer_step_post_hook(count)


_PLANS: "weakref.WeakKeyDictionary[Any, Plan | _Seen]" = weakref.WeakKeyDictionary()  # a cache; _Seen alone: declined


def plan(net: Any, x: Tensor) -> Plan | None:
    """How the kernel computes a network for an input that fits it; None if it does not."""
    if torch.is_grad_enabled() or net.training or NOT_LOADED is not None or not net.is_spiking:
        return None
    if type(x) is not Tensor or x.device.type != "cpu" or torch.compiler.is_compiling() or _watched():
        return None
    known = _PLANS.get(net)
    if known is None or not (known.seen if isinstance(known, Plan) else known).still():
        known = _PLANS[net] = _make(net)
    return known if isinstance(known, Plan) and known.weights.dtype == x.dtype else None


def _watched() -> bool:
    """Whether something wants to see or change every operation, as autocast, transforms and modes do."""
    return bool(
        torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or hooks._global_forward_hooks
        or hooks._global_forward_pre_hooks
    )


def whole(net: Any, x: Tensor) -> Tensor | None:
    """The network's output for a whole input, ``[T, B, classes]``; None if the kernel does not compute it."""
    if (by := plan(net, x)) is None:
        return None
    response = None
    if net.is_static(x):
        steps = net.time_steps
        if steps not in by.responses:
            by.responses[steps] = constant_current(x, steps, net.neuron.tau_s).response
        response = by.responses[steps]
    made = by.run(x, response, None, False)
    return None if made is None else made[0]


class Handed(NamedTuple):
    """What a part of a sequence made, and where it stands after it."""

    output: Tensor
    """``[t, B, classes]``."""
    events: Tensor
    """What the next part takes, ``[B, state_size]``."""
    layers: dict[str, Tensor]
    """The layers' states, as :meth:`tsslbp.networks.Network.part` hands them on."""
    synapse: Tensor
    """Post-synaptic current of the input, ``[B, ...]``."""


def part(net: Any, x: Tensor, before: Tensor | None, first: int, steps: int) -> Handed | None:
    """A part of a sequence, as of :meth:`tsslbp.networks.Network.part`; None if the kernel does not compute it.

    Args:
        net, x, steps: as there.
        before: ``events`` of the part before; None is rest.
        first: steps before this part.
    """
    if (by := plan(net, x)) is None or not by.state_size:
        return None
    static = net.is_static(x)
    if before is not None and (before.shape[0] != x.shape[0 if static else 1] or before.dtype != x.dtype):
        return None
    response = constant_current(x, first + steps, net.neuron.tau_s).response[first:] if static else None
    if (made := by.run(x, response, before, True)) is None:
        return None
    output, after = made
    shape = net.architecture.input_shape
    return Handed(output, after, by.layers(after), after[:, : math.prod(shape)].unflatten(1, shape))


def _make(net: Any) -> "Plan | _Seen":
    seen = _Seen(net)
    try:
        return _Planner(net, seen).plan()
    except _Declined:
        return seen


class _Planner:
    """Goes through a network's layers and writes down what the kernel reads."""

    def __init__(self, net: Any, seen: _Seen) -> None:
        shape = net.architecture.input_shape
        self.net, self.seen = net, seen
        self.axes = len(shape) - 1
        self.input = _three(shape[0], shape[1:])
        self.heard = _Heard(INPUT, self.input, net.neuron.tau_s, flat=not self.axes)
        self.numbers: list[float] = []
        self.weights: list[Tensor] = []
        self.offset = self.stages = 0
        self.states: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        self.state_size = math.prod(shape)
        self.parts = True
        _need(not any(seen.hooks) and _plain(net.neuron))
        tensors = [tensor for tensor, *_ in seen.tensors]
        dtypes = {tensor.dtype for tensor in tensors}
        _need(len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64})
        _need(all(type(x) in (Tensor, nn.Parameter) and not x.is_inference() and x.device.type == "cpu" for x in tensors))
        _need(all(bool(x.isfinite().all()) for x in tensors))
        self.dtype = dtypes.pop()
        self.vector = VECTOR // self.dtype.itemsize

    def plan(self) -> Plan:
        vote, block, entered = None, None, self.heard
        for name, layer, within in self.net.unpacked():
            _need(vote is None and not layer.training)
            if within is not block:
                block, entered = within, self.heard
            if isinstance(layer, Spiking):
                joined = entered if block is not None and layer is block.last else None
                self.spiking(name, layer, joined, block.shortcut if block is not None else None)
            elif type(layer) in (MaxPool1d, MaxPool2d):
                self.max_pool(layer)
            elif type(layer) in (SumPool1d, SumPool2d, AvgPool1d, AvgPool2d):
                self.sum_pool(layer)
            elif type(layer) is Vote:
                vote = layer
            elif type(layer) is Flatten:
                self.heard = replace(self.heard, flat=True)
            else:
                _need(type(layer) is Dropout)
        _need(self.stages > 0 and self.heard.pool == (1, 1) and self.heard.shape[1:] == (1, 1))
        numbers = [*self.input, self.net.neuron.tau_s, self.stages, *self.numbers]
        weights = torch.cat(self.weights)
        size = self.state_size if self.parts else 0
        return Plan(weights, torch.tensor(numbers, dtype=torch.float64), self.states, size, vote, self.seen)

    def spiking(self, name: str, layer: Spiking, entered: _Heard | None, shortcut: Spiking | None) -> None:
        _need(type(layer) in (Linear, Conv1d, Conv2d, Recurrent) and layer.backend == "auto" and _plain(layer.neuron))
        heard, neuron = self.heard, layer.neuron
        weight, bias = _affine(layer)
        shape: tuple[int, int, int]
        if isinstance(layer, (Conv1d, Conv2d)):
            _need(self.axes == weight.dim() - 2)
            sizes = layer.sizes(heard.shape[-self.axes :])
            _need(min(sizes) > 0)
            shape = _three(len(weight), sizes)
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
                second = self.map(shortcut, more, entered, shape)
                bias = bias if beside is None else beside if bias is None else bias + beside
        adaptation = layer.adaptation if isinstance(layer, Recurrent) else None
        lateral, rows = -1, 2
        if isinstance(layer, Recurrent):
            _need(heard.tau_s == neuron.tau_s)
            lateral, rows = self.rows(layer.effective_lateral().detach().t()), 3
        tau_a, beta = 1.0, 0.0
        if adaptation is not None:
            _need(all(isinstance(x, (int, float)) for x in (adaptation.tau_a, adaptation.beta)))
            tau_a, beta, rows = adaptation.tau_a, adaptation.beta, 5
        self.numbers += [
            *shape,
            -1,
            *(neuron.tau_m, neuron.tau_s, neuron.threshold, heard.tau_s),
            -1 if bias is None else self.add(bias.repeat(shape[2])),
            lateral,
            adaptation is not None,
            *(tau_a, beta),
            *first,
            *second,
        ]
        own = shape if isinstance(layer, Conv2d) else (shape[0], shape[2]) if isinstance(layer, Conv1d) else shape[:1]
        self.states[name] = (self.state_size, rows, own)
        self.state_size += (rows + 1) * math.prod(shape)
        self.heard = _Heard(self.stages, shape, neuron.tau_s, flat=not isinstance(layer, (Conv1d, Conv2d)))
        self.stages += 1

    def map(self, layer: Spiking, weight: Tensor, heard: _Heard, shape: tuple[int, ...]) -> list[float]:
        """The numbers of a map, whose weights are added."""
        weight = weight * heard.factor
        if isinstance(layer, (Conv1d, Conv2d)):
            two = weight if weight.dim() == 4 else weight.unsqueeze(2)
            groups, pairs = layer.groups, []
            for value, missing in ((layer.stride, 1), (layer.padding, 0), (layer.dilation, 1)):
                each = value if isinstance(value, (tuple, list)) else (value,) * (weight.dim() - 2)
                pairs.append((*(missing,) * (2 - len(each)), *each))
            (sh, sw), (ph, pw), (dh, dw) = pairs
            kh, kw = two.shape[2:]
            _need(heard.shape[0] == two.shape[1] * groups and not heard.flat)
            # [kernel row, channel heard, kernel column, neurons of its group]
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
            if heard.stage != INPUT:  # trains lie as [row, column, channel]
                columns = weight.unflatten(1, heard.shape).permute(0, 2, 3, 1).flatten(1)
            at, flat = self.rows(columns.t()), True
        background = self.background(layer, weight, shape) if heard.stage == INPUT else -1
        return [heard.stage, *heard.pool, flat, kh, kw, sh, sw, ph, pw, dh, dw, groups, 1, at, background]

    def background(self, layer: Spiking, weight: Tensor, shape: tuple[int, ...]) -> int:
        """Add what the first map makes of images that are 1 in one channel and 0 in the others; returns where it begins."""
        channels, *pixels = self.net.architecture.input_shape
        if math.prod(pixels) == 1 or channels > FEW:
            return -1
        images = torch.eye(channels, dtype=self.dtype).view(channels, channels, *[1] * len(pixels)).expand(-1, -1, *pixels)
        made = layer.convolve(images, weight) if isinstance(layer, (Conv1d, Conv2d)) else images.flatten(1) @ weight.t()
        lines = made.reshape(channels, shape[0], shape[1], shape[2]).permute(0, 2, 3, 1).flatten(2)
        return self.add(nn.functional.pad(lines, (0, -lines.shape[2] % self.vector + self.vector)))

    def rows(self, weight: Tensor, more: int = 0) -> int:
        """Add rows of weights, the last axis, with ``more`` zeros and padded to whole vectors; returns where they begin."""
        return self.add(nn.functional.pad(weight, (0, more + -(weight.shape[-1] + more) % self.vector)))

    def add(self, numbers: Tensor) -> int:
        at = self.offset
        numbers = numbers.detach().to(self.dtype).flatten()
        numbers = nn.functional.pad(numbers, (0, -len(numbers) % self.vector))
        self.weights.append(numbers)
        self.offset += len(numbers)
        return at

    def sum_pool(self, layer: SumPool1d | SumPool2d) -> None:
        size, heard = layer.pool.size, self.heard
        c, h, w = heard.shape
        pool = (heard.pool[0] * (size if self.axes == 2 else 1), heard.pool[1] * size)
        _need(heard.stage != INPUT and math.prod(pool) <= 255 and not heard.flat)
        _need(self.axes == (2 if isinstance(layer, SumPool2d) else 1))
        shape = (c, h // size if self.axes == 2 else 1, w // size)
        self.heard = _Heard(heard.stage, shape, heard.tau_s, pool, heard.factor * layer.pool.factor)

    def max_pool(self, layer: MaxPool1d | MaxPool2d) -> None:
        size, heard = layer.size, self.heard
        _need(heard.stage != INPUT and heard.pool == (1, 1) and layer.tau_s == heard.tau_s and not heard.flat)
        _need(self.axes == (2 if isinstance(layer, MaxPool2d) else 1))
        c, h, w = heard.shape
        height = size if self.axes == 2 else 1
        shape = (c, h // height, w // size)
        self.numbers += [*shape, heard.stage, height, size]
        self.heard = _Heard(self.stages, shape, heard.tau_s)
        self.stages += 1
        self.parts = False


def _affine(layer: Spiking) -> tuple[Tensor, Tensor | None]:
    """Weight and bias in evaluation."""
    weight, bias = layer.effective_weight().detach(), layer.bias
    if layer.norm is None:
        return weight, None if bias is None else bias.detach()
    _need(type(layer.norm) is BatchNorm and not layer.norm.training)
    factor, shift = layer.norm.affine()
    return weight * factor.view(-1, *[1] * (weight.dim() - 1)), shift


def _three(channels: int, sizes: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width."""
    height, width = (*(1,) * (2 - len(sizes)), *sizes)
    return channels, height, width


def _plain(neuron: Any) -> bool:
    """Whether the kernel knows such neurons: their constants are plain numbers, and a spike resets them."""
    numbers = all(type(x) in (int, float) for x in (neuron.tau_m, neuron.tau_s, neuron.threshold))
    return type(neuron) is LIF and numbers and neuron.reset


def _need(fits: bool) -> None:
    if not fits:
        raise _Declined
