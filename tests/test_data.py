"""Data sets: what is read, how it is split and normalised, and one clear line for everything that can be wrong."""

import builtins
import codecs
import gzip
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import fails, save

from tsslbp import UserError, data
from tsslbp.data import images, readers
from tsslbp.data.dataset import Normalisation, Split, hold_out
from tsslbp.data.sample_values import fitted
from tsslbp.utils import machine, prng

SAMPLES = Path(__file__).parent / "samples"
FULL = Path(__file__).parents[2] / "shared" / "data"
needs_full = pytest.mark.skipif(not (FULL / "MNIST").is_dir(), reason=f"the full sets are not in {FULL}")


def rows(*splits: Split) -> list[bytes]:
    """Every sample with its label, as bytes, sorted: two sets of samples are the same where their rows are."""
    return sorted(x.numpy().tobytes() + bytes([int(y)]) for split in splits for x, y in zip(split.x, split.y, strict=True))


def assert_sound(dataset: data.Dataset) -> None:
    for split in (dataset.train, dataset.validation, dataset.test):
        assert len(split) == len(split.x) == len(split.y) > 0
        assert split.x.dtype in (torch.uint8, torch.float32)
        assert split.y.dtype == torch.int64
        assert 0 <= split.y.min() <= split.y.max() < len(dataset.classes)
        assert split.x.shape[1:] == dataset.train.x.shape[1:]


# Splits


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=8), fraction=st.floats(0, 1), seed=st.integers(0, 99))
def test_hold_out_is_stratified_and_loses_nothing(counts, fraction, seed):
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
    held_count = int(fraction * len(y))
    rest, held = hold_out(Split(torch.arange(len(y)), y), held_count)
    assert len(held) == held_count
    assert torch.equal(torch.cat([rest.x, held.x]).sort().values, torch.arange(len(y)))
    for part in (rest, held):
        assert torch.equal(part.y, y[part.x])
        assert torch.equal(part.x, part.x.sort().values)
    for label, count in enumerate(counts):
        share = count * held_count / max(len(y), 1)
        assert abs(int((held.y == label).sum()) - share) < 1


def test_hold_out_takes_samples_from_all_over_the_class():
    held = hold_out(Split(torch.arange(1000), torch.zeros(1000, dtype=torch.int64)), 100)[1]
    assert torch.unique(held.x.diff()).numel() > 10
    assert torch.histc(held.x.float(), 4, 0, 1000).min() > 10


def test_digits_split_is_the_same_for_ever():
    digits = data.load("digits", Path("no such folder"))
    assert_sound(digits)
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [1197, 240, 360]
    assert digits.sample_shape == (1, 8, 8)
    assert digits.time_steps is None
    assert not digits.sequence
    assert digits.classes == tuple("0123456789")
    assert digits.train.x.dtype == torch.uint8
    weights = torch.arange(1, 361)
    assert int((digits.test.y * weights).sum()) == 291318
    assert int((digits.validation.y * weights[:240]).sum()) == 125367
    for split in (digits.validation, digits.test):
        share = split.y.bincount() / len(split)
        assert (share - 0.1).abs().max() < 0.01


def test_validation_size_leaves_the_test_set_alone():
    usual, other = (data.load("digits", Path(), validation=count) for count in (None, 100))
    assert len(other.validation) == 100
    assert torch.equal(usual.test.x, other.test.x)
    assert rows(usual.train, usual.validation) == rows(other.train, other.validation)


def test_splits_are_all_of_the_digits_and_no_run_seed_changes_them():
    from sklearn.datasets import load_digits

    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = data.load("digits", Path())
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    second = data.load("digits", Path())
    x, y = load_digits(return_X_y=True)
    everything = Split(torch.tensor(x).to(torch.uint8).view(-1, 1, 8, 8), torch.tensor(y))
    assert rows(first.train, first.validation, first.test) == rows(everything)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).x, getattr(second, part).x)


@pytest.mark.parametrize("validation", [-1, 9, 1437, 5000])
def test_validation_size_that_does_not_fit(validation):
    with fails(f"validation is {validation}; of these 1437 training samples in 10 classes it must take none, or at least 10"):
        data.load("digits", Path(), validation=validation)


def test_no_sample_need_be_held_out():
    digits = data.load("digits", Path(), validation=0)
    assert [len(part) for part in digits.parts.values()] == [1437, 0, 360]
    assert digits.validation.x.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("validation", [10, 1436])
def test_validation_size_that_just_fits(validation):
    digits = data.load("digits", Path(), validation=validation)
    assert (len(digits.validation), len(digits.train)) == (validation, 1437 - validation)


def test_select_gives_the_samples_at_an_index():
    split = data.load("digits", Path()).train
    index = torch.tensor([5, 3, 3, 1196])
    chosen = split.select(index)
    assert torch.equal(chosen.x, split.x[index])
    assert torch.equal(chosen.y, split.y[index])


# Normalisation


