"""Layers: a linear map of post-synaptic currents, then neurons; and the maps that have no neurons.

Every layer takes and returns a *signal*: post-synaptic currents ``[T, B, ...]``, or :class:`~tsslbp.utils.signals.Constant`,
which a linear map crosses once instead of T times. Neurons turn either into ``[T, B, ...]``.
"""

from tsslbp.layers.base import Joined, Spiking, in_bf16, linear_map
from tsslbp.layers.constants import check_stored, varied
from tsslbp.layers.convolution import Conv1d, Conv2d, ConvInit, Convolution, convolved
from tsslbp.layers.dropout import Dropout
from tsslbp.layers.linear import Linear, matrix_product
from tsslbp.layers.normalisation import BatchNorm
from tsslbp.layers.pooling import AvgPool1d, AvgPool2d, MaxPool, MaxPool1d, MaxPool2d, Pooling, SumPool, SumPool1d, SumPool2d
from tsslbp.layers.readout import Readout
from tsslbp.layers.recurrent import Adaptation, Recurrent
from tsslbp.layers.residual import Inside, Residual
from tsslbp.layers.shape import Flatten, Vote

__all__ = [
    "Adaptation",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "ConvInit",
    "Convolution",
    "Dropout",
    "Flatten",
    "Inside",
    "Joined",
    "Linear",
    "MaxPool",
    "MaxPool1d",
    "MaxPool2d",
    "Pooling",
    "Readout",
    "Recurrent",
    "Residual",
    "Spiking",
    "SumPool",
    "SumPool1d",
    "SumPool2d",
    "Vote",
    "check_stored",
    "convolved",
    "in_bf16",
    "linear_map",
    "matrix_product",
    "varied",
]
