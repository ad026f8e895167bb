"""Why EventProp learns spoken digits worse than the other rules: python benchmarks/eventprop_speech.py DATA_ROOT

Trains 200-10 on spoken digits with one rule in the hidden layer and another one, or no spikes at all, in the output layer. A
third kind of network adds to EventProp's gradient of spike times what the loss says of a spike's weight. Writes
results/eventprop/speech.json and prints the table of docs/answers.md.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import command
from spike_trains import choose
from torch import Tensor

from tsslbp import EventProp, rules, training
from tsslbp.cli.publishing.results import mean_sd
from tsslbp.data import Dataset
from tsslbp.network.network import Network
from tsslbp.neuron import LIF, synapse_adjoint
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/eventprop/speech.json"
CONFIG = replace(recipes.get("spoken-digits"), network="200-10", epochs=15)
TUNING_SEED, SEEDS = 5, (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class WithAmplitude(EventProp):
    """EventProp plus ``amplitude`` times the inter-neuron term of TSSL, its equation (6): p·E at a spike.

    p·m says how the loss changes as the spike moves, and p·E how it changes as the spike weighs more.
    """

    amplitude: float = 0.0

    def time_gradient(self, psc_gradient: Tensor, neuron: LIF) -> Tensor:
        return super().time_gradient(psc_gradient, neuron) + self.amplitude * synapse_adjoint(psc_gradient, neuron)


EXACT, AWAKE, OTHER = "eventprop(clip=8)", "eventprop(clip=8, wake=1e-5)", "tssl+"
SEARCHED = "eventprop(clip=76.5, wake=0.00548)"
NETWORKS: dict[str, tuple[str, float, str, dict[str, Any]]] = {
    "`eventprop`, as the search chose it": (SEARCHED, 0, SEARCHED, {"hidden_scale": 2.78, "output_scale": 0.542}),
    "`eventprop` in both layers": (EXACT, 0, AWAKE, {}),
    "`tssl+`, output `eventprop`": (OTHER, 0, AWAKE, {}),
    "`eventprop`, output `tssl+`": (EXACT, 0, OTHER, {}),
    **{f"`eventprop` + {share:g}·(6), output `tssl+`": (EXACT, share, OTHER, {}) for share in (0.03, 0.1, 0.3, 1)},
    "`tssl+` in both layers": (OTHER, 0, OTHER, {}),
    "`eventprop`, output voltages": (EXACT, 0, EXACT, {"readout": "voltage"}),
    "`tssl+`, output voltages": (OTHER, 0, OTHER, {"readout": "voltage"}),
}
"""Rule of the hidden layer, its share of (6), rule of the output, and what is not as in CONFIG."""


def adapted(network: Network, hidden: str, share: float, output: str) -> None:
    """Give the layers of a network their rules."""
    first, last = network.layers.linear1, network.layers.output
    first.rule = WithAmplitude(**rules.get(hidden).options(), amplitude=share) if share else rules.get(hidden)
    last.rule = rules.get(output)


def trained(config: TrainConfig, dataset: Dataset | None, *layers: Any) -> dict[str, float]:
    """Accuracies of a network whose layers are :func:`adapted`."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, runs_dir=Path(folder), test_every=1)
        final = training.train(config, adapt=lambda network: adapted(network, *layers), dataset=dataset)[1]
    return {key: final[key] for key in ("validation_accuracy", "test_accuracy", "best_test_accuracy")}


def measured(config: TrainConfig, dataset: Dataset | None, name: str) -> dict[str, Any]:
    """Runs at the learning rate that is best on validation with a seed of its own."""
    *layers, settings = NETWORKS[name]
    config = replace(config, **settings)

    def run(rate: float, seed: int) -> dict[str, float]:
        return trained(replace(config, learning_rate=rate, seed=seed), dataset, *layers)

    rate, tried = choose(lambda rate: {"f1": [run(rate, TUNING_SEED)["validation_accuracy"]], "loss": [0.0]})
    return {"tried": tried, "learning_rate": rate, "runs": [run(rate, seed) for seed in SEEDS]}


def table(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{found['learning_rate']:g}"]
        + [mean_sd([run[key] for run in found["runs"]], 2) for key in ("test_accuracy", "best_test_accuracy")]
        for name, found in result["networks"].items()
    ]
    return markdown(["network", "learning rate", "test accuracy, %", "best test epoch, %"], rows)


def main(data_root: str) -> None:
    config, dataset = training.with_data(replace(CONFIG, data_root=Path(data_root)))
    result: dict[str, Any] = {"machine": machine.describe(), "seeds": SEEDS, "networks": {}}
    for name in NETWORKS:
        result["networks"][name] = measured(config, dataset, name)
        print(name, result["networks"][name]["tried"], flush=True)
        files.write_json(RESULT, result)
    print(table(result))


if __name__ == "__main__":
    command.run(main, __doc__)
