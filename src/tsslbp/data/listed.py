"""From lists of pictures in files to data sets that stream them, for all layouts."""

import json
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsslbp.data import pictures
from tsslbp.data.dataset import FIFTH, SAMPLES_LOOKED_AT, Dataset
from tsslbp.data.found import Found, kind_fact
from tsslbp.data.labels import classes_of
from tsslbp.data.streamed import Files, Pool, Streamed, Streaming
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, few

SIZE = 224
"""Default pixels of a side if pictures differ in size."""


@dataclass(frozen=True)
class Listed:
    """Pictures in files, in order.

    Args:
        files: names and sizes.
        labels: names of the labels, in the order of their first pictures.
        y: number of each picture's label ``[N]``; -1 for none.
        changed: a hash of all names, sizes and modification times.
        loose: what is wrong with a picture without a label, and how to fix it.
    """

    files: Files
    labels: tuple[str, ...]
    y: Tensor
    changed: str
    loose: tuple[str, str]


class Lister:
    """Makes a list, picture by picture."""

    def __init__(self) -> None:
        self.labels: dict[str, int] = {}
        self._names, self._ends, self._sizes, self._numbers = bytearray(), array("q"), array("q"), array("q")

    def add(self, name: bytes, size: int, label: str) -> None:
        """Add a picture with its size in bytes; an empty label means none."""
        self._names += name
        self._ends.append(len(self._names))
        self._sizes.append(size)
        self._numbers.append(self.labels.setdefault(label, len(self.labels)) if label else -1)

    @property
    def of_files(self) -> tuple[bytes, NDArray[np.int64], NDArray[np.int64]]:
        """Names, their ends, and sizes, for :class:`Files`."""
        return bytes(self._names), np.array(self._ends, np.int64), np.array(self._sizes, np.int64)

    @property
    def y(self) -> Tensor:
        """Number of each picture's label ``[N]``; -1 for none."""
        return torch.tensor(np.array(self._numbers, np.int64))


def dataset(
    parts: Mapping[str, Listed],
    name: str,
    where: str,
    validation: int | None,
    streaming: Streaming,
    tested_on: Mapping[str, str],
) -> Dataset:
    """The data set of lists by part. Without a part ``test``, ``validation`` is used for testing.

    Args:
        parts: the lists; that of ``train`` is not empty.
        name: of the data set.
        where: the folder or pattern, for messages.
        validation: samples to hold out, see :meth:`tsslbp.data.found.Found.dataset`.
        streaming: how pictures are read.
        tested_on: description of the part ``test`` or ``validation``.

    Raises:
        UserError: pictures without labels, other classes in a part, parts that are too small, and unreadable pictures among
            the first looked at.
    """
    parts, said = dict(parts), list[str]()
    classes = classes_of(parts["train"].labels, where)
    if "test" in parts and not {*parts["test"].labels} & {*classes}:
        said.append(f"{parts.pop('test').files.folder} has no pictures of these classes, so it is left out")
    y = {part: _numbered(listed, classes) for part, listed in parts.items()}
    headers = _headers(parts["train"].files, pictures.DEEP_LOOKED_AT if streaming.size else SAMPLES_LOOKED_AT)
    sides = {min(found.size) for found in headers.values()}
    size = streaming.size or (sides.pop() if len(sides) == 1 else SIZE)
    pool = Pool.of(streaming, size, streaming.random_crop)
    splits = {part: Streamed(parts[part].files, torch.arange(len(y[part])), y[part], pool) for part in parts}
    if streaming.skip_broken:
        splits = {part: _readable(split, parts[part].changed, said) for part, split in splits.items()}
    tested = "test" if "test" in splits else "validation"
    if tested in splits:
        splits["test"] = splits.pop(tested)
    by = f"{pool.workers} worker process{'es' * (pool.workers != 1)}" if pool.workers else "this process"
    said.append(f"pictures are in colour, brought to {size} × {size} pixels (--size), and read by {by} (--workers)")
    description = tested_on[tested] if "test" in splits else FIFTH
    found = Found(splits, classes, False, 255.0, description, facts=kind_fact("pictures", *said, *pictures.dim(headers)))
    return found.dataset(name, where, validation)


def samples(listed: Listed, classes: tuple[str, ...], labelled: bool, streaming: Streaming) -> tuple[Streamed, list[str]]:
    """All pictures of a list, for a model of these classes, and notes for the reader.

    Raises UserError as :func:`dataset`; unless they are ``labelled``, their labels may be any or none.
    """
    notes = list[str]()
    y = _numbered(listed, classes) if labelled else torch.full_like(listed.y, -1)
    assert streaming.size is not None
    split = Streamed(listed.files, torch.arange(len(y)), y, Pool.of(streaming, streaming.size, 0.0))
    return (_readable(split, listed.changed, notes) if streaming.skip_broken else split), notes


def _numbered(listed: Listed, classes: tuple[str, ...]) -> Tensor:
    """Class numbers ``[N]``. Raises UserError for labels that are no class, and for pictures without one."""
    if loose := (listed.y < 0).nonzero().flatten().tolist():
        wrong, fix = listed.loose
        raise UserError(f"{listed.files.at(loose[0])} {wrong} ({len(loose):,} such pictures); {fix}")
    places = {name: number for number, name in enumerate(classes)}
    if odd := sorted({*listed.labels} - {*classes}):
        raise UserError(f"{listed.files.folder} has class {few(odd, 5)}; the classes are {few(classes, 20)}; give these only")
    return torch.tensor([places[label] for label in listed.labels], dtype=torch.int64)[listed.y]


def _headers(of: Files, most: int) -> dict[pictures.Picture, pictures.Header]:
    """Headers of some of the pictures by their places."""
    some = np.linspace(0, len(of.ends) - 1, min(most, len(of.ends))).astype(np.int64)
    found = dict[pictures.Picture, pictures.Header]()
    for picture in map(of.at, some.tolist()):
        with suppress(UserError):  # reading the picture will raise it
            found[picture] = pictures.header(picture)
    return found


def _readable(split: Streamed, changed: str, notes: list[str]) -> Streamed:
    """The readable pictures. The unreadable ones are cached, since finding them takes reading all."""
    size = split.pool.decoder.size  # may be too large for a thin picture
    path = files.cache_folder() / f"broken-{changed[:20]}-{size}.json"
    try:
        broken = [int(place) for place in json.loads(path.read_text(encoding="utf-8"))]
        known = all(0 <= place < len(split) for place in broken)
    except (OSError, ValueError, TypeError, RecursionError):
        known = False
    if not known:
        broken = [place for place, _ in split.broken()]
        files.make_folder(path.parent, files.CACHE_FIX)
        files.write_text(path, json.dumps(broken) + "\n")
    if not broken:
        return split
    named = ", ".join(split.files.name(place) for place in broken[:5]) + (", ..." if broken[5:] else "")
    notes.append(f"{len(broken):,} of {len(split):,} pictures of {split.files.folder} cannot be read and are left out: {named}")
    kept = torch.ones(len(split), dtype=torch.bool)
    kept[broken] = False
    return split.select(kept.nonzero()[:, 0])
