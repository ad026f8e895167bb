"""How a trained network fires, and how much of its gradient would come from the fallback.

A spike-time gradient exists only where there is a spike. Elsewhere the rule falls back on a surrogate (equation (10) of
``rules/tssl.py``).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsslbp import rules
from tsslbp.metrics import NO_ANSWER, decode
from tsslbp.neuron import LIF, synapse
from tsslbp.report import charts, figures
from tsslbp.report.page import Result, Section
from tsslbp.rules import TSSL, Rule
from tsslbp.study.base import of_runs
from tsslbp.study.runs import Run, about, check_runs, mean_of
from tsslbp.utils.signals import within


def firing(run: Run) -> dict[str, Any]:
    """Firing of every layer on the test set, in evaluation mode, in batches of the run's own size.

    Returns:
        Under ``layers``, by name, and ``all`` for the whole network: ``neurons``; shares from 0 to 1 of neurons ``silent``,
        firing ``once`` and ``more`` often, ``per_sample`` and, by the sample they fire most for, ``over_set``; ``rate`` in
        spikes per neuron and step; ``first``, for each step the share of neurons and samples whose first spike is there;
        ``fallback``, the share of gradient entries that take the fallback, None under a rule without one. ``example``: see
        :func:`_example`.

    Raises:
        UserError: a network that does not spike.
    """
    check_runs(run)
    run.need_spikes("firing")
    network, samples = run.model.network, run.test
    rule = rules.get(network.architecture.rule)
    tallies: dict[str, _Tally] = {}
    with run.model.evaluating(samples, int(run.settings["batch_size"])) as batches:
        for part, inputs in batches:
            currents = network.activity(inputs)
            for name, fired in network.trains(currents).items():
                train = fired.to(currents[name].dtype)
                fallen, train = fallback(rule, train, network.neuron_of(name)).flatten(2), train.flatten(2)
                tally = tallies.setdefault(name, _Tally(*train.shape[::2]))
                tally.add(train, fallen, part.lengths)
    layers = {name: tally.shares() for name, tally in tallies.items()}
    neurons = [tally.neurons for tally in tallies.values()]
    return about("firing", run.name, run.settings) | {
        "samples": len(samples),
        "time_steps": network.time_steps,
        "padded": samples.padded,
        "layers": {name: _plain(layer, rule) for name, layer in layers.items()},
        "all": _plain(mean_of([*layers.values()], neurons) | {"neurons": sum(neurons)}, rule),
        "example": None if samples.trains else _example(run),
    }


def _example(run: Run) -> dict[str, Any]:
    """The response to the first test sample: ``spikes`` by layer, a text of 0 and 1 for each step, a digit for each neuron; the
    names of its ``label``, of the ``answer`` (None if there is none), and of all ``classes``."""
    classes = run.model.classes
    first = run.test.select(torch.arange(1))
    spikes, output = run.model.response(first.x, lengths=first.lengths)
    answer = int(decode(output))
    return {
        "label": classes[int(first.y)],
        "answer": None if answer == NO_ANSWER else classes[answer],
        "classes": list(classes),
        "spikes": {name: ["".join(map(str, step)) for step in train.int().tolist()] for name, train in spikes.items()},
    }


def fallback(rule: Rule, train: Tensor, neuron: LIF) -> Tensor:
    """Where a gradient would take the fallback, given spikes: ``[T, ...]`` of 0 and 1; nowhere under a rule without one."""
    if not isinstance(rule, TSSL):
        return torch.zeros_like(train)
    return rule.falls_back(train, synapse(train, neuron.tau_s), neuron).to(train.dtype)


class _Tally:
    """Counts of one layer over the batches, from 0."""

    def __init__(self, steps: int, neurons: int) -> None:
        self.neurons, self.samples, self.entries, self.spikes, self.fallbacks = neurons, 0, 0, 0, 0
        self.most, self.often, self.first = (torch.zeros(size, dtype=torch.long) for size in (neurons, 3, steps))

    def add(self, train: Tensor, fallen: Tensor, lengths: Tensor | None) -> None:
        """Add a batch's spikes and fallbacks, ``[T, B, neurons]`` each, up to the end of each sequence."""
        train, fallen = within(train, lengths), within(fallen, lengths)
        counts = train.sum(0).long()
        self.samples += len(counts)
        self.entries += self.neurons * (train.shape[:2].numel() if lengths is None else int(lengths.sum()))
        self.spikes += int(counts.sum())
        self.fallbacks += int(fallen.sum(dtype=torch.float64))
        self.most = torch.maximum(counts.amax(0), self.most)
        self.often += _how_often(counts)
        self.first += torch.bincount(train.argmax(0)[counts > 0], minlength=len(self.first))

    def shares(self) -> dict[str, Any]:
        pairs = self.samples * self.neurons
        return {
            "neurons": self.neurons,
            "per_sample": _named(self.often, pairs),
            "over_set": _named(_how_often(self.most), self.neurons),
            "rate": self.spikes / self.entries,
            "first": self.first.double().div(pairs).tolist(),
            "fallback": self.fallbacks / self.entries,
        }


