"""Progress of many runs, and messages when one is stopped."""

import contextlib
from collections.abc import Iterator

from tsslbp import training
from tsslbp.cli.show import say


def watch(run: str) -> training.Progress:
    """Say which of many runs begins, and show its progress."""
    say(run)
    return training.watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs: when interrupted, say that the same command continues."""
    try:
        yield
    except (training.Interrupted, KeyboardInterrupt):
        say("stopped; give the same command again to go on")
        raise KeyboardInterrupt from None
