"""e-prop: recurrent networks of spiking neurons learning online, from eligibility traces and a fed-back error.

Neurons are leaky integrate and fire (LIF), those with adaptation have a moving threshold (ALIF, else β = 0); decays are
``exp(-1/τ)``: α of the membrane, ρ of the threshold, κ of the readout. With ``x`` the inputs and W over inputs and neurons:

    v_j[t] = α v_j[t-1] + Σ_i W_ji p_i[t] - θ z_j[t-1]     membrane, p[t] = (x[t], z[t-1])                        (1)
    a_j[t] = ρ a_j[t-1] + z_j[t-1]                         adaptation                                            (2)
    z_j[t] = 1 if v_j[t] > θ + β a_j[t], else 0            spike, unless refractory                              (3)
    y_k[t] = κ y_k[t-1] + Σ_j V_kj z_j[t]                  readout                                               (4)

The gradient factorises over time, exactly: ``dE/dW_ji = Σ_t (dE/dz_j[t]) e_ji[t]``. The eligibility trace ``e`` is the part
of ``dz_j[t]/dW_ji`` that stays inside neuron j, with a stand-in ψ for the derivative of (3):

    ψ_j[t]  = (γ/θ) max(0, 1 - |v_j[t] - θ - β a_j[t]|/θ)  pseudo-derivative, 0 while refractory                 (5)
    e_ji[t] = ψ_j[t] (p̄_i[t] - β ε_ji[t])                  eligibility trace, p̄[t] = α p̄[t-1] + p[t]            (6)
    ε_ji[t] = ρ ε_ji[t-1] + e_ji[t-1]                      its slow part, da_j[t]/dW_ji by (2)                   (7)

e-prop replaces ``dE/dz`` by what is known at the time, the output error sent through feedback weights B:

    ΔW_ji ∝ -Σ_t (Σ_k B_jk (y_k - y*_k)[t]) ē_ji[t],       ē[t] = κ ē[t-1] + e[t]                                 (8)

With B = Vᵀ this is the gradient of ½ Σ (y - y*)² that takes no path through the recurrent spikes and the reset.

Source: G. Bellec, F. Scherr et al., Nature Communications 11, 3625, 2020, and its published code (no readout bias). The paper
writes (7) as ε[t+1] = ψ p̄ + (ρ - ψβ) ε, which is the same by (6).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.utils.errors import UserError, check_positive, unknown

Feedback = Literal["symmetric", "random", "adaptive"]

DECAY = 0.01  # of readout and feedback, adaptive feedback only

CUE, RECALL = 40, 40  # steps of a cue, the first quarter silent, and of the recall
CUE_RATE = 0.06  # spikes per step of an input that is on


@dataclass(frozen=True)
class Network:
    """Sizes and constants.

    Args:
        inputs, lif, alif, outputs: how many inputs, neurons without and (after them) with adaptation, and readouts.
        tau_m, tau_out, tau_a: time constants of membrane, readout and adaptation, in steps.
        beta: rise β of an adaptive neuron's threshold by one spike.
        threshold: θ at rest.
        damping: height γ of the pseudo-derivative times the threshold.
        refractory: steps after a spike in which there is no other.

    Raises:
        UserError: a size or constant out of range.
    """

    inputs: int
    lif: int
    alif: int
    outputs: int
    tau_m: float = 20.0
    tau_out: float = 20.0
    tau_a: float = 2000.0
    beta: float = 0.02
    threshold: float = 0.6
    damping: float = 0.3
    refractory: int = 0

    def __post_init__(self) -> None:
        if min(self.inputs, self.outputs, self.neurons) < 1 or min(self.lif, self.alif, self.refractory) < 0:
            raise UserError("a network needs an input, a neuron and an output at least, and no negative number of anything")
        for name in ("tau_m", "tau_out", "tau_a", "threshold", "damping"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.beta < math.inf:
            raise UserError(f"beta is {self.beta}; it must be finite and 0 or more")

    @property
    def neurons(self) -> int:
        """Number of recurrent neurons."""
        return self.lif + self.alif


class Weights(NamedTuple):
    """W ``[neurons, inputs + neurons]``, 0 from a neuron to itself; V ``[outputs, neurons]``; B ``[neurons, outputs]``."""

    hidden: Tensor
    readout: Tensor
    feedback: Tensor


def initial(network: Network, feedback: Feedback, generator: torch.Generator, dtype: torch.dtype | None = None) -> Weights:
    """Weights from N(0, 1)/√n, n the number of inputs or of neurons, V times 1 - κ; ``"symmetric"`` feedback begins as Vᵀ."""
    _check(feedback)

    def normal(after: int, before: int) -> Tensor:
        return torch.randn(after, before, generator=generator, dtype=dtype) / math.sqrt(before)

    hidden = [normal(network.neurons, network.inputs), normal(network.neurons, network.neurons).fill_diagonal_(0)]
    readout, random = (normal(network.outputs, network.neurons) for _ in range(2))
    readout *= 1 - math.exp(-1 / network.tau_out)
    return Weights(torch.cat(hidden, 1), readout, (readout if feedback == "symmetric" else random).T.clone())


class Online:
    """A running batch of B trials, from rest; its memory does not grow with time.

    For each step call :meth:`step`, then, if the task has an error there, :meth:`learn`. The gradients for W and V are in
    ``hidden`` and ``readout``, summed over steps and batch; see also :meth:`rate_gradient`. The weights do not change.
    """

    def __init__(self, network: Network, weights: Weights, batch: int) -> None:
        self.network, self.weights = network, Weights(*(w.detach() for w in weights))
        zeros, n, n_pre = weights.hidden.new_zeros, network.neurons, network.inputs + network.neurons
        self.v, self.a, self.z, self.z_bar, self.resting = (zeros(batch, n) for _ in range(5))
        self.p_bar = zeros(batch, n_pre)
        self.e, self.e_bar = zeros(batch, n, n_pre), zeros(batch, n, n_pre)
        self.slow = zeros(batch, network.alif, n_pre)
        self.hidden, self.readout = torch.zeros_like(weights.hidden), torch.zeros_like(weights.readout)
        self.steps, self.spikes, self.e_sum = 0, zeros(n), zeros(n, n_pre)
        self._alpha, self._rho, self._kappa = (math.exp(-1 / tau) for tau in (network.tau_m, network.tau_a, network.tau_out))
        self._beta = zeros(n)
        self._beta[network.lif :] = network.beta

    def step(self, x: Tensor) -> Tensor:
        """Readout ``[B, outputs]`` after one more step with inputs ``[B, inputs]``."""
        net = self.network
        if x.shape != (len(self.v), net.inputs):
            raise UserError(f"input has shape {[*x.shape]}; a step takes [B, inputs], {[len(self.v), net.inputs]}")
        p = torch.cat([x, self.z], 1)
        self.v = self._alpha * self.v + p @ self.weights.hidden.T - net.threshold * self.z  # (1)
        self.a = self._rho * self.a + self.z  # (2)
        above = self.v - net.threshold - self._beta * self.a
        ready = self.resting == 0
        self.z = ((above > 0) & ready).to(x.dtype)  # (3)
        self.resting = torch.where(self.z > 0, net.refractory, (self.resting - 1).clamp(min=0))
        psi = net.damping / net.threshold * (1 - above.abs() / net.threshold).clamp(min=0) * ready  # (5)

        self.p_bar = self._alpha * self.p_bar + p
        torch.mul(psi.unsqueeze(2), self.p_bar.unsqueeze(1), out=self.e)
        adaptive = self.e[:, net.lif :]
        adaptive.addcmul_((psi * self._beta)[:, net.lif :].unsqueeze(2), self.slow, value=-1)  # (6)
        self.slow.mul_(self._rho).add_(adaptive)  # (7), for the next step
        self.e_bar.mul_(self._kappa).add_(self.e)

        self.steps += 1
        self.spikes += self.z.sum(0)
        self.e_sum += self.e.sum(0)
        self.z_bar = self._kappa * self.z_bar + self.z
        return self.z_bar @ self.weights.readout.T  # (4), as V does not change during a trial

    def learn(self, error: Tensor) -> None:
        """Add what this step's output error ``dE/dy``, ``[B, outputs]``, contributes to the gradients, equation (8)."""
        signal = error @ self.weights.feedback.T
        self.hidden += torch.einsum("bj,bji->ji", signal, self.e_bar)
        self.hidden[:, self.network.inputs :].fill_diagonal_(0)
        self.readout += error.T @ self.z_bar

    def rate_gradient(self, rate: float) -> Tensor:
        """Gradient for W of ``½ Σ_j (f_j - rate)²``, f the mean spikes per step so far, over time and batch."""
        count = self.steps * len(self.z)
        gradient = (self.spikes / count - rate).unsqueeze(1) * self.e_sum / count
        gradient[:, self.network.inputs :].fill_diagonal_(0)
        return gradient


