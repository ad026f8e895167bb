"""Which implementation runs the neurons, and why not another."""

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tsslbp.errors import UserError, unknown
from tsslbp.kernels import cpu

Backend = Literal["auto", "reference", "cpp", "triton"]
"""``"auto"`` takes the C++ kernels for every tensor they can take and the reference for all others. ``"triton"`` has to be
named: no GPU has run it yet. Naming a backend that cannot run is an error."""

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
        "triton": _triton(),
    }


def compiled(backend: Literal["cpp", "triton"]) -> ModuleType:
    """The module with a backend's ``lif_forward``, ``lif_psc``, ``tssl_backward`` and ``surrogate_backward``."""
    return cpu if backend == "cpp" else importlib.import_module("tsslbp.kernels.gpu")


def choose(backend: Backend, current: Tensor) -> Literal["reference", "cpp", "triton"]:
    """The backend for the neurons fed by ``current``. The choice is logged once, and warned of if a build is missing.

    Raises:
        UserError: an unknown backend, or one that was named and cannot run.
    """
    if backend not in get_args(Backend):
        raise unknown("backend", str(backend), get_args(Backend))
    if backend == "reference":
        return "reference"
    name = "cpp" if backend == "auto" else backend
    not_loaded = cpu.NOT_LOADED if name == "cpp" else _triton_missing()
    reason = not_loaded or compiled(name).unusable(current)
    if reason is None:
        _log_once(logging.INFO, f"neurons run on the {'C++' if name == 'cpp' else 'Triton'} kernels")
        return name
    if backend != "auto":
        raise UserError(f"backend {backend!r} cannot run: {reason}")
    missing = not_loaded is not None and current.device.type == "cpu"
    _log_once(logging.WARNING if missing else logging.INFO, f"neurons run on the slow reference: {reason}")
    return "reference"


@functools.cache
def _triton_missing() -> str | None:
    """Why the Triton kernels cannot be imported, in one line, or None. Imports Triton, so only ask where it would be used."""
    try:
        compiled("triton")
    except ImportError as error:
        return f"Triton cannot be imported ({str(error).splitlines()[0]}); to get it: pip install 'tsslbp[gpu]'"
    return None


def _triton() -> Usable:
    missing = _triton_missing()
    if missing is not None:
        return Usable(False, missing)
    if compiled("triton").INTERPRETED:
        return Usable(True, "run by Triton's interpreter (TRITON_INTERPRET is set): for tests, slow")
    if not torch.cuda.is_available():
        return Usable(False, "PyTorch sees no CUDA device")
    return Usable(True, "for CUDA tensors; tested in Triton's interpreter only, never timed")


def _log_once(level: int, message: str) -> None:
    if not torch.compiler.is_compiling():
        _log(level, message)


@functools.cache
def _log(level: int, message: str) -> None:
    logger.log(level, message)
