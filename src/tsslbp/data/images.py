"""The image sets the method was published on, and the small digits that come with scikit-learn.

Files are read in torchvision's layout, without torchvision and without writing anything beside them.
"""

import gzip
import io
import math
import pickle
import pickletools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data.dataset import FIFTH, VALIDATION, Dataset, Normalisation, Split, hold_out, hold_out_validation
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, needed, one_line

DEFLATED = 1032
"""Bytes that a byte of a ``.gz`` file unpacks to at most."""

_DIGITS = tuple("0123456789")
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_GREY = Normalisation(255, (0.1307,), (0.3081,))  # of MNIST; published results on Fashion-MNIST use them too
_COLOUR = Normalisation(255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_SMALL = Normalisation(16, (0.3051,), (0.376,))  # of the training part of the digits


def digits(validation: int | None) -> Dataset:
    """scikit-learn's 1,797 digits of 8×8 pixels, values 0 to 16: 1197 to train, 240 to validate, 360 to test."""
    from sklearn.datasets import load_digits  # here, because it takes a second

    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x.astype(np.uint8)).view(-1, 1, 8, 8)
    samples, test = hold_out(Split(images, torch.from_numpy(y.astype(np.int64))), 360)
    train, held = hold_out_validation(samples, 240 if validation is None else validation, len(_DIGITS))
    return Dataset("digits", train, held, test, _DIGITS, _SMALL, tested_on=FIFTH)


def cifar10(root: Path, validation: int | None, download: bool) -> Dataset:
    """CIFAR-10: 50,000 + 10,000 colour photographs of 32×32 pixels, from ``root/cifar-10-batches-py``."""
    folder = "cifar-10-batches-py"
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    folders = [root / folder, root / "cifar10" / folder]
    if download and not _complete(folders, names):
        _fetch("cifar10", "CIFAR10", root)
    found = _complete(folders, names)
    if not found:
        raise UserError(
            f"no cifar10 in {folders[0]} or {folders[1]} ({names[0]} to {names[-2]} and {names[-1]}): give the folder that "
            f"holds {folder} as --data-root DIR, or fetch it with --download"
        )
    try:
        *batches, test = (_cifar_batch(found / name) for name in names)
    except UserError:  # such as a file that was cut off while it was unpacked
        if not download:
            raise
        _fetch("cifar10", "CIFAR10", root)
        *batches, test = (_cifar_batch(folders[0] / name) for name in names)
    samples = Split(torch.cat([batch.x for batch in batches]), torch.cat([batch.y for batch in batches]))
    return _dataset("cifar10", samples, test, _CIFAR10, _COLOUR, validation)


def _dataset(
    name: str, samples: Split, test: Split, classes: tuple[str, ...], normalisation: Normalisation, validation: int | None
) -> Dataset:
    train, held = hold_out_validation(samples, validation, len(classes), VALIDATION)
    return Dataset(name, train, held, test, classes, normalisation)


def _fetch(name: str, torchvision_name: str, root: Path) -> None:
    """Let torchvision fetch a set from its usual source and check it."""
    datasets = needed("torchvision", f"fetching {name} needs torchvision", "vision").datasets
    try:
        getattr(datasets, torchvision_name)(str(root), download=True)
    except Exception as error:  # network, disk and archive have different exceptions
        raise UserError(f"{name} could not be fetched into {root}: {one_line(error)}") from error


# MNIST's files


def mnist(name: str, root: Path, validation: int | None, download: bool) -> Dataset:
    """MNIST or Fashion-MNIST: 60,000 + 10,000 handwritten digits or pieces of clothing of 28×28 pixels.

    They are read from ``root/MNIST/raw`` or ``root/FashionMNIST/raw``.
    """
    folder_name, classes = {"mnist": ("MNIST", _DIGITS), "fashion-mnist": ("FashionMNIST", _FASHION)}[name]
    folder = root / folder_name / "raw"
    missing = _missing_idx(folder)
    if missing and download:
        _fetch(name, folder_name, root)
        missing = _missing_idx(folder)
    if missing:
        raise UserError(
            f"no {name} in {folder} ({missing} or {missing}.gz is missing): give the folder that holds {folder_name} as "
            "--data-root DIR, or fetch it with --download"
        )
    samples, test = (_read_mnist(folder, part, len(classes)) for part in ("train", "t10k"))
    return _dataset(name, samples, test, classes, _GREY, validation)


