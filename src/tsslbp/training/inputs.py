"""From stored samples to what a network takes."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from tsslbp import encoding
from tsslbp.data import Normalisation
from tsslbp.errors import UserError
from tsslbp.filters import Filters


@dataclass(frozen=True)
class Inputs:
    """Turns a batch as it lies in memory into network input.

    Args:
        encoding: of static samples, as :func:`tsslbp.encoding.get` takes it.
        normalisation: the data set's.
        time_steps: T.
        sequence: samples are ``[B, T, ...]`` rather than ``[B, ...]``.
        filters: what turns sequences ``[B, T, F]`` into static samples, if anything does.

    Raises:
        UserError: an unknown encoding, no time step, sequences to be encoded, filters without sequences.
    """

    encoding: str
    normalisation: Normalisation
    time_steps: int
    sequence: bool
    filters: Filters | None = None

    def __post_init__(self) -> None:
        encodes = encoding.get(str(self.encoding)) is not None
        if type(self.time_steps) is not int or self.time_steps < 1:
            raise UserError(f"time_steps is {self.time_steps}; it must be a whole number from 1")
        if type(self.sequence) is not bool or (self.sequence and encodes):
            raise UserError(f"encoding {self.encoding} is for static samples; sequence is {self.sequence}")
        if self.filters and not self.sequence:
            raise UserError("filters are for sequences; sequence is False")

    def __call__(self, x: Tensor, seed: int | Tensor = 0, lengths: Tensor | None = None) -> Tensor:
        """``[B, ...]`` or ``[T, B, ...]``, float32. ``seed``: what a Poisson encoder draws the samples with, as of
        :func:`tsslbp.encoding.poisson`. ``lengths``: steps of each sequence, ``[B]``, which only filters need."""
        if self.filters:
            return self.filters(self.normalisation.normalise(x), lengths)
        if self.sequence:
            return self.normalisation.normalise(x).transpose(0, 1)
        if encoder := encoding.get(self.encoding):
            return encoder(self.normalisation.intensity(x), self.time_steps, seed)
        return self.normalisation.normalise(x)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; without filters where there are none."""
        # Not dataclasses.asdict, which copies each of a thousand thresholds by itself.
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = {
            name: {f.name: getattr(value, f.name) for f in fields(value)} for name, value in own.items() if is_dataclass(value)
        }
        return {name: parts.get(name, value) for name, value in own.items() if value is not None}
