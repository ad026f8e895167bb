"""The C++ kernels (``csrc/``): loading them, what PyTorch must know about them, and the functions that call them.

They compute what ``neuron.py``, ``rules/tssl.py`` and ``rules/surrogate.py`` say, on CPU tensors of float32 or float64. The
membrane potential and the spikes are equal to the reference bit for bit, post-synaptic currents and gradients to rounding;
neither the number of threads nor the instruction set changes a bit. Every function takes a sequence ``[T, ...]``, or a
constant current: a value ``[...]`` and a gain ``[T]`` that stand for ``gain[t] · value`` without it being written out. A
sequence may lie in memory in any order that is dense with time outermost, such as channels-last, and results lie the same
way; anything else is copied first. None of the functions is differentiable: :class:`tsslbp.rules.base.Crossing` is.
"""

import importlib.util
import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
    if current.dtype not in (torch.float32, torch.float64):
        return f"the C++ kernels take float32 and float64, not {current.dtype}"
    return None


def lif_forward(current: Tensor, neuron: LIF, gain: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Membrane potential and post-synaptic current, both ``[T, ...]``; equations (1) to (3) of ``neuron.py``."""
    layout, flat = _flatten(current if gain is None else current[None])
    membrane, psc = torch.ops.tsslbp.lif_forward(flat, gain, *_constants(neuron))
    return layout.restore(membrane), layout.restore(psc)


def lif_psc(current: Tensor, neuron: LIF, gain: Tensor | None = None) -> Tensor:
    """Post-synaptic current alone, ``[T, ...]``, for inference."""
    layout, flat = _flatten(current if gain is None else current[None])
    return layout.restore(torch.ops.tsslbp.lif_psc(flat, gain, *_constants(neuron)))


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
    gain: Tensor | None = None,
) -> Tensor:
    """``∂L/∂I`` of TSSL-BP, equations (4) to (10) of ``rules/tssl.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    Args:
        timing: differentiate the post-synaptic current by the spike's time, not its amplitude.
        inter, reset, leak: the terms (6), (7), (8).
        fallback: where (10) applies: ``"quiet"``, ``"no-spike"``, ``"rate"``, ``"never"``, ``"always"``.
        clip: bound on 1/Δu.
        fallback_width, fallback_range: of the logistic in (10): its width in potential, its largest argument.
        rate_limit: mean firing up to which ``"rate"`` uses (10).
        gain: ``[T]``; the current was constant, and the result is ``Σ_t gain[t]·∂L/∂I[t]``, ``[...]``.
    """
    layout, u = _flatten(membrane)
    options = (timing, inter, reset, leak, fallback, clip, fallback_width, fallback_range, rate_limit)
    delta = torch.ops.tsslbp.tssl_backward(layout.flatten(psc_gradient), u, gain, *_constants(neuron), *options)
    return layout.restore(delta) if gain is None else layout.restore(delta)[0]


def surrogate_backward(
    psc_gradient: Tensor,
    membrane: Tensor,
    neuron: LIF,
    *,
    shape: str,
    slope: float,
    scale: float,
    through_reset: bool,
    gain: Tensor | None = None,
) -> Tensor:
    """``∂L/∂I`` of a surrogate gradient, ``rules/surrogate.py``, from ``∂L/∂a`` and the membrane, both ``[T, ...]``.

    ``gain`` as in :func:`tssl_backward`; the other options as in :class:`tsslbp.Surrogate`, ``shape`` being its name.
    """
    layout, u = _flatten(membrane)
    options = (shape, slope, scale, through_reset)
    delta = torch.ops.tsslbp.surrogate_backward(layout.flatten(psc_gradient), u, gain, *_constants(neuron), *options)
    return layout.restore(delta) if gain is None else layout.restore(delta)[0]


def _constants(neuron: LIF) -> tuple[float, float, float]:
    return float(neuron.tau_m), float(neuron.tau_s), float(neuron.threshold)


@dataclass(frozen=True)
class Layout:
    """How one step of a sequence lies in memory: its axes (counted from 1) from the outermost to the innermost."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    def flatten(self, x: Tensor) -> Tensor:
        """``[T, ...] -> [T, N]`` in the order of memory; a view where ``x`` lies this way."""
        return x.permute(0, *self.order).reshape(x.shape[0], math.prod(self.shape))

    def restore(self, x: Tensor) -> Tensor:
        """``[T, N] -> [T, ...]``, a view."""
        inverse = [self.order.index(axis) + 1 for axis in range(1, len(self.order) + 1)]
        return x.view(x.shape[0], *(self.shape[axis - 1] for axis in self.order)).permute(0, *inverse)


def _flatten(x: Tensor) -> tuple[Layout, Tensor]:
    """The layout of a sequence, and the sequence as ``[T, N]``: a view if it is dense with time outermost."""
    order, strides = tuple(range(1, x.dim())), x.stride()
    if not x.is_contiguous():
        by_stride = tuple(sorted(order, key=lambda axis: -strides[axis]))
        if x.permute(0, *by_stride).is_contiguous():
            order = by_stride
    layout = Layout(tuple(x.shape[1:]), order)
    return layout, layout.flatten(x)


def _register_fakes() -> None:
    """Tell PyTorch the shapes of results, for ``torch.compile`` and ``torch.export``."""

    @torch.library.register_fake("tsslbp::lif_psc")
    def lif_psc_fake(current: Tensor, gain: Tensor | None, *constants: float) -> Tensor:
        return current.new_empty(current.shape[0] if gain is None else gain.shape[0], current.shape[1])

    @torch.library.register_fake("tsslbp::lif_forward")
    def lif_forward_fake(current: Tensor, gain: Tensor | None, *constants: float) -> tuple[Tensor, Tensor]:
        return lif_psc_fake(current, gain), lif_psc_fake(current, gain)

    @torch.library.register_fake("tsslbp::tssl_backward")
    @torch.library.register_fake("tsslbp::surrogate_backward")
    def backward_fake(psc_gradient: Tensor, membrane: Tensor, gain: Tensor | None, *options: float | str) -> Tensor:
        return membrane.new_empty(membrane.shape[0] if gain is None else 1, membrane.shape[1])


if NOT_LOADED is None:
    _register_fakes()
