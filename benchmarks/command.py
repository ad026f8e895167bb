"""Starts the scripts of this folder with the words of the command line."""

import contextlib
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tsslbp.utils.errors import UserError


def run(script: Callable[..., object], usage: str) -> None:
    """Call a script with all words. Prints the usage if it is asked for, or if the script does not take so many words."""
    words = sys.argv[1:]
    if words in (["-h"], ["--help"]):
        print(usage)
        return
    try:
        inspect.signature(script).bind(*words)
    except TypeError:
        sys.exit(usage)
    with told():
        script(*words)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Bad input ends in one line and exit code 2, as it does in ``tsslbp``."""
    try:
        yield
    except (UserError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def positive(name: str, word: str, whole: bool = False) -> float:
    """A positive number. Raises UserError for any other word."""
    with contextlib.suppress(ValueError):
        if 0 < float(word) < math.inf and not (whole and float(word) % 1):
            return float(word)
    raise UserError(f"{name} is {word}; it must be a positive {'whole ' * whole}number")


def source(folder: Path) -> Path:
    """The folder src of another version, as an absolute path. Raises UserError if it is none.

    Without this check, Python would take the installed version in its place.
    """
    if not (folder / "tsslbp/__init__.py").is_file():
        raise UserError(f"there is no tsslbp in {folder}; give the folder src of another version")
    return folder.resolve()
