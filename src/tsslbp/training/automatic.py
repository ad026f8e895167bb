"""Default settings for an unknown data set, by its kind, which ``tsslbp train --data X`` uses where no flag is given.

They were chosen by cross-validation on training samples of several data sets (docs/automatic.md).
"""

from collections.abc import Mapping
from typing import Any

import torch

from tsslbp import rules
from tsslbp.data import Dataset
from tsslbp.data.sample_values import counts_events

Settings = dict[str, Any]

FEW = 1000
"""Training samples below which none are held out, since choosing an epoch on a few dozen is random."""
FILTERS = 2000
"""Filters for a series."""
VOTERS = 10
"""Output neurons of a class, since one can only give one of a few spike counts."""
TINY, LARGE = 4, 16
"""Rows or columns below which a picture cannot be pooled twice, and from which two 5×5 convolutions and pools fit."""
SHARED: Settings = {"rule": "tssl+", "schedule": "one-cycle", "first_rates": True}
"""Settings for every kind of data."""
SCALES = ("first_rates", "output_scale")
"""Settings for random first weights."""


def holds_out(dataset: Dataset) -> bool:
    """Whether to hold out training samples to choose the epoch; if not, the last epoch is kept."""
    return len(dataset.train) + len(dataset.validation) >= FEW


def choose(dataset: Dataset, given: Mapping[str, Any]) -> Settings:
    """Settings for a data set that the user did not choose.

    Args:
        dataset: as it was read.
        given: settings that the user chose. They are left out, and the others fit them: the user's own network gets a series
            step by step, not by filters, and trained weights (``init``) are not scaled.
    """
    if dataset.trains:
        chosen = _trains(dataset)
    elif not dataset.sequence:
        chosen = _picture(dataset) if len(dataset.sample_shape) == 3 else _vector(dataset)
    elif len(dataset.sample_shape) == 3:
        chosen = _events(dataset)
    elif _spikes(dataset) or "network" in given or not given.get("filters", FILTERS):
        chosen = _steps(dataset, given)
    else:
        chosen = _series(dataset)
    if given.get("readout") == "voltage":
        chosen |= {"loss": "softmax"}
    left_out = {*given, *(SCALES if given.get("init") else ())}
    return {name: value for name, value in (SHARED | chosen).items() if name not in left_out}


def _spikes(dataset: Dataset) -> bool:
    """Whether sequences hold spikes or events, or become spikes in the model."""
    x = dataset.train.x
    return x.dtype == torch.uint8 or dataset.delta > 0 or counts_events(x)


def _batches(dataset: Dataset, size: int, steps: int, least: int, most: int) -> Settings:
    """Batches of a size, and epochs for about this many training steps."""
    return {"batch_size": size, "epochs": min(most, max(least, round(steps * size / len(dataset.train))))}


def _trains(dataset: Dataset) -> Settings:
    """Target spike trains."""
    return {
        "network": f"200-{len(dataset.classes)}",
        "tau_m": 10.0,
        "tau_s": 4.0,
        "loss": "kernel",
        "learning_rate": 3e-3,
        **_batches(dataset, min(25, max(1, len(dataset.train) // 8)), 1500, 20, 300),
    }


def _series(dataset: Dataset) -> Settings:
    """A series as the rates of fixed filters, read by a layer of voters."""
    return {
        "filters": FILTERS,
        "network": f"{VOTERS * len(dataset.classes)}-V{VOTERS}",
        "time_steps": 20,
        "output_scale": 0.2,
        "first_rates": False,
        "loss": "softmax",
        "learning_rate": 1e-4,
        **_batches(dataset, min(16, max(4, len(dataset.train) // 4)), 800, 20, 100),
    }


def _steps(dataset: Dataset, given: Mapping[str, Any]) -> Settings:
    """A sequence of spikes, or one for a network of the user's own: step by step."""
    recurrent = given.get("neuron", "spiking") == "spiking" and rules.get(given.get("rule", SHARED["rule"])).takes_parts
    return {
        "network": f"200{'R' if recurrent else ''}-{len(dataset.classes)}",
        "tau_m": 10.0,
        "tau_s": 5.0,
        "loss": "softmax",
        "learning_rate": 2e-3,
        **_batches(dataset, 50, 2000, 20, 100),
    }


def _vector(dataset: Dataset) -> Settings:
    return {
        "network": f"50b-{2 * VOTERS * len(dataset.classes)}b-V{2 * VOTERS}",
        "time_steps": 10,
        "loss": "kernel",
        "learning_rate": 3e-3,
        **_batches(dataset, 25, 1600, 20, 100),
    }


def _picture(dataset: Dataset) -> Settings:
    return {**_convolutions(dataset), "learning_rate": 2e-3, **_batches(dataset, 25, 1000, 10, 60)}


def _events(dataset: Dataset) -> Settings:
    large = min(dataset.sample_shape[1:]) >= LARGE
    return {
        **({"network": f"12C5-P2-64C5-P2-{len(dataset.classes)}"} if large else _convolutions(dataset)),
        "tau_m": 8.0,
        "tau_s": 4.0,
        "loss": "softmax",
        "learning_rate": 1e-3,
        **_batches(dataset, 25, 1000, 10, 40),
    }


def _convolutions(dataset: Dataset) -> Settings:
    """A network for small pictures; for tiny ones it is fully connected."""
    if min(dataset.sample_shape[1:]) < TINY:
        return {"network": f"100-{len(dataset.classes)}"}
    return {"network": f"32C3-P2-64C3-P2-256-{len(dataset.classes)}", "padding": (1,), "conv_scale": 3.0}
