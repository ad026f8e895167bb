"""Settings chosen on validation for each rule of a comparison: a learning rate, or all that ``search.py`` draws."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsslbp import training
from tsslbp.data import Dataset, Facts
from tsslbp.study.runs import Watch, folder_name, seeds_from, validated
from tsslbp.study.search import best, searched
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError

FURTHER = 4
"""Most learning rates that are tried beyond the given ones."""


@dataclass(frozen=True)
class Tuning:
    """How every rule of a comparison is tuned. Without arguments, nothing is.

    Args:
        rates: learning rates to try. If the best one lies at an end, up to FURTHER more are tried beyond it.
        trials: instead, how many trials of settings each rule gets.
        epochs: of each trial; None: those of the comparison.
        seeds: how many runs try each rate, or each of the best trials.

    Raises:
        UserError: numbers that are not positive or finite, or that are about trials where there are none.
    """

    rates: tuple[float, ...] = ()
    trials: int = 0
    epochs: int | None = None
    seeds: int = 1

    def __post_init__(self) -> None:
        if not all(0 < rate < math.inf for rate in self.rates) or self.trials < 0:
            raise UserError(f"learning rates are {list(self.rates)} and trials {self.trials}; they must be positive")
        if self.seeds < 1:
            raise UserError(f"--tune-seeds is {self.seeds}; it must be positive")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"--tune-epochs is {self.epochs}; it must be positive")
        if not self and (self.seeds > 1 or self.epochs is not None):
            raise UserError("--tune-epochs and --tune-seeds are about trials; add --tune with a number of them, such as 30")

    def __bool__(self) -> bool:
        return bool(self.rates or self.trials)

    @staticmethod
    def of(text: str, epochs: int | None, seeds: int) -> "Tuning":
        """From ``--tune``, a number of trials or learning rates, and the other two options."""
        if text.strip().isdecimal() and int(text):
            return Tuning((), int(text), epochs, seeds)
        try:
            rates = Tuning(tuple(map(float, text.split(","))) if text else ()).rates
        except ValueError:
            raise UserError(
                f"--tune is {text!r}; it must be a number of trials, such as 30, or learning rates with commas between them, "
                "such as 3e-4,1e-3"
            ) from None
        return Tuning(rates, 0, epochs, seeds)

    def bases(self, config: TrainConfig, seeds: int) -> list[TrainConfig]:
        """Settings of a comparison of so many seeds for its trials, whose seeds are the next ones."""
        epochs = config.epochs if self.epochs is None else self.epochs
        return [replace(config, seed=seed, epochs=epochs, test_every=0) for seed in seeds_from(config.seed + seeds, self.seeds)]

    def check_folder(self, folder: Path, base: TrainConfig) -> None:
        """Raises UserError if a comparison's folder holds runs without trials, trials that began with another seed, or trials
        of settings of other epochs, whose draws were others."""
        begun = [path for kind in ("trial0", "rate[0-9]*") for path in folder.glob(f"*-{kind}/{training.CONFIG}")]
        if not begun and (runs := sorted(path.parent.name for path in folder.glob(f"*-seed*/{training.CONFIG}"))):
            raise UserError(f"{folder} holds a run without trials, {runs[0]}; choose another --name for --tune")
        first = min((TrainConfig.from_toml(path).seed for path in begun), default=base.seed)
        if first != base.seed:
            raise UserError(
                f"{folder} holds trials that began with seed {first}, here {base.seed}, which is --seed and --seeds added up; "
                "give these as before, or choose another --name"
            )
        for path in folder.glob(f"*-trial0/{training.CONFIG}"):
            if (had := TrainConfig.from_toml(path).epochs) != base.epochs:
                raise UserError(
                    f"{folder} holds trials of {had} epochs, here {base.epochs}; give --tune-epochs {had}, or another --name"
                )

    def tried(self, label: str, bases: list[TrainConfig], dataset: Dataset, epochs: int, watch: Watch) -> list[dict[str, Any]]:
        """The trials of an entry; those in full have ``epochs``."""
        if self.trials:
            return searched(label, bases, dataset, self.trials, epochs, watch)
        return tuned(label, bases, Facts.of(dataset), self.rates, watch)

    def best(self, label: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
        """The best settings of an entry."""
        return best(label, tried)["settings"] if self.trials else {"learning_rate": best_rate(label, tried)}

    def told(self, bases: list[TrainConfig]) -> dict[str, Any]:
        """The ``tuning`` entry of a comparison's result."""
        what = {"trials": self.trials} if self.trials else {"rates": list(self.rates)}
        return {**what, "epochs": bases[0].epochs, "seeds": [base.seed for base in bases]}


def tuned(label: str, trials: list[TrainConfig], facts: Facts, rates: Sequence[float], watch: Watch) -> list[dict[str, Any]]:
    """Mean validation accuracy of the trials by learning rate, None if one diverged.

    While the best lies at an end, rates beyond it are tried, with the ratio of the last two.
    """
    tried = {rate: _tried(label, trials, facts, rate, watch) for rate in sorted(rates)}
    for _ in range(FURTHER):
        order = sorted(tried)
        stable = [rate for rate in order if tried[rate] is not None]
        best = best_rate(label, _listed(tried)) if stable else order[0]
        if len(order) < 2 or best not in (order[0], order[-1]):
            break
        inward = order[1] if best == order[0] else order[-2]
        further = float(f"{best * best / inward:.1e}")
        tried[further] = _tried(label, trials, facts, further, watch)
    return _listed(tried)


def _listed(tried: dict[float, float | None]) -> list[dict[str, Any]]:
    return [{"learning_rate": rate, "validation_accuracy": tried[rate]} for rate in sorted(tried)]


def _tried(label: str, trials: list[TrainConfig], facts: Facts, rate: float, watch: Watch) -> float | None:
    """Mean validation accuracy of runs at a learning rate; None if one diverged."""
    reached = []
    for trial in trials:
        name = f"{folder_name(label)}-rate{rate!r}" + (f"-{trial.seed}" if len(trials) > 1 else "")
        try:
            reached.append(validated(replace(trial, learning_rate=rate, name=name), facts, watch))
        except training.Diverged:
            return None
    return statistics.fmean(reached)


def best_rate(label: str, tried: list[dict[str, Any]]) -> float:
    """The best learning rate; the middle one of equally good ones."""
    stable = [trial for trial in tried if trial["validation_accuracy"] is not None]
    if not stable:
        raise UserError(f"{label} diverged at every learning rate of --tune; add lower ones")
    best = max(trial["validation_accuracy"] for trial in stable)
    equal = [float(trial["learning_rate"]) for trial in stable if trial["validation_accuracy"] == best]
    return equal[(len(equal) - 1) // 2]
