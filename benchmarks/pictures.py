"""Memory that training on pictures in files takes, however many there are: python benchmarks/pictures.py

Draws folders of 1,000 and of 100,000 small JPEG files, and trains a small network on each for two epochs, in a process of its
own.
Writes results/pictures/pictures.json and prints the table of docs/how-to-own-data.md.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import command
import numpy as np
from PIL import Image

from tsslbp import training
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/pictures/pictures.json"
COUNTS, CLASSES = (1000, 100_000), 10


def draw(folder: Path, count: int) -> None:
    """Write so many pictures of 32 × 32 pixels, no two alike, four fifths of them for training."""
    noise = np.random.default_rng(0)
    for part, share in (("train", 0.8), ("val", 0.2)):
        for label in range(CLASSES):
            place = folder / part / str(label)
            place.mkdir(parents=True)
            for number in range(round(count * share) // CLASSES):
                pixels = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
                pixels[..., label % 3] //= 1 + label // 3
                Image.fromarray(pixels).resize((32, 32)).save(place / f"{number}.jpg")


def peak(process: int | str) -> int:
    """Bytes of a process's memory at their peak."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Peaks(training.Progress):
    """The largest peaks at the end of an epoch, while the workers live."""

    main = worker = 0

    def finished_epoch(self, record: dict[str, Any]) -> None:
        self.main, self.seconds = peak("self"), record["seconds"]
        self.worker = max(peak(child.pid) for child in multiprocessing.active_children() if child.pid)


def measure(folder: Path) -> dict[str, float]:
    """Peaks of a training in MiB, and its seconds."""
    config = TrainConfig(
        data=f"image-folder:{folder}",
        network=f"8C3s2-{CLASSES}",
        time_steps=1,
        tau_s=1.5,
        random_crop=0.5,
        flip=True,
        epochs=2,
        batch_size=100,
        precision="float32",
        workers=1,
        runs_dir=folder / "runs",
    )
    machine.keep_memory()
    peaks = Peaks()
    training.train(config, peaks)
    return {"training process": peaks.main / 2**20, "worker": peaks.worker / 2**20, "seconds": peaks.seconds}


def of_each(counts: tuple[int, ...]) -> dict[str, dict[str, float]]:
    found = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), count)
            words = [sys.executable, __file__, "--measure", folder]
            made = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        found[f"{count:,}"] = json.loads(made)
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    rows = [[count, *(f"{made[process]:.0f}" for process in ("training process", "worker"))] for count, made in found.items()]
    return markdown(["pictures", "training process, MiB", "worker, MiB"], rows)


def main() -> None:
    found = of_each(COUNTS)
    files.write_json(RESULT, {"machine": machine.describe(), "peaks": found})
    print(table(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        command.run(main, __doc__)
