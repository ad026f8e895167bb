"""Labels of a user's own samples, and the classes that they name."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsslbp.data.dataset import class_names
from tsslbp.data.found import Wanted
from tsslbp.utils.errors import UserError, few, shown

LABELS = ("label", "class", "target", "y")
"""Names of the column of classes."""


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


def are_names(y: NDArray[Any] | None, classes: Sequence[str] | None) -> bool:
    """Whether numbers are names: of these classes, else if they go from 1, or are -1 and 1, as other programs write them."""
    if classes:
        return whole_numbers(classes)
    numbers = [] if y is None or y.dtype.kind not in "iuf" or y.ndim > 2 else np.unique(y).tolist()
    return numbers == [-1, 1] or (numbers[:1] == [1] and numbers == [*range(1, len(numbers) + 1)])


def no_class(y: NDArray[Any]) -> str:
    """The first of ``y`` that is no class, and what to do about it."""
    if y.dtype.kind == "S":
        return "bytes, of which astype(str) makes texts"
    texts = y.dtype == object and any(isinstance(one, str) for one in y)
    for at, one in enumerate(y.tolist()):
        number = isinstance(one, int | float) and one >= 0 and float(one).is_integer()
        if not (isinstance(one, str) if texts else number):
            return f"{shown(one)} in sample {at}; correct it, or leave the sample out"
    return f"{y.max()}"


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
        raise UserError(f"{where} has class {few(odd, 5)}; {whose} are {few(classes, 20)}; give samples of these only")
    return torch.tensor([known.get(label, -1) for label in labels], dtype=torch.int64)


def unlike(names: Sequence[str], own: Sequence[str]) -> str:
    """Two lists of classes that differ, from the first difference on."""
    same = next((n for n, pair in enumerate(zip(names, own, strict=False)) if pair[0] != pair[1]), min(len(names), len(own)))
    start = "... " if same else ""
    return f"{start}{few(names[same:], 20)}; the model's are {start}{few(own[same:], 20)}"


def counted(names: Sequence[str]) -> bool:
    """Whether names of two columns or more count from 0 or 1, as programs name columns that have no names."""
    return len(names) > 1 and any(list(names) == [str(n + first) for n in range(len(names))] for first in (0, 1))
