"""A network of whole numbers: the specification of what integer C computes, bit for bit.

The weights of a channel are whole numbers q of a step, and so are all sums of them. What a chain (``chain.py``) computes is
then, in units of ``step/(one·2^shift)``,

    J[t] = J[t-1] - leak_s(J[t-1]) + scaled(Σ q·x)          scaled(z) = z·2^shift, or round(z/2^-shift)            (1)
    u[t] = u[t-1] - leak_m(u[t-1]) + J[t] + b               0 in place of u[t-1] if that neuron has just spiked    (2)
    s[t] = 1 if u[t] > θ else 0                                                                                    (3)
    leak(z) = round(z·j/2^k)                                j/2^k is the leak 1/τ                                  (4)

with ``x`` the spikes that enter, 0 or 1 each, and behind a population's own lateral weights those of the step before, times
``one``. What enters the first population are whole numbers of 1/64, so ``one`` is 64 there, and 1 elsewhere. Every ``round`` is
half upwards, ``floor(z + 1/2)``. The answer is the class with the largest sum of a over the steps:

    a[t] = a[t-1] - leak_s(a[t-1]) + 4096·s[t]                                                                     (5)

``shift`` is the largest for which nothing leaves 32 bits, whatever enters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp import quantisation
from tsslbp.errors import UserError
from tsslbp.exchange.chain import Array, Chain, Population
from tsslbp.metrics import decode
from tsslbp.quantisation import INPUT_UNIT

SPIKE = 4096
"""What a spike adds to the output current."""
MOST = 2**31 - 1
"""The largest number of 32 bits."""
FINEST, COARSEST = 12, 2**6
"""Bits behind the point at most, and units in the smallest threshold at least."""


class Leak(NamedTuple):
    """The share ``j/2^k`` of equation (4)."""

    j: int
    k: int


@dataclass(frozen=True, eq=False)
class Whole:
    """A population of whole numbers.

    Args:
        plain: the population that it comes from.
        weight, lateral: q, int8 in the shapes of ``plain``.
        bias, threshold: b and θ of every channel, int32.
        one: what a spike of its own counts in its sums.
        shift: as of equation (1).
    """

    plain: Population
    weight: Array
    lateral: Array | None
    bias: Array
    threshold: Array
    one: int
    shift: int


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Populations of whole numbers one after the other.

    Args:
        chain: what it comes from.
        populations: in order.
        membrane, synapse: the leaks 1/τm and 1/τs.
    """

    chain: Chain
    populations: tuple[Whole, ...]
    membrane: Leak
    synapse: Leak

    def run(self, x: Tensor, steps: int | None = None) -> "Response":
        """What samples set off.

        Args:
            x: what enters, in whole numbers of 1/64: ``[T, N, C, ...]``, or ``[N, C, ...]`` at every one of ``steps`` steps.
        """
        *_, response = self.steps(x, steps)
        return response

    def steps(self, x: Tensor, steps: int | None = None) -> Iterator["Response"]:
        """:meth:`run` step by step: the response so far, with the spikes of the last step."""
        first = self.populations[0]
        samples = x.shape[0 if steps else 1]
        state = [_State.rest(whole, samples) for whole in self.populations]
        shown = None
        output = evidence = torch.zeros(samples, self.populations[-1].plain.neurons, dtype=torch.int64)
        for t in range(steps or len(x)):
            if shown is None or not steps:
                shown = _sums(first, (x if steps else x[t]).reshape(samples, *first.plain.entering))
            spikes: dict[str, Tensor] = {}
            sent = torch.empty(0)
            for whole, before in zip(self.populations, state, strict=True):
                sums = shown if whole is first else _sums(whole, _pooled(whole.plain, sent))
                sent = spikes[whole.plain.name] = before.step(whole, sums, self.membrane, self.synapse)
            output = output - _leak(output, self.synapse) + SPIKE * sent.flatten(1)
            evidence = evidence + output
            yield Response(spikes, evidence.unflatten(1, (-1, self.chain.voters)).sum(2))


class Response(NamedTuple):
    """What samples have set off."""

    spikes: dict[str, Tensor]
    """Of every population in the last step, ``[N, channels, rows, columns]`` of int64."""
    evidence: Tensor
    """Sum of the output current for each class, ``[N, classes]``."""

    @property
    def answers(self) -> Tensor:
        """The class with most evidence, ``NO_ANSWER`` if there is none, ``[N]``."""
        return decode(self.evidence[None])


@dataclass
class _State:
    """J, u and the last spikes of a population, ``[N, channels, rows, columns]``."""

    current: Tensor
    membrane: Tensor
    spikes: Tensor

    @staticmethod
    def rest(whole: Whole, samples: int) -> "_State":
        return _State(*[torch.zeros(samples, *whole.plain.shape, dtype=torch.int64)] * 3)

    def step(self, whole: Whole, sums: Tensor, membrane: Leak, synapse: Leak) -> Tensor:
        """Equations (1) to (3)."""
        if whole.lateral is not None:
            heard = _exact(self.spikes.flatten(1)) @ torch.from_numpy(whole.lateral).double().T
            sums = sums + whole.one * heard.long().view(sums.shape)
        self.current = self.current - _leak(self.current, synapse) + _scaled(sums, whole.shift)
        bias, threshold = (torch.from_numpy(x).long().view(-1, 1, 1) for x in (whole.bias, whole.threshold))
        self.membrane = self.membrane - _leak(self.membrane, membrane) + self.current + bias
        self.spikes = (self.membrane > threshold).long()
        self.membrane = self.membrane * (1 - self.spikes)
        return self.spikes


