"""Maps without weights that regroup neurons: flattening, and votes for classes."""

from torch import Tensor, nn

from tsslbp.layers.base import linear_map, per_sample
from tsslbp.utils.errors import UserError, check_whole
from tsslbp.utils.signals import Signal, check_signal, expanded


class Flatten(nn.Module):
    """``[T, B, ...] -> [T, B, features]``, in the order channel, row, column."""

    def forward(self, signal: Signal) -> Signal:
        """Raises UserError for samples without an axis."""
        return linear_map(self._flat, signal)

    def _flat(self, x: Tensor) -> Tensor:
        if x.dim() < 2:
            raise UserError(f"Flatten wants [T, B, ...] with features; got {per_sample(x, 2)}")
        return x.flatten(1)


class Vote(nn.Module):
    """A class's output is the mean current of ``voters`` neurons in a row: ``[T, B, classes·voters] -> [T, B, classes]``.

    One neuron can only give one of a few spike counts; ten neurons can give ten times as many values.

    Source: the voting layer of W. Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of Spiking
    Neural Networks, ICCV 2021, arXiv 2007.05785, section 4.
    """

    def __init__(self, voters: int) -> None:
        super().__init__()
        check_whole("Vote: voters", voters)
        self.voters = int(voters)

    def forward(self, signal: Signal) -> Tensor:
        """Raises UserError unless ``voters`` divides the number of neurons."""
        check_signal(signal)
        signal = expanded(signal)
        if signal.dim() != 3 or not signal.shape[2] or signal.shape[2] % self.voters:
            raise UserError(f"Vote wants [T, B, classes × {self.voters}]; got {list(signal.shape[1:])} per step")
        return signal.unflatten(-1, (-1, self.voters)).mean(-1)

    def extra_repr(self) -> str:
        return f"{self.voters}"
