"""A run's results, its files, its determinism, and what happens when it is interrupted or goes wrong."""

import errno
import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import Listens, StopAt, fails

import tsslbp
from tsslbp import UserError, cli, data, losses, metrics, report, study, training
from tsslbp.data import streamed
from tsslbp.data.filters import Filters
from tsslbp.network import model_file
from tsslbp.study import runs
from tsslbp.training import checkpoint, layer_rates, loop
from tsslbp.training.inputs import Inputs
from tsslbp.training.settings import GROUPS, TrainConfig
from tsslbp.utils import distributed, files, machine
from tsslbp.utils.fields import FLOAT32_MAX


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["network"]


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = final_weights(one), final_weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_run_leaves_a_complete_folder(quick):
    folder, final = training.train(quick(epochs=3, test_every=1))
    assert {path.name for path in folder.iterdir()} == {"config.toml", "metrics.jsonl", "model.safetensors", "checkpoint.pt"}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record.get("epoch") for record in records] == [1, 2, 3, None]
    assert records[-1] == final
    assert final["event"] == "final"
    best = max(records[:-1], key=lambda record: record["validation_accuracy"])
    assert (final["best_epoch"], final["test_accuracy"]) == (best["epoch"], best["test_accuracy"])
    assert final["best_test_accuracy"] == max(record["test_accuracy"] for record in records[:-1])
    assert final["seconds"] > 0


@pytest.mark.parametrize("network", ["30-10", "20n-10"])
def test_the_test_set_is_measured_once_with_the_weights_that_are_kept(quick, monkeypatch, network):
    config = quick(epochs=3, network=network, average=0.8)
    always, expected = training.train(replace(config, name="always", test_every=1))
    measured, accuracy = [], training.Model.accuracy
    monkeypatch.setattr(training.Model, "accuracy", lambda model, part: measured.append(len(part)) or accuracy(model, part))
    folder, final = training.train(replace(config, name="once"))
    assert measured == [240] * 3 + [360]
    assert (final["best_test_accuracy"], final["best_test_epoch"]) == (None, None)
    for key in ("test_accuracy", "best_epoch", "validation_accuracy"):
        assert final[key] == expected[key]
    assert_same_weights(always, folder)
    assert [record["test_accuracy"] for record in training.read_metrics(folder)[0]] == [None] * 3
    second = [record["test_accuracy"] for record in training.read_metrics(training.train(replace(config, test_every=2))[0])[0]]
    assert second == [None, training.read_metrics(always)[0][1]["test_accuracy"], None]


