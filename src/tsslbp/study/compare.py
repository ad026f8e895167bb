"""Trains a network under several learning rules and as ANNs, with the same data, initial weights, order and budget."""

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from tsslbp import data, losses, rules, training
from tsslbp.bench.measure import interleaved
from tsslbp.network.architecture import NO_ANN
from tsslbp.network.notation import RecurrentSpec, contains
from tsslbp.report.page import Result
from tsslbp.study.activity import AC_PJ, MAC_PJ, measure
from tsslbp.study.base import training_settings
from tsslbp.study.paired import differences
from tsslbp.study.runs import (
    Watch,
    as_json,
    check_models,
    need_validation,
    run_name,
    seeds_from,
    settled,
    trained,
    with_validation,
)
from tsslbp.study.step import peak_memory, step
from tsslbp.study.tuning import Tuning
from tsslbp.training.settings import LONGEST_NAME, Place, TrainConfig
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.fields import kinds_of
from tsslbp.utils.spec import name_of

ANNS = ("binary", "relu")
"""Entries that are no rules: the same network without spikes (``ann.py``)."""
PREFIX = "compare-"
"""Begins the name of a comparison's folder."""
UNTUNED = Tuning()
SECONDS = 3.0
"""Time for measuring each entry's training step."""


@dataclass(frozen=True, kw_only=True)
class Compare(TrainConfig):
    """Train the same network under several rules: same data, initial weights, order of samples and budget."""

    rules: str = ""
    """Rules to compare, with commas between them. binary and relu train the same network as an ANN. Default:
    tssl,surrogate,binary,relu; for a recurrent network, which no ANN has, tssl,surrogate."""
    seeds: int = 3
    """Number of runs of every rule, with consecutive seeds that begin with --seed."""
    to: float | None = None
    """Validation accuracy in percent; the table says how long each rule takes to reach it. Default: the mean best accuracy of
    the worst rule."""
    tune: str = ""
    """How many trials of learning rate, loss, initial weights and the rule's options every rule gets, such as 30; or learning
    rates to try, with commas between them. The best on validation is used. If the best learning rate lies at an end, up to four
    more are tried beyond it."""
    tune_epochs: int | None = None
    """Epochs of a trial. Default: --epochs. After shorter trials of settings, the best are also trained for --epochs, and the
    best of these is used."""
    tune_seeds: int = 1
    """Runs that try each learning rate, or each of the best trials of settings, with seeds after those of the comparison."""
    against: str = ""
    """A rule of --rules that all others are compared with, seed by seed, with intervals, p-values and a correction for their
    number."""
    planned: str = ""
    """The rule whose difference from --against was planned to be tested before the runs; it is not corrected."""
    out: Path | None = None
    """Folder for compare.json and compare.html. Default: RUNS_DIR/compare-NAME."""

    def entries(self) -> list[str]:
        """What is compared; see :func:`contestants`."""
        recurrent = self.network is not None and contains(self.network, RecurrentSpec)
        return split(self.rules) if self.rules else ["tssl", "surrogate", *(() if recurrent else ANNS)]

    def run(self, watch: Watch) -> tuple[Path, Result]:
        """The folder for the result, and the result of :func:`compare`."""
        result = compare(
            training_settings(self),
            self.entries(),
            seeds=self.seeds,
            target=self.to,
            tuning=Tuning.of(self.tune, self.tune_epochs, self.tune_seeds),
            against=self.against or None,
            planned=self.planned or None,
            watch=watch,
        )
        return self.out or self.runs_dir / result["name"], result


