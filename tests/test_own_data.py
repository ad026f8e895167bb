"""A user's own data: the readers, preparation that belongs to the model, predictions, and what every mistake says."""

import csv
import itertools
import json
import os
import re
import shutil
import struct
import wave
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from scipy.io import wavfile
from shared import fails
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from tsslbp import cli, data, metrics, report, training
from tsslbp.data import csv_table, readers, series
from tsslbp.data.audio import send_on_delta
from tsslbp.data.events import Events, of_fields, read_bin
from tsslbp.data.found import Wanted
from tsslbp.data.series import read_ts
from tsslbp.training.inputs import mean_of_bins
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError
from tsslbp.utils.spec import parse_spec

SAMPLES = Path(__file__).parent / "samples"


def series_npz(path: Path) -> str:
    rng = np.random.default_rng(0)
    x = 150 + 40 * rng.random((20, 6, 3))
    np.savez(path, x=x, y=np.arange(20) % 2)
    return str(path)


def tiny(folder: Path, **settings) -> TrainConfig:
    place = {"runs_dir": folder / "runs", "data": series_npz(folder / "sensor.npz")}
    return TrainConfig(**place, epochs=1, **settings)


def test_the_model_carries_the_normalisation_of_its_training_samples(tmp_path):
    folder, _ = training.train(tiny(tmp_path))
    model = training.load(folder)
    dataset = data.load(str(tmp_path / "sensor.npz"), Path())
    assert model.inputs.normalisation == dataset.normalisation
    x = model.inputs(dataset.train.x)
    assert x.shape == (6, len(dataset.train), 3)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("more", [{}, {"test_every": 1, "choose": "test"}])
def test_a_run_goes_on_where_its_data_have_moved_to(more, tmp_path):
    config = tiny(tmp_path, name="run", **more)
    folder, _ = training.train(config)
    moved = shutil.move(config.data, tmp_path / "elsewhere.npz")
    config = replace(config, resume=True, epochs=2)
    assert training.train(replace(config, data=str(moved)))[1]["epochs"] == 2
    assert TrainConfig.from_toml(folder / "config.toml").data == str(moved)
    report.write(folder)
    assert more or training.load(folder).data == str(moved)
    for name, message in (
        ("digits", "with other settings .data"),
        (f"image-folder:{tmp_path}", "(?:no folders|with other settings .data|no pictures)"),
    ):
        with fails(message):
            training.train(replace(config, data=name, network="5-2" if name != "digits" else "5-10"))
    stored = dict(np.load(moved))
    np.savez(tmp_path / "other.npz", **{**stored, "x": stored["x"] + 1})
    with fails("checkpoint .* is of other samples than .*other.npz has now; give it those it began with"):
        training.train(replace(config, data=str(tmp_path / "other.npz")))


@pytest.mark.parametrize(("rare", "said"), [(1, "mean of the accuracies of the classes, which have 1 to 3 samples: "), (2, "")])
def test_unequal_classes_are_also_averaged(rare, said, tmp_path, capsys):
    x, y = np.random.default_rng(0).random((23, 4)), np.arange(23) % 2
    x_test, y_test = x[: 3 + rare], np.array([0] * 3 + [1] * rare)
    path = tmp_path / "x.npz"
    np.savez(path, x=x, y=y, x_test=x_test + 0.01, y_test=y_test)
    run, _ = training.train(replace(tiny(tmp_path), data=str(path), network="5-2"))
    model = training.load(run)
    right = (model.answers(training.samples_to_test(model, None, tmp_path).split).numpy() == y_test).astype(float)
    capsys.readouterr()
    assert cli.main(["evaluate", str(run)]) in (0, None)
    out = capsys.readouterr().out
    assert out.count("mean of the accuracies") == bool(said)
    if said:
        assert f"{said}{50 * (right[:3].mean() + right[3:].mean()):.2f} %" in out


def test_normalise_none_leaves_values_as_stored(tmp_path):
    folder, _ = training.train(tiny(tmp_path, normalise="none"))
    dataset = data.load(str(tmp_path / "sensor.npz"), Path())
    assert torch.equal(training.load(folder).inputs(dataset.test.x), dataset.test.x.transpose(0, 1))


def test_normalise_none_without_effect_is_refused(tmp_path):
    path = tmp_path / "spikes.npz"
    np.savez(path, x=np.zeros((20, 6, 3), np.uint8), y=np.arange(20) % 2)
    with fails("--normalise none has no effect: spikes is not normalised"):
        training.train(TrainConfig(data=str(path), normalise="none", runs_dir=tmp_path / "runs"))
    np.savez(path, x=np.random.default_rng(0).random((20, 3)), y=np.arange(20) % 2)
    with fails("--normalise none has no effect: what --encoding poisson takes is never normalised"):
        training.train(TrainConfig(data=str(path), normalise="none", encoding="poisson", runs_dir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


class Summary(training.Progress):
    """Stops a training before its first step, and keeps the lines about it."""

    def prepared(self, lines: list[str]) -> None:
        self.lines = lines
        raise training.Interrupted


def summary(folder: Path, **settings) -> list[str]:
    """What a training says of itself before it begins."""
    with pytest.raises(training.Interrupted):
        training.train(TrainConfig(runs_dir=folder / "runs", **settings), progress := Summary(), given=set(settings))
    return progress.lines


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoding": "poisson"}, "values as they are stored"),
        ({"normalise": "none"}, "values as they are stored (--normalise)"),
        ({}, "normalised by feature (--normalise none turns it off)"),
    ],
)
def test_the_summary_says_how_values_enter(settings, said, tmp_path):
    np.savez(tmp_path / "rates.npz", x=np.random.default_rng(0).random((20, 3)), y=np.arange(20) % 2)
    assert f"input     {said}" in summary(tmp_path, data=str(tmp_path / "rates.npz"), **settings)


# The readers, each on a small real set


def iris(path: Path) -> str:
    from sklearn.datasets import load_iris

    table = load_iris()
    rows = [[*map(str, x), table.target_names[y]] for x, y in zip(table.data, table.target, strict=True)]
    path.write_text("\n".join(",".join(row) for row in [["a", "b", "c", "d", "species"], *rows]) + "\n")
    return str(path)


