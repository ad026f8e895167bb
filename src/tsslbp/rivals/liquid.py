"""The liquid state machine: a fixed random column of spiking neurons with a linear readout, the only trained part.

    τm dV/dt = -V + R (Ib + Σ I)                             membrane; a spike and V = V_reset at V ≥ θ        (1)
    dI/dt = -I/τs,  I += A u_n R_n at the n-th spike         current of a synapse, τs by the kind of its source (2)
    u_n = U + (1 - U) u_{n-1} e^{-Δ/F},  u_1 = U             use: facilitation over the interval Δ             (3)
    R_n = 1 - (1 - R_{n-1} (1 - u_{n-1})) e^{-Δ/D},  R_1 = 1 resources left: depression                        (4)
    P(a → b) = C e^{-(distance(a, b)/λ)²}                    which neurons are connected                       (5)
    x = Σ_spikes e^{-(t - t_spike)/30 ms}                    liquid state at t, one number a neuron            (6)

Between spikes (1) and (2) are solved exactly; spikes, delays and refractory periods are on the grid of steps.

Source: W. Maass, T. Natschläger and H. Markram, Neural Computation 14:2531, 2002, appendix B; (3) and (4) are from H. Markram,
Y. Wang and M. Tsodyks, PNAS 95:5323, 1998. Our choices where the paper is silent: an input reaches 30 % of the neurons,
through static synapses; U above 1 is drawn again like a negative value; no neuron connects to itself; the inputs of figure 2
are of 20 Hz and their distance is in seconds. The readout is ridge regression; the paper's has no ridge.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from tsslbp.utils.errors import UserError

MEMBRANE, RESISTANCE, BACKGROUND = 30.0, 1.0, 13.5  # ms, MΩ, nA
THRESHOLD, RESET = 15.0, 13.5  # mV above rest; the background alone holds V at the reset
REFRACTORY = (3.0, 2.0)  # ms, of an excitatory and an inhibitory neuron
SYNAPSE = (3.0, 6.0)  # ms, behind an excitatory and an inhibitory neuron
INPUT = (18.0, 9.0)  # nA, onto an excitatory and an inhibitory neuron
READOUT = 30.0  # ms
KINDS = (  # C, U, D in ms, F in ms, A in nA, delay in ms
    (0.3, 0.5, 1100.0, 50.0, 30.0, 1.5),  # excitatory to excitatory
    (0.2, 0.05, 125.0, 1200.0, 60.0, 0.8),  # excitatory to inhibitory
    (0.4, 0.25, 700.0, 20.0, -19.0, 0.8),  # inhibitory to excitatory
    (0.1, 0.32, 144.0, 60.0, -19.0, 0.8),  # inhibitory to inhibitory
)


@dataclass(frozen=True)
class Column:
    """Parameters of a column.

    Args:
        size: neurons along each edge of the grid.
        reach: λ of equation (5), in distances between neighbours.
        inhibitory: share of inhibitory neurons.
        input_share: share of neurons that each input channel reaches.
        step: length of a step in ms, at most 1; delays and refractory periods are rounded to whole steps.

    Raises:
        UserError: a value outside its range.
    """

    size: tuple[int, int, int] = (3, 3, 15)
    reach: float = 2.0
    inhibitory: float = 0.2
    input_share: float = 0.3
    step: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 3 or min(self.size) < 1:
            raise UserError(f"size is {self.size}; it must be three edges of at least 1 neuron")
        if not (0 < self.reach < math.inf and 0 < self.step <= 1):
            raise UserError(f"reach {self.reach} must be positive and finite and step {self.step} at most 1 ms and positive")
        if not (0 <= self.inhibitory <= 1 and 0 <= self.input_share <= 1):
            raise UserError(f"inhibitory {self.inhibitory} and input_share {self.input_share} are shares, from 0 to 1")


class Liquid(NamedTuple):
    """A random column: N neurons, M synapses among them, C input channels.

    ``step`` in ms; ``inhibitory`` ``[N]`` of bool; of each synapse, ``[M]``, the neurons it joins, ``use`` U, ``depression`` D
    and ``facilitation`` F in ms, ``scale`` A in nA (negative behind inhibitory neurons) and ``delay`` in whole steps, at least
    1; ``input`` ``[C, N]``, what an input spike adds to a neuron's current, in nA.
    """

    step: float
    inhibitory: Tensor
    source: Tensor
    target: Tensor
    use: Tensor
    depression: Tensor
    facilitation: Tensor
    scale: Tensor
    delay: Tensor
    input: Tensor


def draw(column: Column, channels: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Liquid:
    """Draw a column with its input synapses.

    U, D and F are normal with a standard deviation of half their mean; what is not above 0 (or, for U, above 1) is uniform
    between 0 and twice the mean instead. A has a gamma distribution whose standard deviation is its mean: an exponential one.

    Raises:
        UserError: no input channel.
    """
    if channels < 1:
        raise UserError(f"channels is {channels}; a liquid needs at least 1 input channel")
    place = torch.cartesian_prod(*(torch.arange(edge, dtype=dtype) for edge in column.size))
    neurons = len(place)
    inhibitory = torch.randperm(neurons, generator=generator) < round(column.inhibitory * neurons)
    means = torch.tensor(KINDS, dtype=dtype)[2 * inhibitory[:, None].long() + inhibitory.long()]  # [source, target, constant]
    likely = means[..., 0] * torch.exp(-((torch.cdist(place, place) / column.reach) ** 2)).fill_diagonal_(0)
    connected = torch.rand(neurons, neurons, generator=generator, dtype=dtype) < likely
    source, target = connected.nonzero().unbind(1)
    _, use, depression, facilitation, scale, delay = means[connected].unbind(1)

    def spread(mean: Tensor, most: float = math.inf) -> Tensor:
        normal = mean * (1 + 0.5 * torch.randn(mean.shape, generator=generator, dtype=dtype))
        uniform = 2 * mean * torch.rand(mean.shape, generator=generator, dtype=dtype)
        return torch.where((normal > 0) & (normal <= most), normal, uniform)

    def gamma(mean: Tensor) -> Tensor:
        return mean * torch.empty_like(mean).exponential_(generator=generator)

    reached = torch.rand(channels, neurons, generator=generator) < column.input_share
    return Liquid(
        step=column.step,
        inhibitory=inhibitory,
        source=source,
        target=target,
        use=spread(use, most=1),
        depression=spread(depression),
        facilitation=spread(facilitation),
        scale=gamma(scale),
        delay=(delay / column.step).round().long().clamp(min=1),
        input=reached * gamma(torch.tensor(INPUT, dtype=dtype)[inhibitory.long()].repeat(channels, 1)),
    )


def simulate(trains: Tensor, liquid: Liquid, generator: torch.Generator) -> Tensor:
    """The liquid's spikes in answer to input spikes: ``[T, B, C]`` of 0 and 1 ``-> [T, B, N]`` of bool.

    Each neuron of each trial starts from a membrane potential drawn between reset and threshold.

    Raises:
        UserError: input of another shape or number of channels.
    """
    channels, neurons = liquid.input.shape
    if trains.dim() != 3 or trains.shape[2] != channels:
        raise UserError(f"input must be [steps, trials, {channels}], as the liquid has it; got {list(trains.shape)}")
    time_steps, trials, _ = trains.shape
    by_kind = liquid.input.new_tensor([SYNAPSE, REFRACTORY])
    # Currents by kind of source: row n is the excitatory current of neuron n, row N + n its inhibitory one.
    tau_s = by_kind[0].repeat_interleave(neurons)[:, None]
    membrane_decay, current_decay = math.exp(-liquid.step / MEMBRANE), torch.exp(-liquid.step / tau_s)
    current_gain = RESISTANCE * tau_s / (MEMBRANE - tau_s) * (membrane_decay - current_decay)  # (1) with (2) over a step
    background = RESISTANCE * BACKGROUND * (1 - membrane_decay)
    row = liquid.target + neurons * liquid.inhibitory[liquid.source]
    held = (by_kind[1] / liquid.step).round()[liquid.inhibitory.long(), None]
    shape = neurons, trials  # trials last, so that those of a synapse are adjacent
    v = RESET + (THRESHOLD - RESET) * torch.rand(shape, generator=generator, dtype=liquid.input.dtype)
    wait, current = torch.zeros_like(v), torch.zeros_like(v).repeat(2, 1)
    use, left = v.new_zeros(len(row), trials), v.new_ones(len(row), trials)  # u and, after the release, R at the last spike
    last = torch.zeros_like(use)
    past = int(liquid.delay.max()) if len(row) else 0
    fired = torch.zeros(past + time_steps, *shape, dtype=torch.bool)
    for t in range(time_steps):
        v = membrane_decay * v + background + (current_gain * current).view(2, *shape).sum(0)
        v = torch.where(wait > 0, RESET, v)
        spikes = torch.ge(v, THRESHOLD, out=fired[past + t])
        v = v.masked_fill(spikes, RESET)
        wait = torch.where(spikes, held, wait - 1)

        current *= current_decay
        m, b = fired[past + t - liquid.delay, liquid.source].nonzero().unbind(1)
        interval = liquid.step * (t - last[m, b])
        u = liquid.use[m] + (1 - liquid.use[m]) * use[m, b] * torch.exp(-interval / liquid.facilitation[m])  # (3)
        r = 1 - (1 - left[m, b]) * torch.exp(-interval / liquid.depression[m])  # (4)
        use[m, b], left[m, b], last[m, b] = u, r * (1 - u), float(t)
        current.index_put_((row[m], b), liquid.scale[m] * u * r, accumulate=True)
        current[:neurons] += liquid.input.T @ trains[t].T.to(v)
    return fired[past:].transpose(1, 2)


def state(trains: Tensor, step: float) -> Tensor:
    """Spike trains low-passed up to their last step, equation (6): ``[T, B, N] -> [B, N]``."""
    trains = trains if trains.is_floating_point() else trains.float()
    age = step * torch.arange(len(trains) - 1, -1, -1, dtype=trains.dtype)
    return torch.einsum("t,tbn->bn", torch.exp(-age / READOUT), trains)


def poisson(time_steps: int, trials: int, rate: float, step: float, generator: torch.Generator) -> Tensor:
    """Poisson spike trains of ``rate`` Hz on one channel: ``[T, B, 1]`` of bool."""
    return torch.rand(time_steps, trials, 1, generator=generator) < rate * step / 1000


def jitter(trains: Tensor, spread: Tensor, generator: torch.Generator) -> Tensor:
    """Move each spike by a normal number of steps, of standard deviation ``spread`` ``[B]``: ``[T, B, C]`` to the same.

    Spikes that leave the train are lost, two that meet become one.
    """
    t, b, c = trains.nonzero().unbind(1)
    t = (t + spread[b] * torch.randn(len(t), generator=generator)).round().long()
    inside = (t >= 0) & (t < len(trains))
    moved = torch.zeros_like(trains)
    moved[t[inside], b[inside], c[inside]] = True
    return moved


def distance(first: Tensor, second: Tensor, step: float, width: float = 5.0) -> Tensor:
    """The paper's distance between spike trains of one channel: ``[T, B, 1]`` twice ``-> [B]``.

    Each spike becomes a Gaussian ``exp(-(t/width)²)``, width in ms; the distance is the L2 norm of the difference, in seconds,
    divided by the length of the trains. Two such Gaussians x apart have the inner product ``width √(π/2) exp(-x²/(2 width²))``.
    """
    difference = (first.double() - second.double()).squeeze(2).T
    times = step * torch.arange(len(first), dtype=torch.float64)
    product = width / 1000 * math.sqrt(math.pi / 2) * torch.exp(-((times[:, None] - times) ** 2) / (2 * width**2))
    return ((difference @ product) * difference).sum(1).clamp(min=0).sqrt() / (len(first) * step / 1000)


def separation(seed: int, pairs: int) -> list[float]:
    """Mean distance of liquid states for pairs of 20 Hz inputs at each distance; the paper's figure 2.

    Pairs are Poisson trains of 0.5 s and jittered copies whose distance is within 0.01 of the level. All trials start from
    membrane potentials of their own, so the first entry is the noise. The mean is over pairs and over t = 0.1, 0.2 … 0.5 s.
    """
    generator = torch.Generator().manual_seed(seed)
    liquid = draw(Column(), 1, generator)
    first = poisson(500, 50 * pairs, 20, liquid.step, generator)
    second = jitter(first, 10 * torch.rand(50 * pairs, generator=generator) ** 2, generator)
    apart, result = distance(first, second, liquid.step), []
    for level in (0.0, 0.1, 0.2, 0.4):
        near = ((apart - level).abs() < 0.01).nonzero().squeeze(1)[:pairs]
        answers = simulate(torch.cat([first[:, near], second[:, near]], 1), liquid, generator)
        states = torch.stack([state(answers[:t], liquid.step) for t in range(100, 501, 100)])
        u, v = states.chunk(2, dim=1)
        result.append((u - v).norm(dim=2).mean().item())
    return result


def recall(seed: int, training: int, test: int, segments: int) -> dict[str, list[float]]:
    """Which of two templates was in each 250 ms segment, read out at the end of the trial; the paper's figures 4 and 5.

    Each template is a 20 Hz Poisson train on the one input channel; in a trial each spike moves by 4 ms (standard deviation).
    This measures the liquid's memory: both readouts see only about the last 30 ms. A readout of the input through several
    filters, of 10 to 1000 ms, is more accurate than the liquid.

    Returns:
        Accuracies on new trials, from the first segment to the last, of a linear readout of the liquid's state and of the same
        readout of the input's own state.
    """
    generator = torch.Generator().manual_seed(seed)
    liquid = draw(Column(), 1, generator)
    templates = poisson(250, 2 * segments, 20, liquid.step, generator).view(250, segments, 2)
    labels = torch.randint(2, (training + test, segments), generator=generator)
    trials = torch.cat([templates[:, s, labels[:, s]] for s in range(segments)]).unsqueeze(2)
    trials = jitter(trials, torch.full((training + test,), 4 / liquid.step), generator)
    batches = trials.split(250, dim=1)
    states = {
        "liquid": torch.cat([state(simulate(batch, liquid, generator), liquid.step) for batch in batches]),
        "input": state(trials, liquid.step),
    }
    return {name: [readout_accuracy(x, labels[:, s], training) for s in range(segments)] for name, x in states.items()}


def readout_accuracy(states: Tensor, labels: Tensor, training: int) -> float:
    """Share of right answers of a ridge readout fitted to the first ``training`` trials on the others: ``[B, N]``, ``[B]``."""
    x, y = states.double().numpy(), labels.numpy()
    return float(RidgeClassifier(alpha=1.0).fit(x[:training], y[:training]).score(x[training:], y[training:]))


def experiment(seed: int = 0, quick: bool = False) -> dict[str, Any]:
    """The separation property and the fading memory of the column, each for several columns.

    Passed if the mean state distance grows with the distance of the inputs and the liquid tells the template of the
    second-to-last segment at least 10 points more often than its input does, the means over columns taken.
    """
    columns, pairs, segments, training, test = (2, 30, 2, 250, 250) if quick else (3, 200, 4, 1000, 500)
    seeds = list(range(columns * seed, columns * (seed + 1)))
    distances = [separation(s, pairs) for s in seeds]
    accuracies = [recall(s, training, test, segments) for s in seeds]
    mean_distance = torch.tensor(distances).mean(0)
    liquid, direct = (torch.tensor([a[name] for a in accuracies]).mean(0) for name in ("liquid", "input"))
    return {
        "seeds": seeds,
        "sizes": {"pairs": pairs, "segments": segments, "training": training, "test": test},
        "state_distance": distances,
        "accuracy": accuracies,
        "mean_state_distance": mean_distance.tolist(),
        "mean_accuracy": {"liquid": liquid.tolist(), "input": direct.tolist()},
        "passed": bool((mean_distance.diff() > 0).all() and liquid[-2] >= direct[-2] + 0.1),
    }
