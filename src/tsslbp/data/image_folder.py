"""``image-folder:DIR``: pictures in the layout of ImageNet, which stay in their files (:mod:`tsslbp.data.streamed`).

``train/CLASS/FILE`` and ``val/CLASS/FILE``, with ``test/CLASS/FILE`` if there is one, or plain ``CLASS/FILE``. Folders may lie
between a class and its files, and a ``val_annotations.txt`` may name the classes, as in Tiny-ImageNet.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsslbp import files
from tsslbp.data import own
from tsslbp.data.dataset import FIFTH, LOOKED_AT, Dataset, Split
from tsslbp.data.folders import folders_of_parts, unwrapped
from tsslbp.data.found import classes_of, kind_fact
from tsslbp.data.pictures import SUFFIXES, header
from tsslbp.data.streamed import Decoder, Files, Pool, Streamed, Streaming, default_workers
from tsslbp.errors import UserError

PREFIX = "image-folder:"
"""What settings call such a folder, before its path."""
SIZE = 224
"""Pixels of a side where pictures differ in size and nobody says."""
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class Listed:
    """The pictures below a folder, in the order of their names.

    Args:
        files: names and sizes.
        labels: names of the folders that they are in, in the order of their first files.
        y: number of each file's label ``[N]``; -1 of a file that is in no folder.
        changed: a hash of all names, sizes and times of the last change.
    """

    files: Files
    labels: tuple[str, ...]
    y: Tensor
    changed: str


def is_one(name: str) -> bool:
    """Whether a data set of this name is a folder of pictures in files."""
    return name.startswith(PREFIX)


def read(name: str, root: Path, validation: int | None, streaming: Streaming) -> Dataset:
    """The data set of a folder, which may lie below ``root``. Without a part ``test``, the part ``val`` is what is tested on.

    Raises:
        UserError: no folder, no pictures, no folder a class, other classes in a part, parts that are too small, and pictures
            among the first looked at that cannot be read.
    """
    folder = _folder(name.removeprefix(PREFIX), root)
    path = unwrapped(folder, SUFFIXES)
    parts = {part: _listed(folder) for part, folder in folders_of_parts(path).items()}
    train = parts["train"]
    if not len(train.y):
        raise UserError(f"{train.files.folder} has no pictures ({', '.join(SUFFIXES)})")
    classes, notes = classes_of(train.labels, str(path)), []
    if "test" in parts and not {*parts["test"].labels} & {*classes}:
        notes.append(f"{parts.pop('test').files.folder} has no folders of these classes, so it is left out")
    y = {part: _numbered(listed, classes) for part, listed in parts.items()}
    size = _size(train.files, streaming.size)
    workers = default_workers() if streaming.workers is None else streaming.workers
    pool = Pool(Decoder(size, streaming.random_crop), workers)
    splits = {part: Streamed(parts[part].files, torch.arange(len(y[part])), y[part], pool) for part in parts}
    if streaming.skip_broken:
        splits = {part: _readable(split, parts[part].changed, notes) for part, split in splits.items()}
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    by = f"{workers} worker process{'es' * (workers != 1)}" if workers else "this process"
    notes.append(f"pictures are in colour, brought to {size} × {size} pixels (--size), and read by {by} (--workers)")
    return own.complete(
        folder.resolve().name,
        str(folder),
        splits["train"],
        splits.get("test"),
        classes,
        validation,
        sequence=False,
        scale=255.0,
        tested_on=f"the folder {Path(splits['test'].files.folder).name}" if "test" in splits else FIFTH,
        held=splits.get("validation"),
        **kind_fact("pictures", *notes),
    )


def samples(path: Path, classes: tuple[str, ...], labelled: bool, streaming: Streaming) -> tuple[Split, list[str], list[str]]:
    """Every picture of a folder, or one, for a model of these classes; what to call each; notes for a reader.

    Raises UserError as :func:`read`; unless they are ``labelled``, their folders may have any names.
    """
    root, notes = path, list[str]()
    if path.is_file() and not labelled:
        listed = _listing(path.parent, [(path.name, path.stat())], {})
    else:
        listed = _listed(unwrapped(_folder(str(path)), SUFFIXES, classes))
        root = Path(listed.files.folder)
    if not len(listed.y):
        raise UserError(f"{path} has no pictures ({', '.join(SUFFIXES)})")
    y = _numbered(listed, classes) if labelled else torch.full_like(listed.y, -1)
    assert streaming.size is not None
    workers = default_workers() if streaming.workers is None else streaming.workers
    pool = Pool(Decoder(streaming.size, 0.0), workers)
    split = Streamed(listed.files, torch.arange(len(y)), y, pool)
    if streaming.skip_broken:
        split = _readable(split, listed.changed, notes)
    inside = "" if path.is_file() or root == path else f"{root.relative_to(path).as_posix()}/"
    return split, [inside + split.files.name(number) for number in split.numbers.tolist()], notes


def _folder(name: str, root: Path | None = None) -> Path:
    path = Path(name)
    if root and name and not path.exists() and (root / name).is_dir():
        return root / name
    if not name or not path.is_dir():
        what = f"{path} is one file" if path.is_file() else f"there is no folder {name or 'named'}"
        raise UserError(f"{what}; give {PREFIX}DIR, a folder with train/CLASS/FILE and val/CLASS/FILE, or CLASS/FILE")
    return path


def _listed(folder: Path) -> Listed:
    notes = folder / ANNOTATIONS
    classes = {}
    if notes.is_file():
        rows = (line.split("\t") for line in notes.read_text(encoding="utf-8", errors="replace").splitlines())
        classes = {row[0]: row[1] for row in rows if len(row) > 1}
    return _listing(folder, _pictures(str(folder)), classes)


def _pictures(folder: str, inside: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Names and facts of the pictures below a folder, in the order of their names; hidden ones are left out."""
    with os.scandir(os.path.join(folder, inside)) as found:
        entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.is_dir():
            yield from _pictures(folder, name)
        elif entry.name.lower().endswith(SUFFIXES):
            yield name, entry.stat()


