"""Folders of files by class: ``CLASS/FILE``, or ``train/CLASS/FILE``, and the same in ``val`` and ``test``."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsslbp.data.dataset import FIFTH
from tsslbp.data.found import Made, Wanted
from tsslbp.data.labels import classes_of, numbered
from tsslbp.utils.errors import UserError, few

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of the folders of each part, in any case."""
WAYS = 100
"""Most names of a folder, by links. With two links from each folder to the next, their number would double each time."""


@dataclass(frozen=True)
class Listing:
    """The files of each part with their classes ``[N]``, and what their names say."""

    files: dict[str, list[Path]]
    y: dict[str, Tensor]
    names: dict[str, list[str]]
    classes: tuple[str, ...]
    tested_on: str

    @property
    def paths(self) -> list[Path]:
        return [path for files in self.files.values() for path in files]

    def made(self, make: Callable[[str, list[Path]], Callable[[Tensor], Tensor]]) -> dict[str, Made]:
        """The samples of each part; ``make(part, files)`` gives the function that makes them from their numbers."""
        return {
            part: Made(torch.arange(len(files)), self.y[part], make=make(part, files)) for part, files in self.files.items()
        }


def files_in(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Files of these suffixes anywhere below a folder, except hidden ones, sorted by name in each folder."""
    return (Path(folder, inside, entry.name) for inside, entry in walked(folder, suffixes))


def left_out(folder: Path, suffixes: Sequence[str]) -> tuple[str, ...]:
    """A note on the files below a folder that have other endings, if there are any."""
    names = [entry.name.lower() for _, entry in walked(folder, ("",))]
    others = [name for name in names if not name.endswith(tuple(suffixes))]
    if not others:
        return ()
    endings = few(sorted({os.path.splitext(name)[1] or "none" for name in others}))
    return (f"{len(others):,} of {len(names):,} files are left out, as their endings are others: {endings}",)


def walked(
    folder: str | Path,
    suffixes: Sequence[str],
    inside: str = "",
    above: frozenset[tuple[int, int]] = frozenset(),
    ways: Counter[tuple[int, int]] | None = None,
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files of :func:`files_in`, each with its folder, relative to ``folder``. Links are followed.

    Raises:
        UserError: a link to a folder around it, a folder with more than ``WAYS`` names, or one that cannot be read.
    """
    here = os.path.join(folder, inside)
    try:
        facts = os.stat(here)
        with os.scandir(here) as found:
            entries = sorted((entry for entry in found if not _hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read {here}: {error.strerror}") from None
    place, ways = (facts.st_dev, facts.st_ino), Counter() if ways is None else ways
    if place in above:
        raise UserError(f"{here} is a link to a folder that it lies in; remove it")
    above |= {place}
    ways[place] += 1
    if ways[place] > WAYS:
        raise UserError(f"{here} is one of more than {WAYS} ways to a folder; remove some of the links")
    endings = tuple(suffixes)
    for entry in entries:
        if entry.name.lower().endswith(endings) and (_holds(entry.is_file) or not os.path.exists(entry)):  # a broken link
            yield inside, entry
    for entry in entries:
        if _holds(entry.is_dir):
            yield from walked(folder, suffixes, f"{inside}/{entry.name}" if inside else entry.name, above, ways)


def _holds(asked: Callable[[], bool]) -> bool:
    """What is asked of an entry; a link that leads to itself is neither a file nor a folder."""
    with contextlib.suppress(OSError):
        return asked()
    return False


def listed(path: Path, suffixes: Sequence[str], wanted: Wanted, what: str, flat: bool = False) -> Listing:
    """The files in a folder, or the file at a path.

    Args:
        path: the folder.
        suffixes: of the files.
        wanted: what they are read for.
        what: name of such files in messages, in the plural.
        flat: without folders for classes, names are ``LABEL_REST``.

    Raises:
        UserError: no files, no folders for classes where labels are needed, a class without files, other classes in a part.
    """
    if path.is_file() and not wanted.labelled:
        return Listing({"train": [path]}, {"train": torch.tensor([-1])}, {"train": [path.name]}, wanted.classes or (), "")
    if not path.is_dir():
        raise UserError(f"{path} is one file; give a folder that has a folder of {what} for each class")
    root, path = path, unwrapped(path, suffixes, wanted.classes or (), flat)
    folders = folders_of_parts(path, not wanted.whole)
    files = {part: list(files_in(folder, suffixes)) for part, folder in folders.items()}
    files = {part: paths for part, paths in files.items() if paths}
    if "train" not in files:
        raise UserError(f"{folders['train']} has no {what} ({', '.join(suffixes)})")
    labels = {part: [_label(file, folders[part], flat) for file in paths] for part, paths in files.items()}
    loose = [file for part in files for file, label in zip(files[part], labels[part], strict=True) if label is None]
    if loose and wanted.labelled:
        raise UserError(
            f"{loose[0]} is in no folder of a class ({len(loose)} such {what}); move each into a folder named by class"
        )
    empty = [child.name for child in folders_in(folders["train"]) if not any(files_in(child, suffixes))]
    if empty and not wanted.whole:
        raise UserError(f"{folders['train']}: folder {empty[0]} has no {what} ({', '.join(suffixes)}); add some or remove it")
    classes = wanted.classes or classes_of((str(label) for label in labels["train"]), str(path))
    y = {part: numbered(labels[part], classes, str(folders[part]), wanted) for part in files}
    names = {part: [file.relative_to(root).as_posix() for file in paths] for part, paths in files.items()}
    test = folders.get("test")
    return Listing(files, y, names, classes, f"the folder {test.name}" if test and "test" in files else FIFTH)


def unwrapped(path: Path, suffixes: Sequence[str], classes: Sequence[str] = (), flat: bool = False) -> Path:
    """The innermost folder with the parts or the classes, if there are others around it; none of ``classes`` is entered."""
    while (inner := _wrapped(path, suffixes, flat)) is not None and inner.name not in classes:
        path = inner
    return path


def folders_of_parts(path: Path, training: bool = True) -> dict[str, Path]:
    """The folder of each part by its name in ``PARTS``; the whole folder is for training if it has no such part.

    Raises UserError for two folders of one part, and if they are for ``training``, for other parts alone, for another folder
    with the same classes, and for folders of folders such as ``training_set`` and ``test_set``.
    """
    tops = folders_in(path)
    found = {part: [child for child in tops if child.name.lower() in names] for part, names in PARTS.items()}
    if not found["train"]:
        if training and len(tops) > 1 and sum(map(len, found.values())) == len(tops):
            raise UserError(f"{path} has no folder train beside {' and '.join(top.name for top in tops)}; add it")
        around = [top.name for top in tops if folders_in(top)]
        like = {part: name for name in around for part, (word, *_) in PARTS.items() if word in name.lower()}
        if training and "train" in like and len(names := sorted({*like.values()})) > 1:
            raise UserError(f"{path} has {' and '.join(names)}, which look like parts; name them train, val or test")
        return {"train": path}
    if several := next((folders for folders in found.values() if len(folders) > 1), None):
        raise UserError(f"{path} has {' and '.join(top.name for top in several)}, which mean the same; make them one folder")
    parts = {part: folders[0] for part, folders in found.items() if folders}
    classes = [child.name for child in parts["train"].iterdir() if child.is_dir()]
    others = (top for top in tops if top not in parts.values())
    if training and (other := next((top for top in others if any((top / name).is_dir() for name in classes)), None)):
        raise UserError(f"{other} has the classes of {parts['train'].name}; name it val or test, or move it away")
    return parts


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, except hidden ones, by name."""
    return [child for child in sorted(folder.iterdir()) if child.is_dir() and not _hidden(child.name)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # what macOS adds to an archive


def _wrapped(folder: Path, suffixes: Sequence[str], flat: bool) -> Path | None:
    """The only folder in a folder, if it has the classes, as after unpacking an archive."""
    inside = [child for child in folder.iterdir() if child.is_dir() and any(files_in(child, suffixes))]
    loose = any(child.suffix.lower() in suffixes for child in folder.iterdir())
    if len(inside) != 1 or loose or inside[0].name.lower() in PARTS["train"]:
        return None
    return inside[0] if flat or any(child.is_dir() for child in inside[0].iterdir()) else None


def _label(file: Path, folder: Path, flat: bool) -> str | None:
    inside = file.relative_to(folder).parts
    if len(inside) > 1:
        return inside[0]
    return file.stem.split("_")[0] if flat and "_" in file.stem else None
