"""The Triton kernels, for CUDA tensors of float32 or float64; currents may also be stored as bfloat16.

**They have never been timed and have never run on a GPU.** They are tested in Triton's interpreter, on CPU tensors
(``make test-triton``), where they agree with the reference as the C++ kernels do, and they are compiled for GPUs, without
being run there. What follows about speed and memory is their design, not measured.

They compute ``neuron.py``, ``rules/tssl.py`` and ``rules/surrogate.py`` on whole sequences, without pooling. One program has
``BLOCK`` neurons that are adjacent in memory, goes through all steps and keeps the state in registers, so an operation reads
and writes each trace once (the ``"quiet"`` fallback reads the membrane twice). Products and sums are not fused: a spike must
not depend on the rounding of the compiler. Options and constants are compiled in, so each new set costs a compilation.
"""

from typing import Any

import torch
from torch import Tensor

from tsslbp.kernels.engine import PLAIN, Engine, Form, Usable, computed_in
from tsslbp.kernels.layout import flatten
from tsslbp.neuron import LIF, ByConstant
from tsslbp.rules.base import Rule
from tsslbp.rules.surrogate import SurrogateNumbers
from tsslbp.rules.tssl import FALLBACK_RANGE, RATE_LIMIT, TSSLNumbers

try:
    import triton
    import triton.language as tl
except ImportError as error:
    why = str(error).splitlines()[0]
    raise ImportError(f"Triton cannot be imported ({why}); to get it: pip install 'tsslbp[gpu]'") from error

BLOCK = 256
"""Neurons of one program: two for each thread of Triton's four default warps."""
KNOWN = {
    *("quiet", "no-spike", "rate", "never", "always"),
    *("fast_sigmoid", "sigmoid", "atan", "triangular", "rectangular", "gaussian", "exponential"),
}
"""The fallbacks and surrogate shapes that have a formula below."""


class Triton(Engine):
    """Computes whole sequences of every form but a pooled one, and the rules whose formulas are in this file."""

    title = "the Triton kernels"
    pools = False

    def status(self) -> Usable:
        if INTERPRETED:
            return Usable(True, "run by Triton's interpreter (TRITON_INTERPRET is set): for tests, slow")
        if not torch.cuda.is_available():
            return Usable(False, "PyTorch sees no CUDA device")
        return Usable(True, "for CUDA tensors; tested in Triton's interpreter only, never timed")

    def refuses(self, device: torch.device) -> str | None:
        if device.type == "cpu" and not INTERPRETED:
            return "the Triton kernels run on a GPU, not on cpu (tests run them there, slowly: set TRITON_INTERPRET=1 first)"
        return None if device.type in ("cpu", "cuda") else f"the Triton kernels run on cuda, not on {device.type}"

    def formula(self, rule: Rule) -> TSSLNumbers | SurrogateNumbers | None:
        numbers = rule.numbers
        if isinstance(numbers, TSSLNumbers | SurrogateNumbers) and all(x in KNOWN for x in numbers if isinstance(x, str)):
            return numbers
        return None

    def declines(self, current: Tensor, neuron: LIF, rule: Rule | None, parts: bool) -> str | None:
        carried = "the Triton kernels carry no state from part to part; take the whole sequence or another backend"
        return super().declines(current, neuron, rule, parts) or (carried if parts else None)

    def forward(
        self, current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN, *, keep: bool = True
    ) -> tuple[Tensor | None, Tensor, None]:
        assert state is None
        assert form.pool is None
        layout, flat = flatten(current if form.response is None else current[None], None)
        flat, response = flat.contiguous(), None if form.response is None else form.response.contiguous()
        steps, n, full = len(flat) if response is None else len(response), flat.shape[1], computed_in(flat.dtype)
        psc = flat.new_empty(steps, n, dtype=torch.bfloat16 if form.bf16_psc else full)
        membrane = flat.new_empty(steps, n, dtype=full) if keep else None
        constants = {**_constants(neuron), "DTYPE": tl.float64 if full == torch.float64 else tl.float32}
        _launch(_forward_kernel, flat, response, membrane, psc, steps, n, **constants)
        return None if membrane is None else layout.restore(membrane), layout.restore(psc), None

    def backward(
        self, formula: Any, error: Tensor, membrane: Tensor, neuron: LIF, state: Tensor | None, carry: Tensor | None, form: Form
    ) -> tuple[Tensor, None, ByConstant]:
        assert form.pool is None
        layout, u = flatten(membrane, None)
        e, u, response = layout.flatten(error), u.contiguous(), None if form.response is None else form.response.contiguous()
        if e.stride(1) != 1:  # the stride between steps does not matter
            e = e.contiguous()
        (steps, n), bf16 = u.shape, form.bf16_current and response is None
        delta = u.new_empty(steps if response is None else 1, n, dtype=torch.bfloat16 if bf16 else u.dtype)
        kernel, options = _compiled_in(formula, u, neuron)
        _launch(kernel, e, e.stride(0), u, response, delta, steps, n, **options)
        delta = layout.restore(delta)
        return delta if response is None else delta[0], None, ByConstant()


