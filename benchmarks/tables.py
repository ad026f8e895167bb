"""Small tables by SpikingClassifier with its defaults, beside simple classifiers: python benchmarks/tables.py

Shuffled stratified five-fold cross-validation, three shuffles. Writes benchmarks/results/tables.json and prints the table of
docs/how-to-scikit-learn.md.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tsslbp import SpikingClassifier, files, machine
from tsslbp.tables import markdown

RESULT = Path(__file__).parent / "results/tables.json"
SHUFFLES = (0, 1, 2)
SETS = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
CLASSIFIERS = {
    "tsslbp": SpikingClassifier(random_state=0),
    "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "1-NN": make_pipeline(StandardScaler(), KNeighborsClassifier(1)),
}


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
    files.write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