def whole_input(x: Tensor) -> Tensor:
    """Network input as whole numbers of 1/64, as a network of few bits takes it: int64, shape of ``x``."""
    return (quantisation.on_grid(x) * INPUT_UNIT).long()


def integer(chain: Chain, low: int, high: int, steps: int) -> IntegerNetwork:
    """The network of whole numbers that a chain with weights of few bits is.

    Args:
        chain: the network.
        low, high: smallest and largest whole number that enters.
        steps: for how many steps nothing must leave 32 bits if the membrane does not leak. If it does, there is no end.

    Raises:
        UserError: weights in floating point, lateral weights behind pooling, a layer too wide for 32 bits.
    """
    membrane, synapse = (Leak(*quantisation.leak(tau)) for tau in (chain.tau_m, chain.tau_s))
    made = []
    for number, plain in enumerate(chain.populations):
        largest = max(abs(low), abs(high)) if number == 0 else math.prod(plain.summed)
        made.append(_whole(plain, INPUT_UNIT if number == 0 else 1, largest, membrane, synapse, steps))
    return IntegerNetwork(chain, tuple(made), membrane, synapse)


def _whole(plain: Population, one: int, largest: int, membrane: Leak, synapse: Leak, steps: int) -> Whole:
    if plain.step is None:
        raise UserError(f"layer {plain.name!r} has weights in floating point; train it with --bits, or round them with --bits")
    step = plain.step.reshape(-1, 1)
    q = np.rint(plain.weight.reshape(len(step), -1) / step)
    lateral = None if plain.lateral is None else np.rint(plain.lateral / step)
    if lateral is not None and plain.summed != (1, 1):
        raise UserError(f"layer {plain.name!r} is recurrent and behind pooling; there its two maps have different steps")
    threshold, bias = (x * one / plain.step for x in (plain.threshold, plain.bias))
    reached = largest * np.abs(q).sum(1) + (0 if lateral is None else one * np.abs(lateral).sum(1))
    shift = _shift(reached, threshold, bias, membrane, synapse, steps)
    if 3 * reached.max() > MOST or threshold.min() * 2.0**shift < COARSEST:
        raise UserError(f"layer {plain.name!r} can add up to more than 32 bits hold; give it fewer inputs, or fewer bits")
    weight, beside = _int8(q, plain.weight.shape), None if lateral is None else _int8(lateral, lateral.shape)
    drive, level = (np.rint(x * 2.0**shift).astype(np.int32) for x in (bias, threshold))
    return Whole(plain, weight, beside, drive, level, one, shift)


def _shift(reached: Array, threshold: Array, bias: Array, membrane: Leak, synapse: Leak, steps: int) -> int:
    """The largest shift for which no number of equations (1) to (4) leaves 32 bits; ``reached`` are the largest sums."""
    for shift in range(FINEST, -32, -1):
        scale = 2.0**shift
        current = (reached * scale + 1.5) * 2**synapse.k / synapse.j  # half a unit is lost by every rounding
        kept = 2**membrane.k / membrane.j if membrane.j else steps
        potential = (current + np.abs(bias) * scale + 1.5) * kept + threshold * scale
        if max((current * synapse.j).max() + 2**synapse.k, (potential * max(membrane.j, 1)).max() + 2**membrane.k) <= MOST:
            return shift
    return -32


def _int8(q: Array, shape: tuple[int, ...]) -> Array:
    return q.astype(np.int8).reshape(shape)


def _sums(whole: Whole, x: Tensor) -> Tensor:
    """``Σ q·x``, ``[N, in, rows, columns] -> [N, out, rows, columns]`` of int64."""
    plain = whole.plain
    sums = F.conv2d(
        _exact(x), torch.from_numpy(whole.weight).double(), None, plain.stride, plain.padding, plain.dilation, plain.groups
    )
    return sums.long()


def _exact(x: Tensor) -> Tensor:
    """Whole numbers for arithmetic that PyTorch only has for floating point; that of 64 bits is exact up to 2^53."""
    return x.double()


def _pooled(plain: Population, spikes: Tensor) -> Tensor:
    """What enters a population, from the spikes that are sent to it."""
    return _windows(_windows(spikes, plain.largest).amax((3, 5)), plain.summed).sum((3, 5))


def _windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``[N, C, rows, columns] -> [N, C, windows, inside, windows, inside]``; what fills no window is left out."""
    rows, columns = (whole // inside for whole, inside in zip(x.shape[2:], size, strict=True))
    kept = x[:, :, : rows * size[0], : columns * size[1]]
    return kept.reshape(*x.shape[:2], rows, size[0], columns, size[1])


def _leak(x: Tensor, leak: Leak) -> Tensor:
    return _rounded(x * leak.j, leak.k)


def _scaled(x: Tensor, shift: int) -> Tensor:
    return x << shift if shift >= 0 else _rounded(x, -shift)


def _rounded(x: Tensor, k: int) -> Tensor:
    """``x/2^k``, half upwards; a shift to the right rounds downwards, below 0 too."""
    return (x + ((1 << k) >> 1)) >> k