def test_a_run_leaves_the_global_generator_and_foreign_handlers_alone(quick, monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # as where Python is part of another program
    monkeypatch.setattr(signal, "signal", lambda number, handler: pytest.fail("a handler was replaced"))
    training.train(quick(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_how_often_the_test_set_is_measured_may_change_on_the_way(quick):
    config = quick(name="run", epochs=1)
    training.train(config)
    folder, final = training.train(replace(config, epochs=2, resume=True, test_every=1))
    first, second = (record["test_accuracy"] for record in training.read_metrics(folder)[0])
    assert first is None is final["best_test_accuracy"]
    assert second is not None
    assert "best test epoch" not in report.write(folder).read_text()


@pytest.mark.parametrize("best", [1, 2])
@pytest.mark.parametrize(
    "spoilt", [b"", b"weights", b"A" * 100, None, "of another network", "of another run", "by a flipped bit"]
)
def test_a_run_is_measured_with_the_weights_it_wrote(quick, monkeypatch, best, spoilt):
    config = quick(name="run", epochs=2, average=0.9)
    if spoilt in ("of another network", "of another run"):
        network = "20-10" if spoilt == "of another network" else config.network
        other, _ = training.train(replace(config, name="other", network=network, epochs=1, seed=5))
        spoilt = (other / "model.safetensors").read_bytes()
    measured = iter([60.0, {1: 50.0, 2: 70.0}[best], 80.0])
    monkeypatch.setattr(training.Model, "accuracy", lambda model, samples: next(measured))
    folder, _ = training.train(config)
    monkeypatch.undo()
    path = folder / "model.safetensors"
    own = path.read_bytes()
    if spoilt == "by a flipped bit":
        spoilt = own[:-1] + bytes([own[-1] ^ 128])  # the sign of a weight
    path.write_bytes(spoilt) if spoilt is not None else path.unlink()
    with pytest.raises(UserError, match=r"model.safetensors"):
        training.load(folder)
    if best == 1:
        with fails(r"model.safetensors.*train again under another --name"):
            training.train(replace(config, resume=True))
    else:  # the checkpoint has them
        training.train(replace(config, resume=True))
        assert path.read_bytes() == own


def test_rows_with_the_best_test_epoch_refuse_runs_that_do_not_know_it(quick):
    config = quick(name="row", epochs=1)
    training.train(config)
    with pytest.raises(UserError, match="began without --test-every 1"):
        runs.finished(replace(config, test_every=1), lambda name: training.Progress())
    with pytest.raises(UserError, match="--test-every is 2; it must be 1 with --choose test"):
        quick(choose="test", test_every=2)


def test_model_loads_alone_and_gives_the_final_accuracy(quick):
    folder, final = training.train(quick())
    elsewhere = folder.parent.parent / "alone.safetensors"
    elsewhere.write_bytes((folder / "model.safetensors").read_bytes())
    model = training.load(elsewhere)
    test = data.load("digits", Path("nowhere")).test
    assert model.accuracy(test) == final["test_accuracy"]
    assert model.classes == tuple("0123456789")


def test_training_learns_the_digits(quick):
    _, final = training.train(quick(epochs=8, network="100-10", batch_size=30, learning_rate=5e-3, schedule="one-cycle"))
    assert final["test_accuracy"] > 90


def test_same_seed_same_weights_other_seed_others(quick):
    runs = {name: training.train(quick(name=name, seed=seed, dropout=0.2))[0] for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    assert_same_weights(runs["a"], runs["b"])
    assert not torch.equal(*(final_weights(runs[name])["layers.linear1.weight"] for name in "ac"))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_average_of_the_weights_is_judged_and_kept(quick, share):
    config, seen = quick(epochs=2, average=share, choose="last"), []

    class Watch(training.Progress):
        def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
            seen.append([weight.detach().clone() for weight in model.network.parameters()])

    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    training.Loop(config, dataset, model, optimizer, training.RunState(), Watch(), lambda: None).run(lambda record: None)
    expected = seen[0]
    assert len(seen) == 24
    for done, weights in enumerate(seen[1:], 1):
        decay = min(share, (1 + done) / (10 + done))  # 0.3 from the fourth step on, never 0.9
        expected = [decay * average + (1 - decay) * weight for average, weight in zip(expected, weights, strict=True)]

    averaged, final = training.train(replace(config, name="averaged"))
    plain, _ = training.train(replace(config, name="plain", average=0.0))
    kept = training.load(averaged)
    for ours, average in zip(kept.network.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, average)
    assert final["test_accuracy"] == kept.accuracy(dataset.test)
    own = training.load(plain).network.parameters()
    assert not any(map(torch.equal, kept.network.parameters(), own))
    for weight, same in zip(final_weights(averaged).values(), final_weights(plain).values(), strict=True):
        assert torch.equal(weight, same)  # training itself goes on from its own weights


def test_ctrl_c_after_the_last_step_is_heard(quick):
    class PressCtrlC(training.Progress):
        def finished_epoch(self, record: dict) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    config = quick(name="cut", epochs=1)
    with pytest.raises(training.Interrupted):
        training.train(config, PressCtrlC())
    assert training.train(replace(config, resume=True))[1]["epochs"] == 1


def test_ctrl_c_in_the_last_measurement_says_how_to_go_on(quick, monkeypatch):
    config = quick(name="cut", epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(training.records, "summary", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(training.Interrupted, match="cut"):
            training.train(config)
    assert training.train(replace(config, resume=True))[1]["epochs"] == 1


@pytest.mark.parametrize("at_step", [1, 7, 12])
def test_interrupted_run_resumes_to_the_same_weights(quick, at_step):
    config = quick(name="cut", dropout=0.3, shift=1, flip=True, encoding="poisson", schedule="cosine", average=0.9)
    whole, expected = training.train(replace(config, name="whole"))
    with pytest.raises(training.Interrupted) as stop:
        training.train(config, StopAt(2, at_step))
    cut = config.runs_dir / "cut"
    assert stop.value.args == (cut,)
    _, final = training.train(replace(config, resume=True))
    assert_same_weights(whole, cut)
    assert {**final, "seconds": 0} == {**expected, "seconds": 0}
    records, others = (training.read_metrics(folder)[0] for folder in (whole, cut))
    assert [{**record, "seconds": 0} for record in records] == [{**record, "seconds": 0} for record in others]
    assert all(record["rates"].keys() == record["fallback"].keys() == {"linear1", "output"} for record in records)


def changed(path):
    return path.stat().st_mtime_ns if path.exists() else 0


def has_ended(folder):
    log = folder / "metrics.jsonl"
    return log.exists() and '"event": "final"' in log.read_text()


@pytest.mark.parametrize("times", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_and_resume_equals_the_whole_run(quick, times):
    epochs = 8 * times // 3
    config = quick(name="whole", epochs=epochs, dropout=0.2)
    started = time.monotonic()
    whole, _ = training.train(config)
    duration = time.monotonic() - started
    train = "import sys, time; from tsslbp import cli; cli.main(['train', '--name', 'killed', '--config', *sys.argv[1:]])"
    config_file = str(whole / "config.toml")
    killed = whole.parent / "killed"
    moments = random.Random(0)
    for _ in range(times):
        resume = ["--resume"] if (killed / "config.toml").exists() else []
        before = changed(killed / "checkpoint.pt")
        # A run that ends before its moment has come is killed all the same: no machine is too fast or too slow for this.
        command = [sys.executable, "-c", f"{train}; time.sleep(1e6)", config_file, *resume]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not (killed / "config.toml").exists():
            assert process.poll() is None
            time.sleep(0.01)
        while resume and changed(killed / "checkpoint.pt") == before and not has_ended(killed):  # it has not begun to train
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(moments.uniform(0, duration / times))
        assert process.poll() is None
        process.kill()
        process.wait()
    assert cli.main(["train", "--name", "killed", "--config", config_file, "--resume"]) == 0
    assert_same_weights(whole, killed)
    records, final = training.read_metrics(killed)
    assert [record["epoch"] for record in records] == list(range(1, epochs + 1))
    assert final is not None


def test_a_run_that_goes_on_before_its_first_checkpoint_begins_with_the_given_weights_again(quick):
    class Break(training.Progress):
        def started(self, *_: int) -> None:
            raise RuntimeError

    first, _ = training.train(quick(name="first"))
    config = quick(name="cut", init=first, epochs=1, seed=1)
    whole, _ = training.train(replace(config, name="whole"))
    with pytest.raises(RuntimeError):
        training.train(config, Break())
    assert [path.name for path in (config.runs_dir / "cut").iterdir()] == ["config.toml"]
    training.train(replace(config, resume=True))
    assert_same_weights(whole, config.runs_dir / "cut")


@pytest.mark.parametrize(("number", "told"), [(signal.SIGINT, 1), *((number, 0) for number in distributed.STOPS)])
def test_a_second_ctrl_c_stops_at_once_and_a_second_sigterm_does_not(number, told):
    """Slurm and torchrun both send the latter."""
    heard, stop = [], threading.Event()
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with loop._stop_request(stop):
            signal.raise_signal(number)
            signal.raise_signal(number)
    finally:
        signal.signal(number, before)
    assert stop.is_set()
    assert len(heard) == told


@pytest.mark.parametrize("number", [signal.SIGINT, *distributed.STOPS])
def test_only_a_terminal_that_closes_is_ignored_where_it_was(number):
    """As under nohup; Ctrl-C is ignored in what a script starts with &, and must stop it."""
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, *distributed.STOPS)}  # nohup may run this
    signal.signal(number, signal.SIG_IGN)
    stop = threading.Event()
    try:
        with loop._stop_request(stop):
            signal.raise_signal(number)
        streamed._outlive_signals(0)
        lives = [each for each in distributed.STOPS if signal.getsignal(each) is signal.SIG_IGN]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    hangs_up = number.name == "SIGHUP"  # which Windows does not have
    assert stop.is_set() == (not hangs_up)
    assert lives == ([number] if hangs_up else [])


def test_constant_schedule_can_be_continued_for_more_epochs(quick):
    longer, _ = training.train(quick(name="longer", epochs=3))
    short = quick(name="short", epochs=2)
    training.train(short)
    folder, _ = training.train(replace(short, epochs=3, resume=True))
    assert_same_weights(longer, folder)
    assert "epochs = 3" in (folder / "config.toml").read_text()
    with pytest.raises(UserError, match=r"other settings \(learning_rate\)"):
        training.train(replace(short, learning_rate=1.0, resume=True))


def test_a_whole_number_in_the_settings_is_the_same_as_a_fraction(quick):
    """The recipes say tau_m=5, which the command line reads back as 5.0."""
    folder, _ = training.train(quick(name="whole", epochs=1, tau_m=5))
    assert "tau_m = 5\n" in (folder / "config.toml").read_text()
    training.train(quick(name="whole", epochs=1, tau_m=5.0, resume=True))
    with pytest.raises(UserError, match=r"other settings \(tau_m\)"):
        training.train(quick(name="whole", epochs=1, tau_m=6.0, resume=True))


def test_a_run_from_before_a_setting_existed_goes_on_at_its_default(quick):
    config = quick(name="old", epochs=1)
    folder, _ = training.train(config)
    path = folder / "config.toml"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("reset")))
    content = torch.load(folder / "checkpoint.pt", weights_only=True)
    content["architecture"] = content["architecture"].replace('"reset": true, ', "")
    assert "reset" not in content["architecture"]
    (folder / "checkpoint.pt").write_bytes(training.checkpoint.pack(content))
    with pytest.raises(UserError, match=r"other settings \(reset\)"):
        training.train(replace(config, epochs=2, resume=True, reset=False))
    training.train(replace(config, epochs=2, resume=True))
    assert "reset = true" in path.read_text()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1] * 5), ("cosine", [1, 0.976, 0.905, 0.5, 0]), ("one-cycle", [0.04, 0.52, 1, 0.691, 0])],
)
def test_schedules_on_their_way(quick, schedule, expected):
    config, dataset = training.with_data(quick(schedule=schedule, epochs=100))
    run = loop.Loop(config, dataset, None, None, training.checkpoint.RunState(), training.Progress(), lambda: None)
    factors = []
    for run.state.epoch in (1, 11, 21, 51, 101):
        factors.append(run._rate_factor(0))
    assert factors == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("loss", "share"), [("softmax", 1), ("count", 3)])
