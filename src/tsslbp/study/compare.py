"""The same network, data, initial weights, order of samples and budget under several learning rules, and as ANNs."""

import json
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from markupsafe import Markup

from tsslbp import data, files, losses, machine, rules, training
from tsslbp.bench.measure import interleaved
from tsslbp.declared import kinds_of
from tsslbp.errors import UserError, unknown
from tsslbp.report import charts
from tsslbp.report.page import Result, significant, template, with_sd, write_markdown
from tsslbp.settings import Place, TrainConfig
from tsslbp.study.activity import AC_PJ, MAC_PJ, measure
from tsslbp.study.base import training_settings
from tsslbp.study.paired import differences
from tsslbp.study.runs import Watch, finished, folder_name, need_validation, seeds_from
from tsslbp.study.step import peak_memory, step
from tsslbp.study.tuning import best_rate, tuned

ANNS = ("binary", "relu")
"""Entries that are no rules: the same network without spikes (``ann.py``)."""
SECONDS = 3.0
"""Time for measuring each entry's training step."""


@dataclass(frozen=True, kw_only=True)
class Compare(TrainConfig):
    """Train the same network under several rules: same data, initial weights, order of samples and budget."""

    rules: str = "tssl,surrogate,binary,relu"
    """Rules to compare, with commas between them. binary and relu train the same network as an ANN."""
    seeds: int = 3
    """Number of runs of every rule, with consecutive seeds that begin with --seed."""
    to: float | None = None
    """Validation accuracy in percent; the table says how long each rule takes to reach it. Default: the mean best accuracy of
    the worst rule."""
    tune: str = ""
    """Learning rates to try for every rule, with commas between them. The best on validation is used. If it lies at an end, up
    to four more are tried beyond that end."""
    tune_epochs: int | None = None
    """Epochs of a run that tries a learning rate. Default: --epochs."""
    tune_seeds: int = 1
    """Runs that try each learning rate, with seeds after those of the comparison."""
    against: str = ""
    """A rule of --rules that all others are compared with, seed by seed, with intervals, p-values and a correction for their
    number."""
    planned: str = ""
    """The rule whose difference from --against was planned to be tested before the runs; it is not corrected."""
    out: Path | None = None
    """Folder for compare.json and compare.html. Default: RUNS_DIR/compare-NAME."""

    def run(self, watch: Watch) -> tuple[Path, Result]:
        """The folder for the result, and the result of :func:`compare`."""
        result = compare(
            training_settings(self),
            split(self.rules),
            seeds=self.seeds,
            target=self.to,
            rates=_rates(self.tune),
            tuning_epochs=self.tune_epochs,
            tuning_seeds=self.tune_seeds,
            against=self.against or None,
            planned=self.planned or None,
            watch=watch,
        )
        return self.out or self.runs_dir / result["name"], result


def split(text: str) -> list[str]:
    """Rules by the commas that are not in brackets."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _rates(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--tune is {text!r}; it must be learning rates with commas between them, such as 3e-4,1e-3") from None


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
            loss = config.loss if losses.suits_ann(config.loss) else "auto"
            settings = replace(config, neuron=neuron, loss=loss, rate_penalty=0.0)
        else:
            settings = replace(config, neuron="spiking", rule=label)
        if label in made:
            raise UserError(f"{label} is named twice; name every rule once")
        made[label] = settings
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
            the best one lies at an end, the next ones outward are tried too, at most ``tuning.FURTHER``.
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
    if tuning_seeds < 1:
        raise UserError(f"--tune-seeds is {tuning_seeds}; it must be positive")
    _, dataset = training.with_data(next(iter(settings.values())))
    settings = {label: training.resolved(s, dataset) for label, s in settings.items()}
    tried: dict[str, list[dict[str, Any]]] = {}
    if rates:
        trial_seeds = seeds_from(config.seed + seeds, tuning_seeds)
        trial_epochs = config.epochs if tuning_epochs is None else tuning_epochs
        for label, s in settings.items():
            trials = [replace(s, seed=seed, epochs=trial_epochs) for seed in trial_seeds]
            tried[label] = tuned(label, trials, rates, watch)
        settings = {label: replace(s, learning_rate=best_rate(label, tried[label])) for label, s in settings.items()}

    runs: dict[str, list[Path]] = {label: [] for label in settings}
    for seed in numbers:  # rules in turns, so that what else the machine does touches all alike
        for label, s in settings.items():
            runs[label].append(finished(replace(s, seed=seed, name=f"{folder_name(label)}-seed{seed}"), watch))

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
        "tuning": {"rates": list(rates), "epochs": trial_epochs, "seeds": list(trial_seeds)} if rates else None,
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
        "differences": None if base is None else _differences(made, base, favourite),
    }


def _shared(settings: list[TrainConfig]) -> dict[str, Any]:
    """The settings that all entries have in common, but for places and the seed."""
    first, *others = (one.to_dict() for one in settings)
    kept = {name: value for name, value in first.items() if name not in ("seed", *kinds_of(Place))}
    return {name: value for name, value in kept.items() if all(other.get(name) == value for other in others)}


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


COSTS = {
    "MAC, thousands": ("macs", 1000),
    "AC, thousands": ("acs", 1000),
    "own MAC, thousands": ("own_macs", 1000),
    "energy, nJ": ("energy_nj", 1),
    "dense, nJ": ("dense_nj", 1),
}
"""What is told of a sample's cost by head: its key and unit. Results of 0.1.0 lack two of them."""


