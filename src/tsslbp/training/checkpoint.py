"""The state of a training run between two steps.

A checkpoint is the output of ``torch.save``, followed by its SHA-256, which is checked before anything is read. The content is
then checked against the run, before anything of the run is changed.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsslbp.data.facts import PARTS
from tsslbp.network.architecture import Architecture
from tsslbp.network.network import Network
from tsslbp.training.folder import changeable
from tsslbp.training.records import Check, fault, history_fault, number, whole
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError, shown
from tsslbp.utils.fields import kinds_of
from tsslbp.utils.files import write_bytes

DIGEST = hashlib.sha256().digest_size


@dataclass
class RunState:
    """Progress of a run. All randomness follows from (seed, epoch, sample), so no generator state is kept."""

    epoch: int = 1
    """The current epoch, from 1."""
    step: int = 0
    """Finished steps of this epoch."""
    loss_sum: float = 0.0
    right: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    """Training time, from before interruptions too."""
    history: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """One record per finished epoch."""
    average: list[torch.Tensor] = field(default_factory=list, repr=False)
    """Moving average of every weight, if there is one."""
    model: str = ""
    """Checksum of the weights of the chosen epoch, which ties the model file to its run; empty if an old version began it."""


STATE: dict[str, Check] = {
    "epoch": whole(1),
    "loss_sum": number(),
    "right": number(0),
    "seen": whole(0),
    "seconds": number(0),
    "history": lambda value: isinstance(value, list),
    "average": lambda value: isinstance(value, list),
    "model": lambda value: isinstance(value, str),
}
"""Types and ranges of the fields of :class:`RunState` that do not depend on the run."""


def save(
    path: Path, state: RunState, network: Network, optimizer: torch.optim.Optimizer, config: TrainConfig, data: str
) -> None:
    """Write a checkpoint; the file at ``path`` is replaced whole or not at all. ``data`` names the samples trained on."""
    content = {
        "settings": _settings(config),
        "architecture": network.architecture.to_json(),
        "data": data,
        "state": vars(state),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict()["state"],  # the rest follows from the settings
    }
    write_bytes(path, pack(content))


def pack(content: Any) -> bytes:
    """The bytes of a checkpoint."""
    torch.save(content, buffer := io.BytesIO())  # torch's own file writer has its own errors for a full disk
    return buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).digest()


def unpack(stored: bytes) -> dict[str, Any]:
    """The content of a checkpoint; only its checksum is verified. Raises ValueError, or what ``torch.load`` raises."""
    payload, digest = stored[:-DIGEST], stored[-DIGEST:]
    if hashlib.sha256(payload).digest() != digest:
        raise ValueError("its checksum is wrong, or it is of tsslbp 0.1, which had none")
    if not payload.startswith(b"PK\3\4"):  # torch.load reads other files too, whose sizes nobody has checked
        raise ValueError("it is no archive of torch.save")
    unpacked = sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(payload)).infolist())
    if unpacked > len(payload):
        raise ValueError(f"it unpacks to {unpacked} bytes")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)


def restore(
    stored: bytes,
    path: Path,
    network: Network,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    samples: int,
    data: str,
    warned: Callable[[str], object] = lambda text: None,
) -> RunState:
    """Load a checkpoint into a network and an optimiser. Neither is changed if anything is wrong.

    Args:
        stored: the checkpoint.
        path: its file.
        network: as prepared for the run's first step.
        optimizer: likewise.
        config: the run's settings.
        samples: size of the training set.
        data: fingerprint of the samples: a digest of each of ``PARTS``.
        warned: is told if the samples are others now that no epoch has measured, such as those of a test at the end.

    Raises:
        UserError: a damaged file, or one of another architecture, of other settings or data, or of more epochs.
    """
    try:
        content = unpack(stored)
        content["state"].setdefault("model", "")
        trained = Architecture.from_json(content["architecture"])
        # The texts may differ: one may lack a field that came later, or say 5 for 5.0.
        same = trained == Architecture.from_json(network.architecture.to_json())
        digests = zip(PARTS, content["data"].split("-"), data.split("-"), strict=False)
        others = [part for part, before, now in digests if before != now]
        trains_on_others = PARTS[0] in others
        kept, now = content.get("settings", {}), _settings(config)  # earlier versions kept none
        edited = [f"{name} was {shown(kept[name])}" for name in now if name in kept and kept[name] != now[name]]
        if same and not edited and not trains_on_others:
            _check(content, network, optimizer, config, samples)
    except MemoryError:
        raise
    except Exception as error:  # a file with a right checksum may still fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {path} is damaged ({reason}); start again under another --name") from None
    if edited:
        what = f"checkpoint {path} is of other settings than config.toml has now ({', '.join(edited)})"
        raise UserError(f"{what}; change that file back, or choose another --name")
    if not same:
        other = shown(content["architecture"])
        raise UserError(f"checkpoint {path} is of another architecture, {other}; resume with the run's own settings")
    history = [] if trains_on_others else content["state"]["history"]
    if trains_on_others or any(record[f"{part}_accuracy"] is not None for part in others for record in history):
        raise UserError(f"checkpoint {path} is of other samples than {shown(config.data)} has now; give it those it began with")
    if others:
        warned(f"the {' and '.join(others)} samples are not those that the run began with")
    state = RunState(**content["state"])
    if state.epoch - 1 > config.epochs:  # its model may be that of the last one
        more = f"has already had {state.epoch - 1}, so give as many or more, or another --name"
        raise UserError(f"--epochs is {config.epochs}; the run at {path.parent} {more}")
    state.average = [mean.to(weight.device) for mean, weight in zip(state.average, network.state_dict().values(), strict=False)]
    network.load_state_dict(content["network"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": content["optimizer"]})
    return state


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Settings that a run keeps, as JSON values; its samples have a fingerprint."""
    values = config.to_dict()
    return {name: values.get(name) for name in sorted(kinds_of(TrainConfig).keys() - changeable(config) - {"data", "resume"})}


