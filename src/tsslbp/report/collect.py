"""Gathers the content of a run's report: its records, and results of its model on the test set."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsslbp import data, metrics, training
from tsslbp.network.notation import has_hidden
from tsslbp.report.run import RunReport, SampleRaster, TrainRaster, write_run_report
from tsslbp.training.records import CONFIG
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import imports, machine

SAMPLES = 4
"""Test samples shown as rasters; a wrong answer is among them if there is one."""


def write(folder: Path, data_root: Path | None = None, dataset: data.Dataset | None = None, markdown: bool = False) -> Path:
    """Build ``report.html`` in a run's folder, or ``README.md`` with SVG figures; returns the path of the page.

    Args:
        folder: the run's folder.
        data_root: folder of its data set, if it has moved.
        dataset: the data set of a run whose data were made in Python.
        markdown: write the short page in Markdown.

    Raises:
        UserError: no finished epoch, missing data, a damaged file.
    """
    history, final = training.read_metrics(folder)
    model = training.load(folder)
    settings = TrainConfig.from_toml(folder / CONFIG)
    dataset = training.dataset_of_run(model, settings, data_root, dataset)
    about: dict[str, Any] = _trains(model, dataset) if dataset.trains else _classes(model, dataset)
    report = RunReport(
        title=folder.resolve().name,
        command=f"tsslbp train --config {shlex.quote(f'{folder}/{CONFIG}')} --name NEW_NAME{imports.again(model.imports)}",
        settings=settings.to_dict(),
        history=history,
        final=final or training.summary(history, dataset, settings.choose, lambda: model.accuracy(dataset.test)),
        classes=dataset.classes,
        machine=(final or {}).get("machine") or machine.describe(),
        **about,
    )
    return write_run_report(folder / "report.html", report, markdown)


def _classes(model: training.Model, dataset: data.Dataset) -> dict[str, Any]:
    test = dataset.test
    answers, network = model.answers(test), model.network.architecture
    fires = network.spikes_last or (model.network.is_spiking and has_hidden(network.network))
    return {
        "confusion": confusion_counts(test.y, answers, len(dataset.classes)),
        "samples": [_raster(model, dataset, i) for i in _examples(test.y, answers)] if fires else [],
    }


def _trains(model: training.Model, dataset: data.Dataset) -> dict[str, Any]:
    test = dataset.test.select(torch.arange(min(SAMPLES, len(dataset.test))))
    spikes = model.spikes(test.x, test.lengths)
    drawn = (TrainRaster(spikes[:, i].numpy(), test.y[i].bool().numpy(), float(f1)) for i, f1 in enumerate(model.scores(test)))
    return {"confusion": None, "samples": [], "trains": tuple(drawn)}


def confusion_counts(label: Tensor, answer: Tensor, classes: int) -> np.ndarray:
    """Counts ``[classes, classes + 1]``; the last column is "no answer"."""
    column = torch.where(answer == metrics.NO_ANSWER, classes, answer)
    return torch.bincount(label * (classes + 1) + column, minlength=classes * (classes + 1)).view(classes, -1).numpy()


def _examples(label: Tensor, answer: Tensor) -> list[int]:
    """Indices of the first right answers of different classes, then of the first wrong one."""
    right: dict[int, int] = {}
    for index in (answer == label).nonzero().flatten().tolist():
        right.setdefault(int(label[index]), index)
    wrong = (answer != label).nonzero().flatten().tolist()[:1]
    return sorted(right.values())[: SAMPLES - len(wrong)] + wrong


def _raster(model: training.Model, dataset: data.Dataset, index: int) -> SampleRaster:
    sample = dataset.test.select(torch.tensor([index]))
    x = sample.x
    spikes, output = model.response(x, seed=index, lengths=sample.lengths)
    answer = int(metrics.decode(output))
    return SampleRaster(
        image=None if dataset.sequence else _picture(x[0].float(), model.shades()),
        label=dataset.classes[int(dataset.test.y[index])],
        answer="no answer" if answer == metrics.NO_ANSWER else dataset.classes[answer],
        confidence=float(metrics.confidence(output)),
        spikes={name: train.numpy() for name, train in spikes.items()},
    )


def _picture(x: Tensor, shades: tuple[Tensor, Tensor] | None) -> np.ndarray | None:
    """``[H, W]`` or ``[H, W, 3]`` in [0, 1] of a stored image, grey or RGB; None for anything else."""
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        return None
    black, white = shades or (x.min(), x.max())
    intensity = ((x - black) / (white - black)).clamp(0, 1)
    return intensity[0].numpy() if x.shape[0] == 1 else intensity.permute(1, 2, 0).numpy()
