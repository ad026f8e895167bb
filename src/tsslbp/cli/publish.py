"""The commands that make what others get to see: the rows of the results table, and trained models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from tsslbp import machine, publish
from tsslbp.cli.parse import parse
from tsslbp.cli.progress import same_command_goes_on, watch
from tsslbp.cli.show import console
from tsslbp.declared import flag
from tsslbp.errors import UserError, unknown


def reproduce(arguments: list[str]) -> None:
    """train a row of the paper's table with several seeds: tsslbp reproduce ROW"""
    about = f"{publish.Reproduce.__doc__} ROW is one of: {', '.join(publish.ROWS)}."
    options = parse(publish.Reproduce, "reproduce", arguments, description=about)
    machine.keep_memory()
    with same_command_goes_on():
        page = publish.reproduce(options, watch)
    console.print(publish.results_table(options.out), end="")
    console.print(f"result: {page}")


@dataclass(frozen=True)
class Export:
    """Write a trained network in a format that others read. The ending of FILE says which."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """A run's folder, or a model.safetensors."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """What to write, such as models/NAME.safetensors."""
    format: str | None = None
    """The format, where the ending of FILE does not say it."""
    half: bool = False
    """Store the weights in float16, in half the space. The card then gives the test accuracy of the rounded weights, which
    needs the data."""
    data_root: Path = Path("data")
    """Folder that holds the data set, for --half."""


class Format(NamedTuple):
    """A format that ``tsslbp export`` writes."""

    ending: str
    """Of a file; empty for a folder, which ``--format`` asks for."""
    about: str
    write: Callable[[Export], Iterator[str]]
    """Writes FILE and gives the lines to print. Raises UserError for what the format cannot say."""
    options: frozenset[str] = frozenset()
    """Settings of :class:`Export` that it takes, besides the paths and the format."""


def _safetensors(options: Export) -> Iterator[str]:
    yield f"card: {publish.export(options.model, options.file, options.half, options.data_root)}"


FORMATS = {
    "safetensors": Format(
        ".safetensors",
        "the model of a run, to give away, and README.md beside it, a card of all models in that folder",
        _safetensors,
        frozenset({"half", "data_root"}),
    ),
}
"""Formats by their names."""


def export(arguments: list[str]) -> None:
    """write a trained network for others: a model file with its card"""
    about = "; ".join(f"{form.ending or f'--format {name}'}: {form.about}" for name, form in FORMATS.items())
    options = parse(Export, "export", arguments, description=f"{Export.__doc__} {about}.")
    name, form = _format(options)
    for field in fields(Export)[3:]:
        if getattr(options, field.name) != field.default and field.name not in form.options:
            raise UserError(f"{flag(field.name)} has no effect with format {name}")
    for line in form.write(options):
        console.print(line)


def _format(options: Export) -> tuple[str, Format]:
    """The format that was asked for, or the one of the file's ending. Raises UserError if there is none."""
    if options.format is not None:
        if options.format not in FORMATS:
            raise unknown("format", options.format, FORMATS)
        return options.format, FORMATS[options.format]
    for name, form in FORMATS.items():
        if form.ending and options.file.suffix == form.ending:
            return name, form
    endings = ", ".join(form.ending for form in FORMATS.values() if form.ending)
    raise UserError(f"the ending of {options.file} names no format; known endings: {endings}; or choose with --format")
