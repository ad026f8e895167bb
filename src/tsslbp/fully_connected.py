"""Networks of fully connected layers in training: all layers as one operation of autograd.

Beside such layers, modules, checks and autograd take long: most of a step if the layers are small. A
:class:`~tsslbp.networks.Network` asks here first when gradients are on. If its layers are plain fully connected ones, it runs
here, with an output and gradients that are bit for bit those of its layers; else the result is None, and it runs its layers.
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
from tsslbp.layers import Dropout, Flatten, Linear, Vote
from tsslbp.layers.called import is_known
from tsslbp.neuron import LIF, synapse
from tsslbp.seen import MEASURED, Modules
from tsslbp.signal import constant_current
from tsslbp.sparse import SparseMap, changes, is_half, product, weight_gradient


@dataclass(frozen=True)
class _Part:
    """A layer: the dropout before it, its map by changes (None if it is to be dense), its neurons' constants, and operator and
    numbers of its rule."""

    layer: Linear
    dropout: Dropout | None
    map: SparseMap | None
    constants: list[float]
    backward: Callable[..., list[Tensor]]
    numbers: list[float]


@dataclass(frozen=True)
class Plan:
    """A network in the form of :class:`_Layers`."""

    modules: Modules
    parts: list[_Part]
    weights: Sequence[Tensor | None]
    """The weight and the bias of each layer."""
    vote: Vote | None
    responses: dict[tuple[int, torch.dtype], Tensor]
    """Responses of a constant current: a cache."""


_PLANS: "weakref.WeakKeyDictionary[Any, Plan | Modules]" = weakref.WeakKeyDictionary()  # a cache; Modules means declined


def output(net: Any, x: Tensor, keys: Tensor | None = None) -> Tensor | None:
    """The output of a network for samples that fit it, ``[T, B, classes]``; None if its layers are to compute it.

    ``keys`` are those of its own call; if there are none, they are drawn as there.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor or watched():
        return None
    net._check(x)
    known = _PLANS.get(net)
    if known is None or not (known.modules if isinstance(known, Plan) else known).same():
        known = _PLANS[net] = _plan(net)
    if not isinstance(known, Plan) or x.requires_grad or x.device.type != "cpu":
        return None
    half = is_half(x)
    if half != torch.is_autocast_enabled("cpu") or any(w is not None and w.dtype != x.dtype for w in known.weights):
        return None
    steps, tau_s = net.time_steps, net.neuron.tau_s
    if net.is_static(x):
        if (steps, x.dtype) not in known.responses:
            known.responses[steps, x.dtype] = constant_current(x[:0], steps, tau_s).response
        signal, response = x.flatten(1), known.responses[steps, x.dtype]
    else:
        signal, response = synapse(x, tau_s).flatten(2), None
    keys = net._keys(x) if keys is None else keys
    psc: Tensor = _Layers.apply(signal, response, keys, steps, half, known.parts, *known.weights)
    return psc if known.vote is None else known.vote(psc)


def _plan(net: Any) -> Plan | Modules:
    modules, layers, vote, dropouts = Modules(net), list[Linear](), None, dict[int, Dropout]()
    fits = net.is_spiking and net.architecture.bits == "float" and not any(modules.hooks) and is_known(net)
    for place, (_, layer, block) in enumerate(net.unpacked() if fits else ()):
        fits &= vote is None and block is None and is_known(layer)
        if type(layer) is Vote:
            vote = layer
        elif type(layer) is Linear:
            layers.append(layer)
        elif type(layer) is Dropout:
            fits &= len(layers) not in dropouts
            dropouts[len(layers)] = layer
        else:
            fits &= type(layer) is Flatten and place == 0
    weights = [x for layer in layers for x in (layer.weight, layer.bias)] if fits and all(map(_plain, layers)) else []
    shared = len({*map(id, weights)} - {id(None)}) < sum(x is not None for x in weights)
    if not weights or shared or len(layers) in dropouts:
        return modules
    parts = []
    for place, layer in enumerate(layers):
        engine = choose("auto", layer.weight, layer.neuron, layer.rule, False)
        formula = engine.formula(layer.rule) if type(engine) is Cpp else None
        if formula is None or (layer.rule.statistic and processes.group().count > 1):
            return modules
        constants = [layer.neuron.tau_m, layer.neuron.tau_s, layer.neuron.threshold]
        backward = getattr(torch.ops.tsslbp, f"{formula[0]}_backward").default
        dropout = dropouts.get(place)
        dropout = dropout if dropout is not None and dropout.training and dropout.p > 0 else None
        map_ = layer.sparse_map() if layer.by_changes else None
        parts.append(_Part(layer, dropout, map_, constants, backward, formula[1]))
    return Plan(modules, parts, weights, vote, {})


