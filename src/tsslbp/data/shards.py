"""``webdataset:SHARDS``: pictures in tar files in the layout of WebDataset, which stay there (:mod:`tsslbp.data.streamed`).

SHARDS is a folder of ``*.tar``, a pattern such as ``shards/train-{000..127}.tar``, or one file. A word in the name of a file,
or of its folder, says which part it belongs to: ``train``, ``test``, or ``val``, ``validation`` or ``dev``.

The headers of the tar files are read once, and the result is cached. A picture is then known by its file, its place in it and
its size, and is read like any other.
"""

import glob
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data import folders, listed, tar
from tsslbp.data.dataset import Dataset, Split
from tsslbp.data.labels import alike
from tsslbp.data.listed import Listed, Lister
from tsslbp.data.pictures import Member
from tsslbp.data.streamed import Files, Streaming
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, all_of, shown

PREFIX = "webdataset:"
"""Prefix of shards in settings."""
BRACES = r"\{([^{}]*)\}"
MOST = 100_000
"""Files that a pattern may name."""
SUFFIXES = (".tar",)
VERSION = 2
"""Version of the cached arrays; part of the cache's key."""
ARRAYS = ("names", "ends", "sizes", "y", "labels", "numbers", "starts")
"""Cached arrays over pictures; ``labels`` is JSON."""
LOOSE = "has no label", "put KEY.cls, a text file with the number of its class, right behind each KEY.jpg"
"""What is wrong with a picture without a label, and how to fix it."""


@dataclass(frozen=True)
class Shards(Files):
    """Names, sizes and places of pictures in tar files.

    Args:
        shards: the tar files, in order; names of pictures begin with their paths relative to ``root``.
        root: the folder around all of them.
        numbers: index of each picture's tar file, ``[N]``.
        starts: where it starts in that, ``[N]``.
    """

    shards: tuple[str, ...]
    root: str
    numbers: NDArray[np.int32]
    starts: NDArray[np.int64]

    def name(self, number: int) -> str:
        return f"{os.path.relpath(self.shards[self.numbers[number]], self.root)}/{super().name(number)}"

    def at(self, number: int) -> Member:
        shard, name = self.shards[self.numbers[number]], super().name(number)
        return Member(shard, name, int(self.starts[number]), int(self.sizes[number]))


def read(name: str, root: Path, validation: int | None, streaming: Streaming) -> Dataset:
    """The data set of some shards, which may lie below ``root``. Without a part ``test``, ``val`` is used for testing.

    Raises:
        UserError: no such files, files without a part in their name beside others with one, what :func:`tar.samples` refuses,
            and as :func:`listed.dataset`.
    """
    given = name.removeprefix(PREFIX)
    paths = _paths(given, root)
    around = _around(paths)
    parts = {part: _listing(of, around, f"{given} ({part})") for part, of in _parts(paths, around).items()}
    if not len(parts["train"].y):
        raise UserError(f"{given} has no pictures for training ({', '.join(tar.SUFFIXES)})")
    called = Path(given).resolve().name.removesuffix(".tar")
    return listed.dataset(parts, called, given, validation, streaming, {part: f"the {part} shards" for part in parts})


def samples(path: Path, classes: tuple[str, ...], labelled: bool, streaming: Streaming) -> tuple[Split, list[str], list[str]]:
    """Every picture of some shards, for a model of these classes; their names; notes for the reader.

    Raises UserError as :func:`read`; unless they are ``labelled``, they may have any labels or none.
    """
    paths = _paths(str(path))
    found = _listing(paths, _around(paths), str(path))
    if not len(found.y):
        raise UserError(f"{path} has no pictures ({', '.join(tar.SUFFIXES)})")
    split, notes = listed.samples(found, classes, labelled, streaming)
    return split, [split.files.name(number) for number in split.numbers.tolist()], notes


def are_at(path: Path) -> bool:
    """Whether a path has shards or is a pattern of them."""
    return next(folders.files_in(path, SUFFIXES), None) is not None if path.is_dir() else path.suffix.lower() in SUFFIXES


def _paths(given: str, root: Path | None = None) -> list[Path]:
    """The files of a folder, a pattern or a path, sorted by name, those of one folder together."""
    if re.match(r"[a-z][a-z0-9+.-]*://|pipe:", given):
        raise UserError(f"{given} is not on this machine; fetch the shards first, as pictures are read from them in any order")
    for start in [Path(), *([root] if root else [])]:
        path = start / given
        if given and path.is_dir():
            if found := sorted(folders.files_in(path, SUFFIXES)):
                return found
            raise UserError(f"{path} has no .tar files")
        if given and path.is_file():
            return [path]
        wanted = [str(start / one) for one in _expanded(given)]
        plain = {each for each in wanted if os.path.isfile(each) or not glob.has_magic(each)}  # [1] may be a part of a name
        found = sorted({Path(one) for each in wanted for one in ([each] if each in plain else glob.glob(each))})
        there = [one for one in found if one.is_file()]
        if there and len(there) < len(found):
            missing, *others = (one for one in found if not one.is_file())
            nor = f", nor {len(others):,} others of {given}" if others else ""
            raise UserError(f"there is no {missing}{nor}; fetch what is missing, or name fewer")
        if there:
            return there
    raise UserError(
        f"there are no shards at {given or 'a path without a name'}; give {PREFIX}DIR, a folder with .tar files, or a pattern "
        "such as train-{000..127}.tar"
    )


