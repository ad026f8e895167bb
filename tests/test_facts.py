"""What a model remembers of its data, and what it makes of samples that are unlike them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import save

from tsslbp import UserError, cli, data, training
from tsslbp.cli import picture
from tsslbp.data import Dataset, Facts, Normalisation, Split
from tsslbp.data.labels import unlike
from tsslbp.network.model_file import METADATA_KEY
from tsslbp.training.evaluation import samples_to_predict
from tsslbp.training.settings import TrainConfig

TINY = ["--network", "8-3", "--epochs", "1", "--batch-size", "30", "--precision", "float32"]


def pictures(count, seed, *, dtype="uint8", low=0.0, high=255.0):
    """Grey 6×6 pictures with a light bar in one of three places, their values from ``low`` to ``high``."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = random.random((count, 1, 6, 6)) * 0.2
    for n, label in enumerate(y):
        x[n, 0, 2 * label : 2 * label + 2] += 0.8
    x[:, :, 0, 0], x[:, :, 5, 5] = 0, 1  # the whole range, whatever the seed
    return (low + x * (high - low)).astype(dtype), y


def run(capsys, *arguments):
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on bytes with a test set, on bytes without one, and on numbers around 0."""
    folder = tmp_path_factory.mktemp("facts")
    (x, y), (x_test, y_test) = pictures(150, 0), pictures(60, 1)
    save(folder / "bytes.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    save(folder / "fifth.npz", x=x, y=y)
    z, _ = pictures(150, 0, dtype="float32", low=-1.5, high=3.0)
    save(folder / "floats.npz", x=z, y=y)
    for name, held in (("bytes", 15), ("fifth", 12), ("floats", 12)):
        place = {"data": str(folder / f"{name}.npz"), "validation": held, "name": name, "runs_dir": folder}
        training.train(TrainConfig(**place, network="8-3", epochs=1, batch_size=30, precision="float32"))
    return folder


def test_a_model_keeps_the_facts_of_its_data(trained):
    facts = training.load(trained / "floats").facts
    with np.load(trained / "floats.npz") as file:
        x = file["x"]
    assert (facts.dtype, facts.low, facts.high) == ("float32", (float(x.min()),), (float(x.max()),))
    assert facts.samples == {"train": 108, "validation": 12, "test": 30}
    dataset = data.load(str(trained / "floats.npz"), Path())
    assert Facts.of(dataset) == facts == Facts.read(json.loads(json.dumps(facts.to_dict())))
    assert facts.is_test_set(dataset.test)
    assert not facts.is_test_set(dataset.validation)
    assert (facts.seen(dataset.train)[0], facts.seen(dataset.test)[0]) == (1.0, 0.0)
    half = dataset.train.select(torch.arange(0, 108, 2))
    assert 0.2 < facts.seen(half)[0] < 0.8


def test_facts_are_per_channel_of_images_and_sequences_of_them():
    x = torch.arange(2 * 3 * 4 * 2 * 2).view(2, 3, 4, 2, 2).float()
    part = Split(x, torch.zeros(2, dtype=torch.int64))
    facts = Facts.of(Dataset("own", part, part, part, ("a",), Normalisation(1.0, (0.0,), (1.0,)), sequence=True))
    assert facts.low == (0.0, 4.0, 8.0, 12.0)
    assert facts.high == (83.0, 87.0, 91.0, 95.0)


def test_another_order_or_another_split_is_another_fingerprint():
    part = Split(torch.rand(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3)
    dataset = Dataset("own", part, part, part, ("a", "b", "c"), Normalisation(1.0, (0.0,), (1.0,)))
    turned, again = replace(dataset, test=part.select(torch.arange(8, -1, -1))), replace(dataset, name="same")
    assert Facts.of(dataset).fingerprint == Facts.of(again).fingerprint != Facts.of(turned).fingerprint
    relabelled = replace(dataset, train=Split(part.x, (part.y + 1) % 3))
    assert Facts.of(relabelled).fingerprint != Facts.of(dataset).fingerprint
    computed = replace(dataset, computed=True)  # another processor may round these otherwise
    nearly = replace(computed, test=Split(part.x * (1 + 1e-7), part.y))
    assert Facts.of(computed).is_test_set(nearly.test)
    assert not Facts.of(dataset).is_test_set(nearly.test)


def test_of_a_large_set_some_samples_are_looked_at(monkeypatch):
    monkeypatch.setattr("tsslbp.data.dataset.LARGE", 100)
    monkeypatch.setattr("tsslbp.data.dataset.SAMPLES_LOOKED_AT", 5)
    part = Split(torch.rand(50, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(50, dtype=torch.int64))
    facts = Facts.of(Dataset("own", part, part, part, ("a",), Normalisation(1.0, (0.0,), (1.0,))))
    assert len(facts.remembered) == 5
    assert facts.samples["train"] == 50
    assert facts.seen(part)[0] == 1


def test_classes_of_other_numbers_and_data_that_are_elsewhere_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,b,label\n" + "".join(f"{n % 5},{n % 3},{1 + n % 2}\n" for n in range(40)))
    assert run(capsys, "train", "--data", "t.csv", "--network", "4-2", "--epochs", "1", "--name", "t")[0] == 0
    save(tmp_path / "u.npz", x=np.zeros((9, 2)), y=np.arange(9) % 2, x_test=np.zeros((2, 2)), y_test=np.arange(2))
    code, _, err = run(capsys, "evaluate", "runs/t", "--data", "u.npz")
    assert (code, err) == (2, "tsslbp: the classes of u.npz are 0, 1; the model's are 1, 2\n")
    Path("t.csv").rename("moved.csv")
    code, _, err = run(capsys, "evaluate", "runs/t")
    assert (code, err) == (2, "tsslbp: there is no t.csv here, on which the model was trained; say where it is with --data\n")
    for command in (("report", "runs/t"), ("study", "firing", "runs/t")):
        code, _, err = run(capsys, *command)
        said = "put it back, work in the folder it is in, or resume the run with --data (one that has ended trains no more)"
        assert (code, err) == (2, f"tsslbp: there is no t.csv here, on which the run was trained; {said}\n")


def test_samples_of_a_few_kinds_are_no_sign_of_the_training_set():
    """A table of three answers with yes or no has eight kinds of rows."""
    draws = [torch.randint(2, (80, 3), generator=torch.Generator().manual_seed(n)).float() for n in (0, 1)]
    parts = [Split(x, torch.arange(80) % 2) for x in draws]
    facts = Facts.of(Dataset("own", *[parts[0]] * 3, ("a", "b"), Normalisation(1.0, (0.0,), (1.0,))))
    assert facts.seen(parts[1]) == (1.0, True)


def test_evaluate_says_what_the_accuracy_is_of(trained, capsys):
    for name, which in (("bytes", "your x_test, 60 samples"), ("fifth", "a held-out fifth, 30 samples")):
        code, out, err = run(capsys, "evaluate", trained / name)
        assert (code, err) == (0, "")
        _, final = training.read_metrics(trained / name)
        assert out.startswith(f"test accuracy {final['test_accuracy']:.2f} % (")
        assert f") on {which}\n" in out


def test_a_data_set_without_test_samples_is_told(trained, capsys, monkeypatch):
    def untested(validation):
        dataset = data.load(str(trained / "bytes.npz"), Path(), validation=validation)
        return replace(dataset, test=dataset.test.select(torch.arange(0)))

    monkeypatch.setitem(data.SETS, "untested", untested)
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--data", "untested")
    said = "untested has no test samples; give it some, or evaluate all samples of a file with --all"
    assert (code, err) == (2, f"tsslbp: {said}\n")


def test_a_pure_test_file_is_evaluated_whole(trained, capsys, tmp_path):
    """Version 0.1.0 cut a fifth out of it, without a word."""
    x, y = pictures(90, 7)
    path = save(tmp_path / "pure.npz", x=x, y=y)
    code, out, err = run(capsys, "evaluate", trained / "bytes", "--data", path)
    assert (code, out) == (2, "")
    assert "pure.npz has no x_test, and it is not, or no longer, the file that the model was trained on" in err
    assert f"--all {path}" in err
    code, out, err = run(capsys, "evaluate", trained / "bytes", "--all", path)
    assert (code, err) == (0, "")
    assert " of 90; 95 % interval" in out
    assert out.splitlines()[0].endswith(f"on all of {path}, 90 samples")
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--all", path, "--data", "digits")
    assert (code, err) == (2, "tsslbp: --all and --data both name samples; give one of them\n")


def test_all_takes_a_file_that_lacks_a_class_and_one_with_two_parts(trained, capsys, tmp_path):
    x, y = pictures(30, 8)
    ones = save(tmp_path / "ones.npz", x=x[y == 1], y=y[y == 1])
    assert run(capsys, "evaluate", trained / "bytes", "--all", ones)[0] == 0
    both = save(tmp_path / "both.npz", x=x[:20], y=y[:20], x_test=x[20:], y_test=y[20:])
    _, out, _ = run(capsys, "evaluate", trained / "bytes", "--all", both)
    assert " of 30; " in out
    beyond = save(tmp_path / "beyond.npz", x=x, y=y + 1)
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--all", beyond)
    assert code == 2
    assert "y has class 3; the model's are 0, 1, 2; give samples of these only" in err


def test_samples_it_was_trained_on_are_no_test(trained, capsys, tmp_path):
    code, out, err = run(capsys, "evaluate", trained / "fifth", "--all", trained / "fifth.npz")
    assert (code, out) == (2, "")
    assert "fifth.npz holds the samples that the model was trained on" in err
    (old, y_old), (new, y_new) = pictures(150, 0), pictures(60, 9)
    mixed = save(tmp_path / "mixed.npz", x=np.concatenate([new, old[::3]]), y=np.concatenate([y_new, y_old[::3]]))
    code, out, err = run(capsys, "evaluate", trained / "bytes", "--all", mixed)
    assert code == 0
    (share,) = [int(word) for word in err.split() if word.isdecimal()]
    assert f"warning: about {share} % of the training samples are in {mixed} too" in err
    assert 10 < share < 60


def test_a_file_that_changed_after_the_training_is_not_its_test_set(trained, capsys, tmp_path):
    x, y = pictures(150, 5)
    model = replace(training.load(trained / "fifth"), data=str(save(tmp_path / "changed.npz", x=x, y=y)))
    model.save(tmp_path / "model.safetensors")
    code, _, err = run(capsys, "evaluate", tmp_path / "model.safetensors")
    assert code == 2
    assert "no longer, the file that the model was trained on" in err


def test_a_named_set_of_other_samples_is_told(capsys, samples, tmp_path):
    arguments = ["--data", "mnist", "--network", "5-10", "--epochs", "1", "--data-root", samples, "--runs-dir", tmp_path]
    assert run(capsys, "train", *arguments, "--name", "small")[0] == 0
    assert run(capsys, "evaluate", tmp_path / "small", "--data-root", samples)[2] == ""
    model = training.load(tmp_path / "small")
    facts = replace(model.facts, digests={**model.facts.digests, "test": "another"})
    replace(model, facts=facts).save(tmp_path / "other.safetensors")
    code, _, err = run(capsys, "evaluate", tmp_path / "other.safetensors", "--data-root", samples)
    assert code == 0
    assert err == "warning: the test set of mnist is not the one that the model was measured on after its training\n"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            dict(zip("xy", pictures(60, 1, dtype="float32", high=1.0), strict=True)),
            "0 to 1 (float32); the training samples run",
        ),
        (dict(zip("xy", pictures(60, 1, dtype="float32", high=9e4), strict=True)), "bring them to the same units"),
        (dict(zip("xy", pictures(60, 1, dtype="float32", low=-300), strict=True)), "bring them to the same units"),
        ({"x": pictures(60, 1)[0][:, :, :5], "y": np.arange(60) % 3}, "have shape [1, 5, 6]; the model takes [1, 6, 6]"),
        ({"x": pictures(60, 1)[0].reshape(60, 36), "y": np.arange(60) % 3}, "have shape [36]; the model takes [1, 6, 6]"),
    ],
    ids=["other-units", "beyond", "below", "smaller", "flat"],
)
@pytest.mark.parametrize("option", ["--all", "--data"])
def test_samples_in_other_units_or_shapes_are_refused(trained, capsys, tmp_path, arrays, message, option):
    more = {} if option == "--all" else {"x_test": arrays["x"], "y_test": arrays["y"]}
    path = save(tmp_path / "odd.npz", **arrays, **more)
    code, out, err = run(capsys, "evaluate", trained / "bytes", option, path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_few_samples_far_out_are_a_warning(trained, capsys, tmp_path):
    x, y = pictures(60, 1, dtype="float32", low=-1.5, high=3.0)
    x[0, 0, 0, 0] = 1e4
    code, _, err = run(capsys, "evaluate", trained / "floats", "--all", save(tmp_path / "far.npz", x=x, y=y))
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith("warning: values of ")
    assert "run from -1.5 to 10000" in err


def table(scale=1.0, count=60, seed=1):
    """Samples whose second feature has 0.2 of the range of the first, in units of its own."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = np.stack([random.uniform(1000, 6000, count), scale * (random.uniform(100, 1100, count) + 50 * y), y % 2], 1)
    return x.astype(np.float32), y


