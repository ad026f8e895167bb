"""How good an output is, sample by sample."""

import torch
from torch import Tensor

from tsslbp.metrics import decode
from tsslbp.metrics.spike_trains import agreement
from tsslbp.neuron import spikes_from_psc
from tsslbp.signal import within

WINDOW = 1
"""Steps by which a spike may miss a spike of its target train."""


def score(output: Tensor, y: Tensor, lengths: Tensor | None, tau_s: float | Tensor) -> Tensor:
    """1 for a right answer and 0 for a wrong one; for target trains the mean F1 of the output neurons.

    Args:
        output: ``[T, B, C]``.
        y: classes ``[B]``, or target trains ``[B, T, C]``.
        lengths: steps of each sequence, ``[B]``; what the output says later does not count. None if none is padded.
        tau_s: synaptic time constant of the output neurons, in steps.

    Returns:
        ``[B]``, float64, from 0 to 1.
    """
    output = within(output, lengths)
    if y.dim() == 1:
        return (decode(output) == y).double()
    trains = (spikes_from_psc(output, tau_s) > 0.5).to(torch.uint8)
    return agreement(trains, y.transpose(0, 1), WINDOW).f1.double().mean(-1)
