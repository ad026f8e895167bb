"""A user's own samples from an ``.npz`` file.

``x`` holds static samples ``[N, C, H, W]`` or ``[N, F]``, or sequences ``[N, T, F]`` or ``[N, T, C, H, W]``; ``y`` the
classes ``[N]``, integers from 0. Optional: ``x_test`` and ``y_test`` (else a fifth is held out), ``classes`` (their names),
``lengths`` and ``lengths_test`` (steps of each sequence before it was padded, ``[N]``).
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp import files, machine
from tsslbp.data import own
from tsslbp.data.dataset import FIFTH, Dataset, Split, class_names
from tsslbp.errors import UserError, unknown

Arrays = dict[str, NDArray[Any]]
KEYS = ("x", "y", "lengths", "x_test", "y_test", "lengths_test", "classes")
COPIES = 3
"""How often an array may be in memory while it is read: as it was stored, as float32, and in its parts."""
SEQUENCE_DIMS, STATIC_DIMS = (3, 5), (2, 4)


def read(path: Path, validation: int | None) -> Dataset:
    """The data set in an ``.npz`` file.

    Samples are normalised as :func:`tsslbp.data.own.fitted` has it, bytes of static samples counting from 0 to 255.

    Raises:
        UserError: no such file, not an ``.npz``, arrays of other names, more than fits in memory, or content that does not fit
            the description above.
    """
    arrays = _open(path)
    samples, test = _parts(path, arrays)
    names = _class_names(path, arrays)
    classes = _count_classes(path, arrays["y"], names)
    _check_labels(path, arrays, classes)
    sequence = samples.x.dim() in SEQUENCE_DIMS
    scale = 255.0 if arrays["x"].dtype == np.uint8 else 1.0

    tested_on = FIFTH if test is None else "your x_test"
    names = names or tuple(map(str, range(classes)))
    return own.complete(
        path.stem, str(path), samples, test, names, validation, sequence=sequence, scale=scale, tested_on=tested_on
    )


def read_all(path: Path, classes: tuple[str, ...]) -> Split:
    """Every sample in an ``.npz`` file, those of ``x_test`` last, to evaluate a model of these classes.

    Unlike in :func:`read`, a class may be missing.

    Raises:
        UserError: as :func:`read`; classes that the model does not have.
    """
    arrays = _open(path)
    samples, test = _parts(path, arrays)
    names = _class_names(path, arrays)
    if names is not None and names != classes:
        raise UserError(f"{path} names the classes {', '.join(names)}; the model's are {', '.join(classes)}")
    _check_labels(path, arrays, len(classes))
    return samples if test is None else samples + test


def _parts(path: Path, arrays: Arrays) -> tuple[Split, Split | None]:
    """The samples, and those of ``x_test`` if the file has them."""
    samples = _split(path, *_samples(path, arrays, "x", "y"), arrays.get("lengths"))
    if not any(key in arrays for key in ("x_test", "y_test", "lengths_test")):
        return samples, None
    test = _split(path, *_samples(path, arrays, "x_test", "y_test"), arrays.get("lengths_test"))
    x, x_test = arrays["x"], arrays["x_test"]
    if x_test.shape[1:] != x.shape[1:] or (x_test.dtype == np.uint8) != (x.dtype == np.uint8):
        described = [f"{a.dtype} {list(a.shape[1:])}" for a in (x_test, x)]
        raise UserError(f"{path}: samples of x_test are {described[0]}, those of x {described[1]}; they must be alike")
    if ("lengths" in arrays) != ("lengths_test" in arrays):
        raise UserError(f"{path} has only one of lengths and lengths_test; write both or neither")
    return samples, test


def _check_labels(path: Path, arrays: Arrays, classes: int) -> None:
    for key in ("y", "y_test"):
        if key in arrays and int(arrays[key].max()) >= classes:
            raise UserError(f"{path}: {key} has class {arrays[key].max()}; there are classes 0 to {classes - 1}")


def _open(path: Path) -> Arrays:
    if not path.is_file():
        raise UserError(f"no data file {path}; give the path of an .npz file with arrays x and y")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is not an .npz file, or it is cut short; write it with numpy.savez(path, x=..., y=...)")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): _size(archive, info) for info in files.zip_entries(archive)}
        for key in sizes:
            if key not in KEYS:
                raise UserError(f"{path}: {unknown('array', key, KEYS)}")
        machine.need_memory(COPIES * sum(sizes.values()), str(path))
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in sizes}
    except UserError:
        raise
    except Exception as error:  # damaged archives and headers fail in every way there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}; write plain arrays with numpy.savez(path, x=..., y=...)") from error


def _size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes of an array, of which only the header is read. Raises ValueError if the archive holds more or less than these."""
    with archive.open(info) as file:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size != info.file_size - file.tell():
            raise ValueError(f"{info.filename} says it is {dtype} {list(shape)} and has {info.file_size - file.tell()} bytes")
    return size


