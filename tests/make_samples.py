"""How ``tests/samples`` was made: the first images of the real sets, in the layout of the full ones.

    python tests/make_samples.py DATA_ROOT tests/samples

``DATA_ROOT`` holds ``MNIST/raw``, ``FashionMNIST/raw`` (as ``.gz``) and ``cifar-10-batches-py``.
"""

import gzip
import pickle
import sys
from pathlib import Path

import torch

from tsslbp.data import images

KEPT = {"MNIST": {"train": 300, "t10k": 100}, "FashionMNIST": {"train": 150, "t10k": 50}}


def cut_idx(source: Path, target: Path, count: int) -> None:
    """Write the first ``count`` items of a compressed idx file."""
    content = gzip.decompress(source.read_bytes())
    axes = content[3]
    start, item = 4 + 4 * axes, 784 if axes == 3 else 1
    target.parent.mkdir(parents=True, exist_ok=True)
    cut = content[:4] + count.to_bytes(4, "big") + content[8:start] + content[start : start + count * item]
    target.write_bytes(gzip.compress(cut, mtime=0))


def cut_cifar(source: Path, target: Path, each: int) -> None:
    """Write the first ``each`` images of every class in a batch file."""
    batch = images._cifar_batch(source)
    index = torch.cat([(batch.y == label).nonzero()[:each, 0] for label in range(10)]).sort().values
    x, y = batch.take(index)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pickle.dumps({"labels": y.tolist(), "data": x.flatten(1).numpy()}, protocol=4))


def main(root: Path, out: Path) -> None:
    for folder, parts in KEPT.items():
        for part, count in parts.items():
            for content in ("images-idx3-ubyte", "labels-idx1-ubyte"):
                path = Path(folder, "raw", f"{part}-{content}.gz")
                cut_idx(root / path, out / path, count)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        path = Path("cifar-10-batches-py", name)
        cut_cifar(root / path, out / path, 2 if name == "test_batch" else 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
