"""How large the gradient is in each layer of deep networks at their first step: python benchmarks/depth.py

Builds residual networks of 10, 18 and 34 layers, the same without shortcuts, without normalisation, under other rules and with
ReLU in place of spikes. Takes the gradient of one batch of CIFAR-10 by each layer's weights. Writes results/depth/depth.json
and prints the table of docs/how-to-own-network.md.
"""

import math
import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import training
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "results/depth/depth.json"
SEEDS = (0, 1, 2)
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Blocks of two convolutions in each of four stages, by depth: those of ResNet-18 and ResNet-34, and half of the first."""
WIDTHS = (16, 32, 64, 128)
KINDS: dict[str, dict[str, Any]] = {
    "residual, normalised, `tssl+`": {},
    "residual, normalised, `tssl`": {"rule": "tssl"},
    "residual, normalised, `surrogate`": {"rule": "surrogate"},
    "residual, normalised, `surrogate(name=triangular)`": {"rule": "surrogate(name=triangular)"},
    "residual, normalised, ReLU": {"neuron": "relu"},
    "plain, normalised, `tssl+`": {"residual": False},
    "residual, `tssl+`": {"normalised": False},
}
"""What networks differ in, by what to call them."""
CONFIG = TrainConfig(
    data="cifar10",
    data_root=ROOT / "tests/samples",
    padding=(1,),
    time_steps=4,
    tau_s=1.5,
    rule="tssl+",
    loss="softmax",
    validation=0,
    choose="last",
    batch_size=50,
    precision="float32",
)


def notation(depth: int, residual: bool = True, normalised: bool = True) -> str:
    """A network of this many layers with weights: a convolution, pairs of them in four stages, and the output."""
    n = "n" * normalised
    layers = [f"{WIDTHS[0]}C3{n}"]
    for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True)):
        for block in range(blocks):
            pair = f"{width}C3{'s2' if stage and not block else ''}{n}-{width}C3{n}"
            layers.append(f"[{pair}]" if residual else pair)
    return "-".join([*layers, "A4", "10b"])


def norms(config: TrainConfig) -> dict[str, float]:
    """The norm of the gradient by each layer's weights, shortcuts apart, from the first layer to the output."""
    config, dataset = training.with_data(config)
    model, _ = training.prepare(config, dataset)
    batch, network = dataset.train.select(torch.arange(config.batch_size)), model.network.train()
    config.make_loss()(network(model.inputs(batch.x)), batch.y, None).backward()
    return {
        name.removeprefix("layers.").removesuffix(".weight"): float(weight.grad.norm())
        for name, weight in network.named_parameters()
        if name.endswith(".weight") and "shortcut" not in name and weight.grad is not None
    }


def measured() -> dict[str, dict[int, list[dict[str, float]]]]:
    """Norms by kind and depth, a dictionary for each seed."""
    return {
        kind: {depth: [norms(_config(depth, seed, **options)) for seed in SEEDS] for depth in BLOCKS}
        for kind, options in KINDS.items()
    }


def _config(depth: int, seed: int, residual: bool = True, normalised: bool = True, **changes: Any) -> TrainConfig:
    return replace(CONFIG, network=notation(depth, residual, normalised), seed=seed, **changes)


def share(made: Mapping[str, float]) -> float:
    """The norm of the first layer over that of the last one before the output."""
    *hidden, _ = made.values()
    return hidden[0] / hidden[-1] if hidden[-1] else math.nan


def spread(made: Mapping[str, float]) -> float:
    """The largest norm of a hidden layer over the smallest."""
    *hidden, _ = made.values()
    return max(hidden) / min(hidden) if min(hidden) else math.inf


def table(found: Mapping[str, Mapping[Any, list[dict[str, float]]]]) -> str:
    def cell(runs: list[dict[str, float]]) -> str:
        first, wide = (statistics.fmean(measure(run) for run in runs) for measure in (share, spread))
        if not math.isfinite(first + wide):
            return "silent"
        return "{:g} ({:g})".format(*(float(f"{number:.2g}") for number in (first, wide)))

    rows = [[kind, *(cell(runs) for runs in by_depth.values())] for kind, by_depth in found.items()]
    return markdown(["network", *(f"{depth} layers" for depth in BLOCKS)], rows)


def main() -> None:
    found = measured()
    files.write_json(RESULT, {"machine": machine.describe(), "seeds": SEEDS, "norms": found})
    print(table(found))


if __name__ == "__main__":
    command.run(main, __doc__)
