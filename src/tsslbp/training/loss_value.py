"""Checks what a loss returned, which may be a user's own."""

from functools import partial
from typing import Any

from torch import Tensor

from tsslbp.losses import Loss
from tsslbp.utils.errors import UserError
from tsslbp.utils.imports import is_ours


def checked(found: Any, loss: Loss, output: Tensor) -> Tensor:
    """The value that a loss returned for an output ``[T, B, C]``, checked.

    Raises:
        UserError: no scalar, one without a gradient, another type or device; and from a user's own loss NaN or infinity for a
            finite output, in the backward pass also in its gradient.
    """
    name = type(loss).__name__
    if not isinstance(found, Tensor) or found.dim() or not found.requires_grad:
        raise UserError(f"{name} returned {_described(found)}; it must return a scalar with a gradient")
    if not found.is_floating_point() or found.device != output.device:
        there = f"{output.dtype} on {output.device}, as its output is"
        raise UserError(f"{name} returned {found.dtype} on {found.device}; it must return {there}")
    if not is_ours(loss):
        if not bool(found.isfinite()) and bool(output.isfinite().all()):
            raise UserError(f"{name} returned {float(found.detach())} for a finite output; it must be finite there")
        output.register_hook(partial(_finite_gradient, name))
    return found


def _finite_gradient(name: str, gradient: Tensor) -> None:
    if not bool(gradient.isfinite().all()):
        cause = "a square root, a logarithm or a division at 0, and add a small number there"
        raise UserError(f"{name} has a gradient of NaN or infinity; look for {cause}")


def _described(found: object) -> str:
    gradient = "" if getattr(found, "requires_grad", True) else " without a gradient"
    return f"a tensor of shape {list(found.shape)}{gradient}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
