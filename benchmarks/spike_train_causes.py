"""Why the last version of the published rule fails on precise spike trains: python benchmarks/spike_train_causes.py

Takes the easy nets of spike_trains.py apart, on the seeds that learning rates are chosen on. "Published" here means `tssl`,
that version. Writes results/spike-trains/causes.json and prints the tables of docs/spike-trains.md.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch
from spike_trains import TASKS, TAU_M, TAU_S, TUNING_SEEDS, Nets, choose
from torch import Tensor

import tsslbp
from tsslbp import TSSL, Rule
from tsslbp.neuron import LIF, membrane_potential, rise, spikes
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

TASK = TASKS["easy"]
PUBLISHED, CONTROL = TSSL(), TSSL(fallback="always")
STEPS_BEFORE, STEP, NOISE, DRAWS = 200, 0.02, 0.05, 20
"""The gradient is taken apart after so many steps of the control; length of the trial step and weight noise over the weights'
norm, and how often the noise is drawn."""

CHANGES: dict[str, tuple[Rule, Rule]] = {
    "none": (PUBLISHED, PUBLISHED),
    "`always` in the output layer only": (PUBLISHED, CONTROL),
    "`always` in the hidden layer only": (CONTROL, PUBLISHED),
    **{
        name: (rule, rule)
        for name, rule in {
            "`always`": CONTROL,
            "`never`": TSSL(fallback="never"),
            "reset off": TSSL(reset=False),
            "leak off": TSSL(leak=False),
            "reset and leak off": TSSL(reset=False, leak=False),
            "`timing`": TSSL(psc_derivative="timing"),
            "`no-spike`": TSSL(fallback="no-spike"),
            "clip 1": TSSL(clip=1),
            "clip 0.5": TSSL(clip=0.5),
            "leak off, clip 1": TSSL(leak=False, clip=1),
            "`no-spike`, leak off": TSSL(fallback="no-spike", leak=False),
            **{
                f"`no-spike`, leak off, clip {clip:g}": TSSL(fallback="no-spike", leak=False, clip=clip)
                for clip in (4, 2, 1, 0.5)
            },
            "`no-spike`, clip 1": TSSL(fallback="no-spike", clip=1),
            "`tssl+`": tsslbp.rules.get("tssl+"),
            "`rate`": TSSL(fallback="rate"),
            "`rate`, leak off": TSSL(fallback="rate", leak=False),
            "`rate`, reset and leak off": TSSL(fallback="rate", reset=False, leak=False),
            "`tssl-submission`: the same, clip 10": tsslbp.rules.get("tssl-submission"),
            "`tssl-paper`": tsslbp.rules.get("tssl-paper"),
            "`tssl-paper`, `quiet`": replace(tsslbp.rules.get("tssl-paper"), fallback="quiet"),
            "`tssl-paper`, `never`": replace(tsslbp.rules.get("tssl-paper"), fallback="never"),
        }.items()
    },
}
"""What is changed against the last version: the rules of hidden and output layer."""


def scores(rules: tuple[Rule, Rule], rate: float) -> dict[str, list[float]]:
    nets = Nets(TASK, TUNING_SEEDS)
    nets.train(rules, rate, TASK.steps)
    return nets.scores()


def best(rules: tuple[Rule, Rule]) -> dict[str, Any]:
    """Mean F1 at the best learning rate."""
    rate, tried = choose(lambda rate: scores(rules, rate))
    return {"f1": tried[rate], "rate": rate, "tried": tried}


def parts() -> dict[str, dict[str, float]]:
    """The gradient of the output weights, by parts: norm, cosine with the control, worth of a step against it."""
    nets = Nets(TASK, TUNING_SEEDS)
    nets.train((CONTROL, CONTROL), 1e-2, TASK.steps, until=STEPS_BEFORE)

    def gradient(rule: Rule) -> Tensor:
        return torch.autograd.grad(nets.loss((PUBLISHED, rule)).sum(), nets.weights[1])[0]

    quiet = gradient(TSSL(inter=False, reset=False, leak=False))
    inter = gradient(TSSL(reset=False, leak=False))
    reset, published = gradient(TSSL(leak=False)), gradient(PUBLISHED)
    balanced = TSSL(fallback="no-spike", leak=False, clip=1)
    taken = {
        "fallback at quiet steps": quiet,
        "inter-neuron term at spikes": inter - quiet,
        "reset term at spikes": reset - inter,
        "leak term at silent steps": published - reset,
        "together: `tssl`": published,
        "`tssl`, clip 1": gradient(TSSL(clip=1)),
        "`no-spike`, leak off, clip 1": gradient(balanced),
        "the same with `psc_derivative=timing`": gradient(replace(balanced, psc_derivative="timing")),
        "`tssl-submission`": gradient(tsslbp.rules.get("tssl-submission")),
        "`tssl-paper`": gradient(tsslbp.rules.get("tssl-paper")),
        "`always`": gradient(CONTROL),
    }
    return {name: _judged(nets, part, taken["`always`"]) for name, part in taken.items()}


def _judged(nets: Nets, part: Tensor, control: Tensor) -> dict[str, float]:
    cosine = torch.cosine_similarity(part.flatten(1), control.flatten(1))
    return {"norm": part.flatten(1).norm(dim=1).mean().item(), "cosine": cosine.mean().item(), "fall": _fall(nets, part)}


@torch.no_grad()
def _fall(nets: Nets, part: Tensor) -> float:
    """By how much a step against a gradient lowers the loss, as a share of it, averaged over weight noise that smooths it."""
    before = nets.weights[1].clone()
    size = before.flatten(1).norm(dim=1).view(-1, 1, 1)
    step = STEP * size * part / part.flatten(1).norm(dim=1).view(-1, 1, 1)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(DRAWS):
        noise = torch.randn(before.shape, generator=generator) * NOISE * size / before[0].numel() ** 0.5
        pair = []
        for moved in (before + noise, before + noise - step):
            nets.weights[1].copy_(moved)
            pair.append(nets.loss((PUBLISHED, PUBLISHED)).mean())
        losses.append(torch.stack(pair))
    nets.weights[1].copy_(before)
    start, end = torch.stack(losses).mean(0)
    return float(1 - end / start)


def crossings() -> dict[str, float]:
    """Of the output neurons, early in training (as in :func:`parts`): how fast they cross, and where no fallback applies."""
    nets = Nets(TASK, TUNING_SEEDS)
    nets.train((CONTROL, CONTROL), 1e-2, TASK.steps, until=STEPS_BEFORE)
    with torch.no_grad():
        hidden, output = nets.forward((PUBLISHED, PUBLISHED))
        a = hidden.transpose(0, 1)
        current = (a.flatten(1, 2) @ nets.weights[1]).unflatten(1, a.shape[1:3]).transpose(0, 1)
        neuron = LIF(TAU_M, TAU_S)
        membrane = membrane_potential(current, neuron)
        train = spikes(membrane, neuron)
        slowness = 1 / rise(membrane, neuron)[train > 0]
        return {
            "median of 1/Δu at a spike": slowness.median().item(),
            "share of spikes with 1/Δu above 1": (slowness > 1).float().mean().item(),
            "share of steps without a spike and not quiet": ((output >= 1 / (4 * TAU_S)) & (train == 0)).float().mean().item(),
        }


def parts_table(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{part['norm']:.2f}", f"{part['cosine']:.2f}", f"{100 * part['fall']:.1f} %"]
        for name, part in result["parts"].items()
    ]
    return markdown(["part of the gradient", "norm", "cosine with `always`", "fall of the loss"], rows)


def changes_table(result: dict[str, Any]) -> str:
    rows = [[name, f"{change['f1']:.3f}", f"{change['rate']:g}"] for name, change in result["changes"].items()]
    return markdown(["change to `tssl`", "F1", "learning rate"], rows)


def main() -> None:
    result = {
        "machine": machine.describe(),
        "seeds": TUNING_SEEDS,
        "crossings": crossings(),
        "parts": parts(),
        "changes": {name: best(rules) for name, rules in CHANGES.items()},
    }
    files.write_json(Path(__file__).parent.parent / "results/spike-trains/causes.json", result, ensure_ascii=False)
    print(result["crossings"], parts_table(result), changes_table(result), sep="\n\n")


if __name__ == "__main__":
    command.run(main, __doc__)
