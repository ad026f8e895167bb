"""Output of a comparison of rules: tables, file and page, in HTML or Markdown."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from tsslbp.report import charts
from tsslbp.report.page import Result, significant, with_sd, write_page
from tsslbp.study.paired import interval
from tsslbp.study.search import best
from tsslbp.utils import files
from tsslbp.utils.errors import UserError

COSTS = {
    "MAC, thousands": ("macs", 1000),
    "AC, thousands": ("acs", 1000),
    "own MAC, thousands": ("own_macs", 1000),
    "energy, nJ": ("energy_nj", 1),
    "dense, nJ": ("dense_nj", 1),
}
"""Columns of a sample's cost: key and unit by head. Results of 0.1.0 lack two of them."""


def tables(result: Result) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and rows of the results, one row a rule, and of the differences if there are any; ± is a standard deviation."""
    made = [_outcome(result)]
    return [*made, _differences_table(result)] if result.get("differences") else made


def _outcome(result: Result) -> tuple[list[str], list[list[str]]]:
    good = ("F1 × 100", "best epoch, F1 × 100") if result["trains"] else ("test accuracy, %", "best test epoch, %")
    costs = {head: cost for head, cost in COSTS.items() if cost[0] in next(iter(result["rules"].values()))["mean"]}
    heads = ["rule", *good, "epochs to target", "seconds to target", "step, ms", "memory, MiB", "spikes", "silent, %", *costs]
    rows = []
    for label, rule in result["rules"].items():
        mean, sd, reached = rule["mean"], rule["sd"], sum(run["epochs_to_target"] is not None for run in rule["runs"])
        some = "" if reached in (0, len(rule["runs"])) else f" ({reached} of {len(rule['runs'])})"
        rows.append(
            [
                label,
                *(with_sd(mean[key], sd[key]) for key in ("test_accuracy", "best_test_accuracy")),
                *(_number(mean[f"{key}_to_target"], 1) + some for key in ("epochs", "seconds")),
                _number(rule["step_ms"], 2),
                _number(rule["peak_mib"], 0),
                _number(mean["spikes"], 2),
                _number(None if mean["silent"] is None else 100 * mean["silent"], 1),
                *(significant(mean[key] / unit) for key, unit in costs.values()),
            ]
        )
    return heads, rows + [[label, "diverged", *["–"] * (len(heads) - 2)] for label in result.get("diverged", ())]


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _differences_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the differences from the rule of ``--against``."""
    found = result["differences"]
    heads = ["rule", f"difference from {found['against']}", "95 % interval", "detectable", "p", "p, Holm", "real"]
    rows = []
    for label, one in found["rules"].items():
        planned = label == found["planned"]
        holm = "planned" if planned else f"{one['holm']:.2g}"
        numbers = (f"{one['mean']:+.2f}", interval(one), _number(one["detectable"], 2))
        rows.append([label, *numbers, f"{one['p']:.2g}", holm, "yes" if one["real"] else "no"])
    return heads, rows


def write_comparison(folder: str | Path, result: Result) -> Path:
    """Write ``compare.json`` and ``compare.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(folder)
    files.make_folder(folder, "choose another --out")
    result = result | {"command": result.get("command", "")}  # of the command line alone
    content = json.dumps(result, indent=1, allow_nan=False)
    context = _contents(json.loads(content))  # the page is made from the file
    files.write_text(folder / "compare.json", content + "\n")
    return write_page(folder / "compare.html", "compare", context)


def draw_comparison(folder: Path, markdown: bool = False) -> Path:
    """Write ``compare.html`` from ``compare.json``, or ``README.md`` with SVG figures; returns the path of the page.

    Raises:
        UserError: a file cannot be written, or ``compare.json`` is damaged.
    """
    try:
        result = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
        json.dumps(result, allow_nan=False)
        context = _contents(result)
    except Exception:  # drawing an altered file may raise anything
        raise UserError(f"{folder / 'compare.json'} is damaged or of an older release; run that comparison again") from None
    return write_page(folder / "compare.html", "compare", context, markdown)


def _contents(result: Result) -> dict[str, Any]:
    """The variables of a comparison's page."""

    def holders(key: str, best: Callable[[Iterable[float]], float], shown: Callable[[float], str]) -> str:
        """The entries with the best value as it is shown, and this value."""
        values = {label: rule["mean"][key] for label, rule in result["rules"].items()}
        text = shown(best(values.values()))
        *others, last = (label for label, value in values.items() if shown(value) == text)
        return f"{' and '.join([', '.join(others)] * bool(others) + [last])}, {text}"

    good, shown = ("F1", lambda x: f"{x / 100:.3f}") if result["trains"] else ("test accuracy", lambda x: f"{x:.2f}\u00a0%")
    return {
        "result": result,
        "answer": f"Highest {good}: {holders('test_accuracy', max, shown)}. "
        f"Lowest energy: {holders('energy_nj', min, significant)}\u00a0nJ a sample.",
        "tables": tables(result),
        **({"trials": _trials(result)} if (result["tuning"] or {}).get("trials") else {"tried": _rates_tried(result)}),
        "accuracy": _accuracy(result),
        "energy": _energy(result),
    }


def _rates_tried(result: Result) -> tuple[list[float], dict[str, dict[float, str]]]:
    """All learning rates that were tried, and their results by rule."""
    tried = {
        label: {
            trial["learning_rate"]: "diverged" if (found := trial["validation_accuracy"]) is None else f"{found:.2f}"
            for trial in rule["tried"]
        }
        for label, rule in result["rules"].items()
    }
    return sorted({rate for trials in tried.values() for rate in trials}), tried


def _trials(result: Result) -> list[list[str]]:
    """Results of the trials of settings, one row a rule."""
    rows = []
    for label, rule in result["rules"].items():
        ended = [trial for trial in rule["tried"] if trial["validation_accuracy"] is not None]
        chosen = best(label, rule["tried"])
        settings = ", ".join(f"{name} {_short(value)}" for name, value in chosen["settings"].items()) or "as given"
        reached = [trial[key] for trial in (chosen, rule["tried"][0]) for key in ("validation_accuracy", "in_full")]
        rows.append(
            [label, f"{len(ended)} of {len(rule['tried'])}", *("–" if x is None else f"{x:.2f}" for x in reached), settings]
        )
    return rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _accuracy(result: Result) -> Markup:
    rules = result["rules"].items()
    curves = {label: np.array([run["curves"]["test_accuracy"] for run in rule["runs"]]) for label, rule in rules}
    epochs = next(iter(curves.values())).shape[1]
    description = f"Line chart of test accuracy over {epochs} epochs under {len(curves)} rules"
    return charts.means("accuracy", curves, _unit(result), list(curves), description)


def _energy(result: Result) -> Markup:
    """Test accuracy against energy, with the standard deviation over the seeds of both."""
    keys = ("energy_nj", "test_accuracy")
    both = {label: [(rule["mean"][key], rule["sd"][key]) for key in keys] for label, rule in result["rules"].items()}
    description = f"Test accuracy against energy per sample for {len(both)} rules"
    return charts.points("energy", both, "energy of a sample, nJ", _unit(result), description)


def _unit(result: Result) -> str:
    return "F1 × 100" if result["trains"] else "right answers in the test set, %"
