"""Free Spoken Digit Dataset: 3,000 recordings of the digits by six speakers, 8 kHz, as spikes.

Files are ``DIGIT_SPEAKER_INDEX.wav``, in ``root/FSDD/recordings`` or still packed in ``root/FSDD/recordings.zip``.

Source: Z. Jackson et al., Free Spoken Digit Dataset, doi 10.5281/zenodo.1342401, CC BY-SA 4.0.
"""

import io
import re
import wave
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsslbp.data.audio import log_mel, send_on_delta
from tsslbp.data.dataset import AS_STORED, Dataset, Split, hold_out_validation
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, one_line

TIME_STEPS = 50
"""Default number of steps; a digit takes 0.4 s, so a step is about 8 ms."""
BANDS = 40
DELTA = 0.35
"""Change of a band's energy that gives a spike, in standard deviations of the band."""
RATE = 8000
TEST_INDEX = 5
"""Recordings with an index below this are the test set, as defined by the data set's authors."""
TEST_SPEAKER = "yweweler"
"""Speaker of the test set of ``spoken-digits-by-speaker``: the last by alphabet, chosen before any result."""

_NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)\.wav")


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded digit."""

    digit: int
    speaker: str
    index: int
    """Number of this digit by this speaker; those below ``TEST_INDEX`` are the test set."""
    signal: Tensor
    """Samples within ±1 at ``RATE`` samples per second, float32, ``[n]``."""


def recordings(root: Path) -> list[Recording]:
    """All recordings below ``root/FSDD``, in the order of their names. Raises UserError as :func:`read` does."""
    return [Recording(*_parts(path), _signal(path, content)) for path, content in _files(root / "FSDD")]


def read(name: str, root: Path, validation: int | None, time_steps: int | None) -> Dataset:
    """Spoken digits as spikes ``[N, T, 2 · BANDS]``, up and down of each band.

    T frames are spread over each recording, so all have one length and slow and fast speech look alike. Bands are normalised to
    mean 0 and std 1 over the training part, then sent on delta (:mod:`tsslbp.data.audio`).

    Args:
        name: ``spoken-digits`` tests on indices 0 to 4 of all speakers, ``spoken-digits-by-speaker`` on all recordings of
            ``TEST_SPEAKER``, who is in neither training nor validation.
        root: folder that holds ``FSDD``.
        validation: samples to hold out of the rest; a tenth if left out.
        time_steps: T; ``TIME_STEPS`` if left out.

    Raises:
        UserError: files missing or damaged, a validation size that does not fit.
    """
    found = recordings(root)
    signals, y = [one.signal for one in found], [one.digit for one in found]
    by_speaker = name == "spoken-digits-by-speaker"
    is_test = torch.tensor([one.speaker == TEST_SPEAKER if by_speaker else one.index < TEST_INDEX for one in found])
    if not is_test.any() or is_test.all():
        raise UserError(
            f"{root / 'FSDD'} has {len(y)} recordings, none to {'train' if is_test.any() else 'test'} on; fetch all"
        )
    features = Split(log_mel(signals, RATE, time_steps or TIME_STEPS, BANDS), torch.tensor(y))
    samples, test = (features.select(chosen.nonzero()[:, 0]) for chosen in (~is_test, is_test))
    train, held = hold_out_validation(samples, validation, 10)
    std, mean = torch.std_mean(train.x, (0, 1), correction=0)

    def spikes(part: Split) -> Split:
        return Split(send_on_delta((part.x - mean) / torch.where(std > 0, std, 1.0), DELTA), part.y)

    classes = tuple("0123456789")
    train, held, test = map(spikes, (train, held, test))
    return Dataset(name, train, held, test, classes, AS_STORED, sequence=True, computed=True, kind="speech", cut=True)


def _parts(path: str) -> tuple[int, str, int]:
    """Digit, speaker and index."""
    parts = _NAME.fullmatch(Path(path).name)
    if not parts:
        raise UserError(f"{path} is not named DIGIT_SPEAKER_INDEX.wav as recordings are; remove it or fetch them again")
    return int(parts[1]), parts[2], int(parts[3])


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every recording, in the order of their names."""
    unpacked, packed = folder / "recordings", folder / "recordings.zip"
    try:
        if paths := sorted(unpacked.glob("*.wav")):
            for path in paths:
                yield str(path), files.content(path)
        elif packed.is_file():
            with zipfile.ZipFile(packed) as archive:
                every = [entry.filename for entry in files.zip_entries(archive)]
                names = sorted(name for name in every if name.endswith(".wav"))
                for name in set(every) - set(names):
                    archive.open(name).close()  # compares the name with the one beside the content: was it a .wav?
                if not names:
                    raise UserError(f"{packed} holds no .wav files; fetch it again")
                machine.need_memory(sum(archive.getinfo(name).file_size for name in names), str(packed))
                for name in names:
                    yield f"{packed}/{name}", archive.read(name)
        else:
            raise UserError(
                f"no recordings in {unpacked} or {packed}: clone github.com/Jakobovski/free-spoken-digit-dataset as FSDD and "
                "give the folder that holds FSDD as --data-root DIR"
            )
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"cannot read the recordings in {folder}: {one_line(error)}; fetch them again") from error


def _signal(path: str, content: bytes) -> Tensor:
    """Samples within ±1, float32, ``[n]``."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            frames, count = file.readframes(file.getnframes()), file.getnframes()
    except (wave.Error, EOFError, RuntimeError) as error:  # the last for a chunk that ends beyond the file
        raise UserError(f"{path} is not a wav file ({error}); fetch it again") from error
    if kind != (1, 2, RATE) or count == 0 or len(frames) != 2 * count:
        raise UserError(f"{path} is cut short or not one channel of 16 bits at {RATE} Hz; fetch it again")
    return torch.frombuffer(bytearray(frames), dtype=torch.int16).float() / 32768