def tables(result: Result) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and rows of what came out, one row a rule, and of the differences if there are any; ± is a standard deviation."""
    made = [_outcome(result)]
    return [*made, _differences_table(result)] if result.get("differences") else made


def _outcome(result: Result) -> tuple[list[str], list[list[str]]]:
    good = ("F1 × 100", "best epoch, F1 × 100") if result["trains"] else ("test accuracy, %", "best test epoch, %")
    costs = {head: cost for head, cost in COSTS.items() if cost[0] in next(iter(result["rules"].values()))["mean"]}
    heads = ["rule", *good, "epochs to target", "seconds to target", "step, ms", "memory, MiB", "spikes", "silent, %", *costs]
    rows = []
    for label, rule in result["rules"].items():
        mean, sd, reached = rule["mean"], rule["sd"], sum(run["epochs_to_target"] is not None for run in rule["runs"])
        some = "" if reached in (0, len(rule["runs"])) else f" ({reached} of {len(rule['runs'])})"
        rows.append(
            [
                label,
                *(with_sd(mean[key], sd[key]) for key in ("test_accuracy", "best_test_accuracy")),
                *(_number(mean[f"{key}_to_target"], 1) + some for key in ("epochs", "seconds")),
                _number(rule["step_ms"], 2),
                _number(rule["peak_mib"], 0),
                _number(mean["spikes"], 2),
                _number(100 * mean["silent"], 1),
                *(significant(mean[key] / unit) for key, unit in costs.values()),
            ]
        )
    return heads, rows


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _differences_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the differences from the rule of ``--against``, which was given."""
    found = result["differences"]
    heads = ["rule", f"difference from {found['against']}", "95 % interval", "detectable", "p", "p, Holm", "real"]
    rows = []
    for label, one in found["rules"].items():
        planned = label == found["planned"]
        holm = "planned" if planned else f"{one['holm']:.2g}"
        numbers = (f"{one['mean']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}", f"{one['detectable']:.2f}")
        rows.append([label, *numbers, f"{one['p']:.2g}", holm, "yes" if one["real"] else "no"])
    return heads, rows


def write_comparison(folder: Path, result: Result) -> Path:
    """Write ``compare.json`` and ``compare.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written.
    """
    files.make_folder(folder, "choose another --out")
    content = json.dumps(result, indent=1)
    context = _contents(json.loads(content))  # the page is what the file makes
    files.write_text(folder / "compare.json", content + "\n")
    return _write_page(folder, context)


def draw_comparison(folder: Path, markdown: bool = False) -> Path:
    """Write ``compare.html`` from ``compare.json``, or ``README.md`` with SVG figures; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or ``compare.json`` is damaged.
    """
    try:
        context = _contents(json.loads((folder / "compare.json").read_text(encoding="utf-8")))
    except Exception:  # drawing what an altered file says fails in every way there is
        raise UserError(f"{folder / 'compare.json'} is damaged or of an older release; run that comparison again") from None
    return write_markdown(folder, "compare.md", context) if markdown else _write_page(folder, context)


def _write_page(folder: Path, context: dict[str, Any]) -> Path:
    files.write_text(folder / "compare.html", template("compare.html").render(context))
    return folder / "compare.html"


def _contents(result: Result) -> dict[str, Any]:
    """The variables of a comparison's page."""
    means = {label: rule["mean"] for label, rule in result["rules"].items()}
    best = max(means, key=lambda label: means[label]["test_accuracy"])
    thriftiest = min(means, key=lambda label: means[label]["energy_nj"])
    good, least = means[best]["test_accuracy"], means[thriftiest]["energy_nj"]
    reached = f"F1: {best}, {good / 100:.3f}" if result["trains"] else f"test accuracy: {best}, {good:.2f}\u00a0%"
    return {
        "result": result,
        "answer": f"Highest {reached}. Least energy: {thriftiest}, {least:.3g}\u00a0nJ a sample.",
        "tables": tables(result),
        "tried": _rates_tried(result),
        "accuracy": _accuracy(result),
        "energy": _energy(result),
    }


def _rates_tried(result: Result) -> tuple[list[float], dict[str, dict[float, str]]]:
    """All learning rates that were tried, and what came of each by rule."""
    tried = {
        label: {
            trial["learning_rate"]: "diverged" if (found := trial["validation_accuracy"]) is None else f"{found:.2f}"
            for trial in rule["tried"]
        }
        for label, rule in result["rules"].items()
    }
    return sorted({rate for trials in tried.values() for rate in trials}), tried


def _accuracy(result: Result) -> Markup:
    rules = result["rules"].items()
    curves = {label: np.array([run["curves"]["test_accuracy"] for run in rule["runs"]]) for label, rule in rules}
    epochs = next(iter(curves.values())).shape[1]
    description = f"Line chart of test accuracy over {epochs} epochs under {len(curves)} rules"
    return charts.means("accuracy", curves, _unit(result), list(curves), description)


def _energy(result: Result) -> Markup:
    """Test accuracy against energy, with the standard deviation over the seeds of both."""
    keys = ("energy_nj", "test_accuracy")
    both = {label: [(rule["mean"][key], rule["sd"][key]) for key in keys] for label, rule in result["rules"].items()}
    description = f"Test accuracy against energy per sample for {len(both)} rules"
    return charts.points("energy", both, "energy of a sample, nJ", _unit(result), description)


def _unit(result: Result) -> str:
    return "F1 × 100" if result["trains"] else "right answers in the test set, %"
