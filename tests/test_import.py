"""What users bring along: surrogates, rules, losses and data sets of their own, and networks that are kept."""

import copy
import importlib
import json
import math
import pickle
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from shared import fails, run
from torch import Tensor

import tsslbp
from tsslbp import Surrogate, UserError, cli, data, losses, rules, training
from tsslbp.neuron import LIF
from tsslbp.rules import surrogate
from tsslbp.rules.surrogate import DERIVATIVES
from tsslbp.training import loss_value
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import imports

CONSTANTS = {"tau_m": 5.0, "tau_s": 3.0}


def quartic(x: Tensor) -> Tensor:
    return 1 / (1 + x**4)


def atan(x: Tensor) -> Tensor:
    return 1 / (1 + (math.pi / 2 * x) ** 2)


def gradient(rule: str | tsslbp.Rule, backend: str = "auto") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(12, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    psc = tsslbp.lif(current, rule=rule, backend=backend, **CONSTANTS)
    (found,) = torch.autograd.grad((psc * torch.linspace(-1, 1, psc.numel()).view_as(psc)).sum(), current)
    return found


@pytest.mark.parametrize("through_reset", [False, True])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_function_is_a_surrogate(backend, through_reset):
    ours = gradient(Surrogate(atan, slope=1.7, scale=0.6, through_reset=through_reset), backend)
    named = gradient(Surrogate("atan", slope=1.7, scale=0.6, through_reset=through_reset), "reference")
    torch.testing.assert_close(ours, named, rtol=1e-12, atol=1e-12)
    assert ours.abs().max() > 0


def test_a_function_has_slope_one_and_may_change_what_it_gets():
    def in_place(x: Tensor) -> Tensor:
        return x.abs_().neg_().exp_()

    assert torch.equal(gradient(Surrogate(in_place)), gradient(Surrogate(lambda x: torch.exp(-x.abs()), slope=1)))


def test_a_function_with_a_name_is_one_of_the_shapes(monkeypatch):
    with pytest.raises(UserError, match=r"surrogate quartic has no name; add it to .*DERIVATIVES"):
        rules.spec(Surrogate(quartic, slope=2))
    monkeypatch.setitem(DERIVATIVES, "quartic", quartic)
    assert rules.spec(Surrogate(quartic, slope=2)) == "surrogate(name=quartic, slope=2)"
    assert torch.equal(gradient("surrogate(name=quartic, slope=2)"), gradient(Surrogate(quartic, slope=2)))
    assert torch.equal(gradient("stbp(name=quartic)"), gradient(Surrogate(quartic, through_reset=True)))


def test_a_name_that_is_given_a_function_means_that(monkeypatch):
    before = gradient("surrogate(name=atan)")
    monkeypatch.setitem(DERIVATIVES, "atan", quartic)
    assert torch.equal(gradient("surrogate(name=atan)"), gradient(Surrogate(quartic)))
    assert not torch.equal(gradient("surrogate(name=atan)"), before)


def test_networks_layers_and_parts_take_a_function():
    rule = Surrogate(quartic)
    net = tsslbp.build("6R-8-4", input_shape=(5,), time_steps=4, rule=rule, **CONSTANTS)
    x = torch.rand(4, 2, 5) * 3
    net(x).sum().backward()
    whole = [weight.grad.clone() for weight in net.parameters()]
    assert all(bool(grad.any()) for grad in whole)
    net.zero_grad()
    first, state = net.part(x[:2])
    second, _ = net.part(x[2:], state)
    (first.sum() + second.sum()).backward()
    torch.testing.assert_close([weight.grad for weight in net.parameters()], whole, rtol=1e-4, atol=1e-5)
    layer = tsslbp.layers.Linear(5, 3, neuron=net.neuron, rule=rule)
    layer(torch.rand(4, 2, 5) * 5).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[1:], r"<lambda> returned \[11, 3, 4\] of torch.float64; it must return \[12, 3, 4\] of torch.float64"),
        (lambda x: x.float(), r"returned \[12, 3, 4\] of torch.float32; it must return .* of torch.float64"),
        (lambda x: 1.0, "returned a float; it must return"),
        (lambda x: None, "returned a NoneType; it must return"),
        (lambda x: (x, x), r"returned .* and .*; it must return"),
        (lambda x: x.log(), "returned NaN or infinity; it must be finite at every finite distance"),
    ],
)
def test_what_a_function_must_not_return(function, message):
    with fails(message):
        gradient(Surrogate(function))


