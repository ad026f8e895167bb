"""Layers: a linear map of post-synaptic currents, then neurons; and the maps that have no neurons.

Every layer takes and returns a *signal*: post-synaptic currents ``[T, B, ...]``, or :class:`~tsslbp.signal.Constant`,
which a linear map crosses once instead of T times. Neurons turn either into ``[T, B, ...]``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp import draws, rules
from tsslbp.crossing import neurons, sum_pool
from tsslbp.errors import UserError, unknown
from tsslbp.kernels import Backend, Pool, computed_in
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.signal import Constant, Signal, check_signal

ConvInit = Literal["uniform", "kaiming"]
"""Initial weights of convolutions."""
POOL_FACTOR = 1.1
"""Factor on the 2×2 sum, in all versions of the published code."""


def linear_map(map_: Callable[[Tensor], Tensor], signal: Signal) -> Signal:
    """Apply a linear map of ``[N, ...]`` tensors to every step of a signal (or once, to a constant one).

    Raises UserError for what is no signal of at least one step.
    """
    check_signal(signal)
    if isinstance(signal, Constant):
        return Constant(map_(signal.value), signal.response)
    return map_(signal.flatten(0, 1)).unflatten(0, signal.shape[:2])


class Spiking(nn.Module, ABC):
    """A linear map, then neurons. Subclasses own the weight and say what the map is.

    With ``standardise`` a layer learns what is left of a neuron's weights besides their mean and size, and the size apart, as
    ``gain`` ``[out]``:

        effective = gain·size·(weight - mean)/std     mean and std over all weights of a neuron, or of a channel

    This keeps the neurons of a deep network in the range where they spike, as batch normalisation does, but it is a matter of
    the weights alone: a trained network needs the effective weight only (:meth:`fold`). ``size`` is the std that weights
    are drawn with, and the gain starts at 1, so that an optimiser's steps of one size for all parameters are small beside it.

    Source: S. Qiao et al., Micro-Batch Training with Batch-Channel Normalization and Weight Standardization, arXiv 1903.10520.

    Args:
        neuron: constants of the neurons.
        rule: how the gradient crosses them, as in :func:`tsslbp.lif`.
    """

    weight: nn.Parameter
    gain: nn.Parameter | None
    backend: Backend = "auto"
    """As in :func:`tsslbp.lif`; to be set on a layer, for comparisons."""

    def __init__(self, neuron: LIF, rule: str | Rule | None) -> None:
        super().__init__()
        self.register_parameter("gain", None)
        self.neuron = neuron
        self.rule = rules.get(rule)

    @abstractmethod
    def map(self, x: Tensor) -> Tensor:
        """The linear map of ``[N, ...]`` post-synaptic currents to input currents, no bias."""

    def current(self, signal: Signal) -> Signal:
        """The neurons' input current: the map of a signal. Raises UserError for types of numbers that cannot be multiplied."""
        return linear_map(self._checked_map, signal)

    def _checked_map(self, x: Tensor) -> Tensor:
        fits = x.dtype == self.weight.dtype and x.dtype in (torch.float32, torch.float64)
        if not fits and not torch.is_autocast_enabled(x.device.type):
            raise UserError(
                f"{type(self).__name__} has {self.weight.dtype} weights and a {x.dtype} signal; both must be float32 or both "
                "float64, as net.float() and x.float() make them; for bfloat16 maps use torch.autocast"
            )
        return self.map(x)

    def standardise(self, size: float) -> None:
        """Begin to standardise the weight; ``size`` is the std it was drawn with."""
        self.size, self.gain = size, nn.Parameter(torch.ones(len(self.weight)))

    def effective_weight(self) -> Tensor:
        """What the map multiplies with: the weight, or what is made of it; its shape and layout."""
        if self.gain is None:
            return self.weight
        weight = self.weight.movedim(1, -1)  # as a convolution's lies in memory
        # as a group of its own, each neuron has mean, size and gain dealt with in one pass
        effective = F.group_norm(weight.flatten(1)[None], len(weight), self.size * self.gain, eps=1e-10)
        return effective.view(weight.shape).movedim(-1, 1)

    def fold(self) -> None:
        """Put the effective weight in the weight's place, and no longer learn its size apart."""
        with torch.no_grad():
            self.weight.copy_(self.effective_weight())
        self.gain = None

    def forward(self, signal: Signal, pool: Pool | None = None, half: bool = False) -> Tensor:
        """``pool`` and ``half``: see :func:`tsslbp.crossing.neurons`."""
        return neurons(self.current(signal), self.neuron, self.rule, self.backend, pool, half)[0]

    def part(self, signal: Signal, state: Tensor | None, pool: Pool | None = None, half: bool = False) -> tuple[Tensor, Tensor]:
        """A part of a sequence: as :meth:`forward`, from a state (None is rest) to a state; see :func:`tsslbp.lif_part`."""
        current = self.current(signal)
        if state is None:
            x = current.value if isinstance(current, Constant) else current[0]
            state = x.new_zeros(2, *x.shape, dtype=computed_in(x.dtype))
        psc, after = neurons(current, self.neuron, self.rule, self.backend, pool, half, state)
        assert after is not None
        return psc, after


