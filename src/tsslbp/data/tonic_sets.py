"""Event sets of the package tonic, which fetches and reads them, such as ``tonic:SHD`` or ``tonic:DVSGesture``."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tsslbp.data import cache
from tsslbp.data.dataset import AS_STORED, FIFTH, TEST_SET, VALIDATION, Dataset, Split, hold_out, hold_out_validation
from tsslbp.data.events import by_time, frames, of_fields
from tsslbp.utils.errors import UserError, needed, one_line, unknown

TIME_STEPS = 30
"""Default number of steps."""
VERSION = 1
"""Version of the conversion; part of the cache's key."""


def read(name: str, root: Path, validation: int | None, time_steps: int | None, download: bool) -> Dataset:
    """A labelled set of recordings as spikes: 1 where a pixel has events in one of T equal parts of the recording.

    Sensors with one row give ``[N, T, P · W]``, all others ``[N, T, P, H, W]``. If a set has no test part, a fifth is held out.
    Spikes are made once and then mapped from the cache (:mod:`tsslbp.data.cache`).

    Args:
        name: ``tonic:NAME`` with tonic's name of the set.
        root: folder that holds ``NAME``.
        validation: recordings to hold out; a tenth but at most 5000 if left out.
        time_steps: T; ``TIME_STEPS`` if left out.
        download: let tonic fetch it if it is missing.

    Raises:
        UserError: tonic is missing or does not know the set, files missing, recordings without labels or a common size.
    """
    own_name = name.removeprefix("tonic:")
    parts = _parts(own_name, root, download)
    size = getattr(parts[0], "sensor_size", None)
    if size is None:
        raise UserError(f"{name} has recordings of different sizes; write frames of one size into an .npz file of your own")
    width, height, polarities = map(int, size)
    labels = [_labels(name, part) for part in parts]
    classes = sorted({label for part in labels for label in part}, key=lambda label: (str(type(label)), label))
    steps = time_steps or TIME_STEPS
    shape = (steps, polarities * width) if height == 1 else (steps, polarities, height, width)
    stats = [(path, path.stat()) for path in sorted((root / own_name).rglob("*")) if path.is_file()]
    known = [(str(path.relative_to(root)), stat.st_size, stat.st_mtime_ns) for path, stat in stats]

    def stored(number: int, samples: Split) -> Split:
        def spikes(index: int) -> cache.Frames:
            try:
                events = of_fields(parts[number][index][0])
                events = events if polarities > 1 else events._replace(p=np.zeros_like(events.p))
                made = frames(events, by_time(events, steps), steps, (polarities, height, width), spikes=True)
            except Exception as error:  # each set has its own code
                raise UserError(f"cannot read recording {index} of {name} in {root}: {one_line(error)}") from error
            return made.reshape(shape)

        settings = [VERSION, str(root.resolve()), number, [str(label) for label in labels[number]], known]
        return cache.mapped(own_name.lower(), settings, samples, shape, spikes)

    numbered = [Split(torch.arange(len(y)), torch.tensor([classes.index(label) for label in y])) for y in labels]
    samples, test = numbered if len(parts) == 2 else hold_out(numbered[0], max(len(classes), len(numbered[0]) // 5))
    train, held = (stored(0, part) for part in hold_out_validation(samples, validation, len(classes), VALIDATION))
    return Dataset(
        name,
        train,
        held,
        stored(len(parts) - 1, test),
        tuple(map(str, classes)),
        AS_STORED,
        sequence=True,
        cut=True,
        tested_on=TEST_SET if len(parts) == 2 else FIFTH,
    )


def fetch(name: str, root: Path) -> None:
    """Let tonic fetch a set into ``root`` and check it."""
    _parts(name, root, download=True)


def _parts(name: str, root: Path, download: bool) -> list[Any]:
    """The training and the test part, or the only part."""
    sets = needed("tonic.datasets", "event sets of tonic need a package", "events")
    kind = getattr(sets, name, None) if name in sets.__all__ else None
    if kind is None:
        raise unknown("data set of tonic", name, sets.__all__)
    if not download and not (root / name).is_dir():
        raise UserError(f"no {name} in {root / name}: give the folder that holds {name} as --data-root DIR, or use --download")
    options = inspect.signature(kind).parameters
    choices: list[dict[str, Any]] = [{}]
    if "train" in options:
        choices = [{"train": True}, {"train": False}]
    elif "split" in options:
        choices = [{"split": "train"}, {"split": "test"}]
    try:
        return [kind(save_to=str(root), **choice) for choice in choices]
    except Exception as error:  # network, disk and archive have different exceptions
        raise UserError(f"tonic could not open {name} in {root}: {one_line(error)}") from error


def _labels(name: str, part: Any) -> list[int | str]:
    """One label for each recording; tonic lists them for some sets, others must be read in full."""
    listed = getattr(part, "targets", [])
    labels = listed if len(listed) == len(part) else [part[index][1] for index in range(len(part))]
    labels = [label.item() if isinstance(label, np.generic) else label for label in labels]
    if not labels or not all(isinstance(label, (int, str)) for label in labels):
        raise UserError(f"{name} has no class label for each recording; write samples into an .npz file of your own")
    return labels
