"""Altered files of every kind: a clean refusal, or what the file may say. Never another exception, never a silent difference.

A file with a checksum gives what it gave before, or is refused. A file without one gives what its format, shape and range
allow, or is refused. Every case follows from its kind and number, so a failure can be made again.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import re
import shutil
import wave
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SAMPLES
from PIL import Image

import tsslbp
from tsslbp import UserError, cli, data, training
from tsslbp.study import page as study_page
from tsslbp.training.settings import TrainConfig

ODD = [b"-1", b"0", b"null", b"true", b'"x"', b"[]", b"{}", b"NaN", b"1e999", b"-1e300", b"1" * 30, b'"\\u0000"', b'"\\ud800"']
ODD += [b"[" * 5000, b"0.5", b'""', b"\xff", b"1" * 5000, b"[[1]]", b'{"a": 1}', b"2147483648", b"inf"]


FINITE = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to read it, and what reading may give once it is altered."""

    path: Path
    read: Callable[[], Any]
    """What the file says, to be compared; raises UserError if the file is refused."""
    allowed: Callable[[Any], bool] | None = None
    """Whether an altered file may say this; None for files with a checksum, which must say what they said."""
    cases: int = 40
    """In a run of all tests."""
    text: bool = False


def altered(content: bytes, random: np.random.Generator, text: bool) -> bytes:
    """The content with a bit flipped, bytes overwritten, cut, lost, put in or, in a text, a value exchanged."""
    at = int(random.integers(len(content)))
    if random.random() < 0.4:  # headers are short, and at the beginning or the end
        at = int(random.integers(min(200, len(content))))
        at = at if random.random() < 0.5 else len(content) - 1 - at
    some = int(random.integers(1, 9))
    match random.integers(7 if text else 5):
        case 0:
            return content[:at] + bytes([content[at] ^ 1 << int(random.integers(8))]) + content[at + 1 :]
        case 1:
            filled = [random.bytes(some), bytes(some), b"\xff" * some][int(random.integers(3))]
            return (content[:at] + filled + content[at + some :])[: len(content)]
        case 2:
            return content[:at]
        case 3:
            return content[:at] + content[at + some :]
        case 4:
            return content[:at] + random.bytes(some) + content[at:]
    values = list(re.finditer(rb'"[^"\n]*"|[-+.\w]+', content))
    chosen = values[int(random.integers(len(values)))]
    return content[: chosen.start()] + ODD[int(random.integers(len(ODD)))] + content[chosen.end() :]


def fail(kind: Kind, name: str, number: int, before: Any) -> str | None:
    """What goes wrong with one altered file; None if nothing does. ``before`` is what the file said."""
    whole = kind.path.read_bytes()
    content = altered(whole, np.random.default_rng([zlib.crc32(name.encode()), number]), kind.text)
    try:
        kind.path.write_bytes(content)
        with np.errstate(all="ignore"):
            found = kind.read()
    except UserError as error:
        return f"{error!r} is more than a line" if "\n" in str(error) else None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        kind.path.write_bytes(whole)
    right = found == before if kind.allowed is None else kind.allowed(found)
    return None if right else f"it is taken and says {' '.join(repr(found).split()):.200}"


