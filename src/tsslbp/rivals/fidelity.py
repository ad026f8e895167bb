"""The yardstick: how close a rule's gradient on a grid comes to the exact one in continuous time.

A network of spiking neurons in continuous time has an exact gradient (``eventprop.py``). The layers of this library are
that network's Euler discretisation with the same weights, so as the step shrinks the spikes converge to the true ones, and a
rule can be judged by whether its gradient converges to the true gradient: in direction (cosine) and in size (ratio of norms).
The loss is the van Rossum distance, on the grid

    L = ½ Σ (y[t] - dt·g(t))²/dt                                                                          (1)

with y the output's post-synaptic current, or that once more through the synapse, and g the smoothed target.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.errors import UserError
from tsslbp.functional import lif
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.rivals.eventprop import Case, Train, loss_gradient, random_case
from tsslbp.rules import Rule

STEPS = (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)


def fidelity(
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
        smoothing: 1 for a loss on the post-synaptic current itself, whose error jumps at the output's own spikes; 2 for that
            current through the synapse once more, whose error does not.

    Returns:
        A row per step and layer: ``step``, ``layer`` (1 the first), ``cosine`` and ``norm`` (the rule's over the exact) of
        the weights' gradient; how often the layer fired, ``spikes``, and should have, ``true_spikes``; and ``matched``,
        whether each of its neurons fired as often as it should. Where that fails the two gradients are of different trains.

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
    # A spike counts from its own step on. Taken at the middle of the steps that is right on average.
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
