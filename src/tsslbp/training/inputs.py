"""From stored samples to network input."""

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp import encoding
from tsslbp.data import Normalisation
from tsslbp.data.audio import send_on_delta
from tsslbp.data.filters import Filters
from tsslbp.utils.errors import UserError, check_tensor
from tsslbp.utils.signals import before_end, check_lengths, within


@dataclass(frozen=True)
class Inputs:
    """Turns a stored batch into network input.

    Args:
        encoding: of static samples, as :func:`tsslbp.encoding.get` takes it.
        normalisation: the data set's; for sequences in bins, that of their bins.
        time_steps: T.
        sequence: samples are ``[B, T, ...]`` rather than ``[B, ...]``.
        bin: steps of a stored sequence that are averaged into one.
        stored_steps: of a stored sequence; 0 means ``time_steps``.
        rate: samples per second of the sounds that the sequences are made from; 0 for all other data.
        delta: change of a normalised channel that gives a spike (:func:`tsslbp.data.audio.send_on_delta`), which makes two
            channels of each, ``[B, T, 2F]``; 0 leaves channels as they are.
        filters: turn sequences ``[B, T, F]``, in bins and normalised, into static samples; None for none.

    Raises:
        UserError: an unknown encoding, no time step, sequences to be encoded, bins that do not give T, filters
            without sequences.
    """

    encoding: str
    normalisation: Normalisation
    time_steps: int
    sequence: bool
    bin: int = 1
    stored_steps: int = 0
    rate: int = 0
    delta: float = 0.0
    filters: Filters | None = None

    def __post_init__(self) -> None:
        encodes = encoding.get(str(self.encoding)) is not None
        if type(self.time_steps) is not int or self.time_steps < 1:
            raise UserError(f"time_steps is {self.time_steps}; it must be a whole number from 1")
        if type(self.sequence) is not bool or (self.sequence and encodes):
            raise UserError(f"encoding {self.encoding} is for static samples; sequence is {self.sequence}")
        if not all(type(number) is int and number >= 0 for number in (self.bin, self.stored_steps, self.rate)):
            given = f"{self.bin}, {self.stored_steps} and {self.rate}"
            raise UserError(f"bin, stored_steps and rate are {given}; they must be whole numbers from 0")
        if not isinstance(self.delta, (int, float)) or not 0 <= self.delta < math.inf or (self.delta and not self.sequence):
            raise UserError(f"delta is {self.delta}; it must be 0, or positive and for sequences")
        if self.bin < 1 or (self.bin > 1 and not self.sequence) or -(-self.raw_steps // self.bin) != self._steps:
            raise UserError(f"bins of {self.bin} do not make {self._steps} steps of {self.raw_steps}")
        if self.filters and (not self.sequence or self.delta):
            raise UserError(f"filters are for series; sequence is {self.sequence} and delta {self.delta}")

    @property
    def raw_steps(self) -> int:
        """Steps of a stored sequence."""
        return self.stored_steps or self._steps

    @property
    def _steps(self) -> int:
        """Steps of a sequence in bins."""
        return self.filters.steps if self.filters else self.time_steps

    def __call__(self, x: Tensor, seed: int | Tensor = 0, lengths: Tensor | None = None) -> Tensor:
        """``[B, ...]`` or ``[T, B, ...]``, float32.

        Args:
            x: stored samples.
            seed: of a Poisson encoder, as in :func:`tsslbp.encoding.poisson`.
            lengths: steps of each stored sequence, ``[B]``. Later steps become 0.

        Raises UserError for what is no tensor, sequences of another number of steps, and lengths that cannot be theirs.
        """
        check_tensor("x", x)
        if self.sequence and (x.dim() < 3 or x.shape[1] != self.raw_steps):
            raise UserError(f"x has shape {list(x.shape)}; it must be [B, {self.raw_steps}, ...], batch first")
        if lengths is not None:
            check_lengths(lengths, x.transpose(0, 1) if x.dim() > 1 else x, not self.sequence)
        if self.sequence:
            steps = self.series(x, lengths)
            if self.filters:
                return self.filters(steps, None if lengths is None else self.lengths(lengths))
            steps = (send_on_delta(steps, self.delta).float() if self.delta else steps).transpose(0, 1)
            if lengths is None:
                return steps
            beyond = ~before_end(self.lengths(lengths), self.time_steps)
            return steps.masked_fill_(beyond.view(*beyond.shape, *[1] * (x.dim() - 2)), 0)
        if encoder := encoding.get(self.encoding):
            return encoder(self.normalisation.intensity(x), self.time_steps, seed)
        return self.normalisation.normalise(x)

    def series(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Stored sequences ``[B, T, ...]`` in bins and normalised."""
        return self.normalisation.normalise(mean_of_bins(x, self.bin, lengths))

    def network_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the network's input at one step, for stored samples of this shape."""
        if self.filters:
            return (self.filters.size,)
        return (2 * shape[0],) if self.delta else shape

    def lengths(self, lengths: Tensor) -> Tensor:
        """How many bins stored sequences of these lengths fill, ``[B]``."""
        return (lengths + self.bin - 1) // self.bin

    def steps(self, lengths: Tensor | None) -> Tensor | None:
        """How many steps the network takes of stored sequences of these lengths, ``[B]``; None if as many of all."""
        return None if lengths is None or self.filters else self.lengths(lengths)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; ``filters`` is left out if it is None."""
        # dataclasses.asdict would copy a thousand thresholds one by one
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = {
            name: {f.name: getattr(value, f.name) for f in fields(value)} for name, value in own.items() if is_dataclass(value)
        }
        return {name: parts.get(name, value) for name, value in own.items() if value is not None}


def mean_of_bins(x: Tensor, size: int, lengths: Tensor | None = None) -> Tensor:
    """Means over bins of ``size`` steps, ``[B, T, ...] -> [B, ceil(T / size), ...]``; ``x`` itself for bins of one step.

    The last bin holds the remaining steps, and padding after ``lengths`` ``[B]`` does not count.
    """
    if size == 1:
        return x
    steps = x.shape[1]
    counted = torch.full((x.shape[0],), steps, device=x.device) if lengths is None else lengths
    inside = within(x.float().transpose(0, 1), counted).transpose(0, 1).flatten(2)
    padded = F.pad(inside, (0, 0, 0, -steps % size)).view(x.shape[0], -(-steps // size), size, *x.shape[2:])
    counts = (counted[:, None] - torch.arange(0, steps, size, device=x.device)).clamp(1, size)
    sums = padded.sum(2, dtype=torch.float64)  # exact, so the same in any order
    return (sums / counts.view(*counts.shape, *[1] * (x.dim() - 2))).float()
