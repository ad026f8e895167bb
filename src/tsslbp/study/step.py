"""The cost of a training step: a function to time, and its peak memory."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from types import ModuleType

import torch

from tsslbp import data, training
from tsslbp.bench.measure import CLEAR, peak_growth
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import imports, machine
from tsslbp.utils.errors import UserError


def step(config: TrainConfig, dataset: data.Dataset) -> Callable[[], None]:
    """A training step, ready to be called again and again."""
    model, optimizer = training.prepare(config, dataset)
    model, dataset = model.filtered(dataset)  # as a run does, once before its first step
    loop = training.Loop(config, dataset, model, optimizer)
    return partial(loop.step, torch.arange(min(config.batch_size, len(dataset.train))))


def peak_memory(config: TrainConfig) -> float | None:
    """Mebibytes that a training step adds to a fresh process at its peak; None if this is not Linux, that process dies, or it
    does not find what the caller's own code defines."""
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, get_context("spawn"), imports.take, (imports.paths(),)) as fresh:
        try:
            with _without_main():
                peak = fresh.submit(_peak, config)
            return peak.result()
        except (BrokenProcessPool, UserError):
            return None


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Processes that start inside do not run the caller's script again, which need not be guarded by ``__name__``."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _peak(config: TrainConfig) -> float:
    machine.keep_memory()
    config, dataset = training.with_data(config)
    return peak_growth(step(config, dataset), lambda: step(replace(config, batch_size=2), dataset)())
