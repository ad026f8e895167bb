"""How accurate networks are with weights of few bits: the numbers of docs/to-c.md.

python benchmarks/few_bits.py train DATA_ROOT RUNS RECIPE...    trains networks, and each of them on with every number of bits
python benchmarks/few_bits.py table DATA_ROOT RUNS RECIPE...    tests them as integer networks

``table`` with all recipes also writes results/few-bits.

Every float network is also trained on for as long without fewer bits, a control for what the additional training is worth.
Training that was interrupted goes on, and what is there is not trained again.
"""

import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import data, metrics, training
from tsslbp.data import Split
from tsslbp.exchange.program import Program
from tsslbp.study.paired import interval, paired
from tsslbp.study.runs import finished
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
OUT = ROOT / "results/few-bits"
HEADS = ("recipe", "weights", "test accuracy, % (networks)", "difference", "95 % interval")
BITS = ("2", "4", "8", "float")
SEEDS = (1, 2, 3)
"""Of the float networks. That of seed 1 is the one in models/; the others are trained for fewer epochs."""


@dataclass(frozen=True)
class Budget:
    """Epochs of the float networks of seeds 2 and 3, and of the training with few bits."""

    plain: int
    tuned: int


BUDGETS = {"fashion-mnist-fc-best": Budget(15, 4), "mnist-cnn-best": Budget(8, 4)}
TUNING = {"learning_rate": 5e-4, "average": 0.99}
"""Settings of the training with few bits that are not the recipe's. Nothing was tuned: they were chosen beforehand."""


def plain(config: TrainConfig, seed: int) -> Path:
    """A trained float network: a file in models/, or the folder of a run."""
    if seed == SEEDS[0]:
        return ROOT / f"models/{config.recipe}.safetensors"
    epochs = BUDGETS[config.recipe].plain
    return finished(replace(config, seed=seed, epochs=epochs, name=f"{config.recipe}-{seed}"), watch)


def tuned(config: TrainConfig, seed: int, bits: str) -> Path:
    """The folder of a run that gives a float network fewer bits."""
    epochs, name = BUDGETS[config.recipe].tuned, f"{config.recipe}-{seed}-{bits}"
    return finished(replace(config, init=plain(config, seed), bits=bits, seed=seed, epochs=epochs, name=name, **TUNING), watch)


def watch(name: str) -> training.Progress:
    print(name, flush=True)
    return training.watcher()


def settings(recipe: str, data_root: Path, runs: Path) -> TrainConfig:
    return replace(recipes.get(recipe), data_root=data_root, runs_dir=runs, precision="float32")


def train(data_root: Path, runs: Path, names: list[str]) -> None:
    """Trains what is not there yet."""
    for seed in SEEDS:
        for name in names:
            for bits in BITS:
                tuned(settings(name, data_root, runs), seed, bits)


def tested(path: Path, samples: Split) -> dict[str, Any]:
    """Test accuracy of a model, in percent, and that of the whole numbers it becomes as C."""
    model = training.load(path)
    found: dict[str, Any] = {"accuracy": model.accuracy(samples)}
    program = Program.of(model)
    if program.whole is not None:
        right = sum(
            int((metrics.decode(program.response(part)[1][None]) == part.y).sum())
            for part in map(samples.select, torch.arange(len(samples)).split(500))
        )
        found["whole"] = 100 * right / len(samples)
    return found


def measure(config: TrainConfig) -> dict[str, Any]:
    """Accuracies of the networks of a recipe that have been trained, by bits and seed."""
    test = data.load(config.data, config.data_root, validation=0).test
    results: dict[str, Any] = {"plain": {}, **{bits: {} for bits in BITS}}
    for seed in SEEDS:
        done = [bits for bits in BITS if _ended(config.runs_dir / f"{config.recipe}-{seed}-{bits}")]
        if done:
            results["plain"][seed] = tested(plain(config, seed), test)
        for bits in done:
            results[bits][seed] = tested(config.runs_dir / f"{config.recipe}-{seed}-{bits}", test)
    return results


def _ended(run: Path) -> bool:
    return (run / "metrics.jsonl").is_file() and training.read_metrics(run)[1] is not None


def rows(recipe: str, results: dict[str, Any]) -> list[list[str]]:
    """Rows of the table: accuracies, and differences from the float networks, seed by seed."""
    made = [[f"`{recipe}`", "as it was", _mean(results["plain"], "accuracy"), "–", "–"]]
    for bits in reversed(BITS):
        if seeds := results[bits]:
            reached = "whole" if bits != "float" else "accuracy"
            found = [seeds[seed][reached] - results["plain"][seed]["accuracy"] for seed in seeds]
            spread = interval(paired(found, [0.0] * len(found))) if len(found) > 1 else "–"
            what = f"{bits}{' bits' if bits.isdigit() else ', trained on'}"
            made.append([f"`{recipe}`", what, _mean(seeds, reached), f"{statistics.fmean(found):+.2f}", spread])
    return made


def _mean(seeds: dict[Any, Any], what: str) -> str:
    return f"{statistics.fmean(one[what] for one in seeds.values()):.2f} ({len(seeds)})"


def table(data_root: Path, runs: Path, names: list[str], out: Path = OUT) -> None:
    """Tests what has been trained and prints the table; writes the results of all recipes."""
    results = {name: measure(settings(name, data_root, runs)) for name in names}
    for name, found in results.items():
        if not found["plain"]:
            raise UserError(f"{runs} has no network of {name} with few bits; train them first")
    print(markdown(HEADS, [row for name in names for row in rows(name, results[name])]), end="")
    if {*names} == {*BUDGETS}:
        about = {"machine": machine.describe(), "budgets": {name: asdict(BUDGETS[name]) for name in names}, "settings": TUNING}
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(out / "few-bits.json", {**about, "results": results})


def main(what: str, data_root: str, runs: str, name: str, *names: str) -> None:
    made = {"train": train, "table": table}
    if what not in made:
        raise unknown("command", what, made)
    for each in (name, *names):
        if each not in BUDGETS:
            raise unknown("recipe", each, BUDGETS)
    made[what](Path(data_root), Path(runs), [name, *names])


if __name__ == "__main__":
    command.run(main, __doc__)
