"""Several processes train as one does, and lose nothing when one of them ends."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import together
import torch

import tsslbp
from tsslbp import UserError, data, training
from tsslbp.layers import BatchNorm
from tsslbp.training import run
from tsslbp.training.reduction import Reduction
from tsslbp.utils import distributed

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
HANG = 500
"""Seconds after which a job does not end any more."""
TRAIN = ["train", "--network", "30-10", "--batch-size", "50", "--runs-dir", "runs", "--precision", "float32"]


def torchrun(count, *arguments, **options):
    """A program of several processes, started; its output is one text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    command = [*TORCHRUN, "--nproc-per-node", str(count), *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
    )


def workers(process):
    """Process numbers of a job's workers, once they train."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()] if children.exists() else []


def printed_by(process, patience=HANG):
    """What a job printed, after its end. Fails if it does not end, and says where it is."""
    try:
        return process.communicate(timeout=patience)[0]
    except subprocess.TimeoutExpired:
        for number in (signal.SIGABRT, signal.SIGCONT, signal.SIGKILL):
            for one in workers(process):
                with suppress(ProcessLookupError):
                    os.kill(one, number)
            time.sleep(1)
        process.kill()
        pytest.fail(f"the job does not end:\n{process.communicate()[0]}")


def until(happened, process):
    """Wait for what a job is to do. Fails if it ends first, or does not do it."""
    began = time.monotonic()
    while not happened():
        if process.poll() is not None or time.monotonic() - began > HANG:
            pytest.fail(f"the job did not get so far:\n{printed_by(process, 1)}")
        time.sleep(0.02)


def ended(process):
    """What a program printed, after its end: its own lines, without those of torchrun."""
    its_own = ("tsslbp: ", "stopped", "epoch ", "test accuracy", "report: ")
    return [line for line in printed_by(process).splitlines() if line.startswith(its_own)]


def trained_together(count, steps, out):
    process = torchrun(count, Path(together.__file__), out, steps)
    printed = printed_by(process)
    assert process.returncode == 0, printed
    return {name: [torch.load(out / f"{name} {number}.pt") for number in range(count)] for name in together.CASES}


def assert_as_one_alone(name, made, steps):
    expected = together.trained(together.config(name), steps)
    for of in made:
        assert len(of["weights"]) == len(expected["weights"])
        for key in ("weights", "average"):
            for weight, other in zip(of[key], expected[key], strict=True):
                torch.testing.assert_close(weight, other, atol=1e-10, rtol=0)
        torch.testing.assert_close(of["counted"], expected["counted"], atol=1e-6, rtol=0)
        assert all(map(torch.equal, of["weights"], made[0]["weights"]))
    single = together.trained(together.config(name), 1, torch.float32)["first"]
    for gradient, other in zip(made[0]["single"], single, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize(("count", "steps"), [(2, 12), *(pytest.param(count, 200, marks=pytest.mark.slow) for count in (2, 4))])
def test_processes_train_as_one(count, steps, tmp_path, monkeypatch):
    monkeypatch.setitem(tsslbp.rules.RULES, "doubled", together.Doubled)
    for name, made in trained_together(count, steps, tmp_path).items():
        assert_as_one_alone(name, made, steps)


class Twin(distributed.Group):
    """A group of this process and one that has no samples."""

    def all_reduce_async(self, x):
        return lambda: x


def test_equally_many_right_answers_are_the_same_accuracy(monkeypatch):
    """Of 360 samples, 13 right ones differ in the last bit between 100 k/n and 100 (k/n)."""
    model = training.Model(tsslbp.build("2", input_shape=(2,), time_steps=3, tau_m=5, tau_s=3), *[None] * 3)
    monkeypatch.setattr(training.Model, "scores", lambda self, samples, first=0: (torch.arange(len(samples)) < 13).double())
    monkeypatch.setattr(Twin, "share", lambda self, samples: samples)
    found = []
    for group in (distributed.ALONE, Twin(world_size=2)):
        monkeypatch.setattr(distributed, "group", lambda group=group: group)
        found.append(model.accuracy(data.Split(torch.zeros(360, 2), torch.zeros(360, dtype=torch.long))))
    assert found[0] == found[1]


def test_what_has_been_added_up_may_be_asked_for_again(monkeypatch):
    """As in a second backward pass through a retained graph."""
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda x, async_op: mock.Mock(is_completed=lambda: True))
    group = distributed.Group(world_size=2)
    added = group.all_reduce_async(torch.ones(2))
    assert added() is added()
    for _ in range(5):
        group.all_reduce_async(torch.ones(2))  # nobody asks
    assert len(distributed._SUMS) == 1


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 2, 5, 2, 3), (3, 2, 5, 7), (1, 1, 5, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normalisation_over_processes_is_that_over_all_samples(shape, dtype, monkeypatch):
    """Against PyTorch's own, for neurons and channels in both layouts, and its gradients."""
    x, weight = (3 * torch.randn(shape) + 2).to(dtype), torch.randn(shape).to(dtype)
    if len(shape) == 5:
        x = x.movedim(2, -1).contiguous().movedim(-1, 2)
    found = []
    for group in (distributed.ALONE, Twin(world_size=2)):
        monkeypatch.setattr(distributed, "group", lambda group=group: group)
        layer, own = BatchNorm(5, 0.7), x.clone().requires_grad_()
        layer = layer.double() if dtype == torch.float64 else layer
        y = layer(own)
        y.backward(weight)
        found.append([y.detach(), own.grad, layer.gain.grad, layer.shift.grad, layer.mean, layer.variance])
    for one, other in zip(*found, strict=True):
        bound = {torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-13}[dtype] * max(1, float(one.abs().max()))
        torch.testing.assert_close(other, one, rtol=0, atol=bound)
    with pytest.raises(UserError, match="needs two steps or samples"):
        BatchNorm(5)(torch.zeros(1, 1, 5))
    if dtype == torch.float64:
        with pytest.raises(UserError, match="normalisation over processes has no derivative of its own"):
            torch.autograd.grad(layer(own).square().sum(), own, create_graph=True)


