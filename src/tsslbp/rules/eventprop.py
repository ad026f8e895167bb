"""EventProp on a grid: the adjoint equations of the spike times, one step at a time.

``rivals/eventprop.py`` has the equations in continuous time, where they are exact. Backwards on the grid of ``neuron.py``,
with ``e = ∂L/∂a`` given and ``δ = ∂L/∂I`` returned, which is also the membrane's adjoint since I[t] adds to u[t]:

    E[t] = e[t]/τs + (1 - 1/τs)·E[t+1]                                error carried back through the synapse    (1)
    m[t] = ½·(e[t-1] + e[t] - E[t] - E[t+1])/τs                       -∂L/∂t_spike                              (2)
    p[t] = min(1/Δu[t], clip),    Δu[t] = u[t] - u[t-1]·(1 - s[t-1])  -∂t_spike/∂u                              (3)
    c[t] = (1 - 1/τm)·δ[t+1]                                          carried back by the membrane              (4)
    δ[t] = p[t]·(m[t] + I[t]·c[t]) at a spike, else c[t]                                                        (5)

(2) is half the difference between the loss with the spike one step earlier and one step later, to first order in a: later
lowers a by 1/τs at t and adds ε[k-1]/τs at t+k, earlier adds 1/τs at t-1 and subtracts ε[k]/τs from t on. Both sides are
needed, because the error e of a loss on a jumps at the neuron's own spike. The value after the jump alone would be wrong by
half the jump, however fine the steps. A loss that is not smooth in a, such as that of first spikes, has another time gradient.
In (5) the reset is u̇⁺/u̇⁻ = I/Δu times the membrane's adjoint after the spike.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from tsslbp.neuron import LIF, advanced, delayed, kept, spikes, synapse_adjoint
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError, check_number


class EventPropNumbers(NamedTuple):
    """Parameters of an :class:`EventProp`."""

    clip: float
    wake: float


@dataclass(frozen=True)
class EventProp(Rule):
    """The exact gradient of spike times on a grid, for losses that are smooth in the output's current (not
    :class:`~tsslbp.losses.FirstSpikeLoss`); the error is proportional to the step. Silent neurons get no gradient.

    Args:
        clip: bound on 1/Δu, positive. Without a bound, as in the paper, the rule converges to the exact gradient. A bound helps
            training where spikes only just cross the threshold.
        wake: a push on neurons that are silent for a whole sample, ``δ[t] = -wake`` at all its steps; not negative. Without it
            an output neuron learns nothing from samples it misses. A small number is enough with Adam, whose steps do not
            depend on the size of a gradient if there is no other.

    Raises:
        UserError: ``clip`` not a positive number, ``wake`` negative or not finite.

    Source: T. C. Wunderlich and C. Pehle, Scientific Reports 11, 12829 (2021), arXiv 2009.08378; grid and ``wake`` are ours.
    """

    clip: float = math.inf
    wake: float = 0.0

    summary: ClassVar[str] = "the exact gradient of spike times (adjoint equations); no gradient where there is no spike"
    paper: ClassVar[str] = "Wunderlich & Pehle, Sci. Rep. 2021, arXiv 2009.08378"
    cites: ClassVar[tuple[str, ...]] = ("wunderlich2021event",)
    depends_on_padding: ClassVar[bool] = True  # in (2), m[t] depends on the current of the step before

    def __post_init__(self) -> None:
        check_number("clip", self.clip)
        if not self.clip > 0:
            raise UserError(f"clip is {self.clip}; the bound on 1/Δu must be positive")
        check_number("wake", self.wake)
        if not 0 <= self.wake < math.inf:
            raise UserError(f"wake is {self.wake}; the push on silent neurons must be finite and not negative")

    @property
    def numbers(self) -> EventPropNumbers:
        return EventPropNumbers(self.clip, self.wake)

    def time_gradient(self, psc_gradient: Tensor, neuron: LIF) -> Tensor:
        """m of (2), how fast the loss grows as a spike comes earlier, ``[T, ...]``."""
        e, error = psc_gradient, synapse_adjoint(psc_gradient, neuron)  # (1)
        return 0.5 * (delayed(e) + e - error - advanced(error)) / neuron.tau_s  # (2)

    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        u, s = membrane, spikes(membrane, neuron)
        left = kept(delayed(u), neuron)
        decay = neuron.membrane_decay
        du, current = u - left, u - decay * left
        p = torch.where(du > 0, 1 / du, 0).clamp(max=self.clip)  # (3); only without a reset can a spike be on the way down
        moved = self.time_gradient(psc_gradient, neuron)

        delta, carried = torch.empty_like(u), torch.zeros_like(u[0])
        for t in reversed(range(len(u))):
            fired = p[t] * (moved[t] + current[t] * carried) if neuron.reset else p[t] * moved[t] + carried
            delta[t] = torch.where(s[t] > 0, fired, carried)  # (5)
            carried = decay * delta[t]  # (4)
        return torch.where(s.any(0), delta, -self.wake) if self.wake else delta
