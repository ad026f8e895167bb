"""Distances between spike trains, and agreement within a window.

A train is 0 and 1 on the time axis ``[T, ...]``; step t stands for a spike at time t of a recording that lasts from 0 to T.
All times and time constants are in steps. Every measure works on whole batches and returns one number per train, ``[...]``,
in the type of its floating input, else in the default type, but at least in float32: types of 16 bits cannot count steps.

    D² = (1/τ) ∫ (f - g)² dt = ½ Σ_ij e^(-|i-j|/τ) d_i d_j,   d = s - s',   f = Σ_k e^(-(t-t_k)/τ) for t ≥ t_k      (1)
    G_ij = min(G_(i-1)j + 1, G_i(j-1) + 1, G_(i-1)(j-1) + q |t_i - t'_j|)                                         (2)
    S(t) = 2 (S₁ ν₂ + S₂ ν₁) / (ν₁ + ν₂)²,   S₁ = (Δt_P (t_F - t) + Δt_F (t - t_P)) / ν₁,   ν₁ = t_F - t_P        (3)
    Γ = (N_c - ⟨N_c⟩) / (½ (N + N')) / (1 - w ν),   ⟨N_c⟩ = w ν N',   ν = N/T,   w = 2Δ + 1                       (4)

Sources: (1) M. van Rossum, Neural Computation 13:751, 2001; (2) J. Victor and K. Purpura, J. Neurophysiology 76:1310, 1996;
(3) T. Kreuz et al., J. Neurophysiology 109:1457, 2013, with the edges of PySpike; (4) W. Kistler, W. Gerstner and L. van
Hemmen, Neural Computation 9:1015, 1997, which has w = 2Δ in continuous time: ±Δ whole steps are 2Δ + 1 steps.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tsslbp.utils.errors import UserError, check_number, check_tensors


class Agreement(NamedTuple):
    """Share of spikes that have a partner, each ``[...]``; 1 where both trains are silent, 0 where only one is."""

    precision: Tensor
    """Of the spikes of the train."""
    recall: Tensor
    """Of the spikes of the target."""
    f1: Tensor
    """Harmonic mean of both."""


def van_rossum(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """Van Rossum distance D, equation (1): a spike against silence is ``1/√2``. ``√2 D`` is what elephant returns.

    Args:
        a: spikes 0 and 1, ``[T, ...]``.
        b: the other trains, same shape.
        tau: time constant of the exponential in steps, positive; ``math.inf`` compares counts.

    Returns:
        Distances ``[...]``, a metric.

    Raises:
        UserError: shapes differ, values other than 0 and 1, ``tau`` not positive.
    """
    check_number("tau", tau)
    if not tau > 0:
        raise UserError(f"tau is {tau}; it must be positive")
    first, second, dtype = _trains(a, b)
    difference = first.to(dtype) - second.to(dtype)
    before = squared = difference.new_zeros(difference.shape[1:])
    for d in difference:  # each pair of spikes counts twice
        squared = squared + d * (d + 2 * before)
        before = (before + d) * math.exp(-1 / tau)
    return (squared / 2).clamp(min=0).sqrt().view(a.shape[1:])  # rounding may leave less than 0


def victor_purpura(a: Tensor, b: Tensor, cost: float) -> Tensor:
    """Victor-Purpura distance: the cheapest way from one train to the other, equation (2), exactly.

    Args:
        a: spikes 0 and 1, ``[T, ...]``.
        b: the other trains, same shape.
        cost: q, the cost of moving a spike by one step, finite and at least 0; adding or removing a spike costs 1.

    Returns:
        Distances ``[...]``, a metric if ``cost`` is positive; the difference of counts if it is 0.

    Raises:
        UserError: shapes differ, values other than 0 and 1, ``cost`` negative or not finite.
    """
    check_number("cost", cost)
    if not 0 <= cost < math.inf:
        raise UserError(f"cost is {cost}; it must be finite and at least 0")
    first, second, dtype = _trains(a, b)
    (times, counts), (other_times, other_counts) = _times(first), _times(second)
    columns = torch.arange(len(other_times) + 1, dtype=dtype, device=a.device).unsqueeze(1)
    row = columns.expand(-1, len(counts))
    result = row.gather(0, other_counts[None])[0]  # where the first train is silent
    for i, time in enumerate(times, start=1):
        moved = row[:-1] + cost * (time - other_times).abs().to(dtype)
        reached = torch.cat([row[:1] + 1, torch.minimum(row[1:] + 1, moved)])
        row = columns + (reached - columns).cummin(0).values  # any number of additions after the best of the columns before
        result = torch.where(counts == i, row.gather(0, other_counts[None])[0], result)
    return result.reshape(a.shape[1:])


def spike_distance(a: Tensor, b: Tensor) -> Tensor:
    """SPIKE-distance: the mean of S(t), equation (3), over the recording; free of any time scale.

    t_P and t_F are the spikes before and after t; Δt_P and Δt_F are their distances from the nearest spike of the other train.
    The edges are PySpike's: beyond its first and last spike a train continues with the nearest interval, at least to the edge;
    a silent train has a spike at 0 and at T, a train whose only spike is at 0 also has one at T. So a spike at 0 makes no
    difference to a train that is completed to one there.

    Args:
        a: spikes 0 and 1, ``[T, ...]``.
        b: the other trains, same shape.

    Returns:
        Distances in [0, 1], ``[...]``, 0 for equal trains; the triangle inequality does not hold.

    Raises:
        UserError: shapes differ, values other than 0 and 1.
    """
    first, second, dtype = _trains(a, b)
    first, second = _with_edges(first), _with_edges(second)
    (s, isi), (other_s, other_isi) = _mismatch(first, second, dtype), _mismatch(second, first, dtype)
    return (2 * (s * other_isi + other_s * isi) / (isi + other_isi) ** 2).mean(0).view(a.shape[1:])


def coincidence_factor(train: Tensor, target: Tensor, window: int) -> Tensor:
    """Coincidence factor Γ, equation (4): 1 for equal trains, about 0 for unrelated ones as long as ``w ν`` is small.

    Args:
        train: spikes 0 and 1, ``[T, ...]``.
        target: the trains to agree with, same shape.
        window: Δ in steps, at least 0.

    Returns:
        Γ ``[...]``, at most 1; 1 where both are silent, NaN where ``train`` is so dense that all spikes match by chance
        (``(2Δ + 1) ν ≥ 1``).

    Raises:
        UserError: shapes differ, values other than 0 and 1, ``window`` negative or no whole number.
    """
    matches, count, target_count = _matches(train, target, window)
    chance = (2 * window + 1) * count / len(train)
    gamma = (matches - chance * target_count) / ((count + target_count) / 2) / (1 - chance)
    return torch.where(count + target_count == 0, 1.0, torch.where(chance < 1, gamma, torch.nan))


def agreement(train: Tensor, target: Tensor, window: int) -> Agreement:
    """Precision, recall and F1: a spike is right if it has a partner within ``±window``; each partner is used once.

    Args:
        train: spikes 0 and 1, ``[T, ...]``.
        target: the trains to agree with, same shape.
        window: Δ in steps, at least 0.

    Raises:
        UserError: shapes differ, values other than 0 and 1, ``window`` negative or no whole number.
    """
    matches, count, target_count = _matches(train, target, window)
    silent = count + target_count == 0

    def share(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(silent, 1.0, part / whole.clamp(min=1))

    return Agreement(share(matches, count), share(matches, target_count), share(2 * matches, count + target_count))


def _trains(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both as bool ``[T, B]``, and the type to compute in."""
    check_tensors(a=a, b=b)
    if a.shape != b.shape or a.dim() == 0 or len(a) == 0:
        raise UserError(f"spike trains have shapes {list(a.shape)} and {list(b.shape)}; give two of one shape [T, ...]")
    if not all(bool(((x == 0) | (x == 1)).all()) for x in (a, b)):
        raise UserError("spike trains hold values other than 0 and 1; give spikes_from_psc(psc, tau_s).round(), not currents")
    dtype = torch.promote_types(a.dtype, b.dtype)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    return a.reshape(len(a), -1) > 0, b.reshape(len(b), -1) > 0, torch.promote_types(dtype, torch.float32)