@pytest.mark.parametrize(
    "shape",
    [(2, 3, 5, 4), (2, 7, 3, 5, 4), (6, 3), (2, 7, 3)],
    ids=["images", "image-sequences", "vectors", "vector-sequences"],
)
@pytest.mark.parametrize("stored", ["bytes", "numbers"])
@pytest.mark.parametrize("channels", ["each", "shared"])
def test_normalise_is_the_formula_along_the_channels(shape, stored, channels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    x = x if stored == "bytes" else x.float() - 100
    before = x.clone()
    mean, std = ((0.2, -1.5, 3.0), (0.5, 2.0, 0.1)) if channels == "each" else ((0.2,), (0.5,))
    norm = Normalisation(255, mean, std)
    got = norm.normalise(x)
    axis = len(shape) - 3 if len(shape) > 3 else len(shape) - 1
    for channel in range(3):
        of_channel = x.select(axis, channel).double() / 255
        i = channel if channels == "each" else 0
        torch.testing.assert_close(got.select(axis, channel).double(), (of_channel - mean[i]) / std[i], rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float32
    assert torch.equal(x, before), "the stored values are not to be changed"
    torch.testing.assert_close(norm.intensity(x), before.float() / 255)
    assert torch.equal(x, before)


def test_intensity_reaches_exactly_from_0_to_1():
    for scale, values in ((255, [0, 51, 255]), (16, [0, 4, 16]), (1, [0.0, 0.25, 1.0])):
        got = Normalisation(scale, (0.3,), (0.2,)).intensity(torch.tensor(values))
        assert got.min() == 0
        assert got.max() == 1
        assert float(got[1]) == pytest.approx(values[1] / scale)


def test_digits_constants_are_those_of_the_training_part():
    digits = data.load("digits", Path())
    x = digits.normalisation.normalise(digits.train.x)
    assert float(x.mean()) == pytest.approx(0, abs=3e-4)
    assert float(x.std()) == pytest.approx(1, abs=3e-4)


# MNIST's files


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_samples_load(name):
    dataset = data.load(name, SAMPLES)
    assert_sound(dataset)
    colour = name == "cifar10"
    assert dataset.name == name
    assert dataset.sample_shape == ((3, 32, 32) if colour else (1, 28, 28))
    assert (dataset.time_steps, dataset.sequence) == (None, False)
    assert len(dataset.classes) == 10
    total, test = {"mnist": (300, 100), "fashion-mnist": (150, 50), "cifar10": (50, 20)}[name]
    assert len(dataset.test) == test
    assert len(dataset.validation) == max(total // 10, 10)
    assert len(dataset.train) + len(dataset.validation) == total
    if colour:
        assert dataset.normalisation == Normalisation(255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    else:
        assert dataset.normalisation == Normalisation(255, (0.1307,), (0.3081,))


def test_first_mnist_images_are_the_known_ones():
    test = data.load("mnist", SAMPLES).test
    assert test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    corner, middle = test.x[2, 0, :4], test.x[2, 0, :, 10:18]  # an image of a one: an upright stroke
    assert corner.max() == 0
    assert middle.max() > 250
    assert (test.x[2, 0] > 128).any(1).sum() > 2 * (test.x[2, 0] > 128).any(0).sum()


@pytest.fixture
def mnist(tmp_path):
    """A folder of its own to damage, with the raw files of the MNIST sample."""
    shutil.copytree(SAMPLES / "MNIST", tmp_path / "MNIST")
    return tmp_path / "MNIST" / "raw"


def unpack(path: Path) -> bytearray:
    return bytearray(gzip.decompress(path.read_bytes()))


@pytest.mark.parametrize("plain", [["train-images"], ["t10k-labels", "train-labels"], ["train", "t10k"]])
def test_files_may_be_plain_or_compressed(mnist, plain):
    for path in list(mnist.iterdir()):
        if path.name.startswith(tuple(plain)):
            path.with_suffix("").write_bytes(unpack(path))
            path.unlink()
    got, expected = data.load("mnist", mnist.parents[1]), data.load("mnist", SAMPLES)
    for part in ("train", "validation", "test"):
        assert rows(getattr(got, part)) == rows(getattr(expected, part))


def test_nothing_is_written_beside_the_files(mnist):
    before = sorted(mnist.parents[1].rglob("*"))
    data.load("mnist", mnist.parents[1], download=True)
    assert sorted(mnist.parents[1].rglob("*")) == before


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
HEADER = struct.pack(">IIII", 0x803, 300, 28, 28)
DAMAGE = {
    "magic": (IMAGES, lambda c: b"\0\0\x09\x03" + c[4:], "is not an idx file of N×28×28 bytes"),
    "axes": (IMAGES, lambda c: b"\0\0\x08\x01" + c[4:], "is not an idx file of N×28×28 bytes"),
    "size": (IMAGES, lambda c: struct.pack(">IIII", 0x803, 300, 14, 56) + c[16:], "is not an idx file of N×28×28 bytes"),
    "empty": (IMAGES, lambda c: b"", "is not an idx file"),
    "header-only": (IMAGES, lambda c: c[:11], "is not an idx file"),
    "no-images": (IMAGES, lambda c: struct.pack(">IIII", 0x803, 0, 28, 28), "is not an idx file"),
    "short": (IMAGES, lambda c: c[:-1], "holds only 235199 bytes of data, its header says 235200"),
    "long": (IMAGES, lambda c: c + b"\0", "holds more bytes of data, its header says 235200"),
    "fewer-labels": (LABELS, lambda c: struct.pack(">II", 0x801, 299) + c[8:-1], "holds 300 images, .* holds 299 labels"),
    "label-range": (LABELS, lambda c: c[:-1] + b"\x0a", "holds label 10; labels go from 0 to 9"),
    "images-as-labels": (LABELS, lambda c: HEADER + bytes(300 * 784), "is not an idx file of N bytes"),
}


@pytest.mark.parametrize("case", DAMAGE)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gz"])
def test_damaged_idx_files(mnist, case, compressed):
    name, change, message = DAMAGE[case]
    path = mnist / f"{name}.gz"
    content = bytes(change(unpack(path)))
    (path if compressed else mnist / name).write_bytes(gzip.compress(content) if compressed else content)
    with fails(message):
        data.load("mnist", mnist.parents[1])


@pytest.mark.parametrize(
    "change", [lambda c: c[: len(c) // 2], lambda c: b"no gzip" + c, lambda c: c[:500] + bytes(9) + c[509:]]
)
def test_damaged_gz(mnist, change):
    path = mnist / f"{IMAGES}.gz"
    path.write_bytes(change(path.read_bytes()))
    with fails(f"(cannot read )?{re.escape(str(path))}.*; fetch it again"):
        data.load("mnist", mnist.parents[1])


@pytest.mark.parametrize(
    ("name", "looked"),
    [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw"), ("cifar10", "cifar-10-batches-py or .*cifar10/cifar-10")],
)
def test_missing_sets_say_where_and_how(tmp_path, name, looked):
    with fails(f"no {name} in {re.escape(str(tmp_path))}/{looked}.*--data-root DIR.*--download"):
        data.load(name, tmp_path)


def test_a_single_missing_file_is_named(mnist):
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with fails(r"t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz is missing"):
        data.load("mnist", mnist.parents[1])


# Fetching


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_download_without_torchvision(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with fails(r"needs torchvision: pip install 'tsslbp\[vision\]'"):
        data.load(name, tmp_path, download=True)


@pytest.mark.parametrize(
    ("name", "torchvision_name", "folder"),
    [
        ("mnist", "MNIST", "MNIST"),
        ("fashion-mnist", "FashionMNIST", "FashionMNIST"),
        ("cifar10", "CIFAR10", "cifar-10-batches-py"),
    ],
)
def test_download_goes_through_torchvision(tmp_path, monkeypatch, name, torchvision_name, folder):
    datasets = pytest.importorskip("torchvision.datasets")
    calls = []

    def fetch(root, download):
        calls.append(root)
        assert download
        shutil.copytree(SAMPLES / folder, Path(root) / folder)

    monkeypatch.setattr(datasets, torchvision_name, fetch)
    first = data.load(name, tmp_path, download=True)
    second = data.load(name, tmp_path, download=True)
    assert calls == [str(tmp_path)], "what is there is not fetched again"
    assert rows(first.train) == rows(second.train) == rows(data.load(name, SAMPLES).train)


def test_a_batch_that_was_cut_off_is_fetched_again(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    whole, mine = SAMPLES / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py"
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, download: shutil.copytree(whole, mine, dirs_exist_ok=True))
    shutil.copytree(whole, mine)
    (mine / "test_batch").write_bytes((whole / "test_batch").read_bytes()[:-9])
    with fails("test_batch is not a CIFAR-10 batch .*; fetch it again"):
        data.load("cifar10", tmp_path)
    assert rows(data.load("cifar10", tmp_path, download=True).test) == rows(data.load("cifar10", SAMPLES).test)


@pytest.mark.parametrize("error", [RuntimeError("Error downloading:\nTried a\nTried b"), OSError("no route"), EOFError("cut")])
def test_failed_download_is_one_line(tmp_path, monkeypatch, error):
    datasets = pytest.importorskip("torchvision.datasets")

    def fetch(root, download):
        raise error

    monkeypatch.setattr(datasets, "MNIST", fetch)
    with fails(f"mnist could not be fetched into {re.escape(str(tmp_path))}: {' '.join(str(error).split())}"):
        data.load("mnist", tmp_path, download=True)


# CIFAR-10's files


@pytest.fixture
def cifar(tmp_path):
    """A folder of its own to damage, with the batches of the CIFAR-10 sample."""
    return Path(shutil.copytree(SAMPLES / "cifar-10-batches-py", tmp_path / "cifar-10-batches-py"))


def original_pickle(x: np.ndarray, labels: list[int]) -> bytes:
    """The byte stream Python 2 wrote: protocol 2, byte strings, NumPy's old module names."""

    def text(s: bytes) -> bytes:
        return b"U" + bytes([len(s)]) + s

    raw = x.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"(K\x01M" + struct.pack("<H", len(x)) + b"M\x00\x0c\x86" + dtype
    array += b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    entries = text(b"data") + array + text(b"labels") + b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    entries += text(b"batch_label") + text(b"training batch 1 of 5") + text(b"filenames") + b"](" + text(b"a.png") + b"e"
    return b"\x80\x02}(" + entries + b"u."


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 3072), dtype=np.uint8), rng.integers(0, 10, 12).tolist()


def test_hand_made_original_pickle_is_what_numpy_itself_reads(batch):
    content = pickle.loads(original_pickle(*batch), encoding="bytes")
    assert np.array_equal(content[b"data"], batch[0])
    assert content[b"labels"] == batch[1]


WRITERS = {
    "original": original_pickle,
    **{f"protocol-{p}": lambda x, y, p=p: pickle.dumps({"data": x, "labels": y}, protocol=p) for p in range(6)},
    "byte-keys": lambda x, y: pickle.dumps({b"data": x, b"labels": y}),
    "fortran": lambda x, y: pickle.dumps({"data": np.asfortranarray(x), "labels": y}),
    "fortran-5": lambda x, y: pickle.dumps({"data": np.asfortranarray(x), "labels": y}, protocol=5),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_way_to_pickle_a_batch_is_read(cifar, batch, writer):
    x, labels = batch
    (cifar / "test_batch").write_bytes(WRITERS[writer](x, labels))
    test = data.load("cifar10", cifar.parent).test
    assert np.array_equal(test.x.numpy().reshape(12, 3072), x)
    assert test.y.tolist() == labels


def test_cifar_may_lie_in_a_folder_of_its_own(cifar):
    shutil.copytree(cifar, cifar.parent / "data" / "cifar10" / cifar.name)
    assert rows(data.load("cifar10", cifar.parent / "data").train) == rows(data.load("cifar10", SAMPLES).train)


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_command_is_refused(cifar):
    victim = cifar / "victim"
    content = pickle.dumps({"data": Call(os.system, f"touch {victim}"), "labels": []})
    pickle.loads(content)
    assert victim.exists(), "the pickle is dangerous: plain unpickling runs it"
    victim.unlink()
    (cifar / "data_batch_3").write_bytes(content)
    with fails(r"data_batch_3 asks to run \w+\.system"):
        data.load("cifar10", cifar.parent)
    assert not victim.exists()


@pytest.mark.parametrize(
    "function", [builtins.eval, builtins.getattr, builtins.__import__, codecs.decode, np.load, np.zeros, np.frombuffer]
)
def test_functions_outside_the_list_are_refused(cifar, function):
    (cifar / "test_batch").write_bytes(pickle.dumps({"data": Call(function, "1"), "labels": []}))
    with fails(r"test_batch asks to run .*" + function.__name__):
        data.load("cifar10", cifar.parent)


CORRUPT = {
    "empty": b"",
    "garbage": b"\x80\x04hello",
    "message-of-two-lines": b"Pabc\n.",
    "list": pickle.dumps([1, 2]),
    "no-data": pickle.dumps({"labels": [1]}),
    "data-is-text": pickle.dumps({"data": "x", "labels": [1]}),
    "object-array": pickle.dumps({"data": np.array([None]), "labels": [1]}),
    "stand-in-as-data": b"\x80\x02}(X\x04\x00\x00\x00datacnumpy\nndarray\nX\x06\x00\x00\x00labels]u.",
    "stand-in-changed": b"\x80\x02cnumpy\nndarray\n}X\x04\x00\x00\x00evilK\x01sb.",
    "too-many-labels": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}),
    "label-10": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}),
    "label--1": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}),
    "label-text": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}),
    "label-true": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}),
    "label-array": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": np.zeros(1, np.uint8)}),
    "label-1.5": pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1.5]}),
    "shape": pickle.dumps({"data": np.zeros((1, 3073), np.uint8), "labels": [1]}),
    "dims": pickle.dumps({"data": np.zeros((1, 3, 32, 32), np.uint8), "labels": [1]}),
    "dtype": pickle.dumps({"data": np.zeros((1, 3072), np.int64), "labels": [1]}),
    "no-images": pickle.dumps({"data": np.zeros((0, 3072), np.uint8), "labels": []}),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_batches(cifar, case):
    (cifar / "data_batch_5").write_bytes(CORRUPT[case])
    with fails(f"{re.escape(str(cifar / 'data_batch_5'))} .*; fetch it again"):
        data.load("cifar10", cifar.parent)
    assert not hasattr(images._Part, "evil")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo number 2147483647"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.", "expected 8589934592 bytes"),
    ],
    ids=["memo", "array"],
)
def test_sizes_beyond_the_file_are_refused_before_memory_is_reserved(cifar, content, reason):
    (cifar / "test_batch").write_bytes(content)
    with fails(f"test_batch is not a CIFAR-10 batch .*{reason}.*; fetch it again"):
        data.load("cifar10", cifar.parent)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 6000), byte=st.integers(0, 255))
