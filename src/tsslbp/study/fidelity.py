"""How close each rule comes to the exact gradient of spike times, and what it makes of a gradient on its way through layers.

The exact gradient is that of random networks in continuous time, to which the library's layers tend as the step shrinks; see
``rivals/fidelity.py`` and ``rivals/eventprop.py``. It needs small networks. What depth does needs no exact gradient: the norm
of the gradient by the weights of each layer, over that of the output layer, says whether a rule's gradient vanishes or explodes
on its way back. All layers of these networks are equally wide and scaled to fire equally often, so that nothing but the rule
and the distance from the output tells them apart.
"""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tsslbp import rules
from tsslbp.errors import UserError
from tsslbp.functional import lif
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.rivals.fidelity import STEPS
from tsslbp.rivals.fidelity import fidelity as against_exact
from tsslbp.study.runs import about

RULES = ("tssl", "tssl(psc_derivative=timing)", "tssl+", "surrogate", "stbp", "slayer", "eventprop")
SMALL = {"12-6": (12, 6), "12-8-6": (12, 8, 6)}
"""Networks with an exact gradient, by name: sizes from the input on."""
DEPTH = 10
"""Most hidden layers."""
WIDTH, SAMPLES, TIME_STEPS, RATE = 64, 8, 20, 0.1
"""Of the deep networks: neurons in a layer, samples, steps, and the rate of input, target and layers in spikes per step."""
TAU_M, TAU_S = 5.0, 3.0
"""Constants of their neurons, those of the images' recipes."""


def fidelity(
    names: Sequence[str] = RULES, *, seeds: int = 10, smoothing: int = 1, steps: Sequence[float] = STEPS
) -> dict[str, Any]:
    """Compare rules with the exact gradient as the step shrinks, and their gradients by layer in networks of growing depth.

    Args:
        names: rules as ``tsslbp.rules.get`` takes them.
        seeds: random networks of each kind, seeds from 0 on.
        smoothing: of the small networks' loss, as in :func:`tsslbp.rivals.fidelity.fidelity`.
        steps: lengths of a step.

    Returns:
        ``alike``, by small network and step the number of seeds whose grid fires as the continuous network does, the only ones
        compared. Under ``rules`` by name: ``exact``, by small network and layer (1 the first) the ``cosine`` with the exact
        gradient and the ``norm`` over that of the exact one, by step; and ``depth``, for 1, 2, ... hidden layers the norm of
        each layer's gradient over that of the output's. Each is ``{"median", "low", "high"}`` over the seeds, the latter two
        the quartiles; None where there is nothing to compare or nothing finite.

    Raises:
        UserError: an unknown rule, no rule, no seed, a step that :func:`tsslbp.rivals.fidelity.fidelity` refuses.
    """
    names = list(dict.fromkeys(names))
    if seeds < 1 or not names:
        raise UserError("give at least one rule and at least one seed: tsslbp study fidelity eventprop tssl --seeds 10")
    for name in names:
        rules.get(name)
    chains = [Chain(seed) for seed in range(seeds)]
    found: dict[str, Any] = {}
    alike: dict[str, list[int]] = {}
    for name in names:
        exact = {}
        for net, layers in SMALL.items():
            made = [against_exact(name, seed=seed, layers=layers, steps=steps, smoothing=smoothing) for seed in range(seeds)]
            depth = len(layers) - 1
            # By step, of the networks that fire alike in all layers, the rows of each layer.
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
    settings = {
        "seeds": seeds,
        "smoothing": smoothing,
        "width": WIDTH,
        "samples": SAMPLES,
        "time_steps": TIME_STEPS,
        "rate": RATE,
    }
    return about("fidelity", "learning rules", settings | {"tau_m": TAU_M, "tau_s": TAU_S}) | {
        "seeds": list(range(seeds)),
        "steps": list(steps),
        "alike": alike,
        "rules": found,
    }


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
            for _ in range(30):  # the scale at which the layer fires at RATE
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
    """Median and quartiles; None of no values, or of values that are not finite."""
    if not values or not all(map(math.isfinite, values)):
        return None
    low, _, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else itertools.repeat(values[0], 3)
    return {"median": statistics.median(values), "low": low, "high": high}
