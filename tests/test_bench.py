"""The benchmark: it counts what it says, and shows no speed of wrong results."""

import json
from dataclasses import replace

import pytest
import torch

from tsslbp import UserError, bench, cli, kernels
from tsslbp.bench import measure
from tsslbp.bench.cases import Case, floor
from tsslbp.networks import PAPER

SMALL = Case("small", replace(PAPER["mnist-cnn"], notation="3C5-P2-7-10"), batch=2)


@pytest.mark.parametrize("who", bench.subjects(SMALL))
@pytest.mark.parametrize("sequence", [False, True])
def test_every_subject_trains_and_infers(who, sequence):
    subject = bench.subjects(replace(SMALL, sequence=sequence))[who]()
    subject.step()
    subject.infer()


def test_the_floor_is_the_networks_own_maps(monkeypatch):
    calls = []
    for name in ("conv2d", "linear"):
        plain = getattr(torch.nn.functional, name)

        def counted(x, *args, plain=plain, **kwargs):
            calls.append((tuple(x.shape), tuple(kwargs["weight"].shape), x.requires_grad))
            return plain(x, *args, **kwargs)

        monkeypatch.setattr(torch.nn.functional, name, counted)
    floor(SMALL, torch.float32).step()
    inputs = [((2, 1, 28, 28), (3, 1, 5, 5), False), ((10, 432), (7, 432), True), ((10, 7), (10, 7), True)]
    assert calls[-3:] == inputs


def test_interleaved_medians():
    calls = []
    times = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0, least=3)
    assert calls == [*"aabb", *"ababab"]
    assert set(times) == {"a", "b"}


@pytest.mark.skipif(not kernels.backends()["cpp"].usable, reason="the C++ kernels are not built")
def test_no_speed_of_wrong_results(monkeypatch):
    measure.require_agreement()
    monkeypatch.setattr(measure.kernels, "lif_forward", lambda current, neuron: (current, current, None))
    with pytest.raises(UserError, match="disagree on the membrane potential"):
        measure.require_agreement()


def test_command_writes_a_result_and_prints_its_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "cases", lambda: {"small": SMALL})
    arguments = ["bench", "--cases", "small", "--seconds", "0.01", "--no-memory", "--no-growth", "--results", str(tmp_path)]
    assert cli.main(arguments) == 0
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert bench.table(result) in capsys.readouterr().out
    assert set(result["cases"]["small"]["subjects"]) == set(bench.subjects(SMALL))
    assert cli.main(["bench", "--cases", "smal"]) == 2
    assert "did you mean 'small'" in capsys.readouterr().err


@pytest.mark.slow
def test_peak_memory_is_that_of_a_fresh_process():
    assert 0 < measure.peak_memory("fashion-mnist-fc", "tsslbp") < 500
