"""What it is worth to multiply only what changes (``tsslbp.layers.sparse``), on a quiet machine.

python benchmarks/changes.py [DATA_ROOT] [SECONDS]  training steps of the networks in models/ on their own training samples,
                                                    with trained and first weights, and of nmnist-cnn-head with first weights
python benchmarks/changes.py break-even             maps of a hidden layer at many shares of changes, by changes and dense
python benchmarks/changes.py parts [DATA_ROOT]      what each of these networks' hidden maps costs in its parts, both ways
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import command
import torch
from torch import nn

from tsslbp import data, training
from tsslbp.bench.cases import Case, Subject, floor, trainer
from tsslbp.bench.measure import interleaved
from tsslbp.layers import Conv2d, Linear, Spiking, sparse
from tsslbp.losses import KernelLoss
from tsslbp.network.network import Network
from tsslbp.neuron import LIF, synapse
from tsslbp.training import recipes
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
MODELS = {"fashion-mnist-fc-best": 100, "mnist-cnn-best": 50, "fashion-mnist-cnn-best": 50}
"""Networks with their batch sizes."""
HALVES = (False, True) if machine.multiplies_bfloat16() else (False,)
WAYS = tuple(itertools.product(HALVES, (False, True)))
"""Of a step: whether maps are bfloat16, and whether they may go by changes."""


def steps(data_root: Path, seconds: float) -> str:
    head = ["network", "weights", "changes", "maps alone, ms"]
    for kind in ("", "bf16 ")[: len(HALVES)]:
        head += [f"{kind}dense, ms", f"{kind}by changes, ms", f"{kind}by changes / dense"]
    return markdown(head, [row for each in measured(data_root) for row in compared(*each, seconds)])


def measured(data_root: Path) -> Iterator[tuple[str, dict[str, Network], torch.Tensor, torch.Tensor]]:
    """Each network's name, itself by its weights, and a batch with its labels."""
    for name, batch in MODELS.items():
        model = training.load(ROOT / f"models/{name}.safetensors")
        samples = data.load(model.data, data_root).train.select(torch.arange(batch))
        torch.manual_seed(0)
        yield name, {"trained": model.network, "first": Network(model.network.architecture)}, model.inputs(samples.x), samples.y
    for time_steps in (30, 100):
        config = replace(recipes.get("nmnist-cnn-head"), time_steps=time_steps, data_root=data_root)
        config, dataset = training.with_data(config)
        model, _ = training.prepare(config, dataset)
        samples = dataset.train.select(torch.arange(config.batch_size))
        yield f"nmnist-cnn-head, T = {time_steps}", {"first": model.network}, model.inputs(samples.x), samples.y


def compared(name: str, nets: dict[str, Network], x: torch.Tensor, y: torch.Tensor, seconds: float) -> list[list[str]]:
    """A row for each of the weights."""
    architecture = next(iter(nets.values())).architecture
    case = Case(name, architecture, len(y), sequence=not next(iter(nets.values())).is_static(x))
    subjects: dict[str, Callable[[], Any]] = {"maps alone": floor(case, torch.float32).step}
    for weights, net in nets.items():
        for half, by_changes in WAYS:
            subjects[f"{weights} {half} {by_changes}"] = training_step(net, x, y, by_changes, half).step
    ms, rows = interleaved(subjects, seconds), []
    for weights, net in nets.items():
        times = [ms["maps alone"]]
        for half in HALVES:
            dense, fast = (ms[f"{weights} {half} {by_changes}"] for by_changes in (False, True))
            times += [dense, fast, fast / dense]
        rows.append([name, weights, changes(net.train(), x), *(f"{value:.2f}" for value in times)])
    return rows


def changes(net: Network, x: torch.Tensor) -> str:
    """How much of what enters each layer changes, and whether the layer then goes by its changes."""
    shares, taken = changing(net, x), []
    for half in HALVES:
        with bfloat16(half):
            net(x)
        taken.append([name for name, layer in net.named_layers() if isinstance(layer, Spiking) and layer.multiplied < 1])
    both = {name: sum(name in each for each in taken) for name in shares}
    said = ("", " (taken)", " (taken, in bf16 too)")
    return ", ".join(f"{name} {100 * share:.1f} %{said[both[name]]}" for name, share in shares.items() if share < 1)


@contextmanager
def always() -> Iterator[None]:
    """Every map goes by its changes that can."""
    limits = sparse.FLAT, sparse.CONVOLVED, sparse.BF16
    sparse.FLAT = sparse.CONVOLVED = sparse.BF16 = sparse.Most(math.inf, 0)
    try:
        yield
    finally:
        sparse.FLAT, sparse.CONVOLVED, sparse.BF16 = limits


