"""Equivalent convolutions with zeros among their weights.

NIR's type check takes only ungrouped convolutions with square kernels, and our notation only square ones of one stride, one
padding and one dilation.
"""

from collections.abc import Sequence

import numpy as np


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """``[out, in/groups, ...] -> [out, in, ...]``: every group gets the channels of the others with weight 0."""
    if groups == 1:
        return weight
    out, each = len(weight) // groups, weight.shape[1]
    whole = np.zeros((len(weight), groups * each, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * out, (group + 1) * out)
        whole[rows, group * each : (group + 1) * each] = weight[rows]
    return whole


def grouped(weight: np.ndarray, groups: int) -> np.ndarray | None:
    """The inverse of :func:`ungrouped`; None if there is no such division, or a weight between groups that is not 0."""
    if len(weight) % groups or weight.shape[1] % groups:
        return None
    parts = zip(np.split(weight, groups), range(groups), strict=True)
    blocks = np.concatenate([np.split(rows, groups, 1)[group] for rows, group in parts])
    return blocks if np.array_equal(ungrouped(blocks, groups), weight) else None


def undilated(weight: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    """A kernel with its gaps filled with zeros."""
    sizes = [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    whole = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    gaps = [slice(None, None, d) for d in dilation]
    whole[(slice(None), slice(None), *gaps)] = weight
    return whole


def squared(weight: np.ndarray, padding: Sequence[int], dilation: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """A square kernel and its padding for each axis; None if sizes are even and odd, which zeros cannot fix."""
    kernel = weight.shape[2:]
    more = [max(kernel) - k for k in kernel]
    if any(m % 2 for m in more):
        return None
    whole = np.pad(weight, [(0, 0), (0, 0), *((m // 2, m // 2) for m in more)])
    return whole, tuple(p + d * (m // 2) for p, d, m in zip(padding, dilation, more, strict=True))


def common(
    weight: np.ndarray, padding: Sequence[int], stride: int, sizes: Sequence[int], made: Sequence[int]
) -> tuple[np.ndarray, int] | None:
    """A square kernel with one padding for all axes, or None if there is none.

    Args:
        weight: undilated, ``[out, in, k, ...]``.
        padding: zeros before the first pixel of each axis.
        stride: of every axis.
        sizes, made: pixels before and after the convolution, by axis.
    """
    kernel = weight.shape[2:]
    for wide in range(max(padding), max(padding) + max(kernel) + 1):
        before = [wide - p for p in padding]
        least = max(b + k for b, k in zip(before, kernel, strict=True))
        for size in range(least, least + stride):
            if all((n + 2 * wide - size) // stride + 1 == m for n, m in zip(sizes, made, strict=True)):
                after = [size - b - k for b, k in zip(before, kernel, strict=True)]
                return np.pad(weight, [(0, 0), (0, 0), *zip(before, after, strict=True)]), wide
    return None