def _expanded(pattern: str) -> list[str]:
    """The names that a pattern with ``{000..127}`` and ``{train,val}`` stands for. Raises UserError for more than ``MOST``."""
    made = [pattern]
    while any(re.search(BRACES, one) for one in made):
        made = list(islice((one for each in made for one in _once_expanded(each)), MOST + 1))
        if len(made) > MOST:
            raise UserError(f"{shown(pattern)} stands for more than {MOST:,} files; name fewer, or give their folder")
    return list(dict.fromkeys(made))


def _once_expanded(pattern: str) -> Iterator[str]:
    if not (braces := re.search(BRACES, pattern)):
        yield pattern
        return
    words: Iterable[str] = braces[1].split(",")
    if ends := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", braces[1], re.ASCII):
        words = (str(number).zfill(len(ends[1])) for number in range(int(ends[1]), min(int(ends[2]), int(ends[1]) + MOST) + 1))
    for word in words:
        yield pattern[: braces.start()] + word + pattern[braces.end() :]


def _around(paths: Sequence[Path]) -> str:
    """The folder around all files."""
    return os.path.commonpath([path.absolute().parent for path in paths])


def _parts(paths: Sequence[Path], around: str) -> dict[str, list[Path]]:
    """The files of each part; all are for training if no name says a part, or all say one other than ``train``."""
    parts: dict[str, list[Path]] = {}
    for path in paths:
        parts.setdefault(_part(os.path.relpath(path.absolute(), around)), []).append(path)
    if "train" not in parts:
        if len(named := sorted(parts.keys() - {""})) > 1:
            raise UserError(f"there are shards for {' and '.join(named)} and none for train; add these, or name one part")
        return {"train": list(paths)}
    if "" in parts:
        raise UserError(f"the name of {parts[''][0]} has none of the words train, val and test, and those of other shards have")
    return parts


def _part(name: str) -> str:
    """The part given by the last word that names one; empty if none does."""
    words = reversed(re.split("[^a-z]+", name.lower()))
    return next((part for word in words for part, names in folders.PARTS.items() if word in names), "")


def _listing(paths: Sequence[Path], around: str, folder: str) -> Listed:
    known = [[str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
    changed = hashlib.sha256(json.dumps([VERSION, known]).encode()).hexdigest()
    place = files.cache_folder() / f"shards-{changed[:20]}.npz"
    found = _kept(place)
    if found is None:
        found = _indexed(paths)
        files.make_folder(place.parent, files.CACHE_FIX)
        with files.replacing(place, files.CACHE_FIX) as file:
            np.savez(file, **found)  # type: ignore[arg-type]
    names = alike(json.loads(found["labels"].tobytes()))
    labels = {name: number for number, name in enumerate(dict.fromkeys(names))}
    y = torch.tensor([*(labels[name] for name in names), -1])[torch.from_numpy(found["y"])]  # -1 stays, as the last
    of_files = found["names"].tobytes(), found["ends"], found["sizes"]
    shards = Shards(folder, *of_files, tuple(map(str, paths)), around, found["numbers"], found["starts"])
    return Listed(shards, tuple(labels), y, changed, LOOSE)


def _kept(place: Path) -> dict[str, NDArray[Any]] | None:
    """The cached arrays; None if there are none. A file of this name is complete, and is of the same shards."""
    try:
        with np.load(place, allow_pickle=False) as kept:
            return {name: kept[name] for name in ARRAYS}
    except Exception:  # a damaged file may raise anything
        return None


def _indexed(paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """All pictures in tar files. Raises one UserError for all files that :func:`tar.samples` refuses."""
    made, numbers, starts, faults = Lister(), array("i"), array("q"), list[str]()
    for number, path in enumerate(paths):
        try:
            for sample in tar.samples(path):
                made.add(sample.name.encode(), sample.size, sample.label)
                numbers.append(number)
                starts.append(sample.start)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise all_of(faults)
    names, ends, sizes = made.of_files
    labels = np.frombuffer(json.dumps([*made.labels]).encode(), np.uint8)
    places = np.array(numbers, np.int32), np.array(starts, np.int64)
    return dict(zip(ARRAYS, (np.frombuffer(names, np.uint8), ends, sizes, made.y.numpy(), labels, *places), strict=True))
