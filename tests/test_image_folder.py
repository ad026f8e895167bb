"""Pictures that stay in their files: layouts, worker processes, broken pictures, and training that goes on in mid-epoch."""

import errno
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shared import Listens, StopAt, fails, run

from tsslbp import data, training
from tsslbp.data import listed, streamed
from tsslbp.data.streamed import Decoder, Pool
from tsslbp.report import plot
from tsslbp.training import checkpoint
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import prng

PICTURES = Path(__file__).parent / "pictures"
"""Three classes, 8 × 10 pixels: train/CLASS/N.jpg, eight of each, and val/CLASS/N.jpg, three of each."""


def load(folder, validation=None, **how):
    return data.load(f"image-folder:{folder}", "", validation=validation, streaming=data.Streaming(**{"workers": 0, **how}))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(PICTURES, tmp_path / "pictures")


def drawing(name, runs):
    """Settings under which everything that can be drawn for a picture is drawn."""
    sizes = {"network": "4C3-P2-3", "size": 8, "epochs": 2, "batch_size": 5, "precision": "float32", "workers": 0}
    return TrainConfig(data=name, random_crop=0.3, flip=True, shift=1, dropout=0.2, runs_dir=runs, **sizes)


@pytest.fixture
def config(tmp_path, folder):
    return drawing(f"image-folder:{folder}", tmp_path / "runs")


def spoil(path):
    """Leave out the end of a picture."""
    path.write_bytes(path.read_bytes()[:-60])


