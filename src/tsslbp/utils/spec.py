"""Names with options in one line: ``tssl(reset=False, clip=1)``, ``kernel(desired=00001)``, ``evidence(seed=5)``.

The options are the fields of a dataclass, and each is read as its field is declared: ``00001`` is text for a text field, and a
number elsewhere.
"""

import ast
import re
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tsslbp.utils.errors import UserError, unknown

T = TypeVar("T")


def name_of(text: str) -> str:
    """The name in ``NAME(option=value, ...)``, which need not be well formed."""
    return text.partition("(")[0].strip()


def parse_spec(text: str, what: str) -> tuple[str, dict[str, str]]:
    """Name and options of ``NAME`` or ``NAME(option=value, ...)``, values as text.

    Raises:
        UserError: anything else, called ``what`` in the message; an option given twice.
    """
    if not isinstance(text, str):
        raise UserError(f"{what} is of type {type(text).__name__}; give its name, with options if wanted")
    match = re.fullmatch(r"([\w+-]+)\s*(?:\((.*)\))?", text.strip())
    if not match:
        raise UserError(f"cannot read {what} {text!r}; write NAME or NAME(option=value, ...)")
    name, arguments = match.groups()
    options: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (arguments or "").split(","))):
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"cannot read {item!r} in {what} {text!r}; write option=value")
        if option in options:
            raise UserError(f"{option} is given twice in {what} {text!r}")
        options[option] = value
    return name, options


def construct(cls: type[T], name: str, options: Mapping[str, str], **context: Any) -> T:
    """A dataclass from its options.

    Args:
        cls: the dataclass, which checks its values.
        name: its name in messages.
        options: by field, as text.
        context: fields that are not options.

    Raises:
        UserError: an option it does not have, or a value it cannot take.
    """
    kinds = {field: kind for field, kind in _kinds(cls).items() if field not in context}  # type: ignore[arg-type]
    for option in options:
        if option not in kinds:
            raise unknown(f"option of {name}:", option, kinds) if kinds else UserError(f"{name} has no options, as {option} is")
    try:
        return cls(**context, **{option: _read(kinds[option], value, option) for option, value in options.items()})
    except TypeError as error:
        given = ", ".join(f"{option}={value}" for option, value in options.items())
        raise UserError(f"cannot read {given!r} as options of {name}: {error}") from None


def write_spec(name: str, options: Mapping[str, Any]) -> str:
    """The text that :func:`parse_spec` reads as a name and its options."""
    return name + (f"({', '.join(f'{key}={value}' for key, value in options.items())})" if options else "")


@lru_cache  # resolving the annotations would take longer than a small layer
def _kinds(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls) if field.init}


def _read(kind: Any, text: str, option: str) -> Any:
    """A value as its field is declared. What is no value stays text, for the class to take or refuse.

    Raises UserError for text in a field of numbers.
    """
    choices = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str in choices and (text != "None" or NoneType not in choices):
        return text
    for read in (ast.literal_eval, float):  # the latter for "inf"
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if {*choices} <= {int, float, bool, NoneType}:
        wanted = "True or False" if bool in choices else "a number" if float in choices else "a whole number"
        raise UserError(f"{option} is {text!r}; it must be {wanted}")
    return text
