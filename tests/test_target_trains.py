"""Target spike trains of a user's own: read, learned, measured, evaluated and predicted."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import run

import tsslbp
from tsslbp import UserError, data, report, training
from tsslbp.data import Split
from tsslbp.exchange import c, onnx
from tsslbp.exchange.nir import to_nir
from tsslbp.exchange.program import Program
from tsslbp.metrics.spike_trains import agreement, van_rossum
from tsslbp.training.model import as_model
from tsslbp.training.settings import TrainConfig

N, T, F, C = 40, 12, 6, 3


def arrays(static: bool = False, **more):
    """Each output neuron is to repeat one input channel a step later; static samples are to be answered by one spike each."""
    random = np.random.default_rng(0)
    if static:
        x = random.random((N, F)).astype(np.float32)
        y = np.zeros((N, T, C), np.uint8)
        y[np.arange(N), 4 + np.arange(N) % 5, np.arange(N) % C] = 1
    else:
        x = (random.random((N, T, F)) < 0.2).astype(np.uint8)
        y = np.zeros((N, T, C), np.uint8)
        y[:, 1:] = x[:, :-1, :C]
    return {"x": x, "y": y, **more}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_trains_of_any_type_are_read(dtype):
    given = arrays()
    dataset = data.of_arrays(given["x"], given["y"].astype(dtype))
    assert dataset.trains
    assert [len(part) for part in dataset.parts.values()] == [29, 3, 8]
    assert (dataset.time_steps, dataset.classes, dataset.train.y.dtype) == (T, ("0", "1", "2"), torch.uint8)
    kept = {row.tobytes(): target for row, target in zip(given["x"], given["y"], strict=True)}
    for part in dataset.parts.values():
        for x, y in zip(part.x.numpy(), part.y.numpy(), strict=True):
            assert np.array_equal(kept[x.tobytes()], y)


def test_pairs_of_pytorch_are_read():
    given = arrays()
    pairs = torch.utils.data.TensorDataset(torch.tensor(given["x"]), torch.tensor(given["y"]))
    assert torch.equal(data.of_torch(pairs).train.y, data.of_arrays(**given).train.y)


def test_targets_after_the_end_of_a_sequence_are_no_targets():
    given, lengths = arrays(), 5 + np.arange(N) % 8
    given["y"][:, -1] = 1
    dataset = data.of_arrays(**given, lengths=lengths)
    for part in dataset.parts.values():
        for y, steps in zip(part.y, part.lengths, strict=True):
            assert bool(y[steps:].any()) is False
            assert bool(y[steps - 1].all()) == (int(steps) == T)


@pytest.mark.painted
@pytest.mark.parametrize("static", [False, True], ids=["sequences", "static"])
def test_trained_evaluated_and_predicted(place, capsys, static):
    np.savez("mine.npz", **arrays(static), classes=["a", "b", "c"])
    settings = ["--epochs", "3", "--network", "30-3", "--batch-size", "4", "--name", "mine"]
    code, out, err = run(capsys, "train", "--data", "mine.npz", *settings)
    assert code == 0, err
    assert f"with target spike trains of {T} steps for 3 neurons (a, b, c)" in err
    assert "loss kernel" in err
    final = json.loads(Path("runs/mine/metrics.jsonl").read_text().splitlines()[-1])
    measured = f"F1 {final['f1']:.4f} (spikes within one step), van Rossum distance {final['van_rossum']:.3f}"
    assert out.startswith(f"{measured} (8 test samples; epoch 3, the last)")
    assert f"{measured}, on a held-out fifth, 8 samples\n" == run(capsys, "evaluate", "runs/mine")[1]

    model, test = tsslbp.load("runs/mine"), data.load("mine.npz", ".").test
    assert repr(model).startswith(f"Model({'samples' if static else 'sequences'}")
    spikes, wanted = model.spikes(test.x).double(), test.y.transpose(0, 1).double()
    assert 0 < spikes.mean() < 0.9
    assert final["f1"] == pytest.approx(float(agreement(spikes, wanted, 1).f1.mean()))
    tau = model.network.neuron.tau_s
    assert final["van_rossum"] == pytest.approx(float(van_rossum(spikes, wanted, tau).mean()))

    np.savez("new.npz", x=test.x.numpy())
    assert "spikes of 8 samples" in run(capsys, "predict", "runs/mine", "new.npz", "--out", "out.csv")[1]
    with open("out.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sample", "neuron", "step"]
    predicted = np.zeros((8, T, C))
    for row in rows:
        predicted[int(row["sample"]), int(row["step"]), "abc".index(row["neuron"])] = 1
    assert np.array_equal(predicted, spikes.transpose(0, 1).numpy())
    code, out, _ = run(capsys, "predict", "runs/mine", "new.npz")
    assert re.match(r"0: (\d+ output spikes: [abc] at step \d+|no output spike)", out)
    assert len(out.splitlines()) == 8
    assert run(capsys, "export", "runs/mine", "given/mine.safetensors")[0] == 0
    assert f"| F1 {final['f1']:.4f} (last epoch) |" in Path("given/README.md").read_text()
    assert run(capsys, "export", "runs/mine", "half/mine.safetensors", "--half")[0] == 0
    half = training.load("half/mine.safetensors")
    told, test = half.trained["final"], training.samples_to_test(half, None, Path()).split
    assert (100 * told["f1"], told["van_rossum"]) == (pytest.approx(half.accuracy(test)), half.distance(test))
    page = report.write(Path("runs/mine")).read_text()
    assert "F1 × 100" in page
    assert "right answers" not in page
    assert "of 3\n(the last). Training took" in report.write(Path("runs/mine"), markdown=True).read_text().replace(
        " of 15", " of 3"
    )
    assert f"van Rossum distance</dt><dd>{final['van_rossum']:.3f}" in page
    assert "patterns are the same" not in page


@pytest.mark.parametrize(("network", "readout"), [("6-V3", "spikes"), ("3", "voltage")])
def test_spikes_are_those_of_single_neurons(network, readout):
    model = as_model(tsslbp.build(network, input_shape=(F,), time_steps=T, tau_m=5, tau_s=3, readout=readout))
    with pytest.raises(UserError, match=r"the outputs are no spikes of single neurons here; take network\.trains"):
        model.spikes(torch.zeros(1, F))


def test_a_spike_after_the_end_of_a_sequence_does_not_count(place):
    lengths = np.full(N, 6)
    dataset = data.of_arrays(**arrays(), lengths=lengths)
    model, _ = training.prepare(*training.with_data(TrainConfig(network="3", tau_m=1), dataset=dataset))
    with torch.no_grad():
        weight = model.network.layers.output.weight
        weight.fill_(1)
    x = torch.ones(2, T, F, dtype=torch.uint8)
    spikes = model.spikes(x, torch.tensor([6, 9]))
    assert spikes.sum(0).tolist() == [[6] * 3, [9] * 3]
    wanted = torch.ones(2, T, C, dtype=torch.uint8)
    wanted[0, 6:] = wanted[1, 9:] = 0
    samples = Split(x, wanted, torch.tensor([6, 9]))
    assert model.accuracy(samples) == 100
    assert model.distance(samples) == 0


def test_trains_are_learned(place):
    random = np.random.default_rng(1)
    x = (random.random((120, 20, 4)) < 0.15).astype(np.uint8)
    dataset = data.of_arrays(x, x[:, :, :2])  # each output is to repeat an input in the same step
    settings = {"network": "2", "tau_m": 1, "tau_s": 1, "rule": "tssl+", "learning_rate": 0.05, "epochs": 10, "batch_size": 10}
    _, final = training.train(TrainConfig(**settings), dataset=dataset)
    assert final["f1"] > 0.9
    assert final["van_rossum"] < 0.3


def test_a_learned_synapse_has_spikes(place):
    dataset = data.of_arrays(**arrays())
    folder, final = training.train(TrainConfig(network="3", learn=("tau_s",), epochs=2), dataset=dataset)
    model = tsslbp.load(folder)
    spikes, wanted = model.spikes(dataset.test.x).double(), dataset.test.y.transpose(0, 1).double()
    assert final["f1"] == pytest.approx(float(agreement(spikes, wanted, 1).f1.mean()))
    assert final["van_rossum"] == pytest.approx(float(van_rossum(spikes, wanted, model.network.neuron.tau_s).mean()))


MODEL = ["--network", "3", "--epochs", "1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": arrays()["y"][:, :9]}, r"y has 9 steps and x 12; target spike trains \[N, T, C\] must have as many"),
        ({"y": arrays()["y"][:9]}, r"y has shape \[9, 12, 3\]; x has 40 samples, so it must be \[40\], or \[40, T, C\]"),
        ({"y": arrays()["y"][:, :, 0]}, r"y has shape \[40, 12\]; .* or \[40, T, C\] for target spike trains"),
        ({"y": arrays()["y"][:, :, :0]}, r"y has shape \[40, 12, 0\]"),
        ({"y": arrays()["y"] * 2}, "y has 2; target spike trains hold 0 and 1"),
        ({"y": arrays()["y"] * 0.5}, "y has 0.5; target spike trains hold 0 and 1"),
        ({"y": np.full((N, T, C), np.nan)}, "y has nan; target spike trains hold 0 and 1"),
        ({"y": np.full((N, T, C), "1")}, "y has '1'; target spike trains hold 0 and 1"),
        ({"y": arrays()["y"] * 0}, "y holds only 0; a target spike train needs a 1"),
        ({"classes": ["a", "b"]}, "y has trains of 3 neurons, but classes names 2"),
        ({"x_test": arrays()["x"], "y_test": np.arange(N) % 3}, "one of y and y_test holds classes, the other spike trains"),
        ({"x_test": arrays()["x"], "y_test": arrays()["y"][:, :, :2]}, r"y_test are \[12, 2\], those of y \[12, 3\]"),
        ({"x_test": arrays()["x"], "y_test": arrays()["y"][:, :5]}, "y_test has 5 steps and x_test 12"),
        ({"x": arrays()["x"][:2], "y": arrays()["y"][:2]}, None),
        ({"x": arrays()["x"][:1], "y": arrays()["y"][:1]}, "has 1 sample; training and test need 2; add samples, or bring"),
    ],
)
def test_targets_that_do_not_fit(place, capsys, change, message):
    np.savez("mine.npz", **{**arrays(), **change})
    code, _, err = run(capsys, "train", "--data", "mine.npz", *MODEL)
    if message is None:
        assert code == 0, err
        return
    assert (code, err.count("\n")) == (2, 1), err
    assert re.search(message, err), err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bin", "2"], "mine holds events: its targets have a spike or none in each step"),
        (["--time-steps", "9"], "--time-steps is 9; the sequences of mine have 12"),
        (["--loss", "count"], "--loss count is for classes; the targets of mine are spike trains"),
        (["--network", "30-V10"], "votes|must end with 3, the output neurons of mine"),
        (["--filters", "8"], "--filters is for series with classes"),
        (["--neuron", "relu"], "--neuron relu makes no spikes; the targets of mine are spike trains"),
    ],
)
def test_settings_that_do_not_go_with_target_trains(place, capsys, flags, message):
    np.savez("mine.npz", **arrays())
    code, _, err = run(capsys, "train", "--data", "mine.npz", *(flags if "--network" in flags else [*MODEL, *flags]))
    assert (code, err.count("\n")) == (2, 1), err
    assert re.search(message, err), err


def test_one_pattern_is_learned_and_tested_on_itself(place, capsys):
    one = {"x": arrays()["x"][:1], "y": arrays()["y"][:1]}
    np.savez("one.npz", **one, x_test=one["x"], y_test=one["y"])
    code, out, err = run(capsys, "train", "--data", "one.npz", *MODEL, "--name", "a")
    assert code == 0, err
    assert "(1 test samples" in out


def test_models_of_classes_and_of_trains_are_not_mixed_up(place, capsys):
    given = arrays()
    np.savez("trains.npz", **given)
    np.savez("classes.npz", x=given["x"], y=np.arange(N) % 3)
    np.savez("more.npz", x=1 - given["x"], y=given["y"])
    np.savez("labelled.npz", x=1 - given["x"], y=np.arange(N) % 3)
    np.savez("two.npz", x=1 - given["x"], y=given["y"][:, :, :2])
    for name in ("trains", "classes"):
        assert run(capsys, "train", "--data", f"{name}.npz", *MODEL, "--name", name)[0] == 0
    wrong = {
        ("trains", "--all", "labelled.npz"): "the targets of labelled.npz are classes; the model was trained on spike trains",
        ("classes", "--all", "more.npz"): "the targets of more.npz are spike trains; the model was trained on classes",
        ("trains", "--all", "two.npz"): "y has trains of 2 neurons; the model has 3",
        ("trains", "--early-exit"): "--early-exit is for classes; this model answers with spike trains",
    }
    for (name, *flags), message in wrong.items():
        code, _, err = run(capsys, "evaluate", f"runs/{name}", *flags)
        assert (code, err.count("\n")) == (2, 1), err
        assert message in err, err
    code, out, err = run(capsys, "evaluate", "runs/trains", "--all", "more.npz")
    assert code == 0, err
    assert "on all of more.npz, 40 samples" in out


def of_trains():
    return training.prepare(*training.with_data(TrainConfig(network="3"), dataset=data.of_arrays(**arrays())))[0]


def test_exported_programs_have_no_answer(place):
    c.write(Program.of(of_trains()), Path("in-c"), place)
    page = Path("in-c/README.md").read_text()
    assert "3 output neurons, 12 steps" in page
    assert "network_spikes(&state, NETWORK_POPULATIONS - 1, &spiked)" in page
    assert "**Output neurons**:" in page
    assert "answer = " not in page


def test_exported_graphs_have_no_answer():
    pytest.importorskip("nir")
    model = of_trains()
    assert to_nir(model).metadata["decode"] == "the spikes of the output neurons"
    pytest.importorskip("onnxruntime")
    graph = onnx.to_onnx(model)
    assert [each.name for each in graph.graph.output] == ["output"]
    (line,) = onnx.check(graph, model, data.of_arrays(**arrays()).test)
    assert re.fullmatch("onnxruntime .*: 0 of .* output currents differ", line)


def test_what_a_model_file_says_of_its_targets(place):
    model = of_trains()
    model.save("a.safetensors")
    assert tsslbp.load("a.safetensors").trains
    plain, _ = training.prepare(
        *training.with_data(TrainConfig(network="3"), dataset=data.of_arrays(arrays()["x"], np.arange(N) % 3))
    )
    plain.save("b.safetensors")
    assert not tsslbp.load("b.safetensors").trains
    assert b'"trains"' not in Path("b.safetensors").read_bytes()