def same_run(a, b):
    left, right = ([{**record, "seconds": 0, "data_wait": 0} for record in training.history(folder)] for folder in (a, b))
    return left == right and (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def test_what_is_found(folder):
    dataset = load(folder)
    assert {part: len(split) for part, split in dataset.parts.items()} == {"train": 21, "validation": 3, "test": 9}
    assert (dataset.classes, dataset.tested_on, dataset.sample_shape) == (("blue", "green", "red"), "the folder val", (3, 8, 8))
    assert dataset.train.streamed
    assert repr(dataset.train) == f"Streamed(21 pictures of {folder}/train)"
    assert dataset.notes == ("pictures are in colour, brought to 8 × 8 pixels (--size), and read by this process (--workers)",)
    assert {int(label) for label in dataset.test.y} == {0, 1, 2}
    with Image.open(folder / "val/green/1.jpg") as image:
        middle = np.asarray(image)[:, 1:9]
    place = [dataset.test.files.name(number) for number in range(9)].index("green/1.jpg")
    assert np.array_equal(dataset.test.x[place].permute(1, 2, 0), middle)
    assert torch.equal(dataset.test.select(torch.tensor([place])).x[0], dataset.test.x[place])
    both = dataset.train + dataset.validation
    assert both.streamed
    assert torch.equal(both.x[21:], dataset.validation.x)


def test_the_part_to_test_on(folder):
    shutil.copytree(folder / "val", folder / "test")
    dataset = load(folder)
    assert {part: len(split) for part, split in dataset.parts.items()} == {"train": 24, "validation": 9, "test": 9}
    assert dataset.tested_on == "the folder test"
    with fails("--validation is 3; .* has 9 validation samples of its own"):
        load(folder, validation=3)
    assert len(load(folder, validation=0).train) == 24
    flat = load(folder / "train")
    assert {part: len(split) for part, split in flat.parts.items()} == {"train": 17, "validation": 3, "test": 4}
    assert flat.tested_on == "a held-out fifth"


def test_the_layout_of_tiny_imagenet(tmp_path):
    """Files one folder deeper, labels of val in a file, test without labels, and a folder around all."""
    root = tmp_path / "tiny/tiny-imagenet-200"
    for path in sorted((PICTURES / "train").rglob("*.jpg")):
        target = root / "train" / path.parent.name / "images" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    rows = []
    for part in ("val", "test"):
        (root / part / "images").mkdir(parents=True)
        for number, path in enumerate(sorted((PICTURES / "val").rglob("*.jpg"))):
            shutil.copy(path, root / part / "images" / f"{part}_{number}.jpg")
            rows += [f"{part}_{number}.jpg\t{path.parent.name}\t0\t0\t62\t62\n"] if part == "val" else []
    (root / "val/val_annotations.txt").write_text("".join(rows))
    dataset, usual = load(tmp_path / "tiny"), load(PICTURES)
    assert torch.equal(dataset.test.x, usual.test.x)
    assert torch.equal(dataset.test.y, usual.test.y)
    assert dataset.notes[0] == f"{root}/test has no pictures of these classes, so it is left out"


def test_what_cannot_be_used_is_said_in_a_line(folder, tmp_path):
    for name, message in (("", "no folder is named; give image-folder:DIR"), ("nowhere", "there is no folder nowhere")):
        with fails(message):
            load(name)
    with fails("red/0.jpg is one file"):
        load(folder / "train/red/0.jpg")
    (tmp_path / "empty").mkdir()
    with fails("empty has no pictures"):
        load(tmp_path / "empty")
    (folder / "val/pink").mkdir()
    shutil.copy(folder / "val/red/0.jpg", folder / "val/pink/0.jpg")
    with fails("val has class pink; the classes are blue, green, red"):
        load(folder)
    shutil.rmtree(folder / "val/pink")
    shutil.copy(folder / "val/red/0.jpg", folder / "train/loose.jpg")
    with fails(r"train/loose.jpg is in no folder of a class \(1 such pictures\)"):
        load(folder)


def test_without_torchvision(monkeypatch, tmp_path):
    broken = tmp_path / "torchvision/__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    need = r"pictures that stay in files need torchvision: pip install 'tsslbp\[vision\]'"
    with fails(need + r" \(operator torchvision::nms does not exist\)"):
        load(PICTURES)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with fails(need):
        load(PICTURES)


def test_settings_without_effect_are_refused(capsys, folder):
    for given in (["--size", "8"], ["--random-crop", "0.5"], ["--skip-broken"], ["--workers", "1"]):
        code, _, err = run(capsys, "train", "--data", str(folder), *given)
        assert (code, err) == (2, f"tsslbp: {given[0]} has no effect without --data image-folder:DIR or webdataset:SHARDS\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_their_order_and_are_drawn_by_their_keys(workers):
    train = load(PICTURES, random_crop=0.2, workers=workers).train
    order = torch.randperm(len(train)).split(4)
    state = torch.get_rng_state()
    keys = [prng.mix(7, index) for index in order]
    found = list(train.batches(zip(order, keys, strict=True)))
    plain = list(train.batches((index, None) for index in order))
    assert torch.equal(torch.get_rng_state(), state)
    for index, batch, whole in zip(order, found, plain, strict=True):
        assert torch.equal(batch.y, train.y[index])
        assert torch.equal(whole.x, train.x[index])
        assert batch.x.shape == whole.x.shape
        assert (batch.x != whole.x).any()
    again = next(iter(train.batches([(order[2].flip(0), keys[2].flip(0))])))
    assert torch.equal(again.x.flip(0), found[2].x)
    assert not torch.equal(next(iter(train.batches([(order[2], keys[2] + 1)]))).x, found[2].x)


def test_few_batches_are_read_ahead_and_those_in_between_by_this_process():
    train, asked = load(PICTURES, workers=1).train, []

    def requests():
        for number in range(20):
            asked.append(number)
            yield torch.tensor([number]), None

    batches = train.batches(requests())
    next(batches)
    assert len(asked) <= 3
    between = train.x
    assert torch.equal(next(batches).x, between[1:2])
    del batches
    assert torch.equal(train.x, between)  # by the worker again, which has forgotten the rest


def test_training_does_not_depend_on_the_number_of_workers(config):
    folders = [training.train(replace(config, workers=workers, name=str(workers)))[0] for workers in (0, 1, 2)]
    assert same_run(folders[0], folders[1])
    assert same_run(folders[0], folders[2])
    assert not same_run(folders[0], training.train(replace(config, seed=1, name="other"))[0])
    assert all(0 <= record["data_wait"] <= 1 for record in training.history(folders[2]))


def test_workers_are_free_for_the_evaluation_of_an_epoch(config, monkeypatch):
    decoded, busy = Pool.decoded, []

    def noted(pool, requests):
        busy.append(pool._busy)
        return decoded(pool, requests)

    monkeypatch.setattr(Pool, "decoded", noted)
    training.train(replace(config, workers=1, epochs=1, name="free"))
    assert len(busy) > 2
    assert not any(busy)


def test_only_the_data_that_are_trained_on_keep_processes(config):
    """They are read twice to find out whether so few pictures are worth a validation part."""
    _, dataset = training.with_data(replace(config, workers=1), given={"data"})
    assert len(multiprocessing.active_children()) <= 1
    dataset.train.close()


def test_training_goes_on_in_mid_epoch(config):
    whole, _ = training.train(replace(config, name="whole"))
    with pytest.raises(training.Interrupted):
        training.train(replace(config, name="cut", workers=1), StopAt(2, 2))
    assert not multiprocessing.active_children()
    cut, _ = training.train(replace(config, name="cut", workers=2, resume=True))
    assert same_run(whole, cut)
    red = Path(config.data.partition(":")[2]) / "train/red"
    shutil.copy(red / "1.jpg", red / "2.jpg")
    with fails("checkpoint .* is of other samples than image-folder:.* has now"):
        training.train(replace(config, name="cut", epochs=3, resume=True))


@pytest.mark.slow
def test_the_command_line(config, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = ["--data", f"image-folder:{folder}", "--epochs", "2", "--name", "one", "--workers", "1"]
    code, _, err = run(capsys, "train", *settings, "--random-crop", "0.5", "--learning-rate", "0.005")
    assert code == 0, err
    assert "3 × 8 × 8 in 3 classes (blue, green, red)" in err
    assert " % of the time for data  " in err
    code, out, _ = run(capsys, "evaluate", "runs/one")
    assert code == 0
    assert "on the folder val, 9 samples\n" in out
    assert run(capsys, "evaluate", "runs/one", "--early-exit")[0] == 0
    code, _, err = run(capsys, "evaluate", "runs/one", "--all", str(folder / "train"))
    assert code == 0
    assert f"of the training samples have the names and sizes of samples in {folder}/train; they must not be the same" in err
    assert run(capsys, "evaluate", "runs/one", "--all", str(folder / "val"), "--workers", "0")[0] == 0
    assert run(capsys, "report", "runs/one")[0] == 0
    assert run(capsys, "export", "runs/one", "out/model.safetensors")[0] == 0
    assert training.load(tmp_path / "out/model.safetensors").data == "image-folder:pictures"
    code, out, err = run(capsys, "predict", "out/model.safetensors", str(folder / "val"), "--out", "answers.csv")
    assert (code, err) == (0, "")
    rows = (tmp_path / "answers.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [f"{c}/{n}.jpg" for c in ("blue", "green", "red") for n in range(3)]
    dataset, model = load(folder), training.load(tmp_path / "runs/one")
    answers = [model.classes[n] for n in model.answers(dataset.test).tolist()]
    assert [row.split(",")[1] for row in rows[1:]] == answers
    code, out, _ = run(capsys, "predict", "runs/one", str(folder / "val/red/1.jpg"))
    assert (code, out.split()[0]) == (0, answers[7])
    code, _, err = run(capsys, "predict", "runs/one", str(folder / "val"), "--invert", "yes")
    assert code == 2
    assert "--invert has no effect: the model takes pictures as image-folder:" in err
    assert run(capsys, "evaluate", "runs/one", "--data", "digits", "--workers", "1")[0] == 2


def test_data_that_have_moved_are_asked_for(config, capsys):
    folder, _ = training.train(replace(config, epochs=1))
    old = Path(config.data.removeprefix("image-folder:"))
    moved = f"image-folder:{old.rename(old.with_name('moved'))}"
    code, _, err = run(capsys, "evaluate", str(folder))
    assert (code, err.endswith("on which the model was trained; say where it is with --data or --data-root\n")) == (2, True)
    code, _, err = run(capsys, "report", str(folder))
    assert (code, "resume the run with --data (one that has ended trains no more)" in err) == (2, True)
    training.train(replace(config, epochs=1, data=moved, resume=True, name=folder.name))
    assert run(capsys, "evaluate", str(folder))[0] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(config, capsys, monkeypatch, workers):
    folder = Path(config.data.partition(":")[2])
    spoil(folder / "train/green/5.jpg")
    with fails("cannot read .*train/green/5.jpg as an image .* with --skip-broken"):
        training.train(replace(config, workers=workers))
    assert not config.runs_dir.exists()
    monkeypatch.setattr("tsslbp.data.dataset.SAMPLES_LOOKED_AT", 2)  # so that it is met in training
    monkeypatch.setattr("tsslbp.data.listed.SAMPLES_LOOKED_AT", 2)
    given = ["--network", "4C3-P2-3", "--workers", str(workers), "--runs-dir", str(config.runs_dir)]
    code, _, err = run(capsys, "train", "--data", config.data, *given)
    (line,) = [line for line in err.splitlines() if line.startswith("tsslbp: ")]
    assert code == 2
    assert "train/green/5.jpg" in line
    assert err.splitlines()[-1] == line


def test_broken_pictures_are_left_out(config, capsys, monkeypatch):
    folder = Path(config.data.partition(":")[2])
    spoil(folder / "train/green/5.jpg")
    (folder / "train/red/2.jpg").write_bytes(b"no picture")
    (folder / "val/blue/1.jpg").write_bytes(b"")
    with_them = replace(config, skip_broken=True, name="kept", workers=1)
    trained, final = training.train(with_them)
    assert [final[f"{part}_samples"] for part in ("train", "validation", "test")] == [19, 3, 8]
    notes = training.with_data(with_them)[1].notes
    assert notes[:2] == (
        f"2 of 24 pictures of {folder}/train cannot be read and are left out: green/5.jpg, red/2.jpg",
        f"1 of 9 pictures of {folder}/val cannot be read and are left out: blue/1.jpg",
    )
    with monkeypatch.context() as patch:
        patch.setattr(streamed.Streamed, "broken", None)  # known from before
        assert training.with_data(with_them)[1].notes == notes
    shutil.copy(folder / "val/blue/0.jpg", folder / "val/blue/1.jpg")
    assert len(load(folder, skip_broken=True).test) == 9
    (folder / "val/blue/1.jpg").write_bytes(b"")
    code, _, err = run(capsys, "evaluate", str(trained))
    assert code == 2
    assert "train/red/2.jpg'); mend or remove it, or leave out all that cannot be read with --skip-broken" in err
    code, out, err = run(capsys, "evaluate", str(trained), "--skip-broken")
    assert (code, err) == (0, "")
    assert "on the folder val, 8 samples\n" in out
    (axes,) = plot.confusion(trained).axes
    assert sum(int(text.get_text()) for text in axes.texts) == 8
    assert run(capsys, "export", str(trained), str(trained / "model.nir"), "--check", "3")[0] == 0
    code, out, err = run(capsys, "predict", str(trained), str(folder / "val"), "--skip-broken", "--workers", "1")
    assert (code, len(out.splitlines())) == (0, 8)
    assert "1 of 9 pictures" in err
    for path in folder.glob("*/*/*.jpg"):
        path.write_bytes(b"")
    with fails("has class|no pictures|has 0 samples"):
        load(folder, skip_broken=True)


@pytest.mark.parametrize("way", ["mended", "removed", "left out"])
def test_a_broken_test_picture_costs_no_training(config, way):
    """It is first read when the network is trained."""
    config = replace(config, name="run", epochs=1)
    path = Path(config.data.partition(":")[2]) / "val/red/1.jpg"
    spoil(path)
    with fails(
        "val/red/1.jpg .* the network is trained, so then measure it with: tsslbp train --config .*run/config.toml --resume"
    ):
        training.train(config)
    weights = training.load(config.runs_dir / "run").network.state_dict()
    if way == "mended":
        shutil.copy(path.with_name("2.jpg"), path)
    elif way == "removed":
        path.unlink()
    folder, final = training.train(replace(config, resume=True, skip_broken=way == "left out"), progress := Listens())
    assert final["test_samples"] == 8 + (way == "mended")
    assert progress.warnings == ["the test samples are not those that the run began with"]
    model = training.load(folder)
    assert all(torch.equal(weights[name], weight) for name, weight in model.network.state_dict().items())
    streaming = data.Streaming(workers=0, skip_broken=way == "left out")
    samples = training.samples_to_test(model, None, Path(), streaming=streaming)
    assert samples.warnings == []
    assert model.accuracy(samples.split) == final["test_accuracy"]
    config = replace(config, name="measured", test_every=1)  # then its test samples stay as they are
    training.train(replace(config, skip_broken=way == "left out"))
    shutil.copy(path.with_name("0.jpg"), path)
    with fails("checkpoint .* is of other samples than"):
        training.train(replace(config, resume=True))


def test_what_the_system_does_not_let_be_read_is_not_broken(folder, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(folder.parent / "cache"))
    spoil(folder / "train/green/5.jpg")
    really = Image.open

    def denied(file, *arguments, **options):
        if str(file).endswith("red/2.jpg"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return really(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", denied)
        for skip in (True, False):
            with fails("cannot read .*train/red/2.jpg: Permission denied; make it readable, and try again"):
                load(folder, skip_broken=skip)
    dataset = load(folder, skip_broken=True)
    assert len(dataset.train) + len(dataset.validation) == 23


def test_a_picture_that_is_too_thin_is_broken(tmp_path):
    Image.new("RGB", (1, 60000)).save(tmp_path / "thin.png")
    for least, keys in ((0.0, None), (0.5, [1])):
        _, faults = Decoder(224, least)[[str(tmp_path / "thin.png")], keys]
        said = f"{tmp_path}/thin.png is 1 × 60000 pixels, too thin to be brought to 224 × 224"
        assert [fault.text for fault in faults] == [said]


def test_which_pictures_are_too_thin_depends_on_the_size(folder):
    Image.new("RGB", (1, 3000)).save(
        folder / "train" / sorted(path.name for path in (folder / "train").iterdir())[0] / "thin.png"
    )
    sizes = [len(load(folder, 0, skip_broken=True, size=size).train) for size in (32, 512, 32)]
    assert sizes == [25, 24, 25]


def test_baselines_read_no_pictures_that_they_do_not_need(folder, monkeypatch):
    shutil.copytree(folder / "val", folder / "test")
    dataset = load(folder)
    assert [len(part) for part in dataset.parts.values()] == [24, 9, 9]
    monkeypatch.setattr(training.baselines, "MOST", 0)
    whole = streamed.Streamed.x
    one = property(lambda part: whole.fget(part) if len(part) == 1 else pytest.fail("all were read"))
    monkeypatch.setattr(streamed.Streamed, "x", one)
    assert training.baselines.baselines(dataset).keys() == {"majority_accuracy"}
    data.check(dataset, "it")


def test_pictures_in_files_are_no_samples_of_a_model_of_fractions(tmp_path):
    x, y = np.random.default_rng(0).random((30, 3, 8, 8), np.float32), np.array(["blob", "cross", "ring"] * 10)
    y = np.array(sorted(path.name for path in (PICTURES / "train").iterdir()))[np.arange(30) % 3]
    np.savez(tmp_path / "x.npz", x=x, y=y)
    run, _ = training.train(TrainConfig(data=str(tmp_path / "x.npz"), network="3", epochs=1, runs_dir=tmp_path))
    with fails("values of image-folder:.* run from 0 to 2.. .uint8.; .* bring them to the same units"):
        training.samples_to_test(training.load(run), f"image-folder:{PICTURES}", tmp_path)


def test_early_exit_takes_as_few_at_once_as_evaluation(config, monkeypatch):
    run, _ = training.train(replace(config, epochs=1, name="run"))
    model, asked = training.load(run), []
    samples = training.samples_to_test(model, None, Path()).split
    monkeypatch.setattr(training.Model, "_at_once", lambda self, samples: asked.append(samples) or 4)
    model.decide(samples)
    model.answers(samples)
    assert asked == [samples, samples]


def test_other_pictures_of_the_same_names_and_sizes_are_evaluated(tmp_path, config):
    """As those of cameras that count from 1 and do not compress."""
    rng = np.random.default_rng(0)
    for number, part in itertools.product(range(24), ("new", "bmp/train")):
        path = tmp_path / part / "xy"[number % 2] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    shutil.copytree(tmp_path / "new", tmp_path / "bmp/val")
    config = replace(config, data=f"image-folder:{tmp_path / 'bmp'}", network="2", epochs=1, name="bmp")
    folder, _ = training.train(config, progress := Listens())
    alike = "about 100 % of the training samples have the names and sizes of"
    assert progress.warnings[0].startswith(f"{alike} test samples; if these are copies, the test accuracy is too high:")
    samples = training.samples_of_file(training.load(folder), tmp_path / "new", data.Streaming(workers=0))
    assert samples.warnings[-1] == f"{alike} samples in {tmp_path / 'new'}; they must not be the same pictures"


def test_damaged_pictures_fail_as_broken_ones(tmp_path):
    """Whatever is wrong with a file, the decoder says so and goes on."""
    whole, decoder = (PICTURES / "train/red/0.jpg").read_bytes(), Decoder(8, 0.5)
    rng = np.random.default_rng(0)
    for number in range(150):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(damaged), 5):
            damaged[at] = rng.integers(256)
        (tmp_path / f"{number}.jpg").write_bytes(damaged)
    x, faults = decoder[[str(tmp_path / f"{number}.jpg") for number in range(150)], list(range(150))]
    assert x.shape == (150, 3, 8, 8)
    assert 0 < len(faults) < 150
    assert not any("\n" in fault.text for fault in faults)


@pytest.mark.parametrize(("parts", "broken"), [(1, False), (5, False), (5, True)])
def test_a_run_whose_pictures_are_away_or_broken_for_a_while_loses_nothing(parts, broken, folder, config):
    """As on the disk of another machine. In parts, running statistics have changed by then."""
    config = replace(config, name="whole", network="4C3n-P2-3", accumulate=parts)
    whole, _ = training.train(config)
    away, taken = folder / "train/red/5.jpg", folder / "5.jpg"

    class Takes(training.Progress):
        def stepped(self, epoch, step, loss, accuracy):
            if (epoch, step) == (2, 1):
                away.rename(taken)
                if broken:
                    away.write_bytes(b"no picture")

    said = "as an image .* --skip-broken; nothing is lost, once the picture is as it was, go" if broken else "lost, go"
    with fails(f"{said} on with: tsslbp train .*away.*--resume"):
        training.train(replace(config, name="away"), Takes())
    state = checkpoint.unpack((config.runs_dir / "away/checkpoint.pt").read_bytes())["state"]
    assert state["epoch"] == 2
    taken.rename(away)
    assert same_run(whole, training.train(replace(config, name="away", resume=True))[0])


@pytest.mark.slow
def test_a_worker_that_is_killed_is_noticed():
    train = load(PICTURES, workers=1).train
    batches = train.batches((torch.tensor([number % 20]), None) for number in range(1000))
    next(batches)
    (worker,) = train.pool._loaders[0]._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.3)  # in the midst of something else, nothing is raised
    with fails("a process that reads pictures has ended .* give fewer --workers, or --workers 0"):
        list(batches)
    assert torch.equal(train.x, load(PICTURES).train.x)  # with new ones


def test_workers_end_with_the_data():
    train = load(PICTURES, workers=2).train
    assert len(train.x) == 21
    workers = train.pool._loaders[0]._iterator._workers
    del train
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.slow
def test_workers_need_neither_sockets_nor_shared_memory(tmp_path):
    """A name of more than 107 bytes is none for a socket."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    program = f"""
from tsslbp import data
print(len(data.load("image-folder:{PICTURES}", "", streaming=data.Streaming(workers=1)).train.x))
"""
    here = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([sys.executable, "-c", program], env=here, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "21\n"), done.stderr


@pytest.mark.slow
def test_workers_end_with_the_program():
    """Also where somebody still holds batches that they were asked for."""
    program = f"""
import torch
from tsslbp import data
train = data.load("image-folder:{PICTURES}", "", streaming=data.Streaming(workers=2)).train
batches = train.batches((torch.tensor([number % 20]), None) for number in range(100))
next(batches)
print(*(worker.pid for worker in train.pool._loaders[0]._iterator._workers), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    workers = process.stdout.readline().split()
    assert process.wait(timeout=25) == 0
    assert len(workers) == 2
    assert not any(Path(f"/proc/{number}").exists() for number in workers)


@pytest.mark.slow
def test_a_signal_to_all_processes_stops_a_run_after_a_checkpoint(config, tmp_path):
    """As Ctrl-C in a terminal and schedulers send it."""
    command = [sys.executable, "-m", "tsslbp", "train", "--data", config.data, "--epochs", "100000", "--workers", "1"]
    process = subprocess.Popen(
        [*command, "--network", "3"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "runs/custom/checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped; go on with: tsslbp train --config runs/custom/config.toml --resume"


def test_a_pool_decodes_what_it_is_asked_for():
    paths = [str(PICTURES / f"train/red/{number}.jpg") for number in range(4)]
    here, there = (list(Pool(Decoder(6, 0.0), workers).decoded([(paths[:2], None), (paths[2:], None)])) for workers in (0, 1))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(here, there, strict=True))


def test_names_of_any_bytes_are_read(folder):
    """As file systems have them that know no UTF-8."""
    odd = os.fsencode(folder / "train/red") + b"/\xff.jpg"
    shutil.copy(os.fsencode(folder / "train/red/0.jpg"), odd)
    dataset = load(folder, workers=1)
    assert len(dataset.train) + len(dataset.validation) == 25
    assert data.Facts.of(dataset).seen(dataset.train) == (1, False)
    json.dumps(data.Facts.of(dataset).to_dict())


def test_defaults_follow_the_cores_and_the_processes_that_share_them(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert streamed.default_workers() == 5
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert streamed.default_workers() == 0
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert streamed.default_workers() == streamed.MOST_WORKERS


def test_pictures_of_several_sizes(folder):
    Image.new("RGB", (30, 20)).save(folder / "train/red/0.jpg")
    assert load(folder).sample_shape == (3, listed.SIZE, listed.SIZE)
    assert load(folder, size=5).sample_shape == (3, 5, 5)


def test_a_class_without_pictures_is_refused_as_in_memory(folder):
    (folder / "train/violet").mkdir()
    for name in (f"image-folder:{folder}", str(folder)):
        with fails(r"folder .*violet has no pictures \(.png.*\); add some or remove it"):
            data.load(name, Path())