def digit_pictures(folder: Path) -> str:
    """Ten pictures of each of three digits, one folder each."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    for digit in range(3):
        (folder / f"digit {digit}").mkdir(parents=True)
        for number, pixels in enumerate(x[y == digit][:10]):
            Image.fromarray((pixels.reshape(8, 8) * 15).astype(np.uint8)).save(folder / f"digit {digit}/{number}.png")
    return str(folder)


def spoken(folder: Path) -> str:
    """The recordings of the samples, in a folder for each digit."""
    with zipfile.ZipFile(SAMPLES / "FSDD/recordings.zip") as archive:
        for name in archive.namelist():
            target = folder / Path(name).name[0] / Path(name).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    return str(folder)


def vowels_txt(folder: Path) -> str:
    """One channel of the vowels in the layout of the UCR archive, shorter ones padded with NaN."""
    for part in ("TRAIN", "TEST"):
        series = read_ts(SAMPLES / f"TimeSeries/JapaneseVowels_{part}.ts")
        rows = [[label, *values[:, 0].tolist(), *["NaN"] * (29 - len(values))] for values, label in series]
        (folder / f"V_{part}.txt").write_text("\n".join("  ".join(f"{cell}" for cell in row) for row in rows))
    return str(folder / "V_TRAIN.txt")


def digits_npz(path: Path) -> str:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    np.savez(path, x=(x.reshape(-1, 8, 8) * 15).astype(np.uint8)[:200], y=y[:200].astype(str))
    return str(path)


EACH = {
    "npz": (lambda at: digits_npz(at / "d.npz"), "pictures", (1, 8, 8), None, [144, 16, 40], 10, "a held-out fifth"),
    "csv": (lambda at: iris(at / "iris.csv"), "vectors", (4,), None, [108, 12, 30], 3, "a held-out fifth"),
    "ts": (
        lambda at: str(SAMPLES / "TimeSeries/JapaneseVowels_TRAIN.ts"),
        *("series", (12,), 26, [9, 9, 9], 9, "JapaneseVowels_TEST.ts"),
    ),
    "txt": (lambda at: vowels_txt(at), "series", (1,), 26, [9, 9, 9], 9, "V_TEST.txt"),
    "pictures": (lambda at: digit_pictures(at / "p"), "pictures", (1, 8, 8), None, [21, 3, 6], 3, "a held-out fifth"),
    "wav": (lambda at: spoken(at / "w"), "speech", (40,), 50, [15, 0, 10], 10, "a held-out fifth"),
    "events": (lambda at: str(SAMPLES / "NMNIST"), "events", (2, 34, 34), 30, [10, 10, 10], 10, "the folder Test"),
}


@pytest.mark.parametrize("name", EACH)
@pytest.mark.painted
def test_every_kind_is_read_trained_evaluated_and_predicted(tmp_path, capsys, name):
    make, kind, shape, steps, sizes, classes, tested_on = EACH[name]
    path = make(tmp_path)
    dataset = data.load(path, Path())
    assert (dataset.kind, dataset.sample_shape, dataset.time_steps, dataset.tested_on) == (kind, shape, steps, tested_on)
    assert [len(part) for part in dataset.parts.values()] == sizes
    assert len(dataset.classes) == classes
    assert set(dataset.train.y.tolist()) == set(range(classes))

    run, out = tmp_path / "runs/own", tmp_path / "out.csv"
    assert cli.main(["train", "--data", path, "--epochs", "1", "--runs-dir", str(run.parent), "--name", "own"]) == 0
    said = capsys.readouterr().err
    for flag in (
        "--network",
        "--rule",
        "--loss",
        "--epochs",
        "--learning-rate",
        "--time-steps" if steps != 26 else "--filters",
    ):
        assert f"({flag}" in said
    assert f"{kind}, {sum(sizes):,} samples" in said
    assert tested_on in said
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["test_accuracy"] <= 100
    assert cli.main(["evaluate", str(run)]) == 0
    assert f" on {tested_on}, {sizes[2]} samples" in capsys.readouterr().out
    if steps == 26:  # padded, but not behind the filters
        assert cli.main(["evaluate", str(run), "--early-exit"]) == 0
    assert cli.main(["predict", str(run), path, "--out", str(out)]) == 0
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["sample", "class", "confidence", "step"]
    assert len(rows) == sum(sizes) - (sizes[2] if name in ("ts", "txt") else 0)
    model = training.load(run)
    assert {row["class"] for row in rows} <= {*model.classes, ""}
    if name in ("csv", "wav", "events"):  # as they are in memory
        split, names, _ = readers.samples(Path(path), model.classes, model.sample_shape, model.inputs.rate)
        answers = metrics.decode(model.outputs(split.x, split.lengths)).tolist()
        assert [row["class"] for row in rows] == [model.classes[n] if n >= 0 else "" for n in answers]
        assert [row["sample"] for row in rows] == names


def test_a_classifier_may_learn_a_file_that_is_named_like_the_spike_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = iris(Path("spike-pattern-features.csv"))
    folder, final = training.train(TrainConfig(data=path, epochs=1))
    model = training.load(folder)
    assert not model.trains
    assert model.accuracy(data.load(path, Path()).test) == final["test_accuracy"]


def test_a_folder_stands_for_the_training_file_in_it():
    folder, file = (data.load(str(SAMPLES / name), Path()) for name in ("TimeSeries", "TimeSeries/JapaneseVowels_TRAIN.ts"))
    assert torch.equal(folder.train.x, file.train.x)
    for label in (True, False):
        with fails("TimeSeries holds JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts; give one of these files"):
            readers.samples(SAMPLES / "TimeSeries", file.classes, file.train.shape, labelled=label)


def test_what_macos_leaves_beside_a_training_file_is_passed_over(tmp_path):
    for part in ("TRAIN", "TEST"):
        shutil.copy(SAMPLES / f"TimeSeries/JapaneseVowels_{part}.ts", tmp_path / f"V_{part}.ts")
        (tmp_path / f"._V_{part}.ts").write_bytes(b"\0\5\26\7")
    assert data.load(str(tmp_path), Path()).tested_on == "V_TEST.ts"


@pytest.fixture(params=[torch.float64, torch.bfloat16])
def _another_default(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_another_default")
def test_samples_are_float32_whatever_pytorchs_default_is(tmp_path):
    for path in (str(SAMPLES / "TimeSeries"), spoken(tmp_path)):
        dataset = data.load(path, Path(), validation=0)
        assert {part.x.dtype for part in dataset.parts.values()} == {torch.float32}
        assert dataset.normalisation.normalise(dataset.test.x).dtype == torch.float32
    x = torch.tensor([[1001.0], [1004.0]], dtype=torch.float32)
    assert data.Normalisation(1, (1001.0,), (3.0,)).normalise(x).flatten().tolist() == pytest.approx([0, 1], abs=1e-3)


def test_series_of_the_archive_end_where_their_values_do(tmp_path):
    dataset = data.load(vowels_txt(tmp_path), Path())
    assert dataset.train.lengths.min() < dataset.train.lengths.max() == 26
    lengths = {len(values) for values, _ in read_ts(SAMPLES / "TimeSeries/JapaneseVowels_TRAIN.ts")}
    assert set(dataset.train.lengths.tolist()) <= lengths


def test_samples_to_predict_need_no_labels(tmp_path, capsys):
    path = Path(iris(tmp_path / "iris.csv"))
    train = ["train", "--data", str(path), "--epochs", "1", "--runs-dir", str(tmp_path), "--name", "own"]
    assert cli.main(train) == 0
    for name, text in {
        "bare": "\n".join(line.rsplit(",", 1)[0] for line in path.read_text().splitlines()[1:]),
        "named": path.read_text().replace("setosa", "unknown"),
    }.items():
        (tmp_path / f"{name}.csv").write_text(text)
    capsys.readouterr()
    tables = []
    for name in ("iris", "bare", "named"):
        assert (
            cli.main(["predict", str(tmp_path / "own"), str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / "p.csv")]) == 0
        )
        tables.append((tmp_path / "p.csv").read_text())
    assert tables[0] == tables[1] == tables[2]
    model = tmp_path / "own/model.safetensors"
    kept = model.read_bytes(), path.read_bytes()
    for given in (["predict", str(tmp_path / "own"), str(path), "--out"], ["export", str(tmp_path / "own"), "--format=onnx"]):
        for needed in (path, model):
            assert cli.main([*given, str(needed)]) == 2
            assert capsys.readouterr().err.startswith(f"tsslbp: {needed} ")
    assert (model.read_bytes(), path.read_bytes()) == kept
    assert cli.main(["predict", str(tmp_path / "own"), str(path)]) == 0
    assert "and 130 more; --out FILE.csv writes all" in capsys.readouterr().out
    assert cli.main(["predict", str(tmp_path / "own"), str(path), "--invert", "yes"]) == 2
    assert "--invert has no effect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("made", "steps"), [(iris, "none: one pass for every sample"), (series_npz, "none: one pass for the rates of")]
)
def test_an_ann_is_said_to_take_one_pass_and_no_rule(made, steps, tmp_path):
    path = made(tmp_path / ("data.csv" if made is iris else "data.npz"))
    said = "\n".join(summary(tmp_path, data=str(path), neuron="relu", epochs=1))
    assert f"steps     {steps}" in said
    assert "relu units (--neuron)" in said
    assert "rule" not in said
    assert "1 epoch (--epochs) of batches" in said


def test_folders_of_parts_are_respected(tmp_path):
    digit_pictures(tmp_path / "all")
    for part, numbers in {"Train": range(6), "val": range(6, 8), "test": range(8, 10)}.items():
        for folder in sorted((tmp_path / "all").iterdir()):
            (tmp_path / "parts" / part / folder.name).mkdir(parents=True)
            for number in numbers:
                shutil.copy(folder / f"{number}.png", tmp_path / "parts" / part / folder.name)
    dataset = data.load(str(tmp_path / "parts"), Path())
    assert [len(part) for part in dataset.parts.values()] == [18, 6, 6]
    assert (dataset.classes, dataset.tested_on) == (("digit 0", "digit 1", "digit 2"), "the folder test")
    left_out = data.load(str(tmp_path / "parts"), Path(), validation=0)
    assert len(left_out.validation) == 0
    assert "its 6 validation samples are left out (--validation 0)" in left_out.notes
    with fails("--validation is 4; .* has 6 validation samples of its own: leave it out"):
        data.load(str(tmp_path / "parts"), Path(), validation=4)
    x, y = np.random.default_rng(0).random((20, 3)), np.arange(20) % 2
    np.savez(tmp_path / "one.npz", x=x, y=y, x_val=x[:1], y_val=y[:1])
    with fails("--validation is 4; .* has 1 validation sample of its own: leave it out"):
        data.load(str(tmp_path / "one.npz"), Path(), validation=4)
    shutil.move(tmp_path / "parts/test/digit 2", tmp_path / "parts/test/digit 3")
    with fails("test has class digit 3; those of the training samples are digit 0, digit 1, digit 2"):
        data.load(str(tmp_path / "parts"), Path())


def test_features_of_a_model_may_be_named_like_classes(tmp_path):
    (tmp_path / "t.csv").write_text("y,Y\n1,2\n3,4\n")
    split, *_ = readers.samples(tmp_path / "t.csv", ("a", "b"), (2,), labelled=False, columns=("y", "Y"))
    assert split.x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
def test_folders_of_parts_that_leave_one_out_are_refused(tmp_path, prefix):
    for part in ("train", "val", "validation"):
        digit_pictures(tmp_path / part)
    with fails("has val and validation, which mean the same; make them one folder"):
        data.load(f"{prefix}{tmp_path}", Path())
    (tmp_path / "validation").rename(tmp_path / "more")
    with fails("more has the classes of train; name it val or test, or move it away"):
        data.load(f"{prefix}{tmp_path}", Path())
    (tmp_path / "more").rename(tmp_path / "validation")
    (tmp_path / "train").rename(tmp_path / "test")
    (tmp_path / "validation").rename(tmp_path / "not a part")
    assert "test" in data.load(f"{prefix}{tmp_path}", Path()).classes
    shutil.rmtree(tmp_path / "not a part")
    with fails("has no folder train beside test and val; add it"):  # or these would be the classes
        data.load(f"{prefix}{tmp_path}", Path())


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
@pytest.mark.parametrize("inside", ["", "/again"])
@pytest.mark.parametrize(("train", "test"), [("training_set", "test_set"), ("seg_train", "seg_test"), ("MyTrain", "myval")])
def test_folders_whose_names_have_the_words_of_parts_are_no_classes(tmp_path, train, test, inside, prefix):
    for part in (train, test):
        digit_pictures(tmp_path / f"{part}{inside}")
    first, second = sorted((train, test))
    with fails(f"{first} and {second}, which look like parts; name them train, val or test"):
        data.load(f"{prefix}{tmp_path}", Path())


def test_classes_may_have_the_words_of_parts_in_their_names(tmp_path):
    digit_pictures(tmp_path)
    for number, name in enumerate(("bullet train", "test tube", "oval")):
        (tmp_path / f"digit {number}").rename(tmp_path / name)
    assert data.load(str(tmp_path), Path()).classes == ("bullet train", "oval", "test tube")


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
def test_encoders_refuse_pictures_that_are_nearly_black(tmp_path, prefix):
    for path in sorted(Path(digit_pictures(tmp_path / "p")).rglob("*.png")):
        Image.fromarray((np.asarray(Image.open(path)) > 100).astype(np.uint8)).save(path)
    with fails("--encoding poisson takes values from 0 to 255; those of p run from 0 to 1: scale them to this range"):
        training.with_data(TrainConfig(data=f"{prefix}{tmp_path / 'p'}", encoding="poisson"))


def test_pictures_to_predict_may_be_in_any_folders(tmp_path):
    for part in ("val", "test"):
        digit_pictures(tmp_path / part)
    split, *_ = readers.samples(tmp_path, ("a", "b"), (1, 8, 8), labelled=False)
    assert split.y.tolist() == [-1] * 60


def sixteen_bits(folder, greatest, suffix, mode):
    """Twelve pictures of 16 bits, six of each of two classes."""
    rng, kind = np.random.default_rng(0), ">u2" if mode == "I;16B" else "<u2"
    for n in range(12):
        pixels = (rng.random((4, 4)) * greatest).astype(kind)
        pixels[0, 0] = greatest
        (folder / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.frombytes(mode, (4, 4), pixels.tobytes()).save(folder / "ab"[n % 2] / f"{n}{suffix}")
    return str(folder)


@pytest.mark.parametrize(("suffix", "mode"), [(".png", "I;16"), (".tif", "I;16"), (".tif", "I;16B")])
@pytest.mark.parametrize("greatest", [65535, 4095])
def test_pictures_of_16_bits(tmp_path, suffix, mode, greatest):
    dataset = data.load(sixteen_bits(tmp_path / "p", greatest, suffix, mode), Path())
    assert dataset.sample_shape == (1, 4, 4)
    assert dataset.train.select(torch.arange(1)).x.max() == greatest // 257
    said = "pictures of 16 bits hold values up to 4,095, of which 8 bits keep little; stretch them to 65,535"
    assert (said in dataset.notes) == (greatest < 65535)


def deep_png(pixels):
    """A PNG of 16 bits of ``pixels`` ``[H, W, 3]``, which Pillow does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", *pixels.shape[1::-1], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    made = (struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x)) for kind, x in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