def test_each_column_has_a_range_of_its_own(capsys, tmp_path):
    def written(name, scale, count, seed=1):
        rows = [
            "length,width,flag,label",
            *(f"{a},{b},{c},{y}" for (a, b, c), y in zip(*table(scale, count, seed), strict=True)),
        ]
        (tmp_path / name).write_text("\n".join(rows))
        return tmp_path / name

    settings = {"network": "8-3", "epochs": 1, "precision": "float32", "runs_dir": tmp_path, "name": "run"}
    training.train(TrainConfig(data=str(written("t.csv", 1.0, 150, 0)), **settings))
    model = training.load(tmp_path / "run")
    assert len(model.facts.low) == 3
    wide, narrow, few = written("wide.csv", 1000.0, 60), written("narrow.csv", 0.01, 60), written("few.csv", 0.01, 5)
    for command in (("evaluate", tmp_path / "run", "--all"), ("predict", tmp_path / "run")):
        code, out, err = run(capsys, *command, wide)
        assert (code, out) == (2, "")
        told = r"in column width run from [\d.]+ to 1.\d*e\+06, in the training samples from [\d.]+ to 1[\d.]+"
        assert re.fullmatch(rf"tsslbp: values of .*wide.csv {told}; bring them to the same units\n", err)
        code, _, err = run(capsys, *command, narrow)
        assert (code, err.count("in column width run from"), err.count("\n")) == (0, 1, 1)
        assert "column length" not in err
        assert "values of" not in run(capsys, *command, few)[2]
    written("u_TRAIN.csv", 1.0, 150, 0)
    written("u_TEST.csv", 0.01, 60)
    code, _, err = run(capsys, "train", "--data", tmp_path / "u_TRAIN.csv", *TINY, "--runs-dir", tmp_path, "--name", "u")
    assert (code, err.count("warning: values of the test samples in column width run from 1")) == (0, 1)


