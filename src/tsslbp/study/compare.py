"""The same network, data, initial weights, order of samples and budget under several learning rules, and as ANNs."""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, cast

import torch

from tsslbp import data, machine, rules, training
from tsslbp.bench.measure import interleaved, peak_growth
from tsslbp.config import TrainConfig
from tsslbp.errors import UserError, unknown
from tsslbp.study.activity import AC_PJ, MAC_PJ, measure
from tsslbp.study.runs import Watch, finished, folder_name, need_validation, seeds_from

ANNS = ("binary", "relu")
"""Entries that are no rules: the same network without spikes (``ann.py``)."""
PER_RUN = (
    "name",
    "runs_dir",
    "resume",
    "seed",
    "data_root",
    "download",
    "neuron",
    "rule",
    "loss",
    "rate_penalty",
    "learning_rate",
)
"""Settings that runs do not share, or that do not matter."""
SECONDS = 3.0
"""Time for measuring each entry's training step."""


def contestants(config: TrainConfig, entries: Sequence[str]) -> dict[str, TrainConfig]:
    """Settings by entry (as :func:`rules.spec` writes it), alike but for the rule; an ANN learns by softmax.

    Args:
        config: what they have in common.
        entries: rules as ``--rule`` takes them, ``"binary"`` and ``"relu"``.

    Raises:
        UserError: none, an unknown one, or one named twice.
    """
    made: dict[str, TrainConfig] = {}
    for entry in entries:
        known = (*rules.available(), *ANNS)
        if (name := entry.split("(")[0].strip()) not in known:
            raise unknown("rule", name, known)
        if entry in ANNS:
            neuron = cast(Literal["binary", "relu"], entry)
            label, settings = entry, replace(config, neuron=neuron, loss="softmax", rate_penalty=0.0)
        else:
            label = rules.spec(rules.get(entry))
            settings = replace(config, neuron="spiking", rule=label)
        if label in made:
            raise UserError(f"{label} is named twice; name every rule once")
        made[label] = training.settled(settings)
    if not made:
        raise UserError("no rule to compare; name some, such as: tssl,surrogate")
    return made


def compare(
    config: TrainConfig,
    entries: Sequence[str],
    *,
    seeds: int,
    target: float | None = None,
    rates: Sequence[float] = (),
    tuning_epochs: int | None = None,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train under every rule with every seed, and measure.

    Every run is an ordinary one, in ``RUNS_DIR/compare-NAME``. What is there already is used, or gone on with.

    Args:
        config: settings; ``seed`` is the first seed.
        entries: see :func:`contestants`.
        seeds: how many seeds, from 1.
        target: validation accuracy in percent, to tell how soon it is reached; if left out the mean best one of the worst rule.
        rates: learning rates to choose from, for each rule on its own, by validation accuracy, with a seed of its own.
        tuning_epochs: epochs of each run that tries a rate; those of ``config`` if left out.
        watch: gives who watches a run, by the run's name.

    Returns:
        Settings, machine, and by rule: the records of its runs, their ``mean`` and ``sd``, and what a training step takes.

    Raises:
        UserError: bad settings, or runs that were started with other settings; training that diverged.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    numbers = seeds_from(config.seed, seeds)
    if target is not None and not 0 < target <= 100:
        raise UserError(f"--to is {target}; it must be a percentage above 0")
    need_validation(config)
    folder = config.runs_dir / f"compare-{config.name or config.recipe}"
    settings = contestants(replace(config, runs_dir=folder), entries)
    tuning: dict[str, list[dict[str, Any]]] = {}
    if rates:
        trial = replace(config, seed=config.seed + seeds, epochs=config.epochs if tuning_epochs is None else tuning_epochs)
        for label, s in settings.items():
            tuning[label] = _tried(label, replace(s, seed=trial.seed, epochs=trial.epochs), rates, watch)
        settings = {label: replace(s, learning_rate=_best_rate(label, tuning[label])) for label, s in settings.items()}

    runs: dict[str, list[Path]] = {label: [] for label in settings}
    for seed in numbers:  # rules in turns, so that what else the machine does touches all alike
        for label, s in settings.items():
            runs[label].append(finished(replace(s, seed=seed, name=f"{folder_name(label)}-seed{seed}"), watch))

    common = next(iter(settings.values()))
    dataset = training.load_data(common)
    made = {label: [_record(path, dataset) for path in paths] for label, paths in runs.items()}
    worst = min(statistics.fmean(run["validation_accuracy"] for run in records) for records in made.values())
    step_ms = interleaved({label: _step(s, dataset) for label, s in settings.items()}, SECONDS * len(settings))
    return {
        "name": folder.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "settings": {f.name: getattr(common, f.name) for f in fields(config) if f.name not in PER_RUN},
        "seeds": list(numbers),
        "trains": dataset.trains,
        "samples": {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)},
        "target": {"validation_accuracy": worst if target is None else target, "given": target is not None},
        "picojoules": {"mac": MAC_PJ, "ac": AC_PJ},
        "tuning": {"rates": list(rates), "epochs": trial.epochs, "seed": trial.seed} if rates else None,
        "rules": {
            label: {
                "learning_rate": s.learning_rate,
                "loss": s.loss,
                "tried": tuning.get(label, []),
                **_summary(made[label], worst if target is None else target),
                "step_ms": step_ms[label],
                "peak_mib": _peak_memory(s),
            }
            for label, s in settings.items()
        },
    }