def test_weights_of_samples_make_a_mean_a_weighted_mean(quick, loss, share):
    config, dataset = training.with_data(quick(loss=loss))
    weights = torch.rand(len(dataset.train))
    weights *= 3 / weights.mean()
    run = loop.Loop(config, dataset, None, None, training.checkpoint.RunState(), training.Progress(), lambda: None, weights)
    torch.testing.assert_close(run.weights, weights * share / 3)


@pytest.mark.parametrize("loss", ["spike", "count", "softmax", "kernel(target=double)"])
def test_every_loss_trains(quick, loss):
    _, final = training.train(quick(epochs=4, batch_size=30, learning_rate=5e-3, loss=loss))
    assert final["test_accuracy"] > 30  # chance is 10


def test_linear_maps_in_bfloat16_train(quick):
    config = quick(epochs=4, batch_size=30, learning_rate=5e-3)
    exact, _ = training.train(replace(config, name="exact"))
    folder, final = training.train(replace(config, precision="bfloat16"))
    assert final["test_accuracy"] > 30  # chance is 10
    weights = final_weights(folder)
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert not torch.equal(weights["layers.output.weight"], final_weights(exact)["layers.output.weight"])


@pytest.mark.parametrize("encoding", ["poisson", "latency"])
def test_spike_encoders_train(quick, encoding):
    _, final = training.train(quick(epochs=4, batch_size=30, time_steps=8, learning_rate=5e-3, encoding=encoding))
    assert final["test_accuracy"] > 30  # chance is 10


