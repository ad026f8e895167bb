"""Biases for simulators that have none after a synapse: an input channel that marks the beginning of a sample.

A bias does not go through the synapse of its neuron: it adds L = v_leak/τm to the membrane potential at every step. Simulators
refuse the leak, but all have a bias of the map, which goes through the synapse. The synapse's output is a constant L if its
input is, with q = 1 - 1/τs,

    L at the first step,   L/τs at every other

So the map gets the bias L/τs and one more input channel, the onset, of weight q·L: it spikes at the first step and never again.
In the sample it is 1 at the first step, then 0. Every hidden layer passes it on by one more channel of neurons, with the weight
w = 2·τs·θ from the onset before and the bias -q·w: at the first step their potential is 2·θ, and from then on it is negative. θ
is their v_threshold. Pooling adds the spikes of a window; weights are divided by their number.

:func:`with_onset` makes a graph of this form from one with leaks, :func:`without_onset` reverses it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tsslbp.exchange.graph import Link, array, chain, library
from tsslbp.utils.errors import UserError

ONSET = "onset_channel"
"""Entry of the metadata of graphs whose last input channel is 1 at the first step and then 0."""


@dataclass(frozen=True)
class _Place:
    """A map and its neurons, and their input without the onset."""

    map: Link
    neurons: Link
    shape: tuple[int, ...]
    """Input shape of the map."""
    onsets: int
    """How many inputs are the onset's: its pixels, if an image was flattened."""
    windows: int
    """Spikes of the onset that pooling has added in each of these."""
    hidden: bool
    """Whether layers follow, which need an onset too."""

    @property
    def rows(self) -> int:
        """Neurons, or channels of them, of the network itself."""
        return len(array(self.map, "bias" if hasattr(self.map.node, "bias") else "weight"))

    def constant(self, name: str) -> float:
        return float(array(self.neurons, name).flat[0])

    @property
    def tau_s(self) -> float:
        """τs, which is w_in in our graphs."""
        return self.constant("w_in")


def with_onset(graph: Any) -> Any:
    """A graph of ours with an onset channel instead of the neurons' leaks; unchanged without leaks.

    Raises:
        UserError: a convolution with so much padding that none of its weights always meets a pixel; shortcuts.
    """
    nodes, links = dict(graph.nodes), chain(graph)
    if not any(array(link, "v_leak").any() for link in links if link.kind == "CubaLIF"):
        return graph
    if any(link.closes for link in links):
        raise UserError("an onset channel does not go around a residual block; export with --bias leak")
    places = list(_places(graph, 0, nodes))
    nir = library()
    for place in places:
        rows, q = place.rows, 1 - 1 / place.tau_s
        leak = (array(place.neurons, "v_leak") / array(place.neurons, "r")).reshape(rows, -1)[:, 0]
        weight, onset = array(place.map, "weight"), q * leak / place.windows
        bias = leak / place.tau_s + (array(place.map, "bias") if hasattr(place.map.node, "bias") else 0)  # the map's if τs is 1
        if place.hidden:
            strong = 2 * place.tau_s * place.constant("v_threshold")
            weight = np.concatenate([weight, np.zeros((1, *weight.shape[1:]))])
            bias, onset = np.append(bias, -q * strong), np.append(onset, strong / place.windows)
        more = np.zeros((len(weight), place.onsets if weight.ndim == 2 else 1, *weight.shape[2:]))
        _weights_of_onset(place, more)[:] = onset
        whole = np.concatenate([weight, more], 1)
        nodes[place.map.name] = nir.Affine(whole, bias) if weight.ndim == 2 else _convolution(place, whole, bias)
        _neurons(place, nodes, +1, np.zeros(rows))
    return nir.NIRGraph(nodes, list(graph.edges), metadata={**graph.metadata, ONSET: 1})


def without_onset(graph: Any) -> Any:
    """The graph with leaks from which :func:`with_onset` made this one. Raises UserError if it was changed since."""
    nodes = dict(graph.nodes)
    for place in _places(graph, 1, nodes):
        rows, q, weight = place.rows - place.hidden, 1 - 1 / place.tau_s, array(place.map, "weight")
        leak = place.tau_s * array(place.map, "bias")[:rows]
        own = weight.shape[1] - (place.onsets if weight.ndim == 2 else 1)
        onset = _weights_of_onset(place, weight[:rows, own:])
        if not np.allclose(onset * place.windows, q * leak, rtol=1e-6):
            place.map.refuse("has other weights from the onset channel than its bias needs; export the network again")
        kept = weight[:rows, :own]
        nodes[place.map.name] = library().Linear(kept) if weight.ndim == 2 else _convolution(place, kept, np.zeros(rows))
        _neurons(place, nodes, -1, leak)
    metadata = {key: value for key, value in graph.metadata.items() if key != ONSET}
    return library().NIRGraph(nodes, list(graph.edges), metadata=metadata, type_check=False)


