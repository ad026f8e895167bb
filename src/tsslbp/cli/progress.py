"""Progress of many runs, and messages when one is stopped."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from tsslbp import training
from tsslbp.cli.show import say


def watch(run: str) -> training.Progress:
    """Say which of many runs begins, and show its progress."""
    say(run)
    return training.watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs: when interrupted, also between two of them, say that the same command continues."""
    with _sigterm_as_ctrl_c():
        try:
            yield
        except (training.Interrupted, KeyboardInterrupt):
            say("stopped; give the same command again to go on")
            raise KeyboardInterrupt from None


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM raises KeyboardInterrupt; a run that trains takes the signal for itself (``training/loop.py``)."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        # elsewhere Python takes no signals, and a handler of a program around Python could not be put back
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
