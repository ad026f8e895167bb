"""The commands that train a network, and list the recipes for it."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tsslbp import training
from tsslbp.cli.parse import LABEL, given_in, parse, starting_from, taken
from tsslbp.cli.show import console
from tsslbp.cli.streams import say
from tsslbp.training import CHECKPOINT, METRICS, recipes
from tsslbp.training.preparation import STATIC_STEPS
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed, machine
from tsslbp.utils.errors import UserError

CHOSEN = {"validation": "chosen on validation", "last": "the last", "test": "chosen on the test set, which flatters it"}
"""How an epoch was chosen, in words."""


def train(arguments: list[str]) -> None:
    """``tsslbp train``."""
    config, command, arguments = starting_from("train", arguments)
    files, arguments = taken("--config", "runs/NAME/config.toml", arguments)
    if len(files) > 1:
        raise UserError(f"--config is given {len(files)} times; give one file")
    given = given_in(arguments) if command == "train" and not files else None
    if files:
        recipe = config.recipe if command != "train" else None
        config = TrainConfig.from_toml(files[0], config)
        if recipe not in (None, config.recipe):
            raise UserError(f"{files[0]} is of recipe {config.recipe}; leave {recipe} out, or --config")
        folder = files[0].parent if files[0].parent.name not in ("", "..") else files[0].parent.resolve()
        begun = (folder / CHECKPOINT).exists() or (folder / METRICS).exists()  # in its first epoch it has no records yet
        if "--resume" in arguments and begun:  # a run may have moved
            config = replace(config, runs_dir=folder.parent, name=folder.name)
        if "init" in given_in(arguments) and config.init is None:  # the file's scales were for random weights
            config = replace(config, output_scale=1.0, hidden_scale=1.0, first_rates=False)
    about = (
        f"Train a network. RECIPE is one of: {', '.join(recipes.RECIPES)}. "
        "Without a recipe, settings that you leave out are chosen for the data, and the defaults shown below do not apply. "
        "--config FILE trains again with the settings in a run's config.toml."
    )
    config = parse(TrainConfig, command, arguments, config, about, refused=[LABEL])
    if given is None or config.network:  # else they depend on the network that is chosen for the data
        config.refuse_idle(given_in(arguments))
    machine.keep_memory()
    folder, final = training.train(config, training.watcher(), given=given)
    if not distributed.leads():
        return
    try:
        console.print(_told(final))
    finally:  # also where nothing can be printed
        page = _page(folder)
    console.print(f"report: {page}")


def _told(final: dict[str, Any]) -> str:
    """The result of a run."""
    chosen = CHOSEN[final.get("choose", "validation")]
    if "f1" in final:
        return (
            f"F1 {final['f1']:.4f} (spikes within one step), van Rossum distance {final['van_rossum']:.3f} "
            f"({final['test_samples']} test samples; epoch {final['best_epoch']}, {chosen}), {final['seconds']:.0f} s"
        )
    right = round(final["test_accuracy"] / 100 * final["test_samples"])
    best = "" if final["best_test_accuracy"] is None else f"best test epoch {final['best_test_accuracy']:.2f} %, "
    told = (
        f"test accuracy {final['test_accuracy']:.2f} % ({right} of {final['test_samples']}; epoch {final['best_epoch']}, "
        f"{chosen}), {best}{final['seconds']:.0f} s"
    )
    return "\n".join(filter(None, (told, training.verdict(final))))


def _page(folder: Path) -> Path:
    """The report of a run that has ended. Raises UserError, as where there is no space or the job is to end."""
    from tsslbp import report  # here, because Matplotlib loads slowly

    later = f"the run has ended, so make its page later with: tsslbp report {shlex.quote(str(folder))}"
    try:
        return report.write(folder)
    except UserError as error:
        raise UserError(f"{error}; {later}") from None
    except KeyboardInterrupt:
        say(f"stopped; {later}")
        raise


@dataclass(frozen=True)
class Recipes:
    """List the recipes: settings for tsslbp train that suit a data set."""


def recipes_(arguments: list[str]) -> None:
    """``tsslbp recipes``."""
    parse(Recipes, "recipes", arguments)
    for name, recipe in recipes.RECIPES.items():
        config = recipe.config
        console.print(f"{name}: {recipe.summary}")
        steps = config.time_steps or STATIC_STEPS  # of a recipe for static samples, if it does not say
        console.print(f"    {config.network}, T = {steps}, {config.epochs} epochs, batches of {config.batch_size}")
