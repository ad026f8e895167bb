"""What the terms of the published rule carry and what they leave out: python benchmarks/gradient_terms.py

Takes the spike-time gradient of the last published version apart, in the equations of src/tsslbp/rules/tssl.py:

- the share of (7) in the factor by which a spike passes a push on to the next spike;
- the cosine with the exact gradient if (8) is left on at spikes;
- what is left of the gradient without (6);
- the spike train at which the loss is smallest, with the target filtered once and twice.

Writes results/checks/gradient-terms.json and prints the tables of docs/gradient.md. Takes some minutes.
"""

import itertools
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import command
import torch
from torch import Tensor

from tsslbp import Rule, training
from tsslbp.data import Split
from tsslbp.layers import Spiking
from tsslbp.losses import KernelLoss
from tsslbp.neuron import LIF, delayed, kept, membrane_potential, postsynaptic_current, rise, spikes, synapse
from tsslbp.rivals.eventprop import random_case, simulate
from tsslbp.study.fidelity import against_exact, grid_gradient, spread
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.signals import Constant, Signal
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/checks/gradient-terms.json"
SEEDS, LAYERS = range(20), (12, 6)
"""The random networks of ``tsslbp study fidelity``."""
STEPS = tuple(1 / 2**power for power in range(9))
TRAINED = TrainConfig(network="100-10", epochs=10, rule="tssl")
"""A small network on the embedded digits, at T = 5, τm = 5 and τs = 3."""
TAU_S, LENGTHS = (1, 1.5, 2, 2.5, 3, 4, 5), (1, 2, 3, 5)
"""Synaptic time constants and numbers of steps for which the best spike train is looked for."""
Target = Literal["single", "double"]


@dataclass(frozen=True)
class PassedOn(Rule):
    """``tssl(psc_derivative=timing, fallback=never, clip=inf)`` with (8) on at spikes too.

    A push before a spike is then carried on as if nothing had happened, in addition to what (7) makes of it.

    Args:
        reset: the term (7).
    """

    reset: bool = True

    summary: ClassVar[str] = "the spike-time gradient with the leak term on at spikes"
    paper: ClassVar[str] = "docs/gradient.md"

    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        e, u, s = psc_gradient, membrane, spikes(membrane, neuron)
        p = torch.where(s > 0, 1 / rise(u, neuron), 0)  # (5), without a bound
        delta = torch.empty_like(u)
        error = reach = torch.zeros_like(u[0])
        for t in reversed(range(len(u))):
            tail = neuron.synapse_decay * error
            error = e[t] / neuron.tau_s + tail  # (4)
            g = p[t] * (e[t] - tail) / neuron.tau_s  # (6), by timing
            if self.reset:
                g = g + reach * u[t] / neuron.tau_m * p[t]  # (7)
            delta[t] = g + reach * neuron.membrane_decay  # (8), without its factor 1 - s
            reach = torch.where(s[t] > 0, delta[t], reach * neuron.membrane_decay)  # (9)
        return delta


PUBLISHED = "tssl(psc_derivative=timing, fallback=never, clip=inf)"
VARIANTS: dict[str, str | Rule] = {
    "(7), and (8) off at spikes, as in `tssl`": PUBLISHED,
    "(7), and (8) on at spikes": PassedOn(),
    "no (7), and (8) on at spikes": PassedOn(reset=False),
    "no (7), and (8) off at spikes": "tssl(psc_derivative=timing, fallback=never, clip=inf, reset=False)",
    "`eventprop`": "eventprop",
}


def shares(membrane: Tensor, neuron: LIF) -> Tensor:
    """The share of (7) in the whole factor at a spike, that is in (7) and the factor of (8) together: ``[spikes]``.

    It is of every spike that the same neuron follows by another one, since the last one has nothing to pass a push on to:

        u[t]/(τm·Δu[t]) / (u[t]/(τm·Δu[t]) + 1 - 1/τm) = u[t]/(τm·I[t])
    """
    s = spikes(membrane, neuron)
    followed = (s > 0) & (s.flip(0).cumsum(0).flip(0) > 1)
    current = membrane - neuron.membrane_decay * kept(delayed(membrane), neuron)
    return (membrane / (neuron.tau_m * current))[followed]


def exact_shares(seed: int) -> Tensor:
    """:func:`shares` of a random network in continuous time: (7) is (θ/τm)/u̇⁻ of a factor 1 + (θ/τm)/u̇⁻ = I/u̇⁻, so θ/(τm·I)."""
    case = random_case(seed, LAYERS)
    (output,) = simulate(case.weights, case.inputs, case.neuron, case.until)
    times, source = output.train
    followed = ((source == source[:, None]) & (times > times[:, None])).any(1)
    return case.neuron.threshold / (case.neuron.tau_m * output.current[followed])


def trained_shares(config: TrainConfig) -> Tensor:
    """:func:`model_shares` of a network that is trained first, on its test samples."""
    with tempfile.TemporaryDirectory() as folder:
        model = training.load(training.train(replace(config, runs_dir=Path(folder)))[0])
    return model_shares(model, training.with_data(config)[1].test)