@torch.no_grad()
def apply(optimizer: torch.optim.Optimizer, weights: Weights, hidden: Tensor, readout: Tensor, feedback: Feedback) -> None:
    """One step of an optimizer of W and V with these gradients, in place, and the update of the feedback.

    ``"symmetric"`` feedback follows the readout, ``"random"`` stays, ``"adaptive"`` takes the same step as the readout; as both
    decay by ``DECAY`` at every step, B converges to Vᵀ.
    """
    _check(feedback)
    before = weights.readout.clone()
    weights.hidden.grad, weights.readout.grad = hidden, readout
    optimizer.step()
    if feedback == "symmetric":
        weights.feedback.copy_(weights.readout.T)
    elif feedback == "adaptive":
        moved = weights.readout - before
        weights.readout.copy_((1 - DECAY) * before + moved)
        weights.feedback.mul_(1 - DECAY).add_(moved.T)


def _check(feedback: str) -> None:
    if feedback not in get_args(Feedback):
        raise unknown("feedback", str(feedback), get_args(Feedback))


def run(
    network: Network, weights: Weights, inputs: Tensor, error: Callable[[int, Tensor], Tensor | None]
) -> tuple[Online, Tensor]:
    """Whole trials, ``[T, B, inputs]``: the state at their end, with the gradients, and the readouts ``[T, B, outputs]``.

    ``error(t, y)`` is ``dE/dy[t]``, ``[B, outputs]``, or None at a step that does not count.
    """
    online, outputs = Online(network, weights, inputs.shape[1]), []
    for t, x in enumerate(inputs):
        outputs.append(online.step(x))
        if (wrong := error(t, outputs[-1])) is not None:
            online.learn(wrong)
    return online, torch.stack(outputs)