def _how_often(counts: Tensor) -> Tensor:
    return counts.clamp(max=2).flatten().bincount(minlength=3)


def _named(often: Tensor, of: int) -> dict[str, float]:
    return dict(zip(("silent", "once", "more"), often.double().div(of).tolist(), strict=True))


def _plain(layer: dict[str, Any], rule: Rule) -> dict[str, Any]:
    return layer if isinstance(rule, TSSL) else layer | {"fallback": None}


def section(result: Result) -> Section:
    layers, everyone = result["layers"], result["all"]
    often = {"silent": "silent", "once": "firing once", "more": "firing more than once"}
    share, fallback = {key: f"{100 * value:.1f} %" for key, value in everyone["per_sample"].items()}, everyone["fallback"]
    up_to = "up to " if result.get("padded") else ""
    falls = "" if fallback is None else f"; {100 * fallback:.1f} % of the gradient's entries would come from the fallback"

    def parts(kind: str) -> dict[str, list[float]]:
        return {often[key]: [100 * layer[kind][key] for layer in layers.values()] for key in often}

    steps = list(range(1, len(next(iter(layers.values()))["first"]) + 1))
    first = {name: charts.Line(steps, [100 * value for value in layer["first"]]) for name, layer in layers.items()}
    per_sample = charts.stacked("firing-sample", list(layers), parts("per_sample"), "neurons, %")
    over_set = charts.stacked("firing-set", list(layers), parts("over_set"), "neurons, %")
    when = charts.lines("firing-first", first, "time step of the first spike", "neurons and samples, %", whole=True)
    drawings = [
        (per_sample, "How often neurons fire for one sample, averaged over all samples."),
        (over_set, "How often neurons fire for the sample to which they respond most. Silent neurons respond to no sample."),
        (when, "When neurons fire for the first time. The rest, up to 100 %, stays silent."),
    ]
    if fallback is not None:
        values = {"fallback": [100 * layer["fallback"] for layer in layers.values()]}
        share_by_layer = charts.bars("firing-fallback", list(layers), values, "gradient entries from the fallback, %")
        drawings.append((share_by_layer, "Where there is no spike time to differentiate, the rule uses a surrogate gradient."))
    if example := result.get("example"):  # not of target trains, nor in results from before there were examples
        classes, answer = example["classes"], example["answer"]
        spikes = {name: np.array([list(step) for step in train]) == "1" for name, train in example["spikes"].items()}
        answered = None if answer is None else classes.index(answer)
        drawing = figures.raster("firing-raster", spikes, classes, classes.index(example["label"]), answered)
        drawings.append((drawing, "The spikes of every layer for one test sample."))
    return Section(
        "How often and when do the neurons fire?",
        f"For one test sample, {share['silent']} of the neurons stay silent, {share['once']} fire once and {share['more']} "
        f"fire more than once in {up_to}{result['time_steps']} steps{falls}.",
        drawings,
        [
            "layer",
            "neurons",
            *(f"{key}, %" for key in often),
            "silent for all samples, %",
            "spikes per neuron and step",
            "fallback, %",
        ],
        [
            [
                name,
                f"{layer['neurons']}",
                *(f"{100 * layer['per_sample'][key]:.1f}" for key in often),
                f"{100 * layer['over_set']['silent']:.1f}",
                f"{layer['rate']:.4f}",
                "–" if layer["fallback"] is None else f"{100 * layer['fallback']:.1f}",
            ]
            for name, layer in {**layers, "all": everyone}.items()
        ],
        [f"{result['samples']} test samples, evaluated without dropout."],
    )


STUDY = of_runs("RUNS: which neurons spike, how often and when; the share of fallback gradients", firing, section, place=1)
