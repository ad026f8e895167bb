"""The C++ kernels (``csrc/``): loading them, what PyTorch must know about them, and the functions that call them.

They compute what ``neuron.py``, ``rules/tssl.py`` and ``rules/surrogate.py`` say, on CPU tensors of float32 or float64;
currents may also be stored as bfloat16. The membrane potential and the spikes are equal to the reference bit for bit,
post-synaptic currents and gradients to rounding; neither the number of threads nor the instruction set changes a bit. Every
function takes a sequence ``[T, ...]``, or what :class:`~tsslbp.kernels.Form` describes. A sequence may lie in memory in any
order that is dense with time outermost, such as channels-last, and results lie the same way; anything else is copied first.
None of the functions is differentiable: :class:`tsslbp.rules.base.Crossing` is.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tsslbp.kernels.form import PLAIN, Form, Layout, Pool, computed_in, flatten
from tsslbp.neuron import LIF


def _load() -> str | None:
    """Load the extension; returns why not, in one line, or None."""
    spec = importlib.util.find_spec("tsslbp.kernels._cpu")
    if spec is None or spec.origin is None:
        return "the C++ kernels are not built; with a C++ compiler: pip install --no-build-isolation --force-reinstall tsslbp"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        return f"the C++ kernels in {spec.origin} cannot be loaded: {str(error).splitlines()[0]}"
    return None


NOT_LOADED = _load()
"""Why the extension is not loaded; None if it is."""


# In the order of the enumerators in csrc/, as the operators take numbers; ops.cpp says why.
CAPABILITIES = ("baseline", "avx2", "avx512")
FALLBACKS = ("quiet", "no-spike", "never", "always", "rate")
SHAPES = ("fast_sigmoid", "sigmoid", "atan", "triangular", "rectangular", "gaussian", "exponential")


def capability() -> str:
    """The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``. The environment variable
    ``TSSLBP_CPU_CAPABILITY`` names a lower one than the processor has, for tests and comparisons."""
    return CAPABILITIES[torch.ops.tsslbp.cpu_capability()]


def unusable(current: Tensor) -> str | None:
    """Why these kernels cannot take a tensor, in one line, or None if they can."""
    if NOT_LOADED is not None:
        return NOT_LOADED
    if current.device.type != "cpu":
        return f"the C++ kernels run on the CPU, not on {current.device.type}"
    if current.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"the C++ kernels take float32, float64 and bfloat16, not {current.dtype}"
    return None


def lif_forward(
    current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Membrane potential and post-synaptic current, both ``[T, ...]``; equations (1) to (3) of ``neuron.py``.

    ``state`` is ``[2, ...]``, both of them in the step before; then the third result is the state after the last step.
    """
    return _forward(torch.ops.tsslbp.lif_forward, current, neuron, state, form)


def lif_psc(current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN) -> tuple[Tensor, Tensor | None]:
    """Post-synaptic current, ``[T, ...]``, and state (as of :func:`lif_forward`) alone, for inference."""
    return _forward(torch.ops.tsslbp.lif_psc, current, neuron, state, form)


def _forward(operator: Callable[..., Any], current: Tensor, neuron: LIF, state: Tensor | None, form: Form) -> Any:
    layout, flat = flatten(current if form.gain is None else current[None], form.pool)
    before = None if state is None else layout.flatten(state)
    pool = _pool(layout, form.pool)
    *membrane, psc, after = operator(flat, form.gain, before, *_constants(neuron), form.half_psc, *pool)
    return (
        *(layout.restore(trace) for trace in membrane),
        layout.pooled(form.pool).restore(psc),
        None if state is None else layout.restore(after),
    )


def tssl_backward(
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
    state: Tensor | None,
    carry: Tensor | None,
    *,
    timing: bool,
    inter: bool,
    reset: bool,
    leak: bool,
    fallback: str,
    clip: float,
    fallback_width: float,
    fallback_range: float,
    rate_limit: float,
    error_reset: bool,
    form: Form = PLAIN,
) -> tuple[Tensor, Tensor | None]:
    """``∂L/∂I`` of TSSL-BP, equations (4) to (10) of ``rules/tssl.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    Args:
        state, carry: as for :meth:`tsslbp.rules.Rule.part_gradient`; None for a whole sequence, which carries nothing on.
        timing: differentiate the post-synaptic current by the spike's time, not its amplitude.
        inter, reset, leak: the terms (6), (7), (8).
        fallback: where (10) applies: ``"quiet"``, ``"no-spike"``, ``"rate"``, ``"never"``, ``"always"``.
        clip: bound on 1/Δu.
        fallback_width, fallback_range: of the logistic in (10): its width in potential, its largest argument.
        rate_limit: mean firing up to which ``"rate"`` uses (10).
        error_reset: the term (11).
        form: as it was in the forward pass.
    """
    where = _number(FALLBACKS, fallback)
    options = (timing, inter, reset, leak, where, clip, fallback_width, fallback_range, rate_limit, error_reset)
    return _backward(torch.ops.tsslbp.tssl_backward, psc_gradient, membrane, neuron, state, carry, options, form)


