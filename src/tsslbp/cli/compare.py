"""``tsslbp compare``: learning rules on the same network, side by side."""

import re
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from tsslbp import machine, recipes, report, study, training
from tsslbp.cli.parse import parse, refuse_idle, starting_from
from tsslbp.cli.progress import watcher
from tsslbp.config import TrainConfig
from tsslbp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Compare(TrainConfig):
    """Train the same network under several rules: same data, initial weights, order of samples and budget."""

    rules: str = "tssl,surrogate,binary,relu"
    """Rules with commas between them, as --rule takes them; binary and relu are the same network as an ANN."""
    seeds: int = 3
    """Runs of every rule, with seeds from --seed on."""
    to: float | None = None
    """Validation accuracy in percent whose time is told; the mean best one of the worst rule when left out."""
    tune: str = ""
    """Learning rates to try for every rule, with commas between them; the best on validation is taken. Where it lies at an end,
    up to four more are tried beyond that end."""
    tune_epochs: int | None = None
    """Epochs of a run that tries a learning rate; --epochs when left out."""
    tune_seeds: int = 1
    """Runs that try each learning rate, with seeds after those of the comparison."""
    against: str = ""
    """A rule of --rules that all others are compared with, seed by seed: interval, p-value, correction for their number."""
    planned: str = ""
    """The rule whose difference from --against was planned to be tested before the runs; it is not corrected."""
    out: Path | None = None
    """Folder for compare.json, compare.md and compare.html; RUNS_DIR/compare-NAME when left out."""


def compare(arguments: list[str]) -> None:
    """compare learning rules on one network: tsslbp compare RECIPE --rules A,B,C"""
    given = {argument.split("=")[0] for argument in arguments}
    for flag in ("--rule", "--neuron", "--resume"):
        if flag in given:
            raise UserError(f"{flag} is for tsslbp train; compare takes --rules, and goes on with what is there by itself")
    config, command, rest = starting_from("compare", arguments)
    about = f"{Compare.__doc__} RECIPE is one of: {', '.join(recipes.RECIPES)}. The same command goes on after an interruption."
    options = parse(Compare, command, rest, Compare(**vars(config)), about)
    refuse_idle(options, rest)
    machine.keep_memory()
    try:
        result = study.compare(
            TrainConfig(**{field.name: getattr(options, field.name) for field in fields(TrainConfig)}),
            split(options.rules),
            seeds=options.seeds,
            target=options.to,
            rates=_rates(options.tune),
            tuning_epochs=options.tune_epochs,
            tuning_seeds=options.tune_seeds,
            against=options.against or None,
            planned=options.planned or None,
            watch=watch,
        )
    except training.Interrupted:
        print("stopped; the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt from None
    result["command"] = shlex.join(["tsslbp", "compare", *arguments])
    folder = options.out or options.runs_dir / result["name"]
    path = report.write_comparison(folder, result)
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
    for heads, rows in report.comparison_tables(result):
        table = Table(*(Column(head, overflow="fold") for head in heads))
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"report: {path}", soft_wrap=True)


def split(text: str) -> list[str]:
    """Rules by the commas that are not in brackets."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _rates(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--tune is {text!r}; it must be learning rates with commas between them, such as 3e-4,1e-3") from None


def watch(run: str) -> training.Progress:
    """Says which run begins; shows how it goes."""
    print(run, file=sys.stderr, flush=True)
    return watcher()
