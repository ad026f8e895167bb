"""The filters of a series (``filters.py``) in the operators of ONNX, and the numbers of ``templates/filters.c``.

Series are rounded, and sums of them are double, as in ``filters.py``, where they are exact. So rates and values are what they
are in Python.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tsslbp.data.filters import ORDERS, RAISED, TAPS, VIEWS, Filters, channels_of, dilations, weights
from tsslbp.exchange.literals import floats, numbers

if TYPE_CHECKING:
    from tsslbp.exchange.lowering import Writer

FLOAT, INT64, DOUBLE = 1, 7, 11
"""ONNX's numbers of types."""


def filtered(w: "Writer", filters: Filters, x: str, lengths: str) -> str:
    """Rates and values ``[N, size]`` of series ``[N, T, C]`` that end after ``lengths`` ``[N]`` steps."""
    unit = w.double(torch.tensor(filters.unit, dtype=torch.float64))
    x = w.op("Cast", w.op("Mul", w.op("Round", w.op("Div", w.op("Cast", x, to=DOUBLE), unit)), unit), to=FLOAT)
    inside = w.op("Less", torch.arange(filters.steps), w.op("Unsqueeze", lengths, [1]))
    values = w.op("Transpose", _means(w, filters, _stretched(w, filters, x, lengths)), perm=[0, 2, 1])
    values = w.op("Reshape", values, [-1, filters.points * filters.channels])
    mean, std = torch.tensor(filters.mean), torch.tensor(filters.std)
    return w.op("Div", w.op("Sub", w.op("Concat", _rates(w, filters, x, inside, lengths), values, axis=1), mean), std)


def in_c(filters: Filters, entering: int) -> dict[str, Any]:
    """The variables of ``templates/filters.c``; a number of the network's input has ``entering`` bytes."""
    steps, channels, every = filters.steps, filters.channels, dilations(filters.steps)
    of, room, summed = VIEWS * len(every) * len(ORDERS), 2 * steps + (TAPS - 1) * every[-1], np.zeros(0, np.uint32)
    additions = (RAISED + 1) * of
    if channels > 1:
        views = [torch.cat([channels_of(channels, view, d) for d in every]) for view in range(VIEWS)]
        taken = [row.nonzero().flatten().tolist() for view in views for row in view]
        summed = np.array([number for some in taken for number in (len(some), *some)], np.uint32)
        additions += TAPS * of + sum(int(view.sum()) * (1 + number) for number, view in enumerate(views))
    return {
        "views": VIEWS,
        "taps": TAPS,
        "largest": every[-1],
        "each": len(filters.thresholds) // of,
        "points": filters.points,
        "steps": steps,
        "channels": channels,
        "room": room,
        "thresholds": numbers(np.array(filters.thresholds), 10),
        "mean": floats(filters.mean),
        "std": floats(filters.std),
        "summed": numbers(summed) if channels > 1 else None,
        "count": f"{len(filters.thresholds):,}",
        "means": f"{filters.points * channels:,}",
        "additions": f"{steps * additions:,}",
        "comparisons": f"{len(filters.thresholds) * steps:,}",
        "whole": floats([2**24 * filters.unit]),
        "rounding": numbers(np.array(1.5 * 2**52 * filters.unit)),
        "bytes": f"{4 * steps * channels + entering * filters.size + 8 * room:,}",
        "constants": 8 * len(filters.thresholds) + 2 * 4 * filters.size + summed.nbytes,
    }


def _rates(w: "Writer", filters: Filters, x: str, inside: str, lengths: str) -> str:
    """The rates (2), ``[N, thresholds]``."""
    steps, every = filters.steps, dilations(filters.steps)
    counted = w.op("Unsqueeze", w.op("Cast", inside, to=FLOAT), [1, 3])  # [N, 1, T, 1]
    mask = w.op("Unsqueeze", w.op("Cast", inside, to=DOUBLE), [1])
    values = w.op("Mul", w.op("Cast", w.op("Transpose", x, perm=[0, 2, 1]), to=DOUBLE), mask)
    changes = w.op("Sub", w.op("Slice", values, [1], [steps], [2]), w.op("Slice", values, [0], [-1], [2]))
    changes = w.op("Mul", w.op("Pad", changes, [0, 0, 1, 0, 0, 0]), mask)
    thresholds = torch.tensor(filters.thresholds, dtype=torch.float64).view(VIEWS, len(every), len(ORDERS), -1, 1)
    found = []
    for view, signal in enumerate((values, changes)):
        for d, some in zip(every, thresholds[view], strict=True):
            reach = d * (TAPS // 2)
            padded = w.op("Pad", signal, [0, 0, reach, 0, 0, reach])
            seen = w.op("Concat", *(w.op("Slice", padded, [d * n], [d * n + steps], [2]) for n in range(TAPS)), axis=1)
            sums = w.op("MatMul", w.double(weights(filters.channels, view, d).flatten(1)), seen)
            spikes = w.op("Cast", w.op("Greater", w.op("Unsqueeze", sums, [2]), w.double(some)), to=FLOAT)
            found.append(w.op("Reshape", w.op("MatMul", spikes, counted), [-1, some.numel()]))
    return w.op("Div", w.op("Concat", *found, axis=1), w.op("Cast", w.op("Unsqueeze", lengths, [1]), to=FLOAT))


def _stretched(w: "Writer", filters: Filters, x: str, lengths: str) -> str:
    """Series, each from its first to its last step, linearly interpolated to all steps, ``[N, T, C]``."""
    whole, shape = torch.tensor(max(1, filters.steps - 1)), w.op("Shape", x)
    last = w.op("Sub", w.op("Unsqueeze", lengths, [1]), torch.tensor(1))
    place = w.op("Mul", last, torch.arange(filters.steps))
    before = w.op("Div", place, whole)
    after = w.op("Min", w.op("Add", before, torch.tensor(1)), last)
    part = w.op("Div", w.op("Cast", w.op("Mod", place, whole), to=FLOAT), float(whole))
    part = w.op("Unsqueeze", w.op("Cast", part, to=DOUBLE), [2])
    at = (w.op("Expand", w.op("Unsqueeze", at, [2]), shape) for at in (before, after))
    low, high = (w.op("Cast", w.op("GatherElements", x, step, axis=1), to=DOUBLE) for step in at)
    return w.op("Cast", w.op("Add", low, w.op("Mul", part, w.op("Sub", high, low))), to=FLOAT)


def _means(w: "Writer", filters: Filters, x: str) -> str:
    """Means of neighbouring steps, ``[N, T, C] -> [N, points, C]``; a matrix of them would grow with T·points."""
    ends = torch.arange(filters.points + 1) * filters.steps
    first, end = ends[:-1] // filters.points, -(-ends[1:] // filters.points)
    sums = w.op("Pad", w.op("CumSum", w.op("Cast", x, to=DOUBLE), torch.tensor(1)), [0, 1, 0, 0, 0, 0])
    sums = w.op("Sub", w.op("Gather", sums, end, axis=1), w.op("Gather", sums, first, axis=1))
    return w.op("Cast", w.op("Div", sums, w.double((end - first).unsqueeze(1))), to=FLOAT)
