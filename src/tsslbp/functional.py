"""Neurons with a learning rule as one call, where a rule and an engine meet.

A rule (``rules/``) knows equations, an engine (``kernels/``) knows arrays. :func:`lif` is the call for users. :func:`neurons`
chooses the engine, and :class:`Neurons` passes it to autograd. :func:`recurrent` and :class:`RecurrentNeurons` do the same for
recurrent layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from tsslbp import kernels, rules
from tsslbp.kernels import Engine, Form
from tsslbp.neuron import LIF, ByConstant, transformed
from tsslbp.rules.base import Rule
from tsslbp.utils import distributed
from tsslbp.utils.errors import UserError, check_tensor
from tsslbp.utils.signals import Constant, Signal, check_signal


def lif(
    current: Tensor | Constant,
    *,
    tau_m: float | Tensor,
    tau_s: float | Tensor,
    threshold: float | Tensor = 1.0,
    rule: str | Rule | None = None,
    backend: kernels.Backend = "auto",
) -> Tensor:
    """Leaky integrate-and-fire neurons with a first-order synapse, from rest. :func:`lif_part` starts from a state.

    Args:
        current: input current, ``[T, ...]``, time first, T at least 1, floating point. Half precision is computed and
            returned in float32. A :class:`~tsslbp.utils.signals.Constant` stands for ``response[t] · value``, which the C++
            kernels never write out.
        tau_m: membrane time constant in steps, at least 1 (1 - 1/tau_m is the ``beta`` of other libraries).
        tau_s: synaptic time constant in steps, at least 1; 1 returns the spikes themselves.
        threshold: firing threshold; the neuron spikes strictly above it and is then reset to 0. It and the time constants may
            also be tensors that broadcast over one step of the current, for a value per neuron or channel. They get a gradient
            if they require one (:mod:`tsslbp.neuron`).
        rule: how the gradient crosses the neuron: a :class:`Rule`, a name such as ``"tssl"`` (what ``None`` means), or a
            name with options such as ``"tssl(reset=False)"``.
        backend: ``"auto"`` takes the C++ kernels for CPU tensors, if they are built, and plain PyTorch for all others;
            ``"cpp"``, ``"triton"`` (for a GPU, but not yet tried on one) and ``"reference"`` insist.

    Returns:
        Post-synaptic current, ``[T, ...]``, in the shape of ``current``. NaN in a neuron's current makes its output NaN from
        that step on.

    Raises:
        UserError: wrong shape or type of ``current``, a constant out of range or of a shape that does not fit, an unknown rule,
            a named backend that cannot run, a transform of ``torch.func``, forward-mode differentiation, a
            derivative of the gradient, a batch of errors (``is_grads_batched=True``).

    This computes equations (1) to (3) of ``neuron.py``; the gradient is the rule's, by reverse-mode autograd (``backward()``
    or ``torch.autograd.grad``) only.
    """
    return _checked(current, None, LIF(tau_m, tau_s, threshold), rule, backend)[0]


def lif_part(
    current: Tensor | Constant,
    state: Tensor | None,
    *,
    tau_m: float | Tensor,
    tau_s: float | Tensor,
    threshold: float | Tensor = 1.0,
    rule: str | Rule | None = None,
    backend: kernels.Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """:func:`lif` of a part of a sequence. Taken in parts, a sequence has the outputs and the gradients of the whole.

    Args:
        current: input current of these steps, as for :func:`lif`.
        state: the state after the step before, ``[2, ...]`` in float32 (float64 for such a current): membrane potential and
            post-synaptic current. None is rest.
        tau_m, tau_s, threshold, rule, backend: as for :func:`lif`.

    Returns:
        Post-synaptic current, ``[T, ...]``, and the state after the last step, ``[2, ...]``. Use the state for the next call
        only: what flows back through it is what the rule carries, not a gradient. Detach it to cut there.

    Raises:
        UserError: as :func:`lif`; a state of another shape or type; a rule or a backend that takes no parts.
    """
    psc, after = _checked(current, state, LIF(tau_m, tau_s, threshold), rule, backend, chunk=True)
    assert after is not None
    return psc, after


def _checked(
    current: Tensor | Constant,
    state: Tensor | None,
    neuron: LIF,
    rule: str | Rule | None,
    backend: kernels.Backend,
    chunk: bool = False,
) -> tuple[Tensor, Tensor | None]:
    check_signal(current, "current")
    if chunk and state is None:
        state = rest(current)
    elif state is not None:
        check_tensor("state", state)
    x, response = current if isinstance(current, Constant) else (current, None)
    shape, dtype = (2, *x.shape[0 if response is not None else 1 :]), kernels.computed_in(x.dtype)
    if state is not None and (state.shape != shape or state.dtype != dtype):
        raise UserError(f"state is {list(state.shape)} of {state.dtype}; it must be {list(shape)} of {dtype}")
    for name, value in neuron.tensors._asdict().items():
        if value is not None and not _broadcasts(value.shape, shape[1:]):
            fit = f"broadcast over one step of the current, {list(shape[1:])}"
            raise UserError(f"{name} has shape {list(value.shape)}; it must {fit}")
    return neurons(current, neuron, rules.get(rule), backend, state=state)


def _broadcasts(shape: Sequence[int], over: Sequence[int]) -> bool:
    ends = zip(reversed(shape), reversed(over), strict=False)
    return len(shape) <= len(over) and all(size in (1, whole) for size, whole in ends)


def rest(current: Signal, rows: int = 2) -> Tensor:
    """The state at rest of neurons that get a current, ``[rows, ...]``."""
    x = current.value if isinstance(current, Constant) else current[0]
    return x.new_zeros(rows, *x.shape, dtype=kernels.computed_in(x.dtype))


def neurons(
    current: Tensor | Constant,
    neuron: LIF,
    rule: Rule,
    backend: kernels.Backend = "auto",
    pool: kernels.Pool | None = None,
    bf16: bool = False,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """:func:`lif` or :func:`lif_part` without checks, for layers; the currents can come out pooled and as bfloat16.

    Work that the engine does not do in its pass is done before and after.
    """
    x, response = current if isinstance(current, Constant) else (current, None)
    if transformed():  # it would silently find no gradient
        _refuse_other_modes(x, response, state, *neuron.tensors)
    if x.dtype == torch.float16:
        x = x.float()
    learns_response = response is not None and response.requires_grad
    neuron = _in(kernels.computed_in(x.dtype), neuron)
    operands = (x, response, state, *neuron.tensors)
    learning = torch.is_grad_enabled() and any(operand is not None and operand.requires_grad for operand in operands)
    if learning and not torch.compiler.is_compiling() and torch._C._is_tracing():
        raise UserError("torch.jit.trace cannot follow a rule; trace in torch.no_grad(), and write ONNX by tsslbp export")
    if state is not None and learning and not rule.takes_parts:
        raise UserError(f"{rule!r} needs the whole sequence at once; it takes no state and no blocks of time")
    engine = kernels.choose(backend, x, neuron, rule if learning else None, state is not None)

    formula = engine.formula(rule) if learning else None
    if engine.forms and (formula is not None or not learning) and not learns_response:
        response = None if response is None else response.to(kernels.computed_in(x.dtype))
        pooled = pool if engine.pools else None
        form = Form(response, pooled, x.dtype == torch.bfloat16, bf16 and pooled is pool)
    else:
        x = x.float() if x.dtype == torch.bfloat16 else x
        x = x if response is None else Constant(x, response.to(x.dtype)).expand()
        form = kernels.PLAIN
    if learning:
        by = (engine, formula) if formula is not None else (kernels.find("reference"), rule)
        psc, after = Neurons.apply(x, state, *neuron.tensors, engine, by, rule, neuron, form)
    else:
        _, psc, after = engine.forward(x, neuron, state, form, keep=False)
    if pool is not None and form.pool is None:
        psc = sum_pool(psc.flatten(0, 1), pool).unflatten(0, psc.shape[:2])
    return psc.bfloat16() if bf16 else psc, after


def _rate(membrane: Tensor, neuron: LIF, group: distributed.Group) -> Callable[[], float]:
    """Mean firing over the samples of all processes; they add it up until it is asked for."""
    threshold = neuron.threshold
    if membrane.device.type == "cpu":  # NumPy takes less than half of PyTorch's time for it
        least = threshold.detach().numpy() if isinstance(threshold, Tensor) else threshold
        fired = int(np.count_nonzero(membrane.numpy() > least))
    else:
        fired = int((membrane > threshold).count_nonzero())
    counts = group.all_reduce_async(torch.tensor([fired, membrane.numel()], dtype=torch.float64))

    def rate() -> float:
        firing, of = counts().tolist()
        return float(firing / of)

    return rate


class Neurons(torch.autograd.Function):
    """Neurons of an engine. ``by`` is the engine of the backward pass and its formula of the rule.

    Only the membrane potential is kept: spikes and currents follow from it. Given a ``state`` it also returns one, for the next
    part of the sequence only: what flows back through it is what the rule carries, not a gradient. The constants of ``neuron``
    that are tensors are also separate arguments, as autograd needs them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        state: Tensor | None,
        tau_m: Tensor | None,
        tau_s: Tensor | None,
        threshold: Tensor | None,
        engine: Engine,
        by: tuple[Engine, Any],
        rule: Rule,
        neuron: LIF,
        form: Form,
    ) -> tuple[Tensor, Tensor | None]:
        membrane, psc, after = engine.forward(current, neuron, state, form)
        ctx.rate = None
        if rule.statistic and (group := distributed.group()).world_size > 1:
            assert membrane is not None
            ctx.rate, ctx.rule = _rate(membrane, neuron, group), rule
        ctx.save_for_backward(membrane, state, tau_m, tau_s, threshold)
        ctx.by, ctx.neuron, ctx.form = by, neuron, form
        # These may be views, and autograd does not allow in-place changes of a function's view.
        return psc.detach(), None if after is None else after.detach()

    @staticmethod
    def backward(ctx: Any, psc_gradient: Tensor, carry: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        (engine, formula), (membrane, state, *constants) = ctx.by, ctx.saved_tensors
        neuron = _with(ctx.neuron, constants)
        if ctx.rate is not None:
            known = ctx.rule.knowing(ctx.rate())
            formula = known if formula is ctx.rule else engine.formula(known)
        gradient, back, by_neuron = engine.backward(formula, psc_gradient, membrane, neuron, state, carry, ctx.form)
        return gradient, back, *_added(by_neuron, constants, ctx.needs_input_grad[2:5]), *[None] * 5


def _in(dtype: torch.dtype, neuron: LIF) -> LIF:
    """The constants, with tensors converted to a type."""
    if not neuron.varies:
        return neuron
    return neuron.having(ByConstant(*(c if c is None or c.dtype == dtype else c.to(dtype) for c in neuron.tensors)))


def _with(neuron: LIF, constants: Sequence[Tensor]) -> LIF:
    """The constants, with saved tensors."""
    return neuron.having(ByConstant(*constants)) if neuron.varies else neuron


def _added(by_neuron: ByConstant, constants: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """The gradients of the constants that need one, from those of neurons."""
    each = zip(by_neuron, constants, needed, strict=True)
    return [made.sum_to_size(constant.shape) if needs and made is not None else None for made, constant, needs in each]


def recurrent(
    drive: Tensor,
    lateral: Tensor,
    state: Tensor | None,
    neuron: LIF,
    rule: Rule,
    backend: kernels.Backend,
    adaptation: tuple[float, float] | None,
    bf16: bool,
) -> tuple[Tensor, Tensor] | None:
    """A recurrent layer's post-synaptic current and state, or None if no engine takes whole sequences of it.

    Equations and states are those of ``layers/recurrent.py``, which goes step by step if this returns None. Under autocast the
    lateral product stays in full precision.

    Args:
        drive: W·x, ``[T, B, N]``.
        lateral: V, ``[N, N]``.
        state: ``[3, B, N]`` or, with adaptation, ``[5, B, N]``; None is rest.
        adaptation: τa and β of adaptive thresholds, None for fixed ones.
        neuron, rule, backend, bf16: see :func:`neurons`.
    """
    drive = drive.float() if drive.dtype == torch.float16 else drive
    full = kernels.computed_in(drive.dtype)
    neuron = _in(full, neuron)
    operands = (drive, lateral, state, *neuron.tensors)
    learning = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)
    engine = kernels.choose(backend, drive, neuron, rule if learning else None, True)
    formula = engine.formula(rule) if learning and rule.takes_parts else None
    if not engine.recurs or (learning and formula is None):
        return None
    if any(x.dtype != full or x.device != drive.device for x in (lateral, state) if x is not None):
        return None
    if transformed():
        _refuse_other_modes(*operands)
    if learning:
        return RecurrentNeurons.apply(*operands, engine, formula, neuron, adaptation, rule.through_lateral, bf16)
    _, psc, after = engine.recurrent_forward(drive, lateral, state, neuron, adaptation, bf16, keep=False)
    return psc, after


class RecurrentNeurons(torch.autograd.Function):
    """A recurrent layer of an engine. As in :class:`Neurons` only the membrane potential is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        drive: Tensor,
        lateral: Tensor,
        state: Tensor | None,
        tau_m: Tensor | None,
        tau_s: Tensor | None,
        threshold: Tensor | None,
        engine: Engine,
        formula: Any,
        neuron: LIF,
        adaptation: tuple[float, float] | None,
        through_lateral: bool,
        bf16: bool,
    ) -> tuple[Tensor, Tensor]:
        membrane, psc, after = engine.recurrent_forward(drive, lateral, state, neuron, adaptation, bf16)
        ctx.save_for_backward(membrane, lateral, state, tau_m, tau_s, threshold)
        ctx.by, ctx.neuron, ctx.adaptation = (engine, formula), neuron, adaptation
        ctx.through_lateral, ctx.bf16_drive = through_lateral, drive.dtype == torch.bfloat16
        ctx.set_materialize_grads(False)
        return psc, after

    @staticmethod
    def backward(ctx: Any, psc_gradient: Tensor | None, after: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        (engine, formula), (membrane, lateral, state, *constants) = ctx.by, ctx.saved_tensors
        error = membrane.new_zeros(1, 1, 1).expand_as(membrane) if psc_gradient is None else psc_gradient
        operands = formula, error, after, membrane, lateral, state, _with(ctx.neuron, constants), ctx.adaptation, ctx.bf16_drive
        learns = ctx.needs_input_grad[1]
        drive, back, weights, by_neuron = engine.recurrent_backward(
            *operands, through_lateral=ctx.through_lateral, learns=learns
        )
        return drive, weights, back, *_added(by_neuron, constants, ctx.needs_input_grad[3:6]), *[None] * 6


def refuse_second_derivative(what: str) -> None:
    """Call it in a backward pass: raises UserError if the result is to be differentiated again."""
    if torch.is_grad_enabled():
        raise UserError(f"{what} has no derivative of its own; leave out create_graph=True")


def _refuse_other_modes(*operands: Tensor | None) -> None:
    """Raises UserError in a transform of ``torch.func``, and for an operand with a tangent."""
    if torch._C._are_functorch_transforms_active():
        raise UserError(
            "spiking neurons cannot go through torch.func (grad, vjp, jvp, jacrev, jacfwd, vmap); "
            "call backward() or torch.autograd.grad, and loop over samples"
        )
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in operands):
        raise UserError("spiking neurons have no forward-mode derivative; call backward() or torch.autograd.grad")


def sum_pool(x: Tensor, pool: kernels.Pool) -> Tensor:
    """Sums over windows of a size times a factor, channel by channel, ``[N, C, H, W]`` or ``[N, C, L]``."""
    if x.dim() == 3:
        return pool.factor * F.avg_pool2d(x.unsqueeze(-2), (1, pool.size), divisor_override=1).squeeze(-2)
    return pool.factor * F.avg_pool2d(x, pool.size, divisor_override=1)  # a mean times its number would be rounded
