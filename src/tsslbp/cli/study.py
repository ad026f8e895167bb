"""``tsslbp study``: experiments on a trained run, on a recipe or on rules, that end in a page with figures."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tsslbp import machine, recipes, report, study, training
from tsslbp.cli.compare import watch
from tsslbp.cli.parse import parse, starting_from
from tsslbp.cli.show import console
from tsslbp.config import TrainConfig
from tsslbp.errors import UserError, unknown
from tsslbp.study import runs
from tsslbp.study.ablation import GROUPS
from tsslbp.study.dynamics import STEPS
from tsslbp.study.fidelity import RULES

Result = dict[str, Any]


@dataclass(frozen=True)
class OfRuns:
    """A study of trained runs, drawn in OUT/report.html with the other studies that are there.

    Several runs may differ in their seed only, and what is told is their mean; energy compares runs of any rules.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The runs' folders, or that of a comparison, which holds many."""
    out: Path | None = None
    """Folder for STUDY.json and report.html; studies/RUN when left out."""
    data_root: Path | None = None
    """Folder that holds the data sets; the run's own when left out."""


@dataclass(frozen=True)
class OfRunsDrawn(OfRuns):
    """A study of trained runs that draws at random, drawn in OUT/report.html with the other studies that are there.

    Several runs may differ in their seed only, and what is told is their mean.
    """

    seeds: int = 5
    """How often every random disturbance is drawn."""


@dataclass(frozen=True, kw_only=True)
class Dynamics(TrainConfig):
    """Train a recipe without leak, memory, reset or synapse, shuffled steps, other numbers; drawn in OUT/report.html."""

    seeds: int = 3
    """Runs of every variant, with seeds from --seed on."""
    steps: tuple[int, ...] = STEPS
    """Numbers of time steps to try; not for data that are sequences."""
    out: Path | None = None
    """Folder for dynamics.json, report.html and the runs; studies/RECIPE when left out."""


@dataclass(frozen=True, kw_only=True)
class Ablation(TrainConfig):
    """Train a recipe with one part of its rule or loss changed at a time; drawn in OUT/report.html."""

    seeds: int = 5
    """Runs of every variant, with seeds from --seed on; at least 2."""
    vary: tuple[str, ...] = GROUPS
    """What to change: terms, fallback, clip, psc-derivative (of the rule), loss, target, desired train."""
    out: Path | None = None
    """Folder for ablation.json, report.html and the runs; studies/RECIPE when left out."""


@dataclass(frozen=True)
class Fidelity:
    """Compare rules with the exact gradient of spike times, and their gradients through many layers; drawn in OUT/report.html.

    Random networks; nothing is trained. tsslbp fidelity prints the first half as a table.
    """

    rule: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RULE")] = RULES
    """Rules, with options in brackets."""
    seeds: int = 10
    """How many random networks of each kind."""
    smoothing: Literal[1, 2] = 1
    """1: the loss is on the post-synaptic current, whose error jumps at the output's spikes. 2: on that smoothed once more."""
    out: Path = Path("studies/fidelity")
    """Folder for fidelity.json and report.html."""


def study_(arguments: list[str]) -> None:
    """study a run, a recipe or rules, with figures: tsslbp study NAME RUN_OR_RECIPE_OR_RULES"""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10}  {about}" for name, (about, _) in STUDIES.items()]
        head, tail = "usage: tsslbp study NAME RUN_OR_RECIPE_OR_RULES ...", "tsslbp study NAME --help tells a study's options."
        print("\n".join([head, "", *lines, "", tail]))
        return
    name, *rest = arguments
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    out, result = STUDIES[name][1](name, rest)
    result["command"] = shlex.join(["tsslbp", "study", *arguments])
    path = report.write_study(out, result)
    console.print(report.section(result).answer)
    console.print(f"report: {path}")


