"""Finds samples to evaluate a model on, and checks that they are like those it was trained on."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from tsslbp import data
from tsslbp.data import Dataset, Split, Streaming, csv_table, in_files, readers
from tsslbp.data.dataset import FIFTH
from tsslbp.data.labels import by_place, unlike, whole_numbers
from tsslbp.training.model import Model
from tsslbp.training.records import CONFIG
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError

SEEN = 0.9
"""A file that holds this share of the training samples is the training set."""


@dataclass(frozen=True)
class Samples:
    """Samples to evaluate on."""

    split: Split
    which: str
    """A description for the reader: ``your x_test, 1,000 samples``."""
    warnings: list[str] = field(default_factory=list)
    """Warnings, a line each."""
    names: list[str] = field(default_factory=list)
    """Name of each sample: its file, or its number."""


def dataset_of(
    model: Model,
    root: Path,
    name: str = "",
    *,
    validation: int | None = None,
    download: bool = False,
    streaming: Streaming | None = None,
) -> Dataset:
    """The named data set, by default the model's own, in the form that the model takes (:func:`tsslbp.data.load`)."""
    inputs = model.inputs
    return data.load(
        name or model.data,
        root,
        validation=validation,
        download=download,
        time_steps=inputs.raw_steps,
        streaming=_as_seen(model, streaming),
        rate=inputs.rate,
        shape=model.sample_shape,
    )


def dataset_of_run(model: Model, settings: TrainConfig, root: Path | None = None, given: Dataset | None = None) -> Dataset:
    """The data set of a run with these settings, in another data root if one is given; or the ``given`` one, checked.

    Raises UserError if they are not there, or its test samples are no longer those that the run was measured on.
    """
    if given is not None:
        return _checked(model, data.check(given, "dataset"))
    root, name = root or settings.data_root, settings.data  # where they lay when the run was last resumed
    if _gone(name, root):
        known = "put it back, work in the folder it is in, or resume the run with --data (one that has ended trains no more)"
        raise UserError(f"there is no {name} here, on which the run was trained; {known}")
    dataset = dataset_of(model, root, name, validation=settings.validation, streaming=settings.streaming)
    if model.facts and not model.facts.is_test_set(dataset.test):
        raise UserError(f"{name} has other test samples than those that the run was measured on; restore them, or train again")
    return dataset


def _checked(model: Model, dataset: Dataset) -> Dataset:
    """A data set made in Python. Raises UserError unless it has the classes and the test samples of the model's."""
    if dataset.classes != model.classes:
        raise UserError(f"the classes of dataset are {unlike(dataset.classes, model.classes)}; give the run's own data set")
    if dataset.train.shape != model.sample_shape or (model.facts and not model.facts.is_test_set(dataset.test)):
        raise UserError("dataset has other test samples than those that the run was measured on; give the run's own data set")
    return dataset


def data_of(path: Path, name: str | None, root: Path | None) -> tuple[str | None, Path]:
    """Name and data root of samples to test the model at a path on: as given, else where its run last found its data."""
    if (name and root) or not (settings := path / CONFIG).is_file():
        return name, root or Path("data")
    run = TrainConfig.from_toml(settings)
    return name or (None if run.data.startswith(data.MADE) else run.data), root or run.data_root


def _gone(name: str, root: Path) -> bool:
    """Whether a data set was a file or folder that is not there; of a pattern of shards, only its reader knows."""
    path = in_files.bare(Path(name))
    there = path.exists() or (in_files.is_one(name) and (Path(root, path).exists() or not {*"*?[{"}.isdisjoint(name)))
    return data.is_own(name) and not there


def _as_seen(model: Model, streaming: Streaming | None) -> Streaming:
    """How to read pictures in the size of the model's."""
    return replace(streaming or Streaming(), size=model.sample_shape[-1], random_crop=0.0)


def samples_to_test(
    model: Model, name: str | None, root: Path, download: bool = False, streaming: Streaming | None = None
) -> Samples:
    """The test samples of a data set found by :func:`tsslbp.data.load`, by default of the model's own.

    Raises:
        UserError: no such data; samples of another shape, other classes or other units than the model was trained on; a file
            without its own test samples that the model was not trained on.
    """
    if not name and not model.data:
        raise UserError("the model was made or trained in Python, or imported; name the samples to test it on with --data")
    if name in (None, model.data) and _gone(model.data, root):
        flags = "--data or --data-root" if in_files.is_one(model.data) else "--data"
        raise UserError(f"there is no {model.data} here, on which the model was trained; say where it is with {flags}")
    name = name or model.data
    if data.is_own(name):
        _refuse_recordings(model, Path(name))
    dataset = dataset_of(model, root, name, download=download, streaming=streaming)
    if dataset.computed and name == model.data and model.facts and not data.is_own(name):
        held = model.facts.samples["validation"]  # spoken digits are normalised by the rest
        whole = model.facts.samples["train"] + held == len(dataset.train) + len(dataset.validation)
        if whole and held != len(dataset.validation):
            dataset = dataset_of(model, root, name, validation=held, download=download, streaming=streaming)
    if len(dataset.classes) != len(model.classes):
        raise UserError(f"{name} has {len(dataset.classes)} classes; the model has {len(model.classes)}")
    pair = (dataset.classes, model.classes)
    if dataset.classes != model.classes and (all(map(_named, pair)) or all(map(whole_numbers, pair))):
        raise UserError(f"the classes of {name} are {unlike(dataset.classes, model.classes)}")
    test = dataset.test
    if not len(test):
        raise UserError(f"{name} has no test samples; give it some, or evaluate all samples of a file with --all")
    if model.facts and dataset.columns and model.facts.columns:
        test = replace(test, x=test.x[:, csv_table.order_of(dataset.columns, model.facts.columns, name)])
    samples = Samples(test, f"{dataset.tested_on}, {len(test):,} samples")
    if dataset.classes != model.classes and not model.trains:
        samples.warnings.append(by_place(dataset.classes, model.classes))
    _check_targets(model, test, name)
    _check(model, samples, name)
    if model.facts is None:
        if name != model.data:
            _warn_of_seen(model, samples, name)
    elif not model.facts.is_test_set(test):
        if data.is_own(name) and dataset.tested_on == FIFTH:
            lacks = "x_test" if name.endswith(".npz") else "test samples of its own"
            raise UserError(
                f"{name} has no {lacks}, and it is not, or no longer, the file that the model was trained on; evaluate every "
                f"sample of a file that it was never trained on with: --all {name}"
            )
        if name == model.data:
            samples.warnings.append(f"the test set of {name} is not the one that the model was measured on after its training")
        _warn_of_seen(model, samples, name)
    return samples