def _tried(label: str, config: TrainConfig, rates: Sequence[float], watch: Watch) -> list[dict[str, Any]]:
    """Validation accuracy by learning rate; None where training diverged."""
    tried = []
    for rate in rates:
        run = replace(config, learning_rate=rate, name=f"{folder_name(label)}-rate{rate:g}")
        try:
            _, final = training.read_metrics(finished(run, watch))
            accuracy = None if final is None else final["validation_accuracy"]
        except training.Diverged:
            accuracy = None
        tried.append({"learning_rate": rate, "validation_accuracy": accuracy})
    return tried


def _best_rate(label: str, tried: list[dict[str, Any]]) -> float:
    """Of equally good ones the first."""
    stable = [trial for trial in tried if trial["validation_accuracy"] is not None]
    if not stable:
        raise UserError(f"{label} diverged at every learning rate of --tune; add lower ones")
    return float(max(stable, key=lambda trial: trial["validation_accuracy"])["learning_rate"])


def _record(folder: Path, dataset: data.Dataset) -> dict[str, Any]:
    """What a finished run did."""
    history, final = training.read_metrics(folder)
    assert final is not None
    activity = measure(training.load(folder), dataset.test)
    curves = {key: [record[key] for record in history] for key in ("validation_accuracy", "test_accuracy", "seconds")}
    kept = ("test_accuracy", "best_epoch", "validation_accuracy", "best_test_accuracy", "best_test_epoch", "epochs", "seconds")
    return {key: final[key] for key in kept} | asdict(activity) | {"energy_nj": activity.energy_nj, "curves": curves}


def _summary(runs: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """The runs with the epoch and second they reach the target at, None if never, and mean and sd over the seeds."""
    rows = []
    for run in runs:
        curves = run["curves"]
        epoch = next((i for i, accuracy in enumerate(curves["validation_accuracy"]) if accuracy >= target - 1e-9), None)
        reached: dict[str, Any] = {"epochs_to_target": None, "seconds_to_target": None}
        if epoch is not None:
            reached = {"epochs_to_target": epoch + 1, "seconds_to_target": curves["seconds"][epoch]}
        rows.append(run | reached)
    numbers = {key: [row[key] for row in rows if row[key] is not None] for key in rows[0] if key != "curves"}
    return {
        "runs": rows,
        "mean": {key: statistics.fmean(values) if values else None for key, values in numbers.items()},
        "sd": {key: statistics.stdev(values) if len(values) > 1 else None for key, values in numbers.items()},
    }


def _step(config: TrainConfig, dataset: data.Dataset) -> Callable[[], None]:
    """A training step, ready to be called again and again."""
    model, optimizer = training.prepare(config, dataset)
    loop = training.Loop(config, dataset, model, optimizer, training.State(), training.Progress(), lambda: None)
    return partial(loop.step, torch.arange(min(config.batch_size, len(dataset.train))))


def _peak_memory(config: TrainConfig) -> float | None:
    """Mebibytes that a training step adds to a fresh process at its peak; None where only Linux could tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_peak, config).result()


def _peak(config: TrainConfig) -> float:
    machine.keep_memory()
    return peak_growth(_step(config, training.load_data(config)))