def test_own_sequences_train_and_load(quick, tmp_path):
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = (generator.random((120, 7, 9)) < 0.1 + 0.3 * (np.arange(9) // 3 == y[:, None, None])).astype(np.float32)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    config = quick(data=str(tmp_path / "own.npz"), network="20-3", time_steps=7, epochs=15, batch_size=10, learning_rate=1e-2)
    folder, final = training.train(config)
    assert final["test_accuracy"] > 60
    assert training.load(folder).inputs.sequence
    images = {"shift": 1}, {"flip": True}, {"cutout": 2}
    for changes in (*images, {"time_steps": 5}, {"encoding": "poisson"}, {"network": "20-4"}):
        with pytest.raises(UserError, match="--" + next(iter(changes)).replace("_", "-")):
            training.train(replace(config, name="other", **changes))
    assert not (config.runs_dir / "other").exists()


def test_weights_stay_within_the_clamp(quick):
    folder, _ = training.train(quick(epochs=1, learning_rate=0.5, weight_clamp=0.25))
    largest = max(float(weight.abs().max()) for weight in final_weights(folder).values())
    assert largest == 0.25


def test_augmented_images_train(quick, samples):
    config = quick(data="cifar10", data_root=samples, network="4C3-P2-10", shift=4, flip=True, epochs=1, batch_size=20)
    plain, _ = training.train(replace(config, shift=0, flip=False, name="plain"))
    folder, _ = training.train(config)
    assert not torch.equal(*(final_weights(run)["layers.conv1.weight"] for run in (plain, folder)))


def test_what_is_cut_out_is_0_for_the_network(quick, samples):
    config, dataset = training.with_data(quick(data="cifar10", data_root=samples, network="4C3-P2-10", cutout=4, batch_size=20))
    model, optimizer = training.prepare(config, dataset)
    run = loop.Loop(config, dataset, model, optimizer)
    assert float(dataset.normalisation.normalise(run._colour.view(1, 3, 1, 1)).abs().max()) < 1e-6


def test_diverged_run_stops_with_epoch_and_layer_and_keeps_the_checkpoint(quick, monkeypatch):
    config = quick(name="bad", epochs=4)
    steps, kernel_loss = [], losses.KernelLoss.__call__

    def break_in_epoch_3(loss, psc, label, mask):
        steps.append(psc.requires_grad)
        return kernel_loss(loss, psc, label, mask) * (float("nan") if sum(steps) == 27 else 1)

    monkeypatch.setattr(losses.KernelLoss, "__call__", break_in_epoch_3)
    with fails(r"epoch 3, step 3: the gradient of layer 'output'"):
        training.train(config)
    state = torch.load(config.runs_dir / "bad/checkpoint.pt", weights_only=True)
    assert state["state"]["epoch"] == 3
    assert all(bool(weight.isfinite().all()) for weight in state["network"].values())
    training.train(replace(config, resume=True))


@pytest.mark.parametrize("loss", ["kernel", "softmax"])
def test_the_reported_loss_is_the_mean_over_samples(quick, loss):
    """Of losses that are sums over the batch as of those that are means."""
    config, dataset = training.with_data(quick(loss=loss, learning_rate=1e-30, weight_decay=0.0, epochs=1))
    model, optimizer = training.prepare(config, dataset)
    make, state = config.make_loss(), training.RunState()
    x, y = dataset.train.x, dataset.train.y
    expected = float(make(model.network(model.inputs(x, seed=0)), y, None).detach()) / (1 if make.is_mean else len(y))
    training.Loop(config, dataset, model, optimizer, state, training.Progress(), lambda: None).run(lambda record: None)
    assert state.history[0]["train_loss"] == pytest.approx(expected, rel=0.05)  # one spike may fall this way or that
    assert state.history[0]["train_accuracy"] == pytest.approx(model.accuracy(dataset.train), abs=1) != 0


def test_a_long_epoch_is_saved_now_and_then(quick, monkeypatch):
    now, steps, saved = [0.0], [], []

    class Clock(training.Progress):
        def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
            now[0] += loop.SAVE_EVERY / 2.5
            steps.append(step)

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    config, dataset = training.with_data(quick(epochs=2))
    model, optimizer = training.prepare(config, dataset)
    run = training.Loop(config, dataset, model, optimizer, training.RunState(), Clock(), lambda: saved.append(len(steps)))
    run.run(lambda record: None)
    within = range(3, run.steps + 1, 3)  # at the first step more than SAVE_EVERY after the last time
    assert saved == [*within, run.steps, *(run.steps + step for step in within), 2 * run.steps]


def test_exploding_weights_are_caught(quick):
    with pytest.raises(UserError, match="training diverged in epoch 1, step 2"):
        training.train(quick(learning_rate=1e38, weight_clamp=0.0))


def test_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    files.write_text(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_on_a_full_disk_tells_how_to_go_on(quick, monkeypatch):
    save, config = checkpoint.save, quick(name="full", epochs=2)
    with monkeypatch.context() as patch:

        def full(*arguments):
            patch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
            save(*arguments)

        patch.setattr(checkpoint, "save", full)
        with pytest.raises(UserError, match=r"No space left on device; .* go on with: .*full/config.toml --resume"):
            training.train(config)
    folder, _ = training.train(replace(config, resume=True))
    assert len(training.read_metrics(folder)[0]) == 2


def test_folders_that_exist_or_cannot_be_made(quick, tmp_path):
    config = quick(name="taken", epochs=1)
    folder, _ = training.train(config)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="exists; add --resume"):
        training.train(config)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert training.train(replace(config, name=None, recipe="taken"))[0].name == "taken-2"
    with pytest.raises(UserError, match="nothing to resume"):
        training.train(replace(config, name="missing", resume=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make .*choose another --runs-dir"):
        training.train(replace(config, runs_dir=tmp_path / "file"))


def test_broken_files_are_explained(quick, tmp_path):
    config = quick(name="run", epochs=1)
    folder, _ = training.train(config)
    model, checkpoint = folder / "model.safetensors", folder / "checkpoint.pt"
    good_model, good_checkpoint = model.read_bytes(), checkpoint.read_bytes()
    for damaged in (good_model[:100], b"", b"x" * 200, good_model[:-10]):
        model.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            training.load(folder)
    for damaged in (good_checkpoint[:1000], b"", b"x" * 200):
        checkpoint.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            training.train(replace(config, resume=True))
    other, _ = training.train(replace(config, name="other", network="31-10"))
    checkpoint.write_bytes((other / "checkpoint.pt").read_bytes())
    with pytest.raises(UserError, match=r"is of other settings than config.toml has now \(network was 31-10\)"):
        training.train(replace(config, resume=True))
    with pytest.raises(UserError, match="no model at"):
        training.load(tmp_path / "nothing")
    history, final = training.read_metrics(folder)
    for spoilt in ("{", *(json.dumps({**final, "majority_accuracy": value}) for value in (None, 12345.0, "50"))):
        (folder / "metrics.jsonl").write_text(f"{json.dumps(history[0])}\n{spoilt}\n")
        with pytest.raises(UserError, match="damaged"):
            training.read_metrics(folder)


def test_checkpoint_is_never_unpickled(quick, tmp_path):
    folder, _ = training.train(quick(name="run", epochs=1))

    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    (folder / "checkpoint.pt").write_bytes(training.checkpoint.pack(Attack()))
    with pytest.raises(UserError, match="damaged"):
        training.train(quick(name="run", epochs=1, resume=True))
    assert not (tmp_path / "owned").exists()


def test_model_of_another_kind_or_with_nan_is_refused(quick, tmp_path):
    from safetensors.torch import save_file

    folder, _ = training.train(quick(epochs=1))
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="no tsslbp model"):
        training.load(tmp_path / "foreign.safetensors")
    model = training.load(folder)
    model.network.layers.output.weight.data[0, 0] = float("nan")
    model_file.write(tmp_path / "nan.safetensors", model.about(), model.network.state_dict())
    with pytest.raises(UserError, match=r"layers\.output\.weight.* NaN"):
        training.load(tmp_path / "nan.safetensors")


def test_tensorboard_option_writes_events(quick):
    folder, _ = training.train(quick(epochs=1, tensorboard=True))
    assert list(folder.glob("events.out.tfevents.*"))


def test_what_settings_leave_open_comes_from_the_data(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).random((60, 7, 2), np.float32), y=np.arange(60) % 3)
    config = TrainConfig(data=str(tmp_path / "own.npz"), runs_dir=tmp_path, name="own", epochs=1)
    folder, _ = training.train(config)
    lines = (folder / "config.toml").read_text().splitlines()
    assert {"time_steps = 7", 'network = "100-3"', 'loss = "kernel"', "validation = 4"} <= {*lines}
    assert training.load(folder).network.time_steps == 7
    with pytest.raises(UserError, match=r"--time-steps is 5; the sequences of .* have 7"):
        training.with_data(replace(config, time_steps=5))


def test_a_setting_in_two_places_and_an_unknown_section_are_named(tmp_path):
    (tmp_path / "c.toml").write_text("epochs = 1\n[training]\nepochs = 3\n[trainin]\nseed = 1\n")
    said = r"epochs is set twice, above the sections and in \[training\]; unknown section 'trainin'; did you mean 'training'"
    with pytest.raises(UserError, match=said):
        TrainConfig.from_toml(tmp_path / "c.toml")


def test_config_survives_toml(quick, tmp_path):
    config = quick(padding=(1, 0), name='we"ird\\', rule="tssl(fallback=no-spike, clip=1.5)", learning_rate=1e-05)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert TrainConfig.from_toml(path) == config


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(data=TEXTS, root=TEXTS, tau=st.floats(1, allow_nan=False), clip=st.floats(0, FLOAT32_MAX))
def test_any_settings_survive_toml(tmp_path_factory, data, root, tau, clip):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    config = TrainConfig(data=data, data_root=Path(root), tau_m=tau, gradient_clip=clip)
    files.write_text(path, config.to_toml())
    assert TrainConfig.from_toml(path) == config
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    flat = {name: value for section in GROUPS for name, value in read.pop(section).items()}
    assert {**read, **flat} == {**config.to_dict(), "padding": "0", "learn": "", "per_neuron": ""}


def test_loss_of_settings(quick):
    of_run = {"time_steps": 5, "tau_s": 3.0}
    quick = functools.partial(quick, **of_run)
    assert quick().make_loss() == losses.KernelLoss(**of_run)
    assert quick(loss="kernel(target=double)").make_loss() == losses.KernelLoss(**of_run, target="double")
    assert quick(loss="kernel( label_weight = 6 )").make_loss() == losses.KernelLoss(**of_run, label_weight=6)
    assert quick(loss="kernel(desired=10)").make_loss() == losses.KernelLoss(**of_run, desired=(1, 0, 1, 0, 1))
    assert quick(loss="kernel(desired=00001)").make_loss() == losses.KernelLoss(**of_run, desired=(0, 0, 0, 0, 1))
    assert quick(loss="spike(desired=1)").make_loss() == losses.SpikeLoss(**of_run, desired=(1, 1, 1, 1, 1))
    assert quick(loss="count(desired=3)").make_loss() == losses.CountLoss(desired=3, undesired=0)
    assert quick(loss="first-spike(scale=2)").make_loss() == losses.FirstSpikeLoss(tau_s=3.0, scale=2)


@pytest.mark.parametrize(
    ("stored", "loss"),
    [
        (
            'loss = "auto"\ntarget = "double"\nlabel_weight = 6.0\ndesired = "00001"',
            "kernel(target=double, label_weight=6.0, desired=00001)",
        ),
        ('loss = "kernel"\ntarget = "single"\nlabel_weight = 1.0\ndesired = ""\ndesired_count = 4.0', "kernel"),
        ('loss = "count"\ndesired_count = 15.0\nundesired_count = 0.0\ntarget = "double"', "count(desired=15.0)"),
        ('loss = "spike"\ndesired = "01"\nlabel_weight = 3.0', "spike(desired=01)"),
        ('neuron = "relu"\ntarget = "single"', "softmax"),
        ('schedule = "cosine"\nloss = "softmax"', "softmax"),
    ],
)
def test_losses_of_version_0_1_0_are_translated(tmp_path, stored, loss):
    (tmp_path / "old.toml").write_text(stored)
    assert TrainConfig.from_toml(tmp_path / "old.toml").loss == loss


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoding": "poisson"},
        {
            "network": "4C3-P2-40-V4",
            "standardise": True,
            "conv_scale": 3.0,
            "loss": "kernel(label_weight=6)",
            "rate_penalty": 0.01,
        },
    ],
    ids=["constant", "poisson", "vote"],
)
def test_early_exit_gives_the_answers_of_the_whole_sequence(quick, changes):
    folder, _ = training.train(quick(epochs=3, learning_rate=2e-2, time_steps=8, tau_s=2.0, **changes))
    model = training.load(folder)
    # In powers of two every product and sum is exact, so that batches of any size, on any processor, say the same.
    model = replace(model, inputs=replace(model.inputs, normalisation=data.Normalisation(16, (0.25,), (0.5,))))
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.copy_((weight * 256).round() / 256)
    x = data.load("digits", Path("nowhere")).test.x
    answers, steps = model.decide(x, batch_size=100)
    assert torch.equal(answers, metrics.decode(model.outputs(x, batch_size=100)))
    assert 1 <= steps.min() < steps.max() <= 8
    assert steps.double().mean() < 7.5
    with pytest.raises(UserError, match="early exit needs sequences of one length"):
        model.decide(data.Split(torch.zeros(2, 8, 5), torch.zeros(2), torch.tensor([8, 3])))


