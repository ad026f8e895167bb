"""Settings that suit a data set nobody has seen, by its kind: what ``tsslbp train --data X`` takes where no flag says more.

They were chosen by cross-validation on training samples of several data sets: docs/automatic.md has what was tried.
"""

from collections.abc import Collection
from typing import Any

from tsslbp.data import Dataset

Settings = dict[str, Any]

FILTERS = 2000
"""Filters that stand for a series."""
VOTERS = 10
"""Output neurons of a class: one can only say how sure it is by one of a few spike counts."""


def choose(dataset: Dataset, given: Collection[str] = ()) -> Settings:
    """The settings that were left open, for a data set.

    Args:
        dataset: as it was read.
        given: names of the settings that the user chose. They are left out, and the others go with them.
    """
    return {name: value for name, value in _series(dataset).items() if name not in given}


def _series(dataset: Dataset) -> Settings:
    count = len(dataset.classes)
    return {
        "filters": FILTERS,
        "network": f"{VOTERS * count}-V{VOTERS}",
        "time_steps": 20,
        "output_scale": 0.1,
        "rule": "tssl+",
        "loss": "softmax",
        "learning_rate": 1e-4,
        "schedule": "one-cycle",
        "epochs": max(20, round(400 * 16 / len(dataset.train))),
        "batch_size": 16,
        "choose": "last",
    }
