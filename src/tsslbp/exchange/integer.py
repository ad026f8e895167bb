"""Integer networks: the bit-exact specification of integer C.

The weights of a channel are whole numbers q of a step, and so are all sums of them. In units of ``step/(one·2^shift)``, a chain
(``chain.py``) then computes

    J[t] = J[t-1] - leak_s(J[t-1]) + scaled(Σ q·x) + shortcut(Σ q'·x')                                               (1)
    u[t] = u[t-1] - leak_m(u[t-1]) + J[t] + b               0 in place of u[t-1] if that neuron has just spiked    (2)
    B[t] = B[t-1] - leak_a(B[t-1]) + r·s[t-1]               0 where the threshold does not adapt                   (3)
    s[t] = 1 if u[t] > θ + B[t] else 0                                                                             (4)
    leak(z) = round(z·j/2^k)                                j/2^k is the leak 1/τ                                  (5)
    scaled(z) = z·2^shift, or round(z/2^-shift)             shortcut(z) = round(z·m/2^k)                             (6)

with ``x`` the incoming spikes, 0 or 1 each, and for a population's own lateral weights those of the step before, times ``one``.
The network's input is whole numbers of 1/64, so ``one`` is 64 after it, and 1 elsewhere. ``q'`` and ``x'`` are those of a
shortcut, whose weights are whole numbers of another step; ``m/2^k`` converts them to this one. Every ``round`` is half
upwards, ``floor(z + 1/2)``. The answer is the class with the largest sum of a over the steps:

    a[t] = a[t-1] - leak_s(a[t-1]) + 4096·s[t]                                                                     (7)

``shift`` is the largest for which nothing overflows 32 bits for any input; without a leak, in T steps. A threshold that its
neuron can never reach is cut to 32 bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.exchange.chain import INPUT, Array, Chain, Map, Population
from tsslbp.layers import quantisation
from tsslbp.layers.quantisation import INPUT_UNIT
from tsslbp.utils.errors import UserError

SPIKE = 4096
"""Added to the output current by a spike."""
MOST = 2**31 - 1
"""The largest number of 32 bits."""
FINEST, COARSEST = 12, 2**6
"""Bits behind the point at most, and units in the smallest threshold at least."""
NEAR = 0.005
"""Largest relative error of the leak of an adaptive threshold, which is not trained as a small fraction."""
COARSE = 0.01
"""Largest share of a channel's largest sums that the rounding of a shortcut may change."""
CLEAR = 8
"""How many times as large as the drift the smallest threshold must be. In the test, a few spikes in a hundred differ above it,
and below 1 a tenth or more, some of them in silence."""


class Leak(NamedTuple):
    """The share ``j/2^k`` of equation (5)."""

    j: int
    k: int


class IntegerShortcut(NamedTuple):
    """A shortcut."""

    weight: Array
    """q', int8 in the shape of the map's."""
    m: Array
    """m of equation (6) for every channel, int32."""
    k: int


class IntegerThreshold(NamedTuple):
    """An adaptive threshold, equation (3)."""

    leak: Leak
    by: Array
    """r of every channel, int32."""


@dataclass(frozen=True, eq=False)
class IntegerPopulation:
    """An integer population.

    Args:
        plain: the population that it comes from.
        weight, lateral: q, int8 in the shapes of ``plain``.
        bias, threshold: b and θ of every channel, int32.
        one: value of its own spikes in its sums.
        shift: see equation (6).
        shortcut: the shortcut, or None.
        rising: the adaptive threshold; None if it is fixed.
    """

    plain: Population
    weight: Array
    lateral: Array | None
    bias: Array
    threshold: Array
    one: int
    shift: int
    shortcut: IntegerShortcut | None
    rising: IntegerThreshold | None


@dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """Integer populations one after the other.

    Args:
        chain: that it comes from.
        populations: in order.
        membrane, synapse: the leaks 1/τm and 1/τs.
    """

    chain: Chain
    populations: tuple[IntegerPopulation, ...]
    membrane: Leak
    synapse: Leak

    def steps(self, x: Tensor, steps: int | None = None) -> Iterator["Response"]:
        """The response to samples after each step.

        Args:
            x: input in whole numbers of 1/64: ``[T, N, C, ...]``, or ``[N, C, ...]`` for ``steps`` steps.
        """
        samples = x.shape[0 if steps else 1]
        state = [_State.rest(whole, samples) for whole in self.populations]
        sums = _Sums(constant=steps is not None)
        output = evidence = torch.zeros(samples, self.populations[-1].plain.neurons, dtype=torch.int64)
        for t in range(steps or len(x)):
            sent = {INPUT: (x if steps else x[t]).reshape(samples, *self.populations[0].plain.map.sent)}
            spikes: dict[str, Tensor] = {}
            for number, (whole, before) in enumerate(zip(self.populations, state, strict=True)):
                plain = whole.plain
                drive = _scaled(sums(plain.map, whole.weight, sent) + whole.one * before.heard(whole), whole.shift)
                if whole.shortcut is not None and plain.shortcut is not None:
                    around = sums(plain.shortcut, whole.shortcut.weight, sent)
                    drive = drive + _rounded(around * _by_channel(whole.shortcut.m), whole.shortcut.k)
                sent[number] = spikes[plain.name] = before.step(whole, drive, self.membrane, self.synapse)
            output = output - _leak(output, self.synapse) + SPIKE * sent[len(state) - 1].flatten(1)
            evidence = evidence + output
            yield Response(spikes, evidence.unflatten(1, (-1, self.chain.voters)).sum(2))


class Response(NamedTuple):
    """Response to samples up to a step."""

    spikes: dict[str, Tensor]
    """Of every population in this step, ``[N, channels, rows, columns]`` of int64."""
    evidence: Tensor
    """Sum of the output current for each class, ``[N, classes]``."""


@dataclass
class _State:
    """J, u, B and the last spikes of a population, ``[N, channels, rows, columns]``."""

    current: Tensor
    membrane: Tensor
    raised: Tensor
    spikes: Tensor

    @staticmethod
    def rest(whole: IntegerPopulation, samples: int) -> "_State":
        return _State(*[torch.zeros(samples, *whole.plain.shape, dtype=torch.int64)] * 4)

    def heard(self, whole: IntegerPopulation) -> Tensor:
        """Input through lateral weights."""
        if whole.lateral is None:
            return torch.zeros_like(self.spikes)
        return (self.spikes.flatten(1).double() @ torch.from_numpy(whole.lateral).double().T).long().view(self.spikes.shape)

    def step(self, whole: IntegerPopulation, drive: Tensor, membrane: Leak, synapse: Leak) -> Tensor:
        """Equations (1) to (4); ``drive`` is added to J."""
        self.current = self.current - _leak(self.current, synapse) + drive
        self.membrane = self.membrane - _leak(self.membrane, membrane) + self.current + _by_channel(whole.bias)
        if whole.rising is not None:
            self.raised = self.raised - _leak(self.raised, whole.rising.leak) + _by_channel(whole.rising.by) * self.spikes
        self.spikes = (self.membrane > _by_channel(whole.threshold) + self.raised).long()
        self.membrane = self.membrane * (1 - self.spikes)
        return self.spikes


def whole_input(x: Tensor) -> Tensor:
    """Network input as whole numbers of 1/64, as a network of few bits takes it: int64, shape of ``x``."""
    return (quantisation.on_grid(x) * INPUT_UNIT).long()


