"""A network as a NIR graph whose spikes are exactly its own.

NIR's neuron with a synapse, CubaLIF, is

    tau_syn·dI/dt = -I + w_in·S,    tau_mem·dv/dt = v_leak - v + r·I,    spike if v > v_threshold, then v = v_reset

Forward Euler with a step of ``DT`` makes ours of it (``neuron.py``, equations (1) to (3)), with the membrane potential in other
units, v = u·τs/g, for

    tau_syn = τs·DT   tau_mem = τm·DT   r = τm   w_in = τs   v_leak = τm·τs·b/g   v_reset = 0   v_threshold = τs·θ/g

The synapse commutes with the weights. So the synapse of a CubaLIF is that of what enters the layer, weights stay as they are,
and the graph takes raw samples, one at every step. Sum pooling has no factor in NIR: the factors g of the pools between a layer
and the neurons before it go to the threshold. With τs = 1 a bias b is that of the map, b/g; else it is the leak.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tsslbp.errors import UserError
from tsslbp.exchange.graph import library
from tsslbp.exchange.layers import squared, ungrouped
from tsslbp.layers import Conv1d, Convolution, Dropout, Flatten, Linear, Recurrent, Residual, Spiking, SumPool2d, Vote
from tsslbp.networks import Network

DT = 1e-4
"""Seconds of a step, what most readers of NIR take for granted."""
UNIT = "input_unit"
"""Entry of the metadata of networks of few bits, to whose multiples input is rounded."""
NEURONS = "{}_neurons"
"""Name of the node that holds a layer's neurons."""


def nodes_and_edges(network: Network) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The nodes by name and the edges of the graph of a network that is :func:`plain`.

    Raises UserError for what NIR cannot say, with the layer named.
    """
    if not network.is_spiking:
        raise UserError(f"a network of {network.architecture.neuron} units has no spikes; NIR takes spiking networks")
    writer = _Writer(network)
    for name, layer in writer.network.layers.named_children():
        writer.layer(name, layer)
    writer.append("output", writer.nir.Output(np.array(writer.shape)))
    return writer.nodes, writer.edges


def plain(network: Network) -> Network:
    """A copy in evaluation mode, with normalisation and standardised weights folded, and weights of few bits rounded."""
    network = copy.deepcopy(network).cpu().eval()
    network.fold()
    return network


class _Writer:
    """Appends nodes, and knows the last one, what leaves it, and the factor of pools that the nodes leave out."""

    def __init__(self, network: Network) -> None:
        self.nir, self.network = library(), network
        shape = network.architecture.input_shape
        self.signal = torch.zeros(1, 1, *shape, dtype=next(network.parameters()).dtype)
        self.nodes: dict[str, Any] = {"input": self.nir.Input(np.array(shape))}
        self.edges: list[tuple[str, str]] = []
        self.last, self.gain, self.tau_s = "input", 1.0, _one("the input", network.neuron.tau_s)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what leaves the last node, for one sample."""
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
                raise UserError(f"layer {name!r} is a residual block, which this export does not write yet")
            case _:
                raise UserError(
                    f"layer {name!r} is {type(layer).__name__}, which NIR has no node for; use sum or average pooling of images"
                )

    def _spiking(self, name: str, layer: Spiking) -> None:
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
        constants = {
            "tau_syn": _each(tau_s * DT, self.shape),
            "tau_mem": tau_m * DT,
            "r": tau_m,
            "w_in": _each(tau_s, self.shape),
            "v_leak": tau_m * tau_s * leak,
            "v_threshold": tau_s * threshold / gain,
            "v_reset": np.zeros(self.shape),
        }
        neurons = NEURONS.format(name)
        self.append(neurons, self.nir.CubaLIF(**constants))
        if isinstance(layer, Recurrent):
            lateral = layer.lateral.detach()
            back = lateral if gain == 1 else lateral.double() / gain
            self.nodes[f"{name}_lateral"] = self.nir.Linear(back.contiguous().numpy())
            self.edges += [(neurons, f"{name}_lateral"), (f"{name}_lateral", neurons)]
        self.gain = 1.0

    def _map(self, name: str, layer: Spiking, bias: Tensor, entering: tuple[int, ...]) -> Any:
        """The node of a layer's weights; ``entering`` is the shape of what they meet."""
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


def _each(value: float | Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """A constant for every neuron of this shape, float64."""
    return np.broadcast_to(torch.as_tensor(value, dtype=torch.float64).detach().numpy(), shape).copy()


def _one(who: str, tau_s: float | Tensor) -> float:
    """A time constant that all neurons share. Raises UserError if they do not."""
    values = torch.as_tensor(tau_s, dtype=torch.float64).detach()
    if values.numel() > 1 and bool((values != values.view(-1)[0]).any()):
        raise UserError(f"{who} has a tau_s for each neuron; NIR's synapse is behind the weights, where there is one for all")
    return float(values.view(-1)[0])