def _places(graph: Any, extra: int, nodes: dict[str, Any]) -> Iterator[_Place]:
    """The layers of a graph of ours that has ``extra`` onset channels; ``nodes`` get inputs of 1 - 2·extra channels more."""
    nir, more = library(), 1 - 2 * extra
    links = chain(graph)
    shape, onsets, windows, map_ = tuple[int, ...](), 0, 1, links[0]
    for link in links:
        match link.kind:
            case "Input":
                channels, *sizes = np.asarray(link.node.input_type["input"]).tolist()
                shape, onsets = (channels - extra, *sizes), math.prod(sizes)
                nodes[link.name] = nir.Input(np.array([channels + more, *sizes]))
            case "SumPool2d":
                k, node = int(array(link, "kernel_size").flat[0]), link.node
                nodes[link.name] = nir.SumPool2d(node.kernel_size, node.stride, node.padding)  # without the old types
                shape, windows = (shape[0], *(n // k for n in shape[1:])), windows * k**2
                onsets = math.prod(shape[1:])
            case "Flatten":
                before = {"input": np.array([shape[0] + (more > 0), *shape[1:]])}
                nodes[link.name] = nir.Flatten(before, link.node.start_dim, link.node.end_dim)
                shape = (math.prod(shape),)
            case "CubaLIF":
                hidden = link is not links[-2]
                yield _Place(map_, link, shape, onsets, windows, hidden)
                rows, *sizes = array(link, "v_threshold").shape
                shape, onsets, windows = (rows - extra * hidden, *sizes), math.prod(sizes), 1
            case _:
                map_ = link


def _weights_of_onset(place: _Place, weight: np.ndarray) -> np.ndarray:
    """The weights of the onset, one in each row: of its channel's, one pixel's is enough."""
    first: np.ndarray = weight[:, 0]
    for tap in _tap(place):
        first = first[:, tap]
    return first


def _tap(place: _Place) -> tuple[int, ...]:
    """Index of a kernel's weight that always meets a pixel and never padding; empty for a matrix."""
    weight, node = array(place.map, "weight"), place.map.node
    made = array(place.neurons, "v_threshold").shape[1:]
    taps = []
    for axis, (n, out) in enumerate(zip(place.shape[1:], made, strict=True) if weight.ndim > 2 else ()):
        stride, padding, dilation = (int(np.ravel(size)[axis]) for size in (node.stride, node.padding, node.dilation))
        end = n - (out - 1) * stride
        fits = [k for k in range(weight.shape[2 + axis]) if 0 <= dilation * k - padding < end]
        if not fits:
            raise UserError(f"{place.map} is padded too far for an onset channel; export with --bias leak")
        taps.append(fits[len(fits) // 2])
    return tuple(taps)


def _convolution(place: _Place, weight: np.ndarray, bias: np.ndarray) -> Any:
    node = place.map.node
    kind: Any = type(node)
    return kind(node.input_shape, weight, node.stride, node.padding, node.dilation, groups=1, bias=bias)


def _neurons(place: _Place, nodes: dict[str, Any], more: int, leak: np.ndarray) -> None:
    """Replace neurons and their lateral map by ones with ``more`` channels (if layers follow) and ``leak·τm``."""
    names = ("tau_syn", "tau_mem", "r", "w_in", "v_threshold", "v_reset")
    constants = {name: array(place.neurons, name) for name in names}
    if place.hidden:  # the onset's neurons are like the first
        constants = {name: np.concatenate([x, x[:1]]) if more > 0 else x[:-1] for name, x in constants.items()}
    leaks = np.zeros_like(constants["r"])
    leaks[: len(leak)] = constants["r"][: len(leak)] * leak.reshape(-1, *[1] * (leaks.ndim - 1))
    nodes[place.neurons.name] = library().CubaLIF(**constants, v_leak=leaks)
    if place.neurons.lateral is not None and place.hidden:
        lateral = place.neurons.lateral.node.weight
        nodes[place.neurons.lateral.name] = library().Linear(np.pad(lateral, (0, 1)) if more > 0 else lateral[:-1, :-1])