def integer(chain: Chain, low: int, high: int, steps: int) -> IntegerNetwork:
    """The integer network of a chain with weights of few bits.

    Args:
        chain: the network.
        low, high: smallest and largest whole number of its input.
        steps: how many steps must not overflow 32 bits if membranes or adaptive thresholds do not leak. If they do, none ever
            does.

    Raises:
        UserError: weights in floating point, lateral weights after pooling, a layer too wide for 32 bits.
    """
    membrane, synapse = (Leak(*quantisation.leak(tau)) for tau in (chain.tau_m, chain.tau_s))
    largest = max(abs(low), abs(high))
    made = tuple(_whole(plain, largest, membrane, synapse, steps) for plain in chain.populations)
    return IntegerNetwork(chain, made, membrane, synapse)


def _whole(plain: Population, largest: int, membrane: Leak, synapse: Leak, steps: int) -> IntegerPopulation:
    by, around = plain.map, plain.shortcut
    if by.step is None:
        raise UserError(f"layer {plain.name!r} has weights in floating point; train it with --bits, or round them with --bits")
    one, lateral, shortcut = _one(by), None, None
    weight, reached = _whole_numbers(by, largest)
    if plain.lateral is not None:
        back = plain.lateral / by.step[:, None]
        if by.summed != (1, 1) or np.abs(back - np.rint(back)).max() > 1e-3:
            raise UserError(
                f"layer {plain.name!r} is recurrent and behind pooling, so its maps have other steps; leave --bits out"
            )
        lateral = _int8(np.rint(back))
        reached = reached + one * _magnitude(lateral)
    step = np.where(reached > 0, by.step, by.step.max())  # without weights, any would do
    most = ratio = np.zeros(1)  # of a shortcut: its largest sums, and their unit in that of the others
    if around is not None and around.step is not None:
        shortcut, most = _whole_numbers(around, largest)
        ratio = around.step * one / (step * _one(around))
    threshold, bias = (x * one / step for x in (plain.threshold, plain.bias))
    rise, adapting = np.zeros(1), Leak(1, 0)
    if plain.rise is not None:
        rise, adapting = plain.rise.by * one / step, Leak(*quantisation.leak(plain.rise.tau_a, NEAR))
    bounds = _Bounds((1 + COARSE) * (reached + most * ratio), np.abs(bias), threshold, rise, adapting)
    shift = bounds.shift(membrane, synapse, steps)
    scale = 2.0**shift
    beside = None if shortcut is None else IntegerShortcut(shortcut, *_fractions(ratio * scale, most))
    if 3 * reached.max() > MOST:
        raise UserError(f"layer {plain.name!r} needs more than 32 bits for its sums; give it fewer inputs or fewer bits")
    lost = 0.0 if beside is None else np.abs(beside.m / 2.0**beside.k - ratio * scale) * most
    if np.any(lost > COARSE * (reached + most * ratio) * scale):
        raise UserError(f"layer {plain.name!r} has a shortcut of too large sums for 32 bits; put a layer before its block")
    # a number that leaks stands still near 0, as every rounding loses up to half a unit
    drift = 0.5 * _kept(synapse, steps) * _kept(membrane, steps)
    if threshold.min() * scale < max(COARSEST, CLEAR * drift) or (beside is not None and beside.k < 0):
        raise UserError(
            f"layer {plain.name!r} needs more than 32 bits, as its smallest threshold is too small beside its largest sums; "
            "give it fewer inputs, shorter time constants, or weights that are not tiny beside a bias or a shortcut"
        )
    rising = None if plain.rise is None else IntegerThreshold(adapting, _int32(rise * scale))
    return IntegerPopulation(
        plain, weight, lateral, _int32(bias * scale), _int32(threshold * scale), one, shift, beside, rising
    )


