"""The section of one study."""

from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

Result = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """What the page says of one study."""

    question: str
    answer: str
    drawings: list[tuple[Markup, str]]
    """Figures with their captions."""
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
