"""Networks in training: all layers as one operation of autograd.

Beside small layers, modules, checks and autograd take long: most of a step if the layers are tiny. A
:class:`~tsslbp.networks.Network` asks here first when gradients are on. If all its layers are plain ones (fully connected,
recurrent, convolutional, pooling), it runs here, with an output and gradients that are bit for bit those of its layers; else
the result is None, and it runs its layers.
"""

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp import processes
from tsslbp.crossing import refuse_second_derivative
from tsslbp.events import watched
from tsslbp.kernels import Form, Pool, choose
from tsslbp.kernels.cpp import ENGINE
from tsslbp.layers import AvgPool2d, Conv1d, Conv2d, Dropout, Flatten, Linear, Recurrent, SumPool2d, Vote
from tsslbp.layers.called import is_known
from tsslbp.neuron import LIF, synapse
from tsslbp.seen import MEASURED, Modules
from tsslbp.signal import Constant, constant_current
from tsslbp.sparse import SparseMap, by_signal, changes, dense_gradients, is_half, product, weight_gradient


@dataclass
class _Part:
    """A layer, what comes between it and the layer before (flattening, then dropout), and the pooling after its neurons."""

    layer: Linear | Recurrent | Conv1d | Conv2d
    map: SparseMap
    flat: bool
    dropout: Dropout | None
    pool: Pool | None = None
    formula: Any = None
    """The engine's, of the rule."""
    narrow: bool = False
    """Whether its currents are bfloat16 under autocast."""

    @property
    def weights(self) -> list[Tensor | None]:
        """The weight, the bias and the lateral weight."""
        return [self.layer.weight, self.layer.bias, self.layer.lateral if isinstance(self.layer, Recurrent) else None]

    def forward(
        self, x: Tensor, response: Tensor | None, weights: Sequence[Any], keys: Tensor | None, half: bool
    ) -> tuple[Tensor, Form, list[Tensor | None]]:
        """The current ``[T, B, ...]`` after the layer, the form of its neurons, and what the way back needs: the weights,
        dropout's mask, the membrane potential, and the map's input or how that changes."""
        weight, bias, lateral = weights
        layer, neuron, mask = self.layer, self.layer.neuron, None
        if self.flat:
            x = x.flatten(2 if response is None else 1)
        if self.dropout is not None:
            mask = self.dropout.mask(x[0] if response is None else x, keys)
            x = x * mask
        found = changes(x, weight, self.map, neuron.tau_s) if response is None and layer.by_changes else []
        vars(layer)[MEASURED] = len(found[0]) / x.numel() if found else 1.0
        if found:
            current = product(x, weight, self.map.numbers(neuron.tau_s), found)
        else:
            before, x = x.shape[:2], x.flatten(0, 1) if response is None else x
            x = layer.laid(x) if isinstance(layer, Conv1d | Conv2d) else x
            x, weight = (x.bfloat16(), weight.bfloat16()) if half else (x, weight)
            current = layer.convolve(x, weight) if isinstance(layer, Conv1d | Conv2d) else F.linear(x, weight)
            current, found = current.unflatten(0, before) if response is None else current, [x]
        if response is not None and (bias is not None or lateral is not None):
            current, response = Constant(current, response).expand(), None
        if bias is not None:
            current = current + bias.to(current.dtype).view(-1, *[1] * len(self.map.kernel))
        form = Form(response, self.pool, current.dtype == torch.bfloat16, half and self.narrow)
        if isinstance(layer, Recurrent):
            membrane, psc, _ = ENGINE.recurrent_forward(current, lateral, None, neuron, layer.adapting, form.half_psc)
        else:
            membrane, psc, _ = ENGINE.forward(current, neuron, None, form)
        return psc, form, [weight, bias, lateral, mask, membrane, *found]

    def backward(
        self,
        error: Tensor,
        form: Form,
        kept: Sequence[Any],
        entered: torch.Size,
        response: Tensor | None,
        half: bool,
        needed: Sequence[bool],
    ) -> list[Tensor | None]:
        """Gradients by signal and weights, those that are ``needed``, from that by the current after the layer.

        ``entered`` is the shape of the signal; ``response`` is given if that was constant.
        """
        (weight, bias, lateral, mask, membrane, *found), layer, neuron = kept, self.layer, self.layer.neuron
        by_x = by_weight = by_bias = by_lateral = None
        if isinstance(layer, Recurrent):
            states = error, None, membrane, lateral, None, neuron, layer.adapting, form.half_current
            through = layer.rule.through_lateral
            delta, _, by_lateral, _ = ENGINE.recurrent_backward(
                self.formula, *states, through_lateral=through, learns=needed[3]
            )
        else:
            delta, *_ = ENGINE.backward(self.formula, error, membrane, neuron, None, None, form)
        if bias is not None and needed[2]:
            by_bias = delta.sum((0, 1, *range(3, delta.dim()))).to(bias.dtype)
        if response is not None and form.response is None:
            delta = (delta * response.view(-1, *[1] * (delta.dim() - 1))).sum(0)
        full, steps = membrane.dtype, tuple(entered[:2])
        shape = (*steps, weight.shape[1]) if self.flat else entered
        flat, weight = (
            x.to(torch.bfloat16 if half else full) for x in (delta.flatten(0, 1) if response is None else delta, weight)
        )
        if len(found) > 1:
            by_weight = weight_gradient(delta, shape, self.map.numbers(neuron.tau_s), found) if needed[1] else None
            by_x = by_signal(flat, weight, self.map, shape).to(delta.dtype) if needed[0] else None
        else:
            by_x, by_weight = dense_gradients(flat, found[0], weight, self.map, (needed[0], needed[1]))
            by_x = by_x if by_x is None else by_x.unflatten(0, steps)
            by_weight = None if by_weight is None else by_weight.to(full)
        if by_x is not None:
            by_x = by_x if mask is None else by_x.to(mask.dtype) * mask
            by_x = by_x.view(entered) if self.flat else by_x
        return [by_x, by_weight, by_bias, by_lateral]


