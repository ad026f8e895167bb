"""Search for training settings on validation, with the same number of trials for every entry of a comparison.

Optuna's tree-structured Parzen estimator draws a trial's settings from the trials before it. The first trial has the given
settings. A trial that is below the median of the others after an epoch is stopped. The best settings of short trials need not
be best in the end, nor for other first weights. So if the comparison has more epochs, or trials have several seeds, the best
trials and the first are trained in full with all seeds, and the best of these is taken. Trials are ordinary runs, and their
draws follow from the seed and the number of the trial. So the same call draws the same settings again, uses finished trials and
continues the interrupted one.

Source: T. Akiba et al., Optuna, KDD 2019, arXiv 1907.10902.
"""

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tsslbp import losses, rules, training
from tsslbp.data import Dataset, Facts
from tsslbp.network.notation import has_hidden
from tsslbp.rules import TSSL, EProp, EventProp, Rule, SuperSpike, Surrogate
from tsslbp.study.base import fits
from tsslbp.study.runs import Watch, folder_name, validated
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError, needed

if TYPE_CHECKING:
    from optuna import Trial

RATES, SCALES = 30.0, 4.0
"""Learning rates and first weights are searched between the given ones divided and multiplied by these."""
OPTIONS: dict[type[Rule], dict[str, tuple[float, float]]] = {
    TSSL: {"clip": (0.25, 16.0), "width": (0.1, 1.0)},
    Surrogate: {"slope": (0.5, 20.0)},
    EventProp: {"clip": (1.0, 100.0), "wake": (1e-7, 0.1)},
}
"""Numeric options of rules that are searched, with their ranges; not those that change the kind of rule."""
VOLTAGE = "voltage"
OF_VOLTAGES = (EventProp, EProp, SuperSpike)
"""Rules that the field also trains with a voltage output, beside the plain surrogate gradient; their trials may use one."""
SURE = 4
"""First trials, which are never stopped, as there is no median yet."""
LEADERS = 4
"""Trials that are trained in full, besides the first."""
Report = Callable[[dict[str, Any]], None]


