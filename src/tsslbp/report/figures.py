"""The report's figures, as inline SVG with the page's font and its light or dark colours.

For this, figures are drawn in stand-in colours that become the page's CSS variables, and text stays text. Lengths are points. A
figure is ``WIDTH`` wide, so that its text is legible on a phone.
"""

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Concatenate, ParamSpec

import matplotlib.style
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

P = ParamSpec("P")
Records = Sequence[dict[str, Any]]
Array = NDArray[Any]

WIDTH = 320.0
MOST_NUMBERED = 20
"""Most classes for which the confusion matrix shows counts and the rows of the output their class."""
MOST_DRAWN = 120
"""Most neurons of one layer that a raster draws."""
MOST_STEPS = 1000
"""Most dashes in a row of a raster; of more steps, several share one."""

INK, MUTED, RULE, PAPER, RIGHT, WRONG, THIRD, FOURTH = (f"#fe00a{digit}" for digit in range(1, 9))
VARIABLES = dict(
    zip(
        (INK, MUTED, RULE, PAPER, RIGHT, WRONG, THIRD, FOURTH),
        ("ink", "muted", "rule", "paper", "right", "wrong", "third", "fourth"),
        strict=True,
    )
)
LOOKS = [
    {"color": color, "linestyle": style, "marker": marker}
    for style, marker in (("-", "o"), ("--", "^"), (":", "s"), ("-.", "D"), ((0, (1, 1, 4, 1)), "v"))
    for color in (RIGHT, WRONG, THIRD, FOURTH)
]
"""Ways to draw a line."""
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called "$1"
    "font.size": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}


def inline(draw: Callable[P, tuple[Figure, str]]) -> Callable[Concatenate[str, P], Markup]:
    """Turn a function that returns a figure and its description into one that takes the figure's name and returns SVG."""

    def drawn(name: str, /, *args: P.args, **kwargs: P.kwargs) -> Markup:
        with warnings.catch_warnings(), matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]):
            warnings.filterwarnings("ignore", "Glyph")  # browsers have letters that Matplotlib's font lacks
            figure, description = draw(*args, **kwargs)
            svg = _painted(figure)
        return _for_page(svg, figure, description)

    return drawn


def _painted(figure: Figure) -> str:
    figure.savefig(buffer := io.StringIO(), format="svg", transparent=True)
    return buffer.getvalue()


def _for_page(svg: str, figure: Figure, description: str) -> Markup:
    """An SVG file as a part of a page: no prolog, metadata, font or indentation, only ids in use, lengths to 1/100 point."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"\s*<!--.*?-->|\s*<metadata>.*?</metadata>|\s*<defs>\s*<style.*?</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r">[^<]+", lambda text: text[0].replace('"', "&quot;"), body)  # what follows looks for attributes
    referred = set(re.findall(r"#([\w.-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", body)
    body = re.sub(r' style="[^"]*"', lambda found: re.sub("#fe00a.", lambda c: f"var(--{VARIABLES[c[0]]})", found[0]), body)
    body = re.sub(r"(?<=[\"; ])font-family: [^;\"]*(; |(?=\"))", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"|>\s+(?=<)', lambda found: found[0][0].strip(), body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: " " + " ".join(re.sub(r"(\.\d\d)\d+", r"\1", found[0]).split()), body)
    width, height = figure.get_size_inches() * 72
    root = f'<svg role="img" aria-label="{html.escape(description)}" width="{width:g}pt" viewBox="0 0 {width:g} {height:g}">'
    return Markup(root + body.strip())


def standalone(svg: str) -> str:
    """A figure of a page as a separate file, in the page's light or dark colours."""
    palette, _, _ = resources.files("tsslbp.report").joinpath("style.css").read_text(encoding="utf-8").partition("* {")
    looks = {look: f"s{number}" for number, look in enumerate(dict.fromkeys(re.findall(r' style="([^"]*)"', svg)))}
    # each look once, not at each of a thousand marks
    rules = " ".join(f".{name} {{ {look} }}" for look, name in looks.items())
    svg = re.sub(r' style="([^"]*)"', lambda found: f' class="{looks[found[1]]}"', svg)
    style = f"<style>{palette}svg {{ background: var(--paper); font-family: sans-serif; }} {rules}</style>"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace("<svg", f"<svg {spaces}", 1).replace(">", f">{style}", 1)


def _short(name: str, most: int = 16) -> str:
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


