"""Speed and memory, measured as ratios inside one run. ``tsslbp bench`` is the command."""

import importlib.metadata
import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tsslbp import kernels
from tsslbp.bench import peers, recurrent
from tsslbp.bench.against import against
from tsslbp.bench.against import table as against_table
from tsslbp.bench.cases import Case, Subject, ann, cases, floor, grown, ours
from tsslbp.bench.measure import interleaved, peak_memory, require_agreement, where_time_goes
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

__all__ = [
    "against",
    "against_table",
    "bfloat16_gains",
    "cases",
    "growth",
    "growth_tables",
    "run",
    "save",
    "spent_table",
    "subjects",
    "table",
]

TSSLBP = "tsslbp"
BF16, BLOCKS = f"{TSSLBP}, bf16", f"{TSSLBP}, blocks of time"


def subjects(case: Case) -> dict[str, Callable[[], Subject]]:
    """Everything that can run a case here: functions that make a subject, by name."""
    bf16 = machine.multiplies_bfloat16()
    made: dict[str, Callable[[], Subject]] = {TSSLBP: partial(ours, case, "auto")}
    if bf16:
        made[BF16] = partial(ours, case, "auto", autocast=True)
    made[f"{TSSLBP}, reference"] = partial(ours, case, "reference")
    if case.name.startswith("T = "):
        made[BLOCKS] = partial(ours, case, "auto", blocks=True)
    if case.recurrent:
        return made | {name: partial(build, case) for name, build in recurrent.contestants().items()}
    made["linear maps alone"] = partial(floor, case, torch.float32)
    if bf16:
        made["linear maps alone, bf16"] = partial(floor, case, torch.bfloat16)
    made["ReLU ANN, one pass"] = partial(ann, case)
    return made | {name: partial(build, case) for name, build in peers.installed().items()}


def run(names: Sequence[str], seconds: float, memory: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure cases; returns milliseconds per step, and MiB, by case and subject, with the machine.

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
        rows: dict[str, dict[str, Any]] = {who: {"step_ms": step[who]} for who in made}
        for who in rows.keys() & {TSSLBP, BF16}:
            rows[who]["spent_ms"] = where_time_goes(made[who].step, times=min(50, 1 + int(10 * seconds)))
        del made
        for who in rows if memory else ():
            say(f"{name}: memory of {who}")
            rows[who]["peak_mib"] = peak_memory(name, who)
        about = {"batch": case.batch, "time_steps": case.architecture.time_steps, "rates": case.rates()}
        result["cases"][name] = {**about, "subjects": rows}
    return result


def growth(seconds: float, memory: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """How a training step of a fully connected net grows with T, batch and width, one at a time.

    With T also in blocks of √T steps, which are computed again (``Network.time_block``).
    """
    rows = []
    for axis, points in itertools.groupby(grown().items(), key=lambda point: point[0].split(" = ")[0]):
        cases_ = dict(points)
        say(f"growth with {axis}")
        step = interleaved({name: ours(case, "auto").step for name, case in cases_.items()}, seconds)
        if axis == "T":
            blocks = interleaved({name: ours(case, "auto", blocks=True).step for name, case in cases_.items()}, seconds)
        for name in cases_:
            row: dict[str, Any] = {"axis": axis, "value": int(name.split(" = ")[1]), "step_ms": step[name]}
            if axis == "T":
                row["blocks_step_ms"] = blocks[name]
            if axis == "T" and memory:
                say(f"memory of {name}")
                row |= {"peak_mib": peak_memory(name, TSSLBP), "blocks_peak_mib": peak_memory(name, BLOCKS)}
            rows.append(row)
    return rows


def bfloat16_gains(seconds: float) -> dict[str, float]:
    """Speed-up of a training step by linear maps in bfloat16, by network."""
    gains = {}
    for name in ("fashion-mnist-fc", "mnist-cnn", "fashion-mnist-cnn"):
        made = {autocast: ours(cases()[name], "auto", autocast=autocast).step for autocast in (False, True)}
        times = interleaved({str(autocast): step for autocast, step in made.items()}, seconds)
        gains[name] = times["False"] / times["True"]
    return gains


def save(result: dict[str, Any], folder: Path, prefix: str = "") -> Path:
    """Write a result as JSON named by processor and date; returns the path. Raises UserError if it cannot be written."""
    processor = "-".join(result["machine"]["processor"].replace("(R)", "").split()).lower()
    files.make_folder(folder, "choose another --results")
    numbered = (f"{prefix}{processor}-{result['date']}{f'-{n}' if n > 1 else ''}.json" for n in itertools.count(1))
    path = next(folder / name for name in numbered if not (folder / name).exists())
    files.write_json(path, result)
    return path


def table(result: dict[str, Any]) -> str:
    """The result as Markdown: milliseconds per training step and, in brackets, as a multiple of ours.

    Cases with other contestants get a separate table.
    """
    groups = itertools.groupby(result["cases"].items(), key=lambda case: list(case[1]["subjects"]))
    made = [_table(dict(cases_)) for _, cases_ in groups]
    return "\n".join([*made, *growth_tables(result.get("growth", []))])


def _table(of_cases: dict[str, Any]) -> str:
    names, rows = list(of_cases), [case["subjects"] for case in of_cases.values()]
    steps, peaks = [], []
    for who in rows[0]:
        steps.append(
            [who, *(f"{row[who]['step_ms']:.1f} ({row[who]['step_ms'] / row[TSSLBP]['step_ms']:.2f})" for row in rows)]
        )
        if "peak_mib" in rows[0][who]:
            peaks.append([who, *(f"{row[who]['peak_mib']:.0f}" for row in rows)])
    rates = [" / ".join(f"{100 * rate:.0f}" for rate in case["rates"]) for case in of_cases.values()]
    steps.append(["hidden neurons spike, % of the steps", *rates])
    made = [markdown(["training step, ms (× ours)", *names], steps)]
    if peaks:
        made.append(markdown(["peak memory of a step, MiB", *names], peaks))
    return "\n".join(made)


def spent_table(result: dict[str, Any]) -> str:
    """Where the time of our training steps goes, as Markdown: milliseconds, and as a share of the step."""
    columns = [
        (f"{name}{', bf16' if who != TSSLBP else ''}", row["subjects"][who]["spent_ms"])
        for name, row in result["cases"].items()
        for who in (TSSLBP, BF16)
        if who in row["subjects"]
    ]
    rows = [
        [what, *(f"{spent[what]:.2f} ({100 * spent[what] / sum(spent.values()):.0f} %)" for _, spent in columns)]
        for what in columns[0][1]
    ]
    return markdown(["ms (share)", *(name for name, _ in columns)], rows)


def growth_tables(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: one table for each axis."""
    made: list[str] = []
    titles = {
        "step_ms": "step, ms",
        "blocks_step_ms": "step in blocks of √T, ms",
        "peak_mib": "peak memory, MiB",
        "blocks_peak_mib": "peak memory in blocks, MiB",
    }
    for axis, points in itertools.groupby(rows, key=lambda point: point["axis"]):
        points_ = list(points)
        measured = [[title, *(f"{point[key]:.1f}" for point in points_)] for key, title in titles.items() if key in points_[0]]
        made.append(markdown([axis, *(str(point["value"]) for point in points_)], measured))
    return made