@pytest.mark.parametrize("group", [distributed.ALONE, Twin(world_size=2)], ids=["alone", "together"])
@pytest.mark.parametrize("pictures", [1, 2])
def test_normalisation_in_every_layout(pictures, group, monkeypatch):
    """PyTorch 2.13's gradients of a single picture are wrong in some."""
    monkeypatch.setattr(distributed, "group", lambda: group)
    shape, found = (pictures, 3, 5, 4), []
    plain = [torch.randn(shape, dtype=torch.float64) for _ in range(2)]
    for orders in itertools.product(itertools.permutations(range(4)), repeat=2):
        x, weight = (x.permute(order).contiguous().permute(*np.argsort(order)) for x, order in zip(plain, orders, strict=True))
        layer, own = BatchNorm(3).double(), x.detach().requires_grad_()
        layer(own[None]).backward(weight[None])
        found.append([own.grad, layer.gain.grad])
        for one, other in zip(found[-1], found[0], strict=True):
            torch.testing.assert_close(one, other)
    x, weight = (x.movedim(1, 0).flatten(1) for x in plain)  # by hand
    z = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(found[0][1], (weight * z).sum(1))


def test_every_process_adds_up_the_accuracy_of_few_samples(quick, monkeypatch):
    class Watched(Twin):
        def all_reduce_async(self, x):
            summed.append(x)
            return super().all_reduce_async(x)

    summed, (config, dataset) = [], training.with_data(quick())
    model, _ = training.prepare(config, dataset)
    monkeypatch.setattr(distributed, "group", lambda: Watched(world_size=2))
    model.accuracy(dataset.test.select(torch.arange(1)))  # all of it is this process's share, and none the other's
    assert len(summed) == 1


def test_frozen_weights_are_not_added_up(monkeypatch):
    monkeypatch.setattr(distributed, "LARGE", 1)
    frozen, learned = torch.nn.Parameter(torch.ones(2), requires_grad=False), torch.nn.Parameter(torch.ones(2))
    added = Reduction([frozen, learned], Twin(world_size=2))
    with added.early():
        (frozen * learned).sum().backward()
    assert added.end([1.0]) == [1.0]
    assert (frozen.grad, learned.grad.tolist()) == (None, [1, 1])


def test_a_process_alone_is_a_group_of_one():
    alone = distributed.group()
    assert (alone.world_size, alone.rank, alone.leads, distributed.world_size(), distributed.leads()) == (1, 0, True, 1, True)
    x = torch.arange(5.0)
    assert alone.share(x) is x is alone.all_reduce_(x) is alone.all_reduce_async(x)() is alone.broadcast_(x)
    assert (alone.broadcast(b"a"), alone.all_gather_text("b"), float(alone.mean(x)), alone.speaks()) == (b"a", ["b"], 2.0, True)
    with alone.agreed():
        alone.same("other data", "c")
    with pytest.raises(UserError, match=r"^wrong$"), alone.agreed():
        raise UserError("wrong")


