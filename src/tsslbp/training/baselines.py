"""Accuracies of simple methods on the same samples as a run, for comparison."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from tsslbp.data import Dataset, Normalisation, Split
from tsslbp.utils.signals import length_mask

MOST, PRODUCTS = 2 * 10**7, 4e11
"""Numbers in the training samples, and products for all test samples and classes, above which only the majority is computed, so
that a run does not wait for baselines."""
ITERATIONS = 200
BASELINES = {
    "majority_accuracy": "most frequent class",
    "nearest_neighbour_accuracy": "1-NN",
    "logistic_accuracy": "logistic regression",
}
"""Fields of the final record, test accuracies in percent, and the methods' names."""


def baselines(dataset: Dataset) -> dict[str, float]:
    """Test accuracies in percent on flattened normalised samples, by field of ``BASELINES``; empty if targets are trains.

    They learn from the training and the validation samples, for they have nothing to choose.
    """
    if dataset.trains:
        return {}
    y, test = torch.cat([dataset.train.y, dataset.validation.y]), dataset.test
    frequent = int(torch.bincount(y).argmax())
    found = [100 * float((test.y == frequent).double().mean())]
    numbers = len(y) * math.prod(dataset.train.shape)
    if numbers <= MOST and numbers * (len(test) + 2 * ITERATIONS * len(dataset.classes)) <= PRODUCTS:
        x, u = (flat(part, dataset.normalisation) for part in (dataset.train + dataset.validation, test))
        from sklearn.linear_model import LogisticRegression
        from sklearn.neighbors import KNeighborsClassifier

        methods: tuple[Any, ...] = (KNeighborsClassifier(1), LogisticRegression(max_iter=ITERATIONS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so few iterations are enough for a baseline
            found += [100 * float(method.fit(x, y.numpy()).score(u, test.y.numpy())) for method in methods]
    return dict(zip(BASELINES, found, strict=False))


def verdict(final: dict[str, Any]) -> str:
    """Text about the baselines in a final record: their accuracies, and whether the network beats all of them."""
    found = {name: final[field] for field, name in BASELINES.items() if field in final}
    if not found:
        return ""
    listed = "for comparison: " + ", ".join(f"{name} {accuracy:.2f} %" for name, accuracy in found.items())
    best = max(found, key=lambda name: found[name])
    if found[best] < final["test_accuracy"]:
        return listed
    return f"{listed}\nthe network is not better than {best}"


def flat(part: Split, normalisation: Normalisation) -> Any:
    """Normalised and flattened samples, ``[N, features]``, 0 in padding, as an array."""
    x: Tensor = normalisation.normalise(part.x)
    if part.lengths is not None:
        x *= length_mask(part.lengths, x.shape[1]).T.view(*x.shape[:2], *[1] * (x.dim() - 2))
    return x.flatten(1).numpy()
