"""A comparison of learning rules as JSON, Markdown and one HTML page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tsslbp import files, tables
from tsslbp.report import figures
from tsslbp.report.run import template

COSTS = {
    "MAC, thousands": ("macs", 1000),
    "AC, thousands": ("acs", 1000),
    "own MAC, thousands": ("own_macs", 1000),
    "energy, nJ": ("energy_nj", 1),
    "dense, nJ": ("dense_nj", 1),
}
"""What is told of a sample's cost by head: its key and unit. Results of 0.1.0 lack two of them."""


def heads(result: dict[str, Any]) -> list[str]:
    """Heads of :func:`comparison_rows`."""
    good = ("F1 × 100", "best epoch, F1 × 100") if result["trains"] else ("test accuracy, %", "best test epoch, %")
    mean = next(iter(result["rules"].values()))["mean"]
    return [
        *("rule", *good, "epochs to target", "seconds to target", "step, ms", "memory, MiB", "spikes", "silent, %"),
        *(head for head, (key, _) in COSTS.items() if key in mean),
    ]


def _measure(result: dict[str, Any]) -> str:
    return "F1 × 100" if result["trains"] else "right answers in the test set, %"


def comparison_rows(result: dict[str, Any]) -> list[list[str]]:
    """A comparison's result (:func:`tsslbp.study.compare`) as text, one row a rule; ± is the standard deviation over seeds."""
    rows = []
    for label, rule in result["rules"].items():
        mean, reached = rule["mean"], sum(run["epochs_to_target"] is not None for run in rule["runs"])
        some = "" if reached in (0, len(rule["runs"])) else f" ({reached} of {len(rule['runs'])})"
        rows.append(
            [
                label,
                *(_with_sd(rule, key) for key in ("test_accuracy", "best_test_accuracy")),
                *(_number(mean[f"{key}_to_target"], 1) + some for key in ("epochs", "seconds")),
                _number(rule["step_ms"], 2),
                _number(rule["peak_mib"], 0),
                _number(mean["spikes"], 2),
                _number(100 * mean["silent"], 1),
                *(significant(mean[key] / unit) for key, unit in COSTS.values() if key in mean),
            ]
        )
    return rows


def difference_rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the differences from the rule of ``--against``, which was given."""
    found = result["differences"]
    heads = ["rule", f"difference from {found['against']}", "95 % interval", "detectable", "p", "p, Holm", "real"]
    rows = []
    for label, one in found["rules"].items():
        planned = label == found["planned"]
        holm = "planned" if planned else f"{one['holm']:.2g}"
        numbers = (f"{one['mean']:+.2f}", f"{one['low']:+.2f} to {one['high']:+.2f}", f"{one['detectable']:.2f}")
        rows.append([label, *numbers, f"{one['p']:.2g}", holm, "yes" if one["real"] else "no"])
    return heads, rows


def comparison_tables(result: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and rows of what came out, and of the differences if there are any."""
    tables = [(heads(result), comparison_rows(result))]
    return [*tables, difference_rows(result)] if result.get("differences") else tables


def markdown(result: dict[str, Any]) -> str:
    """The tables for a README."""
    made = [([[f"`{name}`", *cells] for name, *cells in rows], heads) for heads, rows in comparison_tables(result)]
    return "\n".join(tables.markdown(heads, rows) for rows, heads in made)


def write_comparison(folder: Path, result: dict[str, Any]) -> Path:
    """Write ``compare.json``, ``compare.md`` and ``compare.html``; returns the path of the page.

    Raises:
        UserError: a file cannot be written.
    """
    files.make_folder(folder, "choose another --out")
    content = json.dumps(result, indent=1)
    files.write_text(folder / "compare.json", content + "\n")
    result = json.loads(content)  # the page is what the file makes
    files.write_text(folder / "compare.md", markdown(result))
    means = {label: rule["mean"] for label, rule in result["rules"].items()}
    page = template("compare.html").render(
        result=result,
        tables=comparison_tables(result),
        tried=_tried(result),
        best=max(means, key=lambda label: means[label]["test_accuracy"]),
        thriftiest=min(means, key=lambda label: means[label]["energy_nj"]),
        accuracy=accuracy("accuracy", result),
        energy=energy("energy", result),
    )
    files.write_text(folder / "compare.html", page)
    return folder / "compare.html"


def _tried(result: dict[str, Any]) -> tuple[list[float], dict[str, dict[float, str]]]:
    """All learning rates that were tried, and what came of each by rule."""
    tried = {
        label: {
            trial["learning_rate"]: "diverged" if (found := trial["validation_accuracy"]) is None else f"{found:.2f}"
            for trial in rule["tried"]
        }
        for label, rule in result["rules"].items()
    }
    return sorted({rate for trials in tried.values() for rate in trials}), tried


@figures.inline
def accuracy(result: dict[str, Any]) -> tuple[Figure, str]:
    """Test accuracy by epoch: the mean over the seeds, and a band of one standard deviation around it."""
    curves = {
        label: np.array([run["curves"]["test_accuracy"] for run in rule["runs"]]) for label, rule in result["rules"].items()
    }
    epochs = next(iter(curves.values())).shape[1]
    figure, axes = figures.over_epochs([{"epoch": 1}, {"epoch": epochs}], _measure(result))
    for look, (label, curve) in zip(figures.looks(len(curves)), curves.items(), strict=True):
        figures.mean_and_band(axes, curve, label, look)
    figures.show_the_end(axes, np.concatenate([curve[:, -1] for curve in curves.values()]))
    figures.legend(figure, axes, len(curves))
    return figure, f"Line chart of test accuracy over {epochs} epochs under {len(curves)} rules"


@figures.inline
def energy(result: dict[str, Any]) -> tuple[Figure, str]:
    """Test accuracy against energy per sample, with the standard deviation over the seeds of both."""
    figure = Figure(figsize=(figures.WIDTH / 72, 205 / 72), layout="constrained")
    axes = figure.add_subplot(xlabel="energy of a sample, nJ", ylabel=_measure(result))
    axes.grid(axis="y")
    for look, (label, rule) in zip(figures.looks(len(result["rules"])), result["rules"].items(), strict=True):
        mean, sd = rule["mean"], rule["sd"]
        spread = {"xerr": sd["energy_nj"], "yerr": sd["test_accuracy"], "elinewidth": 0.8}
        look = {**look, "linestyle": "", "markersize": 5}
        axes.errorbar(mean["energy_nj"], mean["test_accuracy"], label=label, **spread, **look)
    values = [rule["mean"]["energy_nj"] for rule in result["rules"].values()]
    if max(values) > 3 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
    figures.legend(figure, axes, len(result["rules"]))
    return figure, f"Test accuracy against energy per sample for {len(result['rules'])} rules"


def _with_sd(rule: dict[str, Any], key: str) -> str:
    sd = rule["sd"][key]
    return f"{rule['mean'][key]:.2f}" + ("" if sd is None else f" ± {sd:.2f}")


def significant(value: float) -> str:
    """At least three digits; the large ones without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"
