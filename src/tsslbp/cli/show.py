"""How answers are printed, and what is said beside them."""

import sys

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)


def say(text: str) -> None:
    """A line of progress, apart from the answer."""
    print(text, file=sys.stderr, flush=True)