@pytest.mark.parametrize("samples", [0, 1, 7, 8])
def test_shares_make_up_the_batch(samples):
    x = torch.arange(samples)
    shares = [distributed.Group(4, number).share(x) for number in range(4)]
    assert torch.equal(torch.cat(shares), x)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_accumulated_parts_are_the_whole_batch(quick):
    """But for rounding: the gradients of a step."""
    for loss in ("kernel", "softmax"):
        whole, parts = (together.trained(quick(loss=loss, accumulate=count), 30) for count in (1, 7))
        for weight, other in zip(whole["weights"], parts["weights"], strict=True):
            torch.testing.assert_close(weight, other, atol=1e-10, rtol=0)
        torch.testing.assert_close(whole["counted"], parts["counted"])
    with pytest.raises(UserError, match="--accumulate is 101; it must be at most --batch-size, 100"):
        quick(accumulate=101)


def killed(count, where, arguments, victim, after=0.3, number=signal.SIGKILL):
    """What a job printed, and its exit code. One of its processes (None: torchrun) gets a signal a while after an epoch."""
    name = arguments[arguments.index("--name") + 1]
    checkpoint = where / "runs" / name / "checkpoint.pt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    process = torchrun(count, "-m", "tsslbp", *arguments, cwd=where)
    until(lambda: process.poll() is not None or (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before), process)
    time.sleep(after)
    if process.poll() is None:
        os.kill(process.pid if victim is None else workers(process)[victim], number)
    return ended(process), process.returncode


def final_of(folder):
    records, final = training.read_metrics(folder)
    return [{**record, "seconds": 0} for record in records], {**final, "seconds": 0}


def assert_same_run(one, other):
    """Bit for bit, times apart."""
    a, b = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (one, other))
    assert all(torch.equal(a["network"][name], b["network"][name]) for name in a["network"])
    assert final_of(one) == final_of(other)


LONG = [*TRAIN, "--epochs", "80"]


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_process_ends_the_job_in_one_line_and_the_run_goes_on(victim, tmp_path):
    said, code = killed(2, tmp_path, [*LONG, "--name", "cut"], victim)
    (line,) = [text for text in said if not text.startswith("epoch ")]
    assert code != 0
    # it notices itself, or torchrun asks it to stop, whichever comes first
    assert line.startswith(("tsslbp: another process of this job has ended", "tsslbp: this process was asked to stop"))
    assert line.endswith("go on with: torchrun --nproc-per-node 2 -m tsslbp train --config runs/cut/config.toml --resume")
    before = torch.load(tmp_path / "runs/cut/checkpoint.pt", weights_only=True)["state"]
    assert 1 <= before["epoch"] < 80
    config = tsslbp.training.settings.TrainConfig.from_toml(tmp_path / "runs/cut/config.toml")
    folder, final = training.train(replace(config, runs_dir=tmp_path / "runs", resume=True))  # one process goes on
    records, _ = training.read_metrics(folder)
    assert [record["epoch"] for record in records] == list(range(1, 81))
    assert records[: before["epoch"] - 1] == before["history"]
    assert final["test_accuracy"] > 60


@pytest.mark.parametrize("waits", ["time.sleep(3600)", pytest.param("group.store.get('never told')", marks=pytest.mark.slow)])
def test_a_process_that_waits_for_one_that_was_killed_says_a_line(waits, tmp_path):
    """In Python, and in a call that no handler of a signal can end."""
    (tmp_path / "waits.py").write_text(f"""
import os, signal, sys, time
from tsslbp import cli
from tsslbp.utils import distributed

def train(_):
    with distributed.joined() as group:
        if group.rank:
            group.store.get("joined")
            os.kill(os.getpid(), signal.SIGKILL)
        group.store.set("joined", "yes")
        {waits}

distributed.ANSWER, distributed.END = 0.5, 1.0
cli.COMMANDS["train"] = train
sys.exit(cli.main(["train"]))
""")
    (line,) = ended(torchrun(2, tmp_path / "waits.py"))
    assert line.startswith("tsslbp: this process was asked to stop (SIGTERM)")
    assert ("did not stop in 1 s; go on with --resume" in line) == ("store" in waits)


