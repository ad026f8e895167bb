"""The one call everything else is built around, neurons with a learning rule; and where a rule and an engine meet.

A rule (``rules/``) knows equations, an engine (``kernels/``) knows arrays. :func:`neurons` chooses the engine and
:class:`Crossing` hands it to autograd.
"""

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from tsslbp import kernels, rules
from tsslbp.errors import UserError, check_tensor
from tsslbp.kernels import Engine, Form
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.signal import Constant, check_signal


def lif(
    current: Tensor | Constant,
    *,
    tau_m: float,
    tau_s: float,
    threshold: float = 1.0,
    rule: str | Rule | None = None,
    backend: kernels.Backend = "auto",
) -> Tensor:
    """Leaky integrate-and-fire neurons with a first-order synapse, from rest. :func:`lif_part` goes on from a state.

    Args:
        current: input current, ``[T, ...]``, time first, T at least 1, floating point. Half precision is computed and
            returned in float32. A :class:`~tsslbp.signal.Constant` stands for ``gain[t] · value``; the C++ kernels
            never write that out.
        tau_m: membrane time constant in steps, at least 1 (1 - 1/tau_m is the ``beta`` of other libraries).
        tau_s: synaptic time constant in steps, at least 1; 1 returns the spikes themselves.
        threshold: firing threshold; the neuron spikes strictly above it and is then reset to 0.
        rule: how the gradient crosses the neuron: a :class:`Rule`, a name such as ``"tssl"`` (what ``None`` means), or a
            name with options such as ``"tssl(reset=False)"``.
        backend: ``"auto"`` takes the C++ kernels for CPU tensors, if they are built, and plain PyTorch for all others;
            ``"cpp"``, ``"triton"`` (for a GPU, where nobody has tried it yet) and ``"reference"`` insist.

    Returns:
        Post-synaptic current, ``[T, ...]``, the shape of ``current``. NaN in a neuron's current makes its output NaN from that
        step on.

    Raises:
        UserError: wrong shape or type of ``current``, a constant that is below 1 or no plain number, an unknown rule, a named
            backend that cannot run, a transform of ``torch.func``, forward-mode differentiation, a derivative of the gradient.

    Equations (1) to (3) of ``neuron.py``; the gradient is the rule's. It comes by reverse-mode autograd, ``backward()`` or
    ``torch.autograd.grad``, and has no derivative of its own.
    """
    return _checked(current, None, LIF(tau_m, tau_s, threshold), rule, backend)[0]


