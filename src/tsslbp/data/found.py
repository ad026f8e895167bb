"""Requests to readers of a user's own files, and their results."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsslbp.data.dataset import FIFTH, Dataset, Kind, Split, hold_out, hold_out_groups, hold_out_validation
from tsslbp.data.sample_values import fitted
from tsslbp.utils.errors import UserError, few


@dataclass(frozen=True)
class Wanted:
    """A request for samples.

    Args:
        time_steps: T of recordings, which can be cut into any number of steps; the reader chooses if left out.
        classes: classes of the model that takes the samples; those of the files if left out.
        shape: of one sample of that model, T first in a sequence.
        whole: whether all of this path is to be read, and no partner file.
        rate: of the sounds that it was trained on, samples per second.
        columns: names of the features that it takes from a table, in order; empty if it takes them by place.
        labelled: whether samples must have labels.
    """

    time_steps: int | None = None
    classes: tuple[str, ...] | None = None
    shape: tuple[int, ...] | None = None
    whole: bool = False
    rate: int = 0
    columns: tuple[str, ...] = ()
    labelled: bool = True


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
        """The data set, with parts held out, and normalised by its training samples.

        Args:
            name: of the data set.
            where: the file or folder, for messages.
            validation: samples to hold out. Default: a tenth; none if a class has too few samples for that.

        Raises:
            UserError: one class, a class with too few samples for the parts, groups of which none can be held out, or a
                validation size that does not fit.
        """
        samples, test, groups = self.parts["train"], self.parts.get("test"), self.groups
        if len(self.classes) < 2 and not samples.trains:
            raise UserError(f"{where}: all samples are of class {self.classes[0]}; a classifier needs at least two classes")
        # samples with target trains are held out as if all were of one class
        y, names = (torch.zeros(len(samples), dtype=torch.int64), ("",)) if samples.trains else (samples.y, self.classes)
        validation = self._affordable(where, validation, torch.bincount(y, minlength=len(names)), names)
        numbers, tested = Split(torch.arange(len(samples)), y), None
        if test is None:
            fifth = max(len(names), len(samples) // 5)
            numbers, tested = hold_out(numbers, fifth) if groups is None else hold_out_groups(numbers, groups, fifth)
        numbers, held, said = self._validation(where, numbers, validation, len(names))
        notes = [*self.facts.get("notes", ()), *said]
        if groups is not None:
            notes += _of_groups(where, groups, numbers, tested, names)
        elif tested is not None and (missed := _missed(tested, names)):
            notes.append(f"no sample of class {missed} is held out, so it is not tested; bring test samples")
        train, test = samples.select(numbers.x), test if tested is None else samples.select(tested.x)
        assert test is not None
        test = test.select(torch.arange(len(test)))
        normalisation = fitted(train.looked_at() if train.streamed else train, self.sequence, self.scale)
        facts = self.facts | {"notes": tuple(notes)}
        return Dataset(name, train, held, test, self.classes, normalisation, self.sequence, tested_on=self.tested_on, **facts)

    def _validation(
        self, where: str, numbers: Split, validation: int | None, classes: int
    ) -> tuple[Split, Split, tuple[str, ...]]:
        """The samples that are left for training, by their numbers, those for validation, and notes."""
        samples, groups, held, whose = self.parts["train"], self.groups, self.parts.get("validation"), "of its own"
        if groups is not None and held is None and validation != 0:
            fewer, left = hold_out_groups(numbers, groups[numbers.x], len(numbers) // 10)
            if validation is None and len(fewer.y.unique()) < len(numbers.y.unique()):  # a class is in too few groups for that
                validation = 0
            else:
                numbers, held, whose = fewer, samples.select(left.x), "in whole groups"
        if held is not None and validation in (None, len(held)):
            return numbers, held.select(torch.arange(len(held))), ()
        if held is not None and validation:
            own = f"{len(held)} validation sample{'s' * (len(held) != 1)} {whose}"
            raise UserError(f"--validation is {validation}; {where} has {own}: leave it out")
        numbers, left = hold_out_validation(numbers, validation, classes)
        note = () if held is None else (f"its {len(held):,} validation samples are left out (--validation 0)",)
        return numbers, samples.select(left.x), note

    def _affordable(self, where: str, validation: int | None, counts: Tensor, names: Sequence[str]) -> int | None:
        """The validation size, 0 if a class has too few samples for the default. Raises UserError if one has fewer samples than
        there are parts."""
        needing = ["training", *["test"] * ("test" not in self.parts)]
        fewest = int(counts.min())
        if "validation" not in self.parts:
            if validation is None and fewest <= len(needing):
                validation = 0
            if validation != 0:
                needing.insert(1, "validation")
        if fewest >= len(needing):
            return validation
        has = f"{fewest} sample{'s' * (fewest != 1)}"
        needs = f"{' and '.join([', '.join(needing[:-1]), needing[-1]] if needing[1:] else needing)} need {len(needing)}"
        if self.parts["train"].trains:
            raise UserError(f"{where} has {has}; {needs}; add samples, or bring test samples as x_test and y_test")
        of_class = f"{where}: class {names[int(counts.argmin())]} has {has}; {needs} of each class"
        raise UserError(f"{of_class}; add samples of it or leave the class out")

    def all(self) -> tuple[Split, list[str]]:
        """Every sample and its name."""
        splits = [part.select(torch.arange(len(part))) for part in self.parts.values()]
        names = [name for part in self.parts for name in self.names.get(part, ())]
        whole = sum(splits[1:], splits[0])
        return whole, names or [str(number) for number in range(len(whole))]


def _of_groups(where: str, groups: Tensor, kept: Split, tested: Split | None, names: Sequence[str]) -> list[str]:
    """Notes on groups that are held out. Raises UserError if they are too large or too few for that."""
    bring = "bring test samples (x_test and y_test, or a NAME_TEST file)"
    if tested is not None and not len(tested):
        raise UserError(f"{where}: its groups are too large to hold out a fifth of the samples; {bring}")
    rest = torch.bincount(kept.y, minlength=len(names))
    if not bool(rest.all()):
        raise UserError(f"{where}: class {names[int(rest.argmin())]} is in too few groups; {bring}")
    many, trained = len(groups.unique()), len(groups[kept.x].unique())
    notes = [f"{trained} of {many} groups are trained on; the others are held out whole"]
    if tested is not None and (missed := _missed(tested, names)):
        notes.append(f"no group with class {missed} is held out, so it is not tested")
    return notes


def _missed(tested: Split, names: Sequence[str]) -> str:
    """The classes of which there are no samples; empty if there are none."""
    return few([names[number] for number in sorted({*range(len(names))} - {*tested.y.tolist()})])


@dataclass(frozen=True, eq=False)
class Made(Split):
    """Samples that are made when they are selected: ``x`` holds their numbers ``[N]``."""

    make: Callable[[Tensor], Tensor] = torch.clone
    """Samples ``[B, ...]`` from numbers ``[B]``."""

    def select(self, index: Tensor) -> Split:
        return Split(self.make(self.x[index]), self.y[index])


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
