"""Studies as JSON, one file each, and one page of all studies in a folder, in HTML or Markdown."""

import json
from pathlib import Path

from tsslbp import training
from tsslbp.data.synthetic import frozen
from tsslbp.report.page import Result, Section, write_page
from tsslbp.study.base import studies
from tsslbp.utils import files
from tsslbp.utils.errors import UserError


def section(result: Result) -> Section:
    """A study's question, answer and figures."""
    return studies()[result["study"]].section(result)


def write(folder: str | Path, result: Result) -> Path:
    """Write ``NAME.json`` and, of all studies in the folder, ``report.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or another study's file is damaged.
    """
    folder = Path(folder)
    files.make_folder(folder, "choose another --out")
    result = result | {"command": result.get("command", "")}  # of the command line alone
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    section(json.loads(content))  # an error of the study is raised here, not as a damaged file
    files.write_text(folder / f"{result['study']}.json", content)
    try:
        return draw(folder)
    except UserError as error:
        raise UserError(f"{error}; {folder / result['study']}.json holds the new result") from None


def check_folder(folder: Path) -> None:
    """Raises UserError for a folder that cannot be made or written to, or is that of a run."""
    files.check_folder(folder, "choose another --out")
    if (folder / training.CONFIG).exists():
        raise UserError(f"{folder} is the folder of a run, which has a report of its own; choose another --out")


def found_in(folder: Path) -> list[Path]:
    """The files of studies in a folder, in the order of the page."""
    return [path for name in studies() if (path := folder / f"{name}.json").is_file()]


def draw(folder: str | Path, markdown: bool = False) -> Path:
    """Write ``report.html`` of all studies in a folder, or ``README.md`` with SVG figures; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or a study's file is damaged.
    """
    folder = Path(folder)
    drawn = [_read(path) for path in found_in(folder)]
    by_test = any(one["settings"].get("choose") == "test" for one, _ in drawn)
    chosen = "a run's epoch was chosen by them, which flatters it" if by_test else "nothing was chosen by them"
    if any(frozen(one["settings"].get("data", "")) for one, _ in drawn):
        chosen = "its patterns are also those of training and validation, so the epoch was chosen by them"
    context = {
        "subjects": list(dict.fromkeys(one["subject"] for one, _ in drawn)),
        "studies": drawn,
        "chosen": chosen,
    }
    return write_page(folder / "report.html", "study", context, markdown)


def _read(path: Path) -> tuple[Result, Section]:
    """A study's result and its part of the page."""
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(result, allow_nan=False)
        head = {**dict.fromkeys(("study", "subject", "date", "command"), str), "settings": dict, "machine": dict}
        if result["study"] != path.stem or not all(isinstance(result[key], kind) for key, kind in head.items()):
            raise ValueError
        return result, section(result)
    except Exception:  # drawing an altered file may raise anything
        raise UserError(f"{path} is damaged, of an older release or no study; delete it and run that study again") from None
