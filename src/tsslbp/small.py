"""Small networks in training: all layers as one operation of autograd.

In a network of few neurons, modules, checks and autograd take longer than the arithmetic. A
:class:`~tsslbp.networks.Network` asks here first when gradients are on. If all its layers are plain fully connected ones, whose
maps are too small to be computed from what changes (``sparse.py``), the network runs here, and its output and gradients are
bit for bit those of its layers; else the result is None, and it runs its layers.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp import processes
from tsslbp.crossing import refuse_second_derivative
from tsslbp.events import watched
from tsslbp.kernels import choose
from tsslbp.kernels.cpp import Cpp
from tsslbp.layers import Flatten, Linear, Vote
from tsslbp.layers.called import is_known
from tsslbp.neuron import LIF, synapse
from tsslbp.seen import MEASURED, Modules
from tsslbp.signal import constant_current
from tsslbp.sparse import WORK


@dataclass(frozen=True)
class _Crossed:
    """The neurons of a layer: constants, and operator and numbers of the rule."""

    constants: tuple[None, list[float]]
    backward: Callable[..., list[Tensor]]
    numbers: list[float]


@dataclass(frozen=True)
class Plan:
    """A network's layers in the form of :class:`_Small`."""

    modules: Modules
    layers: list[Linear]
    weights: Sequence[Tensor | None]
    """The weight and the bias of each layer."""
    crossed: list[_Crossed]
    vote: Vote | None
    largest: int
    """Most weights of a layer."""
    responses: dict[tuple[int, torch.dtype], Tensor]
    """Responses of a constant current: a cache."""


_PLANS: "weakref.WeakKeyDictionary[Any, Plan | Modules]" = weakref.WeakKeyDictionary()  # a cache; Modules means declined


def whole(net: Any, x: Tensor) -> Tensor | None:
    """The output of a network for samples that fit it, ``[T, B, classes]``; None if its layers are to compute it."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor or watched():
        return None
    net._check(x)
    known = _PLANS.get(net)
    if known is None or not (known.modules if isinstance(known, Plan) else known).same():
        known = _PLANS[net] = _plan(net)
    if not isinstance(known, Plan) or net.time_steps * x.shape[-len(net.architecture.input_shape) - 1] * known.largest >= WORK:
        return None
    if x.requires_grad or x.device.type != "cpu" or any(w is not None and w.dtype != x.dtype for w in known.weights):
        return None
    if net.is_static(x):
        response = _response(known, net.time_steps, x.dtype, net.neuron.tau_s)
        signal = x.flatten(1)
    else:
        response, signal = None, synapse(x, net.neuron.tau_s).flatten(2)
    for layer in known.layers:
        vars(layer)[MEASURED] = 1.0
    psc: Tensor = _Small.apply(signal, response, net.time_steps, known.crossed, *known.weights)
    return psc if known.vote is None else known.vote(psc)


def _response(plan: Plan, steps: int, dtype: torch.dtype, tau_s: float) -> Tensor:
    key = steps, dtype
    if key not in plan.responses:
        plan.responses[key] = constant_current(torch.empty(0, dtype=dtype), steps, tau_s).response
    return plan.responses[key]


def _plan(net: Any) -> Plan | Modules:
    modules, layers, vote = Modules(net), list[Linear](), None
    a = net.architecture
    fits = net.is_spiking and a.bits == "float" and not net.time_block and not any(modules.hooks) and is_known(net)
    for place, (_, layer, block) in enumerate(net.unpacked() if fits else ()):
        fits &= vote is None and block is None and is_known(layer)
        if type(layer) is Vote:
            vote = layer
        elif type(layer) is Linear:
            layers.append(layer)
        else:
            fits &= type(layer) is Flatten and place == 0
    if not fits or not all(map(_plain, layers)):
        return modules
    crossed = []
    for layer in layers:
        engine = choose("auto", layer.weight, layer.neuron, layer.rule, False)
        formula = engine.formula(layer.rule) if type(engine) is Cpp else None
        if formula is None or (layer.rule.statistic and processes.group().count > 1):
            return modules
        family, numbers = formula
        constants = None, [layer.neuron.tau_m, layer.neuron.tau_s, layer.neuron.threshold]
        crossed.append(_Crossed(constants, getattr(torch.ops.tsslbp, f"{family}_backward").default, numbers))
    weights = [x for layer in layers for x in (layer.weight, layer.bias)]
    return Plan(modules, layers, weights, crossed, vote, max(layer.weight.numel() for layer in layers), {})


def _plain(layer: Linear) -> bool:
    """Whether a layer is a product with its weight, perhaps a bias, and neurons with numbers as constants."""
    own = all(x is None for x in (layer.gain, layer.limit, layer.norm)) and layer.backend == "auto"
    tensors = [layer._parameters.get("weight"), *([] if layer.bias is None else [layer.bias])]
    return own and type(layer.neuron) is LIF and not layer.neuron.varies and all(type(x) is nn.Parameter for x in tensors)


class _Small(torch.autograd.Function):
    """The layers one after the other. Of each, the input and the membrane potential are kept."""

    @staticmethod
    def forward(
        ctx: Any, signal: Tensor, response: Tensor | None, steps: int, crossed: list[_Crossed], *weights: Tensor | None
    ) -> Tensor:
        batch, kept, x = signal.shape[-2], list[Tensor](), signal.flatten(0, -2)
        lif, held = torch.ops.tsslbp.lif.default, response
        for place, by in enumerate(crossed):
            weight, bias = weights[2 * place : 2 * place + 2]
            assert weight is not None
            current, outputs = F.linear(x, weight), weight.shape[0]
            if bias is not None:
                current = current.view(steps if held is None else 1, batch, outputs)
                current, held = (current if held is None else held.view(-1, 1, 1) * current) + bias, None
            current = current.view(steps if held is None else 1, batch * outputs)
            psc, membrane = lif(current, held, None, *by.constants, [], False, True)
            kept += x, membrane
            x, held = psc.view(steps * batch, outputs), None
        ctx.save_for_backward(*kept, response, *weights)
        ctx.shape, ctx.crossed = (steps, batch), crossed
        return psc.view(steps, batch, outputs).detach()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        saved, count, (steps, batch) = ctx.saved_tensors, len(ctx.crossed), ctx.shape
        kept, response, weights = saved[: 2 * count], saved[2 * count], saved[2 * count + 1 :]
        needed, made = ctx.needs_input_grad[4:], [None] * len(weights)
        lowest = min(place for place, needs in enumerate(needed) if needs) // 2
        for place in reversed(range(lowest, count)):
            own = slice(2 * place, 2 * place + 2)
            by, (x, membrane), (weight, bias) = ctx.crossed[place], kept[own], weights[own]
            factor, outputs = response if place == 0 else None, weight.shape[0]
            held = factor if bias is None else None
            error = error.reshape(steps, batch * outputs)
            delta = by.backward(error, membrane, held, None, None, *by.constants, by.numbers, [], False)[0]
            if bias is not None:
                delta = delta.view(steps, batch, outputs)
                made[2 * place + 1] = delta.sum((0, 1)) if needed[2 * place + 1] else None
                delta = delta if factor is None else (delta * factor.view(-1, 1, 1)).sum(0)
            delta = delta.view(x.shape[0], outputs)
            made[2 * place] = delta.t() @ x if needed[2 * place] else None
            error = delta @ weight if place > lowest else error
        return None, None, None, None, *made
