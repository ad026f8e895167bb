"""The state of a training run between two steps."""

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tsslbp.errors import UserError
from tsslbp.files import write_bytes
from tsslbp.networks import Network
from tsslbp.notation import Architecture


@dataclass
class State:
    """Where a run stands. All randomness follows from (seed, epoch, step), so no generator state is kept."""

    epoch: int = 1
    """The epoch under way, from 1."""
    step: int = 0
    """Steps of it that are done."""
    loss_sum: float = 0.0
    right: float = 0.0
    seen: int = 0
    seconds: float = 0.0
    """Time spent in all sittings."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record per finished epoch."""
    average: list[torch.Tensor] = field(default_factory=list)
    """Moving average of every weight, if there is one."""


def save(path: Path, state: State, network: Network, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint; the file at ``path`` is replaced whole or not at all."""
    content = {
        "architecture": network.architecture.to_json(),
        "state": vars(state),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, buffer := io.BytesIO())  # torch's own writer reports a full disk in its own way
    write_bytes(path, buffer.getvalue())


def restore(path: Path, network: Network, optimizer: torch.optim.Optimizer) -> State:
    """Load a checkpoint into a network and an optimiser.

    Raises:
        UserError: a broken file, or one of another architecture.
    """
    try:
        content = torch.load(path, weights_only=True)
        architecture, state = content["architecture"], State(**content["state"])
        trained = Architecture.from_json(architecture)
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint {path} is damaged ({reason}); start again under another --name") from None
    # Not their texts: one may lack a field that came later, or say 5 for 5.0.
    if trained != Architecture.from_json(network.architecture.to_json()):
        raise UserError(f"checkpoint {path} is of another architecture, {architecture}; resume with the run's own settings")
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return state
