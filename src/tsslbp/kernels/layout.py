"""Memory layouts of sequences, and their conversion to the ``[T, N]`` of kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from tsslbp.kernels.engine import Pool


@dataclass(frozen=True)
class Layout:
    """Memory layout of one step of a sequence: its axes (counted from 1) from the outermost to the innermost."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def flatten(self, x: Tensor) -> Tensor:
        """``[T, ...] -> [T, N]`` in the order of memory; a view if ``x`` has this layout."""
        if self.order != tuple(range(1, x.dim())):  # permuting costs as much as a small layer
            x = x.permute(0, *self.order)
        return x.reshape(x.shape[0], math.prod(self.shape))

    def restore(self, x: Tensor) -> Tensor:
        """``[T, N] -> [T, ...]``, a view."""
        in_order = range(1, len(self.order) + 1)
        if self.order == tuple(in_order):
            return x.view(x.shape[0], *self.shape)
        inverse = [self.order.index(axis) + 1 for axis in in_order]
        return x.view(x.shape[0], *(self.shape[axis - 1] for axis in self.order)).permute(0, *inverse)

    def repeating(self, table: Tensor) -> Tensor:
        """Rows that broadcast over one step, ``[K, ...]``, as the shortest ``[K, P]`` that repeats to a step in memory."""
        if not math.prod(self.shape):
            return table.new_ones(len(table), 1)
        sizes, plain = _repetition(self, table.shape[1:])
        if plain:
            return table.reshape(len(table), -1)
        table = table.view(len(table), *[1] * (len(self.shape) - table.dim() + 1), *table.shape[1:])
        return table.permute(0, *self.order).expand(-1, *sizes).reshape(len(table), -1)

    def summed(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``[K, N]``, in the order of memory, with the repetitions of :meth:`repeating` added up: ``[K, ...]``, of which
        ``sum_to_size`` makes rows of ``shape``."""
        if not math.prod(self.shape):
            return x.new_zeros(len(x), *shape)
        sizes, _ = _repetition(self, tuple(shape))
        sums = x.view(len(x), -1, math.prod(sizes)).sum(1)
        return replace(self, shape=tuple(sizes[self.order.index(axis)] for axis in range(1, len(sizes) + 1))).restore(sums)

    def pooled(self, pool: Pool | None) -> "Layout":
        """The layout of the pooled sequence."""
        if pool is None:
            return self
        images, channels, height, width = self.shape
        return Layout((images, channels, height // pool.size, width // pool.size), self.order)


def _repetition(layout: Layout, shape: tuple[int, ...]) -> tuple[list[int], bool]:
    """:func:`_repeated`, also of sizes that ``torch.export`` leaves open, which no cache takes."""
    return (_repeated.__wrapped__ if torch.compiler.is_compiling() else _repeated)(layout, shape)


@lru_cache(1024)
def _repeated(layout: Layout, shape: tuple[int, ...]) -> tuple[list[int], bool]:
    """For a shape that broadcasts over a step: the sizes, in memory, of the part that repeats; and whether that part is only
    the axis along which it varies."""
    shape = (*[1] * (len(layout.shape) - len(shape)), *shape)
    varying = [place for place, axis in enumerate(layout.order) if shape[axis - 1] > 1]
    first = varying[0] if varying else len(layout.order)
    sizes = [layout.shape[axis - 1] if place >= first else 1 for place, axis in enumerate(layout.order)]
    return sizes, len(varying) < 2 and math.prod(sizes) == math.prod(shape)


def flatten(x: Tensor, pool: Pool | None) -> tuple[Layout, Tensor]:
    """The layout of a sequence, and the sequence as ``[T, N]``: a view if it is dense with time outermost.

    With pooling the layout is channels-last.
    """
    order, strides = tuple(range(1, x.dim())), x.stride()
    if pool is not None:
        order = (1, 3, 4, 2)
    elif not x.is_contiguous():
        by_stride = tuple(sorted(order, key=lambda axis: -strides[axis]))
        if x.permute(0, *by_stride).is_contiguous():
            order = by_stride
    layout = Layout(tuple(x.shape[1:]), order)
    return layout, layout.flatten(x)
