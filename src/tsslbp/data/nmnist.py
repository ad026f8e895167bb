"""N-MNIST: MNIST as an event camera saw it in three saccades of 100 ms, 60,000 + 10,000 recordings of 34×34 pixels.

Source: G. Orchard, A. Jayawant, G. K. Cohen and N. Thakor, Frontiers in Neuroscience 9:437, 2015, CC BY-SA 4.0.
"""

from pathlib import Path

import numpy as np
import torch

from tsslbp.data import cache, tonic_sets
from tsslbp.data.dataset import AS_STORED, VALIDATION, Dataset, Split, hold_out_validation
from tsslbp.data.events import by_time, frames, read_bin, stabilise
from tsslbp.utils.errors import UserError
from tsslbp.utils.files import content

TIME_STEPS = 30
"""Default number of steps, of about 10 ms each."""
SIZE = (2, 34, 34)
"""Polarities, rows, columns."""
SIZES = {"Train": 60_000, "Test": 10_000}
"""Recordings in the whole set."""
VERSION = 2
"""Version of the conversion; part of the cache's key."""


def read(name: str, root: Path, validation: int | None, time_steps: int | None, download: bool) -> Dataset:
    """N-MNIST as spikes ``[N, T, 2, 34, 34]``: 1 where a pixel has events in one of T equal parts of the recording.

    Spikes are made once and then mapped from the cache (:mod:`tsslbp.data.cache`), T · 2312 bytes per recording.

    Args:
        name: ``nmnist``, or ``nmnist-stabilised`` for the digit at rest.
        root: folder that holds ``NMNIST`` (or its ``Train`` and ``Test``), any number of recordings in
            ``Train/LABEL/NUMBER.bin``.
        validation: recordings to hold out; a tenth but at most 5000 if left out.
        time_steps: T; ``TIME_STEPS`` if left out.
        download: fetch it through tonic if it is missing.

    Raises:
        UserError: files missing or damaged, a cache that cannot be written, a validation size that does not fit.
    """
    folders = [root / "NMNIST", root / "NMNIST-small", root]
    if download and (not _complete(folders) or _is_cut_off(folders[0])):
        tonic_sets.fetch("NMNIST", root)
    folder = _complete(folders)
    if folder is None:
        raise UserError(
            f"no nmnist in {folders[0]} or {root} (Train/0 to Train/9 and Test with .bin files): give the folder that holds "
            "NMNIST as --data-root DIR, or fetch it with --download"
        )
    if _is_cut_off(folder):
        raise UserError(f"{folder} holds an archive of N-MNIST and a part of its recordings; fetch the rest with --download")
    steps = time_steps or TIME_STEPS

    def spikes(path: Path) -> cache.Frames:
        try:
            events = read_bin(content(path))
            events = stabilise(events, *SIZE[1:]) if name == "nmnist-stabilised" else events
            return frames(events, by_time(events, steps), steps, SIZE, spikes=True)
        except (OSError, UserError) as error:
            raise UserError(f"recording {path}: {error}; fetch it again") from error

    def stored(part: str, paths: list[Path], samples: Split) -> Split:
        files = [(f"{path.parent.name}/{path.name}", path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        settings = [VERSION, part, files]
        return cache.mapped(name, settings, samples, (steps, *SIZE), lambda number: spikes(paths[number]))

    train_paths, test_paths = (_recordings(folder / part) for part in SIZES)
    samples, test = (_numbered(paths) for paths in (train_paths, test_paths))
    parts = hold_out_validation(samples, validation, 10, VALIDATION)
    train, held = (stored("Train", train_paths, part) for part in parts)
    classes = tuple("0123456789")
    return Dataset(name, train, held, stored("Test", test_paths, test), classes, AS_STORED, sequence=True, cut=True)


def _complete(folders: list[Path]) -> Path | None:
    return next((folder for folder in folders if all(any((folder / part).glob("[0-9]/*.bin")) for part in SIZES)), None)


def _is_cut_off(folder: Path) -> bool:
    """Whether tonic was stopped while it unpacked its archives."""
    fetched = any(path.name.lower() in ("train.zip", "test.zip") for path in folder.glob("*.zip"))
    return fetched and any(len(_recordings(folder / part)) < size for part, size in SIZES.items())


def _recordings(folder: Path) -> list[Path]:
    """Every recording, in the order of MNIST's images."""
    return sorted(folder.glob("[0-9]/*.bin"), key=lambda path: (path.stem, path.parent.name))


def _numbered(paths: list[Path]) -> Split:
    """Positions in the list, and labels."""
    return Split(torch.arange(len(paths)), torch.from_numpy(np.array([int(path.parent.name) for path in paths])))
