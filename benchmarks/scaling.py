"""What a second process is worth: python benchmarks/scaling.py RECIPE [DATA_ROOT]

Two processes of one thread each train the recipe in one job, each on half of every batch. Against them stand two processes that
run side by side and know nothing of each other, each with half the batch size. Both take turns, and the ratio of their samples
per second says what working together costs: 1 is nothing. How long a step waits for sums and their bytes are told as well, and
what the ratio would be if nothing but the slower of both processes were waited for in each step.

With ``early`` for the recipe, one job trains a wide network, whose gradients are added up after the backward pass and during it
by turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tsslbp import machine, processes, recipes, training
from tsslbp.settings import TrainConfig
from tsslbp.tables import markdown
from tsslbp.training import reduction

ROUNDS, SECONDS, WARM_UP, COUNT = 3, 8.0, 5, 2
WIDE, TURNS, STEPS = "2000-2000-10", 14, 15
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(COUNT)]


def work(recipe: str, data_root: str) -> None:
    """Train for a while; the leading process prints samples per second, and milliseconds and bytes that a step adds up."""
    machine.keep_memory()
    spent, adding = [0.0, 0], processes.Group.adding

    def timed(group: processes.Group, x: torch.Tensor) -> Callable[[], torch.Tensor]:
        wait = adding(group, x)
        spent[1] += x.numel() * x.element_size()

        def waited() -> torch.Tensor:
            began = time.perf_counter()
            wait()
            spent[0] += time.perf_counter() - began
            return x

        return waited

    with processes.joined() as group:
        config = replace(recipes.get(recipe), data_root=Path(data_root), precision="float32")
        config = replace(config, batch_size=config.batch_size // COUNT * group.count)
        config, dataset = training.with_data(config)
        model, optimizer = training.prepare(config, dataset)
        loop = training.Loop(config, dataset, model, optimizer, training.RunState(), training.Progress(), lambda: None)
        samples = torch.arange(config.batch_size)
        for _ in range(WARM_UP):
            loop.step(samples)
        processes.Group.adding = timed  # type: ignore[method-assign]
        began, cpu, times, going = time.perf_counter(), time.thread_time(), list[float](), True
        while going:
            start = time.perf_counter()
            loop.step(samples)
            times.append(time.perf_counter() - start)
            going = float(adding(group, torch.tensor(time.perf_counter() - began))()) / group.count < SECONDS
        seconds, cpu, steps = time.perf_counter() - began, time.thread_time() - cpu, len(times)
        if group.leads:
            found = {"speed": steps * len(samples) / seconds, "ms": 1000 * spent[0] / steps, "bytes": spent[1] / steps}
            print(json.dumps(found | {"step_ms": 1000 * seconds / steps, "cpu_ms": 1000 * cpu / steps, "times": times}))


def work_early(data_root: str) -> None:
    """Steps with all sums after the backward pass and with the large ones during it take turns; print milliseconds of both."""
    machine.keep_memory()
    with processes.joined() as group:
        config = TrainConfig(data="mnist", data_root=Path(data_root), network=WIDE, batch_size=100, precision="float32")
        config, dataset = training.with_data(config)
        model, optimizer = training.prepare(config, dataset)
        found: dict[str, list[float]] = {"after": [], "during": []}
        loops = {}
        for name, large in (("after", 2**40), ("during", reduction.LARGE)):
            reduction.LARGE = large
            loops[name] = training.Loop(
                config, dataset, model, optimizer, training.RunState(), training.Progress(), lambda: None
            )
            loops[name].step(torch.arange(config.batch_size))
        for turn in range(TURNS):
            for name in sorted(loops, reverse=bool(turn % 2)):
                group.add_(torch.zeros(()))
                began = time.perf_counter()
                for _ in range(STEPS):
                    loops[name].step(torch.arange(config.batch_size))
                found[name].append(1000 * (time.perf_counter() - began) / STEPS)
        if group.leads:
            size = sum(weight.numel() * weight.element_size() for weight in model.network.parameters())
            print(json.dumps({**found, "bytes": size}))


def started(command: list[str], recipe: str, data_root: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, __file__, "--early" if recipe == "early" else "--work", recipe, data_root]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process has failed: {process.args}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def measured(recipe: str, data_root: str) -> dict[str, Any]:
    """Medians over rounds."""
    together, alone, waiting, cpus = [], [], [], []
    for _ in range(ROUNDS):
        together.append(result(started(TORCHRUN, recipe, data_root)))
        both = [result(process) for process in [started([sys.executable], recipe, data_root) for _ in range(COUNT)]]
        alone.append(sum(found["speed"] for found in both))
        cpus += [found["cpu_ms"] for found in both]
        steps = list(zip(*(found["times"] for found in both), strict=False))
        waiting.append(sum(map(sum, steps)) / COUNT / sum(map(max, steps)))
    job = {name: statistics.median(found[name] for found in together) for name in together[0] if name != "times"}
    ratio = statistics.median(found["speed"] / speed for found, speed in zip(together, alone, strict=True))
    found = {"side by side": alone, "waiting": waiting, "alone_cpu_ms": cpus}
    return {**job, "ratio": ratio, **{name: statistics.median(each) for name, each in found.items()}}


def early(data_root: str) -> None:
    found = result(started(TORCHRUN, "early", data_root))
    ratio = statistics.median(after / during for after, during in zip(found["after"], found["during"], strict=True))
    rows = [
        [f"a step, sums {name} the backward pass, ms", f"{statistics.median(found[name]):.1f}"] for name in ("after", "during")
    ]
    rows += [["ratio, by turns", f"{ratio:.2f}"], ["added up in a step, MB", f"{found['bytes'] / 1e6:.1f}"]]
    print(markdown([WIDE, ""], rows))


def main(recipe: str, data_root: str = "data") -> None:
    if recipe == "early":
        early(data_root)
        return
    found = measured(recipe, data_root)
    rows = [
        ["samples/s, two processes in one job", f"{found['speed']:.0f}"],
        ["samples/s, two side by side", f"{found['side by side']:.0f}"],
        ["ratio", f"{found['ratio']:.2f}"],
        ["ratio if only the slower one were waited for", f"{found['waiting']:.2f}"],
        ["a step, ms", f"{found['step_ms']:.2f}"],
        ["of it computing, ms of the main thread", f"{found['cpu_ms']:.2f}"],
        ["the same side by side, ms", f"{found['alone_cpu_ms']:.2f}"],
        ["of it waiting for sums, ms", f"{found['ms']:.2f}"],
        ["added up in a step, kB", f"{found['bytes'] / 1000:.0f}"],
    ]
    print(markdown([recipe, ""], rows))


if __name__ == "__main__":
    if sys.argv[1] == "--early":
        work_early(sys.argv[3])
    elif sys.argv[1] == "--work":
        work(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
