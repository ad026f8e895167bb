"""The commands that make what others get to see: the rows of the results table, and trained models."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tsslbp import machine, report, study, training
from tsslbp.cli.parse import parse
from tsslbp.cli.progress import watch
from tsslbp.cli.show import console
from tsslbp.config import TrainConfig
from tsslbp.study.reproduce import ROWS, settings


@dataclass(frozen=True)
class Reproduce:
    """Train a row of the paper's table with several seeds, into results/ROW. The same command goes on after an interruption."""

    row: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ROW")]
    """One of the paper's experiments, by the code behind its table; with -head by the code's last version, with -best by
    settings of our own for the same network."""
    seeds: int = 3
    """Runs, with seeds from 0 on."""
    protocol: Literal["validation", "paper"] = "validation"
    """validation: hold samples out, and keep the epoch that is best on them. paper: train on all samples, and report the best
    test epoch, as the paper does; the results then go to ROW-paper-protocol."""
    epochs: int | None = None
    """Passes over the training set; the recipe's when left out, else part of the row's name: ROW-5-epochs."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the linear maps, as in tsslbp train."""
    data_root: Path = Path("data")
    """Folder that holds the data sets."""
    download: bool = False
    """Fetch a missing data set into the data root."""
    runs_dir: Path = Path("runs")
    """Folder of the runs, ROW-seedN; those that are there are used."""
    out: Path = Path("results")
    """Folder for ROW/seedN.jsonl and ROW/README.md."""


def reproduce(arguments: list[str]) -> None:
    """train a row of the paper's table with several seeds: tsslbp reproduce ROW"""
    options = parse(Reproduce, "reproduce", arguments, description=f"{Reproduce.__doc__} ROW is one of: {', '.join(ROWS)}.")
    name = options.row if options.epochs is None else f"{options.row}-{options.epochs}-epochs"
    chosen = settings(options.row, options.epochs)
    if options.protocol == "paper":
        name, chosen = f"{name}-paper-protocol", replace(chosen, validation=0, choose="test")
    chosen = replace(
        chosen,
        name=name,
        precision=options.precision,
        data_root=options.data_root,
        download=options.download,
        runs_dir=options.runs_dir,
    )
    machine.keep_memory()
    try:
        runs = study.reproduce(chosen, seeds=options.seeds, watch=watch)
    except training.Interrupted:
        print("stopped; the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt from None
    precision = TrainConfig.from_toml(runs[0] / "config.toml").precision  # what auto meant
    command = ["tsslbp", "reproduce", options.row, "--data-root", "DIR", "--seeds", str(options.seeds)]
    command += ["--protocol", "paper"] if options.protocol == "paper" else []
    command += [*(["--epochs", str(options.epochs)] if options.epochs else []), "--precision", precision]
    page = report.write_results(options.out / name, shlex.join(command), runs)
    console.print(report.results_table(options.out), end="")
    console.print(f"result: {page}")


@dataclass(frozen=True)
class Export:
    """Copy a run's model to a file to give away, and write README.md, the card of all models beside it."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """Where to, such as models/NAME.safetensors; evaluate and predict take it."""
    half: bool = False
    """Store the weights in float16, in half the space; the card then tells the test accuracy of these, which needs the data."""
    data_root: Path = Path("data")
    """Folder that holds the data set, for --half."""


def export(arguments: list[str]) -> None:
    """copy a run's model to a file to give away, with a model card"""
    options = parse(Export, "export", arguments)
    console.print(f"card: {report.export(options.run, options.file, options.half, options.data_root)}")
