"""Batch normalisation, also over time."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.functional import refuse_second_derivative
from tsslbp.utils import distributed
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Signal, check_mask, check_signal, expanded

MOMENTUM, EPSILON = 0.1, 1e-5
"""Share of a new batch in the running statistics, and what keeps the divisor above 0; as in PyTorch."""


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """The forward and backward hooks of a module, by kind."""
    return module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks


class BatchNorm(nn.Module):
    """Normalise currents channel by channel (or neuron by neuron) over batch, time and space, ``[T, B, C, ...]``:

        y = gain·(I - mean)/sqrt(variance + 1e-5) + shift

    In training, mean and variance are the batch's, over all samples and all their steps, and move the running statistics a
    tenth of the way. Steps after the end of a padded sequence do not count if ``inside`` marks them. Evaluation uses the
    running statistics. The layer is then an affine map, which :meth:`tsslbp.layers.Spiking.fold` merges into the weight and
    bias before it.

    ``gain`` starts at the threshold, so that currents are about as large as that; ``shift`` starts at 0.
    Processes that train together (:mod:`tsslbp.utils.distributed`) take the statistics of all their samples.

    Source: H. Zheng et al., Going Deeper With Directly-Trained Larger Spiking Neural Networks, AAAI 2021, arXiv 2011.05280,
    equations (5) to (7) with α = 1, whose λ·V_th is ``gain`` and whose β is ``shift``.

    Args:
        channels: C.
        threshold: of the neurons behind it.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, threshold: float | Tensor = 1.0) -> None:
        super().__init__()
        start = threshold.detach().flatten() if isinstance(threshold, Tensor) else threshold
        self.gain = nn.Parameter(torch.ones(channels) * start)
        self.shift = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, current: Signal, inside: Tensor | None = None) -> Tensor:
        """``inside``: where sequences have not ended, ``[T, B]`` of bool (:func:`tsslbp.utils.signals.length_mask`). In
        training, other steps do not count and come out as 0.

        Raises UserError for a wrong number of channels, and in training for a single value per channel, which has no variance.
        """
        check_signal(current, "current")
        current = expanded(current)
        if current.dim() < 3 or current.shape[2] != len(self.gain):
            raise UserError(f"BatchNorm wants [T, B, {len(self.gain)}, ...]; got {list(current.shape[1:])} per step")
        if inside is not None:
            check_mask("inside", inside, current)
        masked = inside is not None and self.training
        x = current[inside] if masked else current.flatten(0, 1)
        if x.shape[0] == 1 and x.dim() > 2:  # PyTorch 2.13 has wrong gradients for one picture in some layouts, never for rows
            y = self._normalised(x[0].flatten(1).t()).t().unflatten(1, x.shape[2:])[None]
        else:
            y = self._normalised(x)
        return torch.zeros_like(current).index_put((inside,), y) if masked else y.unflatten(0, current.shape[:2])

    def _normalised(self, x: Tensor) -> Tensor:
        """Normalise ``[N, C, ...]``, in training by the statistics of all processes' samples; a process may have none."""
        group = distributed.group()
        count: float = x.numel() // len(self.gain)
        if not self.training or (group.world_size == 1 and count > 1):
            return F.batch_norm(x, self.mean, self.variance, self.gain, self.shift, self.training, MOMENTUM, EPSILON)
        with torch.no_grad():
            mean, variance = self.mean, self.variance
            if count:
                mean, variance = torch.batch_norm_update_stats(x, mean.clone(), variance.clone(), MOMENTUM)
            apart = (mean - self.mean).double()  # the running mean is near, and the same in all processes
            sums = group.all_reduce_(count * torch.stack([torch.ones_like(apart), apart, variance + apart.square()]))
            if (count := sums[0, 0].item()) <= 1:
                raise UserError(f"normalisation needs two steps or samples in training; its currents are {list(x.shape)}")
            apart, variance = sums[1] / count, sums[2] / count - (sums[1] / count).square()
            mean, variance = (self.mean + apart).to(self.mean.dtype), variance.to(self.mean.dtype)
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance * (count / (count - 1)), MOMENTUM)
        made: Tensor = _Normalised.apply(x, self.gain, self.shift, mean, variance, count, group)
        return made

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and offset of the affine map in evaluation, ``[C]`` each. Raises UserError if it is another map, through a
        forward of one's own or hooks."""
        if self.forward != BatchNorm.forward.__get__(self) or any(hooks_of(self)):
            raise UserError("normalisation with a forward of its own or with hooks cannot be folded; use BatchNorm without any")
        factor = self.gain / (self.variance + EPSILON).sqrt()
        return factor, self.shift - self.mean * factor

    def extra_repr(self) -> str:
        return f"{len(self.gain)}"


class _Normalised(torch.autograd.Function):
    """``y = gain·z + shift`` with ``z = (x - mean)/sqrt(variance + 1e-5)``, whose statistics are those of all processes:

    ∂L/∂x = gain·(g - <g> - z·<g·z>)/sqrt(variance + 1e-5)      <> is the mean over batch, time and space, of all processes
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, count: float, group: distributed.Group
    ) -> Tensor:
        ctx.save_for_backward(x, gain, mean, variance)
        ctx.count, ctx.group = count, group
        return F.batch_norm(x, mean, variance, gain, shift, eps=EPSILON)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of normalisation over processes")
        x, gain, mean, variance = ctx.saved_tensors
        by_x, by_gain, by_shift = g, torch.zeros_like(gain), torch.zeros_like(gain)
        if len(x):  # PyTorch 2.13 divides by its size
            backward = torch.ops.aten.native_batch_norm_backward  # as if the statistics were constants
            by_x, by_gain, by_shift = backward(g, x, gain, mean, variance, None, None, False, EPSILON, [True] * 3)
        slope, offset = ctx.group.all_reduce_(torch.stack([by_gain, by_shift])) / ctx.count * gain / (variance + EPSILON).sqrt()
        return by_x - F.batch_norm(x, mean, variance, slope, offset, eps=EPSILON), by_gain, by_shift, None, None, None, None