@pytest.mark.parametrize(("steps", "fix"), [(6, "add zeros at the end, and give lengths"), (9, "cut them")])
def test_sequences_of_other_lengths_are_told_what_to_do(tmp_path, steps, fix):
    x, y = np.random.default_rng(0).random((40, 9, 3)), np.arange(40) % 2
    dataset = data.of_arrays(x[:, :8], y)
    model, _ = training.prepare(*training.with_data(TrainConfig(network="5-2"), dataset=dataset))
    with pytest.raises(UserError, match=rf"have shape \[{steps}, 3\]; the model takes \[8, 3\]; {fix}$"):
        samples_to_predict(model, Path(save(tmp_path / "other.npz", x=x[:, :steps], y=y)))


@pytest.mark.parametrize("sequence", [False, True])
def test_features_without_names_are_numbered(sequence):
    def facts_of(x):
        part = Split(torch.from_numpy(x), torch.zeros(len(x)))
        return Facts.of(Dataset("own", part, part, part, ("a", "b"), Normalisation(1.0, (0.0,), (1.0,)), sequence))

    def shaped(x):
        return x.reshape(-1, 10, x.shape[1]) if sequence else x

    facts, kind = facts_of(shaped(table(count=150)[0])), "channel" if sequence else "feature"
    assert facts.unlike(torch.from_numpy(shaped(table(seed=2)[0])), sequence) is None
    told, other_units = facts.unlike(torch.from_numpy(shaped(table(100.0, seed=2)[0])), sequence)
    assert told.startswith(f"in {kind} 1 run from ")
    assert other_units
    many = np.repeat(table()[0], 3, 1)
    told, _ = facts_of(shaped(many)).unlike(torch.from_numpy(shaped(many * np.float32([1, *[100] * 6, 1, 1]))), sequence)
    assert told.endswith(f"; 3 more {kind}s differ as much")