def pattern_generation(seed: int, steps: int, iterations: int, feedback: Feedback) -> dict[str, float]:
    """Frozen noise in, a sum of four sines out (the published tutorial, smaller): squared errors over the variance."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(inputs=50, lif=50, alif=0, outputs=1, tau_m=30, tau_out=30, threshold=0.9)
    weights = initial(network, feedback, generator)
    inputs = (torch.rand(steps, 1, network.inputs, generator=generator) < 0.05).float()
    size, phase = 0.5 + 1.5 * torch.rand(4, 1, generator=generator), torch.rand(4, 1, generator=generator)
    cycles = torch.tensor([[1.0], [2.0], [3.0], [5.0]]) * torch.arange(steps) / steps
    wave = (size * torch.sin(2 * math.pi * (cycles + phase))).sum(0)
    wave = (wave - wave[0]) / (wave - wave[0]).abs().max()
    optimizer = torch.optim.Adam([weights.hidden, weights.readout], lr=0.01)
    errors = []
    for _ in range(iterations):
        online, y = run(network, weights, inputs, lambda t, y: y - wave[t])
        errors.append(((y[:, 0, 0] - wave).square().mean() / wave.var(correction=0)).item())
        apply(optimizer, weights, online.hidden + 300 * online.rate_gradient(0.01), online.readout, feedback)
    return {"error_before": errors[0], "error_after": sum(errors[-10:]) / 10}


def cue_trials(batch: int, cues: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trials of evidence accumulation: inputs ``[T, B, 40]`` and labels ``[B]``, the side, 0 or 1, of most cues.

    A cue makes the ten inputs of its side fire; ten others fire during recall, and ten always, but weaker. Each trial favours a
    side, which gets a cue with chance 0.7. T is cues (``CUE`` steps each), delay and ``RECALL``.
    """
    favoured = torch.where(torch.rand(batch, generator=generator) < 0.5, 0.3, 0.7)
    sides = (torch.rand(cues, 1, batch, generator=generator) < favoured).float()
    chance = torch.zeros(cues * CUE + delay + RECALL, batch, 4)
    shown = chance[: cues * CUE].view(cues, CUE, batch, 4)[:, CUE // 4 :]
    shown[..., 0], shown[..., 1] = CUE_RATE * (1 - sides), CUE_RATE * sides
    chance[-RECALL:, :, 2] = CUE_RATE
    chance[..., 3] = CUE_RATE / 4
    spikes = torch.rand(len(chance), batch, 40, generator=generator) < chance.repeat_interleave(10, 2)
    return spikes.float(), (2 * sides.sum((0, 1)) > cues).long()


def evidence_accumulation(seed: int, cues: int, delay: int, iterations: int, feedback: Feedback) -> dict[str, float]:
    """Which side had more cues, asked after a delay (the published task, smaller): the share of right answers to new trials."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(inputs=40, lif=20, alif=20, outputs=2, tau_a=400, beta=0.1, refractory=4)
    weights = initial(network, feedback, generator)
    optimizer = torch.optim.Adam([weights.hidden, weights.readout], lr=0.01)
    recall, right = cues * CUE + delay, []
    for _ in range(iterations):
        inputs, label = cue_trials(32, cues, delay, generator)

        def error(t: int, y: Tensor, wanted: Tensor = F.one_hot(label, 2)) -> Tensor | None:  # noqa: B008, this trial's own
            return (y.softmax(1) - wanted) / (RECALL * len(y)) if t >= recall else None  # of the mean cross-entropy

        online, y = run(network, weights, inputs, error)
        right.append((y[recall:].mean(0).argmax(1) == label).float().mean().item())
        apply(optimizer, weights, online.hidden + online.rate_gradient(0.01), online.readout, feedback)
    return {"accuracy_before": sum(right[:10]) / 10, "accuracy_after": sum(right[-20:]) / 20}


def experiment(seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """The published tutorials, smaller: pattern generation under each feedback, evidence accumulation under random feedback.

    Quick: only the beginning of pattern generation with symmetric feedback.
    """
    if quick:
        begun = pattern_generation(seed, steps=200, iterations=50, feedback="symmetric")
        return {"seed": seed, "pattern": {"symmetric": begun}, "passed": begun["error_after"] < 1}
    pattern = {kind: pattern_generation(seed, steps=300, iterations=200, feedback=kind) for kind in get_args(Feedback)}
    evidence = evidence_accumulation(seed, cues=5, delay=200, iterations=200, feedback="random")
    passed = all(run["error_after"] < 0.5 for run in pattern.values()) and evidence["accuracy_after"] > 0.85
    return {"seed": seed, "pattern": pattern, "evidence": evidence, "passed": passed}
