"""The commands that use a trained network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tsslbp import data, metrics, training
from tsslbp.cli import predictions
from tsslbp.cli.parse import parse
from tsslbp.cli.show import console
from tsslbp.cli.streams import say
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, few

UNEQUAL = 2
"""How many times the samples of the smallest class the largest must have for their accuracies to be averaged, too."""


@dataclass(frozen=True)
class Evaluate:
    """Measure the accuracy of a trained model on its test set."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, or a model.safetensors."""
    data: str | None = None
    """Data set, or file or folder of your own, whose test samples are used. Default: the one the model was trained on."""
    all: Path | None = None
    """File or folder whose samples are all used. The model must never have been trained on it."""
    data_root: Path | None = None
    """Folder that holds the data sets. Default: the run's own; data for a model file."""
    download: bool = False
    """Fetch a missing data set into the data root."""
    skip_broken: bool = False
    """Leave out pictures of image-folder:DIR or webdataset:SHARDS that cannot be read, and name them."""
    workers: int | None = None
    """Processes that read pictures of image-folder:DIR or webdataset:SHARDS. Default: one less than the cores, at most 8."""
    early_exit: bool = False
    """Stop each sample as soon as its answer can no longer change, whatever the remaining steps bring."""


def evaluate(arguments: list[str]) -> None:
    """``tsslbp evaluate``."""
    options = parse(Evaluate, "evaluate", arguments)
    model = training.load(options.model)
    if options.all and options.data:
        raise UserError("--all and --data both name samples; give one of them")
    name = options.data or model.data
    streaming = _streaming(options, model.data if options.all else name)
    if options.all or (data.is_own(name) and not data.in_files.is_one(name)):
        given = {"--data-root": options.data_root is not None, "--download": options.download}
        if idle := [flag for flag, said in given.items() if said]:
            raise UserError(f"{' and '.join(idle)} has no effect on a file or folder of your own; leave it out")
    if options.all:
        samples = training.samples_of_file(model, data.in_files.bare(options.all), streaming)
    else:
        place = training.data_of(options.model, options.data, options.data_root)
        samples = training.samples_to_test(model, *place, options.download, streaming)
    for warning in samples.warnings:
        say(f"warning: {warning}")
    test = samples.split
    if options.early_exit and test.trains:
        raise UserError("--early-exit is for classes; this model answers with spike trains")
    if test.trains:
        distance = f"van Rossum distance {model.distance(test):.3f}"
        console.print(f"F1 {model.accuracy(test) / 100:.4f} (spikes within one step), {distance}, on {samples.which}")
        return
    if options.early_exit and test.padded and not model.inputs.filters:
        raise UserError("--early-exit is for sequences of one length; some of these end earlier than others")
    if options.early_exit:
        answers, taken = model.decide(test)
        console.print(f"decided after {float(taken.double().mean()):.2f} of {model.network.time_steps} steps on average")
    else:
        answers = model.answers(test)
    right = int((answers == test.y).sum())
    low, high = metrics.wilson_interval(right, len(test))
    console.print(
        f"test accuracy {100 * right / len(test):.2f} % "
        f"({right} of {len(test)}; 95 % interval {100 * low:.2f} to {100 * high:.2f}) on {samples.which}"
    )
    labels, counts = test.y.unique(return_counts=True)
    if counts.max() > UNEQUAL * counts.min():
        mean = sum(float((answers[test.y == label] == label).double().mean()) for label in labels) / len(labels)
        sizes = f"which have {int(counts.min()):,} to {int(counts.max()):,} samples"
        console.print(f"mean of the accuracies of the classes, {sizes}: {100 * mean:.2f} %")
    if never := [model.classes[label] for label in labels if not bool((answers == label).any())]:
        console.print(f"classes that were the answer to none of these samples: {few(never)}")
    if silent := int((answers == metrics.NO_ANSWER).sum()):
        console.print(f"no output neuron spiked for {silent} of these samples, which counts as wrong")


def _streaming(options: "Evaluate | Predict", name: str) -> data.Streaming:
    """How pictures in files are read. Raises UserError for options without effect on a data set of this name."""
    given = {"--skip-broken": options.skip_broken, "--workers": options.workers is not None}
    if idle := [flag for flag, said in given.items() if said and not data.in_files.is_one(name)]:
        raise UserError(f"{' and '.join(idle)} has no effect without a model or data of {data.in_files.FORMS}; leave it out")
    if options.workers is not None and options.workers < 0:
        raise UserError(f"--workers is {options.workers}; it must be 0 or more")
    return data.Streaming(skip_broken=options.skip_broken, workers=options.workers)


@dataclass(frozen=True)
class Predict:
    """Classify an image, or every sample of a file or folder, with a trained model."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's folder, or a model.safetensors."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """An image file, or a file or folder of any kind that train takes; labels are not needed. Images may have any size.
    Transparent parts become white. Images are converted to grey or RGB as the network needs, padded to the network's shape with
    the colour of their border, and scaled. Models of image-folder:DIR or webdataset:SHARDS take them as in their training,
    without padding, and read shards too."""
    out: Path | None = None
    """CSV file for the predictions, with columns sample, class, confidence and step. A model of target spike trains has a row
    for each output spike, with columns sample, neuron and step (from 0). Without it the first ones are printed."""
    skip_broken: bool = False
    """Leave out pictures that cannot be read, and name them; for models of image-folder:DIR or webdataset:SHARDS."""
    workers: int | None = None
    """Processes that read pictures, for models of image-folder:DIR or webdataset:SHARDS. Default: one less than the cores, at
    most 8."""
    invert: Literal["auto", "yes", "no"] = "auto"
    """Exchange light and dark. auto does so if a grey image has a light border and the training images a dark background, or
    the other way round, and says so. It leaves an image alone that has the size of your own training pictures, and all images
    if these were not normalised."""


def predict(arguments: list[str]) -> None:
    """``tsslbp predict``."""
    options = parse(Predict, "predict", arguments)
    model = training.load(options.model)
    inverted = {"auto": None, "yes": True, "no": False}[options.invert]
    samples = predictions.samples(data.in_files.bare(options.path), model, inverted, _streaming(options, model.data))
    for line in samples.warnings:
        say(line)
    out = options.out and files.output(options.out, options.path, Path(model.data), *training.files_of(options.model))
    made = predictions.of(model, samples)
    if out:
        predictions.write(out, made)
        console.print(f"wrote {made.what} to {options.out}")
        return
    for line in made.said[: predictions.SHOWN]:
        console.print(line)
    if more := made.said[predictions.SHOWN :]:
        console.print(f"and {len(more):,} more; --out FILE.csv writes all")