def test_nan_that_comes_in_is_not_the_functions_fault():
    current = torch.full((3, 2), math.nan).requires_grad_()
    tsslbp.lif(current, rule=Surrogate(quartic), **CONSTANTS).sum().backward()


RULE = """\
from dataclasses import dataclass
from typing import ClassVar
import torch
from tsslbp import Rule, rules, losses, data
from tsslbp.rules.surrogate import DERIVATIVES, Surrogate

@dataclass(frozen=True)
class Mine(Surrogate):
    gain: float = 1.0
    summary: ClassVar[str] = "mine"
    paper: ClassVar[str] = "none"

    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return super().part_gradient(self.gain * psc_gradient, membrane, neuron, state, carry)

    @property
    def numbers(self):
        return None

@dataclass(frozen=True)
class Total:
    is_mean: ClassVar[bool] = True
    pull: float = 1.0

    def __call__(self, output, label, mask=None):
        return self.pull * torch.nn.functional.cross_entropy(output.mean(0), label.long())

def four_lines(validation):
    x = torch.eye(4).repeat(20, 1).numpy()
    return data.of_arrays(x, [0, 1, 2, 3] * 20, validation=validation, name="four-lines")

rules.RULES["mine"] = Mine
losses.LOSSES["total"] = Total
DERIVATIVES["bump"] = lambda x: torch.exp(-x * x)
data.SETS["four-lines"] = four_lines
"""


