"""Learning rules by class and by name."""

from tsslbp.rules.base import Rule
from tsslbp.rules.eventprop import EventProp
from tsslbp.rules.surrogate import SLAYER, STBP, EProp, SuperSpike, Surrogate
from tsslbp.rules.tssl import TSSL, TSSLPaper, TSSLPlus, TSSLSubmission
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.spec import construct, parse_spec, write_spec

__all__ = [
    "RULES",
    "SLAYER",
    "STBP",
    "TSSL",
    "EProp",
    "EventProp",
    "Rule",
    "SuperSpike",
    "Surrogate",
    "TSSLPaper",
    "TSSLPlus",
    "TSSLSubmission",
    "available",
    "get",
    "spec",
]

RULES: dict[str, type[Rule]] = {
    "tssl": TSSL,
    "tssl-paper": TSSLPaper,
    "tssl-submission": TSSLSubmission,
    "tssl+": TSSLPlus,
    "eventprop": EventProp,
    "surrogate": Surrogate,
    "stbp": STBP,
    "slayer": SLAYER,
    "superspike": SuperSpike,
    "e-prop": EProp,
}
"""Every rule by name. A class that you add works by its name wherever a rule is taken."""


def available() -> list[str]:
    """Names that can be used as ``rule="name"``."""
    return sorted(RULES)


def get(rule: str | Rule | None) -> Rule:
    """A rule from its name, with options if wanted: ``"tssl"``, ``"tssl(fallback=no-spike, leak=False, clip=1)"``.

    ``None`` is ``"tssl"``. Raises UserError for an unknown name or option.
    """
    if rule is None:
        return TSSL()
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str):
        raise UserError(f"rule is {rule!r}; it must be a name or a Rule")
    name, options = parse_spec(rule, "rule")
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return construct(RULES[name], name, options)


def spec(rule: Rule) -> str:
    """The string from which :func:`get` makes this rule again.

    Raises UserError for a rule without a name, and for options that text cannot hold.
    """
    names = {cls: name for name, cls in RULES.items()}
    if type(rule) not in names:
        raise UserError(f"rule {rule!r} has no name; add its class to tsslbp.rules.RULES to save it by name")
    options = rule.options()
    text = write_spec(names[type(rule)], options)
    try:
        same = get(text).options() == options
    except (UserError, RuntimeError, ValueError):  # no text that can be read, or options that cannot be compared
        same = False
    if not same:
        raise UserError(f"options of {rule!r} cannot be saved by name; make them numbers, None, or words without commas")
    return text
