"""The report of a run: its numbers in sentences."""

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tsslbp.metrics import wilson_interval
from tsslbp.report import figures
from tsslbp.report.page import write_page
from tsslbp.training.baselines import BASELINES, verdict
from tsslbp.utils.errors import UserError, few


@dataclass(frozen=True, eq=False)
class SampleRaster:
    """One test sample and the spikes it caused.

    Args:
        image: ``[H, W]`` or ``[H, W, 3]`` in [0, 1], or None where the sample is not an image.
        label: true class, one of the report's.
        answer: class answered; any other text if the output was silent.
        confidence: the answer's share of the output current, in [0, 1].
        spikes: ``[T, neurons]`` of bool for every spiking layer by name, the output last with equally many
            neurons for each class.
    """

    image: NDArray[Any] | None
    label: str
    answer: str
    confidence: float
    spikes: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class TrainRaster:
    """Response of the output neurons to one pattern.

    Args:
        output: ``[T, neurons]`` of bool.
        target: the target trains, same shape.
        f1: how well they agree, from 0 to 1.
    """

    output: NDArray[np.bool_]
    target: NDArray[np.bool_]
    f1: float


@dataclass(frozen=True, eq=False)
class RunReport:
    """Everything the report of a run shows.

    Args:
        title: name of the run.
        command: the command that made it.
        settings: the run's settings by name.
        history: one record an epoch: ``epoch`` (from 1), ``train_loss``, ``train_accuracy``, ``validation_accuracy``,
            ``test_accuracy`` (percent), ``learning_rate``, ``seconds`` (since the start); for spiking networks ``rates`` by
            layer, and under rules of the TSSL family ``fallback``.
        final: ``test_accuracy`` of ``best_epoch``, the chosen epoch, its ``validation_accuracy``, ``best_test_accuracy`` and
            ``best_test_epoch``, ``seconds``; further fields are listed unchanged.
        classes: names of the classes.
        confusion: counts of test samples, ``[classes, classes + 1]``: row true class, column answer, last column no answer.
            None where the targets are spike trains; accuracies are then 100 times the mean F1.
        samples: samples to draw.
        machine: that it ran on; of runs that do not say so, the one that makes the page.
        trains: patterns to draw, if the targets are spike trains.

    Raises:
        UserError: no epoch, no test sample, or a confusion matrix of another shape.
    """

    title: str
    command: str
    settings: dict[str, Any]
    history: list[dict[str, Any]]
    final: dict[str, Any]
    classes: tuple[str, ...]
    confusion: NDArray[Any] | None
    samples: list[SampleRaster]
    machine: dict[str, str]
    trains: tuple[TrainRaster, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.classes)
        if self.confusion is not None and self.confusion.shape != (n, n + 1):
            raise UserError(f"confusion matrix has shape {list(self.confusion.shape)}; {n} classes need [{n}, {n + 1}]")
        if not self.history or (self.confusion is not None and not self.confusion.any()):
            raise UserError(
                f"nothing to report on {self.title!r}: {'no test sample' if self.history else 'no epoch is finished'}"
            )


def write_run_report(path: Path, report: RunReport, markdown: bool = False) -> Path:
    """Write the report as one HTML file that needs nothing else, or a short form as ``README.md`` beside it with its figures as
    SVG files; returns the path of the page. The same data gives the same bytes.

    Raises:
        UserError: a file cannot be written.
    """
    name, filters, context = _contents(report)
    return write_page(path, name, context, markdown, **filters)


FIRING = {
    "rates": (
        "spikes per neuron and step",
        "How often the neurons of each layer fire, on part of the validation set, or of the training set if none is held out.",
    ),
    "fallback": (
        "share of gradient entries",
        "At how many neurons and steps of each layer the gradient is the rule's fallback, a surrogate, on the same samples.",
    ),
    "multiplied": (
        "share of inputs",
        "How much of each layer's input its linear map multiplies, on the same samples. Only what changes from one step to the "
        "next needs to be; 1 is a dense product.",
    ),
}
"""Fields of an epoch's record by layer: axis and caption."""
IN_WORDS = (
    "test_accuracy",
    "validation_accuracy",
    "best_epoch",
    "best_test_accuracy",
    "best_test_epoch",
    "seconds",
    "epochs",
    "choose",
    *("event", "test_images", "test_samples", "machine", "model"),
    *BASELINES,
)
"""Fields of the final record that the template puts into words, or leaves out."""