def command(*arguments: str) -> str:
    """The answer of a command; raises UserError with what it says if it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(arguments))
    if code:
        assert code == 2, err.getvalue()
        raise UserError(err.getvalue().rstrip("\n"))
    return out.getvalue()


def digest(*tensors: torch.Tensor | None) -> str:
    """Of the numbers in tensors with their types and shapes."""
    made = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            made.update(f"{tensor.dtype} {list(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return made.hexdigest()


def said(dataset: data.Dataset) -> tuple[Any, ...]:
    """All that a data set holds, to be compared."""
    parts = (dataset.train, dataset.validation, dataset.test)
    numbers = [tensor for part in parts for tensor in (part.x, part.y, part.lengths)]
    return dataset.classes, dataset.normalisation, digest(*numbers)


def well_formed(shape: tuple[int, ...], classes: int, low: float, high: float) -> Callable[[data.Dataset], bool]:
    """Whether a data set has samples of this shape (-1 for any size), within a range, and labels that are classes."""

    def check(dataset: data.Dataset) -> bool:
        parts = (dataset.train, dataset.validation, dataset.test)
        shapes = all(
            len(part.x.shape) == 1 + len(shape)
            and all(size in (-1, found) for size, found in zip(shape, part.x.shape[1:], strict=True))
            for part in parts
        )
        ranges = all(bool(((part.x >= low) & (part.x <= high)).all()) for part in parts)
        labels = all(part.y.dtype == torch.int64 and part.y.min() >= 0 and part.y.max() < classes for part in parts)
        return shapes and ranges and labels and len(dataset.classes) == classes

    return check


def own_arrays(path: Path, compressed: bool) -> None:
    random = np.random.default_rng(0)
    x, y = random.random((30, 5), dtype=np.float32), np.arange(30) % 3
    save = np.savez_compressed if compressed else np.savez
    save(path, x=x, y=y, x_test=x[:6], y_test=y[:6], classes=np.array(["a", "b", "c"]))


def own_files(root: Path) -> Path:
    """A small table, series, and folders of pictures, sounds and events, two classes each."""
    random = np.random.default_rng(0)
    for name in (f"{kind}/{label}" for kind in "pwen" for label in "ab"):
        (root / name).mkdir(parents=True)
    values = random.random((12, 5)).round(3)
    (root / "t.csv").write_text(
        "u,v,w,label\n" + "".join(f"{a},{b},{c},{'ab'[n % 2]}\n" for n, (a, b, c, *_) in enumerate(values))
    )
    for part in ("TRAIN", "TEST"):
        rows = (" ".join([str(n % 2), *map(str, row)]) for n, row in enumerate(values))
        (root / f"s_{part}.txt").write_text("\n".join(rows) + "\n")
    for n, label in itertools.product(range(4), "ab"):
        Image.fromarray(random.integers(0, 256, (6, 6), dtype=np.uint8)).save(root / f"p/{label}/{n}.png")
        with wave.open(str(root / f"w/{label}/{n}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(random.integers(-9999, 9999, 600, dtype=np.int16).tobytes())
        events = [bytes([*random.integers(0, 8, 2), 128 * (t % 2), t, 0]) for t in range(40)]
        (root / f"e/{label}/{n}.bin").write_bytes(b"".join(events))
        packed = [(*map(int, random.integers(0, 8, 2)), t % 2, t) for t in range(40)]
        np.save(root / f"n/{label}/{n}.npy", np.array(packed, dtype=[("x", "<u2"), ("y", "<u2"), ("p", "?"), ("t", "<i8")]))
    return root


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """A file of every kind, small, in a folder of its own."""
    root = tmp_path_factory.mktemp("fuzz")
    config = TrainConfig(runs_dir=root / "runs", name="run", network="4-10", epochs=2, batch_size=400)
    run, _ = training.train(config)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def weights() -> tuple[Any, ...]:
        model = tsslbp.load(run)
        return digest(*model.network.state_dict().values(), model.outputs(x)), model.classes, model.inputs, model.data

    def resumed() -> str:
        shutil.rmtree(root / "copies", ignore_errors=True)
        shutil.copytree(run, root / "copies/run")
        place = ["--runs-dir", str(root / "copies"), "--name", "run"]
        return command("train", "--config", str(run / "config.toml"), "--resume", *place).split(",")[0]  # all but the seconds

    def samples(folder: str) -> Path:
        shutil.copytree(SAMPLES / folder, root / folder)
        return root / folder

    image = root / "image.png"
    Image.fromarray(np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)).save(image)
    for name in ("plain", "packed"):
        own_arrays(root / f"{name}.npz", name == "packed")
    packed, plain = samples("MNIST") / "raw", samples("FashionMNIST") / "raw"
    for path in sorted(plain.glob("*.gz")):
        (plain / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    recordings = samples("FSDD") / "recordings.zip"
    unpacked = root / "unpacked/FSDD/recordings"
    unpacked.mkdir(parents=True)
    with zipfile.ZipFile(recordings) as archive:
        for recording in archive.namelist():
            (unpacked / Path(recording).name).write_bytes(archive.read(recording))
    command("study", "latency", str(run), "--out", str(root / "studies"))

    own = own_files(root / "own")

    def load(name: str, at: Path = root, **options: Any) -> data.Dataset:
        return data.load(name, at, **options)

    answer = re.compile(r"\d  \(confidence .* %, unchanged .*\)\n|no answer: .*\n")
    grey, events = well_formed((1, 28, 28), 10, 0, 255), well_formed((5, 2, 34, 34), 10, 0, 1)
    speech = well_formed((5, -1), 10, 0, 1)
    latency = root / "studies/latency.json"
    return {
        "checkpoint": Kind(run / "checkpoint.pt", resumed, cases=25),
        "model": Kind(run / "model.safetensors", weights),
        "model by evaluate": Kind(run / "model.safetensors", lambda: command("evaluate", str(run)), cases=15),
        "metrics": Kind(run / "metrics.jsonl", lambda: training.read_metrics(run), true_records, 60, text=True),
        "metrics by report": Kind(run / "metrics.jsonl", lambda: command("report", str(run)), bool, 6, text=True),
        "config": Kind(run / "config.toml", lambda: TrainConfig.from_toml(run / "config.toml"), replays, 80, text=True),
        "config by report": Kind(run / "config.toml", lambda: command("report", str(run)), bool, 6, text=True),
        "config by resume": Kind(run / "config.toml", resumed, bool, 15, text=True),
        "study": Kind(latency, lambda: study_page._read(latency), bool, 15, text=True),
        "npz": Kind(root / "plain.npz", lambda: said(load(str(root / "plain.npz")))),
        "npz, compressed": Kind(root / "packed.npz", lambda: said(load(str(root / "packed.npz")))),
        "idx.gz": Kind(packed / "train-images-idx3-ubyte.gz", lambda: said(load("mnist")), cases=20),
        "idx.gz, labels": Kind(packed / "t10k-labels-idx1-ubyte.gz", lambda: said(load("mnist")), cases=20),
        "idx": Kind(plain / "t10k-images-idx3-ubyte", lambda: load("fashion-mnist"), grey, 20),
        "idx, labels": Kind(plain / "train-labels-idx1-ubyte", lambda: load("fashion-mnist"), grey, 20),
        "cifar": Kind(
            samples("cifar-10-batches-py") / "data_batch_3", lambda: load("cifar10"), well_formed((3, 32, 32), 10, 0, 255)
        ),
        "recordings.zip": Kind(recordings, lambda: said(load("spoken-digits", time_steps=5)), cases=10),
        "wav": Kind(min(unpacked.iterdir()), lambda: load("spoken-digits", root / "unpacked", time_steps=5), speech, 10),
        "nmnist": Kind(
            min((samples("NMNIST") / "Test").glob("*/*.bin")), lambda: load("nmnist", time_steps=5), events, cases=12
        ),
        "series": Kind(
            samples("TimeSeries") / "JapaneseVowels_TRAIN.ts",
            lambda: load("japanese-vowels"),
            well_formed((-1, 12), 9, -FINITE, FINITE),
            text=True,
        ),
        "own table": Kind(
            own / "t.csv", lambda: load(str(own / "t.csv")), well_formed((-1,), 2, -FINITE, FINITE), 60, text=True
        ),
        "own series": Kind(
            own / "s_TEST.txt", lambda: load(str(own / "s_TRAIN.txt")), well_formed((-1, 1), 2, -FINITE, FINITE), 60, text=True
        ),
        "own picture": Kind(own / "p/b/3.png", lambda: load(str(own / "p")), well_formed((1, 6, 6), 2, 0, 255), 60),
        "own sound": Kind(own / "w/b/3.wav", lambda: load(str(own / "w")), well_formed((50, 40), 2, -FINITE, FINITE), 40),
        "own events": Kind(own / "e/b/3.bin", lambda: load(str(own / "e")), well_formed((30, 2, -1, -1), 2, 0, 1), 40),
        "own event arrays": Kind(own / "n/b/3.npy", lambda: load(str(own / "n")), well_formed((30, 2, -1, -1), 2, 0, 1), 40),
        "png": Kind(image, lambda: command("predict", str(run), str(image)), lambda out: bool(answer.fullmatch(out))),
    }


def true_records(found: tuple[list[Any], Any]) -> bool:
    """Whether a report can be made of records: epochs in order, accuracies in percent, one of the epochs chosen."""
    history, final = found
    last = [] if final is None else [final]
    percents = [record["test_accuracy"] for record in last]
    if history and history[0]["validation_accuracy"] is not None:
        percents += [record["validation_accuracy"] for record in (*history, *last)]
    percents += [record["test_accuracy"] for record in history if record["test_accuracy"] is not None]
    numbered = [record["epoch"] for record in history] == list(range(1, len(history) + 1))
    chosen = all(record["best_epoch"] in range(1, record["epochs"] + 1) for record in last)
    return numbered and chosen and all(type(value) in (int, float) and 0 <= value <= 100 for value in percents)


def replays(config: TrainConfig) -> bool:
    """Settings that were taken can be written and read again."""
    return replace(config) == config and config.to_toml().encode().decode() == config.to_toml()


KINDS = [
    *("checkpoint", "model", "model by evaluate", "metrics", "metrics by report", "config", "config by report"),
    *("config by resume", "study", "npz", "npz, compressed", "idx.gz", "idx.gz, labels", "idx", "idx, labels", "cifar"),
    *("recordings.zip", "wav", "nmnist", "series"),
    *("own table", "own series", "own picture", "own sound", "own events", "own event arrays", "png"),
]


def check(kinds: dict[str, Kind], name: str, count: int) -> None:
    assert list(kinds) == KINDS
    before = kinds[name].read()
    found = {number: wrong for number in range(count) if (wrong := fail(kinds[name], name, number, before))}
    shown = "\n".join(f"{name}, case {number}: {wrong}" for number, wrong in list(found.items())[:10])
    assert not found, f"{len(found)} of {count}\n{shown}"


@pytest.mark.parametrize("name", KINDS)
def test_an_altered_file_is_refused_or_says_what_it_may(kinds, name):
    check(kinds, name, kinds[name].cases)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_thousand_altered_files(kinds, name):
    share = 10_000 / sum(kind.cases for kind in kinds.values())
    check(kinds, name, round(kinds[name].cases * share))
