"""Timing that is robust to noise on a shared machine: subjects interleaved in one run, medians after a warm-up."""

import gc
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tsslbp.functional import lif
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError

CLEAR = Path("/proc/self/clear_refs")
"""Where Linux takes the order to forget the peak of a process's memory."""


def interleaved(calls: Mapping[str, Callable[[], Any]], seconds: float, least: int = 5) -> dict[str, float]:
    """Median milliseconds of each call, taken in turns for about ``seconds`` in total, each at least ``least`` times.

    Every round has another order, since a call finds the caches as the one before it left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    gc.collect()
    order, shuffle = list(calls), random.Random(0).shuffle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[order[0]]) < least:
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


GROUPS = {
    "linear maps": (
        *("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"),
        *("aten::mkldnn_convolution", "aten::convolution_backward", "aten::convolution"),
        *("tsslbp::changes", "tsslbp::map_changes", "tsslbp::map_changes_backward"),
    ),
    "neurons, forward": ("tsslbp::lif", "tsslbp::recurrent"),
    "neurons, backward": ("tsslbp::tssl_backward", "tsslbp::tssl_recurrent_backward"),
    "clipping and AdamW": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::mul_", "Optimizer.step#AdamW.step"),
    "casts and copies": ("aten::copy_",),
}


def where_time_goes(step: Callable[[], Any], times: int) -> dict[str, float]:
    """Milliseconds of a training step by kind of work, from PyTorch's profiler (which slows it a little)."""
    for _ in range(min(10, times)):
        step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(times):
            step()
    spent = dict.fromkeys(GROUPS, 0.0) | {"autograd, Python and all else": 0.0}
    for event in profile.key_averages():
        group = next((name for name, operators in GROUPS.items() if event.key in operators), "autograd, Python and all else")
        spent[group] += event.self_cpu_time_total / 1000 / times
    return spent


def peak_memory(case: str, subject: str) -> float:
    """Mebibytes a training step adds to a fresh process at its peak (Linux). Raises UserError if that process fails."""
    program = f"from tsslbp.bench import measure; measure.report_peak({case!r}, {subject!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] if done.returncode > 0 else ""  # a killed process said nothing of it
        why = said or f"its process ended with code {done.returncode}"
        raise UserError(f"the memory of {subject} in {case} was not measured: {why}")
    return float(done.stdout.split()[-1])


def report_peak(case: str, subject: str) -> None:
    """Program of :func:`peak_memory`: prints the growth of the peak resident size over three steps."""
    from tsslbp.bench import subjects
    from tsslbp.bench.cases import cases, grown

    machine.keep_memory()  # as in the process that measures time
    whole = (cases() | grown())[case]
    step = subjects(whole)[subject]().step
    sys.stdout.write(f"{peak_growth(step, lambda: subjects(replace(whole, batch=2))[subject]().step())}\n")


def peak_growth(step: Callable[[], Any], small: Callable[[], Any]) -> float:
    """Mebibytes that three calls of ``step`` add to the resident size of this process at its peak (Linux).

    Before, ``small`` makes a step of the same kind with few samples and a network of its own, which pays most of what a
    process pays once, such as for the code of its first convolution.
    """
    small()
    gc.collect()
    machine.give_back_memory()  # else the step would use again what reading the data left
    CLEAR.write_text("5")  # the peak starts here
    before = _kibibytes("VmRSS")
    for _ in range(3):
        step()
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(what: str) -> int:
    """An entry of /proc/self/status. (``getrusage`` would count the peak of the process that started this one.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(what))


def require_agreement() -> None:
    """Raise UserError unless the C++ kernels equal the reference on forward and backward."""
    generator = torch.Generator().manual_seed(0)
    current = (torch.randn(7, 3, 33, generator=generator) + 0.5).requires_grad_()
    gradient = torch.randn(current.shape, generator=generator)
    outputs = [lif(current, tau_m=5.0, tau_s=3.0, backend=name) for name in ("cpp", "reference")]
    gradients = [torch.autograd.grad(psc, current, gradient)[0] for psc in outputs]
    for what, (fast, reference) in {"post-synaptic current": outputs, "gradient": gradients}.items():
        difference = ((fast - reference).abs().max() / reference.abs().max()).item()
        if not difference < 1e-5:
            raise UserError(
                f"the C++ kernels and the reference disagree on the {what} by {difference:.1e}; no speed is measured"
            )
