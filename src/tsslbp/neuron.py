"""The neuron: leaky integrate and fire with hard reset, followed by a first-order synapse.

    u[t] = (1 - 1/τm) · u[t-1] · (1 - s[t-1]) + I[t]     membrane potential       (1)
    s[t] = 1 if u[t] > θ else 0                          spike, strictly above    (2)
    a[t] = (1 - 1/τs) · a[t-1] + s[t]/τs                 post-synaptic current    (3)

Backwards in time, an error e = ∂L/∂a first goes through the synapse, under every rule:

    E[t] = e[t]/τs + (1 - 1/τs) · E[t+1]                 error carried back through the synapse   (4)

The constants are numbers, or tensors with one value for all neurons or one for each, which can be learned. Each acts like a
current or through the synapse alone, so its gradient follows from a rule's δ = ∂L/∂I (docs/learnable-constants.md; equations
(5) to (12) are in ``rules/tssl.py``):

    ∂L/∂τm = (1/τm²)·Σ_t δ[t]·u[t-1]·(1 - s[t-1])        a longer memory is more current                   (13)
    ∂L/∂τs = (1/τs)·Σ_t E[t]·(a[t-1] - s[t])             the synapse is linear: the derivative of (3)      (14)
    ∂L/∂θ  = -Σ_t η[t]                                   with η the share of δ through the spike at t      (15)

A NaN membrane potential stays NaN, and the post-synaptic current is NaN from that step on. Time is the first axis of every
tensor, and one step is the unit of time. Layers pass the post-synaptic current ``a`` to each other, never the spikes ``s``.
A *rule* defines how a gradient crosses equation (2) (``rules/base.py``).

Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.utils._device import DeviceContext

from tsslbp.utils.errors import UserError, as_plain, check_number, check_tensor, check_truths

Value = float | Any
"""A constant: a number or a tensor. ``Any`` lets type checkers use numbers as numbers."""
ConstantName = Literal["tau_m", "tau_s", "threshold"]
"""Constants that may be tensors, and that may be learned."""
CONSTANTS: tuple[ConstantName, ...] = get_args(ConstantName)
LEAST: dict[ConstantName, float] = {"tau_m": 1.0, "tau_s": 1.0, "threshold": 0.01}
"""Lower bounds of learned constants. A threshold must stay above 0."""


class ByConstant(NamedTuple):
    """A tensor for each constant, or None."""

    tau_m: Tensor | None = None
    tau_s: Tensor | None = None
    threshold: Tensor | None = None


@dataclass(frozen=True)
class LIF:
    """Constants of the neuron and its synapse.

    The first three are numbers, or floating-point tensors that broadcast over one step of the current: ``[]`` for all neurons,
    ``[N]`` for each neuron of ``[T, B, N]``, ``[C, 1, 1]`` for each channel of ``[T, B, C, H, W]``. Tensors that require a
    gradient get one, equations (13) to (15).

    Args:
        tau_m: membrane time constant in steps, at least 1. ``math.inf`` never leaks, 1 has no memory.
        tau_s: synaptic time constant in steps, at least 1. 1 makes the post-synaptic current the spike train itself.
        threshold: firing threshold θ, positive.
        reset: a spike sets the membrane potential to 0. If False, equation (1) has no factor (1 - s[t-1]), and the neuron fires
            at every step above the threshold. This is a control for studies; only the reference computes it.

    Raises:
        UserError: a constant outside its range, or one that is neither a number nor such a tensor.
    """

    tau_m: Value
    tau_s: Value
    threshold: Value = 1.0
    reset: bool = True

    def __post_init__(self) -> None:
        for name in CONSTANTS:
            for value in ends(name, getattr(self, name)):
                if name != "threshold" and not value >= 1:
                    raise UserError(f"{name} is {value}; a time constant is in steps and at least 1")
                if name == "tau_s" and math.isinf(value):
                    raise UserError("tau_s is infinite; such a synapse would pass no current")
                if name == "threshold" and not 0 < value < math.inf:
                    raise UserError(f"threshold is {value}; it must be positive and finite")
            if not isinstance(getattr(self, name), Tensor):
                object.__setattr__(self, name, as_plain(getattr(self, name)))
        check_truths(reset=self.reset)

    @property
    def membrane_decay(self) -> Value:
        """1 - 1/τm, the share of the membrane potential kept from one step to the next (``beta`` elsewhere)."""
        return _decay(self.tau_m)

    @property
    def synapse_decay(self) -> Value:
        """1 - 1/τs, the share of the post-synaptic current kept from one step to the next."""
        return _decay(self.tau_s)

    @property
    def tensors(self) -> ByConstant:
        """The constants that are tensors; None for numbers."""
        return ByConstant(  # written out for speed: every layer asks in every step
            self.tau_m if isinstance(self.tau_m, Tensor) else None,
            self.tau_s if isinstance(self.tau_s, Tensor) else None,
            self.threshold if isinstance(self.threshold, Tensor) else None,
        )

    @property
    def varies(self) -> bool:
        """Whether any constant is a tensor."""
        return isinstance(self.tau_m, Tensor) or isinstance(self.tau_s, Tensor) or isinstance(self.threshold, Tensor)

    def having(self, tensors: ByConstant) -> Self:
        """A copy with the given tensors in place of its constants; their range is not checked."""
        made = object.__new__(type(self))
        given = {name: value for name, value in tensors._asdict().items() if value is not None}
        made.__dict__.update({**self.__dict__, **given})
        return made


def ends(name: str, value: object) -> tuple[float, ...]:
    """A number, or a tensor's minimum and maximum (empty if its values cannot be read). Raises UserError for anything else."""
    if not isinstance(value, Tensor):
        check_number(name, value, "a plain number or a tensor")
        return (value,)  # type: ignore[return-value]
    if not value.is_floating_point():
        raise UserError(f"{name} is a tensor of {value.dtype}; it must be floating point")
    if value.is_meta or not value.numel() or torch.compiler.is_compiling():
        return ()
    low, high = value.detach().aminmax()
    try:
        return float(low), float(high)
    except RuntimeError:  # under vmap over this constant, whose values cannot be read
        return ()


