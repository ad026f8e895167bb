"""Scores of outputs, sample by sample."""

import torch
from torch import Tensor

from tsslbp.metrics import decode
from tsslbp.metrics.spike_trains import agreement
from tsslbp.neuron import spikes_from_psc

WINDOW = 1
"""Steps by which a spike may miss a spike of its target train."""


def score(output: Tensor, y: Tensor, tau_s: float | Tensor) -> Tensor:
    """1 for a right answer and 0 for a wrong one; for target trains the mean F1 of the output neurons.

    Args:
        output: ``[T, B, C]``, 0 after the end of a sequence.
        y: classes ``[B]``, or target trains ``[B, T, C]``.
        tau_s: synaptic time constant of the output neurons, in steps.

    Returns:
        ``[B]``, float64, from 0 to 1.
    """
    output, y = output.cpu(), y.cpu()  # on a GPU, every small step below would wait for it
    if y.dim() == 1:
        return (decode(output) == y).double()
    tau_s = tau_s.detach().cpu() if isinstance(tau_s, Tensor) else tau_s
    trains = (spikes_from_psc(output, tau_s) > 0.5).to(torch.uint8)
    return agreement(trains, y.transpose(0, 1), WINDOW).f1.double().mean(-1)
