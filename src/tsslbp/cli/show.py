"""How answers are printed."""

from collections.abc import Sequence

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
