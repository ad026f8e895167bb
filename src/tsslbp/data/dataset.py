"""Data sets: three parts as stored (mostly bytes, in memory or mapped), and how to turn a batch into numbers."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from tsslbp.utils.errors import LARGEST, UserError, shown
from tsslbp.utils.signals import check_lengths

SPLIT_SEED = 0
VALIDATION = 5000
"""Most samples held out of a named set for validation by default."""
TEST_SET, FIFTH = "the test set", "a held-out fifth"
"""Descriptions of a data set's test samples."""
Kind = Literal["vectors", "pictures", "series", "speech", "events"]
"""Kinds of samples, on which default settings depend."""
Request = tuple[Tensor, Tensor | None]
"""A batch to come: the indices of its samples ``[B]`` (int64), and the keys ``[B]`` of random changes to them (``draws.py``);
None for no changes."""
LARGE, SAMPLES_LOOKED_AT = 2**30, 1000
"""If samples take more bytes than LARGE, only SAMPLES_LOOKED_AT of them, evenly spaced, are looked at."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples ``x`` ``[N, ...]`` (uint8 or float32, as stored) and labels ``y`` ``[N]`` (int64, from 0) or target trains
    ``[N, T, C]`` (uint8, 0 and 1).

    ``lengths`` ``[N]`` (int64) are the steps of each sequence, the rest being padding; None if none is padded.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor | None = None
    streamed: ClassVar[bool] = False
    """Whether samples stay in files and are read when they are used."""

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one stored sample."""
        return tuple(self.x.shape[1:])

    @property
    def trains(self) -> bool:
        """Whether the targets are spike trains rather than classes."""
        return self.y.dim() == 3

    @property
    def padded(self) -> bool:
        """Whether a sequence ends before its last step."""
        return self.lengths is not None and bool((self.lengths < self.x.shape[1]).any())

    def values(self) -> Tensor:
        """``x``, with the first step of each sequence in place of its padding."""
        if self.lengths is None:
            return self.x
        inside = torch.arange(self.x.shape[1]) < self.lengths[:, None]
        return self.x.where(inside.view(*inside.shape, *[1] * (self.x.dim() - 2)), self.x[:, :1])

    def __add__(self, more: "Split") -> "Split":
        """These samples, then more of the same kind."""
        lengths = None
        if self.lengths is not None or more.lengths is not None:
            both = (self, more)
            lengths = torch.cat([torch.full((len(s),), s.x.shape[1]) if s.lengths is None else s.lengths for s in both])
        return Split(torch.cat([self.x, more.x]), torch.cat([self.y, more.y]), lengths)

    def to(self, device: torch.device) -> "Split":
        """The samples on a device; copies to a GPU do not block."""
        if device.type == "cpu":
            return self
        x, y, lengths = self.x, self.y, self.lengths
        made = [part.pin_memory().to(device, non_blocking=True) for part in (x, y, *([] if lengths is None else [lengths]))]
        return Split(*made)

    def select(self, index: Tensor) -> "Split":
        """The samples at ``index`` ``[B]`` (int64) with their lengths, copied."""
        x, y = self.x.index_select(0, index), self.y.index_select(0, index)  # ten times faster than x[index] on CPU
        return Split(x, y, None if self.lengths is None else self.lengths.index_select(0, index))

    def batches(self, requests: Iterable[Request]) -> Iterator["Split"]:
        """The samples of each request in turn, in memory."""
        return (self.select(index) for index, _ in requests)

    def close(self) -> None:
        """End the processes that read samples, if there are any; new ones start when they are needed."""

    def few(self, most: int) -> "Split":
        """At most ``most`` samples, evenly spaced."""
        return self.select(torch.linspace(0, len(self) - 1, min(most, len(self)), dtype=torch.float64).long())

    def looked_at(self) -> "Split":
        """Samples that represent all: all of them, or a few if they are large or in files."""
        return self.few(SAMPLES_LOOKED_AT) if self.streamed or self.x.nbytes > LARGE else self

    def marks(self) -> Iterable[Any]:
        """Bytes (or an array of them) that identify each sample."""
        return self.x.contiguous().numpy()


