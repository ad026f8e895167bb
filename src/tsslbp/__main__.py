"""``python -m tsslbp`` is the command ``tsslbp``."""

import contextlib
import os
import signal
import sys

from tsslbp.cli import main
from tsslbp.utils import distributed


def run() -> None:
    """The command; ends this process."""
    code = main()
    with contextlib.suppress(ValueError):  # outside the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said: another Ctrl-C would only show where Python was
    if distributed.stuck():
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    run()
