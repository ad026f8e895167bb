"""A map and its neurons from a NIR file, converted to our terms: in steps, one number for each row of weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tsslbp.exchange.graph import INTEGRATORS, Link, array
from tsslbp.network.notation import NeuronSpec
from tsslbp.utils.errors import shown

MOST_NUMBERS = 2**28
"""In a sample, in a layer's output for it, and in a kernel that is padded with zeros."""
ROUNDING = 1e-6
"""Relative difference of constants that passed through float32."""


@dataclass
class Layer:
    """A layer of the network to be made: a map and its neurons."""

    spec: NeuronSpec
    map: Link
    weight: np.ndarray
    bias: np.ndarray
    """Of the map, ``[out]``."""
    shape: tuple[int, ...]
    """Output shape of the map for one sample."""
    carry: float
    """The file's input as a multiple of ours: 4 if the file sums and we average."""
    neurons: Link
    around: "Around | None" = None

    @property
    def integrates(self) -> bool:
        """Whether the neurons never spike."""
        return self.neurons.kind in INTEGRATORS

    def rows(self, name: str) -> np.ndarray:
        """A parameter of the neurons, one number for each row of the weight. Raises UserError for another shape."""
        value = array(self.neurons, name)
        if value.size == 1:  # snnTorch writes one for all
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
        """Of the map from the neurons back to themselves, ``[out]``. Raises UserError for another shape."""
        lateral, n = self.neurons.lateral, len(self.weight)
        if lateral is None or getattr(lateral.node, "bias", None) is None:
            return np.zeros(n)
        bias = array(lateral, "bias").ravel()
        if len(bias) != n:
            self.neurons.refuse(f"hears itself through a map of {len(bias)} biases; it takes {n}")
        return bias

    def constants(self, dt: float) -> "Constants":
        """The neurons in our terms. Raises UserError for a bias that would go through their synapse."""
        r, none = self.rows("r"), np.zeros(len(self.weight))
        if self.neurons.kind == "IF":
            if r.min() <= 0:
                self.neurons.refuse("has an r that is not positive; turn the signs of its weights instead")
            return Constants(none + math.inf, 1.0, dt * r, none, self.rows("v_threshold"))
        tau_m = self.steps("tau_mem" if self.neurons.kind.startswith("Cuba") else "tau", dt)
        scale, threshold = (none + 1, none + 1) if self.integrates else (tau_m, self.rows("v_threshold"))
        leak = self.rows("v_leak") / scale
        if not self.integrates and (r * (self.rows("w_in") if self.neurons.kind == "CubaLIF" else 1) <= 0).any():
            self.neurons.refuse("has an r or w_in that is not positive; turn the signs of its weights instead")
        match self.neurons.kind:
            case "LIF" | "LI":
                return Constants(tau_m, 1.0, r / scale, leak, threshold)
            case _:
                synapses = self.steps("tau_syn", dt)
                if not alike(synapses):
                    said = f"has tau_syn from {synapses.min():g} to {synapses.max():g} steps"
                    self.neurons.refuse(f"{said}; what enters a layer here goes through one synapse")
                tau_s = float(synapses[0])
                if plain(tau_s) > 1 and (self.bias.any() or self.lateral_bias.any()):
                    biased = self.map if self.bias.any() else self.neurons.lateral or self.map
                    biased.refuse(
                        f"has a bias that goes through the synapse of {self.neurons}; ours does not go through it. Write it as "
                        "v_leak, or leave it out"
                    )
                return Constants(tau_m, tau_s, self.rows("w_in") * r / scale, leak, threshold)


@dataclass(frozen=True)
class Around:
    """A shortcut to the neurons of a layer."""

    weight: np.ndarray | None
    """None for the identity."""
    factor: float
    """The file's output as a multiple of ours."""
    first: int
    """Number of the first layer that it leads around."""


@dataclass(frozen=True)
class Constants:
    """Constants of a node of neurons, in steps; arrays are ``[out]``."""

    tau_m: np.ndarray
    tau_s: float
    """Of the input: NIR's synapse is in front of the neurons, ours behind them."""
    gain: np.ndarray
    """Factor of W·x in the membrane potential, or in the current of neurons that never spike."""
    leak: np.ndarray
    """Added to that at every step."""
    threshold: np.ndarray


def alike(values: np.ndarray) -> bool:
    return bool(np.isclose(values, values[0], rtol=ROUNDING, atol=0).all())


def plain(value: float) -> float:
    """A number without the rounding of float32: 5 for 5.0000002."""
    short = float(f"{value:.6g}")
    return short if math.isclose(short, value, rel_tol=ROUNDING) else float(value)


def by_channel(link: Link, values: np.ndarray) -> np.ndarray:
    """One factor for each channel of ``[channels, ...]``. Raises UserError if they differ within a channel."""
    rows = values.reshape(len(values), -1)
    if (rows != rows[:, :1]).any():
        link.refuse("is scaled by factors that differ within a channel, whose neurons share their weights here")
    return rows[:, 0]


