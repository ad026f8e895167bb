"""How a network fires while it learns, on a small part of the validation set, and layers that fire too little or too much.

A layer without spikes passes nothing on, and one that spikes at every step passes on the same for every sample, so the layers
around it learn nothing. A rule of the TSSL family has a spike-time gradient only where there are spikes; elsewhere its fallback
is a surrogate. The fallback's share counts neurons and steps, not the size of the gradient there.
"""

from typing import Any, NamedTuple, cast

import torch

from tsslbp import rules
from tsslbp.data import Split
from tsslbp.layers import Spiking
from tsslbp.network.notation import ConvSpec, contains
from tsslbp.rules import TSSL
from tsslbp.training.model import Model
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed
from tsslbp.utils.signals import length_mask

PART, MOST = 50, 500
"""Validation samples used: as many as a PART-th of the training set, at most MOST. This takes below 2 % of an epoch's time."""
DEAD, SATURATED = 1e-4, 0.9
"""A layer's rate, in spikes per neuron and step, below and above which its learning is in danger."""


class _Counts(NamedTuple):
    """Sums over the samples seen so far, of one layer."""

    spikes: float
    """Of the mean neuron."""
    fallback: float
    """Steps that would take the fallback, of the mean neuron."""
    steps: float
    multiplied: float
    """The layer's ``multiplied``, times samples."""
    samples: float


def measure(model: Model, samples: Split, train_samples: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Firing of every spiking layer on the first of these samples, in evaluation mode, up to the end of each sequence.

    Returns:
        ``rates``, spikes per neuron and step by layer; ``multiplied``, the share of each layer's input that its linear map
        multiplies, from 0 to 1, if any layer leaves some out (``tsslbp.layers.sparse``); and under a rule of the TSSL family
        ``fallback``, the share of the entries of ∂L/∂I, from 0 to 1, that would take the fallback.
    """
    network = model.network
    rule = rules.get(network.architecture.rule)
    counts: dict[str, _Counts] = {}
    group, layers = distributed.group(), cast(dict[str, Spiking], dict(network.named_layers()))
    chosen = group.share(torch.arange(max(1, min(len(samples), train_samples // PART, MOST))))
    with model.evaluating(samples.select(chosen), batch_size, first=int(chosen[0]) if len(chosen) else 0) as batches:
        for part, inputs in batches:
            currents = network.activity(inputs)
            for name, spikes in network.trains(currents).items():
                psc, train = currents[name], spikes.to(currents[name].dtype)
                whole = train.new_ones(train.shape[:2])
                seen = whole if part.lengths is None else length_mask(part.lengths, len(train)).float()
                now = layers[name].rule  # another than the network's under surrogate_epochs
                neuron = network.neuron_of(name)
                fallen = now.falls_back(train, psc, neuron) if isinstance(now, TSSL) else torch.zeros_like(train)
                # Means over neurons come first, so that the mask is applied to far fewer numbers.
                fired, fell = (float((x.flatten(2).mean(2, dtype=torch.float32) * seen).sum()) for x in (train, fallen))
                new = _Counts(fired, fell, float(seen.sum()), layers[name].multiplied * len(part), len(part))
                counts[name] = _Counts(*map(sum, zip(counts[name], new, strict=True))) if name in counts else new
    if counts:
        sums = group.all_reduce_(torch.tensor(list(counts.values()), dtype=torch.float64))
        counts = {name: _Counts(*row) for name, row in zip(counts, sums.tolist(), strict=True)}
    found = {"rates": {name: layer.spikes / layer.steps for name, layer in counts.items()}}
    multiplied = {name: layer.multiplied / layer.samples for name, layer in counts.items()}
    if any(share < 1 for share in multiplied.values()):
        found["multiplied"] = multiplied
    if isinstance(rule, TSSL):
        found["fallback"] = {name: layer.fallback / layer.steps for name, layer in counts.items()}
    return found


def warnings(history: list[dict[str, Any]], config: TrainConfig) -> list[str]:
    """One line for each layer that is dead or saturated in the newest epoch and was not before."""
    *earlier, last = history
    told = {ill for record in earlier for ill in _ill(record)}
    return [_warning(*ill, last, config) for ill in _ill(last) if ill not in told]


def _ill(record: dict[str, Any]) -> list[tuple[str, bool]]:
    """Saturated (True) layers of a record and the first dead one (False), as those after it are mostly dead because of it."""
    rates = record.get("rates", {})
    first = next((layer for layer, rate in rates.items() if rate < DEAD), None)
    return [(layer, rate > SATURATED) for layer, rate in rates.items() if rate > SATURATED or layer == first]


def _warning(layer: str, saturated: bool, record: dict[str, Any], config: TrainConfig) -> str:
    what = (
        "nearly every neuron spikes at nearly every step"
        if saturated
        else "practically no neuron spikes, so it passes nothing on"
    )
    change, opposite = ("lower", "raise") if saturated else ("raise", "lower")
    scale = f"{change} --conv-scale (now {config.conv_scale:g}), " if contains(config.network, ConvSpec) else ""
    return (
        f"layer {layer!r} is {'saturated' if saturated else 'dead'} after epoch {record['epoch']} "
        f"({record['rates'][layer]:.2g} spikes per neuron and step): {what}; if it stays so, start again: {scale}"
        f"{opposite} --threshold (now {config.threshold:g}) or lower --learning-rate (now {config.learning_rate:g})"
    )
