"""Speed and memory, measured as ratios inside one run. ``tsslbp bench`` is the command."""

import importlib.metadata
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tsslbp import files, kernels, machine
from tsslbp.bench import peers
from tsslbp.bench.cases import Case, Subject, ann, cases, floor, ours
from tsslbp.bench.measure import interleaved, peak_memory, require_agreement
from tsslbp.networks import Architecture

__all__ = ["cases", "growth", "run", "save", "subjects", "table"]

OURS = "tsslbp"


def subjects(case: Case) -> dict[str, Callable[[], Subject]]:
    """Everyone who can run a case here, by name, made when called."""
    made: dict[str, Callable[[], Subject]] = {
        OURS: partial(ours, case, "auto"),
        f"{OURS}, bf16": partial(ours, case, "auto", autocast=True),
        f"{OURS}, reference": partial(ours, case, "reference"),
    }
    made["linear maps alone"] = partial(floor, case, torch.float32)
    made["linear maps alone, bf16"] = partial(floor, case, torch.bfloat16)
    made["ReLU ANN, one pass"] = partial(ann, case)
    return made | {name: partial(build, case) for name, build in peers.installed().items()}


def run(names: Sequence[str], seconds: float, memory: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure cases; returns milliseconds per step and inference, and MiB, by case and subject, with the machine.

    Raises:
        UserError: the kernels disagree with the reference.
    """
    if kernels.backends()["cpp"].usable:
        require_agreement()
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "cases": {}}
    result["peers"] = {
        name: importlib.metadata.version(package) for name, package in peers.PACKAGES.items() if name in peers.installed()
    }
    for name in names:
        case = cases()[name]
        made = {who: make() for who, make in subjects(case).items()}
        say(f"{name}: training step")
        step = interleaved({who: subject.step for who, subject in made.items()}, seconds)
        say(f"{name}: inference")
        infer = interleaved({who: subject.infer for who, subject in made.items()}, seconds / 3)
        rows = {who: {"step_ms": step[who], "inference_ms": infer[who]} for who in made}
        del made
        for who in rows if memory else ():
            say(f"{name}: memory of {who}")
            rows[who]["peak_mib"] = peak_memory(name, who)
        result["cases"][name] = {"batch": case.batch, "time_steps": case.architecture.time_steps, "subjects": rows}
    return result


def growth(seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """How a training step of a fully connected net grows with T, batch and width, one at a time."""
    base = Architecture(notation="400-400-10", input_shape=(100,), time_steps=20, tau_m=10, tau_s=4)
    grown = [("T", steps, replace(base, time_steps=steps), 20) for steps in (5, 10, 20, 50, 100, 200, 500, 1000)]
    grown += [("batch", batch, base, batch) for batch in (10, 20, 50, 100, 200)]
    grown += [("width", width, replace(base, notation=f"{width}-{width}-10"), 20) for width in (100, 200, 400, 800)]
    rows = []
    for axis, points in itertools.groupby(grown, key=lambda point: point[0]):
        say(f"growth with {axis}")
        points_ = list(points)
        calls = {
            str(value): ours(Case("", architecture, batch, sequence=True), "auto").step
            for _, value, architecture, batch in points_
        }
        rows += [{"axis": axis, "value": int(value), "step_ms": ms} for value, ms in interleaved(calls, seconds).items()]
    return rows


def save(result: dict[str, Any], folder: Path) -> Path:
    """Write a result as JSON named by processor and date; returns the path."""
    processor = "-".join(result["machine"]["processor"].replace("(R)", "").split()).lower()
    path = folder / f"{processor}-{result['date']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(result, indent=1) + "\n")
    return path


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: milliseconds per training step and, in brackets, as a multiple of ours."""
    names = list(result["cases"])
    lines = ["| training step, ms (× ours) | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    rows = [result["cases"][name]["subjects"] for name in names]
    for who in rows[0]:
        cells = [f"{row[who]['step_ms']:.1f} ({row[who]['step_ms'] / row[OURS]['step_ms']:.2f})" for row in rows]
        lines.append(f"| {who} | " + " | ".join(cells) + " |")
    if "peak_mib" in rows[0][OURS]:
        lines += ["", "| peak memory of a step, MiB | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {who} | " + " | ".join(f"{row[who]['peak_mib']:.0f}" for row in rows) + " |" for who in rows[0]]
    for axis, points in itertools.groupby(result.get("growth", []), key=lambda point: point["axis"]):
        points_ = list(points)
        lines += ["", f"| {axis} | " + " | ".join(str(point["value"]) for point in points_) + " |"]
        lines += [
            "|---" * (len(points_) + 1) + "|",
            "| step, ms | " + " | ".join(f"{p['step_ms']:.1f}" for p in points_) + " |",
        ]
    return "\n".join(lines)
