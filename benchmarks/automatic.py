"""What settings suit data nobody has seen, and how good they are: the numbers of docs/automatic.md.

python benchmarks/automatic.py choose LOG FOLDER SET...            cross-validates VARIANTS on the training files of these sets
python benchmarks/automatic.py choose=VARIANT LOG FOLDER SET...    only one of them
python benchmarks/automatic.py table LOG FOLDER SET...             trains with no flag, three seeds, and tests on the test files

A set is NAME_TRAIN and NAME_TEST in FOLDER, as .txt (UCR archive) or .ts. Every result is a line of LOG; what LOG has is not
computed again.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import numpy as np
import torch
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from tsslbp import data, metrics, training
from tsslbp.data import Dataset, sample_values
from tsslbp.training import automatic
from tsslbp.training.baselines import flat
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.tables import markdown

SEEDS = (0, 1, 2)
FOLDS, REPEATS, FEW = 4, 2, 120
"""Folds of cross-validation, and how often sets of less than FEW samples are cut into them."""
VARIANTS: dict[str, dict[str, Any]] = {
    "automatic": {},
    "1000 filters": {"filters": 1000},
    "4000 filters": {"filters": 4000},
    "output scale 1": {"output_scale": 1.0},
    "10 steps": {"time_steps": 10},
    "one voter": {"network": "{classes}"},
    "step by step, recurrent": {"filters": 0, "network": "100R-{classes}", "learning_rate": 2e-3, "time_steps": None},
}


def load(folder: Path, name: str) -> Dataset:
    """A set, all training samples in one part."""
    return data.load(str(_path(folder, name)), folder, validation=0)


def _path(folder: Path, name: str) -> Path:
    found = [path for kind in ("txt", "ts") if (path := folder / f"{name}_TRAIN.{kind}").is_file()]
    if not found:
        raise UserError(f"no {name}_TRAIN.txt and no {name}_TRAIN.ts in {folder}; give the folder and the sets in it")
    return found[0]


def folds(dataset: Dataset) -> Iterator[Dataset]:
    """The training samples cut into training and test parts."""
    samples = dataset.train
    smallest = int(torch.bincount(samples.y).sort().values[0])
    repeats = REPEATS if len(samples) < FEW else 1
    cut = RepeatedStratifiedKFold(n_splits=max(2, min(FOLDS, smallest)), n_repeats=repeats, random_state=0)
    for train, test in cut.split(samples.y, samples.y):
        parts = [samples.select(torch.from_numpy(index)) for index in (train, test)]
        yield replace(dataset, train=parts[0], test=parts[1], normalisation=sample_values.fitted(parts[0], sequence=True))


def trained(dataset: Dataset, seed: int, variant: dict[str, Any]) -> float:
    """Test accuracy in percent after training with the automatic settings but for those of a variant."""
    count = len(dataset.classes)
    wanted = {name: value.format(classes=count) if name == "network" else value for name, value in variant.items()}
    chosen = {**automatic.choose(dataset, {"filters": 0} if variant.get("filters") == 0 else {}), **wanted}
    config = training.resolved(TrainConfig(seed=seed, validation=0, choose="last", precision="float32", **chosen), dataset)
    model, optimizer = training.prepare(config, dataset)
    seen, samples = model.filtered(dataset)
    unseen = replace(samples, test=samples.test.select(torch.arange(1)))  # epochs need not be tested
    loop = training.Loop(config, unseen, seen, optimizer)
    loop.run(lambda record: None)
    return seen.accuracy(samples.test)


def choose(log: Path, folder: Path, names: list[str], only: str = "") -> None:
    """Cross-validates every variant, or only one, on the training files alone."""
    done = _lines(log)
    for variant, settings in VARIANTS.items():
        if only not in ("", variant):
            continue
        for name in names:
            if any(line["set"] == name and line["variant"] == variant for line in done):
                continue
            began = time.perf_counter()
            reached = [trained(dataset, seed, settings) for seed, dataset in enumerate(folds(load(folder, name)))]
            line = {"set": name, "variant": variant, "accuracies": reached, "seconds": time.perf_counter() - began}
            done.append(_log(log, line))
    rows = []
    for variant in VARIANTS:
        means = [statistics.fmean(line["accuracies"]) for name in names for line in done if _is(line, name, variant)]
        if len(means) == len(names):
            rows.append([variant, *[f"{mean:.1f}" for mean in means], f"{statistics.fmean(means):.1f}"])
    print(markdown(["variant", *names, "mean"], rows))


def table(log: Path, folder: Path, names: list[str]) -> None:
    """Trains as ``tsslbp train --data FILE`` does, and compares with 1-nearest-neighbour sample by sample."""
    done = _lines(log)
    for name in names:
        for seed in SEEDS:
            if not any(line["set"] == name and line["seed"] == seed for line in done):
                done.append(_log(log, _without_flags(folder, name, seed)))
    rows = []
    for name in names:
        lines = [line for line in done if line["set"] == name]
        ours = np.mean([list(map(int, line["right"])) for line in lines], 0)
        difference = 100 * (ours - np.array(list(map(int, lines[0]["neighbour"]))))
        half = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
        finals = [line["final"] for line in lines]
        accuracies = [final["test_accuracy"] for final in finals]
        rows.append(
            [
                name,
                f"{statistics.fmean(accuracies):.1f} ({', '.join(f'{a:.1f}' for a in accuracies)})",
                *[f"{finals[0][field]:.1f}" for field in training.BASELINES if field in finals[0]],
                f"{difference.mean():+.1f} ± {half:.1f}",
                f"{statistics.fmean(final['seconds'] for final in finals):.0f}",
            ]
        )
    heads = ["set", "test accuracy, %", "majority", "1-NN", "logistic", "against 1-NN", "seconds"]
    print(markdown(heads, rows))
    print(f"\nmean {statistics.fmean(line['final']['test_accuracy'] for line in done if line['set'] in names):.2f} %")


def _without_flags(folder: Path, name: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        config = TrainConfig(data=str(_path(folder, name)), seed=seed, runs_dir=Path(place))
        run, final = training.train(config, given={"data", "seed", "runs_dir"})
        model, settings = training.load(run), TrainConfig.from_toml(run / "config.toml")
        dataset = training.with_data(settings)[1]
        right = metrics.decode(model.outputs(dataset.test.x, dataset.test.lengths)) == dataset.test.y
    x, u = (flat(part, dataset.normalisation) for part in (dataset.train + dataset.validation, dataset.test))
    near = KNeighborsClassifier(1).fit(x, (dataset.train + dataset.validation).y.numpy()).predict(u)
    neighbour = torch.from_numpy(near) == dataset.test.y
    about = {"machine": machine.describe(), "right": _digits(right), "neighbour": _digits(neighbour)}
    return {"set": name, "seed": seed, "final": final, **about}


def _digits(truths: Tensor) -> str:
    """A digit for every test sample."""
    return "".join(map(str, truths.int().tolist()))


def _is(line: dict[str, Any], name: str, variant: str) -> bool:
    return bool(line["set"] == name and line["variant"] == variant)


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def _log(log: Path, line: dict[str, Any]) -> dict[str, Any]:
    with log.open("a") as file:
        file.write(json.dumps(line) + "\n")
    return line


def main(what: str, log: str, folder: str, name: str, *names: str) -> None:
    known = ["table", "choose", *(f"choose={variant}" for variant in VARIANTS)]
    if what not in known:
        raise unknown("command", what, known)
    files.make_folder(Path(log).parent, "choose another LOG")
    if what == "table":
        table(Path(log), Path(folder), [name, *names])
    else:
        choose(Path(log), Path(folder), [name, *names], what.removeprefix("choose").removeprefix("="))


if __name__ == "__main__":
    command.run(main, __doc__)
