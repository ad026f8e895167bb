"""Things named in one line with their options: ``tssl(reset=False, clip=1)``, ``spike-pattern(spikes=5)``."""

import ast
import re
from typing import Any, TypeVar

from tsslbp.errors import UserError, unknown

T = TypeVar("T")


def parse_spec(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """Name and options of ``NAME`` or ``NAME(option=value, ...)``; a value that is no literal is text.

    Raises:
        UserError: anything else, called a ``what``.
    """
    match = re.fullmatch(r"\s*([\w+-]+)\s*(?:\((.*)\))?\s*", text)
    if not match:
        raise UserError(f"cannot read {what} {text!r}; write NAME or NAME(option=value, ...)")
    name, arguments = match.groups()
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in (arguments or "").split(","))):
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"cannot read {item!r} in {what} {text!r}; write option=value")
        options[option] = _literal(value)
    return name, options


def construct(cls: type[T], name: str, options: dict[str, Any]) -> T:
    """A dataclass from its options. Raises UserError for an option it does not have, or a value it cannot take."""
    for option in options:
        if option not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            raise unknown(f"option of {name}:", option, cls.__dataclass_fields__)  # type: ignore[attr-defined]
    try:
        return cls(**options)
    except TypeError as error:
        given = ", ".join(f"{option}={value}" for option, value in options.items())
        raise UserError(f"cannot read {given!r} as options of {name}: {error}") from None


def _literal(text: str) -> Any:
    for read in (ast.literal_eval, float):  # the latter for "inf"
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