def matrix_product(layer: Spiking, x: Tensor) -> Tensor:
    """The map of fully connected layers, ``[N, in] -> [N, out]``. Raises UserError for another shape."""
    if x.dim() != 2 or x.shape[1] != layer.weight.shape[1]:
        raise UserError(f"{type(layer).__name__} wants [T, B, {layer.weight.shape[1]}]; got {list(x.shape[1:])} per sample")
    return F.linear(x, layer.effective_weight())


class Linear(Spiking):
    """Fully connected spiking layer: ``[T, B, in] -> [T, B, out]``. Weight ``[out, in]``, Kaiming normal."""

    def __init__(
        self, in_features: int, out_features: int, *, neuron: LIF, rule: str | Rule | None = None, standardise: bool = False
    ) -> None:
        super().__init__(neuron, rule)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_normal_(self.weight)
        if standardise:
            self.standardise(math.sqrt(2 / in_features))

    def map(self, x: Tensor) -> Tensor:
        return matrix_product(self, x)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"


class Conv2d(Spiking):
    """Convolutional spiking layer: ``[T, B, in, H, W] -> [T, B, out, H', W']``, stride 1.

    Weight ``[out, in, k, k]``, at first uniform (PyTorch's default) or Kaiming normal (``init="kaiming"``), times ``scale``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        neuron: LIF,
        rule: str | Rule | None = None,
        padding: int = 0,
        init: ConvInit = "uniform",
        scale: float = 1.0,
        standardise: bool = False,
    ) -> None:
        super().__init__(neuron, rule)
        if init not in get_args(ConvInit):
            raise unknown("initialisation", str(init), get_args(ConvInit))
        weight, variance = nn.Conv2d(in_channels, out_channels, kernel_size, bias=False).weight, 1 / 3
        if init == "kaiming":
            weight, variance = nn.init.kaiming_normal_(weight), 2.0
        self.weight = nn.Parameter((weight.detach() * scale).contiguous(memory_format=torch.channels_last))
        self.padding = padding
        if standardise:
            self.standardise(scale * math.sqrt(variance / weight[0].numel()))

    def map(self, x: Tensor) -> Tensor:
        channels, kernel_size = self.weight.shape[1:3]
        if x.dim() != 4 or x.shape[1] != channels or min(x.shape[2:]) + 2 * self.padding < kernel_size:
            raise UserError(
                f"Conv2d wants [T, B, {channels}, H, W] at least {kernel_size}×{kernel_size} with padding {self.padding}; "
                f"got {list(x.shape[1:])} per sample"
            )
        if channels == 1:  # such an image is channels-last and not; unless told, PyTorch answers in the other layout
            x = x.flatten(1, 2).unsqueeze(-1).permute(0, 3, 1, 2)
        return F.conv2d(x, self.effective_weight(), padding=self.padding)

    def extra_repr(self) -> str:
        out_channels, channels, kernel_size, _ = self.weight.shape
        return f"{channels}, {out_channels}, kernel_size={kernel_size}, padding={self.padding}"


class SumPool2d(nn.Module):
    """Sum over ``size × size`` windows times 1.1, channel by channel, without neurons: ``[T, B, C, H, W]``.

    A last row or column that fills no window is left out, as in PyTorch's own pooling.
    """

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.pool = Pool(size, POOL_FACTOR)

    def forward(self, signal: Signal) -> Signal:
        return linear_map(lambda x: sum_pool(x, self.pool), signal)

    def extra_repr(self) -> str:
        return f"{self.pool.size}"


class Vote(nn.Module):
    """A class's output is the mean current of ``voters`` neurons in a row: ``[T, B, classes·voters] -> [T, B, classes]``.

    One neuron can only say how sure it is of a class by one of a few spike counts; ten can by ten times as many.

    Source: the voting layer of W. Fang et al., Incorporating Learnable Membrane Time Constant to Enhance Learning of Spiking
    Neural Networks, ICCV 2021, arXiv 2007.05785, section 4.
    """

    def __init__(self, voters: int) -> None:
        super().__init__()
        self.voters = voters

    def forward(self, signal: Tensor) -> Tensor:
        return signal.unflatten(-1, (-1, self.voters)).mean(-1)

    def extra_repr(self) -> str:
        return f"{self.voters}"


class Dropout(nn.Module):
    """Dropout with one mask per sample, held for all time steps, ``[T, B, ...] -> [T, B, ...]``; off in evaluation.

    The mask of a sample follows from its key and from nothing else. What is not dropped is multiplied by ``1/(1 - p)``.

    Args:
        p: probability that an input is dropped, at least 0 and below 1.
        number: what sets the layer apart from others that get the same keys.

    Raises:
        UserError: an impossible probability.
    """

    def __init__(self, p: float, number: int = 0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout is {p}; it must be at least 0 and below 1")
        self.p, self.number = p, number

    def forward(self, signal: Signal, keys: Tensor | None = None) -> Signal:
        """``keys``: one for each sample, ``[B]`` of int64; None draws them from PyTorch's global generator.

        Raises UserError for what is no signal, and for keys of another number or type.
        """
        check_signal(signal)
        if not self.training or self.p == 0:
            return signal
        if isinstance(signal, Constant):
            return Constant(signal.value * self._mask(signal.value, keys), signal.response)
        return signal * self._mask(signal[0], keys)

    def _mask(self, x: Tensor, keys: Tensor | None) -> Tensor:
        keys = draws.fresh(x.shape[:1].numel(), x.device) if keys is None else keys
        if keys.shape != x.shape[:1] or keys.dtype != torch.int64:
            given = f"{list(x.shape)} per step and keys {list(keys.shape)} of {keys.dtype}"
            raise UserError(f"dropout takes signals [T, B, ...] and keys [B] of int64; got {given}")
        drawn = draws.bits(draws.mix(keys.to(x.device), draws.DROPOUT, self.number), x.shape[1:].numel())
        mask = (drawn >= min(round(self.p * 2**32), 2**32 - 1) - 2**31).to(x.dtype).mul_(1 / (1 - self.p))
        # Channels come last, as they lie in memory after convolutions: in another order the product takes longer.
        return mask.view(len(x), *x.shape[2:], *x.shape[1:2]).movedim(-1, min(1, x.dim() - 1))

    def extra_repr(self) -> str:
        return f"{self.p}"


class Flatten(nn.Module):
    """``[T, B, ...] -> [T, B, features]``, in the order channel, row, column."""

    def forward(self, signal: Signal) -> Signal:
        return linear_map(lambda x: x.flatten(1), signal)