def _times(train: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted spike times ``[most, B]``, padded with T, and their number, ``[B]``."""
    counts = train.sum(0)
    steps = torch.arange(len(train), device=train.device).unsqueeze(1)
    return torch.where(train, steps, len(train)).sort(0).values[: int(counts.amax()) if len(counts) else 0], counts


def _matches(train: Tensor, target: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """The most pairs within ``±window``, and both counts, as real numbers ``[...]``.

    The earliest two unused spikes are paired if they are close enough; else the earlier one has no partner. For sorted trains
    and one window for all, no other pairing has more pairs.
    """
    check_number("window", window)
    if not window >= 0 or window % 1:
        raise UserError(f"window is {window}; it must be a whole number of steps, at least 0")
    first, second, dtype = _trains(train, target)
    (times, counts), (other_times, other_counts) = _times(first), _times(second)
    i, j, matches = (torch.zeros_like(counts) for _ in range(3))
    for _ in range(len(times) + len(other_times)):
        going = (i < counts) & (j < other_counts)
        if not bool(going.any()):
            break
        ahead = times.gather(0, i.clamp(max=len(times) - 1)[None])[0]
        ahead = ahead - other_times.gather(0, j.clamp(max=len(other_times) - 1)[None])[0]
        matches += going & (ahead.abs() <= window)
        i, j = i + (going & (ahead <= window)), j + (going & (ahead >= -window))
    pairs, count, other_count = (x.to(dtype).view(train.shape[1:]) for x in (matches, counts, other_counts))
    return pairs, count, other_count


def _with_edges(train: Tensor) -> Tensor:
    """The train on the times 0 to T, ``[T + 1, B]``, with the spikes added at the edges."""
    train = torch.cat([train, torch.zeros_like(train[:1])])
    silent = ~train.any(0)
    train[0] |= silent
    train[-1] = silent | (train[0] & (train.sum(0) == 1))
    return train


def _neighbours(train: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each time the last spike up to it and the first from it on, ``[T + 1, B]``, and where there is none.

    A missing spike gets a time one more interval away, but not inside the recording.
    """
    end = len(train) - 1
    steps = torch.arange(end + 1, device=train.device).unsqueeze(1)
    before = torch.where(train, steps, -1).cummax(0).values
    after = torch.where(train, steps, end + 1).flip(0).cummin(0).values.flip(0)
    several = train.sum(0) > 1
    first, last = after[:1], before[-1:]
    second, last_but_one = after.gather(0, (first + 1).clamp(max=end)), before.gather(0, (last - 1).clamp(min=0))
    early = torch.where(several, 2 * first - second, 0).clamp(max=0)
    late = torch.where(several, 2 * last - last_but_one, end).clamp(min=end)
    none_before, none_after = before < 0, after > end
    return torch.where(none_before, early, before), torch.where(none_after, late, after), none_before, none_after


def _mismatch(train: Tensor, other: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """S₁ and ν₁ of equation (3) in the middle of each step, ``[T, B]``; S₁ is linear inside a step, so that is its mean."""
    before, after, none_before, none_after = _neighbours(train)
    other_before, other_after, *_ = _neighbours(other)
    end = len(train) - 1
    steps = torch.arange(end + 1, device=train.device).unsqueeze(1)
    distance = torch.minimum(steps - other_before, other_after - steps)
    previous, following, none_before, none_after = before[:-1], after[1:], none_before[:-1], none_after[1:]
    to_previous = distance.gather(0, torch.where(none_before, following, previous).clamp(0, end))
    to_following = distance.gather(0, torch.where(none_after, previous, following).clamp(0, end))
    isi = (following - previous).to(dtype)
    middle = steps[:-1].to(dtype) + 0.5
    return (to_previous * (following - middle) + to_following * (middle - previous)) / isi, isi
