"""What learned and spread constants are worth, and what they cost.

python benchmarks/constants.py train [DATA_ROOT]   trains every variant on images, speech and series, three seeds each, into
                                                   results/constants/constants.json; what is there is not trained again
python benchmarks/constants.py table               prints the table of docs/learnable-constants.md from that file
python benchmarks/constants.py time                measures what a training step costs, into results/constants/time.json
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import command

from tsslbp import training
from tsslbp.neuron import CONSTANTS
from tsslbp.study.step import step
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

FOLDER = Path(__file__).parent.parent / "results/constants"
SEEDS = (0, 1, 2)
VARIANTS: dict[str, dict[str, Any]] = {
    "one fixed number": {},
    "fixed, spread by half": {"per_neuron": CONSTANTS, "spread": 0.5},
    "one a layer, learned": {"learn": CONSTANTS},
    "one a neuron, learned": {"learn": CONSTANTS, "per_neuron": CONSTANTS},
    "one a neuron, learned, spread by half": {"learn": CONSTANTS, "per_neuron": CONSTANTS, "spread": 0.5},
}
TASKS: dict[str, TrainConfig] = {
    "images": replace(
        recipes.get("fashion-mnist-fc-best"), network="200-200-10", epochs=2, learning_rate=2e-3, average=0.0, validation=5000
    ),
    "speech": replace(recipes.get("spoken-digits"), network="200-10", rule="tssl+", epochs=10),
    "series": replace(recipes.get("japanese-vowels"), network="100-9", rule="tssl+"),
}
"""Fashion-MNIST, spoken digits and two Japanese vowels: recipes of the library, the first two shortened, the others
without recurrent connections."""
TIMED = ("fashion-mnist-fc", "quickstart", "spoken-digits")


def train(data_root: Path) -> None:
    path = FOLDER / "constants.json"
    result = json.loads(path.read_text()) if path.exists() else {"machine": machine.describe(), "seeds": SEEDS, "runs": {}}
    for seed in SEEDS:
        for task, config in TASKS.items():
            for variant, changes in VARIANTS.items():
                key = f"{task}, {variant}, seed {seed}"
                if key in result["runs"]:
                    continue
                began = time.process_time()
                with tempfile.TemporaryDirectory() as folder:
                    settings = replace(config, **changes, seed=seed, precision="float32", test_every=1, data_root=data_root)
                    _, final = training.train(replace(settings, runs_dir=Path(folder)))
                found = {name: final[name] for name in ("test_accuracy", "best_test_accuracy", "validation_accuracy")}
                result["runs"][key] = {**found, "processor_seconds": round(time.process_time() - began)}
                files.write_json(path, result)
                print(key, result["runs"][key], flush=True)
    print(table())


def table() -> str:
    runs = json.loads((FOLDER / "constants.json").read_text())["runs"]

    def cell(task: str, variant: str) -> str:
        found = [runs[f"{task}, {variant}, seed {seed}"] for seed in SEEDS]
        chosen, best = ([run[name] for run in found] for name in ("test_accuracy", "best_test_accuracy"))
        return f"{statistics.fmean(chosen):.2f} ± {statistics.stdev(chosen):.2f} ({statistics.fmean(best):.2f})"

    return markdown(["constants", *TASKS], [[variant, *(cell(task, variant) for task in TASKS)] for variant in VARIANTS])


def clock(rounds: int = 15) -> str:
    """The fastest of many steps, the variants taking turns, so that a busy machine slows all of them alike."""
    kinds = {name: VARIANTS[name] for name in ("one fixed number", "one a layer, learned", "one a neuron, learned")}
    rows, result = [], {"machine": machine.describe(), "milliseconds": {}}
    for name in TIMED:
        config = replace(recipes.get(name), data="digits", time_steps=recipes.get(name).time_steps or 5, precision="float32")
        steps: dict[str, Callable[[], None]] = {}
        for kind, changes in kinds.items():
            steps[kind] = step(*training.with_data(replace(config, **changes)))
            steps[kind]()
        times: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, run in steps.items():
                began = time.perf_counter()
                run()
                times[kind].append(1000 * (time.perf_counter() - began))
        result["milliseconds"][name] = {kind: min(found) for kind, found in times.items()}
        first, *others = (min(found) for found in times.values())
        rows.append([f"`{name}`", f"{first:.1f}", *(f"{x:.1f} ({100 * (x / first - 1):+.0f} %)" for x in others)])
    files.write_json(FOLDER / "time.json", result)
    return markdown(["network", *kinds], rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["train", *root] if len(root) < 2:
            with command.told():
                train(Path(*root) if root else Path("data"))
        case ["table"]:
            print(table())
        case ["time"]:
            print(clock())
        case _:
            sys.exit(__doc__)
