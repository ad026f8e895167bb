"""How much of the paper's table its spike-time gradient trains: python benchmarks/paper_fallback.py DATA_ROOT

The rule behind the table takes a surrogate for a whole layer while at most 10 % of its neurons' steps have a spike. This counts
the batches of three epochs in which a layer has more. Of the rest of a training it reads what the runs under the paper's
protocol recorded after every epoch. Writes results/checks/paper-fallback.json and prints the table of docs/gradient.md.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch
from torch import Tensor

from tsslbp import training
from tsslbp.layers import Spiking
from tsslbp.network.network import Network
from tsslbp.rules.tssl import RATE_LIMIT
from tsslbp.training import recipes
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULTS = Path(__file__).parent.parent / "results"
RESULT = RESULTS / "checks/paper-fallback.json"
ROWS = ("mnist-cnn", "fashion-mnist-fc", "nmnist-cnn")
EPOCHS = 3


def counted(network: Network) -> dict[str, list[bool]]:
    """Of every layer by name, batch by batch of the training to come, whether it gets its spike-time gradient."""
    busy: dict[str, list[bool]] = defaultdict(list)

    def count(name: str, psc: Tensor) -> None:
        if network.training:
            busy[name].append(float(network.fired(psc.detach(), name).double().mean()) > RATE_LIMIT)

    for name, layer in network.named_layers():
        if isinstance(layer, Spiking):
            layer.register_forward_hook(lambda _, __, psc, name=name: count(name, psc))
    return busy


def first_epochs(name: str, data_root: Path, **changes: Any) -> dict[str, list[float]]:
    """Of every layer, epoch by epoch, the share of batches in which it gets its spike-time gradient."""
    seen: list[dict[str, list[bool]]] = []
    with tempfile.TemporaryDirectory() as folder:
        config = replace(recipes.get(name), validation=0, choose="last", epochs=EPOCHS, precision="float32", **changes)
        config = replace(config, runs_dir=Path(folder), data_root=data_root)
        training.train(config, adapt=lambda network: seen.append(counted(network)))
    return {layer: torch.tensor(busy).view(EPOCHS, -1).double().mean(1).tolist() for layer, busy in seen[-1].items()}


def recorded(name: str) -> dict[str, tuple[float, float]]:
    """Spikes per neuron and step of every layer, and the share of batches without surrogate: means over epochs and seeds."""
    paths = sorted((RESULTS / f"{name}-paper-protocol").glob("seed*.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    epochs = [record for record in map(json.loads, lines) if "fallback" in record]

    def mean(of: str, layer: str) -> float:
        return statistics.fmean(epoch[of][layer] for epoch in epochs)

    return {layer: (mean("rates", layer), 1 - mean("fallback", layer)) for layer in epochs[0]["rates"]}


def table(result: dict[str, Any]) -> str:
    rows = []
    for name, layers in result["first_epochs"].items():
        for layer, (rate, share) in recorded(name).items():
            shares = [f"{100 * one:.1f}" for one in (*layers[layer], share)]
            rows.append([f"`{name}`", f"`{layer}`", *shares, f"{rate:.3f}"])
    ordinals = [f"epoch {epoch + 1}" for epoch in range(EPOCHS)]
    return markdown(["network", "layer", *ordinals, "after all epochs", "spikes per neuron and step"], rows)


def main(data_root: str) -> None:
    result = {"machine": machine.describe(), "first_epochs": {name: first_epochs(name, Path(data_root)) for name in ROWS}}
    files.write_json(RESULT, result)
    print(table(result))


if __name__ == "__main__":
    command.run(main, __doc__)
