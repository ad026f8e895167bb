"""Tables in ``.csv`` files: a row for each sample, a column of classes, all other columns numbers.

The column of classes is named label, class, target or y, or is the last one; beside x or z, y is a coordinate. The first row
may name the columns. A column groups, beside a named one of classes, says which samples are held out together. Commas,
semicolons and tabs separate columns; with the last two, a comma may be the decimal separator. ``NAME_TRAIN.csv`` finds its
``NAME_TEST.csv``.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp import machine
from tsslbp.data.dataset import FIFTH, Split
from tsslbp.data.found import Found, Wanted, kind_fact, partner
from tsslbp.data.labels import LABELS, alike, classes_of, counted, is_number, numbered, plain
from tsslbp.data.sample_values import LOST, lost_in_float32
from tsslbp.data.series import MISSING, NO_LABEL
from tsslbp.declared import FLOAT32_MAX
from tsslbp.errors import UserError, all_of, few, one_line

SEVERAL = 2
"""Samples that a class must have on average for a column to be one of classes."""
MANY = 20
"""Rows above which consecutive numbers are no coincidence."""
POINTS = "column {} has three digits behind each point, beside whole numbers; leave out points that part thousands"


@dataclass(frozen=True)
class Table:
    """Numbers ``[N, F]``, the label of each row, the column of labels, the others, notes, and doubts about the first row."""

    x: NDArray[np.float32]
    labels: list[str | None]
    label: str
    columns: tuple[str, ...]
    """Empty if they have no names."""
    groups: list[str]
    """The group of each row; empty if there is no such column."""
    notes: tuple[str, ...]
    doubts: tuple[str, ...]


def read(path: Path, wanted: Wanted) -> Found:
    """The table in a file, and in its ``NAME_TEST`` if it is a ``NAME_TRAIN``.

    Raises:
        UserError: files that cannot be read, text or an empty cell where a number should be, other columns in a test file.
    """
    train, other = _table(path, wanted), None if wanted.whole else partner(path)
    like = replace(wanted, columns=train.columns, classes=tuple({str(label) for label in train.labels}))
    tables = {"train": train, **({"test": _table(other, like)} if other else {})}
    if other and tables["test"].x.shape[1] != train.x.shape[1]:
        raise UserError(f"{other} has {tables['test'].x.shape[1]} features; {path} has {train.x.shape[1]}: make them alike")
    classes = wanted.classes or classes_of(alike(str(label) for label in train.labels), str(path))
    if not wanted.whole and len(classes) > max(2, len(train.labels) // SEVERAL):
        values = f"{path}: column {train.label} has {len(classes)} different values in {len(train.labels)} rows"
        raise UserError(f"{values}, too many to be classes; name the column of classes label")
    parts = {
        part: Split(torch.from_numpy(table.x), numbered(table.labels, classes, str(path if part == "train" else other), wanted))
        for part, table in tables.items()
    }
    doubts = [doubt for table in tables.values() for doubt in table.doubts]
    if bool((parts["train"].y < 0).all()) and any(label and is_number(label) for label in train.labels):
        doubts.append(f"column {train.label} of {path.name} is left out as the class, but holds none of the model's classes")
    facts = kind_fact(
        "vectors",
        f"classes are in column {train.label}; to take another column, name it label",
        *train.notes,
        *doubts,
        columns=train.columns,
    )
    used = train.groups and not wanted.whole
    groups = torch.from_numpy(np.unique(alike(train.groups), return_inverse=True)[1]) if used else None
    tested_on = other.name if other else FIFTH
    return Found(parts, classes, False, tested_on=tested_on, facts=facts, doubts=doubts, groups=groups)


def _table(path: Path, wanted: Wanted) -> Table:
    rows = _rows(path)
    layout, doubts = _layout(path, [cells for _, cells in rows], wanted)
    body = rows[1:] if layout.named else rows
    x, labels, groups = _values(path, body, rows[0][0], layout, wanted)
    names = [layout.columns[n] for n in layout.features]
    parted = [layout.columns[n] for n in layout.features if _parts_thousands((cells[n] for _, cells in body), ".")]
    notes = (*_notes(x, names, layout, wanted), *map(POINTS.format, parted))
    return Table(x.astype(np.float32), labels, layout.class_column, tuple(names) if layout.named else (), groups, notes, doubts)


@dataclass(frozen=True)
class _Layout:
    """What the columns of a file hold, by their positions."""

    columns: list[str]
    """Names of all; their numbers from 1 if they have none."""
    named: bool
    index: bool
    """Whether the first is left out, as the index that pandas writes."""
    label: int | None
    features: list[int]
    group: int | None

    @property
    def class_column(self) -> str:
        return "" if self.label is None else self.columns[self.label]


def _layout(path: Path, rows: list[list[str]], wanted: Wanted) -> tuple[_Layout, tuple[str, ...]]:
    """What the columns hold, and doubts about the first row."""
    header, doubts = _names(rows, path.name, wanted)
    width = len(rows[0])
    columns = [name.strip() or str(n) for n, name in enumerate(header or [""] * width, 1)]
    body = rows[1:] if header else rows
    if not body:
        raise UserError(f"{path} has no rows below the names of its columns; add a row for each sample")
    if wanted.columns and not (header or counted([*wanted.columns])) and width == len(wanted.columns) + 1:
        taken = f"the last is taken as the class, the others as {few(wanted.columns)}"
        doubts.append(f"columns of {path.name} have no names: {taken}")
    unnamed = bool(header) and width > 2 and not header[0].strip()
    asked = columns[0] in wanted.columns and columns[0] not in columns[1:]
    index = unnamed and not asked and not any(_has_fraction(cells[0]) for cells in body)
    group = _group(path, columns, index, wanted) if header else None
    kept = [n for n in range(index, width) if n != group]
    by_name = bool(header) and ({*wanted.columns} <= {*columns} or not counted(header[unnamed:]))
    label, features = _chosen(path, [columns[n] for n in kept], wanted if by_name else replace(wanted, columns=()))
    place = None if label is None else kept[label]
    return _Layout(columns, bool(header), index, place, [kept[n] for n in features], group), tuple(doubts)


def _values(
    path: Path, body: list[tuple[int, list[str]]], first: int, layout: _Layout, wanted: Wanted
) -> tuple[NDArray[np.float64], list[str | None], list[str]]:
    """The numbers ``[N, F]``, label and group of each row. Raises UserError for all faults of the file together."""
    columns, label, width = layout.columns, layout.label, len(layout.columns)
    machine.need_memory(8 * len(body) * len(layout.features), str(path))
    x, faults, missing = np.empty((len(body), len(layout.features))), [], []
    labels, groups = list[str | None](), list[str]()
    texts: dict[str, list[tuple[int, str]]] = {}
    for row, (line, cells) in zip(x, body, strict=True):
        if len(cells) != width:
            faults.append(f"{path}: line {line} has {len(cells)} columns, line {first} has {width}")
            continue
        labels.append(None if label is None else plain(cells[label]))
        if str(labels[-1]).lower() in NO_LABEL and wanted.labelled:
            faults.append(f"{path}: line {line} has no class in column {columns[width - 1 if label is None else label]}")
        if layout.group is not None:
            groups.append(plain(cells[layout.group]))
            if not groups[-1] and not wanted.whole and not wanted.columns:
                faults.append(f"{path}: line {line} has no group in column {columns[layout.group]}")
        given = [cells[n] for n in layout.features]
        try:
            row[:] = [float(cell) for cell in given]
            if np.abs(row).max() <= FLOAT32_MAX and "_" not in "".join(given):  # Python reads 1_2 as 12
                continue
        except (ValueError, OverflowError):
            pass
        for n, cell in zip(layout.features, given, strict=True):
            if cell.strip().lower() in MISSING:
                missing.append(f"line {line}, column {columns[n]}")
            elif not is_number(cell):
                texts.setdefault(columns[n], []).append((line, cell.strip()))
    for column, found in texts.items():
        line, text = found[0]
        kind = "text" if _is_text(text) else "numbers beyond float32,"
        told = f"{path}: column {column} has {kind} in {len(found)} rows, {text[:30]!r} in line {line} first"
        faults.append(f"{told}; {_instead(column, layout, wanted)}")
    if missing:
        faults.append(f"{path}: {len(missing)} missing values, the first in {missing[0]}; fill them or remove their rows")
    if faults:
        raise all_of(faults)
    return x, labels, groups


def _instead(column: str, layout: _Layout, wanted: Wanted) -> str:
    """What to do about text in a column of features."""
    fix, labelled = "write numbers, or leave it out", layout.class_column.lower() == LABELS[0]
    if wanted.whole:
        return fix
    if column.lower() == "groups" and not labelled:
        return "write numbers, or name the column of classes label to hold its samples together"
    if not any(name.lower() == "groups" for name in layout.columns):
        fix = "write numbers, leave it out, or name it groups if it tells whose sample a row is"
    return fix + ("" if labelled else f" (classes are in column {layout.class_column}; name another one label)")


def _notes(x: NDArray[np.float64], names: list[str], layout: _Layout, wanted: Wanted) -> tuple[str, ...]:
    """What the user may want otherwise."""
    notes = []
    if layout.index:
        notes.append("the first column has no name and is left out, as if it numbered the rows; name it to use it")
    if layout.group is not None:
        notes.append(f"column {layout.columns[layout.group]} says which samples are held out together, and is no feature")
    for name in names if not wanted.columns else ():
        if name.lower() in LABELS and not _is_coordinate(name, layout.columns):
            notes.append(f"column {name} is taken as a feature; remove it if it is the class")
        if name.lower() == "groups":
            notes.append(f"column {name} is taken as a feature; name the column of classes label to hold its groups out whole")
    numbering = [n for n, column in enumerate(x.T) if len(x) >= MANY and bool((np.diff(np.sort(column)) == 1).all())]
    notes += [f"column {names[n]} numbers the rows and is taken as a feature; remove it if it tells no more" for n in numbering]
    return (*notes, *(LOST.format(f"column {names[n]}") for n in lost_in_float32(x) if n not in numbering))


def _group(path: Path, columns: list[str], index: bool, wanted: Wanted) -> int | None:
    """The column of groups, beside a named one of classes if there must be one; None if there is none, or it is a feature of
    the model. Raises UserError for several."""
    found = [n for n, name in enumerate(columns) if name.lower() == "groups"]
    rest = [name for name in columns[index:] if name.lower() != "groups"]
    labelled = any(name.lower() in LABELS and not _is_coordinate(name, rest) for name in rest)
    feature = any(columns[n] in wanted.columns for n in found) or wanted.shape == (len(columns) - index - labelled,)
    if not found or feature or (wanted.labelled and not labelled):
        return None
    if len(found) > 1:
        raise UserError(f"{path} has {len(found)} columns named groups; rename all but one")
    return found[0]


def _chosen(path: Path, columns: list[str], wanted: Wanted) -> tuple[int | None, list[int]]:
    """The column of classes, None for none, and the columns of features, in the wanted order.

    Raises:
        UserError: no features, or other ones than wanted.
    """
    if not wanted.columns:
        label = None if not wanted.labelled and wanted.shape == (len(columns),) else _label(columns)
        same = [name for name in columns if label is not None and name.lower() == columns[label].lower()]
        if len(same) > 1:
            raise UserError(f"{path} has {len(same)} columns named {' and '.join(same)}; rename all but the one of classes")
        chosen = [n for n in range(len(columns)) if n != label]
        if not chosen:
            raise UserError(f"{path} has one column only; it needs columns of numbers and one of classes, parted by commas")
        return label, chosen
    known = {*wanted.columns}
    rest = [name for name in columns if name not in known]
    label = columns.index(rest[_label(rest)]) if rest else None
    chosen = [n for n in range(len(columns)) if n != label]
    order = order_of(tuple(columns[n] for n in chosen), wanted.columns, str(path))
    if label is None and wanted.labelled:
        raise UserError(f"{path} has no column of classes; add one named label")
    return label, [chosen[n] for n in order]


def order_of(names: tuple[str, ...], wanted: tuple[str, ...], path: str) -> list[int]:
    """Positions of a model's features among the columns of a table.

    Raises:
        UserError: other names, or a repeated name in another order.
    """
    if names == wanted:
        return list(range(len(names)))
    places = {name: n for n, name in enumerate(names)}
    if places.keys() != set(wanted) or not len(places) == len(names) == len(wanted):
        raise UserError(f"{path} has columns {few(names)}; the training samples have {few(wanted)}: make them alike")
    return [places[name] for name in wanted]


def _label(columns: list[str]) -> int:
    """The column of classes: one of these names, or the last."""
    lower = [name.lower() for name in columns]
    named = (lower.index(name) for name in LABELS if name in lower and not _is_coordinate(name, columns))
    return next(named, len(columns) - 1)


def _is_coordinate(name: str, columns: list[str]) -> bool:
    """Whether a column is y beside x or z, and neither of them is the last."""
    *lower, last = (column.lower() for column in columns)
    return name.lower() == "y" and last not in ("x", "y", "z") and not {"x", "z"}.isdisjoint(lower)


def _has_fraction(cell: str) -> bool:
    """Whether a cell cannot be the number or name of a row."""
    return is_number(cell) and not float(cell).is_integer()


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not empty, each with its line number."""
    if not path.is_file():
        raise UserError(f"no data file {path}; give the path of a .csv file")
    rows, last = list[tuple[int, list[str]]](), 0
    try:
        machine.need_memory(16 * path.stat().st_size, str(path))  # a cell is a Python text
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter, said = _delimiter(next((line for line in file if line.strip()), "").rstrip("\r\n"))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
            for cells in reader:
                if rows and reader.line_num > last + 1:
                    quote = f"a quote in line {last + 1} is closed in line {reader.line_num}"
                    raise UserError(f"{path}: {quote}; repair or remove it")
                last = reader.line_num
                if "".join(cells).strip() or cells[1:]:
                    rows.append((last, cells))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if "field limit" in str(error):
            raise UserError(f"{path}: a quote after line {last} is not closed, or a cell is too long; repair it") from None
        reason = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else one_line(error)
        raise UserError(f"cannot read {path}: {reason}; save it as CSV in UTF-8") from None
    rows = rows[1:] if said else rows
    if not rows:
        raise UserError(f"{path} is empty; it needs a row for each sample")
    if delimiter != ",":
        rows = _with_points(path, rows)
    width, widths = len(rows[0][1]), {len(cells) for _, cells in rows[1:]}
    if len(rows) > 2 and len(widths) == 1 and width not in widths:
        other = f"{path}: line {rows[0][0]} has {width} columns and all others have {widths.pop()}"
        raise UserError(f"{other}; it must name each column or be a sample: complete or remove it")
    if any(_is_text(cell) for cell in rows[0][1]):
        while (last := len(rows[0][1]) - 1) and all(cells[last:] == [""] for _, cells in rows):
            rows = [(line, cells[:-1]) for line, cells in rows]  # no name, and nothing in it
    return rows


