"""``image-folder:DIR``: pictures in the layout of ImageNet, which stay in their files (:mod:`tsslbp.data.streamed`).

``train/CLASS/FILE`` and ``val/CLASS/FILE``, with ``test/CLASS/FILE`` if there is one, or plain ``CLASS/FILE``. Folders may lie
between a class and its files, and a ``val_annotations.txt`` may name the classes, as in Tiny-ImageNet.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tsslbp.data import listed
from tsslbp.data.dataset import Dataset, Split
from tsslbp.data.folders import folders_in, folders_of_parts, left_out, unwrapped, walked
from tsslbp.data.listed import Listed, Lister
from tsslbp.data.pictures import SUFFIXES
from tsslbp.data.streamed import Files, Streaming
from tsslbp.utils.errors import UserError

PREFIX = "image-folder:"
"""Prefix of such a folder's path in settings."""
ANNOTATIONS = "val_annotations.txt"
LOOSE = "is in no folder of a class", "move each into a folder named by class"
"""What is wrong with a picture without a label, and how to fix it."""


def read(name: str, root: Path, validation: int | None, streaming: Streaming) -> Dataset:
    """The data set of a folder, which may lie below ``root``. Without a part ``test``, the part ``val`` is used for testing.

    Raises:
        UserError: no folder, no pictures, no folders for classes, other classes in a part, parts that are too small, and
            unreadable pictures among the first looked at.
    """
    folder = _folder(name.removeprefix(PREFIX), root)
    path = unwrapped(folder, SUFFIXES)
    parts = {part: _listed(folder) for part, folder in folders_of_parts(path).items()}
    train = parts["train"]
    if not len(train.y):
        raise UserError(f"{train.files.folder} has no pictures ({', '.join(SUFFIXES)})")
    for child in folders_in(Path(train.files.folder)):
        if child.name not in train.labels:
            raise UserError(f"folder {child} has no pictures ({', '.join(SUFFIXES)}); add some or remove it")
    tested_on = {part: f"the folder {Path(found.files.folder).name}" for part, found in parts.items()}
    made = listed.dataset(parts, folder.resolve().name, str(folder), validation, streaming, tested_on)
    return replace(made, notes=(*made.notes, *left_out(folder, SUFFIXES)))


def samples(path: Path, classes: tuple[str, ...], labelled: bool, streaming: Streaming) -> tuple[Split, list[str], list[str]]:
    """Every picture of a folder, or one, for a model of these classes; their names; notes for the reader.

    Raises UserError as :func:`read`; unless they are ``labelled``, their folders may have any names.
    """
    root = path
    if path.is_file() and not labelled:
        found = _listing(path.parent, [(path.name, path.stat())], {})
    else:
        found = _listed(unwrapped(_folder(str(path)), SUFFIXES, classes))
        root = Path(found.files.folder)
    if not len(found.y):
        raise UserError(f"{path} has no pictures ({', '.join(SUFFIXES)})")
    split, notes = listed.samples(found, classes, labelled, streaming)
    notes += left_out(root, SUFFIXES) if root.is_dir() else ()
    inside = "" if path.is_file() or root == path else f"{root.relative_to(path).as_posix()}/"
    return split, [inside + split.files.name(number) for number in split.numbers.tolist()], notes


def _folder(name: str, root: Path | None = None) -> Path:
    path = Path(name)
    if root and name and not path.exists() and (root / name).is_dir():
        return root / name
    if not name or not path.is_dir():
        looked = f", and none in {root}" if root and not path.is_absolute() else ""
        missing = f"there is no folder {path}{looked}" if name else "no folder is named"
        what = f"{path} is one file" if path.is_file() else missing
        raise UserError(f"{what}; give {PREFIX}DIR, a folder with train/CLASS/FILE and val/CLASS/FILE, or CLASS/FILE")
    return path


def _listed(folder: Path) -> Listed:
    notes = folder / ANNOTATIONS
    classes = {}
    if notes.is_file():
        rows = (line.split("\t") for line in notes.read_text(encoding="utf-8", errors="replace").splitlines())
        classes = {row[0]: row[1] for row in rows if len(row) > 1}
    return _listing(folder, _pictures(str(folder)), classes)


def _pictures(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Names and facts of the pictures below a folder. Raises UserError for a link to a file that is not there."""
    for inside, entry in walked(folder, SUFFIXES):
        try:
            yield f"{inside}/{entry.name}" if inside else entry.name, entry.stat()
        except OSError as error:
            raise UserError(f"cannot read {entry.path}: {error.strerror}; remove it") from None


def _listing(folder: Path, found: Iterable[tuple[str, os.stat_result]], classes: Mapping[str, str]) -> Listed:
    made, changed = Lister(), hashlib.sha256(os.fsencode(folder.resolve()))
    for name, facts in found:
        label = classes.get(name.rpartition("/")[2]) or name.rpartition("/")[0].partition("/")[0]
        made.add(os.fsencode(name), facts.st_size, label)
        changed.update(os.fsencode(f"{name}\0{facts.st_size} {facts.st_mtime_ns}\0"))
    return Listed(Files(str(folder), *made.of_files), tuple(made.labels), made.y, changed.hexdigest(), LOOSE)
