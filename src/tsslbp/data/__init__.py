"""Data sets by name or from a user's own file, in memory or, where they are large, mapped from a file."""

from dataclasses import replace
from pathlib import Path

from tsslbp.data import events, images, nmnist, npz, speech, synthetic, tonic_sets, vowels
from tsslbp.data.augment import crop_and_flip
from tsslbp.data.dataset import Dataset, Normalisation, Split
from tsslbp.data.facts import Facts
from tsslbp.errors import UserError, unknown

__all__ = ["NAMES", "Dataset", "Facts", "Normalisation", "Split", "crop_and_flip", "events", "load"]

NAMES = (
    *("digits", "mnist", "fashion-mnist", "cifar10"),
    *("nmnist", "nmnist-stabilised", "spoken-digits", "spoken-digits-by-speaker", "japanese-vowels"),
    *("spike-pattern", "delayed-xor", "evidence"),
)


def load(
    name: str, root: Path, *, validation: int | None = None, download: bool = False, time_steps: int | None = None
) -> Dataset:
    """A data set by name, or from the user's own ``.npz`` file (see :mod:`tsslbp.data.npz`).

    Which samples are held out for validation is fixed: it depends on no seed of a run.

    Args:
        name: one of ``NAMES``, the last three with options in brackets if wanted (:mod:`tsslbp.data.synthetic`); ``tonic:NAME``
            for an event set of the package tonic; or the path of a file that ends in ``.npz``.
        root: folder the named sets lie in, as torchvision and tonic lay them out; ``digits`` and own files do not need it.
        validation: samples held out of the training set. If left out: 240 of ``digits``, a tenth of all others but at most
            5000 of a named one; one per class at least.
        download: fetch a set that is not there: images through torchvision, events through tonic. Others are not fetched.
        time_steps: T of recordings, which can be cut into any number of steps: 30 of events, 50 of speech, the longest of
            the vowels if left out. Static samples and own files do not need it.

    Returns:
        Its three parts with the constants to normalise them.

    Raises:
        UserError: an unknown name, files that are missing or damaged, a validation size or T that does not fit.
    """
    if time_steps is not None and time_steps < 1:
        raise UserError(f"time_steps is {time_steps}; it must be at least 1")
    return replace(_read(name, root, validation, download, time_steps), source=name)


def _read(name: str, root: Path, validation: int | None, download: bool, time_steps: int | None) -> Dataset:
    if name.endswith(".npz"):
        return npz.read(Path(name), validation)
    if name.startswith("tonic:"):
        return tonic_sets.read(name, root, validation, time_steps, download)
    if name.split("(")[0].strip() in synthetic.TASKS:
        return synthetic.read(name, time_steps)
    match name:
        case "digits":
            return images.digits(validation)
        case "mnist":
            return images.mnist(root, validation, download)
        case "fashion-mnist":
            return images.fashion_mnist(root, validation, download)
        case "cifar10":
            return images.cifar10(root, validation, download)
        case "nmnist" | "nmnist-stabilised":
            return nmnist.read(name, root, validation, time_steps, download)
        case "spoken-digits" | "spoken-digits-by-speaker":
            return speech.read(name, root, validation, time_steps)
        case "japanese-vowels":
            return vowels.read(root, validation, time_steps)
    raise UserError(f"{unknown('data set', name, NAMES)}; a file of your own must end in .npz")
