"""Studies as JSON, one file each, and one HTML page of all that lie in the same folder."""

import json
from pathlib import Path

from tsslbp import files
from tsslbp.errors import UserError
from tsslbp.report.page import Result
from tsslbp.report.run import template
from tsslbp.report.sections import SECTIONS, section


def write_study(folder: Path, result: Result) -> Path:
    """Write ``NAME.json`` and, of all studies in the folder, ``report.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or another study's file is damaged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --out") from None
    files.write_text(folder / f"{result['study']}.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    found = [_read(folder / f"{name}.json") for name in SECTIONS if (folder / f"{name}.json").is_file()]
    page = template("study.html").render(
        subjects=list(dict.fromkeys(one["subject"] for one in found)),
        studies=[(one, section(one)) for one in found],
    )
    files.write_text(folder / "report.html", page)
    return folder / "report.html"


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        if result["study"] != path.stem:
            raise KeyError
        return result
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged or no study of tsslbp; delete it and run that study again") from None
