"""TSSL-BP and its family: the rules of the last published code, of the paper's table, and of the first submission.

A spike happens when the membrane potential crosses the threshold, ``u(t_spike) = θ``. Along that crossing the implicit
function theorem gives ``∂t_spike/∂u = -1/u̇``: the faster the crossing, the less a push on ``u`` moves the spike. The rest is
bookkeeping of which later quantities a moved spike changes, from the last step to the first:

    E[t] = e[t]/τs + (1 - 1/τs)·E[t+1]                          error carried back through the synapse          (4)
    p[t] = s[t]·clip(1/Δu[t], 0, clip)                          -∂t_spike/∂u, with Δu[t] = u[t] - u[t-1](1-s[t-1])  (5)
    g[t] = p[t]·E[t]                                            inter-neuron: the spike's own current            (6)
         + R·u[t]·(1/τm)·p[t]                                   intra-neuron: its reset delays the next spike     (7)
         + R·(1 - 1/τm)·(1 - s[t])                              intra-neuron: charge is carried to the next spike (8)
    R    = g[t] if s[t] else R·(1 - 1/τm)                       what reaches the step before                     (9)
    δ[t] = g[t], or E[t]·σ'((u[t]-θ)/w)/w with w = 0.2 where the fallback applies                                 (10)

with ``e = ∂L/∂a`` given and ``δ = ∂L/∂I`` returned. Neurons without a reset have no term (7), and no factor (1 - s) in (5)
and (8). A neuron that never crosses has no spike time and hence no gradient. The fallback (10), the derivative of a logistic,
exists to create spikes.

This is the code of December 2020. The paper's table comes from the code of October 2020, which has no terms (7) and (8). There
the reset acts on the error before it reaches the synapse, by the error at the neuron's next spike:

    e'[t] = e[t] + s[t]·u[t]·(1/τm)·Q                           takes the place of e[t] in (4)                   (11)
    Q     = e[t] if s[t] else Q·(1 - 1/τm)                      what reaches the step before                     (12)
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tsslbp.neuron import LIF, advanced, passed, rise, spikes, synapse, synapse_adjoint
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError, check_number, check_positive, check_truths, unknown

PscDerivative = Literal["amplitude", "timing"]
Fallback = Literal["quiet", "no-spike", "rate", "never", "always"]

FALLBACK_RANGE = 8.0
"""Largest argument of the logistic in (10), as published. C++ has this constant and the next in ``csrc/numbers.h``."""
RATE_LIMIT = 0.1
"""Mean firing of a layer up to which ``"rate"`` takes the fallback, as published."""


class TSSLNumbers(NamedTuple):
    """Parameters of a :class:`TSSL`."""

    timing: bool
    inter: bool
    reset: bool
    leak: bool
    error_reset: bool
    fallback: Fallback
    clip: float
    width: float


@dataclass(frozen=True)
class TSSL(Rule):
    """Temporal spike sequence learning by backpropagation. The defaults are the rule of the code's last version.

    Args:
        psc_derivative: ``"amplitude"``, as in all versions, carries the error with the kernel ε; ``"timing"`` with the
            derivative of the current by the spike time, ``+1/τs`` at the spike and ``-ε[k]/τs`` after it. Only ``"timing"``
            tells "earlier" from "later".
        inter: the inter-neuron term (6). Without it the spike-time gradient is 0, as (7) and (8) have nothing to carry on.
        reset: the intra-neuron term through the reset (7).
        leak: the intra-neuron term through the membrane's leak (8).
        fallback: where the logistic derivative (10) replaces (or, for ``"no-spike"``, joins) the spike-time gradient:
            ``"quiet"``, as in the last version, at steps whose post-synaptic current is below 1/(4τs); ``"no-spike"`` at every
            step without a spike; ``"rate"`` everywhere in a layer while its mean firing in this batch is at most 10 %;
            ``"never"``; ``"always"``, a plain surrogate gradient through the synapse, the control.
        clip: bound on 1/Δu, positive.
        width: w of the logistic in (10), in potential, positive; 0.2 in all versions.
        error_reset: the reset's effect on the error (11), as in the code of October 2020. Together with ``reset`` or ``leak``
            it needs the whole sequence at once, since parts hand on at most two numbers per neuron.

    Raises:
        UserError: an unknown choice, ``clip`` or ``width`` not a positive number.

    Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, and the published code of December 2020, whose O(T²)
    sums equations (4) to (9) carry in O(T).
    """

    psc_derivative: PscDerivative = "amplitude"
    inter: bool = True
    reset: bool = True
    leak: bool = True
    fallback: Fallback = "quiet"
    clip: float = 8.0
    width: float = 0.2
    error_reset: bool = False

    summary: ClassVar[str] = "spike-time gradient, inter- and intra-neuron, with a surrogate where a neuron is quiet"
    paper: ClassVar[str] = "Zhang & Li, NeurIPS 2020, arXiv 2002.10085"
    cites: ClassVar[tuple[str, ...]] = ("zhang2020temporal",)

    def __post_init__(self) -> None:
        for name, choices in (("psc_derivative", get_args(PscDerivative)), ("fallback", get_args(Fallback))):
            if getattr(self, name) not in choices:
                raise unknown(name, str(getattr(self, name)), choices)
        check_truths(inter=self.inter, reset=self.reset, leak=self.leak, error_reset=self.error_reset)
        check_number("clip", self.clip)
        if not self.clip > 0:
            raise UserError(f"clip is {self.clip}; the bound on 1/Δu must be positive")
        check_positive("width", self.width)

    @property
    def numbers(self) -> TSSLNumbers:
        timing, terms = self.psc_derivative == "timing", (self.inter, self.reset, self.leak, self.error_reset)
        return TSSLNumbers(timing, *terms, self.fallback, self.clip, self.width)

    @property
    def carries(self) -> int:
        return 3 if self.error_reset and (self.reset or self.leak) else 2  # E and R; with (11) E and Q, and R if a term uses it

    @property
    def statistic(self) -> Literal["rate"] | None:
        return "rate" if self.fallback == "rate" else None

    def knowing(self, statistic: float) -> "TSSL":
        return replace(self, fallback="always" if statistic <= RATE_LIMIT else "never")

    def part_gradient(
        self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, state: Tensor, carry: Tensor
    ) -> tuple[Tensor, Tensor]:
        e, u, s = psc_gradient, membrane, spikes(membrane, neuron)
        tau_m, tau_s, left = neuron.tau_m, neuron.tau_s, passed(membrane, neuron)
        reach, error_after = carry
        if self.error_reset:
            (e, spike_error), reach = self.with_reset(e, u, neuron, reach), torch.zeros_like(reach)
        error = synapse_adjoint(e, neuron, error_after)  # (4)
        moved = (e - neuron.synapse_decay * advanced(error, error_after)) / tau_s if self.psc_derivative == "timing" else error
        du = rise(u, neuron, state[0])
        p = s * torch.where(du > 0, 1 / du, 0).clamp(max=self.clip)  # (5)

        delta, decay = torch.empty_like(u), neuron.membrane_decay
        for t in reversed(range(len(u))):
            g = p[t] * moved[t] if self.inter else torch.zeros_like(reach)  # (6)
            if self.reset and neuron.reset:
                g = g + reach * u[t] / tau_m * p[t]  # (7)
            if self.leak:
                g = g + reach * decay * left[t]  # (8)
            reach = torch.where(s[t] > 0, g, reach * decay)  # (9)
            delta[t] = g
        if self.error_reset:
            reach = spike_error
        elif self.fallback == "always":  # R belongs to the spike-time gradient only
            reach = torch.zeros_like(reach)
        carry = torch.stack([reach, error[0]])

        if self.fallback == "never":
            return delta, carry
        x = ((u - neuron.threshold) / self.width).clamp(-FALLBACK_RANGE, FALLBACK_RANGE)
        surrogate = error * torch.sigmoid(x) * torch.sigmoid(-x) / self.width
        if self.fallback == "no-spike":
            return delta + surrogate * (1 - s), carry
        return torch.where(self.falls_back(s, synapse(s, tau_s, state[1]), neuron), surrogate, delta), carry  # (10)

    def with_reset(self, error: Tensor, membrane: Tensor, neuron: LIF, spike_error: Tensor) -> tuple[Tensor, Tensor]:
        """The error after the reset, e' of (11), ``[T, ...]``, and Q of (12) for the step before, ``[...]``."""
        if not neuron.reset:
            return error, spike_error
        s, e, decay = spikes(membrane, neuron), torch.empty_like(membrane), neuron.membrane_decay
        for t in reversed(range(len(error))):
            e[t] = error[t] + s[t] * membrane[t] / neuron.tau_m * spike_error  # (11)
            spike_error = torch.where(s[t] > 0, error[t], decay * spike_error)  # (12)
        return e, spike_error

    def carried_error(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, carry: Tensor) -> Tensor:
        if self.error_reset:
            psc_gradient, _ = self.with_reset(psc_gradient, membrane, neuron, carry[0])
        return synapse_adjoint(psc_gradient, neuron, carry[1])

    def spike_gradient(
        self, gradient: Tensor, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, state: Tensor, carry: Tensor
    ) -> Tensor:
        """All but the leak term (8), which alone comes through the membrane."""
        if not self.leak or self.fallback == "always":
            return gradient
        s, decay = spikes(membrane, neuron), neuron.membrane_decay
        through = decay * passed(membrane, neuron)
        reach, leaked = torch.zeros_like(carry[0]) if self.error_reset else carry[0], torch.empty_like(gradient)
        for t in reversed(range(len(gradient))):
            leaked[t] = reach * through[t]  # (8)
            reach = torch.where(s[t] > 0, gradient[t], reach * decay)  # (9); no spike takes the fallback
        if self.fallback != "no-spike":
            leaked = torch.where(self.falls_back(s, synapse(s, neuron.tau_s, state[1]), neuron), 0, leaked)
        return gradient - leaked

    def falls_back(self, train: Tensor, psc: Tensor, neuron: LIF) -> Tensor:
        """Where the fallback (10) applies, given spikes and their post-synaptic current: ``[T, ...]`` of bool."""
        if self.fallback == "quiet":
            return psc < 1 / (4 * neuron.tau_s)
        if self.fallback == "no-spike":
            return train == 0
        everywhere = self.fallback == "always" or (self.fallback == "rate" and bool(train.mean() <= RATE_LIMIT))
        return torch.full_like(train, everywhere, dtype=torch.bool)


