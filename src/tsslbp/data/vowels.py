"""Japanese vowels: 270 + 370 utterances of nine speakers, 12 cepstral coefficients over 7 to 29 steps, as ``.ts`` files.

Source: M. Kudo, J. Toyama and M. Shimbo, Pattern Recognition Letters 20:1103, 1999; UCI archive, CC BY 4.0.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsslbp.data.dataset import Dataset, Normalisation, Split, a_tenth, hold_out_validation
from tsslbp.errors import UserError

Series = tuple[NDArray[np.float32], str]
"""Values ``[T, F]`` and the label."""


def read(root: Path, validation: int | None, time_steps: int | None) -> Dataset:
    """The vowels from ``root/TimeSeries``: which of nine speakers said it.

    Each coefficient is brought to mean 0 and std 1 over the training part, then sequences are padded at the end with zeros to
    the longest of all parts, or to ``time_steps``. ``lengths`` of each part tells padding from data.

    Raises:
        UserError: files missing or damaged, ``time_steps`` below the longest utterance, a validation size that does not fit.
    """
    names = [f"JapaneseVowels_{part}.ts" for part in ("TRAIN", "TEST")]
    folders = [root / "TimeSeries", root / "TimeSeries-small"]
    folder = next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)
    if folder is None:
        raise UserError(
            f"no japanese-vowels in {folders[0]} or {folders[1]} ({' and '.join(names)}): unpack JapaneseVowels.zip of "
            "timeseriesclassification.com there and give the folder that holds TimeSeries as --data-root DIR"
        )
    series = [read_ts(folder / name) for name in names]
    classes = tuple(sorted({label for _, label in series[0]}))
    for name, part in zip(names, series, strict=True):
        odd = next((s for s in part if s[1] not in classes or s[0].shape[1] != series[0][0][0].shape[1]), None)
        if odd is not None:
            raise UserError(f"{folder / name} has class {odd[1]} with {odd[0].shape[1]} dimensions, unlike the training file")
    longest = max(len(values) for part in series for values, _ in part)
    if time_steps is not None and time_steps < longest:
        raise UserError(f"time_steps is {time_steps}; the longest utterance of japanese-vowels has {longest}")
    samples, test = (_padded(part, classes, time_steps or longest) for part in series)
    count = a_tenth(samples, len(classes)) if validation is None else validation
    train, held = hold_out_validation(samples, count, len(classes))
    std, mean = torch.std_mean(train.x[_inside(train)], 0, correction=0)
    train, held, test = (_standardised(part, mean, std) for part in (train, held, test))
    untouched = Normalisation(1.0, (0.0,), (1.0,))
    return Dataset("japanese-vowels", train, held, test, classes, untouched, sequence=True, computed=True)


def read_ts(path: Path) -> list[Series]:
    """The series in a ``.ts`` file: after ``@data`` one a line, dimensions parted by ``:``, values by ``,``, the label last.

    Raises:
        UserError: not such a file, or a line that is damaged; time stamps and missing values are not read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; fetch it again") from error
    declared = next((line.split()[2:] for line in lines if line.lower().startswith("@classlabel true")), None)
    start = next((number for number, line in enumerate(lines, 1) if line.strip().lower() == "@data"), len(lines))
    series = []
    for number, line in enumerate(lines[start:], start + 1):
        *dimensions, label = line.strip().split(":")
        if not label:
            continue
        try:
            values = np.array([[float(value) for value in dimension.split(",")] for dimension in dimensions], np.float32)
        except ValueError:  # no number, or dimensions that differ in length
            values = np.zeros((0, 0), np.float32)
        if values.ndim != 2 or not values.size or not np.isfinite(values).all():
            raise UserError(f"{path}: line {number} is not a series of numbers of equal length; fetch it again")
        if declared is not None and label not in declared:
            raise UserError(f"{path}: line {number} is of class {label}, which @classLabel does not name; fetch it again")
        series.append((values.T, label))
    if not series:
        raise UserError(f"{path} is no .ts file with series after a line @data; fetch it again")
    return series


def _padded(series: list[Series], classes: tuple[str, ...], time_steps: int) -> Split:
    lengths = torch.tensor([len(values) for values, _ in series])
    x = torch.zeros(len(series), time_steps, series[0][0].shape[1])
    for row, (values, _) in zip(x, series, strict=True):
        row[: len(values)] = torch.from_numpy(np.ascontiguousarray(values))
    return Split(x, torch.tensor([classes.index(label) for _, label in series]), lengths)


def _inside(part: Split) -> Tensor:
    """Where a step is data, not padding, ``[N, T]``."""
    assert part.lengths is not None
    return torch.arange(part.x.shape[1]) < part.lengths[:, None]


def _standardised(part: Split, mean: Tensor, std: Tensor) -> Split:
    x = (part.x - mean) / torch.where(std > 0, std, 1.0)
    return Split(x * _inside(part)[:, :, None], part.y, part.lengths)
