"""Runs in studies: trained ones to analyse, and ones still to be trained."""

import math
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsslbp import training
from tsslbp.data import Dataset, Facts, Split
from tsslbp.network.network import Network
from tsslbp.network.notation import has_hidden
from tsslbp.training.settings import Place, TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.errors import LARGEST, UserError, shown
from tsslbp.utils.fields import kinds_of

Watch = Callable[[str], training.Progress]
AGAIN = "give the same command again"
"""What goes on with the runs of a study or a comparison."""


@dataclass(frozen=True)
class Run:
    """A trained run: its model, the test set and its settings."""

    name: str
    model: training.Model
    test: Split
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """The rule it learned by, or the kind of units of an ANN."""
        network = self.model.network
        return str(self.settings["rule"]) if network.is_spiking else network.architecture.neuron

    def need_spikes(self, study: str) -> None:
        """Raises UserError for an ANN, and for a single layer that is read from its voltage."""
        network = self.model.network
        if not network.is_spiking:
            raise UserError(f"{study} is a study of spikes; {self.name} is a network of {self.label} units, which have none")
        if not (network.architecture.spikes_last or has_hidden(network.architecture.network)):
            raise UserError(f"{study} is a study of spikes; {self.name} has one layer, read from its voltage: add a hidden one")


def load(folder: str | Path, data_root: Path | None = None, dataset: Dataset | None = None) -> Run:
    """A run from its folder; ``data_root`` holds its data set, if that has moved, and ``dataset`` is the one made in Python.

    Raises UserError if there is no model, and for a run that has not ended, a damaged file and missing data.
    """
    folder = Path(folder)
    model = training.load(folder)
    training.final_of(folder)
    settings = TrainConfig.from_toml(folder / training.CONFIG)
    test = training.dataset_of_run(model, settings, data_root, dataset).test
    return Run(folder.resolve().name, model, test, settings.to_dict())


def load_all(folder: Path, data_root: Path | None = None) -> list[Run]:
    """The run in a folder, or the runs of a comparison's folder.

    Raises UserError if there are none, or one is damaged or has not ended, as after it diverged.
    """
    if (folder / "model.safetensors").is_file():
        return [load(folder, data_root)]
    found = sorted(path.parent for path in folder.glob("*-seed*/model.safetensors"))
    if not found:
        raise UserError(f"no run at {folder}; give a run's folder, or that of a comparison, such as runs/compare-quickstart")
    for path in found:
        try:
            training.final_of(path)
        except UserError as error:
            raise UserError(f"{error}; if it diverged, name the runs that ended instead of {folder}") from None
    return [load(path, data_root) for path in found]


def check_runs(*trained: object) -> None:
    """Raises UserError for anything but runs, such as their folders."""
    for run in trained:
        if not isinstance(run, Run):
            raise UserError(f"{shown(run)} is of type {type(run).__name__}; tsslbp.study.runs.load reads a run from its folder")


