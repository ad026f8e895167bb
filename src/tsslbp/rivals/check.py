"""Runs a model's experiment and stores the result."""

import time
from pathlib import Path
from typing import Any

from tsslbp.rivals import RIVALS
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, unknown


def check(name: str, seeds: int = 1, quick: bool = False) -> dict[str, Any]:
    """A model's experiment with seeds 0, 1, ...

    Returns:
        ``name``, ``quick``, ``machine``, ``passed`` (by every seed) and ``runs``, for each seed the result of its experiment
        and the ``seconds`` it took.

    Raises:
        UserError: an unknown name, or no seeds.
    """
    if name not in RIVALS:
        raise unknown("model", name, RIVALS)
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; it must be at least 1")
    runs = []
    for seed in range(seeds):
        began = time.perf_counter()
        result = RIVALS[name].experiment(seed, quick)
        runs.append({"seed": seed, "seconds": round(time.perf_counter() - began, 2), **result})
    passed = all(run["passed"] for run in runs)
    return {"name": name, "quick": quick, "machine": machine.describe(), "passed": passed, "runs": runs}


def save(result: dict[str, Any], folder: Path) -> Path:
    """Write a result of :func:`check` to ``folder/NAME.json``, or NAME-quick.json. Raises UserError if it cannot be written."""
    files.make_folder(folder, "choose another --out")
    path = folder / f"{result['name']}{'-quick' * result['quick']}.json"
    files.write_json(path, result, ensure_ascii=False)
    return path


def numbers(result: Any, name: str = "") -> dict[str, str]:
    """The numbers in nested results, one a line: ``{"before.error": "0.25", ...}``; lists of numbers on one line."""
    if isinstance(result, dict):
        return {
            line: text for key, value in result.items() for line, text in numbers(value, f"{name}.{key}".strip(".")).items()
        }
    if isinstance(result, list) and not any(isinstance(item, list | dict) for item in result):
        return {name: " ".join(_text(item) for item in result)}
    return {} if isinstance(result, list) else {name: _text(result)}


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