def test_no_damage_escapes_as_another_error(tmp_path_factory, batch, cut, byte):
    x, labels = batch
    content = bytearray(original_pickle(x[:2], labels[:2]))
    position = cut % len(content)
    content[position] = byte
    path = tmp_path_factory.mktemp("batch") / "test_batch"
    for damaged in (content, content[:position]):
        path.write_bytes(damaged)
        try:
            images._cifar_batch(path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert len(damaged) == len(content)


# Own files


def own(x: np.ndarray, classes: int = 2) -> dict[str, np.ndarray]:
    return {"x": x, "y": np.arange(len(x)) % classes}


SHAPES = {
    "vectors": ((40, 6), False, (6,), None),
    "images": ((40, 2, 5, 4), False, (2, 5, 4), None),
    "vector-sequence": ((40, 7, 6), True, (6,), 7),
    "image-sequence": ((40, 7, 2, 5, 4), True, (2, 5, 4), 7),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int64, np.float16, np.float32, np.float64, ">f8"])
def test_own_file(tmp_path, kind, dtype):
    shape, sequence, sample_shape, time_steps = SHAPES[kind]
    x = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 200, shape).astype(dtype)
    (np.savez_compressed if dtype is np.uint8 else np.savez)(tmp_path / "mine.npz", **own(x))
    dataset = data.load(str(tmp_path / "mine.npz"), Path("nowhere"))
    assert_sound(dataset)
    assert dataset.name == "mine"
    assert dataset.classes == ("0", "1")
    assert (dataset.sequence, dataset.sample_shape, dataset.time_steps) == (sequence, sample_shape, time_steps)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [29, 3, 8]
    whole = dtype is np.uint8 or (dtype is np.bool_ and kind != "vectors")
    assert dataset.train.x.dtype == (torch.uint8 if whole else torch.float32)
    stored = Split(torch.tensor(x.astype(np.float32)).to(dataset.train.x.dtype), torch.tensor(own(x)["y"]))
    assert rows(dataset.train, dataset.validation, dataset.test) == rows(stored)

    norm, train = dataset.normalisation, dataset.train.x
    if sequence and dtype in (np.uint8, np.bool_):
        assert norm == Normalisation(1, (0.0,), (1.0,))
        assert torch.equal(norm.normalise(train), train.float())
        return
    assert norm.scale == (255 if dtype is np.uint8 else 1)
    bytes_laid_flat = kind == "vectors" and train.dtype == torch.uint8
    assert len(norm.mean) == len(norm.std) == (1 if bytes_laid_flat else sample_shape[0])
    channel = (0, 1) if bytes_laid_flat else {2: 0, 3: (0, 1), 4: (0, 2, 3), 5: (0, 1, 3, 4)}[train.dim()]
    std, mean = torch.std_mean(norm.normalise(train), channel, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones_like(std), atol=1e-5, rtol=0)