def samples_of_file(model: Model, path: Path, streaming: Streaming | None = None) -> Samples:
    """Every sample of a user's file or folder that the model was never trained on.

    Raises:
        UserError: no such file; the file it was trained on; samples of another shape, other classes or other units.
    """
    samples = _all_of(model, path, True, streaming)
    _check_targets(model, samples.split, str(path))
    _check(model, samples, str(path))
    _warn_of_seen(model, samples, str(path))
    return samples


def samples_to_predict(model: Model, path: Path, streaming: Streaming | None = None) -> Samples:
    """Every sample of a user's file or folder; labels are not needed.

    Raises:
        UserError: no such file; samples of another shape or other units than the model was trained on.
    """
    samples = _all_of(model, path, False, streaming)
    _check(model, samples, str(path))
    return samples


def _all_of(model: Model, path: Path, labelled: bool, streaming: Streaming | None) -> Samples:
    _refuse_recordings(model, path)
    if in_files.is_one(model.data):
        found, names, notes = in_files.samples(path, model.classes, labelled, _as_seen(model, streaming))
        return Samples(found, f"all of {path}, {len(found):,} samples", notes, names)
    columns = model.facts.columns if model.facts else ()
    split, names, notes = readers.samples(path, model.classes, model.sample_shape, model.inputs.rate, columns, labelled)
    return Samples(split, f"all of {path}, {len(split):,} samples", notes, names)


def _refuse_recordings(model: Model, path: Path) -> None:
    """Raises UserError for recordings, one or a folder, if those of the training were prepared before the model got them."""
    how = data.PREPARED.get(model.data)
    if how and (found := readers.at(path)) and found[0].folder:
        raise UserError(
            f"{path} is not {how}, as the recordings of the training were; train on your own recordings with --data {path}"
        )


def _named(classes: tuple[str, ...]) -> bool:
    """Whether classes have names other than their numbers."""
    return classes != tuple(map(str, range(len(classes))))


def _check_targets(model: Model, samples: Split, name: str) -> None:
    if samples.trains != model.trains:
        kinds = ("spike trains", "classes")
        theirs, ours = kinds if samples.trains else kinds[::-1]
        raise UserError(f"the targets of {name} are {theirs}; the model was trained on {ours}")
    if samples.trains and samples.y.shape[1] != model.network.time_steps:
        raise UserError(f"the target trains of {name} have {samples.y.shape[1]} steps; the model's {model.network.time_steps}")


def _check(model: Model, samples: Samples, name: str) -> None:
    shape, wanted = list(samples.split.shape), list(model.sample_shape)
    if shape != wanted:
        fix = ""
        if not model.inputs.sequence and shape[1:] == wanted and model.facts is None:
            fix = "; if these are sequences and it was imported, import it again with --sequences"
        if model.inputs.sequence and shape[1:] == wanted[1:]:
            fix = "; add zeros at the end, and give lengths" if shape[0] < wanted[0] else "; cut them"
        raise UserError(f"samples of {name} have shape {shape}; the model takes {wanted}{fix}")
    scale = model.inputs.normalisation.scale
    if samples.split.streamed and scale == 255:  # bytes, as the model has it
        return
    x = (samples.split.looked_at() if samples.split.streamed else samples.split).values()
    if model.facts is None and scale > 1 >= float(x.max()):  # a model of version 0.1.0, which remembers no range
        raise UserError(f"values of {name} run to {float(x.max()):g}; the model takes them up to {scale:g}, so multiply them")
    if found := model.facts.unlike(x, model.inputs.sequence) if model.facts else None:
        ranges, other_units = found
        if other_units:
            raise UserError(f"values of {name} {ranges}; bring them to the same units")
        samples.warnings.append(f"values of {name} {ranges}")


def _warn_of_seen(model: Model, samples: Samples, name: str) -> None:
    if model.facts is None:
        samples.warnings.append(f"this model does not remember its training samples; {name} must not hold any of them")
        return
    seen, repeated = model.facts.seen(samples.split)
    if samples.split.streamed:  # recognised by names and sizes, which other pictures may have too
        if seen:
            alike = f"about {100 * seen:.0f} % of the training samples have the names and sizes of samples in {name}"
            samples.warnings.append(f"{alike}; they must not be the same pictures")
        return
    if seen >= SEEN and not repeated:
        raise UserError(f"{name} holds the samples that the model was trained on; evaluate it on others")
    if seen:
        samples.warnings.append(f"about {100 * seen:.0f} % of the training samples are in {name} too")