def _compiled_in(numbers: TSSLNumbers | SurrogateNumbers, membrane: Tensor, neuron: LIF) -> tuple[Any, dict[str, Any]]:
    """The kernel for a rule's numbers, and its named arguments: these numbers, in capitals, and derived ones."""
    options: dict[str, Any] = {name.upper(): float(x) if type(x) is int else x for name, x in numbers._asdict().items()}
    options |= _constants(neuron)
    if isinstance(numbers, SurrogateNumbers):
        return _surrogate_kernel, options
    quiet = rate = None
    if numbers.fallback == "quiet":
        quiet = membrane.new_empty((len(membrane) - 1) // 32, membrane.shape[1], dtype=torch.int32)
    if numbers.fallback == "rate":  # stays on the device: reading it here would wait for the GPU
        rate = (membrane > neuron.threshold).mean(dtype=membrane.dtype)
    options |= {"PER_TAU_M": 1 / neuron.tau_m, "QUIET": 1 / (4 * neuron.tau_s), "PER_WIDTH": 1 / options.pop("WIDTH")}
    return _tssl_kernel, options | {"quiet": quiet, "rate": rate, "RANGE": FALLBACK_RANGE, "RATE_LIMIT": RATE_LIMIT}


def _constants(neuron: LIF) -> dict[str, float]:
    return {
        "MEMBRANE_DECAY": float(neuron.membrane_decay),
        "SYNAPSE_DECAY": float(neuron.synapse_decay),
        "PER_TAU_S": 1 / neuron.tau_s,
        "THRESHOLD": float(neuron.threshold),
    }


def _launch(kernel: Any, x: Tensor, *arguments: Any, **options: Any) -> None:
    """Run a kernel that takes ``x, *arguments`` with one program for each block of neurons, on the device of ``x``."""
    grid = (triton.cdiv(arguments[-1], BLOCK),)
    with torch.cuda.device_of(x):
        kernel[grid](x, *arguments, **options, BLOCK=BLOCK, enable_fp_fusion=False)


# In the kernels, `steps` and `n` are the two axes of every sequence, names in capitals are compiled in, and code for a pointer
# that is None is left out. Like the reference, they multiply by spike trains, so that a NaN spreads in the same way. Equations
# (1) to (3) are those of neuron.py, (4) to (12) those of rules/tssl.py.


@triton.jit
def _forward_kernel(
    current: tl.tensor,
    response: tl.tensor,
    membrane: tl.tensor,
    psc: tl.tensor,
    steps: tl.int32,
    n: tl.int64,
    MEMBRANE_DECAY: tl.constexpr,
    SYNAPSE_DECAY: tl.constexpr,
    PER_TAU_S: tl.constexpr,
    THRESHOLD: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Current -> membrane and post-synaptic current, (1) to (3). With ``response``, ``current`` is one step: ``[1, n]``."""
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    carried = tl.zeros([BLOCK], DTYPE)
    a = tl.zeros([BLOCK], DTYPE)
    for t in range(steps):
        if response is None:
            i = tl.load(current + t * n + column, mask=inside, other=0.0).to(DTYPE)
        else:
            i = tl.load(current + column, mask=inside, other=0.0).to(DTYPE) * tl.load(response + t)
        u = i + carried  # (1)
        s = (u > THRESHOLD).to(u.dtype)  # (2)
        carried = MEMBRANE_DECAY * u * (1 - s)  # (1)
        a = SYNAPSE_DECAY * a + tl.where(u == u, s * PER_TAU_S, u)  # (3), a NaN goes on
        if membrane is not None:
            tl.store(membrane + t * n + column, u, mask=inside)
        tl.store(psc + t * n + column, a, mask=inside)


@triton.jit
def _tssl_kernel(
    psc_gradient: tl.tensor,
    psc_gradient_stride: tl.int64,
    membrane: tl.tensor,
    response: tl.tensor,
    delta: tl.tensor,
    steps: tl.int32,
    n: tl.int64,
    quiet: tl.tensor,
    rate: tl.tensor,
    MEMBRANE_DECAY: tl.constexpr,
    SYNAPSE_DECAY: tl.constexpr,
    PER_TAU_M: tl.constexpr,
    PER_TAU_S: tl.constexpr,
    THRESHOLD: tl.constexpr,
    QUIET: tl.constexpr,
    TIMING: tl.constexpr,
    INTER: tl.constexpr,
    RESET: tl.constexpr,
    LEAK: tl.constexpr,
    FALLBACK: tl.constexpr,
    CLIP: tl.constexpr,
    PER_WIDTH: tl.constexpr,
    RANGE: tl.constexpr,
    RATE_LIMIT: tl.constexpr,
    ERROR_RESET: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``∂L/∂a`` and membrane -> ``∂L/∂I``, (4) to (10); with ``response``, its sum over time.

    Whether a synapse is quiet depends on its past, the gradient on its future. A first pass forward stores the former, one
    bit for each step and neuron: the last 32 steps stay in a register, earlier ones go to ``quiet``, ``[(T - 1) // 32, n]``.
    """
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    word = tl.zeros([BLOCK], tl.int32)
    if FALLBACK == "quiet":
        a = tl.zeros([BLOCK], membrane.dtype.element_ty)
        for t in range(steps):
            bit = t % 32
            if (bit == 0) & (t > 0):
                tl.store(quiet + (t // 32 - 1) * n + column, word, mask=inside)
                word = tl.zeros([BLOCK], tl.int32)
            u = tl.load(membrane + t * n + column, mask=inside, other=0.0)
            a = SYNAPSE_DECAY * a + (u > THRESHOLD).to(u.dtype) * PER_TAU_S  # (3)
            word |= (a < QUIET).to(tl.int32) << bit
        tl.debug_barrier()  # another thread may read a word than wrote it

    error = tl.zeros([BLOCK], membrane.dtype.element_ty)
    reach = tl.zeros([BLOCK], membrane.dtype.element_ty)
    spike_error = tl.zeros([BLOCK], membrane.dtype.element_ty)
    total = tl.zeros([BLOCK], membrane.dtype.element_ty)
    u = tl.load(membrane + (steps - 1) * n + column, mask=inside, other=0.0)
    for steps_after in range(steps):
        t = steps - 1 - steps_after
        e = tl.load(psc_gradient + t * psc_gradient_stride + column, mask=inside, other=0.0).to(membrane.dtype.element_ty)
        step_before = (t - 1) * n + column
        before = tl.load(membrane + step_before, mask=inside & (step_before >= 0), other=0.0)
        s = (u > THRESHOLD).to(u.dtype)  # (2)
        if ERROR_RESET:
            own = e
            e += s * u * PER_TAU_M * spike_error  # (11)
            spike_error = tl.where(s > 0, own, spike_error * MEMBRANE_DECAY)  # (12)
        tail = SYNAPSE_DECAY * error
        error = e * PER_TAU_S + tail  # (4)
        g = tl.zeros([BLOCK], membrane.dtype.element_ty)
        if FALLBACK != "always":
            du = u - before * (1 - (before > THRESHOLD).to(u.dtype))
            rises = du > 0
            p = s * tl.where(rises, tl.minimum(1 / tl.where(rises, du, 1.0), CLIP), 0.0)  # (5)
            kept = reach * MEMBRANE_DECAY
            if INTER and TIMING:
                g += p * ((e - tail) * PER_TAU_S)  # (6)
            elif INTER:
                g += p * error  # (6)
            if RESET:
                g += reach * u * PER_TAU_M * p  # (7)
            if LEAK:
                g += kept * (1 - s)  # (8)
            reach = tl.where(s > 0, g, kept)  # (9)
        if FALLBACK != "never":
            x = tl.abs((u - THRESHOLD) * PER_WIDTH)
            x = tl.where(x > RANGE, RANGE, x)  # leaves a NaN alone
            z = tl.exp(-x)
            surrogate = error * (z / ((1 + z) * (1 + z))) * PER_WIDTH  # (10)
            if FALLBACK == "quiet":
                bit = t % 32
                if (bit == 31) & (steps_after > 0):
                    word = tl.load(quiet + (t // 32) * n + column, mask=inside, other=0)
                g = tl.where((word >> bit) & 1 != 0, surrogate, g)
            elif FALLBACK == "no-spike":
                g += surrogate * (1 - s)
            elif FALLBACK == "rate":
                g = tl.where(tl.load(rate) > RATE_LIMIT, g, surrogate)
            elif FALLBACK == "always":
                g = surrogate
            else:
                tl.static_assert(False, "unknown fallback")
        if response is None:
            tl.store(delta + t * n + column, g, mask=inside)
        else:
            total += tl.load(response + t) * g
        u = before
    if response is not None:
        tl.store(delta + column, total, mask=inside)


@triton.jit
def _surrogate_kernel(
    psc_gradient: tl.tensor,
    psc_gradient_stride: tl.int64,
    membrane: tl.tensor,
    response: tl.tensor,
    delta: tl.tensor,
    steps: tl.int32,
    n: tl.int64,
    MEMBRANE_DECAY: tl.constexpr,
    SYNAPSE_DECAY: tl.constexpr,
    PER_TAU_S: tl.constexpr,
    THRESHOLD: tl.constexpr,
    SHAPE: tl.constexpr,
    SLOPE: tl.constexpr,
    SCALE: tl.constexpr,
    THROUGH_RESET: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """``∂L/∂a`` and membrane -> ``∂L/∂I`` by ``rules/surrogate.py``; with ``response``, its sum over time."""
    column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < n
    error = tl.zeros([BLOCK], membrane.dtype.element_ty)
    carried = tl.zeros([BLOCK], membrane.dtype.element_ty)
    total = tl.zeros([BLOCK], membrane.dtype.element_ty)
    for steps_after in range(steps):
        t = steps - 1 - steps_after
        e = tl.load(psc_gradient + t * psc_gradient_stride + column, mask=inside, other=0.0).to(membrane.dtype.element_ty)
        u = tl.load(membrane + t * n + column, mask=inside, other=0.0)
        x = SLOPE * (u - THRESHOLD)
        distance = tl.abs(x)
        if SHAPE == "fast_sigmoid":
            psi = 1 / ((1 + distance) * (1 + distance))
        elif SHAPE == "sigmoid":
            z = tl.exp(-distance)
            psi = 4 * z / ((1 + z) * (1 + z))
        elif SHAPE == "atan":
            psi = 1 / (1 + (1.5707963267948966 * x) * (1.5707963267948966 * x))  # π/2
        elif SHAPE == "triangular":
            psi = tl.where(distance > 1, 0.0, 1 - distance)  # leaves a NaN alone
        elif SHAPE == "rectangular":
            psi = (distance < 0.5).to(u.dtype)
        elif SHAPE == "gaussian":
            psi = tl.exp(x * x * -0.5)
        elif SHAPE == "exponential":
            psi = tl.exp(-distance)
        else:
            tl.static_assert(False, "unknown surrogate shape")
        psi = SCALE * psi
        to_previous = MEMBRANE_DECAY * (1 - (u > THRESHOLD).to(u.dtype))
        if THROUGH_RESET:
            to_previous -= MEMBRANE_DECAY * u * psi
        error = e * PER_TAU_S + SYNAPSE_DECAY * error  # (4)
        carried = psi * error + to_previous * carried
        if response is None:
            tl.store(delta + t * n + column, carried, mask=inside)
        else:
            total += tl.load(response + t) * carried
    if response is not None:
        tl.store(delta + column, total, mask=inside)


INTERPRETED = not isinstance(_forward_kernel, triton.JITFunction)
"""Whether Triton's interpreter runs the kernels (TRITON_INTERPRET=1 when this file is imported)."""

ENGINE = Triton()
