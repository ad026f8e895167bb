"""From stored samples to what a network takes."""

from dataclasses import dataclass

from torch import Tensor

from tsslbp import encoding
from tsslbp.data import Normalisation
from tsslbp.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """Turns a batch as it lies in memory into network input.

    Args:
        encoding: of static samples, as :func:`tsslbp.encoding.get` takes it.
        normalisation: the data set's.
        time_steps: T.
        sequence: samples are ``[B, T, ...]`` rather than ``[B, ...]``.

    Raises:
        UserError: an unknown encoding, no time step, sequences to be encoded.
    """

    encoding: str
    normalisation: Normalisation
    time_steps: int
    sequence: bool

    def __post_init__(self) -> None:
        encodes = encoding.get(str(self.encoding)) is not None
        if type(self.time_steps) is not int or self.time_steps < 1:
            raise UserError(f"time_steps is {self.time_steps}; it must be a whole number from 1")
        if type(self.sequence) is not bool or (self.sequence and encodes):
            raise UserError(f"encoding {self.encoding} is for static samples; sequence is {self.sequence}")

    def __call__(self, x: Tensor, seed: int | Tensor = 0) -> Tensor:
        """``[B, ...]`` or ``[T, B, ...]``, float32. ``seed``: what a Poisson encoder draws the samples with, as of
        :func:`tsslbp.encoding.poisson`."""
        if self.sequence:
            return self.normalisation.normalise(x).transpose(0, 1)
        if encoder := encoding.get(self.encoding):
            return encoder(self.normalisation.intensity(x), self.time_steps, seed)
        return self.normalisation.normalise(x)
