"""Precise spike trains under many rules: python benchmarks/spike_trains.py easy|hard|capacity [--seeds 10]

Each net learns its own frozen Poisson inputs and target trains: one pattern, or for ``capacity`` ever more of them. Nets of all
seeds are trained side by side, as one tensor ``[T, nets, patterns, neurons]``; each has its own weights, optimiser state and
gradient clipping, and sees all its patterns at every step. The learning rate of every rule is chosen on other seeds; for
``capacity``, with 16 patterns. Writes results/spike-trains/TASK.json, prints the table of docs/spike-trains.md and draws
docs/capacity.svg.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import command
import matplotlib
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy import stats
from torch import Tensor

import tsslbp
from tsslbp import data
from tsslbp.metrics.spike_trains import agreement
from tsslbp.neuron import synapse
from tsslbp.rules import Rule
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
TAU_M, TAU_S = 10.0, 4.0
TIMING = "tssl(fallback=no-spike, leak=False, clip=1, psc_derivative=timing, width=0.4)"
BEST_SURROGATE = "surrogate(name=sigmoid, slope=2.5, through_reset=True)"
PATTERNS = (1, 2, 4, 8, 16, 32)
TUNING_PATTERNS = 16
LEARNED, HOPELESS = 0.95, 0.8
"""Mean F1 from which patterns count as learned, and below which no more of them are tried."""


TUNING_SEEDS = [100, 101, 102]
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Learning rates to choose from; the middle three are tried first, and more only while the best one lies at an end."""
ALL = (
    *("tssl", "tssl-paper", "tssl-submission", "tssl(fallback=always)", "tssl(fallback=no-spike, leak=False, clip=1)", "tssl+"),
    *(TIMING, BEST_SURROGATE, "surrogate(name=atan, through_reset=True)", "surrogate(name=sigmoid)", "superspike", "stbp"),
    "eventprop(clip=8, wake=1e-5)",
)


@dataclass(frozen=True)
class Task:
    """Sizes, and the rules that are tried."""

    time_steps: int
    hidden: int
    outputs: int
    spikes: int
    steps: int
    rules: tuple[str, ...]


TASKS = {"easy": Task(100, 200, 10, 5, 1500, ALL), "hard": Task(200, 100, 30, 10, 2000, ALL[:9])}


class Nets:
    """A two-layer net for each seed, side by side, and what they are to learn."""

    def __init__(self, task: Task, seeds: list[int], patterns: int = 1) -> None:
        drawn = [_draw(task, seed, patterns) for seed in seeds]
        x, target, *weights = (torch.stack(parts) for parts in zip(*drawn, strict=True))  # [nets, T, patterns, neurons]
        self.x = synapse(x.transpose(0, 1), TAU_S).transpose(0, 1).contiguous()
        self.target = target.transpose(0, 1).contiguous()
        self.wanted = synapse(self.target, TAU_S)
        self.weights = [weight.requires_grad_() for weight in weights]

    def forward(self, rules: Sequence[Rule]) -> list[Tensor]:
        """Post-synaptic currents of each layer, ``[T, nets, patterns, neurons]``, under a rule for each."""
        currents, a = [], self.x
        for weight, rule in zip(self.weights, rules, strict=True):
            current = (a.flatten(1, 2) @ weight).unflatten(1, a.shape[1:3])
            # A surrogate that depends on how much a layer fires must not see the other nets.
            alone = isinstance(rule, tsslbp.TSSL) and rule.fallback == "rate"
            nets = current.split(1) if alone else [current]
            made = [tsslbp.lif(net.transpose(0, 1).contiguous(), tau_m=TAU_M, tau_s=TAU_S, rule=rule) for net in nets]
            psc = torch.cat(made, 1)
            currents.append(psc)
            a = psc.transpose(0, 1)
        return currents

    def loss(self, rules: Sequence[Rule]) -> Tensor:
        """Kernel loss of each net."""
        return 0.5 * (self.forward(rules)[-1] - self.wanted).square().sum((0, 2, 3))

    def train(self, rules: Sequence[Rule], rate: float, steps: int, until: int | None = None) -> None:
        """``steps`` steps of a cosine schedule, or the first ``until`` of them."""
        moments = [(torch.zeros_like(weight), torch.zeros_like(weight)) for weight in self.weights]
        for step in range(steps if until is None else until):
            gradients = torch.autograd.grad(self.loss(rules).sum(), self.weights)
            _adamw(self.weights, gradients, moments, rate * (1 + math.cos(math.pi * step / steps)) / 2, step + 1)

    @torch.no_grad()
    def scores(self) -> dict[str, list[float]]:
        """F1 within ±1 and ±0 steps, loss and hidden rate of each net."""
        rules = [tsslbp.TSSL()] * 2  # going forward all are alike
        hidden, output = (tsslbp.spikes_from_psc(psc, TAU_S).round() for psc in self.forward(rules))
        return {
            "f1": agreement(output, self.target, 1).f1.mean((-2, -1)).tolist(),
            "f1_exact": agreement(output, self.target, 0).f1.mean((-2, -1)).tolist(),
            "loss": self.loss(rules).tolist(),
            "hidden_rate": hidden.mean((0, 2, 3)).tolist(),
        }


