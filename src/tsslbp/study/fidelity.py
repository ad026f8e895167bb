"""How close each rule comes to the exact gradient of spike times, and how its gradient changes on the way through layers.

A network of spiking neurons in continuous time has an exact gradient (``rivals/eventprop.py``). The layers of this library are
that network's Euler discretisation with the same weights. As the step shrinks, the spikes converge to the true ones. The study
measures whether a rule's gradient converges to the true one in direction (cosine) and in size (ratio of norms). The loss is the
van Rossum distance, on the grid

    L = ½ Σ (y[t] - dt·g(t))²/dt                                                                          (1)

with y the output's post-synaptic current, or that once more through the synapse, and g the smoothed target.

The exact gradient needs small networks. The effect of depth can be measured without it: the norm of the gradient by the weights
of each layer, over that of the output layer, shows whether a rule's gradient vanishes or explodes on its way back. All layers
of these networks are equally wide and scaled to fire equally often.
"""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from markupsafe import Markup
from torch import Tensor

from tsslbp import rules
from tsslbp.functional import lif
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.report import charts
from tsslbp.report.page import Result, Section
from tsslbp.rivals.eventprop import Case, Train, loss_gradient, random_case
from tsslbp.rules import Rule
from tsslbp.study.base import Study
from tsslbp.study.runs import Watch, about
from tsslbp.utils.errors import UserError
from tsslbp.utils.tables import aligned

RULES = ("tssl", "tssl(psc_derivative=timing)", "tssl+", "surrogate", "stbp", "slayer", "eventprop")
STEPS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
SMALL = {"12-6": (12, 6), "12-8-6": (12, 8, 6)}
"""Networks with an exact gradient, by name: sizes from the input on."""
DEPTH = 10
"""Most hidden layers."""
WIDTH, SAMPLES, TIME_STEPS, RATE = 64, 8, 20, 0.1
"""Of the deep networks: neurons in a layer, samples, steps, and the rate of input, target and layers in spikes per step."""
TAU_M, TAU_S = 5.0, 3.0
"""Constants of their neurons, as in the recipes for images."""
Spread = dict[str, float] | None
"""Median and quartiles; None if nothing could be measured."""


@dataclass(frozen=True)
class Options:
    """Compare rules with the exact gradient of spike times, and their gradients through many layers. The page is
    OUT/report.html.

    The networks are random, and nothing is trained.
    """

    rule: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RULE")] = RULES
    """Rules, with options in brackets."""
    seeds: int = 10
    """How many random networks of each kind."""
    smoothing: Literal[1, 2] = 1
    """1: the loss is on the post-synaptic current, whose error jumps at the output's spikes. 2: the current is smoothed once
    more."""
    out: Path = Path("studies/fidelity")
    """Folder for fidelity.json and report.html."""
    table: bool = False
    """Print cosine and norm of the networks of one layer as a table, by step."""


def _run(options: Options, watch: Watch) -> tuple[Path, Result]:
    return options.out, fidelity(options.rule, seeds=options.seeds, smoothing=options.smoothing)


