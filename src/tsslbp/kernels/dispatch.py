"""Which implementation runs the neurons, and why not another."""

import functools
import logging
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tsslbp.errors import UserError, unknown
from tsslbp.kernels import cpu

Backend = Literal["auto", "reference", "cpp"]
"""``"auto"`` takes the C++ kernels for every tensor they can take and the reference for all others; naming a backend that
cannot run is an error."""

logger = logging.getLogger("tsslbp.kernels")


class Usable(NamedTuple):
    """Whether a backend can run here, and the reason in one line."""

    usable: bool
    reason: str


def backends() -> dict[str, Usable]:
    """Every backend with whether it can run on this machine and why, as ``tsslbp doctor`` shows it."""
    loaded = Usable(True, f"loaded, vectorised for {cpu.capability()}") if cpu.NOT_LOADED is None else None
    return {
        "reference": Usable(True, "plain PyTorch, runs everywhere"),
        "cpp": loaded or Usable(False, str(cpu.NOT_LOADED)),
    }


def choose(backend: Backend, current: Tensor) -> Literal["reference", "cpp"]:
    """The backend for the neurons fed by ``current``. The choice is logged once, and warned of if a build is missing.

    Raises:
        UserError: an unknown backend, or one that was named and cannot run.
    """
    if backend not in get_args(Backend):
        raise unknown("backend", str(backend), get_args(Backend))
    if backend == "reference":
        return "reference"
    reason = cpu.unusable(current)
    if reason is None:
        _log_once(logging.INFO, "neurons run on the C++ kernels")
        return "cpp"
    if backend == "cpp":
        raise UserError(f"backend 'cpp' cannot run: {reason}")
    missing = reason == cpu.NOT_LOADED and current.device.type == "cpu"
    _log_once(logging.WARNING if missing else logging.INFO, f"neurons run on the slow reference: {reason}")
    return "reference"


def _log_once(level: int, message: str) -> None:
    if not torch.compiler.is_compiling():
        _log(level, message)


@functools.cache
def _log(level: int, message: str) -> None:
    logger.log(level, message)