@pytest.mark.parametrize("shape", [(2, 6), (5, 2, 6)])
def test_samples_of_one_axis_have_a_range_for_each_channel(shape, tmp_path):
    x, y, sequence = torch.rand(40, *shape), torch.arange(40) % 2, len(shape) == 3
    x.select(1 + sequence, 1).mul_(100)
    part = Split(x, y)
    dataset = Dataset("own", part, part.select(y[:0]), part, ("a", "b"), Normalisation(1.0, (0.0,), (1.0,)), sequence)
    config = TrainConfig(
        network="4C3-2", time_steps=5, epochs=1, runs_dir=tmp_path, validation=0, choose="last", precision="float32"
    )
    model = training.load(training.train(config, dataset=dataset)[0])
    assert len(model.facts.low) == 2
    told, other_units = model.facts.unlike(x.flip(1 + sequence), sequence)
    assert told.startswith("run from") or told.startswith("in channel 0 run from")
    assert other_units


@pytest.mark.parametrize(("shape", "sequence"), [((), False), ((4,), True), ((2, 3, 4, 5), False), ((2, 3, 4, 5, 6), True)])
def test_samples_of_other_axes_are_refused(shape, sequence):
    part = Split(torch.rand(8, *shape), torch.arange(8) % 2)
    dataset = Dataset("own", part, part, part, ("a", "b"), Normalisation(1.0, (0.0,), (1.0,)), sequence)
    with pytest.raises(UserError, match=r"dataset: its samples have shape .*; x must be \[N, "):
        training.train(TrainConfig(network="4-2"), dataset=dataset)


@pytest.mark.parametrize(
    ("x", "lengths", "said"),
    [
        (torch.rand(3, 9, 3), None, r"x has shape \[3, 9, 3\]; it must be \[B, 8, ...\], batch first"),
        (torch.rand(3, 8), None, r"x has shape \[3, 8\]; it must be \[B, 8, ...\]"),
        (torch.rand(3, 8, 3), torch.tensor([1, 2, 9]), "lengths"),
        (torch.rand(3, 8, 3), [1, 2, 8], "lengths"),
    ],
)
def test_what_is_no_input_of_a_model_is_refused(x, lengths, said):
    dataset = data.of_arrays(np.random.default_rng(0).random((40, 8, 3)), np.arange(40) % 2)
    model, _ = training.prepare(*training.with_data(TrainConfig(network="5-2"), dataset=dataset))
    with pytest.raises(UserError, match=said):
        model.inputs(x, lengths=lengths)


