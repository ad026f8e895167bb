"""The cells of tables in ``.csv`` files. Commas, semicolons and tabs separate columns; beside the last two, a comma may be the
decimal separator."""

import csv
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tsslbp.data.labels import is_number
from tsslbp.data.series import MISSING
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, one_line

PARTED = {mark: re.compile(rf"[+-]?[1-9]\d{{0,2}}\{mark}\d{{3}}") for mark in ".,"}
"""Numbers in which a mark may part thousands."""


def read(path: Path) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Rows that are not empty, each with its line number, and notes. Decimal commas have become points.

    Raises UserError for a file that is no table, or has commas that may part thousands.
    """
    if not path.is_file():
        raise UserError(f"no data file {path}; give the path of a .csv file")
    rows, last = list[tuple[int, list[str]]](), 0
    try:
        machine.need_memory(16 * path.stat().st_size, str(path))  # a cell is a Python text
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter, said = _delimiter([line.rstrip("\r\n") for line in islice(filter(str.strip, file), 2)])
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
    rows, notes = _with_points(path, rows) if delimiter != "," else (rows, [])
    width, widths = len(rows[0][1]), {len(cells) for _, cells in rows[1:]}
    if len(rows) > 2 and len(widths) == 1 and width not in widths:
        other = f"{path}: line {rows[0][0]} has {width} columns and all others have {widths.pop()}"
        raise UserError(f"{other}; it must name each column or be a sample: complete or remove it")
    if any(is_text(cell) for cell in rows[0][1]):
        while (last := len(rows[0][1]) - 1) and all(cells[last:] == [""] for _, cells in rows):
            rows = [(line, cells[:-1]) for line, cells in rows]  # no name, and nothing in it
    return rows, notes


def _delimiter(lines: list[str]) -> tuple[str, bool]:
    """What separates the columns, by the first two lines, and whether the first one says only that."""
    if said := re.fullmatch(r'"?sep=([,;|\t])"?\s*', lines[0] if lines else "", re.IGNORECASE):  # as Excel writes and reads
        return said[1], True
    bare = [re.sub('"[^"]*"', "", line) for line in lines]  # without texts, and below without commas that may be decimal
    bare = [re.sub(r"(?<=\d),(?=\d)", "", line) if re.search("[;\t]", line) else line for line in bare]
    counts = {mark: [line.count(mark) for line in bare] for mark in ";\t,"}
    found = max(counts, key=lambda mark: (min(counts[mark], default=0), counts[mark]))
    return found if any(counts[found]) else ",", False


def _with_points(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Rows with decimal points in place of commas, and a note if there are any. Raises UserError if one may part thousands."""
    cells = [cell for _, row in rows for cell in row]
    commas = [cell for cell in cells if "," in cell and _with_point(cell) != cell]
    comma = next((cell for cell in commas if PARTED[","].fullmatch(cell.strip())), commas[0]) if commas else None
    point = next((cell for cell in cells if "." in cell and is_number(cell)), None)
    columns = zip(*(row for _, row in rows if len(row) == len(rows[0][1])), strict=True)
    if comma and (point or any(parts_thousands(column, ",") for column in columns)):
        other = f"{point} with a decimal point" if point else "whole numbers below 1,000"
        fix = "leave out commas that part thousands, and write all decimals with a point"
        raise UserError(f"{path} has {other} and {comma} with a comma; {fix}")
    note = [f"commas in numbers are decimal: {comma} is {_with_point(comma)}"] if comma else []
    return [(line, [_with_point(cell) for cell in row]) for line, row in rows], note


def parts_thousands(column: Iterable[str], mark: str) -> bool:
    """Whether a mark may part thousands in a column: three digits follow each, and all other numbers are below 1,000."""
    cells, parted = [cell.strip() for cell in column], PARTED[mark]
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


def is_text(cell: str) -> bool:
    """Whether a cell is neither a number (of any size) nor missing."""
    try:
        float(cell)
    except ValueError:
        return cell.lower() not in MISSING
    return "_" in cell
