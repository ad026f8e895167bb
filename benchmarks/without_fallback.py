"""Whether TSSL trains without its fallback, if only the network fires at first: python benchmarks/without_fallback.py DATA_ROOT

Trains fashion-mnist-fc under tssl(fallback=never) from initial weights that are scaled up, so that no layer need be silent.
Writes results/without-fallback/without-fallback.json and prints the table of docs/answers.md.
"""

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tsslbp import files, machine, recipes, training
from tsslbp.config import TrainConfig

SCALES, SEEDS, EPOCHS = (1, 2, 4, 8), (0, 1, 2), 3
CONFIG = replace(recipes.get("fashion-mnist-fc"), epochs=EPOCHS, learning_rate=1e-3, precision="bfloat16")


def trained(config: TrainConfig, scale: float) -> list[dict[str, Any]]:
    """The epochs' records of a run without fallback, from weights that are scaled."""

    @torch.no_grad()
    def scaled(network: nn.Module) -> None:
        for weight in network.parameters():
            weight.mul_(scale)

    with tempfile.TemporaryDirectory() as folder:
        run = replace(config, rule="tssl(fallback=never)", runs_dir=Path(folder))
        return training.read_metrics(training.train(run, adapt=scaled)[0])[0]


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| initial weights | test accuracy after each epoch, % | output spikes per step after each epoch |",
        "|---|---|---|",
    ]
    for scale, runs in result["scales"].items():
        epochs = list(zip(*runs, strict=True))
        accuracies = [f"{statistics.fmean(record['test_accuracy'] for record in epoch):.1f}" for epoch in epochs]
        rates = [f"{statistics.fmean(record['rates']['output'] for record in epoch):.4f}" for epoch in epochs]
        lines.append(f"| × {scale} | {', '.join(accuracies)} | {', '.join(rates)} |")
    return "\n".join(lines)


def main(data_root: str) -> None:
    config = replace(CONFIG, data_root=Path(data_root))
    runs = {str(scale): [trained(replace(config, seed=seed), scale) for seed in SEEDS] for scale in SCALES}
    result = {"machine": machine.describe(), "seeds": SEEDS, "scales": runs}
    files.write_text(Path("results/without-fallback/without-fallback.json"), json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