@pytest.mark.parametrize("greatest", [65535, 4000])
def test_dark_colours_of_16_bits_are_told(tmp_path, prefix, greatest):
    pixels = np.random.default_rng(0).integers(greatest // 2, greatest + 1, (4, 4, 3))
    pixels[0, 0] = greatest
    for n in range(12):
        (folder := tmp_path / "p" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.png").write_bytes(deep_png(pixels))
    notes = data.load(f"{prefix}{tmp_path / 'p'}", Path()).notes
    said = "pictures of 16 bits hold values up to 4,095, of which 8 bits keep little; stretch them to 65,535"
    assert (said in notes) == (greatest < 65535)


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
def test_a_cut_picture_of_16_bits_is_named(tmp_path, prefix):
    path = Path(sixteen_bits(tmp_path / "p", 4095, ".tif", "I;16"))
    whole = (path / "a/0.tif").read_bytes()
    (path / "a/0.tif").write_bytes(whole[:-10])
    with fails("cannot read .*a/0.tif"):
        assert all(part.x.any() for part in data.load(f"{prefix}{path}", Path()).parts.values())


def test_pictures_of_16_bits_a_pixel_have_fewer_a_colour(tmp_path):
    for n in range(12):
        (folder := tmp_path / "p" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        sizes = (98, 0, 66, 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0)
        head = b"BM" + struct.pack("<IIIIiiHHIIiiII3I", *sizes, 0xF800, 0x07E0, 0x001F)
        (folder / f"{n}.bmp").write_bytes(head + struct.pack("<16H", *[0x0020] * 16))
    assert data.load(str(tmp_path / "p"), Path()).notes == ("pictures are in colour, 4 × 4 pixels",)


@pytest.mark.parametrize(("kind", "what"), [(np.float32, "real numbers"), (np.int32, "whole numbers of 32 bits")])
def test_pictures_whose_white_is_unknown_are_refused(tmp_path, kind, what):
    path = Path(digit_pictures(tmp_path / "p"))
    Image.fromarray(np.ones((8, 8), kind)).save(path / "digit 1/0.tif")
    with fails(f"digit 1/0.tif holds {what}, whose white is unknown; save it with 8 or 16 bits a pixel"):
        data.load(str(path), Path())


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
def test_a_picture_is_read_by_no_other_program_whatever_is_in_it(tmp_path, monkeypatch, capsys, prefix):
    """Pillow knows EPS by its content, and has Ghostscript draw it."""
    for number in range(12):
        path = tmp_path / f"pictures/{'ab'[number % 2]}/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    Image.new("RGB", (4, 4)).save(path, format="EPS")
    drawn = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: drawn.append(arguments))
    given = ["--network", "2", "--epochs", "1", "--runs-dir", str(tmp_path), *["--workers", "0"][: 2 * bool(prefix)]]
    code = cli.main(["train", "--data", f"{prefix}{tmp_path / 'pictures'}", *given])
    assert (code, drawn) == (2, [])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"tsslbp: cannot read {path} as an image (cannot identify image file")


TURNED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x.swapaxes(0, 1), 2),
    8: np.rot90,
}
"""What Exif's orientation asks for."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_pictures_are_turned_as_their_camera_was(orientation, suffix, options, colours, tmp_path):
    camera = Image.Exif()
    camera[0x0112] = orientation
    drawn = np.random.default_rng(0).integers(0, 256, (4, 6, 9, *colours), dtype=np.uint8)
    for number, picture in enumerate(drawn):
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "ab"[number % 2] / f"{number}.{suffix}", exif=camera, **options)
    split, names, _ = readers.samples(tmp_path, ("a", "b"), ())
    order = [int(Path(name).stem) for name in names]
    turned = np.stack([TURNED[orientation](picture) for picture in drawn[order]])
    assert np.array_equal(split.x.permute(0, 2, 3, 1).numpy(), turned if colours else turned[..., None])


def test_pictures_of_several_frames_are_counted(tmp_path):
    path = Path(digit_pictures(tmp_path / "p"))
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 255)]
    frames[0].save(path / "digit 1/a.gif", save_all=True, append_images=frames[1:])
    assert "1 pictures have several frames, of which the first is taken" in "".join(data.load(str(path), Path()).notes)


def test_folders_follow_links_and_pass_over_pipes(tmp_path):
    path = Path(digit_pictures(tmp_path / "p"))
    (path / "digit 2").rename(tmp_path / "elsewhere")
    (path / "digit 2").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(path / "digit 1/pipe.png")
    assert data.load(str(path), Path()).classes == ("digit 0", "digit 1", "digit 2")
    (path / "digit 0/9.png").unlink()
    (path / "digit 0/loop").symlink_to("loop")
    for target in (tmp_path / "nowhere.png", "9.png"):
        (path / "digit 0/9.png").symlink_to(target)
        with fails("cannot read .*digit 0/9.png"):
            data.load(str(path), Path())
        (path / "digit 0/9.png").unlink()
    (path / "digit 0/round").symlink_to(path)
    for name in (str(path), f"image-folder:{path}"):
        with fails("digit 0/round is a link to a folder that it lies in; remove it"):
            data.load(name, Path())


def test_an_empty_folder_of_a_class_is_named_in_parts_too(tmp_path):
    digit_pictures(tmp_path / "p/train")
    digit_pictures(tmp_path / "p/test")
    (tmp_path / "p/train/digit 3").mkdir()
    with fails("p/train: folder digit 3 has no pictures .*; add some or remove it"):
        data.load(str(tmp_path / "p"), Path())


def test_pictures_larger_than_memory_are_mapped(tmp_path, monkeypatch):
    path = digit_pictures(tmp_path / "p")
    held = data.load(path, Path())
    monkeypatch.setattr("tsslbp.data.storage.LARGE", 100)
    assert torch.equal(data.load(path, Path()).train.x, held.train.x)


def test_folders_of_the_same_name_do_not_share_what_is_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("tsslbp.data.storage.LARGE", 100)
    for number, project in enumerate(("one", "other")):
        for name in ("data/a", "data/b"):
            (tmp_path / project / name).mkdir(parents=True)
            for n in range(3):
                path = tmp_path / project / name / f"{n}.bmp"
                Image.new("L", (6, 6), 100 * number + n).save(path)
                os.utime(path, (0, 0))
        monkeypatch.chdir(tmp_path / project)
        assert int(data.load("data", Path(), validation=0).train.x.min()) // 100 == number


def wav(path: Path, signal: np.ndarray, rate: int, width: int = 2, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = (signal * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    content = b"".join(int(value).to_bytes(width, "little", signed=width > 1) * channels for value in whole)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(content)


def extended(content: bytes) -> bytes:
    """A WAV file with another chunk first, and a header that has its tag further behind, as other programs write them."""
    at = content.index(b"fmt ") + 8
    form = b"\xfe\xff" + content[at + 2 : at + 16] + bytes([22, 0, 24, 0, 0, 0, 0, 0]) + content[at : at + 2] + bytes(14)
    return content[:12] + b"JUNK\3\0\0\0abc\0" + b"fmt " + bytes([40, 0, 0, 0]) + form + content[at + 16 :]


def test_sounds_of_any_type_channels_and_rate_are_the_same(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for number, (width, channels) in enumerate([(2, 1), (3, 2), (4, 1), (1, 1)]):
        wav(tmp_path / f"s/a_{number}.wav", tone, 16000, width, channels)
        wav(tmp_path / f"s/b_{number}.wav", 0 * tone, 16000, width, channels)
    for number, kind in enumerate((np.float32, np.float64), 4):
        wavfile.write(tmp_path / f"s/a_{number}.wav", 16000, tone.astype(kind))
    (tmp_path / "s/a_6.wav").write_bytes(extended((tmp_path / "s/a_1.wav").read_bytes()))
    wav(tmp_path / "s/a_slow.wav", tone[::2], 8000)
    split, names = readers.found(tmp_path / "s", Wanted()).all()
    tones = split.x[split.y == 0]
    assert [name[0] for name in names] == ["a"] * 8 + ["b"] * 4
    assert (tones[[0, 1, 2, 4, 5]] - tones[0]).abs().max() < 0.05
    assert torch.equal(tones[6], tones[1])
    loud = tones[7].mean(0) > -4
    assert (tones[7] - tones[0])[:, loud].abs().max() < 0.5
    assert data.load(str(tmp_path / "s"), Path()).rate == 8000


def test_a_model_of_sounds_takes_changes_of_its_bands_as_spikes(tmp_path):
    folder, _ = training.train(TrainConfig(data=spoken(tmp_path / "w"), epochs=1, runs_dir=tmp_path, name="own"))
    model, dataset = training.load(folder), data.load(str(tmp_path / "w"), Path())
    assert (model.sample_shape, model.network.architecture.input_shape) == ((50, 40), (80,))
    spikes = send_on_delta(dataset.normalisation.normalise(dataset.test.x), 0.35)
    assert torch.equal(model.inputs(dataset.test.x), spikes.float().transpose(0, 1))


def test_sounds_of_another_rate_are_evaluated_at_the_models(tmp_path, capsys):
    folder, _ = training.train(TrainConfig(data=spoken(tmp_path / "w"), epochs=1, runs_dir=tmp_path, name="own"))
    model, rng = training.load(folder), np.random.default_rng(0)
    rate, (one, other) = model.inputs.rate, model.classes[:2]
    for part, label, number in itertools.product(("train", "test"), model.classes, range(2)):
        wav(tmp_path / f"fast/{part}/{label}/{number}.wav", 0.3 * rng.uniform(-1, 1, 3 * rate), 2 * rate)
    samples = training.samples_to_test(model, str(tmp_path / "fast"), tmp_path).split
    assert torch.equal(samples.x, training.samples_of_file(model, tmp_path / "fast/test").split.x)
    for label in (one, other):
        wav(tmp_path / f"slow/{label}/1.wav", 0.3 * rng.uniform(-1, 1, 2 * rate), rate // 2)
    said = training.samples_of_file(model, tmp_path / "slow").warnings
    assert f"sounds of {rate // 2:,} samples per second lack the upper bands of the model's {rate:,}" in said


# Arrays and data sets of PyTorch


def test_arrays_are_read_as_a_file_is(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 7, 3)), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    stored = data.load(str(tmp_path / "a.npz"), Path())
    tensors = [(torch.from_numpy(sample), int(label)) for sample, label in zip(x, y, strict=True)]
    pairs = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for made in (
        data.of_arrays(x, y),
        data.of_arrays(torch.from_numpy(x), [["no", "yes"][label] for label in y]),
        *map(data.of_torch, (tensors, pairs, DataLoader(pairs, batch_size=7), DataLoader(pairs, batch_size=None))),
    ):
        assert torch.equal(made.train.x, stored.train.x)
        assert torch.equal(made.test.y, stored.test.y)
        assert made.normalisation == stored.normalisation
    assert data.of_arrays(x, [["no", "yes"][label] for label in y]).classes == ("no", "yes")
    halves = data.of_arrays(torch.from_numpy(x).bfloat16(), y).train.x
    assert torch.equal(halves, data.of_arrays(x, y).train.x.bfloat16().float())
    folder, final = training.train(
        TrainConfig(epochs=1, runs_dir=tmp_path, name="own"), dataset=data.of_arrays(x, y, name="mine")
    )
    assert final["test_samples"] == 8
    assert TrainConfig.from_toml(folder / "config.toml").data == "python:mine"
    with fails("python:mine was made in Python"):
        report.write(folder)
    assert report.write(folder, dataset=data.of_arrays(x, y)).is_file()


class Numbered(torch.utils.data.Dataset):
    """Samples that are their numbers, of as many classes as ``classes`` says, as data sets of torchvision may."""

    classes = 2

    def __len__(self):
        return 40

    def __getitem__(self, number):
        return torch.tensor([float(number)]), number % 2


class Streamed(torch.utils.data.IterableDataset):
    def __len__(self):
        return 40

    def __iter__(self):
        return map(Numbered().__getitem__, range(40))


@pytest.mark.parametrize("batches", [1, 7])
def test_data_sets_of_every_kind_are_read(batches):
    by_sampler = DataLoader(Numbered(), batch_sampler=BatchSampler(range(40), batches, drop_last=False))
    expected = data.of_arrays(torch.arange(40.0)[:, None], np.arange(40) % 2)
    for given in (Numbered(), Streamed(), by_sampler, DataLoader(Streamed(), batches)):
        found = data.of_torch(given)
        assert torch.equal(found.train.x, expected.train.x)
        assert found.classes == ("0", "1")


class Folders(list):
    """Pairs, with the names of their classes, as torchvision's ImageFolder has them."""

    def __init__(self, classes, values):
        self.classes = classes
        super().__init__((torch.full((2,), float(ord(name[0]))), classes.index(name)) for name in values)


@pytest.mark.parametrize("classes", [["cat", "owl"], ["owl", "dog", "cat"]])
def test_classes_of_a_test_set_go_by_their_names(classes):
    made = data.of_torch(Folders(["cat", "dog", "owl"], ["cat", "dog", "owl"] * 4), Folders(classes, ["owl", "cat"]))
    assert made.classes == ("cat", "dog", "owl")
    assert [made.classes[label] for label in made.test.y] == ["owl", "cat"]
    odd = Folders(["cat", "dog"], ["cat"])
    odd[0] = (odd[0][0], 7)
    with fails("some classes are no places in its list of classes"):
        data.of_torch(Folders(["cat", "dog", "owl"], ["cat", "dog", "owl"] * 4), odd)


class Frame(np.ndarray):
    """Numbers with names of their columns, as pandas has them."""

    columns = ("a", "b")


def test_columns_of_test_samples_are_those_of_the_others():
    x, test = (np.random.default_rng(0).random((n, 2)).view(Frame) for n in (20, 4))
    assert data.of_arrays(x, np.arange(20) % 2, test, np.arange(4) % 2).columns == ("a", "b")  # by which files are read
    test.columns = ("b", "a")
    with fails("x_test has other columns than x, or in another order"):
        data.of_arrays(x, np.arange(20) % 2, test, np.arange(4) % 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: data.of_arrays([[1.0, 2.0], [3.0]], [0, 1]), "x is no array"),
        (lambda: data.of_arrays(torch.zeros(2, 2, device="meta"), [0, 1]), "x is no array"),
        (lambda: data.of_arrays(np.zeros((3, 5)), np.eye(3)), r"y has shape \[3, 3\].*; y is one-hot, so give y.argmax\(1\)"),
        (lambda: data.of_torch([1, 2]), "samples: item 0 is int; it must be a pair of a sample and its class"),
        (lambda: data.of_torch([]), "samples holds no samples"),
        (lambda: data.of_torch(None), "samples: None is no Dataset or DataLoader"),
        (lambda: data.of_torch(torch.tensor(3)), r"samples: tensor\(3\) is no Dataset or DataLoader"),
        (
            lambda: data.of_torch(torch.utils.data.TensorDataset),
            "samples: <class .*TensorDataset'> is no Dataset or DataLoader",
        ),
        (lambda: data.of_torch([(torch.ones(2), 0), (torch.ones(3), 1)]), r"item 1 has shape \[3\], the first has \[2\]"),
    ],
)
def test_wrong_arrays(make, message):
    with fails(message):
        make()


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "sample", "note"),
    [
        ((30, 8, 8), np.uint8, "pictures", (1, 8, 8), "taken as pictures of 8 × 8 bytes"),
        ((30, 9, 8), np.uint8, "events", (8,), "taken as 9 × 8 steps × channels of events"),
        ((30, 8, 8), np.float32, "series", (8,), "taken as 8 × 8 steps × channels; pictures are"),
        ((30, 9, 8), np.float32, "series", (8,), None),
        ((30, 8, 9), np.int16, "series", (9,), "taken as 8 × 9 steps × channels; if the channels come first, give x.swapaxes"),
        ((30, 9, 8, 3), np.float32, "pictures", (3, 9, 8), "the channels last"),
        ((30, 3, 9, 8), np.uint8, "pictures", (3, 9, 8), None),
        ((30, 9, 8, 2), np.uint8, "pictures", (2, 9, 8), "the channels last, [N, H, W, C]"),
        ((30, 9, 9, 7), np.float32, "pictures", (7, 9, 9), "the channels last, [N, H, W, C]"),
        ((30, 9, 8, 7), np.float32, "pictures", (9, 8, 7), "9 × 8 × 7 with the channels first; if they are last, give"),
        ((30, 9, 4, 4), np.float32, "pictures", (9, 4, 4), None),
        ((30, 9, 1, 1), np.float32, "pictures", (9, 1, 1), None),
        ((30, 9, 9, 9), np.float32, "pictures", (9, 9, 9), None),
        ((30, 5, 9, 9, 2), np.uint8, "events", (2, 9, 9), "the channels last, [N, T, H, W, C]"),
        ((30, 5, 9, 4, 4), np.float32, "events", (9, 4, 4), None),
        ((30, 3), np.uint8, "vectors", (3,), None),
        ((30, 5, 2, 9, 8), np.uint8, "events", (2, 9, 8), None),
    ],
)
def test_shapes_are_recognised_and_said(shape, dtype, kind, sample, note):
    x = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    dataset = data.of_arrays(x, np.arange(30) % 2)
    assert (dataset.kind, dataset.sample_shape) == (kind, sample)
    assert [note in one for one in dataset.notes] == ([True] if note else [])


def test_spikes_may_have_more_channels_than_steps():
    spikes = np.random.default_rng(0).integers(0, 2, (30, 8, 20)).astype(np.float32)
    assert data.of_arrays(spikes, np.arange(30) % 2).notes == ()


@pytest.mark.parametrize(
    ("loss", "length", "more", "code"),
    [
        ("kernel", 1, [], 2),
        ("kernel(desired=1)", 1, [], 0),
        ("spike(desired=00001)", 4, [], 2),
        ("kernel(desired=00001)", 5, [], 0),
        ("kernel(target=double)", 3, ["--bin", "3"], 2),
        ("kernel(target=double)", 3, ["--tau-s", "4"], 2),
        ("kernel(target=double)", 4, ["--tau-s", "4"], 0),
        ("kernel(label_weight=6)", 1, [], 2),
        ("kernel", 4, ["--bin", "3"], 0),
        ("count", 1, [], 0),
    ],
)
def test_sequences_too_short_for_the_desired_spikes_are_refused(loss, length, more, code, tmp_path, monkeypatch, capsys):
    """They would be asked for silence, whatever their class."""
    monkeypatch.chdir(tmp_path)
    lengths = np.array([length, 30] * 20)
    np.savez("short.npz", x=np.random.default_rng(0).random((40, 30, 3), np.float32), y=np.arange(40) % 2, lengths=lengths)
    given = ["--data", "short.npz", "--network", "5-2", "--loss", loss, "--epochs", "1", *more]
    assert cli.main(["train", *given]) == code
    said = capsys.readouterr().err
    assert ("has some of" in said) == bool(code)
    assert (tmp_path / "runs").exists() == (not code)
    if code:
        better = said.split("such as ")[1].strip()
        assert cli.main(["train", *(better if word == loss else word for word in given)]) == 0