class _Bounds(NamedTuple):
    """Bounds on the numbers of a population, for each channel, in units of ``step/one``."""

    reached: Array
    """The sums."""
    bias: Array
    threshold: Array
    rise: Array
    adapting: Leak

    def shift(self, membrane: Leak, synapse: Leak, steps: int) -> int:
        """The largest shift for which equations (1) to (6) do not overflow 32 bits, in ``steps`` steps where nothing leaks."""
        for shift in range(FINEST, -32, -1):
            scale = 2.0**shift
            current = (self.reached * scale + 1.5) * _kept(synapse, steps)  # half a unit is lost by every rounding
            potential = (current + self.bias * scale + 1.5) * _kept(membrane, steps)
            fires = self.threshold * scale <= potential + 1  # one that never does needs no room for its threshold
            raised = fires * (self.rise * scale + 1) * _kept(self.adapting, steps)
            potential = potential + fires * self.threshold * scale + raised
            leaking = ((current, synapse), (potential, membrane), (raised, self.adapting))
            if max((x * max(leak.j, 1)).max() + 2**leak.k for x, leak in leaking) <= MOST:
                return shift
        return -32


def _kept(leak: Leak, steps: int) -> float:
    """The most that a 1 in every step adds up to, in ``steps`` steps if nothing leaks."""
    return 2**leak.k / leak.j if leak.j else steps


def _one(by: Map) -> int:
    return INPUT_UNIT if by.source == INPUT else 1


def _whole_numbers(by: Map, largest: int) -> tuple[Array, Array]:
    """The weights of a map in steps, int8, and the largest sum of each channel; ``largest`` is that of the network's input."""
    assert by.step is not None
    q = _int8(np.rint(by.weight / by.step.reshape(-1, 1, 1, 1)))
    return q, _magnitude(q) * (largest if by.source == INPUT else 1) * math.prod(by.summed)


def _fractions(ratio: Array, most: Array) -> tuple[Array, int]:
    """m and the largest k for which ``m/2^k`` is nearest to the ratios and ``z·m`` fits 32 bits for z up to ``most``."""
    k = 24
    while k >= 0 and ((np.rint(ratio * 2.0**k) * np.maximum(most, 1)).max() + 2.0**k) > MOST:
        k -= 1
    return _int32(ratio * 2.0 ** max(k, 0)), k


def _magnitude(q: Array) -> Array:
    return np.abs(q.astype(np.int64)).reshape(len(q), -1).sum(1)


def _int8(q: Array) -> Array:
    return q.astype(np.int8)


def _int32(x: Array) -> Array:
    return np.rint(x).clip(-MOST, MOST).astype(np.int32)


class _Sums:
    """``Σ q·x`` of a map, ``[N, out, rows, columns]`` of int64; computed once for a ``constant`` input."""

    def __init__(self, constant: bool) -> None:
        self.constant, self.known = constant, dict[int, Tensor]()

    def __call__(self, by: Map, weight: Array, sent: dict[int, Tensor]) -> Tensor:
        if id(by) in self.known:
            return self.known[id(by)]
        x, kernel = _pooled(by, sent[by.source]), torch.from_numpy(weight).double()
        sums = F.conv2d(x, kernel, None, by.stride, by.padding, by.dilation, by.groups).long()
        if by.source == INPUT and self.constant:
            self.known[id(by)] = sums
        return sums


def _by_channel(x: Array) -> Tensor:
    return torch.from_numpy(x).long().view(-1, 1, 1)


def _pooled(by: Map, sent: Tensor) -> Tensor:
    """The input of a map after its pooling, in float64, which is exact up to 2^53: PyTorch convolves no whole numbers."""
    return F.avg_pool2d(F.max_pool2d(sent.double(), by.largest), by.summed, divisor_override=1)


def _leak(x: Tensor, leak: Leak) -> Tensor:
    return _rounded(x * leak.j, leak.k)


def _scaled(x: Tensor, shift: int) -> Tensor:
    return x << shift if shift >= 0 else _rounded(x, -shift)


def _rounded(x: Tensor, k: int) -> Tensor:
    """``x/2^k``, half upwards; a shift to the right rounds downwards, also below 0."""
    return (x + ((1 << k) >> 1)) >> k
