"""Samples that take long to make and do not fit in memory: made once, kept in a file, mapped and read as needed.

The file is a plain ``.npy`` of bytes. Its name is a hash of all that its content depends on, and it is put in place only when
complete, so a file of the right name and size is valid. Any file may be deleted at any time; it is then made again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data.dataset import Split
from tsslbp.utils import files
from tsslbp.utils.errors import UserError

Frames = NDArray[np.uint8]


def mapped(name: str, settings: object, samples: Split, shape: tuple[int, ...], make: Callable[[int], Frames]) -> Split:
    """The samples that ``make`` gives for the numbers in ``samples.x`` ``[N]``, without holding them in memory.

    Args:
        name: of the data set, the start of the file's name.
        settings: all else that the content depends on, JSON values.
        samples: their numbers, in this order, and labels.
        shape: of one sample.
        make: a sample from its number, bytes of ``shape``.

    Returns:
        ``x`` ``[N, *shape]``, uint8, mapped: only what is selected is read.

    Raises:
        UserError: the file cannot be written (full disk, no permission), or what ``make`` raises.
    """
    numbers = samples.x.tolist()
    content = json.dumps([settings, shape, numbers], sort_keys=True)
    path = files.cache_folder() / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:20]}.npy"
    stored = _map(path, (len(numbers), *shape))
    if stored is None:
        with files.in_turn(path.parent, files.CACHE_FIX):
            # an hour old, as small files are written there without a lock, and all where there are no locks
            files.remove_leftovers(path.parent, older=3600)
            if _map(path, (len(numbers), *shape)) is None:  # no other process has made it meanwhile
                _write(path, (len(numbers), *shape), map(make, numbers))
        stored = _map(path, (len(numbers), *shape))
    if stored is None:
        raise UserError(f"{path} was changed while it was written; run it again")
    return Split(torch.from_numpy(stored), samples.y)


def _map(path: Path, shape: tuple[int, ...]) -> Frames | None:
    """The array in a file; None if it is missing or incomplete."""
    try:
        stored = np.load(path, mmap_mode="c", allow_pickle=False)  # "c": the tensor may be changed, the file is not
    except Exception:  # a damaged header may raise anything
        return None
    return stored if stored.shape == shape and stored.dtype == np.uint8 else None


def _write(path: Path, shape: tuple[int, ...], rows: Iterable[Frames]) -> None:
    with files.replacing(path, files.CACHE_FIX) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for row in rows:
            file.write(row.tobytes())
