"""Progress of many runs, and what to do when one is stopped."""

import contextlib
import sys
from collections.abc import Iterator

import tsslbp.training as training


def watch(run: str) -> training.Progress:
    """Says which of many runs begins; shows how it goes."""
    print(run, file=sys.stderr, flush=True)
    return training.watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs, which an interruption stops; given again, it goes on where it was."""
    try:
        yield
    except training.Interrupted:
        print("stopped; give the same command again to go on", file=sys.stderr)
        raise KeyboardInterrupt from None