def test_a_feature_that_never_varied_is_told_and_not_refused():
    x = torch.ones(20, 2)
    x[:, 0] = torch.arange(20)
    facts = Facts.of(Dataset("own", *[Split(x, torch.zeros(20))] * 3, ("a", "b"), Normalisation(1.0, (0.0,), (1.0,))))
    other = x.clone()
    other[:, 1] = torch.arange(20)
    assert facts.unlike(other, False) == ("in feature 1 run from 0 to 19, in the training samples from 1 to 1", False)
    other[:, 0] = 7
    assert "feature 0" not in facts.unlike(other, False)[0]


def test_test_samples_that_are_training_samples_too_are_told(capsys, tmp_path):
    x, y = pictures(60, 0)
    for name, copies, said in (
        ("once", 1, ""),
        ("five", 5, "% of the training samples are test samples, too; if these are copies, the test accuracy is too high"),
    ):
        path = save(tmp_path / f"{name}.npz", x=np.concatenate([x] * copies), y=np.concatenate([y] * copies))
        code, _, err = run(capsys, "train", "--data", path, *TINY, "--runs-dir", tmp_path, "--name", name)
        assert code == 0
        assert said in err
        assert ("test samples, too" in err) == (copies > 1)


def test_the_same_numbers_in_another_type_are_the_same(trained, capsys, tmp_path):
    x, y = pictures(60, 1)
    stored = [save(tmp_path / f"{dtype}.npz", x=x.astype(dtype), y=y) for dtype in ("uint8", "float64")]
    first, second = (run(capsys, "evaluate", trained / "bytes", "--all", path)[1] for path in stored)
    assert first.split(" on all")[0] == second.split(" on all")[0]


@pytest.mark.parametrize("shape", [(3,), (5, 3), (5, 2, 3), ()])
def test_a_model_takes_samples_of_its_shape_only(trained, shape):
    model = training.load(trained / "floats")
    for call in (model.outputs, model.decide, model.spikes):
        with pytest.raises(UserError, match=re.escape(f"x has shape {list(shape)}; the model takes samples [N, ")):
            call(torch.rand(shape))


def test_mistaken_arguments_of_a_model_are_one_line(trained):
    model, x = training.load(trained / "floats"), torch.zeros(2, 1, 6, 6)
    for call, message in (
        (lambda: model.answers(x), "samples are of type Tensor; give a part of a data set"),
        (lambda: model.accuracy(x), "samples are of type Tensor"),
        (lambda: model.outputs(x, batch_size=0), "batch_size is 0; it must be a whole number from 1"),
        (lambda: model.response(x), "x has 2 samples; a response is that to one"),
        (lambda: training.train(TrainConfig(), data.load("digits", "")), "not a Dataset; data are given as dataset="),
        (lambda: data.load("delayed-xor", "", validation=33), "delayed-xor has 250 validation samples of its own"),
        (lambda: data.of_arrays(np.zeros((9, 2)), np.arange(9) % 2, validation=6.5), "validation is 6.5; it must be a whole"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            call()
    assert len(data.load(Path("digits"), Path(), validation=np.int64(50)).validation) == 50


def test_classes_that_differ_late_are_told_apart():
    many = [str(n) for n in range(30)]
    assert unlike([*many, "x"], [*many, "y"]) == "... x; the model's are ... y"
    assert unlike(["a"], ["a", "b"]) == "... ; the model's are ... b"


def test_padding_is_no_value_and_no_end(tmp_path):
    x, lengths = 1000 + torch.rand(40, 20, 2), torch.arange(40) % 13 + 8
    inside = torch.arange(20) < lengths[:, None]
    padded = x.where(inside[..., None], 0)
    whole, shorter = data.of_arrays(x, np.arange(40) % 2), data.of_arrays(padded, np.arange(40) % 2, lengths=lengths)
    facts = Facts.of(shorter)
    assert min(facts.low) >= 1000
    assert Facts.of(whole).unlike(Split(padded, torch.zeros(40), lengths).values(), True) is None
    assert shorter.train.padded
    assert not Split(x, torch.zeros(40), torch.full((40,), 20)).padded
    model, _ = training.prepare(*training.with_data(TrainConfig(network="5-2"), dataset=whole))
    ends = torch.full((4,), 20)
    assert torch.equal(model.decide(Split(x[:4], torch.zeros(4), ends))[1], model.decide(Split(x[:4], torch.zeros(4)))[1])
    spikes, _ = model.response(padded[:1], lengths=lengths[:1])
    assert {len(train) for train in spikes.values()} == {8}


def test_parts_with_and_without_lengths_add_up():
    padded = Split(torch.rand(2, 4, 3), torch.arange(2), torch.tensor([1, 3]))
    whole = Split(torch.rand(1, 4, 3), torch.arange(1))
    assert (padded + whole).lengths.tolist() == [1, 3, 4]
    assert (whole + padded).lengths.tolist() == [4, 1, 3]
    assert (whole + whole).lengths is None


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 2, 3)])
def test_pictures_with_channels_last_or_without_are_the_same(trained, capsys, tmp_path, axes):
    x, y = pictures(60, 1)
    other = x[:, 0] if len(axes) == 3 else x.transpose(axes)
    stored = [save(tmp_path / f"{n}.npz", x=samples, y=y) for n, samples in enumerate((x, other))]
    first, second = (run(capsys, "evaluate", trained / "bytes", "--all", path)[1] for path in stored)
    assert first.split(" on all")[0] == second.split(" on all")[0] != ""


