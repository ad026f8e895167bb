"""Differences between runs that share a seed, and which of them are real.

Two runs with the same seed begin with the same weights and see the samples in the same order. Their differences ``d`` are
paired, and over n seeds

    mean d ± t(0.975, n - 1)·sd/√n                          is the 95 % confidence interval of their mean       (1)
    (t(0.975, n - 1) + t(0.8, n - 1))·sd/√n                 is the mean that a test would find four times in five  (2)

With many comparisons some intervals miss 0 by chance. A difference counts as real if it is significant after Holm's correction,
which bounds the chance of any false one at 5 %: S. Holm, Scandinavian Journal of Statistics 6, 65 (1979). A single comparison
that was planned before the runs needs no correction.

Equation (2) is the usual approximation of the effect that a single test, without a correction, detects with a power of 80 %
(with two seeds it is 73 %, and 77 with three).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import special

LEVEL = 0.05


def differences(values: Mapping[str, Sequence[float]], base: Sequence[float], planned: str | None = None) -> dict[str, Any]:
    """:func:`paired` differences from the base by name, with ``holm``, the corrected p-value, and whether it is ``real``.

    Args:
        values: by name, one a seed.
        base: one a seed, in the same order.
        planned: the name whose p-value is not corrected.
    """
    made = {name: paired(reached, base) for name, reached in values.items()}
    explored = [name for name in made if name != planned]
    corrected = dict(zip(explored, holm([made[name]["p"] for name in explored]), strict=True))
    for name, one in made.items():
        one["holm"] = corrected.get(name, one["p"])
        one["real"] = one["holm"] < LEVEL
    return made


def paired(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Differences of paired values, the interval (1), the effect (2) and the p-value of Student's test that their mean is 0.

    If all differences are the same, they have no spread to judge by: p is 1, and interval and effect are None. (Accuracies are
    counts, so with few seeds this happens.)
    """
    found = [value - other for value, other in zip(values, base, strict=True)]
    n, mean, error = len(found), statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found))
    if error < 1e-9:
        return {"differences": found, "mean": mean, "low": None, "high": None, "detectable": None, "p": 1.0}
    half = float(special.stdtrit(n - 1, 0.975)) * error
    p = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    detectable = half + float(special.stdtrit(n - 1, 0.8)) * error
    return {"differences": found, "mean": mean, "low": mean - half, "high": mean + half, "detectable": detectable, "p": p}


def interval(one: Mapping[str, Any]) -> str:
    """The interval of :func:`paired` differences, as tables show it."""
    return "–" if one["low"] is None else f"{one['low']:+.2f} to {one['high']:+.2f}"


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: the k-th smallest of m p-values times m - k + 1, at least the one before, at most 1."""
    corrected, before = [0.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        corrected[at] = before = min(1.0, max(before, (len(p) - rank) * p[at]))
    return corrected
