"""Tables in ``.csv`` files: a row for each sample, a column of classes, all other columns numbers.

The column of classes is named label, class, target or y, or is the last one; beside x or z, y is a coordinate. The first row
may name the columns. A column groups, beside a named one of classes, says which samples are held out together.
``NAME_TRAIN.csv`` finds its ``NAME_TEST.csv``.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data import csv_rows
from tsslbp.data.csv_rows import is_text, parts_thousands
from tsslbp.data.dataset import FIFTH, Split
from tsslbp.data.found import Found, Wanted, kind_fact, partner
from tsslbp.data.labels import LABELS, alike, classes_of, counted, is_number, numbered, plain
from tsslbp.data.sample_values import LOST, lost_in_float32
from tsslbp.data.series import MISSING, NO_LABEL
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, all_of, few
from tsslbp.utils.fields import FLOAT32_MAX

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
    rows, read_as = csv_rows.read(path)
    layout, doubts = _layout(path, [cells for _, cells in rows], wanted)
    body = rows[1:] if layout.named else rows
    x, labels, groups = _values(path, body, rows[0][0], layout, wanted)
    names = [layout.columns[n] for n in layout.features]
    parted = [layout.columns[n] for n in layout.features if parts_thousands((cells[n] for _, cells in body), ".")]
    notes = (*read_as, *_notes(x, names, layout, wanted), *map(POINTS.format, parted))
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
    texts = defaultdict[str, dict[str, list[tuple[int, str]]]](lambda: defaultdict(list))
    for row, (line, cells) in zip(x, body, strict=True):
        if len(cells) != width:
            faults.append(f"{path}: line {line} has {len(cells)} columns, line {first} has {width}")
            continue
        labels.append(None if label is None else plain(cells[label]))
        if str(labels[-1]).lower() in NO_LABEL and wanted.labelled:
            place = f"in column {columns[width - 1 if label is None else label]}"
            faults.append(f"{path}: line {line} has no class {place}; complete or remove it")
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
                kind = "text" if is_text(cell) else "numbers beyond float32"
                texts[kind][columns[n]].append((line, cell.strip()))
    for kind, of_columns in texts.items():
        (column, found), *more = of_columns.items()
        has = f"columns {few([*of_columns])} have {kind}" if more else f"column {column} has {kind} in {len(found)} rows"
        line, text = found[0]
        truths = all(cell.lower() in ("true", "false") for cells in of_columns.values() for _, cell in cells)
        fix = "write 1 and 0" if truths else _instead([*of_columns], layout, wanted)
        faults.append(f"{path}: {has}, {text[:30]!r} in line {line} first; {fix}")
    if missing:
        faults.append(f"{path}: {len(missing)} missing values, the first in {missing[0]}; fill them or remove their rows")
    if faults:
        raise all_of(faults)
    return x, labels, groups


def _instead(texts: list[str], layout: _Layout, wanted: Wanted) -> str:
    """What to do about text in columns of features."""
    them, one = ("them", "one") if texts[1:] else ("it", "it")
    fix, labelled = f"write numbers, or leave {them} out", layout.class_column.lower() == LABELS[0]
    if wanted.whole:
        return fix
    if any(column.lower() == "groups" for column in texts) and not labelled:
        return "write numbers, or name the column of classes label to hold its samples together"
    if not any(name.lower() == "groups" for name in layout.columns):
        fix = f"write numbers, leave {them} out, or name {one} groups if it tells whose sample a row is"
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
        raise UserError(f"{path} {_unlike(names, wanted)}; its columns must be those of the training samples")
    return [places[name] for name in wanted]


def _unlike(names: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    """How names of columns differ from those that are wanted."""
    lacking = list(dict.fromkeys(name for name in wanted if name not in names))
    more = list(dict.fromkeys(name for name in names if name not in wanted))
    if not lacking and not more:
        return f"repeats {few([name for name in dict.fromkeys(names) if names.count(name) > 1])} in another order"
    if not more:
        return f"lacks {few(lacking)}"
    case = ", which differ in case alone" if {*map(str.lower, lacking)} == {*map(str.lower, more)} else ""
    return f"lacks {few(lacking)} and has {few(more)} instead{case}" if lacking else f"has {few(more)} besides"


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


def _names(rows: list[list[str]], file: str, wanted: Wanted) -> tuple[list[str], list[str]]:
    """The names of the columns if the first row has them, else empty; and a note if it may be read in either way.

    It has them if it holds text before its last column, or a name of the column of classes that is not a class itself. Numbers
    are names if they are those that a model has, if they count from 0 or 1, as pandas writes columns without names, and in
    training if a text that is no other row's class is behind them.
    """
    cells = [cell.strip() for cell in rows[0]]
    inside = cells[1:] if cells[2:] and not cells[0] else cells  # behind the index that pandas writes
    *before, last = inside
    if any(map(is_text, before or inside)) and not any(map(is_number, before)):
        return cells, []
    at, classes = _label(cells), wanted.classes or ()
    repeated = any(cells[at] == row[at].strip() for row in rows[1:] if at < len(row))
    if cells[at].lower() in LABELS:
        return ([] if repeated or (cells[at] in classes and not counted(before)) else cells), []
    is_name = is_text(last) and last not in classes and not repeated
    if is_name and counted(before):
        return cells, []
    first = f"the first row of {file}, {few(inside)}, is taken as"
    more = [cell for cell in inside if cell not in wanted.columns]
    of_class = [cell for cell in more if cell.lower() in MISSING or (is_text(cell) and cell in classes)]
    if wanted.columns and {*wanted.columns} <= {*inside} and len(more) < 2 and not of_class:
        return cells, [f"{first} the names of the columns"]
    if counted(inside) and rows[1:]:
        if any([cell.strip() for cell in row] == cells for row in rows[1:]):
            return [], [f"{first} a sample, as it occurs again; name the columns by words if it is none"]
        return cells, [f"{first} the names of the columns"]
    if is_name and before and all(map(is_number, before)) and not wanted.whole:
        return cells, [f"{first} the names of the columns, as no other row has {last}"]
    return [], []