def searched(
    label: str, bases: Sequence[TrainConfig], dataset: Dataset, count: int, epochs: int, watch: Watch
) -> list[dict[str, Any]]:
    """Trials of settings, by validation accuracy.

    Args:
        label: name of the entry in results.
        bases: its settings, with the epochs of the trials and a seed each; the trials have the first seed.
        dataset: training data.
        count: how many trials.
        epochs: of the comparison.
        watch: makes the progress display of a run from its name.

    Returns:
        For each trial its changed ``settings``, its ``epochs``, and its ``validation_accuracy`` in percent, of the chosen
        epoch, None if it diverged or was stopped; and ``in_full``, the mean over all seeds after the epochs of the comparison,
        None if it was not trained in full.

    Raises:
        UserError: Optuna is not installed, or trials were begun with another ``count``.
    """
    optuna = needed("optuna", "--tune with a number of trials needs Optuna", "tune")
    base, facts, said = bases[0], Facts.of(dataset), optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # else it announces the study
    search = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(SURE, n_warmup_steps=1 + base.epochs // 4)
    )
    optuna.logging.set_verbosity(said)
    found: list[dict[str, Any]] = []
    for number in range(count):
        search.sampler = optuna.samplers.TPESampler(n_startup_trials=max(SURE, count // 3), seed=(base.seed + number) % 2**32)
        trial, seen = search.ask(), set[int]()
        settings = drawn(trial, base, dataset) if number else {}

        def report(record: dict[str, Any], trial: Any = trial, seen: set[int] = seen) -> None:
            trial.report(record["validation_accuracy"], record["epoch"])
            seen.add(record["epoch"])
            if record["epoch"] < base.epochs and trial.should_prune():  # one that has ended may be the best
                raise optuna.TrialPruned

        reached, config = None, replace(base, **settings, name=f"{folder_name(label)}-trial{number}")
        _check_same(config, settings)
        try:
            reached = _run(config, facts, report, watch)
            search.tell(trial, reached)
        except optuna.TrialPruned:
            search.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except training.Diverged:
            search.tell(trial, 0.0)
        found.append({"settings": settings, "epochs": len(seen), "validation_accuracy": reached, "in_full": None})
    for number in _leaders(found) if epochs > base.epochs or len(bases) > 1 else ():
        settings, name = found[number]["settings"], f"{folder_name(label)}-trial{number}"
        names = [name if epochs == base.epochs else f"{name}-in-full", *(f"{name}-{other.seed}" for other in bases[1:])]
        full = [replace(each, **settings, epochs=epochs, name=name) for each, name in zip(bases, names, strict=True)]
        with contextlib.suppress(training.Diverged):
            found[number]["in_full"] = statistics.fmean(_run(config, facts, lambda record: None, watch) for config in full)
    return found


def _check_same(config: TrainConfig, settings: dict[str, Any]) -> None:
    """Raises UserError if the folder of a trial holds one of other settings, as they follow from the number of trials too."""
    path = config.runs_dir / str(config.name) / training.CONFIG
    if path.is_file() and any(getattr(TrainConfig.from_toml(path), name) != value for name, value in settings.items()):
        raise UserError(f"{path.parent} holds another trial; give the same --tune as before, or another --name")


def _leaders(found: list[dict[str, Any]]) -> list[int]:
    """Numbers of the best finished trials and the first."""
    ended = [number for number, trial in enumerate(found) if trial["validation_accuracy"] is not None]
    best = sorted(ended, key=lambda number: found[number]["validation_accuracy"], reverse=True)[:LEADERS]
    return sorted({*best, *(number for number in ended if number == 0)})


def drawn(trial: "Trial", base: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """The settings of a trial: learning rate, first weights, loss, and numbers among the rule's options.

    EventProp has no gradient without spikes, so its output needs first weights that make it fire. As in its papers, static
    samples may be encoded as first spikes and in more steps, with time constants scaled alike. Weights of ``init`` stay as
    they are.
    """
    rate, scale = base.learning_rate, base.hidden_scale
    made: dict[str, Any] = {"learning_rate": trial.suggest_float("learning_rate", rate / RATES, rate * RATES, log=True)}
    if base.init is None:
        made["hidden_scale"] = trial.suggest_float("hidden_scale", scale / SCALES, scale * SCALES, log=True)
    made["loss"] = trial.suggest_categorical("loss", _losses(base, dataset))
    if made["loss"] == VOLTAGE:
        made |= {"readout": "voltage", "loss": "softmax"}
    if base.neuron != "spiking":
        return made
    rule = rules.get(base.rule)
    ranges = {name: ends for kind, options in OPTIONS.items() if isinstance(rule, kind) for name, ends in options.items()}
    options = {name: trial.suggest_float(name, *ends, log=True) for name, ends in ranges.items()}
    made["rule"] = rules.spec(replace(rule, **{name: float(f"{value:.3g}") for name, value in options.items()}))
    if isinstance(rule, EventProp):
        if base.init is None:
            made["output_scale"] = trial.suggest_float("output_scale", base.output_scale / 2, base.output_scale * 8, log=True)
        if base.time_steps is not None and dataset.time_steps is None:
            longer = trial.suggest_categorical("steps", (1, 2, 4))
            lasting = {name: getattr(base, name) for name in ("time_steps", "tau_m", "tau_s")}
            made |= {name: longer * value for name, value in lasting.items() if math.isfinite(value)}
            made["encoding"] = trial.suggest_categorical("encoding", _encodings(base, dataset))
    return made


def _encodings(base: TrainConfig, dataset: Dataset) -> tuple[str, ...]:
    """The given encoding, and first spikes if the values of the data and the settings allow them."""
    if not fits(base, dataset, encoding="latency"):
        return (base.encoding,)
    return tuple(dict.fromkeys((base.encoding, *(["latency"] if base.normalise == "auto" else []))))


def _losses(base: TrainConfig, dataset: Dataset) -> list[str]:
    """The given loss and all others that fit; "voltage" means the softmax loss of the output's voltage."""
    others = () if dataset.trains else losses.LOSSES if base.neuron == "spiking" else losses.ANN
    found = [base.loss, *(name for name in others if fits(base, dataset, loss=name))]
    rule, leaks = rules.get(base.rule), math.isfinite(base.tau_m)  # a voltage without leak would stay 0
    of_voltages = type(rule) is Surrogate or isinstance(rule, OF_VOLTAGES)
    # constants that a voltage has not: those of init's output would be left over, and others need a hidden layer
    has_not = {"tau_s", "threshold"} & {*base.learn, *base.per_neuron} and (base.init or not has_hidden(str(base.network)))
    if base.spikes_last and leaks and not dataset.trains and of_voltages and not has_not:
        found.append(VOLTAGE)
    return list(dict.fromkeys(found))


def _run(config: TrainConfig, facts: Facts, report: Report, watch: Watch) -> float:
    """Validation accuracy of a run's chosen epoch; ``report`` gets the record of every epoch, also of earlier calls."""
    folder = config.runs_dir / str(config.name)
    if (folder / training.METRICS).is_file():
        for record in training.history(folder):
            report(record)
    return validated(config, facts, lambda name: _Reporting(watch(name), report))


class _Reporting(training.Progress):
    """Reports every epoch, and passes everything on to another display."""

    def __init__(self, watcher: training.Progress, report: Report) -> None:
        self.prepared, self.started, self.stepped = watcher.prepared, watcher.started, watcher.stepped  # type: ignore[method-assign]
        self.warned, self.close = watcher.warned, watcher.close  # type: ignore[method-assign]
        self._watcher, self._report = watcher, report

    def finished_epoch(self, record: dict[str, Any]) -> None:
        self._watcher.finished_epoch(record)
        self._report(record)


def best(label: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The best trial, of those in full if any; the first of equal ones. Raises UserError if none finished."""
    for reached in ("in_full", "validation_accuracy"):
        if ended := [trial for trial in tried if trial[reached] is not None]:
            return max(ended, key=lambda trial: trial[reached])
    raise UserError(f"{label} diverged in every trial of --tune; lower --learning-rate, around which they lie")