def surrogate_backward(
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
    state: Tensor | None,
    carry: Tensor | None,
    *,
    shape: str,
    slope: float,
    scale: float,
    through_reset: bool,
    form: Form = PLAIN,
) -> tuple[Tensor, Tensor | None]:
    """``∂L/∂I`` of a surrogate gradient, ``rules/surrogate.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    The options are those of :class:`tsslbp.Surrogate`, ``shape`` being its name; the rest as for :func:`tssl_backward`.
    """
    options = (_number(SHAPES, shape), slope, scale, through_reset)
    return _backward(torch.ops.tsslbp.surrogate_backward, psc_gradient, membrane, neuron, state, carry, options, form)


def _backward(
    operator: Callable[..., tuple[Tensor, Tensor]],
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
    state: Tensor | None,
    carry: Tensor | None,
    options: tuple[Any, ...],
    form: Form,
) -> tuple[Tensor, Tensor | None]:
    layout, u = flatten(membrane, form.pool)
    e = layout.pooled(form.pool).flatten(psc_gradient)
    before, after = (None if part is None else layout.flatten(part) for part in (state, carry))
    pool = _pool(layout, form.pool)
    delta, back = operator(e, u, form.gain, before, after, *_constants(neuron), *options, form.half_current, *pool)
    delta = layout.restore(delta)
    return delta if form.gain is None else delta[0], None if state is None else layout.restore(back)


def _number(names: tuple[str, ...], name: str) -> int:
    return names.index(name) if name in names else -1  # which the operators refuse


def _constants(neuron: LIF) -> tuple[float, float, float]:
    return float(neuron.tau_m), float(neuron.tau_s), float(neuron.threshold)


def _pool(layout: Layout, pool: Pool | None) -> tuple[int, int, int, int, float]:
    """Pooling as the operators take it: size, height, width, channels, gain."""
    if pool is None:
        return 0, 0, 0, 0, 1.0
    _, channels, height, width = layout.shape
    return pool.size, height, width, channels, pool.gain


def _register_fakes() -> None:
    """Tell PyTorch the shapes of results, for ``torch.compile`` and ``torch.export``."""

    @torch.library.register_fake("tsslbp::lif_psc")
    def lif_psc_fake(current: Tensor, gain: Tensor | None, state: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
        half, size, height, width = options[3:7]
        steps, n = current.shape[0] if gain is None else gain.shape[0], current.shape[1]
        made = n // (height * width) * (height // size) * (width // size) if size else n
        psc = current.new_empty(steps, made, dtype=torch.bfloat16 if half else computed_in(current.dtype))
        return psc, _like(state, current)

    @torch.library.register_fake("tsslbp::lif_forward")
    def lif_forward_fake(
        current: Tensor, gain: Tensor | None, state: Tensor | None, *options: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        psc, after = lif_psc_fake(current, gain, state, *options)
        return current.new_empty(psc.shape[0], current.shape[1], dtype=computed_in(current.dtype)), psc, after

    @torch.library.register_fake("tsslbp::tssl_backward")
    @torch.library.register_fake("tsslbp::surrogate_backward")
    def backward_fake(
        psc_gradient: Tensor, membrane: Tensor, gain: Tensor | None, state: Tensor | None, *options: Any
    ) -> tuple[Tensor, Tensor]:
        half, carry = options[-6], _like(state, membrane)
        if gain is not None:
            return membrane.new_empty(1, membrane.shape[1]), carry
        return torch.empty_like(membrane, dtype=torch.bfloat16 if half else membrane.dtype), carry

    def _like(state: Tensor | None, x: Tensor) -> Tensor:
        return x.new_empty(0, dtype=computed_in(x.dtype)) if state is None else torch.empty_like(state)


if NOT_LOADED is None:
    _register_fakes()
