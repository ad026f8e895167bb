"""Networks in training: all layers as one operation of autograd.

Beside small layers, modules, checks and autograd take long: most of a step if the layers are tiny. A
:class:`~tsslbp.network.Network` asks here first when gradients are on. If all its layers are plain ones (fully connected,
recurrent, convolutional, pooling), it runs here, with an output and gradients that are bit for bit those of its layers; else
the result is None, and it runs its layers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tsslbp.functional import refuse_second_derivative
from tsslbp.kernels import Pool, choose
from tsslbp.kernels.cpp import ENGINE, pooling
from tsslbp.kernels.layout import Layout, flatten
from tsslbp.layers import Conv1d, Conv2d, Dropout, Linear, Recurrent, Vote, products
from tsslbp.layers.sparse import SparseMap, by_signal, changes, dense_gradients, is_bf16, product, weight_gradient
from tsslbp.network.cache import MEASURED, Modules, plans_of
from tsslbp.network.infer import watched
from tsslbp.network.lower import lower
from tsslbp.network.program import TRAINING, require
from tsslbp.neuron import LIF, synapse
from tsslbp.utils import distributed
from tsslbp.utils.errors import UserError
from tsslbp.utils.imports import is_ours
from tsslbp.utils.signals import Constant, constant_current


class _How(NamedTuple):
    """How a signal went through a layer, beside the tensors that are kept for the way back."""

    entered: torch.Size
    """The signal's shape."""
    constant: bool
    """Whether the current was constant when it came to the neurons."""
    bf16_current: bool
    """Whether it was bfloat16."""
    layout: Layout | None
    """Memory layout of a convolution's neurons."""


