"""What the page of studies says of how true rules' gradients are, and of what depth does to them."""

from collections.abc import Iterable

from markupsafe import Markup

from tsslbp.report import charts
from tsslbp.report.charts import Line
from tsslbp.report.page import Result, Section

Spread = dict[str, float] | None
"""Median and quartiles, of what could be measured."""


def fidelity(result: Result) -> Section:
    """Cosine and norm against the exact gradient by step, the gradient's norm by depth and by layer."""
    rules, nets, constants = result["rules"], list(result["alike"]), result["settings"]
    per_unit = [1 / step for step in result["steps"]]
    hidden = len(next(iter(rules.values()))["depth"])

    drawings = []
    for net in nets:
        caption = f"Networks of {net} neurons, the first layer's weights: median over those that fire alike."
        exact = {name: rule["exact"][net][0] for name, rule in rules.items()}
        for key, ylabel, log in (
            ("cosine", "cosine with the exact gradient", "x"),
            ("norm", "norm / norm of the exact gradient", "xy"),
        ):
            named = _lines({name: (per_unit, layer[key]) for name, layer in exact.items()})
            drawings += _chart(f"{net}-{key}", named, "steps in a unit of time", ylabel, caption, log, "exact")
    depths, layers = range(1, hidden + 1), range(1, hidden + 2)
    for key, named, xlabel, caption in (
        (
            "depth",
            _lines({name: (depths, [net[0] for net in rule["depth"]]) for name, rule in rules.items()}),
            "hidden layers",
            "The first layer's weights, in networks of growing depth.",
        ),
        (
            "layers",
            _lines({name: (layers, rule["depth"][-1]) for name, rule in rules.items()}),
            "layer",
            f"Each layer's weights, in the network with {hidden} hidden layers; the last is the output.",
        ),
    ):
        drawings += _chart(key, named, xlabel, "norm / norm at the output", caption, "y", "as at the output", whole=True)

    columns = [(net, key) for net in nets for key in ("cosine", "norm")]
    alike = "; ".join(f"{net}: {', '.join(map(str, counts))}" for net, counts in result["alike"].items())
    return Section(
        "How true is each rule's gradient, and how far does it reach?",
        _answer(result, per_unit[-1], hidden),
        drawings,
        ["rule", *(f"{key}, {net}" for net, key in columns), f"norm / norm at the output, {hidden} hidden layers"],
        [
            [name, *(_cell(rule["exact"][net][0][key][-1]) for net, key in columns), _cell(rule["depth"][-1][0])]
            for name, rule in rules.items()
        ],
        [
            f"Random networks, {len(result['seeds'])} seeds; nothing is trained. In the table: first layers, with "
            f"{per_unit[-1]:g} steps in a unit of time, in which membrane and synapse have time constants of 6 and 3; median "
            "(quartiles).",
            "The exact gradient is that of the times of spikes that are there. A surrogate also counts spikes that are not, so "
            "that one can learn well at a small cosine.",
            "Compared with the exact gradient are networks whose neurons all fire as often on the grid as in continuous time; "
            f"with {', '.join(f'{steps:g}' for steps in per_unit)} steps in a unit these are, of {alike}.",
            f"Deep networks: {constants['width']} neurons a layer, {constants['time_steps']} steps, tau_m "
            f"{constants['tau_m']:g}, tau_s {constants['tau_s']:g}, weights scaled so that every layer fires at "
            f"{constants['rate']:g} spikes a step. A norm far from the output's makes first layers learn much slower or faster "
            "than the last, unless the optimiser evens it out.",
        ],
    )


def _answer(result: Result, per_unit: float, hidden: int) -> str:
    last_net, told = list(result["alike"])[-1], []
    closest = [
        (one["median"], name)
        for name, rule in result["rules"].items()
        if (one := rule["exact"][last_net][0]["cosine"][-1]) is not None
    ]
    if closest:
        cosine, name = max(closest)
        most = " the largest" if len(closest) > 1 else " a"
        told.append(f"With {per_unit:g} steps in a unit of time {name} has{most} cosine with the exact gradient, {cosine:.3f}")
    first = [(one["median"], name) for name, rule in result["rules"].items() if (one := rule["depth"][-1][0]) is not None]
    if first:
        sizes = " to ".join(f"{_plain(size)} ({name})" for size, name in dict.fromkeys((min(first), max(first))))
        told.append(f"through {hidden} hidden layers the first layer's gradient becomes {sizes} times the output's")
    return "; ".join(told) + "." if told else "No network fired alike, and no gradient was finite."


def _plain(value: float) -> str:
    """Two digits without an exponent."""
    return f"{float(f'{value:.2g}'):,.9f}".rstrip("0").rstrip(".")


def _lines(made: dict[str, tuple[Iterable[float], list[Spread]]]) -> dict[str, Line]:
    """Medians over x by rule, without what could not be measured; rules of which nothing could are left out."""
    known = {name: [(x, one["median"]) for x, one in zip(*pair, strict=True) if one] for name, pair in made.items()}
    return {name: Line(*map(list, zip(*points, strict=True))) for name, points in known.items() if points}


def _chart(
    key: str, named: dict[str, Line], xlabel: str, ylabel: str, caption: str, log: str, same: str, whole: bool = False
) -> list[tuple[Markup, str]]:
    """One chart, with a line at 1; none where there is nothing to draw."""
    if not named:
        return []
    return [(charts.lines(f"fidelity-{key}", named, xlabel, ylabel, level=(same, 1.0), whole=whole, log=log), caption)]


def _cell(one: Spread) -> str:
    return "–" if one is None else f"{one['median']:.3g} ({one['low']:.3g} to {one['high']:.3g})"
