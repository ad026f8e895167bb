"""Training with weights of a few bits, and leaks that are small fractions of a power of two.

The weights of each output channel (or neuron) lie on their own grid, whose largest magnitude, the ``limit`` L, is learned with
them:

    step = L/Q        q = nearest(clip(w/step, -Q, Q))        effective weight = step·q                                (1)

``nearest`` takes the nearest of the grid's whole numbers, the largest of which is Q:

    8, 4 and 3 bits    -Q, …, -1, 0, 1, …, Q with Q = 127, 7, 3        2 bits    -3, -1, 1, 3        ternary    -1, 0, 1

The gradient goes straight through the rounding, but not to weights beyond the limit:

    ∂L/∂w = g where |w| <= L, else 0        ∂L/∂limit = Σ g·r/Q / sqrt(n·Q),  r = q - w/step, or q beyond the limit      (2)

for an error g at the n effective weights of a channel. In a recurrent layer W and V count apart, each with its own n.

A leak is the share of a membrane potential, or of a synaptic current, that is lost in a step, 1/τ. A chip computes it as a few
shifts and additions if it is a small fraction ``j/2^k`` (:func:`leak`). The network's input is rounded to ``1/64``
(:func:`on_grid`).

Source of (1) and (2): S. Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv 1902.08153.
"""

import math
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from tsslbp.functional import refuse_second_derivative
from tsslbp.neuron import LIF
from tsslbp.utils.errors import UserError, check_number, unknown

Bits = Literal["float", "8", "4", "3", "2", "ternary"]
"""How weights are stored: in floating point, or in this many bits."""
LARGEST = {"8": 127, "4": 7, "3": 3, "2": 3, "ternary": 1}
"""Q by the number of bits."""
INPUT_UNIT = 64
INPUT_LARGEST = 31 * INPUT_UNIT
"""The network's input is a whole number of 1/INPUT_UNIT, at most this many in magnitude. Counts stay exact."""
NEAR, LONGEST = 0.07, 2**20
"""Largest relative error of a small fraction for a leak, and the longest finite time constant."""
SMALLEST_LIMIT = 1e-8
"""Keeps the step of a channel of zeros above 0."""

T = TypeVar("T")


def check(bits: str) -> None:
    """Raises UserError unless ``bits`` is one of :data:`Bits`."""
    if bits not in get_args(Bits):
        raise unknown("bits", str(bits), get_args(Bits))


def quantised(weight: Tensor, limit: Tensor, bits: str) -> Tensor:
    """Effective weights, equation (1): ``[out, ...], [out] -> [out, ...]``. Differentiable by equation (2).

    Quantising twice changes at most the last digit of the floating-point numbers.
    """
    return _Quantised.apply(weight, limit, bits)


def whole_numbers(weight: Tensor, limit: Tensor, bits: str) -> tuple[Tensor, Tensor]:
    """``q`` and ``step`` of equation (1): the weights as whole numbers, ``[out, ...]``, and the size of 1, ``[out]``."""
    q, step, _ = _split(weight, limit, bits)
    return q, step.flatten()


def fitted_limit(weight: Tensor, bits: str) -> Tensor:
    """The limits ``[out]`` with the least squared error of quantising weights ``[out, ...]``.

    The best of 60 shares of each channel's largest weight.
    """
    if weight.is_meta:  # it has no values, and PyTorch computes the shapes of all this in Python
        return weight.new_empty(len(weight))
    rows = weight.detach().flatten(1)
    largest = rows.abs().amax(1).clamp(min=SMALLEST_LIMIT)
    best, least = largest, torch.full_like(largest, math.inf)
    for tried in range(60):
        limit = 0.05 ** (tried / 59) * largest
        q, step, _ = _split(rows, limit, bits)
        error = (step * q - rows).square().sum(1)
        best, least = torch.where(error < least, limit, best), torch.minimum(error, least)
    return best


