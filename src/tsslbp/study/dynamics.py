"""What leak, reset, synapse, order and number of steps contribute: accuracy without each, before and after training again.

Shuffled steps: the spikes of every hidden layer are put into another order of steps, the same for all its neurons and samples,
before they go through the synapse. So the next layer keeps its dynamics, and only the timing of spikes is lost. In training the
gradient flows back through this order. A padded sequence is shuffled up to its last input, as spikes that were moved into the
padding would not count. (In evaluation a network is not told the lengths.)
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tsslbp import training
from tsslbp.data import Split
from tsslbp.layers import Spiking
from tsslbp.network.architecture import NO_ANN, Architecture
from tsslbp.network.network import Network
from tsslbp.network.notation import has_hidden
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.report import charts
from tsslbp.report.page import Result, Section, with_sd
from tsslbp.study.base import Study, fits, folder_of, measured, tested
from tsslbp.study.runs import (
    Watch,
    about,
    accuracy,
    check_models,
    finished,
    need_validation,
    seeds_from,
    settled,
    with_validation,
)
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Constant

S = TypeVar("S", TrainConfig, Architecture)
STEPS = (1, 2, 3, 5, 10, 20)
SHUFFLED = "shuffled steps"
ROUNDING = 1e-4
"""Inputs that are smaller than this share of the largest one are taken for 0."""


def variants(steps: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Changed settings by name: a constant of the neurons, or the number of steps; empty for shuffled steps."""
    constants: dict[str, dict[str, Any]] = {"no leak": {"tau_m": math.inf}, "no memory": {"tau_m": 1.0}}
    constants |= {"no reset": {"reset": False}, "no synapse": {"tau_s": 1.0}, SHUFFLED: {}}
    return constants | {f"T = {count}": {"time_steps": count} for count in steps}


def dynamics(
    config: TrainConfig,
    *,
    seeds: int,
    steps: Sequence[int] | None = None,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train a recipe, every variant of it, and a binary ANN; and try the variants on the recipe's trained weights.

    Every run is an ordinary one, in ``config.runs_dir``. Existing runs are used or continued.

    Args:
        config: settings; ``seed`` is the first seed.
        seeds: how many seeds, from 1.
        steps: numbers of time steps, by default those of ``STEPS`` that the loss takes; not used for sequences, which have
            their own.
        watch: makes the progress display of a run from its name.

    Returns:
        ``base``, the recipe's accuracies; under ``variants`` by name ``changes``, and the accuracies ``kept`` (the recipe's
        weights under the variant) and ``retrained``; ``ann``, those of the binary ANN. Test accuracy of the epoch chosen on
        validation, in percent (100 times F1 for target trains), each as ``accuracies``, one a seed, with ``mean`` and ``sd``;
        the ANN's are None for target trains and recurrent layers.

    Raises:
        UserError: bad settings, or runs that were started with other settings; training that diverged.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; the same call continues.
    """
    need_validation(config)
    if config.readout == "voltage":
        raise UserError("dynamics changes the spiking neurons of every layer; --readout must be spikes")
    numbers = seeds_from(config.seed, seeds)
    config, dataset = with_validation(settled(replace(config, neuron="spiking")))
    if steps is None:
        steps = [count for count in STEPS if fits(config, dataset, time_steps=count)]
    tried = variants(() if dataset.sequence else steps)
    if not has_hidden(str(config.network)):
        del tried[SHUFFLED]  # only hidden layers are shuffled
    for changes in tried.values():
        training.prepare(_with(config, changes), dataset)  # raises errors before hours of training
    binary = None if dataset.trains else _binary(config)
    check_models(config.runs_dir / f"base-seed{seed}" for seed in numbers)

    base: list[float] = []
    ann: list[float] = []
    kept: dict[str, list[float]] = {name: [] for name in tried}
    retrained: dict[str, list[float]] = {name: [] for name in tried}
    for seed in numbers:
        folder = finished(replace(config, seed=seed, name=f"base-seed{seed}"), watch)
        base.append(accuracy(folder))
        model = training.load(folder)
        for name, changes in tried.items():
            settings = _with(replace(config, seed=seed), changes)
            if name == SHUFFLED:
                kept[name].append(shuffled(model, seed, dataset.test))
                # Blocks of time would be shuffled one by one.
                run = replace(settings, time_block=0, name=f"shuffled-seed{seed}")
                adapt = partial(shuffle, seed=seed, padded=dataset.test.lengths is not None)
                retrained[name].append(accuracy(finished(run, watch, adapt)))
                continue
            kept[name].append(changed(model, changes, dataset.test))
            same = settings == replace(config, seed=seed)
            file_name = "-".join(f"{key}-{value:g}" for key, value in changes.items())
            retrained[name].append(
                base[-1] if same else accuracy(finished(replace(settings, name=f"{file_name}-seed{seed}"), watch))
            )
        if binary:
            ann.append(accuracy(finished(replace(binary, seed=seed, name=f"binary-seed{seed}"), watch)))
    return about("dynamics", config.recipe, vars(config)) | {
        "seeds": list(numbers),
        "trains": dataset.trains,
        "samples": len(dataset.test),
        "base": _summary(base),
        "variants": {
            name: {
                "changes": {key: str(value) if math.isinf(value) else value for key, value in changes.items()},
                "kept": _summary(kept[name]),
                "retrained": _summary(retrained[name]),
            }
            for name, changes in tried.items()
        },
        "ann": _summary(ann) if binary else None,
    }


def changed(model: training.Model, changes: dict[str, Any], samples: Split) -> float:
    """Accuracy of a model's weights in a network with other constants, in percent."""
    network = Network(_with(model.network.architecture, changes)).eval()
    weights = network.state_dict().keys() & model.network.state_dict().keys()  # without learned constants that are changed
    network.load_state_dict({name: model.network.state_dict()[name] for name in weights})
    return replace(model, network=network, inputs=replace(model.inputs, time_steps=network.time_steps)).accuracy(samples)


