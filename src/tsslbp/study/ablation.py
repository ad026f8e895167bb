"""Which parts of the rule matter: each is changed alone and compared with the unchanged recipe, seed by seed.

Runs of the same seed begin with the same weights and see the samples in the same order, so their differences are paired
(``study/paired.py``). With many variants some differences look significant by chance, so p-values are corrected (Holm).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from tsslbp import losses, rules, training
from tsslbp.report import charts
from tsslbp.report.page import Result, Section
from tsslbp.rules import TSSL
from tsslbp.rules.tssl import Fallback, PscDerivative
from tsslbp.study.base import Study, fits, folder_of, measured, tested
from tsslbp.study.paired import differences, interval
from tsslbp.study.runs import (
    Watch,
    about,
    accuracy,
    need_validation,
    seeds_from,
    settled,
    trained,
    with_validation,
)
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.spec import parse_spec

OPTIONS: dict[str, tuple[tuple[str, ...], tuple[Any, ...]]] = {
    "terms": (("inter", "reset", "leak"), (True, False)),
    "fallback": (("fallback",), get_args(Fallback)),
    "clip": (("clip",), (0.5, 1.0, 2.0, 4.0, 8.0)),
    "psc-derivative": (("psc_derivative",), get_args(PscDerivative)),
}
"""Options of the rule by group, and their values."""
LOSS: dict[str, tuple[str, ...]] = {
    "loss": ("kernel", "spike", "count", "softmax", "first-spike"),
    "target": ("single", "double"),
    "desired": ("1", "01", "00001", "10000"),
}
"""The loss and its options by group, and their values."""
GROUPS = (*OPTIONS, *LOSS)


def variants(config: TrainConfig, groups: Sequence[str], trains: bool) -> dict[str, tuple[str, TrainConfig]]:
    """Group and settings of every variant by its name; all differ from ``config`` in one thing.

    Args:
        config: the base, with a rule of the tssl family, a definite loss and a number of steps.
        groups: of ``GROUPS``.
        trains: whether the targets are spike trains, for which not every loss works.

    Raises:
        UserError: an unknown group, or another rule.
    """
    rule = rules.get(config.rule)
    made: dict[str, tuple[str, TrainConfig]] = {}
    if not isinstance(rule, TSSL):
        raise UserError(
            f"ablation changes parts of a rule of the tssl family, and {config.rule} is not one; choose tssl, for example"
        )
    for group in groups:
        if group not in GROUPS:
            raise unknown("group", group, GROUPS)
        if group in OPTIONS:
            names, values = OPTIONS[group]
            for name in names:
                for value in values:
                    text = rules.spec(replace(rule, **{name: value}))
                    if value != getattr(rule, name) and fits(config, rule=text):  # not all learn in parts
                        made[f"{name}={value}"] = group, replace(config, rule=text)
            continue
        name, options = parse_spec(config.loss, "loss")
        for choice in LOSS[group]:
            applies = {
                "loss": choice != name and config.spikes_last and (not trains or choice in ("kernel", "spike")),
                "target": name == "kernel" and choice != options.get("target", "single"),
                "desired": name in ("kernel", "spike") and not trains,
            }
            if not applies[group]:
                continue
            loss = choice if group == "loss" else losses.changed(config.loss, **{group: choice})
            if not fits(config, loss=loss):
                continue
            changed = replace(config, loss=loss)
            if group == "desired" and _desired(changed) == _desired(config):
                continue  # in T steps, different texts may mean the same
            made[f"{group}={choice}"] = group, changed
    return made


def _desired(config: TrainConfig) -> list[float]:
    """The desired train of the kernel or the spike loss, over all T steps."""
    loss = config.make_loss()
    assert isinstance(loss, losses.KernelLoss | losses.SpikeLoss)
    return losses.desired_train(loss.time_steps).tolist() if loss.desired is None else list(map(float, loss.desired))


def ablation(
    config: TrainConfig,
    *,
    seeds: int,
    groups: Sequence[str] = GROUPS,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train a recipe and every variant of it with every seed, and test which differences are real.

    Every run is an ordinary one, in ``config.runs_dir``. Existing runs are used or continued.

    Args:
        config: settings; ``seed`` is the first seed.
        seeds: how many seeds, from 2.
        groups: what to vary.
        watch: makes the progress display of a run from its name.

    Returns:
        ``base``, the recipe's accuracies, one a seed; under ``variants`` by name ``group``, ``accuracies`` and, against the
        base, ``differences``, their ``mean``, the interval from ``low`` to ``high``, ``p``, ``holm`` (p corrected) and whether
        it is ``real``. Test accuracy of the epoch chosen on validation, in percent (100 times F1 for target trains). A variant
        that diverged has only ``accuracies``, None.

    Raises:
        UserError: bad settings, or runs that were started with other settings; a base that diverged.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    if seeds < 2:
        raise UserError(f"--seeds is {seeds}; differences need at least 2, better 5")
    need_validation(config)
    numbers = seeds_from(config.seed, seeds)
    config, dataset = with_validation(settled(replace(config, neuron="spiking")))
    made = variants(config, groups, dataset.trains)
    tried = {name: variant for name, variant in made.items() if fits(variant[1], dataset)}  # short sequences may have no spike
    if not tried:
        raise UserError(f"nothing to vary in {', '.join(groups) or 'no group'}; groups: {', '.join(GROUPS)}")
    entries = {"base": config} | {name: changed for name, (_, changed) in tried.items()}
    runs, _ = trained(entries, numbers, ("base",), watch)
    found = {name: [accuracy(folder) for folder in folders] for name, folders in runs.items()}
    base = found.pop("base")
    compared = differences(found, base)
    return about("ablation", config.recipe, vars(config)) | {
        "seeds": list(numbers),
        "trains": dataset.trains,
        "samples": len(dataset.test),
        "base": base,
        "variants": {
            name: {"group": group, "accuracies": found.get(name), **compared.get(name, {})}
            for name, (group, _) in tried.items()
        },
        "untried": [name for name in made if name not in tried],
    }


@dataclass(frozen=True, kw_only=True)
class Options(TrainConfig):
    """Train a recipe with one part of its rule or loss changed at a time. The page is OUT/report.html."""

    seeds: int = 5
    """Number of runs of every variant, at least 2, with consecutive seeds that begin with --seed."""
    vary: tuple[str, ...] = GROUPS
    """What to change: terms, fallback, clip, psc-derivative (of the rule), loss, target, desired train."""
    out: Path | None = None
    """Folder for ablation.json, report.html and the runs. Default: studies/RECIPE."""


def _run(options: Options, watch: Watch) -> tuple[Path, Result]:
    out, config = folder_of(options, options.out)
    return out, ablation(config, seeds=options.seeds, groups=options.vary, watch=watch)


INTERVAL = "Mean of the paired differences with its 95 % interval, which may extend beyond the figure."


def section(result: Result) -> Section:
    compared = {name: one for name, one in result["variants"].items() if one["accuracies"] is not None}
    real = [name for name, one in compared.items() if one["real"]]
    spread = {name: one for name, one in compared.items() if one["low"] is not None}
    rows = [(name, one["mean"], one["low"], one["high"], one["real"]) for name, one in spread.items()]
    most = ""
    if compared:
        largest = max(real or compared, key=lambda name: abs(compared[name]["mean"]))
        one = compared[largest]
        most = f"; the largest is {largest}, {one['mean']:+.2f} (95 % interval {interval(one)})"
    unit = "difference from the base, " + ("F1 × 100" if result["trains"] else "percentage points")
    base = sum(result["base"]) / len(result["base"])

    def row(name: str, one: Result) -> list[str]:
        if one["accuracies"] is None:
            return [name, "diverged", *["–"] * 4]
        mean = sum(one["accuracies"]) / len(one["accuracies"])
        return [name, f"{mean:.2f}", f"{one['mean']:+.2f}", interval(one), f"{one['holm']:.3g}", "yes" if one["real"] else "no"]

    return Section(
        "Which parts of the rule and the loss matter?",
        f"With {len(result['seeds'])} seeds, {len(real)} of {len(result['variants'])} changes made a real difference{most}.",
        [(charts.intervals("ablation-differences", rows, unit), INTERVAL)] if rows else [],
        ["change", measured(result), "difference", "95 % interval", "p, Holm", "real"],
        [["none (base)", f"{base:.2f}", *["–"] * 4], *(row(name, one) for name, one in result["variants"].items())],
        [
            *tested(result),
            *(
                [f"Not tried, as samples are too short for it: {', '.join(untried)}."]
                if (untried := result.get("untried"))
                else []
            ),
            f"Seeds {', '.join(map(str, result['seeds']))}. Runs with the same seed share initial weights and sample order.",
            "Interval and p-value: Student's t-test of the paired differences. Real: p below 0.05 after Holm's correction.",
        ],
    )


STUDY = Study("RECIPE: change one part of the rule or the loss at a time", Options, _run, section, place=6)
