"""Sounds in ``.wav`` files, in folders by class or as ``LABEL_REST.wav``, as log-mel energies (:mod:`tsslbp.data.audio`).

T frames are spread over each sound, so that all have one length. The model normalises each band and turns its changes into
spikes.
"""

import wave
from collections.abc import Sequence
from functools import partial
from math import gcd
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsslbp import machine
from tsslbp.data.audio import log_mel
from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Made, Wanted, kind_fact
from tsslbp.data.speech import BANDS, DELTA, TIME_STEPS
from tsslbp.errors import UserError, each_of

SUFFIXES = (".wav",)
LOWEST_RATE = 2000
"""Samples per second below which there is no room for the bands."""
HIGHEST_RATE = 192_000
"""Samples per second above which a header must be damaged."""
AT_ONCE = 64
"""Sounds in memory at once."""


def read(path: Path, wanted: Wanted) -> Found:
    """The sounds below a folder as log-mel energies ``[N, T, BANDS]``, at the lowest of their sampling rates.

    Raises:
        UserError: no sounds, no labels, files that are damaged or do not hold whole numbers.
    """
    listing = listed(path, SUFFIXES, wanted, "sounds", flat=True)
    rates = each_of(_rate, listing.paths)
    rate, steps = wanted.rate or min(rates), wanted.time_steps or (wanted.shape or (TIME_STEPS,))[0]
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"the model takes {rate} samples per second, which no sound has; its file is damaged")
    machine.need_memory(4 * len(rates) * steps * BANDS, str(path))

    def made(numbers: Tensor, files: Sequence[Path]) -> Tensor:
        if not len(numbers):
            return torch.zeros(0, steps, BANDS)
        chunks = (each_of(lambda number: _signal(files[number], rate), chunk.tolist()) for chunk in numbers.split(AT_ONCE))
        return torch.cat([log_mel(signals, rate, steps, BANDS) for signals in chunks])

    parts = {
        part: Made(torch.arange(len(files)), listing.y[part], make=partial(made, files=files))
        for part, files in listing.files.items()
    }
    notes = [f"sounds became the energies of {BANDS} mel bands in {steps} frames (--time-steps)"]
    if max(rates) > rate:
        notes.append(f"sounds of up to {max(rates):,} samples per second were brought to {rate:,}")
    facts = kind_fact("speech", *notes, cut=True, rate=rate, delta=DELTA, computed=True)
    return Found(parts, listing.classes, True, tested_on=listing.tested_on, names=listing.names, facts=facts)


def _rate(path: Path) -> int:
    """Samples per second, from the header alone."""
    try:
        with wave.open(str(path)) as file:
            width, rate, frames = file.getsampwidth(), file.getframerate(), file.getnframes()
            size = frames * width * file.getnchannels()
    except (wave.Error, EOFError, OSError, RuntimeError) as error:  # RuntimeError for a chunk that ends beyond the file
        reason = f"{error}"
        if isinstance(error, wave.Error) and "unknown" in reason:
            reason = "it has an extended header" if "65534" in reason else "it holds floating-point or compressed samples"
        raise UserError(f"cannot read {path} as a sound ({reason}); save it again as WAV with 16 bits a sample") from None
    if width not in (1, 2, 3, 4) or frames == 0 or size > path.stat().st_size:
        what = "is empty" if frames == 0 else "is cut short"
        raise UserError(f"{path} {what}; remove it or save it again as WAV with 16 bits a sample")
    if rate < LOWEST_RATE:
        raise UserError(f"{path} has {rate} samples per second; at least {LOWEST_RATE} are needed")
    if rate > HIGHEST_RATE:
        raise UserError(
            f"{path} has {rate} samples per second; at most {HIGHEST_RATE} are read, so save it again at a lower rate"
        )
    return rate


def _signal(path: Path, rate: int) -> Tensor:
    """The mean of a file's channels within ±1, resampled to ``rate``, float32, ``[n]``."""
    try:
        machine.need_memory(12 * path.stat().st_size, str(path))
        with wave.open(str(path)) as file:
            width, own_rate, channels = file.getsampwidth(), file.getframerate(), file.getnchannels()
            frames = file.readframes(file.getnframes())
            whole = len(frames) == file.getnframes() * width * channels > 0
    except (wave.Error, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"cannot read {path} as a sound ({error}); save it again as WAV with 16 bits a sample") from None
    if not whole:
        raise UserError(f"{path} is cut short; remove it or save it again as WAV with 16 bits a sample")
    if width == 1:
        values = np.frombuffer(frames, np.uint8).astype(np.float32) / 128 - 1
    elif width == 3:
        padded = np.zeros((len(frames) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(frames, np.uint8).reshape(-1, 3)
        values = padded.view("<i4")[:, 0].astype(np.float32) / 2**31
    else:
        values = np.frombuffer(frames, f"<i{width}").astype(np.float32) / 2 ** (8 * width - 1)
    signal = values.reshape(-1, channels).mean(1)
    if own_rate != rate:
        from scipy.signal import resample_poly  # here, because it takes a second

        shared = gcd(own_rate, rate)
        signal = resample_poly(signal, rate // shared, own_rate // shared).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(signal))
