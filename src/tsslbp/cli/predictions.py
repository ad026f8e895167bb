"""Predictions for a user's own samples: the samples, the answers, and their file."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from tsslbp import metrics, training
from tsslbp.cli import picture
from tsslbp.data import Split, Streaming, in_files, pictures, readers
from tsslbp.data.folders import files_in
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, each_of

SHOWN = 20
"""Samples whose predictions are printed if there is no file."""
SPIKES = 8
"""Spikes of a sample that are printed."""


@dataclass(frozen=True)
class Predictions:
    """The answers to samples.

    Args:
        head: names of the columns.
        rows: of the file.
        said: a line for each sample, for the screen.
        what: description of the rows.
    """

    head: tuple[str, ...]
    rows: list[tuple[object, ...]]
    said: list[str]
    what: str


def samples(path: Path, model: training.Model, invert: bool | None, streaming: Streaming | None = None) -> training.Samples:
    """The samples at a path, with notes for the user.

    A model of images takes images of any size (:func:`tsslbp.cli.picture.read`). A model of pictures in files takes them as in
    its training; ``streaming`` says how they are read.

    Raises:
        UserError: no samples there, or some that the model does not take.
    """
    chosen, streams = readers.at(path), in_files.is_one(model.data)
    if streams or len(model.sample_shape) != 3 or (chosen and chosen[0].read is not pictures.read):
        if invert is not None:
            why = f"the model takes pictures as {model.data} has them" if streams else f"{path} holds no pictures"
            raise UserError(f"--invert has no effect: {why}; leave it out")
        return training.samples_to_predict(model, path, streaming)
    images = list(files_in(path, pictures.SUFFIXES)) if path.is_dir() else [path]
    if not images:
        raise UserError(f"{path} has no pictures ({', '.join(pictures.SUFFIXES)})")
    found = each_of(lambda image: picture.read(image, model, invert), images)
    said = Counter(line for _, lines in found for line in lines)
    told = [line if len(images) == 1 else f"{count} of {len(images)} images: {line}" for line, count in said.items()]
    told += readers.notes(path)
    names = [image.relative_to(path).as_posix() if path.is_dir() else image.name for image in images]
    split = Split(torch.cat([x for x, _ in found]), torch.full((len(found),), -1))
    return training.Samples(split, str(path), told, names)


def of(model: training.Model, given: training.Samples) -> Predictions:
    """The answers to samples, in their order."""
    return _trains(model, given) if model.trains else _classes(model, given)


def _classes(model: training.Model, given: training.Samples) -> Predictions:
    """A row for each sample; without an answer it has no class and no step, and without output spikes no step."""
    answers, shares, settled = model.decoded(given.split)
    ends = model.inputs.steps(given.split.lengths)
    ends = torch.full_like(answers, model.network.time_steps) if ends is None else ends
    each = answers.tolist(), shares.tolist(), (settled + 1).tolist(), ends.tolist()
    rows, said = list[tuple[object, ...]](), []
    spikes = model.network.architecture.spikes_last  # without them there is one answer, after the last step
    for sample, n, share, step, steps in zip(given.names, *each, strict=True):
        answered = n != metrics.NO_ANSWER
        rows.append((sample, model.classes[n] if answered else "", f"{share:.4f}", step if answered and spikes else ""))
        certain = f"(confidence {100 * share:.1f} %{f', unchanged from step {step} of {steps} on' if spikes else ''})"
        said.append(f"{model.classes[n]}  {certain}" if answered else "no answer: no output neuron spiked")
    return Predictions(("sample", "class", "confidence", "step"), rows, _named(said, given), f"{len(rows):,} predictions")


def _trains(model: training.Model, given: training.Samples) -> Predictions:
    """A row for each output spike, by sample, step and neuron. Steps count from 0, as in arrays of target trains."""
    spikes = model.spikes(given.split.x, given.split.lengths).transpose(0, 1)
    rows, said = list[tuple[object, ...]](), []
    for sample, train in zip(given.names, spikes, strict=True):
        places = [(model.classes[neuron], step) for step, neuron in train.nonzero().tolist()]
        rows += [(sample, neuron, step) for neuron, step in places]
        first = ", ".join(f"{neuron} at step {step}" for neuron, step in places[:SPIKES])
        said.append(
            f"{len(places)} output spikes: {first}{', ...' if places[SPIKES:] else ''}" if places else "no output spike"
        )
    what = f"{len(rows):,} spikes of {len(given.names):,} samples"
    return Predictions(("sample", "neuron", "step"), rows, _named(said, given), what)


def _named(said: list[str], given: training.Samples) -> list[str]:
    names = (name.replace("\n", "\\n") for name in given.names)
    return said if len(said) == 1 else [f"{name}: {line}" for name, line in zip(names, said, strict=True)]


def write(out: Path, made: Predictions) -> None:
    """Write predictions as CSV; a file at ``out`` is replaced whole or not at all. Raises UserError if it cannot be written."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(made.head)
    rows.writerows(made.rows)
    files.write_text(out, text.getvalue())
