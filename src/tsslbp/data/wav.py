"""Sounds in ``.wav`` files, in folders by class or as ``LABEL_REST.wav``, as log-mel energies (:mod:`tsslbp.data.audio`).

T frames are spread over each sound, so that all have one length. The model normalises each band and turns its changes into
spikes.
"""

import struct
from collections.abc import Sequence
from functools import partial
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsslbp.data.audio import log_mel
from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Wanted, kind_fact
from tsslbp.data.speech import BANDS, DELTA, TIME_STEPS
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, each_of

SUFFIXES = (".wav",)
LOWEST_RATE = 2000
"""Samples per second below which there is no room for the bands."""
HIGHEST_RATE = 192_000
"""Samples per second above which a header must be damaged."""
AT_ONCE = 64
"""Sounds in memory at once."""
KINDS = {(1, 1): "u1", (1, 2): "<i2", (1, 3): "<i3", (1, 4): "<i4", (3, 4): "<f4", (3, 8): "<f8"}
"""Types of samples by a header's tag, 1 for whole numbers and 3 for fractions, and their bytes."""
UNKNOWN = 0x7FFF_F000
"""Bytes of samples from which on a header says no size, as where the file was written through a pipe: they go to its end."""
EXTENDED = 0xFFFE
"""The tag of a header that has the true one further behind, as files of 24 bits often do."""


def read(path: Path, wanted: Wanted) -> Found:
    """The sounds below a folder as log-mel energies ``[N, T, BANDS]``, at the lowest of their sampling rates.

    Raises:
        UserError: no sounds, no labels, files that are damaged, compressed or of an impossible rate.
    """
    listing = listed(path, SUFFIXES, wanted, "sounds", flat=True)
    rates = [header.rate for header in each_of(_header, listing.paths)]
    rate, steps = wanted.rate or min(rates), wanted.time_steps or (wanted.shape or (TIME_STEPS,))[0]
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(f"the model takes {rate} samples per second, which no sound has; its file is damaged")
    machine.need_memory(4 * len(rates) * steps * BANDS, str(path))

    def made(numbers: Tensor, files: Sequence[Path]) -> Tensor:
        if not len(numbers):
            return torch.zeros(0, steps, BANDS, dtype=torch.float32)
        chunks = (each_of(lambda number: _signal(files[number], rate), chunk.tolist()) for chunk in numbers.split(AT_ONCE))
        return torch.cat([log_mel(signals, rate, steps, BANDS) for signals in chunks])

    parts = listing.made(lambda _, files: partial(made, files=files))
    notes = [f"sounds became the energies of {BANDS} mel bands in {steps} frames (--time-steps)"]
    if max(rates) > rate:
        notes.append(f"sounds of up to {max(rates):,} samples per second were brought to {rate:,}")
    doubts = []
    if min(rates) < rate:
        doubts.append(f"sounds of {min(rates):,} samples per second lack the upper bands of the model's {rate:,}")
    facts = kind_fact("speech", *notes, *doubts, cut=True, rate=rate, delta=DELTA, computed=True)
    return Found(parts, listing.classes, True, tested_on=listing.tested_on, names=listing.names, facts=facts, doubts=doubts)


class _Header(NamedTuple):
    """Samples per second, channels, type of the samples, and where they lie in the file."""

    rate: int
    channels: int
    kind: str
    start: int
    size: int


def _header(path: Path) -> _Header:
    """What a file says of itself. Raises UserError if it is damaged, or holds something else than plain samples."""
    again, form = "save it again as WAV with 16 bits a sample", b""
    try:
        with path.open("rb") as file:
            head, found = file.read(12), b""
            while head[:4] == b"RIFF" and head[8:] == b"WAVE" and found != b"data":
                found, size = struct.unpack("<4sI", file.read(8))
                start = file.tell()
                if found == b"fmt ":
                    form = file.read(min(size, 26))
                file.seek(start + size + size % 2)
        if not form or found != b"data":
            raise UserError(f"cannot read {path} as a sound (it is no WAV file); {again}")
        tag, channels, rate, _, block, _ = struct.unpack_from("<HHIIHH", form)
    except (OSError, struct.error) as error:  # the latter at the end of the file
        reason = error.strerror if isinstance(error, OSError) else "it ends before its samples"
        raise UserError(f"cannot read {path} as a sound ({reason}); {again}") from None
    tag = int.from_bytes(form[24:], "little") if tag == EXTENDED else tag
    width = block // max(channels, 1)
    if (tag, width) not in KINDS or block != width * channels:
        raise UserError(f"cannot read {path} as a sound (its samples are compressed or of an unknown type); {again}")
    if size >= UNKNOWN:
        size = path.stat().st_size - start
    if size < block or start + size > path.stat().st_size:
        raise UserError(f"{path} {'is empty' if size < block else 'is cut short'}; remove it or {again}")
    if rate < LOWEST_RATE:
        raise UserError(f"{path} has {rate} samples per second; at least {LOWEST_RATE} are needed")
    if rate > HIGHEST_RATE:
        raise UserError(
            f"{path} has {rate} samples per second; at most {HIGHEST_RATE} are read, so save it again at a lower rate"
        )
    return _Header(rate, channels, KINDS[tag, width], start, size // block * block)


def _signal(path: Path, rate: int) -> Tensor:
    """The mean of a file's channels, whole numbers within ±1, resampled to ``rate``, float32, ``[n]``."""
    header = _header(path)
    machine.need_memory(12 * header.size * max(1, rate // header.rate), str(path))
    stored = np.fromfile(path, np.uint8, header.size, offset=header.start)
    if header.kind == "<i3":
        stored = np.pad(stored.reshape(-1, 3), ((0, 0), (1, 0)))
    kind = np.dtype(header.kind.replace("3", "4"))
    with np.errstate(over="ignore"):  # such numbers become infinite and are refused below
        values = stored.view(kind).astype(np.float32)
    if kind.kind == "u":
        values = (values - np.float32(128)) / np.float32(128)
    elif kind.kind == "i":
        values /= 2 ** (8 * kind.itemsize - 1)
    elif not np.isfinite(values).all():
        raise UserError(f"{path} holds numbers that are not finite in float32; save it again as WAV with 16 bits a sample")
    signal = values.reshape(-1, header.channels).mean(1)
    if header.rate != rate:
        from scipy.signal import resample_poly  # here, because it takes a second

        shared = gcd(header.rate, rate)
        signal = resample_poly(signal, rate // shared, header.rate // shared).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(signal))