def test_lengths_of_channels_first_name_the_way_out():
    with fails(r"lengths must be 3 integers from 1 to 2, .*; if the channels of x come first, give x.swapaxes\(1, 2\)"):
        data.of_arrays(np.zeros((3, 2, 50)) + 0.5, [0, 1, 1], lengths=[50, 40, 30])


# Bins and padding


def test_bins_are_means_and_padding_does_not_count():
    x = torch.arange(20, dtype=torch.float32).view(2, 5, 2)
    x[1, 3:] = 1e6
    means = mean_of_bins(x, 2, torch.tensor([5, 3]))
    torch.testing.assert_close(means[0], torch.tensor([[1.0, 2.0], [5.0, 6.0], [8.0, 9.0]]))
    torch.testing.assert_close(means[1], torch.tensor([[11.0, 12.0], [14.0, 15.0], [0.0, 0.0]]))
    torch.testing.assert_close(mean_of_bins(x[:1], 2), means[:1])
    assert mean_of_bins(x, 1) is x
    x = torch.randn(3, 70, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean_of_bins(x, 7), x.double().view(3, 10, 7, 5).mean(2).float()), "rounded once, in whatever order"


def test_the_model_carries_its_bins(tmp_path, capsys):
    random = np.random.default_rng(0)
    lengths = np.arange(40) % 8 + 4
    x = 150 + 40 * random.random((40, 11, 3))
    np.savez(tmp_path / "s.npz", x=x, y=np.arange(40) % 2, lengths=lengths)
    config = TrainConfig(data=str(tmp_path / "s.npz"), epochs=1, bin=4, loss="kernel(desired=1)", runs_dir=tmp_path, name="own")
    folder, final = training.train(config)
    model, dataset = training.load(folder), data.load(config.data, Path())
    assert (model.network.time_steps, model.inputs.bin, model.sample_shape) == (3, 4, (11, 3))
    train = dataset.train
    entered = model.inputs(train.x, lengths=train.lengths)
    inside = torch.arange(3)[:, None] < (train.lengths + 3) // 4
    assert entered.shape == (3, len(train), 3)
    assert (entered[~inside] == 0).all()
    torch.testing.assert_close(entered[inside].mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(entered[inside].std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert model.accuracy(dataset.test) == pytest.approx(final["test_accuracy"])
    assert cli.main(["evaluate", str(folder)]) == 0
    assert f"test accuracy {final['test_accuracy']:.2f} %" in capsys.readouterr().out
    assert report.write(folder).is_file()
    again, _ = training.train(replace(TrainConfig.from_toml(folder / "config.toml"), name="again"))
    assert (again / "metrics.jsonl").read_text().count("\n") == 2
    for name, weight in training.load(again).network.state_dict().items():
        assert torch.equal(weight, model.network.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("digits", 2, "--bin is for series that have steps of their own; digits holds pictures: it has no steps"),
        ("nmnist", 2, "nmnist holds events: cut it into fewer steps with --time-steps"),
        ("japanese-vowels", 50, "--bin is 50; the sequences of japanese-vowels have 26 steps"),
    ],
)
def test_bins_that_do_not_fit(name, size, message):
    with fails(message):
        training.with_data(TrainConfig(data=name, bin=size, data_root=SAMPLES))


def test_padding_is_0_after_the_normalisation(tmp_path):
    x = 100 + np.random.default_rng(0).random((20, 6, 3))
    np.savez(tmp_path / "s.npz", x=x, y=np.arange(20) % 2, lengths=np.arange(20) % 5 + 2)
    dataset = data.load(str(tmp_path / "s.npz"), Path())
    inputs = training.prepare(*training.with_data(TrainConfig(data=str(tmp_path / "s.npz"))))[0].inputs
    entered = inputs(dataset.train.x, lengths=dataset.train.lengths)
    beyond = torch.arange(6)[:, None] >= dataset.train.lengths
    assert (entered[beyond] == 0).all()
    assert (entered[~beyond] != 0).any()


def test_a_class_too_small_for_a_validation_part_leaves_it_out(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(12, 4)), np.array([0] * 10 + [1, 1])
    np.savez(tmp_path / "s.npz", x=x, y=y)
    config, dataset = training.with_data(TrainConfig(data=str(tmp_path / "s.npz")))
    assert (len(dataset.validation), config.validation, config.choose) == (0, 0, "last")


# Mistakes


def csv_text(*rows: str) -> str:
    return "\n".join(["a,b,label", *[f"{n},{n % 3},{n % 2}" for n in range(8)], *rows])


BAD_TABLES = {
    "text": (csv_text("x,1,0", "y,2,1"), "column a has text in 2 rows, 'x' in line 10 first; write numbers"),
    "missing": (csv_text("1,,0", "?,NaN,1"), "3 missing values, the first in line 10, column b; fill them or remove"),
    "both": (csv_text("x,,0"), "column a has text in 1 rows, .*; .*1 missing values, the first in line 10, column b"),
    "columns": (csv_text("1,2", "1,2,3,4"), "line 10 has 2 columns, line 1 has 3; .*line 11 has 4 columns"),
    "names-too-few": ("a,b\n1,2,x\n3,4,y\n", "line 1 has 2 columns and all others have 3; it must name each column or be a"),
    "comment": (
        "# made by hand\n\na,b,label\n1,2,x\n",
        "line 1 has 1 columns and all others have 3; .*: complete or remove it",
    ),
    "texts": (
        "a,b,c,label\nx,1,u,0\nx,2,v,1\n",
        "columns a, c have text, 'x' in line 2 first; write numbers, leave them out, or name one groups if it tells whose",
    ),
    "truths": ("a,b,label\n1,True,0\n2,false,1\n", "column b has text in 2 rows, 'True' in line 2 first; write 1 and 0"),
    "no-class": (csv_text("1,2,"), "line 10 has no class in column label; complete or remove it"),
    "one-class": ("a,label\n1,x\n2,x\n3,x", "all samples are of class x; a classifier needs at least two classes"),
    "one-of-a-class": (csv_text("1,2,rare"), "class rare has 1 sample; training and test need 2 of each class"),
    "no-classes": ("a,b\n" + "\n".join(f"{n},{n}.5" for n in range(9)), "column b has 9 different values in 9 rows, too many"),
    "two-columns-of-classes": ("label,a,Label\n1,2,1\n2,1,2", "has 2 columns named label and Label; rename all but"),
    "one-column": ("label\n1\n2", "has one column only"),
    "empty": ("", "is empty; it needs a row for each sample"),
    "names-only": ("a,b,label\n", "has no rows below the names of its columns"),
    "bytes": (b"a,label\n\xff\xfe,1", "it is no text in UTF-8; save it as CSV in UTF-8"),
    "infinite": (csv_text("inf,1,0"), "column a has numbers beyond float32 in 1 rows, 'inf' in line 10"),
    "large": (csv_text("1,1e50,0"), "column b has numbers beyond float32 in 1 rows, '1e50' in line 10"),
    "underscore": (csv_text("1,1_2,0"), "column b has text in 1 rows, '1_2' in line 10"),
    "empty-row": (csv_text(",,", "1,2,1"), "line 10 has no class in column label; .*2 missing values, the first in line 10"),
    "nan-class": (csv_text("1,2,NaN"), "line 10 has no class in column label"),
    "thousands": (
        "a\tb\tlabel\n1,000\t0.25\tx\n900\t1.25\ty\n",
        "has 0.25 with a decimal point and 1,000 with a comma; leave out commas that part thousands, and write all decimals",
    ),
    "thousands-and-less": (
        "a;b;label\n1,097;40;x\n565;30;y\n",
        "has whole numbers below 1,000 and 1,097 with a comma; leave out commas that part thousands",
    ),
    "thousands-in-a-name": (
        '"a, EUR";b;label\n1,250;40;x\n870;30;y\n',
        "has whole numbers below 1,000 and 1,250 with a comma; leave out commas that part thousands",
    ),
    "thousands-semicolons": ("a;b;label\n0.25;12,500;x\n1;2;y\n", "has 0.25 with a decimal point and 12,500 with a comma"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_wrong_tables(tmp_path, case):
    text, message = BAD_TABLES[case]
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with fails(f"t.csv.*{message}"):
        data.load(str(tmp_path / "t.csv"), Path())


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("1,5;2;a\n3;4,25;b\n" * 3, ("a", "b")),
        ("sep=;\n" + "1,5;2;a\n3;4,25;b\n" * 3, ("a", "b")),
        ("sep=\t\r\n" + "1\t2\ta\r\n3\t4\tb\r\n" * 3, ("a", "b")),
        ('"SEP=|"\n' + "1|2|a\n3|4|b\n" * 3, ("a", "b")),
        ("class\tu\tv\n10\t1\t2\n9\t3\t4\n" + "10\t1\t2\n9\t3\t4\n" * 2, ("9", "10")),
        (",u,v,y\n0,1,2,1.0\n1,2,3,2.0\n" + "2,1,2,1.0\n3,2,3,2.0\n" * 2, ("1", "2")),
        ("1,5\t3,25\ta\n3,5\t1\tb\n" * 3, ("a", "b")),
        ("1,500;0,250;a\n3;1000;b\n4,25;1,125;a\n" * 2, ("a", "b")),
        ("size, cm, high;v;kind\n" + "1,5;1;a\n3;2;b\n" * 3, ("a", "b")),
        ("day;month;year,v,kind\n" + "1,2,3\n3,4,5\n" * 3, ("3", "5")),
        ("0,1,species\n" + "1,2,a\n3,4,b\n" * 3, ("a", "b")),
        ("0,1,label\n" + "1,2,a\n3,4,b\n" * 3, ("a", "b")),
        ("1,2,y\n3,4,n\n" * 3, ("n", "y")),
        ("1,2,none\n3,4,na\n\n" * 3, ("na", "none")),
    ],
    ids=[
        "semicolons",
        "excel",
        "excel-tabs",
        "bars",
        "label-first",
        "index",
        "tabs",
        "three-decimals",
        "comma-in-a-name",
        "semicolon-in-a-name",
        "numbered",
        "numbered-label",
        "class-y",
        "class-none",
    ],
)
def test_tables_as_programs_write_them(tmp_path, text, classes):
    (tmp_path / "t.csv").write_text(text)
    dataset = data.load(str(tmp_path / "t.csv"), Path())
    assert (dataset.classes, dataset.sample_shape) == (classes, (2,))
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 6


@pytest.mark.parametrize(("cell", "told"), [("870", True), ("1870", False), ("0.5", False)])
def test_points_that_may_part_thousands_are_told(tmp_path, cell, told):
    (tmp_path / "t.csv").write_text("a;b;label\n" + f"1.250;1;x\n12.500;2;y\n{cell};3;x\n" * 3)
    notes = data.load(str(tmp_path / "t.csv"), Path()).notes
    said = "column a has three digits behind each point, beside whole numbers; leave out points that part thousands"
    assert (said in notes) == told


@pytest.mark.parametrize(("cell", "told"), [("85,210", "85,210 is 85.210"), ("3,5", "3,5 is 3.5"), ("4", "")])
def test_decimal_commas_are_told(tmp_path, cell, told):
    (tmp_path / "t.csv").write_text("a;b;label\n" + f"{cell};1;x\n{cell};2;y\n" * 4)
    notes = data.load(str(tmp_path / "t.csv"), Path()).notes
    assert [note for note in notes if "decimal" in note] == [f"commas in numbers are decimal: {told}"] * bool(told)


NUMBERED = [
    ("0,1,2\n", "0,1", "1,0"),
    (",0,1,2\n", ",0,1", ",1,0"),
    ("0,1,label\n", "0,1", "1,0"),
    ("400.5,401,species\n", "400.5,401", "401,400.5"),
]


@pytest.mark.parametrize(("head", "same", "turned"), NUMBERED, ids=["counted", "index", "label", "wavelengths"])
def test_names_of_columns_may_be_numbers(tmp_path, head, same, turned):
    path, index = tmp_path / "t.csv", head.startswith(",")
    rows = [(n / 4, n % 3, n % 2) for n in range(12)]

    def write(name, first, *order):
        lines = (",".join([*[str(n)] * index, *(str(row[column]) for column in order)]) for n, row in enumerate(rows))
        (tmp_path / name).write_text("\n".join([first.strip(), *lines]))
        return tmp_path / name

    found = readers.found(write("t.csv", head, 0, 1, 2), Wanted())
    x, columns = found.all()[0].x, found.facts["columns"]
    assert x.tolist() == [list(row[:2]) for row in rows]
    assert any("names of the columns" in note for note in found.facts["notes"]) == ("label" not in head)
    wanted = {"classes": ("0", "1"), "shape": (2,), "columns": columns}
    for name, first, *order in (("same.csv", same, 0, 1), ("turned.csv", turned, 1, 0)):
        split, _, notes = readers.samples(write(name, first, *order), **wanted, labelled=False)
        assert torch.equal(split.x, x)
        assert "names of the columns" in notes[0]
    assert torch.equal(readers.samples(path, **wanted)[0].x, x)
    write("p_TRAIN.csv", head, 0, 1, 2)
    write("p_TEST.csv", head, 0, 1, 2)
    dataset = data.load(str(tmp_path / "p_TRAIN.csv"), Path())
    assert (dataset.classes, len(dataset.test)) == (("0", "1"), 12)


def test_a_first_row_of_numbers_may_be_a_sample(tmp_path):
    def found(text, **wanted):
        (tmp_path / "t.csv").write_text(text)
        return readers.found(tmp_path / "t.csv", Wanted(**wanted))

    again = found("0,1\n1,0\n" * 4)
    assert (len(again.all()[0]), *again.doubts) == (
        8,
        "the first row of t.csv, 0, 1, is taken as a sample, as it occurs again; name the columns by words if it is none",
    )
    model = {"classes": ("a", "b"), "shape": (2,), "labelled": False}
    for text in ("5.1,3.5,a\n6,2.2,b\n", "0,1,a\n1,3,b\n", "5.1,3.5,?\n6,2.2,?\n"):
        for columns in ((), ("0", "1")):
            table = found(text, **model, columns=columns)
            assert (len(table.all()[0]), table.doubts) == (2, [])
    assert found("0,1\n", **model).all()[0].x.tolist() == [[0, 1]]
    assert len(found("5.1,3.5,y\n6,2.2,n\n", **{**model, "classes": ("n", "y")}).all()[0]) == 2
    assert found("1,2,a\n3,4,b\n", **model, columns=("u", "v")).doubts == [
        "columns of t.csv have no names: the last is taken as the class, the others as u, v"
    ]
    by_place = found("0,1\n5.5,6\n", **model, columns=("u", "v"))
    assert by_place.all()[0].x.tolist() == [[5.5, 6]]
    (tmp_path / "s_TRAIN.csv").write_text("5.1,3.5,a\n6,2.2,b\n" * 4)
    (tmp_path / "s_TEST.csv").write_text("5.1,3.5,a\n6,2.2,b\n")
    assert len(data.load(str(tmp_path / "s_TRAIN.csv"), Path()).test) == 2


def test_names_in_quotes_may_hold_other_separators(tmp_path):
    (tmp_path / "t.csv").write_text('"a; cm; x","b; mm",label\n' + "1,2,u\n3,4,v\n" * 3)
    assert readers.found(tmp_path / "t.csv", Wanted()).facts["columns"] == ("a; cm; x", "b; mm")


@pytest.mark.parametrize(
    ("head", "label", "also"),
    [
        ("x,y,species", "species", None),
        ("x,z,y", "y", None),
        ("u,y,v", "y", None),
        ("x,y,label", "label", None),
        ("u,target,label", "label", "target"),
        ("u,y,Class", "Class", "y"),
    ],
)
def test_the_column_of_classes_is_told_from_coordinates_and_other_classes(tmp_path, head, label, also):
    (tmp_path / "t.csv").write_text(f"{head}\n" + "1,2,1\n2,1,2\n" * 4)
    notes = data.load(str(tmp_path / "t.csv"), Path()).notes
    assert f"classes are in column {label}; to take another column, name it label" in notes
    said = [f"column {also} is taken as a feature; remove it if it is the class"] if also else []
    assert [note for note in notes if "if it is the class" in note] == said


def test_text_beside_a_column_that_seems_to_hold_classes_names_both(tmp_path):
    (tmp_path / "t.csv").write_text("u,y,species\n" + "1,2,a\n2,1,b\n" * 4)
    with fails("column species has text .*whose sample a row is .classes are in column y; name another one label."):
        data.load(str(tmp_path / "t.csv"), Path())


@pytest.mark.parametrize("values", [("0", "1"), ("u", "v"), ("0.5", "3.25")], ids=["index", "names", "features"])
def test_a_first_column_without_a_name(tmp_path, values):
    (tmp_path / "t.csv").write_text(",u,v,y\n" + "".join(f"{values[n % 2]},{n},{n % 3},{'ab'[n % 2]}\n" for n in range(12)))
    dataset = data.load(str(tmp_path / "t.csv"), Path())
    is_feature = values[0] == "0.5"
    assert dataset.sample_shape == (2 + is_feature,)
    assert any("first column has no name and is left out" in note for note in dataset.notes) == (not is_feature)


@pytest.mark.parametrize(("first", "names"), [(0, "1,2,label"), (0, "u,v,label"), (0.5, "u,v,label")])
def test_a_table_of_pandas_is_read_for_its_own_model(tmp_path, first, names):
    path = tmp_path / "t.csv"
    path.write_text(f",{names}\n" + "".join(f"{first + n:g},{n},{n % 3},{'ab'[n % 2]}\n" for n in range(12)))
    found = readers.found(path, Wanted())
    columns = found.facts["columns"]
    assert len(columns) == (2 if first == 0 else 3)
    split, *_ = readers.samples(path, ("a", "b"), (len(columns),), columns=columns)
    assert torch.equal(split.x, found.all()[0].x)


def test_a_folder_with_files_of_two_kinds_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.wav", "a/cover.png"):
        (tmp_path / name).touch()
    with fails("has files of several kinds, such as cover.png and 1.wav; keep one kind"):
        data.load(str(tmp_path), Path())


@pytest.mark.parametrize("prefix", ["", "image-folder:"])
def test_files_that_are_left_out_are_told(tmp_path, capsys, prefix):
    digits = Path(digit_pictures(tmp_path / "p"))
    (digits / "digit 0/0.png").rename(digits / "digit 0/0.heic")
    (digits / "digit 1/notes").write_text("none of these is a picture")
    (digits / "digit 2/9.png").rename(digits / "digit 2/9.JFIF")  # as some browsers write JPEG
    train = ["train", "--data", f"{prefix}{digits}", "--epochs", "1", "--runs-dir", str(tmp_path), "--name", "run"]
    said = "2 of 31 files are left out, as their endings are others: .heic, none\n"
    assert cli.main(train) == 0
    assert said in capsys.readouterr().err
    assert cli.main(["predict", str(tmp_path / "run"), f"{prefix}{digits}"]) == 0
    assert said in capsys.readouterr().err
    elsewhere = tmp_path / "q"
    digit_pictures(elsewhere)
    for path in sorted(elsewhere.rglob("*.png")):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    assert cli.main(["evaluate", str(tmp_path / "run"), "--all", f"{prefix}{elsewhere}"]) == 0


def test_columns_below_the_range_of_float32_are_named(tmp_path):
    (tmp_path / "t.csv").write_text("u,v,y\n" + "".join(f"{n}e-42,{n / 10},{'ab'[n % 2]}\n" for n in range(24)))
    dataset = data.load(str(tmp_path / "t.csv"), Path())
    assert min(dataset.normalisation.std) > 0.1
    assert any("column u varies so little" in note for note in dataset.notes)


@pytest.mark.parametrize("start", [1_700_000_000, 1e6])
def test_columns_far_from_zero_are_scaled_or_named(tmp_path, start):
    spread = 1000 if start > 1e9 else 0.003
    times = start + spread * np.random.default_rng(0).normal(size=60)
    (tmp_path / "t.csv").write_text("time,b,label\n" + "".join(f"{t:.4f},{n % 7},{n % 2}\n" for n, t in enumerate(times)))
    np.savez(tmp_path / "t.npz", x=np.stack([times, np.arange(60) % 7], 1), y=np.arange(60) % 2)
    for name, feature in {"t.csv": "column time", "t.npz": "feature 0 of x"}.items():
        dataset = data.load(str(tmp_path / name), Path())
        scaled = dataset.normalisation
        assert ((dataset.train.x - torch.tensor(scaled.mean)) / torch.tensor(scaled.std)).abs().max() < 6
        assert (f"{feature} varies so little" in "".join(dataset.notes)) == (spread < 1)


def test_whole_numbers_are_names_for_a_model_whose_classes_are_other_numbers(tmp_path):
    def samples(y, names, labelled=True, **more):
        np.savez(tmp_path / "s.npz", x=np.zeros((len(y), 2)), y=np.array(y), **more)
        return readers.samples(tmp_path / "s.npz", names, (2,), labelled=labelled)[0].y.tolist()

    assert samples([1, 3, 2], ("1", "2", "3")) == samples(["1", " 3.0", "2"], ("1", "2", "3")) == [0, 2, 1]
    assert samples([-1, 1], ("-1", "1")) == samples([0, 1], ("cat", "dog")) == [0, 1]
    assert samples([0, 1], ("1", "2"), classes=np.array(["1", "2"])) == [0, 1]
    with fails("y has class 0; the model's are 1, 2; give samples of these only"):
        samples([0, 1], ("1", "2"))
    for classes in (("0", "1"), ("cat", "dog")):
        assert samples([1, 5, -1], classes, labelled=False) == [1, -1, -1]
        assert samples(np.uint8([1, 5]), classes, labelled=False) == [1, -1]


def test_a_table_of_one_column_has_its_first_row(tmp_path):
    (tmp_path / "t.csv").write_text("3\n1\n2\n")
    samples, *_ = readers.samples(tmp_path / "t.csv", ("0", "1"), (1,), labelled=False)
    assert samples.x.flatten().tolist() == [3, 1, 2]


def test_a_model_takes_the_columns_of_a_table_by_their_names(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [(n % 7, 10 * (n % 3), n % 3) for n in range(60)]

    def table(name, head, *order):
        Path(name).write_text(f"{head}\n" + "".join(",".join(str(row[n]) for n in order) + "\n" for row in rows))
        return name

    given = table("train.csv", "u,v,kind", 0, 1, 2)
    assert cli.main(["train", "--data", given, "--epochs", "1", "--name", "by-name"]) == 0

    def predicted(name):
        assert cli.main(["predict", "runs/by-name", name, "--out", "found.csv"]) == 0
        return Path("found.csv").read_text()

    found = predicted(given)
    for other in (("v,u", 1, 0), ("kind,v,u", 2, 1, 0), ("v,label,u", 1, 2, 0), (",v,u,kind", 0, 1, 0, 2)):
        assert predicted(table("other.csv", *other)) == found
    assert predicted(table("places.csv", "0,1", 0, 1)) == found
    capsys.readouterr()
    must = "its columns must be those of the training samples"
    for head, *order, message in (
        ("u,w,kind", 0, 1, 2, f"other.csv lacks v and has w instead; {must}"),
        ("u,v,w,label", 0, 1, 0, 2, f"other.csv has w besides; {must}"),
        ("V,u,label", 1, 0, 2, f"other.csv lacks v and has V instead, which differ in case alone; {must}"),
        ("u,label", 0, 2, f"other.csv lacks v; {must}"),
        ("u,u,v", 0, 0, 1, f"other.csv repeats u in another order; {must}"),
    ):
        assert cli.main(["predict", "runs/by-name", table("other.csv", head, *order)]) == 2
        assert capsys.readouterr().err == f"tsslbp: {message}\n"
    assert cli.main(["evaluate", "runs/by-name", "--all", table("other.csv", "v,u", 1, 0)]) == 2
    assert capsys.readouterr().err == "tsslbp: other.csv has no column of classes; add one named label\n"
    accuracies = []
    for name in (given, table("other.csv", "v,u,kind", 1, 0, 2)):
        assert cli.main(["evaluate", "runs/by-name", "--data", name]) == 0
        accuracies.append(capsys.readouterr().out.split(" on ")[0])
    assert accuracies[0] == accuracies[1]
    assert cli.main(["evaluate", "runs/by-name", "--data", table("other.csv", "w,u,kind", 1, 0, 2)]) == 2
    assert "other.csv lacks v and has w instead; its columns must be those of the training samples" in capsys.readouterr().err
    assert cli.main(["export", "runs/by-name", "as-c", "--format", "c"]) == 0
    assert "channel, row, column: 2. These are u, v." in Path("as-c/README.md").read_text()


def test_a_table_of_many_features_is_trained_and_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = 24_000  # as of genes, whose names alone take half a megabyte
    rows = [",".join([f"{(n * (f % 7 + 1)) % 11 / 3:.2f}" for f in range(count)] + [str(n % 2)]) for n in range(12)]
    Path("genes.csv").write_text("\n".join([",".join([*(f"ENSG{f:011d}" for f in range(count)), "y"]), *rows]) + "\n")
    folder, _ = training.train(TrainConfig(data="genes.csv", network="2-2", epochs=1))
    assert cli.main(["predict", str(folder), "genes.csv", "--out", "found.csv"]) == 0
    model = training.load(folder)
    monkeypatch.setattr("tsslbp.network.model_file.LONGEST", 2**20)
    with fails("characters of metadata, more than 1,048,576; take fewer features"):
        model.save(Path("more.safetensors"))
    assert not Path("more.safetensors").exists()


@pytest.mark.parametrize("rows", [19, 20])
@pytest.mark.parametrize(("first", "other"), [(1001, "{}"), (1001, "7"), (1001, "{}.5"), (20_261_128_001, "7")])
def test_a_column_that_numbers_the_rows_is_named(tmp_path, first, other, rows):
    numbers = torch.randperm(rows).add(first).tolist()
    (tmp_path / "t.csv").write_text("id,u,y\n" + "".join(f"{n},{other.format(n * n)},{n % 2}\n" for n in numbers))
    notes = data.load(str(tmp_path / "t.csv"), Path()).notes
    said = "column id numbers the rows and is taken as a feature; remove it if it tells no more"
    assert [note for note in notes if "numbers the rows" in note] == ([said] if rows == 20 else [])


def test_series_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "s.txt").write_text("1 2 3\n2 4 5\n" * 4, encoding="utf-8-sig")
    assert data.load(str(tmp_path / "s.txt"), Path()).classes == ("1", "2")


@pytest.mark.parametrize(
    ("text", "first"),
    [("1 5 6 7\n2 8 9\n", 5), ("1,5,6,7\n2, 8,9\n", 5), ("5 6 7\n8 9\n", 5), ("1 5 6\n2 8 9\n1 8 8 9", 5), ("1 5\n2 8\n", 5)],
)
def test_series_to_predict_all_have_a_class_or_none_has(tmp_path, text, first):
    (tmp_path / "s.txt").write_text(text)
    split, *_ = readers.samples(tmp_path / "s.txt", ("1", "2"), (3, 1), labelled=False)
    assert split.x[:2, 0, 0].tolist() == [first, 8]  # a class is no value
    (tmp_path / "s.txt").write_text("0.5 6\n0.8 9\n")
    with fails("no line begins with a class .1, 2. or .; fewer than 3 values need one"):
        readers.samples(tmp_path / "s.txt", ("1", "2"), (3, 1), labelled=False)
    (tmp_path / "s.txt").write_text("? 0.5\n7 0.8\n")  # one of a class that the model does not have
    assert readers.samples(tmp_path / "s.txt", ("1", "2"), (3, 1), labelled=False)[0].y.tolist() == [-1, -1]


EITHER = "every line begins with a number that may be a class or a value, as the longest has 3 with it; put . in place of the"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1 5 6\n2 8\n", [5, 8]),
        ("1.0 5 6\n2.0 8 nan\n", [5, 8]),
        ("? 5 6\n? 8 9\n", [5, 8]),
        ("1 5 6\n? 8 9\n", [5, 8]),
        ("new 5 6\n1 8 9\n", [5, 8]),
        ("1 5 6\n3 8 9\n", [1, 3]),
        ("1 5 6\n2 8 9\n", EITHER),
        ("1 5 6\n1 8\n", EITHER),
        ("\t5\t6\n7\t8\t9\n", "line 1 has 1 missing values, the first in step 0; fill or remove them"),
    ],
)
def test_series_to_predict_that_are_a_step_shorter_than_the_models_keep_their_values(tmp_path, text, found):
    (tmp_path / "s.txt").write_text(text)
    asked = tmp_path / "s.txt", ("1", "2"), (3, 1)
    if isinstance(found, str):
        with fails(found):
            readers.samples(*asked, labelled=False)
    else:
        assert readers.samples(*asked, labelled=False)[0].x[:, 0, 0].tolist() == found
    if text.startswith("1 5 6\n2"):
        assert readers.samples(*asked)[0].x[:, 0, 0].tolist() == [5, 8]


