"""When silence pays: how much networks fire while they learn, and what a penalty on firing costs and gains.

python benchmarks/silence.py train [DATA_ROOT]   trains 400-400-10 on Fashion-MNIST under several rules and penalties, three
                                                 seeds each, into results/silence/silence.json; what is there is not trained
python benchmarks/silence.py table               prints the tables of docs/speed.md from that file

After every epoch the network sees 500 validation images: which of its hidden neurons fire at all, how much of what enters
the second layer changes from one step to the next, and how long an image takes event by event and densely, on one thread in
batches of 50, the two taking turns.
"""

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch
from changes import changing
from inference import density, layer_by_layer

from tsslbp import data, training
from tsslbp.bench.measure import interleaved
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

FOLDER = Path(__file__).parent.parent / "results/silence"
SEEDS = (0, 1, 2)
EVENTPROP = "eventprop(clip=8, wake=1e-5)"
RULES = ("tssl", "tssl+", "tssl-paper", "surrogate", EVENTPROP)
OWN: dict[str, dict[str, Any]] = {
    EVENTPROP: {
        "loss": "first-spike",
        "time_steps": 10,
        "tau_m": 10.0,
        "first_rates": True,
        "output_scale": 4.0,
        "dropout": 0.0,
    }
}
"""Settings of a rule that needs its own, those of results/eventprop."""
PENALTIES = (0, 0.3, 1, 3, 10, 30)
"""Weights of the penalty ``½ Σ r²`` on the rates r of hidden neurons, under tssl+."""
SAMPLES, BATCH, SECONDS = 500, 50, 2.0


def settings(rule: str, penalty: float, seed: int, data_root: Path) -> TrainConfig:
    """The recipe of the network in models/ with the rule's own settings, four epochs, and no average of the weights."""
    given: dict[str, Any] = {"rule": rule, "seed": seed, "data_root": data_root, "rate_penalty": penalty, **OWN.get(rule, {})}
    if penalty:
        given["rate_upper"] = 0.0
    recipe = recipes.get("fashion-mnist-fc-best")
    return replace(recipe, epochs=4, average=0.0, validation=5000, precision="float32", **given)


def run(config: TrainConfig) -> dict[str, Any]:
    """Trains a network; what it does after every epoch, and its test accuracy after the epoch that validation chooses."""
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    epochs: list[dict[str, Any]] = []

    def measure(record: dict[str, Any]) -> None:
        found = {name: record[name] for name in ("validation_accuracy", "rates")} | activity(model, dataset.validation)
        epochs.append(found | {"test_accuracy": model.accuracy(dataset.test)})

    training.Loop(config, dataset, model, optimizer).run(measure)
    chosen = max(reversed(epochs), key=lambda epoch: epoch["validation_accuracy"])
    best = max(epoch["test_accuracy"] for epoch in epochs)
    return {"epochs": epochs, "test_accuracy": chosen["test_accuracy"], "best_test_accuracy": best}


@torch.no_grad()
def activity(model: training.Model, samples: data.Split) -> dict[str, Any]:
    """What a network does with samples: percent of hidden neurons that fire for one, percent of what enters the second layer
    that changes, and microseconds for an image by events and densely."""
    net = model.network.eval()
    x = model.inputs(samples.select(torch.arange(min(SAMPLES, len(samples)))).x)
    some, dense = x[:BATCH], layer_by_layer(net)
    took = interleaved({"events": lambda: net(some), "dense": lambda: dense(some)}, SECONDS)
    microseconds = {name: 1000 * each / len(some) for name, each in took.items()}
    return {"fired": density(net, x), "changes": 100 * changing(net, x)["linear2"], "us": microseconds}


def train(data_root: Path) -> None:
    path = FOLDER / "silence.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    result = json.loads(path.read_text()) if path.exists() else {"machine": machine.describe(), "seeds": SEEDS, "runs": {}}
    kinds = [(rule, 0) for rule in RULES] + [("tssl+", penalty) for penalty in PENALTIES[1:]]
    for seed in SEEDS:
        for rule, penalty in kinds:
            if (name := _name(rule, penalty, seed)) not in result["runs"]:
                result["runs"][name] = run(settings(rule, penalty, seed, data_root))
                files.write_json(path, result)
                print(name, result["runs"][name]["epochs"][-1], flush=True)
    print(table())


def _name(rule: str, penalty: float, seed: int) -> str:
    return f"{rule}, penalty {penalty}, seed {seed}"


def table() -> str:
    """How much networks fire by epoch and rule, then accuracy and time by penalty."""
    runs = json.loads((FOLDER / "silence.json").read_text())["runs"]

    def over(rule: str, penalty: float, of: Any) -> list[Any]:
        return [of(runs[_name(rule, penalty, seed)]) for seed in SEEDS]

    head = ["rule", *(f"epoch {k + 1}" for k in range(4)), "test accuracy, %"]
    by_rule = []
    for rule in RULES:
        cells = []
        for k in range(4):
            epochs = over(rule, 0, lambda run, k=k: run["epochs"][k])
            cells.append(" / ".join(f"{statistics.fmean(one[what] for one in epochs):.1f}" for what in ("fired", "changes")))
        by_rule.append([f"`{rule}`", *cells, _accuracy(over(rule, 0, lambda run: run))])
    rows = []
    for penalty in PENALTIES:
        last = [run["epochs"][-1] for run in over("tssl+", penalty, lambda run: run)]
        fired, changes = (statistics.fmean(epoch[what] for epoch in last) for what in ("fired", "changes"))
        settled = [epoch["us"] for run in over("tssl+", penalty, lambda run: run) for epoch in run["epochs"][-2:]]
        faster = statistics.median(us["dense"] / us["events"] for us in settled)
        accuracy = _accuracy(over("tssl+", penalty, lambda run: run))
        rows.append([f"{penalty:g}", accuracy, f"{fired:.1f}", f"{changes:.1f}", f"{faster:.2f}"])
    names = ["penalty", "test accuracy, %", "fire, %", "changes, %", "layers / events"]
    return markdown(head, by_rule) + "\n" + markdown(names, rows)


def _accuracy(runs: list[Any]) -> str:
    chosen, best = ([run[name] for run in runs] for name in ("test_accuracy", "best_test_accuracy"))
    return f"{statistics.fmean(chosen):.2f} ± {statistics.stdev(chosen):.2f} ({statistics.fmean(best):.2f})"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", *root] if len(root) < 2:
            torch.set_num_threads(1)
            with command.told():
                train(Path(*root) if root else Path("data"))
        case ["table"]:
            print(table())
        case _:
            sys.exit(__doc__)
