"""Modules to programs: one walk over the layers of a network, with one case for each kind of layer."""

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from tsslbp.layers import Convolution, Dropout, Flatten, Linear, MaxPool, Readout, Recurrent, Residual, Spiking, SumPool, Vote
from tsslbp.layers.called import in_order
from tsslbp.layers.convolution import each_axis
from tsslbp.layers.noted import check_kinds
from tsslbp.network.program import INPUT, Constant, Map, Op, Program, Ref, Shape, Stage, Unit
from tsslbp.utils.errors import UserError

if TYPE_CHECKING:
    from tsslbp.network.network import Network


def lower(net: "Network") -> Program:
    """The program of a network, which stays true while its modules and their attributes are the same (``cache.py``).

    Raises:
        UserError: forward hooks, classes of one's own, layers that do not follow one another; the line names the layer.
    """
    check_kinds(net)
    walk = _Walk(net)
    for name, layer in in_order(net.layers):
        walk.layer(name, layer)
    if not walk.stages or walk.ops or len(walk.shape) != 1:
        raise UserError(f"layer {name!r} comes last; a network ends with fully connected neurons, and perhaps a vote")
    a = net.architecture
    return Program(a.input_shape, net.time_steps, net.neuron.tau_s, tuple(walk.stages), walk.voters, a.bits)


