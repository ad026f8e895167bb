"""``--import FILE.py``: a user's own rules, surrogates, losses and data sets, for the commands that take them."""

from tsslbp import data, losses, rules
from tsslbp.rules import surrogate
from tsslbp.utils.errors import UserError, shown

IMPORTING = ("train", "evaluate", "predict", "report", "compare", "study", "export", "import")
"""Commands that take it."""
HELP = "--import FILE.py first imports a file of your own, which registers rules, surrogates, losses or data sets."


def check() -> None:
    """Raises UserError for registered objects of a wrong type."""
    for name, rule in rules.RULES.items():
        if not (isinstance(rule, type) and issubclass(rule, rules.Rule)):
            raise UserError(f"rules.RULES[{name!r}] is {shown(rule)}; it must be a subclass of tsslbp.Rule")
    for name, shape in surrogate.DERIVATIVES.items():
        pair = shape if isinstance(shape, tuple) and len(shape) == 2 else (shape, 1.0)
        if not callable(pair[0]) or not isinstance(pair[1], (int, float)):
            raise UserError(f"DERIVATIVES[{name!r}] is {shown(shape)}; it must be a function, or a function and its slope")
    for name in losses.LOSSES:
        losses.check_class(name)
    for name, read in data.SETS.items():
        if not callable(read):
            raise UserError(f"data.SETS[{name!r}] is {shown(read)}; it must be a function that returns a Dataset")
