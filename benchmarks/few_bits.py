"""How accurate networks are with weights of few bits: the numbers of docs/to-c.md.

python benchmarks/few_bits.py train DATA_ROOT RUNS RECIPE...    trains networks, and each of them on with every number of bits
python benchmarks/few_bits.py table DATA_ROOT RUNS RECIPE...    tests them as integer networks, writes results/few-bits

Every float network is also trained on for as long without fewer bits, a control for what the additional training is worth.
Training that was interrupted goes on, and what is there is not trained again.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from tsslbp import recipes, training
from tsslbp.settings import TrainConfig
from tsslbp.study.runs import finished

ROOT = Path(__file__).parent.parent
BITS = ("2", "4", "8", "float")
SEEDS = (1, 2, 3)
"""Of the float networks. That of seed 1 is the one in models/; the others are trained for fewer epochs."""


@dataclass(frozen=True)
class Budget:
    """Epochs of the float networks of seeds 2 and 3, and of the training with few bits."""

    plain: int
    tuned: int


BUDGETS = {"fashion-mnist-fc-best": Budget(12, 1), "mnist-cnn-best": Budget(4, 1)}
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
    for seed in SEEDS:
        for name in names:
            for bits in BITS:
                tuned(settings(name, data_root, runs), seed, bits)


if __name__ == "__main__":
    command, data_root, runs, *names = sys.argv[1:]
    train(Path(data_root), Path(runs), names)