@dataclass(frozen=True)
class Plan:
    """A network in the form of :class:`_Layers`."""

    modules: Modules
    parts: list[_Part]
    weights: Sequence[Tensor | None]
    """Those of each layer in turn."""
    vote: Vote | None
    alone: bool
    """Whether the layers are to run if several processes train together: where a rule asks the others, or sums of gradients
    begin during the backward pass."""
    responses: dict[tuple[int, torch.dtype], Tensor]
    """Responses of a constant current: a cache."""


_PLANS: "weakref.WeakKeyDictionary[Any, Plan | Modules]" = weakref.WeakKeyDictionary()  # a cache; Modules means declined


def output(net: Any, x: Tensor, keys: Tensor | None = None) -> Tensor | None:
    """The output of a network for samples that fit it, ``[T, B, classes]``; None if its layers are to compute it.

    ``keys`` are those of its own call; if there are none, they are drawn as there.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor or watched():
        return None
    known = _PLANS.get(net)
    if known is None or not (known.modules if isinstance(known, Plan) else known).same():
        known = _PLANS[net] = _plan(net)
    if not isinstance(known, Plan) or x.requires_grad or x.device.type != "cpu":
        return None
    if known.alone and processes.group().count > 1:
        return None
    half, steps, tau_s, static = is_half(x), net.time_steps, net.neuron.tau_s, net.is_static(x)
    if half != torch.is_autocast_enabled("cpu") or any(w is not None and w.dtype != x.dtype for w in known.weights):
        return None
    if known.parts[0].map.kernel and x.numel() == math.prod(net.architecture.input_shape):
        return None  # layers copy a single picture (signal.plainly_laid)
    if static:
        if (steps, x.dtype) not in known.responses:
            known.responses[steps, x.dtype] = constant_current(x[:0], steps, tau_s).response
        response = known.responses[steps, x.dtype]
    else:
        x, response = synapse(x, tau_s), None
    keys = net._keys(x) if keys is None else keys
    psc: Tensor = _Layers.apply(x, response, keys, half, known.parts, *known.weights)
    return psc if known.vote is None else known.vote(psc)


def _plan(net: Any) -> Plan | Modules:
    modules = Modules(net)
    fits = net.is_spiking and net.architecture.bits == "float" and not any(modules.hooks) and is_known(net)
    parts = _parts(net) if fits else []
    weights = [x for by in parts for x in by.weights]
    shared = len({*map(id, weights)} - {id(None)}) < sum(x is not None for x in weights)
    alone = any(x is not None and x.nbytes >= processes.LARGE for x in weights)
    for by in parts:
        layer, rule = by.layer, by.layer.rule
        alone |= rule.statistic is not None
        takes = rule.takes_parts or not isinstance(layer, Recurrent)
        if takes and choose("auto", layer.weight, layer.neuron, rule, False) is ENGINE:
            by.formula = ENGINE.formula(rule)
    for by, after in pairwise(parts):
        by.narrow = not after.layer.takes_full
    if not parts or shared or any(by.formula is None for by in parts):
        return modules
    vote = net.layers[-1]
    return Plan(modules, parts, weights, vote if isinstance(vote, Vote) else None, alone, {})


def _parts(net: Any) -> list[_Part]:
    """The layers of a network; none if it has others than these, or one does not fit the one before."""
    parts, shape, flat, dropout = list[_Part](), net.architecture.input_shape, False, None
    before: nn.Module | None = None
    for _, layer, block in net.unpacked():
        kind = type(layer)
        if block is not None or not is_known(layer) or isinstance(before, Vote):
            return []
        if kind is Flatten and dropout is None:
            flat, shape = True, (math.prod(shape),)
        elif kind is Dropout and dropout is None:
            dropout = layer
        elif kind in (SumPool2d, AvgPool2d) and isinstance(before, Conv2d):
            parts[-1].pool, shape = layer.pool, (shape[0], *(size // layer.pool.size for size in shape[1:]))
        elif kind in (Linear, Recurrent, Conv1d, Conv2d) and _plain(layer) and (map_ := layer.sparse_map()) is not None:
            weight = layer.weight
            if (
                len(shape) != weight.dim() - 1
                or shape[0] != weight.shape[1]
                or (shape[1:] and not layer.can_be_half(shape[1:]))
            ):
                return []
            shape = (len(weight), *map_.sizes(shape[1:]))
            parts.append(_Part(layer, map_, flat, dropout if dropout and dropout.training and dropout.p > 0 else None))
            flat, dropout = False, None
        elif kind is not Vote:
            return []
        if min(shape) < 1:
            return []
        before = layer
    return [] if flat or dropout else parts


def _plain(layer: Linear | Recurrent | Conv1d | Conv2d) -> bool:
    """Whether a layer is a map with its weight, perhaps a bias, and neurons with numbers as constants."""
    own = all(x is None for x in (layer.gain, layer.limit, layer.norm)) and layer.backend == "auto"
    tensors = [layer._parameters.get(name) for name in layer.own_weights] + [layer.bias] * (layer.bias is not None)
    return own and type(layer.neuron) is LIF and not layer.neuron.varies and all(type(x) is nn.Parameter for x in tensors)


class _Layers(torch.autograd.Function):
    """The layers one after the other. With ``half``, maps and the currents between layers are bfloat16, as under autocast."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, response: Tensor | None, keys: Tensor | None, half: bool, parts: list[_Part], *weights: Any
    ) -> Tensor:
        forms, shapes, kept, ends = list[Form](), list[torch.Size](), [response], [1]
        for place, by in enumerate(parts):
            shapes.append(x.shape)
            x, form, needed = by.forward(x, None if place else response, weights[3 * place : 3 * place + 3], keys, half)
            forms.append(form)
            kept += needed
            ends.append(len(kept))
        ctx.save_for_backward(*kept)
        ctx.half, ctx.parts, ctx.forms, ctx.shapes, ctx.ends = half, parts, forms, shapes, ends
        return x.detach()

    @staticmethod
    def backward(ctx: Any, error: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        response, *_ = saved = ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()  # unless the graph is to be retained, so that each layer's are freed after its turn
        kept = [saved[start:end] for start, end in pairwise(ctx.ends)]
        del saved
        needed, made = ctx.needs_input_grad[5:], list[Tensor | None]()
        lowest = min(place for place, needs in enumerate(needed) if needs) // 3
        for place in reversed(range(lowest, len(ctx.parts))):
            wanted = place > lowest, *needed[3 * place : 3 * place + 3]
            of_input, shape = response if place == 0 else None, ctx.shapes[place]
            error, *by = ctx.parts[place].backward(error, ctx.forms[place], kept.pop(), shape, of_input, ctx.half, wanted)
            made = by + made
        return *[None] * (5 + 3 * lowest), *made
