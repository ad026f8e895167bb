"""What a run spends beside its layers: python benchmarks/overhead.py RECIPE [DATA_ROOT]

Prints the time of a training step whose layers have 8 neurons each, which is next to nothing but fixed cost, and of its parts.
Then it trains the recipe for a few epochs, with the test set measured after each of them and once at the end, and prints how
much of a run's time evaluation takes.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import training
from tsslbp.bench.measure import interleaved
from tsslbp.network import train as as_one
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import machine
from tsslbp.utils.tables import markdown

SMALL = TrainConfig(data="digits", network="8-8-10", precision="float32")
EPOCHS, SECONDS = 3, 20.0


def fixed_cost(seconds: float = SECONDS) -> dict[str, float]:
    """Median milliseconds of a step of the small network, of the same layer by layer, of its forward and backward pass, and of
    its linear maps alone."""
    config, dataset = training.with_data(SMALL)
    model, optimizer = training.prepare(config, dataset)
    loop = training.Loop(config, dataset, model, optimizer)
    samples, network = torch.arange(config.batch_size), model.network
    part = dataset.train.select(samples)
    x = model.inputs(part.x)
    maps = [weight.detach().clone().requires_grad_() for weight in network.parameters()]

    def passes() -> None:
        loop.loss(network(x), part.y).backward()
        for weight in network.parameters():
            weight.grad = None

    def maps_alone() -> None:
        signal = x.flatten(1)
        for weight in maps:
            signal = torch.nn.functional.linear(signal, weight)
        torch.autograd.grad(signal.sum(), maps)

    def by_layers() -> None:
        output, as_one.output = as_one.output, lambda *_, **__: None
        try:
            loop.step(samples)
        finally:
            as_one.output = output

    calls: dict[str, Callable[[], Any]] = {
        "whole step": partial(loop.step, samples),
        "whole step, layer by layer": by_layers,
        "forward pass, loss and backward pass": passes,
        "linear maps alone": maps_alone,
    }
    return interleaved(calls, seconds)


def evaluation(config: TrainConfig) -> tuple[float, float]:
    """Seconds of a run, and those of them that went into accuracies on validation and test samples."""
    spent, accuracy = [0.0], training.Model.accuracy

    def timed(model: training.Model, *arguments: Any) -> float:
        began = time.perf_counter()
        found = accuracy(model, *arguments)
        spent[0] += time.perf_counter() - began
        return found

    training.Model.accuracy = timed  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            training.train(replace(config, runs_dir=Path(folder)))
            return time.perf_counter() - began, spent[0]
    finally:
        training.Model.accuracy = accuracy  # type: ignore[method-assign]


def main(recipe: str, data_root: str = "data") -> None:
    machine.keep_memory()
    config, rows = replace(recipes.get(recipe), data_root=Path(data_root), epochs=EPOCHS), []
    training.with_data(config)  # finds missing data before anything is measured
    print(markdown(["part", "ms"], [[name, f"{ms:.3f}"] for name, ms in fixed_cost().items()]))
    for what, every in (("after every epoch", 1), ("once, at the end", 0)):
        whole, evaluating = evaluation(replace(config, test_every=every))
        rows.append([what, f"{whole:.1f}", f"{evaluating:.1f}", f"{100 * evaluating / whole:.1f}"])
    print(markdown(["test set measured", f"{recipe}, {EPOCHS} epochs, s", "evaluation, s", "share, %"], rows))


if __name__ == "__main__":
    command.run(main, __doc__)
