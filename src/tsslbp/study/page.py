"""Studies as JSON, one file each, and one HTML page of all that lie in the same folder."""

import json
from pathlib import Path

from tsslbp import files
from tsslbp.errors import UserError
from tsslbp.report.page import Result, Section, template
from tsslbp.study.base import studies


def section(result: Result) -> Section:
    """A study's question, its answer and what shows it."""
    return studies()[result["study"]].section(result)


def write(folder: Path, result: Result) -> Path:
    """Write ``NAME.json`` and, of all studies in the folder, ``report.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or another study's file is damaged.
    """
    files.make_folder(folder, "choose another --out")
    content = json.dumps(result, indent=1, allow_nan=False) + "\n"
    result = json.loads(content)  # the page is what the file makes
    files.write_text(folder / f"{result['study']}.json", content)
    known = studies()
    others = [path for name in known if (path := folder / f"{name}.json").is_file() and name != result["study"]]
    made = {result["study"]: (result, section(result)), **{path.stem: _read(path) for path in others}}
    drawn = [made[name] for name in known if name in made]
    subjects = list(dict.fromkeys(one["subject"] for one, _ in drawn))
    page = template("study.html").render(subjects=subjects, studies=drawn)
    files.write_text(folder / "report.html", page)
    return folder / "report.html"


def _read(path: Path) -> tuple[Result, Section]:
    """Another study's result and its part of the page."""
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        head = {**dict.fromkeys(("study", "subject", "date", "command"), str), "settings": dict, "machine": dict}
        if result["study"] != path.stem or not all(isinstance(result[key], kind) for key, kind in head.items()):
            raise ValueError
        return result, section(result)
    except Exception:  # drawing what an altered file says fails in every way there is
        raise UserError(f"{path} is damaged, of an older release or no study; delete it and run that study again") from None