def fidelity(
    names: Sequence[str] = RULES, *, seeds: int = 10, smoothing: int = 1, steps: Sequence[float] = STEPS
) -> dict[str, Any]:
    """Compare rules with the exact gradient as the step shrinks, and their gradients by layer in networks of growing depth.

    Args:
        names: rules as ``tsslbp.rules.get`` takes them.
        seeds: random networks of each kind, seeds from 0 on.
        smoothing: of the small networks' loss, as in :func:`against_exact`.
        steps: lengths of a step.

    Returns:
        ``alike``, by small network and step the number of seeds whose grid fires like the continuous network; only these are
        compared. Under ``rules`` by name: ``exact``, by small network and layer (1 the first) the ``cosine`` with the exact
        gradient and the ``norm`` over that of the exact one, by step; and ``depth``, for 1, 2, ... hidden layers the norm of
        each layer's gradient over that of the output's. Each is ``{"median", "low", "high"}`` over the seeds (low and high are
        quartiles), or None if there is nothing to compare or nothing finite.

    Raises:
        UserError: an unknown rule, no rule, no seed, a step that :func:`against_exact` refuses.
    """
    names = list(dict.fromkeys(rules.spec(rules.get(name)) for name in names))
    if seeds < 1 or not names:
        raise UserError("give at least one rule and at least one seed: tsslbp study fidelity eventprop tssl --seeds 10")
    chains = [Chain(seed) for seed in range(seeds)]
    found: dict[str, Any] = {}
    alike: dict[str, list[int]] = {}
    for name in names:
        exact = {}
        for net, layers in SMALL.items():
            made = [against_exact(name, seed=seed, layers=layers, steps=steps, smoothing=smoothing) for seed in range(seeds)]
            depth = len(layers) - 1
            # rows of each layer by step, of the networks that fire alike in all layers
            by_step = [
                [rows[at : at + depth] for rows in made if all(row["matched"] for row in rows[at : at + depth])]
                for at in range(0, depth * len(steps), depth)
            ]
            alike[net] = [len(nets) for nets in by_step]
            exact[net] = [
                {key: [spread([rows[layer][key] for rows in nets]) for nets in by_step] for key in ("cosine", "norm")}
                for layer in range(depth)
            ]
        norms = [[chain.norms(name, hidden) for chain in chains] for hidden in range(1, DEPTH + 1)]
        found[name] = {"exact": exact, "depth": [[spread(layer) for layer in zip(*nets, strict=True)] for nets in norms]}
    settings = {"seeds": seeds, "smoothing": smoothing, "width": WIDTH, "samples": SAMPLES, "time_steps": TIME_STEPS}
    return about("fidelity", "learning rules", settings | {"rate": RATE, "tau_m": TAU_M, "tau_s": TAU_S}) | {
        "seeds": list(range(seeds)),
        "steps": list(steps),
        "alike": alike,
        "rules": found,
    }


def against_exact(
    rule: str | Rule | None,
    *,
    seed: int = 0,
    layers: Sequence[int] = (12, 6),
    steps: Sequence[float] = STEPS,
    smoothing: int = 1,
) -> list[dict[str, Any]]:
    """Compare a rule with the exact gradient, for a random network (:func:`~tsslbp.rivals.eventprop.random_case`).

    Args:
        rule: a rule or its name, as ``tsslbp.lif`` takes it.
        seed: of the network and its trains.
        layers: sizes from the input on.
        steps: lengths of a step, positive, in the unit of time in which τm = 6 and τs = 3; at most τs.
        smoothing: 1 for a loss on the post-synaptic current, whose error jumps at the output's own spikes; 2 for that current
            through the synapse once more, whose error does not.

    Returns:
        A row per step and layer: ``step``, ``layer`` (1 the first), ``cosine`` and ``norm`` (the rule's over the exact) of
        the weights' gradient; how often the layer fired, ``spikes``, and should have, ``true_spikes``; and ``matched``,
        whether each of its neurons fired as often as it should. If not, the two gradients belong to different trains.

    Raises:
        UserError: a size, step or smoothing outside its range, or an unknown rule.
    """
    case = random_case(seed, layers)
    if not all(0 < step <= case.neuron.tau_s for step in steps):
        raise UserError(f"steps is {tuple(steps)}; each must be positive and at most tau_s = {case.neuron.tau_s}")
    exact, run = loss_gradient(case, smoothing)
    true_counts = [torch.bincount(spikes.train.source, minlength=size) for spikes, size in zip(run, layers[1:], strict=True)]
    rows: list[dict[str, Any]] = []
    for step in steps:
        gradients, counts = grid_gradient(case, rule, step, smoothing)
        for index, (ours, true) in enumerate(zip(gradients, exact, strict=True)):
            rows.append(
                {
                    "step": step,
                    "layer": index + 1,
                    "cosine": F.cosine_similarity(ours.flatten(), true.flatten(), dim=0).item(),
                    "norm": (ours.norm() / true.norm()).item(),
                    "spikes": int(counts[index].sum()),
                    "true_spikes": int(true_counts[index].sum()),
                    "matched": torch.equal(counts[index], true_counts[index]),
                }
            )
    return rows