def _with(settings: S, changes: dict[str, Any]) -> S:
    """Settings with changes. A constant that is changed is neither learned nor spread."""
    learn, own = (tuple(x for x in names if x not in changes) for names in (settings.learn, settings.per_neuron))
    return replace(settings, **changes, learn=learn, per_neuron=own, spread=settings.spread if own else 0.0)


def shuffled(model: training.Model, seed: int, samples: Split) -> float:
    """Accuracy of a model with shuffled steps in its hidden layers, in percent."""
    hooks = shuffle(model.network, seed, samples.lengths is not None)
    try:
        return model.accuracy(samples)
    finally:
        for hook in hooks:
            hook.remove()


def shuffle(network: Network, seed: int, padded: bool = False) -> list[RemovableHandle]:
    """Shuffle the steps of each hidden layer's spikes, in an order drawn once, before the synapse; those of ``padded``
    sequences up to the last input."""
    random = torch.Generator().manual_seed(seed)
    *hidden, _ = (layer for _, layer in network.named_layers() if isinstance(layer, Spiking))
    number = torch.arange(network.time_steps).unsqueeze(1)
    inside = torch.ones_like(number, dtype=torch.bool)

    def listen(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        signal, *_ = arguments
        if not isinstance(signal, Constant):
            size = spikes_from_psc(signal.detach(), network.neuron.tau_s).abs().flatten(2).amax(2)
            inside = (size > ROUNDING * size.amax()).cpu().flip(0).cumsum(0).flip(0) > 0

    def hook(tau_s: float | Tensor, order: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def shuffled(layer: nn.Module, _: Any, psc: Tensor) -> Tensor:
            # Currents may come pooled, which does not matter, and in half precision, which does for differences.
            train = spikes_from_psc(psc.float(), tau_s)
            steps = torch.where(inside, order.argsort().unsqueeze(1), len(order) + number).argsort(0).to(psc.device)
            return synapse(train.take_along_dim(steps.view(*steps.shape, *[1] * (train.dim() - 2)), 0), tau_s).to(psc.dtype)

        return shuffled

    orders = [torch.randperm(network.time_steps, generator=random) for _ in hidden]
    hooks = [layer.register_forward_hook(hook(layer.neuron.tau_s, order)) for layer, order in zip(hidden, orders, strict=True)]
    return [*hooks, network.layers[0].register_forward_pre_hook(listen)] if padded else hooks


def _binary(config: TrainConfig) -> TrainConfig | None:
    """Settings of the network of binary units; None for networks and encodings that need spiking neurons."""
    changes: dict[str, Any] = {"neuron": "binary", "loss": "softmax", "rate_penalty": 0.0, **NO_ANN}
    return replace(config, **changes) if fits(config, **changes) else None


def _summary(accuracies: list[float]) -> dict[str, Any]:
    return {
        "accuracies": accuracies,
        "mean": statistics.fmean(accuracies),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    }


@dataclass(frozen=True, kw_only=True)
class Options(TrainConfig):
    """Train a recipe without leak, memory, reset or synapse, with shuffled steps and with other T. The page is
    OUT/report.html."""

    seeds: int = 3
    """Number of runs of every variant, with consecutive seeds that begin with --seed."""
    steps: tuple[int, ...] | None = None
    """Values of T to try. Not for data that are sequences. Default: 1 2 3 5 10 20, or those that suit --loss."""
    out: Path | None = None
    """Folder for dynamics.json, report.html and the runs. Default: studies/RECIPE."""


def _run(options: Options, watch: Watch) -> tuple[Path, Result]:
    out, config = folder_of(options, options.out)
    return out, dynamics(config, seeds=options.seeds, steps=options.steps, watch=watch)


def section(result: Result) -> Section:
    right, base, variants, ann = measured(result), result["base"], result["variants"], result["ann"]
    seeds = ", ".join(map(str, result["seeds"]))
    constants = {name: one for name, one in variants.items() if "time_steps" not in one["changes"]}
    steps = {one["changes"]["time_steps"]: one for one in variants.values() if "time_steps" in one["changes"]}
    steps = dict(sorted(steps.items()))
    told = ", ".join(f"{one['retrained']['mean']:.2f} with {name}" for name, one in constants.items())
    binary = "" if ann is None else f"; the binary ANN reaches {ann['mean']:.2f}"
    names = ["unchanged", *constants, *(["binary ANN"] if ann else [])]
    groups = {
        kind: [base["mean"], *(one[key]["mean"] for one in constants.values()), *([trained] if ann else [])]
        for kind, key, trained in (("trained again", "retrained", ann and ann["mean"]), ("same weights", "kept", 0.0))
    }
    taken_away = charts.bars("dynamics-constants", names, groups, right)
    shuffles = SHUFFLED in variants
    drawings = [
        (taken_away, f"Accuracy without leak, memory, reset{', synapse or the order of steps' if shuffles else ' or synapse'}.")
    ]
    if steps:
        curves = {
            kind: charts.Line(
                list(steps), [one[key]["mean"] for one in steps.values()], [one[key]["sd"] for one in steps.values()]
            )
            for kind, key in (("trained again", "retrained"), ("same weights", "kept"))
        }
        level = ("binary ANN", ann["mean"]) if ann else None
        over_steps = charts.lines("dynamics-steps", curves, "time steps T", right, level=level, whole=True)
        drawings.append((over_steps, "Accuracy by the number of steps."))

    def row(name: str, *cells: Result | None) -> list[str]:
        return [name, *("–" if cell is None else with_sd(cell["mean"], cell["sd"]) for cell in cells)]

    return Section(
        "What do leak, reset, synapse and time contribute?",
        f"The unchanged network reaches {base['mean']:.2f}{'' if result['trains'] else ' %'}; "
        f"trained again, it reaches {told}{binary}.",
        drawings,
        ["variant", "same weights", "trained again"],
        [
            row("unchanged", None, base),
            *(row(_changed(name, one["changes"]), one["kept"], one["retrained"]) for name, one in variants.items()),
            *([row("binary ANN", None, ann)] if ann else []),
        ],
        [
            *tested(result),
            f"{right}, of the epoch chosen on validation; mean ± standard deviation over seeds {seeds}.",
            "Same weights: those of the unchanged network, put into a network with the other constants.",
            "No reset: a spike does not change the membrane potential, so a neuron fires at every step above the threshold.",
            *[
                "Shuffled steps: the steps of each hidden layer's spikes are put into a random order, drawn once for all "
                "samples, before the synapse. The number of spikes stays the same, and their timing is lost."
            ]
            * shuffles,
        ],
    )


def _changed(name: str, changes: Result) -> str:
    told = ", ".join(f"{key} = {value}" for key, value in changes.items()).replace("inf", "∞").replace("time_steps", "T")
    return name if told in ("", name) else f"{name} ({told})"


ABOUT = "RECIPE: train without leak, memory, reset or synapse, with shuffled steps, with other T"

STUDY = Study(ABOUT, Options, _run, section, place=5)