@pytest.fixture
def registers(monkeypatch):
    """Whatever a test registers is gone after it."""
    for module, name in ((rules, "RULES"), (losses, "LOSSES"), (data, "SETS"), (surrogate, "DERIVATIVES")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("tsslbp_import_"):
            del sys.modules[name]


@pytest.fixture
def place(tmp_path, monkeypatch, registers):
    """A folder to work in, with a file of one's own."""
    monkeypatch.chdir(tmp_path)
    Path("code").mkdir()
    Path("code/my rule.py").write_text(RULE)
    return tmp_path


def forget() -> None:
    """As in a new process."""
    for register, name in ((rules.RULES, "mine"), (losses.LOSSES, "total"), (data.SETS, "four-lines")):
        register.pop(name, None)
    surrogate.DERIVATIVES.pop("bump", None)


IMPORT = ["--import", "code/my rule.py"]
TRAIN = ["train", *IMPORT, "--data", "four-lines", "--network", "20-4", "--epochs", "1", "--time-steps", "4"]


def test_a_run_with_everything_of_ones_own(place, capsys):
    own = ["--rule", "mine(name=bump, gain=2)", "--loss", "total(pull=3)"]
    code, _, err = run(capsys, *TRAIN, *own, "--name", "a")
    assert code == 0, err
    forget()
    settings = tomllib.loads(Path("runs/a/config.toml").read_text())
    assert settings["imports"] == ["my rule.py"]
    assert settings["network"]["rule"] == "mine(name=bump, gain=2)"
    for path in Path("runs/a").iterdir():  # the name, and no path that could be run
        assert b"code/my rule" not in path.read_bytes(), path
    np.savez("new.npz", x=np.eye(4, dtype=np.float32))
    wanted = "was trained with --import 'my rule.py'; give it again"
    again = [
        ("evaluate", "runs/a"),
        ("report", "runs/a"),
        ("predict", "runs/a", "new.npz"),
        ("export", "runs/a", "given/a.safetensors"),
        ("train", "--config", "runs/a/config.toml", "--name", "b"),
        ("study", "energy", "runs/a"),
    ]
    for arguments in again:
        code, _, err = run(capsys, *arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert wanted in err, err
    with pytest.raises(UserError, match="give it again"):
        tsslbp.load("runs/a")
    for arguments in again:
        forget()
        code, _, err = run(capsys, *arguments, *IMPORT)
        assert code == 0, (arguments, err)
    assert (
        Path("runs/a/metrics.jsonl").read_text().split('"seconds"')[0]
        == (Path("runs/b/metrics.jsonl").read_text().split('"seconds"')[0])
    )
    assert "--import 'my rule.py'" in Path("given/README.md").read_text()
    forget()
    code, _, err = run(capsys, "evaluate", "given/a.safetensors")
    assert code == 2
    assert wanted in err


def test_a_comparison_measures_rules_of_ones_own(place, capsys, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tsslbp.study.compare"), "SECONDS", 0.01)
    arguments = ["compare", *IMPORT, "--data", "four-lines", "--network", "8-4", "--epochs", "1", "--time-steps", "2"]
    code, out, err = run(capsys, *arguments, "--rules", "mine", "--seeds", "1")
    assert code == 0, err
    assert "mine" in out
    result = json.loads(next(Path("runs").glob("compare-*/compare.json")).read_text())
    assert result["command"].endswith("--import 'code/my rule.py'")
    peak = result["rules"]["mine"]["peak_mib"]  # of a process that has to import the rule, too
    assert 0 < peak < 500 if Path("/proc/self/clear_refs").exists() else peak is None


def test_a_module_of_a_package_that_python_imported_is_given(place, monkeypatch):
    Path("mine").mkdir()
    Path("mine/__init__.py").touch()
    Path("mine/rule_in_a_package.py").write_text(Path("code/my rule.py").read_text())
    monkeypatch.syspath_prepend(place)
    importlib.import_module("mine.rule_in_a_package")
    tsslbp.build("5-4", input_shape=(3,), time_steps=2, tau_m=5, tau_s=3, rule="mine").save("net.safetensors")
    assert tsslbp.load("net.safetensors").imports == ("rule_in_a_package.py",)


def test_a_module_that_python_imported_is_given(place, monkeypatch, capsys):
    assert run(capsys, *TRAIN, "--rule", "mine", "--name", "a")[0] == 0
    module = ModuleType("my rule")
    module.__file__ = str(place / "elsewhere/my rule.py")
    monkeypatch.setitem(sys.modules, "my rule", module)
    model = tsslbp.load("runs/a")
    assert model.imports == ("my rule.py",)
    assert TrainConfig.from_toml(Path("runs/a/config.toml")).rule == "mine"


def test_what_is_not_given_is_not_imported(place, capsys):
    Path("code/other.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    assert run(capsys, *TRAIN, "--rule", "mine", "--name", "a")[0] == 0
    config = Path("runs/a/config.toml")
    config.write_text(config.read_text().replace("my rule.py", "other.py"))
    Path("other.py").write_text(Path("code/other.py").read_text())
    code, _, err = run(capsys, "train", *IMPORT, "--config", str(config), "--name", "b")
    assert code == 2
    assert "--import other.py; give it again" in err
    config.write_text(config.read_text().replace("other.py", "code/other.py"))
    code, _, err = run(capsys, "train", *IMPORT, "--config", str(config), "--name", "b")
    assert code == 2
    assert "must be names of files" in err
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx = = 2\n", "code/bad.py, line 2: SyntaxError: invalid syntax"),
        ("import nothing_of_that_name\n", "code/bad.py, line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def f():\n    raise KeyError('a\\nb')\nf()\n", "code/bad.py, line 2: KeyError: "),
        ("raise SystemExit(0)\n", "code/bad.py, line 1: SystemExit: 0"),
        ("from tsslbp import Surrogate\nSurrogate('no')\n", "code/bad.py, line 2: UserError: unknown surrogate 'no'"),
        ("x = '\0'\n", "code/bad.py"),
        ("from tsslbp import rules\nrules.RULES['x'] = 5\n", "RULES['x'] is 5; it must be a subclass of tsslbp.Rule"),
        ("from tsslbp import losses\nlosses.LOSSES['x'] = len\n", "it must be a dataclass with is_mean and __call__"),
        ("from tsslbp.rules import surrogate\nsurrogate.DERIVATIVES['x'] = 'y'\n", "it must be a function, or"),
        ("from tsslbp import data\ndata.SETS['x'] = 5\n", "it must be a function that returns a Dataset"),
    ],
)
def test_a_file_that_cannot_be_imported(place, capsys, text, message):
    Path("code/bad.py").write_text(text)
    code, out, err = run(capsys, "train", "--import=code/bad.py", "quickstart")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--import"], "--import needs a file"),
        (["train", "--import", "--epochs", "1"], "--import needs a file"),
        (["train", "--import", "code/none.py"], "there is no such Python file"),
        (["train", "--import", "code"], "there is no such Python file"),
        (["train", *IMPORT, *IMPORT], "two files are named my rule.py"),
        (["doctor", *IMPORT], "unknown option '--import'"),
        (["train", "--imprt", "x"], "did you mean '--import'"),
    ],
)
def test_wrong_imports(place, capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


SHAPE = "def f(x):\n    return {}\nDERIVATIVES['bad'] = f\n"
LOSS = "class Bad(Total):\n    def __call__(self, x, *rest):\n        return {}\nlosses.LOSSES['bad'] = Bad\n"
RULE_OF = "class Bad(Mine):\n    def current_gradient(self, e, u, neuron):\n        return {}\nrules.RULES['bad'] = Bad\n"
SET = "data.SETS['bad'] = lambda n: {}\n"


@pytest.mark.parametrize(
    ("more", "flag", "message"),
    [
        (SHAPE.format("x.nothing"), "--rule=surrogate(name=bad)", "line 2 of it: AttributeError"),
        (SHAPE.format("x[1:]"), "--rule=surrogate(name=bad)", "surrogate f returned"),
        (LOSS.format("1 / 0"), "--loss=bad", "line 3 of it: ZeroDivisionError"),
        (LOSS.format("x @ x"), "--loss=bad", "line 3 of it: RuntimeError"),
        (LOSS.format("1.0"), "--loss=bad", "Bad returned a float"),
        (LOSS.format("x"), "--loss=bad", "Bad returned a tensor of shape [4, 50, 4]; it must return a scalar"),
        (LOSS.format("2 * x.sum().detach().requires_grad_()"), "--loss=bad", "Bad gives no weight a gradient; compute it from"),
        (LOSS.format("x.detach().sum()"), "--loss=bad", "Bad returned a tensor of shape [] without a gradient"),
        (LOSS.format("x.sum() * float('nan')"), "--loss=bad", "Bad returned nan for a finite output; it must be finite there"),
        (
            LOSS.format("(x * 0).square().sum().sqrt()"),
            "--loss=bad",
            "Bad has a gradient of NaN or infinity; look for a square",
        ),
        (
            LOSS.format("x.sum().to(torch.complex64)"),
            "--loss=bad",
            "Bad returned torch.complex64 on cpu; it must return torch.float32",
        ),
        (
            LOSS.format("x.sum().to('meta')"),
            "--loss=bad",
            "Bad returned torch.float32 on meta; it must return torch.float32 on cpu",
        ),
        (
            RULE_OF.format("e[1:]"),
            "--rule=bad",
            "Bad.current_gradient returned [3, 50, 4] of torch.float32; it must return [4, 50, 4]",
        ),
        (
            RULE_OF.format("e.double()"),
            "--rule=bad",
            "Bad.current_gradient returned [4, 50, 4] of torch.float64; it must return",
        ),
        (RULE_OF.format("e.to('meta')"), "--rule=bad", "of torch.float32 on meta; it must return [4, 50, 4] of torch.float32"),
        (RULE_OF.format("e / 0"), "--rule=bad", "Bad.current_gradient returned NaN or infinity; it must be finite where"),
        (RULE_OF.format("e.nothing"), "--rule=bad", "AttributeError"),
        (SET.format("5"), "--data=bad", "data set bad is a int"),
        (SET.format("open('none')"), "--data=bad", "line 1 of it: FileNotFoundError"),
    ],
)
def test_what_goes_wrong_in_ones_own_code_is_one_line(place, capsys, more, flag, message):
    Path("code/my rule.py").write_text(RULE + more)
    others = TRAIN if not flag.startswith("--data") else [given for given in TRAIN if given not in ("--data", "four-lines")]
    code, _, err = run(capsys, *others, "--batch-size", "50", flag)
    assert code == 2, err
    last = re.sub(r"line (\d+):", lambda line: f"line {int(line[1]) - RULE.count(chr(10))} of it:", err.splitlines()[-1])
    assert last.startswith("tsslbp: ")
    assert message in last
    assert "Traceback" not in err


@pytest.mark.parametrize("where", ["loss", "rule"])
def test_nan_that_comes_in_is_not_said_of_ones_own_code(where):
    """What is wrong with the output is not the fault of the loss, nor of a rule what comes from behind it."""

    class Mine(Surrogate):
        pass

    class Total(losses.SoftmaxLoss):
        pass

    for kind in (Mine, Total):
        kind.__module__ = "mine"
    if where == "rule":
        current = torch.rand(3, 2).requires_grad_()
        tsslbp.lif(current, rule=Mine(quartic), **CONSTANTS).backward(torch.full((3, 2), math.nan))
        assert not current.grad.isfinite().any()
    else:
        output = torch.full((3, 2, 4), math.nan).requires_grad_()
        assert loss_value.checked(output.sum(), Total(), output).isnan()


def script(place: Path, text: str) -> subprocess.CompletedProcess:
    (place / "script.py").write_text(text)
    return subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, cwd=place)


