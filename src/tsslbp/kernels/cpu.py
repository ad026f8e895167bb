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

from tsslbp.kernels.form import PLAIN, Form, Layout, Pool, flatten
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


def capability() -> str:
    """The instruction set in use: ``"avx512"``, ``"avx2"`` or ``"baseline"``. The environment variable
    ``TSSLBP_CPU_CAPABILITY`` names a lower one than the processor has, for tests and comparisons."""
    return torch.ops.tsslbp.cpu_capability()


def unusable(current: Tensor) -> str | None:
    """Why these kernels cannot take a tensor, in one line, or None if they can."""
    if NOT_LOADED is not None:
        return NOT_LOADED
    if current.device.type != "cpu":
        return f"the C++ kernels run on the CPU, not on {current.device.type}"
    if current.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"the C++ kernels take float32, float64 and bfloat16, not {current.dtype}"
    return None


def lif_forward(current: Tensor, neuron: LIF, form: Form = PLAIN) -> tuple[Tensor, Tensor]:
    """Membrane potential and post-synaptic current, both ``[T, ...]``; equations (1) to (3) of ``neuron.py``."""
    layout, flat = flatten(current if form.gain is None else current[None], form.pool)
    pool = _pool(layout, form.pool)
    membrane, psc = torch.ops.tsslbp.lif_forward(flat, form.gain, *_constants(neuron), form.half_psc, *pool)
    return layout.restore(membrane), layout.pooled(form.pool).restore(psc)


def lif_psc(current: Tensor, neuron: LIF, form: Form = PLAIN) -> Tensor:
    """Post-synaptic current alone, ``[T, ...]``, for inference."""
    layout, flat = flatten(current if form.gain is None else current[None], form.pool)
    pool = _pool(layout, form.pool)
    psc = torch.ops.tsslbp.lif_psc(flat, form.gain, *_constants(neuron), form.half_psc, *pool)
    return layout.pooled(form.pool).restore(psc)


def tssl_backward(
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
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
    form: Form = PLAIN,
) -> Tensor:
    """``∂L/∂I`` of TSSL-BP, equations (4) to (10) of ``rules/tssl.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    Args:
        timing: differentiate the post-synaptic current by the spike's time, not its amplitude.
        inter, reset, leak: the terms (6), (7), (8).
        fallback: where (10) applies: ``"quiet"``, ``"no-spike"``, ``"rate"``, ``"never"``, ``"always"``.
        clip: bound on 1/Δu.
        fallback_width, fallback_range: of the logistic in (10): its width in potential, its largest argument.
        rate_limit: mean firing up to which ``"rate"`` uses (10).
        form: as it was in the forward pass.
    """
    options = (timing, inter, reset, leak, fallback, clip, fallback_width, fallback_range, rate_limit)
    return _backward(torch.ops.tsslbp.tssl_backward, psc_gradient, membrane, neuron, options, form)


def surrogate_backward(
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
    *,
    shape: str,
    slope: float,
    scale: float,
    through_reset: bool,
    form: Form = PLAIN,
) -> Tensor:
    """``∂L/∂I`` of a surrogate gradient, ``rules/surrogate.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    The options are those of :class:`tsslbp.Surrogate`, ``shape`` being its name; ``form`` as it was in the forward pass.
    """
    options = (shape, slope, scale, through_reset)
    return _backward(torch.ops.tsslbp.surrogate_backward, psc_gradient, membrane, neuron, options, form)


def _backward(
    operator: Callable[..., Tensor], psc_gradient: Tensor, membrane: Tensor, neuron: LIF, options: tuple[Any, ...], form: Form
) -> Tensor:
    layout, u = flatten(membrane, form.pool)
    e = layout.pooled(form.pool).flatten(psc_gradient)
    pool = _pool(layout, form.pool)
    delta = layout.restore(operator(e, u, form.gain, *_constants(neuron), *options, form.half_current, *pool))
    return delta if form.gain is None else delta[0]


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
    def lif_psc_fake(current: Tensor, gain: Tensor | None, *options: Any) -> Tensor:
        half, size, height, width = options[3:7]
        steps, n = current.shape[0] if gain is None else gain.shape[0], current.shape[1]
        made = n // (height * width) * (height // size) * (width // size) if size else n
        return current.new_empty(steps, made, dtype=torch.bfloat16 if half else _computed_in(current.dtype))

    @torch.library.register_fake("tsslbp::lif_forward")
    def lif_forward_fake(current: Tensor, gain: Tensor | None, *options: Any) -> tuple[Tensor, Tensor]:
        psc = lif_psc_fake(current, gain, *options)
        return current.new_empty(psc.shape[0], current.shape[1], dtype=_computed_in(current.dtype)), psc

    @torch.library.register_fake("tsslbp::tssl_backward")
    @torch.library.register_fake("tsslbp::surrogate_backward")
    def backward_fake(psc_gradient: Tensor, membrane: Tensor, gain: Tensor | None, *options: Any) -> Tensor:
        half = options[-6]
        if gain is not None:
            return membrane.new_empty(1, membrane.shape[1])
        return torch.empty_like(membrane, dtype=torch.bfloat16 if half else membrane.dtype)


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype == torch.bfloat16 else dtype


if NOT_LOADED is None:
    _register_fakes()
