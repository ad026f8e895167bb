"""Accuracy of a trained network whose input, weights or spikes are disturbed."""

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from tsslbp.layers import MaxPool, Readout, Spiking
from tsslbp.network.network import Network
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.report import charts
from tsslbp.report.page import Result, Section, with_sd
from tsslbp.study.base import OfRuns, Study, measured
from tsslbp.study.runs import Run, Watch, about, check_runs, over_seeds, seeds_from
from tsslbp.training.score import score
from tsslbp.utils.signals import Signal, length_mask, within

Disturb = Callable[[Tensor, float, torch.Generator, Tensor | None], Tensor]
"""A disturbance of weights, or of a signal whose sequences may have lengths ``[B]``."""


def add_noise(x: Tensor, level: float, random: torch.Generator, lengths: Tensor | None = None) -> Tensor:
    """Add Gaussian noise of ``level`` times the standard deviation of ``x``; a single number gets none, nor does padding."""
    own = x if lengths is None else x[length_mask(lengths, len(x))]
    noise = level * own.std(correction=min(1, own.numel() - 1)) * torch.randn(x.shape, generator=random)
    return x + within(noise, lengths)


def quantise(weight: Tensor, bits: float, *_: object) -> Tensor:
    """Round to ``2^bits - 1`` values, evenly spaced from ``-max |weight|`` to ``max |weight|``."""
    top = 2 ** (bits - 1) - 1
    step = weight.double().abs().amax().clamp(min=torch.finfo(weight.dtype).tiny) / top
    return ((weight.double() / step).round() * step).to(weight.dtype)


def drop(train: Tensor, level: float, random: torch.Generator, *_: object) -> Tensor:
    """Drop every spike with probability ``level``: ``[T, ...]``."""
    return train * (torch.rand(train.shape, generator=random) >= level)


def jitter(train: Tensor, level: float, random: torch.Generator, lengths: Tensor | None = None) -> Tensor:
    """Move every spike by a whole number of steps, drawn evenly from ``-level`` to ``level``: ``[T, ...]``.

    Spikes stay within the steps of their sequence, and two that meet become one. Those in the padding are left out, as they
    could move into the sequence.
    """
    reach, steps = int(level), torch.arange(len(train)).view(-1, *[1] * (train.dim() - 1))
    shift = torch.randint(-reach, reach + 1, train.shape, generator=random)
    ends = torch.tensor(len(train)) if lengths is None else lengths.view(-1, *[1] * (train.dim() - 2))
    moved = (steps + shift).clamp(min=0).minimum(ends - 1)
    return torch.zeros_like(train).scatter_reduce_(0, moved, within(train, lengths), "amax")


@dataclass(frozen=True)
class Disturbance:
    """A disturbance: what is disturbed, how, in which unit, and how much."""

    where: str
    disturb: Disturb
    unit: str
    levels: tuple[float, ...]
    drawn: bool = True


DISTURBANCES = {
    "input noise": Disturbance("input", add_noise, "sd of noise / sd of input", (0.25, 0.5, 1.0, 1.5, 2.0)),
    "weight noise": Disturbance("weights", add_noise, "sd of noise / sd of the layer's weights", (0.1, 0.2, 0.3, 0.5, 1.0)),
    "weight quantisation": Disturbance("weights", quantise, "bits per weight", (8, 4, 3, 2), drawn=False),
    "dropped spikes": Disturbance("spikes", drop, "share of spikes dropped", (0.05, 0.1, 0.2, 0.3, 0.5)),
    "jittered spikes": Disturbance("spikes", jitter, "largest shift, steps", (1, 2, 3)),
}


def robustness(run: Run, *, draws: int) -> dict[str, Any]:
    """Accuracy on the test set under every one of ``DISTURBANCES``, each at several levels.

    Spikes are disturbed where they leave a layer, including the output layer, but not inside a recurrent layer. In an ANN only
    input and weights are disturbed.

    Args:
        run: a trained run.
        draws: how often to draw each random disturbance; the seeds are 0 to ``draws - 1``.

    Returns:
        ``accuracy`` undisturbed, and under ``troubles`` by name: ``where``, ``unit``, ``levels``, by level ``accuracies`` (one
        a draw), their ``mean`` and ``sd`` (None for one); in percent, for target trains 100 times F1.
    """
    check_runs(run)
    drawn = seeds_from(0, draws)
    troubles = {}
    for name, trouble in DISTURBANCES.items():
        if trouble.where == "spikes" and not run.model.network.is_spiking:
            continue
        seeds = drawn if trouble.drawn else range(1)
        accuracies = [[disturbed(run, trouble, level, seed) for seed in seeds] for level in trouble.levels]
        troubles[name] = {
            "where": trouble.where,
            "unit": trouble.unit,
            "levels": list(trouble.levels),
            "accuracies": accuracies,
            "mean": [statistics.fmean(level) for level in accuracies],
            "sd": [statistics.stdev(level) if len(level) > 1 else None for level in accuracies],
        }
    return about("robustness", run.name, run.settings) | {
        "samples": len(run.test),
        "trains": run.test.trains,
        "seeds": list(drawn),
        "accuracy": run.model.accuracy(run.test),
        "troubles": troubles,
    }


