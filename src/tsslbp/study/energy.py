"""The cost of a sample, layer by layer, on hardware that skips zeros and on hardware that skips nothing."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tsslbp.network.architecture import NO_ANN
from tsslbp.network.network import Network
from tsslbp.network.notation import RecurrentSpec, contains
from tsslbp.report import charts
from tsslbp.report.page import Result, Section, significant
from tsslbp.study.activity import AC_PJ, MAC_PJ, Operations, enter_as_spikes, layer_operations, spike_counts, total
from tsslbp.study.base import OfRuns, Study, measured
from tsslbp.study.runs import Run, Watch, about, check_runs, check_same, check_seeds
from tsslbp.utils.errors import UserError, shown

BATCH = 100


def energy(trained: list[Run], subject: str) -> dict[str, Any]:
    """Operations and energy per test sample of every layer, counted by ``study/activity.py``.

    Args:
        trained: runs of one network on the same data; those of the same rule, which differ in their seed, are averaged.
        subject: their name.

    Returns:
        Under ``rules``, by :attr:`Run.label`: ``seeds``, ``accuracy`` in percent, and the fields of :class:`Operations` with
        ``energy_nj`` and ``dense_nj``, under ``layers`` by name and under ``total``. Under ``dense_relu`` the ``dense_nj`` of
        the ReLU network of the same notation by layer, None if the notation needs spiking neurons. Its cost where zeros are
        skipped is known only if a trained one is among the runs.

    Raises:
        UserError: other networks or data, or runs of one rule that differ in more than their seed or have the same.
    """
    if not isinstance(trained, (list, tuple)) or not trained:
        raise UserError(f"trained is {shown(trained)}; it must be a list of runs, as tsslbp.study.runs.load_all returns it")
    check_runs(*trained)
    labels = dict.fromkeys(run.label for run in trained)
    by_label = {label: [run for run in trained if run.label == label] for label in labels}
    check_same(trained, ("data", "network"), "name runs of one network on the same data")
    for same in by_label.values():
        check_seeds(same)
    first = trained[0]
    shared = {key: value for key, value in first.settings.items() if all(run.settings.get(key) == value for run in trained)}
    if any(run.settings.get("choose") == "test" for run in trained):  # which the page has to say
        shared["choose"] = "test"
    return about("energy", subject, shared) | {
        "samples": len(first.test),
        "trains": first.test.trains,
        "sequence": first.model.inputs.sequence,
        "picojoules": {"mac": MAC_PJ, "ac": AC_PJ},
        "rules": {
            label: {
                "seeds": [run.settings["seed"] for run in same],
                "accuracy": sum(run.model.accuracy(run.test) for run in same) / len(same),
                **_costs(_by_layer([layers_of(run) for run in same], len(same))),
            }
            for label, same in by_label.items()
        },
        "dense_relu": dense_relu(first),
    }


def layers_of(run: Run) -> dict[str, Operations]:
    """Operations per test sample by layer."""
    network, made, trains = run.model.network, [], enter_as_spikes(run.model, run.test, BATCH)
    with run.model.evaluating(run.test, BATCH) as batches:
        for part, x in batches:
            made.append(layer_operations(network, x, spike_counts(network, x, part.lengths), part.lengths, trains))
    return _by_layer(made, len(run.test))


@torch.inference_mode()
def dense_relu(run: Run) -> dict[str, float] | None:
    """Nanojoules by layer of the ReLU network of the same notation where nothing is skipped, the same for every sample."""
    network = run.model.network
    if contains(network.architecture.network, RecurrentSpec):
        return None
    relu = Network(replace(network.architecture, neuron="relu", **NO_ANN)).eval()
    x = torch.zeros(1, *network.architecture.input_shape)
    return {name: made.dense_nj for name, made in layer_operations(relu, x, spike_counts(relu, x)).items()}


def _costs(layers: dict[str, Operations]) -> dict[str, Any]:
    def cost(made: Operations) -> dict[str, float]:
        return {**asdict(made), "energy_nj": made.energy_nj, "dense_nj": made.dense_nj}

    return {"layers": {name: cost(made) for name, made in layers.items()}, "total": cost(total(layers.values()))}


def _by_layer(found: list[dict[str, Operations]], samples: int) -> dict[str, Operations]:
    return {name: total([made[name] for made in found], samples) for name in found[0]}


def _run(options: OfRuns, watch: Watch) -> tuple[Path, Result]:
    out, trained = options.load()
    return out, energy(trained, options.runs[0].resolve().name)


def section(result: Result) -> Section:
    rules, dense_relu, picojoules = result["rules"], result["dense_relu"], result["picojoules"]
    filtered = result["settings"].get("filters")
    series = result["sequence"] and not filtered  # filters make static samples
    charged = f"{'the rates of the filters' if filtered else 'the pixels of a picture'} that enter the first layer"
    if series:
        charged = "the real numbers of a sequence that enter a spiking network's first layer"
    nj = {label: rule["total"]["energy_nj"] for label, rule in rules.items()}
    thriftiest = min(nj, key=lambda label: nj[label])
    skipping, dense = f"the network takes {significant(nj[thriftiest])} nJ", rules[thriftiest]["total"]["dense_nj"]
    if len(rules) > 1:
        good = f"{rules[thriftiest]['accuracy']:.2f}{'' if result['trains'] else ' % accuracy'}"
        skipping = f"{thriftiest} needs the least energy, {significant(nj[thriftiest])} nJ ({good})"
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
        bars.append("ReLU, dense")
        for name, values in parts.items():
            values.append(dense_relu.get(name, 0.0))
    drawing = charts.stacked("energy-layers", bars, parts, "energy of a sample, nJ")
    accuracies = ", ".join(f"{label}: {rule['accuracy']:.2f}" for label, rule in rules.items())
    return Section(
        "How much energy does a sample take?",
        f"Where zeros are skipped, {skipping}{beside}. "
        f"Where nothing is skipped, {thriftiest if len(rules) > 1 else 'it'} takes {significant(dense)} nJ{dense_beside}.",
        [(drawing, "Energy of each layer's connections and of the neurons' own arithmetic, the mean over the test set.")],
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
            f"Energy: zeros cost nothing in any network, except {charged}. Dense: "
            "every connection costs a MAC, once in an ANN and at every step in a spiking network. Both include the neurons' "
            "own arithmetic (own MAC).",
            *(["The filters before the network are not counted."] if filtered else []),
            *(["The ReLU network sees a sequence once, as its mean over time."] if series and dense_relu else []),
            f"{measured(result)}: {accuracies}.",
            f"{result['samples']} test samples. {_seeds(rules)}.",
        ],
    )


def _seeds(rules: Result) -> str:
    told = {label: ", ".join(map(str, rule["seeds"])) for label, rule in rules.items()}
    if len(set(told.values())) == 1:
        return f"Seeds: {next(iter(told.values()))}"
    return f"Seeds: {'; '.join(f'{label}: {seeds}' for label, seeds in told.items())}"


def _connections(cost: dict[str, float], picojoules: dict[str, float]) -> float:
    return (picojoules["mac"] * cost["macs"] + picojoules["ac"] * cost["acs"]) / 1000


STUDY = Study("RUNS: operations and energy by layer, with and without skipping zeros", OfRuns, _run, section, place=4)