@dataclass(frozen=True)
class TSSLPlus(TSSL):
    """The member of the family that is best on precise spike trains and not worse on images (docs/spike-trains.md).

    It balances spike-time and fallback gradient, at a spike and next to it, and has no leak term.
    """

    leak: bool = False
    fallback: Fallback = "no-spike"
    clip: float = 0.5
    width: float = 0.4

    summary: ClassVar[str] = (
        "the recommended member of the tssl family: it learns precise spike trains and takes sequences in parts"
    )


@dataclass(frozen=True)
class TSSLPaper(TSSL):
    """The rule of the code of 1 October 2020, from which the paper's table comes.

    A layer takes the surrogate (10) at every step if at most 10 % of its neurons' steps have a spike, else the spike-time
    gradient alone. The reset acts on the error (11).

    Source: the published code, state of 2020-10-01.
    """

    reset: bool = False
    leak: bool = False
    fallback: Fallback = "rate"
    clip: float = 10.0
    error_reset: bool = True

    summary: ClassVar[str] = "the rule behind the paper's table: a surrogate while a layer is quiet, the reset on the error"


@dataclass(frozen=True)
class TSSLSubmission(TSSLPaper):
    """The rule of the code of 2 June 2020, behind the version first submitted: without a term for the reset.

    Source: the published code, state of 2020-06-02.
    """

    error_reset: bool = False

    summary: ClassVar[str] = "the rule as first submitted: tssl-paper without a term for the reset"
