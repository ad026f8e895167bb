"""Small tables by SpikingClassifier, beside simple classifiers: the numbers of docs/how-to-scikit-learn.md.

python benchmarks/tables.py           with its defaults: shuffled stratified five-fold cross-validation, three shuffles
python benchmarks/tables.py choose    networks compared on drawn tables, from which the defaults were chosen: four folds

Writes benchmarks/results/tables.json or tables-choose.json and prints the table.
"""

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command
import numpy as np
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    load_iris,
    load_wine,
    make_blobs,
    make_classification,
    make_gaussian_quantiles,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tsslbp import SpikingClassifier
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULTS = Path(__file__).parent / "results"
SHUFFLES = (0, 1, 2)
SETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
CLASSIFIERS = {
    "tsslbp": SpikingClassifier(random_state=0),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "1-NN": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
}


NETWORKS = {
    "100, ten voters": "100-{10}-V10",
    "100 with bias, ten voters": "100b-{10}b-V10",
    "50 with bias, twenty voters": "50b-{20}b-V20",
    "20 with bias, twenty voters": "20b-{20}b-V20",
    "no hidden layer, bias, ten voters": "{10}b-V10",
}
"""What the defaults were chosen from; a number in brackets is of neurons for each class."""


def drawn() -> Iterator[tuple[str, Any, Any]]:
    """Six tables by name: samples and classes."""
    options: dict[str, Any] = {"n_classes": 3, "n_clusters_per_class": 1, "n_informative": 3, "n_redundant": 1}
    yield "4 features", *make_classification(150, 4, class_sep=1.2, random_state=1, **options)
    options = {"n_classes": 3, "n_informative": 6, "n_redundant": 3}
    yield "13 features", *make_classification(180, 13, class_sep=1.5, random_state=2, **options)
    yield "blobs", *make_blobs(150, 4, centers=3, cluster_std=2.2, random_state=3)
    yield "shells", *make_gaussian_quantiles(n_samples=200, n_features=3, n_classes=3, random_state=4)
    random = np.random.default_rng(5)
    x = random.normal(size=(150, 4)) * [1, 0.5, 2, 0.3]
    graded = x[:, 0] + x[:, 2] / 2 + 0.3 * random.normal(size=150)
    yield "graded", x, np.digitize(graded, np.quantile(graded, [1 / 3, 2 / 3]))
    yield "30 features", *make_classification(300, 30, n_informative=8, n_redundant=10, random_state=6)


def choose() -> None:
    """Compare networks on the drawn tables."""
    found: dict[str, dict[str, float]] = {name: {} for name in [*NETWORKS, *list(CLASSIFIERS)[1:]]}
    for table_, x, y in drawn():
        folds, classes = StratifiedKFold(4, shuffle=True, random_state=0), len(np.unique(y))
        for name in found:
            estimator = CLASSIFIERS.get(name)
            if estimator is None:
                network = NETWORKS[name].replace("{10}", f"{10 * classes}").replace("{20}", f"{20 * classes}")
                estimator = SpikingClassifier(network, loss="kernel", random_state=0)
            found[name][table_] = float(cross_val_score(estimator, x, y, cv=folds).mean())
    result = {"machine": machine.describe(), "accuracies": found}
    files.write_json(RESULTS / "tables-choose.json", result)
    print(choices(result))


def choices(result: dict[str, Any]) -> str:
    """The table of what was compared, in percent."""
    found = result["accuracies"]
    rows = [[name, *(f"{100 * a:.1f}" for a in (*row.values(), statistics.fmean(row.values())))] for name, row in found.items()]
    return markdown(["network", *next(iter(found.values())), "mean"], rows)


def accuracies(name: str) -> dict[str, list[float]]:
    """Mean accuracy over the folds of every shuffle, by classifier; and seconds for a fit of ``SpikingClassifier``."""
    x, y = SETS[name](return_X_y=True)
    folds = [StratifiedKFold(5, shuffle=True, random_state=shuffle) for shuffle in SHUFFLES]
    found = {}
    for classifier, estimator in CLASSIFIERS.items():
        began = time.perf_counter()
        found[classifier] = [float(cross_val_score(estimator, x, y, cv=fold).mean()) for fold in folds]
        if classifier == "tsslbp":
            found["seconds"] = [(time.perf_counter() - began) / (5 * len(folds))]
    return found


def table(result: dict[str, Any]) -> str:
    rows = []
    for name, found in result["sets"].items():
        means = [f"{100 * statistics.fmean(found[classifier]):.1f}" for classifier in CLASSIFIERS]
        rows.append([name.replace("_", " "), *means])
    return markdown(["data set", "`SpikingClassifier()`", *list(CLASSIFIERS)[1:]], rows)


def main() -> None:
    result = {"machine": machine.describe(), "shuffles": SHUFFLES, "sets": {name: accuracies(name) for name in SETS}}
    files.write_json(RESULTS / "tables.json", result)
    print(table(result))


if __name__ == "__main__":
    if sys.argv[1:] == ["choose"]:
        choose()
    else:
        command.run(main, __doc__)
