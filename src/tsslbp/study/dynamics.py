"""What the leak, the synapse and the number of steps are good for: without each, as trained and trained again."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tsslbp import training
from tsslbp.config import TrainConfig
from tsslbp.data import Split
from tsslbp.errors import UserError
from tsslbp.networks import Network
from tsslbp.study.runs import Watch, about, accuracy, finished, has_recurrent

STEPS = (1, 2, 3, 5, 10)


def variants(steps: Sequence[int]) -> dict[str, dict[str, Any]]:
    """What to change, by name: a time constant, or the number of steps."""
    constants = {"no leak": {"tau_m": math.inf}, "no memory": {"tau_m": 1.0}, "no synapse": {"tau_s": 1.0}}
    return constants | {f"T = {count}": {"time_steps": count} for count in steps}


def dynamics(
    config: TrainConfig,
    *,
    seeds: int,
    steps: Sequence[int] = STEPS,
    watch: Watch = lambda run: training.Progress(),
) -> dict[str, Any]:
    """Train a recipe as it is, under every variant, and as a binary ANN; and try the variants on the weights trained as it is.

    Every run is an ordinary one, in ``config.runs_dir``. What is there already is used, or gone on with.

    Args:
        config: settings; ``seed`` is the first seed.
        seeds: how many seeds, from 1.
        steps: numbers of time steps; not used for data that are sequences, whose number is given.
        watch: gives who watches a run, by the run's name.

    Returns:
        ``base``, the accuracies as trained; under ``variants`` by name what ``changes``, the accuracies ``kept`` (weights as
        trained, the variant put in) and ``retrained``; ``ann``, those of the binary ANN. Test accuracy of the epoch chosen on
        validation, in percent (100 times F1 for target trains), each as ``accuracies``, one a seed, with ``mean`` and ``sd``;
        the ANN's None for target trains and recurrent layers, which it cannot have.

    Raises:
        UserError: bad settings, or runs that were started with other settings; training that diverged.
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; it must be positive")
    config = training.settled(replace(config, neuron="spiking"))
    dataset = training.load_data(config)
    tried = variants(() if dataset.sequence else steps)
    for changes in tried.values():
        training.prepare(replace(config, **changes), dataset)  # complains before hours of training
    binary = None if dataset.trains else _binary(config)

    numbers = range(config.seed, config.seed + seeds)
    base: list[float] = []
    ann: list[float] = []
    kept: dict[str, list[float]] = {name: [] for name in tried}
    retrained: dict[str, list[float]] = {name: [] for name in tried}
    for seed in numbers:
        folder = finished(replace(config, seed=seed, name=f"base-seed{seed}"), watch)
        base.append(accuracy(folder))
        model = training.load(folder)
        for name, changes in tried.items():
            kept[name].append(changed(model, changes, dataset.test))
            settings = replace(config, seed=seed, **changes)
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
    """Accuracy of a model's weights in a network of other constants, in percent."""
    network = Network(replace(model.network.architecture, **changes)).eval()
    network.load_state_dict(model.network.state_dict())
    return replace(model, network=network, inputs=replace(model.inputs, time_steps=network.time_steps)).accuracy(samples)


def _binary(config: TrainConfig) -> TrainConfig | None:
    if has_recurrent(config):
        return None
    return replace(config, neuron="binary", loss="softmax", rate_penalty=0.0)


def _summary(accuracies: list[float]) -> dict[str, Any]:
    return {
        "accuracies": accuracies,
        "mean": statistics.fmean(accuracies),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
    }