def test_features_that_do_not_vary_are_only_centred(tmp_path):
    x = np.random.default_rng(0).normal(5, 2, (30, 3))
    x[:, 0], x[:, 1] = 0, 0.1
    dataset = data.load(save(tmp_path / "f.npz", **own(x)), Path())
    assert dataset.normalisation.std[:2] == (1, 1)
    got = dataset.normalisation.normalise(dataset.test.x)
    assert got[:, :2].abs().max() < 1e-6
    assert got[:, 2].abs().max() > 0.5


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=3, max_size=12),
    offset=st.floats(-1e3, 1e3),
    padding=st.sampled_from([0.0, 1e6]),
    shape=st.sampled_from([(3,), (3, 2, 2)]),
)
def test_sequences_are_normalised_by_channel_and_padding_does_not_count(lengths, offset, padding, shape):
    x = torch.randn(len(lengths), 9, *shape, generator=torch.Generator().manual_seed(len(lengths))) * 7 + offset
    inside = torch.arange(9) < torch.tensor(lengths)[:, None]
    x[:, :, 1] = 0.1  # a constant channel
    x[~inside] = padding
    norm = fitted(Split(x, torch.zeros(len(lengths), dtype=torch.int64), torch.tensor(lengths)), sequence=True)
    assert norm.std[1] == 1
    got = norm.normalise(x)[inside].movedim(1, 0).flatten(1)
    torch.testing.assert_close(got.mean(1), torch.zeros(3), atol=1e-3, rtol=0)
    if len(lengths) > 3:
        torch.testing.assert_close(got.std(1, correction=0), torch.tensor([1.0, 0.0, 1.0]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("shape", "dtype", "padded"),
    [
        ((20, 6), torch.float32, False),
        ((20, 6), torch.uint8, False),
        ((20, 3, 4, 5), torch.uint8, False),
        ((20, 4, 3), torch.float32, True),
        ((20, 4, 3, 2, 2), torch.float32, False),
    ],
    ids=["vectors", "bytes", "pictures", "series", "picture-sequences"],
)
def test_large_sets_are_summed_up_in_parts(shape, dtype, padded, monkeypatch):
    x = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    samples = Split(x, torch.zeros(20, dtype=torch.int64), torch.arange(20) % 4 + 1 if padded else None)
    whole = fitted(samples, len(shape) in (3, 5), 255)
    monkeypatch.setattr("tsslbp.data.sample_values.MANY", 40)
    monkeypatch.setattr(torch, "std_mean", None)
    parts = fitted(samples, len(shape) in (3, 5), 255)
    assert parts.scale == whole.scale
    assert parts.mean == pytest.approx(whole.mean)
    assert parts.std == pytest.approx(whole.std)


@pytest.mark.parametrize("most", [1, 15])
def test_sequences_of_spikes_and_counts_stay_as_they_are(most):
    x = torch.randint(0, most + 1, (20, 6, 4), generator=torch.Generator().manual_seed(0))
    x[0, 0, 0] = most
    plain, y = Normalisation(1, (0.0,), (1.0,)), torch.zeros(20, dtype=torch.int64)
    assert fitted(Split(x.float(), y), sequence=True) == plain
    assert fitted(Split((255 * (x > 0)).byte(), y), sequence=True) == plain
    for other in (x.float() + 0.5, x.float() - 1, x.float() * 20):
        assert fitted(Split(other, y), sequence=True) != plain


@pytest.mark.parametrize("kind", [torch.tensor, np.float32])
def test_a_normalisation_of_tensors_or_numpy_is_one_of_plain_numbers(kind):
    norm = Normalisation(kind(255.0), (kind(0.5),), [kind(0.25)])
    assert norm == Normalisation(255.0, (0.5,), (0.25,))
    assert {type(number) for number in (norm.scale, *norm.mean, *norm.std)} == {float}


def test_normalisation_has_not_seen_validation_and_test(tmp_path):
    x = np.arange(200, dtype=np.float64)[:, None] ** 2
    dataset = data.load(save(tmp_path / "f.npz", **own(x)), Path())
    assert dataset.normalisation.mean[0] == pytest.approx(float(dataset.train.x.double().mean()))
    assert dataset.normalisation.mean[0] != pytest.approx(float(x.mean()), rel=1e-4)


def test_own_test_part_and_class_names_are_used(tmp_path):
    x, x_test = np.random.default_rng(0).normal(size=(2, 12, 4))
    arrays = own(x, 3) | {"x_test": x_test[:5], "y_test": np.array([0, 2, 2, 2, 0]), "classes": np.array(["cat", "dog", "Ä"])}
    dataset = data.load(save(tmp_path / "f.npz", **arrays), Path(), validation=6)
    assert dataset.classes == ("cat", "dog", "Ä")
    assert dataset.test.y.tolist() == [0, 2, 2, 2, 0]
    assert np.array_equal(dataset.test.x.numpy(), x_test[:5].astype(np.float32))
    assert (len(dataset.train), len(dataset.validation)) == (6, 6)
    assert rows(dataset.train, dataset.validation) == rows(Split(torch.tensor(x).float(), torch.tensor(arrays["y"])))


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(3, 30), min_size=2, max_size=10))
def test_three_samples_of_a_class_are_enough(tmp_path_factory, counts):
    y = np.repeat(np.arange(len(counts)), counts)
    path = tmp_path_factory.mktemp("own") / "f.npz"
    dataset = data.load(save(path, x=np.arange(len(y), dtype=np.uint8)[:, None], y=y), Path())
    assert_sound(dataset)
    assert dataset.train.y.unique().tolist() == list(range(len(counts)))


