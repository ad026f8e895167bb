"""How ``tests/samples`` was made: a few samples of the real sets, in the layout of the full ones. ``tests/pictures`` is drawn.

    python tests/make_samples.py DATA_ROOT tests/samples

``DATA_ROOT`` holds ``MNIST/raw``, ``FashionMNIST/raw`` (as ``.gz``), ``cifar-10-batches-py``, ``FSDD/recordings.zip``,
``NMNIST/Train`` and ``Test``, and ``TimeSeries``.
"""

import gzip
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tsslbp.data import images, speech

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
    chosen = batch.select(index)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(pickle.dumps({"labels": chosen.y.tolist(), "data": chosen.x.flatten(1).numpy()}, protocol=4))


def pick_recordings(source: Path, target: Path) -> None:
    """Write the shortest recordings: of each digit one by ``TEST_SPEAKER`` and one by another, of five one to test on."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as part:
        infos = sorted((i for i in whole.infolist() if i.filename.endswith(".wav")), key=lambda i: (i.file_size, i.filename))
        chosen = {}
        for info in infos:
            digit, speaker, index = speech._parts(info.filename)
            known, test = speaker != speech.TEST_SPEAKER, index < speech.TEST_INDEX
            if not test or (known and digit < 5):
                chosen.setdefault((digit, known, test), info.filename)
        for name in sorted(chosen.values()):
            part.writestr(zipfile.ZipInfo(name), whole.read(name), zipfile.ZIP_DEFLATED)


def thin_events(source: Path, target: Path, each: int) -> None:
    """Write every eighth event of the first ``each`` recordings of every digit; the very first is kept whole."""
    for label in range(10):
        for path in sorted((source / str(label)).glob("*.bin"))[:each]:
            events = [path.read_bytes()[start : start + 5] for start in range(0, path.stat().st_size, 5)]
            copy = target / str(label) / path.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(b"".join(events if path.name == "00001.bin" and source.name == "Train" else events[::8]))


def cut_series(source: Path, target: Path, each: int) -> None:
    """Write the header and the first ``each`` series of every class of a ``.ts`` file."""
    lines = source.read_text(encoding="utf-8").splitlines()
    start = lines.index("@data") + 1
    kept, counts = lines[:start], dict.fromkeys("123456789", 0)
    for line in lines[start:]:
        label = line.split(":")[-1]
        counts[label] += 1
        if counts[label] <= each:
            kept.append(line)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(kept) + "\n", encoding="utf-8")


def draw_pictures(target: Path) -> None:
    """Write small noisy pictures of three colours, in the layout of ImageNet."""
    noise = np.random.default_rng(0)
    for part, each in (("train", 8), ("val", 3)):
        for channel, colour in enumerate(("red", "green", "blue")):
            (target / part / colour).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                pixels = noise.integers(0, 160, (8, 10, 3), dtype=np.uint8)
                pixels[..., channel] += 60
                Image.fromarray(pixels).save(target / part / colour / f"{number}.jpg", quality=95)


def main(root: Path, out: Path) -> None:
    for folder, parts in KEPT.items():
        for part, count in parts.items():
            for content in ("images-idx3-ubyte", "labels-idx1-ubyte"):
                path = Path(folder, "raw", f"{part}-{content}.gz")
                cut_idx(root / path, out / path, count)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        path = Path("cifar-10-batches-py", name)
        cut_cifar(root / path, out / path, 2 if name == "test_batch" else 1)
    pick_recordings(root / "FSDD/recordings.zip", out / "FSDD/recordings.zip")
    for part, each in (("Train", 2), ("Test", 1)):
        thin_events(root / "NMNIST" / part, out / "NMNIST" / part, each)
    for part, each in (("TRAIN", 2), ("TEST", 1)):
        cut_series(root / f"TimeSeries/JapaneseVowels_{part}.ts", out / f"TimeSeries/JapaneseVowels_{part}.ts", each)
    draw_pictures(out.with_name("pictures"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
