"""Data sets by name or from a user's own file, in memory or, if large, mapped from a file."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from tsslbp.data import events, images, in_files, nmnist, readers, speech, synthetic, tonic_sets, vowels
from tsslbp.data.arrays import of_arrays, of_torch
from tsslbp.data.augment import crop_and_flip, cutout
from tsslbp.data.dataset import Dataset, Normalisation, Split, check
from tsslbp.data.facts import Facts
from tsslbp.data.streamed import Streaming
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, check_whole, unknown
from tsslbp.utils.spec import name_of

__all__ = [
    "NAMES",
    "PREPARED",
    "SETS",
    "Dataset",
    "Facts",
    "Normalisation",
    "Split",
    "Streaming",
    "bare",
    "check",
    "crop_and_flip",
    "cutout",
    "events",
    "in_files",
    "is_own",
    "is_task",
    "load",
    "named",
    "of_arrays",
    "of_torch",
]

NAMES = (
    *("digits", "mnist", "fashion-mnist", "cifar10"),
    *("nmnist", "nmnist-stabilised", "spoken-digits", "spoken-digits-by-speaker", "japanese-vowels"),
    *("spike-pattern", "delayed-xor", "evidence"),
)
PREPARED = {
    "nmnist-stabilised": "stabilised",
    **dict.fromkeys(("spoken-digits", "spoken-digits-by-speaker"), "turned into spikes"),
}
"""What the readers of named sets make of recordings, where their models do not: these models take no other recordings."""
SETS: dict[str, Callable[[int | None], Dataset]] = {}
"""A user's own data sets by name: functions of how many samples to hold out for validation, None for their default."""
MADE = "python:"
"""Prefix in settings of the name of a data set made in Python."""


def load(
    name: str | Path,
    root: str | Path,
    *,
    validation: int | None = None,
    download: bool = False,
    time_steps: int | None = None,
    streaming: Streaming | None = None,
    rate: int = 0,
    shape: tuple[int, ...] | None = None,
) -> Dataset:
    """A data set by name, or from the user's own file or folder (see :mod:`tsslbp.data.readers`).

    The choice of samples held out for validation is fixed and depends on no seed.

    Args:
        name: one of ``NAMES``, the last three with options in brackets if wanted (:mod:`tsslbp.data.synthetic`); ``tonic:NAME``
            for an event set of the package tonic; ``image-folder:DIR`` or ``webdataset:SHARDS`` for pictures that stay in their
            files; or the path of a file or folder.
        root: folder the named sets lie in, as torchvision and tonic lay them out; ``digits`` and own files do not need it.
        validation: samples held out of the training set. Default: 240 of ``digits``, a tenth of all others but at most 5000 of
            a named one; one per class at least.
        download: fetch a missing set: images through torchvision, events through tonic. Others are not fetched.
        time_steps: T of recordings, which can be cut into any number of steps. Default: 30 for events, 50 for speech, the
            longest of the vowels. Static samples and your own series do not need it.
        streaming: how pictures that stay in their files are read.
        rate: samples per second that your own sounds are brought to. Default: the lowest of theirs.
        shape: of one sample of the model that takes your own, T first in a sequence. Series in text files are padded to it,
            and events are of its sensor.

    Returns:
        The three parts with the constants to normalise them.

    Raises:
        UserError: an unknown name, files that are missing or damaged, a validation size or T that does not fit.
    """
    name = str(name)
    if name.startswith(MADE):
        fix = "give it as the argument dataset in Python, or save it with numpy.savez and train on the file"
        raise UserError(f"{name} was made in Python and is in no file; {fix}")
    if time_steps is not None:
        check_whole("time_steps", time_steps)
    if in_files.is_one(name):
        return replace(in_files.read(name, Path(root), validation, streaming or Streaming()), source=name)
    fetches = download and not is_own(name)
    with files.in_turn(Path(root), "choose another --data-root") if fetches else nullcontext():  # only one process fetches
        return replace(_read(name, Path(root), validation, download, time_steps, rate, shape), source=name)


def is_own(name: str) -> bool:
    """Whether a name is the path of a user's own file or folder, not a data set's."""
    known = name in NAMES or name in SETS or is_task(name)
    return bool(name) and not known and not name.startswith(("tonic:", MADE))


def named(name: str) -> bool:
    """Whether a name is a data set's, or the path of a file or folder that exists or that a reader would take."""
    own = in_files.is_one(name) or os.path.exists(name) or bool(readers.at(Path(name)))  # no error for a long name
    return own if is_own(name) else bool(name) and not name.startswith(MADE)


def is_task(name: str) -> bool:
    """Whether a name, with its options, is that of a synthetic task, which has validation samples of its own."""
    return name not in SETS and name_of(name) in synthetic.TASKS


def bare(name: str) -> str:
    """The name of a user's own data set without the folders it lies in."""
    prefix = in_files.prefix(name)
    return prefix + Path(name.removeprefix(prefix)).name


def _read(
    name: str,
    root: Path,
    validation: int | None,
    download: bool,
    time_steps: int | None,
    rate: int,
    shape: tuple[int, ...] | None,
) -> Dataset:
    if name in SETS:
        return check(SETS[name](validation), f"data set {name}")
    if is_own(name) and (Path(name).exists() or readers.at(Path(name))):
        return readers.read(name, validation, time_steps, rate, shape)
    if name.startswith("tonic:"):
        return tonic_sets.read(name, root, validation, time_steps, download)
    if is_task(name):
        made = synthetic.read(name, time_steps)
        if validation not in (None, held := len(made.validation)):
            own = f"{held} validation sample{'s' * (held != 1)} of its own"
            raise UserError(f"validation is {validation}; {name} has {own}, so leave it out")
        return made
    match name:
        case "digits":
            return images.digits(validation)
        case "mnist" | "fashion-mnist":
            return images.mnist(name, root, validation, download)
        case "cifar10":
            return images.cifar10(root, validation, download)
        case "nmnist" | "nmnist-stabilised":
            return nmnist.read(name, root, validation, time_steps, download)
        case "spoken-digits" | "spoken-digits-by-speaker":
            return speech.read(name, root, validation, time_steps)
        case "japanese-vowels":
            return vowels.read(root, validation, time_steps)
    raise UserError(f"{unknown('data set', name, (*NAMES, *SETS))}; nor is there a file or folder of that name")
