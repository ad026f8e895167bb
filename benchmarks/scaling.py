"""What a second process is worth: python benchmarks/scaling.py RECIPE [DATA_ROOT]

Two processes of one thread each train the recipe, each on half of every batch. By turns, they work together for some steps and
side by side for as many, each by itself on as many samples. The ratio of their samples per second says what working together
costs: 1 is nothing. How long a step waits for sums and their bytes are told as well, and what the ratio would be if nothing but
the slower of both processes were waited for in each step.

With ``early`` for the recipe, the processes train a wide network together, whose gradients are added up after the backward pass
and during it by turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import training
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed, machine
from tsslbp.utils.tables import markdown

COUNT, WIDE, TURNS, STEPS = 2, "2000-2000-10", 14, 15
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(COUNT)]


def work(recipe: str, data_root: str) -> None:
    """Train by turns together and side by side; the leading process prints what was measured."""
    machine.keep_memory()
    waited, added, adding = 0.0, 0, distributed.Group.all_reduce_async

    def timed(group: distributed.Group, x: torch.Tensor) -> Callable[[], torch.Tensor]:
        nonlocal added
        wait = adding(group, x)
        added += x.numel() * x.element_size() * (group.world_size > 1)

        def done() -> torch.Tensor:
            nonlocal waited
            began = time.perf_counter()
            wait()
            waited += time.perf_counter() - began
            return x

        return done

    with distributed.joined() as group:
        config = replace(recipes.get(recipe), data_root=Path(data_root), precision="float32")
        config, dataset = training.with_data(config)
        model, optimizer = training.prepare(config, dataset)

        def loop() -> training.Loop:
            return training.Loop(config, dataset, model, optimizer)

        samples = torch.arange(config.batch_size)
        ways: list[tuple[Callable[[], Any], training.Loop, torch.Tensor]] = [(nullcontext, loop(), samples)]
        with distributed.alone():
            ways.append((distributed.alone, loop(), samples[: len(samples) // group.world_size]))
        # wall clock, processor of the main thread and of all others; together and alone
        times = torch.zeros(3, 2, group.world_size, TURNS, STEPS, dtype=torch.float64)
        for turn in range(-1, TURNS):  # the first one warms up
            if turn == 0:
                distributed.Group.all_reduce_async = timed  # type: ignore[method-assign]
            for way, (context, trained, part) in enumerate(ways):
                adding(group, torch.zeros(()))()  # both begin at the same time
                for step in range(STEPS):
                    before = clocks()
                    with context():
                        trained.step(part)
                    times[:, way, group.rank, turn, step] = clocks() - before
        distributed.Group.all_reduce_async = adding  # type: ignore[method-assign]
        (together, alone), main, others = 1000 * group.all_reduce_(times)
        if group.leads:
            whole, apart = together.mean(0).sum(-1), 1 / (1 / alone.sum(-1)).mean(0)  # for as many samples
            found = {
                "ratio": apart / whole,
                "ratio if only the slower one were waited for": apart / alone.amax(0).sum(-1),
                "a step, ms": whole / STEPS,
                "of it computing, ms of the main thread": main[0].mean((0, 2)),
                "the same side by side, ms": main[1].mean((0, 2)),
                "computing of all other threads, ms": others[0].mean((0, 2)),
            }
            each = {name: values.median().item() for name, values in found.items()}
            each["of it waiting for sums, ms"] = 1000 * waited / TURNS / STEPS
            print(json.dumps(each | {"added up in a step, kB": added / 1000 / TURNS / STEPS}))


def clocks() -> torch.Tensor:
    """Seconds by the wall clock, of the processor for this thread, and for all other threads of this process."""
    own = time.thread_time()
    return torch.tensor([time.perf_counter(), own, time.process_time() - own], dtype=torch.float64)


def work_early(data_root: str) -> None:
    """Steps with all sums after the backward pass and with the large ones during it take turns; print milliseconds of both."""
    machine.keep_memory()
    with distributed.joined() as group:
        config = TrainConfig(data="mnist", data_root=Path(data_root), network=WIDE, batch_size=100, precision="float32")
        config, dataset = training.with_data(config)
        found: dict[str, list[float]] = {"after": [], "during": []}
        loops = {}
        for name, large in (("after", 2**40), ("during", distributed.LARGE)):
            distributed.LARGE = large
            model, optimizer = training.prepare(config, dataset)  # of its own, as a network keeps how it is computed
            loops[name] = training.Loop(config, dataset, model, optimizer)
            loops[name].step(torch.arange(config.batch_size))
        for turn in range(TURNS):
            for name in sorted(loops, reverse=bool(turn % 2)):
                group.all_reduce_(torch.zeros(()))
                began = time.perf_counter()
                for _ in range(STEPS):
                    loops[name].step(torch.arange(config.batch_size))
                found[name].append(1000 * (time.perf_counter() - began) / STEPS)
        if group.leads:
            size = sum(weight.numel() * weight.element_size() for weight in model.network.parameters())
            print(json.dumps({**found, "bytes": size}))


def result(recipe: str, data_root: str) -> dict[str, Any]:
    """What the leading process of a job has printed."""
    words = [*TORCHRUN, __file__, "--early" if recipe == "early" else "--work", recipe, data_root]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def early(data_root: str) -> None:
    found = result("early", data_root)
    ratio = statistics.median(after / during for after, during in zip(found["after"], found["during"], strict=True))
    rows = [
        [f"a step, sums {name} the backward pass, ms", f"{statistics.median(found[name]):.1f}"] for name in ("after", "during")
    ]
    rows += [["ratio, by turns", f"{ratio:.2f}"], ["added up in a step, MB", f"{found['bytes'] / 1e6:.1f}"]]
    print(markdown([WIDE, ""], rows))


def main(recipe: str, data_root: str = "data") -> None:
    config = TrainConfig(data="mnist") if recipe == "early" else recipes.get(recipe)
    training.with_data(replace(config, data_root=Path(data_root)))  # finds missing data before two processes do
    if recipe == "early":
        early(data_root)
    else:
        print(markdown([recipe, ""], [[name, f"{value:.2f}"] for name, value in result(recipe, data_root).items()]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--early"]:
        work_early(sys.argv[3])
    elif sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        command.run(main, __doc__)
