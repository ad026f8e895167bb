"""Whole trainings by this version and by 0.1.0, in turns, on a quiet machine.

python benchmarks/whole.py DATA_ROOT OLD_SRC [SEEDS]    OLD_SRC is the folder src of 0.1.0, with its kernels built

Both take the same settings, in float32; what is NAME-head now was NAME in 0.1.0. A run lasts from its first backward pass to
its end. Between steps of training there are evaluations, checkpoints and, at the end, the report: two backward passes are then
more than ten times as far apart as usual.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import command

from tsslbp.utils.tables import markdown

EPOCHS = {"fashion-mnist-fc-head": 3, "mnist-cnn-head": 1, "fashion-mnist-cnn-head": 1}
PROGRAM = """
import json, sys, time, torch
times, backward = [], torch.Tensor.backward

def timed(*arguments, **options):
    times.append(time.perf_counter())
    return backward(*arguments, **options)

torch.Tensor.backward = timed
from tsslbp.cli import main
try:
    sys.exit(main())
except SystemExit as end:
    if end.code:
        raise
times.append(time.perf_counter())
print()
print(json.dumps(times))
"""


def run(source: Path, data_root: str, recipe: str, epochs: int, seed: int, folder: str) -> dict[str, Any]:
    """One training: its seconds, those of them between steps, and the validation accuracy of its chosen epoch in percent."""
    options = {"epochs": epochs, "seed": seed, "precision": "float32", "data-root": data_root, "runs-dir": folder}
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-c", PROGRAM, "train", recipe, "--name", "run", *flags]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"{source}: {done.stderr.strip().splitlines()[-1]}")
    times = json.loads(done.stdout.splitlines()[-1])
    gaps = [after - before for before, after in itertools.pairwise(times)]
    usual = statistics.median(gaps)
    last = json.loads(Path(folder, "run/metrics.jsonl").read_text().splitlines()[-1])
    return {
        "seconds": times[-1] - times[0],
        "between": sum(gap - usual for gap in gaps if gap > 10 * usual),
        "validation": last["validation_accuracy"],
    }


def compared(data_root: str, old: Path, seeds: int) -> str:
    """A row for each recipe: this version and 0.1.0, means over seeds."""
    sources, rows = {"this": Path(__file__).parent.parent / "src", "0.1.0": old}, []
    for recipe, epochs in EPOCHS.items():
        found: dict[str, list[dict[str, Any]]] = {"this": [], "0.1.0": []}
        for seed in range(1, seeds + 1):
            for name in sorted(sources, reverse=bool(seed % 2)):
                with tempfile.TemporaryDirectory() as folder:
                    given = recipe.removesuffix("-head") if name == "0.1.0" else recipe
                    found[name].append(run(sources[name], data_root, given, EPOCHS[recipe], seed, folder))
                print(recipe, seed, name, found[name][-1], file=sys.stderr, flush=True)
        ratio = statistics.mean(a["seconds"] / b["seconds"] for a, b in zip(found["0.1.0"], found["this"], strict=True))
        cells = [recipe, str(epochs)]
        for name in ("0.1.0", "this"):
            seconds, spent = (statistics.mean(one[key] for one in found[name]) for key in ("seconds", "between"))
            accuracy = " ".join(f"{one['validation']:.2f}" for one in found[name])
            cells += [f"{seconds:.1f}", f"{100 * spent / seconds:.0f} %", accuracy]
        rows.append([*cells, f"{ratio:.2f}"])
    heads = [f"{version}, {what}" for version in ("0.1.0", "this") for what in ("s", "between steps", "validation, %")]
    return markdown(["recipe", "epochs", *heads, "0.1.0 / this"], rows)


def main(data_root: str, old: str, seeds: str = "1") -> None:
    count = int(command.positive("SEEDS", seeds, whole=True))
    print(compared(str(Path(data_root).resolve()), command.source(Path(old)), count))


if __name__ == "__main__":
    command.run(main, __doc__)
