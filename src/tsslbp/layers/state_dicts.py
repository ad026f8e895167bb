"""Constants that weights were learned with, in the metadata of a state_dict, so without keys of their own."""

import inspect
import sys
import warnings
from typing import Any

from torch import nn

from tsslbp.errors import shown

_TORCH = inspect.getfile(nn.Module)


def tell_constants(state_dict: Any, prefix: str, constants: dict[str, Any]) -> None:
    """Write the constants of the module at a prefix into a state_dict. A plain dict has no place for them."""
    if found := getattr(state_dict, "_metadata", {}).get(prefix[:-1]):
        found["constants"] = constants


def warn_of_other_constants(metadata: Any, own: dict[str, Any], where: str) -> None:
    """Warn if the constants of :func:`tell_constants` differ from a module's own; the warning names the line that loads."""
    before = metadata.get("constants")
    if not isinstance(before, dict):
        return
    if other := [name for name in own if before.get(name, own[name]) != own[name]]:
        told = ", ".join(f"{name} {shown(before[name])} (here {own[name]})" for name in other)
        loads = 2
        while (code := sys._getframe(loads - 1).f_code).co_filename == _TORCH or code.co_name == "_load_from_state_dict":
            loads += 1
        warnings.warn(f"the weights are of neurons with {told}; build {where} with the same constants", stacklevel=loads)