def model_shares(model: training.Model, samples: Split) -> Tensor:
    """:func:`shares` of all neurons of a feed-forward network, on stored samples."""
    found = []

    def cross(name: str, layer: Spiking, signal: Signal, *_: Any) -> Tensor:
        current = layer.current(signal)
        membrane = membrane_potential(current.expand() if isinstance(current, Constant) else current, layer.neuron)
        found.append(shares(membrane, layer.neuron))
        return postsynaptic_current(membrane, layer.neuron)

    with model.evaluating(samples) as batches:
        for _, inputs in batches:
            list(model.network.walk(model.network.encode(inputs), cross))
    return torch.cat(found)


def described(values: Tensor) -> dict[str, float]:
    """Median, 5 and 95 % quantiles, and how many values these are of."""
    low, median, high = values.double().quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
    return {"median": median, "low": low, "high": high, "spikes": len(values)}


def closeness(rule: str | Rule, seeds: Iterable[int] = SEEDS, steps: Sequence[float] = STEPS) -> list[dict[str, Any]]:
    """By step, median and quartiles of a rule's cosine and norm against the exact gradient, under the smooth loss.

    As in ``tsslbp study fidelity``, these are over the networks whose neurons all fire as often on the grid as they should.
    """
    runs = [against_exact(rule, seed=seed, layers=LAYERS, steps=steps, smoothing=2) for seed in seeds]
    found = []
    for step, rows in zip(steps, zip(*runs, strict=True), strict=True):
        alike = [row for row in rows if row["matched"]]
        found.append(
            {"step": step, "networks": len(alike)} | {key: spread([row[key] for row in alike]) for key in ("cosine", "norm")}
        )
    return found


def without_inter(seeds: Iterable[int] = SEEDS) -> dict[str, float]:
    """Largest entry of the gradient with and without (6); and how far ``inter=False`` is from the rule without any term."""
    cases = [random_case(seed, (12, 8, 6)) for seed in seeds]

    def gradients(rule: str) -> Tensor:
        made = (grid_gradient(case, rule, step=1 / 4)[0] for case in cases)
        return torch.cat([weight.flatten() for weights in made for weight in weights])

    ablated, fallback_alone = gradients("tssl(inter=False)"), gradients("tssl(inter=False, reset=False, leak=False)")
    return {
        "tssl(fallback=never)": gradients("tssl(fallback=never)").abs().max().item(),
        "tssl(inter=False, fallback=never)": gradients("tssl(inter=False, fallback=never)").abs().max().item(),
        "tssl(inter=False)": ablated.abs().max().item(),
        "tssl(inter=False) minus tssl(inter=False, reset=False, leak=False)": (ablated - fallback_alone).abs().max().item(),
    }


def best_trains(time_steps: int, tau_s: float, target: Target) -> list[str]:
    """Of all spike trains of the labelled output, those with the smallest loss: more than one where they tie."""
    loss = KernelLoss(time_steps, tau_s, target=target)
    trains = list(itertools.product((0.0, 1.0), repeat=time_steps))
    label = torch.zeros(1, dtype=torch.long)
    losses = [float(loss(synapse(torch.tensor(train, dtype=torch.float64), tau_s).view(-1, 1, 1), label)) for train in trains]
    tied = [train for train, value in zip(trains, losses, strict=True) if value <= min(losses) + 1e-12]
    return ["".join(f"{spike:.0f}" for spike in train) for train in tied]


def closeness_table(result: dict[str, Any]) -> str:
    """Markdown."""
    rows = result["closeness"]
    steps = [f"1/{1 / row['step']:.0f}" for row in rows[next(iter(rows))]]
    lines = [
        [name, *(f"{row['cosine']['median']:.3f} / {row['norm']['median']:.2f}" for row in found)]
        for name, found in rows.items()
    ]
    alike = [str(row["networks"]) for row in rows[next(iter(rows))]]
    lines.append([f"networks of {len(result['seeds'])} that fire alike", *alike])
    return markdown(["cosine / norm at step", *steps], lines)


def optima_table(result: dict[str, Any]) -> str:
    """Markdown, of the target filtered twice."""
    rows = [
        [tau_s, *(" or ".join(f"`{train}`" for train in tied) for tied in by_length.values())]
        for tau_s, by_length in result["optima"]["double"].items()
    ]
    return markdown(["τs", *(f"T = {steps}" for steps in LENGTHS)], rows)


def main() -> None:
    result = {
        "machine": machine.describe(),
        "seeds": list(SEEDS),
        "shares": {
            "random networks": described(torch.cat([exact_shares(seed) for seed in SEEDS])),
            "trained network, T = 5": described(trained_shares(TRAINED)),
        },
        "closeness": {name: closeness(rule) for name, rule in VARIANTS.items()},
        "without (6), largest entry": without_inter(),
        "optima": {
            target: {f"{tau_s:g}": {str(steps): best_trains(steps, tau_s, target) for steps in LENGTHS} for tau_s in TAU_S}
            for target in get_args(Target)
        },
    }
    files.write_json(RESULT, result, ensure_ascii=False)
    print("share of (7):", result["shares"])
    print("largest entry of the gradient:", result["without (6), largest entry"])
    print(closeness_table(result), optima_table(result), sep="\n\n")


if __name__ == "__main__":
    command.run(main, __doc__)