def train(task: Task, name: str, rate: float, seeds: list[int], patterns: int = 1) -> dict[str, list[float]]:
    """Scores of trained nets, one a seed."""
    nets = Nets(task, seeds, patterns)
    nets.train([tsslbp.rules.get(name)] * 2, rate, task.steps)
    return nets.scores()


def choose(score: Callable[[float], dict[str, list[float]]]) -> tuple[float, dict[float, float]]:
    """The learning rate with the highest mean F1, of equally good ones that with the lowest loss, and the F1 of all tried."""
    tried: dict[float, tuple[float, float]] = {}
    wanted = set(RATES[2:5])
    while wanted:
        for rate in sorted(wanted):
            scores = score(rate)
            tried[rate] = statistics.fmean(scores["f1"]), -statistics.fmean(scores["loss"])
        best = max(tried, key=tried.__getitem__)
        at = RATES.index(best)
        wanted = {*RATES[max(at - 1, 0) : at + 2]} - tried.keys()
    return best, {rate: tried[rate][0] for rate in sorted(tried)}


def _draw(task: Task, seed: int, patterns: int) -> tuple[Tensor, ...]:
    """Inputs ``[T, patterns, 100]``, targets ``[T, patterns, outputs]`` and Kaiming normal weights of a seed."""
    pattern = f"spike-pattern(outputs={task.outputs}, spikes={task.spikes}, patterns={patterns}, repeats=1, seed={seed})"
    samples = data.load(pattern, Path(), time_steps=task.time_steps).train
    generator = torch.Generator().manual_seed(seed)
    sizes = (samples.x.shape[2], task.hidden, task.outputs)
    weights = [torch.randn(a, b, generator=generator) * (2 / a) ** 0.5 for a, b in itertools.pairwise(sizes)]
    return samples.x.transpose(0, 1).float(), samples.y.transpose(0, 1).float(), *weights


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
    best = result["rules"].get(BEST_SURROGATE, {}).get("f1")
    heads = ("rule (learning rate)", "F1", "worst", "exact steps", "loss", "hidden firing", "against the best surrogate")
    rows = []
    for name, rule in sorted(result["rules"].items(), key=lambda item: -statistics.fmean(item[1]["f1"])):
        against = ""
        if best is not None and name != BEST_SURROGATE:
            p = stats.ttest_rel(rule["f1"], best).pvalue
            difference = statistics.fmean(rule["f1"]) - statistics.fmean(best)
            against = f"{difference:+.4f}" + ("" if math.isnan(p) else f", p = {p:.2g}")
        scores = (f"{statistics.fmean(rule['f1']):.4f}", f"{min(rule['f1']):.3f}", f"{statistics.fmean(rule['f1_exact']):.3f}")
        others = (f"{statistics.fmean(rule['loss']):.3f}", f"{100 * statistics.fmean(rule['hidden_rate']):.1f} %", against)
        rows.append([f"`{name}` ({rule['rate']:g})", *scores, *others])
    return markdown(heads, rows)