X, Y = np.zeros((12, 5)), np.arange(12) % 2
NAN, INF, HUGE = (np.where(np.eye(12, 5) > 0, value, 0) for value in (np.nan, -np.inf, 1e300))
WRONG = {
    "no-x": ({"y": Y}, "has no array 'x'"),
    "no-y": ({"x": X}, "has no array 'y'"),
    "no-x_test": ({"x": X, "y": Y, "y_test": Y}, "has no array 'x_test'"),
    "no-x_val": ({"x": X, "y": Y, "val_labels": Y}, "has no array 'x_val'"),
    "val-class": ({"x": X, "y": Y, "x_val": X, "y_val": Y + 1}, "y_val has class 2; there are classes 0 to 1"),
    "val-shape": ({"x": X, "y": Y, "x_val": X[:, :4], "y_val": Y}, r"samples of x_val are float64 \[4\]"),
    "same": ({"x": X, "y": Y, "train_images": X}, "arrays x and train_images mean the same; keep one of them"),
    "no-y_test": ({"x": X, "y": Y, "x_test": X}, "has no array 'y_test'"),
    "x-1d": ({"x": X[:, 0], "y": Y}, r"x has shape \[12\]; it must be \[N, F\]"),
    "x-6d": ({"x": X.reshape(12, 5, 1, 1, 1, 1), "y": Y}, r"x has shape \[12, 5, 1, 1, 1, 1\]"),
    "x-empty": ({"x": X[:0], "y": Y[:0]}, r"x has shape \[0, 5\]"),
    "x-no-features": ({"x": X[:, :0], "y": Y}, r"x has shape \[12, 0\]"),
    "x-text": ({"x": X.astype(str), "y": Y}, "x is <U32; it must hold real numbers, which x.astype"),
    "x-complex": ({"x": X.astype(complex), "y": Y}, "x is complex128; it must hold real numbers"),
    "x-objects": ({"x": X.astype(object), "y": Y}, "cannot read .*x.npy holds Python objects; pad sequences"),
    "y-objects": ({"x": X, "y": Y.astype(object)}, r"y.npy holds Python objects; store texts as numpy.array\(y, dtype='U'\)"),
    "labels-objects": (
        {"x": X, "train_labels": Y.astype(object)},
        r"train_labels.npy holds Python objects; store texts as numpy.array\(train_labels, dtype='U'\)",
    ),
    "y-bytes": ({"x": X, "y": Y.astype("S1")}, r"it has bytes, of which astype\(str\) makes texts"),
    "lengths": ({"x": X, "y": Y[:-1]}, r"y has shape \[11\]; x has 12 samples, so it must be \[12\]"),
    "one-hot": ({"x": X, "y": np.eye(2)[Y]}, r"y has shape \[12, 2\]; .* so it must be \[12\]"),
    "nan": ({"x": NAN, "y": Y}, "samples hold NaN, infinity"),
    "inf": ({"x": INF, "y": Y}, "samples hold NaN, infinity"),
    "beyond-float32": ({"x": HUGE, "y": Y}, "numbers beyond float32"),
    "nan-count": ({"x": NAN, "y": Y}, r": 5 in all, the first in sample 0, feature 0; remove or replace them"),
    "test-nan": ({"x": X, "y": Y, "x_test": NAN, "y_test": Y}, "samples hold NaN"),
    "y-float": ({"x": X, "y": Y + 0.5}, "y must hold classes, integers from 0 or texts; it has 0.5 in sample 0; correct it"),
    "y-nan": ({"x": X, "y": np.where(Y, np.nan, 0)}, "it has nan in sample 1; correct it, or leave the sample out"),
    "y-inf": ({"x": X, "y": np.where(Y, np.inf, 0)}, "y must hold classes"),
    "y-negative": ({"x": X, "y": Y - 1}, "y must hold classes, integers from 0 or texts; it has -1 in sample 0"),
    "y-from-2": ({"x": X, "y": Y + 2}, "no sample of classes 0, 1"),
    "y-gap": ({"x": X, "y": Y * 2}, "no sample of class 1"),
    "y-beyond-int64": ({"x": X, "y": np.where(Y, np.uint64(2**64 - 1), np.uint64(0))}, "no sample of class 1"),
    "scarce": ({"x": X, "y": np.array([0, 1] + [0] * 10)}, "class 1 has 1 sample; training and test need 2 of each class; add"),
    "one-class": ({"x": X, "y": Y * 0}, "all samples are of class 0; a classifier needs at least two classes"),
    "test-shape": (
        {"x": X, "y": Y, "x_test": X[:, :4], "y_test": Y},
        r"samples of x_test are float64 \[4\], those of x float64 \[5\]",
    ),
    "test-dtype": ({"x": X, "y": Y, "x_test": X.astype(np.uint8), "y_test": Y}, r"samples of x_test are uint8 \[5\]"),
    "test-class": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test has class 2; there are classes 0 to 1"),
    "test-y-negative": ({"x": X, "y": Y, "x_test": X, "y_test": Y - 1}, "y_test must hold classes, integers from 0"),
    "names-few": ({"x": X, "y": Y, "classes": np.array(["a"])}, "y has class 1, but classes names only 1"),
    "names-many": ({"x": X, "y": Y, "classes": np.array(["a", "b", "c"])}, "no sample of class 2"),
    "names-numbers": ({"x": X, "y": Y, "classes": np.arange(2)}, "classes is int64 .* it must be a list of strings"),
    "names-twice": ({"x": X, "y": Y, "classes": np.array(["a", "a"])}, "class name 'a' stands twice"),
    "names-control": ({"x": X, "y": Y, "classes": np.array(["a", "b\0c"])}, "class name .* cannot be printed"),
    "names-surrogate": ({"x": X, "y": Y, "classes": np.array(["a", "\ud800"])}, "class name .* cannot be printed"),
    "names-empty": ({"x": X, "y": Y, "classes": np.array(["a", ""])}, "class name '' cannot be printed"),
    "unknown-key": (
        {"x": X, "y": Y, "class_names": np.array(["a", "b"])},
        "unknown array .*class_names.*; did you",
    ),
    "names-2d": ({"x": X, "y": Y, "classes": np.array([["a", "b"]])}, r"classes is <U1 of shape \[1, 2\]"),
}


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y", "x_val", "y_val", "x_test", "y_test"),
        ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test"),  # of Keras
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),  # of MedMNIST
    ],
)
def test_parts_have_the_names_that_other_programs_write(tmp_path, names):
    labels = Y[:, None]  # a column, as there
    values = (X, labels, X[:4] + 1, labels[:4], X[:6] + 2, labels[:6])
    dataset = data.load(save(tmp_path / "parts.npz", **dict(zip(names, values, strict=True))), Path())
    assert [len(part) for part in dataset.parts.values()] == [12, 4, 6]
    assert dataset.tested_on == "your x_test"
    for part, x, y in zip(dataset.parts.values(), values[::2], values[1::2], strict=True):
        assert torch.equal(part.x, torch.from_numpy(x.astype(np.float32)))
        assert part.y.tolist() == y[:, 0].tolist()
    with fails("--validation is 3; .* has 4 validation samples of its own: leave it out"):
        data.load(str(tmp_path / "parts.npz"), Path(), validation=3)


