"""Facts that a model stores about its data: range, sizes, and hashes to recognise samples it has seen."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tsslbp.data.dataset import Dataset, Split
from tsslbp.data.sample_values import counts_events
from tsslbp.utils.errors import UserError

PARTS = ("train", "validation", "test")
REMEMBERED = 64
"""Training samples remembered: those with the smallest digests, so that their order does not matter."""
OFTEN = 2
"""If samples occur this many times on average, there are only a few kinds of them, and any two large sets share them."""
UNLIKE = 10
"""Values whose range is this many times wider than that of the training samples are in other units; so are values of another
type whose range differs much."""
FEW = 10
"""A feature of fewer values than this says nothing if its range is narrower."""
NAMED = 3
"""Features that are named if their ranges differ."""


@dataclass(frozen=True)
class Facts:
    """Facts about a data set as its samples are stored, before any normalisation.

    Args:
        dtype: ``uint8`` or ``float32``.
        low, high: smallest and largest value of the training samples; per channel of pictures and per feature of real numbers;
            one number for all bytes and counts of events in other shapes.
        samples: how many there are by part: ``train``, ``validation``, ``test``.
        digests: hash of each part: of targets, lengths and, if ``exact``, samples in their order.
        exact: whether the samples are part of the digests. Computed samples are not, as they may differ by rounding.
        remembered: hashes of some training samples, by which :meth:`seen` recognises them.
        columns: names of the features of a table, in order; empty without names.

    Raises:
        UserError: other values, as in a damaged file.
    """

    dtype: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    samples: dict[str, int]
    digests: dict[str, str]
    exact: bool
    remembered: tuple[str, ...]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers, parts = (*self.low, *self.high), sorted(PARTS)
        texts = (*self.digests.values(), *self.remembered, *self.columns)
        if (
            self.dtype not in ("uint8", "float32")
            or not numbers
            or len(self.low) != len(self.high)
            or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
            or any(low > high for low, high in zip(self.low, self.high, strict=True))
            or sorted(self.samples) != parts
            or sorted(self.digests) != parts
            or not all(type(count) is int and count >= 0 for count in self.samples.values())
            or type(self.exact) is not bool
            or not self.remembered
            or not all(isinstance(text, str) for text in texts)
        ):
            raise UserError(f"facts about the data set are damaged: {self}")

    @staticmethod
    def of(dataset: Dataset) -> "Facts":
        """The facts of a data set."""
        x, exact = dataset.train.looked_at().values(), not dataset.computed
        together = x.dim() < 4 and (x.dtype == torch.uint8 or (dataset.sequence and counts_events(x)))
        axes = [0, *_other_axes(x, dataset.sequence, together)]
        low, high = x.amin(axes).view(-1), x.amax(axes).view(-1)
        return Facts(
            dtype=str(x.dtype).removeprefix("torch."),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            samples={name: len(part) for name, part in dataset.parts.items()},
            digests={name: _digest(part, exact) for name, part in dataset.parts.items()},
            exact=exact,
            remembered=_smallest(_recognised(dataset.train)),
            columns=dataset.columns,
        )

    @staticmethod
    def read(fields: dict[str, Any]) -> "Facts":
        """Facts from the JSON of :meth:`to_dict`. Raises UserError or TypeError if they are damaged."""
        lists = {key: tuple(fields.get(key, ())) for key in ("low", "high", "remembered", "columns")}
        return Facts(**{**fields, **lists})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """One text for the data set and its split."""
        return "-".join(self.digests[part] for part in PARTS)

    def is_test_set(self, samples: Split) -> bool:
        """Whether these are the test samples that the data set had."""
        return self.digests["test"] == _digest(samples, self.exact)

    def seen(self, samples: Split) -> tuple[float, bool]:
        """An estimate of the share of the training samples that are among these, from 0 to 1, and whether these repeat
        themselves. (Any two large tables of three yes-or-no answers have the same eight rows.)"""
        known = set(self.remembered)
        found = Counter(mark for mark in _hashes(samples) if mark in known)
        return len(found) / len(known), found.total() >= OFTEN * max(1, len(found))

    def unlike(self, x: Tensor, sequence: bool) -> tuple[str, bool] | None:
        """How the range of stored samples ``[N, ...]`` differs from that of the training samples, as the end of a sentence
        about the values, and whether they are in other units. None if it does not differ. A ``sequence`` has T behind N.

        In other units, most samples have values far outside; a few such samples may be outliers.
        """
        features = len(self.low)
        axes = _other_axes(x, sequence, features == 1)
        low, high = x.amin((0, *axes)).double().view(-1), x.amax((0, *axes)).double().view(-1)
        was_low, was_high = (torch.tensor(side, dtype=torch.float64) for side in (self.low, self.high))
        span, was_span = high - low, was_high - was_low
        least, most = was_low - was_span, was_high + was_span
        wider = (span > UNLIKE * was_span) & (was_span > 0)
        varies = (span > 0) | (features == 1)  # a flag that all these samples share says nothing
        narrower = (was_span > UNLIKE * span) & varies & (x.numel() >= FEW * features)
        odd = (wider | narrower | (low < least) | (high > most)).nonzero().flatten()
        if not len(odd):
            return None
        dtype = str(x.dtype).removeprefix("torch.")
        if len(odd) == features:
            now, then = f"{low.min():g} to {high.max():g}", f"{min(self.low):g} to {max(self.high):g}"
            told = f"run from {now} ({dtype}); the training samples run from {then} ({self.dtype})"
        else:
            kind = "column" if self.columns else "channel" if sequence or x.dim() > 2 else "feature"
            names = self.columns or range(features)
            told = "; ".join(
                f"in {kind} {names[n]} run from {low[n]:g} to {high[n]:g}, in the training samples from {was_low[n]:g} to "
                f"{was_high[n]:g}"
                for n in odd[:NAMED].tolist()
            )
            told += f"; {len(odd) - NAMED} more {kind}s differ as much" if len(odd) > NAMED else ""
        shape = [1] * x.dim()
        shape[1 + sequence] = features
        outside = (x < least.float().view(shape)) | (x > most.float().view(shape))
        for axis in reversed(axes):
            outside = outside.any(axis)
        other_units = bool((wider & (outside.double().mean(0) > 0.5)).any())
        return told, other_units or (dtype != self.dtype and len(odd) == features)


def _other_axes(x: Tensor, sequence: bool, together: bool) -> list[int]:
    """Axes of a sample whose values are of one range: all, or all but that of features or channels, the first behind time."""
    return [axis for axis in range(1, x.dim()) if together or axis != 1 + sequence]


def _hashes(part: Split) -> Iterator[str]:
    """A hash of every sample."""
    return (hashlib.blake2b(mark, digest_size=8).hexdigest() for mark in part.marks())


def _recognised(part: Split) -> Iterator[str]:
    """A hash of every sample that is looked at: of all for samples in files, since only names and sizes are hashed."""
    return _hashes(part if part.streamed else part.looked_at())


def _smallest(hashes: Iterable[str]) -> tuple[str, ...]:
    """The ``REMEMBERED`` smallest, each once, in order."""
    kept: list[str] = []
    for text in hashes:
        if len(kept) < REMEMBERED or text < kept[-1]:
            kept = sorted({*kept, text})[:REMEMBERED]
    return tuple(kept)


def _digest(part: Split, exact: bool) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for number, text in enumerate(_recognised(part) if exact else ()):
        digest.update((" " * (number > 0) + text).encode())
    digest.update(part.y.contiguous().numpy().data)
    if part.lengths is not None:
        digest.update(part.lengths.contiguous().numpy().data)
    return digest.hexdigest()