def column(history: Records, key: str) -> NDArray[np.float64]:
    """One field of every epoch's record, NaN where it is missing: ``[epochs]``."""
    return np.array([np.nan if record.get(key) is None else record[key] for record in history], dtype=np.float64)


def over_epochs(history: Records, ylabel: str) -> tuple[Figure, Axes]:
    """A figure with axes for one value per epoch."""
    figure = Figure(figsize=(WIDTH / 72, 205 / 72), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel=ylabel)
    axes.grid(axis="y")
    axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure, axes


def looks(count: int) -> list[dict[str, Any]]:
    """``count`` ways to draw a line, of which the first twenty differ in colour or form."""
    return [LOOKS[number % len(LOOKS)] for number in range(count)]


def marked(points: int) -> int:
    """Size of the marks of a line through so many points."""
    return 3 if points <= 30 else 0


def legend(figure: Figure, axes: Axes, entries: int) -> None:
    """A legend above the axes, one entry a line; the figure grows for it."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + entries * 13 / 72)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", handlelength=2.4, labelspacing=0.3)


@inline
def loss(history: Records) -> tuple[Figure, str]:
    """Training loss by epoch."""
    figure, axes = over_epochs(history, "loss")
    epoch, value = column(history, "epoch"), column(history, "train_loss")
    finite = value[np.isfinite(value)]
    axes.plot(epoch, value, color=MUTED, marker="o", markersize=marked(len(finite)), label="training loss")
    figure.legend(loc="outside upper left")
    ends = f", from {finite[0]:.4g} to {finite[-1]:.4g}" if len(finite) else ""
    return figure, f"Line chart of the training loss over {len(history)} epochs{ends}"


@inline
def by_layer(history: Records, key: str, ylabel: str) -> tuple[Figure, str]:
    """A value of each epoch's record by layer; epochs without it are left out."""
    figure, axes = over_epochs(history, ylabel)
    known = [record for record in history if key in record]
    for look, layer in zip(looks(len(known[-1][key])), known[-1][key], strict=True):
        value = [record[key][layer] for record in known]
        axes.plot(column(known, "epoch"), value, label=layer, **look, markersize=marked(len(known)))
    axes.set_ylim(bottom=0, top=max(1e-9, 1.03 * axes.get_ylim()[1]))
    legend(figure, axes, len(known[-1][key]))
    return figure, f"Line chart of {ylabel} over {len(history)} epochs: {', '.join(known[-1][key])}"


@inline
def accuracy(history: Records, chosen: int, ylabel: str = "right answers, %") -> tuple[Figure, str]:
    """Training, validation and test accuracy by epoch, the chosen epoch marked."""
    figure, axes = over_epochs(history, ylabel)
    epoch = column(history, "epoch")
    for key, color, style, marker in (("train", MUTED, ":", "s"), ("validation", WRONG, "--", "^"), ("test", RIGHT, "-", "o")):
        value = column(history, f"{key}_accuracy")
        if (known := np.isfinite(value)).any():  # --test-every leaves epochs out
            look: dict[str, Any] = {
                "color": color,
                "linestyle": style,
                "marker": marker,
                "markersize": marked(int(known.sum())),
            }
            axes.plot(epoch[known], value[known], label=key.replace("train", "training"), **look)
    axes.axvline(chosen, color=INK, linewidth=0.8, zorder=1, label=f"chosen epoch ({chosen})")
    axes.set_ylim(top=min(axes.get_ylim()[1], 100.5))
    figure.legend(loc="outside upper left", ncols=4, columnspacing=1.1, handlelength=1.8, handletextpad=0.5)
    return figure, f"Line chart of training, validation and test accuracy over {len(history)} epochs; epoch {chosen} was chosen"


