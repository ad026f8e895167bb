"""Convolutional spiking layers over one axis or two."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.layers.base import Spiking, draw, per_sample
from tsslbp.layers.linear import check_sizes
from tsslbp.layers.sparse import SparseMap
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError, check_positive, unknown
from tsslbp.utils.fields import plain

ConvInit = Literal["uniform", "kaiming"]
"""Initial weights of convolutions."""
Sizes = int | tuple[int, ...]
"""One number for all axes, or one for each."""


class Convolution(Spiking):
    """What :class:`Conv1d` and :class:`Conv2d` share.

    The weight is ``[out, in/groups, k, ...]``, drawn uniform (PyTorch's default) or Kaiming normal (``init="kaiming"``),
    times ``scale``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as for PyTorch's convolutions, padded with 0.
        neuron, rule: as for :class:`~tsslbp.layers.Spiking`.
        init, scale: of the weight.
        bias: a constant current for each channel, at first 0.
        normalise: normalise currents over batch, time and space.
        standardise: standardise the weight.

    Raises:
        UserError: an unknown rule or initialisation; sizes that make no convolution; bias or standardise with normalise.
    """

    _plain: ClassVar[type[nn.Conv1d | nn.Conv2d]]
    _convolution: ClassVar[Callable[..., Tensor]]
    axes: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        neuron: LIF,
        rule: str | Rule | None = None,
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        init: ConvInit = "uniform",
        scale: float = 1.0,
        bias: bool = False,
        normalise: bool = False,
        standardise: bool = False,
    ) -> None:
        super().__init__(neuron, rule)
        if init not in get_args(ConvInit):
            raise unknown("initialisation", str(init), get_args(ConvInit))
        check_positive("scale", scale)
        check_sizes(in_channels, out_channels, of="channels")
        name, dims = type(self).__name__, len(self.axes)
        kernel_size, stride, padding, dilation, groups = plain((kernel_size, stride, padding, dilation, groups))
        given = {"kernel_size": (kernel_size, 1), "stride": (stride, 1), "padding": (padding, 0), "dilation": (dilation, 1)}
        for what, (sizes, least) in given.items():
            each = each_axis(sizes, dims)
            if len(each) != dims or any(type(size) is not int or size < least for size in each):
                more = " or two of them" if dims == 2 else ""
                raise UserError(f"{name}: {what} is {sizes}; it must be a whole number from {least}{more}")
        self.stride, self.padding, self.dilation = (
            sizes if isinstance(sizes, int) else tuple(sizes) for sizes in (stride, padding, dilation)
        )
        if type(groups) is not int or groups < 1 or in_channels % groups or out_channels % groups:
            raise UserError(f"{name}: groups is {groups}; it must divide {in_channels} and {out_channels} channels")
        self.groups = groups
        like = self._plain(in_channels, out_channels, each_axis(kernel_size, dims), groups=groups, bias=False)  # type: ignore[arg-type]
        weight, variance = like.weight, 1 / 3
        if init == "kaiming":
            variance = 2.0
            draw(weight, nn.init.kaiming_normal_)
        weight = weight.detach().mul_(scale)  # not a new tensor: see draw
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last) if dims == 2 else weight)
        self._beside_the_weight(bias, normalise, standardise, scale * math.sqrt(variance / weight[0].numel()))

    def map(self, x: Tensor) -> Tensor:
        channels = self.weight.shape[1] * self.groups
        fits = x.dim() == self.weight.dim() and x.shape[1] == channels
        if not fits or min(*x.shape[2:], *self.sizes(tuple(x.shape[2:]))) < 1:
            raise UserError(
                f"{type(self).__name__} wants [T, B, {channels}, {', '.join(self.axes)}] at least "
                f"{'×'.join(map(str, self._reach()))} with padding {self.padding}; got {per_sample(x, self.weight.dim())}"
            )
        x, weight = self.laid(x), self.effective_weight()
        if torch.is_autocast_enabled("cpu") and x.device.type == "cpu" and not self.can_be_bf16(tuple(x.shape[2:])):
            with torch.autocast("cpu", enabled=False):
                return self.convolve(x.to(weight.dtype), weight)
        return self.convolve(x, weight)

    def can_be_bf16(self, sizes: tuple[int, ...]) -> bool:
        """Whether PyTorch's convolution of images of these sizes is right in bfloat16, on CPUs.

        With a stride above the size, PyTorch 2.13 may leave the gradient of weights that meet no pixel as it was in memory,
        and may crash if there are groups. Where each channel is a group, it is wrong if strides differ.
        """
        strides = each_axis(self.stride, len(sizes))
        apart = self.groups > 1 and self.weight.shape[1] == 1 and len({*strides}) > 1
        return not apart and all(stride <= size for stride, size in zip(strides, sizes, strict=True))

    def laid(self, x: Tensor) -> Tensor:
        """Images of one channel, in the layout of all others; other input unchanged."""
        if x.dim() == 4 and x.shape[1] == 1 and len({*each_axis(self.stride, 2)}) == 1:
            # such an image has both layouts; by default PyTorch answers in the other one
            # (told this one, PyTorch 2.13 is wrong where a stride is wider than it is high)
            x = x.flatten(1, 2).unsqueeze(-1).permute(0, 3, 1, 2)
        return x

    def sparse_map(self) -> SparseMap | None:
        return self._plain_map() if self.groups == 1 and max(each_axis(self.dilation, 1)) == 1 else None

    def _plain_map(self) -> SparseMap:
        """The map without dilation and groups."""
        dims = self.weight.dim() - 2
        return SparseMap(*(each_axis(x, dims) for x in (tuple(self.weight.shape[2:]), self.stride, self.padding)))

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The convolution with a given weight."""
        stride = self.stride
        if stride != 1 and (map_ := self._plain_map()).picks(weight.shape[1]):
            x, stride = map_.picked(x), 1
        return type(self)._convolution(
            x, weight, stride=stride, padding=self.padding, dilation=self.dilation, groups=self.groups
        )

    def sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Output sizes for an image (or a row) of these sizes; see :func:`convolved`."""
        return convolved(sizes, self._reach(), self.stride, self.padding)

    def in_two_axes(self) -> tuple[tuple[int, int], ...]:
        """Stride, padding and dilation along rows and columns, as of one row of pixels if there is one axis."""
        dims, given = len(self.axes), ((self.stride, 1), (self.padding, 0), (self.dilation, 1))
        return tuple(rows_and_columns(each_axis(sizes, dims), without) for sizes, without in given)

    def _reach(self) -> tuple[int, ...]:
        """Pixels from one end of the kernel to the other."""
        kernel = self.weight.shape[2:]
        return tuple(dilation * (k - 1) + 1 for k, dilation in zip(kernel, each_axis(self.dilation, len(kernel)), strict=True))

    def extra_repr(self) -> str:
        channels, *kernel = self.weight.shape[1:]
        size = kernel[0] if len(set(kernel)) == 1 else tuple(kernel)
        said = f"{channels * self.groups}, {len(self.weight)}, kernel_size={size}, padding={self.padding}"
        for name in ("stride", "dilation", "groups"):
            if (value := getattr(self, name)) != 1:
                said += f", {name}={value}"
        return said + self._extras()


class Conv1d(Convolution):
    """Convolutional spiking layer over one axis: ``[T, B, in, L] -> [T, B, out, L']``; see :class:`Convolution`."""

    _plain, _convolution, axes = nn.Conv1d, staticmethod(F.conv1d), ("L",)


class Conv2d(Convolution):
    """Convolutional spiking layer: ``[T, B, in, H, W] -> [T, B, out, H', W']``; see :class:`Convolution`."""

    _plain, _convolution, axes = nn.Conv2d, staticmethod(F.conv2d), ("H", "W")


def convolved(sizes: tuple[int, ...], reach: Sizes, stride: Sizes, padding: Sizes) -> tuple[int, ...]:
    """Output sizes of a convolution whose kernel spans ``reach`` pixels; below 1 if it does not fit."""
    return SparseMap(*(each_axis(x, len(sizes)) for x in (reach, stride, padding))).sizes(sizes)


def each_axis(sizes: Sizes, dims: int) -> tuple[int, ...]:
    """One size for each axis."""
    return tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,) * dims


def rows_and_columns(sizes: Sequence[int], without: int = 1) -> tuple[int, int]:
    """Sizes along rows and columns. A single axis is that of columns, and ``without`` stands for rows."""
    rows, columns = (*(without,) * (2 - len(sizes)), *sizes)
    return rows, columns
