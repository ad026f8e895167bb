"""Japanese vowels: 270 + 370 utterances of nine speakers, 12 cepstral coefficients over 7 to 29 steps, as ``.ts`` files.

Source: M. Kudo, J. Toyama and M. Shimbo, Pattern Recognition Letters 20:1103, 1999; UCI archive, CC BY 4.0.
"""

from pathlib import Path

from tsslbp.data.dataset import Dataset, hold_out_validation
from tsslbp.data.sample_values import fitted
from tsslbp.data.series import padded, read_ts
from tsslbp.utils.errors import UserError


def read(root: Path, validation: int | None, time_steps: int | None) -> Dataset:
    """The vowels from ``root/TimeSeries``; the class is the speaker.

    Sequences are padded at the end with zeros to the longest of all parts, or to ``time_steps``. ``lengths`` of each part tells
    padding from data.

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
    classes = tuple(sorted({str(label) for _, label in series[0]}))
    for name, part in zip(names, series, strict=True):
        odd = next((s for s in part if s[1] not in classes or s[0].shape[1] != series[0][0][0].shape[1]), None)
        if odd is not None:
            raise UserError(f"{folder / name} has class {odd[1]} with {odd[0].shape[1]} dimensions, unlike the training file")
    longest = max(len(values) for part in series for values, _ in part)
    if time_steps is not None and time_steps < longest:
        raise UserError(f"time_steps is {time_steps}; the longest utterance of japanese-vowels has {longest}")
    samples, test = (padded(part, classes, time_steps or longest, str(folder)) for part in series)
    train, held = hold_out_validation(samples, validation, len(classes))
    normalisation = fitted(train, sequence=True)
    return Dataset("japanese-vowels", train, held, test, classes, normalisation, sequence=True)