def capacity(task: Task, name: str, rate: float, seeds: list[int]) -> dict[str, Any]:
    """F1 of each seed's net by number of patterns, as many as make sense, and the largest number that is learned."""
    f1: dict[int, list[float]] = {}
    for patterns in PATTERNS:
        f1[patterns] = train(task, name, rate, seeds, patterns)["f1"]
        if statistics.fmean(f1[patterns]) < HOPELESS:
            break
    learned = [patterns for patterns, scores in f1.items() if statistics.fmean(scores) >= LEARNED]
    return {"f1": f1, "capacity": max(learned, default=0)}


def capacity_table(result: dict[str, Any]) -> str:
    """Markdown; a number of patterns that was not tried is a dash."""
    tried = [str(patterns) for patterns in PATTERNS]
    rows = []
    for name, rule in sorted(result["rules"].items(), key=lambda item: (-item[1]["capacity"], -max(map(int, item[1]["f1"])))):
        means = [f"{statistics.fmean(rule['f1'][patterns]):.3f}" if patterns in rule["f1"] else "–" for patterns in tried]
        rows.append([f"`{name}` ({rule['rate']:g})", *means, str(rule["capacity"])])
    return markdown(["rule (learning rate)", *tried, "capacity"], rows)


def draw_capacity(result: dict[str, Any], path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "capacity", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.5, 5.0), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="patterns", ylabel="F1 (±1 step), mean of seeds", xscale="log", ylim=(0.6, 1.01))
        for (name, rule), marker in zip(result["rules"].items(), itertools.cycle("os^vDP*X<>h")):
            axes.plot([*map(int, rule["f1"])], [*map(statistics.fmean, rule["f1"].values())], marker=marker, ms=4, label=name)
        axes.axhline(LEARNED, color="grey", linestyle=":", linewidth=1)
        axes.set_xticks(PATTERNS, map(str, PATTERNS), minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=7)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=[*TASKS, "capacity"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--rules", nargs="+", help="these only; what the result holds of others stays")
    parser.add_argument("--out", type=Path, default=ROOT / "results/spike-trains")
    options = parser.parse_args()
    task, seeds = TASKS.get(options.task, TASKS["easy"]), list(range(options.first_seed, options.first_seed + options.seeds))
    if not seeds:
        raise UserError(f"--seeds is {options.seeds}; it must be positive")
    options.out.mkdir(parents=True, exist_ok=True)
    path, rules = options.out / f"{options.task}.json", dict[str, Any]()
    if options.rules and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["seeds"] != seeds:
            raise UserError(f"{path} holds other rules with the seeds {stored['seeds']}; give these, or choose another --out")
        rules = stored["rules"]
    tuning_patterns = TUNING_PATTERNS if options.task == "capacity" else 1
    for name in options.rules or task.rules:
        began = time.perf_counter()
        rate, tried = choose(lambda rate, name=name: train(task, name, rate, TUNING_SEEDS, tuning_patterns))
        made = capacity(task, name, rate, seeds) if options.task == "capacity" else train(task, name, rate, seeds)
        rules[name] = {"rate": rate, "tried": tried, **made, "seconds": round(time.perf_counter() - began, 1)}
        print(name, made["f1"], f"{rules[name]['seconds']} s", flush=True)
        result = {"machine": machine.describe(), "task": asdict(task), "seeds": seeds, "rules": rules}
        files.write_json(path, result)  # after each rule, as all of them take hours
    result = json.loads(path.read_text(encoding="utf-8"))
    print(capacity_table(result) if options.task == "capacity" else table(result))
    if options.task == "capacity":
        place = ROOT / "docs" if options.out == parser.get_default("out") else options.out
        draw_capacity(result, place / "capacity.svg")


if __name__ == "__main__":
    with command.told():
        main()
