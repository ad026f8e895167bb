"""What every reader of a user's own data ends with: parts are held out, and the normalisation is fitted on training samples."""

import torch
from torch import Tensor

from tsslbp.data.dataset import FIFTH, Dataset, Normalisation, Split, a_tenth, hold_out, hold_out_validation
from tsslbp.errors import UserError

MOST_EVENTS = 15
"""A sequence of whole numbers from 0 to this many counts spikes or events per step. It is not normalised."""
NOTHING_VARIES = 1e-6
"""A channel whose standard deviation is below this share of its mean is constant; float32 resolves no more."""


def complete(
    name: str,
    where: str,
    samples: Split,
    test: Split | None,
    classes: tuple[str, ...],
    validation: int | None,
    *,
    sequence: bool,
    scale: float = 1.0,
    tested_on: str = FIFTH,
) -> Dataset:
    """A data set from a user's samples.

    Args:
        name: what to call the data set.
        where: the file or folder, for messages.
        samples: what to train on; a part of them is held out.
        test: the user's own test samples. A fifth of ``samples`` if there are none.
        classes: names of the classes, each of which has samples.
        validation: samples to hold out; a tenth if left out.
        sequence: samples are ``[N, T, ...]``.
        scale: stored value of full intensity, for static samples.
        tested_on: what the test samples are, in a reader's words.

    Raises:
        UserError: a class with too few samples for the parts, or a validation size that does not fit.
    """
    counts = torch.bincount(samples.y, minlength=len(classes))
    parts = ["training", *(["validation"] if validation != 0 else []), *(["test"] if test is None else [])]
    if int(counts.min()) < len(parts):
        scarce = classes[int(counts.argmin())]
        needs = f"{' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)} need {len(parts)} of each class"
        raise UserError(f"{where}: class {scarce} has {int(counts.min())} samples; {needs}")
    if test is None:
        samples, test = hold_out(samples, max(len(classes), len(samples) // 5))
    count = a_tenth(samples, len(classes)) if validation is None else validation
    train, held = hold_out_validation(samples, count, len(classes))
    return Dataset(name, train, held, test, classes, fitted(train, sequence, scale), sequence, tested_on=tested_on)


def fitted(train: Split, sequence: bool, scale: float = 1.0, weights: Tensor | None = None) -> Normalisation:
    """The normalisation of training samples: mean 0 and standard deviation 1 per channel; a constant channel is only centred.

    Samples count as often as ``weights`` ``[N]`` say; None is once each.

    Vectors and sequences of vectors have a pair of numbers per feature, pictures and sequences of pictures one per channel. A
    vector of bytes is a picture laid flat and has one pair for all features. Padding after the end of a sequence does not
    count. Sequences that hold spikes or events stay as they are: bytes, and whole numbers from 0 to ``MOST_EVENTS``.
    """
    x = train.x
    if sequence and (x.dtype == torch.uint8 or _counts_events(x)):
        return Normalisation(1.0, (0.0,), (1.0,))
    axes: tuple[int, ...]
    if sequence:
        inside = x.flatten(0, 1) if train.lengths is None else x[torch.arange(x.shape[1]) < train.lengths[:, None]]
        axes, scale = ((0, 2, 3) if x.dim() == 5 else (0,)), 1.0
    else:
        inside, shared = x, x.dim() == 2 and x.dtype == torch.uint8
        axes = (0, 1) if shared else (0, 2, 3) if x.dim() == 4 else (0,)
    if weights is None:
        std, mean = torch.std_mean(inside.float() / scale, axes, correction=0)
    else:
        steps = len(inside) // len(weights) if train.lengths is None else train.lengths
        std, mean = _weighted_std_mean(inside / scale, axes, weights.repeat_interleave(steps))
    std = torch.where(std > NOTHING_VARIES * mean.abs(), std, 1.0)
    return Normalisation(scale, tuple(mean.view(-1).tolist()), tuple(std.view(-1).tolist()))


def _weighted_std_mean(x: Tensor, axes: tuple[int, ...], weights: Tensor) -> tuple[Tensor, Tensor]:
    share = (weights.double() / weights.double().mean()).view(-1, *[1] * (x.dim() - 1))
    mean = (share * x).mean(axes, keepdim=True)
    return (share * (x - mean).square()).mean(axes).sqrt(), mean.mean(axes)


def _counts_events(x: Tensor) -> bool:
    low, high = x.aminmax()
    return float(low) >= 0 and float(high) <= MOST_EVENTS and bool((x == x.round()).all())
