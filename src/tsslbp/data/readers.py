"""Readers of a user's own files and folders."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tsslbp.data import csv_table, npz, pictures, recordings, series, wav
from tsslbp.data.dataset import Dataset, Split
from tsslbp.data.folders import files_in, left_out
from tsslbp.data.found import Found, Wanted, partner
from tsslbp.utils.errors import UserError, few


@dataclass(frozen=True)
class Reader:
    """Reads one kind of file.

    Args:
        accepts: description of what it reads.
        suffixes: of its files, in lower case.
        folder: whether it reads a folder of such files rather than one file.
        read: reads a path.
    """

    accepts: str
    suffixes: tuple[str, ...]
    folder: bool
    read: Callable[[Path, Wanted], Found]


READERS = (
    Reader("an .npz file with arrays x and y", (".npz",), False, npz.read),
    Reader("a .csv table with a column of classes", (".csv",), False, csv_table.read),
    Reader("a .ts, .txt or .tsv file of series (UCR, UEA)", (".ts", ".txt", ".tsv"), False, series.read),
    Reader("a folder of pictures, a folder a class", pictures.SUFFIXES, True, pictures.read),
    Reader("a folder of WAV files, a folder a class", wav.SUFFIXES, True, wav.read),
    Reader("a folder of event recordings (.bin, .npy), a folder a class", recordings.SUFFIXES, True, recordings.read),
)
ACCEPTED = "; ".join(reader.accepts for reader in READERS)


def at(path: Path) -> tuple[Reader, Path] | None:
    """The reader for a path, and the path to give it; None if no reader takes it.

    A folder of series in the archives' layout, with one ``NAME_TRAIN`` in one or more formats, stands for that file.
    """
    if path.is_dir():
        for suffix in (".ts", ".tsv", ".txt", ".csv"):
            if len(inside := [file for file in path.glob(f"*_TRAIN{suffix}") if not file.name.startswith(".")]) == 1:
                return at(inside[0])
        firsts = {reader: next(files_in(path, reader.suffixes), None) for reader in READERS if reader.folder}
        if found := {reader: first for reader, first in firsts.items() if first}:
            if len(found) > 1:
                several = " and ".join(first.name for first in found.values())
                raise UserError(f"{path} has files of several kinds, such as {several}; keep one kind")
            return next(iter(found)), path
    named = (reader for reader in READERS if path.suffix.lower() in reader.suffixes)
    return next(((reader, path) for reader in named), None)  # also a folder of such a name, which its reader refuses


def found(path: Path, wanted: Wanted) -> Found:
    """The samples at a path.

    Raises:
        UserError: nothing that any reader takes, and errors of its reader.
    """
    chosen = at(path)
    if chosen is None and (inside := _files_of_readers(path)):
        raise UserError(f"{path} is a folder with {few(inside, 4)}; give one file, such as {path / inside[0]}")
    if chosen is None:
        what = "has no files of" if path.is_dir() else "is no file of" if path.exists() else "is not there; these are"
        raise UserError(f"{path} {what} the kinds that are read: {ACCEPTED}")
    reader, path = chosen
    if reader.folder and not path.exists():
        raise UserError(f"there is no {path}; give {reader.accepts}")
    return reader.read(path, wanted)


def _files_of_readers(folder: Path) -> list[str]:
    """Names of the files in a folder that could be given by themselves; without a test file whose training file is there."""
    suffixes = tuple(suffix for reader in READERS if not reader.folder for suffix in reader.suffixes)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes) if folder.is_dir() else []
    return [
        path.name for path in files if not path.stem.lower().startswith("readme") and not path.stem.lower().endswith("_test")
    ]


def read(
    name: str, validation: int | None, time_steps: int | None, rate: int = 0, shape: tuple[int, ...] | None = None
) -> Dataset:
    """The data set at a path; ``rate`` and ``shape`` as in :class:`~tsslbp.data.found.Wanted`.

    Raises UserError as :func:`found`, and for parts that are too small.
    """
    path = Path(name)
    own_name = path.stem if path.is_file() else Path(os.path.realpath(path)).name
    dataset = found(path, Wanted(time_steps, rate=rate, shape=shape)).dataset(own_name, name, validation)
    return replace(dataset, source=name, notes=(*dataset.notes, *notes(path)))


def notes(path: Path) -> tuple[str, ...]:
    """Notes on what is not read of a folder."""
    chosen = at(path) if path.is_dir() else None
    return left_out(path, chosen[0].suffixes) if chosen and chosen[0].folder else ()


def samples(
    path: Path,
    classes: tuple[str, ...],
    shape: tuple[int, ...],
    rate: int = 0,
    columns: tuple[str, ...] = (),
    labelled: bool = True,
) -> tuple[Split, list[str], list[str]]:
    """Every sample at a path, for a model of these classes and this sample shape; their names; notes for the reader.

    ``rate`` and ``columns``: see :class:`~tsslbp.data.found.Wanted`.

    Raises:
        UserError: as :func:`found`; classes that the model does not have (a class may be missing); a folder of training and
            test series.
    """
    chosen = at(path)
    if chosen and path.is_dir() and not chosen[0].folder and (test := partner(chosen[1])):
        raise UserError(f"{path} holds {chosen[1].name} and {test.name}; give one of these files")
    made = found(path, Wanted(None, classes, shape, True, rate, columns, labelled))
    return *made.all(), [*made.doubts, *notes(path)]
