"""EventProp: the exact gradient of spike times, in continuous time and without a grid.

Between events a leaky integrate-and-fire neuron with an exponential synapse obeys

    du/dt = -u/τm + I,    dI/dt = -I/τs                                             free flow             (1)
    I jumps by w/τs when a spike arrives through a synapse of weight w              arrival               (2)
    u jumps from θ to 0 when it reaches θ; that is the neuron's spike               spike                 (3)

Solving (1) over a gap Δ from (u, I) gives

    u(Δ) = u·exp(-Δ/τm) + I·K(Δ),    K(Δ) = (exp(-Δ/τm) - exp(-Δ/τs))/(1/τs - 1/τm)                       (4)

which has at most one maximum, and for I > 0 rises to it along a concave curve. So u crosses θ within a gap exactly if it is
above θ at the maximum or at the end of the gap, whichever comes first, and Newton's method from the left never oversteps.

Gradient: p = ∂L/∂u(t) and q = ∂L/∂I(t) are the adjoint variables (λ_V, λ_I up to sign and constants). Backwards in time

    dp/dt = p/τm,    dq/dt = q/τs - p                                               free flow             (5)
    ∂L/∂w += q/τs,    ∂L/∂t_arrival = (w/τs)·(q/τs - p), summed over targets        arrival               (6)
    p⁻ = (u̇⁺·p⁺ - ∂L/∂t_spike)/u̇⁻,    u̇⁺ = I,    u̇⁻ = I - θ/τm                     spike                 (7)

(5) is solved by the same K. (6): an arrival later by dt leaves the state after it behind by the jump of the flow, which is
(w/τs, -w/τs²). (7): a push du on the membrane moves the spike by -du/u̇⁻, and after the reset leaves a push (u̇⁺/u̇⁻)·du,
since a spike later by dt makes the membrane start from 0 later and lack u̇⁺·dt. Here ``∂L/∂t_spike`` comes from the loss and,
for a hidden neuron, from (6) of the layer above. A missing spike has no time and gets no gradient.

This is Wunderlich and Pehle's neuron with their weight set to w·τm/τs, and the limit of the neuron of ``neuron.py`` as its
step dt shrinks, with the same w: put τm/dt and τs/dt steps for the constants. The kernel ε of that neuron sums to 1 at any
dt, so its post-synaptic current carries the dt of Euler's method: a[t] -> dt·a(t) with τs·da/dt = -a + spikes, hence
``u[t] - u[t-1] = -(dt/τm)·u[t-1] + W·a[t] -> dt·(-u/τm + W·a)``.

Source: T. C. Wunderlich and C. Pehle, Scientific Reports 11, 12829 (2021), arXiv 2009.08378.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsslbp.neuron import LIF
from tsslbp.utils.errors import UserError


class Train(NamedTuple):
    """Spikes of a group of neurons: times, ``[E]``, ascending, float64; and from which neuron each is, ``[E]``, integer."""

    times: Tensor
    source: Tensor


class Spikes(NamedTuple):
    """A layer's spikes and the current I at each, ``[E]``, which is all that (7) needs of the forward pass."""

    train: Train
    current: Tensor


class Case(NamedTuple):
    """A random network with input and target output; time in the unit of the neuron's constants."""

    neuron: LIF
    weights: list[Tensor]
    inputs: Train
    target: Train
    until: float


def simulate(weights: Sequence[Tensor], inputs: Train, neuron: LIF, until: float) -> list[Spikes]:
    """Run a feed-forward network from rest until a given time, equations (1) to (3); returns every layer's spikes.

    ``weights`` holds one matrix per layer, ``[N, M]``, to from, float64; the neuron's time constants are in the unit of time
    of ``inputs``. Raises UserError for inputs out of order, beyond 0 to ``until``, or from a neuron the weights do not have,
    and for weights that are not finite or do not fit one another.
    """
    times, source = inputs
    if not weights or any(after.shape[1] != len(before) for before, after in itertools.pairwise(weights)):
        raise UserError(f"weights are {[[*w.shape] for w in weights]}; give one matrix per layer, [N, M], to from")
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise UserError("a weight is NaN or infinite; look for what made it so")
    if len(times) and not (times[0] >= 0 and (times.diff() >= 0).all() and times[-1] <= until):
        raise UserError(f"input spikes must be sorted by time and lie between 0 and until = {until}")
    if len(times) and not 0 <= int(source.min()) <= int(source.max()) < weights[0].shape[1]:
        raise UserError(f"input spikes come from neurons up to {int(source.max())}; the weights have {weights[0].shape[1]}")
    layers: list[Spikes] = []
    for weight in weights:
        before = layers[-1].train if layers else inputs
        jumps = weight[:, before.source] / neuron.tau_s
        fired = sorted(
            (time, index, current)
            for index, row in enumerate(jumps.tolist())
            for time, current in _fire(zip(before.times.tolist(), row, strict=True), neuron, until)
        )
        when, who, current = torch.tensor(fired, dtype=torch.float64).view(-1, 3).T
        layers.append(Spikes(Train(when, who.long()), current))
    return layers


