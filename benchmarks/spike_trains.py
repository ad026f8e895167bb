"""Precise spike trains under many rules: python benchmarks/spike_trains.py easy|hard [--seeds 10] [--first-seed 10]

Each net learns one frozen Poisson input and its own target trains. Nets of all seeds are trained side by side, as one tensor
``[T, nets, neurons]``; each has its own weights, optimiser state and gradient clipping. Writes results/spike-trains/TASK.json
and prints the table of docs/spike-trains.md.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

import tsslbp
from tsslbp import data, files, machine
from tsslbp.metrics.spike_trains import agreement
from tsslbp.neuron import synapse
from tsslbp.rules import Rule

TAU_M, TAU_S = 10.0, 4.0
TIMING = "tssl(fallback=no-spike, leak=False, clip=1, psc_derivative=timing, width=0.4)"
BEST_SURROGATE = "surrogate(name=sigmoid, slope=2.5, through_reset=True)"


@dataclass(frozen=True)
class Task:
    """Sizes, and each rule's learning rate, chosen on seeds 100 to 102."""

    time_steps: int
    hidden: int
    outputs: int
    spikes: int
    steps: int
    rates: dict[str, float]


TASKS = {
    "easy": Task(
        *(100, 200, 10, 5, 1500),
        {
            "tssl": 1e-3,
            "tssl(fallback=always)": 3e-2,
            "tssl(fallback=no-spike, leak=False, clip=1)": 1e-2,
            "tssl+": 1e-2,
            TIMING: 1e-2,
            BEST_SURROGATE: 3e-2,
            "surrogate(name=atan, through_reset=True)": 3e-2,
            "surrogate(name=sigmoid)": 1e-2,
            "superspike": 1e-2,
            "stbp": 1e-2,
            "eventprop(clip=8)": 1e-3,
        },
    ),
    "hard": Task(
        *(200, 100, 30, 10, 2000),
        {
            "tssl": 3e-3,
            "tssl(fallback=always)": 1e-2,
            "tssl(fallback=no-spike, leak=False, clip=1)": 1e-2,
            "tssl+": 1e-2,
            TIMING: 2e-2,
            BEST_SURROGATE: 2e-2,
            "surrogate(name=atan, through_reset=True)": 3e-2,
        },
    ),
}


def train(task: Task, rule: Rule, rate: float, seeds: list[int]) -> dict[str, list[float]]:
    """Train a net for each seed; F1 within ±1 and ±0 steps, loss and hidden rate of each."""
    drawn = [_draw(task, seed) for seed in seeds]
    x, target, *weights = (torch.stack(parts) for parts in zip(*drawn, strict=True))
    x, target = synapse(x.transpose(0, 1), TAU_S).transpose(0, 1).contiguous(), target.transpose(0, 1).contiguous()
    wanted = synapse(target, TAU_S)
    for weight in weights:
        weight.requires_grad_()
    moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in weights]

    def forward() -> list[Tensor]:
        currents, a = [], x
        for weight in weights:
            psc = tsslbp.lif((a @ weight).transpose(0, 1).contiguous(), tau_m=TAU_M, tau_s=TAU_S, rule=rule)
            currents.append(psc)
            a = psc.transpose(0, 1)
        return currents

    for step in range(task.steps):
        loss = 0.5 * (forward()[-1] - wanted).square().sum((0, 2))
        gradients = torch.autograd.grad(loss.sum(), weights)
        _adamw(weights, gradients, moments, rate * (1 + math.cos(math.pi * step / task.steps)) / 2, step + 1)
    with torch.no_grad():
        hidden, output = (tsslbp.spikes_from_psc(psc, TAU_S).round() for psc in forward())
        return {
            "f1": agreement(output, target, 1).f1.mean(-1).tolist(),
            "f1_exact": agreement(output, target, 0).f1.mean(-1).tolist(),
            "loss": loss.tolist(),
            "hidden_rate": hidden.mean((0, 2)).tolist(),
        }


def _draw(task: Task, seed: int) -> tuple[Tensor, ...]:
    """Input ``[T, 100]``, target ``[T, outputs]`` and Kaiming normal weights of a seed."""
    pattern = f"spike-pattern(outputs={task.outputs}, spikes={task.spikes}, repeats=1, seed={seed})"
    samples = data.load(pattern, Path(), time_steps=task.time_steps).train
    generator = torch.Generator().manual_seed(seed)
    sizes = (samples.x.shape[2], task.hidden, task.outputs)
    weights = [torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in itertools.pairwise(sizes)]
    return samples.x[0].float(), samples.y[0].float(), *weights


@torch.no_grad()
def _adamw(weights: list[Tensor], gradients: Any, moments: list[tuple[Tensor, Tensor]], rate: float, step: int) -> None:
    """AdamW with the gradient's norm clipped at 1 and weights at ±4, as in ``tsslbp train``, for each net by itself."""
    norm = torch.stack([gradient.square().sum((1, 2)) for gradient in gradients]).sum(0).sqrt()
    scale = (1 / (norm + 1e-6)).clamp(max=1).view(-1, 1, 1)
    for weight, gradient, (first, second) in zip(weights, gradients, moments, strict=True):
        first.lerp_(gradient * scale, 0.1)
        second.lerp_((gradient * scale).square(), 0.001)
        weight.mul_(1 - 0.01 * rate)
        weight.sub_(rate / (1 - 0.9**step) * first / ((second / (1 - 0.999**step)).sqrt() + 1e-8)).clamp_(-4, 4)


def table(result: dict[str, Any]) -> str:
    """Markdown; p is of a two-sided paired t-test against the best surrogate, not corrected for the number of rules."""
    best = result["rules"][BEST_SURROGATE]["f1"]
    heads = ("rule (learning rate)", "F1", "worst", "exact steps", "loss", "hidden firing", "against the best surrogate")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, rule in sorted(result["rules"].items(), key=lambda item: -statistics.fmean(item[1]["f1"])):
        difference = statistics.fmean(rule["f1"]) - statistics.fmean(best)
        p = stats.ttest_rel(rule["f1"], best).pvalue
        against = "" if name == BEST_SURROGATE else f"{difference:+.4f}" + ("" if math.isnan(p) else f", p = {p:.2g}")
        lines.append(
            f"| `{name}` ({rule['rate']:g}) | {statistics.fmean(rule['f1']):.4f} | {min(rule['f1']):.3f} | "
            f"{statistics.fmean(rule['f1_exact']):.3f} | {statistics.fmean(rule['loss']):.3f} | "
            f"{100 * statistics.fmean(rule['hidden_rate']):.1f} % | {against} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results/spike-trains"))
    options = parser.parse_args()
    task, seeds = TASKS[options.task], list(range(options.first_seed, options.first_seed + options.seeds))
    rules = {}
    for name, rate in task.rates.items():
        began = time.perf_counter()
        rules[name] = {"rate": rate, **train(task, tsslbp.rules.get(name), rate, seeds)}
        rules[name]["seconds"] = round(time.perf_counter() - began, 1)
        print(name, round(statistics.fmean(rules[name]["f1"]), 4), f"{rules[name]['seconds']} s", flush=True)
    result = {"machine": machine.describe(), "task": asdict(task), "seeds": seeds, "rules": rules}
    options.out.mkdir(parents=True, exist_ok=True)
    files.write_text(options.out / f"{options.task}.json", json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
