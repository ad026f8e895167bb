"""A network as a NIR graph whose spikes are exactly its own.

NIR's neuron with a synapse, CubaLIF, is

    tau_syn·dI/dt = -I + w_in·S,    tau_mem·dv/dt = v_leak - v + r·I,    spike if v > v_threshold, then v = v_reset

Forward Euler with a step of ``DT`` turns it into ours (``neuron.py``, equations (1) to (3)), with the membrane potential in
other units, v = u·τs/g, for

    tau_syn = τs·DT   tau_mem = τm·DT   r = τm   w_in = τs   v_leak = τm·τs·b/g   v_reset = 0   v_threshold = τs·θ/g

The synapse commutes with the weights. So the synapse of a CubaLIF is that of the layer's input, weights stay as they are, and
the graph takes the network's input. Sum pooling has no factor in NIR, so the factors g of the pools between a layer
and the neurons before it go into the threshold. With τs = 1 a bias b is that of the map, b/g; else it is the leak.

The shortcut of a residual block is a second edge into the neurons, which add their inputs. Its own factor of pooling, divided
by g, is in its weights, or in a multiple of the unit matrix if it has none.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tsslbp.exchange.graph import library
from tsslbp.exchange.layers import squared, ungrouped
from tsslbp.layers import Conv1d, Convolution, Dropout, Flatten, Linear, Readout, Recurrent, Residual, Spiking, SumPool2d, Vote
from tsslbp.layers.called import in_order
from tsslbp.layers.noted import check_kinds
from tsslbp.network.network import Network
from tsslbp.utils.errors import UserError

DT = 1e-4
"""Seconds of a step, as most readers of NIR assume."""
UNIT = "input_unit"
"""Entry of the metadata of networks of few bits: input is rounded to multiples of this."""


def neurons_of_layer(name: str) -> str:
    """Name of the node of a layer's neurons, without the dot of layers in blocks, which other programs refuse."""
    return f"{name.replace('.', '_')}_neurons"