def adjoint(
    weights: Sequence[Tensor], inputs: Train, neuron: LIF, run: Sequence[Spikes], time_gradient: Tensor
) -> tuple[list[Tensor], Tensor]:
    """``∂L/∂w`` of every layer and ``∂L/∂t`` of every input spike, equations (5) to (7).

    Takes what :func:`simulate` took, the run it returned, and ``∂L/∂t`` of every output spike, ``[E]``; UserError else.
    """
    if time_gradient.shape != run[-1].train.times.shape:
        raise UserError(f"time_gradient is {list(time_gradient.shape)}; the output has {len(run[-1].current)} spikes")
    befores = [inputs, *(spikes.train for spikes in run[:-1])]
    gradients: list[Tensor] = []
    for weight, before, spikes in zip(reversed(weights), reversed(befores), reversed(run), strict=True):
        gradient, time_gradient = _layer_adjoint(weight, before, neuron, spikes, time_gradient)
        gradients.insert(0, gradient)
    return gradients, time_gradient


def van_rossum(train: Train, target: Train, tau: float, smoothing: int = 1) -> Tensor:
    """``½ Σ ∫ (f - g)² dt`` of two sets of smoothed spike trains, summed over neurons; differentiable in the times.

    ``smoothing`` is 1 for the kernel ``exp(-t/τ)/τ``, the synapse's, or 2 for that twice, ``t·exp(-t/τ)/τ²``; UserError else.
    Source: M. van Rossum, Neural Computation 13(4), 2001, solved for these kernels over all time.
    """
    if smoothing not in (1, 2):
        raise UserError(f"smoothing is {smoothing}; it must be 1 or 2")
    times, source = (torch.cat(pair) for pair in zip(train, target, strict=True))
    sign = torch.cat([torch.ones_like(train.times), -torch.ones_like(target.times)])
    apart = (times[:, None] - times).abs() / tau
    overlap = torch.exp(-apart) / (2 * tau) * (1 if smoothing == 1 else (1 + apart) / 2)
    return 0.5 * (sign[:, None] * sign * overlap)[source[:, None] == source].sum()


def loss_gradient(case: Case, smoothing: int = 1) -> tuple[list[Tensor], list[Spikes]]:
    """Exact gradient of :func:`van_rossum` for a case, by every weight, and the run it belongs to."""
    run = simulate(case.weights, case.inputs, case.neuron, case.until)
    times = run[-1].train.times.clone().requires_grad_()
    loss = van_rossum(Train(times, run[-1].train.source), case.target, case.neuron.tau_s, smoothing)
    (time_gradient,) = torch.autograd.grad(loss, times)
    return adjoint(case.weights, case.inputs, case.neuron, run, time_gradient)[0], run


def random_case(seed: int, layers: Sequence[int], spikes: int = 4) -> Case:
    """A random network whose neurons mostly fire a few times, of given sizes from the input on (UserError below two).

    Each input and each target train has ``spikes`` spikes, uniform over 30 units of time, of which τm = 6 and τs = 3; then the
    network has 30 more to fall silent.
    """
    if len(layers) < 2 or min(layers) < 1:
        raise UserError(f"layers is {tuple(layers)}; give the sizes of input and output, and of what is between, all positive")
    generator = torch.Generator().manual_seed(seed)

    def uniform(size: int) -> Train:
        times, order = (30 * torch.rand(size * spikes, generator=generator, dtype=torch.float64)).sort()
        return Train(times, order % size)

    def normal(to: int, source: int) -> Tensor:
        return (2 + 2 * torch.randn(to, source, generator=generator, dtype=torch.float64)) / source

    weights = [normal(to, source) for source, to in itertools.pairwise(layers)]
    return Case(LIF(6, 3), weights, uniform(layers[0]), uniform(layers[-1]), 60.0)