@pytest.mark.parametrize("names", [(1, 2), (-1, 1), (1.0, 2.0)])
def test_classes_that_do_not_count_from_0_are_names(tmp_path, names):
    y = np.array(names)[Y]
    dataset = data.load(save(tmp_path / "f.npz", x=X, y=y, x_test=X, y_test=y[:, None]), Path())
    assert dataset.classes == tuple(str(int(name)) for name in names)
    assert dataset.test.y.tolist() == Y.tolist()
    with fails("y_test has class 0; those of the training samples are"):
        data.of_arrays(X, y, X, Y)


def test_validation_samples_in_python():
    dataset = data.of_arrays(X, Y, x_val=X[:4] + 1, y_val=Y[:4])
    assert dataset.validation.y.tolist() == Y[:4].tolist()
    assert len(dataset.train) + len(dataset.test) == 12


def test_a_class_far_beyond_the_others_costs_no_memory():
    with fails("no sample of classes 2, 3, 4, 5, 6 ...; number the classes 0, 1, 2, ... without gaps"):
        data.of_arrays(X, np.where(Y == 1, 2**31 - 2, Y) + (np.arange(len(Y)) == 2))


def test_masked_arrays_are_refused_unless_nothing_is_masked():
    hidden = np.ma.array(X, mask=X[0, 0] == X)
    with fails(r"x is a masked array; fill what is masked, as with x.filled\(0\), or leave it out"):
        data.of_arrays(hidden, Y)
    assert torch.equal(data.of_arrays(np.ma.array(X), Y).train.x, data.of_arrays(X, Y).train.x)


def test_classes_of_single_samples_may_be_texts():
    pairs = [(torch.rand(4), ("cat", "dog")[number % 2]) for number in range(30)]
    assert data.of_torch(pairs).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": scipy.sparse.csr_matrix(X)}, r"x is a sparse matrix; give x.toarray\(\)"),
        ({"x": Path("a.csv")}, "x is of type .*Path; give an array, a tensor or a list; tsslbp.data.load reads files"),
        ({"x": {"a": 1}}, "x is of type dict; give an array, a tensor or a list"),
        ({"x": np.array([np.ones(3), np.ones(4)] * 6, dtype=object)}, r"shape \[12\]; .*; pad sequences of different lengths"),
        (
            {"y": ["a", "b", float("nan")] * 4},
            "integers from 0 or texts; it has nan in sample 2; correct it, or leave the sample",
        ),
        (
            {"y": np.array(["a", "b", None] * 4)},
            "integers from 0 or texts; it has None in sample 2; correct it, or leave the sam",
        ),
        ({"y": [0, 1, 1.5, 1] * 3}, "integers from 0 or texts; it has 1.5 in sample 2"),
        ({"y": [0, 1, 2, 7] * 3, "classes": "ab"}, "classes is of type str; give a list of names"),
        ({"y": [0, 1, 2, 7] * 3, "classes": 2}, "classes is of type int; give a list of names"),
        (
            {"y": [0, 1, 2, 7] * 3, "classes": ["a", "b"]},
            "y has class 7, but classes names only 2; name every class, in the order",
        ),
        ({"x_test": X}, "has no array 'y_test'; it needs both x_test and y_test"),
    ],
)
def test_what_is_no_array_of_samples_or_classes(arrays, said):
    with fails(said):
        data.of_arrays(**{"x": X, "y": Y} | arrays)


def test_the_objects_of_a_table_of_several_types_are_taken_if_they_are_numbers():
    table = np.arange(24.0).reshape(12, 2).astype(object)
    table[:, 1] = np.arange(12) % 3 == 0
    numbers = data.of_arrays(table.astype(float), np.arange(12) % 2)
    assert torch.equal(data.of_arrays(table, np.arange(12, dtype=object) % 2).train.x, numbers.train.x)
    table[3, 1], table[2, 0] = None, "red"
    with fails("x: feature 0 holds the text 'red' in sample 2; it must hold numbers: fill what is missing, and turn texts"):
        data.of_arrays(table, np.arange(12) % 2)
    table[2, 0] = 1
    frame = type("Frame", (), {"columns": ["size", "is big"], "__array__": lambda self, dtype=None, copy=None: table})()
    with fails("x: column is big holds None in sample 3"):
        data.of_arrays(frame, np.arange(12) % 2)


@pytest.mark.parametrize("kind", [bool, np.float16, np.float64])
def test_classes_may_be_whole_numbers_of_any_type(tmp_path, kind):
    dataset = data.load(save(tmp_path / "own.npz", x=X, y=Y.astype(kind)), Path())
    assert dataset.classes == ("0", "1")
    assert sorted(label for part in dataset.parts.values() for label in part.y.tolist()) == sorted(Y.tolist())