def _check(
    content: Mapping[str, Any], network: Network, optimizer: torch.optim.Optimizer, config: TrainConfig, samples: int
) -> None:
    """Raises ValueError, or Python's error for a wrong type, unless a run with these settings can reach this state."""
    state, steps = content["state"], math.ceil(samples / config.batch_size)
    own, weights = network.state_dict(), [weight for group in optimizer.param_groups for weight in group["params"]]

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(f"its {what} cannot be of this run")

    wrong = fault(state, {**STATE, "step": whole(0, steps)}) or history_fault(state["history"], state["epoch"] - 1)
    require(not wrong, f"state ({wrong})")
    require(state.keys() == vars(RunState()).keys() and type(content["data"]) is str, "set of fields")
    total = (state["epoch"] - 1) * steps + state["step"]
    require(state["right"] <= state["seen"] == min(state["step"] * config.batch_size, samples), "count of samples")
    require(len(state["average"]) == (len(own) if config.average and total else 0), "average of the weights")
    require(all(map(_like, state["average"], own.values())), "average of the weights")
    require(content["network"].keys() == own.keys(), "names of the weights")
    require(all(_like(content["network"][name], weight) for name, weight in own.items()), "weights")
    moments = content["optimizer"]
    require(moments.keys() <= set(range(len(weights))), "optimiser's state")
    for index, kept in moments.items():
        like = {"step": torch.zeros(()), "exp_avg": weights[index], "exp_avg_sq": weights[index]}
        require(kept.keys() == like.keys(), "optimiser's state")
        require(all(_like(kept[name], tensor) for name, tensor in like.items()), "optimiser's state")
        require(0 <= kept["step"] <= total and bool((kept["exp_avg_sq"] >= 0).all()), "optimiser's state")


def _like(value: Any, weight: Tensor) -> bool:
    """Whether a value is a finite tensor of a weight's kind, shape and type."""
    plain = type(value) is Tensor and value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.shape == weight.shape and value.dtype == weight.dtype and bool(value.isfinite().all())
