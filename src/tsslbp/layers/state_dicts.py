"""Constants that weights were learned with, in the metadata of a state_dict, so without keys of their own."""

import inspect
import sys
import warnings
from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from tsslbp.errors import shown

_TORCH = inspect.getfile(nn.Module)


class Tells(nn.Module, ABC):
    """A layer or network whose state_dict also holds its constants, and which warns when it loads weights that had others."""

    tells_constants: bool = True
    """Whether the layer's state_dict stores the constants of its neurons. In a network, the network does."""
    told_as = "layer"
    """What it is called in the warning."""

    @abstractmethod
    def _constants(self) -> dict[str, Any]:
        """The constants that are numbers; those that are tensors are stored beside the weights."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        found = getattr(destination, "_metadata", {}).get(prefix[:-1])  # a plain dict has no place for them
        if self.tells_constants and found:
            found["constants"] = self._constants()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *more: Any) -> None:
        before = local_metadata.get("constants")
        if self.tells_constants and isinstance(before, dict):
            where = f"{self.told_as} {prefix[:-1]!r}" if prefix else f"the {self.told_as}"
            _warn_of_others(before, self._constants(), where)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *more)


def _warn_of_others(before: dict[str, Any], own: dict[str, Any], where: str) -> None:
    """Warn if constants differ; the warning names the line that loads."""
    if other := [name for name in own if before.get(name, own[name]) != own[name]]:
        told = ", ".join(f"{name} {shown(before[name])} (here {own[name]})" for name in other)
        loads = 2
        while (code := sys._getframe(loads - 1).f_code).co_filename == _TORCH or code.co_name == "_load_from_state_dict":
            loads += 1
        warnings.warn(f"the weights are of neurons with {told}; build {where} with the same constants", stacklevel=loads)
