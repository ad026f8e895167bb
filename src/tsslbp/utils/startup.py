"""Ctrl-C while the command starts. Importing PyTorch takes seconds, and a traceback through its files helps nobody.

The package imports this first, so it must import nothing slow.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any


def _leave(*_: Any) -> None:
    os._exit(130)  # an exception could be lost in one of the files that are being imported


def _of_the_command() -> bool:
    """Whether this process is ``tsslbp`` or ``python -m tsslbp``, not a program that imports the package."""
    named = next((each for each in sys.orig_argv[1:] if not each.startswith("-")), "")
    return Path(named).name in ("tsslbp", "tsslbp.exe")


def leave_at_ctrl_c() -> None:
    """Until :func:`started`, Ctrl-C ends the command with exit code 130 and without a word."""
    if _of_the_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def started() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


leave_at_ctrl_c()
