"""What residual blocks and normalisation are worth in deep networks: python benchmarks/residual.py

Trains networks of 7 and 13 hidden convolutions on the digits, plain and in residual blocks, with normalisation and without.
Writes results/residual/residual.json and prints the table of docs/how-to-own-network.md.
"""

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import command

from tsslbp import training
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/residual/residual.json"
SEEDS, DEPTHS = (0, 1, 2), (7, 13)
KINDS = {
    "plain": (False, False),
    "residual": (True, False),
    "plain, normalised": (False, True),
    "residual, normalised": (True, True),
}
"""Whether in residual blocks, and whether normalised."""
CONFIG = TrainConfig(
    data="digits", rule="tssl+", padding=(1,), epochs=10, learning_rate=5e-3, schedule="one-cycle", precision="float32"
)


def notation(hidden: int, residual: bool, normalised: bool) -> str:
    """A network of 3×3 convolutions; the second has stride 2, and all behind the first are in pairs."""
    kinds = ["16C3s2" if layer == 1 else "16C3" for layer in range(hidden)]
    first, *rest = [kind + "n" * normalised for kind in kinds]
    pairs = ["-".join(pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
    return "-".join([first, *(f"[{pair}]" if residual else pair for pair in pairs), "10"])


def accuracies(config: TrainConfig) -> list[float]:
    """Test accuracy of every seed, in the epoch chosen on validation samples."""
    found = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            _, final = training.train(replace(config, seed=seed, runs_dir=Path(folder)))
        found.append(final["test_accuracy"])
    return found


def table(result: dict[str, Any]) -> str:
    def cell(text: str) -> str:
        found = result["accuracy"][text]
        return f"{statistics.fmean(found):.1f} ± {statistics.stdev(found):.1f}"

    rows = [[name, *(cell(notation(hidden, *kind)) for hidden in DEPTHS)] for name, kind in KINDS.items()]
    return markdown(["network", *(f"{hidden} hidden layers" for hidden in DEPTHS)], rows)


def main() -> None:
    texts = [notation(hidden, *kind) for hidden in DEPTHS for kind in KINDS.values()]
    accuracy = {text: accuracies(replace(CONFIG, network=text)) for text in texts}
    result = {"machine": machine.describe(), "seeds": SEEDS, "accuracy": accuracy}
    files.write_json(RESULT, result)
    print(table(result))


if __name__ == "__main__":
    command.run(main, __doc__)
