"""The exception for users, whose message is one line that names the fix, and checks that every part needs."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from numbers import Integral, Real
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
MOST_FAULTS = 5
"""Faults that one error tells."""
LARGEST = 2**31 - 1
"""No setting that counts something, and no seed, is larger."""


class UserError(ValueError):
    """Bad input. The message is one line; the command line prints it and exits with code 2."""


def one_line(error: Exception) -> str:
    """What another program's error says, in one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def needed(module: str, need: str, extra: str) -> ModuleType:
    """A module that an extra brings. Raises UserError, which says what has need of it, if it cannot be imported, and why."""
    try:
        return import_module(module)
    except Exception as error:  # one for another PyTorch raises anything
        raise UserError(f"{need}: pip install 'tsslbp[{extra}]' ({one_line(error)})") from None


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that does not exist, with the nearest names that do."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    comma = "; " if any("," in each for each in names) else ", "
    hint = f"did you mean {near[0]!r}?" if near else f"known: {comma.join(names)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def all_of(faults: Sequence[str]) -> UserError:
    """One error for several faults, in one line; only the first ``MOST_FAULTS`` are told."""
    more = [f"and {len(faults) - MOST_FAULTS:,} more"] if len(faults) > MOST_FAULTS else []
    return UserError("; ".join([*faults[:MOST_FAULTS], *more]))


def few(names: Sequence[str], most: int = 8) -> str:
    """The first names, joined."""
    return ", ".join(names[:most]) + (" ..." if names[most:] else "")


def each_of(make: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``make`` of each item. Raises one UserError for all faults together."""
    made, faults = [], []
    for item in items:
        try:
            made.append(make(item))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise all_of(faults)
    return made


def check_tensor(name: str, x: object) -> None:
    """Raises UserError for anything but a tensor."""
    if not isinstance(x, Tensor):
        raise UserError(
            f"{name} is of type {type(x).__name__}; it must be a torch.Tensor, which torch.as_tensor makes of an array"
        )
    if x.is_nested:
        raise UserError(f"{name} is a nested tensor; pad it, as its to_padded_tensor(0.0) does, and give lengths")
    if x.layout != torch.strided:
        raise UserError(f"{name} is a sparse tensor ({x.layout}); call its to_dense()")


def check_tensors(**named: object) -> None:
    """Raises UserError unless all are tensors."""
    for name, x in named.items():
        check_tensor(name, x)


def check_number(name: str, x: object, be: str = "a plain number, as constants are not learned") -> None:
    """Raises UserError for anything but a real number. A tensor is refused: autograd would leave it without a gradient."""
    if type(x) not in (float, int) and (isinstance(x, bool) or not isinstance(x, Real)):
        given = repr(x) if isinstance(x, str | bool) else f"of type {type(x).__name__}"
        raise UserError(f"{name} is {given}; it must be {be}")


def check_whole(name: str, x: object) -> None:
    """Raises UserError for anything but a whole number from 1, of Python or NumPy."""
    if isinstance(x, bool) or not isinstance(x, Integral) or x < 1:
        given = f"of type {type(x).__name__}" if hasattr(x, "shape") and not isinstance(x, Real) else shown(x)
        raise UserError(f"{name} is {given}; it must be a whole number from 1")


def check_text(name: str, x: object) -> None:
    """Raises UserError for anything but text."""
    if not isinstance(x, str):
        raise UserError(f"{name} is {shown(repr(x))}; it must be text")


def check_truths(**named: object) -> None:
    """Raises UserError unless all are True or False."""
    for name, x in named.items():
        if not isinstance(x, bool):
            raise UserError(f"{name} is {shown(repr(x))}; it must be True or False")


def check_positive(name: str, x: float, least: float = 0) -> None:
    """Raises UserError for anything but a finite number above 0, or from ``least``."""
    check_number(name, x)
    if not max(least, math.ulp(0)) <= x < math.inf:
        raise UserError(f"{name} is {x}; it must be {f'finite and at least {least}' if least else 'positive and finite'}")


def as_plain(x: float) -> float:
    """A number of Python's own. NumPy's are refused by ``torch.load`` and ``torch.compile``, and those of few bits round."""
    return x if type(x) in (float, int) else float(x)


def shown(value: object) -> str:
    """A bad value in a message: printable, on one line, not too long."""
    try:
        text = str(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number of thousands of digits"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 100 else f"{text[:97]}..."


def visible(text: str) -> str:
    """Text with its control characters escaped, except for line ends and tabs. The name of a stranger's file or column may hold
    some, which a terminal would obey."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", lambda found: ascii(found[0])[1:-1], text)
