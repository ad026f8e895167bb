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

from tsslbp import data, losses, machine, rules, training
from tsslbp.bench.measure import interleaved, peak_growth
from tsslbp.config import TrainConfig
from tsslbp.errors import UserError, unknown
from tsslbp.spec import parse_spec
from tsslbp.study.activity import AC_PJ, MAC_PJ, measure
from tsslbp.study.paired import differences
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
FURTHER = 4
"""How many learning rates outside of the given ones are tried at most."""


def contestants(config: TrainConfig, entries: Sequence[str]) -> dict[str, TrainConfig]:
    """Settings by entry (:func:`label_of`), alike but for the rule. An ANN learns by softmax unless ``config`` says kernel.

    Args:
        config: what they have in common.
        entries: rules as ``--rule`` takes them, ``"binary"`` and ``"relu"``.

    Raises:
        UserError: none, an unknown one, or one named twice.
    """
    made: dict[str, TrainConfig] = {}
    known = (*rules.available(), *ANNS)
    for entry in entries:
        if (name := entry.split("(")[0].strip()) not in known:
            raise unknown("rule", name, known)
        label = label_of(entry)
        if label in ANNS:
            neuron = cast(Literal["binary", "relu"], label)
            loss = config.loss if parse_spec(config.loss, "loss")[0] in losses.ANN else "auto"
            settings = replace(config, neuron=neuron, loss=loss, rate_penalty=0.0)
        else:
            settings = replace(config, neuron="spiking", rule=label)
        if label in made:
            raise UserError(f"{label} is named twice; name every rule once")
        made[label] = training.settled(settings)
    if not made:
        raise UserError("no rule to compare; name some, such as: tssl,surrogate")
    return made


def label_of(entry: str) -> str:
    """An entry as results name it: a rule as :func:`rules.spec` writes it, or an ANN."""
    return entry if entry in ANNS else rules.spec(rules.get(entry))


def compare(
    config: TrainConfig,
    entries: Sequence[str],
    *,
    seeds: int,
    target: float | None = None,
    rates: Sequence[float] = (),
    tuning_epochs: int | None = None,
    tuning_seeds: int = 1,
    against: str | None = None,
    planned: str | None = None,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train under every rule with every seed, and measure.

    Every run is an ordinary one, in ``RUNS_DIR/compare-NAME``. What is there already is used, or gone on with.

    Args:
        config: settings; ``seed`` is the first seed.
        entries: see :func:`contestants`.
        seeds: how many seeds, from 1.
        target: validation accuracy in percent, to tell how soon it is reached; if left out the mean best one of the worst rule.
        rates: learning rates to choose from, for each rule on its own, by validation accuracy, with seeds of their own. Where
            the best one lies at an end, the next ones outward are tried too, at most ``FURTHER``.
        tuning_epochs: epochs of each run that tries a rate; those of ``config`` if left out.
        tuning_seeds: how many runs try each rate.
        against: the entry that all others are compared with, seed by seed.
        planned: the entry whose comparison with ``against`` is the planned one; the others are corrected for their number.
        watch: gives who watches a run, by the run's name.

    Returns:
        Settings, machine, and by rule: the records of its runs, their ``mean`` and ``sd``, and what a training step takes. With
        ``against`` also ``differences`` (``study/paired.py``).

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
    base = None if against is None else _named("--against", against, settings)
    favourite = None if planned is None else _named("--planned", planned, settings)
    if base is not None and seeds < 2:
        raise UserError(f"--seeds is {seeds}; the differences of --against need at least 2, better 10")
    if favourite is not None and base in (None, favourite):
        raise UserError("--planned needs --against, another rule to compare with")
    tuning: dict[str, list[dict[str, Any]]] = {}
    if tuning_seeds < 1:
        raise UserError(f"--tune-seeds is {tuning_seeds}; it must be positive")
    if rates:
        trial_seeds = seeds_from(config.seed + seeds, tuning_seeds)
        trial_epochs = config.epochs if tuning_epochs is None else tuning_epochs
        for label, s in settings.items():
            trials = [replace(s, seed=seed, epochs=trial_epochs) for seed in trial_seeds]
            tuning[label] = _tuned(label, trials, rates, watch)
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
        "tuning": {"rates": list(rates), "epochs": trial_epochs, "seeds": list(trial_seeds)} if rates else None,
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
        "differences": None if base is None else _differences(made, base, favourite),
    }


