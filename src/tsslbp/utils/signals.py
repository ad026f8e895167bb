"""Signals that layers take and return: sequences of currents, constant currents, and where a sequence ends.

After the input synapse, a constant current is the same picture at every step, times a response. :class:`Constant` keeps the
two apart, so that the first linear map is computed once instead of T times.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tsslbp.utils.errors import UserError, check_tensor, check_whole


class Constant(NamedTuple):
    """A signal ``response[t] · value``: ``value`` is ``[B, ...]``, ``response`` is ``[T]``."""

    value: Tensor
    response: Tensor

    def expand(self) -> Tensor:
        """The signal in full, ``[T, B, ...]``."""
        return self.response.view(-1, *[1] * self.value.dim()) * self.value


Signal = Tensor | Constant
"""Post-synaptic currents ``[T, B, ...]``, time first, or a :class:`Constant` that stands for them."""


def expanded(signal: Signal) -> Tensor:
    """A signal in full, ``[T, B, ...]``."""
    return signal.expand() if isinstance(signal, Constant) else signal


def check_signal(signal: Signal, name: str = "signal", dims: int = 1) -> None:
    """Raises UserError unless a signal is floating point, ``[T, ...]`` or ``response[t] · value``, with at least one step and,
    in full, ``dims`` axes."""
    x, response = signal if isinstance(signal, Constant) else (signal, None)
    check_tensor(name, x)
    if not x.is_floating_point():
        raise UserError(f"{name} is {x.dtype}; it must be floating point")
    if response is None:
        if x.dim() < dims or x.shape[0] == 0:
            axes = "[T, B, ...]" if dims > 1 else "[T, ...]"
            raise UserError(f"{name} has shape {list(x.shape)}; it must be {axes} with T at least 1, time first")
        return
    check_tensor(f"response of a constant {name}", response)
    if response.dim() != 1 or response.shape[0] == 0:
        raise UserError(f"response of a constant {name} has shape {list(response.shape)}; it must be [T] with T at least 1")


def are_static(x: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether samples are static, ``[B, *shape]``, and not sequences, ``[T, B, *shape]``."""
    return x.dim() == len(shape) + 1 and x.shape[1:] == shape  # torch.export compares unequal lengths entry by entry


def check_samples(x: Tensor, shape: tuple[int, ...], time_steps: int | None) -> None:
    """Raises UserError unless a network's input is floating point, and static or of so many steps (None is any number)."""
    check_tensor("network input", x)
    if not x.is_floating_point():
        raise UserError(f"network input is {x.dtype}; it must be floating point")
    fits = x.shape[2:] == shape and (x.shape[0] > 0 if time_steps is None else x.shape[0] == time_steps)
    if not fits and not are_static(x, shape):
        sizes, steps = ", ".join(map(str, shape)), time_steps or "t"
        raise UserError(
            f"network input has shape {list(x.shape)}; it must be [B, {sizes}], or [{steps}, B, {sizes}] with time first"
        )


def plainly_laid(x: Tensor) -> Tensor:
    """``x`` ``[N, C, ...]``; if N is 1 and gradients are on, a copy with its axes in order in memory.

    PyTorch 2.13 computes wrong gradients of a convolution in groups, in float64, for a single picture whose channels come last
    in memory but not by its stride over N.
    """
    return x.clone(memory_format=torch.contiguous_format) if x.dim() > 2 and x.shape[0] == 1 and torch.is_grad_enabled() else x


def constant_current(x: Tensor, time_steps: int, tau_s: float, start: int = 0) -> Constant:
    """Current ``x`` (``[B, ...]``) after the input synapse: response ``c[t] = 1 - (1 - 1/τs)^(t+1)``, from ``t = start``.

    The response is float32, or float64 as ``x``: other types could not count the steps. Raises UserError for T or τs below 1.
    """
    check_whole("time_steps", time_steps)
    if not tau_s >= 1:
        raise UserError(f"tau_s is {tau_s}; a time constant is in steps and at least 1")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    steps = torch.arange(start + 1, start + time_steps + 1, dtype=dtype, device=x.device)
    return Constant(x, 1 - (1 - 1 / tau_s) ** steps)


def length_mask(lengths: Tensor, time_steps: int) -> Tensor:
    """Which steps belong to a sequence and are not padding: ``[B] -> [T, B]`` of bool.

    Raises UserError unless lengths are ``[B]`` of int64 from 0. Of an ANN, T is 1 for sequences of any length.
    """
    check_tensor("lengths", lengths)
    if lengths.dim() != 1 or lengths.dtype != torch.int64:
        raise UserError(f"lengths are {list(lengths.shape)} of {lengths.dtype}; they must be [B] of int64")
    _check_range(lengths, 0)
    return before_end(lengths, time_steps)


def before_end(lengths: Tensor, time_steps: int) -> Tensor:
    """:func:`length_mask` of lengths that have been checked, for every step of a training."""
    return torch.arange(time_steps, device=lengths.device).unsqueeze(1) < lengths


def check_lengths(lengths: Tensor, x: Tensor, static: bool) -> None:
    """Raises UserError unless lengths are ``[B]`` of int64 from 1 to T, and ``x`` is a sequence ``[T, B, ...]``."""
    check_tensor("lengths", lengths)
    if static or lengths.shape != x.shape[1:2] or lengths.dtype != torch.int64:
        raise UserError(
            f"lengths are {list(lengths.shape)} of {lengths.dtype}, the input is {list(x.shape)}; they are for sequences "
            "[T, B, ...], and must be [B] of int64"
        )
    _check_range(lengths, 1, len(x))


def _check_range(lengths: Tensor, least: int, most: float = math.inf) -> None:
    if len(lengths) and not lengths.is_meta and not torch.compiler.is_compiling():  # else nobody knows values
        low, high = torch.stack(lengths.aminmax()).tolist()
        if not least <= low <= high <= most:
            allowed = f"{least}" if most == math.inf else f"{least} to T = {most}"
            raise UserError(f"lengths run from {low} to {high}; they must be from {allowed}")


def check_mask(name: str, mask: Tensor, x: Tensor, numbers: bool = False) -> None:
    """Raises UserError unless a mask is ``[T, B]`` of bool, or also of the ``numbers`` 0 and 1, for ``x`` ``[T, B, ...]``."""
    check_tensor(name, mask)
    if mask.shape != x.shape[:2]:
        raise UserError(f"{name} has shape {list(mask.shape)}; it must be [T, B], {list(x.shape[:2])}")
    if mask.dtype == torch.bool:
        return
    if not numbers:
        raise UserError(f"{name} is {mask.dtype}; it must be bool, as tsslbp.utils.signals.length_mask makes it")
    if not torch.compiler.is_compiling() and not bool(((mask == 0) | (mask == 1)).all()):
        raise UserError(f"{name} holds other numbers than 0 and 1; it says which steps count, and is no weight")


def within(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x`` ``[T, B, ...]`` with 0 after the end of each sequence of ``lengths`` ``[B]``; unchanged for None.

    Raises UserError for lengths that are not ``[B]`` of int64 from 0.
    """
    if lengths is None:
        return x
    check_tensor("lengths", lengths)
    if lengths.shape != x.shape[1:2]:
        raise UserError(f"lengths are {list(lengths.shape)}, of {list(x.shape)}; they must be [B] of [T, B, ...]")
    return x.masked_fill(~length_mask(lengths, len(x)).view(len(x), -1, *[1] * (x.dim() - 2)), 0)
