"""Random numbers that depend on their purpose and not on what was drawn before.

A *key* is 64 bits, an int64. Every sample has one, which :func:`mix` makes of the run's seed, the epoch and the number of the
sample. Draws for a sample depend on nothing else, such as its batch or the process that draws.

Source of the mixing: S. Vigna's SplitMix64, after G. Steele, D. Lea and C. Flood, Fast splittable pseudorandom number
generators, OOPSLA 2014. Unlike there, right shifts fill with the sign, as in PyTorch, and the last shift is left out.
"""

import torch
from torch import Tensor

CROP, ENCODER, DROPOUT, FILTERS, CUT, ERASE = range(6)
"""Purposes of draws. They are mixed into keys, so that one key gives unrelated draws for each."""

_STEP, _FIRST, _SECOND = (n - 2**64 for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def mix(*numbers: int | Tensor) -> Tensor:
    """Keys from whole numbers of any size and int64 tensors, which broadcast. All numbers and their order matter."""
    key = torch.zeros((), dtype=torch.int64)
    for number in numbers:
        key = _scrambled(key + _STEP + (number if isinstance(number, Tensor) else wrapped(number)))
    return key


def wrapped(number: int) -> int:
    """A whole number of any size as an int64."""
    return (int(number) + 2**63) % 2**64 - 2**63


def bits(keys: Tensor, count: int) -> Tensor:
    """32 random bits ``count`` times for every key, as int32 over its whole range: ``[B] -> [B, count]``."""
    numbers = torch.arange((count + 1) // 2, device=keys.device) * _STEP
    halves = _scrambled(keys.unsqueeze(1) + numbers).flatten().view(torch.int32)  # both of every 64 bits
    return halves.view(len(keys), 2 * len(numbers))[:, :count]


def below(share: Tensor) -> Tensor:
    """The bound, float64, that a share ``[...]`` of all :func:`bits` are below: none for share 0, and all for share 1."""
    return share.double() * 2**32 - 2**31


def fresh(count: int, device: torch.device) -> Tensor:
    """Keys ``[count]`` from PyTorch's global generator, where none are given."""
    return torch.empty(count, dtype=torch.int64, device=device).random_()


def _scrambled(x: Tensor) -> Tensor:
    """SplitMix64's steps, in place."""
    x ^= x >> 30
    x *= _FIRST
    x ^= x >> 27
    return x.mul_(_SECOND)
