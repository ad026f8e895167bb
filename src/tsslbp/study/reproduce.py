"""An experiment of the paper's table, trained again with several seeds."""

from dataclasses import replace
from pathlib import Path

from tsslbp import recipes, training
from tsslbp.config import TrainConfig
from tsslbp.errors import unknown
from tsslbp.study.runs import Watch, finished, seeds_from

ROWS = tuple(name for name, recipe in recipes.RECIPES.items() if recipe.published)
"""Recipes of the paper's experiments: by the code behind its table, by its last version, and with settings of our own."""


def settings(row: str, epochs: int | None = None) -> TrainConfig:
    """A row's settings, with another number of epochs if given. Raises UserError for an unknown row."""
    if row not in ROWS:
        raise unknown("row", row, ROWS)
    config = recipes.get(row)
    return config if epochs is None else replace(config, epochs=epochs)


def reproduce(config: TrainConfig, *, seeds: int, watch: Watch = lambda run: training.Progress()) -> list[Path]:
    """Train with the seeds from 0 on, one run after another.

    Every run is an ordinary one, ``RUNS_DIR/NAME-seedN``. What is there already is used, or gone on with.

    Args:
        config: what the runs have in common; ``name`` is the first part of their folders' names.
        seeds: how many, from 1.
        watch: gives who watches a run, by the run's name.

    Returns:
        The runs' folders.

    Raises:
        UserError: no seed, missing data, a run that was started with other settings or diverged.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    return [finished(replace(config, seed=seed, name=f"{config.name}-seed{seed}"), watch) for seed in seeds_from(0, seeds)]