def _samples(path: Path, arrays: Arrays, x_name: str, y_name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """``x`` and ``y`` as they are in the file, checked one by one and against each other."""
    for name in (x_name, y_name):
        if name not in arrays:
            raise UserError(f"{path} has no array {name!r}; write it with numpy.savez(path, {x_name}=..., {y_name}=...)")
    x, y = arrays[x_name], arrays[y_name]
    if x.ndim not in (*STATIC_DIMS, *SEQUENCE_DIMS) or 0 in x.shape:
        raise UserError(
            f"{path}: {x_name} has shape {list(x.shape)}; it must be [N, F], [N, C, H, W], [N, T, F] or [N, T, C, H, W]"
        )
    if x.dtype.kind not in "buif":
        raise UserError(f"{path}: {x_name} is {x.dtype}; it must hold real numbers")
    if y.ndim != 1 or len(y) != len(x):
        raise UserError(f"{path}: {y_name} has shape {list(y.shape)}; {x_name} has {len(x)} samples, so it must be [{len(x)}]")
    if y.dtype.kind not in "iu" or y.min() < 0:
        what = y.dtype if y.dtype.kind not in "iu" else int(y.min())
        raise UserError(f"{path}: {y_name} must hold classes as integers from 0; it has {what}")
    return x, y


def _class_names(path: Path, arrays: Arrays) -> tuple[str, ...] | None:
    names = arrays.get("classes")
    if names is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(f"{path}: classes is {names.dtype} of shape {list(names.shape)}; it must be a list of strings")
    return class_names(map(str, names), str(path))


def _count_classes(path: Path, y: NDArray[Any], names: tuple[str, ...] | None) -> int:
    """The number of classes, each of which has samples."""
    present = np.unique(y)
    classes = len(names) if names else int(present[-1]) + 1
    if int(present[-1]) >= classes:
        raise UserError(f"{path}: y has class {present[-1]}, but classes names only {classes}")
    if len(present) < classes:
        absent = next(c for c in range(classes) if c == len(present) or present[c] != c)
        raise UserError(f"{path}: no sample of class {absent}; number the classes 0, 1, 2, ... without gaps")
    return classes


def _split(path: Path, x: NDArray[Any], y: NDArray[Any], lengths: NDArray[Any] | None) -> Split:
    """Bytes stay bytes (truth values become bytes), all other numbers become float32."""
    if lengths is not None:
        steps = x.shape[1] if x.ndim in SEQUENCE_DIMS else 0
        if lengths.shape != y.shape or lengths.dtype.kind not in "iu" or lengths.min() < 1 or lengths.max() > steps:
            raise UserError(f"{path}: lengths must be {len(y)} integers from 1 to {steps}, the steps of the sequences")
    if x.dtype == np.bool_:
        x = x.view(np.uint8)
    elif x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # what overflows is reported below
            x = x.astype(np.float32)
    stored = torch.from_numpy(np.ascontiguousarray(x))
    finite = stored.isfinite()
    if not bool(finite.all()):
        bad = (~finite).nonzero()
        raise UserError(
            f"{path}: samples hold NaN, infinity or numbers beyond float32: {len(bad):,} in all, the first at index "
            f"{bad[0].tolist()}; remove or replace them"
        )
    counted = None if lengths is None else torch.from_numpy(lengths.astype(np.int64))
    return Split(stored, torch.from_numpy(y.astype(np.int64)), counted)
