"""Parts of pages: templates and their filters, the section of a study, numbers as text."""

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tsslbp.data.synthetic import frozen
from tsslbp.report import figures
from tsslbp.utils import files, tables

Result = dict[str, Any]
"""Measurements of a study or a comparison, as in its JSON file."""


@dataclass(frozen=True)
class Section:
    """The part of a page about one study."""

    question: str
    answer: str
    drawings: list[tuple[Markup, str]]
    """Figures with their captions."""
    heads: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def template(name: str, **filters: Callable[..., str]) -> jinja2.Template:
    """A page's template with the common filters and its own."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=name.endswith(".md"),
        keep_trailing_newline=name.endswith(".md"),
    )
    environment.tests["frozen"] = frozen
    environment.filters |= {"number": _number, "duration": _duration, "command": _command, **filters}
    environment.filters["words"] = lambda key: key.replace("train_", "training ").replace("_", " ")
    return environment.get_template(name)


def write_page(
    path: Path, name: str, context: Mapping[str, Any], markdown: bool = False, **filters: Callable[..., str]
) -> Path:
    """Write a page as one HTML file, or in Markdown as ``README.md`` beside it; returns the path of the page.

    Raises UserError if a file cannot be written.
    """
    if markdown:
        return _write_markdown(path.parent, f"{name}.md", context, **filters)
    files.write_text(path, template(f"{name}.html", **filters).render(context))
    return path


def _write_markdown(folder: Path, name: str, context: Mapping[str, Any], **filters: Callable[..., str]) -> Path:
    """Write ``README.md`` from a template, and the figures it shows as SVG files beside it."""
    drawn: dict[str, str] = {}

    def figure(svg: Markup, name: str) -> str:
        drawn[f"{name}.svg"] = figures.standalone(svg)
        described = re.search('aria-label="([^"]*)"', svg)
        return f"![{tables.literal(html.unescape(described[1]) if described else name)}]({name}.svg)"

    made: dict[str, Callable[..., str]] = {"figure": figure, "table": _table, "machine": machine_in_words}
    made |= {"literal": tables.literal, **filters}
    text = template(name, **made).render(context)
    for file, svg in drawn.items():
        files.write_text(folder / file, svg)
    files.write_text(folder / "README.md", re.sub(r"\n{3,}", "\n\n", text))
    return folder / "README.md"


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str], code: bool = False) -> str:
    """A table in Markdown; with ``code`` the first cell of each row is in code style."""
    return tables.markdown(heads, [[f"`{first}`" if code else first, *rest] for first, *rest in rows]).rstrip()


def machine_in_words(about: Mapping[str, str]) -> str:
    """The machine of a result, as a sentence in Markdown."""
    known = [about[key] for key in ("processor", "threads", "vector instructions", "gpu") if key in about]
    known += [f"load {about['load']} at the end"] if "load" in about else []
    versions = [f"{name} {about[name]}" for name in ("tsslbp", "torch") if name in about]
    return tables.literal(f"Machine: {', '.join(known)}; {', '.join(versions)}.")


def _number(value: Any, digits: int = 6) -> str:
    """A value of a record or a setting as text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _command(text: str) -> Markup:
    """A command that breaks between words and not at hyphens of options, if a word fits on a line."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in text.split(" "))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def significant(value: float) -> str:
    """At least three digits; large numbers without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def with_sd(mean: float, sd: float | None, decimals: int = 2) -> str:
    """``mean ± standard deviation``; for a single value, the value."""
    return f"{mean:.{decimals}f}" + ("" if sd is None else f" ± {sd:.{decimals}f}")
