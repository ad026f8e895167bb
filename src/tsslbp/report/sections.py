"""What the page of studies says of each: its question, its answer and what shows it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from markupsafe import Markup

from tsslbp.report import charts, figures
from tsslbp.report.charts import Line
from tsslbp.report.compare import significant
from tsslbp.report.fidelity import fidelity
from tsslbp.report.page import Result, Section


def section(result: Result) -> Section:
    """A study's question, its answer and what shows it."""
    return SECTIONS[result["study"]](result)


def _firing(result: Result) -> Section:
    layers, everyone = result["layers"], result["all"]
    often = {"silent": "silent", "once": "firing once", "more": "firing more than once"}
    share, fallback = {key: f"{100 * value:.1f} %" for key, value in everyone["per_sample"].items()}, everyone["fallback"]
    falls = "" if fallback is None else f"; {100 * fallback:.1f} % of the gradient's entries would take the fallback"

    def parts(kind: str) -> dict[str, list[float]]:
        return {often[key]: [100 * layer[kind][key] for layer in layers.values()] for key in often}

    steps = list(range(1, len(next(iter(layers.values()))["first"]) + 1))
    first = {name: Line(steps, [100 * value for value in layer["first"]]) for name, layer in layers.items()}
    drawings = [
        (
            charts.stacked("firing-sample", list(layers), parts("per_sample"), "neurons, %"),
            "For one sample, the mean over all.",
        ),
        (
            charts.stacked("firing-set", list(layers), parts("over_set"), "neurons, %"),
            "Over all samples, by the one a neuron fires most for. Silent ones fire for none.",
        ),
        (
            charts.lines("firing-first", first, "time step of the first spike", "neurons and samples, %", whole=True),
            "When neurons fire first. What is missing to 100 % is silent.",
        ),
    ]
    if fallback is not None:
        values = {"fallback": [100 * layer["fallback"] for layer in layers.values()]}
        caption = "Where the rule has no spike time to go by, its gradient is a surrogate."
        drawings.append(
            (charts.bars("firing-fallback", list(layers), values, "gradient entries that take the fallback, %"), caption)
        )
    if example := result.get("example"):  # not of target trains, nor in results from before there were examples
        classes, answer = example["classes"], example["answer"]
        spikes = {
            name: np.array([[digit == "1" for digit in step] for step in train]) for name, train in example["spikes"].items()
        }
        answered = None if answer is None else classes.index(answer)
        drawing = figures.raster("firing-raster", spikes, classes, classes.index(example["label"]), answered)
        drawings.append((drawing, "One test sample on its way through the layers."))
    return Section(
        "How does it fire?",
        f"For a test sample {share['silent']} of the neurons are silent, {share['once']} fire once and {share['more']} more "
        f"than once within {result['time_steps']} steps{falls}.",
        drawings,
        [
            "layer",
            "neurons",
            "silent, %",
            "once, %",
            "more, %",
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
        [f"{result['samples']} test samples, in evaluation mode, without dropout."],
    )


def _latency(result: Result) -> Section:
    steps, leave = list(range(1, len(result["accuracy"]) + 1)), result["exit"]
    accuracy, spikes = result["accuracy"], result["spikes"]
    saved = 100 * (1 - leave["spikes"] / spikes[-1]) if spikes[-1] else 0.0
    right = "right answers, %"
    with_exit = Line([leave["spikes"]], [leave["accuracy"]])
    taken = {"samples": Line(steps, [100 * share for share in leave["taken"]])}
    return Section(
        "How soon does it know?",
        f"With exact early exit a sample is decided after {leave['steps']:.2f} of {len(steps)} steps on average, "
        f"for {saved:.1f} % fewer spikes, with {leave['accuracy']:.2f} % right.",
        [
            (
                charts.lines("latency-accuracy", {"answer so far": Line(steps, accuracy)}, "time step", right, whole=True),
                "Accuracy of the answer after each step.",
            ),
            (
                charts.lines(
                    "latency-spikes",
                    {"answer so far": Line(spikes, accuracy), "early exit": with_exit},
                    "spikes per sample",
                    right,
                ),
                "Accuracy against the spikes of the whole network by then.",
            ),
            (
                charts.lines("latency-taken", taken, "steps until decided", "samples, %", whole=True),
                "When early exit stops: as soon as the answer can no longer change, whatever the other steps bring.",
            ),
        ],
        ["after step", "right, %", "no answer, %", "spikes per sample", "stop here, %"],
        [
            [
                str(step),
                f"{accuracy[step - 1]:.2f}",
                f"{100 * result['no_answer'][step - 1]:.1f}",
                f"{spikes[step - 1]:,.1f}",
                f"{100 * leave['taken'][step - 1]:.1f}",
            ]
            for step in steps
        ],
        [f"{result['samples']} test samples. A layer hears the one below within the same step."],
    )


def _robustness(result: Result) -> Section:
    right, base, troubles = _measure(result), result["accuracy"], result["troubles"]
    told = ", ".join(
        f"{troubles[name]['mean'][troubles[name]['levels'].index(level)]:.1f} with {words}"
        for name, (level, words) in TOLD.items()
        if name in troubles
    )
    drawings: list[tuple[Markup, str]] = []
    for name, trouble in troubles.items():
        bits = trouble["unit"].startswith("bits")
        start: tuple[list[float], ...] = ([], [], []) if bits else ([0.0], [base], [0.0])
        line = Line(*(before + trouble[key] for before, key in zip(start, ("levels", "mean", "sd"), strict=True)))
        look: dict[str, Any] = {"falling": bits, "whole": all(isinstance(level, int) for level in trouble["levels"])}
        number = len(drawings)
        chart = charts.lines(f"robustness-{number}", {name: line}, trouble["unit"], right, level=("undisturbed", base), **look)
        drawings.append((chart, WHERE[trouble["where"]]))
    return Section(
        "What does it still get right when disturbed?",
        f"Of {base:.1f}{'' if result['trains'] else ' %'} undisturbed there remain {told}.",
        drawings,
        ["disturbance", "level", "unit", right],
        [
            [name, f"{level:g}", trouble["unit"], _with_sd(mean, sd)]
            for name, trouble in troubles.items()
            for level, mean, sd in zip(trouble["levels"], trouble["mean"], trouble["sd"], strict=True)
        ],
        [
            f"{result['samples']} test samples. Mean, band and ±: standard deviation, of {len(result['seeds'])} draws.",
            "Weights are quantised layer by layer, to evenly spaced values around 0. Nothing is trained again.",
            "A shifted spike stays within the sample's steps; two that meet are one.",
        ],
    )


TOLD = {
    "input noise": (1.0, "noise as strong as the input"),
    "weight quantisation": (4, "4-bit weights"),
    "dropped spikes": (0.1, "a tenth of the spikes lost"),
}
"""What the answer tells of."""
WHERE = {
    "input": "Gaussian noise on what enters the network.",
    "weights": "Every layer's weights, once for all samples.",
    "spikes": "The spikes that leave each layer.",
}


def _energy(result: Result) -> Section:
    rules, dense_relu, picojoules = result["rules"], result["dense_relu"], result["picojoules"]
    nj = {label: rule["total"]["energy_nj"] for label, rule in rules.items()}
    thriftiest = min(nj, key=lambda label: nj[label])
    skipping, dense = f"the network takes {significant(nj[thriftiest])} nJ", rules[thriftiest]["total"]["dense_nj"]
    if len(rules) > 1:
        good = f"{rules[thriftiest]['accuracy']:.2f}{'' if result['trains'] else ' % right'}"
        skipping = f"{thriftiest} is the thriftiest: {significant(nj[thriftiest])} nJ ({good})"
    beside, dense_beside = "", ""
    if "relu" in nj and thriftiest != "relu":
        beside = f"; the trained ReLU network takes {significant(nj['relu'])} nJ"
    if dense_relu and thriftiest != "relu":
        dense_beside = f" and a ReLU network {significant(sum(dense_relu.values()))} nJ"

    layers = list(rules[thriftiest]["layers"])
    parts = {name: [_connections(rule["layers"][name], picojoules) for rule in rules.values()] for name in layers}
    parts["neurons"] = [rule["total"]["energy_nj"] - _connections(rule["total"], picojoules) for rule in rules.values()]
    bars = list(rules)
    if dense_relu:
        bars.append("ReLU, no zero skipped")
        for name, values in parts.items():
            values.append(dense_relu.get(name, 0.0))
    accuracies = ", ".join(f"{label}: {rule['accuracy']:.2f}" for label, rule in rules.items())
    return Section(
        "What does a sample cost?",
        f"Where zeros are skipped, {skipping}{beside}. "
        f"Where nothing is skipped, {thriftiest if len(rules) > 1 else 'it'} takes {significant(dense)} nJ{dense_beside}.",
        [
            (
                charts.stacked("energy-layers", bars, parts, "energy of a sample, nJ"),
                "Energy of each layer's connections and of the neurons' own arithmetic, the mean over the test set.",
            )
        ],
        ["network", "layer", "MAC", "AC", "own MAC", "energy, nJ", "dense, nJ"],
        [
            [
                label,
                name,
                *(f"{cost[key]:,.0f}" for key in ("macs", "acs", "own_macs")),
                *(significant(cost[key]) for key in ("energy_nj", "dense_nj")),
            ]
            for label, rule in rules.items()
            for name, cost in {**rule["layers"], "all": rule["total"]}.items()
        ],
        [
            f"{picojoules['mac']} pJ for a multiplication and addition (MAC), {picojoules['ac']} pJ for an addition (AC), "
            "32-bit floating point at 45 nm (Horowitz, ISSCC 2014). Memory traffic is left out.",
            "Energy: what is 0 costs nothing in any network, except in a picture on its way into the first layer. Dense: every "
            "connection is a MAC, in an ANN once, in a spiking network at every step. Both contain the neurons' own arithmetic "
            "(own MAC).",
            *(["The ReLU network sees a sequence once, as its mean over time."] if result["sequence"] and dense_relu else []),
            f"{_measure(result)}: {accuracies}.",
        ],
    )


def _connections(cost: dict[str, float], picojoules: dict[str, float]) -> float:
    return (picojoules["mac"] * cost["macs"] + picojoules["ac"] * cost["acs"]) / 1000


def _dynamics(result: Result) -> Section:
    right, base, variants, ann = _measure(result), result["base"], result["variants"], result["ann"]
    constants = {name: one for name, one in variants.items() if "time_steps" not in one["changes"]}
    steps = {one["changes"]["time_steps"]: one for one in variants.values() if "time_steps" in one["changes"]}
    steps = dict(sorted(steps.items()))
    told = ", ".join(f"{one['retrained']['mean']:.2f} with {name}" for name, one in constants.items())
    binary = "" if ann is None else f"; the binary ANN reaches {ann['mean']:.2f}"
    names = ["as it is", *constants, *(["binary ANN"] if ann else [])]
    groups = {
        kind: [base["mean"], *(one[key]["mean"] for one in constants.values()), *([trained] if ann else [])]
        for kind, key, trained in (("trained again", "retrained", ann and ann["mean"]), ("weights as they were", "kept", 0.0))
    }
    drawings = [
        (
            charts.bars("dynamics-constants", names, groups, right),
            "Leak, memory, reset, synapse and the order of steps taken away.",
        )
    ]
    if steps:
        curves = {
            kind: Line(list(steps), [one[key]["mean"] for one in steps.values()], [one[key]["sd"] for one in steps.values()])
            for kind, key in (("trained again", "retrained"), ("weights as they were", "kept"))
        }
        level = ("binary ANN", ann["mean"]) if ann else None
        drawings.append(
            (charts.lines("dynamics-steps", curves, "time steps T", right, level=level, whole=True), "The number of steps.")
        )

    def row(name: str, *cells: Result | None) -> list[str]:
        return [name, *("–" if cell is None else _with_sd(cell["mean"], cell["sd"]) for cell in cells)]

    return Section(
        "What are leak, reset, synapse and time good for?",
        f"{base['mean']:.2f}{'' if result['trains'] else ' %'} as it is; trained again {told}{binary}.",
        drawings,
        ["variant", "weights as they were", "trained again"],
        [
            row("as it is", None, base),
            *(row(_changed(name, one["changes"]), one["kept"], one["retrained"]) for name, one in variants.items()),
            *([row("binary ANN", None, ann)] if ann else []),
        ],
        [
            f"{right}, of the epoch chosen on validation; mean ± standard deviation over seeds {_listed(result['seeds'])}.",
            "Weights as they were: those trained as it is, in a network of the other constants.",
            "No reset: a spike leaves the membrane potential as it is; a neuron fires at every step above the threshold.",
            "Shuffled steps: the spikes of each hidden layer come in another order of steps, drawn once, the same for all "
            "samples, and then go through the synapse. How many there are stays, when they come is lost.",
        ],
    )


def _ablation(result: Result) -> Section:
    compared = {name: one for name, one in result["variants"].items() if one["accuracies"] is not None}
    real = [name for name, one in compared.items() if one["real"]]
    rows = [(name, one["mean"], one["low"], one["high"], one["real"]) for name, one in compared.items()]
    most = ""
    if compared:
        largest = max(real or compared, key=lambda name: abs(compared[name]["mean"]))
        one = compared[largest]
        most = f"; the largest is {largest}, {one['mean']:+.2f} (95 % interval {one['low']:+.2f} to {one['high']:+.2f})"
    unit = "difference from the base, " + ("F1 × 100" if result["trains"] else "percentage points")
    base = sum(result["base"]) / len(result["base"])

    def row(name: str, one: Result) -> list[str]:
        if one["accuracies"] is None:
            return [name, "diverged", *["–"] * 4]
        mean = sum(one["accuracies"]) / len(one["accuracies"])
        interval = f"{one['low']:+.2f} to {one['high']:+.2f}"
        return [name, f"{mean:.2f}", f"{one['mean']:+.2f}", interval, f"{one['holm']:.3g}", "yes" if one["real"] else "no"]

    return Section(
        "Which parts of rule and loss matter?",
        f"With {len(result['seeds'])} seeds, {len(real)} of {len(result['variants'])} changes made a real difference{most}.",
        [(charts.intervals("ablation-differences", rows, unit), INTERVAL)] if rows else [],
        ["change", _measure(result), "difference", "95 % interval", "p, Holm", "real"],
        [["none (base)", f"{base:.2f}", *["–"] * 4], *(row(name, one) for name, one in result["variants"].items())],
        [
            f"Seeds {_listed(result['seeds'])}; runs of one seed share first weights and order of samples.",
            "Interval and p-value: Student's t of the paired differences. Real: p below 0.05 after Holm's correction.",
        ],
    )


INTERVAL = "Mean of the paired differences with its 95 % interval, which may be longer than the picture is wide."


def _measure(result: Result) -> str:
    return "F1 × 100" if result["trains"] else "right answers, %"


def _with_sd(mean: float, sd: float | None) -> str:
    return f"{mean:.2f}" + ("" if sd is None else f" ± {sd:.2f}")


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _changed(name: str, changes: Result) -> str:
    told = ", ".join(f"{key} = {value}" for key, value in changes.items()).replace("inf", "∞").replace("time_steps", "T")
    return name if told in ("", name) else f"{name} ({told})"


SECTIONS: dict[str, Callable[[Result], Section]] = {
    "firing": _firing,
    "latency": _latency,
    "robustness": _robustness,
    "energy": _energy,
    "dynamics": _dynamics,
    "ablation": _ablation,
    "fidelity": fidelity,
}
"""Every study's section, in the page's order."""
