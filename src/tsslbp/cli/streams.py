"""Standard streams that can be printed to, whatever the program was started with."""

import contextlib
import io
import os
import sys


def prepare() -> None:
    """Make closed streams swallow what they get, and let standard output replace what its encoding lacks by ``?``."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would get what is meant for the stream
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (it stays open)
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and out.errors != "replace":  # a stand-in, such as a test's, is left alone
        out.reconfigure(errors="replace")  # standard error escapes by itself


def discard_rest() -> None:
    """Drop what is still to be written to a stream that takes no more, so that Python does not try again at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def complain(text: str) -> None:
    """A line on standard error, if that takes it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
