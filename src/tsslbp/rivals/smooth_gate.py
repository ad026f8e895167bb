"""Gradient descent for spiking networks with a differentiable synapse: a gate in place of the threshold.

A synapse that responds to the crossing of an active zone, instead of a threshold, makes the spike a smooth event:

    τm·dv/dt = f(v, I) = F(v) + I,    F(v) = -v (LIF) or v² (QIF)        membrane                      (1)
    τs·ds/dt = -s + g(v)·dv/dt,       g >= 0, ∫ g dv = 1                 synaptic current              (2)
    I = W·s + U·x + b,    y = O·s                                        network                       (3)

A full crossing injects the charge ``∫ g dv = 1`` at any speed; an unfinished one injects a part and removes it when v turns
back, so spikes appear and vanish gradually. At ``peak``, above the zone, the membrane is reset to ``reset``, below it; the gate
is zero at both. A delay at the peak is the same delay after the reset, which multiplies a deviation of v by

    R = f(reset, I)/f(peak, I)                                                                         (4)

R is 1 for a QIF with ``reset = -peak``, whose potential lies on a circle. The gradient fails to exist only where the potential
just touches the peak, ``f(peak, I) = 0``: for a LIF at I = peak, for a QIF at an inhibition as strong as I = -peak².

Grid: explicit Euler, one step per unit of time. G is the primitive of g; z[t] counts the step's resets, hardly ever over 1:

    v⁻   = v[t-1] + f(v[t-1], I[t])/τm,    I[t] = W·s[t-1] + U·x[t] + b                                (5)
    v[t] = v⁻, or where v⁻ > peak: reset + R·(v⁻ - peak) - (z[t] - 1)·(peak - reset)                   (6)
    s[t] = (1 - 1/τs)·s[t-1] + q[t]/τs,    q[t] = z[t] + G(v[t]) - G(v[t-1])                           (7)

(6) spends the rest of the step at the speed after the reset, so that nothing jumps when a spike crosses a grid point; (7)
integrates the gate exactly. As the zone narrows, q becomes a spike train and (7) the synapse of ``neuron.py``.

Gradient: the adjoint (Pontryagin) equations of (1) to (4) for the cost ``∫ l(y) dt`` are

    -τm·dp/dt = F'(v)·p - τm·g(v)·dπ/dt,   with p multiplied by R going back through a reset           (8)
    -τs·dπ/dt = -π + Oᵀ·∂l/∂y + Wᵀ·p/τm,   ∂C/∂W = ∫ (p/τm)·sᵀ dt                                      (9)

π is the costate of the charge; p is that of v plus g·π, a sum in which g' cancels. The code is the exact adjoint of the grid,
(5) to (7), which has the same form. From e = ∂L/∂y:

    π[t] = (1 - 1/τs)·π[t+1] + (Oᵀ·e[t] + Wᵀ·δ[t+1])/τs                                                (10)
    p[t] = g(v[t])·(π[t] - π[t+1]) + p[t+1]·∂v[t+1]/∂v[t]                                              (11)
    δ[t] = p[t]·∂v[t]/∂I[t],    ∂L/∂W = Σ δ[t]·s[t-1]ᵀ,   ∂L/∂U = Σ δ[t]·x[t]ᵀ,   ∂L/∂b = Σ δ[t]       (12)

Source: D. Huh and T. J. Sejnowski, NeurIPS 2018, arXiv 1706.04698; the reset (4) and the grid are this module's own.
"""

import math
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tsslbp.utils.errors import UserError, unknown

Drift = Literal["lif", "qif"]