def test_a_narrow_range_is_told(trained, capsys, tmp_path):
    x, y = pictures(60, 1, low=100, high=110)
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--all", save(tmp_path / "grey.npz", x=x, y=y))
    assert code == 0
    assert "warning: values of" in err
    assert "run from 100 to 110 (uint8); the training samples run from 0 to 255 (uint8)" in err


def test_classes_of_other_names_are_refused(trained, capsys, tmp_path):
    x, y = pictures(60, 1)
    named = save(tmp_path / "named.npz", x=x, y=y, x_test=x, y_test=y, classes=np.array(["a", "b", "c"]))
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--data", named)  # the model's are only numbers
    said = "warning: classes are taken by their order: {}; give the samples classes with names to be sure\n"
    assert (code, said.format("a as 0, b as 1, c as 2") in err) == (0, True)
    model = replace(training.load(trained / "bytes"), classes=("b", "a", "c"))
    model.save(tmp_path / "model.safetensors")
    for option in ("--data", "--all"):
        code, _, err = run(capsys, "evaluate", tmp_path / "model.safetensors", option, named)
        assert code == 2
        assert "a, b, c; the model's are b, a, c" in err
        numbers = save(tmp_path / "numbers.npz", x=x, y=y, x_test=x, y_test=y)
        code, _, err = run(capsys, "evaluate", tmp_path / "model.safetensors", option, numbers)
        assert (code, said.format("0 as b, 1 as a, 2 as c") in err) == (0, True)
    assert run(capsys, "predict", tmp_path / "model.safetensors", numbers)[2] == ""
    text = save(tmp_path / "text.npz", x=x, y=np.array(["a", "b", "c"])[y])
    assert "by their order" not in run(capsys, "evaluate", tmp_path / "model.safetensors", "--all", text)[2]
    code, _, err = run(capsys, "evaluate", trained / "bytes", "--data", "digits")
    assert (code, err) == (2, "tsslbp: digits has 10 classes; the model has 3\n")


def test_an_image_is_brought_to_the_range_of_the_training_samples(trained, capsys, tmp_path):
    """Version 0.1.0 gave every image of a model of such numbers the same class."""
    x, _ = pictures(30, 0)
    floats, _ = pictures(30, 0, dtype="float32", low=-1.5, high=3.0)
    model = training.load(trained / "floats")
    for n in range(6):
        Image.fromarray(x[n, 0]).save(tmp_path / "picture.png")
        sample, said = picture.read(tmp_path / "picture.png", model)
        np.testing.assert_allclose(sample.numpy(), floats[n : n + 1], atol=4.5 / 255)
        assert said == ["black became -1.5 and white 3, as in the training samples"]
    assert "black became" in run(capsys, "predict", trained / "floats", tmp_path / "picture.png")[2]
    assert run(capsys, "predict", trained / "bytes", tmp_path / "picture.png")[2] == ""


@pytest.mark.parametrize(("normalise", "name"), [("auto", None), ("none", None), ("none", ""), ("none", "mine")])
def test_light_pictures_stay_light_for_a_model_of_light_pictures(tmp_path, normalise, name):
    x, y = pictures(30, 0)
    light = save(tmp_path / "light.npz", x=np.maximum(230, x), y=y)
    config = TrainConfig(epochs=1, runs_dir=tmp_path, data=str(light), name="run", normalise=normalise)
    model = training.load(training.train(config)[0])
    model = model if name is None else replace(model, data=name)
    Image.new("L", (4 * x.shape[3], 4 * x.shape[2]), 230).save(tmp_path / "picture.png")
    sample, said = picture.read(tmp_path / "picture.png", model)
    assert (sample > 200).all()
    assert any("nothing was exchanged" in line for line in said) == (normalise == "none")


