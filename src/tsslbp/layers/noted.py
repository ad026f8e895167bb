"""Whether a network is still what its notation says, since files hold only notation, constants and weights."""

from collections.abc import Callable

import torch
from torch import nn

from tsslbp.layers.base import Spiking
from tsslbp.layers.called import is_known, kind_of
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError


def check_same(network: nn.Module, make: Callable[[], nn.Module]) -> None:
    """Raises UserError if a network differs from the one that ``make`` makes, with the module or weight named.

    Modules are compared by class, ``extra_repr`` and constants, weights by shape.
    """
    with torch.device("meta"):
        made = make()
    for told in (_modules, _weights):
        found, wanted = told(network), told(made)
        for name in {**found, **wanted}:
            ours, theirs = found.get(name, "not there"), wanted.get(name, "nothing")
            if ours != theirs:
                raise UserError(
                    f"{name or 'the network'} is {ours}, where its notation says {theirs}; a file would not hold that, so keep "
                    "the state_dict() with your code"
                )


def check_rule(network: nn.Module, rule: Rule) -> Rule:
    """The rule, which is that of all layers. Raises UserError for a layer with another one."""
    for name, layer in network.named_modules():
        if isinstance(layer, Spiking) and layer.rule != rule:
            raise UserError(f"{name} has rule {layer.rule!r}, and a file holds one for all layers, {rule!r}; set it back")
    return rule


def check_kinds(network: nn.Module) -> None:
    """Raises UserError for a module whose class derives from one of tsslbp's, or that has methods of its own, since these may
    do anything, and for forward hooks, which may change a module's input or output."""
    for name, module in network.named_modules():
        if module._forward_hooks or module._forward_pre_hooks:
            raise UserError(
                f"{name or 'the network'} has forward hooks, which no file holds; remove them (torch.nn.utils.prune.remove "
                "makes pruning last)"
            )
        if not is_known(module) and any(base.__module__.startswith("tsslbp.") for base in type(module).__mro__):
            raise UserError(f"{name or 'the network'} is {_called(module)}; only tsslbp's own classes are written")


def _modules(network: nn.Module) -> dict[str, str]:
    described = {}
    for name, module in network.named_modules():
        told = [module.extra_repr()] if name else []
        told += [str(value) for key, value in vars(module).items() if key == "pool" or isinstance(value, LIF)]
        told += [f"{key}={value}" for key, value in vars(module).items() if key in ("time_steps", "tau_s")]
        described[name] = f"{_called(module)}({', '.join(filter(None, told))})"
    return described


def _weights(network: nn.Module) -> dict[str, str]:
    return {name: str(list(weight.shape)) for name, weight in network.state_dict().items()}


def _called(module: nn.Module) -> str:
    kind = kind_of(module)
    return kind.__name__ if is_known(module) else f"{kind.__module__}.{kind.__name__} with methods of its own"