@dataclass(frozen=True)
class GatedNeuron:
    """A neuron and its differentiable synapse, equations (1) and (2).

    Args:
        drift: F, ``"lif"`` or ``"qif"``.
        tau_m: membrane time constant in steps, at least 1; for a QIF above ``-2·reset``, or steps would overtake one another.
        tau_s: synaptic time constant in steps, at least 1.
        threshold: centre of the active zone.
        width: width of the active zone, positive.
        peak: potential at which the neuron is reset, not below the top of the zone.
        reset: potential after the reset and at the start, not above the bottom of the zone.

    Raises:
        UserError: an unknown drift, or a constant outside its range.
    """

    drift: Drift
    tau_m: float
    tau_s: float
    threshold: float
    width: float
    peak: float
    reset: float

    def __post_init__(self) -> None:
        if self.drift not in get_args(Drift):
            raise unknown("drift", str(self.drift), get_args(Drift))
        if not (1 <= self.tau_m < math.inf and 1 <= self.tau_s < math.inf):
            raise UserError(f"tau_m {self.tau_m} and tau_s {self.tau_s} must be finite and at least 1 step")
        bottom, top = self.threshold - self.width / 2, self.threshold + self.width / 2
        if not (self.width > 0 and -math.inf < self.reset <= bottom and top <= self.peak < math.inf):
            raise UserError(f"width must be positive and reset {self.reset} <= zone [{bottom}, {top}] <= peak {self.peak}")
        if self.drift == "qif" and not self.tau_m > -2 * self.reset:
            raise UserError(f"tau_m is {self.tau_m}; for a QIF it must exceed -2·reset = {-2 * self.reset}: take finer steps")

    def flow(self, v: Tensor | float, current: Tensor) -> Tensor:
        """f(v, I)."""
        return (v * v if self.drift == "qif" else -v) + current

    def flow_slope(self, v: Tensor) -> Tensor:
        """F'(v)."""
        return 2 * v if self.drift == "qif" else torch.full_like(v, -1)

    def gate(self, v: Tensor) -> Tensor:
        """g(v): a raised cosine over the active zone, which is smooth, unlike a box."""
        return (1 + torch.cos(2 * math.pi * self._place(v))) / self.width

    def charge(self, v: Tensor) -> Tensor:
        """G(v), the primitive of the gate: 0 below the active zone, 1 above it."""
        x = self._place(v)
        return 0.5 + x + torch.sin(2 * math.pi * x) / (2 * math.pi)

    def reset_gain(self, current: Tensor) -> Tensor:
        """R, equation (4)."""
        return self.flow(self.reset, current) / self.flow(self.peak, current)

    def _place(self, v: Tensor) -> Tensor:
        return ((v - self.threshold) / self.width).clamp(-0.5, 0.5)


class Weights(NamedTuple):
    """W ``[N, N]``, U ``[N, C]``, b ``[N]`` and O ``[K, N]`` of equation (3), or the gradients by them."""

    recurrent: Tensor
    input: Tensor
    bias: Tensor
    readout: Tensor


class Run(NamedTuple):
    """v, I, z and s, each ``[T, B, N]``, and y ``[T, B, K]``."""

    membrane: Tensor
    current: Tensor
    resets: Tensor
    synapse: Tensor
    output: Tensor


@torch.no_grad()
def simulate(weights: Weights, x: Tensor, neuron: GatedNeuron) -> Run:
    """Run the network on the input x ``[T, B, C]``, equations (5) to (7), from ``v = reset`` and ``s = 0``.

    Raises:
        UserError: shapes that do not fit one another.
    """
    size, shapes = weights.bias.numel(), [list(value.shape) for value in weights]
    if x.dim() != 3 or shapes[:3] != [[size, size], [size, x.shape[2]], [size]] or shapes[3][1:] != [size]:
        raise UserError(f"input [T, B, C] takes W [N, N], U [N, C], b [N] and O [K, N]; got {list(x.shape)} and {shapes}")
    drive = x @ weights.input.T + weights.bias
    membrane, current, resets, synapse = (torch.empty_like(drive) for _ in range(4))
    v = torch.full_like(drive[0], neuron.reset)
    s, charge, height = torch.zeros_like(v), neuron.charge(v), neuron.peak - neuron.reset
    for t, drive_t in enumerate(drive):
        current[t] = current_t = drive_t + s @ weights.recurrent.T
        free = v + neuron.flow(v, current_t) / neuron.tau_m
        # the second follows from the first up to rounding, but R needs it
        over = (free > neuron.peak) & (neuron.flow(neuron.peak, current_t) > 0)
        past = neuron.reset_gain(current_t) * (free - neuron.peak)
        again = (past / height).floor().clamp(min=0)
        resets[t] = z = torch.where(over, 1 + again, 0)
        membrane[t] = v = torch.where(over, neuron.reset + past - again * height, free)
        before, charge = charge, neuron.charge(v)
        synapse[t] = s = s + (z + charge - before - s) / neuron.tau_s
    return Run(membrane, current, resets, synapse, synapse @ weights.readout.T)