def _plain(layer: Linear) -> bool:
    """Whether a layer is a product with its weight, perhaps a bias, and neurons with numbers as constants."""
    own = all(x is None for x in (layer.gain, layer.limit, layer.norm)) and layer.backend == "auto"
    tensors = [layer._parameters.get("weight"), *([] if layer.bias is None else [layer.bias])]
    return own and type(layer.neuron) is LIF and not layer.neuron.varies and all(type(x) is nn.Parameter for x in tensors)


class _Layers(torch.autograd.Function):
    """The layers one after the other. Of each are kept the membrane potential, its input or how that changes, and the mask of
    dropout.

    With ``half``, maps and the currents between layers are bfloat16, as under autocast.
    """

    @staticmethod
    def forward(
        ctx: Any,
        signal: Tensor,
        response: Tensor | None,
        keys: Tensor | None,
        steps: int,
        half: bool,
        parts: list[_Part],
        *weights: Tensor | None,
    ) -> Tensor:
        batch, held, lif = signal.shape[-2], response, torch.ops.tsslbp.lif.default
        kept, ends = [response], list[int]()
        for place, by in enumerate(parts):
            weight, bias = weights[2 * place : 2 * place + 2]
            assert weight is not None
            outputs, tau_s, mask = weight.shape[0], by.constants[1], None
            if by.dropout is not None:
                mask = by.dropout.mask(signal if held is not None else signal[0], keys)
                signal = signal * mask
            found = changes(signal, weight, by.map, tau_s) if held is None and by.map is not None else []
            vars(by.layer)[MEASURED] = len(found[0]) / signal.numel() if found else 1.0
            if found and by.map is not None:
                current = product(signal, weight, by.map.numbers(tau_s), found)
            else:
                x = signal.flatten(0, -2)
                x, weight = (x.bfloat16(), weight.bfloat16()) if half else (x, weight)
                current, found = F.linear(x, weight), [x]
            if bias is not None:
                current = current.view(steps if held is None else 1, batch, outputs)
                current, held = current if held is None else held.view(-1, 1, 1) * current, None
                current = current + bias.to(current.dtype)
            current = current.view(steps if held is None else 1, batch * outputs)
            psc, membrane = lif(current, held, None, None, by.constants, [], half and by is not parts[-1], True)
            kept += weight, bias, mask, membrane, *found
            ends.append(len(kept))
            signal, held = psc.view(steps, batch, outputs), None
        ctx.save_for_backward(*kept)
        ctx.shape, ctx.parts, ctx.ends = (steps, batch), parts, ends
        return signal.detach()

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        (steps, batch), parts, (response, *saved) = ctx.shape, ctx.parts, ctx.saved_tensors
        kept = [saved[start - 1 : end - 1] for start, end in zip([1, *ctx.ends], ctx.ends, strict=False)]
        needed, made = ctx.needs_input_grad[6:], list[Tensor | None]([None] * (2 * len(parts)))
        lowest = min(place for place, needs in enumerate(needed) if needs) // 2
        for place in reversed(range(lowest, len(parts))):
            own, by, (weight, bias, mask, membrane, *found) = 2 * place, parts[place], kept[place]
            factor, outputs, half = response if place == 0 else None, weight.shape[0], weight.dtype == torch.bfloat16
            held, plain = (factor, True) if bias is None else (None, factor is None)
            error = error.reshape(steps, batch * outputs)
            delta = by.backward(error, membrane, held, None, None, None, by.constants, by.numbers, [], half and plain)[0]
            if bias is not None:
                delta = delta.view(steps, batch, outputs)
                made[own + 1] = delta.sum((0, 1)).to(bias.dtype) if needed[own + 1] else None
                delta = delta if factor is None else (delta * factor.view(-1, 1, 1)).sum(0)
            flat = delta.view(batch if factor is not None else steps * batch, outputs).to(weight.dtype)
            if needed[own] and len(found) > 1:
                shape, numbers = (steps, batch, weight.shape[1]), by.map.numbers(by.constants[1])
                made[own] = weight_gradient(flat.view(steps, batch, outputs), shape, numbers, found)
            elif needed[own]:
                made[own] = (flat.t() @ found[0]).to(membrane.dtype)
            if place > lowest:
                error = flat @ weight
                error = error if mask is None else error.view(steps, batch, weight.shape[1]) * mask
        return None, None, None, None, None, None, *made