def grid_gradient(case: Case, rule: str | Rule | None, step: float, smoothing: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Gradient of (1) by every weight under a rule, and every neuron's number of spikes, layer by layer."""
    tau_m, tau_s = case.neuron.tau_m / step, case.neuron.tau_s / step
    count = round(case.until / step)
    train = torch.zeros(count, case.weights[0].shape[1], dtype=torch.float64)
    # A spike counts from its own step on, so the middle of steps is right on average.
    bins = (case.inputs.times / step).long().clamp(max=count - 1)
    train.index_put_((bins, case.inputs.source), torch.ones_like(case.inputs.times), accumulate=True)
    middles = step * (torch.arange(count, dtype=torch.float64) + 0.5)

    weights = [weight.clone().requires_grad_() for weight in case.weights]
    psc, counts = synapse(train, tau_s), []
    for weight in weights:
        psc = lif(psc @ weight.T, tau_m=tau_m, tau_s=tau_s, threshold=case.neuron.threshold, rule=rule, backend="reference")
        counts.append(spikes_from_psc(psc.detach(), tau_s).sum(0).round().long())
    output = psc if smoothing == 1 else synapse(psc, tau_s)
    wanted = step * smoothed(case.target, middles, case.weights[-1].shape[0], case.neuron.tau_s, smoothing)
    loss = 0.5 * (output - wanted).square().sum() / step
    return list(torch.autograd.grad(loss, weights)), counts


def smoothed(train: Train, times: Tensor, neurons: int, tau: float, smoothing: int) -> Tensor:
    """A spike train through the kernel of :func:`~tsslbp.rivals.eventprop.van_rossum` at given times: ``[T, neurons]``."""
    age = (times[:, None] - train.times) / tau
    kernel = torch.where(age >= 0, torch.exp(-age) * (1 if smoothing == 1 else age) / tau, 0)
    return kernel.new_zeros(len(times), neurons).index_add(1, train.source, kernel)


class Chain:
    """A random input and target, and the weights of DEPTH + 1 layers; the first n of them are a network too."""

    def __init__(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        shape = (TIME_STEPS, SAMPLES, WIDTH)
        trains = [(torch.rand(shape, generator=random, dtype=torch.float64) < RATE).double() for _ in range(2)]
        self.input, self.target = (synapse(train, TAU_S) for train in trains)
        self.weights: list[Tensor] = []
        psc = self.input
        for _ in range(DEPTH + 1):
            weight = torch.randn(WIDTH, WIDTH, generator=random, dtype=torch.float64) / math.sqrt(WIDTH)
            low, high = 0.0, 100.0
            for _ in range(30):  # find the scale at which the layer fires at RATE
                middle = (low + high) / 2
                fires = float(spikes_from_psc(_layer(psc, middle * weight), TAU_S).mean())
                low, high = (middle, high) if fires < RATE else (low, middle)
            self.weights.append(high * weight)
            psc = _layer(psc, self.weights[-1])

    def norms(self, rule: str, hidden: int) -> list[float]:
        """Norm of ∂L/∂W of each layer over that of the output layer, with so many hidden layers: ``hidden + 1`` numbers.

        L is half the squared distance of the output's post-synaptic current from the target's.
        """
        weights = [weight.clone().requires_grad_() for weight in self.weights[: hidden + 1]]
        psc = self.input
        for weight in weights:
            psc = _layer(psc, weight, rule)
        gradients = torch.autograd.grad(0.5 * (psc - self.target).square().sum(), weights)
        *_, output = norms = [float(gradient.norm()) for gradient in gradients]
        return [norm / output if output else math.nan for norm in norms]


def _layer(psc: Tensor, weight: Tensor, rule: str | None = None) -> Tensor:
    return lif(psc @ weight.T, tau_m=TAU_M, tau_s=TAU_S, rule=rule)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Median and quartiles; None without values, or if some are not finite."""
    if not values or not all(map(math.isfinite, values)):
        return None
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else itertools.repeat(values[0], 3)
    return {"median": statistics.median(values), "low": low, "high": high}


def section(result: Result) -> Section:
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
    first = _lines({name: (depths, [net[0] for net in rule["depth"]]) for name, rule in rules.items()})
    each = _lines({name: (layers, rule["depth"][-1]) for name, rule in rules.items()})
    ylabel, same = "norm / norm at the output", "as at the output"
    caption = "Gradient of the first layer's weights, in networks of growing depth."
    drawings += _chart("depth", first, "hidden layers", ylabel, caption, "y", same, whole=True)
    caption = f"Gradient of each layer's weights in the network with {hidden} hidden layers. The last layer is the output."
    drawings += _chart("layers", each, "layer", ylabel, caption, "y", same, whole=True)

    columns = [(net, key) for net in nets for key in ("cosine", "norm")]
    alike = "; ".join(f"{net}: {', '.join(map(str, counts))}" for net, counts in result["alike"].items())
    return Section(
        "How close is each rule's gradient to the exact one, and how does it change with depth?",
        _answer(result, per_unit[-1], hidden),
        drawings,
        ["rule", *(f"{key}, {net}" for net, key in columns), f"norm / norm at the output, {hidden} hidden layers"],
        [
            [name, *(_cell(rule["exact"][net][0][key][-1]) for net, key in columns), _cell(rule["depth"][-1][0])]
            for name, rule in rules.items()
        ],
        [
            f"Random networks with {len(result['seeds'])} seeds, without training. The table shows medians (quartiles) for "
            f"first layers with {per_unit[-1]:g} steps in a unit of time (τm is 6 units, τs 3).",
            "The exact gradient covers only the times of existing spikes. A surrogate also covers spikes that might appear, so "
            "a rule with a small cosine can still learn well.",
            "Only networks whose neurons all fire as often on the grid as in continuous time are compared with the exact "
            f"gradient. With {', '.join(f'{steps:g}' for steps in per_unit)} steps in a unit of time there are {alike}.",
            f"Deep networks: {constants['width']} neurons a layer, {constants['time_steps']} steps, tau_m "
            f"{constants['tau_m']:g}, tau_s {constants['tau_s']:g}, weights scaled so that every layer fires at "
            f"{constants['rate']:g} spikes a step. If the norm differs much from the output's, the first layers "
            "learn much slower or faster than the last, unless the optimiser compensates for it.",
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
        told.append(
            f"With {per_unit:g} steps in a unit of time {name} has{most} cosine with the exact gradient, {cosine:.3f} in "
            f"networks of {last_net} neurons"
        )
    first = [(one["median"], name) for name, rule in result["rules"].items() if (one := rule["depth"][-1][0]) is not None]
    if first:
        sizes = " to ".join(f"{_plain(size)} ({name})" for size, name in dict.fromkeys((min(first), max(first))))
        told.append(f"with {hidden} hidden layers, the first layer's gradient is {sizes} times the output's")
    return "; ".join(told) + "." if told else "No network fired alike, and no gradient was finite."


def _plain(value: float) -> str:
    """Two digits without an exponent."""
    return f"{float(f'{value:.2g}'):,.9f}".rstrip("0").rstrip(".")


def _lines(made: dict[str, tuple[Iterable[float], list[Spread]]]) -> dict[str, charts.Line]:
    """Medians over x by rule, without those that could not be measured; rules without any are left out."""
    known = {name: [(x, one["median"]) for x, one in zip(*pair, strict=True) if one] for name, pair in made.items()}
    return {name: charts.Line(*map(list, zip(*points, strict=True))) for name, points in known.items() if points}


def _chart(
    key: str, named: dict[str, charts.Line], xlabel: str, ylabel: str, caption: str, log: str, same: str, whole: bool = False
) -> list[tuple[Markup, str]]:
    """A chart with a line at 1; none if there is nothing to draw."""
    if not named:
        return []
    return [(charts.lines(f"fidelity-{key}", named, xlabel, ylabel, level=(same, 1.0), whole=whole, log=log), caption)]


def _cell(one: Spread) -> str:
    return "–" if one is None else f"{one['median']:.3g} ({one['low']:.3g} to {one['high']:.3g})"


def table(result: Result) -> str:
    """Medians of cosine and norm of the networks of one layer, by rule and step."""
    net, *_ = SMALL
    rows = [["cosine / norm at step", *(f"1/{round(1 / step)}" for step in result["steps"])]]
    for name, rule in result["rules"].items():
        (layer,) = rule["exact"][net]
        pairs = zip(layer["cosine"], layer["norm"], strict=True)
        cells = [f"{cosine['median']:.2f} / {norm['median']:.2f}" if cosine and norm else "–" for cosine, norm in pairs]
        rows.append([name, *cells])
    return aligned([*rows, [f"networks of {len(result['seeds'])} that fire alike", *map(str, result["alike"][net])]])


STUDY = Study(
    "RULES: compare gradients with the exact one, and their norms through 1 to 10 hidden layers",
    Options,
    _run,
    section,
    lambda options, result: table(result) if options.table else "",
    place=7,
)
