"""The one call everything else is built around: neurons with a learning rule."""

from dataclasses import replace

import torch
import torch.nn.functional as F
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
        backend: ``"auto"`` takes the C++ kernels for CPU tensors, if they are built, and plain PyTorch for all others;
            ``"cpp"``, ``"triton"`` (for a GPU, where nobody has tried it yet) and ``"reference"`` insist.

    Returns:
        Post-synaptic current, ``[T, ...]``, the shape of ``current``.

    Raises:
        UserError: wrong shape or type of ``current``, a time constant below 1, an unknown rule, a named backend that cannot
            run.

    Equations (1) to (3) of ``neuron.py``; the gradient is the rule's.
    """
    x, gain = current if isinstance(current, Constant) else (current, None)
    if not x.is_floating_point():
        raise UserError(f"current is {x.dtype}; it must be floating point")
    if gain is None and (x.dim() < 1 or x.shape[0] == 0):
        raise UserError(f"current has shape {list(x.shape)}; it must be [T, ...] with T at least 1, time first")
    if gain is not None and (gain.dim() != 1 or gain.shape[0] == 0):
        raise UserError(f"gain of a constant current has shape {list(gain.shape)}; it must be [T] with T at least 1")
    return neurons(current, LIF(tau_m, tau_s, threshold), rules.get(rule), backend)


def neurons(
    current: Tensor | Constant,
    neuron: LIF,
    rule: Rule,
    backend: kernels.Backend = "auto",
    pool: kernels.Pool | None = None,
    half: bool = False,
) -> Tensor:
    """:func:`lif` without its checks, for layers; the post-synaptic current can come out pooled and as bfloat16.

    Where a compiled kernel does all that in one pass it is left to it, else it is done one after the other.
    """
    x, gain = current if isinstance(current, Constant) else (current, None)
    if x.dtype == torch.float16:
        x = x.float()
    chosen = kernels.choose(backend, x)
    plain = kernels.PLAIN if chosen == "reference" else kernels.Form(backend=chosen)
    learning = torch.is_grad_enabled() and x.requires_grad
    if chosen != "reference" and (rule.has_kernel or not learning) and not (gain is not None and gain.requires_grad):
        gain = None if gain is None else gain.to(torch.float32 if x.dtype == torch.bfloat16 else x.dtype)
        pooled = pool if chosen == "cpp" else None  # the Triton kernels do not pool
        form = replace(plain, gain=gain, pool=pooled, half_current=x.dtype == torch.bfloat16, half_psc=half and pooled == pool)
        psc = Crossing.apply(x, neuron, rule, True, form) if learning else kernels.compiled(chosen).lif_psc(x, neuron, form)
        if pooled == pool:
            return psc
    else:
        x = x.float() if x.dtype == torch.bfloat16 else x
        x = x if gain is None else Constant(x, gain.to(x.dtype)).expand()
        psc = Crossing.apply(x, neuron, rule, chosen != "reference", plain)
    psc = psc if pool is None else sum_pool(psc.flatten(0, 1), pool).unflatten(0, psc.shape[:2])
    return psc.bfloat16() if half else psc


def sum_pool(x: Tensor, pool: kernels.Pool) -> Tensor:
    """Sums over ``size × size`` windows times a gain, channel by channel: ``[N, C, H, W]``."""
    return pool.gain * pool.size**2 * F.avg_pool2d(x, pool.size)
