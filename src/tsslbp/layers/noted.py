"""Whether a network is still what its notation says: of a network, files hold the notation, the constants and the weights."""

from collections.abc import Callable

import torch
from torch import nn

from tsslbp.errors import UserError
from tsslbp.neuron import LIF


def check_same(network: nn.Module, make: Callable[[], nn.Module]) -> None:
    """Raises UserError if a module in a network differs from that of the network that ``make`` makes, with that module named.

    What counts is its class, what it says of itself, and its constants; weights do not.
    """
    with torch.device("meta"):
        made = make()
    found, wanted = ({name: _described(module) for name, module in of.named_modules()} for of in (network, made))
    for name in sorted({**found, **wanted}, key=lambda name: not name):  # the network itself, which counts weights, comes last
        ours, theirs = found.get(name, "not there"), wanted.get(name, "nothing")
        if ours != theirs:
            raise UserError(
                f"{name or 'the network'} is {ours}, where its notation says {theirs}; a file would not hold that, so keep the "
                "state_dict() with your code"
            )


def check_kinds(network: nn.Module) -> None:
    """Raises UserError for a layer whose class derives from one of those here: nobody else knows what it overrides."""
    for name, module in network.named_modules():
        ours = any(base.__module__.startswith(f"{__package__}.") for base in type(module).__mro__)
        if ours and not _is_known(type(module)):
            raise UserError(f"layer {name!r} is {_kind(type(module))}, a class of your own; only those of tsslbp are written")


def _described(module: nn.Module) -> str:
    told = [module.extra_repr()]
    told += [str(value) for name, value in vars(module).items() if name == "pool" or isinstance(value, LIF)]
    told += [f"{name}={value}" for name, value in vars(module).items() if name in ("time_steps", "tau_s")]
    return f"{_kind(type(module))}({', '.join(filter(None, told))})"


def _is_known(kind: type) -> bool:
    return kind.__module__.startswith(("tsslbp.", "torch."))


def _kind(kind: type) -> str:
    return kind.__name__ if _is_known(kind) else f"{kind.__module__}.{kind.__name__}"
