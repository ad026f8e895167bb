"""A checkpoint is what the run wrote, or it is refused; a run is touched by nothing that is refused."""

import copy
import hashlib
import io
import itertools
import math
import os
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import Listens, StopAt, fails

from tsslbp import UserError, report, training
from tsslbp.cli import publishing
from tsslbp.study import runs
from tsslbp.training import checkpoint, records
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed, machine

NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Settings of a run that was stopped in its third epoch, with an average of its weights."""
    sizes = {"epochs": 4, "batch_size": 100, "network": "3-10"}
    config = TrainConfig(runs_dir=tmp_path_factory.mktemp("runs"), name="run", average=0.9, **sizes)
    with pytest.raises(training.Interrupted):
        training.train(config, StopAt(3, 5))
    return config


@pytest.fixture
def stopped(interrupted, tmp_path):
    """Settings that go on with a copy of it, and the folder of this copy."""
    runs = shutil.copytree(interrupted.runs_dir, tmp_path / "runs")
    return replace(interrupted, runs_dir=runs, resume=True), runs / "run"


def refused(config, folder, match):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with fails(match):
        training.train(config)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_any_flipped_or_missing_byte_is_noticed(stopped):
    config, folder = stopped
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    for at in [*range(0, len(whole), len(whole) // 150), *range(len(whole) - 40, len(whole))]:
        with pytest.raises(ValueError, match="its checksum is wrong"):
            checkpoint.unpack(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="its checksum is wrong"):
            checkpoint.unpack(whole[:at])
    path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    refused(config, folder, r"checkpoint .* is damaged \(its checksum is wrong")
    path.write_bytes(whole)
    training.train(config)


def test_a_checkpoint_of_before_there_were_checksums_is_refused(stopped):
    config, folder = stopped
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[: -checkpoint.DIGEST])
    assert torch.load(path, weights_only=True)["state"]["epoch"] == 3
    refused(config, folder, r"or it is of tsslbp 0.1, which had none\); start again under another --name")


def test_what_unpacks_to_more_than_the_file_is_not_unpacked(stopped):
    config, folder = stopped
    with zipfile.ZipFile(bomb := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    packed = bomb.getvalue()
    (folder / "checkpoint.pt").write_bytes(packed + hashlib.sha256(packed).digest())
    refused(config, folder, "it unpacks to 50000000 bytes")


def test_the_rest_of_a_checkpoint_can_still_be_read_by_torch(stopped):
    stored = torch.load(stopped[1] / "checkpoint.pt", weights_only=True)
    assert stored.keys() == {"settings", "architecture", "data", "state", "network", "optimizer"}
    assert stored["optimizer"].keys() == {0, 1}


def change(*keys, to):
    """An alteration of one entry of a checkpoint, named by its keys; ``to`` is the new value or makes it from the old."""

    def alter(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to(content[keys[-1]]) if callable(to) else to

    return alter


def drop(*keys):
    """An alteration that leaves out one entry."""

    def alter(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return alter


def filled(value):
    return lambda tensor: torch.full_like(tensor, value)


WEIGHT = "layers.linear1.weight"
ALTERED = {
    "no dictionary": None,
    "no architecture": drop("architecture"),
    "architecture of another type": change("architecture", to=7),
    "architecture that is no JSON": change("architecture", to="{"),
    "architecture that is a list": change("architecture", to="[]"),
    "architecture with an unknown field": change("architecture", to=lambda text: text.replace('"dropout"', '"dropuot"')),
    "settings that are none": change("settings", to=None),
    "a setting of another type": change("settings", "learning_rate", to=torch.ones(2)),
    "a loss beyond float32": change("state", "loss_sum", to=1e300),
    "no data": drop("data"),
    "data of another type": change("data", to=["digits"]),
    "no state": drop("state"),
    "state that is a list": change("state", to=[1, 2]),
    "a field that State has not": change("state", "evil", to=1),
    "no epoch": drop("state", "epoch"),
    "negative epoch": change("state", "epoch", to=-5),
    "epoch 0": change("state", "epoch", to=0),
    "epoch before its history": change("state", "epoch", to=2),
    "epoch beyond its history": change("state", "epoch", to=4),
    "epoch as text": change("state", "epoch", to="3"),
    "epoch as a fraction": change("state", "epoch", to=3.0),
    "epoch true": change("state", "epoch", to=True),
    "negative step": change("state", "step", to=-1),
    "step beyond the epoch": change("state", "step", to=99),
    "step of other samples": change("state", "step", to=6),
    "loss NaN": change("state", "loss_sum", to=NAN),
    "loss None": change("state", "loss_sum", to=None),
    "right infinite": change("state", "right", to=INF),
    "more right than seen": change("state", "right", to=501.0),
    "negative seen": change("state", "seen", to=-500),
    "seconds NaN": change("state", "seconds", to=NAN),
    "negative seconds": change("state", "seconds", to=-1.0),
    "seconds as text": change("state", "seconds", to="1"),
    "history None": change("state", "history", to=None),
    "history of numbers": change("state", "history", to=[1, 2]),
    "history too short": change("state", "history", to=lambda history: history[:1]),
    "history out of order": change("state", "history", to=lambda history: history[::-1]),
    "history without a field": drop("state", "history", 0, "validation_accuracy"),
    "accuracy over 100": change("state", "history", 1, "validation_accuracy", to=1000.0),
    "accuracy NaN": change("state", "history", 1, "test_accuracy", to=NAN),
    "rates as text": change("state", "history", 0, "rates", to="0.1"),
    "rates of text": change("state", "history", 0, "rates", to={"output": "0.1"}),
    "no average": change("state", "average", to=[]),
    "average of another shape": change("state", "average", 0, to=torch.zeros(3, 65)),
    "average NaN": change("state", "average", 0, to=filled(NAN)),
    "average as numbers": change("state", "average", to=[1.0, 2.0]),
    "no network": drop("network"),
    "a weight missing": drop("network", WEIGHT),
    "a weight too many": change("network", "layers.evil", to=torch.zeros(1)),
    "weights NaN": change("network", WEIGHT, to=filled(NAN)),
    "weights infinite": change("network", WEIGHT, to=filled(INF)),
    "weights of another shape": change("network", WEIGHT, to=lambda weight: weight.T),
    "weights of another format": change("network", WEIGHT, to=lambda weight: weight.double()),
    "weights sparse": change("network", WEIGHT, to=lambda weight: weight.to_sparse()),
    "weights of a huge shape": change("network", WEIGHT, to=torch.zeros(1).expand(10**12)),
    "weights as a list": change("network", WEIGHT, to=[1.0]),
    "no optimiser": drop("optimizer"),
    "optimiser None": change("optimizer", to=None),
    "moments of a weight that is not": lambda content: content["optimizer"].update({2: content["optimizer"][0]}),
    "moments None": change("optimizer", 0, to=None),
    "a moment missing": drop("optimizer", 0, "exp_avg"),
    "a moment too many": change("optimizer", 0, "max_exp_avg_sq", to=torch.zeros(3, 64)),
    "exp_avg of another shape": change("optimizer", 0, "exp_avg", to=torch.zeros(64, 3)),
    "exp_avg NaN": change("optimizer", 1, "exp_avg", to=filled(NAN)),
    "exp_avg of another format": change("optimizer", 1, "exp_avg", to=lambda moment: moment.half()),
    "exp_avg_sq negative": change("optimizer", 0, "exp_avg_sq", to=filled(-1.0)),
    "optimiser's step negative": change("optimizer", 0, "step", to=torch.tensor(-1.0)),
    "optimiser's step beyond the run": change("optimizer", 0, "step", to=torch.tensor(1e9)),
    "optimiser's step NaN": change("optimizer", 0, "step", to=torch.tensor(NAN)),
    "optimiser's step a number": change("optimizer", 0, "step", to=5),
    "optimiser's step of another shape": change("optimizer", 0, "step", to=torch.ones(2)),
}


def test_altered_content_with_a_right_checksum_is_refused(stopped):
    config, folder = stopped
    path = folder / "checkpoint.pt"
    whole = path.read_bytes()
    for name, alter in ALTERED.items():
        content = copy.deepcopy(checkpoint.unpack(whole))
        if alter:
            alter(content)
        path.write_bytes(checkpoint.pack(content if alter else [content]))
        try:
            refused(config, folder, r"^checkpoint .* is damaged \(.*\); start again under another --name$")
        except BaseException as error:
            raise AssertionError(name) from error
    path.write_bytes(whole)
    training.train(config)


@pytest.mark.parametrize(
    ("setting", "was", "edited"), [("learning_rate", "0.0005", "0.5"), ("loss", "kernel", "softmax"), ("seed", "0", "2")]
)
def test_settings_that_were_edited_between_two_parts_of_a_run_are_told(stopped, setting, was, edited):
    """The command that a stopped run advises takes its settings from the file."""
    config, folder = stopped
    path = folder / "config.toml"
    text = path.read_text()
    line = re.search(rf"^{setting} = (\S+)$", text, re.MULTILINE)
    assert line[1].strip('"') == was
    path.write_text(text.replace(line[0], line[0].replace(was, edited)))
    read = replace(TrainConfig.from_toml(path), runs_dir=config.runs_dir, name=config.name, resume=True)
    refused(read, folder, rf"is of other settings than config.toml has now \({setting} was {was}\); change that file back, or")
    path.write_text(text)
    training.train(config)


def test_what_the_optimiser_is_told_comes_from_the_settings(stopped):
    config, folder = stopped
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    fresh = optimizer.state_dict()["param_groups"]
    samples = len(dataset.train)
    path = folder / "checkpoint.pt"
    data = checkpoint.unpack(path.read_bytes())["data"]
    state = checkpoint.restore(path.read_bytes(), path, model.network, optimizer, config, samples, data)
    assert (state.epoch, state.step) == (3, 5)
    assert optimizer.state_dict()["param_groups"] == fresh
    assert optimizer.state_dict()["state"].keys() == {0, 1}
    with pytest.raises(UserError, match="is of other samples than digits has now"):
        checkpoint.restore(path.read_bytes(), path, model.network, optimizer, config, samples, "?" + data)
    with pytest.raises(UserError, match="is of other samples than digits has now"):
        checkpoint.restore(path.read_bytes(), path, model.network, optimizer, config, samples - 500, "?" + data)


def test_fewer_epochs_than_were_run_are_refused(stopped):
    config, folder = stopped
    refused(
        replace(config, epochs=1),
        folder,
        "--epochs is 1; the run at .* has already had 2, so give as many or more, or another --name",
    )
    training.train(replace(config, epochs=2))


@pytest.mark.parametrize(("of", "writer"), [(training.Model, "save"), (records, "write")])
def test_what_a_full_disk_did_not_take_after_the_checkpoint_is_written_again(quick, monkeypatch, of, writer):
    config = quick(name="run", epochs=3, choose="last", average=0.9)
    whole, final = training.train(replace(config, name="whole"))
    write, times = getattr(of, writer), itertools.count(1)

    def full(*given):
        if next(times) == config.epochs:
            raise UserError("the disk is full")
        return write(*given)

    with monkeypatch.context() as patch:
        patch.setattr(of, writer, full)
        with pytest.raises(UserError, match="the disk is full"):
            training.train(config)
    folder = config.runs_dir / "run"
    refused(replace(config, epochs=2, resume=True), folder, "--epochs is 2; the run at .* has already had 3")
    said = Listens()
    assert training.train(replace(config, resume=True), said)[1]["model"] == final["model"]
    assert any("is written again from the checkpoint" in text for text in said.warnings)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert len(training.history(folder)) == 3


def test_a_run_begun_before_models_had_a_checksum_goes_on(stopped):
    config, folder = stopped
    content = checkpoint.unpack((folder / "checkpoint.pt").read_bytes())
    del content["state"]["model"]
    (folder / "checkpoint.pt").write_bytes(checkpoint.pack(content))
    training.train(config)
    assert training.final_of(folder)["epochs"] == config.epochs
    training.load(folder)


def test_a_finished_run_that_goes_on_has_not_ended(stopped):
    config, folder = stopped
    training.train(config)
    with pytest.raises(training.Interrupted):
        training.train(replace(config, epochs=6), StopAt(5, 1))
    history, final = training.read_metrics(folder)
    assert (len(history), final) == (4, None)
    said = []
    runs.finished(replace(config, epochs=5), lambda run: said.append(run) or training.Progress())
    runs.finished(replace(config, epochs=6), lambda run: said.append(run) or training.Progress())
    runs.finished(replace(config, epochs=6), lambda run: said.append(run) or training.Progress())
    assert said == ["run", "run"]
    assert training.final_of(folder)["epochs"] == 6


def test_a_run_says_where_it_was_trained(stopped, monkeypatch, tmp_path):
    config, folder = stopped
    here = training.train(config)[1]["machine"]
    assert here.keys() >= {"processor", "tsslbp", "torch"}
    assert "load" not in here
    monkeypatch.setattr(machine, "lasting", lambda device: {"processor": "elsewhere"})
    assert training.train(config)[1]["machine"] == here  # nothing was trained
    page = report.write(folder).read_text()
    assert here["processor"] in page
    assert "elsewhere" not in page
    written = publishing.results.write_results(tmp_path / "results", "tsslbp train", [folder]).read_text()
    assert here["processor"] in written
    assert "elsewhere" not in written
    assert training.train(replace(config, epochs=5))[1]["machine"] == {"processor": "elsewhere"}


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no folder that is in use")
def test_a_run_writes_nothing_into_a_newer_run_of_its_name(quick):
    config = quick(name="run", network="3-10")

    class Removes(training.Progress):
        def stepped(self, epoch, step, loss, accuracy):
            if (epoch, step) == (2, 1):
                shutil.rmtree(config.runs_dir / "run")
                training.train(replace(config, seed=5))
                Removes.left = {path.name: path.read_bytes() for path in (config.runs_dir / "run").iterdir()}

    with pytest.raises(UserError, match="is another folder now, perhaps of a newer run; this run ends"):
        training.train(config, Removes())
    assert {path.name: path.read_bytes() for path in (config.runs_dir / "run").iterdir()} == Removes.left


def test_a_run_with_an_average_goes_on_if_its_first_step_was_lost(quick, monkeypatch):
    def lost(*_):
        raise distributed.Lost("gone")

    config = quick(name="run", epochs=1, average=0.9, network="3-10")
    with monkeypatch.context() as patch:
        patch.setattr(training.Loop, "step", lost)
        with pytest.raises(distributed.Lost):
            training.train(config)
    state = checkpoint.unpack((config.runs_dir / "run/checkpoint.pt").read_bytes())["state"]
    assert (state["epoch"], state["step"], state["average"]) == (1, 0, [])
    assert training.train(replace(config, resume=True))[1]["epochs"] == 1


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_the_learning_rate_is_told_alike_after_a_stop_at_the_end_of_an_epoch(quick, schedule):
    config = quick(name="whole", schedule=schedule)
    training.train(config)
    steps = math.ceil(len(training.with_data(config)[1].train) / config.batch_size)
    with pytest.raises(training.Interrupted):
        training.train(replace(config, name="cut"), StopAt(1, steps))
    training.train(replace(config, name="cut", resume=True))
    rates = [
        [record["learning_rate"] for record in training.read_metrics(Path(config.runs_dir) / name)[0]]
        for name in ("whole", "cut")
    ]
    assert rates[0] == rates[1]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 99)])
def test_a_model_that_is_lost_is_told_before_anything_is_trained(stopped, damage, monkeypatch):
    config, folder = stopped
    damage(folder / "model.safetensors")
    monkeypatch.setattr(training.Loop, "run", None)
    refused(config, folder, r"model.safetensors.*, or train again under another --name")


def test_settings_of_numpy_are_those_of_python(quick):
    config = quick(
        name="run", epochs=1, network="3-10", learning_rate=np.float64(1e-3), weight_decay=np.float32(0.5), seed=np.int64(3)
    )
    assert {type(config.learning_rate), type(config.weight_decay), type(config.seed)} == {float, int}
    training.train(config)
    assert training.train(replace(config, epochs=2, schedule="constant", resume=True))[1]["epochs"] == 2
