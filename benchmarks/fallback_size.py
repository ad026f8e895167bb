"""How much of the gradient is the fallback's: python benchmarks/fallback_size.py DATA_ROOT

A rule of the TSSL family has a surrogate in place of the spike-time gradient where a neuron is quiet, which is nearly
everywhere. This trains 400-400 on Fashion-MNIST for an epoch and takes the gradient by the currents apart on 1,000 training
images: the share of entries that the surrogate fills, and its share of the sum of their sizes. Writes
results/checks/fallback-size.json and prints the table of docs/answers.md.
"""

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import command
import torch
from torch import Tensor

from tsslbp import Rule, training
from tsslbp.layers import Spiking
from tsslbp.neuron import LIF, spikes, synapse
from tsslbp.rules import TSSL
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/checks/fallback-size.json"
RULES, SEEDS, BATCHES = ("tssl", "tssl+"), (0, 1, 2), 10
CONFIG = replace(recipes.get("fashion-mnist-fc-head"), epochs=1, precision="float32")


@dataclass(frozen=True)
class Weighed(Rule):
    """A rule that also adds up what its fallback fills: entries, theirs, the sizes of all and of theirs."""

    base: TSSL
    sums: Tensor

    summary: ClassVar[str] = "a rule of the TSSL family whose fallback is weighed"
    paper: ClassVar[str] = "docs/answers.md"

    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        delta = self.base.current_gradient(psc_gradient, membrane, neuron)
        train = spikes(membrane, neuron)
        fallen = self.base.falls_back(train, synapse(train, neuron.tau_s), neuron)
        size = delta.abs()
        self.sums.add_(torch.stack([torch.tensor(delta.numel()), fallen.sum(), size.sum(), size[fallen].sum()]))
        return delta


def weighed(config: TrainConfig) -> dict[str, dict[str, float]]:
    """Of every layer, the fallback's share of the entries and of the size of the gradient, after a training."""
    with tempfile.TemporaryDirectory() as folder:
        run, _ = training.train(replace(config, runs_dir=Path(folder)))
        model = training.load(run)
    sums: dict[str, Tensor] = {}
    for name, layer in model.network.named_layers():
        if isinstance(layer, Spiking):
            assert isinstance(layer.rule, TSSL)
            sums[name] = torch.zeros(4, dtype=torch.float64)
            layer.rule = Weighed(layer.rule, sums[name])
    _, dataset = training.with_data(config)
    loss = config.make_loss()
    for part in torch.arange(BATCHES * config.batch_size).split(config.batch_size):
        loss(model.network(model.inputs(dataset.train.x[part])), dataset.train.y[part]).backward()
    return {name: {"entries": float(s[1] / s[0]), "size": float(s[3] / s[2])} for name, s in sums.items()}


def table(result: dict[str, Any]) -> str:
    rows = []
    for rule, runs in result["rules"].items():
        for layer in runs[0]:
            shares = [100 * statistics.fmean(run[layer][of] for run in runs) for of in ("entries", "size")]
            rows.append([f"`{rule}`", f"`{layer}`", *(f"{share:.0f}" for share in shares)])
    return markdown(["rule", "layer", "of the entries, %", "of the size, %"], rows)


def main(data_root: str) -> None:
    config = replace(CONFIG, data_root=Path(data_root))
    runs = {rule: [weighed(replace(config, rule=rule, seed=seed)) for seed in SEEDS] for rule in RULES}
    result = {"machine": machine.describe(), "seeds": SEEDS, "rules": runs}
    files.write_json(RESULT, result)
    print(table(result))


if __name__ == "__main__":
    command.run(main, __doc__)