def test_a_process_that_does_not_answer_costs_no_step(tmp_path):
    """Its connections stay open, so the other one only knows that it was asked to stop."""
    (tmp_path / "impatient.py").write_text("""
import runpy
from tsslbp.utils import distributed

distributed.ANSWER = 1.0
runpy.run_module("tsslbp", run_name="__main__", alter_sys=True)
""")
    process = torchrun(2, tmp_path / "impatient.py", *LONG, "--name", "cut", cwd=tmp_path)
    checkpoint = tmp_path / "runs/cut/checkpoint.pt"
    until(checkpoint.exists, process)
    leading, silent = workers(process)
    os.kill(silent, signal.SIGSTOP)
    time.sleep(0.5)
    before = checkpoint.stat().st_mtime_ns
    os.kill(leading, signal.SIGTERM)
    until(lambda: leading not in workers(process), process)
    os.kill(silent, signal.SIGKILL)
    (line,) = [text for text in ended(process) if not text.startswith("epoch ")]
    assert line.startswith("tsslbp: this process was asked to stop (SIGTERM)")
    assert line.endswith("go on with: torchrun --nproc-per-node 2 -m tsslbp train --config runs/cut/config.toml --resume")
    assert checkpoint.stat().st_mtime_ns > before


def test_sigterm_ends_a_sum_that_nobody_waits_for_yet(tmp_path):
    (tmp_path / "sums.py").write_text("""
import os, signal, sys, time
import torch
from tsslbp import cli
from tsslbp.utils import distributed

def train(_):
    with distributed.joined() as group:
        group.all_gather_text("here")
        if group.rank:
            time.sleep(1.5)
            os._exit(0)
        added = group.all_reduce_async(torch.zeros(1))
        os.kill(os.getpid(), signal.SIGTERM)
        added()

distributed.ANSWER, distributed.END = 0.5, 1.0
cli.COMMANDS["train"] = train
code = cli.main(["train"])
os._exit(code) if distributed.stuck() else sys.exit(code)
""")
    (line,) = ended(torchrun(2, tmp_path / "sums.py"))
    assert line.startswith("tsslbp: this process was asked to stop (SIGTERM)")
    assert "did not stop" not in line


