"""Charts for studies: lines and points with their spread, stacked and grouped bars, intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from tsslbp.report import figures

HEIGHT, BAR = 175.0, 15.0
"""Heights of a chart and of a bar, in points."""


@dataclass(frozen=True)
class Line:
    """Values ``y`` over ``x``; ``sd``, if known, draws a band of one standard deviation."""

    x: Sequence[float]
    y: Sequence[float]
    sd: Sequence[float | None] = ()


@figures.inline
def lines(
    named: Mapping[str, Line],
    xlabel: str,
    ylabel: str,
    *,
    level: tuple[str, float] | None = None,
    falling: bool = False,
    whole: bool = False,
    log: str = "",
) -> tuple[Figure, str]:
    """One line a name, and a horizontal one at ``level``; ``falling`` reverses the x axis, ``whole`` ticks whole numbers.

    ``log`` names the axes that are logarithmic: ``"x"``, ``"y"``, ``"xy"``.
    """
    figure = Figure(figsize=(figures.WIDTH / 72, HEIGHT / 72), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    for look, (name, line) in zip(figures.looks(len(named)), named.items(), strict=True):
        axes.plot(line.x, line.y, label=name, markersize=3.5, **look)
        if line.sd:
            sd = np.array([0.0 if one is None else one for one in line.sd])
            axes.fill_between(line.x, line.y - sd, line.y + sd, color=look["color"], alpha=0.15, linewidth=0)
    if level:
        axes.axhline(level[1], color=figures.MUTED, linewidth=1, linestyle=(0, (1, 2)), label=level[0], zorder=1)
    if "y" in log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    elif min((value for line in named.values() for value in line.y), default=0) >= 0:
        axes.set_ylim(bottom=0, top=max(1e-9, 1.03 * axes.get_ylim()[1]))
    if "x" in log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if falling:
        axes.invert_xaxis()
    entries = len(named) + bool(level)
    figures.legend(figure, axes, entries)
    return figure, f"Line chart of {ylabel} over {xlabel}: {', '.join(named)}"


@figures.inline
def means(named: Mapping[str, figures.Array], ylabel: str, shown: Sequence[str], description: str) -> tuple[Figure, str]:
    """The mean of several runs by epoch, in percent, and a band of one standard deviation around it.

    Args:
        named: ``[runs, epochs]`` by name.
        ylabel: of the axis, which is cut so that the last values of ``shown`` can be told apart.
        shown: some of the names.
        description: text alternative.
    """
    epochs = next(iter(named.values())).shape[1]
    figure, axes = figures.over_epochs([{"epoch": 1}, {"epoch": epochs}], ylabel)
    for look, (name, values) in zip(figures.looks(len(named)), named.items(), strict=True):
        epoch, mean = np.arange(1, epochs + 1), values.mean(0)
        axes.plot(epoch, mean, label=name, **look, markersize=figures.marked(epochs))
        if len(values) > 1:
            sd = values.std(0, ddof=1)
            axes.fill_between(epoch, mean - sd, mean + sd, color=look["color"], alpha=0.15, linewidth=0)
    least = min(named[name][:, -1].min() for name in shown)
    axes.set_ylim(max(0, min(least, 100) - 2 * (100 - least) - 2), min(axes.get_ylim()[1], 100.5))
    figures.legend(figure, axes, len(named))
    return figure, description


@figures.inline
def points(
    named: Mapping[str, Sequence[tuple[float, float | None]]], xlabel: str, ylabel: str, description: str
) -> tuple[Figure, str]:
    """A point a name; x and y are means with standard deviations, and x is logarithmic if it varies more than threefold."""
    figure = Figure(figsize=(figures.WIDTH / 72, 205 / 72), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    for look, (name, ((x, x_sd), (y, y_sd))) in zip(figures.looks(len(named)), named.items(), strict=True):
        look = {**look, "linestyle": "", "markersize": 5, "elinewidth": 0.8}
        axes.errorbar(x, y, xerr=x_sd, yerr=y_sd, label=name, **look)
    values = [x for (x, _), _ in named.values()]
    if max(values) > 3 * min(values):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
    figures.legend(figure, axes, len(named))
    return figure, description


@figures.inline
def stacked(names: Sequence[str], parts: Mapping[str, Sequence[float]], xlabel: str) -> tuple[Figure, str]:
    """One bar a name, made of the parts, ``[names]`` each."""
    figure, axes = _for_bars(names, len(names), xlabel)
    left = np.zeros(len(names))
    for number, (part, values) in enumerate(parts.items()):
        color = figures.looks(len(parts))[number]["color"]
        axes.barh(range(len(names)), values, left=left, height=0.7, color=color, alpha=0.9 ** (3 * (number // 4)), label=part)
        left += np.array(values)
    axes.set_xlim(0, max(1e-9, left.max()))
    figures.legend(figure, axes, len(parts))
    return figure, f"Stacked bars of {xlabel} for {', '.join(names)}"


@figures.inline
def bars(names: Sequence[str], groups: Mapping[str, Sequence[float]], xlabel: str) -> tuple[Figure, str]:
    """One bar of every group for each name, ``[names]`` each."""
    figure, axes = _for_bars(names, len(names) * len(groups), xlabel)
    height = 0.8 / len(groups)
    for number, (look, (group, values)) in enumerate(zip(figures.looks(len(groups)), groups.items(), strict=True)):
        at = np.arange(len(names)) - 0.4 + height * (number + 0.5)
        axes.barh(at, values, height=0.9 * height, color=look["color"], label=group)
    axes.set_xlim(left=0)
    if len(groups) > 1:
        figures.legend(figure, axes, len(groups))
    return figure, f"Bars of {xlabel} for {', '.join(names)}"


@figures.inline
def intervals(rows: Sequence[tuple[str, float, float, float, bool]], xlabel: str) -> tuple[Figure, str]:
    """A mean with its interval a row, ``(name, mean, low, high, marked)``; 0 is drawn."""
    figure, axes = _for_bars([row[0] for row in rows], len(rows), xlabel)
    reach = 1.3 * max(1e-9, *(abs(row[1]) for row in rows))
    reach = max(reach, float(np.median([max(abs(row[2]), abs(row[3])) for row in rows])))
    axes.axvline(0, color=figures.INK, linewidth=0.8)
    for marked, name, color, marker in ((True, "real", figures.WRONG, "o"), (False, "may be chance", figures.MUTED, "s")):
        chosen = [(at, row) for at, row in enumerate(rows) if row[4] == marked]
        if chosen:
            middle = np.array([row[1] for _, row in chosen])
            ends = np.array([[row[1] - row[2], row[3] - row[1]] for _, row in chosen]).T
            look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "", "markersize": 4, "elinewidth": 1.2}
            axes.errorbar(middle, [at for at, _ in chosen], xerr=ends, label=name, **look)
    axes.set_xlim(-reach, reach)
    figures.legend(figure, axes, len({row[4] for row in rows}))
    return figure, f"Mean differences with their intervals: {xlabel}"


def _for_bars(names: Sequence[str], count: int, xlabel: str) -> tuple[Figure, Axes]:
    """A figure as high as its bars, names from top to bottom."""
    figure = Figure(figsize=(figures.WIDTH / 72, (BAR * max(count, 2) + 40) / 72), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel)
    axes.grid(axis="x")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return figure, axes