def experiment(seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """The adjoint gradient against central differences, weight by weight, for networks with one and two hidden layers.

    An error is the largest of a layer's, over the largest gradient there; passed if all are below 1e-6.
    """
    nets, width, worst, weights, spikes = 2 if quick else 40, 1e-6, 0.0, 0, 0
    stencil = ((1, 8), (-1, -8), (2, -1), (-2, 1))  # of fourth order, as the slope changes fast where a spike is slow
    for index in range(nets):
        case = random_case(seed + index, (5, 4, 3) if index % 2 else (5, 4, 3, 2))
        exact, run = loss_gradient(case)
        for weight, gradient in zip(case.weights, exact, strict=True):
            values, error = weight.view(-1), -gradient.flatten()
            for place, value in enumerate(values.tolist()):
                for shift, factor in stencil:
                    values[place] = value + shift * width
                    output = simulate(case.weights, case.inputs, case.neuron, case.until)[-1].train
                    error[place] += factor * van_rossum(output, case.target, case.neuron.tau_s) / (12 * width)
                values[place] = value
            worst = max(worst, (error.abs().max() / gradient.abs().max().clamp(min=1e-9)).item())  # 0 below silent outputs
            weights += weight.numel()
        spikes += sum(len(layer.current) for layer in run)
    return {"seed": seed, "nets": nets, "weights": weights, "spikes": spikes, "relative_error": worst, "passed": worst < 1e-6}


def _fire(arrivals: Iterable[tuple[float, float]], neuron: LIF, until: float) -> Iterator[tuple[float, float]]:
    """Spike times of one neuron and its current there, from the times and jumps of what arrives."""
    now = u = current = 0.0
    for at, jump in (*arrivals, (until, 0.0)):
        while (wait := _crossing(u, current, at - now, neuron)) is not None:
            now, u, current = now + wait, 0.0, current * math.exp(-wait / neuron.tau_s)
            yield now, current
        u, current = _state(u, current, at - now, neuron)
        now, current = at, current + jump


def _crossing(u: float, current: float, gap: float, neuron: LIF) -> float | None:
    """How long until u reaches θ, or None if it does not within the gap."""
    if current <= 0:
        return None
    tau_m, tau_s, kappa = neuron.tau_m, neuron.tau_s, 1 / neuron.tau_s - 1 / neuron.tau_m
    # du/dt = 0 where (1 - exp(-κΔ))/κ = top.
    top = tau_s * (1 - u / (tau_m * current))
    if top <= 0:
        return None
    # The maximum; at no time if u comes from far below and rises to 0 for ever.
    peak = math.inf if kappa * top >= 1 else -math.log1p(-kappa * top) / kappa if kappa else top
    last, wait, after = min(gap, peak), -1.0, 0.0
    if _state(u, current, last, neuron)[0] <= neuron.threshold:
        return None
    while after > wait:  # until steps are below rounding
        wait = after
        here, drive = _state(u, current, wait, neuron)
        slope = drive - here / tau_m
        after = min(wait + (neuron.threshold - here) / slope, last) if slope > 0 else wait
    return wait


def _state(u: float, current: float, gap: float, neuron: LIF) -> tuple[float, float]:
    """u and I after a gap, equation (4)."""
    membrane_decay, synapse_decay, response = _flow(gap, neuron)
    return u * membrane_decay + current * response, current * synapse_decay


def _flow(gap: float, neuron: LIF) -> tuple[float, float, float]:
    """``exp(-Δ/τm), exp(-Δ/τs), K(Δ)`` of equation (4)."""
    kappa = abs(1 / neuron.tau_s - 1 / neuron.tau_m)
    # K is symmetric in the two time constants; with the longer one in front nothing overflows, and expm1 bears equal ones.
    spread = -math.expm1(-kappa * gap) / kappa if kappa else gap
    response = math.exp(-gap / max(neuron.tau_m, neuron.tau_s)) * spread
    return math.exp(-gap / neuron.tau_m), math.exp(-gap / neuron.tau_s), response


def _layer_adjoint(weight: Tensor, before: Train, neuron: LIF, spikes: Spikes, time_gradient: Tensor) -> tuple[Tensor, Tensor]:
    """``∂L/∂w`` and ``∂L/∂t`` of the arriving spikes, from ``∂L/∂t`` of the layer's own."""
    arrivals, tau_s = len(before.times), neuron.tau_s
    gradient, to_before = torch.zeros_like(weight), torch.zeros_like(before.times)
    slope = spikes.current - neuron.threshold / neuron.tau_m
    p, q = torch.zeros(2, len(weight), dtype=weight.dtype)
    times, order = torch.cat([before.times, spikes.train.times]).sort(descending=True)
    now = times[0].item() if len(times) else 0.0
    for time, event in zip(times.tolist(), order.tolist(), strict=True):
        membrane_decay, synapse_decay, response = _flow(now - time, neuron)
        now, p, q = time, p * membrane_decay, q * synapse_decay + p * response  # (5)
        if event < arrivals:
            source = before.source[event]
            gradient[:, source] += q / tau_s  # (6)
            to_before[event] = weight[:, source] @ (q / tau_s - p) / tau_s
        else:
            event -= arrivals
            index = spikes.train.source[event]
            p[index] = (spikes.current[event] * p[index] - time_gradient[event]) / slope[event]  # (7)
    return gradient, to_before
