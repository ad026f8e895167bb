"""The machine: its description, whether bfloat16 pays on it, and its memory."""

import contextlib
import ctypes
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from tsslbp.utils import files
from tsslbp.utils.errors import UserError

WORTH_IT = 1.1
"""Speed-up of every measured network from which ``auto`` means bfloat16."""


def processor() -> str:
    """The processor's name, or what kind of machine it is where no name is found."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def is_amd() -> bool:
    """Whether the processor is one of AMD's; on Windows, every one of 64 bits is called AMD64."""
    return processor().startswith("AMD ")


def has_avx512() -> bool:
    """Whether PyTorch uses AVX-512 here."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def describe() -> dict[str, str]:
    """Versions, processor, threads and load of this machine, as text."""
    load = "unknown"
    with contextlib.suppress(OSError, AttributeError):  # not every system tells it
        load = f"{os.getloadavg()[0]:.1f}"
    return lasting() | {"load": load}


def lasting(device: torch.device | None = None) -> dict[str, str]:
    """:func:`describe` without the load, which passes, and with the name of the GPU if the device is one."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device is not None and device.type == "cuda" else {}
    return {
        "tsslbp": importlib.metadata.version("tsslbp"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **gpu,
    }


def multiplies_bfloat16() -> bool:
    """Whether PyTorch has fast products in bfloat16 here. Others take several times as long as float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def record_bfloat16(gains: Mapping[str, float]) -> None:
    """Store the speed-up of networks by bfloat16 in this environment, for :func:`bfloat16_pays`.

    Raises:
        UserError: the file cannot be written.
    """
    path = _bfloat16_record()
    files.make_folder(path.parent, files.CACHE_FIX)
    files.write_json(path, _recorded() | {_environment(): float(min(gains.values()))})


def bfloat16_pays() -> bool:
    """Whether bfloat16 was measured to be faster on this processor with this PyTorch and number of threads."""
    return _recorded().get(_environment(), 0.0) >= WORTH_IT


def _recorded() -> dict[str, float]:
    """The least speed-up by bfloat16 in each environment; several may share a home folder."""
    try:
        record = json.loads(_bfloat16_record().read_text(encoding="utf-8"))
        return {key: gain for key, gain in record.items() if isinstance(gain, float)}
    except (OSError, ValueError, AttributeError, RecursionError):  # ValueError: also no cache folder
        return {}  # not measured, or unreadable


def _bfloat16_record() -> Path:
    return files.cache_folder() / "bfloat16.json"


def _environment() -> str:
    """What a measurement of speed depends on; generations of a processor may share its name, so also its instructions."""
    about = lasting()
    return ", ".join(about[what] for what in ("processor", "vector instructions", "torch", "threads"))


CGROUPS = {
    ("memory.max", "memory.current", "memory.stat"): "inactive_file",
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"): "total_inactive_file",
}
"""Where a container's limit, use and statistics are, and the name of files there that were read: of version 2, and of 1."""


def need_memory(size: int, what: str) -> None:
    """Raises UserError if ``size`` bytes are more than this process can still allocate."""
    free = _free_memory()
    if free is not None and size > free:
        raise UserError(f"{what} needs {size / 2**30:,.1f} GiB of memory, and {free / 2**30:,.1f} GiB are free")


def _free_memory() -> int | None:
    """Free bytes of the system, or within a container's limit; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:")]
    for names, files_read in CGROUPS.items():
        with contextlib.suppress(OSError, ValueError, IndexError):  # ValueError: int("max") where there is no limit
            limit, used, stat = (Path("/sys/fs/cgroup", name).read_text(encoding="ascii") for name in names)
            freed = sum(int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{files_read} "))
            found.append(int(limit) - int(used) + freed)
    return min(found, default=None)


def keep_memory() -> None:
    """Let this process keep freed memory, so that every step reuses that of the last.

    By default glibc returns large blocks to the system, which clears each page again at the next step. For programs that only
    train: a library should not decide this for its host. Does nothing without glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1  # names and sign as in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, largest)
    if not libc.mallopt(mmap_threshold, largest):
        libc.mallopt(mmap_threshold, 2**25)  # the most that old versions take


def give_back_memory() -> None:
    """Return freed memory to the system. Does nothing without glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def autocasts_to_bfloat16(device: str) -> bool:
    """Whether linear maps on a type of device, such as ``"cpu"``, are computed in bfloat16 now."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return False
    return torch.get_autocast_dtype(device) == torch.bfloat16
