"""The one call everything else is built around: neurons with a learning rule."""

import torch
from torch import Tensor

from tsslbp import rules
from tsslbp.errors import UserError
from tsslbp.neuron import LIF
from tsslbp.rules.base import Crossing, Rule


def lif(
    current: Tensor,
    *,
    tau_m: float,
    tau_s: float,
    threshold: float = 1.0,
    rule: str | Rule | None = None,
) -> Tensor:
    """Leaky integrate-and-fire neurons with a first-order synapse, from rest.

    Args:
        current: input current, ``[T, ...]``, time first, T at least 1, floating point. Half precision is computed and
            returned in float32.
        tau_m: membrane time constant in steps, at least 1 (1 - 1/tau_m is the ``beta`` of other libraries).
        tau_s: synaptic time constant in steps, at least 1; 1 returns the spikes themselves.
        threshold: firing threshold; the neuron spikes strictly above it and is then reset to 0.
        rule: how the gradient crosses the neuron: a :class:`Rule`, a name such as ``"tssl"`` (what ``None`` means), or a
            name with options such as ``"tssl(reset=False)"``.

    Returns:
        Post-synaptic current, ``[T, ...]``, the shape of ``current``.

    Raises:
        UserError: wrong shape or type of ``current``, a time constant below 1, an unknown rule.

    Equations (1) to (3) of ``neuron.py``; the gradient is the rule's.
    """
    neuron, rule = LIF(tau_m, tau_s, threshold), rules.get(rule)
    if not current.is_floating_point():
        raise UserError(f"current is {current.dtype}; it must be floating point")
    if current.dim() < 1 or current.shape[0] == 0:
        raise UserError(f"current has shape {list(current.shape)}; it must be [T, ...] with T at least 1, time first")
    if current.dtype in (torch.float16, torch.bfloat16):
        current = current.float()
    return Crossing.apply(current, neuron, rule)