@pytest.mark.parametrize(("dtype", "greatest"), [(np.uint8, 1), (np.uint8, 16), (bool, 1)])
def test_white_is_the_largest_value_of_bytes_with_few_shades(tmp_path, dtype, greatest):
    x, y = pictures(30, 0)
    few = (x > 127).astype(dtype) * dtype(greatest)
    config = TrainConfig(epochs=1, runs_dir=tmp_path, data=str(save(tmp_path / "few.npz", x=few, y=y)), name="run")
    model = training.load(training.train(config)[0])
    Image.fromarray((255 * (few[0, 0] > 0)).astype(np.uint8)).save(tmp_path / "picture.png")
    sample, said = picture.read(tmp_path / "picture.png", model, invert=False)
    assert torch.equal(sample, torch.from_numpy(few[:1]).float())
    assert said == [f"black became 0 and white {greatest}, as in the training samples"]
    encoded = replace(config, encoding="poisson", name="spikes")
    if greatest == 1:
        inputs = training.prepare(*training.with_data(encoded))[0].inputs
        assert inputs(torch.from_numpy(few)).float().mean() == pytest.approx(few.mean())
    else:
        with pytest.raises(UserError, match="--encoding poisson takes values from 0 to 1; those of few run from 0 to 16"):
            training.with_data(encoded)


def old(path, to, **changes):
    """A model as version 0.1.0 wrote it: without facts and checksum."""
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
    about = {key: value for key, value in about.items() if key not in ("facts", "sha256")}
    save_file(load_file(path), to, metadata={METADATA_KEY: json.dumps({**about, **changes})})
    return to


def test_models_of_version_0_1_0_still_work_and_say_what_they_do_not_know(trained, capsys, tmp_path):
    path = old(trained / "bytes/model.safetensors", tmp_path / "old.safetensors")
    assert training.load(path).facts is None
    with pytest.raises(
        UserError, match=r"of version 0\.1\.0, where this set was normalised outside its models; train it again"
    ):
        training.load(old(trained / "bytes/model.safetensors", tmp_path / "vowels.safetensors", data="japanese-vowels"))
    assert run(capsys, "evaluate", path)[::2] == (0, "")
    x, y = pictures(60, 1, dtype="float32", high=1.0)
    code, _, err = run(capsys, "evaluate", path, "--all", save(tmp_path / "floats.npz", x=x, y=y))
    assert code == 2
    assert "values of" in err
    assert "run to 1; the model takes them up to 255" in err
    x, y = pictures(60, 1)
    for option in ("--all", "--data"):
        _, _, err = run(capsys, "evaluate", path, option, save(tmp_path / "bytes.npz", x=x, y=y))
        assert "this model does not remember its training samples" in err
    path = old(trained / "floats/model.safetensors", tmp_path / "floats.safetensors")
    Image.new("L", (6, 6)).save(tmp_path / "picture.png")
    code, _, err = run(capsys, "predict", path, tmp_path / "picture.png")
    assert code == 2
    assert "does not say which values its training samples had for black and white" in err


def test_a_model_made_in_python_does_not_say_it_learned_the_digits(trained, capsys, tmp_path):
    dataset = replace(data.load(str(trained / "bytes.npz"), Path()), source="")
    model, _ = training.prepare(TrainConfig(network="5-3", time_steps=5), dataset)
    model.save(tmp_path / "own.safetensors")
    assert training.load(tmp_path / "own.safetensors").data == ""
    code, _, err = run(capsys, "evaluate", tmp_path / "own.safetensors")
    assert code == 2
    assert "the model was made or trained in Python, or imported; name the samples to test it on with --data" in err


def damaged(changes):
    def apply(about):
        for key, value in changes.items():
            *path, last = key.split("/")
            place = about
            for step in path:
                place = place[step]
            place[last] = value
        return about

    return apply


