"""Parses arguments into dataclasses by tyro, with every error on one line."""

import contextlib
import inspect
import io
import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import field, fields, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro

from tsslbp import data
from tsslbp.cli import own
from tsslbp.training import recipes
from tsslbp.training.settings import NOW_OF_LOSS, TrainConfig
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.fields import docstrings, faults, flag, kinds_of

T = TypeVar("T")

_LOSSES = {flag(name): f"{of[0]}({option}={example})" for name, (option, of, example) in NOW_OF_LOSS.items()}
"""Flags of version 0.1.0, with an example of how to write them now."""
LABEL = "--recipe"
"""Flag of a setting that tsslbp writes, and nobody gives."""
SYNONYMS = {
    "--arch": "--network",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "--cuda": "--device",
    "--dataset": "--data",
    "--gpu": "--device",
    "--grad-clip": "--gradient-clip",
    "--lr": "--learning-rate",
    "--model": "--network",
    "--num-workers": "--workers",
    "--steps": "--time-steps",
    "--val": "--validation",
    "--wd": "--weight-decay",
    "--weights": "--init",
}
"""What other programs call our options, where the spelling does not lead there."""


def parse(
    settings: type[T],
    command: str,
    arguments: list[str],
    default: T | None = None,
    description: str = "",
    refused: Collection[str] = (),
) -> T:
    """A dataclass from arguments. ``--help`` prints and exits; it leaves out the flags that the command has ``refused``.

    Raises:
        UserError: an unknown option (the nearest is named), or a value of the wrong kind or too large.
    """
    places = _places(settings)
    known = {flag(name) for name in kinds_of(settings) if name not in places}
    description = description or inspect.cleandoc(settings.__doc__ or "")
    if command.split()[0] in own.IMPORTING:  # removed from the arguments before
        known |= {"--import"}
        description = f"{description} {own.HELP}"
    for given in _options(arguments):
        if "--loss" in known and given in _LOSSES:
            raise UserError(f"{given} is now an option of the loss: --loss {shlex.quote(_LOSSES[given])}")
        if given != "--help" and given.replace("--no-", "--", 1) not in known:
            if (meant := SYNONYMS.get(given)) in known:
                raise UserError(f"unknown option {given!r}; did you mean {meant!r}?")
            raise unknown("option", given, known)
    _refuse_ignored(command, arguments)
    helping, names = _helping(settings, refused), [each.name for each in fields(settings)]  # type: ignore[arg-type]
    extra = {} if default is None else {"default": helping(**{name: getattr(default, name) for name in names})}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            found = tyro.cli(helping, prog=f"tsslbp {command}", args=arguments, description=description, **extra)
            options = settings(**{name: getattr(found, name) for name in names})
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.exit(0)
        if isinstance(stop.__context__, UserError):  # from checks of the settings, before tyro draws a box around it
            raise stop.__context__ from None
        said = _one_line(complaint.getvalue())
        if missing := [place for place in places.values() if re.search(rf"(^Missing .*?: |\(required\) ){place} ", said)]:
            are = f"{' and '.join(missing)} {'are' if missing[1:] else 'is'} missing"
            said = f"{are}; write: tsslbp {command} {' '.join(places.values())}"
        if no_number := re.match(r"Error parsing (--[\w-]+): .*(int\(\)|float)[^:]*: ('.*')$", said):
            option, kind, value = no_number.groups()
            said = f"{option} is {value}; it must be a {'whole ' * (kind == 'int()')}number"
        raise UserError(f"{said}; see tsslbp {command} --help") from None
    if empty := [flag(name) for name in names if getattr(options, name) == () and flag(name) in arguments]:
        raise UserError(f"{empty[0]} has no value; give one, or leave it out")
    if wrong := list(faults(options)):
        raise UserError("; ".join(wrong))
    return options


