"""How a sequence lies in memory, and how it becomes the ``[T, N]`` that kernels walk through."""

import math
from dataclasses import dataclass

from torch import Tensor

from tsslbp.kernels.engine import Pool


@dataclass(frozen=True)
class Layout:
    """How one step of a sequence lies in memory: its axes (counted from 1) from the outermost to the innermost."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def flatten(self, x: Tensor) -> Tensor:
        """``[T, ...] -> [T, N]`` in the order of memory; a view where ``x`` lies this way."""
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

    def repeating(self, table: Tensor) -> tuple[Tensor, list[float]]:
        """Rows that broadcast over one step, ``[K, ...]``, as the shortest ``[K, P]`` of which the step in memory is a
        repetition, and how many neighbours in memory have the same entry (a list of one)."""
        if not math.prod(self.shape):
            return table.new_ones(len(table), 1), [1.0]
        table = table.view(len(table), *[1] * (len(self.shape) - table.dim() + 1), *table.shape[1:])
        varying = [place for place, axis in enumerate(self.order) if table.shape[axis] > 1]
        first, last = (varying[0], varying[-1] + 1) if varying else (0, 0)
        table = table.permute(0, *self.order)
        sizes = [self.shape[axis - 1] for axis in self.order]
        whole = table.expand(-1, *[size if first <= place < last else 1 for place, size in enumerate(sizes)])
        return whole.reshape(len(table), -1), [float(math.prod(sizes[last:]))]

    def pooled(self, pool: Pool | None) -> "Layout":
        """The layout of the pooled sequence."""
        if pool is None:
            return self
        images, channels, height, width = self.shape
        return Layout((images, channels, height // pool.size, width // pool.size), self.order)


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
