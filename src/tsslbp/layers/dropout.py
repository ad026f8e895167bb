"""Dropout with masks that follow from keys."""

from typing import Any

import torch
from torch import Tensor, nn

from tsslbp.kernels import cpp
from tsslbp.utils import prng
from tsslbp.utils.errors import UserError, check_number, check_tensor
from tsslbp.utils.signals import Constant, Signal, check_signal


def mask_of(keys: Tensor, purpose: tuple[int, ...], count: int, p: float, dtype: torch.dtype) -> Tensor:
    """0 with probability ``p``, else ``1/(1 - p)``, drawn from keys mixed with a purpose: ``[B] -> [B, count]``."""
    bound, value = min(round(p * 2**32), 2**32 - 1) - 2**31, 1 / (1 - p)
    if cpp.NOT_LOADED is None and keys.device.type == "cpu" and dtype in (torch.float32, torch.float64):
        made: Tensor = torch.ops.tsslbp.mask(keys, purpose, count, bound, value, dtype == torch.float64)
        return made
    return (prng.bits(prng.mix(keys, *purpose), count) >= bound).to(dtype).mul_(value)


class Dropout(nn.Module):
    """Dropout with one mask per sample, held for all time steps, ``[T, B, ...] -> [T, B, ...]``; off in evaluation.

    The mask of a sample follows from its key and ``number`` alone. Kept inputs are multiplied by ``1/(1 - p)``.

    Args:
        p: probability that an input is dropped, at least 0 and below 1.
        number: tells layers apart that get the same keys.

    Raises:
        UserError: ``p`` out of range.
    """

    def __init__(self, p: float, number: int = 0) -> None:
        super().__init__()
        self.p, self.number = p, number

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises UserError for a ``p`` out of range."""
        if name == "p":
            check_number("dropout", value, "at least 0 and below 1")
            if not 0 <= value < 1:
                raise UserError(f"dropout is {value}; it must be at least 0 and below 1")
        super().__setattr__(name, value)

    def forward(self, signal: Signal, keys: Tensor | None = None) -> Signal:
        """``keys``: one for each sample, ``[B]`` of int64; None draws them from PyTorch's global generator.

        Raises UserError for anything but a signal, and for keys of a wrong number or type.
        """
        check_signal(signal)
        if not self.drops:
            return signal
        if isinstance(signal, Constant):
            return Constant(signal.value * self.mask(signal.value, keys), signal.response)
        return signal * self.mask(signal[0], keys)

    @property
    def drops(self) -> bool:
        """Whether it drops anything now."""
        return self.training and self.p > 0

    def mask(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """What one step ``[B, ...]`` of a signal is multiplied by. ``keys`` and errors: see :meth:`forward`."""
        keys = prng.fresh(x.shape[:1].numel(), x.device) if keys is None else keys
        check_tensor("keys", keys)
        if keys.shape != x.shape[:1] or keys.dtype != torch.int64:
            given = f"{list(x.shape)} per step and keys {list(keys.shape)} of {keys.dtype}"
            raise UserError(f"dropout takes signals [T, B, ...] and keys [B] of int64; got {given}")
        mask = mask_of(keys.to(x.device), (prng.DROPOUT, self.number), x.shape[1:].numel(), self.p, x.dtype)
        # Channels last, as in memory after convolutions: in another order the product takes longer.
        return mask.view(len(x), *x.shape[2:], *x.shape[1:2]).movedim(-1, min(1, x.dim() - 1))

    def extra_repr(self) -> str:
        return f"{self.p}"
