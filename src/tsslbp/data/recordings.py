"""Folders by class of event recordings, as spikes ``[N, T, P, H, W]``, or ``[N, T, W]`` from sensors of one row."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsslbp.data.events import Events, by_time, field, frames, of_fields, read_bin
from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Wanted, kind_fact
from tsslbp.data.nmnist import TIME_STEPS
from tsslbp.data.storage import stored
from tsslbp.utils.errors import UserError, each_of, one_line

SUFFIXES = (".bin", ".npy")
LARGEST = 2**30
"""Bytes of a recording in steps, at most."""


def read(path: Path, wanted: Wanted) -> Found:
    """The recordings below a folder: 1 where a pixel has events in one of T equal parts of the recording.

    A file is in N-MNIST's format (``.bin``) or a structured array (``.npy``, :func:`tsslbp.data.events.of_fields`). An array
    without ``y`` is of a sensor of one row, which must have one polarity. The size of the sensor follows from the events.

    Raises:
        UserError: no recordings, no folders for classes, damaged files, recordings with and without rows or polarity,
            events beyond the pixels of the model.
    """
    if path.is_file() and path.suffix.lower() == ".npy" and wanted.labelled:
        arrays = "put arrays of samples and classes into one file by numpy.savez(path, x=..., y=...)"
        raise UserError(f"{path} is one file; {arrays}, or recordings of events into a folder for each class")
    listing = listed(path, SUFFIXES, wanted, "recordings")
    shape = wanted.shape
    if shape is None or len(shape) != (4 if _opened(listing.paths[0])[1].height else 2):
        sensors = each_of(lambda file: _opened(file)[1], listing.paths)
        found, steps = _Sensor(*map(max, zip(*sensors, strict=True))), wanted.time_steps or TIME_STEPS
        shape = (steps, *found) if found.height else (steps, found.width)
    of_model = shape is wanted.shape
    steps, (polarities, height, width) = shape[0], (1, 1, *shape[1:])[-3:]
    size, pixels = (polarities, height, width), f"{width} × {height} pixels"
    if math.prod(shape) > LARGEST:
        raise UserError(f"{path}: recordings of {steps:,} steps of {pixels} are too large; divide the places of events")

    def spikes(file: Path) -> Tensor:
        events, sensor = _opened(file)
        for name, there, wanted in (("y", sensor.height > 0, len(shape) == 4), ("p", sensor.polarities > 1, polarities > 1)):
            if there != wanted:
                has, have = ("a", "none") if there else ("no", "one")
                others = f"those of the training had {have}" if of_model else f"others have {have}"
                raise UserError(f"recording {file} has {has} field {name}, and {others}; give all of them one or none")
        try:
            return torch.from_numpy(frames(events, by_time(events, steps), steps, size, spikes=True)).view(shape)
        except UserError as error:
            raise UserError(f"recording {file}: {error}; the model takes {pixels}") from None

    parts = listing.made(lambda part, files: stored(path, part, files, shape, spikes, "recordings"))
    note = f"recordings of {pixels} were cut into {steps} steps (--time-steps)"
    facts = kind_fact("events", note, cut=True)
    return Found(parts, listing.classes, True, tested_on=listing.tested_on, names=listing.names, facts=facts)


class _Sensor(NamedTuple):
    polarities: int
    height: int
    """Rows that hold all events; 0 for a sensor of one row."""
    width: int
    """Columns that hold all events."""


def _opened(path: Path) -> tuple[Events, _Sensor]:
    try:
        if path.suffix.lower() == ".bin":
            events, fields = read_bin(path.read_bytes()), "yp"
        else:
            record = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, as a header may promise any size
            events, fields = of_fields(record), "".join(name for name in "yp" if field(record, name) is not None)
        if "y" not in fields and events.p.any():
            if not events.p.all():
                raise UserError("events of two polarities need a field y; give each polarity places x of its own")
            events = events._replace(p=np.zeros_like(events.p))
    except Exception as error:  # a damaged header may raise anything
        kinds = "N-MNIST's format (.bin) or an array of events with fields x, y, p and t (.npy)"
        raise UserError(f"recording {path}: {one_line(error)}; it must be {kinds}; remove it or fetch it again") from None
    height = int(events.y.max()) + 1 if "y" in fields else 0
    return events, _Sensor(2 if fields == "yp" else 1, height, int(events.x.max()) + 1)