def times(weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Rows times factors; factors near 1 change nothing."""
    factor = np.where(abs(factor - 1) < ROUNDING, 1.0, factor)
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))


def scale_of(link: Link, shape: tuple[int, ...]) -> np.ndarray:
    """The factors of a Scale node, in the shape of its input. Raises UserError for another shape."""
    scale = array(link, "scale")
    if scale.size != 1 and (scale.size != math.prod(shape) or scale.shape[-len(shape) :] != shape):
        link.refuse(f"has a scale of shape {list(scale.shape)}; what enters it is {list(shape)}")
    return np.broadcast_to(scale.reshape(shape if scale.size > 1 else [1] * len(shape)), shape)


def shortcut(neurons: Link, shape: tuple[int, ...], made: tuple[int, ...], stride: int, carry: float, first: int) -> Around:
    """The shortcut to these neurons, by way of ``neurons.around``.

    Args:
        neurons: where it ends.
        shape, made: input shape of the shortcut, and output shape of the layers that it leads around.
        stride: total stride of these layers.
        carry: the file's input of the shortcut as a multiple of ours.
        first: number of the first of these layers.

    Raises:
        UserError: weights that our shortcuts do not have.
    """
    via = neurons.around
    weight: np.ndarray | None = None
    if via is not None and via.kind == "Scale":
        scale = scale_of(via, shape)
        if (scale != scale.flat[0]).any():
            via.refuse("differs from neuron to neuron; a shortcut here brings what enters the block as it is")
        carry *= float(scale.flat[0])
    elif via is not None:
        weight = array(via, "weight")
        if getattr(via.node, "bias", None) is not None and array(via, "bias").any():
            via.refuse("has a bias on a shortcut; add it to that of the map beside it")
        fits = weight.ndim - 1 == len(shape) and weight.shape[:2] == (made[0], shape[0])
        if weight.ndim > 2:
            padding = np.ravel(padding_of(via, weight.shape[2:]))
            fits = fits and set(weight.shape[2:]) == {1} and array(via, "groups").item() == 1 and not padding.any()
            fits = fits and set(each(via, "stride", weight.ndim - 2)) == {stride}
        if not fits:
            via.refuse(
                f"has weights {list(weight.shape)} on a shortcut; here these are a matrix, or a 1 × 1 kernel with the stride "
                "of what it leads around"
            )
        once = float(weight.flat[0])
        if shape == made and np.array_equal(weight, once * np.eye(made[0]).reshape(weight.shape)):
            weight, carry = None, carry * once
    if (weight is None) != (shape == made):
        neurons.refuse(f"gets a shortcut from {list(shape)} to {list(made)}; here it has weights if, and only if, these differ")
    return Around(weight, carry, first)


def each(link: Link, name: str, axes: int) -> list[int]:
    """One whole number for each axis."""
    value = array(link, name).ravel()
    if len(value) not in (1, axes) or (value % 1).any() or abs(value).max() > 2**31:
        link.refuse(f"has {name} {shown(value.tolist())}; it must be {axes} whole numbers")
    return [int(x) for x in np.broadcast_to(value, axes)]


def padding_of(link: Link, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after each axis; PyTorch's "same" puts an odd one at the end."""
    padding = link.node.padding
    if isinstance(padding, bytes | str):
        same = padding in ("same", b"same")
        total = [k - 1 if same else 0 for k in kernel]
        return [t // 2 for t in total], [t - t // 2 for t in total]
    sizes = each(link, "padding", len(kernel))
    return sizes, sizes


def windows(
    link: Link, weight: np.ndarray, entering: tuple[int, ...], stride: list[int], dilation: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """Padding before and after each axis of a convolution, and the sizes that it makes of what enters it."""
    sizes, reach = entering[1:], [d * (k - 1) + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    before, after = padding_of(link, reach)
    axes = zip(sizes, before, after, reach, stride, strict=True)
    made = [(n + a + b - k) // s + 1 for n, a, b, k, s in axes]
    if min(made) < 1 or min(before) < 0:
        link.refuse(f"has a kernel larger than what enters it, {list(entering)}")
    squared = math.prod(r + max(*before, *after) for r in reach)  # at most, if it is made square
    if max(len(weight) * math.prod(made), math.prod(weight.shape[:2]) * squared) > MOST_NUMBERS:
        link.refuse(f"makes {list(made)} of {list(sizes)} by padding {before} and a kernel {reach} wide, which is too large")
    return before, after, made


def commonest(values: list[np.ndarray]) -> float:
    """The value that most neurons have, to six digits."""
    short, counts = np.unique([plain(value) for value in np.concatenate(values)], return_counts=True)
    return float(short[counts.argmax()])
