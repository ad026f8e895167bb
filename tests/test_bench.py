"""The benchmark: it counts what it says, and shows no speed of wrong results."""

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from shared import fails

from tsslbp import UserError, bench, cli, kernels
from tsslbp.bench import measure
from tsslbp.bench.cases import Case, cases, floor, grown
from tsslbp.cli import speed
from tsslbp.network import train as as_one
from tsslbp.network.architecture import PAPER
from tsslbp.utils import machine

comparing = importlib.import_module("tsslbp.bench.against")  # its name in the package is that of the function
SMALL = Case("small", replace(PAPER["mnist-cnn-head"], network="3C5-P2-7-10"), batch=2)
SMALL_IN_STEPS = replace(SMALL, sequence=True)
RECURRENT = Case("small, recurrent", replace(SMALL.architecture, network="7R-10", input_shape=(6,)), batch=2, sequence=True)


@pytest.mark.parametrize(
    ("case", "who"), [(case, who) for case in (SMALL, SMALL_IN_STEPS, RECURRENT) for who in bench.subjects(case)]
)
def test_every_subject_trains_and_infers(case, who):
    subject = bench.subjects(case)[who]()
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
    times = measure.interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0, least=20)
    assert calls[:4] == [*"aabb"]
    assert {*zip(calls[4::2], calls[5::2], strict=True)} == {("a", "b"), ("b", "a")}  # each once in every round, in any order
    assert set(times) == {"a", "b"}


@pytest.mark.skipif(not kernels.backends()["cpp"].usable, reason="the C++ kernels are not built")
def test_no_speed_of_wrong_results(monkeypatch):
    measure.require_agreement()
    monkeypatch.setattr(kernels.find("cpp"), "forward", lambda current, *_, **__: (current, current, None))
    with pytest.raises(UserError, match="disagree on the post-synaptic current"):
        measure.require_agreement()


def test_memory_is_refused_where_it_cannot_be_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "CLEAR", tmp_path / "clear_refs")
    assert cli.main(["bench", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "tsslbp: peak memory cannot be measured on this system; give --no-memory\n"


def test_command_writes_a_result_and_prints_its_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "cases", lambda: {"small": SMALL, RECURRENT.name: RECURRENT})
    arguments = [
        "bench",
        "--cases",
        "small",
        RECURRENT.name,
        "--seconds",
        "0.01",
        "--no-memory",
        "--no-growth",
        "--results",
        str(tmp_path),
    ]
    assert cli.main(arguments) == 0
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    assert bench.table(result) in capsys.readouterr().out
    assert "| hidden neurons spike, % of the steps |" in bench.table(result)
    for case in (SMALL, RECURRENT):
        assert set(result["cases"][case.name]["subjects"]) == set(bench.subjects(case))
    assert {"nn.RNN", "nn.LSTM"} < set(result["cases"][RECURRENT.name]["subjects"])
    assert cli.main(["bench", "--cases", "smal"]) == 2
    assert "did you mean 'small'" in capsys.readouterr().err


BUSY = {name: case for name, case in (bench.cases() | bench.grown()).items() if not case.large and name != "T = 5"}


@pytest.mark.parametrize("name", BUSY)
def test_no_hidden_layer_of_a_case_is_nearly_silent(name):
    rates = BUSY[name].rates()
    assert len(rates) == str(BUSY[name].architecture.network).replace("-P2", "").count("-")
    assert all(0.008 < rate < 0.12 for rate in rates)


def test_large_cases_are_measured_only_if_named():
    assert bench.cases()["cifar10-cnn1"].large
    assert speed.Bench().cases == tuple(name for name in bench.cases() if not name.startswith("cifar10"))


def test_growth_has_every_axis(monkeypatch):
    chosen = {
        name: replace(case, batch=2) for name, case in bench.grown().items() if name in ("T = 5", "T = 10", "width = 100")
    }
    monkeypatch.setattr(bench, "grown", lambda: chosen)
    rows = bench.growth(0.01, False, lambda _: None)
    assert [(row["axis"], row["value"]) for row in rows] == [("T", 5), ("T", 10), ("width", 100)]
    assert "step in blocks of √T, ms" in "\n".join(bench.growth_tables(rows))


@pytest.mark.skipif(not kernels.backends()["cpp"].usable, reason="the C++ kernels are not built")
def test_doctor_measures_bfloat16_and_keeps_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path))
    monkeypatch.setattr(bench, "interleaved", lambda calls, seconds: dict(zip(calls, (3.0, 2.0), strict=True)))
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: True)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "1.50 times as fast on fashion-mnist-fc, 1.50 times as fast on mnist-cnn" in said
    assert "takes bfloat16" in said
    assert machine.bfloat16_pays()


@pytest.mark.skipif(not kernels.backends()["cpp"].usable, reason="the C++ kernels are not built")
def test_doctor_measures_nothing_that_it_cannot_keep(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(bench, "bfloat16_gains", None)
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: True)
    assert cli.main(["doctor"]) == 2
    assert "set TSSLBP_CACHE to another folder, or give --no-measure" in capsys.readouterr().err
    assert cli.main(["doctor", "--no-measure"]) == 0
    assert "takes float32" in capsys.readouterr().out


def test_bfloat16_is_not_measured_where_the_processor_has_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(bench, "bfloat16_gains", None)
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "this processor has no fast products in bfloat16" in said
    assert "takes float32" in said
    assert not [who for who in bench.subjects(bench.cases()["fashion-mnist-fc"]) if "bf16" in who]


