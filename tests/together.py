"""What tests/test_distributed.py starts with torchrun: trains small networks, and keeps their weights.

torchrun --nproc-per-node N tests/together.py OUT STEPS
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import tsslbp
from tsslbp import training
from tsslbp.training.inputs import Inputs
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed

CASES: dict[str, dict[str, Any]] = {
    "fully connected": {"network": "12-10", "average": 0.9},
    "a last batch of one": {"network": "12-10", "batch_size": 92, "schedule": "cosine"},
    "normalised": {"network": "4C3n-[4C3n-4C3n]-P2-10", "padding": (1,), "batch_size": 20},
    "normalised, a last batch of one": {"network": "4C3n-8n-10", "batch_size": 92},
    # In some steps the halves of a batch are on both sides of the 10 % by which the rule chooses.
    "the rate of a layer": {"network": "12-12-10", "rule": "tssl-paper", "threshold": 1.7},
    "the rate of a layer, early": {"network": "12-12-10", "rule": "tssl-submission", "threshold": 1.5},
    "a mean, standardised, drawn": {
        "network": "12-12-10",
        "loss": "softmax",
        "standardise": True,
        "dropout": 0.2,
        "encoding": "poisson",
        "shift": 1,
        "time_steps": 4,
    },
    "in parts": {"network": "12-10", "loss": "first-spike", "accumulate": 3},
    "rates in bounds": {"network": "12-10", "rate_penalty": 10.0, "rate_lower": 0.2, "rate_upper": 0.3},
    "recurrent, e-prop": {"network": "8R-10", "rule": "e-prop"},
    "own rule": {"network": "8-10", "rule": "doubled"},
    "pictures in files": {
        "data": f"image-folder:{Path(__file__).parent}/pictures",
        "network": "4C3-P2-3",
        "size": 8,
        "random_crop": 0.3,
        "flip": True,
        "workers": 1,
        "batch_size": 10,
        "accumulate": 2,
    },
    "no spikes": {"network": "12-10", "neuron": "relu"},
    "target trains": {"data": "spike-pattern(outputs=3, spikes=2, patterns=4, repeats=9)", "network": "9-3", "time_steps": 20},
}


@dataclass(frozen=True)
class Doubled(tsslbp.TSSL):
    """A rule that only its own equations compute."""

    @property
    def numbers(self):
        return None

    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return super().part_gradient(2 * psc_gradient, membrane, neuron, state, carry)


class InFloat64(Inputs):
    def __call__(self, *arguments):
        return super().__call__(*arguments).double()


def trained(config: TrainConfig, steps: int, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Weights, running statistics and average after some steps, the first step's gradients, and what was counted."""
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    if dtype == torch.float64:
        model.network.double()
        model = replace(model, inputs=InFloat64(**vars(model.inputs)))
    state = training.RunState()
    loop = training.Loop(config, dataset, model, optimizer, state, training.Progress(), lambda: None)
    first = None
    if 1 < steps < loop.steps:
        state.step = loop.steps - steps // 2  # so that few steps reach a second epoch
    steps += state.step
    while state.step + (state.epoch - 1) * loop.steps < steps:
        for samples in loop._batches():
            loop.step(samples)
            first = first or [weight.grad.clone() for weight in model.network.parameters()]
            if state.step + (state.epoch - 1) * loop.steps == steps:
                break
        else:
            state.epoch, state.step = state.epoch + 1, 0
    counted = torch.tensor([state.loss_sum, state.right, state.seen], dtype=torch.float64)
    return {"weights": list(model.network.state_dict().values()), "average": state.average, "first": first, "counted": counted}


def config(name: str) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 1e-3, "batch_size": 33, "precision": "float32", "epochs": 20, **CASES[name]})


def main(out: str, steps: str) -> None:
    tsslbp.rules.RULES["doubled"] = Doubled
    distributed.LARGE = 300  # some gradients of these small networks are added up by themselves, others together
    with distributed.joined() as group:
        for name in CASES:
            made = trained(config(name), int(steps))
            single = trained(config(name), 1, torch.float32)["first"]
            torch.save({**made, "single": single}, Path(out) / f"{name} {group.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
    left = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in left), left  # they may abort a process that ends
