"""Base of all layers with neurons: a linear map of post-synaptic currents, then neurons."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp import rules
from tsslbp.functional import neurons, rest
from tsslbp.kernels import Backend, Pool, computed_in
from tsslbp.layers import quantisation
from tsslbp.layers.called import Handed, called_alone, check_state, handed_on, is_known, refuse_part
from tsslbp.layers.constants import in_range
from tsslbp.layers.normalisation import BatchNorm
from tsslbp.layers.sparse import SparseMap, changes, mapped, most
from tsslbp.layers.state_dicts import SIZE, StoresConstants
from tsslbp.neuron import CONSTANTS, LIF, ByConstant, ConstantName
from tsslbp.rules.base import Rule
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, check_truths
from tsslbp.utils.signals import Constant, Signal, check_mask, check_signal, expanded, plainly_laid


def linear_map(map_: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """Apply a linear map of ``[N, ...]`` tensors to every step of a signal (or once, to a constant one).

    Raises UserError for anything but a signal of at least one step.
    """
    check_signal(signal, dims=2)
    if isinstance(signal, Constant):
        return Constant(map_(plainly_laid(signal.value)), signal.response)
    return map_(plainly_laid(signal.flatten(0, 1))).unflatten(0, signal.shape[:2])


def per_sample(x: Tensor, dims: int) -> str:
    """The shape of a sample of ``[N, ...]``, for a message; ``dims`` is how many dimensions ``x`` should have."""
    return f"{list(x.shape[1:])} per sample" + (", as if the axis of time or batch were missing" if x.dim() < dims else "")


class Joined(NamedTuple):
    """Input of the last neurons of a residual block: ``signal`` through their own layer, ``entering`` through the shortcut.

    ``shortcut`` is a layer that is applied without its neurons; None adds ``entering`` unchanged.
    """

    signal: Signal
    entering: Signal
    shortcut: "Spiking | None"


class Spiking(StoresConstants):
    """A linear map, then neurons. Subclasses define the weight and the map.

    With a ``bias`` ``[out]`` each neuron or channel also gets the same current at every step: ``I[t] = W·x[t] + b``. It does
    not go through a synapse. With a ``norm`` the current is normalised (:class:`~tsslbp.layers.BatchNorm`).

    With ``standardise`` a layer uses standardised weights and learns their size as ``gain`` ``[out]``:

        effective = gain·size·(weight - mean)/std     mean and std over all weights of a neuron, or of a channel

    Like batch normalisation, this keeps the neurons of a deep network in the range where they spike. But it depends on the
    weights alone, so a trained network needs only the effective weight (:meth:`fold`). ``size`` is the std that weights are
    drawn with. The gain starts at 1, so that an optimiser's steps are small beside it.

    Source: S. Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, arXiv 1903.10520.

    With :meth:`quantise` the effective weight has few bits, and a layer also learns ``limit`` ``[out]``, the largest magnitude
    of each neuron's or channel's weights (:mod:`tsslbp.layers.quantisation`).

    Args:
        neuron: constants of the neurons. Tensors hold one number for the layer, ``[]``, or one for each neuron or channel,
            ``[out]``. They become attributes of the layer (``layer.tau_m``): a ``Parameter`` is learned and kept in range, and
            any other tensor becomes a buffer.
        rule: how the gradient crosses them, as in :func:`tsslbp.lif`.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    gain: nn.Parameter | None
    limit: nn.Parameter | None
    norm: BatchNorm | None
    backend: Backend = "auto"
    """As in :func:`tsslbp.lif`; set it on a layer to compare."""
    by_changes: bool = True
    """Whether the map may be computed from what changes (``tsslbp.layers.sparse``); set it on a layer to compare."""
    multiplied: float = 1.0
    """Share of the last signal's numbers that were multiplied, from 0 to 1."""
    own_weights: tuple[str, ...] = ("weight",)
    """Names of the weights that :meth:`fold` replaces."""

    @property
    def state_rows(self) -> int:
        """Rows of the state between parts of a sequence, ``[rows, B, ...]``."""
        return 2

    def __init__(self, neuron: LIF, rule: str | Rule | None) -> None:
        super().__init__()
        self.register_parameter("gain", None)
        self.bias = self.norm = self.limit = None
        self.bits = "float"
        self._told: set[str] = set()
        self.neuron = neuron
        self.rule = rule

    @property
    def neuron(self) -> LIF:
        """Constants of the neurons. Tensors broadcast over one step of the current."""
        if not self._named:
            return self._numbers
        axes = self.weight.dim() - 2
        tensors = {name: in_range(name, getattr(self, name), self, self._told) for name in self._named}
        shaped = {name: value.view(-1, *[1] * axes) if value.dim() else value for name, value in tensors.items()}
        return self._numbers.having(ByConstant(**shaped))

    @neuron.setter
    def neuron(self, neuron: LIF) -> None:
        if not isinstance(neuron, LIF):
            raise UserError(f"{type(self).__name__}: neuron is {neuron!r}; it must be tsslbp.neuron.LIF(tau_m, tau_s)")
        tensors = _tensors_of(neuron)
        for name, value in tensors.items():
            if value.requires_grad and not isinstance(value, nn.Parameter):
                raise UserError(f"{type(self).__name__}: {name} requires a gradient; make it a torch.nn.Parameter")
        if getattr(self, "weight", None) is not None:
            self._check_constants(neuron)
        for name in getattr(self, "_named", ()):
            delattr(self, name)
        for name, value in tensors.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)
        self._named = tuple(tensors)
        placeholders: dict[str, Any] = dict.fromkeys(tensors, 1.0)
        self._numbers = replace(neuron, **placeholders)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*CONSTANTS, "reset") and name not in getattr(self, "_named", ()) and not hasattr(type(self), name):
            raise UserError(f"{name} is a constant of the layer's neuron; set layer.neuron = LIF(tau_m, tau_s, threshold)")
        if name == "bits" and name in vars(self):
            raise UserError("set the bits of a layer by layer.quantise(bits), which fits its weights to them")
        super().__setattr__(name, value)

    def _check_constants(self, neuron: LIF) -> None:
        """Raises UserError unless each constant is one for the layer or one for each neuron or channel."""
        for name, value in _tensors_of(neuron).items():
            if (shape := list(value.shape)) not in ([], [len(self.weight)]):
                fit = f"[], one for all, or [{len(self.weight)}], one for each neuron or channel"
                raise UserError(f"{type(self).__name__}: {name} has shape {shape}; it must be {fit}")

    @property
    def rule(self) -> Rule:
        """How the gradient crosses the neurons; a name or None may be set too, as in :func:`tsslbp.lif`."""
        return self._rule

    @rule.setter
    def rule(self, rule: str | Rule | None) -> None:
        self._rule = rules.get(rule)

    @abstractmethod
    def map(self, x: Tensor) -> Tensor:
        """The linear map of ``[N, ...]`` post-synaptic currents to input currents, without bias."""

    def current(self, signal: Signal | Joined, inside: Tensor | None = None) -> Signal:
        """The neurons' input current ``[T, B, ...]``; a :class:`Constant` if the signal is one and only the map is applied.

        ``inside`` is for normalisation, see :class:`~tsslbp.layers.BatchNorm`.

        Raises UserError for types that cannot be multiplied.
        """
        if isinstance(signal, Joined):
            return _sum(self.current(signal.signal, inside), signal, inside)
        current = self._mapped(signal)
        if self.norm is not None:
            return self.norm(expanded(current), inside)
        if self.bias is None:
            return current
        current = expanded(current)
        return current + self.bias.to(current.dtype).view(-1, *[1] * (current.dim() - 3))

    def _mapped(self, signal: Signal) -> Signal:
        """The linear map of a signal: by its changes where that pays, else dense."""
        if torch.compiler.is_compiling():
            return linear_map(self._checked_map, signal)
        self.multiplied, map_ = 1.0, self._looked_at()
        if map_ is None or isinstance(signal, Constant):
            return linear_map(self._checked_map, signal)
        check_signal(signal)
        if not (found := changes(signal, self.weight, map_, self._numbers.tau_s)):
            return linear_map(self._checked_map, signal)
        self.multiplied = len(found[0]) / signal.numel()
        return mapped(signal, self.effective_weight(), map_, self._numbers.tau_s, found)

    def _looked_at(self) -> SparseMap | None:
        """The map, if it may go by changes; a class of one's own may map otherwise."""
        return self.sparse_map() if self.by_changes and "tau_s" not in self._named and is_known(self) else None

    @property
    def takes_full(self) -> bool:
        """Whether the map may go by changes where others are bfloat16, and wants its signal in full precision for that."""
        map_ = self._looked_at() if self.weight.device.type == "cpu" else None
        return map_ is not None and most(map_, len(self.weight), bf16=True) > 0

    def sparse_map(self) -> SparseMap | None:
        """The map for :func:`tsslbp.layers.sparse.mapped`; None if that cannot compute it."""
        return None

    def _checked_map(self, x: Tensor) -> Tensor:
        fits = x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        if not fits and not torch.is_autocast_enabled(x.device.type):
            raise UserError(
                f"{type(self).__name__} has {self.weight.dtype} weights and a {x.dtype} signal; both must be float32 or both "
                "float64, as net.float() and x.float() make them; for bfloat16 maps use torch.autocast"
            )
        return self.map(x)

    def _beside_the_weight(self, bias: bool, normalise: bool, standardise: bool, size: float) -> None:
        """Make bias, normalisation and gain. Raises UserError for options without effect and constants that do not fit."""
        given_tensors: dict[str, Any] = {name: getattr(self, name) for name in self._named}
        self._check_constants(replace(self._numbers, **given_tensors))
        check_truths(bias=bias, normalise=normalise, standardise=standardise)
        if normalise and (given := [name for name, on in (("bias", bias), ("standardise", standardise)) if on]):
            raise UserError(f"{type(self).__name__}: {given[0]} has no effect with normalise, which sets mean and size itself")
        if bias:
            self.bias = nn.Parameter(self.weight.new_zeros(len(self.weight)))
        if normalise:
            self.norm = BatchNorm(len(self.weight), self.neuron.threshold)
        if standardise:
            self.standardise(size)

    def standardise(self, size: float) -> None:
        """Begin to standardise the weight, drawn with std ``size``. Raises UserError if a neuron has a single weight."""
        if self.weight[0].numel() < 2:
            raise UserError(f"{type(self).__name__}: standardise needs two weights or more for each neuron; this layer has one")
        self.size, self.gain = size, nn.Parameter(self.weight.new_ones(len(self.weight)))

    def quantise(self, bits: str | int) -> None:
        """Give the weight few bits from now on, fitted to its present values, or no longer (``"float"``).

        Raises UserError for bits other than :data:`tsslbp.layers.quantisation.Bits`.
        """
        quantisation.check(bits := str(bits))
        vars(self)["bits"] = bits
        limit = None if bits == "float" else quantisation.fitted_limit(self._to_quantise().detach(), bits)
        if limit is None or self.limit is None or limit.shape != self.limit.shape:
            self.limit = None if limit is None else nn.Parameter(limit, self.weight.requires_grad)
        else:
            self.limit.requires_grad_(self.weight.requires_grad).detach().copy_(limit)  # an optimiser may have it

    def _to_quantise(self) -> Tensor:
        """The weights that share a limit, ``[out, ...]``."""
        return self._full_weight()

    def effective_weight(self) -> Tensor:
        """The weight that the map multiplies with, standardised and rounded if set so; same shape and layout."""
        return self._quantised(self._full_weight())

    def _quantised(self, weight: Tensor) -> Tensor:
        return weight if self.limit is None else quantisation.quantised(weight, self.limit, self.bits)

    def _full_weight(self) -> Tensor:
        """The weight before rounding, standardised if set so."""
        if self.gain is None:
            return self.weight
        weight = self.weight.movedim(1, -1)  # as in the memory of a convolution
        # one group for each neuron does mean, size and gain in one pass
        grouped = F.group_norm(weight.flatten(1)[None], len(weight), self.size * self.gain, eps=1e-10)
        return grouped.view_as(weight).movedim(-1, 1)

    def folds(self) -> bool:
        """Whether :meth:`fold` changes anything. Raises UserError if it cannot."""
        if self.gain is None and self.norm is None and self.limit is None:
            return False
        if not {*self.own_weights} <= self._parameters.keys():
            raise UserError(
                f"{type(self).__name__}: a weight that is computed from other tensors cannot be folded; make it plain by "
                "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
            )
        if self.norm is not None:
            self.norm.affine()  # refuses what is no affine map
        return True

    def _replace(self, name: str, value: Tensor) -> None:
        """Put a new parameter in a weight's place, which may be another layer's too."""
        weight = getattr(self, name)
        setattr(self, name, nn.Parameter(torch.empty_like(weight).copy_(value), weight.requires_grad))

    @torch.no_grad()
    def fold(self) -> None:
        """Replace a standardised weight by the effective one, and fold normalisation (running statistics) into weight and bias.

        A weight of few bits becomes its rounded value. It keeps its bits, and its limit is scaled with it.

        Raises UserError for weights computed from others, as by a parametrization or pruning, and for altered normalisation.
        """
        if not self.folds():
            return
        weight, self.gain = self.effective_weight(), None
        if self.norm is not None:
            factor, bias = self.norm.affine()
            weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
            if self.limit is not None:
                self.limit.mul_(factor.abs())
            del self.norm  # else the name would stay that of a module
            self.norm, self.bias = None, nn.Parameter(bias, self.weight.requires_grad)
        self._replace("weight", weight)

    def forward(
        self,
        signal: Signal | Joined,
        pool: Pool | None = None,
        bf16: bool = False,
        inside: Tensor | None = None,
        handed: Handed | None = None,
        alone: bool = False,
    ) -> Signal:
        """``pool`` and ``bf16``: see :func:`tsslbp.functional.neurons`; ``inside``: see :meth:`current`; ``handed``: state of
        a part of a sequence; ``alone``: without neurons, as a shortcut."""
        current = self.current(signal, inside)
        if alone:
            return current
        if inside is not None and self.rule.depends_on_padding:  # without input, none crosses its threshold
            check_mask("inside", inside, current := expanded(current))
            current = current.masked_fill(~inside.view(*inside.shape, *[1] * (current.dim() - 2)), 0)
        if handed is None:
            return self.crossed(current, None, pool, bf16)[0]
        if (state := handed.before) is None:
            state = rest(current, self.state_rows)
        else:
            step = current.value if isinstance(current, Constant) else current[0]
            check_state(self, state, (self.state_rows, *step.shape), computed_in(step.dtype))
        psc, handed.after = self.crossed(current, state, pool, bf16)
        return psc

    def crossed(self, current: Signal, state: Tensor | None, pool: Pool | None, bf16: bool) -> tuple[Tensor, Tensor | None]:
        """What the neurons make of their input current, and with a state the state after it."""
        return neurons(current, self.neuron, self.rule, self.backend, pool, bf16, state)

    def part(
        self, signal: Signal | Joined, state: Tensor | None, pool: Pool | None = None, bf16: bool = False
    ) -> tuple[Tensor, Tensor]:
        """A part of a sequence: as :meth:`forward`, from a state (None is rest) to a state; see :func:`tsslbp.lif_part`.

        Raises:
            UserError: a state that does not fit; a second part of a layer that is normalised and in training mode, as that
                takes the whole sequence; a class with its own ``forward`` that takes no ``handed``.
        """
        refuse_part(self, state)
        return handed_on(self, state, signal, pool, bf16)

    def _constants(self) -> dict[str, Any]:
        told = {name: x for name, x in vars(self.neuron).items() if isinstance(x, (int, float))} | {"bits": self.bits}
        return told if self.gain is None else told | {SIZE: self.size}

    def _extras(self) -> str:
        """What :meth:`extra_repr` says of bias, normalisation and constants that are tensors."""
        said = (", bias" if self.bias is not None else "") + (", normalised" if self.norm is not None else "")
        for name in self._named:
            value = getattr(self, name)
            each = "" if not value.dim() else " of each channel" if self.weight.dim() > 2 else " of each neuron"
            said += f", {name}{each}{' learned' if isinstance(value, nn.Parameter) else ''}"
        return said + (f", bits={self.bits}" if self.bits != "float" else "")