@torch.no_grad()
def adjoint(weights: Weights, x: Tensor, neuron: GatedNeuron, run: Run, error: Tensor) -> Weights:
    """Gradient by the weights, equations (10) to (12), from ``error = ∂L/∂y`` ``[T, B, K]`` and what :func:`simulate` returned.

    Raises:
        UserError: an error of another shape than the output.
    """
    if error.shape != run.output.shape:
        raise UserError(f"error must have the output's shape {list(run.output.shape)}; got {list(error.shape)}")
    v_before = torch.cat([torch.full_like(run.membrane[:1], neuron.reset), run.membrane[:-1]])
    s_before = torch.cat([torch.zeros_like(run.synapse[:1]), run.synapse[:-1]])
    was_reset = run.resets > 0
    gain = torch.where(was_reset, neuron.reset_gain(run.current), 1.0)
    gain_slope = torch.where(was_reset, (1 - gain) / neuron.flow(neuron.peak, run.current), 0.0)  # ∂R/∂I
    past = v_before + neuron.flow(v_before, run.current) / neuron.tau_m - neuron.peak
    by_current = gain / neuron.tau_m + gain_slope * past
    by_before = gain * (1 + neuron.flow_slope(v_before) / neuron.tau_m)

    gate, to_synapse, delta = neuron.gate(run.membrane), error @ weights.readout, torch.empty_like(run.membrane)
    pi = delta_next = carried = torch.zeros_like(delta[0])
    for t in reversed(range(len(delta))):
        pi_next, pi = pi, pi + (to_synapse[t] + delta_next @ weights.recurrent - pi) / neuron.tau_s  # (10)
        p = gate[t] * (pi - pi_next) + carried  # (11)
        delta[t] = delta_next = p * by_current[t]
        carried = p * by_before[t]
    outer = partial(torch.tensordot, dims=([0, 1], [0, 1]))
    return Weights(outer(delta, s_before), outer(delta, x), delta.sum((0, 1)), outer(error, run.synapse))


def delayed_xor(trials: int, delay: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Delayed-memory XOR: two pulses of either sign on channel 0, then a go cue on channel 1; ``delay`` steps between them.

    Returns:
        Input ``[T, B, 2]``; target output ``[T, B, 1]``, after the cue 1 for two signs and -1 for one, at other times 0; weight
        of each square error ``[T, B, 1]``, with sum 1 after the cue and 1 at other times.
    """
    pulse, answer = 5, 15
    first, second = torch.randint(0, 2, (2, trials), generator=generator) * 2 - 1
    wait, wait_more = torch.randint(delay[0], delay[1] + 1, (2, trials), generator=generator)
    onset, cue = pulse + wait, 2 * pulse + wait + wait_more
    time = torch.arange(3 * pulse + 2 * delay[1] + answer).unsqueeze(1).expand(-1, trials)

    def during(start: Tensor | int, steps: int) -> Tensor:
        return ((time >= start) & (time < start + steps)).float()

    x = torch.stack([first * during(0, pulse) + second * during(onset, pulse), during(cue, pulse)], dim=2)
    window = during(cue + pulse, answer)
    weight = window / window.sum() + (1 - window) / (1 - window).sum()
    return x, (-first * second * window).unsqueeze(2), weight.unsqueeze(2)


def experiment(seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """Delayed-memory XOR, learnt by 40 QIF neurons with Adam on the adjoint's gradients.

    The paper has 80 QIF neurons and delays near 700 ms; here they are two to four synaptic time constants (quick: at most
    one). ``narrow`` is the trained network with its gates narrowed to plain spikes.
    """
    neuron = GatedNeuron("qif", tau_m=10, tau_s=15, threshold=2, width=1, peak=3, reset=-3)
    size, batch, rate = 40, 64, 0.05
    delay, updates = ((5, 15), 80) if quick else ((30, 60), 500)
    generator = torch.Generator().manual_seed(seed)
    shapes = {(size, size): 10 / math.sqrt(size), (size, 2): 3.0, (size,): 0.3, (1, size): 1.0}
    weights = Weights(*(scale * torch.randn(shape, generator=generator) for shape, scale in shapes.items()))
    held_out = delayed_xor(256, delay, generator)

    def score(neuron: GatedNeuron) -> dict[str, float]:
        x, wanted, weight = held_out
        run = simulate(weights, x, neuron)
        accuracy = ((run.output * wanted).sum(0) > 0).float().mean()
        error, resets = (weight * (run.output - wanted) ** 2).sum(), run.resets.sum(0).mean()
        return {"accuracy": accuracy.item(), "error": error.item(), "resets_per_neuron": resets.item()}

    before = score(neuron)
    optimizer = torch.optim.Adam(weights, lr=rate)
    for update in range(updates):
        x, wanted, weight = delayed_xor(batch, delay, generator)
        run = simulate(weights, x, neuron)
        gradient = adjoint(weights, x, neuron, run, 2 * weight * (run.output - wanted))
        for parameter, its_gradient in zip(weights, gradient, strict=True):
            parameter.grad = its_gradient
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.param_groups[0]["lr"] = rate * (1 - update / updates)
        optimizer.step()
    after, narrow = score(neuron), score(replace(neuron, width=0.01))
    sizes = {"seed": seed, "quick": quick, "neurons": size, "batch": batch, "updates": updates, "delay": list(delay)}
    passed = min(after["accuracy"], narrow["accuracy"]) >= 0.95 and after["error"] < 0.8 * before["error"]
    return {**sizes, "neuron": asdict(neuron), "before": before, "after": after, "narrow": narrow, "passed": passed}