def _decay(tau: Value) -> Value:
    """1 - 1/τ; a tensor's is rounded once, like a number's, so that equal constants make equal spikes."""
    return (1 - 1 / tau.double()).to(tau.dtype) if isinstance(tau, Tensor) else 1 - 1 / tau


def membrane_potential(current: Tensor, neuron: LIF, before: Tensor | float = 0.0) -> Tensor:
    """Membrane potential before the reset, equations (1) and (2): ``[T, ...] -> [T, ...]``.

    ``before`` is the membrane potential of the step before the first, ``[...]``; without it the neuron starts at rest.
    """
    steps, decay = [], neuron.membrane_decay
    for current_t in current:
        u = current_t + decay * before * (before <= neuron.threshold if neuron.reset else 1)
        steps.append(u)
        before = u
    return torch.stack(steps)


def spikes(membrane: Tensor, neuron: LIF) -> Tensor:
    """Spike train of a membrane potential, equation (2): ``[T, ...] -> [T, ...]`` of 0 and 1, 0 where it is NaN."""
    return (membrane > neuron.threshold).to(membrane.dtype)


def passed(membrane: Tensor, neuron: LIF) -> Tensor:
    """The reset factor ``1 - s``, or 1 without a reset: ``[T, ...] -> [T, ...]``."""
    return 1 - spikes(membrane, neuron) if neuron.reset else torch.ones_like(membrane)


def kept(membrane: Tensor, neuron: LIF) -> Tensor:
    """Membrane potential after the reset, ``u·(1 - s)``: ``[...] -> [...]``."""
    return membrane * passed(membrane, neuron) if neuron.reset else membrane


def delayed(x: Tensor, before: Tensor | None = None) -> Tensor:
    """``x[t-1]``, ``[T, ...] -> [T, ...]``. ``before`` is the first step, ``[...]``; 0 if left out."""
    return torch.cat([(torch.zeros_like(x[0]) if before is None else before)[None], x[:-1]])


def advanced(x: Tensor, after: Tensor | None = None) -> Tensor:
    """``x[t+1]``, ``[T, ...] -> [T, ...]``. ``after`` is the last step, ``[...]``; 0 if left out."""
    return torch.cat([x[1:], (torch.zeros_like(x[0]) if after is None else after)[None]])


def rise(membrane: Tensor, neuron: LIF, before: Tensor | None = None) -> Tensor:
    """Rise of the membrane potential in a step, ``Δu[t] = u[t] - u[t-1]·(1 - s[t-1])``: ``[T, ...] -> [T, ...]``.

    ``before`` is the membrane potential of the step before the first, ``[...]``, 0 if left out.
    """
    return membrane - kept(delayed(membrane, before), neuron)


def postsynaptic_current(membrane: Tensor, neuron: LIF, before: Tensor | None = None) -> Tensor:
    """Post-synaptic current of a membrane potential, equations (2) and (3): ``[T, ...] -> [T, ...]``.

    The current is NaN from the first NaN of the membrane potential on. ``before``: see :func:`synapse`.
    """
    train = torch.where(membrane.isnan(), membrane, spikes(membrane, neuron))
    return synapse(train, neuron.tau_s, before)


def synapse(train: Tensor, tau_s: float | Tensor, before: Tensor | None = None) -> Tensor:
    """Post-synaptic current of a spike train (or of any current), equation (3): ``[T, ...] -> [T, ...]``.

    The impulse response is ``ε[k] = (1/τs)(1 - 1/τs)^k``, which sums to 1. ``before`` is the current of the step before the
    first, ``[...]``, 0 if left out. Whole numbers become floating point. Differentiable, also by ``tau_s`` if that is a tensor.
    Types of 16 bits, in which a current would stop short of its end, are computed in float32.

    Raises UserError for other than tensors of one step or more, for τs below 1, and for another ``before`` than a step's.
    """
    _check("train", train, tau_s, before)
    if train.is_floating_point() and train.dtype.itemsize < torch.float32.itemsize:
        return synapse(train.float(), tau_s, before).to(train.dtype)
    if not isinstance(tau_s, Tensor) and tau_s == 1:
        return train if train.is_floating_point() else train.to(torch.get_default_dtype())
    if not isinstance(tau_s, Tensor) and not _differentiated(train, before):
        return _synapse_in_place(train, tau_s, before)
    steps, decay = [], _decay(tau_s)
    for train_t in train:
        current = train_t / tau_s
        before = current if before is None else plus(current, before, decay)
        steps.append(before)
    return torch.stack(steps)