def _places(settings: type[T]) -> dict[str, str]:
    """The settings that have a place and no flag, with what the help calls them."""
    marks = {name: get_args(kind)[1:] for name, kind in kinds_of(settings).items()}
    return {
        name: next((str(mark.metavar) for mark in given if getattr(mark, "metavar", None)), name.upper())
        for name, given in marks.items()
        if tyro.conf.Positional in given
    }


def _options(arguments: list[str]) -> list[str]:
    """The options among arguments, without their values."""
    return [argument.split("=")[0] for argument in arguments if argument.startswith("--")]


def _refuse_ignored(command: str, arguments: list[str]) -> None:
    """Raises UserError for an option that is given twice, of which the last would count, and for a value that is empty."""
    options = [option.replace("--no-", "--", 1) for option in _options(arguments)]
    if twice := next((option for option in options if options.count(option) > 1), None):
        raise UserError(f"{twice} is given {options.count(twice)} times; give it once")
    for before, argument in pairwise([f"tsslbp {command}", *arguments]):
        if not argument or (argument.startswith("--") and argument.partition("=")[1:] == ("=", "")):
            raise UserError(f"the value after {argument or before} is empty; give one, or leave it out")


def _helping(settings: type[T], hidden: Collection[str]) -> type[Any]:
    """The class, with the docstring of each field as a help text on one line; tyro would keep the source's line breaks."""
    said, kinds = docstrings(settings), kinds_of(settings)
    made = [
        (
            each.name,
            Annotated[
                kinds[each.name], tyro.conf.arg(help=said.get(each.name)), *[tyro.conf.Suppress] * (flag(each.name) in hidden)
            ],
            field(default=each.default, default_factory=each.default_factory, kw_only=each.kw_only),
        )
        for each in fields(settings)  # type: ignore[arg-type]
    ]
    return make_dataclass(settings.__name__, made, bases=(settings,), frozen=True)


def given_in(arguments: list[str]) -> set[str]:
    """Names of the settings that arguments set."""
    flags = {option.replace("--no-", "--", 1) for option in _options(arguments)}
    return {name for name in kinds_of(TrainConfig) if flag(name) in flags}


def starting_from(command: str, arguments: list[str]) -> tuple[TrainConfig, str, list[str]]:
    """The settings of the recipe, if one comes first; the command with its name; the other arguments.

    Raises:
        UserError: an unknown recipe, data in its place, or ``--recipe``, which would only be a label.
    """
    if any(argument.split("=")[0] == LABEL for argument in arguments):
        raise UserError(f"{LABEL} is a label that tsslbp writes; name the recipe first, as in: tsslbp {command} quickstart")
    if not arguments or arguments[0].startswith("-"):
        return TrainConfig(), command, arguments
    if arguments[0] not in recipes.RECIPES and data.named(arguments[0]):
        instead = f"tsslbp {command} --data {shlex.quote(arguments[0])}"
        raise UserError(f"{arguments[0]!r} is data, not a recipe; write: {instead}")
    return recipes.get(arguments[0]), f"{command} {arguments[0]}", arguments[1:]


def taken(option: str, example: str, arguments: list[str]) -> tuple[list[Path], list[str]]:
    """The files given by an option, and the other arguments. Raises UserError if it has no file."""
    paths, rest, left = [], list[str](), iter(arguments)
    for argument in left:
        given, equals, value = argument.partition("=")
        if given != option:
            rest.append(argument)
            continue
        value = value if equals else next(left, "")
        if not value or value.startswith("--"):
            raise UserError(f"{option} needs a file, such as {example}")
        paths.append(Path(value))
    return paths, rest


def _one_line(box: str) -> str:
    """The first paragraph of tyro's message, without the box around it; in ASCII its title comes first."""
    rows = [re.sub(r"^[│|]\s?|\s*[│|]$", "", row) for row in box.splitlines() if not re.match(r"^[╭╰]", row)]
    title, *paragraphs = re.split(r"\n *[─-]{3,} *(?:\n|$)", "\n".join(rows))
    return " ".join((title if "╭" in box or not paragraphs else paragraphs[0]).split()).rstrip(".")
