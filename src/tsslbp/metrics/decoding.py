"""From output currents to answers."""

import math

import torch
from torch import Tensor

NO_ANSWER = -1
"""The answer of a network whose output layer never spiked; it is never right."""


def decode(psc: Tensor) -> Tensor:
    """The class with the largest ``Σ_t a[t]``, or ``NO_ANSWER`` where no output neuron spiked: ``[T, B, C] -> [B]``."""
    total = psc.sum(0)
    return torch.where((total > 0).any(-1), total.argmax(-1), NO_ANSWER)


def confidence(psc: Tensor) -> Tensor:
    """The answer's share of the whole output current, in [0, 1], 0 where there is no answer: ``[T, B, C] -> [B]``."""
    total = psc.sum(0)
    return total.amax(-1) / total.sum(-1).clamp(min=torch.finfo(psc.dtype).tiny)


def settled_step(psc: Tensor) -> Tensor:
    """The first step (from 0) from which the answer no longer changed: ``[T, B, C] -> [B]``."""
    total = psc.cumsum(0)
    answers = torch.where((total > 0).any(-1), total.argmax(-1), NO_ANSWER)
    different = answers != answers[-1]
    steps = torch.arange(1, len(psc) + 1, device=psc.device).unsqueeze(-1)
    return (different * steps).amax(0)


def wilson_interval(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a share, as fractions; 95 % by default, (0, 1) when there is nothing to count."""
    if total == 0:
        return 0.0, 1.0
    share, scale = right / total, 1 + z**2 / total
    centre = share + z**2 / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
