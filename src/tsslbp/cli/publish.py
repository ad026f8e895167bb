"""The commands that make pages of runs and studies, and rows of the results table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from tsslbp.cli import publishing
from tsslbp.cli.parse import parse
from tsslbp.cli.progress import same_command_goes_on, watch
from tsslbp.cli.show import console
from tsslbp.utils import machine


@dataclass(frozen=True)
class Report:
    """Make the page of a folder: of a run, of a comparison, or of studies."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of a run, of tsslbp compare, of tsslbp study or of tsslbp reproduce. The page is written into it."""
    markdown: bool = False
    """Write README.md, a short page, with SVG figures, which any repository viewer shows. Default: one HTML file. The folder
    of tsslbp reproduce has only the short page and needs this option."""
    data_root: Path | None = None
    """Folder that holds the data sets, for a run. Default: the run's own."""


def report_(arguments: list[str]) -> None:
    """``tsslbp report``."""
    options = parse(Report, "report", arguments)
    console.print(f"report: {publishing.write_page(options.folder, options.markdown, options.data_root)}")


def reproduce(arguments: list[str]) -> None:
    """``tsslbp reproduce``."""
    about = f"{' '.join(str(publishing.Reproduce.__doc__).split())} ROW is one of: {', '.join(publishing.ROWS)}."
    options = parse(publishing.Reproduce, "reproduce", arguments, description=about)
    machine.keep_memory()
    with same_command_goes_on():
        page = publishing.reproduce(options, watch)
    console.print(f"result: {page}")
    console.print(publishing.results_table(options.out), end="")
