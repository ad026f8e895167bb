"""Tables as text, in Markdown and for a terminal."""

import re
from collections.abc import Iterable, Sequence


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, which ends with a line feed. Cells may hold Markdown of one line; a bar in them is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", cell) for cell in line) + " |\n" for line in lines)


def literal(text: object) -> str:
    """Text of others, such as the name of a class, for a place in Markdown where it must not act as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|&#]|\b_|_\b)", r"\\\1", " ".join(str(text).split()))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
