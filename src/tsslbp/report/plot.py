"""Figures of models and runs for notebooks: spikes, learning curves, confusion.

Every function returns a :class:`matplotlib.figure.Figure` in the reader's own style. A notebook shows it, and
``figure.savefig(path)`` writes it. A run's HTML report has more (``tsslbp report``).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tsslbp import metrics, training
from tsslbp.data import Dataset, sample_values
from tsslbp.report.collect import confusion_counts
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError, check_whole

DRAWN = {"epoch", "train_loss", "train_accuracy", "validation_accuracy", "test_accuracy"}
MOST_NAMED = 30
"""Most classes for which axes show names and the confusion matrix shows counts."""


class _Shown(Figure):
    """A figure that every notebook shows, also without ``pyplot``."""

    def _repr_png_(self) -> bytes:
        self.savefig(buffer := io.BytesIO(), format="png", dpi=100)
        return buffer.getvalue()


def raster(model: training.Model, x: Any, length: int | None = None) -> Figure:
    """The network's spikes for one sample, a band for each layer, the output last; time goes to the right.

    Args:
        model: a trained model, as :func:`tsslbp.load` returns it, or ``classifier.model_``.
        x: a stored sample, before any normalisation, of ``model.sample_shape``: an array or a tensor.
        length: its steps, if it is a sequence that is padded.

    Raises:
        UserError: no model, a sample of another shape or length, a network of units that do not spike.
    """
    if not isinstance(model, training.Model):
        raise UserError(f"raster draws a model, as tsslbp.load returns it, not a {type(model).__name__}")
    if (array := sample_values.as_array("x", x)).dtype.kind not in "buif":
        raise UserError(f"x is {array.dtype}; it must hold real numbers")
    if length is not None:
        check_whole("length", length)
    stored = torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float32))
    if stored.shape != model.sample_shape:
        raise UserError(f"x has shape {list(stored.shape)}; one sample of this model has {list(model.sample_shape)}")
    if not model.network.is_spiking:
        raise UserError(f"a network of {model.network.architecture.neuron} units has no spikes to draw")
    spikes, output = model.response(stored.unsqueeze(0), lengths=None if length is None else torch.tensor([length]))
    if not spikes:
        raise UserError("this network has one layer, read from its voltage, and so no spikes to draw")
    figure = _Shown(figsize=(6, 0.6 + 1.2 * len(spikes)), layout="constrained")
    bands = figure.subplots(len(spikes), squeeze=False, sharex=True)[:, 0]
    for axes, (name, fired) in zip(bands, spikes.items(), strict=True):
        steps, neurons = fired.nonzero().T.numpy()
        height = np.clip(60 / fired.shape[1], 1.5, 9)  # of a mark, in points
        axes.scatter(steps + 1, neurons, marker="|", s=height**2, color="black", linewidths=1)
        axes.set(xlim=(0.5, len(fired) + 0.5), ylim=(fired.shape[1] - 0.5, -0.5), ylabel=name)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bands[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
    bands[-1].set_xlabel("time step")
    answer = int(metrics.decode(output))
    said = "no answer" if answer == metrics.NO_ANSWER else f"answer: {model.classes[answer]}"
    if not model.trains:
        figure.suptitle(said, parse_math=False)
    return figure


def curves(run: str | Path | Sequence[dict[str, Any]]) -> Figure:
    """Training loss and accuracies over the epochs.

    Args:
        run: a run's folder, or the records of its epochs, such as ``classifier.history_``.

    Raises:
        UserError: no run at the folder, no finished epoch, anything other than a folder or records.
    """
    history = training.history(run) if isinstance(run, str | Path) else run
    if not isinstance(history, Sequence) or not all(isinstance(one, dict) and one.keys() >= DRAWN for one in history):
        raise UserError("run must be a run's folder, or a list of the records of its epochs, as in metrics.jsonl")
    if not history:
        raise UserError("there is nothing to draw: no epoch is finished")
    figure = _Shown(figsize=(8, 3), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    losses = [record["train_loss"] for record in history]
    loss.plot([record["epoch"] for record in history], losses, color="black", marker=_mark(losses))
    loss.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    for part in ("train", "validation", "test"):
        known = [record for record in history if record[f"{part}_accuracy"] is not None]  # --test-every leaves epochs out
        if known:
            values = [record[f"{part}_accuracy"] for record in known]
            epochs, label = [record["epoch"] for record in known], part.replace("train", "training")
            accuracy.plot(epochs, values, label=label, marker=_mark(values))
    accuracy.set(xlabel="epoch", ylabel="right answers (or F1), %")
    accuracy.legend()
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def _mark(values: Sequence[float]) -> str | None:
    """A mark for each of a few points: a single one makes no line."""
    return "." if len(values) <= 30 else None


def confusion(run: str | Path, dataset: Dataset | None = None) -> Figure:
    """How a run's model answers the samples of each class in its test set; a last column counts those without an answer.

    Args:
        run: a run's folder. Its data set must be where the run found it.
        dataset: that of a run whose data were made in Python.

    Raises:
        UserError: no run at the folder, missing or other data, targets that are no classes.
    """
    model, settings = training.load(run), TrainConfig.from_toml(Path(run) / training.CONFIG)
    test = training.dataset_of_run(model, settings, given=dataset).test
    if test.trains:
        raise UserError(f"the targets of {model.data} are spike trains, which are not confused")
    names = [*model.classes, "no answer"]
    counts = confusion_counts(test.y, model.answers(test), len(model.classes))
    if not counts[:, -1].any():
        names, counts = names[:-1], counts[:, :-1]
    size = min(10.0, 2.5 + 0.4 * len(names))
    figure = _Shown(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot(xlabel="answer", ylabel="true class")
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(model.classes) <= MOST_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(range(len(model.classes)), model.classes, parse_math=False)
        for row, column in np.argwhere(counts):
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize="small")
    return figure
