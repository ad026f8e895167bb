"""A NIR graph as one of our networks.

Forward Euler with steps of ``dt`` turns NIR's neurons, with τs = tau_syn/dt, τm = tau_mem/dt and x the input of a map W, into

    CubaLIF:  i[t] = (1 - 1/τs)·i[t-1] + w_in/τs · (W·x[t] + b),   v[t] = (1 - 1/τm)·v[t-1] + (r·i[t] + v_leak)/τm
    LIF:      the same without a synapse: τs = 1, w_in = 1
    LI, CubaLI, at the output: the same, and v is their output
    IF:       v[t] = v[t-1] + dt·r·(W·x[t] + b):  τs = 1, τm infinite

which is our neuron with the membrane potential u = v·θ/v_threshold, the weights f·W and the bias

    f = w_in·r/τm · θ/v_threshold               IF: dt·r · θ/v_threshold    LI, CubaLI: w_in·r
    bias = (v_leak/τm)·θ/v_threshold + f·b                                  LI, CubaLI: v_leak + f·b

The map of neurons back to themselves gets their spikes of the step before, and its bias is added to b. So that acts from the
first step on, before which there are no spikes: NIR's Affine is W·x + b at all times.

A file may have another f for every neuron. If f is within ROUNDING of 1, weights stay as they are.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tsslbp.exchange.foreign import (
    MOST_NUMBERS,
    ROUNDING,
    Around,
    Constants,
    Layer,
    alike,
    by_channel,
    commonest,
    each,
    plain,
    scale_of,
    shortcut,
    times,
    windows,
)
from tsslbp.exchange.graph import Link, array, chain, shape_of
from tsslbp.exchange.layers import common, grouped, undilated
from tsslbp.layers import Recurrent, Residual, Spiking
from tsslbp.layers.pooling import POOL_FACTOR
from tsslbp.network.architecture import Architecture
from tsslbp.network.network import Network
from tsslbp.network.notation import (
    AvgPoolSpec,
    ConvSpec,
    LinearSpec,
    MaxPoolSpec,
    NeuronSpec,
    PoolSpec,
    RecurrentSpec,
    ResidualSpec,
    Spec,
    Suffix,
    VoteSpec,
    parse,
    unpacked,
    voters,
    written,
)
from tsslbp.utils.errors import UserError, shown

MAPS_AND_POOLS = ("Linear", "Affine", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten")


def network_of(
    graph: Any, *, dt: float, time_steps: int, like: Architecture | None = None, tau_s: float | None = None
) -> Network:
    """The network of a graph, on the CPU, float32, in evaluation mode.

    Args:
        graph: a ``nir.NIRGraph``.
        dt: seconds of a step.
        time_steps: T.
        like: further settings of one of our own graphs: threshold, kind of pooling, rule and more.
        tau_s: synaptic time constant of the output in steps, which is in no node.

    Raises:
        UserError: a feature that our networks do not have, with the node named.
    """
    if not 0 < dt < math.inf:
        raise UserError(f"dt is {dt}; it must be a positive number of seconds")
    reader, links = _Reader(dt, like, tau_s), chain(graph)
    for link, follower in pairwise(links):
        reader.take(link, follower.kind)
    return reader.network(time_steps, links[-1])


class _Reader:
    """Turns the nodes of a chain into layers, one after the other."""

    def __init__(self, dt: float, like: Architecture | None, tau_s: float | None) -> None:
        self.dt, self.like, self.tau_s = dt, like, tau_s
        self.shape: tuple[int, ...] = ()
        self.input_shape: tuple[int, ...] = ()
        self.layers: list[Layer] = []
        self.pending: tuple[Link, NeuronSpec, np.ndarray] | None = None
        """A map that waits for its neurons."""
        self.specs: list[Spec] = []
        self.paddings: list[int] = []
        self.carry = 1.0
        self.columns: np.ndarray | None = None
        """Factors of Scale nodes on the next map's input, in its shape."""
        self.row_scale = np.ones(1)
        """Factors of a Scale node on the rows of the pending map."""
        self.opened: tuple[int, int, tuple[int, ...], float] | None = None
        """For a shortcut: parts of the notation and layers before it, shape and ``carry`` of its input."""
        specs = list(unpacked(parse(like.network))) if like else []
        self.pools = iter([spec for spec in specs if isinstance(spec, PoolSpec) and not isinstance(spec, MaxPoolSpec)])
        self.convolutions = iter([spec for spec in specs if isinstance(spec, ConvSpec)])

    def take(self, link: Link, follower: str) -> None:
        """Take one more node; ``follower`` is the kind of the next."""
        if self.pending and link.kind in MAPS_AND_POOLS:
            link.refuse(f"follows {self.pending[0]}, behind which there must be neurons")
        match link.kind:
            case "Input":
                self._input(link, follower)
            case "Flatten":
                self.shape = (math.prod(self.shape),)
                self.columns = None if self.columns is None else self.columns.reshape(self.shape)
            case "SumPool2d" | "AvgPool2d":
                self._pool(link)
            case "Linear" | "Affine":
                self._linear(link)
            case "Conv1d" | "Conv2d":
                self._convolution(link)
            case "LI" | "CubaLI" if follower != "Output":
                link.refuse("does not spike, which only the last neurons may do without")
            case "CubaLIF" | "LIF" | "IF" | "LI" | "CubaLI":
                self._neurons(link)
            case "Scale":
                self._scale(link)
            case "I" | "Threshold":
                link.refuse("does not spike and reset; CubaLIF, LIF and IF do")
            case "Delay":
                link.refuse("delays what goes through it; connections here take no time")
            case _:
                link.refuse("is of a kind that networks here do not have")
        if link.opens:
            if self.pending or self.columns is not None:
                link.refuse("leads to two nodes; here a shortcut begins behind neurons, pooling or the input")
            self.opened = len(self.specs), len(self.layers), self.shape, self.carry

    def _input(self, link: Link, follower: str) -> None:
        shape = shape_of(link, link.node.input_type["input"])
        if shape[0:1] == (1,) and (len(shape) == 4 or (len(shape) == 2 and follower in ("Linear", "Affine"))):
            shape = shape[1:]  # the batch of the sample that a graph was traced with
        if len(shape) > 3:
            link.refuse(f"has shape {list(shape)}; it must be [features], [channels, length] or [channels, height, width]")
        if math.prod(shape) > MOST_NUMBERS:
            link.refuse(f"has shape {list(shape)}, which is more than {MOST_NUMBERS:,} numbers")
        self.shape = self.input_shape = shape

    def _pool(self, link: Link) -> None:
        size, stride, padding = (array(link, name).ravel() for name in ("kernel_size", "stride", "padding"))
        k = int(size[0])
        fits = len(self.shape) == 3 and 1 <= k <= min(self.shape[1:]) and not padding.any()
        if not fits or (size != k).any() or (stride != k).any():
            link.refuse(f"has windows that are not square, overlap, are padded or do not fit {list(self.shape)}")
        hint = next(self.pools, None)
        ours = hint if hint is not None and hint.size == k else AvgPoolSpec(k)
        factor = 1 / k**2 if isinstance(ours, AvgPoolSpec) else POOL_FACTOR
        self.carry *= (1 / k**2 if link.kind == "AvgPool2d" else 1) / factor
        self.specs.append(ours)
        self.shape = (self.shape[0], *(n // k for n in self.shape[1:]))
        if self.columns is not None:
            self.columns = np.broadcast_to(by_channel(link, self.columns)[:, None, None], self.shape)

    def _scale(self, link: Link) -> None:
        scale = scale_of(link, self.shape)
        if self.pending is not None:
            (map_, spec, weight), rows = self.pending, by_channel(link, scale)
            self.pending, self.row_scale = (map_, spec, times(weight, rows)), self.row_scale * rows
        elif (scale == scale.flat[0]).all() and scale.flat[0] > 0:
            self.carry *= float(scale.flat[0])
        else:
            self.columns = scale if self.columns is None else self.columns * scale

    def _shortcut(self, link: Link) -> Around | None:
        """The shortcut that ends at these neurons; the layers that it leads around become a residual block."""
        if not link.closes or self.opened is None:
            return None
        (opened, first, shape, carry), self.opened = self.opened, None
        inside, self.specs[opened:] = tuple(self.specs[opened:]), []
        self.specs.append(ResidualSpec(inside))
        stride = math.prod(getattr(spec, "stride", getattr(spec, "size", 1)) for spec in inside)
        return shortcut(link, shape, self.shape, stride, carry, first)

    def _linear(self, link: Link) -> None:
        weight, entering = array(link, "weight"), math.prod(self.shape)
        if weight.ndim != 2 or weight.shape[1] != entering or len(weight) < 1:
            link.refuse(f"has weights {list(weight.shape)}; what enters it has {entering} numbers")
        if self.columns is not None:
            weight, self.columns = weight * self.columns.ravel(), None
        self.row_scale = np.ones(len(weight))
        self.shape, self.pending = (len(weight),), (link, LinearSpec(len(weight)), weight)

    def _convolution(self, link: Link) -> None:
        weight, sizes, groups = array(link, "weight"), self.shape[1:], int(array(link, "groups").item())
        stride, dilation = (each(link, name, len(sizes)) for name in ("stride", "dilation"))
        fits = len(sizes) == int(link.kind[4]) == weight.ndim - 2 and groups >= 1
        fits = fits and min(*weight.shape, *stride, *dilation) >= 1
        if not fits or weight.shape[1] * groups != self.shape[0] or len(weight) % groups:
            link.refuse(f"has weights {list(weight.shape)} in {groups} groups; what enters it is {list(self.shape)}")
        if self.columns is not None:
            columns = np.repeat(by_channel(link, self.columns).reshape(groups, -1), len(weight) // groups, 0)
            weight, self.columns = weight * columns.reshape(*weight.shape[:2], *[1] * len(sizes)), None
        self.row_scale = np.ones(len(weight))
        before, after, made = windows(link, weight, self.shape, stride, dilation)
        hint = next(self.convolutions, None)
        if hint is not None and groups == 1 and (blocks := grouped(weight, hint.groups)) is not None:
            weight, groups = blocks, hint.groups  # NIR's type check knows no groups, so we write zeros between them
        even = before == after and all(len(set(sizes)) == 1 for sizes in (weight.shape[2:], before, stride, dilation))
        square = (weight, before[0]) if even else None
        if not even:
            weight, dilation = undilated(weight, dilation), [1]
            square = common(weight, before, stride[0], sizes, made) if len(set(stride)) == 1 else None
        if square is None and weight.shape[1:] == self.shape and set(made) == {1} and not any(before):  # a matrix does the same
            self.shape, self.pending = (len(weight), *made), (link, LinearSpec(len(weight)), weight.reshape(len(weight), -1))
            return
        if square is None:
            link.refuse("differs between the axes in its stride, or in kernel and padding; convolutions here do not")
        weight, padding = square
        self.paddings.append(padding)
        spec = ConvSpec(len(weight), weight.shape[2], stride[0], dilation[0], groups)
        self.shape, self.pending = (len(weight), *made), (link, spec, weight)

    def _neurons(self, link: Link) -> None:
        if self.pending is None:
            link.refuse("has no weights before it; a layer here is a map and then neurons")
        (map_, spec, weight), self.pending = self.pending, None
        bias = getattr(map_.node, "bias", None)
        offset = np.zeros(len(weight)) if bias is None else array(map_, "bias").ravel()
        if len(offset) != len(weight):
            map_.refuse(f"has {len(offset)} biases for {len(weight)} rows of weights")
        if link.lateral is not None:
            n, kind, found = len(weight), link.lateral.kind, np.shape(getattr(link.lateral.node, "weight", ()))
            if not isinstance(spec, LinearSpec) or kind not in ("Linear", "Affine") or found != (n, n):
                said = f"hears itself through a {kind} node, weights {list(found)}"
                link.refuse(f"{said}; only a Linear or Affine map, {n} × {n}, behind another is possible")
            spec = RecurrentSpec(n)
        layer = Layer(spec, map_, weight, offset * self.row_scale, self.shape, self.carry, link)
        if getattr(link.node, "v_reset", None) is not None and layer.rows("v_reset").any():
            link.refuse("resets to another potential than 0; neurons here reset to 0")
        if not layer.integrates:
            given, held = layer.rows("v_threshold"), np.finfo(np.float32)
            if given.min() < held.tiny or given.max() > held.max:
                link.refuse("has a threshold that is not positive and finite in float32")
        self.layers.append(layer)
        self.specs.append(spec)
        layer.around = self._shortcut(link)
        self.carry = 1.0

    def network(self, time_steps: int, output: Link) -> Network:
        """The network of all nodes. Raises UserError if they make none, or another output than the graph's."""
        last = self.specs[-1] if self.specs else None
        if isinstance(last, RecurrentSpec):
            self.layers[-1].neurons.refuse("hears itself, which output neurons here cannot")
        scales = self.columns is not None or self.carry != 1  # behind the last neurons
        if self.pending or scales or type(last) is not LinearSpec:
            raise UserError(
                "the graph must end with a Linear or Affine map and its neurons, one for each class, and then the output"
            )
        if (shape := output.node.output_type["output"]) is not None and shape_of(output, shape)[-1:] != self.shape:
            output.refuse(f"has shape {shown(np.asarray(shape).tolist())}; what enters it is {list(self.shape)}")
        constants = [layer.constants(self.dt) for layer in self.layers]
        whole, varied = self._settings(constants)
        pairs = list(zip(self.layers, constants, strict=True))
        spiking = pairs[: -1 if (reads := self.layers[-1].integrates) else None]
        needed = [c.threshold / (c.gain * layer.carry) for layer, c in spiking]  # of neurons that keep their weights
        if "threshold" not in varied:
            plain_ones = [
                c.threshold / (c.gain * layer.around.factor)
                for layer, c in spiking
                if layer.around and layer.around.weight is None
            ]  # a shortcut without weights leaves no choice
            whole["threshold"] = self.like.threshold if self.like else commonest(plain_ones or needed or [np.ones(1)])
            needed = [np.full(len(each), whole["threshold"]) for each in needed]
        needed += [constants[-1].threshold] if reads else []
        scaled = [_scaled(layer, c, threshold) for (layer, c), threshold in zip(pairs, needed, strict=True)]
        found: dict[str, Any] = {
            "network": self._notation([bool(bias.any()) for _, bias, _ in scaled]),
            "input_shape": self.input_shape,
            "time_steps": time_steps,
            "padding": tuple(self.paddings) or (0,),
            **whole,
            **{"standardise": False, "reset": True, "neuron": "spiking", "readout": "voltage" if reads else "spikes"},
        }
        network = Network(replace(self.like, **found) if self.like else Architecture(**found))
        layers = [layer for _, layer in network.named_layers() if isinstance(layer, Spiking)]
        for layer, tensors, c, threshold, tau_s in zip(
            layers, scaled, constants, needed, self._leaving(constants), strict=True
        ):
            own = {"tau_m": c.tau_m, "tau_s": np.full(len(c.tau_m), tau_s), "threshold": threshold}
            _fill(layer, *tensors, {name: own[name] for name in varied if hasattr(layer, name)})
        shortcuts = {block.last: block.shortcut for block in network.layers if isinstance(block, Residual)}
        for layer, (found_layer, c), threshold in zip(layers, pairs, needed, strict=True):
            if found_layer.around is not None:
                _fill_shortcut(shortcuts[layer], found_layer, c.gain * threshold / c.threshold * found_layer.around.factor)
        return network.eval()

    def _settings(self, constants: list[Constants]) -> tuple[dict[str, Any], set[str]]:
        """Settings of time constants, and the names of the constants that differ between neurons or layers.

        Raises UserError for a graph of ours with different values where its description has one number, and for leaking neurons
        beside ones without a leak.
        """
        each = {"tau_m": np.concatenate([c.tau_m for c in constants]), "tau_s": np.array([c.tau_s for c in constants])}
        whole, varied = dict[str, Any](), set[str]()
        first = plain(each["tau_s"][0])  # by which the network hears its input
        if self.like:
            varied = {*self.like.learn, *self.like.per_neuron}
            whole |= {"tau_s": first} if "tau_s" in varied else {}
            for name, values in each.items():
                own = getattr(self.like, name)
                if name not in varied and not (alike(values) and math.isclose(own, values[0], rel_tol=ROUNDING)):
                    said = f"its neurons have another {name} than the metadata say, {own:g} steps"
                    raise UserError(f"{said}; leave --dt out, or remove the metadata")
            return whole, varied
        varied = {name for name, values in each.items() if not alike(values)}
        for name, values in each.items():
            start = whole[name] = first if name == "tau_s" else commonest([values])
            if name in varied and np.isinf(values).any():
                raise UserError("some neurons are IF, which do not leak, and others leak; here all or none of a network do")
            if name in varied:
                whole["spread"] = max(whole.get("spread", 0.0), min(0.99, float(abs(values / start - 1).max())))
        return whole | ({"per_neuron": tuple(sorted(varied))} if varied else {}), varied

    def _leaving(self, constants: list[Constants]) -> list[float]:
        """τs of each layer's output, which is that of the next one's input. Raises UserError for a layer with two of them."""
        entering = [c.tau_s for c in constants]
        leaving = [*entering[1:], self.tau_s or entering[-1]]
        for layer, a, b in zip(self.layers, entering, leaving, strict=True):
            if layer.neurons.lateral is not None and not math.isclose(a, b, rel_tol=ROUNDING):
                layer.neurons.refuse(f"hears itself by a synapse of {a:g} steps and is heard by one of {b:g}; here it is one")
            if layer.around and not math.isclose(entering[layer.around.first], a, rel_tol=ROUNDING):
                layer.neurons.refuse(
                    f"hears its shortcut by a synapse of {a:g} steps, and the block hears it by another; here it is one"
                )
        return leaving

    def _notation(self, biased: list[bool]) -> str:
        marks: Iterator[Suffix] = iter(["b" if some else "" for some in biased])

        def marked(spec: Spec) -> Spec:
            if isinstance(spec, ResidualSpec):
                return ResidualSpec(tuple(map(marked, spec.layers)))
            return replace(spec, suffix=next(marks)) if isinstance(spec, NeuronSpec) else spec

        specs = list(map(marked, self.specs))
        each = voters(self.like.network) if self.like else 1
        if each > 1 and len(self.layers[-1].weight) % each == 0:
            specs.append(VoteSpec(each))
        return written(tuple(specs))


def _scaled(layer: Layer, c: Constants, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Weight, bias and lateral weight for neurons of these thresholds."""
    size = threshold / c.threshold
    bias = c.leak * size + c.gain * size * (layer.bias + layer.lateral_bias)
    lateral = layer.neurons.lateral
    back = None if lateral is None else times(array(lateral, "weight"), c.gain * size)
    return times(layer.weight, c.gain * size * layer.carry), bias, back


@torch.no_grad()
def _fill(
    layer: Spiking, weight: np.ndarray, bias: np.ndarray, lateral: np.ndarray | None, constants: dict[str, np.ndarray]
) -> None:
    for name, values in constants.items():
        own = getattr(layer, name)
        own.copy_(torch.from_numpy(values if own.dim() else values[0:1].reshape(())))
    layer.weight.copy_(torch.from_numpy(weight))
    if layer.bias is not None:
        layer.bias.copy_(torch.from_numpy(bias))
    if isinstance(layer, Recurrent):
        assert lateral is not None
        layer.lateral.copy_(torch.from_numpy(lateral))
    for name, tensor in layer.named_parameters():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name} of {layer} is not finite in float32; scale the weights and thresholds of the file")


@torch.no_grad()
def _fill_shortcut(own: Spiking | None, layer: Layer, factor: np.ndarray) -> None:
    """Give a shortcut its weights times a factor for each row. Raises UserError for factors other than 1 without weights."""
    assert layer.around is not None
    if layer.around.weight is not None and own is not None:
        own.weight.copy_(torch.from_numpy(times(layer.around.weight, factor)))
    elif abs((worst := factor[abs(factor - 1).argmax()]) - 1) > ROUNDING:
        layer.neurons.refuse(f"gets {worst:g} times what enters its block by the shortcut; here it gets that as it is")
