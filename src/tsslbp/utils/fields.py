"""Dataclasses of settings whose fields declare everything: a type, a range, a meaning, a default and a docstring.

epochs: Annotated[int, POSITIVE] = 20
rule: Annotated[str, Means(rules.get)] = "tssl"
"""

import ast
import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from tsslbp.utils.errors import LARGEST, UserError, shown


@dataclass(frozen=True)
class Must:
    """A condition on a setting's value: ``--epochs is 0; it must be positive``."""

    be: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Means:
    """The reader of a setting's text, which raises UserError for an invalid one."""

    read: Callable[[Any], object]


def plain(value: Any) -> Any:
    """A setting with Python's numbers in place of NumPy's."""
    if isinstance(value, tuple | list):
        return (tuple if isinstance(value, tuple) else list)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


FLOAT32_MAX = 3.4028234663852886e38
"""The largest possible weight or constant."""
POSITIVE = Must("be positive", lambda x: x > 0)
FINITE = Must("be finite, at most 3.4e38", lambda x: abs(x) <= FLOAT32_MAX)
NOT_NEGATIVE = Must("be 0 or more", lambda x: x >= 0)
AT_LEAST_1 = Must("be at least 1", lambda x: x >= 1)
BELOW_1 = Must("be at least 0 and below 1", lambda x: 0 <= x < 1)
SHARE = Must("be from 0 to 1", lambda x: 0 <= x <= 1)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings about one thing."""

    def __getstate__(self) -> dict[str, Any]:
        """As texts, paths go from one kind of system to another in a pickle."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        paths = {name for name, kind in kinds_of(type(self)).items() if Path in (kind, *get_args(kind))}
        vars(self).update({name: Path(x) if name in paths and isinstance(x, str) else x for name, x in state.items()})

    def idle(self) -> dict[str, str]:
        """Settings without effect beside the others, and what would give them one."""
        return {}

    def refuse_idle(self, given: Collection[str]) -> None:
        """Raises UserError for settings of these names that have no effect. Those of a recipe are allowed."""
        if found := [f"{flag(name)} has no effect without {wanted}" for name, wanted in self.idle().items() if name in given]:
            raise UserError("; ".join(found))

    def to_dict(self, group: "type[Group] | None" = None) -> dict[str, Any]:
        """Every setting, or those of a group, as JSON values, without None and without ``resume``, which belongs to a command
        and not to a run."""
        values = {name: getattr(self, name) for name in kinds_of(group or type(self)) if name != "resume"}
        return {name: _as_json(value) for name, value in values.items() if value is not None}


def flag(name: str) -> str:
    """A setting's flag on the command line."""
    return f"--{name.replace('_', '-')}"


def kinds_of(settings: type) -> dict[str, Any]:
    """The declared type of every setting of a class, with its conditions."""
    hints = get_type_hints(settings, include_extras=True)
    return {field.name: hints[field.name] for field in fields(settings)}


def docstrings(settings: type) -> dict[str, str]:
    """The docstrings of the fields of a dataclass and its bases, on one line each; empty without source code."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(settings.__mro__)):
        try:
            (definition,) = ast.parse(inspect.getsource(base)).body
        except OSError:
            continue
        assert isinstance(definition, ast.ClassDef)
        for field, below in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def faults(settings: Any, called: Callable[[str], str] = flag) -> Iterator[str]:
    """Errors of single values of a dataclass, in type, range or meaning, each with its flag or as it is ``called``."""
    for name, kind in kinds_of(type(settings)).items():
        value = getattr(settings, name)
        if found := list(misfits(called(name), kind, value)):
            yield from found
            continue
        for part in value if isinstance(value, tuple) else (value,) if value is not None else ():
            for demand in get_args(kind)[1:] if get_origin(kind) is Annotated else ():
                if isinstance(demand, Must) and not demand.holds(part):
                    yield f"{called(name)} is {shown(value)}; it must {demand.be}"
                elif isinstance(demand, Means):
                    try:
                        demand.read(part)
                    except UserError as error:
                        yield f"{called(name)}: {error}"


def typed(kind: Any, value: Any) -> Any:
    """A value from TOML, which has neither tuples nor paths: tuples are written as text, or as a single number."""
    kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if kind == Path | None:
        kind = Path
    if kind is Path and isinstance(value, str):
        return Path(value)
    if get_origin(kind) is tuple:
        if isinstance(value, str) and all(part.isdecimal() and len(part) < 10 for part in value.split()):
            return tuple(map(int, value.split()))
        if isinstance(value, str) and get_args(kind)[0] is not int:
            return tuple(value.split())
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def misfits(name: str, kind: Any, value: Any) -> Iterator[str]:
    """Errors of a value of a declared type."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if isinstance(kind, UnionType):
        *_, kind = (option for option in get_args(kind) if option is not NoneType)
        if value is None:
            return
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            write = tuple(value) if isinstance(value, list | set | frozenset) else (value,)
            yield f"{name} is {shown(value)}; it must be a tuple: write {shown(write)}"
            return
        yield from (fault for part in value for fault in misfits(name, get_args(kind)[0], part))
        return
    if get_origin(kind) is Literal:
        be, fits = f"be one of {', '.join(map(str, get_args(kind)))}", isinstance(value, (str, int)) and value in get_args(kind)
    elif kind is bool:
        be, fits = "be true or false", isinstance(value, bool)
    elif kind is int:
        whole = isinstance(value, int) and not isinstance(value, bool)
        be, fits = f"be a whole number of at most {LARGEST}", whole and abs(value) <= LARGEST
    elif kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        be, fits = "be a number", number and (isinstance(value, float) or abs(value) <= sys.float_info.max)
    else:
        be, fits = "be Unicode text without NUL", isinstance(value, kind) and is_text(str(value))
        be = be if isinstance(value, kind) else "be text"
        if kind is Path and isinstance(value, str):  # of a TOML file it would be a path by now
            be = "be a pathlib.Path"
    if not fits:
        text = isinstance(value, str) and kind in (bool, int, float)
        yield f"{name} is {shown(repr(value) if text else value)}; it must {be}"


def is_text(value: str) -> bool:
    """Whether UTF-8 can encode it: Python uses surrogates for bytes of a file name that are not UTF-8."""
    return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
