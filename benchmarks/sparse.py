"""What it is worth to multiply only what changes (``tsslbp.sparse``), on a quiet machine.

python benchmarks/sparse.py [DATA_ROOT] [SECONDS]  training steps of the networks in models/ on their own training samples, with
                                                   trained and first weights: a table
python benchmarks/sparse.py break-even             maps of a hidden layer at many shares of changes, by changes and dense
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tsslbp import data, machine, sparse, training
from tsslbp.bench.cases import Case, Subject, floor, trainer
from tsslbp.bench.measure import interleaved
from tsslbp.layers import Conv2d, Linear, Spiking
from tsslbp.losses import KernelLoss
from tsslbp.networks import Network
from tsslbp.neuron import LIF, synapse
from tsslbp.tables import markdown

ROOT = Path(__file__).parent.parent
MODELS = {"fashion-mnist-fc-best": 100, "mnist-cnn-best": 50, "fashion-mnist-cnn-best": 50}
"""Networks with their batch sizes."""


def steps(data_root: Path, seconds: float) -> str:
    result: dict[str, Any] = {"machine": machine.describe(), "threads": torch.get_num_threads(), "networks": {}}
    for name, batch in MODELS.items():
        model = training.load(ROOT / f"models/{name}.safetensors")
        samples = data.load(model.data, data_root).train.select(torch.arange(batch))
        x, a = model.inputs(samples.x), model.network.architecture
        torch.manual_seed(0)
        subjects: dict[str, Callable[[], Any]] = {"maps alone": floor(Case(name, a, batch), torch.float32).step}
        shares = {}
        for weights, net in {"trained": model.network, "first": Network(a)}.items():
            for by_changes in (True, False):
                subjects[f"{weights}, {'by changes' if by_changes else 'dense'}"] = training_step(
                    net, x, samples.y, by_changes
                ).step
            net(x)
            shares[weights] = {layer: part.multiplied for layer, part in net.named_layers() if isinstance(part, Spiking)}
        result["networks"][name] = {"milliseconds": interleaved(subjects, seconds), "multiplied": shares, "batch": batch}
    return table(result)


def training_step(net: Network, x: torch.Tensor, y: torch.Tensor, by_changes: bool) -> Subject:
    loss = KernelLoss(time_steps=net.time_steps, tau_s=net.neuron.tau_s)

    def forward() -> torch.Tensor:
        net.train()
        for layer in net.modules():
            if isinstance(layer, Spiking):
                layer.by_changes = by_changes
        return net(x)

    return trainer(net, forward, lambda psc: loss(psc, y))


def table(result: dict[str, Any]) -> str:
    head = [
        "network",
        "weights",
        "multiplied",
        "maps alone",
        "dense",
        "by changes",
        "by changes / dense",
        "by changes / maps alone",
    ]
    rows = []
    for name, found in result["networks"].items():
        ms = found["milliseconds"]
        for weights, shares in found["multiplied"].items():
            fast, dense, alone = ms[f"{weights}, by changes"], ms[f"{weights}, dense"], ms["maps alone"]
            said = ", ".join(f"{layer} {100 * share:.0f} %" for layer, share in shares.items() if share < 1) or "all"
            times = [f"{value:.2f} ms" for value in (alone, dense, fast)]
            rows.append([name, weights, said, *times, f"{fast / dense:.2f}", f"{fast / alone:.2f}"])
    return markdown(head, rows)


def break_even() -> str:
    """Forward and backward of one map, by changes over dense, at many shares of changes."""
    neuron, rows = LIF(5.0, 3.0), []
    sizes: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "400 to 400": (Linear(400, 400, neuron=neuron), (100, 400)),
        "32 to 64 channels, 5×5, 12×12": (Conv2d(32, 64, 5, neuron=neuron), (50, 32, 12, 12)),
        "15 to 40 channels, 5×5, 12×12": (Conv2d(15, 40, 5, neuron=neuron), (50, 15, 12, 12)),
    }
    sparse.MOST_FLAT = sparse.MOST_CONVOLVED = 1.0
    for name, (layer, shape) in sizes.items():
        for rate in (0.02, 0.05, 0.1, 0.2, 0.4):
            fires, first = torch.rand(shape) < rate, torch.randint(0, 5, shape)
            signal = synapse((fires & (torch.arange(5).view(-1, *[1] * len(shape)) >= first)).float(), neuron.tau_s)
            signal = signal if signal.dim() < 5 else signal.transpose(2, 4).contiguous().transpose(2, 4)

            def call(by_changes: bool, layer: Any = layer, signal: torch.Tensor = signal) -> None:
                layer.by_changes = by_changes
                layer.current(signal).sum().backward()

            ms = interleaved({"by changes": lambda call=call: call(True), "dense": lambda call=call: call(False)}, 2.0)
            layer.by_changes = True
            layer.current(signal)
            rows.append([name, f"{100 * layer.multiplied:.1f} %", f"{ms['by changes'] / ms['dense']:.2f}"])
    return markdown(["map", "changes", "by changes / dense"], rows)


if __name__ == "__main__":
    machine.keep_memory()
    arguments = sys.argv[1:]
    if arguments == ["break-even"]:
        print(break_even())
    else:
        print(steps(Path(arguments[0] if arguments else "data"), float(arguments[1]) if arguments[1:] else 20.0))