def split(text: str) -> list[str]:
    """Rules separated by commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def contestants(config: TrainConfig, entries: Sequence[str]) -> dict[str, TrainConfig]:
    """Settings by entry (:func:`label_of`), which differ in the rule only. An ANN learns by softmax unless ``config`` says
    kernel, and its constants are neither learned nor per neuron.

    Args:
        config: common settings.
        entries: rules as ``--rule`` takes them, ``"binary"`` and ``"relu"``.

    Raises:
        UserError: none, an unknown one, or one named twice.
    """
    made: dict[str, TrainConfig] = {}
    known = (*rules.available(), *ANNS)
    for entry in entries:
        if (name := name_of(entry)) not in known:
            raise unknown("rule", name, known)
        label = label_of(entry)
        if label in ANNS:
            neuron = cast(Literal["binary", "relu"], label)
            loss = config.loss if losses.suits_ann(config.loss) else "auto"
            settings = replace(config, neuron=neuron, loss=loss, rate_penalty=0.0, **NO_ANN)
        else:
            settings = replace(config, neuron="spiking", rule=label)
        if label in made:
            raise UserError(f"{label} is named twice; name every rule once")
        made[label] = settings
    if not made:
        raise UserError("no rule to compare; name some, such as: tssl,surrogate")
    return made


def label_of(entry: str) -> str:
    """Name of an entry in results: a rule as :func:`rules.spec` writes it, or an ANN."""
    return entry if entry in ANNS else rules.spec(rules.get(entry))


def compare(
    config: TrainConfig,
    entries: Sequence[str],
    *,
    seeds: int,
    target: float | None = None,
    tuning: Tuning = UNTUNED,
    against: str | None = None,
    planned: str | None = None,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train under every rule with every seed, and measure.

    Every run is an ordinary one, in ``RUNS_DIR/compare-NAME``. Existing runs are used or continued.

    Args:
        config: settings; ``seed`` is the first seed.
        entries: see :func:`contestants`.
        seeds: how many seeds, from 1.
        target: validation accuracy in percent, to measure when it is reached. Default: the mean best one of the worst rule.
        tuning: how the settings of each rule are chosen, by validation accuracy with separate seeds.
        against: the entry that all others are compared with, seed by seed.
        planned: the entry whose comparison with ``against`` was planned; the others are corrected for their number.
        watch: makes the progress display of a run from its name.

    Returns:
        Settings, machine, and by rule: the records of its runs, their ``mean`` and ``sd``, and the cost of a training step.
        With ``against`` also ``differences`` (``study/paired.py``). Under ``diverged``, what is known by rule of those that
        diverged with one of the seeds; these are left out of the rest.

    Raises:
        UserError: bad settings, or runs that were started with other settings.
        Diverged: every rule diverged, or the one of ``against`` or ``planned``.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    numbers = seeds_from(config.seed, seeds)
    if target is not None and not 0 < target <= 100:
        raise UserError(f"--to is {target}; it must be a percentage above 0, at most 100")
    need_validation(config)
    folder = config.runs_dir / f"{PREFIX}{config.name or config.recipe}"
    if (length := len(folder.name.encode())) > LONGEST_NAME:
        raise UserError(
            f"{PREFIX}NAME, a folder, is {length} bytes long, and {LONGEST_NAME} is the most; choose a shorter --name"
        )
    settings = contestants(settled(replace(config, runs_dir=folder, test_every=1)), entries)
    base, favourite = _tested(against, planned, settings, seeds)
    _, dataset = with_validation(next(iter(settings.values())))
    settings = {label: training.resolved(s, dataset) for label, s in settings.items()}
    bases = {label: tuning.bases(s, seeds) for label, s in settings.items()}
    first = next(iter(bases.values()))
    if tuning:
        tuning.check_folder(folder, first[0])
    check_models(folder / run_name(label, seed) for label in settings for seed in numbers)
    tried: dict[str, list[dict[str, Any]]] = {}
    for label, s in settings.items() if tuning else ():
        tried[label] = tuning.tried(label, bases[label], dataset, config.epochs, watch)
        settings = {**settings, label: replace(s, **tuning.best(label, tried[label]))}
    runs, diverged = trained(settings, numbers, (base, favourite), watch)
    settings = {label: settings[label] for label in runs}

    made = {label: [_record(path, dataset) for path in paths] for label, paths in runs.items()}
    worst = min(statistics.fmean(run["validation_accuracy"] for run in records) for records in made.values())
    step_ms = interleaved({label: step(s, dataset) for label, s in settings.items()}, SECONDS * len(settings))
    return {
        "name": folder.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "settings": _shared(list(settings.values())),
        "seeds": list(numbers),
        "trains": dataset.trains,
        "samples": {"train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)},
        "target": {"validation_accuracy": worst if target is None else target, "given": target is not None},
        "picojoules": {"mac": MAC_PJ, "ac": AC_PJ},
        "tuning": tuning.told(first) if tuning else None,
        "rules": {
            label: {
                "learning_rate": s.learning_rate,
                "loss": s.loss,
                "tried": tried.get(label, []),
                **_summary(made[label], worst if target is None else target),
                "step_ms": step_ms[label],
                "peak_mib": peak_memory(s),
            }
            for label, s in settings.items()
        },
        "diverged": diverged,
        "differences": None if base is None else _differences(made, base, favourite),
    }


def _tested(
    against: str | None, planned: str | None, settings: dict[str, TrainConfig], seeds: int
) -> tuple[str | None, str | None]:
    """Labels of the entries that the others are compared with, and that was planned. Raises UserError if they cannot be."""
    base = None if against is None else _named("--against", against, settings)
    if base is not None and len(settings) == 1:
        raise UserError("--against compares other rules with one of them; add a second one to --rules")
    favourite = None if planned is None else _named("--planned", planned, settings)
    if base is not None and seeds < 2:
        raise UserError(f"--seeds is {seeds}; the differences of --against need at least 2, better 10")
    if favourite is not None and base in (None, favourite):
        raise UserError("--planned needs --against, another rule to compare with")
    return base, favourite


def _shared(settings: list[TrainConfig]) -> dict[str, Any]:
    """The settings that all entries have in common, except places and the seed."""
    first, *others = (one.to_dict() for one in settings)
    kept = {name: value for name, value in first.items() if name not in ("seed", *kinds_of(Place))}
    return {name: as_json(value) for name, value in kept.items() if all(other.get(name) == value for other in others)}


def _named(flag: str, entry: str, settings: dict[str, TrainConfig]) -> str:
    """The label of an entry that is compared. Raises UserError if it is not."""
    label = label_of(entry) if name_of(entry) in rules.available() else entry
    if label not in settings:
        raise UserError(f"{flag} is {entry}; it must be one of the rules compared: {', '.join(settings)}")
    return label


def _differences(made: dict[str, list[dict[str, Any]]], base: str, planned: str | None) -> dict[str, Any]:
    """Differences in test accuracy from the base, by rule."""
    reached = {label: [run["test_accuracy"] for run in records] for label, records in made.items()}
    found = differences({label: values for label, values in reached.items() if label != base}, reached[base], planned)
    return {"against": base, "planned": planned, "rules": found}


def _record(folder: Path, dataset: data.Dataset) -> dict[str, Any]:
    """The result of a finished run."""
    history, final = training.read_metrics(folder)
    assert final is not None
    activity = measure(training.load(folder), dataset.test)
    curves = {key: [record[key] for record in history] for key in ("validation_accuracy", "test_accuracy", "seconds")}
    kept = ("test_accuracy", "best_epoch", "validation_accuracy", "best_test_accuracy", "best_test_epoch", "epochs", "seconds")
    energy = {"energy_nj": activity.energy_nj, "dense_nj": activity.dense_nj}
    return {key: final[key] for key in kept} | asdict(activity) | energy | {"curves": curves}


def _summary(runs: list[dict[str, Any]], target: float) -> dict[str, Any]:
    """The runs with the epoch and second at which they reach the target (None if never), and mean and sd over the seeds."""
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
