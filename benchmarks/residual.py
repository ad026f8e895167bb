"""What residual blocks and normalisation are worth in deep networks: python benchmarks/residual.py DATA_ROOT

Trains networks of 7 and 13 hidden convolutions, plain and in residual blocks, with normalisation and without, on digits and on
a tenth of Fashion-MNIST. Writes results/residual/residual.json and prints the table of docs/how-to-own-network.md.
"""

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from tsslbp import data, files, machine, training
from tsslbp.settings import TrainConfig
from tsslbp.tables import markdown

RESULT = Path(__file__).parent.parent / "results/residual/residual.json"
SEEDS = (0, 1, 2)
CONFIG = TrainConfig(rule="tssl+", padding=(1,), learning_rate=5e-3, schedule="one-cycle", precision="float32")
EPOCHS = {"digits": 10, "fashion-mnist, a tenth": 5}


def notation(hidden: int, residual: bool, normalised: bool) -> str:
    """A network of 3×3 convolutions; the second has stride 2, and all behind the first are in pairs."""
    kinds = ["16C3s2" if layer == 1 else "16C3" for layer in range(hidden)]
    first, *rest = [kind + "n" * normalised for kind in kinds]
    pairs = ["-".join(pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
    return "-".join([first, *(f"[{pair}]" if residual else pair for pair in pairs), "10"])


def tenth(root: Path, folder: Path) -> Path:
    """The first 6,000 training and 1,000 test samples of Fashion-MNIST."""
    whole, path = data.load("fashion-mnist", root), folder / "tenth.npz"
    train, test = whole.train, whole.test
    np.savez(path, x=train.x[:6000], y=train.y[:6000], x_test=test.x[:1000], y_test=test.y[:1000])
    return path


def accuracies(config: TrainConfig) -> list[float]:
    """Test accuracy of every seed, in the epoch chosen on validation samples."""
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            _, final = training.train(replace(config, seed=seed, runs_dir=Path(folder)))
        found.append(final["test_accuracy"])
    return found


def table(result: dict[str, dict[str, list[float]]]) -> str:
    def cell(found: list[float]) -> str:
        return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}"

    kinds = [("plain", False, False), ("residual", True, False), ("plain, normalised", False, True)]
    kinds.append(("residual, normalised", True, True))
    columns = [(name, hidden) for name in result for hidden in (7, 13)]
    rows = [[name, *(cell(result[source][notation(hidden, *kind)]) for source, hidden in columns)] for name, *kind in kinds]
    return markdown(["network", *(f"{source}, {hidden} layers" for source, hidden in columns)], rows)


def main(data_root: str) -> None:
    result: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = dict(zip(EPOCHS, ("digits", str(tenth(Path(data_root), Path(folder)))), strict=True))
        for name, source in sources.items():
            result[name] = {}
            for hidden in (7, 13):
                for residual in (False, True):
                    for normalised in (False, True):
                        text = notation(hidden, residual, normalised)
                        config = replace(CONFIG, data=source, network=text, epochs=EPOCHS[name])
                        result[name][text] = accuracies(config)
                        print(name, text, result[name][text], flush=True)
    files.write_text(RESULT, json.dumps({"machine": machine.describe(), "seeds": SEEDS, "accuracy": result}, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
