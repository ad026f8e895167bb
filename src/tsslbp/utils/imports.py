"""Python files of the user's own (``--import FILE.py``), which register rules, surrogates, losses and data sets.

Runs and models store only the names of these files. To load them, give the files again.
"""

import contextlib
import shlex
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from tsslbp.utils.errors import UserError, shown

_PREFIX = "tsslbp_import_"
_INSTALLED = {*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parents[1])}
"""Folders whose files are not the user's."""
_given: ContextVar[tuple[Path, ...]] = ContextVar("given", default=())


def is_ours(x: object) -> bool:
    """Whether an object's class is this library's, not one of the user's."""
    return type(x).__module__.startswith("tsslbp.")


@contextlib.contextmanager
def given(paths: Iterable[Path]) -> Iterator[None]:
    """Import the files in this order; inside, an exception from their code is a UserError.

    Each file finds the modules beside it, as a script does.

    Raises:
        UserError: no such file, two of one name, an exception that came through one of them; it names the file and the line.
    """
    token, searched = _given.set(()), list(sys.path)
    try:
        take(paths)
        yield
    except UserError:
        raise
    except Exception as error:
        if place := _place(error):
            raise UserError(f"{place}: {type(error).__name__}: {error}") from None
        raise
    finally:
        sys.path[:] = searched
        _given.reset(token)


def take(paths: Iterable[Path]) -> None:
    """Import files; :func:`given` also undoes it."""
    for path in paths:
        if path.suffix != ".py" or not path.is_file():
            raise UserError(f"--import {shown(path)}: there is no such Python file; give the path of a FILE.py")
        if path.name in names():
            raise UserError(f"--import: two files are named {path.name}; give each a name of its own")
        _given.set((*_given.get(), path))
        sys.path.insert(0, str(path.parent.resolve()))
        module = sys.modules[_PREFIX + path.stem] = ModuleType(_PREFIX + path.stem)  # dataclasses look up their module
        module.__file__ = str(path)
        try:
            exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
        except (Exception, SystemExit) as error:
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise UserError(f"{_place(error) or path}: {type(error).__name__}: {reason}") from None


def _place(error: BaseException) -> str | None:
    """File and line of the last given file that an exception came through, if any."""
    files = set(map(str, paths()))
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{error.filename}, line {error.lineno}"
    lines = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    found = [f"{file}, line {line}" for file, line in lines if file in files]
    return found[-1] if found else None


def paths() -> tuple[Path, ...]:
    """The files that were given."""
    return _given.get()


def names() -> tuple[str, ...]:
    """Their names, which models and settings store."""
    return tuple(path.name for path in paths())


def defining(*things: object) -> tuple[str, ...]:
    """The names of the files that were given, and of the user's own files that define classes or functions.

    Installed packages and notebooks are left out.
    """
    modules = (sys.modules.get(str(getattr(thing, "__module__", None))) for thing in things)
    files = (Path(str(module.__file__)) for module in modules if module and getattr(module, "__file__", None))
    own = (file.name for file in files if file.suffix == ".py" and not any(map(file.is_relative_to, _INSTALLED)))
    return tuple(dict.fromkeys((*names(), *own)))


def again(remembered: Iterable[str] | None = None) -> str:
    """Arguments that give the files again on a command line, by default the present ones; empty if there are none."""
    return "".join(f" --import {shlex.quote(str(file))}" for file in (paths() if remembered is None else remembered))


def need(remembered: object) -> None:
    """Raises UserError unless these are names of files that were given, or of modules that were imported in Python."""
    if not isinstance(remembered, list) or not all(isinstance(name, str) and Path(name).name == name for name in remembered):
        raise UserError(f"imports are {shown(remembered)}; they must be names of files")
    missing = set(remembered) - {*names()}
    modules = [module for name, module in list(sys.modules.items()) if missing and not name.startswith(_PREFIX)]
    files = (Path(getattr(module, "__file__", None) or "") for module in modules)
    missing -= {file.name for file in files if file.name in missing and not any(map(file.is_relative_to, _INSTALLED))}
    if missing:
        lacking = again(name for name in remembered if name in missing).strip()
        raise UserError(f"it was trained with {shown(lacking)}; give it again, or import it in Python")
