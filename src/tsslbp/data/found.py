"""Requests to readers of a user's own files, and their results."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsslbp.data import own
from tsslbp.data.dataset import FIFTH, Dataset, Kind, Split, class_names
from tsslbp.errors import UserError, each_of, few

LABELS = ("label", "class", "target", "y")
"""Names of the column of classes."""


@dataclass(frozen=True)
class Wanted:
    """A request for samples.

    Args:
        time_steps: T of recordings, which can be cut into any number of steps; the reader chooses if left out.
        classes: classes of the model that takes the samples; those of the files if left out.
        shape: of one sample of that model, T first in a sequence.
        rate: of the sounds that it was trained on, samples per second.
        columns: names of the features that it takes from a table, in order; empty if it takes them by place.
        labelled: whether samples must have labels.
    """

    time_steps: int | None = None
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    rate: int = 0
    columns: tuple[str, ...] = ()
    labelled: bool = True

    @property
    def whole(self) -> bool:
        """Whether samples are read for a trained model: all of this path, and of no partner file."""
        return self.shape is not None


@dataclass(frozen=True)
class Found:
    """A user's own samples.

    Args:
        parts: samples by part, ``train`` and if there are any ``validation`` and ``test``. Missing labels are -1.
        names: of the samples of each part; numbers from 0 if left out.
        classes: names of the classes.
        sequence: samples are ``[N, T, ...]``.
        scale: stored value of full intensity, for static samples.
        tested_on: description of the test samples.
        facts: further fields of :class:`tsslbp.data.Dataset`.
        doubts: those of its notes that a user of a trained model must know too.
        groups: number of the group of each training sample, ``[N]``, if parts that are held out are to have whole groups.
    """

    parts: Mapping[str, Split]
    classes: tuple[str, ...]
    sequence: bool
    scale: float = 1.0
    tested_on: str = FIFTH
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    doubts: Sequence[str] = ()
    groups: Tensor | None = None

    def dataset(self, name: str, where: str, validation: int | None) -> Dataset:
        """The data set; raises UserError as :func:`tsslbp.data.own.complete` does."""
        return own.complete(
            name,
            where,
            self.parts["train"],
            self.parts.get("test"),
            self.classes,
            validation,
            sequence=self.sequence,
            scale=self.scale,
            tested_on=self.tested_on,
            held=self.parts.get("validation"),
            groups=self.groups,
            **self.facts,
        )

    def all(self) -> tuple[Split, list[str]]:
        """Every sample and its name."""
        splits = [part.select(torch.arange(len(part))) for part in self.parts.values()]
        names = [name for part in self.parts for name in self.names.get(part, ())]
        whole = sum(splits[1:], splits[0])
        return whole, names or [str(number) for number in range(len(whole))]


@dataclass(frozen=True, eq=False)
class Made(Split):
    """Samples that are made when they are selected: ``x`` holds their numbers ``[N]``."""

    make: Callable[[Tensor], Tensor] = torch.clone
    """Samples ``[B, ...]`` from numbers ``[B]``."""

    def select(self, index: Tensor) -> Split:
        return Split(self.make(self.x[index]), self.y[index])


def each(make: Callable[[int], Tensor], shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Makes samples ``[B, *shape]`` of bytes one by one. Raises UserError that names all files that cannot be read."""

    def made(numbers: Tensor) -> Tensor:
        x = torch.zeros(len(numbers), *shape, dtype=torch.uint8)
        each_of(lambda pair: pair[0].copy_(make(pair[1])), zip(x, numbers.tolist(), strict=True))
        return x

    return made


def plain(label: str) -> str:
    """A label without blanks around it, and without quotes if they are around it."""
    label = label.strip()
    return label[1:-1].strip() if label[1:] and label[0] == label[-1] and label[0] in "\"'" else label


def whole(label: str) -> str:
    """A whole number without the decimals that some programs write; any other label as it is."""
    if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]{1,3})?", label) and re.search("[.eE]", label):
        try:
            if (value := float(label)).is_integer() and abs(value) < 2**53:
                return str(int(value))
        except ValueError:
            pass
    return label


def alike(labels: Iterable[str]) -> list[str]:
    """The labels of a file, as :func:`whole` makes them if all are numbers: ``12e4`` beside ``12f4`` is a text."""
    labels = list(labels)
    return [*map(whole, labels)] if all(map(is_number, {*labels})) else labels


def is_number(cell: str) -> bool:
    """Whether a cell is a number that float32 holds."""
    try:
        with np.errstate(over="ignore"):
            return "_" not in cell and bool(np.isfinite(np.float32(cell)))  # Python reads 1_2 as 12
    except ValueError:
        return False


def classes_of(labels: Iterable[str], where: str) -> tuple[str, ...]:
    """The classes among labels, sorted by number or alphabet. Raises UserError for names that cannot be printed."""

    def order(label: str) -> tuple[bool, float, str]:
        number = re.fullmatch(r"[-+]?\d{1,15}(\.\d+)?", label, re.ASCII)
        return not number, float(label) if number else 0.0, label

    return class_names(sorted(set(labels), key=order), where)


def whole_numbers(classes: Iterable[str]) -> bool:
    """Whether all classes are whole numbers."""
    return all(re.fullmatch(r"-?\d+", name, re.ASCII) for name in classes)


def by_place(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """What to say of classes that are known by their order alone."""
    pairs = few([f"{their} as {our}" for their, our in zip(theirs, ours, strict=True)])
    return f"classes are taken by their order: {pairs}; give the samples classes with names to be sure"


def numbered(labels: Sequence[str | None], classes: tuple[str, ...], where: str, wanted: Wanted) -> Tensor:
    """Numbers of the classes ``[N]``; -1 where there is no label. Raises UserError for labels that are no class."""
    known: dict[str | None, int] = {name: number for number, name in enumerate(classes)}
    known |= {label: known[whole(label)] for label in {*labels} - {None, *known} if label and whole(label) in known}
    if not wanted.labelled:
        known[None] = -1
    odd = sorted({str(label) for label in labels if label not in known})
    if odd and wanted.labelled:
        whose = "the model's" if wanted.classes else "those of the training samples"
        raise UserError(f"{where} has class {few(odd, 5)}; {whose} are {', '.join(classes)}; give samples of these only")
    return torch.tensor([known.get(label, -1) for label in labels], dtype=torch.int64)


def counted(names: Sequence[str]) -> bool:
    """Whether names of two columns or more count from 0 or 1, as programs name columns that have no names."""
    return len(names) > 1 and any(list(names) == [str(n + first) for n in range(len(names))] for first in (0, 1))


def partner(path: Path) -> Path | None:
    """``NAME_TEST`` beside ``NAME_TRAIN``, if it is there."""
    if not re.search("train$", path.stem, re.IGNORECASE):
        return None
    for test in ("TEST", "test", "Test"):
        other = path.with_name(f"{path.stem[:-5]}{test}{path.suffix}")
        if other.is_file():
            return other
    return None


def kind_fact(kind: Kind, *notes: str, **facts: Any) -> dict[str, Any]:
    """Fields of a data set: its kind, notes and further facts."""
    return {"kind": kind, "notes": notes, **facts}
