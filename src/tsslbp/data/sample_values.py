"""What numbers in a user's own samples are, and the normalisation of training samples."""

import math
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsslbp.data.dataset import AS_STORED, Normalisation, Split
from tsslbp.utils.errors import UserError, one_line, shown

MOST_EVENTS = 15
"""A sequence of whole numbers from 0 to this many counts spikes or events per step. It is not normalised."""
MANY = 2**27
"""Numbers in samples from which their mean is taken in parts, as they may not fit into memory in floating point."""
NOTHING_VARIES = 1e-6
"""Share of the mean below which a channel's standard deviation may be float32's rounding alone."""
SHADES = 16
"""Bytes up to this are masks or have few shades, as the digits do: their white is not 255, but the largest of them."""
LOST = "{} varies so little that float32, in which it is stored, rounds it away; subtract its mean and scale it"
"""Message about numbers that :func:`lost_in_float32` finds."""
NUMBERS_LOOKED_AT = 2**20
"""About how many numbers it looks at."""
AXES = {
    (2, False): ("sample", "feature"),
    (4, False): ("sample", "channel", "row", "column"),
    (3, True): ("sample", "step", "channel"),
    (5, True): ("sample", "step", "channel", "row", "column"),
}


def in_numpy(x: Tensor) -> NDArray[Any]:
    """A tensor as an array, in float32 if it is of bfloat16, which NumPy does not have."""
    array: NDArray[Any] = (x.float() if x.dtype == torch.bfloat16 else x).numpy(force=True)
    return array