def affine(net: nn.Module, by: Map) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a map in evaluation, with normalisation (running statistics) and few bits applied.

    W = factor·effective weight,   b = shift          factor and shift are 1 and the bias without normalisation
    """
    layer = net.get_submodule(by.layer)
    assert isinstance(layer, Spiking)
    weight, bias = layer.effective_weight().detach(), layer.bias
    if layer.norm is None:
        return weight, None if bias is None else bias.detach()
    factor, shift = layer.norm.affine()
    return (weight * factor.view(-1, *[1] * (weight.dim() - 1))).detach(), shift.detach()


class _Walk:
    """Goes through layers in order and keeps where the signal comes from, and what has happened to it since."""

    def __init__(self, net: "Network") -> None:
        self.net, self.spiking, self.unit = net, net.is_spiking, net.architecture.neuron
        self.stages: list[Stage] = []
        self.source, self.shape, self.ops = INPUT, net.architecture.input_shape, tuple[Op, ...]()
        self.voters = 1

    def layer(self, name: str, layer: nn.Module, beside: Map | None = None) -> None:
        """Add a layer. ``beside`` is the shortcut to its neurons."""
        if self.voters > 1:
            raise UserError(f"layer {name!r} follows the vote, which must be last")
        match layer:
            case Flatten():
                self._op(name, "flatten", (math.prod(self.shape),))
            case Dropout():
                self._op(name, "dropout", self.shape, factor=layer.p)
            case SumPool() | MaxPool():
                self._pool(name, layer)
            case Residual():
                self._block(name, layer)
            case Vote():
                self.voters = layer.voters
            case Spiking():
                self._stage(name, layer, beside)
            case _:
                raise UserError(f"layer {name!r} is {type(layer).__name__}, which has no place in a program")

    def _op(self, name: str, kind: str, shape: Shape, size: int = 1, factor: float = 1.0) -> None:
        self.ops, self.shape = (*self.ops, Op(kind, name, shape, size, factor)), shape  # type: ignore[arg-type]

    def _pool(self, name: str, layer: SumPool | MaxPool) -> None:
        channels, *sizes = self.shape
        shape = (channels, *(size // layer.size for size in sizes))
        if len(sizes) != len(layer.axes) or min(shape) < 1:
            raise UserError(f"layer {name!r} pools {len(layer.axes)} axes of {list(self.shape)}")
        if isinstance(layer, SumPool):
            self._op(name, "sum", shape, layer.size, layer.pool.factor)
            return
        if self.source == INPUT or any(op.kind == "sum" for op in self.ops):
            raise UserError(
                f"layer {name!r} takes the maximum of what are no spikes; put it directly behind a layer with neurons"
            )
        if self.stages[self.source].unit.tau_s != layer.tau_s:
            raise UserError(f"layer {name!r} has tau_s {layer.tau_s:g}; it must be that of the neurons before it")
        self._op(name, "max", shape, layer.size)

    def _block(self, name: str, block: Residual) -> None:
        source, shape, ops = self.source, self.shape, self.ops
        for inner, layer in block.named_layers():
            beside = None
            if inner == block.last_name:
                beside = Map(source, ops, shape, "identity")
                if block.shortcut is not None:
                    beside = self._map(f"{name}.shortcut", block.shortcut, source, ops, shape)[0]
            self.layer(f"{name}.{inner}", layer, beside)

    def _stage(self, name: str, layer: Spiking, beside: Map | None) -> None:
        made, shape = self._map(name, layer, self.source, self.ops, self.shape)
        if beside is not None:
            through = self._map_shape(beside)
            if through != shape:
                raise UserError(f"layer {name!r} makes {list(shape)}, and the shortcut of its block {list(through)}")
        lateral = self._ref(name, "lateral") if isinstance(layer, Recurrent) else None
        self.stages.append(Stage(name, shape, made, self._unit(name, layer), beside, lateral))
        self.source, self.shape, self.ops = len(self.stages) - 1, shape, ()

    def _unit(self, name: str, layer: Spiking) -> Unit:
        if not self.spiking:
            if name == "output":
                return Unit("none")
            return Unit(self.unit, threshold=self.net.architecture.threshold)  # type: ignore[arg-type]

        def constant(what: str) -> Constant:
            return self._ref(name, what) if what in layer._named else getattr(layer._numbers, what)

        if isinstance(layer, Readout):
            return Unit("integrator", tau_m=constant("tau_m"), rule=layer.rule)
        adaptation = layer.adapting if isinstance(layer, Recurrent) else None
        constants = {what: constant(what) for what in ("tau_m", "tau_s", "threshold")}
        return Unit("lif", **constants, reset=layer.neuron.reset, adaptation=adaptation, rule=layer.rule)

    def _map(self, name: str, layer: Spiking, source: int, ops: tuple[Op, ...], shape: Shape) -> tuple[Map, Shape]:
        """The map of a layer from a signal of a shape, and the shape it makes."""
        weight = self._ref(name, "weight")
        beside = {
            "layer": f"layers.{name}",
            "weight": weight,
            "bias": self._ref(name, "bias") if layer.bias is not None else None,
            "normalised": layer.norm is not None,
            "standardised": layer.gain is not None,
            "bits": layer.bits,
        }
        out, channels, *kernel = weight.shape
        wrong = UserError(f"layer {name!r} has weights {list(weight.shape)}, and {list(shape)} enters it")
        if layer.bias is not None and layer.bias.shape != (out,):
            raise UserError(f"layer {name!r} has a bias {list(layer.bias.shape)} for {out} neurons or channels")
        if isinstance(layer, Convolution):
            axes = len(kernel)
            if len(shape) != axes + 1 or shape[0] != channels * layer.groups or min(sizes := layer.sizes(shape[1:])) < 1:
                raise wrong
            stride, padding, dilation = (each_axis(x, axes) for x in (layer.stride, layer.padding, layer.dilation))
            place = {"stride": stride, "padding": padding, "dilation": dilation, "groups": layer.groups}
            return Map(source, ops, shape, "convolution", **beside, **place), (out, *sizes)  # type: ignore[arg-type]
        if not isinstance(layer, Linear | Recurrent):
            raise UserError(f"layer {name!r} is {type(layer).__name__}, which has no place in a program")
        if shape != (channels,):
            raise wrong
        return Map(source, ops, shape, "dense", **beside), (out,)  # type: ignore[arg-type]

    def _map_shape(self, by: Map) -> Shape:
        """The shape that a map of a shortcut makes."""
        if by.weight is None:
            return by.entering
        if by.kind == "dense":
            return by.weight.shape[:1]
        layer = self.net.get_submodule(by.layer)
        assert isinstance(layer, Convolution)
        return (by.weight.shape[0], *layer.sizes(by.entering[1:]))

    def _ref(self, name: str, what: str) -> Ref:
        path = f"layers.{name}.{what}"
        return Ref(path, tuple(Ref(path, ())(self.net).shape))
