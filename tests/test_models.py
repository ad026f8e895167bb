"""Models to give away: what the file and its card say is what the run did."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tsslbp
from tsslbp import UserError, cli, data, training
from tsslbp.cli import publishing
from tsslbp.cli.exchange import FORMATS, Format
from tsslbp.exchange import c
from tsslbp.exchange.program import Program
from tsslbp.network import infer as events
from tsslbp.training import recipes
from tsslbp.training.model import as_model
from tsslbp.training.settings import TrainConfig


def train(runs, **settings):
    """A run of the quick start with another network."""
    return training.train(replace(recipes.get("quickstart"), padding=(0,), runs_dir=runs, **settings))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("secret") / "runs", network="20-10", epochs=3, seed=7)


def test_an_exported_model_works_alone_and_its_card_tells_of_it(trained, tmp_path, capsys):
    path = tmp_path / "models/digits.safetensors"
    assert cli.main(["export", str(trained), str(path)]) == 0
    assert capsys.readouterr().out == f"card: {tmp_path / 'models/README.md'}\n"
    _, final = training.read_metrics(trained)
    model = training.load(path)
    assert model.trained["final"] == {key: value for key, value in final.items() if key not in ("machine", "model")}
    assert model.trained["settings"]["seed"] == 7
    assert cli.main(["evaluate", str(path)]) == 0
    assert f"test accuracy {final['test_accuracy']:.2f} %" in capsys.readouterr().out
    card = (tmp_path / "models/README.md").read_text()
    row = "| [`digits.safetensors`](digits.safetensors) | digits | `20-10` | 5 | `tssl` | 1,480 | float32 | 3 | 7 | "
    row += f"{final['validation_accuracy']:.2f} | {final['test_accuracy']:.2f} |"
    assert row in card.splitlines()
    for text in (card, str(safe_open(path, framework="pt").metadata())):
        assert "secret" not in text, "where a run lay is nobody's business"


def test_a_model_loaded_in_inference_mode_is_like_any_other(trained):
    with torch.inference_mode():
        network = training.load(trained).network
    x = torch.rand(3, 1, 8, 8)
    assert not any(weight.is_inference() for weight in network.parameters())
    with torch.inference_mode():
        assert events.plan(network, x) is not None
    network.train()(x).sum().backward()


def test_outputs_of_a_model_may_be_wanted_of_another(trained):
    model = training.load(trained)
    x = torch.rand(3, 1, 8, 8)
    samples = data.Split(x, torch.zeros(3, dtype=torch.int64))
    spikes, output = model.response(x[:1])
    for made in (model.answers(samples), model.scores(samples), *model.decide(x), output, *spikes.values()):
        assert not made.is_inference()
    (model.network.train()(x) - model.outputs(x)).square().sum().backward()
    assert all(weight.grad is not None for weight in model.network.parameters())


def test_half_precision_is_half_the_size_and_measured_again(trained, tmp_path, capsys):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert cli.main(["export", str(trained), str(whole)]) == 0
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    final = json.loads(lines[-1]) | {"test_accuracy": 1.0}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(final)]) + "\n")
    assert cli.main(["export", str(run), str(half), "--half"]) == 0
    assert whole.stat().st_size - half.stat().st_size > 0.9 * 2 * 1480
    exact, rounded = (training.load(path) for path in (whole, half))
    for name, weight in exact.network.state_dict().items():
        stored = rounded.network.state_dict()[name]
        assert torch.equal(stored, weight.half().float())
        assert not torch.equal(stored, weight)
    capsys.readouterr()
    assert cli.main(["evaluate", str(half)]) == 0
    assert f"test accuracy {rounded.trained['final']['test_accuracy']:.2f} %" in capsys.readouterr().out
    assert "| 1,480 | float16 | 3 | 7 |" in (tmp_path / "README.md").read_text()
    assert rounded.trained["final"]["test_accuracy"] > 1, "the run's record is not copied"


def test_standardised_weights_are_loaded_and_exported_plain(tmp_path, capsys):
    run = train(tmp_path, network="4C3-20-10", epochs=2, standardise=True)
    with safe_open(run / "model.safetensors", framework="pt") as learned:
        assert "layers.conv1.gain" in learned.keys()  # noqa: SIM118 (not a dict)
    path = tmp_path / "plain.safetensors"
    assert cli.main(["export", str(run), str(path)]) == 0
    with safe_open(path, framework="pt") as plain:
        assert sorted(plain.keys()) == [f"layers.{name}.weight" for name in ("conv1", "linear2", "output")]
    model = training.load(path)
    capsys.readouterr()
    assert cli.main(["evaluate", str(path)]) == 0
    assert f"test accuracy {model.trained['final']['test_accuracy']:.2f} %" in capsys.readouterr().out


@pytest.mark.parametrize(("value", "stored"), [(torch.nan, "float32"), (1e5, "float16")])
def test_a_model_that_is_not_finite_as_stored_replaces_no_file(value, stored, tmp_path):
    model = as_model(tsslbp.build("4-3", input_shape=(5,), time_steps=2, tau_m=5, tau_s=3))
    model.save(tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    model.network.layers.output.weight.data[0, 0] = value
    with pytest.raises(UserError, match=r"weights 'layers.output.weight' hold NaN or infinity; a model file holds finite"):
        replace(model, trained={"stored": stored}).save(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_half_precision_needs_the_data(trained, tmp_path, monkeypatch):
    config = TrainConfig.from_toml(trained / "config.toml")
    monkeypatch.setattr(TrainConfig, "from_toml", lambda path: replace(config, data="mnist"))
    with pytest.raises(UserError, match="no mnist in"):
        publishing.export(trained, tmp_path / "half.safetensors", half=True, data_root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_half_precision_is_measured_on_the_test_samples_of_the_run(tmp_path):
    x, y = np.random.default_rng(0).random((60, 4), np.float32), np.arange(60) % 2
    np.savez(tmp_path / "x.npz", x=x[:50], y=y[:50])
    run, _ = training.train(TrainConfig(data=str(tmp_path / "x.npz"), network="2", epochs=1, runs_dir=tmp_path))
    np.savez(tmp_path / "x.npz", x=x, y=y)
    with pytest.raises(UserError, match="has other test samples than those that the run was measured on"):
        publishing.export(run, tmp_path / "half/half.safetensors", half=True)


def test_other_weights_are_saved_without_the_record_of_the_old(trained, tmp_path):
    publishing.export(trained, tmp_path / "a.safetensors", half=True)
    model = training.load(tmp_path / "a.safetensors")
    model.save(tmp_path / "same.safetensors")
    assert training.load(tmp_path / "same.safetensors").trained == model.trained
    with torch.no_grad():
        model.network.layers.output.weight[0, 0] += 1e-5
    model.save(tmp_path / "other.safetensors")
    other = training.load(tmp_path / "other.safetensors")
    assert other.trained == {}
    assert torch.equal(other.network.layers.output.weight, model.network.layers.output.weight)


def test_learned_constants_are_saved_in_their_range(tmp_path):
    model = as_model(tsslbp.build("5-3", input_shape=(4,), time_steps=4, tau_m=5, tau_s=3, learn=("tau_m",)))
    with torch.no_grad():
        model.network.layers.output.tau_m.fill_(0.9)
    model.save(tmp_path / "a.safetensors")
    assert float(training.load(tmp_path / "a.safetensors").network.layers.output.tau_m) == 1


def test_the_card_tells_of_all_models_of_the_folder(trained, tmp_path):
    publishing.export(trained, tmp_path / "b.safetensors")
    card = publishing.export(trained, tmp_path / "a.safetensors").read_text()
    assert card.index("[`a.safetensors`]") < card.index("[`b.safetensors`]")
    (tmp_path / "c.safetensors").write_bytes((trained / "model.safetensors").read_bytes())  # of which nothing is known
    assert publishing.model_card(tmp_path) == card
    (tmp_path / "c.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"c\.safetensors is damaged"):
        publishing.model_card(tmp_path)


def test_pages_take_the_words_of_a_strangers_model_as_text(trained, tmp_path):
    """As data, settings and classes; a line of its own would begin a heading, a table or HTML."""
    publishing.export(trained, tmp_path / "a.safetensors")
    model, lines = training.load(tmp_path / "a.safetensors"), []
    for words in ("plain", "a\n\n<b>x` |"):
        settings = {**model.trained["settings"], "rule": words, words: words, "learn": [words]}
        told = {"settings": settings, "final": {**model.trained["final"], "choose": words}}
        names = tuple(f"<b>{name}" for name in model.classes)
        hostile = replace(model, data=words, trained=told, classes=names)
        hostile.save(tmp_path / "a.safetensors")
        card = publishing.model_card(tmp_path)
        lines.append(len(card.splitlines()))
        assert "<b>" not in re.sub(r"(?<!\\)`[^`\n]*`|^    .*", "", card, flags=re.MULTILINE)
    assert lines[0] == lines[1]
    c.write(Program.of(hostile, None), tmp_path / "c", tmp_path)
    assert "<b>" not in (tmp_path / "c/README.md").read_text()


def test_the_card_says_how_the_epoch_was_chosen(tmp_path):
    for choose in ("last", "test"):
        run = train(tmp_path, network="20-10", epochs=1, validation=0, choose=choose)
        assert cli.main(["export", str(run), str(tmp_path / f"given/{choose}.safetensors")]) == 0
        assert training.load(tmp_path / f"given/{choose}.safetensors").trained["final"]["choose"] == choose
        assert re.search(rf"\| – \| [\d.]+ \({choose} epoch\) \|", (tmp_path / "given/README.md").read_text())


def test_the_card_of_an_ann_names_one_step_and_no_rule(tmp_path):
    run = train(tmp_path, network="20-10", epochs=1, neuron="binary")
    assert cli.main(["export", str(run), str(tmp_path / "given/ann.safetensors")]) == 0
    assert "| `20-10` | 1 | – |" in (tmp_path / "given/README.md").read_text()


def test_a_readme_that_is_no_card_stays(trained, tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(UserError, match=r"README.md is not a card that tsslbp export wrote; export to a folder of its own"):
        publishing.export(trained, tmp_path / "a.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").write_text(publishing.models.OLD_MARK)  # a card of version 0.1.0
    publishing.export(trained, tmp_path / "a.safetensors")
    publishing.export(trained, tmp_path / "b.safetensors")
    assert "b.safetensors" in (tmp_path / "README.md").read_text()


def test_the_card_of_a_model_of_own_data_gives_a_command_that_finds_them(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.mkdir()
    y = np.arange(60) % 2
    x = np.random.default_rng(0).random((60, 4)) + y[:, None]
    np.savez(secret / "mine.npz", x=x, y=y)
    train = ["train", "--data", "secret/mine.npz", "--network", "5-2", "--epochs", "1", "--name", "own"]
    assert cli.main(train) == 0
    assert cli.main(["export", "runs/own", "given/my own.safetensors"]) == 0
    card = (tmp_path / "given/README.md").read_text()
    assert "licence" not in card, "that is for the owner of the data to say"
    assert "secret" not in card + str(safe_open("given/my own.safetensors", framework="pt").metadata())
    assert "predict" not in card.split("In Python")[0]
    (command,) = re.findall(r"^    tsslbp (evaluate .*)$", card, re.MULTILINE)
    shutil.copy(secret / "mine.npz", "given/mine.npz")
    monkeypatch.chdir(tmp_path / "given")
    capsys.readouterr()
    assert cli.main(shlex.split(command)) == 0
    assert "[`my own.safetensors`](my%20own.safetensors)" in card
    assert "on a held-out fifth, 12 samples" in capsys.readouterr().out


def test_what_cannot_be_exported_is_told(trained, tmp_path):
    with pytest.raises(UserError, match="no run at"):
        publishing.export(tmp_path, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"must end in \.safetensors"):
        publishing.export(trained, tmp_path / "a.pt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_bytes((trained / "metrics.jsonl").read_bytes().splitlines()[0])
    with pytest.raises(UserError, match="has not ended; go on with"):
        publishing.export(tmp_path / "run", tmp_path / "a.safetensors")
    assert not list(tmp_path.glob("*.safetensors"))
    (tmp_path / "damaged.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"damaged\.safetensors"):
        publishing.export(trained, tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_a_model_is_not_exported_as_a_model_again(trained, tmp_path, capsys):
    assert cli.main(["export", str(trained / "model.safetensors"), str(tmp_path / "copy.safetensors")]) == 2
    said = capsys.readouterr().err
    assert ".safetensors is written from a run's folder, and" in said
    assert "model.safetensors is a model already; copy it" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.pt"], "names no format; known endings: .safetensors"),
        (["a"], "names no format"),
        (["a.c"], "known endings: .safetensors, .nir, .onnx; for C: --format c FOLDER"),
        (["a.safetensors", "--format", "safetensor"], "unknown format 'safetensor'; did you mean 'safetensors'?"),
    ],
)
def test_an_unknown_format_is_told(trained, tmp_path, arguments, said, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(trained), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_option_that_a_format_does_not_take_is_told(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(FORMATS, "bare", Format(".bare", "nothing", lambda options, model: iter(())))
    assert cli.main(["export", str(trained), str(tmp_path / "a.bare")]) == 0
    assert cli.main(["export", str(trained), str(tmp_path / "a.bare"), "--half"]) == 2
    assert "--half has no effect with format bare" in capsys.readouterr().err
