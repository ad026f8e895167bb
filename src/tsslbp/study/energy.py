"""What a sample costs, layer by layer: on hardware that skips zeros, and on hardware that skips nothing."""

from dataclasses import asdict, replace
from typing import Any

import torch

from tsslbp.networks import Network
from tsslbp.notation import RecurrentSpec, contains
from tsslbp.study.activity import AC_PJ, MAC_PJ, Operations, layer_operations, spike_counts, total
from tsslbp.study.runs import Run, about

BATCH = 100


def energy(trained: list[Run], subject: str) -> dict[str, Any]:
    """Operations and energy per test sample, of every layer, as ``study/activity.py`` counts them.

    Args:
        trained: runs on the same data; those of the same rule, which differ in their seed, are averaged.
        subject: what to call them.

    Returns:
        Under ``rules``, by :attr:`Run.label`: ``seeds``, ``accuracy`` in percent, and the fields of :class:`Operations` with
        ``energy_nj`` and ``dense_nj``, under ``layers`` by name and under ``total``. Under ``dense_relu`` the ``dense_nj`` of
        the ReLU network of the same notation by layer, None if the notation needs spiking neurons. What that network costs
        where zeros are skipped is known only if a trained one is among the runs.
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
                **_costs(_by_layer([layers_of(run) for run in same], len(same))),
            }
            for label, same in by_label.items()
        },
        "dense_relu": dense_relu(first),
    }


def layers_of(run: Run) -> dict[str, Operations]:
    """Operations per test sample by layer."""
    network, made = run.model.network, []
    with run.model.evaluating(run.test, BATCH) as batches:
        for part, x in batches:
            made.append(layer_operations(network, x, spike_counts(network, x, part.lengths), part.lengths))
    return _by_layer(made, len(run.test))


@torch.inference_mode()
def dense_relu(run: Run) -> dict[str, float] | None:
    """Nanojoules by layer of the ReLU network of the same notation where nothing is skipped, the same for every sample."""
    network = run.model.network
    if contains(network.architecture.notation, RecurrentSpec):
        return None
    relu = Network(replace(network.architecture, neuron="relu")).eval()
    x = torch.zeros(1, *network.architecture.input_shape)
    return {name: made.dense_nj for name, made in layer_operations(relu, x, spike_counts(relu, x)).items()}


def _costs(layers: dict[str, Operations]) -> dict[str, Any]:
    def cost(made: Operations) -> dict[str, float]:
        return {**asdict(made), "energy_nj": made.energy_nj, "dense_nj": made.dense_nj}

    return {"layers": {name: cost(made) for name, made in layers.items()}, "total": cost(total(layers.values()))}


def _by_layer(found: list[dict[str, Operations]], samples: int) -> dict[str, Operations]:
    return {name: total([made[name] for made in found], samples) for name in found[0]}