@dataclass
class _Part:
    """A layer, what comes between it and the layer before (flattening, then dropout), and the pooling after its neurons.

    Its methods call the kernels without :class:`~tsslbp.kernels.cpp.Cpp` in between, which took 7 % of a step of layers of 8
    neurons.
    """

    layer: Any
    """Linear, Recurrent, Conv1d or Conv2d."""
    map: SparseMap
    flat: bool
    dropout: Dropout | None
    pool: Pool | None = None
    formula: Any = None
    """The engine's, of the rule."""
    bf16_psc: bool = False
    """Whether the current after it is bfloat16 under autocast."""

    def __post_init__(self) -> None:
        neuron = self.neuron = self.layer.neuron  # all is kept, for a layer may change before the backward pass
        self.adapting = self.layer.adapting if type(self.layer) is Recurrent else None
        self.through_lateral = self.layer.rule.through_lateral
        self.constants = [neuron.tau_m, neuron.tau_s, neuron.threshold]
        self.numbers, self.convolves = self.map.numbers(neuron.tau_s), bool(self.map.kernel)

    @property
    def weights(self) -> list[Tensor | None]:
        """The weight, the bias and the lateral weight."""
        return [self.layer.weight, self.layer.bias, self.layer.lateral if type(self.layer) is Recurrent else None]

    def forward(
        self, x: Tensor, response: Tensor | None, weights: Sequence[Any], keys: Tensor | None, bf16: bool
    ) -> tuple[Tensor, _How, list[Tensor | None]]:
        """The current ``[T, B, ...]`` after the layer, and what the way back needs: how it was made, the weights, dropout's
        mask, the membrane potential, and the map's input or how that changes."""
        layer, (weight, bias, lateral), mask, layout, entered = self.layer, weights, None, None, x.shape
        steps, batch = entered[:2] if response is None else (1, len(x))
        if self.flat:
            x = x.flatten(2 if response is None else 1)
        if self.dropout is not None:
            mask = self.dropout.mask(x[0] if response is None else x, keys)
            x = x * mask
        found = changes(x, weight, self.map, self.constants[1]) if response is None and layer.by_changes else []
        vars(layer)[MEASURED] = len(found[0]) / x.numel() if found else 1.0
        if found:
            current = product(x, weight, self.numbers, found)
        else:
            x = x.flatten(0, 1) if response is None else x
            x = layer.laid(x) if self.convolves else x
            x, weight = (x.bfloat16(), weight.bfloat16()) if bf16 else (x, weight)
            current = layer.convolve(x, weight) if self.convolves else products.product(x, weight)
            current, found = current.view(steps, batch, *current.shape[1:]), [x]
        if response is not None and (bias is not None or lateral is not None):
            current, response = Constant(current[0], response).expand(), None
        if bias is not None:
            current = current + bias.to(current.dtype).view(-1, *[1] * len(self.map.kernel))
        bf16_psc = bf16 and self.bf16_psc
        if lateral is not None:
            membrane, psc, _ = ENGINE.recurrent_forward(current, lateral, None, self.neuron, self.adapting, bf16_psc)
        else:
            lif, pool = torch.ops.tsslbp.lif.default, list[float]()
            if self.convolves:
                layout, flat = flatten(current, self.pool)
                pool = pooling(layout, self.pool)
            else:
                flat = current.view(len(current), batch * current.shape[2])
            psc, membrane = lif(flat, response, None, None, self.constants, pool, bf16_psc, True)
            psc = psc.view(len(psc), *current.shape[1:]) if layout is None else layout.pooled(self.pool).restore(psc)
        how = _How(entered, response is not None, current.dtype == torch.bfloat16, layout)
        return psc, how, [weight, bias, lateral, mask, membrane, *found]

    def backward(
        self, error: Tensor, how: _How, kept: Sequence[Any], response: Tensor | None, bf16: bool, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients by signal and weights, those that are ``needed``, from that by the current after the layer.

        ``response`` is given if the signal was constant.
        """
        weight, bias, lateral, mask, membrane, *found = kept
        del kept
        entered, constant, bf16_current, layout = how
        by_x = by_weight = by_bias = by_lateral = None
        if lateral is not None:
            states = error, None, membrane, lateral, None, self.neuron, self.adapting, bf16_current
            delta, _, by_lateral, _ = ENGINE.recurrent_backward(
                self.formula, *states, through_lateral=self.through_lateral, learns=needed[3]
            )
        else:
            (family, numbers), pool = self.formula, list[float]()
            if layout is not None:
                flat, pool = layout.pooled(self.pool).flatten(error), pooling(layout, self.pool)
            else:
                flat = error.reshape(membrane.shape)
            back = getattr(torch.ops.tsslbp, f"{family}_backward").default
            held = response if constant else None
            delta = back(flat, membrane, held, None, None, None, self.constants, numbers, pool, bf16_current)[0]
            delta = delta.view(len(delta), *error.shape[1:]) if layout is None else layout.restore(delta)
        del membrane  # which is as large as the gradients that follow
        if bias is not None and needed[2]:
            by_bias = delta.sum((0, 1, *range(3, delta.dim()))).to(bias.dtype)
        if response is None:
            flat = delta.flatten(0, 1)
        else:
            flat = delta[0] if constant else (delta * response.view(-1, *[1] * (delta.dim() - 1))).sum(0)
        flat, weight = (flat.bfloat16(), weight.bfloat16()) if bf16 else (flat, weight)
        if len(found) > 1:
            shape = (*entered[:2], weight.shape[1]) if self.flat else entered
            by_weight = weight_gradient(delta, shape, self.numbers, found) if needed[1] else None
            by_x = by_signal(flat, weight, self.map, shape).to(delta.dtype) if needed[0] else None
        else:
            by_x, by_weight = dense_gradients(flat, found[0], weight, self.map, (needed[0], needed[1]))
            by_weight = by_weight.float() if bf16 and by_weight is not None else by_weight
        if by_x is not None and mask is not None:
            by_x = by_x.view(*entered[:2], *mask.shape[1:]).to(mask.dtype) * mask
        return [None if by_x is None else by_x.view(entered), by_weight, by_bias, by_lateral]


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


def output(net: Any, x: Tensor, keys: Tensor | None = None, padded: bool = False) -> Tensor | None:
    """The output of a network for samples that fit it, ``[T, B, classes]``; None if its layers are to compute it.

    ``keys`` are those of its own call; if there are none, they are drawn as there. ``padded``: whether sequences end before
    their last step, which layers of some rules must know.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or type(x) is not Tensor or watched():
        return None
    if torch.is_inference_mode_enabled():  # what is kept would be unfit for training
        return None
    if x.requires_grad or x.device.type != "cpu":
        return None
    plans = plans_of(net)
    known: Plan | Modules | None = plans.as_one  # Modules means declined
    if known is None or not (known.modules if isinstance(known, Plan) else known).same():
        known = plans.as_one = _plan(net)
    if not isinstance(known, Plan):
        return None
    if known.alone and distributed.group().world_size > 1:
        return None
    if padded and any(by.layer.rule.depends_on_padding for by in known.parts):
        return None
    bf16, steps, tau_s, static = is_bf16(x), net.time_steps, net.neuron.tau_s, net.is_static(x)
    if x.dtype not in (torch.float32, torch.float64) or bf16 != torch.is_autocast_enabled("cpu"):
        return None
    if any(w is not None and w.dtype != x.dtype for w in known.weights):
        return None
    if known.parts[0].map.kernel and x.numel() == math.prod(net.architecture.input_shape):
        return None  # layers copy a single picture (signal.plainly_laid)
    if static:
        if (steps, x.dtype) not in known.responses:
            known.responses[steps, x.dtype] = constant_current(x[:0], steps, tau_s).response
        response = known.responses[steps, x.dtype]
    else:
        x, response = synapse(x, tau_s), None
    if keys is None and any(by.dropout for by in known.parts):
        keys = net._keys(x)
    psc: Tensor = _Layers.apply(x, response, keys, bf16, known.parts, *known.weights)
    return psc if known.vote is None else known.vote(psc)


def _plan(net: Any) -> Plan | Modules:
    modules = Modules(net)
    parts = [] if any(modules.hooks) else _parts(net)
    weights = [x for by in parts for x in by.weights]
    shared = len({*map(id, weights)} - {id(None)}) < sum(x is not None for x in weights)
    alone = any(x is not None and x.nbytes >= distributed.LARGE for x in weights)
    for by in parts:
        layer, rule = by.layer, by.layer.rule
        alone |= rule.statistic is not None
        takes = rule.takes_parts or not isinstance(layer, Recurrent)
        fixed = is_ours(rule)  # the numbers of a user's rule may change with the epoch
        if takes and fixed and choose("auto", layer.weight, layer.neuron, rule, False) is ENGINE:
            by.formula = ENGINE.formula(rule)
    for by, after in pairwise(parts):
        by.bf16_psc = not after.layer.takes_full
    if not parts or shared or any(by.formula is None for by in parts):
        return modules
    vote = net.layers[-1]
    return Plan(modules, parts, weights, vote if isinstance(vote, Vote) else None, alone, {})


def _parts(net: Any) -> list[_Part]:
    """The stages of a network; none if it has no program, or one that is not computed here."""
    try:
        require(program := lower(net), TRAINING)
    except UserError:
        return []
    parts = list[_Part]()
    for stage in program.stages:
        layer, ops = net.layers.get_submodule(stage.name), list(stage.map.ops)
        if parts and ops and ops[0].kind == "sum":
            parts[-1].pool = net.layers.get_submodule(ops.pop(0).name).pool
        if flat := bool(ops) and ops[0].kind == "flatten":
            ops.pop(0)
        dropout = net.layers.get_submodule(ops.pop(0).name) if ops and ops[0].kind == "dropout" else None
        if ops or not _plain(layer) or (map_ := layer.sparse_map()) is None:
            return []
        if stage.map.kind == "convolution" and not layer.can_be_bf16(stage.map.entering[1:]):
            return []
        parts.append(_Part(layer, map_, flat, dropout if dropout is not None and dropout.drops else None))
    return parts


def _plain(layer: Linear | Recurrent | Conv1d | Conv2d) -> bool:
    """Whether a layer is a map with its weight, perhaps a bias, and neurons with numbers as constants."""
    own = all(x is None for x in (layer.gain, layer.limit, layer.norm)) and layer.backend == "auto"
    tensors = [layer._parameters.get(name) for name in layer.own_weights] + [layer.bias] * (layer.bias is not None)
    return own and type(layer.neuron) is LIF and not layer.neuron.varies and all(type(x) is nn.Parameter for x in tensors)


class _Layers(torch.autograd.Function):
    """The layers one after the other. With ``bf16``, maps and the currents between layers are bfloat16, as under autocast."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, response: Tensor | None, keys: Tensor | None, bf16: bool, parts: list[_Part], *weights: Any
    ) -> Tensor:
        hows, kept, ends = list[_How](), [response], [1]
        for place, by in enumerate(parts):
            x, how, needed = by.forward(x, None if place else response, weights[3 * place : 3 * place + 3], keys, bf16)
            hows.append(how)
            kept += needed
            ends.append(len(kept))
        ctx.save_for_backward(*kept)
        ctx.made = bf16, parts, hows, ends
        return x.detach()

    @staticmethod
    def backward(ctx: Any, error: Any) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        (bf16, parts, hows, ends), saved = ctx.made, ctx.saved_tensors
        ctx.maybe_clear_saved_tensors()  # unless the graph is to be retained, so that each layer's are freed after its turn
        response, kept = saved[0], [saved[start:end] for start, end in pairwise(ends)]
        del saved
        needed, made = ctx.needs_input_grad[5:], list[Tensor | None]()
        lowest = min(place for place, needs in enumerate(needed) if needs) // 3
        for place in reversed(range(lowest, len(parts))):
            wanted = place > lowest, *needed[3 * place : 3 * place + 3]
            error, *by = parts[place].backward(error, hows[place], kept.pop(), None if place else response, bf16, wanted)
            made = by + made
        return *[None] * (5 + 3 * lowest), *made