Contents = tuple[str, dict[str, Callable[..., str]], dict[str, Any]]
"""A page's template, without the ending of its name, its own filters, and its variables."""


def _contents(report: RunReport) -> Contents:
    if report.confusion is None:
        return _contents_of_trains(report)
    counts, n = report.confusion, len(report.classes)
    total = int(counts.sum())
    decimals = 1 if total < 2000 else 2

    def percent(value: float | None) -> str:
        return "–" if value is None or not math.isfinite(value) else f"{value:.{decimals}f}\u00a0%"

    right = round(report.final["test_accuracy"] * total / 100)
    context = {
        "run": report,
        "final": {"validation_accuracy": None, "choose": "validation", **report.final},
        "extra": {key: value for key, value in report.final.items() if key not in IN_WORDS},
        "simple": [f"{line[0].upper()}{line[1:]}." for line in verdict(report.final).splitlines()],
        "noun": "images" if any(sample.image is not None for sample in report.samples) else "samples",
        "total": total,
        "decimals": decimals,
        "right": right,
        "interval": [100 * bound for bound in wilson_interval(right, total)],
        "silent": int(counts[:, n].sum()),
        "never": few([name for k, name in enumerate(report.classes) if counts[k].any() and not counts[:, k].any()]),
        "counted_right": int(np.trace(counts[:, :n])),
        "confused": _confused(counts[:, :n], counts.sum(1), report.classes),
        "diverged": np.flatnonzero(~np.isfinite(figures.column(report.history, "train_loss"))).tolist(),
        "loss": figures.loss("loss", report.history),
        "accuracy": figures.accuracy("accuracy", report.history, report.final["best_epoch"]),
        "firing": _firing(report.history),
        "columns": [
            key
            for key in report.history[0]
            if key not in FIRING and any(record.get(key) is not None for record in report.history)
        ],
        "confusion": figures.confusion("confusion", counts, report.classes),
        "samples": [
            (sample, _png(sample.image), _raster(i, sample, report.classes)) for i, sample in enumerate(report.samples)
        ],
        "most_drawn": figures.MOST_DRAWN,
        "voltage": report.settings.get("readout") == "voltage",
    }
    return "run", {"percent": percent}, context


def _contents_of_trains(report: RunReport) -> Contents:
    context = {
        "run": report,
        "final": {"choose": "validation", **report.final},
        "loss": figures.loss("loss", report.history),
        "accuracy": figures.accuracy("f1", report.history, report.final["best_epoch"], "F1 × 100"),
        "firing": _firing(report.history),
        "trains": [figures.trains(f"trains-{i}", one.output, one.target, one.f1) for i, one in enumerate(report.trains)],
    }
    return "trains", {"f1": lambda percent: f"{percent / 100:.3f}"}, context


def _firing(history: list[dict[str, Any]]) -> list[tuple[Markup, str]]:
    """Figures of the layers' firing during training, with captions; none if the run did not record it."""
    return [
        (figures.by_layer(key, history, key, ylabel), caption)
        for key, (ylabel, caption) in FIRING.items()
        if any(key in record for record in history)
    ]


def _confused(counts: NDArray[Any], totals: NDArray[Any], classes: tuple[str, ...]) -> list[tuple[int, str, str, float]]:
    """The three most common wrong answers: how often, true class, answer, percent of the true class."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:3]
    pairs = [(int(at) // len(classes), int(at) % len(classes)) for at in order]
    return [
        (int(wrong[pair]), classes[pair[0]], classes[pair[1]], 100 * float(wrong[pair] / totals[pair[0]]))
        for pair in pairs
        if wrong[pair]
    ]


def _raster(number: int, sample: SampleRaster, classes: tuple[str, ...]) -> str:
    answer = classes.index(sample.answer) if sample.answer in classes else None
    return figures.raster(f"raster-{number}", sample.spikes, classes, classes.index(sample.label), answer)


def _png(image: NDArray[Any] | None) -> str | None:
    """A picture as the text of a ``data:`` address."""
    if image is None:
        return None
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 1)
    matplotlib.image.imsave(buffer := io.BytesIO(), pixels, format="png", cmap="gray", vmin=0, vmax=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
