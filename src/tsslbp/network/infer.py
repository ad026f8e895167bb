"""Inference from events: whole networks in one call of C++ (``csrc/events.h``), in which silence costs nothing.

A :class:`~tsslbp.network.Network` asks here first. If gradients are off, the network is in evaluation mode, and the kernel
knows all its layers, the kernel computes the output; else the result is None, and the network runs its layers. It is also None
if the first samples of a large batch are so busy that dense products are faster (``csrc/infer.h``); this depends on counts,
never on time. The spikes are the same, except where a membrane potential is within rounding of the threshold, because inputs
are added in another order. For a sample the kernel's order does not depend on batch size, threads or instruction set.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from tsslbp.kernels.cpp import NOT_LOADED
from tsslbp.layers import BatchNorm, Vote
from tsslbp.layers.called import is_known
from tsslbp.network.cache import Modules, plans_of
from tsslbp.network.event_plan import Declined, Planner
from tsslbp.network.state import State, count_fused_steps, version
from tsslbp.neuron import has_modes, transformed
from tsslbp.utils.signals import constant_current


@dataclass(frozen=True)
class Plan:
    """A network in the form of the kernel (``event_plan.py``), and what it was made from."""

    weights: Tensor
    numbers: Tensor
    states: dict[str, tuple[int, int, tuple[int, ...]]]
    """For every layer by name: offset of its state in the kernel's, its rows, and its shape."""
    state_size: int
    """Numbers of a sample's state; 0 if the kernel takes no parts of sequences for this network."""
    vote: Vote | None
    seen: "_Seen"
    held: list[Tensor]
    """The network's tensors."""
    glance: int
    """Sampled values of these."""
    moving: list[Tensor]
    """Statistics of normalisation, which training moves without version counters."""
    moved: int
    """Sampled values of these."""
    features: int
    """Numbers in a step of a sample."""
    responses: dict[int, Tensor] = field(default_factory=dict)
    """Responses of a constant current by number of steps: a cache."""

    def still(self, x: Tensor) -> bool:
        """Whether nothing has changed. Writing through ``.data`` or NumPy changes no version counter, so long calls also
        compare some of the weights."""
        if not self.seen.still() or _glance(self.moving) != self.moved:
            return False
        return x.numel() < LONG * self.features or _glance(self.held) == self.glance

    def run(self, x: Tensor, response: Tensor | None, before: Tensor | None, keep: bool) -> list[Tensor] | None:
        """Output currents ``[T, B, classes]`` and, with ``keep``, the state after; None if a number is not finite, or the batch
        is too busy."""
        made: list[Tensor] = torch.ops.tsslbp.infer.default(x, self.weights, self.numbers, response, before, keep)
        if made and self.vote is not None:
            made[0] = self.vote(made[0])
        return made or None

    def layers(self, state: Tensor) -> dict[str, Tensor]:
        """The layers' states by name, ``[rows, B, ...]``, as views of the kernel's ``[B, state_size]``."""
        batch, made = state.shape[0], {}
        for name, (begin, rows, shape) in self.states.items():
            strides: tuple[int, ...] = (1,)
            if len(shape) > 1:  # neurons lie as [row, column, channel]
                strides = (1, *(shape[0] * math.prod(shape[axis + 1 :]) for axis in range(1, len(shape))))
            size = math.prod(shape)
            made[name] = state.as_strided((rows, batch, *shape), (size, self.state_size, *strides), begin)
        return made


class _Seen(Modules):
    """Modules and tensors that a plan was made from."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        count_fused_steps()
        tensors = (tensor for module in net.modules() for tensor in (*module._parameters.values(), *module._buffers.values()))
        # an alias keeps the memory, so that no other tensor can get it
        self.tensors = [(x, x.detach(), x.data_ptr(), version(x)) for x in tensors if x is not None]

    def still(self) -> bool:
        """Whether nothing has changed, the numbers in tensors included, by PyTorch's version counters."""
        if not self.same():
            return False
        return all(
            version(x) == before and x.data_ptr() == pointer and x.is_set_to(alias)
            for x, alias, pointer, before in self.tensors
        )


LONG = 8
"""Steps of samples in a long call. For a single image in a small network the comparison would cost too much."""


def _glance(tensors: list[Tensor]) -> int:
    """A number that depends on some of the values in tensors."""
    return int(torch.ops.tsslbp.glance.default(tensors)) if tensors else 0


def plan(net: Any, x: Tensor) -> Plan | None:
    """The plan of a network for an input that fits it; None if the kernel declines."""
    if torch.is_grad_enabled() or net.training or NOT_LOADED is not None or not net.is_spiking:
        return None
    if type(x) is not Tensor or x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if torch.is_autocast_enabled("cpu") or watched():
        return None
    plans = plans_of(net)
    known: Plan | _Seen | None = plans.events  # _Seen means declined
    if known is None or not (known.still(x) if isinstance(known, Plan) else known.still()):
        known = plans.events = _make(net)
    return known if isinstance(known, Plan) and known.weights.dtype == x.dtype else None


def watched() -> bool:
    """Whether a transform or a mode sees or changes every operation."""
    return bool(transformed() or has_modes() or hooks._has_any_global_hook())


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


def part(net: Any, x: Tensor, state: State, steps: int) -> tuple[Tensor, State] | None:
    """A part of a sequence, as in :meth:`tsslbp.network.Network.part`; None if the kernel does not compute it.

    It does not if the state is neither rest nor its own, or if weights have changed since: input currents, which it keeps, are
    those of the weights before.
    """
    if (by := plan(net, x)) is None or not by.state_size:
        return None
    before, static = state.events_of(by), net.is_static(x)
    if not state.goes_on(x, static) or (before is None and (state.steps or state.layers or state.synapse is not None)):
        return None
    response = constant_current(x, steps, net.neuron.tau_s, state.steps).response if static else None
    if (made := by.run(x, response, before, True)) is None:
        return None
    output, after = made
    shape = net.architecture.input_shape
    synapse = None if static else after[:, : math.prod(shape)].unflatten(1, shape)
    sample = (x.clone() if state.sample is None else state.sample) if static else None
    return output, State(state.steps + steps, synapse, by.layers(after), state.keys, after, sample).made_by(by)


def _make(net: Any) -> "Plan | _Seen":
    seen = _Seen(net)
    if any(seen.hooks) or not is_known(net):
        return seen
    held = [alias for _, alias, *_ in seen.tensors]
    moving = [x for layer in net.modules() if isinstance(layer, BatchNorm) for x in (layer.mean, layer.variance)]
    try:
        made = Planner(net, [tensor for tensor, *_ in seen.tensors])
    except Declined:
        return seen
    return Plan(
        weights=torch.cat(made.weights),
        numbers=made.plan(),
        states=made.states,
        state_size=made.state_size if made.parts else 0,
        vote=made.vote,
        seen=seen,
        held=held,
        glance=_glance(held),
        moving=moving,
        moved=_glance(moving),
        features=math.prod(net.architecture.input_shape),
    )