def test_a_run_in_python_remembers_the_files_of_what_it_used(place, capsys):
    """As a script does it, in a process of its own: a module that it imports, and the script itself."""
    Path("mine.py").write_text(RULE)
    made = script(
        place,
        "import mine, tsslbp, torch\n"
        "from tsslbp.training.settings import TrainConfig\n"
        "from tsslbp.rules.surrogate import DERIVATIVES\n"
        "def flat(x):\n    return torch.ones_like(x)\n"
        "DERIVATIVES['flat'] = flat\n"
        "if __name__ == '__main__':\n"
        "    from tsslbp import data, training\n"
        "    settings = {'network': '8-4', 'epochs': 1, 'time_steps': 3}\n"
        "    dataset = mine.four_lines(None)\n"
        "    training.train(TrainConfig(**settings, rule='mine', loss='total', name='a'), dataset=dataset)\n"
        "    training.train(TrainConfig(**settings, rule='surrogate(name=bump)', data='four-lines', name='b'))\n"
        "    training.train(TrainConfig(**settings, rule='surrogate(name=flat)', name='c'), dataset=dataset)\n"
        "    training.train(TrainConfig(**settings, name='d'), dataset=dataset)\n"
        "    build = {'input_shape': (3,), 'time_steps': 4, 'tau_m': 5, 'tau_s': 3}\n"
        "    tsslbp.build('4-2', rule=mine.Mine(), **build).save('net.safetensors')\n"
        "    print(tsslbp.load('runs/a').imports, tsslbp.load('net.safetensors').imports)\n",
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout == "('mine.py',) ('mine.py',)\n"
    for name, files in {"a": ["mine.py"], "b": ["mine.py"], "c": ["script.py"], "d": None}.items():
        assert tomllib.loads(Path(f"runs/{name}/config.toml").read_text()).get("imports") == files
        if files:
            with pytest.raises(UserError, match=rf"was trained with --import {files[0]}; give it again, or import it"):
                tsslbp.load(f"runs/{name}")
        else:
            tsslbp.load(f"runs/{name}")
    code, _, err = run(capsys, "evaluate", "runs/b", "--import", "mine.py")
    assert code == 0, err
    code, _, err = run(capsys, "predict", "runs/c", "new.npz", "--import", "script.py")
    assert code == 2
    assert "new.npz" in err  # the rule is known


def test_functions_of_packages_are_no_files_of_a_users_own(monkeypatch):
    import torch.nn.functional as F

    for function in (F.softplus, torch.sigmoid, math.exp, losses.desired_train, len):
        assert imports.defining(function, None) == ()
    assert imports.defining(quartic, quartic) == ("test_import.py",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.train, "dataset is a Split; it must be a tsslbp.data.Dataset"),
        (lambda d: replace(d, train=d.train.select(torch.arange(0))), "dataset has no training samples"),
        (
            lambda d: replace(d, train=replace(d.train, lengths=torch.ones(len(d.train), dtype=torch.int64))),
            "they are for sequences",
        ),
        (
            lambda d: replace(d, train=replace(d.train, y=d.train.y[:3])),
            r"its train samples have \d+ x and 3 y; they must be as many",
        ),
        (
            lambda d: replace(d, test=replace(d.test, x=d.test.x.double())),
            r"its test samples are torch.float64 \[4\]; they must be",
        ),
        (lambda d: replace(d, test=replace(d.test, x=d.test.x[:, :2])), r"its test samples are torch.float32 \[2\]; .* \[4\]"),
        (
            lambda d: replace(d, train=replace(d.train, y=d.train.y.float())),
            r"have targets torch.float32 \[\d+\]; they must be int64",
        ),
        (lambda d: replace(d, classes=("a", "b")), "its train samples have targets up to 3; there are 2 classes, from 0"),
        (lambda d: replace(d, classes=tuple("abca")), "dataset: class name 'a' stands twice"),
        (lambda d: replace(d, classes=(0, 1, 2, 3)), r"dataset: classes is \(0, 1, 2, 3\); it must be a tuple of texts"),
        (lambda d: replace(d, name=5), "dataset: name is 5; it must be a text"),
        (lambda d: replace(d, normalisation=None), "dataset: normalisation is None; it must be a tsslbp"),
        (lambda d: replace(d, normalisation=data.Normalisation(1, (0, 0), (1, 1))), "has 2 means; its samples have 4 channels"),
        (lambda d: replace(d, test=replace(d.test, x=d.test.x / 0)), "dataset: its test samples hold NaN or infinity; remove"),
        (lambda d: replace(d, train=replace(d.train, x=d.train.x.requires_grad_())), r"require a gradient; give x\.detach\(\)"),
    ],
)
def test_a_data_set_made_in_python_that_does_not_fit(tmp_path, change, message):
    whole = data.of_arrays(np.eye(4, dtype=np.float32).repeat(20, 0), [0] * 20 + [1] * 20 + [2] * 20 + [3] * 20)
    with fails(message):
        training.train(TrainConfig(runs_dir=tmp_path), dataset=change(whole))


