"""Batch normalisation, also over time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp import processes
from tsslbp.errors import UserError

MOMENTUM, EPSILON = 0.1, 1e-5
"""Share of a new batch in the running statistics, and what keeps the divisor above 0; as in PyTorch."""


class BatchNorm(nn.Module):
    """Normalise currents channel by channel (or neuron by neuron) over batch, time and space, ``[T, B, C, ...]``:

        y = gain·(I - mean)/sqrt(variance + 1e-5) + shift

    In training, mean and variance are the batch's, over all samples and all their steps, and move the running statistics a
    tenth of the way. Steps after the end of a padded sequence do not count if ``inside`` marks them. Evaluation uses the
    running statistics. The layer is then an affine map, which :meth:`tsslbp.layers.Spiking.fold` merges into the weight and
    bias before it.

    ``gain`` starts at the threshold, so that currents are about as large as that; ``shift`` starts at 0.
    Processes that train together (:mod:`tsslbp.processes`) take the statistics of all their samples.

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

    def forward(self, current: Tensor, inside: Tensor | None = None) -> Tensor:
        """``inside``: where sequences have not ended, ``[T, B]`` of bool (:func:`tsslbp.signal.length_mask`). In
        training, other steps do not count and come out as 0.

        Raises UserError for a wrong number of channels, and in training for a single value per channel, which has no variance.
        """
        if current.dim() < 3 or current.shape[2] != len(self.gain):
            raise UserError(f"BatchNorm wants [T, B, {len(self.gain)}, ...]; got {list(current.shape[1:])} per step")
        masked = inside is not None and self.training
        x = current[inside] if masked else current.flatten(0, 1)
        group, single = processes.group(), x.shape[0] < 2  # for one picture PyTorch 2.13's gradients are wrong in some layouts
        if self.training and (group.count > 1 or single):
            y = self._together(x, group)
        elif single:
            factor, shift = (number.view(-1, *[1] * (x.dim() - 2)) for number in self.affine())
            y = (x * factor + shift).to(x.dtype)
        else:
            y = F.batch_norm(x, self.mean, self.variance, self.gain, self.shift, self.training, MOMENTUM, EPSILON)
        return torch.zeros_like(current).index_put((inside,), y) if masked else y.unflatten(0, current.shape[:2])

    def _together(self, x: Tensor, group: processes.Group) -> Tensor:
        """Normalise in training by the statistics of all processes' samples ``[N, C, ...]``; a process may have none."""
        axes, wide = [0, *range(2, x.dim())], x.to(torch.promote_types(x.dtype, self.mean.dtype))
        count = group.add_(torch.tensor(float(math.prod(x.shape[axis] for axis in axes)), dtype=torch.float64)).item()
        if count <= 1:
            raise UserError(f"normalisation needs two steps or samples in training; its currents are {list(x.shape)}")
        shape = (-1, *[1] * (x.dim() - 2))
        mean = group.total(wide.sum(axes)) / count
        around = wide - mean.view(shape)
        variance = group.total(around.square().sum(axes)) / count
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance * (count / (count - 1)), MOMENTUM)
        factor = self.gain / (variance + EPSILON).sqrt()
        return (around * factor.view(shape) + self.shift.view(shape)).to(x.dtype)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Factor and offset of the affine map in evaluation, ``[C]`` each."""
        factor = self.gain / (self.variance + EPSILON).sqrt()
        return factor, self.shift - self.mean * factor

    def extra_repr(self) -> str:
        return f"{len(self.gain)}"
