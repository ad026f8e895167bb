"""The commands ``study`` and ``compare``; the experiments and their options are in ``tsslbp.study``."""

import shlex
import sys
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from tsslbp import study
from tsslbp.cli.parse import LABEL, given_in, parse, starting_from
from tsslbp.cli.progress import same_command_goes_on, watch
from tsslbp.cli.show import console
from tsslbp.study.base import suited
from tsslbp.study.compare import Compare
from tsslbp.study.comparison import tables, write_comparison
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import imports, machine
from tsslbp.utils.errors import UserError, unknown

NOT_HERE = {
    "study": (
        ("--neuron", "--name", "--runs-dir", "--resume"),
        "a study's runs are in OUT/runs, and it goes on with them by itself",
    ),
    "compare": (("--rule", "--neuron", "--resume", "--config"), "compare takes a recipe and --rules, and goes on by itself"),
}
"""Training settings that these commands set for each run, and the error for giving them."""


def study_(arguments: list[str]) -> None:
    """``tsslbp study``."""
    known = study.studies()
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10}  {one.about}" for name, one in known.items()]
        head = "usage: tsslbp study NAME RUN_OR_RECIPE_OR_RULES ..."
        tail = "tsslbp study NAME --help lists the options of a study."
        print("\n".join([head, "", *lines, "", tail]))
        return
    name, *rest = arguments
    if name not in known:
        raise unknown("study", name, known)
    if issubclass(known[name].options, TrainConfig):
        options = _training_options(known[name].options, f"study {name}", rest)
    else:
        options = parse(known[name].options, f"study {name}", rest)
    if options.out:
        study.check_folder(options.out)
    with same_command_goes_on():
        out, result = known[name].run(options, watch)
    result["command"] = shlex.join(["tsslbp", "study", *arguments]) + imports.again()
    path = study.write(out, result)
    if text := known[name].text(options, result):
        console.print(text)
    console.print(study.section(result).answer)
    console.print(f"report: {path}")


def compare(arguments: list[str]) -> None:
    """``tsslbp compare``."""
    options = _training_options(Compare, "compare", arguments)
    if options.out:
        study.check_folder(options.out)
    with same_command_goes_on():
        folder, result = options.run(watch)
    result["command"] = shlex.join(["tsslbp", "compare", *arguments]) + imports.again()
    path = write_comparison(folder, result)
    wide = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 240)
    for heads, rows in tables(result):
        table = Table(*(Column(head, overflow="fold") for head in heads))
        for row in rows:
            table.add_row(*row)
        wide.print(table)
    for error in result["diverged"].values():
        console.print(error)
    console.print(f"report: {path}")


def _training_options(settings: type[Any], command: str, arguments: list[str]) -> Any:
    """The options of a command that trains many runs; training settings begin with those of a recipe."""
    flags, instead = NOT_HERE[command.split()[0]]
    given = {argument.split("=")[0] for argument in arguments}
    for flag in flags:
        if flag in given:
            raise UserError(f"{flag} is for tsslbp train; {instead}")
    config, named, rest = starting_from(command, arguments)
    known = ", ".join(recipes.RECIPES)
    about = f"{settings.__doc__} RECIPE is one of: {known}. Without one, settings that you leave out suit the data, whatever "
    about += "default is shown below. After an interruption, give the same command again to go on."
    machine.keep_memory()
    options = parse(settings, named, rest, settings(**vars(config)), about, refused=[LABEL, *flags])
    chosen = given_in(arguments)
    if named == command:
        options = suited(options, chosen, options.entries() if isinstance(options, Compare) else ())
    options.refuse_idle(chosen)
    return options