def test_labels_that_are_no_classes_do_not_keep_from_predicting(tmp_path):
    path = Path(save(tmp_path / "own.npz", x=X, y=Y + 0.5))
    split, *_ = readers.samples(path, ("0", "1"), (5,), labelled=False)
    assert split.y.tolist() == 12 * [-1]


@pytest.mark.parametrize("case", WRONG)
def test_wrong_own_files(tmp_path, case):
    arrays, message = WRONG[case]
    path = save(tmp_path / "wrong.npz", **arrays)
    with fails(message) as caught:
        data.load(path, Path())
    assert path in str(caught.value)


def npy(header: str, content: bytes = b"") -> bytes:
    """An array in a file, with a header that may say anything."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


@pytest.mark.parametrize(
    ("header", "content", "message"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (3, 1000000000000)}", b"", "says it is float64 .* and has 0 bytes"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (12, 5)}", bytes(61), "says it is uint8 .* and has 61 bytes"),
        ("{'descr': '|u1', 'fortran_order': False, 'shape': (-12, -5)}", bytes(60), "says it is uint8"),
        ("{'descr': '|u1', 'fortran_order': False}", b"", "cannot read"),
        ("__import__('os').abort()", b"", "cannot read"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"........", "holds Python objects"),
    ],
)
def test_headers_of_own_files_are_checked_before_anything_is_allocated(tmp_path, header, content, message):
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as archive:
        archive.writestr("x.npy", npy(header, content))
    with fails(message):
        data.load(str(tmp_path / "evil.npz"), Path())


def test_what_does_not_fit_in_memory_is_refused_before_it_is_read(tmp_path, mnist, monkeypatch):
    path = save(tmp_path / "large.npz", x=np.zeros((12, 2**20), np.uint8), y=Y)
    data.load(path, Path())
    monkeypatch.setattr("tsslbp.utils.machine._free_memory", lambda: 2**20)
    monkeypatch.setattr("numpy.load", lambda *args, **options: pytest.fail("it was read"))
    with fails(r"large.npz needs 0.0 GiB of memory, and 0.0 GiB are free"):
        data.load(path, Path())
    big = struct.pack(">IIII", 0x803, 2**32 - 1, 28, 28)
    (mnist / IMAGES).write_bytes(big)
    with fails(r"train-images-idx3-ubyte needs 3,136.0 GiB of memory"):
        data.load("mnist", mnist.parents[1])
    (mnist / IMAGES).unlink()
    (mnist / f"{IMAGES}.gz").write_bytes(gzip.compress(big))
    with fails(r"train-images-idx3-ubyte.gz needs 3,136.0 GiB of memory"):
        data.load("mnist", mnist.parents[1])


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_header_takes_no_more_memory_than_its_file_can_fill(mnist, ending):
    small = struct.pack(">II", 0x801, 2**28) + bytes(100)
    (mnist / f"{LABELS}.gz").unlink()
    (mnist / f"{LABELS}{ending}").write_bytes(gzip.compress(small) if ending else small)
    tracemalloc.start()
    with fails(f"{LABELS}{ending} holds only 100 bytes of data, its header says {2**28}"):
        data.load("mnist", mnist.parents[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def test_files_that_were_read_are_free_memory(monkeypatch, tmp_path):
    said = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 200\ninactive_file 600\nfile 700\n"}
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: said.get(path.name) or real(path, **how))
    assert machine._free_memory() == 700
    older = {"memory.max": None, "memory.limit_in_bytes": "1000\n", "memory.usage_in_bytes": "900\n"}
    said |= older | {"memory.stat": "inactive_file 1\ntotal_inactive_file 500\n"}
    assert machine._free_memory() == 600


@pytest.mark.parametrize(("name", "amd"), [("AMD EPYC", True), ("AMD64", False), ("Intel(R) Xeon(R) Processor", False)])
def test_a_processor_that_windows_calls_amd64_may_be_anyones(monkeypatch, name, amd):
    monkeypatch.setattr(machine, "processor", lambda: name)
    assert machine.is_amd() == amd


def test_free_memory_is_what_the_system_says():
    free = machine._free_memory()
    assert free is None or 0 < free < 2**50
    machine.need_memory(1, "a byte")


def test_own_file_missing(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path / "folder.npz"):
        (tmp_path / "folder.npz").mkdir(exist_ok=True)
        with fails(f"no data file {re.escape(str(path))}"):
            data.load(str(path), Path())


def test_not_an_npz(tmp_path):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, x=np.random.default_rng(0).normal(size=(12, 500)), y=Y)
    whole = good.read_bytes()
    single = tmp_path / "single.npy"
    np.save(single, X)
    path = tmp_path / "bad.npz"
    for content in (b"", b"hello", single.read_bytes(), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with fails("is not an .npz file"):
            data.load(str(path), Path())
    path.write_bytes(whole[:1000] + bytes(100) + whole[1100:])
    with fails("cannot read"):
        data.load(str(path), Path())
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", "hello")
    with fails("cannot read|must hold|has no array"):
        data.load(str(path), Path())


def test_own_file_never_unpickles(tmp_path):
    path, victim = tmp_path / "evil.npz", tmp_path / "victim"
    np.savez(path, x=X, y=np.array([Call(os.system, f"touch {victim}")] * 12, dtype=object))
    with fails("cannot read"):
        data.load(str(path), Path())
    assert not victim.exists()


# Names


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mnits", "did you mean 'mnist'"),
        ("file.npx", "known: cifar10, delayed"),
        ("", "known: "),
        ("MNIST", "known: "),
    ],
)
def test_unknown_name(name, hint):
    with fails(f"unknown data set '{name}'; {hint}.*; nor is there a file or folder of that name"):
        data.load(name, SAMPLES)


def test_every_name_loads():
    for name in data.NAMES:
        assert data.load(name, SAMPLES).name == name


# Crop and flip


def keys(count, epoch=1):
    """Keys of the first samples of an epoch."""
    return prng.mix(0, epoch, torch.arange(count))


def shifted(image: torch.Tensor, down: int, right: int, flipped: bool) -> torch.Tensor:
    """The image moved, zeros moving in, then mirrored; pixel by pixel."""
    H, W = image.shape[1:]
    out = torch.zeros_like(image)
    for row in range(H):
        for column in range(W):
            if 0 <= row - down < H and 0 <= column - right < W:
                out[:, row, W - 1 - column if flipped else column] = image[:, row - down, column - right]
    return out


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 3, 7), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_crop_and_flip_gives_every_shift_and_flip_and_nothing_else(shape, dtype, padding):
    image = torch.randint(1, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = data.crop_and_flip(image.expand(1000, *shape), keys(1000), padding)
    assert (got.dtype, got.shape) == (dtype, (1000, *shape))
    moves = range(-padding, padding + 1)
    possible = {shifted(image, d, r, f).numpy().tobytes() for d in moves for r in moves for f in (False, True)}
    assert {x.numpy().tobytes() for x in got} == possible


def test_crop_and_flip_flips_half_and_shifts_evenly():
    image = torch.zeros(1, 9, 9)
    image[0, 4, 4] = 1  # the middle tells the shift
    image[0, 4, 5] = 2  # its neighbour tells the flip
    count = 20_000
    got = data.crop_and_flip(image.expand(count, 1, 9, 9), keys(count), 4)
    place = (got == 1).flatten(1).float().argmax(1)
    visible = (got == 1).flatten(1).any(1)
    assert visible.all()
    hits = torch.bincount(place, minlength=81) / count * 81
    assert (hits - 1).abs().max() < 0.3  # 81 places, 247 expected in each
    neighbour = (got == 2).flatten(1).float().argmax(1) - place
    inside = (got == 2).flatten(1).any(1)
    assert set(neighbour[inside].tolist()) == {-1, 1}
    assert float((neighbour[inside] == -1).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_crop_without_flip_only_shifts():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5)
    got = data.crop_and_flip(image.expand(200, 1, 5, 5), keys(200), 1, flip=False)
    moves = (-1, 0, 1)
    possible = {shifted(image, d, r, False).numpy().tobytes() for d in moves for r in moves}
    assert {x.numpy().tobytes() for x in got} == possible


def test_crop_and_flip_moves_each_image_on_its_own_and_all_its_channels_together():
    x = torch.rand(64, 1, 8, 8).expand(64, 3, 8, 8) * torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    before = x.clone()
    got = data.crop_and_flip(x, keys(64))
    assert torch.equal(got[:, 1], got[:, 0] * 2)
    assert torch.equal(got[:, 2], got[:, 0] * 4)
    assert torch.equal(x, before)
    same = data.crop_and_flip(x[:1].expand_as(x), keys(64))
    assert len({image.numpy().tobytes() for image in same}) > 30


def test_crop_and_flip_depends_on_the_keys_alone():
    x = torch.rand(16, 3, 8, 8)
    torch.manual_seed(1)
    first = data.crop_and_flip(x, keys(16))
    torch.manual_seed(2)
    assert torch.equal(data.crop_and_flip(x, keys(16)), first)
    assert not torch.equal(data.crop_and_flip(x, keys(16, epoch=2)), first)
    in_parts = [data.crop_and_flip(part, key) for part, key in zip(x.split(5), keys(16).split(5), strict=True)]
    assert torch.equal(torch.cat(in_parts), first)


@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 3, 7), (2, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 9])
def test_cutout_replaces_a_square_around_every_pixel_and_nothing_else(shape, dtype, size):
    C, H, W = shape
    image = torch.randint(10, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(dtype)
    colour = torch.arange(1.0, C + 1)
    possible = set()
    for row in range(H):
        for column in range(W):
            wanted = image.clone()
            top, left = row - size // 2, column - size // 2
            wanted[:, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = colour.to(dtype).view(-1, 1, 1)
            possible.add(wanted.numpy().tobytes())
    before = image.clone()
    got = data.cutout(image.expand(1000, *shape), keys(1000), size, colour)
    assert (got.dtype, got.shape) == (dtype, (1000, *shape))
    assert torch.equal(image, before)
    assert {x.numpy().tobytes() for x in got} == possible


def test_cutout_lies_evenly_and_apart_from_shifts():
    count, x = 20_000, torch.ones(1, 7, 5)
    hit = (data.cutout(x.expand(count, 1, 7, 5), keys(count), 1) == 0).flatten(1)
    assert (hit.sum(0) / count * 35 - 1).abs().max() < 0.25  # 571 expected for each pixel
    x[0, 3, 2] = 2
    place = (data.crop_and_flip(x.expand(count, 1, 7, 5), keys(count), 1) == 2).flatten(1).float().argmax(1)
    together = torch.stack([hit[place == where].double().mean(0) for where in place.unique()])
    assert together.shape == (9, 35)
    assert (together * 35 - 1).abs().max() < 0.8  # 63 expected for each pixel and shift


@pytest.mark.parametrize(("change", "setting"), [(data.crop_and_flip, "padding"), (data.cutout, "size")])
def test_what_is_no_batch_of_images_is_refused(change, setting):
    with fails(rf"{change.__name__} takes images \[B, channels, height, width\]; got shape \[3, 8, 8\]"):
        change(torch.zeros(3, 8, 8), keys(3), 1)
    with fails(rf"{change.__name__} takes a key for each of 2 images; got shape \[3\]"):
        change(torch.zeros(2, 3, 8, 8), keys(3), 1)
    with fails(f"{setting} is -1"):
        change(torch.zeros(1, 3, 8, 8), keys(1), -1)


# The full sets


@needs_full
@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)])
def test_full_sets(name, mean, std):
    full = data.load(name, FULL)
    assert_sound(full)
    assert [len(s) for s in (full.train, full.validation, full.test)] == [55_000, 5_000, 10_000]
    pixels = torch.cat([full.train.x, full.validation.x]).double() / 255
    assert float(pixels.mean()) == pytest.approx(mean, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(std, abs=5e-5)
    expected = torch.cat([full.train.y, full.validation.y]).bincount() * (5_000 / 60_000)
    assert (full.validation.y.bincount() - expected).abs().max() < 1
    held = set(rows(full.validation))
    shared = held.intersection(rows(full.train))
    assert len(shared) < 10, "the sets have next to no duplicates, so parts that overlap would share thousands"


@needs_full
def test_samples_are_the_first_images_of_the_full_set():
    sample, full = data.load("mnist", SAMPLES), data.load("mnist", FULL)
    assert torch.equal(sample.test.x, full.test.x[:100])
    assert set(rows(sample.train, sample.validation)) <= set(rows(full.train, full.validation))


@pytest.mark.slow
@pytest.mark.skipif(not (FULL / "cifar10").is_dir(), reason=f"the full sets are not in {FULL}")
def test_full_cifar10(tmp_path):
    subprocess.run([sys.executable, FULL / "cifar10" / "unpack_cifar10.py", tmp_path, "--py"], check=True)
    full, sample = data.load("cifar10", tmp_path), data.load("cifar10", SAMPLES)
    assert_sound(full)
    assert [len(s) for s in (full.train, full.validation, full.test)] == [45_000, 5_000, 10_000]
    assert full.validation.y.bincount().tolist() == [500] * 10
    pixels = torch.cat([full.train.x, full.validation.x]).double() / 255
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=1e-4, rtol=0)
    assert not set(rows(full.validation)) & set(rows(full.train))
    assert set(rows(sample.train, sample.validation)) <= set(rows(full.train, full.validation))
    assert set(rows(sample.test)) <= set(rows(full.test))
