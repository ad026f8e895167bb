"""Linear maps of currents that rarely change, such as those of spiking neurons, in less than the dense product's time.

A post-synaptic current ``a`` comes from an input ``x[t] = τs·a[t] - (τs - 1)·a[t-1]``, which for neurons is the spike train. A
linear map W commutes with the synapse, and what stays the same from one step to the next need not be multiplied again:

    forward    S[t] = S[t-1] + W·(x[t] - x[t-1]),    W·a[t] = I[t] = (1 - 1/τs)·I[t-1] + S[t]/τs      (1)
    weights    ∂L/∂W = Σ_t F[t]·(x[t] - x[t-1])ᵀ,    F[t] = F[t+1] + E[t]                             (2)

with E of ``δ = ∂L/∂I`` by equation (4) of ``neuron.py``. A train 0 1 1 1 1 costs one row of W, a silent input nothing; the
gradient by the input, Wᵀδ, stays a dense product. S and F begin again every 256 steps, so that their rounding does not grow
with the sequence: in float32, currents and gradients are within 1e-5 of the dense ones, relative to the largest. At τs = 1 they
begin again at every step, and every spike costs a row. Any current works: changes below its rounding do not count, and a
current of another synapse, or of none, is merely found to change everywhere. Then, or where little would be saved, the map is
left to PyTorch. The choice (:func:`changes`) depends on the numbers alone, so a run repeats bit for bit.

The arithmetic is in ``csrc/sparse.h``.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsslbp.functional import refuse_second_derivative
from tsslbp.kernels import cpp
from tsslbp.layers import products
from tsslbp.neuron import has_modes, transformed
from tsslbp.utils import machine

WORK = 12_000_000
"""Multiplications of the dense map below which looking for changes may cost more than it saves."""
OUTPUTS, BF16_OUTPUTS = 32, 64
"""Outputs, or channels, below which it does; those of maps whose dense product would be bfloat16."""


BLOCK = 16
"""Channels that oneDNN takes at a time, at most."""
GLITCH = 1e3
"""A change of float32 currents that is larger leaves rounding errors in S until that begins again."""


class Most(NamedTuple):
    """The largest share of changes at which a map gains."""

    many: float
    """With many outputs."""
    quarter: int
    """Number of outputs with which it is a quarter as much."""

    def of(self, outputs: int) -> float:
        """With so many outputs or channels, of which the last vector may be partly empty."""
        filled = outputs / (math.ceil(outputs / 16) * 16)
        return min(self.many * filled * (outputs / (outputs + self.quarter)) ** 2, 1.0)


# Measured by benchmarks/changes.py on Zen 4, on Zen 3 and, for all others, on a Xeon with AMX.
FLAT, CONVOLVED, BF16 = (
    (Most(0.135, 60), Most(0.2, 0), Most(0, 0))
    if not machine.is_amd()
    else (Most(0.44, 240), Most(0.46, 12), Most(0.2, 8))
    if machine.has_avx512()
    else (Most(0.35, 220), Most(0.38, 2), Most(0.2, 8))
)
"""Of matrix products, of convolutions, and of convolutions whose dense products would be bfloat16. A processor's name and
instructions decide, since a measurement would make runs differ."""


class SparseMap(NamedTuple):
    """A convolution over one axis or two, without dilation and groups; without a kernel, a matrix product."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()

    def picks(self, channels: int) -> bool:
        """Whether it takes single pixels, apart from each other, of so many channels that PyTorch 2.13 may write its gradient
        by the weight past the end of its memory (oneDNN's issue 6035)."""
        return channels < BLOCK and {*self.kernel} == {1} and max(self.stride) > 1 and not any(self.padding)

    def picked(self, x: Tensor) -> Tensor:
        """The pixels that such a map takes."""
        for axis, step in enumerate(self.stride, x.dim() - len(self.stride)):
            x = x[(slice(None),) * axis + (slice(None, None, step),)]
        return x

    def sizes(self, pixels: tuple[int, ...]) -> tuple[int, ...]:
        """Output sizes from input sizes."""
        each = zip(pixels, self.kernel, self.stride, self.padding, strict=True)
        return tuple((size + 2 * padding - kernel) // stride + 1 for size, kernel, stride, padding in each)

    def numbers(self, tau_s: float) -> list[float]:
        """Arguments of the operators: those of an image, which may have one row or one pixel."""
        missing = 2 - len(self.kernel)
        sizes = [1] * missing, self.kernel, [1] * missing, self.stride, [0] * missing, self.padding
        return [*map(float, itertools.chain(*sizes)), tau_s]


def is_bf16(weight: Tensor) -> bool:
    """Whether the dense map would be a bfloat16 product."""
    return weight.dtype == torch.float32 and machine.autocasts_to_bfloat16("cpu")


def most(map_: SparseMap, outputs: int, bf16: bool) -> float:
    """The largest share of changes at which a map with so many outputs, or channels, gains; 0 if nobody is to look.

    With ``bf16`` (:func:`is_bf16`) only convolutions gain.
    """
    if cpp.NOT_LOADED is not None or outputs < (BF16_OUTPUTS if bf16 else OUTPUTS) or (bf16 and not map_.kernel):
        return 0.0
    return (BF16 if bf16 else CONVOLVED if map_.kernel else FLAT).of(outputs)


def changes(signal: Tensor, weight: Tensor, map_: SparseMap, tau_s: float) -> list[Tensor]:
    """Where a signal changes, at which sample and step, and by how much; empty where the dense map is better.

    Args:
        signal: post-synaptic currents ``[T, B, in]``, ``[T, B, C, L]`` or ``[T, B, C, H, W]``.
        weight: ``[out, in]``, ``[out, C, k]`` or ``[out, C, k, k]``; only its shape and type matter.
        map_: the kind of map.
        tau_s: of the synapse that made the signal. A wrong one costs time, and a larger one rounds in proportion to it.
    """
    bf16 = is_bf16(weight)
    if (torch.is_autocast_enabled("cpu") and not bf16) or not (share := most(map_, len(weight), bf16)):
        return []
    pixels = signal.shape[3:]
    if signal.dim() != weight.dim() + 1 or signal.shape[2] != weight.shape[1] or min(map_.sizes(pixels), default=1) < 1:
        return []  # the dense map says what is wrong
    work = signal.numel() * weight.numel() // (weight.shape[1] * math.prod(map_.stride))
    fits = signal.shape[2] < 2**16 and pixels.numel() < 2**15 and signal.device.type == "cpu"
    typed = signal.dtype == weight.dtype and signal.dtype in (torch.float32, torch.float64)
    if work < WORK or not (fits and typed) or transformed() or has_modes():
        return []
    found: list[Tensor] = torch.ops.tsslbp.changes(_channels_last(signal.detach(), 2), tau_s, share)
    rounds = bool(found) and signal.dtype == torch.float32 and len(found[1]) > 0
    return [] if rounds and torch.linalg.vector_norm(found[1], math.inf) > GLITCH else found


def mapped(signal: Tensor, weight: Tensor, map_: SparseMap, tau_s: float, changes: list[Tensor]) -> Tensor:
    """The map of a signal, ``[T, B, out, ...]``, from its :func:`changes`; differentiable by signal and weight.

    Where the dense map would be a bfloat16 product, the gradient by the signal is one.
    """
    made: Tensor = _Mapped.apply(signal, weight, map_, map_.numbers(tau_s), *changes)
    return made


class _Mapped(torch.autograd.Function):
    """Equation (1), and the weight's gradient by equation (2)."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, weight: Tensor, map_: SparseMap, numbers: list[float], *changes: Tensor) -> Tensor:
        ctx.shape, ctx.map, ctx.numbers = signal.shape, map_, numbers
        ctx.product = torch.bfloat16 if is_bf16(weight) else weight.dtype
        ctx.save_for_backward(weight, *changes)
        return product(signal, weight, numbers, changes).detach()  # not a view, which could not be changed in place

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a sparse linear map")
        weight, *changes = ctx.saved_tensors
        gradient = by_weight = None
        if ctx.needs_input_grad[0]:
            factors = delta.flatten(0, 1).to(ctx.product), weight.to(ctx.product)
            gradient = by_signal(*factors, ctx.map, ctx.shape).to(delta.dtype)
        if ctx.needs_input_grad[1]:
            by_weight = weight_gradient(delta, ctx.shape, ctx.numbers, changes)
        return gradient, by_weight, *[None] * (2 + len(changes))


def product(signal: Tensor, weight: Tensor, numbers: list[float], changes: Sequence[Tensor]) -> Tensor:
    """Equation (1), with the :meth:`SparseMap.numbers` of the map."""
    made = torch.ops.tsslbp.map_changes(_channels_last(signal, 2), _channels_last(weight, 1), *changes, numbers)
    return _channels_first(made, signal.dim() - 3)


def weight_gradient(delta: Tensor, shape: Sequence[int], numbers: list[float], changes: Sequence[Tensor]) -> Tensor:
    """Equation (2), for a signal of a shape."""
    like = _channels_last(delta.new_empty(1).expand(shape), 2)  # only its shape matters
    made = torch.ops.tsslbp.map_changes_backward(like, _channels_last(delta, 2), *changes, numbers)
    return _channels_first(made, len(shape) - 3, axis=1)


def by_signal(delta: Tensor, weight: Tensor, map_: SparseMap, shape: Sequence[int]) -> Tensor:
    """Wᵀδ, dense, in the shape of the signal, from δ ``[T·B, out, ...]``."""
    like = delta.new_empty(1).expand(len(delta), *shape[2:])  # only its shape matters
    gradient, _ = dense_gradients(delta, like, weight, map_, (True, False))
    assert gradient is not None
    return gradient.unflatten(0, tuple(shape[:2]))


def dense_gradients(
    delta: Tensor, x: Tensor, weight: Tensor, map_: SparseMap, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a dense map of ``x``, ``[N, in, ...] -> [N, out, ...]``, by ``x`` and by the weight, as of PyTorch's own."""
    if not map_.kernel:
        by_x = products.product(delta, weight.t()) if needed[0] else None
        return by_x, products.product(delta.t(), x.t()) if needed[1] else None
    if map_.picks(weight.shape[1]):
        of, by_weight = dense_gradients(delta, map_.picked(x), weight, map_._replace(stride=map_.kernel), needed)
        if of is None:
            return None, by_weight
        map_.picked(by_x := x.new_zeros(x.shape)).copy_(of)
        return by_x, by_weight
    axes = len(map_.kernel)
    found = torch.ops.aten.convolution_backward(
        delta, x, weight, None, map_.stride, map_.padding, [1] * axes, False, [0] * axes, 1, [*needed, False]
    )
    return found[0], found[1]


def _channels_last(x: Tensor, axis: int) -> Tensor:
    """Move the channels at ``axis`` behind two axes of pixels, ``[..., C, H, W] -> [..., H, W, C]``."""
    x = x.movedim(axis, -1)
    while x.dim() < axis + 3:
        x = x.unsqueeze(axis)
    return x


def _channels_first(x: Tensor, axes: int, axis: int = 2) -> Tensor:
    """The reverse of :func:`_channels_last` for ``axes`` axes of pixels."""
    for _ in range(2 - axes):
        x = x.squeeze(axis)
    return x.movedim(-1, axis)
