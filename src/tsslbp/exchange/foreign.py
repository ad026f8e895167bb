"""A map and the neurons behind it as a NIR file has them, in our words: in steps, one number for each row of weights."""

import math
from dataclasses import dataclass

import numpy as np

from tsslbp.exchange.graph import Link, array
from tsslbp.notation import NeuronSpec

ROUNDING = 1e-6
"""Relative difference of constants that passed through float32."""


@dataclass
class Layer:
    """A layer of the network to be made: a map, and the neurons behind it."""

    spec: NeuronSpec
    map: Link
    weight: np.ndarray
    bias: np.ndarray
    """Of the map, ``[out]``."""
    shape: tuple[int, ...]
    """Of what the map makes of one sample."""
    carry: float
    """What enters in the file, as a multiple of what enters here: 4 where the file sums and we average."""
    neurons: Link

    def rows(self, name: str) -> np.ndarray:
        """A parameter of the neurons, one number for each row of the weight. Raises UserError for another shape."""
        value = array(self.neurons, name)
        if value.size == 1:  # snnTorch writes one number for all
            return np.full(len(self.weight), value.item())
        if value.size != math.prod(self.shape) or value.shape[-len(self.shape) :] != self.shape:
            self.neurons.refuse(f"has a {name} of shape {list(value.shape)}; {self.map} makes {list(self.shape)}")
        rows = value.reshape(len(self.weight), -1)
        if (rows != rows[:, :1]).any():
            self.neurons.refuse(f"has a {name} that differs within a channel, whose neurons share their weights here")
        return rows[:, 0]

    def steps(self, name: str, dt: float) -> np.ndarray:
        """A time constant of the neurons in steps, ``[out]``. Raises UserError for one below a step."""
        seconds = self.rows(name)
        if (low := float(seconds.min())) < dt * (1 - ROUNDING):
            self.neurons.refuse(
                f"has {name} {low:g} s, less than a step of {dt:g} s; choose a smaller dt (Norse multiplies time constants by "
                "its own step when it writes: what it wrote with its default step is right with --dt 1e-6)"
            )
        return np.maximum(seconds / dt, 1.0)

    @property
    def lateral_bias(self) -> np.ndarray:
        bias = getattr(self.neurons.lateral, "bias", None)
        return np.zeros(len(self.weight)) if bias is None else np.asarray(bias, dtype=np.float64)

    def constants(self, dt: float) -> "Constants":
        """The neurons in our words. Raises UserError for a bias that would go through their synapse."""
        threshold, r, none = self.rows("v_threshold"), self.rows("r"), np.zeros(len(self.weight))
        match self.neurons.kind:
            case "IF":
                return Constants(none + math.inf, 1.0, dt * r, none, threshold)
            case "LIF":
                tau_m = self.steps("tau", dt)
                return Constants(tau_m, 1.0, r / tau_m, self.rows("v_leak") / tau_m, threshold)
            case _:
                tau_m, synapses = self.steps("tau_mem", dt), self.steps("tau_syn", dt)
                if not alike(synapses):
                    said = f"has tau_syn from {synapses.min():g} to {synapses.max():g} steps"
                    self.neurons.refuse(f"{said}; what enters a layer here goes through one synapse")
                tau_s = plain(float(synapses[0]))
                if tau_s > 1 and (self.bias.any() or self.lateral_bias.any()):
                    self.map.refuse(
                        f"has a bias that goes through the synapse of {self.neurons}; ours does not go through it. Write it as "
                        "v_leak, or leave it out"
                    )
                return Constants(tau_m, tau_s, self.rows("w_in") * r / tau_m, self.rows("v_leak") / tau_m, threshold)


@dataclass(frozen=True)
class Constants:
    """What a node of neurons says, in steps; arrays are ``[out]``."""

    tau_m: np.ndarray
    tau_s: float
    """Of what enters: NIR's synapse is in front of the neurons, ours behind them."""
    gain: np.ndarray
    """What W·x is multiplied by on its way into the membrane potential."""
    leak: np.ndarray
    """What every step adds to that."""
    threshold: np.ndarray


def alike(values: np.ndarray) -> bool:
    return bool(np.isclose(values, values[0], rtol=ROUNDING, atol=0).all())


def plain(value: float) -> float:
    """A number without what float32 did to it: 5 for 5.0000002."""
    short = float(f"{value:.6g}")
    return short if math.isclose(short, value, rel_tol=ROUNDING) else float(value)
