"""What kernels take and how it lies in memory, the same for all of them."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Pool(NamedTuple):
    """Sums over windows of ``size × size`` pixels, times ``gain``; a row or column that fills no window is left out."""

    size: int
    gain: float


@dataclass(frozen=True)
class Form:
    """How currents come in and go out, where that is more than a tensor for a tensor.

    Args:
        gain: ``[T]``; the current is constant, a value ``[...]`` that stands for ``gain[t] · value``, and the backward
            functions return ``Σ_t gain[t]·∂L/∂I[t]``, ``[...]``.
        pool: the post-synaptic current of ``[T, B, C, H, W]`` neurons comes out pooled.
        half_current: the current is bfloat16, and so is its gradient (unless there is a ``gain``).
        half_psc: the post-synaptic current comes out as bfloat16.
        backend: whose kernels they go through.
    """

    gain: Tensor | None = None
    pool: Pool | None = None
    half_current: bool = False
    half_psc: bool = False
    backend: Literal["cpp", "triton"] = "cpp"


PLAIN = Form()


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type of a neuron's state and gradient for a current of a type."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


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
