"""A training run and its folder.

runs/NAME/config.toml          every setting; ``tsslbp train --config`` replays it
runs/NAME/metrics.jsonl        one record an epoch, then one ``{"event": "final", ...}``
runs/NAME/model.safetensors    weights of the epoch that was best on validation, loads alone
runs/NAME/checkpoint.pt        everything needed to go on
"""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tsslbp import data, files, machine
from tsslbp.config import TrainConfig, read_toml
from tsslbp.errors import UserError
from tsslbp.networks import Network
from tsslbp.notation import classes
from tsslbp.training import checkpoint
from tsslbp.training.inputs import Inputs
from tsslbp.training.loop import Interrupted, Loop
from tsslbp.training.model import Model
from tsslbp.training.progress import Progress

FREE_TO_CHANGE = ("resume", "runs_dir", "name", "data_root", "download", "tensorboard")
"""Settings that may differ when a run is resumed, because the result does not depend on them."""


def train(
    config: TrainConfig, progress: Progress | None = None, adapt: Callable[[Network], object] = lambda network: None
) -> tuple[Path, dict[str, Any]]:
    """Train, or go on training, and keep everything in the run's folder.

    Args:
        config: every setting.
        progress: who watches.
        adapt: what is done to the network before the first step, such as hooking a layer; the stored model knows nothing of it.

    Returns:
        The folder and the final record.

    Raises:
        UserError: bad settings or data, a folder that exists or cannot be written, a diverged run.
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written.
    """
    config = settled(config)
    dataset = load_data(config)
    model, optimizer = prepare(config, dataset)
    network = model.network
    adapt(network)

    folder = _open_folder(config)
    resumed = config.resume and (folder / "checkpoint.pt").exists()
    state = checkpoint.restore(folder / "checkpoint.pt", network, optimizer) if resumed else checkpoint.State()
    progress = progress or Progress()
    log = _tensorboard(folder) if config.tensorboard else None

    def save() -> None:
        checkpoint.save(folder / "checkpoint.pt", state, network, optimizer)

    def end_epoch(record: dict[str, Any]) -> None:
        _write_metrics(folder, state.history)
        if _chosen(state.history) is record:
            model.save(folder / "model.safetensors")
        if log:
            log(record)

    try:
        Loop(config, dataset, model, optimizer, state, progress, save).run(end_epoch)
    except Interrupted:
        raise Interrupted(folder) from None
    finally:
        progress.close()
    final = summary(state.history, dataset)
    _write_metrics(folder, [*state.history, final])
    return folder, final


def settled(config: TrainConfig) -> TrainConfig:
    """The settings with what every ``auto`` means here; a resumed run keeps what it meant when the run began."""
    return _with_precision(config.with_loss())


def load_data(config: TrainConfig) -> data.Dataset:
    """A run's data set. Raises UserError for missing or damaged data, and for settings that do not go with it."""
    dataset = data.load(
        config.data, config.data_root, validation=config.validation, download=config.download, time_steps=config.time_steps
    )
    _check_fit(config, dataset)
    return dataset


def prepare(config: TrainConfig, dataset: data.Dataset) -> tuple[Model, torch.optim.Optimizer]:
    """A run before its first step. The initial weights follow from seed and network; rule and kind of neuron change nothing."""
    torch.manual_seed(config.seed)
    network = Network(config.architecture(dataset.sample_shape))
    network.time_block = config.time_block
    inputs = Inputs(config.encoding, dataset.normalisation, config.time_steps, dataset.sequence)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return Model(network, inputs, dataset.classes, dataset.source, data.Facts.of(dataset)), optimizer


def read_metrics(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The epochs' records of a run, and its final one if it has ended. Raises UserError for a missing or broken file."""
    path = folder / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"no run at {folder}: cannot read {path.name} ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{path} is damaged; resume the run to write it again") from None
    final = records.pop() if records and records[-1].get("event") == "final" else None
    return records, final


def _with_precision(config: TrainConfig) -> TrainConfig:
    if config.precision != "auto":
        return config
    began = config.runs_dir / (config.name or config.recipe) / "config.toml"
    if config.resume and began.is_file():
        return replace(config, precision=read_toml(began).get("precision", "float32"))
    return replace(config, precision="bfloat16" if machine.bfloat16_pays() else "float32")