@dataclass(frozen=True)
class Normalisation:
    """How stored values become network input: ``(x / scale - mean) / std`` per channel.

    A channel is the axis C of ``[B, C, H, W]`` and ``[B, T, C, H, W]``, the last axis of ``[B, F]`` and ``[B, T, F]``. One
    mean and one std serve all channels.

    Args:
        scale: stored value of full intensity: 255 for bytes, 16 for the 8×8 digits, 1 for real numbers.
        mean: per channel, of ``x / scale``.
        std: per channel, of ``x / scale``, above 0.

    Raises:
        UserError: a scale or std that is not positive, a number that is not finite, means and stds that do not pair up.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(number) for number in (self.scale, *self.mean, *self.std))
        if not finite or min((self.scale, *self.std)) <= 0 or not len(self.mean) == len(self.std) > 0:
            raise UserError(f"{self} must have finite numbers, a positive scale and a positive std for every mean")
        object.__setattr__(self, "scale", float(self.scale))  # tensors and NumPy's numbers could not be stored with a model
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def normalise(self, x: Tensor) -> Tensor:
        """``(x / scale - mean) / std`` as one multiplication and one addition per channel; float32, shape of ``x``."""
        gain = _per_channel((1 / (self.scale * s) for s in self.std), x)
        offset = _per_channel((-m / s for m, s in zip(self.mean, self.std, strict=True)), x)
        return x.to(torch.float32, copy=True).mul_(gain).add_(offset)  # in place beats addcmul, which broadcasts slowly

    def intensity(self, x: Tensor) -> Tensor:
        """``x / scale`` for the spike encoders, which take [0, 1]; float32, shape of ``x``."""
        return x.to(torch.float32, copy=True).div_(self.scale)


AS_STORED = Normalisation(1.0, (0.0,), (1.0,))
"""The normalisation that changes nothing."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled data set; ``validation`` was held out of the training samples, ``test`` is apart.

    Static samples are ``x`` ``[N, C, H, W]`` or ``[N, F]``; with ``sequence`` they are ``[N, T, F]`` or ``[N, T, C, H, W]``.
    ``source`` is the name for :func:`tsslbp.data.load`, empty if made in Python; ``tested_on`` describes the test samples.
    ``computed`` samples come from recordings by arithmetic that another processor may round differently. ``kind`` follows from
    the shape and type of the samples if it is left out. ``cut`` sequences are recordings that were cut into the number of steps
    asked for, ``rate`` is that of sounds in samples per second, and ``delta`` the change of a normalised channel that gives a
    spike (:func:`tsslbp.data.audio.send_on_delta`; 0 leaves channels as they are). ``columns`` are the names of a table's
    features. ``notes`` are lines about what the reader of a user's own data decided.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    normalisation: Normalisation
    sequence: bool = False
    source: str = ""
    tested_on: str = TEST_SET
    computed: bool = False
    kind: Kind | None = None
    cut: bool = False
    rate: int = 0
    delta: float = 0.0
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind is None:
            object.__setattr__(self, "kind", kind_of(self.train.x, self.sequence))

    @property
    def parts(self) -> dict[str, Split]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample at one step: ``(C, H, W)`` or ``(F,)``."""
        return self.train.shape[1 if self.sequence else 0 :]

    @property
    def trains(self) -> bool:
        """Whether the targets are spike trains rather than classes."""
        return self.train.trains

    @property
    def time_steps(self) -> int | None:
        """T of sequences and of target trains; None for static samples with classes."""
        return self.train.x.shape[1] if self.sequence else self.train.y.shape[1] if self.trains else None


def check(dataset: object, what: str) -> Dataset:
    """A data set made elsewhere, checked.

    Raises:
        UserError: no data set, samples and targets of other types or shapes than :class:`Split` says or that are not finite,
            classes or a normalisation that a model cannot have; it names ``what``.
    """
    if not isinstance(dataset, Dataset):
        raise UserError(f"{what} is a {type(dataset).__name__}; it must be a tsslbp.data.Dataset, such as data.of_arrays makes")
    if not len(dataset.train):
        raise UserError(f"{what} has no training samples")
    classes = _checked_head(dataset, what)
    sample, targets = dataset.train.select(torch.arange(1)).x.shape[1:], dataset.train.y.shape[1:]
    inside = sample[1:] if dataset.sequence else sample
    if len(inside) not in (1, 2, 3):
        shapes = "[N, T, F] or [N, T, C, H, W]" if dataset.sequence else "[N, F] or [N, C, H, W]"
        raise UserError(f"{what}: its samples have shape {list(sample)}; x must be {shapes}")
    for name, part in dataset.parts.items():
        if not len(part):
            continue
        x, where = part.select(torch.arange(1)).x, f"{what}: its {name} samples"
        if (not part.streamed and len(part.x) != len(part.y)) or (
            part.lengths is not None and len(part.lengths) != len(part.y)
        ):
            raise UserError(f"{where} have {len(part.x)} x and {len(part.y)} y; they must be as many, and lengths too")
        if part.lengths is not None:
            check_lengths(part.lengths, part.x.transpose(0, 1), not dataset.sequence)
        if x.dtype not in (torch.uint8, torch.float32) or x.shape[1:] != sample:
            raise UserError(f"{where} are {x.dtype} {list(x.shape[1:])}; they must be uint8 or float32 {list(sample)}")
        if x.requires_grad:
            raise UserError(f"{where} require a gradient; give x.detach()")
        if x.is_floating_point() and not bool(part.values().isfinite().all()):
            raise UserError(f"{where} hold NaN or infinity; remove or replace such values")
        wanted = torch.uint8 if part.trains else torch.int64
        if part.y.dim() not in (1, 3) or part.y.dtype != wanted or part.y.shape[1:] != targets:
            given = f"{part.y.dtype} {list(part.y.shape)}"
            raise UserError(
                f"{where} have targets {given}; they must be int64 classes [N] or uint8 trains [N, T, C], all alike"
            )
        most = part.y.shape[2] - 1 if part.trains else int(part.y.max())
        if int(part.y.min()) < 0 or most >= len(dataset.classes):
            raise UserError(f"{where} have targets up to {most}; there are {len(dataset.classes)} classes, from 0")
    means, channels = len(dataset.normalisation.mean), 1 if len(inside) == 2 else inside[0]
    if means not in (1, channels):
        raise UserError(
            f"{what}: normalisation has {means} means; its samples have {channels} channels, so give 1 or {channels}"
        )
    return dataset if classes == dataset.classes else replace(dataset, classes=classes)


def _checked_head(dataset: Dataset, what: str) -> tuple[str, ...]:
    """The names of the classes. Raises UserError if they, the name or the normalisation are of other types."""
    texts = isinstance(dataset.classes, tuple | list) and all(isinstance(name, str) for name in dataset.classes)
    fits = {
        "name": (isinstance(dataset.name, str), "a text"),
        "normalisation": (isinstance(dataset.normalisation, Normalisation), "a tsslbp.data.Normalisation"),
        "classes": (texts, "a tuple of texts, the names of the classes"),
    }
    for field, (right, be) in fits.items():
        if not right:
            raise UserError(f"{what}: {field} is {shown(getattr(dataset, field))}; it must be {be}")
    return class_names(dataset.classes, what)


def kind_of(x: Tensor, sequence: bool) -> Kind:
    """The kind of stored samples, by their shape and type: bytes in sequences are events."""
    if sequence:
        return "events" if x.dtype == torch.uint8 or x.dim() == 5 else "series"
    return "pictures" if x.dim() == 4 else "vectors"


def class_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Names that can be printed and written, each once. Raises UserError, which names ``where`` they were found."""
    found: dict[str, None] = {}
    for name in names:
        if not name.isprintable() or not name:
            raise UserError(f"{where}: class name {name[:60]!r} cannot be printed; rename the class, or close its quote")
        if name in found:
            raise UserError(f"{where}: class name {name!r} stands twice; give every class a name of its own")
        found[name] = None
    return tuple(found)


