"""From output currents to answers."""

import math

import torch
from torch import Tensor

from tsslbp.utils.errors import UserError, check_number, check_tensor

NO_ANSWER = -1
"""The answer of a network whose output layer never spiked; it counts as wrong."""


NEAR = 1e-5
"""Classes tie if their sums differ by at most this share of the larger one. A vote is a mean, such as 2/3, and equal sums of
votes round differently in another order, as in other programs and in single steps."""


def decode(psc: Tensor) -> Tensor:
    """The class with the largest ``Σ_t a[t]``, or ``NO_ANSWER`` where no output neuron spiked: ``[T, B, C] -> [B]``.

    Of classes that tie, it is the first (``NEAR``).

    Raises UserError for output of another shape, as after a sum over time, that holds NaN, or whose sums are all below 0 for a
    sample, as those of voltages may be; so does :func:`settled_step`.
    """
    return _answers(_checked(psc).sum(0))


def _checked(psc: Tensor) -> Tensor:
    check_tensor("output", psc)
    if psc.dim() != 3 or not psc.shape[0] or not psc.shape[2]:
        raise UserError(f"output has shape {list(psc.shape)}; it must be [T, B, C], before any sum over time")
    return psc


def _answers(total: Tensor) -> Tensor:
    most = total.amax(-1)
    if not torch.compiler.is_compiling() and not bool((most >= 0).all()):  # a look at values would break the graph
        if bool(most.isnan().any()):
            raise UserError("the network's output holds NaN, which is no answer; look for it in the input and the weights")
        raise UserError(
            "the output has sums below 0, as voltages may; decode net.evidence(output), or take output.sum(0).argmax(-1)"
        )
    return torch.where(most > 0, largest(total), NO_ANSWER)


def largest(total: Tensor) -> Tensor:
    """The first class with the largest sum, ``[..., C] -> [...]``; whole numbers tie only if they are equal."""
    if not total.is_floating_point():
        return total.argmax(-1)
    return (total >= (1 - NEAR) * total.amax(-1, keepdim=True)).byte().argmax(-1)


def confidence(psc: Tensor) -> Tensor:
    """The answer's share of the whole output current, in [0, 1]; 0 without an answer, NaN if the output holds NaN:
    ``[T, B, C] -> [B]``. Raises UserError for another shape, and for sums below 0, as of voltages."""
    total = _checked(psc).sum(0)
    total = total if total.is_floating_point() else total.float()
    if not torch.compiler.is_compiling() and bool((total < 0).any()):
        raise UserError("the output has sums below 0, as voltages may; take net.evidence(output) instead")
    return total.amax(-1) / total.sum(-1).clamp(min=torch.finfo(total.dtype).tiny)


def answers_so_far(psc: Tensor) -> Tensor:
    """What :func:`decode` would say after each step, ``[T, B, C] -> [T, B]``."""
    return _answers(_checked(psc).cumsum(0))


def settled_step(psc: Tensor) -> Tensor:
    """The first step (from 0) from which the answer no longer changed: ``[T, B, C] -> [B]``."""
    answers = answers_so_far(psc)
    different = answers != answers[-1]
    steps = torch.arange(1, len(psc) + 1, device=psc.device).unsqueeze(-1)
    return (different * steps).amax(0)


def settled(total: Tensor, psc: Tensor, remaining: int, tau_s: float | Tensor) -> Tensor:
    """Whether the answer of :func:`decode` can no longer change: ``[B, C], [B, C] -> [B]``.

    An output neuron that never spikes again still adds the rest of its current, ``a·Σ_k (1 - 1/τs)^k`` for k = 1 … r; one that
    spikes in each of the r remaining steps adds ``Σ_k (1 - (1 - 1/τs)^k)`` more, which is the most. So the answer is settled
    if, with all rests added, it leads by more than that bound, and if it leads already.

    Args:
        total: sum of the output current so far.
        psc: output current of the last step.
        remaining: steps to come, r.
        tau_s: synaptic time constant in steps. For several in a tensor, the bounds hold for any assignment to classes.
    """
    low, high = map(float, tau_s.detach().aminmax()) if isinstance(tau_s, Tensor) else (tau_s, tau_s)
    steps = torch.arange(1, remaining + 1, dtype=total.dtype, device=total.device)
    least, most = ((1 - 1 / tau) ** steps for tau in (low, high))
    rested = total + psc * least.sum()
    first = rested.argmax(-1, keepdim=True)
    ahead = rested.gather(-1, first)[:, 0]
    others = (total + psc * most.sum()).scatter(-1, first, -math.inf).amax(-1)
    lead = ahead - others.where(others > -math.inf, 0)
    rounding = 1e-4 * (1 + remaining) + NEAR * (ahead + remaining)
    return (lead > (1 - least).sum() + rounding) & (first[:, 0] == largest(total))


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a share, as fractions; 95 % by default, (0, 1) if ``total`` is 0.

    Raises:
        UserError: ``right`` is not from 0 to ``total``, or one of the three is no number.
    """
    for name, number in (("right", right), ("total", total), ("z", z)):
        check_number(name, number, "a number")
    if not 0 <= right <= total:
        raise UserError(f"{right} of {total} is no share; the first number must be from 0 to the second")
    if total == 0:
        return 0.0, 1.0
    share, scale = right / total, 1 + z**2 / total
    centre = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