def nodes_and_edges(network: Network) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The nodes by name and the edges of the graph of a network that is :func:`plain`.

    Raises UserError for features that NIR lacks, with the layer named.
    """
    if not network.is_spiking:
        raise UserError(f"a network of {network.architecture.neuron} units has no spikes; NIR takes spiking networks")
    writer = _Writer(network)
    for name, layer in in_order(writer.network.layers):
        writer.layer(name, layer)
    writer.append("output", writer.nir.Output(np.array(writer.shape)))
    return writer.nodes, writer.edges


def plain(network: Network) -> Network:
    """A copy in evaluation mode, with normalisation and standardised weights folded, and weights of few bits rounded."""
    check_kinds(network)
    network = copy.deepcopy(network).cpu().eval()
    network.fold()
    return network


def as_written(network: Network, dtype: torch.dtype) -> Network:
    """A network that is :func:`plain`, with the very numbers that its graph holds as its weights, in another type.

    Folding and rounding happen in the network's own type, as for the graph, and weights of few bits stay what they are then: in
    another type, step times whole number would be another number.
    """
    network = plain(network)
    for layer in network.modules():
        if isinstance(layer, Spiking):
            layer.quantise("float")
    return network.to(dtype)


class _Writer:
    """Appends nodes, and keeps the last one, its output shape, and the factor of pools that the nodes leave out."""

    def __init__(self, network: Network) -> None:
        self.nir, self.network = library(), network
        shape = network.architecture.input_shape
        self.signal = torch.zeros(1, 1, *shape, dtype=next(network.parameters()).dtype)
        self.nodes: dict[str, Any] = {"input": self.nir.Input(np.array(shape))}
        self.edges: list[tuple[str, str]] = []
        self.last, self.gain, self.tau_s = "input", 1.0, _one("the input", network.neuron.tau_s)

    @property
    def shape(self) -> tuple[int, ...]:
        """Output shape of the last node, for one sample."""
        return tuple(self.signal.shape[2:])

    def append(self, name: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges.append((self.last, name))
        self.last = name

    def layer(self, name: str, layer: nn.Module) -> None:
        """Append the nodes of a layer. Raises UserError for one that NIR does not have."""
        match layer:
            case Spiking():
                self._spiking(name, layer)
            case SumPool2d():
                size = np.array([layer.size, layer.size])
                self.append(name, self.nir.SumPool2d(kernel_size=size, stride=size, padding=np.array([0, 0])))
                self.gain *= layer.pool.factor
                self.signal = layer(self.signal)
            case Flatten():
                if len(self.shape) > 1:  # counted from the end, as some readers put the batch first and some do not
                    node = self.nir.Flatten({"input": np.array(self.shape)}, start_dim=-len(self.shape), end_dim=-1)
                    self.append(name, node)
                self.signal = self.signal.flatten(2)
            case Dropout() | Vote():  # in evaluation nothing is dropped; votes are counted outside the graph
                pass
            case Residual():
                before = _Before(self.last, self.gain, self.tau_s, self.signal, layer.shortcut)
                for inner, part in layer.named_layers():
                    if inner == layer.last_name:
                        self._spiking(f"{name}_{inner}", layer.last, before)
                    else:
                        self.layer(f"{name}_{inner}", part)
            case _:
                raise UserError(
                    f"layer {name!r} is {type(layer).__name__}, which NIR has no node for; use sum or average pooling of images"
                )

    def _spiking(self, name: str, layer: Spiking, before: "_Before | None" = None) -> None:
        """Append a map and neurons, with a shortcut from ``before`` to these."""
        neuron, gain, tau_s = layer.neuron, self.gain, self.tau_s
        if not neuron.reset:
            raise UserError(f"layer {name!r} has neurons without a reset, which NIR has not")
        self.tau_s = _one(f"layer {name!r}", neuron.tau_s)
        if isinstance(layer, Recurrent) and self.tau_s != tau_s:
            raise UserError(f"layer {name!r} hears itself by another tau_s than its input; in NIR both have one synapse")
        if isinstance(layer, Recurrent) and layer.adaptation is not None:
            raise UserError(f"layer {name!r} has adaptive thresholds, which NIR has not; use 100R in place of 100A")
        entering, current = self.shape, layer.current(self.signal)
        assert isinstance(current, Tensor)
        self.signal = torch.zeros_like(current)

        tau_m, threshold = (_each(value, self.shape) for value in (neuron.tau_m, neuron.threshold))
        if np.isinf(tau_m).any():
            raise UserError(f"layer {name!r} has tau_m inf, which NIR's neuron with a synapse has not; choose a finite --tau-m")
        bias = torch.zeros(len(layer.weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double()
        bias = bias / gain
        none = torch.zeros_like(bias)
        self.append(f"{name}_weights", self._map(name, layer, bias if tau_s == 1 else none, entering))
        leak = _each((none if tau_s == 1 else bias).view(-1, *[1] * (len(self.shape) - 1)), self.shape)
        constants = {"tau_syn": _each(tau_s * DT, self.shape), "tau_mem": tau_m * DT}
        neurons = neurons_of_layer(name)
        if isinstance(layer, Readout):
            ones = np.ones(self.shape)
            self.append(neurons, self.nir.CubaLI(**constants, r=gain * ones, w_in=ones, v_leak=gain * leak))
            return
        constants |= {
            "r": tau_m,
            "w_in": _each(tau_s, self.shape),
            "v_leak": tau_m * tau_s * leak,
            "v_threshold": tau_s * threshold / gain,
            "v_reset": np.zeros(self.shape),
        }
        self.append(neurons, self.nir.CubaLIF(**constants))
        if before is not None:  # after the block's own edges: Norse runs nodes in the order in which it meets them
            self._shortcut(name, before, before.gain / gain, tau_s)
        if isinstance(layer, Recurrent):
            lateral = layer.lateral.detach()
            back = lateral if gain == 1 else lateral.double() / gain
            self.nodes[f"{name}_lateral"] = self.nir.Linear(back.contiguous().numpy())
            self.edges += [(neurons, f"{name}_lateral"), (f"{name}_lateral", neurons)]
        self.gain = 1.0

    def _shortcut(self, name: str, before: "_Before", part: float, tau_s: float) -> None:
        """Append the shortcut from before a block to its last neurons, times ``part``."""
        if before.tau_s != tau_s:
            raise UserError(f"layer {name!r} gets a shortcut of another tau_s than its input; in NIR both have one synapse")
        source, neurons = before.last, neurons_of_layer(name)
        if before.through is not None:
            node = self._map(name, before.through, torch.zeros(len(before.through.weight)), tuple(before.signal.shape[2:]))
            if part != 1:
                node.weight = node.weight.astype(np.float64) * part
        elif part != 1:
            node = self._times(part)
        else:
            self.edges.append((source, neurons))
            return
        self.nodes[f"{name}_shortcut"] = node
        self.edges += [(source, f"{name}_shortcut"), (f"{name}_shortcut", neurons)]

    def _times(self, part: float) -> Any:
        """A map of ``part`` times the unit matrix, of every pixel; no importer tried has a node of kind Scale."""
        channels, *sizes = self.shape
        matrix = part * np.eye(channels)
        if not sizes:
            return self.nir.Linear(matrix)
        kernel, none = matrix.reshape(channels, channels, *[1] * len(sizes)), np.zeros(channels)
        if len(sizes) == 1:
            return self.nir.Conv1d(sizes[0], kernel, 1, 0, 1, groups=1, bias=none)
        return self.nir.Conv2d(tuple(sizes), kernel, (1, 1), (0, 0), (1, 1), groups=1, bias=none)

    def _map(self, name: str, layer: Spiking, bias: Tensor, entering: tuple[int, ...]) -> Any:
        """The node of a layer's weights; ``entering`` is their input shape."""
        weight, offset = layer.weight.detach().contiguous().numpy(), bias.numpy()
        if isinstance(layer, Linear | Recurrent):
            return self.nir.Affine(weight, offset) if offset.any() else self.nir.Linear(weight)
        if not isinstance(layer, Convolution):
            raise UserError(f"layer {name!r} is {type(layer).__name__}, which NIR has no node for")
        sizes = entering[1:]
        stride, padding, dilation = (
            tuple(np.broadcast_to(x, len(sizes)).tolist()) for x in (layer.stride, layer.padding, layer.dilation)
        )
        square = squared(ungrouped(weight, layer.groups), padding, dilation)
        if square is None:
            kernel = "×".join(map(str, weight.shape[2:]))
            raise UserError(
                f"layer {name!r} has a {kernel} kernel; NIR takes square ones, and zeros around it do not make it so"
            )
        weight, padding = square
        if isinstance(layer, Conv1d):
            return self.nir.Conv1d(sizes[0], weight, stride[0], padding[0], dilation[0], groups=1, bias=offset)
        return self.nir.Conv2d(sizes, weight, stride, padding, dilation, groups=1, bias=offset)


@dataclass(frozen=True)
class _Before:
    """Input of a residual block: the last node before it, the factor that this leaves out, and the shortcut's layer."""

    last: str
    gain: float
    tau_s: float
    signal: Tensor
    through: Spiking | None


def _each(value: float | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """A constant for every neuron of this shape, float64."""
    return np.broadcast_to(torch.as_tensor(value, dtype=torch.float64).detach().numpy(), shape).copy()


def _one(who: str, tau_s: float | Tensor) -> float:
    """A time constant that all neurons share. Raises UserError if they do not."""
    values = torch.as_tensor(tau_s, dtype=torch.float64).detach()
    if values.numel() > 1 and bool((values != values.view(-1)[0]).any()):
        raise UserError(f"{who} has a tau_s for each neuron; NIR's synapse is behind the weights, where there is one for all")
    return float(values.view(-1)[0])
