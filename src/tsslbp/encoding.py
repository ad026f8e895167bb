"""From data to signals: constant current, Poisson rate, time to first spike.

A network puts every input through the same first-order synapse as its own spikes (``neuron.py``, equation (3)), so an
encoder returns what enters that synapse. A constant current is special, see :class:`~tsslbp.signal.Constant`.
"""

import torch
from torch import Tensor

from tsslbp.errors import UserError
from tsslbp.signal import Constant, check_steps, constant_current

__all__ = ["Constant", "constant_current", "latency", "poisson"]


def poisson(x: Tensor, time_steps: int, seed: int) -> Tensor:
    """Spike trains whose rate is the intensity: in each step a spike with probability ``x``.

    Args:
        x: spikes per step, in [0, 1], ``[B, ...]``.
        time_steps: T, at least 1.
        seed: of the first sample; the next ones draw with ``seed + 1``, ``seed + 2`` and so on, so that the trains of a sample
            do not depend on the batch it is in.

    Returns:
        Spikes, ``[T, B, ...]``, 0 and 1 in the type of ``x``.

    Raises:
        UserError: an intensity outside [0, 1], T below 1.
    """
    _check(x, time_steps)
    x = x if x.is_floating_point() else x.float()
    generator = torch.Generator(x.device)
    spikes = x.new_empty(time_steps, *x.shape)
    for number, intensity in enumerate(x):
        generator.manual_seed(_scrambled(seed + number))
        drawn = torch.rand(len(spikes), *intensity.shape, generator=generator, dtype=x.dtype, device=x.device)
        spikes[:, number] = drawn < intensity
    return spikes


def latency(x: Tensor, time_steps: int) -> Tensor:
    """Time to first spike: one spike per input, at step ``round((1 - x)(T - 1))``; intensity 0 never spikes.

    Args:
        x: intensities in [0, 1], ``[B, ...]``; 1 spikes in the first step.
        time_steps: T, at least 1.

    Returns:
        Spikes, ``[T, B, ...]``, 0 and 1 in the type of ``x``.

    Raises:
        UserError: an intensity outside [0, 1], T below 1.
    """
    _check(x, time_steps)
    first = torch.round((1 - x) * (time_steps - 1))
    steps = torch.arange(time_steps, dtype=x.dtype, device=x.device).view(-1, *[1] * x.dim())
    return ((steps == first) & (x > 0)).to(x.dtype)


def _scrambled(seed: int) -> int:
    """32 bits, as many as PyTorch's generator on the CPU uses, from a number of any size (SplitMix64's last steps)."""
    z = seed * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z >> 32


def _check(x: Tensor, time_steps: int) -> None:
    check_steps(time_steps)
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError("spike encoders need intensities in [0, 1]; scale the data, do not normalise it")
