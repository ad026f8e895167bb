"""Reproduces an experiment of the paper's table with several seeds."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tsslbp import training
from tsslbp.cli.publishing.results import check_room, write_results
from tsslbp.study.runs import Watch, finished, seeds_from
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import unknown

ROWS = tuple(name for name, recipe in recipes.RECIPES.items() if recipe.published)
"""Recipes of the paper's experiments: by the code behind its table, by its last version, and with settings of our own."""


@dataclass(frozen=True)
class Reproduce:
    """Train a row of the paper's table with several seeds, into results/ROW. After an interruption, give the same command again
    to go on."""

    row: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROW")]
    """One of the paper's experiments, with the settings of the code behind its table. Names in -head have the settings of the
    code's last version, names in -best our own settings for the same network."""
    seeds: int = 3
    """Number of runs, with seeds counted from 0."""
    protocol: Literal["validation", "paper"] = "validation"
    """validation: hold samples out, and keep the epoch that is best on them. paper: train on all samples, and report the best
    test epoch, as the paper does; the results then go to ROW-paper-protocol."""
    epochs: int | None = None
    """Passes over the training set. Default: the recipe's. Any other number becomes part of the row's name: ROW-5-epochs."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the linear maps, as in tsslbp train."""
    data_root: Path = Path("data")
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into the data root."""
    runs_dir: Path = Path("runs")
    """Folder of the runs, ROW-seedN. Runs that are there already are used."""
    out: Path = Path("results")
    """Folder for ROW/seedN.jsonl and ROW/README.md."""

    def settings(self) -> TrainConfig:
        """Common settings of the runs; ``name`` is that of the results' folder. Raises UserError for an unknown row."""
        if self.row not in ROWS:
            raise unknown("row", self.row, ROWS)
        config = replace(recipes.get(self.row), name=self.row, precision=self.precision, runs_dir=self.runs_dir)
        config = replace(config, data_root=self.data_root, download=self.download, test_every=1)
        if self.epochs is not None:
            config = replace(config, epochs=self.epochs, name=f"{config.name}-{self.epochs}-epochs")
        if self.protocol == "paper":
            config = replace(config, validation=0, choose="test", name=f"{config.name}-paper-protocol")
        return config

    def command(self, precision: str) -> str:
        """A command that reproduces the results elsewhere, where ``--precision auto`` may mean another precision."""
        words = ["tsslbp", "reproduce", self.row, "--data-root", "DIR", "--seeds", str(self.seeds)]
        words += ["--protocol", "paper"] if self.protocol == "paper" else []
        words += ["--epochs", str(self.epochs)] if self.epochs else []
        return shlex.join([*words, "--precision", precision])


def reproduce(options: Reproduce, watch: Watch) -> Path:
    """Train with the seeds from 0 on, one run after another, and write the folder of results; returns the path of its page.

    Every run is an ordinary one, ``RUNS_DIR/NAME-seedN``. Existing runs are used or continued.

    Raises:
        UserError: an unknown row, no seed, missing data, a run that was started with other settings or diverged.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    config = options.settings()
    seeds = seeds_from(0, options.seeds)
    check_room(options.out / str(config.name), options.seeds)
    runs = list[Path]()
    for seed in seeds:
        runs.append(finished(replace(config, seed=seed, name=f"{config.name}-seed{seed}"), watch))
        config = replace(config, precision=TrainConfig.from_toml(runs[0] / training.CONFIG).precision)  # what auto meant
    return write_results(options.out / str(config.name), options.command(config.precision), runs)