def _named(flag: str, entry: str, settings: dict[str, TrainConfig]) -> str:
    """The label of an entry that is compared. Raises UserError if it is not."""
    label = label_of(entry) if entry.split("(")[0].strip() in rules.available() else entry
    if label not in settings:
        raise UserError(f"{flag} is {entry}; it must be one of the rules compared: {', '.join(settings)}")
    return label


def _differences(made: dict[str, list[dict[str, Any]]], base: str, planned: str | None) -> dict[str, Any]:
    """Differences in test accuracy from the base, by rule."""
    reached = {label: [run["test_accuracy"] for run in records] for label, records in made.items()}
    found = differences({label: values for label, values in reached.items() if label != base}, reached[base], planned)
    return {"against": base, "planned": planned, "rules": found}


def _tuned(label: str, trials: list[TrainConfig], rates: Sequence[float], watch: Watch) -> list[dict[str, Any]]:
    """Validation accuracy by learning rate, the mean of the trials; None where one diverged. The best lies inside, if it can.

    Rates beyond an end keep the ratio of the last two.
    """
    tried = {rate: _tried(label, trials, rate, watch) for rate in sorted(rates)}
    for _ in range(FURTHER):
        order = sorted(tried)
        stable = [rate for rate in order if tried[rate] is not None]
        best = _best_rate(label, _listed(tried)) if stable else order[0]
        if len(order) < 2 or best not in (order[0], order[-1]):
            break
        inward = order[1] if best == order[0] else order[-2]
        further = float(f"{best * best / inward:.1e}")
        tried[further] = _tried(label, trials, further, watch)
    return _listed(tried)


def _listed(tried: dict[float, float | None]) -> list[dict[str, Any]]:
    return [{"learning_rate": rate, "validation_accuracy": tried[rate]} for rate in sorted(tried)]


def _tried(label: str, trials: list[TrainConfig], rate: float, watch: Watch) -> float | None:
    """Mean validation accuracy of runs at a learning rate; None if one diverged."""
    reached = []
    for trial in trials:
        name = f"{folder_name(label)}-rate{rate:g}" + (f"-{trial.seed}" if len(trials) > 1 else "")
        try:
            _, final = training.read_metrics(finished(replace(trial, learning_rate=rate, name=name), watch))
        except training.Diverged:
            return None
        assert final is not None
        reached.append(final["validation_accuracy"])
    return statistics.fmean(reached)


def _best_rate(label: str, tried: list[dict[str, Any]]) -> float:
    """Of equally good ones the one in the middle."""
    stable = [trial for trial in tried if trial["validation_accuracy"] is not None]
    if not stable:
        raise UserError(f"{label} diverged at every learning rate of --tune; add lower ones")
    best = max(trial["validation_accuracy"] for trial in stable)
    equal = [float(trial["learning_rate"]) for trial in stable if trial["validation_accuracy"] == best]
    return equal[(len(equal) - 1) // 2]


def _record(folder: Path, dataset: data.Dataset) -> dict[str, Any]:
    """What a finished run did."""
    history, final = training.read_metrics(folder)
    assert final is not None
    activity = measure(training.load(folder), dataset.test)
    curves = {key: [record[key] for record in history] for key in ("validation_accuracy", "test_accuracy", "seconds")}
    kept = ("test_accuracy", "best_epoch", "validation_accuracy", "best_test_accuracy", "best_test_epoch", "epochs", "seconds")
    energy = {"energy_nj": activity.energy_nj, "dense_nj": activity.dense_nj}
    return {key: final[key] for key in kept} | asdict(activity) | energy | {"curves": curves}


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
