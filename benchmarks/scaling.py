"""What a second process is worth: python benchmarks/scaling.py RECIPE [DATA_ROOT]

Two processes of one thread each train the recipe in one job, each on half of every batch. Against them stand two processes that
run side by side and know nothing of each other, each with half the batch size. Both take turns, and the ratio of their samples
per second says what working together costs: 1 is nothing. How long a step waits for sums and their bytes are told as well, and
what the ratio would be if nothing but the slower of both processes were waited for in each step.
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
from tsslbp.tables import markdown

ROUNDS, SECONDS, WARM_UP, COUNT = 3, 8.0, 5, 2
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
        began, times, going = time.perf_counter(), list[float](), True
        while going:
            start = time.perf_counter()
            loop.step(samples)
            times.append(time.perf_counter() - start)
            going = float(adding(group, torch.tensor(time.perf_counter() - began))()) / group.count < SECONDS
        seconds, steps = time.perf_counter() - began, len(times)
        if group.leads:
            found = {"speed": steps * len(samples) / seconds, "ms": 1000 * spent[0] / steps, "bytes": spent[1] / steps}
            print(json.dumps(found | {"step_ms": 1000 * seconds / steps, "times": times}))


def started(command: list[str], recipe: str, data_root: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, __file__, "--work", recipe, data_root]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process has failed: {process.args}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def measured(recipe: str, data_root: str) -> dict[str, Any]:
    """Medians over rounds."""
    together, alone, waiting = [], [], []
    for _ in range(ROUNDS):
        together.append(result(started(TORCHRUN, recipe, data_root)))
        both = [result(process) for process in [started([sys.executable], recipe, data_root) for _ in range(COUNT)]]
        alone.append(sum(found["speed"] for found in both))
        steps = list(zip(*(found["times"] for found in both), strict=False))
        waiting.append(sum(map(sum, steps)) / COUNT / sum(map(max, steps)))
    job = {name: statistics.median(found[name] for found in together) for name in together[0] if name != "times"}
    ratio = statistics.median(found["speed"] / speed for found, speed in zip(together, alone, strict=True))
    return {**job, "side by side": statistics.median(alone), "ratio": ratio, "waiting": statistics.median(waiting)}


def main(recipe: str, data_root: str = "data") -> None:
    found = measured(recipe, data_root)
    rows = [
        ["samples/s, two processes in one job", f"{found['speed']:.0f}"],
        ["samples/s, two side by side", f"{found['side by side']:.0f}"],
        ["ratio", f"{found['ratio']:.2f}"],
        ["ratio if only the slower one were waited for", f"{found['waiting']:.2f}"],
        ["a step, ms", f"{found['step_ms']:.2f}"],
        ["of it waiting for sums, ms", f"{found['ms']:.2f}"],
        ["added up in a step, kB", f"{found['bytes'] / 1000:.0f}"],
    ]
    print(markdown([recipe, ""], rows))


if __name__ == "__main__":
    work(*sys.argv[2:]) if sys.argv[1] == "--work" else main(*sys.argv[1:])
