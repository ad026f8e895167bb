"""From stored samples to what a network takes."""

from dataclasses import dataclass

from torch import Tensor

from tsslbp import encoding
from tsslbp.data import Normalisation


@dataclass(frozen=True)
class Inputs:
    """Turns a batch as it lies in memory into network input.

    Args:
        encoding: ``constant``, ``poisson`` or ``latency``, for static samples.
        normalisation: the data set's.
        time_steps: T.
        sequence: samples are ``[B, T, ...]`` rather than ``[B, ...]``.
    """

    encoding: str
    normalisation: Normalisation
    time_steps: int
    sequence: bool

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        """``[B, ...]`` or ``[T, B, ...]``, float32; ``seed`` is that of a Poisson encoder."""
        if self.sequence:
            return self.normalisation.normalise(x).transpose(0, 1)
        if self.encoding == "poisson":
            return encoding.poisson(self.normalisation.intensity(x), self.time_steps, seed)
        if self.encoding == "latency":
            return encoding.latency(self.normalisation.intensity(x), self.time_steps)
        return self.normalisation.normalise(x)
