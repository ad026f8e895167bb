"""Whether TSSL trains without its fallback, if only the network fires at first: python benchmarks/without_fallback.py DATA_ROOT

Trains fashion-mnist-fc-head under tssl(fallback=never) from initial weights that are scaled up, so that no layer need be
silent. Writes results/without-fallback/without-fallback.json and prints the table of docs/answers.md.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import training
from tsslbp.network.network import Network
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/without-fallback/without-fallback.json"
SCALES, SEEDS, EPOCHS = (1, 2, 4, 8), (0, 1, 2), 3
CONFIG = replace(recipes.get("fashion-mnist-fc-head"), epochs=EPOCHS, learning_rate=1e-3, precision="bfloat16")


def trained(config: TrainConfig, scale: float) -> dict[str, Any]:
    """A run without fallback, from scaled weights: output spikes per step in the first batch, and the epochs' records."""
    rates: list[float] = []

    @torch.no_grad()
    def scaled(network: Network) -> None:
        for weight in network.parameters():
            weight.mul_(scale)
        *_, output = network.layers
        output.register_forward_hook(lambda layer, _, psc: rates.append(float(network.fired(psc).float().mean())))

    with tempfile.TemporaryDirectory() as folder:
        run = replace(config, rule="tssl(fallback=never)", runs_dir=Path(folder), test_every=1)
        epochs = training.read_metrics(training.train(run, adapt=scaled)[0])[0]
    return {"first": rates[0], "epochs": epochs}


def table(result: dict[str, Any]) -> str:
    rows = []
    for scale, runs in result["scales"].items():
        first = statistics.fmean(run["first"] for run in runs)
        epochs = list(zip(*(run["epochs"] for run in runs), strict=True))
        rates = [f"{statistics.fmean(record['rates']['output'] for record in epoch):.4f}" for epoch in epochs]
        accuracies = [f"{statistics.fmean(record['test_accuracy'] for record in epoch):.1f}" for epoch in epochs]
        rows.append([f"× {scale}", f"{first:.4f}", ", ".join(rates), ", ".join(accuracies)])
    heads = ["initial weights", "output spikes per step, first batch", "after each epoch", "test accuracy after each epoch, %"]
    return markdown(heads, rows)


def main(data_root: str) -> None:
    config = replace(CONFIG, data_root=Path(data_root))
    runs = {str(scale): [trained(replace(config, seed=seed), scale) for seed in SEEDS] for scale in SCALES}
    result = {"machine": machine.describe(), "seeds": SEEDS, "scales": runs}
    files.write_json(RESULT, result)
    print(table(result))


if __name__ == "__main__":
    command.run(main, __doc__)
