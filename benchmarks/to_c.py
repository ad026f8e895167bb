"""What networks written as C need, and whether they compute what Python does: the numbers of docs/to-c.md.

python benchmarks/to_c.py DATA_ROOT OUT.json RUN_OR_MODEL[:BITS]...

Every model is written as C, its weights rounded to BITS if they are in floating point, compiled strictly with -O3, run on its
whole test set and compared with Python spike by spike. Then all take turns to be timed on ten test samples each. The best of
many short rounds counts, because other programs can only make one slower.
"""

import math
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import command

from tsslbp import training
from tsslbp.exchange import c, compiled
from tsslbp.exchange.program import Program
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

ROUNDS, SECONDS = 100, 0.1
HEADS = (
    "model",
    "weights",
    "constants, bytes",
    "state, bytes",
    "µs a sample",
    "samples",
    "spikes",
    "differing",
    "other answers",
)


def compared(name: str, data_root: Path, built: Path) -> dict[str, Any]:
    """A model's sizes, and differences from Python, with its program left in ``built``; the time is still to come."""
    path, _, bits = name.partition(":")
    model = training.load(path)
    program = Program.of(model, bits or None)
    test = training.samples_to_test(model, None, data_root).split
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "c"
        sizes = re.findall(r"([\d,]+) (?:bytes )?of (constants|state)", c.write(program, folder, data_root))
        compiled.compiled(folder, built, ("-O3",))
        found = compiled.compare(built, program, test)
    kind = program.entry.model.network.architecture.bits
    about = {"model": Path(path).stem, "weights": kind, **{what: int(size.replace(",", "")) for size, what in sizes}}
    return {**about, "microseconds": math.inf, **found._asdict()}


def measured(names: list[str], data_root: Path, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """All models' sizes, times, and differences from Python."""
    with tempfile.TemporaryDirectory() as place:
        programs = [Path(place) / str(number) for number in range(len(names))]
        results = [compared(name, data_root, program) for name, program in zip(names, programs, strict=True)]
        for _ in range(rounds):
            for result, program in zip(results, programs, strict=True):
                result["microseconds"] = min(result["microseconds"], _time(program))
    return results


def _time(built: Path) -> float:
    done = subprocess.run([built, "--time", str(SECONDS)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    return markdown(
        HEADS,
        [
            [f"{x:,}" if isinstance(x, int) else f"{x:.1f}" if isinstance(x, float) else x for x in row.values()]
            for row in results
        ],
    )


def main(data_root: str, out: str, name: str, *names: str) -> None:
    files.check_folder(Path(out).parent, "choose another OUT.json")
    results = measured([name, *names], Path(data_root))
    options = " ".join((*compiled.compiler(), *compiled.STRICT, "-O3"))
    files.make_folder(Path(out).parent, "choose another OUT.json")
    about = {"machine": machine.describe(), "compiler": options, "models": results}
    files.write_json(Path(out), about)
    print(table(results), end="")


if __name__ == "__main__":
    command.run(main, __doc__)