@pytest.mark.parametrize("length", [0, 7])
def test_a_data_set_with_lengths_outside_its_steps(length):
    whole = data.of_arrays(np.zeros((8, 6, 2), np.float32), [0, 1] * 4)
    lengths = torch.full((len(whole.train),), 6)
    assert data.check(replace(whole, train=replace(whole.train, lengths=lengths)), "it") is not None
    lengths[0] = length
    with pytest.raises(UserError, match=r"lengths run from . to .; they must be from 1 to T = 6"):
        data.check(replace(whole, train=replace(whole.train, lengths=lengths)), "it")


@pytest.mark.parametrize("through_reset", [False, True])
def test_a_network_with_a_function_is_compiled_copied_and_pickled(through_reset):
    rule = Surrogate(quartic, slope=2, through_reset=through_reset)
    net = tsslbp.build("6-8b-4", input_shape=(5,), time_steps=4, rule=rule, **CONSTANTS)
    x = torch.rand(4, 3, 5) * 3

    def of(made, parameters):
        made.zero_grad()
        (made(x) - 1).square().sum().backward()
        return [weight.grad.clone() for weight in parameters]

    wanted = of(net, list(net.parameters()))
    assert all(bool(gradient.any()) for gradient in wanted)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(of(compiled, list(net.parameters())), wanted, rtol=1e-5, atol=1e-6)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.architecture.rule == rule
        assert all(map(torch.equal, of(other, list(other.parameters())), wanted))


