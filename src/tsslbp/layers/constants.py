"""Constants of a layer's neurons that differ from neuron to neuron, or are learned."""

import logging
import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from tsslbp.neuron import CONSTANTS, LEAST, LIF, ByConstant, ConstantName, transformed
from tsslbp.utils.errors import UserError, check_number, unknown

logger = logging.getLogger("tsslbp.layers")


def varied(neuron: LIF, size: int, learn: Collection[str] = (), per_neuron: Collection[str] = (), spread: float = 0.0) -> LIF:
    """The constants of a layer with ``size`` neurons (or channels), starting at those of ``neuron``.

    Args:
        neuron: plain numbers.
        size: of the layer.
        learn: names of the constants that become parameters.
        per_neuron: names of those that differ from neuron to neuron, ``[size]``; other learned ones are one number, ``[]``.
        spread: those of ``per_neuron`` are drawn evenly from ``1 - spread`` to ``1 + spread`` times ``neuron``'s, with
            PyTorch's global generator, and kept in range.

    Raises:
        UserError: an unknown name; a spread outside [0, 1); an infinite constant; an option without effect.
    """
    for name in {*learn, *per_neuron} - {*CONSTANTS}:
        raise unknown("constant", str(name), CONSTANTS)
    check_number("spread", spread, "a plain number")
    if not 0 <= spread < 1:
        raise UserError(f"spread is {spread}; it must be at least 0 and below 1")
    if spread and not per_neuron:
        raise UserError(f"spread is {spread}; it has no effect without per_neuron")
    made: dict[ConstantName, Tensor] = {}
    for name in CONSTANTS:
        if name not in learn and name not in per_neuron:
            continue
        start = float(getattr(neuron, name))
        if start > torch.finfo(torch.float32).max:
            given = "infinite" if math.isinf(start) else start
            raise UserError(f"{name} is {given}; it must be finite where it is learned or differs from neuron to neuron")
        if name not in learn and not spread:
            raise UserError(f"per_neuron has no effect on {name} without a spread, or without learning it")
        value = torch.full((size,) if name in per_neuron else (), start)
        if name in per_neuron and spread:
            value = (value * (1 + spread * (2 * torch.rand(size) - 1))).clamp(min=LEAST[name])
        made[name] = nn.Parameter(value) if name in learn else value
    return neuron.having(ByConstant(**made))


def check_stored(weights: Mapping[str, Tensor]) -> None:
    """Raises UserError for a constant out of range among weights by name, such as ``layers.linear1.tau_m``."""
    for name, value in weights.items():
        least = LEAST.get(name.rpartition(".")[2])  # type: ignore[call-overload]
        if least is not None and not bool((value >= least).all()):
            raise UserError(f"{name} of the weights is below {least:g}, which no neuron can have")


def in_range(name: ConstantName, value: Tensor, layer: nn.Module, told: set[str]) -> Tensor:
    """A constant of a layer in its range. A parameter that learning moved out is clamped in place. For a tensor computed from
    others, as by a parametrization, there is a clamped one with its gradient.

    The first time logs a warning; ``told`` remembers which. A compiled graph cannot look at values: it computes with clamped
    ones, and the next call outside clamps the parameter itself.
    """
    least = LEAST[name]
    if not torch.compiler.is_compiling():
        if name in layer._buffers or value.is_meta or not value.numel() or transformed():
            return value
        if not bool(value.detach().min() < least):  # in the type of the values, as the least is rounded to it
            return value
        if name not in told:
            told.add(name)
            logger.warning("%s: learning took %s below %g, where it is kept from now on", type(layer).__name__, name, least)
        if isinstance(value, nn.Parameter):
            with torch.no_grad():
                return value.clamp_(min=least)
    return value + (value.clamp(min=least) - value).detach()
