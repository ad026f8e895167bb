"""What a number was measured on."""

import ctypes
import importlib.metadata
import os
import platform
from pathlib import Path

import torch


def describe() -> dict[str, str]:
    """Versions, processor, threads and load of this machine, as text."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "tsslbp": importlib.metadata.version("tsslbp"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": processor,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown",
    }


def keep_memory() -> None:
    """Let this process keep the memory it has freed, so that every step finds the last one's again.

    By default glibc hands large blocks back to the system, which clears each page anew at the next step. For programs that
    do nothing but train: a library should not decide this for its host. Does nothing where there is no glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1  # names and sign as in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, largest)
    libc.mallopt(mmap_threshold, largest)