def _split(weight: Tensor, limit: Tensor, bits: str) -> tuple[Tensor, Tensor, Tensor]:
    """``q``, ``step`` in a shape that broadcasts, and ``w/step``."""
    step = (limit.abs().clamp(min=SMALLEST_LIMIT) / LARGEST[bits]).view(-1, *[1] * (weight.dim() - 1))
    x = weight / step
    clipped = x.clamp(-LARGEST[bits], LARGEST[bits])
    # Four numbers that are symmetric about 0 leave out 0 itself.
    q = 2 * ((clipped - 1) / 2).round() + 1 if bits == "2" else clipped.round()
    return q, step, x


class _Quantised(torch.autograd.Function):
    """Equations (1) and (2)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, limit: Tensor, bits: str) -> Tensor:
        q, step, x = _split(weight, limit, bits)
        ctx.save_for_backward(q, x, limit)
        ctx.largest = LARGEST[bits]
        return step * q

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative("the gradient of quantised weights")
        q, x, limit = ctx.saved_tensors
        # The largest weight often is the limit, and then rounding brings w/step to either side of Q.
        inside, n = x.abs() <= ctx.largest * (1 + 4 * torch.finfo(x.dtype).eps), q[0].numel()
        rest = (gradient * torch.where(inside, q - x, q)).flatten(1).sum(1) / ctx.largest
        return gradient * inside, rest * limit.sign() / math.sqrt(n * ctx.largest), None


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * INPUT_UNIT + 0.5).floor().clamp(-INPUT_LARGEST, INPUT_LARGEST) / INPUT_UNIT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def on_grid(x: Tensor) -> Tensor:
    """Network input rounded to 1/64, half upwards, and cut at ±31; the gradient goes straight through."""
    return _Rounded.apply(x)


def entering(x: Tensor, bits: str) -> Tensor:
    """Input of a network with weights of these bits: :func:`on_grid` unless ``"float"``; float32 if it has 16 bits or
    fewer, in which the input synapse would round."""
    x = x.float() if x.dtype.itemsize < torch.float32.itemsize else x
    return x if bits == "float" else on_grid(x)


def leak(tau: float, near: float = NEAR) -> tuple[int, int]:
    """``(j, k)`` with the smallest k for which ``j/2^k`` is 1/τ within a relative error ``near``; ``(0, 0)`` for τ = inf.

    Raises:
        UserError: a time constant of more than a million steps that is not infinite.
    """
    if math.isinf(tau):
        return 0, 0
    if tau > LONGEST:
        raise UserError(
            f"a time constant of {tau:g} steps leaks too little for a small fraction; take {LONGEST} at most, or inf"
        )
    k = 0
    while abs((j := round(2**k / tau)) * tau / 2**k - 1) > near:
        k += 1
    return j, k


def with_small_leaks(settings: T) -> T:
    """Settings of a network, or of its training, with the nearest τm and τs whose leaks are small fractions.

    Settings of floating-point networks and of ANNs stay as they are.

    Raises:
        UserError: time constants out of range, and those that are learned or differ from neuron to neuron, whose leaks would
            not be small fractions.
    """
    if settings.bits == "float" or settings.neuron != "spiking":  # type: ignore[attr-defined]
        return settings
    if varied := {"tau_m", "tau_s"} & {*settings.learn, *settings.per_neuron}:  # type: ignore[attr-defined]
        raise UserError(
            f"few bits need one fixed leak for all neurons; leave {', '.join(sorted(varied))} out of --learn and --per-neuron"
        )
    for name in ("tau_m", "tau_s"):
        check_number(name, getattr(settings, name), "a plain number, as few bits need one fixed leak")
    neuron = LIF(settings.tau_m, settings.tau_s)  # type: ignore[attr-defined]  # refuses what is no time constant
    fractions = {"tau_m": leak(neuron.tau_m), "tau_s": leak(neuron.tau_s)}
    taus = {name: 2**k / j if j else math.inf for name, (j, k) in fractions.items()}
    return replace(settings, **taus)  # type: ignore[type-var]
