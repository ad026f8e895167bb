"""Inference from events: whole networks in one call of C++ (``csrc/events.h``), in which what is silent costs nothing.

A :class:`~tsslbp.networks.Network` asks here first. Where gradients are off, the network is in evaluation mode, and all its
layers are such as the kernel knows, the answer comes from the kernel; else it is None, and the network goes through its layers.
It is None, too, where the first samples of a large batch are so busy that dense products are faster (``csrc/infer.h``), which
follows from what is counted, never from time. The spikes are the same; where a membrane potential lies within rounding of the
threshold they may differ, because inputs are added up in another order. For a sample the kernel's order is always the same,
whatever the batch size, threads or instruction set.
"""

import functools
import math
import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook

from tsslbp.kernels.cpp import NOT_LOADED
from tsslbp.layers import Vote
from tsslbp.neuron import has_modes, transformed
from tsslbp.plans import Declined, Planner
from tsslbp.signal import constant_current


@dataclass(frozen=True)
class Plan:
    """A network as the kernel takes it (``plans.py``), and what it was made from."""

    weights: Tensor
    numbers: Tensor
    states: dict[str, tuple[int, int, tuple[int, ...]]]
    """Of every layer by name: where its state begins in what the kernel hands on, its rows, and its shape."""
    state_size: int
    """Numbers of a sample's state; 0 if the kernel takes no parts of sequences through this network."""
    vote: Vote | None
    seen: "_Seen"
    held: list[Tensor]
    """The network's tensors."""
    glance: int
    """What a glance at them showed."""
    responses: dict[int, Tensor] = field(default_factory=dict)
    """Responses of a constant current by number of steps: a cache."""

    def still(self, x: Tensor) -> bool:
        """Whether nothing has changed. Writing through ``.data`` or NumPy changes no version counter, so calls that are long
        enough not to feel it take a glance at some of the weights."""
        return self.seen.still() and (len(x) < LONG or torch.ops.tsslbp.glance.default(self.held) == self.glance)

    def run(self, x: Tensor, response: Tensor | None, before: Tensor | None, keep: bool) -> list[Tensor] | None:
        """Output currents ``[T, B, classes]`` and, with ``keep``, the state after; None where a number is not finite, or
        the batch too busy."""
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
        self.attributes = [(vars(module), *_attributes(module)) for module in modules]
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
        """Whether nothing has changed, as far as PyTorch's version counters tell."""
        if self.fused_steps != _FUSED_STEPS[0] or any(self.hooks) or any(self.empty):
            return False
        for now, before in self.contents:
            if len(now) != len(before) or not all(map(operator.is_, now.values(), before)):
                return False
        try:
            for now, count, get, before in self.attributes:  # tuples compare by identity first, and by value what is another
                if len(now) - (MEASURED in now) != count or get(now) != before:
                    return False
        except (RuntimeError, ValueError):  # of tensors and arrays, which have no one truth
            return False
        return all(_version(x) == version and x.data_ptr() == pointer for x, _, pointer, version in self.tensors)


LONG = 8
"""Samples or steps of a call that is long. A single image through a small network would pay for a glance."""
MEASURED = "multiplied"
"""The attribute of a layer that computing changes, and that changes nothing."""


def _attributes(module: nn.Module) -> tuple[int, Callable[[dict[str, Any]], tuple[Any, ...]], tuple[Any, ...]]:
    """How many attributes a module has, what gets them from a dict, and what they are."""
    names = [name for name in tuple(vars(module)) if name != MEASURED]
    get = operator.itemgetter(*names)
    return len(names), get, get(vars(module))


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
    if known is None or not (known.still(x) if isinstance(known, Plan) else known.still()):
        known = _PLANS[net] = _make(net)
    return known if isinstance(known, Plan) and known.weights.dtype == x.dtype else None


def _watched() -> bool:
    """Whether something wants to see or change every operation, as autocast, transforms and modes do."""
    return bool(
        torch.is_autocast_enabled("cpu")
        or transformed()
        or has_modes()
        or torch._C._is_tracing()
        or hooks._has_any_global_hook()
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
    if any(seen.hooks):
        return seen
    held = [alias for _, alias, *_ in seen.tensors]
    try:
        made = Planner(net, [tensor for tensor, *_ in seen.tensors])
    except Declined:
        return seen
    state_size, glance = made.state_size if made.parts else 0, torch.ops.tsslbp.glance.default(held)
    return Plan(torch.cat(made.weights), made.plan(), made.states, state_size, made.vote, seen, held, glance)
