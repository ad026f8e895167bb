"""Learning rules by class and by name."""

import ast
import re
from typing import Any

from tsslbp.errors import UserError, unknown
from tsslbp.rules.base import Rule
from tsslbp.rules.surrogate import Surrogate
from tsslbp.rules.tssl import TSSL

__all__ = ["TSSL", "Rule", "Surrogate", "available", "get", "spec"]

RULES: dict[str, type[Rule]] = {"tssl": TSSL, "surrogate": Surrogate}


def available() -> list[str]:
    """Names that can be used as ``rule="name"``."""
    return sorted(RULES)


def get(rule: str | Rule | None) -> Rule:
    """A rule from its name, with options if wanted: ``"tssl"``, ``"tssl(fallback=no-spike, leak=False, clip=1)"``.

    ``None`` is the published rule. Raises UserError for an unknown name or option.
    """
    if rule is None:
        return TSSL()
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str):
        raise UserError(f"rule is {rule!r}; it must be a name or a Rule")
    match = re.fullmatch(r"\s*([\w+-]+)\s*(?:\((.*)\))?\s*", rule)
    if not match:
        raise UserError(f"cannot read rule {rule!r}; write NAME or NAME(option=value, ...)")
    name, arguments = match.groups()
    if name not in RULES:
        raise unknown("rule", name, RULES)
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in (arguments or "").split(","))):
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UserError(f"cannot read {item!r} in rule {rule!r}; write option=value")
        if option not in RULES[name].__dataclass_fields__:
            raise unknown(f"option of {name}:", option, RULES[name].__dataclass_fields__)
        options[option] = _literal(value)
    try:
        return RULES[name](**options)
    except TypeError as error:
        raise UserError(f"cannot read rule {rule!r}: {error}") from None


def spec(rule: Rule) -> str:
    """The string from which :func:`get` makes this rule again."""
    names = {cls: name for name, cls in RULES.items()}
    if type(rule) not in names:
        raise UserError(f"rule {rule!r} has no name; add its class to tsslbp.rules.RULES to save it by name")
    options = ", ".join(f"{key}={value}" for key, value in rule.options().items())
    return names[type(rule)] + (f"({options})" if options else "")


def _literal(text: str) -> Any:
    for read in (ast.literal_eval, float):  # the latter for "inf"
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