def test_evaluation_takes_as_many_samples_as_memory_allows(monkeypatch):
    network = tsslbp.build("3C1-[3C1-3C1]-P2-2", input_shape=(1, 4, 4), time_steps=5, tau_m=5, tau_s=3)
    assert network.largest == 3 * 4 * 4
    assert tsslbp.build("2", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3).largest == 7  # the input
    model = training.Model(network, Inputs("constant", data.dataset.AS_STORED, 5, sequence=False), ("0", "1"), "")
    samples = data.Split(torch.rand(7, 1, 4, 4), torch.zeros(7, dtype=torch.int64))
    for memory, sizes in ((2**30, [7]), (3 * 960 + 1, [3, 3, 1]), (959, [1] * 7)):  # a sample takes 48 × 5 floats, 960 bytes
        monkeypatch.setattr("tsslbp.training.model.MEMORY", memory)
        with model.evaluating(samples) as batches:
            assert [len(part) for part, _ in batches] == sizes
    binned = training.Model(
        network, Inputs("constant", data.dataset.AS_STORED, 5, True, bin=100, stored_steps=500), ("0", "1"), ""
    )
    assert binned._at_once(data.Split(torch.zeros(7, 500, 1, 4, 4), samples.y)) == 1  # as stored it takes more


def test_precision_is_what_was_measured_and_stays_when_a_run_is_resumed(quick, tmp_path, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))

    def precision(**changes):
        folder, _ = training.train(quick(epochs=1, **changes))
        return TrainConfig.from_toml(folder / "config.toml").precision

    assert precision() == "float32"  # nothing was measured
    machine.record_bfloat16({"a": 1.5, "b": 1.2})
    assert precision() == "bfloat16"
    assert precision(precision="float32") == "float32"
    assert precision(name="resumed") == "bfloat16"
    machine.record_bfloat16({"a": 1.5, "b": 1.05})
    assert precision() == "float32"
    folder, _ = training.train(quick(name="resumed", epochs=2, resume=True))
    assert TrainConfig.from_toml(folder / "config.toml").precision == "bfloat16"
    for content in ("", "[]", '{"gains": {}}', "\0"):
        (tmp_path / "cache/bfloat16.json").write_text(content)
        assert not machine.bfloat16_pays()
    machine.record_bfloat16({"a": 1.5})
    with monkeypatch.context() as another:
        another.setattr(machine.torch.backends.cpu, "get_cpu_capability", lambda: "another generation")
        assert not machine.bfloat16_pays()
        machine.record_bfloat16({"a": 0.5})
    assert machine.bfloat16_pays()
    monkeypatch.setenv("TSSLBP_CACHE", "/dev/null/cache")
    assert not machine.bfloat16_pays()
    with pytest.raises(UserError, match="set TSSLBP_CACHE"):
        machine.record_bfloat16({"a": 2.0})