@inline
def confusion(counts: Array, classes: Sequence[str]) -> tuple[Figure, str]:
    """Counts ``[classes, classes + 1]`` as coloured cells; the last column is left out where it is all zero."""
    n, silent = len(classes), bool(counts[:, -1].any())
    few = n <= MOST_NUMBERED
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    width = WIDTH if n <= 12 else 500
    figure = Figure(figsize=(width / 72, width / 72), layout="constrained")
    axes = figure.add_subplot(xlabel="answer of the network", ylabel="true class", aspect="equal")
    axes.set(xlim=(0, n + 1.4 * silent), ylim=(n, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    blocks = [Rectangle((0, 0), n, n), Rectangle((n + 0.4, 0), 1, n)]
    axes.add_collection(PatchCollection(blocks[: 1 + silent], facecolor=RULE, alpha=0.35, linewidth=0))
    found = [(int(row), int(answer)) for row, answer in np.argwhere(counts)]
    strength = {at: 0.15 + 0.85 * float(share[at]) ** 0.5 for at in found}
    colors = [(RIGHT if row == answer else WRONG, strength[row, answer]) for row, answer in found]
    left = {at: at[1] + 0.4 * (at[1] == n) for at in found}
    axes.add_collection(PatchCollection([Rectangle((left[at], at[0]), 1, 1) for at in found], facecolor=colors, linewidth=0))
    if few:
        axes.vlines([*range(n), *[n + 0.4] * silent], 0, n, color=PAPER, linewidth=0.8)
        axes.hlines(range(n), 0, n + 1.4 * silent, color=PAPER, linewidth=0.8)
        size = min(8.5, 0.8 * width / (n + 3) / len(str(counts.max())) / 0.62)
        for at in found:
            color = PAPER if strength[at] > 0.62 else INK
            place: dict[str, Any] = {"ha": "center", "va": "center_baseline", "color": color, "fontsize": size}
            axes.text(left[at] + 0.5, at[0] + 0.5, str(counts[at]), **place)
    ticks = np.arange(n) if n <= 30 else np.arange(0, n, n // 10)
    names = [_short(classes[int(number)]) if n <= 30 else str(number) for number in ticks]
    axes.set_yticks(ticks + 0.5, names)
    flat = all(len(name) <= 2 for name in names)
    turned: dict[str, Any] = {} if flat else {"rotation": 45, "ha": "right", "va": "top", "rotation_mode": "anchor"}
    axes.set_xticks([*(ticks + 0.5), *[n + 0.9] * silent], [*names, *["none" if flat else "no answer"] * silent], **turned)
    figure.legend([Patch(color=RIGHT), Patch(color=WRONG)], ["right", "wrong"], loc="outside upper left", ncols=2)
    return figure, f"Confusion matrix: {np.trace(counts[:, :n])} of {counts.sum()} right over {n} classes"


def drawn_neurons(spikes: Array, *keep: int) -> NDArray[np.intp]:
    """At most ``MOST_DRAWN`` of the neurons that fire in ``spikes`` ``[T, neurons]``, evenly chosen, and ``keep``; in order."""
    firing = np.flatnonzero(spikes.any(0))
    if len(firing) > MOST_DRAWN:
        firing = firing[np.linspace(0, len(firing) - 1, MOST_DRAWN).round().astype(int)]
    return np.union1d(firing, np.array(keep, dtype=np.intp))


@inline
def raster(spikes: dict[str, Array], classes: Sequence[str], true: int, answer: int | None) -> tuple[Figure, str]:
    """Spikes of every layer, stacked, time to the right.

    Args:
        spikes: ``[T, neurons]`` of bool by layer, at least one; ``output`` only if that spikes.
        classes: names of the classes. The output has equally many neurons for each, side by side, which vote for it.
        true: number of the true class.
        answer: number of the class answered, if any.
    """
    *_, last = spikes
    n, marks = len(classes), {true: RIGHT} if answer in (None, true) else {true: RIGHT, answer: WRONG}
    rows = {name: drawn_neurons(layer) for name, layer in spikes.items()}
    heights = {name: float(np.clip(0.8 * len(drawn), 22, 96)) for name, drawn in rows.items()}
    voters = spikes[last].shape[1] // n if last == "output" else 1
    if last == "output":
        neurons = np.arange(n * voters)
        all_drawn = n <= MOST_NUMBERED or len(neurons) <= MOST_DRAWN
        rows[last] = neurons if all_drawn else drawn_neurons(spikes[last], *neurons[np.isin(neurons // voters, list(marks))])
        heights[last] = max(11.5 * n, min(3.0 * n * voters, 96.0)) if n <= MOST_NUMBERED else 110.0
    names = {number: _short(classes[number]) for number in (range(n) if n <= MOST_NUMBERED else sorted(marks))}
    for number, color in marks.items():
        names[number] = f"{'true' if color == RIGHT else 'answer'}  {names[number]}"
    left = 10 + 4.7 * len("answer  ") + 4.5 * max(len(_short(name)) for name in classes)

    top = height = sum(heights.values()) + 18 * len(rows) + 32
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    for name, drawn in rows.items():
        layer, band = spikes[name], heights[name]
        top -= 18 + band
        axes = figure.add_axes((left / WIDTH, top / height, 1 - (left + 8) / WIDTH, band / height))
        axes.set(xlim=(0.5, len(layer) + 0.5), ylim=(max(len(drawn), 1), 0), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor=RULE, alpha=0.3, linewidth=0))
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axes.tick_params(axis="x", labelbottom=name == last)
        if name == last:
            axes.set_xlabel(_time_axis(len(layer)))
        firing = int(layer.any(0).sum())
        shown = layer[:, drawn]
        part = f" ({len(drawn)} drawn)" if int(shown.any(0).sum()) < firing else ""
        vote = f", {voters} a class" if name == last and voters > 1 else ""
        title = f"{name}{vote}: {firing} of {layer.shape[1]} neurons fire{part}, activity {100 * layer.mean():.3g} %"
        figure.text(0, (top + band + 3) / height, title, fontsize=8.5)
        thickness = 0.75 * band / max(len(drawn), 1)
        if name != "output":
            _dashes(axes, shown, INK, thickness)
            continue
        of_class = drawn // voters
        _dashes(axes, shown & ~np.isin(of_class, list(marks)), INK, thickness)
        for number, color in marks.items():
            axes.axhspan(*np.searchsorted(of_class, (number, number + 1)), facecolor=color, alpha=0.18, linewidth=0)
            _dashes(axes, shown & (of_class == number), color, thickness)
        for number, text in names.items():
            middle = np.searchsorted(of_class, (number, number + 1)).mean()
            apart = n > MOST_NUMBERED and len(marks) == 2  # rows may be thinner than text: labels above and below
            look: dict[str, Any] = {"va": "center_baseline" if not apart else "bottom" if number == min(marks) else "top"}
            look |= {"fontweight": "bold", "color": marks[number]} if number in marks else {"color": INK}
            x = -4 / (WIDTH - left)
            axes.text(x, middle, text, transform=axes.get_yaxis_transform(), ha="right", fontsize=8.5, **look)
    return figure, f"Spikes of {len(spikes)} layers over {len(spikes[last])} time steps, true class {classes[true]}"


@inline
def trains(output: Array, target: Array, f1: float) -> tuple[Figure, str]:
    """Output spikes over their target trains, time to the right.

    Args:
        output: ``[T, neurons]`` of bool.
        target: the same of the targets.
        f1: how well they agree.
    """
    steps, neurons = target.shape
    band = float(np.clip(9.0 * neurons, 60, 300))
    figure = Figure(figsize=(WIDTH / 72, (band + 52) / 72))
    axes = figure.add_axes((30 / WIDTH, 34 / (band + 52), 1 - 38 / WIDTH, band / (band + 52)))
    axes.set(xlim=(0.5, steps + 0.5), ylim=(neurons, 0), xlabel=_time_axis(steps), ylabel="output neuron")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    near = target.copy()
    near[1:] |= target[:-1]
    near[:-1] |= target[1:]
    thickness = 0.75 * band / neurons
    _dashes(axes, target, RULE, thickness)
    for shown, color in ((output & near, RIGHT), (output & ~near, WRONG)):
        _dashes(axes, shown, color, 0.6 * thickness)
    figure.text(
        0, 1 - 12 / (band + 52), f"{int(output.sum())} spikes for {int(target.sum())} in the target, F1 {f1:.3f}", fontsize=8.5
    )
    return figure, f"Spikes of {neurons} output neurons over {steps} steps and the {int(target.sum())} target spikes"


def _steps_of_a_dash(steps: int) -> int:
    return -(-steps // MOST_STEPS)


def _time_axis(steps: int) -> str:
    wide = _steps_of_a_dash(steps)
    return "time step" if wide == 1 else f"time step (a dash stands for {wide} steps with a spike in them)"


def _dashes(axes: Axes, spikes: Array, color: str, thickness: float) -> None:
    """One dash a spike, as one path; ``spikes`` ``[T, rows]``."""
    wide = _steps_of_a_dash(len(spikes))
    step, row = np.nonzero(np.logical_or.reduceat(spikes, range(0, len(spikes), wide)))
    ends = np.stack([wide * step + 0.6, row + 0.5, wide * (step + 1) + 0.4, row + 0.5], axis=1).reshape(-1, 2)
    path = Path(ends, np.tile([Path.MOVETO, Path.LINETO], len(step)))
    axes.add_patch(PathPatch(path, edgecolor=color, facecolor="none", linewidth=thickness, capstyle="butt"))
