"""How layers are called: in order, with their hooks, and in parts of a sequence with a state that is handed on."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.utils.parametrize import is_parametrized

from tsslbp.layers.normalisation import BatchNorm, hooks_of
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import expanded


@dataclass
class Handed:
    """The state of a layer in a part of a sequence: the one before it, None for rest, and after the call the one after it."""

    before: Any
    after: Any = None


def in_order(container: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Its layers by name; one that is there twice comes twice, unlike in ``named_children()``."""
    return ((name, layer) for name, layer in container._modules.items() if layer is not None)


def in_order_alone(container: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """:func:`in_order` of a container that is not called itself. Raises UserError if it alone has hooks, which would never run;
    a program that hooks every module does not mind."""
    if any(hooks_of(container)) and not any(any(hooks_of(layer)) for layer in container.children()):
        raise UserError("net.layers is not called, so its hooks would never run; put them on the network or on a layer")
    return in_order(container)


def hooked(module: nn.Module) -> bool:
    """Whether a module has forward or backward hooks, or there are global ones."""
    return any(hooks_of(module)) or hooks._has_any_global_hook()


def kind_of(module: nn.Module) -> type:
    """The class of a module, without the subclass that PyTorch makes for parametrised weights."""
    return type(module).__mro__[1] if is_parametrized(module) else type(module)


def is_known(module: nn.Module) -> bool:
    """Whether nothing is overridden: its class is one of tsslbp's or PyTorch's, and has all its methods."""
    kind = kind_of(module)
    return kind.__module__.startswith(("tsslbp.", "torch.")) and vars(module).keys().isdisjoint(_methods(kind))


def in_form(layer: nn.Module, signal: Any) -> Any:
    """A signal in the form that a layer takes: in full for modules of others, which know tensors only."""
    return signal if any(kind.__module__.startswith("tsslbp.") for kind in type(layer).__mro__) else expanded(signal)


# The compiler cannot trace it. torch.compiler.assume_constant_result sets this too, but imports the compiler, which took 40 %
# of the time of importing tsslbp.
is_known._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _methods(kind: type) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


@lru_cache
def _parameters(forward: Any) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def takes(layer: nn.Module, name: str) -> bool:
    """Whether a layer can be called with an argument of this name; a user's class may have ``forward(signal)`` only."""
    return name in _parameters(getattr(layer.forward, "__func__", layer.forward))


def called_alone(layer: nn.Module, signal: Any, inside: Tensor | None = None) -> Any:
    """The current of a layer, called without its neurons, as in an ANN or as a shortcut. The call runs its hooks."""
    if not takes(layer, "alone"):
        raise UserError(
            f"{type(layer).__name__} has its own forward, which cannot be called without neurons, as in an ANN or a shortcut; "
            "give it the arguments inside=None and alone=False, and return self.current(signal, inside) if alone is true"
        )
    return layer(signal, inside=inside, alone=True)


def handed_on(layer: nn.Module, state: Any, *given: Any) -> tuple[Tensor, Any]:
    """What a layer makes of a part of a sequence, and the state after it. The call runs the layer's hooks."""
    handed = Handed(state)
    psc = layer(*given, handed=handed) if takes(layer, "handed") else None
    if psc is None or handed.after is None:
        raise UserError(
            f"{type(layer).__name__} has its own forward, which hands no state on; call it on whole sequences, or give it its "
            "own part(signal, state)"
        )
    return psc, handed.after


def check_state(layer: nn.Module, state: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raises UserError unless a layer's state is a tensor of this shape and type."""
    if not isinstance(state, Tensor) or (state.shape, state.dtype) != (shape, dtype):
        given = (
            f"is {state.dtype} of shape {list(state.shape)}" if isinstance(state, Tensor) else f"is a {type(state).__name__}"
        )
        wanted = f"it must be {dtype} of shape {list(shape)}, as its part() returned it, or None for rest"
        raise UserError(f"{type(layer).__name__}: the state {given}; {wanted}")


def refuse_part(layer: nn.Module, state: object) -> None:
    """Raises UserError if a part follows another in a layer that must see whole sequences."""
    if state is not None and normalises(layer):
        raise UserError("normalisation takes the statistics of whole sequences in training, not of parts; call eval() first")


def normalises(module: nn.Module) -> bool:
    """Whether a normalisation in it takes statistics, as in training."""
    return any(isinstance(part, BatchNorm) and part.training for part in module.modules())