def test_a_run_in_blocks_of_time_is_the_same_run(quick):
    config = quick(time_steps=6)
    model, _ = training.prepare(*training.with_data(config))
    first = [weight.detach().clone() for weight in model.network.parameters()]
    one, other = (
        final_weights(training.train(replace(config, name=f"blocks-{block}", time_block=block))[0]).values() for block in (0, 2)
    )
    for before, whole, blocks in zip(first, one, other, strict=True):
        assert (blocks - whole).norm() < 0.01 * (whole - before).norm()  # rounding, after 22 steps


@pytest.mark.parametrize("rule", ["tssl", "tssl+", "tssl(fallback=rate)", "surrogate"])
def test_rates_and_fallback_are_those_of_the_study(quick, rule):
    folder, _ = training.train(quick(rule=rule, epochs=1, network="4C3-P2-20-10", conv_scale=3.0))
    run = runs.load(folder)
    run.settings["batch_size"] = len(run.test)  # a fallback by the rate goes by the batch
    found = layer_rates.measure(run.model, run.test, 10**6, len(run.test))
    layers = study.firing(run)["layers"]
    assert found["rates"] == pytest.approx({name: layer["rate"] for name, layer in layers.items()})
    assert all(rate > 0 for rate in found["rates"].values())
    if rule == "surrogate":
        assert "fallback" not in found
    else:
        assert found["fallback"] == pytest.approx({name: layer["fallback"] for name, layer in layers.items()})
    (record,), _ = training.read_metrics(folder)
    dataset = training.with_data(quick())[1]
    chosen = dataset.validation.select(torch.arange(len(dataset.train) // layer_rates.PART))
    assert record["rates"] == layer_rates.measure(run.model, chosen, 10**6, 100)["rates"]


def test_an_ann_has_no_rates(quick):
    folder, _ = training.train(quick(neuron="relu", epochs=1))
    (record,), _ = training.read_metrics(folder)
    assert not {"rates", "fallback"} & record.keys()


def test_steps_after_the_end_of_a_sequence_do_not_count(quick, tmp_path):
    net = tsslbp.build("1", input_shape=(1,), time_steps=4, tau_m=math.inf, tau_s=1.0)
    with torch.no_grad():
        net.layers.output.weight.fill_(2.0)  # a spike at every step with input
    inputs = Inputs("constant", data.Normalisation(1.0, (0.0,), (1.0,)), 4, True)
    samples = data.Split(torch.tensor([[1.0, 1, 1, 1], [1.0, 0, 1, 1]]).unsqueeze(2), torch.zeros(2), torch.tensor([4, 2]))
    found = layer_rates.measure(training.Model(net, inputs, ("a",), "hand"), samples, 10**6, 1)
    assert found == {"rates": {"output": 5 / 6}, "fallback": {"output": 1 / 6}}
    assert net.training


def test_a_dead_layer_is_told_once(quick):
    config = quick(name="dead", threshold=1000.0, epochs=2)
    progress = Listens()
    training.train(config, progress)
    assert progress.warnings == [
        "layer 'linear1' is dead after epoch 1 (0 spikes per neuron and step): practically no neuron spikes, so it passes "
        "nothing on; if it stays so, start again: lower --threshold (now 1000) or lower --learning-rate (now 0.0005)"
    ]  # and not the output, which follows from it
    training.train(replace(config, epochs=3, resume=True), progress)
    assert len(progress.warnings) == 1


@pytest.mark.parametrize("fast", [False, True])
def test_slow_products_in_bfloat16_are_told(quick, monkeypatch, fast):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: fast)
    progress = Listens()
    training.train(quick(name="half", precision="bfloat16"), progress)
    told = "this processor has no fast products in bfloat16; --precision float32 may be several times faster"
    assert progress.warnings == [told] * (not fast)


def test_a_layer_is_told_when_it_gets_ill_and_a_healthy_one_is_not(quick):
    config = quick(network="4C3-20-10", conv_scale=5.0)
    rates = [{"conv1": 0.2, "linear2": 0.1}, {"conv1": 0.97, "linear2": 0.1}, {"conv1": 0.98, "linear2": 5e-5}]
    history = [{"epoch": epoch, "rates": rate} for epoch, rate in enumerate(rates, 1)]
    assert layer_rates.warnings(history[:1], config) == []
    (saturated,) = layer_rates.warnings(history[:2], config)
    assert saturated == (
        "layer 'conv1' is saturated after epoch 2 (0.97 spikes per neuron and step): nearly every neuron spikes at nearly "
        "every step; if it stays so, start again: lower --conv-scale (now 5), raise --threshold (now 1) or lower "
        "--learning-rate (now 0.0005)"
    )
    (dead,) = layer_rates.warnings(history, config)
    assert "'linear2' is dead after epoch 3 (5e-05 spikes" in dead
    assert "raise --conv-scale (now 5), lower --threshold" in dead
    behind = {"epoch": 2, "rates": {"conv1": 0.0, "conv2": 0.99, "linear3": 0.0}}  # of a block, or with a bias
    assert [line.split("'")[1] for line in layer_rates.warnings([behind], config)] == ["conv1", "conv2"]
    assert layer_rates.warnings([{"epoch": 1}, {"epoch": 2}], config) == []  # an ANN, or a run from before rates were kept
    progress = Listens()
    training.train(quick(name="healthy"), progress)
    assert progress.warnings == []


def test_all_samples_may_be_trained_on(quick):
    folder, final = training.train(quick(validation=0, choose="last", epochs=3))
    records, _ = training.read_metrics(folder)
    assert [record["validation_accuracy"] for record in records] == [None] * 3
    assert (final["choose"], final["best_epoch"], final["validation_accuracy"]) == ("last", 3, None)
    assert (final["train_samples"], final["validation_samples"]) == (1437, 0)
    assert set(records[0]["rates"]) == {"linear1", "output"}  # of training samples then
    assert training.load(folder).facts.samples == {"train": 1437, "validation": 0, "test": 360}
    report.write(folder)
    page = (folder / "report.html").read_text()
    assert "with the weights of epoch 3, the last." in " ".join(page.split())
    with pytest.raises(UserError, match="--choose is validation; it must be last or test with --validation 0"):
        quick(validation=0)


@pytest.mark.parametrize(("choose", "expected"), [("validation", 2), ("last", 4), ("test", 3)])
def test_the_epoch_that_is_kept(choose, expected):
    accuracies = [(5.0, 9.0), (5.0, 2.0), (4.0, 9.0), (3.0, 3.0)]  # the last of equally good ones
    history = [
        {"epoch": epoch, "validation_accuracy": validation, "test_accuracy": test, "seconds": 1.0}
        for epoch, (validation, test) in enumerate(accuracies, 1)
    ]
    final = training.summary(history, data.load("digits", Path()), choose, lambda: pytest.fail("it is measured already"))
    assert final["best_epoch"] == expected
    assert final["test_accuracy"] == accuracies[expected - 1][1]
    assert (final["best_test_epoch"], final["best_test_accuracy"]) == (3, 9.0)
    assert final.get("choose", "validation") == choose


def test_the_best_test_epoch_is_labelled_as_that(quick):
    folder, final = training.train(quick(choose="test", epochs=3))
    assert final["test_accuracy"] == final["best_test_accuracy"]
    report.write(folder)
    assert "the epoch chosen on the test set, which flatters the result" in " ".join(
        (folder / "report.html").read_text().split()
    )


def test_the_surrogate_warms_up(quick):
    config = quick(rule="tssl-paper(fallback=never)", surrogate_epochs=1, epochs=2)
    warm, _ = training.train(replace(config, name="warm"))
    always, _ = training.train(replace(config, name="always", rule="tssl-paper(fallback=always)", surrogate_epochs=0))
    never, _ = training.train(replace(config, name="never", surrogate_epochs=0))
    losses_ = {run.name: [record["train_loss"] for record in training.read_metrics(run)[0]] for run in (warm, always, never)}
    assert losses_["warm"][0] == losses_["always"][0] != losses_["never"][0]
    assert losses_["warm"][1] not in (losses_["always"][1], losses_["never"][1])
    assert [{*record["fallback"].values()} for record in training.read_metrics(warm)[0]] == [{1.0}, {0.0}]
    assert training.load(warm).network.architecture.rule == "tssl-paper(fallback=never)"


def test_a_warm_up_goes_on_after_an_interruption(quick):
    class Stop(training.Progress):
        def finished_epoch(self, record):
            os.kill(os.getpid(), signal.SIGINT)

    config = quick(rule="tssl(fallback=never)", surrogate_epochs=2, epochs=3)
    whole, _ = training.train(replace(config, name="whole"))
    for resume in (False, True):
        with pytest.raises(training.Interrupted):
            training.train(replace(config, name="cut", resume=resume), Stop())
    training.train(replace(config, name="cut", resume=True))
    assert_same_weights(whole, config.runs_dir / "cut")


def test_convolutions_may_begin_as_fully_connected_layers_do(quick):
    torch.manual_seed(0)
    net = tsslbp.build("50C5-10", input_shape=(8, 9, 9), time_steps=2, tau_m=5, tau_s=3, conv_init="kaiming", conv_scale=2.0)
    weight = net.layers.conv1.weight.detach()
    assert float(weight.std()) == pytest.approx(2 * math.sqrt(2 / 200), rel=0.05)
    assert float(weight.abs().max()) > 3 * float(weight.std())  # no bound, unlike those of a uniform one
    with pytest.raises(UserError, match="conv_init is round; it must be one of uniform, kaiming"):
        tsslbp.build("5C5-10", input_shape=(8, 9, 9), time_steps=2, tau_m=5, tau_s=3, conv_init="round")


@pytest.mark.parametrize(
    "settings", [{}, {"network": "4C3-P2-8R-10", "precision": "bfloat16"}, {"learn": ("threshold",), "bits": "4"}]
)
def test_runs_and_models_are_float32_whatever_pytorchs_default_is(quick, settings):
    torch.set_default_dtype(torch.float64)
    try:
        folder, final = training.train(quick(epochs=1, **settings))
        model, test = tsslbp.load(folder), data.load("digits", Path()).test
        assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}
        assert model.accuracy(test) == final["test_accuracy"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert tsslbp.load(folder).accuracy(test) == final["test_accuracy"]


@pytest.mark.parametrize("lengths", [None, torch.tensor([40, 30, 35, 40, 33, 20])])
def test_filters_are_float32_whatever_pytorchs_default_is(lengths):
    x = torch.randn(6, 40, 2)
    expected = Filters.fitted(x, lengths, 90)
    torch.set_default_dtype(torch.float64)
    try:
        found = Filters.fitted(x, lengths, 90)
        rates = found(x, lengths)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == expected
    assert torch.equal(rates, expected(x, lengths))
