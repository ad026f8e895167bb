"""What a network's modules were like, to notice that they have changed, in a few microseconds."""

import operator
import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from tsslbp.layers.normalisation import hooks_of

MEASURED = "multiplied"
"""The attribute of a layer that computing changes, without effect on results."""


class Plans:
    """What was made of a network to compute it faster. The network keeps it, so that both are freed together; copies of the
    network and pickles begin with an empty one."""

    def __init__(self, net: nn.Module | None = None) -> None:
        self.net = None if net is None else weakref.ref(net)
        self.events: Any = None
        self.as_one: Any = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Plans, ()


def plans_of(net: nn.Module) -> Plans:
    """The plans of a network."""
    known: Plans | None = vars(net).get("_plans")
    if known is None or known.net is None or known.net() is not net:  # a shallow copy has those of its original
        known = vars(net)["_plans"] = Plans(net)
    return known


class Modules:
    """A network's modules, with their attributes, their parameters and buffers, and whether they had hooks.

    What is in a tensor is not looked at.
    """

    def __init__(self, net: nn.Module) -> None:
        modules = list(net.modules())  # the network itself and the container of its layers come first
        self.kinds = [(module, type(module)) for module in modules[1:]]  # not the network, or it would never be freed
        self.attributes = [(vars(module), *_attributes(module)) for module in modules]
        dicts = [d for module in modules for d in (module._parameters, module._buffers, module._modules)]
        self.contents = [(d, tuple(d.values())) for d in dicts if d]
        self.empty = [d for d in dicts if not d]
        self.hooks = [hooks for module in modules[1:] for hooks in hooks_of(module)]

    def same(self) -> bool:
        """Whether nothing has changed, and there are no hooks."""
        if any(self.hooks) or any(self.empty) or any(type(module) is not kind for module, kind in self.kinds):
            return False
        for now, before in self.contents:
            if len(now) != len(before) or not all(map(operator.is_, now.values(), before)):
                return False
        try:
            for now, count, get, before in self.attributes:  # tuples compare by identity first, then by value
                if len(now) - (MEASURED in now) != count or get(now) != before:
                    return False
        except (KeyError, RuntimeError, ValueError):  # an attribute has gone, or tensors and arrays, which have no truth value
            return False
        return True


def _attributes(module: nn.Module) -> tuple[int, Callable[[dict[str, Any]], tuple[Any, ...]], tuple[Any, ...]]:
    """Number of a module's attributes, a function that gets them from a dict, and their values."""
    names = [name for name in tuple(vars(module)) if name != MEASURED]
    get = operator.itemgetter(*names)
    return len(names), get, get(vars(module))
