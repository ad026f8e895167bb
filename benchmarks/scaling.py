"""What a second process is worth: python benchmarks/scaling.py RECIPE [DATA_ROOT]

Two processes of one thread each train the recipe in one job, each on half of every batch. Against them stand two processes that
run side by side and know nothing of each other, each with half the batch size. Both take turns, and the ratio of their samples
per second says what working together costs: 1 is nothing. The time and the bytes of adding up gradients are told as well.
"""

import json
import os
import statistics
import subprocess
import sys
import time
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
    spent, add = [0.0, 0], processes.Group.add_

    def timed(group: processes.Group, x: torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        add(group, x)
        spent[0] += time.perf_counter() - began
        spent[1] += x.numel() * x.element_size()
        return x

    with processes.joined() as group:
        config = replace(recipes.get(recipe), data_root=Path(data_root), precision="float32")
        config = replace(config, batch_size=config.batch_size // COUNT * group.count)
        config, dataset = training.with_data(config)
        model, optimizer = training.prepare(config, dataset)
        loop = training.Loop(config, dataset, model, optimizer, training.RunState(), training.Progress(), lambda: None)
        samples = torch.arange(config.batch_size)
        for _ in range(WARM_UP):
            loop.step(samples)
        processes.Group.add_ = timed  # type: ignore[method-assign]
        began, steps, going = time.perf_counter(), 0, True
        while going:
            loop.step(samples)
            steps += 1
            going = float(add(group, torch.tensor(time.perf_counter() - began))) / group.count < SECONDS
        seconds = time.perf_counter() - began
        if group.leads:
            found = {"speed": steps * len(samples) / seconds, "ms": 1000 * spent[0] / steps, "bytes": spent[1] / steps}
            print(json.dumps(found | {"step_ms": 1000 * seconds / steps}))


def started(command: list[str], recipe: str, data_root: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*command, __file__, "--work", recipe, data_root]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result(process: "subprocess.Popen[str]") -> dict[str, float]:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a process has failed: {process.args}")
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def measured(recipe: str, data_root: str) -> dict[str, Any]:
    """Medians over rounds."""
    together, alone = [], []
    for _ in range(ROUNDS):
        together.append(result(started(TORCHRUN, recipe, data_root)))
        both = [started([sys.executable], recipe, data_root) for _ in range(COUNT)]
        alone.append(sum(result(process)["speed"] for process in both))
    job = {name: statistics.median(found[name] for found in together) for name in together[0]}
    ratio = statistics.median(found["speed"] / speed for found, speed in zip(together, alone, strict=True))
    return {**job, "side by side": statistics.median(alone), "ratio": ratio}


def main(recipe: str, data_root: str = "data") -> None:
    found = measured(recipe, data_root)
    rows = [
        ["samples/s, two processes in one job", f"{found['speed']:.0f}"],
        ["samples/s, two side by side", f"{found['side by side']:.0f}"],
        ["ratio", f"{found['ratio']:.2f}"],
        ["a step, ms", f"{found['step_ms']:.2f}"],
        ["of it adding up, ms", f"{found['ms']:.2f}"],
        ["added up in a step, kB", f"{found['bytes'] / 1000:.0f}"],
    ]
    print(markdown([recipe, ""], rows))


if __name__ == "__main__":
    work(*sys.argv[2:]) if sys.argv[1] == "--work" else main(*sys.argv[1:])
