"""The neuron: leaky integrate and fire with hard reset, followed by a first-order synapse.

    u[t] = (1 - 1/τm) · u[t-1] · (1 - s[t-1]) + I[t]     membrane potential       (1)
    s[t] = 1 if u[t] > θ else 0                          spike, strictly above    (2)
    a[t] = (1 - 1/τs) · a[t-1] + s[t]/τs                 post-synaptic current    (3)

Backwards in time, an error e = ∂L/∂a meets the synapse first, whatever the rule:

    E[t] = e[t]/τs + (1 - 1/τs) · E[t+1]                 error carried back through the synapse   (4)

A membrane potential that is NaN stays NaN, and so does the post-synaptic current from that step on: a fault shows.
Time is the first axis of every tensor and one step is the unit of time. What layers hand to each other is the
post-synaptic current ``a``, never the spikes ``s``. How a gradient crosses equation (2) is the business of a *rule*:
see ``rules/base.py`` for what a rule is and ``rules/tssl.py`` for TSSL-BP.

Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, section 2.1.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tsslbp.errors import UserError, check_number


@dataclass(frozen=True)
class LIF:
    """Constants of the neuron and its synapse: plain numbers, which are not learned.

    Args:
        tau_m: membrane time constant in steps, at least 1. ``math.inf`` never leaks, 1 has no memory.
        tau_s: synaptic time constant in steps, at least 1. 1 makes the post-synaptic current the spike train itself.
        threshold: firing threshold θ, positive.
        reset: a spike sets the membrane potential to 0. Without, the factor (1 - s[t-1]) of equation (1) is left out, and the
            neuron fires at every step above the threshold: a control for studies, which only the reference computes.

    Raises:
        UserError: a constant outside its range, or one that is no plain number, such as a tensor.
    """

    tau_m: float
    tau_s: float
    threshold: float = 1.0
    reset: bool = True

    def __post_init__(self) -> None:
        check_number("tau_m", self.tau_m)
        check_number("tau_s", self.tau_s)
        check_number("threshold", self.threshold)
        for name in ("tau_m", "tau_s"):
            if not getattr(self, name) >= 1:
                raise UserError(f"{name} is {getattr(self, name)}; a time constant is in steps and at least 1")
        if math.isinf(self.tau_s):
            raise UserError("tau_s is infinite; such a synapse would pass no current")
        if not 0 < self.threshold < math.inf:
            raise UserError(f"threshold is {self.threshold}; it must be positive and finite")
        if not isinstance(self.reset, bool):
            raise UserError(f"reset is {self.reset!r}; it must be True or False")

    @property
    def membrane_decay(self) -> float:
        """1 - 1/τm, the share of the membrane potential kept from one step to the next (``beta`` elsewhere)."""
        return 1 - 1 / self.tau_m

    @property
    def synapse_decay(self) -> float:
        """1 - 1/τs, the share of the post-synaptic current kept from one step to the next."""
        return 1 - 1 / self.tau_s


def membrane_potential(current: Tensor, neuron: LIF, before: Tensor | float = 0.0) -> Tensor:
    """Membrane potential before the reset, equations (1) and (2): ``[T, ...] -> [T, ...]``.

    ``before`` is the membrane potential of the step before the first, ``[...]``; without it the neuron comes from rest.
    """
    u = torch.empty_like(current)
    for t, current_t in enumerate(current):
        u[t] = current_t + neuron.membrane_decay * before * (before <= neuron.threshold if neuron.reset else 1)
        before = u[t]
    return u


def spikes(membrane: Tensor, neuron: LIF) -> Tensor:
    """Spike train of a membrane potential, equation (2): ``[T, ...] -> [T, ...]`` of 0 and 1, 0 where it is NaN."""
    return (membrane > neuron.threshold).to(membrane.dtype)


def passed(membrane: Tensor, neuron: LIF) -> Tensor:
    """Whether the reset leaves a membrane potential, ``1 - s``; without a reset 1: ``[T, ...] -> [T, ...]``."""
    return 1 - spikes(membrane, neuron) if neuron.reset else torch.ones_like(membrane)


def kept(membrane: Tensor, neuron: LIF) -> Tensor:
    """What the reset leaves of a membrane potential, in equation (1) the part before the leak: ``[...] -> [...]``."""
    return membrane * passed(membrane, neuron) if neuron.reset else membrane


def delayed(x: Tensor, before: Tensor | None = None) -> Tensor:
    """``x[t-1]``, ``[T, ...] -> [T, ...]``. ``before`` is what comes first, ``[...]``; 0 if left out."""
    return torch.cat([(torch.zeros_like(x[0]) if before is None else before)[None], x[:-1]])


def advanced(x: Tensor, after: Tensor | None = None) -> Tensor:
    """``x[t+1]``, ``[T, ...] -> [T, ...]``. ``after`` is what comes last, ``[...]``; 0 if left out."""
    return torch.cat([x[1:], (torch.zeros_like(x[0]) if after is None else after)[None]])


def rise(membrane: Tensor, neuron: LIF, before: Tensor | None = None) -> Tensor:
    """What a step adds, ``Δu[t] = u[t] - u[t-1]·(1 - s[t-1])``: the rise over what the reset left, ``[T, ...] -> [T, ...]``.

    ``before`` is the membrane potential of the step before the first, ``[...]``, 0 if left out.
    """
    return membrane - kept(delayed(membrane, before), neuron)


def postsynaptic_current(membrane: Tensor, neuron: LIF, before: Tensor | None = None) -> Tensor:
    """Post-synaptic current of a membrane potential, equations (2) and (3): ``[T, ...] -> [T, ...]``.

    Where the membrane potential is NaN the current becomes NaN too, and stays so. ``before`` is as of :func:`synapse`.
    """
    train = torch.where(membrane.isnan(), membrane, spikes(membrane, neuron))
    return synapse(train, neuron.tau_s, before)


def synapse(train: Tensor, tau_s: float, before: Tensor | None = None) -> Tensor:
    """Post-synaptic current of a spike train (or of any current), equation (3): ``[T, ...] -> [T, ...]``.

    The impulse response is ``ε[k] = (1/τs)(1 - 1/τs)^k``, which sums to 1. ``before`` is the current of the step before the
    first, ``[...]``, 0 if left out. Differentiable.
    """
    if tau_s == 1:
        return train
    steps, decay = [], 1 - 1 / tau_s
    for train_t in train:
        current = train_t / tau_s
        before = current if before is None else torch.add(current, before, alpha=decay)
        steps.append(before)
    return torch.stack(steps)


def synapse_adjoint(error: Tensor, neuron: LIF, after: Tensor | float = 0.0) -> Tensor:
    """Error carried back through the synapse, equation (4): ``∂L/∂a -> E``, ``[T, ...] -> [T, ...]``.

    ``after`` is E of the step after the last, ``[...]``. This is the adjoint of :func:`synapse`.
    """
    steps = []
    for error_t in reversed(error.unbind()):
        after = error_t / neuron.tau_s + neuron.synapse_decay * after
        steps.append(after)
    return torch.stack(steps[::-1])


def spikes_from_psc(psc: Tensor, tau_s: float) -> Tensor:
    """The spike train that made a post-synaptic current: ``s[t] = τs·a[t] - (τs - 1)·a[t-1]``, ``[T, ...] -> [T, ...]``.

    The inverse of :func:`synapse`, up to rounding. Differentiable.
    """
    before = torch.cat([torch.zeros_like(psc[:1]), psc[:-1]])
    return tau_s * psc - (tau_s - 1) * before
