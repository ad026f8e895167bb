"""Neurons with a learning rule as one call, which everything else is built around."""

from collections.abc import Sequence

from torch import Tensor

from tsslbp import kernels, rules
from tsslbp.crossing import neurons, rest
from tsslbp.errors import UserError, check_tensor
from tsslbp.neuron import LIF
from tsslbp.rules.base import Rule
from tsslbp.signal import Constant, check_signal


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
            returned in float32. A :class:`~tsslbp.signal.Constant` stands for ``response[t] · value``, which the C++ kernels
            never write out.
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
    check_signal(current, "current")
    state = rest(current) if state is None else state
    psc, after = _checked(current, state, LIF(tau_m, tau_s, threshold), rule, backend)
    assert after is not None
    return psc, after


def _checked(
    current: Tensor | Constant, state: Tensor | None, neuron: LIF, rule: str | Rule | None, backend: kernels.Backend
) -> tuple[Tensor, Tensor | None]:
    check_signal(current, "current")
    if state is not None:
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
