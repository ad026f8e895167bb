"""Pooling over windows that do not overlap, channel by channel, without neurons.

A last row or column that fills no window is left out, as in PyTorch's own pooling.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.functional import sum_pool
from tsslbp.kernels import Pool
from tsslbp.layers.base import linear_map, per_sample
from tsslbp.layers.called import Handed, check_state, handed_on
from tsslbp.layers.state_dicts import StoresConstants
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.utils.errors import UserError, as_plain, check_number, check_positive, check_whole
from tsslbp.utils.signals import Signal, check_signal, expanded

POOL_FACTOR = 1.1
"""Factor on the 2×2 sum, in all versions of the published code."""


class Pooling(nn.Module):
    """Pooling over ``size`` (or ``size × size``) windows. Subclasses define the operation."""

    axes: ClassVar[tuple[str, ...]]

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        check_whole(f"{type(self).__name__}: size", size)
        self._size = int(size)

    @property
    def size(self) -> int:
        """Pixels of a window along each axis; a layer keeps it."""
        return self._size

    def check(self, x: Tensor) -> None:
        """Raises UserError unless ``x`` is ``[N, C, ...]`` with at least one window."""
        dims = len(self.axes)
        if x.dim() != dims + 2 or min(x.shape[2:]) < self.size:
            wanted = f"[T, B, C, {', '.join(self.axes)}] at least {'×'.join([str(self.size)] * dims)}"
            raise UserError(f"{type(self).__name__} wants {wanted}; got {per_sample(x, dims + 2)}")

    def extra_repr(self) -> str:
        return f"{self.size}"


class SumPool(Pooling):
    """What :class:`SumPool1d` and :class:`SumPool2d` share."""

    def __init__(self, size: int = 2, factor: float = POOL_FACTOR) -> None:
        super().__init__(size)
        check_number("factor", factor, "a finite number")
        if not math.isfinite(factor):
            raise UserError(f"{type(self).__name__}: factor is {factor}; it must be a finite number")
        self.pool = Pool(self.size, factor)

    def forward(self, signal: Signal) -> Signal:
        return linear_map(self._sum, signal)

    def _sum(self, x: Tensor) -> Tensor:
        self.check(x)
        return sum_pool(x, self.pool)


class SumPool1d(SumPool):
    """Sum over windows of ``size`` times ``factor``: ``[T, B, C, L]``."""

    axes = ("L",)


class SumPool2d(SumPool):
    """Sum over ``size × size`` windows times ``factor``: ``[T, B, C, H, W]``."""

    axes = ("H", "W")


class AvgPool1d(SumPool1d):
    """Mean over windows of ``size``: ``[T, B, C, L]``."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size)
        self.pool = Pool(self.size, 1 / self.size)


class AvgPool2d(SumPool2d):
    """Mean over ``size × size`` windows: ``[T, B, C, H, W]``."""

    def __init__(self, size: int = 2) -> None:
        super().__init__(size)
        self.pool = Pool(self.size, 1 / self.size**2)


class MaxPool(Pooling, StoresConstants):
    """A spike wherever any neuron of a window spikes.

    Currents are turned back into spikes, and the maximum of each window goes through the synapse again:

        s[t] = τs·a[t] - (τs - 1)·a[t-1]        s'[t] = max over the window of s[t]        a' = ε * s'

    So the output is the post-synaptic current of a spike train, unlike the maximum of the currents. The gradient goes to the
    largest ``s`` of each window.

    Args:
        size: of the windows.
        tau_s: synaptic time constant in steps, that of the neurons before and after it.
    """

    takes_full: ClassVar[bool] = True
    """Whether it wants its signal in full precision: from rounded currents, spikes would not be 0 and 1."""

    def __init__(self, size: int = 2, *, tau_s: float) -> None:
        super().__init__(size)
        check_positive("tau_s", tau_s, least=1)
        self.tau_s = as_plain(tau_s)

    def _constants(self) -> dict[str, Any]:
        return {"tau_s": self.tau_s}

    def forward(self, signal: Signal, handed: Handed | None = None) -> Tensor:
        """``handed``: the state, ``[1, B, features]``, of a part of a sequence."""
        check_signal(signal)
        signal = expanded(signal)
        before = pooled = None
        if handed is not None and handed.before is not None:
            inputs, shape = math.prod(signal.shape[2:]), (*signal.shape[1:3], *(n // self.size for n in signal.shape[3:]))
            check_state(self, handed.before, (1, signal.shape[1], inputs + math.prod(shape[1:])), signal.dtype)
            before, pooled = handed.before[0].tensor_split([inputs], 1)
            before, pooled = before.view(signal.shape[1:]), pooled.view(shape)
        trains = spikes_from_psc(signal, self.tau_s, before)
        psc = synapse(self._largest(trains.flatten(0, 1)).unflatten(0, signal.shape[:2]), self.tau_s, pooled)
        if handed is not None:
            handed.after = torch.cat([signal[-1].flatten(1), psc[-1].flatten(1)], 1)[None]
        return psc

    def part(self, signal: Signal, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """A part of a sequence: as :meth:`forward`, from a state (None is rest) to a state, ``[1, B, features]``."""
        return handed_on(self, state, signal)

    def _largest(self, x: Tensor) -> Tensor:
        self.check(x)
        return F.max_pool2d(x, self.size) if x.dim() == 4 else F.max_pool1d(x, self.size)


class MaxPool1d(MaxPool):
    """Max pooling of spikes over windows of ``size``: ``[T, B, C, L]``; see :class:`MaxPool`."""

    axes = ("L",)


class MaxPool2d(MaxPool):
    """Max pooling of spikes over ``size × size`` windows: ``[T, B, C, H, W]``; see :class:`MaxPool`."""

    axes = ("H", "W")