def over_seeds(trained: list[Run], subject: str, measure: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """A study of runs that differ in their seed.

    Returns:
        The result of ``measure`` for one run. For several, the mean of its numbers, with the name ``subject``, the number of
        ``runs``, and the single results under ``each``.

    Raises:
        UserError: the runs differ in more than their seed, or have the same.
    """
    check_seeds(trained)
    results = [measure(run) for run in trained]
    if len(results) == 1:
        return results[0]
    shared = ("study", "date", "machine", "settings")
    each = [{key: value for key, value in result.items() if key not in shared} for result in results]
    settings = {key: value for key, value in results[0]["settings"].items() if key != "seed"}
    return {**results[0], **mean_of(each), "subject": subject, "settings": settings, "runs": len(results), "each": each}


def check_seeds(trained: list[Run]) -> None:
    """Raises UserError unless runs differ in their seed, and in nothing else."""
    keys = {key for run in trained for key in run.settings} - {"seed", *kinds_of(Place)}
    check_same(trained, keys, "name runs that differ in their seed only")
    named: dict[Any, Run] = {}
    for run in trained:
        other = named.setdefault(run.settings["seed"], run)
        if other is not run:
            raise UserError(f"{run.name} and {other.name} have the same seed, {run.settings['seed']}; name each run once")


def check_same(trained: list[Run], keys: Collection[str], fix: str) -> None:
    """Raises UserError if runs differ in one of these settings."""
    first = trained[0]
    for run in trained[1:]:
        for key in sorted(keys):
            if first.settings.get(key) != run.settings.get(key):
                raise UserError(f"{run.name} and {first.name} differ in {key}; {fix}")


def mean_of(values: list[Any], weights: Sequence[float] | None = None) -> Any:
    """The mean of numbers, perhaps weighted, entry by entry in dictionaries and lists; the first of equal values and of other
    types."""
    first = values[0]
    if isinstance(first, dict):
        return {key: mean_of([value[key] for value in values], weights) for key in first}
    if isinstance(first, list):
        return [mean_of(list(entries), weights) for entries in zip(*values, strict=True)]
    if isinstance(first, (int, float)) and any(value != first for value in values):
        return statistics.fmean(values, weights)
    return first


def trained(
    settings: dict[str, TrainConfig], seeds: Sequence[int], needed: Collection[str | None], watch: Watch
) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Folders of the runs by entry, and messages by entry that diverged. Raises Diverged for all, or one that is ``needed``."""
    runs: dict[str, list[Path]] = {label: [] for label in settings}
    diverged: dict[str, str] = {}
    for seed in seeds:  # entries in turns, so that other load on the machine affects all alike
        for label in list(runs):
            try:
                runs[label].append(finished(replace(settings[label], seed=seed, name=run_name(label, seed)), watch))
            except training.Diverged as error:
                diverged[label] = str(error)
                del runs[label]
                if not runs or label in needed:
                    raise
    return runs, diverged


def run_name(label: str, seed: int) -> str:
    return f"{folder_name(label)}-seed{seed}"


def about(study: str, subject: str, settings: dict[str, Any]) -> dict[str, Any]:
    """First entries of every study's result."""
    kept = {key: value for key, value in settings.items() if value is not None and key not in kinds_of(Place)}
    return {
        "study": study,
        "subject": subject,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "settings": {key: as_json(value) for key, value in kept.items()},
    }


def as_json(value: Any) -> Any:
    """A setting as a JSON value; JSON has no infinity."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, (bool, int, float, str, list)) and finite else str(value)


def seeds_from(first: int, count: int) -> range:
    """``count`` seeds. Raises UserError if there are none, or one is larger than a seed can be."""
    if count < 1:
        raise UserError(f"--seeds is {shown(count)}; it must be positive")
    if first + count - 1 > LARGEST:
        raise UserError(f"--seeds is {shown(count)}; from {first} on the last seed must be at most {LARGEST}")
    return range(first, first + count)


def settled(config: TrainConfig) -> TrainConfig:
    """The settings, with what ``--precision auto`` meant when the runs in their folder began, if there are any."""
    begun = sorted(config.runs_dir.glob(f"*/{training.CONFIG}"))
    if config.precision != "auto" or not begun:
        return config
    return replace(config, precision=TrainConfig.from_toml(begun[0]).precision)


def folder_name(label: str) -> str:
    """A label for use in the name of a run's folder."""
    return re.sub(r"[^\w.+-]+", "-", label).strip("-")


def finished(config: TrainConfig, watch: Watch, adapt: Callable[[Network], object] = lambda network: None) -> Path:
    """Train a run and return its folder; a finished run is not repeated, an interrupted one is continued.

    ``adapt``: see :func:`tsslbp.training.train`.

    Raises UserError for what :func:`tsslbp.training.train` refuses, and if another process trains this run.
    """
    folder = config.runs_dir / str(config.name)
    began = (folder / training.CONFIG).is_file()
    progress = training.Progress() if _ended(folder, config.epochs) else watch(str(config.name))
    try:
        trained, final = training.train(replace(config, resume=began), progress, adapt)
    except training.Diverged as error:
        raise training.Diverged(f"{config.name}: {error}") from None
    except files.Taken:
        if (folder / training.CONFIG).is_file():
            raise UserError(f"another process is at work in {folder}; when it has ended, {AGAIN}") from None
        raise UserError(f"{folder} exists without a config.toml; remove that folder and {AGAIN}") from None
    if config.test_every == 1 and final["best_test_accuracy"] is None:
        raise UserError(f"{folder} began without --test-every 1, so its best test epoch is unknown; remove or rename it")
    return trained


def validated(config: TrainConfig, facts: Facts, watch: Watch) -> float:
    """Validation accuracy of a trial's chosen epoch, in percent.

    It is trained if it has not ended with these settings on the data set of these ``facts``. One that has ended needs no more
    files than its settings and records. Raises as :func:`finished`.
    """
    final = training.ended(config, facts) or training.final_of(finished(config, watch))
    return float(final["validation_accuracy"])


def check_models(folders: Iterable[Path]) -> None:
    """Raises UserError if one of these runs has ended and its model is damaged or gone, so that nothing is trained before."""
    for folder in filter(_ended, folders):
        if not (folder / training.MODEL).is_file():
            raise UserError(f"{folder / training.MODEL} is gone; remove that run's folder and {AGAIN}")
        try:
            training.load(folder)
        except UserError as error:
            raise UserError(f"{error}; remove that run's folder and {AGAIN}") from None


def _ended(folder: Path, epochs: int = 0) -> bool:
    """Whether a run has begun, and ended after so many epochs or more. Raises UserError for a damaged record."""
    final = training.read_metrics(folder)[1] if (folder / training.METRICS).is_file() else None
    return final is not None and final["epochs"] >= epochs


def accuracy(folder: Path) -> float:
    """Test accuracy of a finished run, of the epoch chosen on validation, in percent."""
    return float(training.final_of(folder)["test_accuracy"])


def with_validation(config: TrainConfig) -> tuple[TrainConfig, Dataset]:
    """The completed settings and their data (:func:`tsslbp.training.with_data`).

    Raises UserError for data without validation samples: some sets are too small to hold any out by default.
    """
    config, dataset = training.with_data(config)
    if not len(dataset.validation):
        raise UserError(
            f"{dataset.name} has no validation samples, on which comparisons and studies choose the epoch; hold some out with "
            "--validation N, or add samples"
        )
    return config, dataset


def need_validation(config: TrainConfig) -> None:
    """Raises UserError unless the settings choose the epoch of every run on validation."""
    if config.test_every > 1:
        raise UserError(f"--test-every is {config.test_every}; comparisons and studies measure the test set after every epoch")
    if config.choose != "validation":
        raise UserError(f"--choose is {config.choose}; comparisons and studies choose the epoch on validation")