def refuse_masked(value: object, name: str) -> None:
    """Raises UserError for an array with values that are masked, which NumPy would give as they are beneath."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise UserError(f"{name} is a masked array; fill what is masked, as with {name}.filled(0), or leave it out")


def as_array(name: str, value: Any) -> NDArray[Any]:
    """An array or tensor, or lists of numbers, as an array. Raises UserError for anything else, and as :func:`_plain`."""
    refuse_masked(value, name)
    if hasattr(value, "toarray"):
        raise UserError(f"{name} is a sparse matrix; give {name}.toarray()")
    if isinstance(value, str | bytes | PathLike | Mapping | Set):
        file = "; tsslbp.data.load reads files" if isinstance(value, str | PathLike) else ""
        raise UserError(f"{name} is of type {type(value).__name__}; give an array, a tensor or a list{file}")
    try:
        array = in_numpy(value) if isinstance(value, Tensor) else np.asarray(value)
        if (
            array.dtype.kind == "U"
            and isinstance(value, list | tuple)
            and any(isinstance(one, float) and math.isnan(one) for one in value)
        ):
            array = np.array(value, dtype=object)  # NumPy makes the text nan of what is missing
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths, tensors without data
        raise UserError(f"{name} is no array: {one_line(error)}") from None
    return _plain(array, name, getattr(value, "columns", None)) if array.dtype == object and array.size else array


def _plain(array: NDArray[Any], name: str, columns: Sequence[object] | None) -> NDArray[Any]:
    """Python objects, such as a DataFrame of several types gives, as numbers or texts if all are that; else as they are.

    Raises UserError for samples ``[N, F]`` of other things; it names the first column of them.
    """
    if all(isinstance(one, str) for one in array.flat):
        return array.astype(str)
    odd = [at for at, one in enumerate(array.flat) if not isinstance(one, Real | np.bool_)]
    if not odd:
        return np.array(array.tolist())
    if name.startswith("x") and array.ndim == 2:
        column, row = min(divmod(at, array.shape[1])[::-1] for at in odd)
        where = f"feature {column}" if columns is None else f"column {shown(columns[column])}"
        value = array[row, column]
        text = f"the text {shown(value)!r}" if isinstance(value, str) else shown(value)
        raise UserError(
            f"{name}: {where} holds {text} in sample {row}; it must hold numbers: fill what is missing, and turn texts into "
            "columns of numbers, as pandas.get_dummies does"
        )
    return array


def white(x: Tensor) -> float:
    """The stored value of full intensity: 255 of bytes, but for few shades, else 1."""
    return 255.0 if x.dtype == torch.uint8 and int(x.max()) > SHADES else 1.0


def fitted(train: Split, sequence: bool, scale: float = 1.0, weights: Tensor | None = None) -> Normalisation:
    """The normalisation of training samples: mean 0 and standard deviation 1 per channel. A constant channel is only
    centred, and one that hardly varies is not scaled up.

    Samples count as often as ``weights`` ``[N]`` say; None is once each.

    Vectors and sequences of vectors have a mean and a deviation per feature, pictures and sequences of pictures per channel. A
    vector of bytes is a flattened picture and has one pair for all features. Padding does not count. Sequences that hold spikes
    or events stay as they are: bytes, and whole numbers from 0 to ``MOST_EVENTS``.
    """
    x = train.x
    if sequence and (x.dtype == torch.uint8 or counts_events(x)):
        return AS_STORED
    axes: tuple[int, ...]
    if sequence:
        inside = x.flatten(0, 1) if train.lengths is None else x[torch.arange(x.shape[1]) < train.lengths[:, None]]
        axes, scale = ((0, 2, 3) if x.dim() == 5 else (0,)), 1.0
    else:
        inside, shared = x, x.dim() == 2 and x.dtype == torch.uint8
        axes = (0, 1) if shared else (0, 2, 3) if x.dim() == 4 else (0,)
    if weights is None and inside.numel() > MANY:
        std, mean = _std_mean_in_parts(inside, axes, scale)
    elif weights is None:
        std, mean = torch.std_mean(inside.float() / scale, axes, correction=0)
    else:
        steps = len(inside) // len(weights) if train.lengths is None else train.lengths
        std, mean = _weighted_std_mean(inside / scale, axes, weights.repeat_interleave(steps))
    least = NOTHING_VARIES * mean.abs()  # seconds since 1970 vary by thousands
    varies = (std > least) & (std >= torch.finfo(torch.float32).tiny)
    std = torch.where(varies, std, std.clamp(min=1.0))
    return Normalisation(scale, tuple(mean.view(-1).tolist()), tuple(std.view(-1).tolist()))


def _std_mean_in_parts(x: Tensor, axes: tuple[int, ...], scale: float) -> tuple[Tensor, Tensor]:
    """Of samples that may not fit into memory as floating-point numbers."""
    sums = torch.zeros((), dtype=torch.float64)
    for part in x.split(max(1, MANY // 8 // x[0].numel())):
        part = part.double() / scale
        sums = sums + torch.stack([part.sum(axes), part.square().sum(axes)])
    mean, squares = sums / (x.numel() // sums[0].numel())
    return (squares - mean.square()).clamp(min=0).sqrt().float(), mean.float()


def _weighted_std_mean(x: Tensor, axes: tuple[int, ...], weights: Tensor) -> tuple[Tensor, Tensor]:
    share = (weights.double() / weights.double().mean()).view(-1, *[1] * (x.dim() - 1))
    mean = (share * x).mean(axes, keepdim=True)
    return (share * (x - mean).square()).mean(axes).sqrt(), mean.mean(axes)


def lost_in_float32(x: NDArray[Any]) -> list[int]:
    """Features of ``[..., F]`` whose rounding to float32 is at least a twentieth of their standard deviation, in some rows, or
    whose deviation is below float32's normal numbers.
    """
    if x.dtype.itemsize < np.dtype(np.float32).itemsize or x.dtype == np.float32:
        return []
    flat = x.reshape(-1, x.shape[-1])
    flat = flat[:: -(-flat.size // NUMBERS_LOOKED_AT)].astype(np.float64)
    with np.errstate(all="ignore"):  # NaN and infinity are reported elsewhere
        spread, largest = flat.std(0), np.abs(flat).max(0)
        error = np.sqrt(np.square(flat - flat.astype(np.float32)).mean(0))
        resolved = spread > 16 * np.finfo(np.float64).eps * largest  # more than the rounding of what computed it
        lost = (error >= spread / 20) | (spread < np.finfo(np.float32).tiny)
        return np.flatnonzero(resolved & lost).tolist()


def counts_events(x: Tensor) -> bool:
    """Whether real numbers count spikes or events: whole, from 0 to ``MOST_EVENTS``."""
    low, high = x.aminmax()
    return float(low) >= 0 and float(high) <= MOST_EVENTS and bool((x == x.round()).all())


def refuse_missing(x: Tensor, where: str, sequence: bool, part: str) -> None:
    """Raises UserError with the count and the place of values that are not finite."""
    finite = x.isfinite()
    if bool(finite.all()):
        return
    bad = (~finite).nonzero()
    place = ", ".join(f"{axis} {at}" for axis, at in zip(AXES[x.dim(), sequence], bad[0].tolist(), strict=True))
    raise UserError(
        f"{where}samples hold NaN, infinity or numbers beyond float32: {len(bad):,} in all, the first in {part}{place}; remove "
        "or replace them"
    )