def test_a_signal_to_a_child_is_not_for_its_parent():
    """Workers that read pictures are forked, and get a SIGTERM of their own when they end."""
    program = """
import os, signal, time
from tsslbp.utils import distributed

distributed.ANSWER = distributed.END = 0.1
with distributed._answering(distributed.ALONE):
    ready, told = os.pipe()
    if not (child := os.fork()):
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        os.write(told, b".")
        time.sleep(3600)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(1)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
def test_killed_at_any_time_the_run_is_that_of_one_never_stopped(tmp_path):
    arguments = [*LONG[:2], "16n-16n-10", *LONG[3:], "--dropout", "0.2", "--average", "0.9"]
    ended(torchrun(2, "-m", "tsslbp", *arguments, "--name", "whole", cwd=tmp_path))
    moments = random.Random(0)
    for attempt in range(6):
        resume = ["--resume"] if attempt else []
        killed(2, tmp_path, [*arguments, "--name", "cut", *resume], moments.choice([0, 1]), moments.uniform(0, 3))
    ended(torchrun(2, "-m", "tsslbp", *arguments, "--name", "cut", "--resume", cwd=tmp_path))
    assert_same_run(tmp_path / "runs/whole", tmp_path / "runs/cut")


@pytest.mark.slow
def test_torchrun_starts_the_job_again_where_it_was(tmp_path):
    process = torchrun(2, "--max-restarts", "2", "-m", "tsslbp", *LONG, cwd=tmp_path)
    until((tmp_path / "runs/custom/checkpoint.pt").exists, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    said = ended(process)
    assert process.returncode == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["custom"]
    assert said[-1].startswith("report: ")
    ended(torchrun(2, "-m", "tsslbp", *LONG, "--name", "whole", cwd=tmp_path))
    assert_same_run(tmp_path / "runs/whole", tmp_path / "runs/custom")


@pytest.mark.parametrize("skips", [False, True])
def test_each_run_of_a_script_that_is_started_again_goes_on(skips, quick, monkeypatch):
    """Also if the script leaves out what it has trained."""

    class Stop(training.Progress):
        def finished_epoch(self, record):
            if not distributed.restarts():
                raise RuntimeError

    def script():
        monkeypatch.setattr(run, "_CALLS", Counter())
        for seed, name in enumerate("ab"):
            if not (skips and distributed.restarts() and name == "a"):
                training.train(quick(name=name, seed=seed), Stop() if name == "b" else None)

    group = distributed.Group(store=torch.distributed.HashStore())
    monkeypatch.setattr(distributed, "joined", lambda: nullcontext(group))
    with pytest.raises(RuntimeError):
        script()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    script()
    assert [training.read_metrics(quick().runs_dir / name)[1]["epochs"] for name in "ab"] == [2, 2]


def test_a_single_process_of_torchrun_has_its_store(monkeypatch):
    where = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    with distributed.joined() as group:
        assert (group.world_size, group.leads, distributed.group()) == (1, True, distributed.ALONE)
        assert (group.remembered("run"), group.remembered("run", "a"), group.remembered("run")) == (None, "a", "a")


@pytest.mark.slow
def test_torchrun_starts_a_single_process_again_where_it_was(tmp_path):
    process = torchrun(1, "--max-restarts", "1", "-m", "tsslbp", *LONG, cwd=tmp_path)
    until((tmp_path / "runs/custom/checkpoint.pt").exists, process)
    os.kill(workers(process)[0], signal.SIGKILL)
    assert ended(process)[-1].startswith("report: ")
    assert process.returncode == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["custom"]


@pytest.mark.slow
def test_sigterm_stops_all_processes_after_a_checkpoint(tmp_path):
    said, code = killed(2, tmp_path, [*LONG, "--name", "cut"], None, number=signal.SIGTERM)
    assert code != 0
    assert [line for line in said if not line.startswith("epoch ")] == [
        "stopped; go on with: torchrun --nproc-per-node 2 -m tsslbp train --config runs/cut/config.toml --resume"
    ]


@pytest.mark.slow
def test_what_one_node_lacks_is_said_once(tmp_path):
    """Every process in a folder of its own, as on nodes without a shared file system."""
    rows = [f"{number % 7 / 7},{number % 5 / 5},{'even' if number % 2 == 0 else 'odd'}" for number in range(60)]
    for number in range(2):
        (tmp_path / f"node{number}").mkdir()
    (tmp_path / "node0/own.csv").write_text("\n".join(["one,two,label", *rows]) + "\n")
    command = ["train", "--data", "own.csv", "--epochs", "1"]
    in_folder = ["bash", "-c", 'cd node$RANK && exec "$0" -m tsslbp "$@"', sys.executable, *command]
    process = torchrun(2, "--no-python", *in_folder, cwd=tmp_path)
    (line,) = ended(process)
    assert process.returncode != 0
    assert "process 1 on " in line
    assert "own.csv" in line
    (tmp_path / "node1/own.csv").write_text((tmp_path / "node0/own.csv").read_text().replace("0.2", "0.3", 1))
    (line,) = ended(torchrun(2, "--no-python", *in_folder, cwd=tmp_path))
    assert line == "tsslbp: process 1 has other settings or samples than process 0; give every node the same files"
    shutil.copy(tmp_path / "node0/own.csv", tmp_path / "node1/own.csv")
    assert ended(torchrun(2, "--no-python", *in_folder, cwd=tmp_path))[-1].startswith("report: ")
    assert not (tmp_path / "node1/runs").exists()


@pytest.mark.slow
def test_bad_input_is_said_once(tmp_path):
    for arguments, expected in (
        (["train", "--epochs", "0"], "tsslbp: --epochs is 0; it must be positive"),
        (["rules"], "tsslbp: torchrun is for tsslbp train; start tsslbp rules without it"),
        (["train", "--learning-rate", "1e38", "--weight-clamp", "0"], "tsslbp: training diverged in epoch 1, step 2"),
    ):
        process = torchrun(2, "-m", "tsslbp", *arguments, cwd=tmp_path)
        (line,) = [text for text in ended(process) if text.startswith("tsslbp: ")]
        assert line.startswith(expected)
        assert process.returncode != 0


@pytest.mark.slow
def test_a_full_disk_ends_the_job_in_one_line_and_keeps_the_checkpoint(tmp_path):
    """Of files that may have no more than so many bytes; the largest is the checkpoint's."""
    constant = [*TRAIN, "--schedule", "constant"]  # under another schedule the number of epochs must stay
    process = torchrun(2, "-m", "tsslbp", *constant, "--epochs", "2", "--name", "cut", cwd=tmp_path)
    ended(process)
    whole = (tmp_path / "runs/cut/checkpoint.pt").read_bytes()
    limited = f'ulimit -f {len(whole) // 1024 // 2}; exec "$0" -m tsslbp "$@"'
    resume = [*constant, "--epochs", "3", "--name", "cut", "--resume"]
    process = torchrun(2, "--no-python", "bash", "-c", limited, sys.executable, *resume, cwd=tmp_path)
    (line,) = [text for text in ended(process) if text.startswith("tsslbp: ")]
    assert line.startswith("tsslbp: cannot write runs/cut/checkpoint.pt")
    assert (tmp_path / "runs/cut/checkpoint.pt").read_bytes() == whole
    assert json.loads((tmp_path / "runs/cut/metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
