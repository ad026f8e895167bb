"""Progress of many runs, and messages when one is stopped."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tsslbp import training
from tsslbp.cli.streams import say
from tsslbp.utils import distributed


def watch(run: str) -> training.Progress:
    """Say which of many runs begins, and show its progress."""
    say(run)
    return training.watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs: when interrupted, also between two of them, say that the same command continues."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with distributed.handling(stop, *distributed.STOPS):  # a run that trains takes it for itself (training/loop.py)
        try:
            yield
        except (training.Interrupted, KeyboardInterrupt):
            say("stopped; give the same command again to go on")
            raise KeyboardInterrupt from None
