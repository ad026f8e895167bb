"""Printing of answers and of progress."""

import sys

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A line of progress, apart from the answer."""
    print(text, file=sys.stderr, flush=True)
