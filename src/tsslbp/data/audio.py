"""Sound as spikes: a spectrogram on the mel scale, then one spike for every change that is large enough.

    m(f) = 2595 log10(1 + f/700)                                        mel scale                       (1)
    E[t, k] = log(floor + Σ_f W_k(f) |FFT(window · frame t)|²)          log-mel energy of band k        (2)
    s±[t] = 1 if ±(E[t] - r[t]) ≥ δ,  r[t+1] = r[t] + δ (s+[t] - s-[t])   send on delta, r[0] = 0       (3)

Sources: (1) D. O'Shaughnessy, Speech Communication, 1987; (3) M. Miskowicz, Sensors 6:49, 2006.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.utils.errors import UserError

WINDOW = 0.040
"""Seconds in a frame."""
LOWEST = 60.0
"""Lower edge of the lowest band in Hz; the highest band ends at half the sampling rate."""
FLOOR = 1e-4
"""Energy of silence, for signals within ±1; keeps the logarithm finite."""


def mel_bands(bands: int, rate: int, fft_size: int) -> Tensor:
    """Weights ``[fft_size/2 + 1, bands]``: triangles of height 1 whose corners are evenly spaced on the mel scale (1)."""
    lowest, highest = (2595 * torch.log10(1 + torch.tensor(f, dtype=torch.float64) / 700) for f in (LOWEST, rate / 2))
    corners = 700 * (10 ** (torch.linspace(float(lowest), float(highest), bands + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, rate / 2, fft_size // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = (frequencies - corners[:-2]) / corners.diff()[:-1]
    falling = (corners[2:] - frequencies) / corners.diff()[1:]
    return torch.minimum(rising, falling).clamp(min=0)


def log_mel(signals: list[Tensor], rate: int, time_steps: int, bands: int) -> Tensor:
    """Log-mel energies, equation (2), of frames spread evenly over each signal, however long it is.

    Args:
        signals: N recordings within ±1, ``[n]`` each; one shorter than a frame gets zeros at its end.
        rate: samples per second.
        time_steps: T, the number of frames (Hann window, ``WINDOW`` seconds).
        bands: F.

    Returns:
        ``[N, T, F]`` in the type of the signals.
    """
    width, found = frame_size(rate), []
    for signal in signals:
        whole = F.pad(signal, (0, max(0, width - len(signal))))
        starts = torch.linspace(0, len(whole) - width, time_steps, dtype=torch.float64).round().long()
        found.append(energies(whole[starts[:, None] + torch.arange(width)], rate, bands))
    return torch.stack(found)


def frame_size(rate: int) -> int:
    """Samples in a frame of ``WINDOW`` seconds, at ``rate`` samples per second."""
    return round(WINDOW * rate)


def energies(frames: Tensor, rate: int, bands: int) -> Tensor:
    """Log-mel energies, equation (2), of frames that are already cut, such as the newest one of a live sound.

    ``signal.unfold(0, audio.frame_size(rate), hop)`` cuts a sound into a frame for every ``hop`` samples.

    Args:
        frames: ``[..., frame_size(rate)]`` samples within ±1.
        rate: samples per second.
        bands: F.

    Returns:
        ``[..., F]`` in the type of the frames.

    Raises:
        UserError: frames of another size.
    """
    width = frame_size(rate)
    if frames.dim() < 1 or frames.shape[-1] != width:
        raise UserError(f"frames have shape {list(frames.shape)}; the last axis must be {width}, {WINDOW:g} s of {rate} Hz")
    fft_size = 1 << (width - 1).bit_length()
    window, weights = _window(width, frames.dtype), _weights(bands, rate, fft_size, frames.dtype)
    power = torch.fft.rfft(frames * window, fft_size).abs() ** 2
    return torch.log(power @ weights + FLOOR)


@lru_cache
@torch.inference_mode(False)  # a later call may be differentiated
def _window(width: int, dtype: torch.dtype) -> Tensor:
    return torch.hann_window(width, dtype=dtype)


@lru_cache
@torch.inference_mode(False)  # a later call may be differentiated
def _weights(bands: int, rate: int, fft_size: int, dtype: torch.dtype) -> Tensor:
    return mel_bands(bands, rate, fft_size).to(dtype)


def send_on_delta(x: Tensor, delta: float) -> Tensor:
    """Spikes for changes, equation (3), at most one a step, so it takes several steps to follow a large change.

    Args:
        x: signals ``[N, T, F]``; the receiver starts from 0.
        delta: δ, the change that gives a spike, positive.

    Returns:
        Spikes 0 and 1, uint8, ``[N, T, 2F]``: first the channels for up, then those for down.

    Raises:
        UserError: ``delta`` not positive.
    """
    if not delta > 0:
        raise UserError(f"delta is {delta}; it must be positive")
    received = torch.zeros_like(x[:, 0])
    spikes = []
    for now in x.unbind(1):
        made, received = changes(now, received, delta)
        spikes.append(made)
    return torch.stack(spikes, 1).to(torch.uint8)


def changes(now: Tensor, received: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """One step of :func:`send_on_delta`: the spikes ``[..., 2F]`` of bool, and the receiver's new value, ``[..., F]``.

    Args:
        now: signals of this step, ``[..., F]``.
        received: the receiver's value before, ``[..., F]``; zeros at the beginning.
        delta: δ, positive.
    """
    up, down = now - received >= delta, received - now >= delta
    return torch.cat([up, down], -1), received + delta * (up.to(now.dtype) - down.to(now.dtype))
