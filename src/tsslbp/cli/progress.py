"""Progress of many runs, and what to do when one is stopped."""

import contextlib
from collections.abc import Iterator

from tsslbp import training
from tsslbp.cli.show import say


def watch(run: str) -> training.Progress:
    """Says which of many runs begins; shows how it goes."""
    say(run)
    return training.watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs, which an interruption stops; given again, it goes on where it was."""
    try:
        yield
    except (training.Interrupted, KeyboardInterrupt):
        say("stopped; give the same command again to go on")
        raise KeyboardInterrupt from None