def in_bf16(layers: Iterable[tuple[str, nn.Module]], signal: Signal) -> set[str]:
    """Names of the neurons whose currents are bfloat16 now that a network's signal goes through its layers: where maps are
    bfloat16, all but the output's and those that the next layer with neurons, or max pooling, takes in full."""
    x = signal.value if isinstance(signal, Constant) else signal
    if x.dtype == torch.float64 or not machine.autocasts_to_bfloat16(x.device.type):  # autocast leaves float64 alone
        return set()
    taking: Iterator[tuple[str, Any]] = ((name, layer) for name, layer in layers if hasattr(type(layer), "takes_full"))
    return {name for (name, before), (_, after) in pairwise(taking) if isinstance(before, Spiking) and not after.takes_full}


def _tensors_of(neuron: LIF) -> dict[ConstantName, Tensor]:
    """Those of a neuron's constants that are tensors, by name."""
    return {name: value for name in CONSTANTS if isinstance(value := getattr(neuron, name), Tensor)}


def _sum(current: Signal, joined: Joined, inside: Tensor | None) -> Tensor:
    """The current of a layer plus what comes through the shortcut. Raises UserError for shapes that do not fit."""
    beside, shortcut = joined.entering, joined.shortcut
    if shortcut is not None:
        beside = called_alone(shortcut, beside, inside)
    whole, more = expanded(current), expanded(beside)
    if whole.shape != more.shape:
        made = "what enters it is" if joined.shortcut is None else "its shortcut makes"
        raise UserError(
            f"the layers of a residual block make {list(whole.shape[2:])} per sample, {made} {list(more.shape[2:])}; "
            "give it a shortcut that makes the same, such as a 1×1 convolution of the same stride"
        )
    return whole + more.to(whole.dtype)


def draw(weight: Tensor, fill: Callable[[Tensor], Tensor]) -> None:
    """Draw initial weights in place; on the meta device nothing, as PyTorch would only import its whole compiler."""
    if not weight.is_meta:
        fill(weight)