def test_other_data_is_read_as_the_model_takes_it(tmp_path, capsys):
    def series(name, steps, count=20):
        rows = [" ".join(map(str, [n % 2 + 1, *(n % 2 + np.arange(steps) / 7)])) for n in range(count)]
        (tmp_path / name).write_text("\n".join(rows))
        return str(tmp_path / name)

    (tmp_path / "folder").mkdir()
    for part in ("TRAIN", "TEST"):
        series(f"folder/long_{part}.txt", 9)
        series(f"long_{part}.txt", 9)
        series(f"short_{part}.txt", 8, 12)
    settings = {"network": "4-2", "epochs": 1, "runs_dir": tmp_path}
    run, _ = training.train(TrainConfig(data=str(tmp_path / "long_TRAIN.txt"), name="series", **settings))
    found = training.samples_to_test(training.load(run), str(tmp_path / "short_TRAIN.txt"), Path()).split
    assert (found.shape, found.lengths.tolist()) == ((9, 1), [8] * 12)
    checked = ("--check", "2", "--data", str(tmp_path / "folder"))
    assert cli.main(["export", str(run), str(tmp_path / "s.onnx"), *checked]) == 0, capsys.readouterr().err

    random = np.random.default_rng(0)
    for folder, width in (("wide", 6), ("narrow", 5)):  # no event reaches the last column of the sensor
        for part, label, n in itertools.product(("train", "test"), "ab", range(4)):
            events = np.zeros(30, [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "<i2")])
            events["t"], events["x"], events["y"] = np.arange(30), random.integers(0, width, 30), random.integers(0, 3, 30)
            events["x"][0], events["y"][0], events["p"] = width - 1, 2, random.integers(0, 2, 30)
            (place := tmp_path / folder / part / label).mkdir(parents=True, exist_ok=True)
            np.save(place / f"{n}.npy", events)
    run, _ = training.train(TrainConfig(data=str(tmp_path / "wide"), time_steps=4, name="events", **settings))
    model = training.load(run)
    found = training.samples_to_test(model, str(tmp_path / "narrow"), Path()).split
    assert found.shape == model.sample_shape == (4, 2, 3, 6)
    with fails("the classes of .*wide are a, b; the model's are 1, 2"):  # and not that recordings differ
        training.samples_to_test(training.load(tmp_path / "series"), str(tmp_path / "wide"), Path())

    x, y = random.random((30, 4), np.float32), np.arange(30) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    np.savez(tmp_path / "new.npz", x=x[:5] / 2, y=y[:5])
    run, _ = training.train(TrainConfig(data=str(tmp_path / "x.npz"), name="vectors", **settings))
    output = ("export", str(run), str(tmp_path / "v.onnx"), "--check", "5", "--data", str(tmp_path / "new.npz"))
    assert cli.main([*output]) == 0, capsys.readouterr().err
    assert "of 5 answers differ" in capsys.readouterr().out


