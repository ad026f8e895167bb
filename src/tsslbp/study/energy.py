"""What a sample costs on hardware that works only where there is something to do, against the ReLU network of that notation."""

from dataclasses import replace
from typing import Any

import torch

from tsslbp.networks import Network
from tsslbp.recurrent import Recurrent
from tsslbp.study.activity import AC_PJ, MAC_PJ, layer_operations, spike_counts
from tsslbp.study.runs import Run, about

BATCH = 100


def energy(trained: list[Run], subject: str) -> dict[str, Any]:
    """Operations and energy per test sample, of every layer, as ``study/activity.py`` counts them.

    Args:
        trained: runs on the same data; those of the same rule, which differ in their seed, are averaged.
        subject: what to call them.

    Returns:
        Under ``rules``, by :attr:`Run.label`: ``seeds``, ``accuracy`` in percent, and ``layers``, ``{"macs", "acs", "nj"}`` by
        name. Under ``ann`` the layers of the ReLU network, None if the notation needs spiking neurons.
    """
    labels = dict.fromkeys(run.label for run in trained)
    by_label = {label: [run for run in trained if run.label == label] for label in labels}
    first = trained[0]
    return about("energy", subject, first.settings) | {
        "samples": len(first.test),
        "trains": first.test.y.dim() == 3,
        "sequence": first.model.inputs.sequence,
        "picojoules": {"mac": MAC_PJ, "ac": AC_PJ},
        "rules": {
            label: {
                "seeds": [run.settings["seed"] for run in same],
                "accuracy": sum(run.model.accuracy(run.test) for run in same) / len(same),
                "layers": _mean([spent(run) for run in same]),
            }
            for label, same in by_label.items()
        },
        "ann": relu_layers(first),
    }


@torch.inference_mode()
def spent(run: Run) -> dict[str, tuple[float, float]]:
    """MACs and ACs per test sample by layer."""
    network, n = run.model.network, len(run.test)
    total: dict[str, tuple[float, float]] = {}
    for part, x in run.model.batches(run.test, BATCH):
        made = layer_operations(network, x, spike_counts(network, x, part.lengths), part.lengths)
        for name, (macs, acs) in made.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + macs, before[1] + acs)
    return {name: (macs / n, acs / n) for name, (macs, acs) in total.items()}


@torch.inference_mode()
def relu_layers(run: Run) -> dict[str, dict[str, float]] | None:
    """Operations of the ReLU network of the same notation, which are the same for every sample."""
    network = run.model.network
    if any(isinstance(layer, Recurrent) for layer in network.layers):
        return None
    relu = Network(replace(network.architecture, neuron="relu")).eval()
    x = torch.zeros(1, *network.architecture.input_shape)
    return _mean([layer_operations(relu, x, spike_counts(relu, x))])


def _mean(found: list[dict[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    layers = {}
    for name in found[0]:
        macs, acs = (sum(run[name][kind] for run in found) / len(found) for kind in (0, 1))
        layers[name] = {"macs": macs, "acs": acs, "nj": (MAC_PJ * macs + AC_PJ * acs) / 1000}
    return layers
