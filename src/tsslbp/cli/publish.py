"""The commands that make what others get to see: the rows of the results table, and trained models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tsslbp import machine, publish
from tsslbp.cli.parse import parse
from tsslbp.cli.progress import same_command_goes_on, watch
from tsslbp.cli.show import console


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
    """Copy a run's model to a file to give away, and write README.md beside it, a card of all models in that folder."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Where to write, such as models/NAME.safetensors. evaluate and predict read such a file."""
    half: bool = False
    """Store the weights in float16, in half the space. The card then gives the test accuracy of the rounded weights, which
    needs the data."""
    data_root: Path = Path("data")
    """Folder that holds the data set, for --half."""


def export(arguments: list[str]) -> None:
    """copy a run's model to a file to give away, with a model card"""
    options = parse(Export, "export", arguments)
    console.print(f"card: {publish.export(options.run, options.file, options.half, options.data_root)}")
