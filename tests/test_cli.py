"""The command line: what it prints, and one line with exit code 2 for whatever is wrong."""

import contextlib
import errno
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from shared import run
from sklearn.datasets import load_digits

import tsslbp
from tsslbp import UserError, cli, data, metrics, report, training
from tsslbp.cli import parse, predictions, show
from tsslbp.training import recipes, watch
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import imports
from tsslbp.utils.fields import docstrings

VOWELS = Path(__file__).parent / "samples/TimeSeries/JapaneseVowels_TRAIN.ts"
TINY = ["--network", "20-10", "--padding", "0", "--epochs", "1", "--batch-size", "100"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits with its report."""
    runs = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", "quickstart", "--runs-dir", str(runs), "--epochs", "3", "--schedule", "constant"]) == 0
    return runs / "quickstart"


def test_train_writes_everything(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"config.toml", "metrics.jsonl", "model.safetensors", "checkpoint.pt", "report.html"}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are set by hand: class k is a bright block of 2×2 pixels at ``block(k)``, and all else is silence.

    A block drives its neuron with about five times the threshold, and every other neuron away from it: no rounding matters.
    """
    model, _ = training.prepare(*training.with_data(replace(recipes.get("quickstart"), network="10", padding=(0,))))
    (weight,) = model.network.parameters()
    with torch.no_grad():
        for k, row in enumerate(weight):
            row.copy_(torch.from_numpy(block(k)).flatten().float())
    path = tmp_path_factory.mktemp("blocks") / "blocks.safetensors"
    model.save(path)
    return path


def block(k: int) -> np.ndarray:
    """8×8 pixels, 0 and 1. A picture that is turned, mirrored or has its axes exchanged has its block elsewhere."""
    picture, place = np.zeros((8, 8), dtype=np.uint8), [1, 2, 3, 4, 6, 7, 8, 9, 11, 12][k]
    picture[2 * (place // 4) : 2 * (place // 4) + 2, 2 * (place % 4) : 2 * (place % 4) + 2] = 1
    return picture


def test_evaluate_agrees_with_the_run(trained, capsys):
    code, out, _ = run(capsys, "evaluate", str(trained))
    assert code == 0
    _, final = training.read_metrics(trained)
    assert f"test accuracy {final['test_accuracy']:.2f} %" in out
    assert "of 360; 95 % interval" in out


def test_evaluate_counts_the_samples_without_an_answer(blocks, capsys, tmp_path):
    x = np.stack([block(k) * np.uint8(16) for k in range(10)] * 3)[:, None]  # the digits' pixels go from 0 to 16
    blank = np.isin(np.arange(30), (2, 3, 17))
    x_test = np.where(blank[:, None, None, None], np.uint8(0), x)
    np.savez(tmp_path / "blocks.npz", x=x, y=np.arange(30) % 10, x_test=x_test, y_test=np.arange(30) % 10)
    for name, silent in (("digits", None), (str(tmp_path / "blocks.npz"), 3)):
        _, out, _ = run(capsys, "evaluate", str(blocks), "--data", name)
        answers = metrics.decode(training.load(blocks).outputs(data.load(name, tmp_path).test.x))
        counted = int((answers == metrics.NO_ANSWER).sum())
        assert silent in (None, counted)
        assert ("no output neuron spiked" in out) == (counted > 0)
        assert not counted or f"no output neuron spiked for {counted} of these samples, which counts as wrong" in out
        never = ", ".join(str(k) for k in range(10) if not (answers == k).any())
        assert not never or f"classes that were the answer to none of these samples: {never}\n" in out
        assert never or "answer to none" not in out


def test_predict_reads_an_image(trained, capsys, tmp_path):
    digits = load_digits()
    right = 0
    for index in range(20):
        picture = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8)).resize((64, 64), Image.Resampling.NEAREST)
        picture.save(tmp_path / "digit.png")
        code, out, _ = run(capsys, "predict", str(trained / "model.safetensors"), str(tmp_path / "digit.png"))
        assert code == 0
        right += out[0] == str(digits.target[index])
    assert right >= 12  # usually 18; which of them is up to rounding, and chance is 2


def test_predict_finds_its_way_with_any_image(blocks, capsys, tmp_path):
    """The same block as a dark one on paper, wide, transparent, with 16 bits, turned by the camera: the same answer."""

    def predicted(name, *more):
        code, out, err = run(capsys, "predict", str(blocks), str(tmp_path / f"{name}.png"), *more)
        assert code == 0, err
        return out, "light and dark were exchanged" in err

    for k in range(10):
        grey = np.kron(block(k) * np.uint8(255), np.ones((8, 8), dtype=np.uint8))  # light on dark, 64×64
        light, paper = Image.fromarray(grey), Image.fromarray(255 - grey)
        wide = Image.new("L", (200, 64), "white")
        wide.paste(paper, (68, 0))
        ink = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
        ink.putalpha(light)  # black ink on nothing
        turned, camera = light.rotate(90), Image.Exif()
        camera[0x0112] = 6
        light.save(tmp_path / "light.png")
        paper.convert("RGB").save(tmp_path / "paper.png")
        wide.save(tmp_path / "wide.png")
        ink.save(tmp_path / "ink.png")
        Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16bit.png")
        turned.save(tmp_path / "turned.png", exif=camera)
        answer = f"{k}  (confidence 100.0 %, unchanged from step 1 of 5 on)\n"
        assert {name: predicted(name) for name in ("light", "16bit", "turned", "paper", "ink")} == {
            **dict.fromkeys(("light", "16bit", "turned"), (answer, False)),
            **dict.fromkeys(("paper", "ink"), (answer, True)),
        }
        assert predicted("wide")[1]
    assert predicted("paper", "--invert", "yes") == (answer, False)
    assert predicted("light", "--invert", "no") == (answer, False)
    Image.new("L", (1000, 10)).save(tmp_path / "thin.png")
    code, _, err = run(capsys, "predict", str(blocks), str(tmp_path / "thin.png"))
    assert (code, "thin.png is 1000 × 10 pixels, too thin for 8 × 8; cut it" in err) == (2, True)
    assert predicted("paper", "--invert", "no")[0] == predicted("light", "--invert", "yes")[0] != answer
    Image.new("L", (64, 64)).save(tmp_path / "blank.png")
    assert predicted("blank")[0] == "no answer: no output neuron spiked\n"


@pytest.mark.skipif(os.name == "nt", reason="names of files there hold no control characters")
def test_a_terminal_gets_no_commands_from_the_names_of_files(trained, capsys, tmp_path):
    evil = "x\x1b]0;title\x07\x9b31m\n0"
    for name in (f"{evil}.png", "b.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    code, out, err = run(capsys, "predict", str(trained), str(tmp_path))
    assert (code, len(out.splitlines())) == (0, 2)
    assert r"x\x1b]0;title\x07\x9b31m\n0.png: " in out
    (tmp_path / f"{evil}.png").write_text("not an image")
    code, _, complaint = run(capsys, "predict", str(trained), str(tmp_path))
    assert code == 2
    assert r"\x1b]0;title" in complaint
    (tmp_path / "t.csv").write_text(f"u,v,class{evil.rstrip('0').strip()}\n" + "1,2,a\n3,4,b\n" * 8)
    code, _, notes = run(capsys, "train", "--data", str(tmp_path / "t.csv"), "--runs-dir", str(tmp_path / "r"), "--epochs", "1")
    assert code == 0
    assert r"column classx\x1b]0;title" in notes
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err + complaint + notes)


def test_predictions_keep_the_outputs_of_one_batch(trained, monkeypatch):
    model, whole, kept = training.load(trained), training.Model._outputs, []
    dataset = data.load("digits", "")
    samples = training.Samples(dataset.train, "", names=[str(number) for number in range(len(dataset.train))])

    @contextlib.contextmanager
    def watched(model, samples):
        with whole(model, samples, 100) as outputs:

            def each():
                for part, output in outputs:
                    kept.append(weakref.ref(output))
                    yield part, output
                    del part, output
                    assert sum(one() is not None for one in kept) <= 1

            yield each()

    monkeypatch.setattr(training.Model, "_outputs", watched)
    made = predictions.of(model, samples)
    assert len(kept) == 12
    monkeypatch.undo()
    output = model.outputs(dataset.train.x)
    parts = [of(output).tolist() for of in (metrics.decode, metrics.confidence, metrics.settled_step)]
    rows = [(model.classes[n], f"{share:.4f}", step + 1) for n, share, step in zip(*parts, strict=True) if n >= 0]
    assert [row[1:] for row in made.rows if row[1]] == rows


def test_predict_looks_for_the_folder_of_its_file_first(trained, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "digits.npz", x=np.zeros((3, 1, 8, 8), np.uint8))
    monkeypatch.setattr(predictions, "of", None)
    code, out, err = run(capsys, "predict", str(trained), str(tmp_path / "digits.npz"), "--out", str(tmp_path / "no/p.csv"))
    assert (code, out) == (2, "")
    assert f"cannot write {tmp_path}/no/p.csv: there is no folder {tmp_path}/no; make it first" in err


@pytest.mark.painted
def test_report_is_rebuilt(trained, capsys):
    before = (trained / "report.html").read_text()
    (trained / "report.html").unlink()
    code, out, _ = run(capsys, "report", str(trained))
    assert code == 0
    assert out == f"report: {trained / 'report.html'}\n"
    assert len((trained / "report.html").read_text()) == pytest.approx(len(before), rel=0.01)


@pytest.mark.painted
def test_report_in_markdown_shows_its_figures(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    code, out, _ = run(capsys, "report", str(folder), "--markdown")
    assert (code, out) == (0, f"report: {folder / 'README.md'}\n")
    page = (folder / "README.md").read_text()
    accuracy = re.search(r"test accuracy (\S+) %", run(capsys, "evaluate", str(folder))[1])[1]
    assert f"answers {float(accuracy):.1f}\u00a0% of 360 test images correctly" in page
    figures = set(re.findall(r"!\[.+\]\((.+)\)", page))
    assert {"accuracy.svg", "loss.svg", "confusion.svg", "raster-1.svg"} <= figures
    assert figures == {path.name for path in folder.glob("*.svg")}


def test_config_replays_to_the_same_model(trained, capsys):
    assert run(capsys, "train", "--config", str(trained / "config.toml"), "--name", "again")[0] == 0
    assert (trained.parent / "again/model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_weights_to_start_from_are_not_scaled_as_random_ones(trained, tmp_path, monkeypatch):
    settings = replace(TrainConfig.from_toml(trained / "config.toml"), output_scale=0.2, hidden_scale=2.0, first_rates=True)
    (file := tmp_path / "config.toml").write_text(settings.to_toml(), encoding="utf-8")
    (of_trained := tmp_path / "trained.toml").write_text(replace(settings, init=trained).to_toml(), encoding="utf-8")
    taken, start = [], ("--init", str(trained))
    monkeypatch.setattr(training, "train", lambda config, *_, **__: taken.append(config) or sys.exit(0))
    for path, *more in ((file,), (file, *start), (file, *start, "--output-scale", "0.5"), (of_trained, *start)):
        with pytest.raises(SystemExit):
            cli.main(["train", "--config", str(path), *more])
    scales = [(config.output_scale, config.hidden_scale, config.first_rates) for config in taken]
    assert scales == [(0.2, 2.0, True), (1.0, 1.0, False), (0.5, 1.0, False), (0.2, 2.0, True)]


def test_settings_of_before_shift_and_flip_are_still_read(tmp_path):
    (tmp_path / "old.toml").write_text("augment = true\nepochs = 3")
    assert TrainConfig.from_toml(tmp_path / "old.toml") == TrainConfig(shift=4, flip=True, epochs=3)
    (tmp_path / "old.toml").write_text("augment = false")
    assert TrainConfig.from_toml(tmp_path / "old.toml") == TrainConfig()


def test_lists_and_help(capsys):
    out = run(capsys, "recipes")[1]
    assert all(name in out for name in recipes.RECIPES)
    out = run(capsys, "rules")[1]
    assert "tssl" in out
    assert "psc_derivative" in out
    assert "torch" in run(capsys, "doctor", "--no-measure")[1]
    assert "usage: tsslbp COMMAND" in run(capsys)[1] == run(capsys, "--help")[1]
    assert run(capsys, "--version")[:2] == (0, f"tsslbp {tsslbp.__version__}\n")
    code, out, _ = run(capsys, "train", "quickstart", "--help")
    assert code == 0
    for field in TrainConfig.__dataclass_fields__.keys() - {"recipe"}:
        assert f"--{field.replace('_', '-')}" in out


def test_help_breaks_lines_where_the_terminal_ends(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    out = run(capsys, "train", "--help")[1]
    for name, text in docstrings(TrainConfig).items():
        assert (f" {text} (default: " in out) == (name != "recipe"), name
    assert TrainConfig.__dataclass_fields__.keys() == docstrings(TrainConfig).keys()
    assert "give the same command again to go on." in run(capsys, "reproduce", "--help")[1]
    assert "List the recipes" in run(capsys, "recipes", "--help")[1]


def test_a_command_waits_for_nothing_that_it_does_not_use():
    script = (
        "import contextlib, sys; from tsslbp import cli\n"
        "for command in ('', 'recipes', 'rules', 'train', 'evaluate', 'predict', 'export', 'import', 'bench'):\n"
        "    with contextlib.suppress(SystemExit): cli.main([*command.split(), '--help'])\n"
        "assert not {'matplotlib', 'scipy', 'sklearn', 'torchvision', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_names_the_extra_that_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = run(capsys, "doctor", "--no-measure")[1]
    assert "missing; downloads, image-folder and webdataset need it: pip install 'tsslbp[vision]'" in out
    assert "missing; --tensorboard needs it: pip install 'tsslbp[tensorboard]'" in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_live_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    assert cli.main(["train", "quickstart", *TINY, "--runs-dir", str(tmp_path)]) == 0
    assert "epoch 1/1" in terminal.getvalue()
    assert re.search(r"loss [\d.]+  train [\d.]+ %  [\d.]+ steps/s  left", terminal.getvalue())
    assert "validation" in terminal.getvalue()


def test_the_speed_of_a_run_resumed_in_mid_epoch_counts_its_own_steps(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(watch.time, "monotonic", iter([10.0, 10.0, 11.0, 12.0]).__next__)
    bar = watch.Bar()
    bar.bar = mock.Mock()
    monkeypatch.setattr(watch, "RichBar", lambda *_, **__: bar.bar)
    bar.started(1, 2, 5000)
    for step in (4001, 4003, 4005):
        bar.stepped(1, step, 0.5, 50.0)
    assert [call.kwargs["speed"] for call in bar.bar.update.call_args_list] == [0, 2, 2]


def test_names_are_no_emoji(capsys):
    show.console.print("class a:x:b")
    assert capsys.readouterr().out == "class a:x:b\n"


def test_a_display_without_a_standard_error_is_silent(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    watch.watcher().warned("unheard")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO])
def test_a_training_goes_on_when_nobody_reads_its_progress(tmp_path, monkeypatch, capsys, number, terminal):
    """As in tsslbp train ... 2>&1 | head, on a full disk, or in a terminal that was closed."""

    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(number, "gone")

        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", Gone())
    assert cli.main(["train", "quickstart", *TINY, "--runs-dir", str(tmp_path)]) == 0
    assert "test accuracy" in capsys.readouterr().out


def test_console_script_is_installed(tmp_path):
    program = Path(sys.executable).parent / "tsslbp"
    done = subprocess.run([program, "train", "quickstartt"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "tsslbp: unknown recipe 'quickstartt'; did you mean 'quickstart'?\n"


@pytest.mark.parametrize("started", ["script", "module", "library"])
def test_ctrl_c_while_torch_is_imported_ends_the_command_without_a_traceback(started, tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n")
    (tmp_path / "tsslbp").write_text("import sys\nfrom tsslbp.cli import main\nsys.exit(main())\n")  # as pip writes it
    how = {"script": [tmp_path / "tsslbp"], "module": ["-m", "tsslbp"], "library": ["-c", "import tsslbp"]}[started]
    path = os.pathsep.join([str(tmp_path), str(Path(tsslbp.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # the tests may run where Ctrl-C is ignored
    done = subprocess.run([sys.executable, *how], capture_output=True, text=True, env=environment, timeout=50, **heard)
    if started == "library":
        assert done.stderr.endswith("KeyboardInterrupt\n")
    else:
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_complaint_drawn_in_ascii_is_one_line_too():
    rule = 20 * "-"
    box = f" Value error \n {rule} \n  Error parsing --epochs: 'x' \n  {rule}\n  Argument helptext: \n  {rule}\n"
    assert parse._one_line(box) == "Error parsing --epochs: 'x'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'"),
        ("train mnist-cn", "unknown recipe 'mnist-cn'; did you mean 'mnist-cnn'"),
        ("train iris.csv", "'iris.csv' is data, not a recipe; write: tsslbp train --data iris.csv"),
        ("train digits", "'digits' is data, not a recipe; write: tsslbp train --data digits"),
        ("compare delayed-xor(samples=99)", "is data, not a recipe; write: tsslbp compare --data 'delayed-xor(samples=99)'"),
        ("train quickstart --epoch 3", "unknown option '--epoch'; did you mean '--epochs'"),
        ("train --lr 1e-3", "unknown option '--lr'; did you mean '--learning-rate'"),
        ("compare quickstart --batch=3", "unknown option '--batch'; did you mean '--batch-size'"),
        (
            "evaluate nowhere --batchsize 3",
            "known: --all, --data, --data-root, --download, --early-exit, --import, --skip-broken,",
        ),
        ("train quickstart --epochs abc", "--epochs"),
        ("train quickstart --epochs 1 --seed 1 --epochs=2", "--epochs is given 2 times; give it once"),
        ("train quickstart --flip --no-flip", "--flip is given 2 times"),
        ("train quickstart --learn --epochs 1", "--learn has no value; give one, or leave it out"),
        ("train quickstart --epochs 1 --learn", "--learn has no value"),
        ("predict ''", "the value after tsslbp predict is empty; give one, or leave it out"),
        ("train --data '' --epochs 1", "the value after --data is empty"),
        ("train quickstart --runs-dir=", "the value after --runs-dir= is empty; give one, or leave it out"),
        ("train quickstart --epochs 0", "--epochs is 0"),
        ("train quickstart --loss kernl", "kernl"),
        ("train quickstart --loss mse", "unknown loss 'mse'; known: count, first-spike, kernel, softmax, spike"),
        ("train quickstart --encoding rate", "unknown encoding 'rate'; known: constant, latency, poisson"),
        ("train quickstart --rule tsl", "unknown rule 'tsl'; did you mean 'tssl'"),
        ("train quickstart --rule tssl(rest=False)", "did you mean 'reset'"),
        ("train quickstart --rule tssl(fallback=quite)", "did you mean 'quiet'"),
        ("train quickstart --encoding poisson(rate=2)", "--encoding: rate of poisson is 2"),
        ("train quickstart --encoding latency(rate=1)", "--encoding: latency has no options, as rate is"),
        ("train quickstart --encoding poison", "did you mean 'poisson'?"),
        ("train quickstart --tau-m 0.5", "--tau-m is 0.5"),
        ("train quickstart --time-steps 0", "--time-steps is 0"),
        ("train quickstart --threshold nan", "threshold is nan"),
        ("train quickstart --dropout 1", "dropout is 1"),
        ("train quickstart --learning-rate nan", "--learning-rate is nan"),
        ("train quickstart --padding 0 --network 16C3-Q2-10", "layer 2 ('Q2') of '16C3-Q2-10'"),
        ("train quickstart --network '32C3 - 10'", "layers are joined by - without blanks"),
        ("train quickstart --network 32C3,10", "layers are joined by - without blanks"),
        ("train quickstart --network '32C3 -20-10'", "layers are joined by - without blanks"),
        ("train quickstart --network 16C9-10 --padding 0", "layer 1 ('16C9')"),
        ("train quickstart --network 16C3-12", "must end with 10"),
        ("train spike-pattern --network 20-100-V10", "votes (V) are for classes"),
        ("train spike-pattern --loss kernel(label_weight=6)", "the targets of spike-pattern are spike trains"),
        ("train spike-pattern --loss spike(desired=01)", "the targets of spike-pattern are spike trains"),
        ("train quickstart --loss kernel(label_weight=0)", "--loss: label_weight is 0"),
        ("train quickstart --loss kernel(label_weight=inf)", "--loss: label_weight is inf"),
        ("train quickstart --padding 1 2 3", "padding (1, 2, 3)"),
        ("train quickstart --target double", "--target is now an option of the loss: --loss 'kernel(target=double)'"),
        ("compare quickstart --label-weight=5", "--label-weight is now an option of the loss"),
        ("train quickstart --undesired-count 3", "--undesired-count is now an option of the loss: --loss 'count(undesired=1)'"),
        ("train quickstart --loss count(label_weight=5)", "unknown option of count: 'label_weight'"),
        ("train quickstart --loss softmax(desired=01)", "softmax has no options, as desired is"),
        ("train quickstart --loss kernel(desired=01,desired=1)", "desired is given twice"),
        ("train quickstart --loss kernel(desired=)", "desired is ; it must be of 0 and 1"),
        (
            "train quickstart --loss kernel(target=double --epochs 0",
            "--loss: cannot read loss 'kernel(target=double'; write NAME or NAME(option=value, ...); --epochs is 0; it must be",
        ),
        ("train quickstart --rate-lower 0.1", "--rate-lower has no effect without a --rate-penalty"),
        ("train quickstart --rate-penalty 1", "--rate-penalty has no effect without --rate-lower or --rate-upper"),
        ("train --data digits --network 10 --dropout 0.5", "--dropout has no effect without a hidden layer in --network"),
        ("train quickstart --neuron relu --time-block 2", "--time-block has no effect without --neuron spiking"),
        ("train quickstart --threshold 1e300", "--threshold is 1e+300; it must be finite"),
        ("train quickstart --learn tau_m --tau-m 1e300", "tau_m is 1e+300; it must be finite where it is learned"),
        ("train quickstart --beta=1", "--beta has no effect without a layer of adaptive thresholds"),
        ("train quickstart --network 5-10 --padding 0 --conv-scale 2", "--conv-scale has no effect without a convolution"),
        ("train --data digits --network 5-10 --padding 1", "--padding has no effect without a convolution"),
        (
            "train quickstart --rule tssl(fallback=always) --surrogate-epochs 2",
            "--surrogate-epochs has no effect without a --rule with another fallback than always",
        ),
        ("train quickstart --neuron relu --threshold 2", "--threshold has no effect without units that have one"),
        ("train quickstart --neuron relu --rule tssl --no-reset", "--rule has no effect without --neuron spiking; --reset has"),
        ("train quickstart --validation 0", "--choose is validation; it must be last or test with --validation 0"),
        (
            "compare quickstart --validation 0 --choose last",
            "--choose is last; comparisons and studies choose the epoch on validation",
        ),
        ("study ablation quickstart --choose test", "--choose is test; comparisons and studies choose"),
        ("study dynamics quickstart --choose test", "--choose is test; comparisons and studies choose"),
        ("train quickstart --rule surrogate --surrogate-epochs 2", "--surrogate-epochs is 2; it must be 0 with a rule outside"),
        ("train quickstart --rule tssl-paper --time-block 2", "--time-block is 2; it must be 0 with --rule tssl-paper, which"),
        ("train quickstart --network 9R-10 --rule eventprop", "9R-10 has recurrent layers; --rule eventprop needs whole"),
        ("compare quickstart --rules tssl,eventprop --time-block 2", "it must be 0 with --rule eventprop, which needs whole"),
        ("compare quickstart --rules tssl,stbp --test-every 2", "--test-every is 2; comparisons and studies measure"),
        ("compare quickstart --rules tssl,stbp --to 300", "--to is 300.0; it must be a percentage above 0, at most 100"),
        ("train quickstart --name a/b", "--name is a/b"),
        ("train quickstart --data mist", "unknown data set 'mist'"),
        ("train mnist-cnn --data-root nowhere", "nowhere"),
        ("train quickstart --data nowhere.npz", "nowhere.npz"),
        ("train quickstart --resume --name missing", "nothing to resume"),
        ("train --config missing.toml", "cannot read missing.toml"),
        ("train quickstart --config", "--config needs a file"),
        ("evaluate nowhere", "no model at nowhere"),
        ("predict", "MODEL and PATH are missing; write: tsslbp predict MODEL PATH; see tsslbp predict --help"),
        ("predict runs/quickstart", "PATH is missing; write: tsslbp predict MODEL PATH; see"),
        ("export a.safetensors", "FILE is missing; write: tsslbp export RUN_OR_MODEL FILE; see"),
        ("predict nowhere image.png", "no model at"),
        ("report nowhere", "no run at nowhere"),
        ("report .", "it has no metrics.jsonl; give the folder of a run, a comparison or studies, such as runs/quickstart"),
        ("recipes extra", "extra"),
        (f"train --data {VOWELS} --download", "--download has no effect without a data set that has a name"),
        ("bench --against python --no-memory", "--no-memory and --no-growth have no effect with --against"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *shlex.split(arguments))
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("tsslbp: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_a_run_that_was_moved_goes_on_where_it_is(trained, capsys, tmp_path):
    shutil.copytree(trained, tmp_path / "moved")
    before = (trained / "report.html").stat().st_mtime_ns
    assert run(capsys, "train", "--config", str(tmp_path / "moved/config.toml"), "--resume", "--epochs", "4")[0] == 0
    assert len((tmp_path / "moved/metrics.jsonl").read_text().splitlines()) == 5
    assert (trained / "report.html").stat().st_mtime_ns == before
    other = run(capsys, "train", "--config", str(tmp_path / "moved/config.toml"), "--resume", "--seed", "1", "--tau-m", "9")[2]
    again = f"go on with: tsslbp train --config {tmp_path / 'moved/config.toml'} --resume, or take another folder"
    assert f"moved was started with other settings (seed, tau_m); {again}" in other
    nowhere = tmp_path / "no/where.onnx"
    assert (
        f"cannot write {nowhere}: there is no folder {nowhere.parent}; make it"
        in run(capsys, "export", str(trained), str(nowhere))[2]
    )
    assert "leave mnist-cnn out" in run(capsys, "train", "mnist-cnn", "--config", str(trained / "config.toml"))[2]
    shutil.copytree(trained, tmp_path / "first-epoch")
    (tmp_path / "first-epoch/metrics.jsonl").unlink()  # a run that was stopped in its first epoch has none
    assert run(capsys, "train", "--config", str(tmp_path / "first-epoch/config.toml"), "--resume")[0] == 0
    assert (tmp_path / "first-epoch/metrics.jsonl").exists()
    assert (trained / "report.html").stat().st_mtime_ns == before
    (tmp_path / "moved/checkpoint.pt").unlink()
    first, second, *_, final = map(json.loads, (tmp_path / "moved/metrics.jsonl").read_text().splitlines())
    for records in (
        [first, {**final, "best_epoch": 1, "epochs": 1}],
        [first, second],
    ):  # ended after one epoch, or not ended
        (tmp_path / "moved/metrics.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
        error = run(capsys, "train", "--config", str(tmp_path / "moved/config.toml"), "--resume")[2]
        assert "has no checkpoint.pt to go on from; restore that file, or choose another --name" in error


def test_a_run_goes_on_from_a_folder_inside_its_own(trained, capsys, tmp_path, monkeypatch):
    inside = shutil.copytree(trained, tmp_path / "moved") / "notes"
    inside.mkdir()
    monkeypatch.chdir(inside)
    code, out, err = run(capsys, "train", "--config", "../config.toml", "--resume", "--epochs", "4")
    assert (code, "4/4" in err) == (0, True), err
    assert f"report: {tmp_path / 'moved/report.html'}" in out


def test_the_command_that_goes_on_imports_files_from_where_they_are(tmp_path):
    path = tmp_path / "own rule.py"
    path.touch()
    with imports.given([path]):
        assert imports.again() == f" --import '{path}'"
    assert imports.again() == ""


def test_broken_config_and_image(trained, capsys, tmp_path):
    (tmp_path / "broken.toml").write_text("epochs = = 3")
    (tmp_path / "empty.toml").write_text("# nothing\n")
    assert "empty.toml is empty; restore it" in run(capsys, "train", "--config", str(tmp_path / "empty.toml"))[2]
    assert "is not valid TOML" in run(capsys, "train", "--config", str(tmp_path / "broken.toml"))[2]
    (tmp_path / "unknown.toml").write_text("epoks = 3")
    assert (
        "unknown setting 'epoks'; did you mean 'epochs'?" in run(capsys, "train", "--config", str(tmp_path / "unknown.toml"))[2]
    )
    config = f"--config={tmp_path / 'unknown.toml'}"
    assert "unknown setting 'epoks'" in run(capsys, "train", config)[2]
    assert "--config is given 2 times" in run(capsys, "train", config, config)[2]
    (tmp_path / "no.png").write_text("not an image")
    assert "as an image" in run(capsys, "predict", str(trained), str(tmp_path / "no.png"))[2]
    assert "no image at" in run(capsys, "predict", str(trained), str(tmp_path / "missing.png"))[2]


RUN_SLOWLY = ("cifar10-cnn1", "cifar10-cnn1-head", "cifar10-cnn2", "cifar10-cnn2-head", "cifar10-resnet18", "tiny-imagenet-40")


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.slow] * (name in RUN_SLOWLY)) for name in recipes.RECIPES]
)
def test_every_recipe_runs(recipe, samples, capsys, tmp_path):
    arguments = ["train", recipe, "--data-root", str(samples), "--runs-dir", str(tmp_path), "--epochs", "1"]
    if data.in_files.is_one(recipes.get(recipe).data):
        for number in range(120):
            path = tmp_path / "drawn" / ("val" if number < 40 else "train") / f"{number % 40:02}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (6 * (number % 40), 100, number)).save(path)
        arguments += ["--data", f"image-folder:{tmp_path / 'drawn'}"]
    code, out, err = run(capsys, *arguments, *(["--batch-size", "20"] if "cifar" in recipe else []))
    assert code == 0, err
    assert f"report: {tmp_path / recipe / 'report.html'}" in out
    shutil.rmtree(tmp_path / recipe)


def test_a_result_that_cannot_be_printed_does_not_keep_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(show.console, "print", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    assert run(capsys, "train", "--network", "3-10", "--epochs", "1", "--runs-dir", str(tmp_path), "--name", "a")[0] == 2
    assert (tmp_path / "a/report.html").exists()


@pytest.mark.parametrize("error", [UserError("no space"), KeyboardInterrupt(), MemoryError()])
def test_a_report_that_cannot_be_written_does_not_keep_the_result(error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "write", mock.Mock(side_effect=error))
    code, out, err = run(capsys, "train", "--network", "3-10", "--epochs", "1", "--runs-dir", str(tmp_path), "--name", "a")
    assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert "test accuracy" in out
    later = f"; the run has ended, so make its page later with: tsslbp report {tmp_path / 'a'}"
    assert err.splitlines()[-1].endswith(later) != isinstance(error, MemoryError)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_recipe_comes_first_and_is_no_option(command, capsys):
    code, _, err = run(capsys, command, "--recipe", "mnist-cnn")
    assert code == 2
    assert err == f"tsslbp: --recipe is a label that tsslbp writes; name the recipe first, as in: tsslbp {command} quickstart\n"
    flags = set(re.findall(r"^\W*(--[a-z-]+)", run(capsys, command, "--help")[1], re.MULTILINE))
    refused = {"--recipe"} if command == "train" else {"--recipe", "--rule", "--neuron", "--resume"}
    assert flags.isdisjoint(refused)
    assert {"--network", "--name"} < flags
