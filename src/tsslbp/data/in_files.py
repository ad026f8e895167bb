"""Data sets whose pictures stay in their files, recognised by the prefix of their names."""

from pathlib import Path

from tsslbp.data import image_folder, shards
from tsslbp.data.dataset import Dataset, Split
from tsslbp.data.streamed import Streaming

SOURCES = {image_folder.PREFIX: image_folder.read, shards.PREFIX: shards.read}
FORMS = f"{image_folder.PREFIX}DIR or {shards.PREFIX}SHARDS"
"""How such data sets are named, for messages."""


def is_one(name: str) -> bool:
    """Whether a data set of this name has its pictures in files."""
    return bool(prefix(name))


def prefix(name: str) -> str:
    """The prefix of such a data set's name; empty for others."""
    return next((prefix for prefix in SOURCES if name.startswith(prefix)), "")


def bare(path: Path) -> Path:
    """A path without such a prefix."""
    return Path(str(path).removeprefix(prefix(str(path))))


def read(name: str, root: Path, validation: int | None, streaming: Streaming) -> Dataset:
    """The data set of such a name; its files may lie below ``root``. Raises UserError as its reader does."""
    return SOURCES[prefix(name)](name, root, validation, streaming)


def samples(path: Path, classes: tuple[str, ...], labelled: bool, streaming: Streaming) -> tuple[Split, list[str], list[str]]:
    """Every picture at a path, in shards, a folder or by itself, for a model of these classes; their names; notes.

    Raises UserError as its reader does.
    """
    reader = shards if shards.are_at(path) else image_folder
    return reader.samples(path, classes, labelled, streaming)
