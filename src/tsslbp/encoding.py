"""From data to signals: constant current, Poisson rate, time to first spike.

A network puts every input through the same first-order synapse as its own spikes (``neuron.py``, equation (3)), so an
encoder returns what enters that synapse. A constant current is special, see :class:`~tsslbp.signal.Constant`.
"""

import torch
from torch import Tensor

from tsslbp import draws
from tsslbp.errors import UserError
from tsslbp.signal import Constant, check_steps, constant_current

__all__ = ["Constant", "constant_current", "latency", "poisson"]


def poisson(x: Tensor, time_steps: int, seed: int | Tensor) -> Tensor:
    """Spike trains whose rate is the intensity: in each step a spike with probability ``x``.

    The trains of a sample depend on its seed alone: not on the batch it is in, and what comes first not on T.

    Args:
        x: spikes per step, in [0, 1], ``[B, ...]``.
        time_steps: T, at least 1.
        seed: of every sample, ``[B]`` of int64; or of the first one, the next ones then draw with ``seed + 1``, ``seed + 2``
            and so on.

    Returns:
        Spikes, ``[T, B, ...]``, 0 and 1 in the type of ``x``.

    Raises:
        UserError: an intensity outside [0, 1], T below 1.
    """
    _check(x, time_steps)
    x = x if x.is_floating_point() else x.float()
    if not isinstance(seed, Tensor):
        seed = torch.arange(len(x)) + draws.wrapped(seed)
    keys, bound = draws.mix(seed.to(x.device), draws.ENCODER), draws.below(x)
    spikes = x.new_empty(time_steps, *x.shape)
    for step in range(time_steps):
        spikes[step] = draws.bits(draws.mix(keys, step), x.shape[1:].numel()).reshape(x.shape) < bound
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


def _check(x: Tensor, time_steps: int) -> None:
    check_steps(time_steps)
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError("spike encoders need intensities in [0, 1]; scale the data, do not normalise it")
