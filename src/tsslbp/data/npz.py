"""A user's own samples from an ``.npz`` file, arrays as :mod:`tsslbp.data.arrays` describes them."""

import math
import zipfile
from pathlib import Path

import numpy as np

from tsslbp.data import arrays
from tsslbp.data.found import Found, Wanted
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, all_of, one_line, unknown

KEYS = (*(f"{kind}{end}" for end in arrays.ENDS.values() for kind in ("x", "y", "lengths")), "classes", "groups")
WORDS = {"images": "x", "labels": "y", "train": "", "valid": "val", "validation": "val"}
"""Other words in the names of arrays, as in ``x_train`` of Keras and ``val_images`` of MedMNIST."""
COPIES = 3
"""Copies of an array in memory while it is read: as stored, as float32, and in its parts."""


def read(path: Path, wanted: Wanted) -> Found:
    """The samples in an ``.npz`` file.

    Raises:
        UserError: no such file, not an ``.npz``, arrays of other names, more than fits in memory, or content that does not fit
            the description of :mod:`tsslbp.data.arrays`.
    """
    return arrays.found(_open(path), str(path), wanted)


def _open(path: Path) -> arrays.Arrays:
    if not path.is_file():
        raise UserError(f"no data file {path}; give the path of an .npz file with arrays x and y")
    files.check_readable(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an .npz file, or it is cut short; write it with numpy.savez(path, x=..., y=...)")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = files.zip_entries(archive)
            sizes = {info.filename.removesuffix(".npy"): _size(archive, info) for info in entries}
        if len(sizes) < len(entries):
            raise ValueError("two of its arrays have the same name")
        named = {key: _name(key) for key in sizes}
        if odd := [f"{path}: {unknown('array', key, KEYS)}" for key, name in named.items() if name not in KEYS]:
            raise all_of(odd)
        if same := [key for key, name in named.items() if list(named.values()).count(name) > 1]:
            raise UserError(f"{path}: arrays {' and '.join(same)} mean the same; keep one of them")
        machine.need_memory(COPIES * sum(sizes.values()), str(path))
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[key] for key, name in named.items()}
        for array in found.values():
            if array.dtype.kind == "U":
                array.tolist()  # raises SystemError for a number that is no character, which NumPy does not check
        return found
    except UserError:
        raise
    except Exception as error:  # damaged archives and headers may raise anything
        raise UserError(
            f"cannot read {path}: {one_line(error)}; write plain arrays with numpy.savez(path, x=..., y=...)"
        ) from error


def _name(key: str) -> str:
    """The name of an array in :mod:`tsslbp.data.arrays`: ``test_images`` is ``x_test``."""
    words = [WORDS.get(word, word) for word in key.lower().split("_")]
    return "_".join(sorted(filter(None, words), key=lambda word: word in ("val", "test")))


def _size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes of an array, from its header alone. Raises ValueError if the archive holds more or less."""
    with archive.open(info) as file:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            key = info.filename.removesuffix(".npy")
            texts = _name(key).startswith(("y", "groups", "classes"))
            fix = f"store texts as numpy.array({key}, dtype='U')" if texts else "pad sequences, and store their lengths"
            raise ValueError(f"{info.filename} holds Python objects; {fix}")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or not dtype.itemsize or size != info.file_size - file.tell():
            raise ValueError(f"{info.filename} says it is {dtype} {list(shape)} and has {info.file_size - file.tell()} bytes")
    return size
