"""From data to signals: constant current, Poisson rate, time to first spike.

A network puts every input through the same first-order synapse as its own spikes (``neuron.py``, equation (3)). An encoder
returns the input of that synapse, except for a constant current: see :class:`~tsslbp.utils.signals.Constant`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from tsslbp.utils import prng
from tsslbp.utils.errors import UserError, check_number, check_tensor, check_whole, unknown
from tsslbp.utils.signals import Constant, constant_current
from tsslbp.utils.spec import construct, parse_spec

__all__ = ["CONSTANT", "ENCODERS", "Constant", "Latency", "Poisson", "constant_current", "get", "latency", "poisson"]


def poisson(x: Tensor, time_steps: int, seed: int | Tensor) -> Tensor:
    """Spike trains whose rate is the intensity: in each step a spike with probability ``x``.

    The trains of a sample depend on its seed alone, not on its batch. A larger T only adds steps at the end.

    Args:
        x: spikes per step, in [0, 1], ``[B, ...]``.
        time_steps: T, at least 1.
        seed: one for every sample, ``[B]`` of int64, or that of the first; the next ones then have ``seed + 1``, ``seed + 2``
            and so on.

    Returns:
        Spikes, ``[T, B, ...]``, 0 and 1 in the type of ``x``, in float32 if that is not floating point.

    Raises:
        UserError: an intensity outside [0, 1], T below 1, seeds that do not fit.
    """
    _check(x, time_steps)
    x = x if x.is_floating_point() else x.float()
    if not isinstance(seed, Tensor):
        check_number("seed", seed, "a whole number, or [B] of int64")
    seeds = seed if isinstance(seed, Tensor) else torch.as_tensor(seed if seed % 1 else prng.wrapped(seed))
    if seeds.is_floating_point() or seeds.shape not in ((), x.shape[:1]):
        raise UserError(f"seed is {seeds.dtype} of shape {list(seeds.shape)}; it must be a whole number, or [B] of int64")
    if not seeds.dim():
        seeds = torch.arange(len(x)) + seeds
    keys, bound = prng.mix(seeds.to(x.device, torch.int64), prng.ENCODER), prng.below(x)
    spikes = x.new_empty(time_steps, *x.shape)
    for step in range(time_steps):
        spikes[step] = prng.bits(prng.mix(keys, step), x.shape[1:].numel()).reshape(x.shape) < bound
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
    wide = x if x.dtype == torch.float64 else x.float()  # 8 or 16 bits cannot count many steps
    first = torch.round((1 - wide) * (time_steps - 1)).long()
    steps = torch.arange(time_steps, device=x.device).view(-1, *[1] * x.dim())
    return ((steps == first) & (x > 0)).to(x.dtype)


@dataclass(frozen=True)
class Poisson:
    """:func:`poisson` of intensities times a rate.

    Args:
        rate: spikes per step of an input of full intensity, above 0 and at most 1.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        check_number("rate", self.rate)
        if not 0 < self.rate <= 1:
            raise UserError(f"rate of poisson is {self.rate}; it must be above 0 and at most 1")

    def __call__(self, x: Tensor, time_steps: int, seed: int | Tensor) -> Tensor:
        return poisson(x * self.rate, time_steps, seed)


@dataclass(frozen=True)
class Latency:
    """:func:`latency`; the seed has no effect."""

    def __call__(self, x: Tensor, time_steps: int, seed: int | Tensor) -> Tensor:
        return latency(x, time_steps)


CONSTANT = "constant"
"""A constant current, the encoding of static samples that needs no encoder."""
ENCODERS: dict[str, type[Poisson | Latency]] = {"poisson": Poisson, "latency": Latency}


@lru_cache
def get(encoding: str) -> Callable[[Tensor, int, int | Tensor], Tensor] | None:
    """The encoder of intensities ``[B, ...]`` from ``NAME`` or ``NAME(option=value)``; None for a constant current.

    Raises:
        UserError: an unknown encoding, or options that it does not have.
    """
    name, options = parse_spec(encoding, "encoding")
    if name == CONSTANT and not options:
        return None
    if name not in ENCODERS:
        raise unknown("encoding", encoding, [CONSTANT, *ENCODERS])
    return construct(ENCODERS[name], name, options)


def _check(x: Tensor, time_steps: int) -> None:
    check_whole("time_steps", time_steps)
    check_tensor("x", x)
    if not x.dim() or x.is_complex():
        raise UserError(f"x is {x.dtype} of shape {list(x.shape)}; it must be intensities [B, ...]")
    if not torch.compiler.is_compiling() and not bool(((x >= 0) & (x <= 1)).all()):
        raise UserError("spike encoders need intensities in [0, 1]; scale the data, do not normalise it")
