"""Time series in the text files of the UCR and UEA archives: ``.ts``, and ``.txt`` or ``.tsv`` with a series a line.

``NAME_TRAIN`` finds its ``NAME_TEST``. Series of different lengths are padded with 0 at their end.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data.dataset import FIFTH, Split
from tsslbp.data.found import Found, Wanted, kind_fact, partner
from tsslbp.data.labels import LABELS, alike, classes_of, counted, is_number, numbered, plain, whole
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, each_of, few

Series = tuple[NDArray[np.float32], str | None]
"""Values ``[T, F]`` and the label, or None."""
MISSING = ("", "?", "nan", "na", "null", "none")
"""How files write a missing value."""
NO_LABEL = ("", "?", "nan")
"""How they write a missing class; none and na may be names of classes."""
SHORT = 3
"""A line of so few cells that counts from 0 or 1 may be a series."""


def read_ts(path: Path, labelled: bool = True) -> list[Series]:
    """The series in a ``.ts`` file: after ``@data`` one a line, dimensions separated by ``:``, values by ``,``, label last.

    Raises:
        UserError: not such a file, damaged lines, time stamps or missing values.
    """
    lines = _lines(path)
    header = {" ".join(words[:2]).lower(): words[2:] for line in lines if line.startswith("@") and (words := line.split())}
    declared = header.get("@classlabel true")
    if "@timestamps true" in header:
        raise UserError(f"{path} has time stamps, which are not read; write it with values only and @timeStamps false")
    if labelled and "@targetlabel true" in header:
        raise UserError(f"{path} has numbers to predict (@targetLabel true); only classes are learned, so give it @classLabel")
    has_labels = "@classlabel false" not in header
    if labelled and not has_labels:
        raise UserError(f"{path} has no class labels (@classLabel false); add the class at the end of every line")
    start = next((number for number, line in enumerate(lines, 1) if line.strip().lower() == "@data"), len(lines))

    def one(numbered_line: tuple[int, str]) -> Series:
        number, line = numbered_line
        *dimensions, label = line.strip().split(":") if has_labels else [*line.strip().split(":"), ""]
        where = f"{path}: line {number}"
        rows = [_values(dimension.split(","), f"{where}, channel {c}") for c, dimension in enumerate(dimensions)]
        if not rows or len({len(row) for row in rows}) > 1:
            raise UserError(f"{where} is not a series of numbers of equal length in every channel; fetch it again, or cut them")
        label = label.strip()
        if label.lower() in NO_LABEL and not labelled:
            return np.stack(rows, 1), None
        if label.lower() in NO_LABEL:
            raise UserError(f"{where} has no class; write it after the last colon")
        if declared is not None and label not in declared:
            raise UserError(f"{where} is of class {label}, which @classLabel does not name; fetch it again")
        return np.stack(rows, 1), label

    series = each_of(one, [pair for pair in enumerate(lines[start:], start + 1) if pair[1].strip()])
    if not series:
        raise UserError(f"{path} is no .ts file with series after a line @data; fetch it again")
    return series


def read_txt(path: Path, wanted: Wanted) -> list[Series]:
    """The series in a ``.txt`` or ``.tsv`` file: one a line, class first, then values separated by blanks, tabs or commas.

    Missing values at the end of a line are padding, as in the UCR archive.

    Args:
        path: the file.
        wanted: what they are read for. Every line must begin with its class, or :func:`_have_classes` decides.

    Raises:
        UserError: damaged lines, missing values inside a series, a first line of names, lines that may have classes or not.
    """
    rows = [(number, _cells(line, f"{path}: line {number}")) for number, line in enumerate(_lines(path), 1) if line.strip()]
    if not rows:
        raise UserError(f"{path} holds no series; write one a line, the class first")
    number, first = rows[0]
    names = first[first[0].lower() in LABELS :]
    if len(names) > SHORT and counted(names) and not any(cells == first for _, cells in rows[1:]):
        raise UserError(
            f"{path}: line {number} counts from {names[0]} to {names[-1]}, as names of columns do; remove it, or write "
            f"{names[0]}.0 if it is a series"
        )
    labelled = wanted.labelled or _have_classes(path, [cells for _, cells in rows], wanted)

    def one(row: tuple[int, list[str]]) -> Series:
        number, cells = row
        label, values = (plain(cells[0]), _without_padding(cells[1:])) if labelled else (None, _without_padding(cells))
        if not values or label == "" or (wanted.labelled and str(label).lower() in NO_LABEL):
            raise UserError(f"{path}: line {number} is no series: write the class, then the values, with blanks between")
        return _values(values, f"{path}: line {number}")[:, None], label

    return each_of(one, rows)


def _have_classes(path: Path, rows: Sequence[Sequence[str]], wanted: Wanted) -> bool:
    """Whether lines to predict begin with a class: they have more cells than the model takes, or are as long and cannot be
    values alone. Raises UserError for shorter lines without a class, and for lines that can be read in either way."""
    steps, classes = wanted.shape[0] if wanted.shape else 0, wanted.classes or ()
    longest, first = max(map(len, rows)), {plain(cells[0]) for cells in rows}
    known = {label for label in first if label in classes or whole(label) in classes or label.lower() in NO_LABEL}
    if longest < steps and not known:
        raise UserError(f"{path}: no line begins with a class ({few(classes)}) or ?; fewer than {steps} values need one")
    if longest != steps or not all(is_number(label) or label.lower() in MISSING for label in first):
        return True
    if first != known:
        return False
    several = len(first) > 1 and len({len(_without_padding(cells)) for cells in rows}) > 1  # classes, and lengths
    if several or any(label.lower() in NO_LABEL for label in first):
        return True
    raise UserError(
        f"{path}: every line begins with a number that may be a class or a value, as the longest has {steps} with it; put ? in "
        "place of the classes, or before the values, or evaluate the file if it has classes"
    )


def _without_padding(cells: Sequence[str]) -> Sequence[str]:
    """The cells of a line without missing values at its end."""
    end = next((n for n in range(len(cells), 0, -1) if cells[n - 1].lower() not in MISSING), 0)
    return cells[:end]


def read(path: Path, wanted: Wanted) -> Found:
    """The series in a file, and in its ``NAME_TEST`` if it is a ``NAME_TRAIN``.

    Raises:
        UserError: damaged files, other channels or classes in a test file, series longer than the model takes.
    """
    if not wanted.whole and re.search("_test$", path.stem, re.IGNORECASE):
        raise UserError(f"{path} is a test file; give the training file, whose name ends in _TRAIN, and it will be found")
    other = None if wanted.whole else partner(path)
    files = {"train": path, **({"test": other} if other else {})}
    parts = {
        part: read_ts(file, wanted.labelled) if file.suffix.lower() == ".ts" else read_txt(file, wanted)
        for part, file in files.items()
    }
    channels = parts["train"][0][0].shape[1]
    for part, file in files.items():
        odd = next((n for n, (values, _) in enumerate(parts[part]) if values.shape[1] != channels), None)
        if odd is not None:
            has = f"{parts[part][odd][0].shape[1]} channels"
            raise UserError(f"{file}: series {odd} has {has}, the first of {path} has {channels}; they must be alike")
    classes = wanted.classes or classes_of(alike(str(label) for _, label in parts["train"]), str(path))
    longest = max(len(values) for part in parts.values() for values, _ in part)
    if wanted.shape is not None and len(wanted.shape) == 2:
        if longest > wanted.shape[0]:
            raise UserError(f"{path} has a series of {longest} steps; the model takes {wanted.shape[0]} at most: cut it")
        longest = wanted.shape[0]
    splits = {part: padded(parts[part], classes, longest, str(files[part]), wanted) for part in parts}
    lengths = [split.lengths for split in splits.values() if split.lengths is not None]
    shortest = min(int(each.min()) for each in lengths)
    if shortest == longest:  # none is padded
        splits = {part: Split(split.x, split.y) for part, split in splits.items()}
    note = f"series have {shortest} to {longest} steps and were padded" if shortest < longest else ""
    tested_on = other.name if other else FIFTH
    first = "" if path.suffix.lower() == ".ts" else "classes are at the start of each line"
    facts = kind_fact("series", *filter(None, (first, note)))
    return Found(splits, classes, True, tested_on=tested_on, facts=facts)


def padded(
    series: Sequence[Series], classes: tuple[str, ...], time_steps: int, where: str, wanted: Wanted | None = None
) -> Split:
    """Series as one tensor ``[N, T, F]``, padded at the end with zeros, and their lengths."""
    machine.need_memory(4 * len(series) * time_steps * series[0][0].shape[1], where)
    lengths = torch.tensor([len(values) for values, _ in series])
    x = torch.zeros(len(series), time_steps, series[0][0].shape[1], dtype=torch.float32)
    for row, (values, _) in zip(x, series, strict=True):
        row[: len(values)] = torch.from_numpy(np.ascontiguousarray(values))
    return Split(x, numbered([label for _, label in series], classes, where, wanted or Wanted()), lengths)


def _cells(line: str, where: str) -> list[str]:
    """The cells of a line. Raises UserError for tabs beside commas, which may be decimal ones."""
    first, *others = line.lstrip(" ").rstrip().split(",")  # a first cell before a tab may be empty
    line = ",".join([first.rstrip(), *(cell.strip() for cell in others)]) if others else first
    if "," in line and "\t" in line:
        raise UserError(f"{where} has tabs and commas; separate the values by one of them, and write decimals with a point")
    return re.split("[,\t]" if "," in line or "\t" in line else r"\s+", line)


def _lines(path: Path) -> list[str]:
    try:
        files.refuse_special(path)
        machine.need_memory(4 * path.stat().st_size, str(path))
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"cannot read {path}: {reason}; fetch it again") from error


def _values(cells: Sequence[str], line: str) -> NDArray[np.float32]:
    """Numbers in a row. Raises UserError with count and place of missing ones, and with the first that is no number."""
    try:
        with np.errstate(over="ignore"):
            values = np.array([float(cell) for cell in cells], np.float32)
    except ValueError:
        values = None
    if values is not None and np.isfinite(values).all() and not any("_" in cell for cell in cells):
        return values
    if missing := [step for step, cell in enumerate(cells) if cell.strip().lower() in MISSING]:
        raise UserError(f"{line} has {len(missing)} missing values, the first in step {missing[0]}; fill or remove them")
    odd = next((cell for cell in cells if not is_number(cell)), cells[0])
    fix = "the class must come first" if odd == cells[-1] else "correct it"
    raise UserError(
        f"{line} is not a series of float32 numbers: it has {odd[:30]!r}; {fix}, or save a table of features as .csv"
    )
