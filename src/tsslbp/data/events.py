"""Events of a camera or a cochlea, and how they become the steps of a network.

An event is one spike of one pixel: place, polarity, time in microseconds. Events are first assigned to steps (:func:`by_time`,
:func:`by_width` or :func:`by_count`) and then counted (:func:`frames`).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tsslbp.utils.errors import UserError

Integers = NDArray[np.int64]


class Events(NamedTuple):
    """A recording of E events, each array ``[E]``."""

    x: Integers
    """Column, from 0."""
    y: Integers
    """Row, from 0."""
    p: Integers
    """Polarity, 0 or 1."""
    t: Integers
    """Time in microseconds, not decreasing."""


def by_time(events: Events, time_steps: int) -> Integers:
    """Steps ``[E]`` that divide the time from the first to the last event into ``time_steps`` equal parts."""
    if not len(events.t):
        return events.t
    since = events.t - events.t.min()
    return since * time_steps // (since.max() + 1)


def by_width(events: Events, width: int) -> Integers:
    """Steps ``[E]`` of ``width`` microseconds each, from the first event on."""
    if width < 1:
        raise UserError(f"width is {width}; a step must last at least 1 microsecond")
    return (events.t - events.t.min()) // width if len(events.t) else events.t


def by_count(events: Events, time_steps: int) -> Integers:
    """Steps ``[E]`` whose numbers of events differ by 1 at most."""
    return np.arange(len(events.t)) * time_steps // max(1, len(events.t))


def frames(events: Events, steps: Integers, time_steps: int, size: tuple[int, int, int], *, spikes: bool) -> NDArray[np.uint8]:
    """What happens at each pixel in each step.

    Args:
        events: the recording.
        steps: step of each event, ``[E]``, below ``time_steps``.
        time_steps: T.
        size: polarities, rows and columns ``(P, H, W)``.
        spikes: True gives 1 where there is any event; False gives the number of events.

    Returns:
        ``[T, P, H, W]``.

    Raises:
        UserError: events outside ``size``, steps beyond T, more than 255 events at one pixel in one step.
    """
    place = (steps, events.p, events.y, events.x)
    shape = (time_steps, *size)
    try:
        flat = np.ravel_multi_index(place, shape)
    except ValueError:
        raise UserError(f"events lie outside {' × '.join(map(str, shape))} steps, polarities, rows and columns") from None
    if spikes:
        made = np.zeros(shape, np.uint8)
        made.reshape(-1)[flat] = 1
        return made
    counts = np.bincount(flat, minlength=int(np.prod(shape)))
    if counts.max() > 255:
        raise UserError(f"{counts.max()} events at one pixel in one step, a byte counts to 255; take more steps")
    return counts.astype(np.uint8).reshape(shape)


OVERFLOW = 240
"""Row of the marks of an overflow."""


def read_bin(content: bytes) -> Events:
    """Events in N-MNIST's format: 5 bytes each, x, y, then polarity (1 bit) and time (23 bits, big-endian).

    One in row 240 is no event. It marks an overflow of the clock, which adds 2¹³ to all times behind it, as G. Orchard's own
    script reads it.

    Raises:
        UserError: no events, an incomplete one, or decreasing times.
    """
    if not content or len(content) % 5:
        raise UserError(f"{len(content)} bytes are no recording of events, which take 5 bytes each")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).astype(np.int64).T
    overflow = y == OVERFLOW
    t = ((high & 127) << 16 | middle << 8 | low) + 2**13 * np.cumsum(overflow)
    events = Events(*(values[~overflow] for values in (x, y, high >> 7, t)))
    if not len(events.t):
        raise UserError("there are no events")
    if (np.diff(events.t) < 0).any():
        raise UserError("times of events fall")
    return events


FIELDS = {"x": ("x",), "y": ("y",), "p": ("p", "polarity"), "t": ("t", "timestamp")}
"""Names of the fields of a structured array: those of tonic and Metavision, then those of dv-processing."""
LARGEST = 2**14
"""Columns or rows of a sensor, at most."""
LONGEST = 2.0**50
"""Microseconds of a recording, at most, so that products with a number of steps are exact."""


def of_fields(record: NDArray[Any]) -> Events:
    """Events from a structured array ``[E]`` with fields ``x``, ``t`` and, where the sensor has them, ``y`` and ``p``.

    They come out in the order of their times, which begin at 0. Times are microseconds, or seconds if their type is a
    floating-point one. A polarity above 0 is 1. Missing fields are 0.

    Raises:
        UserError: an array of another form, no events, places that are not whole numbers from 0 to ``LARGEST - 1``, times that
            are not finite, all the same or too far apart, polarities such as 1 and 2.
    """
    x, y, p, t = (field(record, name) for name in "xypt")
    if x is None or t is None or any(values is not None and values.dtype.kind not in "biuf" for values in (x, y, p, t)):
        raise UserError("this is no structured array [E] with fields x, y, p and t")
    if not len(record):
        raise UserError("there are no events")
    for name, places in (("x", x), ("y", y)):
        if places is not None and not bool(((places >= 0) & (places < LARGEST) & (places % 1 == 0)).all()):
            raise UserError(f"values of {name} are not all whole numbers from 0 to {LARGEST - 1:,}")
    order, micro = np.argsort(t, kind="stable"), 1e6 if t.dtype.kind == "f" else 1
    t = t[order]
    if not micro * (float(t[-1]) - float(t[0])) < LONGEST:
        raise UserError("times are not finite, or years apart")
    if p is not None and p.min() > 0 and p.max() > p.min():
        raise UserError(f"polarities are {p.min():g} to {p.max():g}; write 0 for one of the two")
    if len(t) > 1 and t[0] == t[-1]:
        raise UserError("all events have one time; store times as whole microseconds or float64 seconds")
    t = t.astype(np.int64) if t.dtype.kind == "i" else t  # a difference may not fit the type
    since = np.rint((t - t[0]) * micro).astype(np.int64)
    y, p = (np.zeros_like(since) if values is None else values[order] for values in (y, p))
    return Events(x[order].astype(np.int64), y.astype(np.int64), (p > 0).astype(np.int64), since)


def field(record: NDArray[Any], name: str) -> NDArray[Any] | None:
    """A field of a structured array ``[E]`` under any of its ``FIELDS``; None if there is none."""
    own = [each for each in record.dtype.names or () if each in FIELDS[name]] if record.ndim == 1 else []
    return record[own[0]] if own else None


SACCADE = 105_000
"""Microseconds of each of the three saccades of an N-MNIST recording."""
_PATH_X, _PATH_Y = (0.0, 3.5, 7.0, 0.0), (0.0, 7.0, 0.0, 0.0)
_CENTRE = 3.5


def stabilise(events: Events, height: int, width: int) -> Events:
    """Undo the camera's motion: a triangle of three saccades, each taken to be linear in time.

    The image is at pixel offsets (0, 0), (3.5, 7), (7, 0) and (0, 0) at the ends of the saccades. These corners, from G.
    Orchard's own script, also make the sum of events sharpest. The digit comes to rest in the middle of its path, where about
    one event in 200 is lost over the edge.
    """
    ends = SACCADE * np.arange(4)
    x = np.rint(events.x - np.interp(events.t, ends, _PATH_X) + _CENTRE).astype(np.int64)
    y = np.rint(events.y - np.interp(events.t, ends, _PATH_Y) + _CENTRE).astype(np.int64)
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Events(x[kept], y[kept], events.p[kept], events.t[kept])
