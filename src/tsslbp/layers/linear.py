"""Fully connected spiking layers."""

import math
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from tsslbp.layers.base import Spiking, draw, per_sample
from tsslbp.layers.products import product
from tsslbp.layers.sparse import SparseMap
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError


def check_sizes(entering: int, leaving: int, of: str = "features") -> None:
    """Raises UserError unless both numbers of features or channels are whole numbers from 1."""
    if not all(isinstance(n, SupportsIndex) and n >= 1 for n in (entering, leaving)):
        raise UserError(f"in_{of} is {entering}, out_{of} {leaving}; they must be whole numbers from 1")


def matrix_product(layer: Spiking, x: Tensor) -> Tensor:
    """The map of fully connected layers, ``[N, in] -> [N, out]``. Raises UserError for another shape."""
    if x.dim() != 2 or x.shape[1] != layer.weight.shape[1]:
        raise UserError(f"{type(layer).__name__} wants [T, B, {layer.weight.shape[1]}]; got {per_sample(x, 2)}")
    return product(x, layer.effective_weight())


class Linear(Spiking):
    """Fully connected spiking layer: ``[T, B, in] -> [T, B, out]``. Weight ``[out, in]``, Kaiming normal.

    Args:
        in_features, out_features: numbers of inputs and of neurons.
        neuron, rule: as for :class:`~tsslbp.layers.Spiking`.
        bias: a constant current for each neuron, at first 0.
        normalise: normalise currents over batch and time.
        standardise: standardise the weight.

    Raises:
        UserError: sizes that are no whole numbers from 1; an unknown rule; bias or standardise with normalise; standardise with
            one weight for each neuron.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        neuron: LIF,
        rule: str | Rule | None = None,
        bias: bool = False,
        normalise: bool = False,
        standardise: bool = False,
    ) -> None:
        super().__init__(neuron, rule)
        check_sizes(in_features, out_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        draw(self.weight, nn.init.kaiming_normal_)
        self._beside_the_weight(bias, normalise, standardise, math.sqrt(2 / in_features))

    def map(self, x: Tensor) -> Tensor:
        return matrix_product(self, x)

    def sparse_map(self) -> SparseMap:
        return SparseMap()

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}{self._extras()}"
