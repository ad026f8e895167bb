"""The cost of a training step: a function to time, and its peak memory."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context

import torch

from tsslbp import data, imports, machine, training
from tsslbp.bench.measure import CLEAR, peak_growth
from tsslbp.settings import TrainConfig


def step(config: TrainConfig, dataset: data.Dataset) -> Callable[[], None]:
    """A training step, ready to be called again and again."""
    model, optimizer = training.prepare(config, dataset)
    model, dataset = model.filtered(dataset)  # as a run does, once before its first step
    loop = training.Loop(config, dataset, model, optimizer)
    return partial(loop.step, torch.arange(min(config.batch_size, len(dataset.train))))


def peak_memory(config: TrainConfig) -> float | None:
    """Mebibytes that a training step adds to a fresh process at its peak; None if this is not Linux, or that process dies."""
    if not CLEAR.exists():
        return None
    with ProcessPoolExecutor(1, get_context("spawn"), imports.take, (imports.paths(),)) as fresh:
        try:
            return fresh.submit(_peak, config).result()
        except BrokenProcessPool:
            return None


def _peak(config: TrainConfig) -> float:
    machine.keep_memory()
    return peak_growth(step(*training.with_data(config)))