def test_a_runs_data_are_looked_for_where_it_found_them(tmp_path, capsys, monkeypatch):
    x, y = np.random.default_rng(0).random((60, 4), np.float32), np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x=x, y=y)
    settings = {"network": "4-2", "data": str(tmp_path / "x.npz"), "runs_dir": tmp_path, "name": "own", "test_every": 1}
    run, _ = training.train(TrainConfig(epochs=1, **settings))
    (tmp_path / "x.npz").rename(tmp_path / "moved.npz")
    training.train(TrainConfig(epochs=1, **settings | {"data": str(tmp_path / "moved.npz")}, resume=True))
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    named, _ = training.train(TrainConfig(data="fashion-mnist", data_root=SAMPLES, network="10", epochs=1, runs_dir=tmp_path))
    np.savez("other.npz", x=x / 2, y=y)
    for folder, ending in itertools.product((run, named), ("c", "onnx")):
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert cli.main(["evaluate", str(folder)]) == 0, capsys.readouterr().err
        more = ["--format", "c"] if ending == "c" else ["--check", "2"]
        assert cli.main(["export", str(folder), f"{folder.name}.{ending}", *more]) == 0, capsys.readouterr().err
        assert "random samples" not in capsys.readouterr().out
    assert cli.main(["export", str(run), "checked", "--format", "c", "--check", "2", "--data", "other.npz"]) == 0
    assert Path("checked/test.c").read_text() == Path("own.c/test.c").read_text()  # samples of the run's own test set
    model = ("export", str(run / "model.safetensors"), "of_file", "--format", "c", "--check", "2")
    assert cli.main([*model, "--data", str(tmp_path / "moved.npz")]) == 0, capsys.readouterr().err
    assert Path("of_file/test.c").read_text() == Path("own.c/test.c").read_text()
    assert cli.main(["export", str(named), "models/half.safetensors", "--half"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("head", ["label\t0\t1\t2\t3", "0\t1\t2\t3\t4", "y\t1\t2\t3\t4"])
def test_names_of_columns_are_no_series(tmp_path, head):
    rows = "1\t0.5\t0.6\t0.7\t0.8\n2\t0.5\t0.6\t0.7\t0.8\n" * 3
    (tmp_path / "s.tsv").write_text(f"{head}\n{rows}")
    with fails("s.tsv: line 1 counts from (0 to 3|0 to 4|1 to 4), as names of columns do; remove it, or write [01].0 if"):
        data.load(str(tmp_path / "s.tsv"), Path())


LABELS = {
    "quotes": (["5'", '5"', "'6'", '"7"'], ("6", "7", '5"', "5'")),
    "texts": (["12e4", "t'", "t", "1.0"], ("1.0", "12e4", "t", "t'")),
    "numbers": (["1e1", "2.0", "2", "2.5"], ("2", "2.5", "10")),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_stay_as_they_are_unless_all_are_numbers(tmp_path, case):
    given, classes = LABELS[case]
    given = [given[n % 4] for n in range(24)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["u", "label"], *([n, label] for n, label in enumerate(given))])
    (tmp_path / "s.tsv").write_text("".join(f"{label}\t{n}\t1\n" for n, label in enumerate(given)))
    np.savez(tmp_path / "x.npz", x=np.ones((24, 2)), y=np.array(given))
    for name in ("t.csv", "s.tsv", "x.npz"):
        found = readers.found(tmp_path / name, Wanted())
        assert found.classes == classes
        again, *_ = readers.samples(tmp_path / name, classes, found.parts["train"].shape)
        assert torch.equal(again.y, found.all()[0].y)


BAD_SERIES = {
    "nan-class": ("1 2 3\nnan 4 5\n", "line 2 is no series: write the class, then the values"),
    "underscore": ("1 2 3\n2 4 1_0\n", "line 2 is not a series of float32 numbers: it has '1_0'"),
    "text": ("1 2 3\n2 4 x\n", "line 2 is not a series of float32 numbers: it has 'x'"),
    "missing": ("1 2 3\n2 NaN 5 ? 7\n", "line 2 has 2 missing values, the first in step 0; fill or remove them"),
    "decimal-commas": ("1\t0,5\t1,5\n", "line 1 has tabs and commas; separate the values by one of them, and write decimals"),
    "empty": ("\n\n", "holds no series"),
    "no-class": ("1\t2\t3\n\t4\t5\n", "line 2 is no series: write the class, then the values"),
    "class-last": ("1 2 3 a\n2 4 5 b\n", "line 1 is not a series of float32 numbers: it has 'a'; the class must come first"),
    "semicolons": ("1;2;3\n2;4;5\n", "line 1 is no series: write the class, then the values, with blanks between"),
    "label-only": ("1\n2\n", "line 1 is no series: write the class, then the values, .*line 2 is no series"),
}


@pytest.mark.parametrize("case", BAD_SERIES)
def test_wrong_series(tmp_path, case):
    text, message = BAD_SERIES[case]
    (tmp_path / "s.txt").write_text(text)
    with fails(f"s.txt.*{message}"):
        data.load(str(tmp_path / "s.txt"), Path())


def test_test_files_that_do_not_go_with_the_training_file(tmp_path):
    (tmp_path / "s_TRAIN.txt").write_text("1 2 3\n2 4 5\n" * 4)
    (tmp_path / "s_TEST.txt").write_text("1 2 3\n3 4 5\n")
    with fails("s_TEST.txt has class 3; those of the training samples are 1, 2"):
        data.load(str(tmp_path / "s_TRAIN.txt"), Path())
    with fails("is a test file; give the training file"):
        data.load(str(tmp_path / "s_TEST.txt"), Path())
    (tmp_path / "t_TRAIN.csv").write_text("a,b,y\n" + "1,2,0\n3,4,1\n" * 4)
    (tmp_path / "t_TEST.csv").write_text("a,c,y\n1,2,0\n")
    with fails("t_TEST.csv lacks b and has c instead; its columns must be those of the training samples"):
        data.load(str(tmp_path / "t_TRAIN.csv"), Path())
    (tmp_path / "t_TEST.csv").write_text("1,2,3,0\n")
    with fails("t_TEST.csv has 3 features; .*t_TRAIN.csv has 2: make them alike"):
        data.load(str(tmp_path / "t_TRAIN.csv"), Path())
    (tmp_path / "t_TEST.csv").write_text("y,b,a\n0,2,1\n")
    assert data.load(str(tmp_path / "t_TRAIN.csv"), Path()).test.x.tolist() == [[1, 2]]


def test_wrong_folders(tmp_path):
    pictures = Path(digit_pictures(tmp_path / "p"))
    (pictures / "digit 1/3.png").write_bytes(b"no picture")
    (pictures / "digit 2/4.png").write_bytes(b"")
    with fails("cannot read .*digit 1/3.png as an image .*; cannot read .*digit 2/4.png as an image"):
        data.load(str(pictures), Path())
    for name in ("digit 1/3.png", "digit 2/4.png"):
        Image.new("L", (9, 8)).save(pictures / name)
    with fails(
        r"but .*digit 1/3.png has 9 × 8; bring all to one size \(magick .*\), or take --data image-folder:.*, which scales"
    ):
        data.load(str(pictures), Path())
    for name in ("digit 1/3.png", "digit 2/4.png"):
        whole = (pictures / "digit 0/0.png").read_bytes()
        (pictures / name).write_bytes(whole[:-30])
    with fails("cannot read .*digit 1/3.png as an image"):
        data.load(str(pictures), Path())
    shutil.copy(pictures / "digit 0/0.png", pictures / "loose.png")
    with fails("loose.png is in no folder of a class"):
        data.load(str(pictures), Path())
    (tmp_path / "empty/a").mkdir(parents=True)
    with fails("empty has no files of the kinds that are read: an .npz file"):
        data.load(str(tmp_path / "empty"), Path())
    for name in ("s_TRAIN.txt", "s_TEST.txt", "t_TRAIN.txt"):
        (tmp_path / "empty" / name).write_text("1 2 3\n")
    with fails("empty is a folder with s_TRAIN.txt, t_TRAIN.txt; give one file, such as .*empty/s_TRAIN.txt"):
        data.load(str(tmp_path / "empty"), Path())
    (tmp_path / "words.doc").write_text("hello")
    with fails("words.doc is no file of the kinds that are read"):
        data.load(str(tmp_path / "words.doc"), Path())


@hypothesis.given(st.integers(0, 2**32), st.integers(6, 30), st.integers(2, 4))
def test_no_group_is_in_two_parts(seed, groups, classes):
    random = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(groups).repeat(classes), random.integers(0, groups, 150)])
    y = np.concatenate([np.tile(np.arange(classes), groups), random.integers(0, classes, 150)])
    x = np.stack([owner, random.random(len(owner))], 1)
    patients = np.array([f"patient {n}" for n in owner])
    made = data.of_arrays(x, y, groups=patients)
    parts = [{*part.x[:, 0].tolist()} for part in made.parts.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == groups
    assert sum(map(len, made.parts.values())) == len(x)
    assert abs(len(made.test) / len(x) - 1 / 5) <= 2 / groups
    assert f"{len(parts[0])} of {groups} groups are trained on; the others are held out whole" in made.notes
    again = data.of_arrays(x, y, groups=patients, validation=len(made.validation))  # as a run remembers it
    assert torch.equal(again.test.x, made.test.x)
    assert torch.equal(again.validation.x, made.validation.x)
    untested = data.of_arrays(x, y, x[:5], y[:5], groups=owner)
    assert not {*untested.train.x[:, 0].tolist()} & {*untested.validation.x[:, 0].tolist()}


def test_groups_of_a_table_are_held_out_whole(tmp_path, capsys):
    random = np.random.default_rng(0)

    def write(name, columns, rows=120, **changes):
        values = {"a": random.random(rows), "b": random.random(rows), "label": np.arange(rows) % 2}
        values |= {"groups": [f"patient {n // 6}" for n in range(rows)], **changes}
        table = [columns, *zip(*(values[column] for column in columns), strict=True)]
        (tmp_path / name).write_text("\n".join(",".join(map(str, row)) for row in table))
        return str(tmp_path / name)

    name = write("t.csv", ["groups", "a", "label", "b"], a=np.arange(120) / 6)
    made = data.load(name, Path())
    assert made.columns == ("a", "b")
    owners = [{*part.x[:, 0].int().tolist()} for part in made.parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 20
    assert "column groups says which samples are held out together, and is no feature" in made.notes
    run, _ = training.train(TrainConfig(data=name, network="2", epochs=1, runs_dir=tmp_path, name="run"))
    model = training.load(run)
    for columns in (["a", "b", "label"], ["label", "b", "groups", "a"]):
        assert len(training.samples_of_file(model, Path(write("new.csv", columns))).split) == 120
    for columns in (["groups", "a", "b"], ["a", "b", "groups"], ["b", "a"], ["a", "groups", "b", "label"]):
        found = training.samples_to_predict(model, Path(write("new.csv", columns))).split
        assert found.shape == (2,)
    assert data.load(write("last.csv", ["a", "b", "groups"], groups=np.arange(120) % 3), Path()).columns == (
        "a",
        "b",
    )  # classes
    with fails("column groups has text .*; write numbers, or name the column of classes label to hold its samples together"):
        data.load(write("last.csv", ["groups", "a", "class_"], class_=np.arange(120) % 3), Path())
    unnamed = data.load(write("last.csv", ["groups", "a", "class_"], groups=range(120), class_=np.arange(120) % 3), Path())
    assert any("column groups is taken as a feature; name the column of classes label" in note for note in unnamed.notes)
    nobody = [""] * 120
    assert len(training.samples_to_predict(model, Path(write("new.csv", ["a", "b", "groups"], groups=nobody))).split) == 120
    with fails("t.csv: line 3 has no group in column groups"):
        data.load(write("t.csv", ["groups", "a", "label"], 2, groups=["p", ""]), Path())
    with fails("t.csv has 2 columns named groups; rename all but one"):
        data.load(write("t.csv", ["a", "Groups", "label", "groups"], Groups=nobody), Path())
    name = write("t.csv", ["x", "y", "groups"], x=np.arange(120) / 6, y=np.arange(120) % 2)
    assert data.load(name, Path()).columns == ("x",)  # y is a class here
    name = write("t.csv", ["a", "label", "groups"], a=np.arange(120) / 6, groups=[n // 6 for n in range(119)] + ["19.0"])
    assert any(" of 20 groups are trained on" in note for note in data.load(name, Path()).notes)
    x, y = random.random((30, 3)), np.arange(30) % 2
    run, _ = training.train(TrainConfig(network="2", epochs=1, runs_dir=tmp_path, name="3"), dataset=data.of_arrays(x, y))
    name = write(
        "new.csv", ["a", "b", "groups"], groups=np.arange(120) / 120
    )  # a feature of this model, whose columns have no names
    assert training.samples_to_predict(training.load(run), Path(name)).split.shape == (3,)


def test_a_class_that_no_held_out_group_has_is_named():
    groups, y = np.repeat(np.arange(10), 6), np.repeat([0, 1, 0, 1, 0, 1, 0, 1, 0, 2], 6)  # class 2 is of one patient
    made = data.of_arrays(np.random.default_rng(0).random((60, 3)), y, groups=groups)
    assert 2 not in made.test.y
    assert "no group with class 2 is held out, so it is not tested" in made.notes


def test_groups_that_leave_no_class_for_validation_leave_it_out():
    groups, without = np.repeat(np.arange(10), 10), 0
    for seed in range(40):
        x, y = np.random.default_rng(seed).random((100, 3)), np.zeros(100, int)
        y[np.random.default_rng(seed).permutation(10)[:3] * 10] = 1
        try:
            data.of_arrays(x, y, groups=groups, validation=0)
        except UserError:  # too few groups for a test set
            continue
        without += not len(data.of_arrays(x, y, groups=groups).validation)
    assert 0 < without < 40


def test_a_set_with_its_own_validation_part_keeps_it(monkeypatch):
    x, y = np.random.default_rng(0).random((60, 3)), np.arange(60) % 2
    monkeypatch.setitem(data.SETS, "mine", lambda held: data.of_arrays(x, y, x_val=x[:20] + 1, y_val=y[:20]))
    config, dataset = training.with_data(TrainConfig(data="mine"), given=set())
    assert (len(dataset.validation), config.choose) == (20, "validation")


@pytest.mark.parametrize(
    ("groups", "more", "said"),
    [
        (np.arange(39), {}, "groups is int64 of shape .39.; it must be 40 whole numbers or texts, one for each sample"),
        (
            np.arange(40) / 2,
            {},
            "groups is float64 of shape .40.; it must be 40 whole numbers or texts, .* and none may be missing",
        ),
        (np.zeros(40, int), {}, "its groups are too large to hold out a fifth of the samples; bring test samples"),
        (
            np.arange(40) % 10,
            {"validation": 3},
            "--validation is 3; arrays has 4 validation samples in whole groups: leave it out",
        ),
        (np.arange(40), {"x_test": 1, "x_val": 1}, "groups is for parts that are held out, and x_val and x_test are given"),
    ],
)
def test_wrong_groups(groups, more, said):
    x, y = np.random.default_rng(0).random((40, 3)), np.arange(40) // 10 % 2
    more = {key: value if key == "validation" else x for key, value in more.items()}
    more |= {f"y{key[1:]}": y for key in more if key.startswith("x_")}
    with fails(said):
        data.of_arrays(x, y, groups=groups, **more)


def test_wrong_sounds(tmp_path):
    folder = Path(spoken(tmp_path / "w"))
    first, second, third = sorted(folder.glob("*/*.wav"))[:3]
    first.write_bytes(b"RIFF")
    second.write_bytes(second.read_bytes()[:200])
    content = bytearray(third.read_bytes())
    content[20] = 2  # compressed
    third.write_bytes(content)
    with fails(f"cannot read {first} .*{second} is cut short.*{third} .*compressed .*save it again as WAV with 16 bits"):
        data.load(str(folder), Path())
    for path in (first, second, third):
        wavfile.write(path, 8000, np.array([0.5, np.inf] * 3000))
    with fails(f"{first} holds numbers that are not finite"):
        data.load(str(folder), Path())


def test_wrong_recordings(tmp_path):
    shutil.copytree(SAMPLES / "NMNIST", tmp_path / "e")
    first, second = sorted((tmp_path / "e/Train").glob("*/*.bin"))[:2]
    first.write_bytes(b"")
    second.write_bytes(b"1234567")
    with fails(f"recording {first}: 0 bytes .*; recording {second}: 7 bytes"):
        data.load(str(tmp_path / "e"), Path())


def event_array(events, names="xypt", dtypes=("<u2", "<u2", "?", "<i8")):
    """Events as a structured array, in no order."""
    record = np.zeros(len(events.t), dtype=[*zip(names, dtypes, strict=True)])
    for name, values in zip(names, (events.x, events.y, events.p, events.t), strict=True):
        record[name] = values
    return record[np.random.default_rng(0).permutation(len(record))]


def test_links_that_multiply_are_refused(tmp_path):
    for level in range(40):
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(tmp_path / str(level + 1))
    (tmp_path / "40").mkdir()
    with fails("is one of more than 100 ways to a folder; remove some of the links"):
        data.load(str(tmp_path / "0"), Path())


def test_blanks_in_a_line_of_a_series_are_no_values():
    assert series._cells("1, 0.5, , NaN", "a.txt") == ["1", "0.5", "", "NaN"]
    assert series._cells("1,\t0.5,\t,\t0.7", "a.txt") == ["1", "0.5", "", "0.7"]


def test_blanks_and_wide_rows_cost_no_time(tmp_path):
    """Each of these took minutes or hours when every pair of blanks or of rows and columns was tried."""
    with fails("cannot read the rule|write NAME"):
        parse_spec(f"tssl{' ' * 10**6}x", "the rule")
    (tmp_path / "a.tsv").write_text(f"1{' ' * 10**6}2\n" * 4)
    with fails("a.tsv"):
        data.load(str(tmp_path / "a.tsv"), Path())
    (tmp_path / "a.csv").write_text(";".join(["1,5"] * 10**4) + "\n1,5" * 10**4)
    with fails("a.csv"):
        data.load(str(tmp_path / "a.csv"), Path())


def test_a_table_with_a_column_more_than_the_model_has_features_is_doubted(tmp_path):
    text = "3,5.1,3.5\n4,4.9,3.0\n"
    like = Wanted(classes=("0", "1"), shape=(2,), labelled=False, whole=True)
    for first in ("", "id,p,q\n"):
        (tmp_path / "new.csv").write_text(first + text)
        (doubt,) = csv_table.read(tmp_path / "new.csv", like).doubts
        column = "q" if first else "3"
        assert doubt == f"column {column} of new.csv is left out as the class, but holds none of the model's classes"
    (tmp_path / "new.csv").write_text(text.replace("3.0", "1.0"))
    assert not csv_table.read(tmp_path / "new.csv", like).doubts


def test_names_may_be_quoted_behind_a_blank(tmp_path):
    (tmp_path / "a.csv").write_text('"p", "label", "q"\n' + '0.5, "low, wet", 0.25\n0.5, dry, 0.75\n' * 8)
    found = csv_table.read(tmp_path / "a.csv", Wanted())
    assert (found.classes, found.facts["columns"]) == (("dry", "low, wet"), ("p", "q"))


def test_columns_without_a_name_and_a_cell_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("p,q,kind,,\n" + "0.5,0.25,a,,\n0.5,0.75,b,,\n" * 8)
    found = csv_table.read(tmp_path / "a.csv", Wanted())
    assert (found.classes, found.parts["train"].x.shape) == (("a", "b"), (16, 2))
    (tmp_path / "a.csv").write_text("p,q,kind,\n" + "0.5,0.25,a,\n" * 8 + "0.5,0.75,b,c\n" * 8)
    with fails("line 2 has no class in column 4"):
        csv_table.read(tmp_path / "a.csv", Wanted())


def test_a_class_that_the_test_samples_lack_is_named():
    x, y = np.random.default_rng(0).random((302, 3)), np.array([0] * 300 + [1] * 2)
    dataset = data.of_arrays(x, y, classes=["many", "few"])
    assert dataset.notes == ("no sample of class few is held out, so it is not tested; bring test samples",)
    assert not data.of_arrays(x[:40], np.arange(40) % 2).notes


@pytest.mark.parametrize("size", [0x7FFF_F000, 0xFFFF_FFFF])
def test_a_sound_written_through_a_pipe_goes_to_the_end_of_its_file(tmp_path, size):
    folder = Path(spoken(tmp_path / "w"))
    whole = data.load(str(folder), Path()).train.x
    for path in folder.glob("*/*.wav"):
        content = path.read_bytes()
        at = content.index(b"data") + 4
        path.write_bytes(content[:at] + size.to_bytes(4, "little") + content[at + 4 :])
    assert torch.equal(data.load(str(folder), Path()).train.x, whole)


@pytest.mark.parametrize(
    ("polarities", "times", "said"),
    [
        ([1, 2, 1], [0.0, 1.0, 2.0], "polarities are 1 to 2; write 0 for one of the two"),
        ([0, 1, 1], [1.7e9, 1.7e9 + 1, 1.7e9 + 2], "all events have one time; store times as whole microseconds"),
    ],
)
def test_events_that_would_lose_a_polarity_or_their_times_are_refused(polarities, times, said):
    record = np.zeros(3, dtype=[("x", "<i2"), ("y", "<i2"), ("p", "i1"), ("t", "<f4")])
    record["p"], record["t"] = polarities, times
    with fails(said):
        of_fields(record)


def test_classes_by_name_have_no_order():
    x, y = np.random.default_rng(0).random((40, 3)), np.arange(40) % 2
    for classes in ({"dog": 1, "cat": 0}, {"dog", "cat"}):
        with fails(f"classes is of type {type(classes).__name__}; give a list of names, in the order of their numbers"):
            data.of_arrays(x, y, classes=classes)


def test_times_of_events_may_take_the_whole_range_of_their_type():
    record = np.zeros(3, dtype=[("x", "<i2"), ("t", "<i4")])
    record["t"] = [2 * 10**9, -(2 * 10**9), 0]
    assert of_fields(record).t.tolist() == [0, 2 * 10**9, 4 * 10**9]


def test_arrays_of_events_are_read_as_the_same_events_in_other_files(tmp_path):
    forms = [
        ("xypt", ("<u2", "<u2", "?", "<i8")),  # of tonic and Metavision
        (("x", "y", "polarity", "timestamp"), ("<i2", "<i2", "i1", ">u8")),  # of dv-processing, and big-endian
        ("xypt", ("<f4", "<f4", "<f4", "<f8")),
    ]
    for number, path in enumerate(sorted((SAMPLES / "NMNIST").glob("*/[01]/*.bin"))):
        events = read_bin(path.read_bytes())
        names, dtypes = forms[number % 3]
        seconds = events._replace(t=events.t / 1e6) if dtypes[3] == "<f8" else events
        signed = seconds._replace(p=2 * events.p - 1) if dtypes[2] != "?" else seconds
        for folder in ("plain", "arrays"):
            (tmp_path / folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "plain" / path.parent.name / f"{number}.bin")
        np.save(tmp_path / "arrays" / path.parent.name / f"{number}.npy", event_array(signed, names, dtypes))
    plain, arrays = (data.load(str(tmp_path / folder), Path()) for folder in ("plain", "arrays"))
    assert arrays.kind == "events"
    assert arrays.sample_shape == plain.sample_shape
    for part, other in zip(plain.parts.values(), arrays.parts.values(), strict=True):
        assert torch.equal(part.x, other.x)
        assert torch.equal(part.y, other.y)
    one, _, _ = readers.samples(tmp_path / "arrays/1", ("0", "1"), (30, 2, 34, 34), labelled=False)
    assert one.shape == (30, 2, 34, 34)


def test_arrays_of_events_without_rows_or_polarity(tmp_path):
    at = {"row": tmp_path / "row", "one polarity": tmp_path / "grey"}
    for label, number in itertools.product("ab", range(3)):
        for folder in at.values():
            (folder / label).mkdir(parents=True, exist_ok=True)
        t = np.arange(0, 60, 2)
        record = np.zeros(30, dtype=[("t", "<i4"), ("x", "<i2"), ("p", "i1"), ("y", "u1")])
        record["t"], record["x"], record["p"], record["y"] = t, t // 4, 1, number + 2
        np.save(at["row"] / label / f"{number}.npy", record[["t", "x", "p"]])
        np.save(at["one polarity"] / label / f"{number}.npy", record[["t", "x", "y"]])
    row = data.load(str(at["row"]), Path(), time_steps=30)
    assert row.sample_shape == (15,)
    assert torch.equal(row.test.x[0], torch.eye(15, dtype=torch.uint8).repeat_interleave(2, 0))
    grey = data.load(str(at["one polarity"]), Path(), time_steps=30)
    assert grey.sample_shape == (1, 5, 15)
    assert torch.equal(grey.train.x.sum((2, 3)), row.train.x)
    np.save(at["row"] / "a/0.npy", record)
    with fails("recording .*row/./..npy has no field y, and others have one; give all of them one or none"):
        data.load(str(at["row"]), Path())
    np.save(at["one polarity"] / "a/0.npy", record)
    with fails("recording .*grey/./..npy has no field p, and others have one; give all of them one or none"):
        data.load(str(at["one polarity"]), Path())
    np.save(at["one polarity"] / "a/0.npy", record[["t", "x", "y"]])
    with fails("recording .*grey/a/0.npy has no field p, and those of the training had one; give all of them one or none"):
        readers.samples(at["one polarity"], ("a", "b"), (30, 2, 5, 15))


@pytest.mark.parametrize(
    ("names", "dtypes", "change", "said"),
    [
        ("xypt", ("<i2", "<i2", "?", "<i8"), {"x": -1}, "values of x are not all whole numbers from 0 to 16,383"),
        ("xypt", ("<i2", "<f4", "?", "<i8"), {"y": 0.5}, "values of y are not all whole numbers from 0 to 16,383"),
        ("xypt", ("<i2", "<u4", "?", "<i8"), {"y": 2**31}, "values of y are not all whole numbers from 0 to 16,383"),
        ("xypt", ("<i2", "<i2", "?", "<f8"), {"t": np.nan}, "times are not finite, or years apart"),
        ("xypt", ("<i2", "<i2", "?", "<i8"), {"t": -(2**62)}, "times are not finite, or years apart"),
        ("xypt", ("<i2", "<i2", "<M8[us]", "<i8"), {}, "this is no structured array"),
        ("xyps", ("<i2", "<i2", "?", "<i8"), {}, "this is no structured array"),
        ("xqpt", ("<i2", "<i2", "?", "<i8"), {}, "events of two polarities need a field y"),
    ],
)
def test_wrong_arrays_of_events(tmp_path, names, dtypes, change, said):
    places = np.arange(6)
    record = event_array(Events(places, places, places % 2, places), names, dtypes)
    for name, value in change.items():
        record[name][3] = value
    (tmp_path / "e/a").mkdir(parents=True)
    np.save(tmp_path / "e/a/1.npy", record)
    with fails(f"recording .*1.npy: {said}.*; it must be .* array of events with fields x, y, p and t"):
        data.load(str(tmp_path / "e"), Path())


def test_an_array_of_events_that_says_it_is_larger_than_its_file_is_refused(tmp_path):
    (tmp_path / "e/a").mkdir(parents=True)
    with (tmp_path / "e/a/1.npy").open("wb") as file:
        head = {"descr": [("x", "<i8"), ("t", "<i8")], "fortran_order": False, "shape": (2**50,)}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(bytes(1600))
    with fails("recording .*1.npy: mmap length is greater than file size"):
        data.load(str(tmp_path / "e"), Path())
    with fails(
        r"1.npy is one file; put arrays of samples and classes into one file by numpy.savez\(path, x=..., y=...\), or rec"
    ):
        data.load(str(tmp_path / "e/a/1.npy"), Path())
    np.save(tmp_path / "e/a/1.npy", event_array(Events(*[np.array([16_000])] * 4), "xypt"))
    with fails("e: recordings of 30 steps of 16001 × 16001 pixels are too large"):
        data.load(str(tmp_path / "e"), Path())


def test_texts_beside_numbers_as_classes_are_refused_unless_their_order_is_known(tmp_path):
    given = {"x": np.zeros((12, 5)), "y": np.array(["1", "2", "3"])[np.arange(12) % 3], "x_test": np.zeros((2, 5))}
    np.savez(tmp_path / "s.npz", **given, y_test=np.array([1, 2]))  # the classes 1 and 2, or the second and the third?
    with fails("s.npz: one of y and y_test holds texts, the other numbers; write both alike, or add classes"):
        data.load(str(tmp_path / "s.npz"), Path())
    assert data.of_arrays(**given, y_test=[1, 2], classes=["1", "2", "3"]).test.y.tolist() == [1, 2]


def test_two_arrays_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((12, 5)), y=np.arange(12) % 2)
    with zipfile.ZipFile(tmp_path / "s.npz", "a") as archive:
        archive.writestr("x", archive.read("x.npy"))  # numpy reads the one, and the other's size may be checked
    with fails("cannot read .*s.npz: two of its arrays have the same name; write plain arrays"):
        data.load(str(tmp_path / "s.npz"), Path())


@pytest.mark.parametrize("name", ["y", "classes"])
def test_texts_that_are_none_are_refused(name, tmp_path):
    """A number beyond the last character, which NumPy reads, and a trillion texts without room for one."""
    given = {"x": np.zeros((12, 5)), "y": np.arange(12) % 2}
    np.savez(tmp_path / "s.npz", **{**given, name: np.full(12, 0x110000, np.uint32).view("U1")})
    np.savez(tmp_path / "t.npz", **{key: given[key] for key in given.keys() - {name}})
    with zipfile.ZipFile(tmp_path / "t.npz", "a") as archive, archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<U0", "fortran_order": False, "shape": (2**40,)})
    for path in ("s.npz", "t.npz"):
        with fails(f"cannot read .*{path}: .*; write plain arrays"):
            data.load(str(tmp_path / path), Path())


def test_several_mistakes_of_arrays_are_named_at_once():
    x, bad = np.zeros((12, 5)), np.full((12, 5), np.nan)
    with fails("the first in sample 0, feature 0.*y_test has shape .*"):
        data.of_arrays(bad, np.arange(12) % 2, x, np.arange(11))


def test_files_from_strangers_are_checked_before_they_are_read(tmp_path, monkeypatch):
    paths = [iris(tmp_path / "iris.csv"), digit_pictures(tmp_path / "p"), spoken(tmp_path / "w"), vowels_txt(tmp_path)]
    monkeypatch.setattr("tsslbp.utils.machine._free_memory", lambda: 100)
    for path in paths:
        with fails("GiB of memory, and 0.0 GiB are free"):
            data.load(path, Path())


def test_a_sound_needs_the_memory_of_the_rate_that_it_is_brought_to(tmp_path, monkeypatch):
    wavfile.write(tmp_path / "a.wav", 2000, np.zeros(2000, np.int16))
    monkeypatch.setattr("tsslbp.utils.machine._free_memory", lambda: 1_000_000)
    assert len(readers.samples(tmp_path / "a.wav", ("a", "b"), (50, 40), 2000, labelled=False)[0]) == 1
    with fails("a.wav .*GiB of memory, and 0.0 GiB are free"):
        readers.samples(tmp_path / "a.wav", ("a", "b"), (50, 40), 192_000, labelled=False)


@pytest.mark.parametrize(("rate", "said"), [(500, "at least 2000 are needed"), (2_000_000_000, "at most 192000 are read")])
def test_a_sound_of_an_impossible_rate_is_refused(tmp_path, rate, said):
    for label in ("a", "b"):
        for number in range(3):
            (tmp_path / label).mkdir(exist_ok=True)
            wav(tmp_path / label / f"{number}.wav", np.zeros(4000), 8000 if number else rate)
    with pytest.raises(UserError, match=f"0.wav has {rate} samples per second; {said}"):
        data.load(str(tmp_path), tmp_path)


def test_a_quote_that_is_closed_some_lines_later_is_told(tmp_path):
    """Else the rows between would be one cell of a column that nothing looks at."""
    rows = [f"{chr(34) * (i in (10, 20))}{i},{i % 2 + i / 100},{i / 2},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join([",p,q,label", *rows]))
    (tmp_path / "long.csv").write_text("a,b,label\n" + "0.1,0.2,x\n" * 4 + '0.1,"0.2,x\n' + "0.1,0.2,x\n" * 20_000)
    with pytest.raises(UserError, match=r"long.csv: a quote after line 5 is not closed, or a cell is too long; repair it"):
        data.load(str(tmp_path / "long.csv"), tmp_path)
    with pytest.raises(UserError, match=r"t.csv: a quote in line 12 is closed in line 22; repair or remove it"):
        data.load(str(tmp_path / "t.csv"), tmp_path)


def test_blank_lines_at_the_start_do_not_hide_what_parts_columns(tmp_path):
    (tmp_path / "t.csv").write_text("\n\n" + "\n".join(f"{i % 2},{i};{i};{i % 2}" for i in range(60)))
    assert data.load(str(tmp_path / "t.csv"), tmp_path).sample_shape == (2,)


@pytest.mark.parametrize("name", ["loop.npz", "loop.csv", "loop.ts", "loop"])
def test_a_link_that_leads_to_itself_is_told(tmp_path, name):
    (tmp_path / name).symlink_to(name)
    with pytest.raises(UserError, match=re.escape(name)):
        data.load(str(tmp_path / name), tmp_path)


def test_a_comma_in_the_name_of_a_column_parts_no_columns(tmp_path):
    rows = [f"{n % 5},{n % 3};{'ab'[n % 2]}" for n in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["size, cm;class", *rows]) + "\n")
    found = data.load(str(tmp_path / "t.csv"), tmp_path)
    assert found.classes == ("a", "b")
    assert found.train.x.shape[1:] == (1,)


def test_whole_numbers_without_names_are_parted_by_commas(tmp_path):
    np.savetxt(tmp_path / "t.csv", [(n % 7, n % 5, n % 2) for n in range(60)], fmt="%d", delimiter=",")
    found = data.load(str(tmp_path / "t.csv"), tmp_path)
    assert (found.classes, found.train.x.shape[1:]) == (("0", "1"), (2,))