def _missing_idx(folder: Path) -> str | None:
    files = (f"{part}-{content}" for part in ("train", "t10k") for content in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    return next((file for file in files if not _plain_or_gz(folder / file).is_file()), None)


def _plain_or_gz(path: Path) -> Path:
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _read_mnist(folder: Path, part: str, classes: int) -> Split:
    images, labels = _plain_or_gz(folder / f"{part}-images-idx3-ubyte"), _plain_or_gz(folder / f"{part}-labels-idx1-ubyte")
    x, y = _read_idx(images, (28, 28)), _read_idx(labels, ())
    if len(x) != len(y):
        raise UserError(f"{images} holds {len(x)} images, {labels} holds {len(y)} labels; fetch both again")
    if y.max() >= classes:
        raise UserError(f"{labels} holds label {y.max()}; labels go from 0 to {classes - 1}; fetch it again")
    return Split(torch.from_numpy(x[:, None].copy()), torch.from_numpy(y.astype(np.int64)))


def _read_idx(path: Path, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An idx file of bytes, ``[N, *item_shape]``: two zeros, type 8, number of axes, sizes as big-endian int32, then the data.

    Raises UserError for another type or item shape, no items, more than fits in memory, and a damaged, truncated or overlong
    file.
    """
    axes = 1 + len(item_shape)
    start = 4 + 4 * axes
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(start)
            sizes = tuple(np.frombuffer(header[4:], ">u4").tolist()) if len(header) == start else ()
            if header[:4] != bytes((0, 0, 8, axes)) or sizes[1:] != item_shape or sizes[:1] in ((), (0,)):
                expected = "×".join(map(str, ("N", *item_shape)))
                raise UserError(f"{path} is not an idx file of {expected} bytes (header {header.hex()}); fetch it again")
            size, most = math.prod(sizes), path.stat().st_size * (DEFLATED if path.suffix == ".gz" else 1)
            machine.need_memory(size, str(path))
            content = file.read(min(size, most) + 1)  # memory for all is taken at once; gzip verifies its checksum at the end
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {one_line(error)}; fetch it again") from error
    if len(content) != size:
        amount = f"only {len(content)}" if len(content) < size else "more"
        raise UserError(f"{path} holds {amount} bytes of data, its header says {size}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(sizes)


# CIFAR-10's files


def _complete(folders: list[Path], names: list[str]) -> Path | None:
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def _cifar_batch(path: Path) -> Split:
    """One batch file: a pickled dictionary with ``data`` (bytes, ``[n, 3072]``) and ``labels`` (a list)."""
    try:
        content = path.read_bytes()
        _check_sizes(content)
        batch = _DataUnpickler(io.BytesIO(content), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        x, y = _array(fields["data"]), fields["labels"]
    except UserError as error:
        raise UserError(f"{path} {one_line(error)}") from None
    except Exception as error:  # damaged pickles may raise anything
        raise UserError(
            f"{path} is not a CIFAR-10 batch ({type(error).__name__}: {one_line(error)}); fetch it again"
        ) from error
    if x.shape != (len(x), 3072) or not len(x):
        raise UserError(f"{path} holds data of shape {list(x.shape)}; CIFAR-10 has [n, 3072]; fetch it again")
    if not isinstance(y, list) or len(y) != len(x) or not all(type(n) is int and 0 <= n < len(_CIFAR10) for n in y):
        raise UserError(f"{path} must hold {len(x)} labels from 0 to {len(_CIFAR10) - 1}; fetch it again")
    return Split(torch.from_numpy(x.reshape(-1, 3, 32, 32).copy()), torch.tensor(y))


def _check_sizes(content: bytes) -> None:
    """Raise ValueError if a damaged pickle claims a size beyond its own, since unpickling would reserve that memory."""
    for opcode, argument, _ in pickletools.genops(content):  # checks the lengths of strings and arrays itself
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise ValueError(f"memo number {argument}")


class _Part:
    """A part of an array in a pickle. Unpickling only collects these, so that nothing in the file can run."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, strings, numbers and the parts of NumPy arrays; refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "numpy": ("ndarray", "dtype"),
            "numpy.core.multiarray": ("_reconstruct",),
            "numpy.core.numeric": ("_frombuffer",),
            "_codecs": ("encode",),  # bytes, as Python 3 writes them in Python 2's protocol
        }
        if name not in known.get(module.replace("numpy._core", "numpy.core"), ()):
            raise UserError(f"asks to run {module}.{name}, which no image file needs; it is not read")
        return _Part


def _array(part: _Part) -> NDArray[np.uint8]:
    """The array of bytes that a pickle describes, in either of the two ways NumPy pickles arrays."""
    if part.state is None:
        data, dtype, shape, order = part.arguments[:4]
    else:
        _, shape, dtype, fortran, data = part.state
        order = "F" if fortran else "C"
    if dtype.arguments[0] not in ("u1", b"u1"):
        raise ValueError("data are not bytes")
    if isinstance(data, _Part):
        data = data.arguments[0].encode("latin1")
    return np.frombuffer(data, np.uint8).reshape(shape, order=order)
