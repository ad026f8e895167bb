"""Learning rates, chosen on validation for each rule."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tsslbp import training
from tsslbp.errors import UserError
from tsslbp.settings import TrainConfig
from tsslbp.study.runs import Watch, finished, folder_name

FURTHER = 4
"""Most learning rates that are tried beyond the given ones."""


def tuned(label: str, trials: list[TrainConfig], rates: Sequence[float], watch: Watch) -> list[dict[str, Any]]:
    """Mean validation accuracy of the trials by learning rate, None if one diverged.

    While the best lies at an end, rates beyond it are tried, with the ratio of the last two.
    """
    tried = {rate: _tried(label, trials, rate, watch) for rate in sorted(rates)}
    for _ in range(FURTHER):
        order = sorted(tried)
        stable = [rate for rate in order if tried[rate] is not None]
        best = best_rate(label, _listed(tried)) if stable else order[0]
        if len(order) < 2 or best not in (order[0], order[-1]):
            break
        inward = order[1] if best == order[0] else order[-2]
        further = float(f"{best * best / inward:.1e}")
        tried[further] = _tried(label, trials, further, watch)
    return _listed(tried)


def _listed(tried: dict[float, float | None]) -> list[dict[str, Any]]:
    return [{"learning_rate": rate, "validation_accuracy": tried[rate]} for rate in sorted(tried)]


def _tried(label: str, trials: list[TrainConfig], rate: float, watch: Watch) -> float | None:
    """Mean validation accuracy of runs at a learning rate; None if one diverged."""
    reached = []
    for trial in trials:
        name = f"{folder_name(label)}-rate{rate!r}" + (f"-{trial.seed}" if len(trials) > 1 else "")
        try:
            ended = finished(replace(trial, learning_rate=rate, name=name), watch)
        except training.Diverged:
            return None
        reached.append(training.final_of(ended)["validation_accuracy"])
    return statistics.fmean(reached)


def best_rate(label: str, tried: list[dict[str, Any]]) -> float:
    """The best learning rate; the middle one of equally good ones."""
    stable = [trial for trial in tried if trial["validation_accuracy"] is not None]
    if not stable:
        raise UserError(f"{label} diverged at every learning rate of --tune; add lower ones")
    best = max(trial["validation_accuracy"] for trial in stable)
    equal = [float(trial["learning_rate"]) for trial in stable if trial["validation_accuracy"] == best]
    return equal[(len(equal) - 1) // 2]
