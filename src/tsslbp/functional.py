"""The one call everything else is built around: neurons with a learning rule."""

import torch
from torch import Tensor

from tsslbp import kernels, rules
from tsslbp.encoding import Constant
from tsslbp.errors import UserError
from tsslbp.neuron import LIF
from tsslbp.rules.base import Crossing, Rule


def lif(
    current: Tensor | Constant,
    *,
    tau_m: float,
    tau_s: float,
    threshold: float = 1.0,
    rule: str | Rule | None = None,
    backend: kernels.Backend = "auto",
) -> Tensor:
    """Leaky integrate-and-fire neurons with a first-order synapse, from rest.

    Args:
        current: input current, ``[T, ...]``, time first, T at least 1, floating point. Half precision is computed and
            returned in float32. A :class:`~tsslbp.encoding.Constant` stands for ``gain[t] · value``; the C++ kernels
            never write that out.
        tau_m: membrane time constant in steps, at least 1 (1 - 1/tau_m is the ``beta`` of other libraries).
        tau_s: synaptic time constant in steps, at least 1; 1 returns the spikes themselves.
        threshold: firing threshold; the neuron spikes strictly above it and is then reset to 0.
        rule: how the gradient crosses the neuron: a :class:`Rule`, a name such as ``"tssl"`` (what ``None`` means), or a
            name with options such as ``"tssl(reset=False)"``.
        backend: ``"cpp"`` for the C++ kernels, ``"reference"`` for plain PyTorch, ``"auto"`` for the first that can run.

    Returns:
        Post-synaptic current, ``[T, ...]``, the shape of ``current``.

    Raises:
        UserError: wrong shape or type of ``current``, a time constant below 1, an unknown rule, a named backend that cannot
            run.

    Equations (1) to (3) of ``neuron.py``; the gradient is the rule's.
    """
    neuron, rule = LIF(tau_m, tau_s, threshold), rules.get(rule)
    x, gain = current if isinstance(current, Constant) else (current, None)
    if not x.is_floating_point():
        raise UserError(f"current is {x.dtype}; it must be floating point")
    if gain is None and (x.dim() < 1 or x.shape[0] == 0):
        raise UserError(f"current has shape {list(x.shape)}; it must be [T, ...] with T at least 1, time first")
    if gain is not None and (gain.dim() != 1 or gain.shape[0] == 0):
        raise UserError(f"gain of a constant current has shape {list(gain.shape)}; it must be [T] with T at least 1")
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    compiled = kernels.choose(backend, x) == "cpp"
    if gain is not None:
        gain = gain.to(x.dtype)
        if not compiled or gain.requires_grad:
            x, gain = Constant(x, gain).expand(), None
    if compiled and not (torch.is_grad_enabled() and x.requires_grad):
        return kernels.lif_psc(x, neuron, gain)
    return Crossing.apply(x, gain, neuron, rule, compiled)