def test_help_says_how(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "--import FILE.py" in " ".join(capsys.readouterr().out.split())


KEPT = {"input_shape": (1, 8, 8), "padding": 1, "time_steps": 6, "tau_m": 4.0, "tau_s": 2.5, "threshold": 0.8}


@pytest.mark.parametrize(
    "settings",
    [
        {"notation": "4C3-P2-20-10", "rule": "surrogate(name=atan, slope=3)", "dropout": 0.1},
        {"notation": "4C3n-[4C3n-4C3n]-M2-12R-10b", "rule": "tssl+"},
        {"notation": "4C3-9A-4", "tau_a": 20.0, "beta": 0.3},
        {"notation": "4C3-P2-20-10", "standardise": True},
        {"notation": "20-12-V3", "neuron": "relu", "padding": 0},
    ],
    ids=lambda settings: settings["notation"],
)
def test_a_network_made_in_python_is_kept(tmp_path, settings):
    net = tsslbp.build(**{**KEPT, **settings})
    x = 3 * torch.rand(5, 1, 8, 8)
    net(x)  # statistics of normalised layers
    net.save(tmp_path / "net.safetensors")
    model = tsslbp.load(tmp_path / "net.safetensors")
    net.eval()
    torch.testing.assert_close(model.network(x).sum(0), net(x).sum(0), rtol=1e-3, atol=1e-3)
    net.fold()
    assert model.network.architecture == net.architecture
    for sample in (x, 3 * torch.rand(6, 5, 1, 8, 8)):
        assert torch.equal(model.network(model.inputs(sample)), net(sample))
    assert model.classes == tuple(str(k) for k in range(net(x).shape[2]))
    model.save(tmp_path / "again.safetensors")
    assert torch.equal(tsslbp.load(tmp_path / "again.safetensors").network(x), net(x))


def test_a_kept_network_goes_on_as_a_stream(tmp_path):
    tsslbp.build("6-4", input_shape=(3,), time_steps=5, **CONSTANTS).save(tmp_path / "net.safetensors")
    assert tsslbp.stream(tsslbp.load(tmp_path / "net.safetensors"))(torch.rand(1, 3)).spikes.shape == (1, 4)


def test_a_network_that_cannot_be_kept(tmp_path):
    path = tmp_path / "net.safetensors"

    def net(**changes):
        return tsslbp.build("6-4", **{"input_shape": (3,), "time_steps": 5, **CONSTANTS, **changes})

    with pytest.raises(UserError, match="has no name"):
        net(rule=Surrogate(quartic)).save(path)
    with pytest.raises(UserError, match=r"are torch.float64; a model file holds float32"):
        net().double().save(path)
    broken = net()
    broken.layers.output.weight.data[0, 0] = math.nan
    with pytest.raises(UserError, match=r"'layers.output.weight' hold NaN"):
        broken.save(path)
    other = net()
    other.layers.output = tsslbp.layers.Linear(6, 5, neuron=other.neuron)
    with pytest.raises(UserError, match=r"^layers.output is Linear\(6, 5, .*, where its notation says Linear\(6, 4, "):
        other.save(path)
    with pytest.raises(UserError, match="cannot write"):
        net().save(tmp_path / "none/net.safetensors")
    assert not path.exists()


def test_a_state_dict_for_other_constants_is_noticed(tmp_path, recwarn):
    def net(**changes):
        return tsslbp.build("6-4", **{"input_shape": (3,), "time_steps": 5, **CONSTANTS, **changes})

    state = net().state_dict()
    assert list(state) == [name for name, _ in net().named_parameters()]
    torch.save(state, tmp_path / "state.pt")
    for stored in (state, torch.load(tmp_path / "state.pt", weights_only=True)):
        net(time_steps=9, rule="tssl+", tau_m=5).load_state_dict(stored)  # other steps and rules take the same weights
        torch.nn.Sequential(net()).load_state_dict(torch.nn.Sequential(net()).state_dict())
        net(tau_m=7).load_state_dict(dict(stored))  # nothing says what these are of
        assert not recwarn.list
        other = net(tau_m=7, threshold=0.5)
        with pytest.warns(UserWarning, match=r"with tau_m 5.0 \(here 7\), threshold 1.0 \(here 0.5\); build the net") as warned:
            other.load_state_dict(stored)
        assert len(warned) == 1
        assert warned[0].filename == __file__
        assert torch.equal(other.layers.output.weight, stored["layers.output.weight"])
        recwarn.clear()


def test_a_state_dict_of_own_modules_for_other_constants_is_noticed(tmp_path, recwarn):
    """Layers tell their constants too, wherever they stand, and a learned or tensor constant is none of these."""

    class Mine(torch.nn.Module):
        def __init__(self, tau_m: float, tau_a: float = 20.0) -> None:
            super().__init__()
            layers, neuron = tsslbp.layers, LIF(tau_m, 3, 1.0)
            adaptation = layers.Adaptation(tau_a, 0.1)
            self.block = layers.Residual(layers.Linear(3, 4, neuron=neuron), layers.Linear(4, 3, neuron=neuron))
            self.output = layers.Recurrent(3, 2, neuron=neuron, adaptation=adaptation)

    state = Mine(5).state_dict()
    assert list(state) == [name for name, _ in Mine(5).named_parameters()]
    torch.save(state, tmp_path / "state.pt")
    for stored in (state, torch.load(tmp_path / "state.pt", weights_only=True)):
        Mine(5.0).load_state_dict(stored)
        assert not recwarn.list
        with pytest.warns(UserWarning, match="tau_m") as warned:
            Mine(7).load_state_dict(stored)
        places = ["block.0", "block.1", "output"]
        assert [str(one.message) for one in warned] == [
            f"the weights are of neurons with tau_m 5 (here 7); build layer '{place}' with the same constants"
            for place in places
        ]
        with pytest.warns(UserWarning, match=r"tau_a 20.0 \(here 9\); build layer 'output'") as warned:
            Mine(5, tau_a=9).load_state_dict(stored)
        assert warned[0].filename == __file__
        recwarn.clear()
    layer = tsslbp.layers.Linear(2, 2, neuron=LIF(5, 3, 1.0))
    with pytest.warns(UserWarning, match=r"threshold 0.5 \(here 1.0\); build the layer with"):
        layer.load_state_dict(tsslbp.layers.Linear(2, 2, neuron=LIF(5, 3, 0.5)).state_dict())


def test_a_kept_network_that_is_damaged(tmp_path):
    path = tmp_path / "net.safetensors"
    tsslbp.build("6-4", input_shape=(3,), time_steps=5, **CONSTANTS).save(path)
    stored = bytearray(path.read_bytes())
    stored[-1] ^= 1
    path.write_bytes(stored)
    with pytest.raises(UserError, match="its checksum does not fit"):
        tsslbp.load(path)
