"""Networks without spikes for comparison: the same layers and weights with other units, and one pass instead of T steps.

    y = 1 if x > θ else 0, backward ∂y/∂x = 1 where |x - θ| <= 1, else 0        binary        (1)
    y = max(x, 0)                                                               relu          (2)

``x`` is the output of a linear map, θ the threshold. The last map has no units: its outputs are logits.

Source of (1), the straight-through estimator: M. Courbariaux et al., arXiv 1602.02830, 2016; I. Hubara et al., NeurIPS 2016.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.functional import refuse_second_derivative

Unit = Literal["spiking", "binary", "relu"]


class Binary(torch.autograd.Function):
    """Equation (1): a step forward, a straight line backward. NaN stays NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward((x - threshold).abs() <= 1)
        return torch.where(x.isnan(), x, (x > threshold).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        refuse_second_derivative("the gradient of a binary unit")
        (near,) = ctx.saved_tensors
        return gradient * near, None


def units(x: Tensor, neuron: Unit, threshold: float) -> Tensor:
    """Output of ``"binary"`` units with threshold θ, or of ``"relu"`` units, in the shape of ``x``."""
    return F.relu(x) if neuron == "relu" else Binary.apply(x, threshold)