def _listing(folder: Path, found: Iterable[tuple[str, os.stat_result]], classes: Mapping[str, str]) -> Listed:
    names, ends, sizes, numbers = bytearray(), array("q"), array("q"), array("q")
    labels: dict[str, int] = {}
    changed = hashlib.sha256(os.fsencode(folder.resolve()))
    for name, facts in found:
        names += os.fsencode(name)
        ends.append(len(names))
        sizes.append(facts.st_size)
        label = classes.get(name.rpartition("/")[2]) or name.rpartition("/")[0].partition("/")[0]
        numbers.append(labels.setdefault(label, len(labels)) if label else -1)
        changed.update(os.fsencode(f"{name}\0{facts.st_size} {facts.st_mtime_ns}\0"))
    listed = Files(str(folder), bytes(names), np.array(ends, np.int64), np.array(sizes, np.int64))
    return Listed(listed, tuple(labels), torch.tensor(np.array(numbers, np.int64)), changed.hexdigest())


def _numbered(listed: Listed, classes: tuple[str, ...]) -> Tensor:
    """Numbers of the classes ``[N]``. Raises UserError for labels that are no class, and for files without one."""
    if loose := (listed.y < 0).nonzero().flatten().tolist():
        raise UserError(
            f"{listed.files.path(loose[0])} is in no folder of a class ({len(loose):,} such pictures); move each into a folder "
            "named by class"
        )
    places = {name: number for number, name in enumerate(classes)}
    if odd := sorted({*listed.labels} - {*classes}):
        those = f"{', '.join(odd[:5])}{' and others' if odd[5:] else ''}"
        raise UserError(f"{listed.files.folder} has class {those}; the classes are {', '.join(classes)}; give these only")
    return torch.tensor([places[label] for label in listed.labels], dtype=torch.int64)[listed.y]


def _size(pictures: Files, wanted: int | None) -> int:
    """Pixels of a side."""
    if wanted:
        return wanted
    some = np.linspace(0, len(pictures.ends) - 1, min(LOOKED_AT, len(pictures.ends))).astype(np.int64)
    sides = set()
    for number in some.tolist():
        with suppress(UserError):  # whoever reads the picture says so
            sides.add(min(header(pictures.path(number))[0]))
    return sides.pop() if len(sides) == 1 else SIZE


def _readable(split: Streamed, changed: str, notes: list[str]) -> Streamed:
    """The pictures that can be read. Which cannot is kept in the cache, since every one is read to know it."""
    path = files.cache_folder() / f"broken-{changed[:20]}.json"
    try:
        broken = [int(place) for place in json.loads(path.read_text(encoding="utf-8"))]
        known = all(0 <= place < len(split) for place in broken)
    except (OSError, ValueError, TypeError, RecursionError):
        known = False
    if not known:
        broken = [place for place, _ in split.broken()]
        files.make_folder(path.parent, "set TSSLBP_CACHE to another folder")
        files.write_text(path, json.dumps(broken) + "\n")
    if not broken:
        return split
    named = ", ".join(split.files.name(place) for place in broken[:5]) + (", ..." if broken[5:] else "")
    notes.append(f"{len(broken):,} of {len(split):,} pictures of {split.files.folder} cannot be read and are left out: {named}")
    kept = torch.ones(len(split), dtype=torch.bool)
    kept[broken] = False
    return split.select(kept.nonzero()[:, 0])