@pytest.mark.parametrize(
    "change",
    [
        lambda about: None,
        lambda about: [],
        lambda about: {},
        lambda about: {**about, "architecture": "{"},
        lambda about: {**about, "architecture": about["architecture"].replace("8-3", "9-3")},
        lambda about: {**about, "architecture": about["architecture"].replace("8-3", "80000000000-3")},
        lambda about: {**about, "architecture": about["architecture"].replace('"tau_m": 5', '"tau_m": 0')},
        lambda about: {**about, "architecture": about["architecture"].replace('"tau_m": 5', '"tau_m": "5"')},
        lambda about: {**about, "architecture": about["architecture"].replace('"time_steps": 5', '"time_steps": 1e9')},
        lambda about: {**about, "novelty": 1},
        damaged({"inputs/normalisation/scale": 0}),
        damaged({"inputs/normalisation/scale": "255"}),
        damaged({"inputs/normalisation/mean": [0.1, 0.2]}),
        damaged({"inputs/normalisation/std": [0.0]}),
        damaged({"inputs/encoding": "morse"}),
        damaged({"inputs/time_steps": 7}),
        damaged({"inputs/sequence": 1}),
        damaged({"classes": ["a", "b"]}),
        damaged({"classes": ["a", "b", "b"]}),
        damaged({"classes": ["a", "b", "\x1b"]}),
        damaged({"classes": ["a", "b", 3]}),
        damaged({"classes": None}),
        damaged({"facts/low": []}),
        damaged({"facts/low": [float("nan")]}),
        damaged({"facts/low": [300]}),
        damaged({"facts/low": [0, 0], "facts/high": [1, 1]}),
        damaged({"facts/samples": {"train": -1}}),
        damaged({"facts/remembered": [1]}),
        damaged({"facts/dtype": "complex"}),
        damaged({"trained": {"settings": 1}}),
        damaged({"trained": {"settings": {}, "final": {}}}),
        damaged({"trained": {"settings": {}, "final": {}, "stored": "int8"}}),
        damaged({"sha256": "0"}),
    ],
)
def test_damaged_metadata_are_one_line(trained, tmp_path, capsys, change):
    source, path = trained / "bytes/model.safetensors", tmp_path / "bad.safetensors"
    with safe_open(source, framework="pt") as file:
        about = change(json.loads(file.metadata()[METADATA_KEY]))
    if isinstance(about, dict) and about.get("sha256") != "0":
        about.pop("sha256", None)  # as somebody would who altered the rest
    save_file(load_file(source), path, metadata={METADATA_KEY: json.dumps(about)})
    code, out, err = run(capsys, "evaluate", path)
    assert (code, out) == (2, "")
    assert str(path) in err
    assert err.count("\n") == 1


def test_samples_for_which_there_is_no_memory_are_told_of_at_once(trained, tmp_path, capsys, monkeypatch):
    source, path = trained / "bytes/model.safetensors", tmp_path / "long.safetensors"
    with safe_open(source, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
    about["inputs"]["time_steps"] = 10**7
    about["architecture"] = about["architecture"].replace('"time_steps": 5', f'"time_steps": {10**7}')
    about.pop("sha256")
    save_file(load_file(source), path, metadata={METADATA_KEY: json.dumps(about)})
    monkeypatch.setattr("tsslbp.utils.machine._free_memory", lambda: 2**30)
    said = f"tsslbp: {path}: a sample, over all its time steps, needs 1.3 GiB of memory, and 1.0 GiB are free\n"
    assert run(capsys, "evaluate", path) == (2, "", said)


def test_nothing_is_allocated_on_the_word_of_a_file(trained, tmp_path):
    """A layer of hundreds of GB would be."""
    with safe_open(trained / "bytes/model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
    about["architecture"] = about["architecture"].replace("8-3", "2000000000-3")
    weights = load_file(trained / "bytes/model.safetensors")
    save_file(weights, tmp_path / "huge.safetensors", metadata={METADATA_KEY: json.dumps(about)})
    with pytest.raises(UserError, match=r"huge.safetensors: its weights are .*2000000000"):
        training.load(tmp_path / "huge.safetensors")


def test_loading_draws_no_random_number(trained):
    before = torch.get_rng_state()
    training.load(trained / "bytes")
    assert torch.equal(torch.get_rng_state(), before)


def test_every_changed_weight_is_noticed(trained, tmp_path):
    source, path = trained / "bytes/model.safetensors", tmp_path / "flipped.safetensors"
    content = source.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    for position in np.random.default_rng(0).integers(start, len(content), 40).tolist():
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(UserError, match=r"damaged|NaN or infinity"):
            training.load(path)


@pytest.mark.parametrize("encoding", ["poisson", "latency"])
def test_encoders_refuse_what_is_no_intensity(trained, encoding):
    config = TrainConfig(data=str(trained / "floats.npz"), network="5-3", encoding=encoding, runs_dir=trained / "none")
    with pytest.raises(UserError, match=rf"--encoding {encoding} takes values from 0 to 1; those of .* run from -1.5 to 3"):
        training.train(config)
    assert not (trained / "none").exists()


def test_what_an_encoder_draws_does_not_depend_on_the_batch(trained):
    dataset = data.load(str(trained / "bytes.npz"), Path())
    model, _ = training.prepare(TrainConfig(network="20-3", encoding="poisson", time_steps=8), dataset)
    x = dataset.test.x
    whole = model.inputs(x, seed=0)
    assert whole.any()
    for size in (1, 7, 60):
        with model.evaluating(dataset.test, size) as batches:
            assert torch.equal(torch.cat([inputs for _, inputs in batches], 1), whole)
    _, output = model.response(x[17:18], seed=17)  # as the report draws it
    assert torch.equal(output, model.network(whole[:, 17:18]))
    assert not torch.equal(model.inputs(x, seed=0), model.inputs(x, seed=1))
    assert torch.equal(model.inputs(x, seed=5)[:, 0], model.inputs(x[:1], seed=5)[:, 0])
    assert torch.equal(model.inputs(x, seed=5)[:, 3], model.inputs(x[3:4], seed=8)[:, 0])
