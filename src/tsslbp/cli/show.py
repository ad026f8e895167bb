"""Printing of answers and of progress."""

from typing import Any

from rich.console import Console

from tsslbp.utils.errors import visible


class _Console(Console):
    """Sends no control characters of the text to the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **options)


console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