def _of_runs(measure: Callable[[runs.Run], Result]) -> Callable[[str, list[str]], tuple[Path, Result]]:
    def study_runs(name: str, arguments: list[str]) -> tuple[Path, Result]:
        options = parse(OfRuns, f"study {name}", arguments)
        out, trained = _loaded(options)
        return out, runs.over_seeds(trained, out.name, measure)

    return study_runs


def _robustness(name: str, arguments: list[str]) -> tuple[Path, Result]:
    options = parse(OfRunsDrawn, f"study {name}", arguments)
    out, trained = _loaded(options)
    return out, runs.over_seeds(trained, out.name, lambda run: study.robustness(run, draws=options.seeds))


def _loaded(options: OfRuns) -> tuple[Path, list[runs.Run]]:
    if not options.runs:
        raise UserError("no run is named; give its folder, such as runs/quickstart")
    trained = [run for folder in options.runs for run in runs.load_all(folder, options.data_root)]
    return options.out or Path("studies") / options.runs[0].resolve().name, trained


def _energy(name: str, arguments: list[str]) -> tuple[Path, Result]:
    options = parse(OfRuns, f"study {name}", arguments)
    out, trained = _loaded(options)
    return out, study.energy(trained, options.runs[0].resolve().name)


def _dynamics(name: str, arguments: list[str]) -> tuple[Path, Result]:
    options, out, config = _training(Dynamics, name, arguments)
    return out, _goes_on(lambda: study.dynamics(config, seeds=options.seeds, steps=options.steps, watch=watch))


def _ablation(name: str, arguments: list[str]) -> tuple[Path, Result]:
    options, out, config = _training(Ablation, name, arguments)
    return out, _goes_on(lambda: study.ablation(config, seeds=options.seeds, groups=options.vary, watch=watch))


def _fidelity(name: str, arguments: list[str]) -> tuple[Path, Result]:
    options = parse(Fidelity, f"study {name}", arguments)
    return options.out, study.fidelity(options.rule, seeds=options.seeds, smoothing=options.smoothing)


def _training(settings: type[Any], name: str, arguments: list[str]) -> tuple[Any, Path, TrainConfig]:
    """A study's own options, its folder, and the settings of its runs, which lie in that folder."""
    given = {argument.split("=")[0] for argument in arguments}
    for flag in ("--neuron", "--name", "--runs-dir", "--resume"):
        if flag in given:
            raise UserError(f"{flag} is for tsslbp train; a study's runs are in OUT/runs, and it goes on with them by itself")
    config, command, rest = starting_from(f"study {name}", arguments)
    known = ", ".join(recipes.RECIPES)
    about = f"{settings.__doc__} RECIPE is one of: {known}. The same command goes on after an interruption."
    options = parse(settings, command, rest, settings(**vars(config)), about)
    out = options.out or Path("studies") / config.recipe
    values = {field.name: getattr(options, field.name) for field in fields(TrainConfig)}
    machine.keep_memory()
    return options, out, TrainConfig(**{**values, "runs_dir": out / "runs"})


def _goes_on(run: Callable[[], Result]) -> Result:
    try:
        return run()
    except training.Interrupted:
        print("stopped; the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt from None


STUDIES: dict[str, tuple[str, Callable[[str, list[str]], tuple[Path, Result]]]] = {
    "firing": ("RUNS: silent, once or more often; first spikes; fallback gradients", _of_runs(study.firing)),
    "latency": ("RUNS: accuracy after each step, early exit, spikes spent", _of_runs(study.latency)),
    "robustness": ("RUNS: noise, quantised weights, lost and shifted spikes", _robustness),
    "energy": ("RUNS: operations and energy by layer, with and without skipping zeros", _energy),
    "dynamics": ("RECIPE: without leak, memory, reset, synapse; shuffled steps, other numbers", _dynamics),
    "ablation": ("RECIPE: one part of rule or loss changed at a time", _ablation),
    "fidelity": ("RULES: against the exact gradient; norms through 1 to 10 hidden layers", _fidelity),
}
"""What each study is of and about, and how its command goes."""