@torch.inference_mode()
def disturbed(run: Run, trouble: Disturbance, level: float, seed: int) -> float:
    """Accuracy under one disturbance, in percent."""
    random = torch.Generator().manual_seed(seed)

    def apply(x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return trouble.disturb(x, level, random, lengths)

    if trouble.where == "weights":
        network = copy.deepcopy(run.model.network)
        for layer in network.modules():
            if isinstance(layer, Spiking):
                layer.fold()  # weights of few bits are disturbed as rounded, and not rounded again
                layer.quantise("float")
        constants = network.constants()
        for weight in (parameter for name, parameter in network.named_parameters() if name not in constants):
            weight.copy_(apply(weight))
        return replace(run.model, network=network).accuracy(run.test)
    network, scores = run.model.network, []
    with run.model.evaluating(run.test) as batches:
        for part, x in batches:
            harm = partial(apply, lengths=part.lengths)
            output = network(harm(x)) if trouble.where == "input" else through(network, x, harm)
            scores.append(score(network.evidence(output, part.lengths), part.y, network.neuron_of().tau_s))
    return 100 * float(torch.cat(scores).mean())


def through(network: Network, x: Tensor, disturb: Callable[[Tensor], Tensor]) -> Tensor:
    """The network's output, ``[T, B, classes]``, when every layer's spikes go through ``disturb`` before its synapse."""

    def cross(name: str, layer: Spiking | MaxPool, signal: Signal, *_: Any) -> Tensor:
        if isinstance(layer, MaxPool | Readout):  # the spikes of pooling are those of the layer before
            return layer(signal)
        tau_s = layer.neuron.tau_s
        return synapse(disturb(spikes_from_psc(layer(signal), tau_s).round()), tau_s)

    *_, (_, _, output) = network.walk(network.encode(x), cross)
    assert isinstance(output, Tensor)  # neurons turn constants into tensors
    return output


@dataclass(frozen=True)
class Options(OfRuns):
    """Measure trained runs under random disturbances. OUT/report.html shows it with the other studies that are there.

    If you name several runs, they may differ in their seed only, and the study reports their mean.
    """

    seeds: int = 5
    """How often each random disturbance is drawn."""


def _run(options: Options, watch: Watch) -> tuple[Path, Result]:
    out, trained = options.load()
    return out, over_seeds(trained, out.name, lambda run: robustness(run, draws=options.seeds))


TOLD = {
    "input noise": (1.0, "noise as strong as the input"),
    "weight quantisation": (4, "4-bit weights"),
    "dropped spikes": (0.1, "a tenth of the spikes lost"),
}
"""Disturbances that the answer mentions."""
WHERE = {
    "input": "Gaussian noise added to the input.",
    "weights": "Every layer's weights are disturbed, once for all samples.",
    "spikes": "The spikes that leave each layer are disturbed.",
}
BEHIND_FILTERS = "Gaussian noise added to the rates behind the filters, which are what the network takes."


def section(result: Result) -> Section:
    right, base, troubles = measured(result), result["accuracy"], result["troubles"]
    told = ", ".join(
        f"{troubles[name]['mean'][troubles[name]['levels'].index(level)]:.1f} with {words}"
        for name, (level, words) in TOLD.items()
        if name in troubles
    )
    where = WHERE | ({"input": BEHIND_FILTERS} if result["settings"].get("filters") else {})
    drawings: list[tuple[Markup, str]] = []
    for name, trouble in troubles.items():
        bits = trouble["unit"].startswith("bits")
        start: tuple[list[float], ...] = ([], [], []) if bits else ([0.0], [base], [0.0])
        line = charts.Line(*(before + trouble[key] for before, key in zip(start, ("levels", "mean", "sd"), strict=True)))
        look: dict[str, Any] = {"falling": bits, "whole": all(isinstance(level, int) for level in trouble["levels"])}
        number = len(drawings)
        chart = charts.lines(f"robustness-{number}", {name: line}, trouble["unit"], right, level=("undisturbed", base), **look)
        drawings.append((chart, where[trouble["where"]]))
    return Section(
        "How robust is the network to disturbances?",
        f"Undisturbed, it reaches {base:.1f}{'' if result['trains'] else ' %'}; disturbed, it reaches {told}.",
        drawings,
        ["disturbance", "level", "unit", right],
        [
            [name, f"{level:g}", trouble["unit"], with_sd(mean, sd)]
            for name, trouble in troubles.items()
            for level, mean, sd in zip(trouble["levels"], trouble["mean"], trouble["sd"], strict=True)
        ],
        [
            f"{result['samples']} test samples. Means over {len(result['seeds'])} draws; bands and ± are standard deviations"
            f"{f' within a run, the mean of {runs} runs' if (runs := result.get('runs', 1)) > 1 else ''}.",
            "Weights are quantised layer by layer, to evenly spaced values around 0, without further training.",
            "A shifted spike stays within the sample's steps; two spikes that meet count as one.",
        ],
    )


STUDY = Study("RUNS: accuracy under noise, quantised weights, lost and shifted spikes", Options, _run, section, place=3)
