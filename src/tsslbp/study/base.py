"""A study is one file of this folder with its options, its measure and its section of the page.

A file is a study if it has a ``STUDY``. The study and its measure, a function, have the file's name. The command line and the
page find studies by :func:`studies`.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from tsslbp import rules
from tsslbp.data import Dataset
from tsslbp.report.page import Result, Section
from tsslbp.study.runs import Run, Watch, load_all, over_seeds
from tsslbp.training import automatic
from tsslbp.training.preparation import loaded, resolved
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError
from tsslbp.utils.spec import name_of

Options = TypeVar("Options")
Trains = TypeVar("Trains", bound=TrainConfig)


@dataclass(frozen=True)
class Study(Generic[Options]):
    """The definition of ``tsslbp study NAME``."""

    about: str
    """Its line in the list that ``tsslbp study`` prints."""
    options: type[Options]
    """Dataclass of the command line's options; if it extends ``TrainConfig``, it begins with the settings of a recipe."""
    run: Callable[[Options, Watch], tuple[Path, Result]]
    """Measures; returns the folder for the result, and the result (:func:`tsslbp.study.runs.about`), JSON values only."""
    section: Callable[[Result], Section]
    """Section of the page for a result read from its file."""
    text: Callable[[Options, Result], str] = lambda options, result: ""
    """Text that the command prints before the answer."""
    place: int = 100
    """Lower ones come first in the list and on the page."""


def studies() -> dict[str, Study[Any]]:
    """Every study by its name, in the order of the page."""
    package = sys.modules[__package__]
    modules = {name: importlib.import_module(f"{__package__}.{name}") for _, name, _ in pkgutil.iter_modules(package.__path__)}
    found = {name: module.STUDY for name, module in modules.items() if hasattr(module, "STUDY")}
    return dict(sorted(found.items(), key=lambda named: named[1].place))


def fits(config: TrainConfig, dataset: Dataset | None = None, **changes: Any) -> bool:
    """Whether settings may have these changes, and go with the data if these are given. With ``time_steps=1``,
    ``desired=01011`` would ask for silence."""
    try:
        changed = replace(config, **changes)
        if dataset is not None:
            resolved(changed, dataset)
    except UserError:
        return False
    return True


@dataclass(frozen=True)
class OfRuns:
    """A study of trained runs, drawn in OUT/report.html with the other studies that are there.

    If you name several runs, they may differ in their seed only, and the study reports their mean. energy compares runs of any
    rules.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folders of runs, or the folder of a comparison, which holds many runs."""
    out: Path | None = None
    """Folder for STUDY.json and report.html. Default: studies/RUN, or studies/COMPARISON-RUN."""
    data_root: Path | None = None
    """Folder that holds the data sets. Default: the run's own."""

    def load(self) -> tuple[Path, list[Run]]:
        """The folder for the result, and the runs. Raises UserError if there are none, or one is damaged."""
        if not self.runs:
            raise UserError("no run is named; give its folder, such as runs/quickstart")
        trained = [run for folder in self.runs for run in load_all(folder, self.data_root)]
        first = self.runs[0].resolve()
        of_comparison = first.parent.name.startswith("compare-")  # where every comparison has a tssl-seed0
        name = f"{first.parent.name}-{first.name}" if of_comparison else first.name
        return self.out or Path("studies") / name, trained


def of_runs(
    about: str, measure: Callable[[Run], Result], section: Callable[[Result], Section], place: int = 100
) -> Study[OfRuns]:
    """A study of trained runs without further options."""

    def run(options: OfRuns, watch: Watch) -> tuple[Path, Result]:
        out, trained = options.load()
        return out, over_seeds(trained, out.name, measure)

    return Study(about, OfRuns, run, section, place=place)


def training_settings(options: TrainConfig, **changes: Any) -> TrainConfig:
    """The settings of runs, from the options of the study that trains them."""
    return TrainConfig(**{field.name: getattr(options, field.name) for field in fields(TrainConfig)} | changes)


def suited(options: Trains, given: Collection[str], entries: Sequence[str]) -> Trains:
    """The options of a study that trains. What is not ``given`` suits its data, as ``tsslbp train`` chooses it. The network of
    a comparison suits all ``entries``, rules or ANNs."""
    chosen = {name: getattr(options, name) for name in (*given, *(["rule"] if entries else []))}
    known = [entry for entry in entries if name_of(entry) in rules.available()]
    if len(known) < len(entries) or not all(rules.get(entry).takes_parts for entry in known):
        chosen["neuron"] = "relu"  # no recurrent network, which not all of them have
    return replace(options, **automatic.choose(loaded(training_settings(options)), chosen))


def folder_of(options: TrainConfig, out: Path | None) -> tuple[Path, TrainConfig]:
    """The folder for the result of a study that trains, and the settings of its runs in that folder."""
    out = out or Path("studies") / options.recipe
    return out, training_settings(options, runs_dir=out / "runs")


def tested(result: Result) -> list[str]:
    """A note on what accuracies rest on; results of 0.1.0 do not know it."""
    return [f"Test samples: {result['samples']}. Epochs: {result['settings']['epochs']}."] if "samples" in result else []


def measured(result: Result) -> str:
    """Name of accuracies: F1 if the targets are spike trains."""
    return "F1 × 100" if result["trains"] else "right answers, %"
