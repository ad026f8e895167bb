"""Predictions for a user's own samples: what to predict, the answers, and the file they go to."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from tsslbp import files, metrics, training
from tsslbp.cli import picture
from tsslbp.data import Split, pictures, readers
from tsslbp.data.folders import files_in
from tsslbp.errors import UserError

SHOWN = 20
"""Predictions printed where they go to no file."""
HEAD = ("sample", "class", "confidence", "step")


@dataclass(frozen=True)
class Prediction:
    """The answer to one sample; ``name`` is empty where there is none."""

    sample: str
    name: str
    confidence: float
    step: int

    def said(self, time_steps: int) -> str:
        if not self.name:
            return "no answer: no output neuron spiked"
        return f"{self.name}  (confidence {100 * self.confidence:.1f} %, unchanged from step {self.step} of {time_steps} on)"


def samples(path: Path, model: training.Model, invert: bool | None) -> training.Samples:
    """The samples at a path, with what a user should know of them.

    A model of images takes images of any size, :func:`tsslbp.cli.picture.read`.

    Raises:
        UserError: no samples there, or some that the model does not take.
    """
    chosen = readers.at(path)
    if len(model.sample_shape) != 3 or (chosen and chosen[0].read is not pictures.read):
        if invert is not None:
            raise UserError(f"--invert has no effect: {path} holds no pictures; leave it out")
        return training.samples_to_predict(model, path)
    images = list(files_in(path, pictures.SUFFIXES)) if path.is_dir() else [path]
    if not images:
        raise UserError(f"{path} has no pictures ({', '.join(pictures.SUFFIXES)})")
    found = [picture.read(image, model, invert) for image in images]
    said = Counter(line for _, lines in found for line in lines)
    told = [line if len(images) == 1 else f"{count} of {len(images)} images: {line}" for line, count in said.items()]
    names = [image.relative_to(path).as_posix() if path.is_dir() else image.name for image in images]
    split = Split(torch.cat([x for x, _ in found]), torch.full((len(found),), -1))
    return training.Samples(split, str(path), told, names)


def of(model: training.Model, given: training.Samples) -> list[Prediction]:
    """The answers to samples, in their order."""
    output = model.outputs(given.split.x, given.split.lengths)
    answers, steps = metrics.decode(output).tolist(), (metrics.settled_step(output) + 1).tolist()
    rows = zip(given.names, answers, metrics.confidence(output).tolist(), steps, strict=True)
    return [
        Prediction(sample, model.classes[n] if n != metrics.NO_ANSWER else "", share, step) for sample, n, share, step in rows
    ]


def write(out: Path, made: list[Prediction], path: Path) -> None:
    """Write predictions as CSV; a file at ``out`` is replaced whole or not at all.

    Raises:
        UserError: it cannot be written, or it is the file that was read.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise UserError(f"--out {out} is the file with the samples; choose another")
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEAD)
    for one in made:
        rows.writerow([one.sample, one.name, f"{one.confidence:.4f}", one.step if one.name else ""])
    files.write_text(out, text.getvalue())
