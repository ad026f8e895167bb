"""A small network, trained on the digits, in every form that leaves this library: the same spikes and answers everywhere."""

import re

import pytest
from shared import run

from tsslbp import cli
from tsslbp.exchange import compiled

NETWORK = ["--network", "6C3-P2-[8C3s2-8C3]-10", "--padding", "1", "--conv-scale", "2", "--learning-rate", "5e-3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A residual network after three epochs."""
    runs = tmp_path_factory.mktemp("runs")
    assert cli.main(["train", "quickstart", *NETWORK, "--epochs", "3", "--runs-dir", str(runs)]) == 0
    return runs / "quickstart"


def exported(trained, capsys, *arguments):
    code, out, err = run(capsys, "export", str(trained), *arguments)
    assert code == 0, err
    return out


def test_it_has_learned(trained, capsys):
    code, out, err = run(capsys, "evaluate", str(trained))
    assert code == 0, err
    assert float(re.search(r"([\d.]+) %", out)[1]) > 50


def test_every_simulator_has_its_spikes_and_that_is_proved(trained, tmp_path, capsys):
    pytest.importorskip("nir", reason="NIR files need the package nir")
    out = exported(trained, capsys, str(tmp_path / "net.nir"), "--check", "60")
    assert re.search(r"NIR's equations, float64: 0 of [\d,]+ neuron steps differ", out)
    assert "guaranteed by margin in float64: 100.0 % of 60 samples" in out


def test_onnxruntime_has_its_answers(trained, tmp_path, capsys):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX files need the extra onnx")
    out = exported(trained, capsys, str(tmp_path / "net.onnx"), "--check", "60")
    assert int(re.search(r"and (\d+) of 60 answers differ", out)[1]) <= 1


@pytest.mark.parametrize("bits", ["8", "2", "float"])
def test_c_has_its_spikes(bits, trained, tmp_path, capsys):
    try:
        compiled.compiler()
    except Exception:
        pytest.skip("there is no C compiler")
    more = [] if bits == "float" else ["--bits", bits]
    out = exported(trained, capsys, str(tmp_path / "c"), "--format", "c", "--check", "200", *more)
    differing, spikes, answers = re.search(r": (\d+) of ([\d,]+) spikes and (\d+) of 200 answers differ", out).groups()
    assert int(spikes.replace(",", "")) > 10000
    assert int(differing) <= (10 if bits == "float" else 0)
    assert int(answers) <= (1 if bits == "float" else 0)