def hold_out(samples: Split, count: int) -> tuple[Split, Split]:
    """Split ``samples`` into the rest and ``count`` held out, both in their original order.

    Stratified: of a class with n of the N samples, ``count · n / N`` are held out, rounded up or down. The choice depends only
    on the labels.
    """
    total = len(samples)
    # NumPy promises the same raw stream of PCG64 in every version, but not the same results of shuffling.
    shuffled_by_class = np.lexsort((np.random.PCG64(SPLIT_SEED).random_raw(total), samples.y.numpy()))
    evenly_spaced = (2 * np.arange(count) + 1) * total // (2 * max(count, 1))
    held = torch.zeros(total, dtype=torch.bool)
    held[torch.from_numpy(shuffled_by_class[evenly_spaced])] = True
    return samples.select((~held).nonzero()[:, 0]), samples.select(held.nonzero()[:, 0])


def hold_out_groups(samples: Split, groups: Tensor, count: int) -> tuple[Split, Split]:
    """As :func:`hold_out`, but whole groups: each in turn is held out if that brings the classes nearer to their shares.

    Args:
        samples: with classes.
        groups: number of each sample's group, ``[N]``.
        count: about how many samples to hold out.
    """
    members = groups.argsort(stable=True).split(groups.bincount().tolist())
    lacking, held = count / len(samples) * samples.y.bincount().double(), torch.zeros(len(samples), dtype=torch.bool)
    for group in np.argsort(np.random.PCG64(SPLIT_SEED).random_raw(len(members))):
        left = lacking - samples.y[members[group]].bincount(minlength=len(lacking))
        if left.square().sum() < lacking.square().sum():
            lacking, held[members[group]] = left, True
    return samples.select((~held).nonzero()[:, 0]), samples.select(held.nonzero()[:, 0])


def hold_out_validation(samples: Split, count: int | None, classes: int, most: int = LARGEST) -> tuple[Split, Split]:
    """:func:`hold_out`, with 0 for none. By default a tenth is held out, but at most ``most`` and at least one per class.

    Raises UserError if a part would be too small.
    """
    if count is None:
        count = min(most, max(classes, len(samples) // 10))
    if isinstance(count, bool) or not hasattr(count, "__index__"):
        raise UserError(f"validation is {count!r}; it must be a whole number")
    if count != 0 and not classes <= count < len(samples):
        several = f" in {classes} classes" if classes > 1 else ""
        raise UserError(
            f"validation is {count}; of these {len(samples)} training samples{several} it must take none, or at "
            f"least {classes} and leave at least 1"
        )
    return hold_out(samples, count)


def _per_channel(values: Iterable[float], x: Tensor) -> Tensor:
    """Constants ``[C]`` in a shape that broadcasts along the channels of ``x``."""
    constants = torch.tensor(list(values), dtype=torch.float32, device=x.device)
    return constants.view(-1, 1, 1) if x.dim() >= 4 else constants
