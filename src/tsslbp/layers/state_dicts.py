"""Constants that weights were learned with, in the metadata of a state_dict, so without keys of their own."""

import inspect
import statistics
import sys
import warnings
from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from tsslbp.utils.errors import shown

_TORCH = inspect.getfile(nn.Module)
_UNSAID = object()
SIZE = "standardised size"
"""The std that standardised weights were drawn with, of which each layer has its own."""
OF = " of "
"""Between a constant and the layer that has it."""


class StoresConstants(nn.Module, ABC):
    """A layer or network whose state_dict also holds its constants, and which warns when it loads weights that had others."""

    warned_by_network: bool = False
    """Whether a network that loads warns of the constants of all its layers."""
    described_as = "layer"
    """What it is called in the warning."""

    @abstractmethod
    def _constants(self) -> dict[str, Any]:
        """The constants that are numbers; those that are tensors are stored beside the weights."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        found = getattr(destination, "_metadata", {}).get(prefix[:-1])  # a plain dict has no place for them
        if found:
            found["constants"] = self._constants()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any) -> None:
        before = local_metadata.get("constants")
        if isinstance(before, dict) and not self.warned_by_network:
            where = f"{self.described_as} {prefix[:-1]!r}" if prefix else f"the {self.described_as}"
            _warn_of_others(before, self._constants(), where)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


class StoresLayerConstants(StoresConstants):
    """A network, which warns once of the constants of all its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_loaded)

    def of_layers(self) -> dict[str, dict[str, Any]]:
        """The constants of each layer by its name in ``layers``."""
        told = {name: layer for name, layer in self.named_modules() if isinstance(layer, StoresConstants) and layer is not self}
        return {name.removeprefix("layers."): layer._constants() for name, layer in told.items()}

    def _load_from_state_dict(self, *given: Any) -> None:
        _tell(self, False)
        super()._load_from_state_dict(*given)


def _loaded(network: nn.Module, _: Any) -> None:
    """Layers tell of themselves again, since a module of one's own may have them, too."""
    _tell(network, True)


def _tell(network: nn.Module, tells: bool) -> None:
    for layer in network.modules():
        if isinstance(layer, StoresConstants) and layer is not network:
            layer.warned_by_network = not tells


def together(by_layer: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The constants of all layers: one that most share by its name, others as ``tau_m of linear1``."""
    made: dict[str, Any] = {}
    for name in dict.fromkeys(name for constants in by_layer.values() for name in constants):
        values = {layer: constants[name] for layer, constants in by_layer.items() if name in constants}
        if name != SIZE:
            made[name] = statistics.mode(values.values())
        made |= {f"{name}{OF}{layer}": value for layer, value in values.items() if name == SIZE or value != made[name]}
    return made


def _warn_of_others(before: dict[str, Any], own: dict[str, Any], where: str) -> None:
    """Warn if constants differ; the warning names the line that loads."""

    def value(constants: dict[str, Any], name: str) -> Any:
        return constants.get(name, constants.get(name.partition(OF)[0], _UNSAID))

    pairs = {str(name): (value(before, str(name)), value(own, str(name))) for name in {**own, **before}}
    if other := {name: pair for name, pair in pairs.items() if _UNSAID not in pair and pair[0] != pair[1]}:
        told = ", ".join(f"{name} {shown(theirs)} (here {ours})" for name, (theirs, ours) in other.items())
        loads = 2
        while (code := sys._getframe(loads - 1).f_code).co_filename == _TORCH or code.co_name == "_load_from_state_dict":
            loads += 1
        warnings.warn(f"the weights are of neurons with {told}; build {where} with the same constants", stacklevel=loads)