def _check_fit(config: TrainConfig, dataset: data.Dataset) -> None:
    """Settings that do not go with the data raise UserError."""
    if dataset.sequence:
        if config.encoding != "constant":
            raise UserError(f"--encoding {config.encoding} is for static samples; {dataset.name} holds sequences")
        if config.time_steps != dataset.time_steps:
            raise UserError(f"--time-steps is {config.time_steps}; the sequences of {dataset.name} have {dataset.time_steps}")
    if classes(config.network) != len(dataset.classes):
        what = "output neurons" if dataset.trains else "classes"
        raise UserError(f"--network {config.network} must end with {len(dataset.classes)}, the {what} of {dataset.name}")
    if dataset.trains and ("V" in config.network or config.label_weight != 1):
        raise UserError(f"votes (V) and --label-weight are for classes; the targets of {dataset.name} are spike trains")
    if dataset.trains and config.loss not in ("kernel", "spike"):
        raise UserError(f"--loss {config.loss} is for classes; the targets of {dataset.name} are spike trains: kernel or spike")
    if config.encoding != "constant":
        scale = dataset.normalisation.scale
        low, high = torch.stack([torch.stack(part.x.aminmax()) for part in dataset.parts.values()]).aminmax()
        if low < 0 or high > scale:
            found = f"those of {dataset.name} run from {low:g} to {high:g}"
            raise UserError(f"--encoding {config.encoding} takes values from 0 to {scale:g}; {found}")
    if (config.shift or config.flip) and (dataset.sequence or len(dataset.sample_shape) != 3):
        what = "sequences" if dataset.sequence else f"samples of shape {list(dataset.sample_shape)}"
        raise UserError(f"--{'shift' if config.shift else 'flip'} is for images; {dataset.name} holds {what}")


def _open_folder(config: TrainConfig) -> Path:
    """The run's folder, made new with its ``config.toml``, or found again when the run is resumed."""
    name = config.name or config.recipe
    folder = config.runs_dir / name
    if config.resume:
        return _resumed_folder(config, folder)
    number = 2
    while config.name is None and folder.exists():
        folder, number = config.runs_dir / f"{name}-{number}", number + 1
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder} exists; add --resume to go on with it or choose another --name") from None
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose another --runs-dir") from None
    files.write_text(folder / "config.toml", replace(config, name=folder.name).to_toml())
    return folder


def _resumed_folder(config: TrainConfig, folder: Path) -> Path:
    path = folder / "config.toml"
    if not path.is_file():
        raise UserError(f"nothing to resume: no {path}; leave out --resume, or name the run with --name")
    now = replace(config, name=folder.name).to_toml()
    free = {*FREE_TO_CHANGE, *(["epochs"] if config.schedule == "constant" else [])}
    # A setting that came after the run began was at its default then.
    before = tomllib.loads(TrainConfig().to_toml()) | read_toml(path)
    wanted = tomllib.loads(now)
    for setting in sorted(before.keys() | wanted.keys()):
        if before.get(setting) != wanted.get(setting) and setting not in free:
            raise UserError(f"{folder} was started with another {setting}; resume it with: --config {path} --resume")
    files.write_text(path, now)
    return folder


def _write_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    files.write_text(folder / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def _chosen(history: list[dict[str, Any]]) -> dict[str, Any]:
    """The epoch chosen on validation: of the best, the last, since schedules lower the learning rate to the end."""
    return max(reversed(history), key=lambda record: record["validation_accuracy"])


def summary(history: list[dict[str, Any]], dataset: data.Dataset) -> dict[str, Any]:
    """The final record of a run with this history."""
    chosen, best_test = _chosen(history), max(history, key=lambda record: record["test_accuracy"])
    return {
        "event": "final",
        "test_accuracy": chosen["test_accuracy"],
        "best_epoch": chosen["epoch"],
        "validation_accuracy": chosen["validation_accuracy"],
        "best_test_accuracy": best_test["test_accuracy"],
        "best_test_epoch": best_test["epoch"],
        **({"f1": chosen["test_accuracy"] / 100} if dataset.trains else {}),
        "epochs": len(history),
        "seconds": round(history[-1]["seconds"], 2),
        "train_samples": len(dataset.train),
        "validation_samples": len(dataset.validation),
        "test_samples": len(dataset.test),
    }


def _tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs a package: pip install 'tsslbp[tensorboard]'") from None
    writer = SummaryWriter(str(folder))

    def log(record: dict[str, Any]) -> None:
        for key, value in record.items():
            scalars = {f"{key}/{layer}": one for layer, one in value.items()} if isinstance(value, dict) else {key: value}
            for tag, scalar in scalars.items():
                writer.add_scalar(tag, scalar, record["epoch"])
        writer.flush()

    return log
