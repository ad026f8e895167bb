"""Makes standard streams usable, however the program was started."""

import contextlib
import io
import os
import sys

from tsslbp.utils.errors import visible


def prepare() -> None:
    """Make closed streams discard text, and let standard output replace characters that its encoding lacks by ``?``."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:  # closed: the next opened file would get its text
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (it stays open)
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors != "replace":  # replacements, such as a test's, are left alone
        out.reconfigure(errors="replace")  # standard error escapes by itself


def discard_rest() -> None:
    """Drop unwritten text of a broken stream, so that Python does not try again at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def say(text: str) -> None:
    """Write a line to standard error, if possible: progress or a complaint, apart from the answer."""
    with contextlib.suppress(OSError):
        print(visible(text), file=sys.stderr, flush=True)