def test_doctor_does_not_ignore_seconds(capsys):
    assert cli.main(["doctor", "--no-measure", "--seconds=3"]) == 2
    assert "--seconds has no effect with --no-measure; leave one of them out" in capsys.readouterr().err


@pytest.mark.skipif(not measure.CLEAR.exists(), reason="measured on Linux only")
@pytest.mark.parametrize(
    ("before", "step", "small", "low", "high"),
    [
        ("torch.ones(300, 2**18)", "[torch.ones(2**18) for _ in range(100)]", "None", 99, 150),
        (
            "import tsslbp; net = tsslbp.build('4C3-P2-10', input_shape=(1, 8, 8), time_steps=5, tau_m=5, tau_s=3)",
            "net(torch.rand(4, 1, 8, 8)).sum().backward()",
            "net(torch.rand(2, 1, 8, 8)).sum().backward()",
            0,
            3,
        ),
    ],
    ids=["freed", "paid-once"],
)
def test_memory_is_that_of_the_step_alone(before, step, small, low, high):
    program = f"""
import torch
from tsslbp.utils import machine
from tsslbp.bench import measure
machine.keep_memory()
{before}
print(measure.peak_growth(lambda: {step}, lambda: {small}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert low <= float(done.stdout) < high


def test_memory_that_cannot_be_measured_is_one_line():
    with pytest.raises(UserError, match="the memory of tsslbp in nowhere was not measured: KeyError: 'nowhere'"):
        measure.peak_memory("nowhere", "tsslbp")


@pytest.mark.slow
def test_peak_memory_is_that_of_a_fresh_process():
    assert 0 < measure.peak_memory("fashion-mnist-fc", "tsslbp") < 500


def most_allocated(case, subject):
    """Bytes that a training step holds at its fullest, as profiled: a process's pages vary with what its allocator keeps."""
    step = bench.subjects((cases() | grown())[case])[subject]().step
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.experimental_event_tree()
    for event in events:  # grows while it is read, as children follow their parents
        events.extend(event.children)
    held, most = {}, 0
    for event in sorted((event for event in events if event.name == "[memory]"), key=lambda event: event.start_time_ns):
        block = event.extra_fields
        if block.alloc_size > 0:
            held[block.ptr] = block.alloc_size
            most = max(most, sum(held.values()))
        else:
            held.pop(block.ptr, None)  # what the step before held is freed too, and sometimes reported
    return most


@pytest.mark.parametrize("case", ["fashion-mnist-fc", "mnist-cnn"])
def test_one_operation_needs_no_more_memory_than_the_layers(case, monkeypatch):
    one = most_allocated(case, bench.TSSLBP)
    monkeypatch.setattr(as_one, "output", lambda *_, **__: None)
    assert one < 1.07 * most_allocated(case, bench.TSSLBP)


def test_memory_grows_with_time_and_in_blocks_with_its_square_root():
    whole = [most_allocated(case, bench.TSSLBP) for case in ("T = 100", "T = 1000")]
    blocks = [most_allocated(case, bench.BLOCKS) for case in ("T = 100", "T = 1000")]
    assert whole[1] < 10.5 * whole[0]
    assert blocks[1] < 4.5 * blocks[0]  # the root of 10 is 3.2; an input of T steps comes on top
    assert blocks[1] < whole[1] / 5


# Another installation.


def test_another_installation_is_measured_in_turns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "PAIRS", 6)
    monkeypatch.setattr(comparing, "TURN", 0.01)
    arguments = ["--cases", "fashion-mnist-fc", "--seconds", "0.01", "--results", str(tmp_path)]
    assert cli.main(["bench", "--against", sys.executable, *arguments]) == 0
    out = capsys.readouterr().out
    (path,) = tmp_path.glob("against-*.json")
    row = json.loads(path.read_text())["against"]["fashion-mnist-fc"]
    assert row["pairs"] == 6
    assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert f"{row['ratio']:.3f} | {row['low']:.3f} to {row['high']:.3f}" in out


def test_another_installation_that_is_none(tmp_path, capsys):
    arguments = ["--cases", "fashion-mnist-fc", "--results", str(tmp_path)]
    assert cli.main(["bench", "--against", str(tmp_path / "nowhere/python"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert "which cannot be run (No such file" in err
    assert (out, list(tmp_path.iterdir())) == ("", [])


def test_another_installation_that_ends():
    runner = comparing.Runner(shutil.which("true"), "fashion-mnist-fc")
    with fails("cannot run the case 'fashion-mnist-fc': it ended"):
        runner.seconds(3)
    runner.close()


def test_turns_alternate_and_take_about_as_long():
    said = []

    def contestant(name, each):
        return lambda calls: said.append((name, calls)) or calls * each

    found = comparing.ratio(comparing.in_turns(contestant("a", 0.5), contestant("b", 2.0), 0.0, 4.0))
    assert (found["ratio"], found["ours_ms"], found["theirs_ms"]) == (0.25, 500, 2000)
    assert said[4:8] == [("b", 2), ("a", 8), ("a", 8), ("b", 2)]


def test_a_ratio_has_the_interval_of_a_median():
    """Of ten values the second and the ninth enclose the median with 97.9 %, the third and the eighth with 89.1 %."""
    found = comparing.ratio([(float(n), 1.0) for n in (7, 1, 9, 3, 5, 2, 8, 4, 1000, 6)])
    assert (found["low"], found["ratio"], found["high"]) == (2, 5.5, 9)
    assert (found["ours_ms"], found["theirs_ms"], found["pairs"]) == (5500, 1000, 10)
