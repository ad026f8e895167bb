"""The commands about learning rules and models: what there is, whom to cite, and whether each does what its paper says."""

import statistics
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from tsslbp import catalogue, rules
from tsslbp.cli.parse import parse
from tsslbp.cli.show import aligned, console
from tsslbp.errors import UserError
from tsslbp.rivals import RIVALS
from tsslbp.rivals.check import check, numbers, save
from tsslbp.rivals.fidelity import STEPS, fidelity


@dataclass(frozen=True)
class Rules:
    """The learning rules with their options, and the models that have a rule of their own."""

    markdown: bool = False
    """Print the table of docs/rules.md."""


def rules_(arguments: list[str]) -> None:
    """list the learning rules and their options, and the models to compare with"""
    if parse(Rules, "rules", arguments).markdown:
        print(catalogue.markdown(), end="")
        return
    for name, entry in catalogue.entries().items():
        if name == next(iter(RIVALS)):
            console.print(
                'Options go in brackets: --rule "tssl(reset=False, clip=1)"\n\nModels of their own, for tsslbp check:'
            )
        console.print(f"{name}: {entry.summary}")
        console.print(f"    source: {entry.paper}")
        if name in rules.RULES:
            console.print(f"    options: {', '.join(f'{field.name}={field.default}' for field in fields(rules.get(name)))}")
        console.print(f"    stores: {entry.stores}")
        how = [word for word, is_so in (("local", entry.local), ("online", entry.online)) if is_so]
        console.print(f"    {', '.join([*how, *entry.supports])}")


@dataclass(frozen=True)
class Cite:
    """BibTeX of this software and of the paper behind a rule or model."""

    rule: str = "tssl"
    """A name that tsslbp rules lists."""


def cite(arguments: list[str]) -> None:
    """print BibTeX of this software and of a rule's papers"""
    print(catalogue.cite(parse(Cite, "cite", arguments).rule))


@dataclass(frozen=True)
class Check:
    """Run the experiment of a model's paper. Exit code 1 if the model did not do what it should."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The model; tsslbp rules lists them."""
    seeds: int = 1
    """How many seeds, from 0 on."""
    quick: bool = False
    """A smaller experiment, of seconds."""
    out: Path = Path("results/checks")
    """Folder for the result, NAME.json."""


def check_(arguments: list[str]) -> None:
    """run the experiment of a model's paper"""
    options = parse(Check, "check", arguments)
    result = check(options.name, options.seeds, options.quick)
    columns = [numbers(run) for run in result["runs"]]
    console.print(aligned([[key, *(column.get(key, "") for column in columns)] for key in columns[0]]))
    console.print(f"result: {save(result, options.out)}")
    if not result["passed"]:
        sys.exit(1)


@dataclass(frozen=True)
class Fidelity:
    """How close rules come to the exact gradient of spike times, for random networks of one layer, as the step shrinks.

    Cosine and ratio of norms, the median over the networks that fire alike on the grid and in continuous time.
    """

    rule: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RULE")]
    """Rules, with options in brackets."""
    seeds: int = 10
    """How many random networks."""
    smoothing: Literal[1, 2] = 1
    """1: the loss is on the post-synaptic current, whose error jumps at the output's spikes. 2: on that smoothed once more."""


def fidelity_(arguments: list[str]) -> None:
    """compare rules with the exact gradient of spike times"""
    options = parse(Fidelity, "fidelity", arguments)
    if options.seeds < 1 or not options.rule:
        raise UserError("give at least one rule and at least one seed: tsslbp fidelity eventprop tssl --seeds 10")
    rows, alike = [], [0] * len(STEPS)
    for rule in options.rule:
        nets = [fidelity(rule, seed=seed, smoothing=options.smoothing) for seed in range(options.seeds)]
        cells = []
        for index, step in enumerate(zip(*nets, strict=True)):
            comparable = [row for row in step if row["matched"]]
            alike[index] = len(comparable)
            medians = [statistics.median(row[key] for row in comparable) for key in ("cosine", "norm") if comparable]
            cells.append(" / ".join(f"{value:.2f}" for value in medians) or "–")
        rows.append([rule, *cells])
    head = ["cosine / norm at step", *(f"1/{round(1 / step)}" for step in STEPS)]
    console.print(aligned([head, *rows, [f"networks of {options.seeds} that fire alike", *map(str, alike)]]))