def lif_part(
    current: Tensor | Constant,
    state: Tensor,
    *,
    tau_m: float,
    tau_s: float,
    threshold: float = 1.0,
    rule: str | Rule | None = None,
    backend: kernels.Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """:func:`lif` of a part of a sequence. Taken in parts, a sequence has the outputs and the gradients of the whole.

    Args:
        current: input current of these steps, as for :func:`lif`.
        state: the state after the step before, ``[2, ...]`` in float32 (float64 for such a current): membrane potential and
            post-synaptic current. ``torch.zeros(2, ...)`` is rest.
        tau_m, tau_s, threshold, rule, backend: as for :func:`lif`.

    Returns:
        Post-synaptic current, ``[T, ...]``, and the state after the last step, ``[2, ...]``. Hand that to the next call and to
        nothing else: what flows back through it is what the rule carries from step to step. Detach it to cut there.

    Raises:
        UserError: as :func:`lif`; a state of another shape or type; a rule or a backend that takes no parts.
    """
    psc, after = _checked(current, state, LIF(tau_m, tau_s, threshold), rule, backend)
    assert after is not None
    return psc, after


def _checked(
    current: Tensor | Constant, state: Tensor | None, neuron: LIF, rule: str | Rule | None, backend: kernels.Backend
) -> tuple[Tensor, Tensor | None]:
    check_signal(current, "current")
    if state is not None:
        check_tensor("state", state)
    x, gain = current if isinstance(current, Constant) else (current, None)
    shape, dtype = (2, *x.shape[0 if gain is not None else 1 :]), kernels.computed_in(x.dtype)
    if state is not None and (state.shape != shape or state.dtype != dtype):
        raise UserError(f"state is {list(state.shape)} of {state.dtype}; it must be {list(shape)} of {dtype}")
    return neurons(current, neuron, rules.get(rule), backend, state=state)


def neurons(
    current: Tensor | Constant,
    neuron: LIF,
    rule: Rule,
    backend: kernels.Backend = "auto",
    pool: kernels.Pool | None = None,
    half: bool = False,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`lif` or :func:`lif_part` without checks, for layers; the currents can come out pooled and as bfloat16.

    What an engine does in one pass is left to it; what it does not do is done before and after.
    """
    x, gain = current if isinstance(current, Constant) else (current, None)
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:  # these would find no gradient, silently
        _refuse_other_modes(x, gain, state)
    if x.dtype == torch.float16:
        x = x.float()
    learns_gain = gain is not None and gain.requires_grad
    learning = torch.is_grad_enabled() and (x.requires_grad or learns_gain or (state is not None and state.requires_grad))
    if state is not None and learning and not rule.takes_parts:
        raise UserError(f"{rule!r} needs the whole sequence at once; it takes no state and no blocks of time")
    engine = kernels.choose(backend, x, neuron, rule if learning else None, state is not None)

    formula = engine.formula(rule) if learning else None
    if engine.forms and (formula is not None or not learning) and not learns_gain:
        gain = None if gain is None else gain.to(kernels.computed_in(x.dtype))
        pooled = pool if engine.pools else None
        form = Form(gain, pooled, x.dtype == torch.bfloat16, half and pooled is pool)
    else:
        x = x.float() if x.dtype == torch.bfloat16 else x
        x = x if gain is None else Constant(x, gain.to(x.dtype)).expand()
        form = kernels.PLAIN
    if learning:
        by = (engine, formula) if formula is not None else (kernels.find("reference"), rule)
        psc, after = Crossing.apply(x, state, engine, by, neuron, form)
    else:
        _, psc, after = engine.forward(x, neuron, state, form, keep=False)
    if pool is not None and form.pool is None:
        psc = sum_pool(psc.flatten(0, 1), pool).unflatten(0, psc.shape[:2])
    return psc.bfloat16() if half else psc, after


class Crossing(torch.autograd.Function):
    """Neurons of an engine, and ``by`` whom and what their backward pass is: an engine and what it makes of the rule.

    Only the membrane potential is kept: spikes and currents follow from it. Given a ``state`` it also returns one, to be handed
    to the next part of the sequence and to nothing else: what flows back through it is what the rule carries from step to step.
    """

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, state: Tensor | None, engine: Engine, by: tuple[Engine, Any], neuron: LIF, form: Form
    ) -> tuple[Tensor, Tensor | None]:
        membrane, psc, after = engine.forward(current, neuron, state, form)
        ctx.save_for_backward(membrane, state)
        ctx.by, ctx.neuron, ctx.form = by, neuron, form
        # These may be views of what the engine made, and autograd lets nobody change a function's view in place.
        return psc.detach(), None if after is None else after.detach()

    @staticmethod
    def backward(ctx: Any, psc_gradient: Tensor, carry: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        (engine, formula), (membrane, state) = ctx.by, ctx.saved_tensors
        gradient, back = engine.backward(formula, psc_gradient, membrane, ctx.neuron, state, carry, ctx.form)
        return gradient, back, None, None, None, None


def refuse_second_derivative(what: str) -> None:
    """To be called in a backward pass: raises UserError if its result is to be differentiated again."""
    if torch.is_grad_enabled():
        raise UserError(f"{what} has no derivative of its own; leave out create_graph=True")


def _refuse_other_modes(*operands: Tensor | None) -> None:
    """Raises UserError in a transform of ``torch.func``, and for an operand that has a tangent."""
    if torch._C._are_functorch_transforms_active():
        raise UserError(
            "spiking neurons cannot go through torch.func (grad, vjp, jvp, jacrev, jacfwd, vmap); "
            "call backward() or torch.autograd.grad, and loop over samples"
        )
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in operands):
        raise UserError("spiking neurons have no forward-mode derivative; call backward() or torch.autograd.grad")


def sum_pool(x: Tensor, pool: kernels.Pool) -> Tensor:
    """Sums over ``size × size`` windows times a gain, channel by channel: ``[N, C, H, W]``."""
    return pool.gain * pool.size**2 * F.avg_pool2d(x, pool.size)