def _check(name: str, x: Tensor, tau_s: float | Tensor, before: Tensor | None) -> None:
    """The arguments of :func:`synapse` and of its inverse."""
    check_tensor(name, x)
    if not x.dim() or not len(x):
        raise UserError(f"{name} has shape {list(x.shape)}; it must be [T, ...] with T at least 1, time first")
    check_tau_s(tau_s)
    if before is not None:
        check_tensor("before", before)
        if before.shape != x.shape[1:] or not before.is_floating_point():
            given = f"{before.dtype} of shape {list(before.shape)}"
            raise UserError(f"before is {given}; it must be floating point of the shape of a step, {list(x.shape[1:])}")


def check_tau_s(tau_s: float | Tensor) -> None:
    """Raises UserError for a number below 1, also in a tensor."""
    for value in ends("tau_s", tau_s):
        if not value >= 1:
            raise UserError(f"tau_s is {value}; a time constant is in steps and at least 1, and the decay is 1 - 1/tau_s")


def _synapse_in_place(train: Tensor, tau_s: float, before: Tensor | None) -> Tensor:
    """:func:`synapse` in less than half the time: each step stays in the cache and is not copied."""
    step = torch.empty_like(train[0], dtype=torch.result_type(train[0], float(tau_s) if before is None else before))
    made = step.new_empty_strided(train.shape, (step.numel(), *step.stride()))
    for train_t, current in zip(train, made, strict=True):
        torch.div(train_t, tau_s, out=current)
        if before is not None:
            current.add_(before, alpha=_decay(tau_s))
        before = current
    return made


def _differentiated(*tensors: Tensor | None) -> bool:
    """Whether a derivative by any of these may be wanted, or the operations are being traced."""
    if torch.compiler.is_compiling() or transformed():
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode AD may see every operation."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def has_modes() -> bool:
    """Whether a trace or a mode sees or changes every operation, such as an operation counter or fake tensors.

    One that makes new tensors on the CPU (``torch.set_default_device("cpu")``) changes none of ours.
    """
    modes = (torch._C._get_function_stack_at(n) for n in range(torch._C._len_torch_function_stack()))
    ours = (isinstance(mode, DeviceContext) and mode.device.type == "cpu" for mode in modes)
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._is_tracing()) or not all(ours)


def synapse_adjoint(error: Tensor, neuron: LIF, after: Tensor | float = 0.0) -> Tensor:
    """Error carried back through the synapse, equation (4): ``∂L/∂a -> E``, ``[T, ...] -> [T, ...]``.

    ``after`` is E of the step after the last, ``[...]``. This is the adjoint of :func:`synapse`.
    """
    steps, decay = [], neuron.synapse_decay
    for error_t in reversed(error.unbind()):
        after = error_t / neuron.tau_s + decay * after
        steps.append(after)
    return torch.stack(steps[::-1])


def plus(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """``x + factor·y``, in one pass over memory where the factor is a number."""
    return x + factor * y if isinstance(factor, Tensor) else torch.add(x, y, alpha=factor)


def constants_gradient(
    delta: Tensor, by_spike: Tensor, error: Tensor, membrane: Tensor, neuron: LIF, state: Tensor | None
) -> ByConstant:
    """Gradients of every neuron's constants, equations (13) to (15): ``[T, ...] -> [...]``.

    Args:
        delta: ∂L/∂I by a rule.
        by_spike: η, the share of ``delta`` that comes through the spike of the same step.
        error: E, the error carried back through the synapse.
        membrane: membrane potential.
        neuron: the constants.
        state: membrane potential and post-synaptic current of the step before the first, ``[2, ...]``; None is rest.
    """
    u_before, a_before = (None, None) if state is None else state
    train = spikes(membrane, neuron)
    psc = synapse(train, neuron.tau_s, a_before)
    tau_m = (delta * kept(delayed(membrane, u_before), neuron)).sum(0) / neuron.tau_m**2  # (13)
    tau_s = (error * (delayed(psc, a_before) - train)).sum(0) / neuron.tau_s  # (14)
    return ByConstant(tau_m, tau_s, -by_spike.sum(0))  # (15)


def spikes_from_psc(psc: Tensor, tau_s: float | Tensor, before: Tensor | None = None) -> Tensor:
    """The spike train that made a post-synaptic current: ``s[t] = τs·a[t] - (τs - 1)·a[t-1]``, ``[T, ...] -> [T, ...]``.

    The inverse of :func:`synapse`, up to rounding, with the same ``before``: compare its spikes with 0.5, not with 0.
    Differentiable. Raises UserError as :func:`synapse`.
    """
    _check("psc", psc, tau_s, before)
    return tau_s * psc - (tau_s - 1) * delayed(psc, before)
