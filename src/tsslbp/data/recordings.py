"""Folders by class of event-camera recordings in N-MNIST's ``.bin`` format, as spikes ``[N, T, 2, H, W]``."""

from pathlib import Path

import torch
from torch import Tensor

from tsslbp.data.events import Events, by_time, frames, read_bin
from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Made, Wanted, kind_fact
from tsslbp.data.nmnist import TIME_STEPS
from tsslbp.data.storage import stored
from tsslbp.errors import UserError, each_of

SUFFIXES = (".bin",)


def read(path: Path, wanted: Wanted) -> Found:
    """The recordings below a folder: 1 where a pixel has events in one of T equal parts of the recording.

    The size of the sensor follows from the places of the events.

    Raises:
        UserError: no recordings, no folders for classes, damaged files, events beyond the pixels of the model.
    """
    listing = listed(path, SUFFIXES, wanted, "recordings")
    shape = wanted.shape
    if shape is None or len(shape) != 4:
        height, width = map(max, zip(*each_of(_size, listing.paths), strict=True))
        shape = (wanted.time_steps or TIME_STEPS, 2, height, width)
    steps, size = shape[0], (shape[1], shape[2], shape[3])

    def spikes(file: Path) -> Tensor:
        events = _events(file)
        try:
            return torch.from_numpy(frames(events, by_time(events, steps), steps, size, spikes=True))
        except UserError as error:
            raise UserError(f"recording {file}: {error}; the model takes {size[2]} × {size[1]} pixels") from None

    parts = {
        part: Made(torch.arange(len(files)), listing.y[part], make=stored(path, part, files, shape, spikes, "recordings"))
        for part, files in listing.files.items()
    }
    note = f"recordings of {size[2]} × {size[1]} pixels were cut into {steps} steps (--time-steps)"
    facts = kind_fact("events", note, cut=True)
    return Found(parts, listing.classes, True, tested_on=listing.tested_on, names=listing.names, facts=facts)


def _size(path: Path) -> tuple[int, int]:
    """Rows and columns that hold all events."""
    events = _events(path)
    return int(events.y.max()) + 1, int(events.x.max()) + 1


def _events(path: Path) -> Events:
    try:
        return read_bin(path.read_bytes())
    except (OSError, UserError) as error:
        raise UserError(f"recording {path}: {error}; it must be in N-MNIST's format; remove it or fetch it again") from None
