"""From data to signals: constant current, Poisson rate, time to first spike.

A network puts every input through the same first-order synapse as its own spikes (``neuron.py``, equation (3)), so an
encoder returns what enters that synapse. A constant current is special: after the synapse it is the same picture at every
step, times a gain. :class:`Constant` keeps the two apart, so that the first linear map is computed once and not T times.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tsslbp.errors import UserError, check_tensor


class Constant(NamedTuple):
    """A signal ``gain[t] · value``: ``value`` is ``[B, ...]``, ``gain`` is ``[T]``."""

    value: Tensor
    gain: Tensor

    def expand(self) -> Tensor:
        """The signal in full, ``[T, B, ...]``."""
        return self.gain.view(-1, *[1] * self.value.dim()) * self.value


def check_signal(signal: Tensor | Constant, name: str = "signal") -> None:
    """Raises UserError unless a signal is floating point, ``[T, ...]`` or ``gain[t] · value``, with at least one step."""
    x, gain = signal if isinstance(signal, Constant) else (signal, None)
    check_tensor(name, x)
    if not x.is_floating_point():
        raise UserError(f"{name} is {x.dtype}; it must be floating point")
    if gain is None:
        if x.dim() < 1 or x.shape[0] == 0:
            raise UserError(f"{name} has shape {list(x.shape)}; it must be [T, ...] with T at least 1, time first")
        return
    check_tensor(f"gain of a constant {name}", gain)
    if gain.dim() != 1 or gain.shape[0] == 0:
        raise UserError(f"gain of a constant {name} has shape {list(gain.shape)}; it must be [T] with T at least 1")


def constant_current(x: Tensor, time_steps: int, tau_s: float) -> Constant:
    """Constant current ``x`` (``[B, ...]``) after the input synapse: gain ``c[t] = 1 - (1 - 1/τs)^(t+1)``."""
    steps = torch.arange(1, _at_least_one(time_steps) + 1, dtype=x.dtype, device=x.device)
    return Constant(x, 1 - (1 - 1 / tau_s) ** steps)


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
    _unit_range(x)
    x = x if x.is_floating_point() else x.float()
    generator = torch.Generator(x.device)
    spikes = x.new_empty(_at_least_one(time_steps), *x.shape)
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
    _unit_range(x)
    first = torch.round((1 - x) * (_at_least_one(time_steps) - 1))
    steps = torch.arange(time_steps, dtype=x.dtype, device=x.device).view(-1, *[1] * x.dim())
    return ((steps == first) & (x > 0)).to(x.dtype)


def _scrambled(seed: int) -> int:
    """32 bits, as many as PyTorch's generator on the CPU uses, from a number of any size (SplitMix64's last steps)."""
    z = seed * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z >> 32


def _at_least_one(time_steps: int) -> int:
    if time_steps < 1:
        raise UserError(f"time_steps is {time_steps}; it must be at least 1")
    return time_steps


def _unit_range(x: Tensor) -> None:
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError("spike encoders need intensities in [0, 1]; scale the data, do not normalise it")