def _delimiter(first: str) -> tuple[str, bool]:
    """What separates the columns, by the first line, and whether this line says only that."""
    if said := re.fullmatch(r'"?sep=([,;|\t])"?\s*', first, re.IGNORECASE):  # as Excel writes and reads
        return said[1], True
    whole = re.sub(r'"[^"]*"|(?<=\d),(?=\d)', "", first)  # without texts, and commas that may part decimals
    return max(";\t,", key=whole.count) if re.search("[;\t,]", whole) else ",", False


def _with_points(path: Path, rows: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """Rows with decimal points in place of commas. Raises UserError if a comma may part thousands."""
    cells = [cell for _, row in rows for cell in row]
    comma = next((cell for cell in cells if _with_point(cell) != cell), None)
    point = next((cell for cell in cells if "." in cell and is_number(cell)), None)
    columns = zip(*(row for _, row in rows if len(row) == len(rows[0][1])), strict=True)
    if comma and (point or any(_parts_thousands(column, ",") for column in columns)):
        other = f"{point} with a decimal point" if point else "whole numbers below 1,000"
        fix = "leave out commas that part thousands, and write all decimals with a point"
        raise UserError(f"{path} has {other} and {comma} with a comma; {fix}")
    return [(line, [_with_point(cell) for cell in row]) for line, row in rows]


def _parts_thousands(column: Iterable[str], mark: str) -> bool:
    """Whether a mark may part thousands in a column: three digits follow each, and all other numbers are below 1,000."""
    cells, parted = [cell.strip() for cell in column], re.compile(rf"[+-]?[1-9]\d{{0,2}}\{mark}\d{{3}}")
    for cell in cells:  # one other number is enough, and most numbers are
        if mark in cell and not parted.fullmatch(cell) and is_number(_with_point(cell)):
            return False
    if not any(map(parted.fullmatch, cells)):
        return False
    others = [cell for cell in cells if mark not in cell and is_number(cell)]
    return bool(others) and all(re.fullmatch(r"[+-]?\d{1,3}", cell) for cell in others)


def _with_point(cell: str) -> str:
    point = cell.replace(",", ".")
    return point if cell.count(",") == 1 and is_number(point) else cell


def _names(rows: list[list[str]], file: str, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of the columns if the first row has them, else empty; and a note if it may be read in either way.

    It has them if it holds text before its last column, or a name of the column of classes that is not a class itself. Numbers
    are names if they are those that a model has, if they count from 0 or 1, as pandas writes columns without names, and in
    training if a text that is no other row's class is behind them.
    """
    cells = [cell.strip() for cell in rows[0]]
    inside = cells[1:] if cells[2:] and not cells[0] else cells  # behind the index that pandas writes
    *before, last = inside
    if any(map(_is_text, before or inside)) and not any(map(is_number, before)):
        return cells, []
    at, classes = _label(cells), wanted.classes or ()
    repeated = any(cells[at] == row[at].strip() for row in rows[1:] if at < len(row))
    if cells[at].lower() in LABELS:
        return ([] if repeated or (cells[at] in classes and not counted(before)) else cells), []
    is_name = _is_text(last) and last not in classes and not repeated
    if is_name and counted(before):
        return cells, []
    first = f"the first row of {file}, {few(inside)}, is taken as"
    more = [cell for cell in inside if cell not in wanted.columns]
    of_class = [cell for cell in more if cell.lower() in MISSING or (_is_text(cell) and cell in classes)]
    if wanted.columns and {*wanted.columns} <= {*inside} and len(more) < 2 and not of_class:
        return cells, [f"{first} the names of the columns"]
    if counted(inside) and rows[1:]:
        if any([cell.strip() for cell in row] == cells for row in rows[1:]):
            return [], [f"{first} a sample, as it occurs again; name the columns by words if it is none"]
        return cells, [f"{first} the names of the columns"]
    if is_name and before and all(map(is_number, before)) and not wanted.whole:
        return cells, [f"{first} the names of the columns, as no other row has {last}"]
    return [], []


def _is_text(cell: str) -> bool:
    """Whether a cell is neither a number (of any size) nor missing."""
    try:
        float(cell)
    except ValueError:
        return cell.lower() not in MISSING
    return "_" in cell
