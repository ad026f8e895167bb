"""The tempotron: one neuron that learns to fire for some patterns of spike times and to stay silent for others.

    V(t) = Σ_i w_i Σ_{t_i} K(t - t_i)                             potential, resting at 0, never reset       (1)
    K(x) = V0 (e^{-x/τ} - e^{-x/τs}) for x > 0, else 0            post-synaptic potential, of height 1       (2)
    the answer is "fire" if max_t V(t) ≥ θ, else "silent"                                                    (3)
    Δw_i = ±λ Σ_{t_i < t_max} K(t_max - t_i)                      after a wrong answer only, + if it missed  (4)

The sum in (4) is the derivative of V(t_max) by w_i. The shift of t_max has no effect to first order, as t_max is either
stationary or fixed by a spike or the end of the pattern. The original shunts all inputs after the first output spike, which
changes neither the answer nor the update.

Times are real numbers in milliseconds and the maximum is exact. After the k-th input spike, x later,

    V(t_k + x) = V0 (A_k e^{-x/τ} - B_k e^{-x/τs}),   A_k = Σ_{t_i ≤ t_k} w_i e^{-(t_k - t_i)/τ},  B_k likewise with τs   (5)

which has an inner maximum only if A_k and B_k are both positive, at

    x_k = τ τs/(τ - τs) · ln(B_k τ / (A_k τs)),  cut to between this spike and the next                     (6)

and otherwise its largest value is at a spike or below V = 0 at the first one. So one pass over the sorted spikes is enough.

Source: R. Gütig and H. Sompolinsky, Nature Neuroscience 9:420, 2006, with τ = 15 ms and τs = τ/4; (5) and (6) follow from (1).
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsslbp.utils.errors import UserError, check_positive


@dataclass(frozen=True)
class Neuron:
    """Constants of the tempotron.

    Args:
        tau: membrane time constant τ in ms.
        tau_s: synaptic time constant τs in ms, below ``tau``.
        duration: length of a pattern in ms; the potential counts from 0 to here.
        threshold: firing threshold θ, positive.

    Raises:
        UserError: a constant outside its range.
    """

    tau: float = 15.0
    tau_s: float = 3.75
    duration: float = 500.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.tau_s < self.tau < math.inf:
            raise UserError(f"tau_s {self.tau_s} and tau {self.tau} must be 0 < tau_s < tau < inf, in ms")
        for name in ("duration", "threshold"):
            check_positive(name, getattr(self, name))

    @property
    def peak_time(self) -> float:
        """Time from a spike to the peak of K, in ms: ``τ τs/(τ - τs) · ln(τ/τs)``."""
        return self.tau * self.tau_s / (self.tau - self.tau_s) * math.log(self.tau / self.tau_s)

    @property
    def v0(self) -> float:
        """V0, for which the peak of K is 1."""
        return 1 / (math.exp(-self.peak_time / self.tau) - math.exp(-self.peak_time / self.tau_s))

    def kernel(self, delay: Tensor) -> Tensor:
        """K of equation (2) at a time after the spike, in ms: any shape to the same shape."""
        delay = delay.clamp(min=0)
        return self.v0 * (torch.exp(-delay / self.tau) - torch.exp(-delay / self.tau_s))


def potential(weights: Tensor, spikes: Tensor, at: Tensor, neuron: Neuron) -> Tensor:
    """V of equation (1) by its definition: ``[N]``, ``[P, N, S]`` and times ``[P, Q]`` in ms ``-> [P, Q]``."""
    return neuron.kernel(at[:, :, None, None] - spikes[:, None]).sum(-1) @ weights


class Patterns(NamedTuple):
    """Patterns for :func:`maximum`: their K = N·S spikes in order of time, and all that does not depend on weights."""

    spikes: Tensor
    """``[P, N, S]``, as given."""
    times: Tensor
    """``[P, K]``, ascending; missing spikes are at the end of the pattern, too late to raise V."""
    afferent: Tensor
    """``[P, K]``, the afferent of each spike."""
    gaps: Tensor
    """``[P, K]``, the time to the next spike or to the end."""
    growth: Tensor
    """``[P, 2, K]``, e^{t/τ} and e^{t/τs} with t from the middle of the pattern."""
    decay: Tensor
    """``[P, 2, K]``, their inverses: ``A_k = decay_k · Σ_{i ≤ k} w_i growth_i``."""


def prepare(spikes: Tensor, neuron: Neuron) -> Patterns:
    """Sort the spikes of P patterns.

    Args:
        spikes: ``[P, N, S]``, times in ms of up to S spikes of each of N afferents, from 0 to ``neuron.duration``; infinity
            where there is no spike.

    Raises:
        UserError: another shape, a time outside the pattern, or a pattern so long that e^{t/τs} overflows.
    """
    if spikes.dim() != 3 or not spikes.is_floating_point() or 0 in spikes.shape[1:]:
        raise UserError(f"spikes must be times [patterns, afferents, spikes]; got {list(spikes.shape)} ({spikes.dtype})")
    present = spikes.isfinite()
    if not ((present & (spikes >= 0) & (spikes <= neuron.duration)) | (spikes == math.inf)).all():
        raise UserError(f"spike times must be from 0 to {neuron.duration} ms, or infinite where there is no spike")
    longest = 2 * neuron.tau_s * (math.log(torch.finfo(spikes.dtype).max) - 10)  # room for a sum of e^10 spikes
    if neuron.duration > longest:
        raise UserError(f"{neuron.duration} ms overflow in {spikes.dtype}; at most {longest:.0f} ms with tau_s {neuron.tau_s}")
    times, order = spikes.flatten(1).sort(dim=1)
    times = times.clamp(max=neuron.duration)
    end = times.new_full((len(times), 1), neuron.duration)
    exponent = (times - neuron.duration / 2).unsqueeze(1) / times.new_tensor([[neuron.tau], [neuron.tau_s]])
    return Patterns(
        spikes=spikes,
        times=times,
        afferent=order // spikes.shape[2],
        gaps=torch.cat([times, end], 1).diff(dim=1),
        growth=exponent.exp(),
        decay=torch.exp(-exponent),
    )


def maximum(weights: Tensor, patterns: Patterns, neuron: Neuron) -> tuple[Tensor, Tensor]:
    """The largest potential of each pattern and its time in ms, by (5) and (6): ``[N] -> [P], [P]``.

    ``patterns`` may also be a single one, without the first axis everywhere. Where V never exceeds 0 the answer is 0, at the
    first spike. Raises UserError unless there is one weight for each afferent.
    """
    if weights.shape != patterns.spikes.shape[-2:-1]:
        raise UserError(f"weights have shape {[*weights.shape]}; the patterns have {patterns.spikes.shape[-2]} afferents")
    traces = (weights[patterns.afferent].unsqueeze(-2) * patterns.growth).cumsum(-1) * patterns.decay
    a, b = traces.unbind(-2)
    tau, tau_s = neuron.tau, neuron.tau_s
    later = (b * tau / (a * tau_s)).clamp(min=1).log() * (tau * tau_s / (tau - tau_s))
    x = torch.where(a > 0, torch.minimum(later, patterns.gaps), 0)  # b ≤ 0 gives 0 too
    value, k = (neuron.v0 * (a * torch.exp(-x / tau) - b * torch.exp(-x / tau_s))).max(-1, keepdim=True)
    return value.squeeze(-1), (patterns.times + x).gather(-1, k).squeeze(-1)


def direction(spikes: Tensor, t_max: Tensor, neuron: Neuron) -> Tensor:
    """∂V(t_max)/∂w, the sum in equation (4): ``[..., N, S]`` and ``[...] -> [..., N]``."""
    return neuron.kernel(t_max[..., None, None] - spikes).sum(-1)


@dataclass(frozen=True)
class Fit:
    """Result of :func:`learn`: the weights ``[N]`` and the number of wrong answers in each cycle, 0 at the end if learned."""

    weights: Tensor
    errors: tuple[int, ...]


def learn(
    spikes: Tensor,
    labels: Tensor,
    neuron: Neuron,
    generator: torch.Generator,
    *,
    cycles: int = 200,
    rate: float = 3e-4,
    momentum: float = 0.99,
    spread: float = 0.1,
) -> Fit:
    """Learn to fire where the label is true: equation (4), pattern by pattern, until a cycle has no error.

    With momentum, a wrong answer changes the weights by ``Δw + momentum · (the last change)``.

    Args:
        spikes: times in ms, ``[P, N, S]``, as in :func:`prepare`.
        labels: ``[P]`` of bool.
        neuron: the constants.
        generator: draws the first weights and each cycle's order.
        cycles: most presentations of all patterns.
        rate: λ. The original's value and spread of the first weights are for another scale of V and are not used.
        momentum: share of the last change that is repeated, from 0 to below 1; the original's is 0.99.
        spread: standard deviation of the first weights; with all weights 0, t_max is a spike's own time and nothing is learned.

    Raises:
        UserError: labels that do not fit, an argument outside its range, or what :func:`prepare` raises.
    """
    patterns = prepare(spikes, neuron)
    if labels.dtype != torch.bool or labels.shape != spikes.shape[:1]:
        raise UserError(f"labels must be bool, one a pattern ({len(spikes)}); got {list(labels.shape)} ({labels.dtype})")
    if cycles < 1 or not 0 < rate < math.inf or not 0 <= momentum < 1 or not 0 < spread < math.inf:
        raise UserError(
            f"cycles {cycles}, rate {rate} and spread {spread} must be positive and finite and momentum {momentum} "
            "at least 0, below 1"
        )
    weights = spread * torch.randn(spikes.shape[1], generator=generator, dtype=spikes.dtype)
    change = torch.zeros_like(weights)
    single = [Patterns(*fields) for fields in zip(*(field.unbind() for field in patterns), strict=True)]
    wanted, errors = labels.tolist(), []
    for _ in range(cycles):
        wrong = 0
        for p in torch.randperm(len(spikes), generator=generator).tolist():
            value, t_max = maximum(weights, single[p], neuron)
            if (value.item() >= neuron.threshold) != wanted[p]:
                wrong += 1
                step = rate if wanted[p] else -rate
                change = step * direction(single[p].spikes, t_max, neuron) + momentum * change
                weights = weights + change
        errors.append(wrong)
        if not wrong:
            break
    return Fit(weights, tuple(errors))


def experiment(seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """Random latency patterns: 1 pattern per afferent is learned without error, 5 are not in the same number of cycles.

    Each of N afferents spikes once, uniformly in 500 ms; half the labels are true on average. The original finds a capacity
    of about 3 patterns per afferent, where a perceptron stores 2.
    """
    neuron, afferents, cycles = Neuron(), 100 if quick else 500, 60 if quick else 100
    result: dict[str, Any] = {"seed": seed, "afferents": afferents, "cycles": cycles}
    for load in (1, 5):
        generator = torch.Generator().manual_seed(seed)
        spikes = neuron.duration * torch.rand(load * afferents, afferents, 1, generator=generator, dtype=torch.float64)
        labels = torch.rand(len(spikes), generator=generator) < 0.5
        fit = learn(spikes, labels, neuron, generator, cycles=cycles)
        result[f"load_{load}"] = {"patterns": len(spikes), "cycles": len(fit.errors), "errors": fit.errors[-1]}
    result["passed"] = result["load_1"]["errors"] == 0 and result["load_5"]["errors"] > 0
    return result
