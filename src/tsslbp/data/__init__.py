"""Data sets by name or from a user's own file, in memory."""

from pathlib import Path

from tsslbp.data import images, npz
from tsslbp.data.augment import crop_and_flip
from tsslbp.data.dataset import Dataset, Normalisation, Split
from tsslbp.errors import UserError, unknown

__all__ = ["NAMES", "Dataset", "Normalisation", "Split", "crop_and_flip", "load"]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")


def load(name: str, root: Path, *, validation: int | None = None, download: bool = False) -> Dataset:
    """A data set by name, or from the user's own ``.npz`` file (see :mod:`tsslbp.data.npz`).

    Which samples are held out for validation is fixed: it depends on no seed of a run.

    Args:
        name: one of ``NAMES``, or the path of a file that ends in ``.npz``.
        root: folder the named sets lie in, as torchvision lays them out; ``digits`` and own files do not need it.
        validation: samples held out of the training set. If left out: 240 of ``digits``, a tenth of all others but at most
            5000 of a named one; one per class at least.
        download: fetch a named set that is not there, through torchvision.

    Returns:
        Its three parts with the constants to normalise them.

    Raises:
        UserError: an unknown name, files that are missing or damaged, a validation size that does not fit.
    """
    if name.endswith(".npz"):
        return npz.read(Path(name), validation)
    match name:
        case "digits":
            return images.digits(validation)
        case "mnist":
            return images.mnist(root, validation, download)
        case "fashion-mnist":
            return images.fashion_mnist(root, validation, download)
        case "cifar10":
            return images.cifar10(root, validation, download)
    raise UserError(f"{unknown('data set', name, NAMES)}; a file of your own must end in .npz")
