"""Products of matrices, by whichever of PyTorch's two libraries is faster.

PyTorch multiplies float32 matrices by MKL. On AMD processors with AVX-512, oneDNN, which PyTorch has for its convolutions,
takes 0.6 to 0.95 of MKL's time where matrices are large. The processor's name and the shapes decide and no measurement does, so
that runs repeat bit for bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.neuron import has_modes, transformed
from tsslbp.utils import machine

PREFERS_ONEDNN = machine.is_amd() and machine.has_avx512()
ROWS, WEIGHTS = 250, 30_000
"""Rows, and numbers in the right factor, from which oneDNN is faster (``benchmarks/products.py``, on Zen 4)."""
TRANSPOSED = 1_000_000
"""Numbers in the product from which it is, if the left factor is transposed in memory, as in gradients by a weight."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """``x·weightᵀ``, ``[N, in], [out, in] -> [N, out]``; differentiable as often as wanted."""
    if not _faster(x, weight):
        return F.linear(x, weight)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        made: Tensor = _Product.apply(x, weight)
        return made
    return _by_onednn(x, weight)


class _Product(torch.autograd.Function):
    """:func:`product` by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        by_x = product(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return by_x, product(gradient.t(), x.t()) if ctx.needs_input_grad[1] else None


def _faster(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is faster for two matrices, and nothing but the product is wanted of PyTorch."""
    if not PREFERS_ONEDNN or torch.compiler.is_compiling() or weight.numel() < WEIGHTS:
        return False
    if not (len(x) >= ROWS if x.is_contiguous() else len(x) * len(weight) >= TRANSPOSED):
        return False
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter) and x.device.type == weight.device.type == "cpu"
    if not plain or not x.dtype == weight.dtype == torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return not (transformed() or has_modes()) and torch._C._get_mkldnn_enabled()


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return made