def changing(net: Network, x: torch.Tensor) -> dict[str, float]:
    """The share of what enters each layer that changes from one step to the next, 1 where nobody looks."""
    with always(), torch.enable_grad():  # without gradients the events of one sample after the other would be taken
        net(x)
    return {name: layer.multiplied for name, layer in net.named_layers() if isinstance(layer, Spiking)}


def parts(data_root: Path, seconds: float = 2.0) -> str:
    """Milliseconds of hidden maps and of their gradients. Both ways the gradient by the input is the same dense product."""
    rows: list[list[str]] = []
    times: dict[str, float] = {}
    for name, nets, x, _ in measured(data_root):
        net = next(iter(nets.values())).train()
        shares, signal = changing(net, x), net.encode(x)
        for layer_name, layer, after in net.walk(signal):
            if (share := shares.get(layer_name, 1.0)) < 1:
                with always():
                    times = interleaved(parts_of(cast(Spiking, layer), cast(torch.Tensor, signal).detach()), seconds)
                rows.append([name, layer_name, f"{100 * share:.1f} %", *(f"{ms:.2f}" for ms in times.values())])
            signal = after
    return markdown(["network", "map", "changes", *times], rows)


def parts_of(layer: Spiking, signal: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """A layer's map and its gradients, by changes and dense."""

    def gradient(copied: Spiking, x: torch.Tensor, by: torch.Tensor) -> Callable[[], Any]:
        current = cast(torch.Tensor, copied.current(x))
        return partial(torch.autograd.grad, current, by, torch.randn_like(current), retain_graph=True)

    made: dict[str, Callable[[], Any]] = {}
    for how in ("by changes", "dense"):
        copied = copy.deepcopy(layer)
        copied.by_changes = how == "by changes"
        made[f"forward, {how}"] = partial(copied.current, signal)
        made[f"by weight, {how}"] = gradient(copied, signal, copied.weight)  # the signal needs none, so none is made
    x = signal.clone().requires_grad_()
    made["by input"] = gradient(copy.deepcopy(layer).requires_grad_(False), x, x)
    return made


def bfloat16(half: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def training_step(net: Network, x: torch.Tensor, y: torch.Tensor, by_changes: bool, half: bool) -> Subject:
    """Of a copy, or the one that comes second would find its weights in the cache."""
    net, loss = copy.deepcopy(net).train(), KernelLoss(time_steps=net.time_steps, tau_s=net.neuron.tau_s)
    for layer in net.modules():
        if isinstance(layer, Spiking):
            layer.by_changes = by_changes

    def forward() -> torch.Tensor:
        with bfloat16(half):
            return cast(torch.Tensor, net(x))

    return trainer(net, forward, lambda psc: loss(psc, y))


def break_even() -> str:
    """Forward and backward of one map, by changes over dense, at many shares of changes."""
    neuron, shares = LIF(5.0, 3.0), (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
    sizes: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "400 to 400": (Linear(400, 400, neuron=neuron), (100, 400)),
        "3136 to 1024": (Linear(3136, 1024, neuron=neuron), (50, 3136)),
        "32 to 64 channels, 5×5": (Conv2d(32, 64, 5, padding=2, neuron=neuron), (50, 32, 14, 14)),
        "15 to 40 channels, 5×5": (Conv2d(15, 40, 5, neuron=neuron), (50, 15, 12, 12)),
    }
    if HALVES[-1]:
        sizes["32 to 64 channels, 5×5, bf16"] = sizes["32 to 64 channels, 5×5"]
    rows = [[f"{100 * share:g} %"] for share in shares]
    for name, (layer, shape) in sizes.items():
        for row, share in zip(rows, shares, strict=True):
            starts_or_ends = torch.rand(5, *shape) < share
            signal = synapse((starts_or_ends.cumsum(0) % 2).float(), neuron.tau_s)
            signal = signal if signal.dim() < 5 else signal.movedim(2, 4).contiguous().movedim(4, 2)  # as pooling leaves it

            half = "bf16" in name

            def call(by_changes: bool, signal: torch.Tensor, layer: Any = layer) -> None:
                layer.by_changes = by_changes
                layer.current(signal).sum().backward()

            dense = signal.bfloat16() if half else signal  # as neurons make it for each
            with always(), bfloat16(half):
                ms = interleaved({"by changes": partial(call, True, signal), "dense": partial(call, False, dense)}, 2.0)
            row.append(f"{ms['by changes'] / ms['dense']:.2f}")
    return markdown(["changes", *sizes], rows)


def main(what: str = "data", more: str = "") -> None:
    machine.keep_memory()
    if what == "break-even":
        if more:
            raise UserError(f"break-even takes no {more!r}; leave it out")
        print(break_even())
    elif what == "parts":
        print(parts(Path(more or "data")))
    else:
        print(steps(Path(what), command.positive("SECONDS", more or "20")))


if __name__ == "__main__":
    command.run(main, __doc__)
