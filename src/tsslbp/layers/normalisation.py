"""Batch normalisation over time too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.errors import UserError

MOMENTUM, EPSILON = 0.1, 1e-5
"""Share of a new batch in the running statistics, and what keeps the divisor from 0; as in PyTorch."""


class BatchNorm(nn.Module):
    """Normalise currents channel by channel (or neuron by neuron) over batch, time and space, ``[T, B, C, ...]``:

        y = gain·(I - mean)/sqrt(variance + 1e-5) + shift

    In training, mean and variance are the batch's, over all samples and all their steps, and move the running statistics a
    tenth of the way. Steps after the end of a padded sequence do not count if the layer is told where they are. In evaluation
    they are the running statistics. The layer is then an affine map, which :meth:`tsslbp.layers.Spiking.fold` makes a part of
    the weight and bias before it.

    ``gain`` starts at the threshold, so that currents are about as large as what makes a neuron spike; ``shift`` starts at 0.
    Processes of a distributed training each take the statistics of their own samples.

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
        """``inside``: where sequences have not ended, ``[T, B]`` of bool (:func:`tsslbp.signal.length_mask`). In training, what
        is outside does not count and comes out as 0.

        Raises UserError for another number of channels, and in training for a single number per channel, which has no variance.
        """
        if current.dim() < 3 or current.shape[2] != len(self.gain):
            raise UserError(f"BatchNorm wants [T, B, {len(self.gain)}, ...]; got {list(current.shape[1:])} per step")
        masked = inside is not None and self.training
        x = current[inside] if masked else current.flatten(0, 1)
        if self.training and x.numel() <= x.shape[1]:
            raise UserError(f"normalisation needs two steps or samples in training; its currents are {list(current.shape)}")
        y = F.batch_norm(x, self.mean, self.variance, self.gain, self.shift, self.training, MOMENTUM, EPSILON)
        return torch.zeros_like(current).index_put((inside,), y) if masked else y.unflatten(0, current.shape[:2])

    def affine(self) -> tuple[Tensor, Tensor]:
        """What it multiplies currents by in evaluation, and what it adds then, ``[C]`` each."""
        factor = self.gain / (self.variance + EPSILON).sqrt()
        return factor, self.shift - self.mean * factor

    def extra_repr(self) -> str:
        return f"{len(self.gain)}"
