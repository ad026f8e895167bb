"""A model in the operators of ONNX: every layer once, and time as a loop (``Scan``), so that a graph does not grow with T.

Maps take all steps at once, as in PyTorch. Neurons, synapses and recurrent layers go from step to step by the equations of
``neuron.py`` and ``layers/recurrent.py``. A constant current goes through a map once, and is written out where neurons or a
bias need every step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tsslbp import encoding
from tsslbp.exchange.filtering import DOUBLE, FLOAT, INT64, filtered
from tsslbp.layers import Convolution, Dropout, Flatten, Linear, MaxPool, Readout, Recurrent, Residual, Spiking, SumPool, Vote
from tsslbp.layers.called import in_order
from tsslbp.layers.convolution import each_axis
from tsslbp.layers.quantisation import INPUT_LARGEST, INPUT_UNIT
from tsslbp.metrics.decoding import NEAR
from tsslbp.network.network import Network
from tsslbp.neuron import LIF
from tsslbp.training.inputs import Inputs
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import constant_current


class Writer:
    """Collects nodes and constants.

    Args:
        helper: the module ``onnx.helper``.
    """

    def __init__(self, helper: ModuleType) -> None:
        self.helper = helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.named = 0

    def name(self) -> str:
        """A new one."""
        self.named += 1
        return f"x{self.named}"

    def op(self, kind: str, *inputs: str | Tensor | float | Sequence[int], **attributes: Any) -> str:
        """Add a node with one output; returns its name. Inputs are names, or constants: float32, or whole numbers as int64."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        made = self.name()
        self.nodes.append(self.helper.make_node(kind, names, [made], **attributes))
        return made

    def constant(self, value: Tensor | float | Sequence[int]) -> str:
        x = torch.as_tensor(value, dtype=torch.float32 if isinstance(value, float) else None).detach().cpu().contiguous()
        x = x.float() if x.is_floating_point() else x.long()
        made = self.name()
        kind = FLOAT if x.is_floating_point() else INT64
        self.constants.append(self.helper.make_tensor(made, kind, x.shape, x.numpy().tobytes(), raw=True))
        return made

    def double(self, x: Tensor) -> str:
        """Add a constant in float64; returns its name."""
        made, content = self.name(), x.double().contiguous().numpy().tobytes()
        self.constants.append(self.helper.make_tensor(made, DOUBLE, x.shape, content, raw=True))
        return made

    def scan(self, states: Sequence[str], sequence: str, step: Callable[[list[str], str], tuple[list[str], str]]) -> str:
        """Loop over the first axis: ``step`` turns states and an item into new states and an output. Returns all outputs."""
        outer, self.nodes = self.nodes, []
        before, item = [self.name() for _ in states], self.name()
        after, made = step(before, item)
        after = [self.op("Identity", name) for name in after]  # a graph gives each of its outputs one name
        made = self.op("Identity", made)
        ends = ((*before, item), (*after, made))
        inputs, outputs = ([self.helper.make_tensor_value_info(name, FLOAT, None) for name in end] for end in ends)
        body = self.helper.make_graph(self.nodes, "step", inputs, outputs)
        self.nodes = outer
        whole = [self.name() for _ in (*after, made)]
        self.nodes.append(self.helper.make_node("Scan", [*states, sequence], whole, body=body, num_scan_inputs=1))
        return whole[-1]

    def zeros_like_item(self, sequence: str) -> str:
        """Zeros in the shape of an item of a sequence."""
        return self.op("ConstantOfShape", self.op("Shape", sequence, start=1))


@dataclass(frozen=True)
class Signal:
    """Signal between layers: ``[T, N, *shape]``, or ``[N, *shape]`` to be multiplied by a ``response`` ``[T]``."""

    name: str
    shape: tuple[int, ...]
    response: Tensor | None = None


def prepared(w: Writer, inputs: Inputs, samples: str, lengths: str | None, shape: tuple[int, ...]) -> str:
    """Network input of stored samples, as :meth:`Inputs.__call__` makes it; ``shape`` is that of a stored sample."""
    x = w.op("Cast", samples, to=FLOAT)
    if inputs.sequence:
        assert lengths is not None
        return _series(w, inputs, x, lengths, shape)
    if encoding.get(inputs.encoding) is None:
        return _normalised(w, inputs, x, len(shape) + 1)
    x = w.op("Div", x, float(inputs.normalisation.scale))  # latency: one spike at step round((1 - x)(T - 1))
    first = w.op("Round", w.op("Mul", w.op("Sub", 1.0, x), float(inputs.time_steps - 1)))
    steps = torch.arange(inputs.time_steps).float().view(-1, *[1] * (len(shape) + 1))
    at = w.op("Equal", steps, w.op("Unsqueeze", first, [0]))
    return w.op("Cast", w.op("And", at, w.op("Greater", w.op("Unsqueeze", x, [0]), 0.0)), to=FLOAT)


def _series(w: Writer, inputs: Inputs, x: str, lengths: str, shape: tuple[int, ...]) -> str:
    steps, *features = shape
    if inputs.bin > 1:
        size, bins = inputs.bin, -(-steps // inputs.bin)
        x = w.op("Where", _inside(w, lengths, steps, 0, len(features)), x, 0.0)
        x = w.op("Pad", x, [0] * (len(shape) + 2) + [-steps % size] + [0] * len(features))
        x = w.op("Cast", w.op("Reshape", x, [-1, bins, size, *features]), to=DOUBLE)
        counts = w.op("Sub", w.op("Unsqueeze", lengths, [1]), torch.arange(0, steps, size))
        counts = w.op("Cast", w.op("Clip", counts, torch.tensor(1), torch.tensor(size)), to=DOUBLE)
        counts = w.op("Unsqueeze", counts, list(range(2, 2 + len(features))))
        x = w.op("Cast", w.op("Div", w.op("ReduceSum", x, [2], keepdims=0), counts), to=FLOAT)
        lengths = w.op("Div", w.op("Add", lengths, torch.tensor(size - 1)), torch.tensor(size))
    x = _normalised(w, inputs, x, len(shape) + 1)
    if inputs.filters:
        return filtered(w, inputs.filters, x, lengths)
    x = w.op("Transpose", x, perm=[1, 0, *range(2, len(shape) + 1)])
    if inputs.delta:
        x = _changes(w, x, inputs.delta)
    return w.op("Where", _inside(w, lengths, inputs.time_steps, 1, len(features)), x, 0.0)


def _changes(w: Writer, x: str, delta: float) -> str:
    """Spikes for changes (``data/audio.py``), ``[T, N, F] -> [T, N, 2F]``."""

    def step(states: list[str], now: str) -> tuple[list[str], str]:
        (received,) = states
        up, down = (
            w.op("Cast", w.op("GreaterOrEqual", w.op("Sub", a, b), float(delta)), to=FLOAT)
            for a, b in ((now, received), (received, now))
        )
        return [w.op("Add", received, w.op("Mul", w.op("Sub", up, down), float(delta)))], w.op("Concat", up, down, axis=-1)

    return w.scan([w.zeros_like_item(x)], x, step)


def _normalised(w: Writer, inputs: Inputs, x: str, axes: int) -> str:
    norm, one = inputs.normalisation, [1, 1] if axes >= 4 else []
    gain = torch.tensor([1 / (norm.scale * std) for std in norm.std]).view(-1, *one)
    offset = torch.tensor([-mean / std for mean, std in zip(norm.mean, norm.std, strict=True)]).view(-1, *one)
    return w.op("Add", w.op("Mul", x, gain), offset)


def _inside(w: Writer, lengths: str, steps: int, batch: int, features: int) -> str:
    """Which steps belong to sequences, of bool; the batch is axis 0 or 1, and ``features`` axes of size 1 follow."""
    at = torch.arange(steps)
    inside = w.op("Less", at if batch == 0 else at[:, None], w.op("Unsqueeze", lengths, [1 - batch]))
    return w.op("Unsqueeze", inside, list(range(2, 2 + features)))


def evidence(w: Writer, network: Network, x: str, static: bool, lengths: str | None) -> str:
    """The input of decoding, ``[T, N, classes]`` (T = 1 if the output does not spike), from network input."""
    signal = _entering(w, network, x, static)
    for _, layer in in_order(network.layers):
        signal = _layer(w, network, layer, signal)
    output = _expanded(w, signal)
    if lengths is not None and network.is_spiking:
        output = w.op("Where", _inside(w, lengths, network.time_steps, 1, 1), output, 0.0)
    if network.spikes_last:
        return output
    return w.op("Softmax", w.op("ReduceSum", output, [0], keepdims=1), axis=-1)


def answers(w: Writer, output: str) -> str:
    """What :func:`tsslbp.metrics.decode` answers: ``[T, N, classes] -> [N]`` of int64."""
    total = w.op("ReduceSum", output, [0], keepdims=0)
    most = w.op("ReduceMax", total, [-1], keepdims=1)
    near = w.op("Cast", w.op("GreaterOrEqual", total, w.op("Mul", most, 1 - NEAR)), to=FLOAT)
    found = w.op("Greater", w.op("Squeeze", most, [-1]), 0.0)
    return w.op("Where", found, w.op("ArgMax", near, axis=-1, keepdims=0), torch.tensor(-1))


def _entering(w: Writer, network: Network, x: str, static: bool) -> Signal:
    a = network.architecture
    if a.bits != "float":
        x = w.op("Floor", w.op("Add", w.op("Mul", x, float(INPUT_UNIT)), 0.5))
        x = w.op("Mul", w.op("Clip", x, float(-INPUT_LARGEST), float(INPUT_LARGEST)), 1 / INPUT_UNIT)
    if not network.is_spiking:
        mean = w.op("Unsqueeze", x, [0]) if static else w.op("ReduceMean", x, [0], keepdims=1)
        return Signal(mean, a.input_shape)
    tau_s = network.neuron.tau_s
    if static:
        return Signal(x, a.input_shape, constant_current(torch.zeros(1), network.time_steps, tau_s).response)
    return Signal(_synapse(w, x, tau_s), a.input_shape)


def _layer(w: Writer, network: Network, layer: nn.Module, signal: Signal) -> Signal:
    match layer:
        case Dropout():
            return signal
        case Flatten():
            size = math.prod(signal.shape)
            lead = [-1] if signal.response is not None else [0, -1]
            return Signal(w.op("Reshape", signal.name, [*lead, size]), (size,), signal.response)
        case SumPool():
            area = layer.size ** len(signal.shape[1:])
            made = _pooled(w, "AveragePool", layer.size, signal)
            return Signal(w.op("Mul", made.name, float(area * layer.pool.factor)), made.shape, made.response)
        case MaxPool():
            tau_s, x = layer.tau_s, _expanded(w, signal)
            zeros = w.op("Unsqueeze", w.zeros_like_item(x), [0])
            delayed = w.op("Slice", w.op("Concat", zeros, x, axis=0), [0], [-1], [0])
            trains = w.op("Sub", w.op("Mul", x, float(tau_s)), w.op("Mul", delayed, float(tau_s - 1)))
            made = _pooled(w, "MaxPool", layer.size, Signal(trains, signal.shape))
            return Signal(_synapse(w, made.name, tau_s), made.shape)
        case Vote():
            classes = signal.shape[0] // layer.voters
            voters = w.op("Reshape", signal.name, [0, 0, classes, layer.voters])
            return Signal(w.op("ReduceMean", voters, [-1], keepdims=0), (classes,))
        case Residual():
            before = signal
            for name, part in layer.named_layers():
                signal = (
                    _spiking(w, network, layer.last, signal, (before, layer.shortcut))
                    if name == layer.last_name
                    else _layer(w, network, part, signal)
                )
            return signal
        case Spiking():
            return _spiking(w, network, layer, signal)
    raise UserError(f"a layer is {type(layer).__name__}, which is not written as ONNX")


def _pooled(w: Writer, kind: str, size: int, signal: Signal) -> Signal:
    """Windows of every step pooled."""
    channels, *sizes = signal.shape
    windows = [size] * len(sizes)

    def pool(x: str) -> str:
        return w.op(kind, x, kernel_shape=windows, strides=windows)

    return _each_step(w, signal, pool, (channels, *(n // size for n in sizes)))


def _each_step(w: Writer, signal: Signal, map_: Callable[[str], str], shape: tuple[int, ...]) -> Signal:
    """A map of ``[N, *shape]`` for every step."""
    if signal.response is not None:
        return Signal(map_(signal.name), shape, signal.response)
    steps = w.op("Shape", signal.name, end=2)
    flat = w.op("Reshape", signal.name, [-1, *signal.shape])
    back = w.op("Concat", steps, list(shape), axis=0)
    return Signal(w.op("Reshape", map_(flat), back, allowzero=1), shape)  # a batch may be empty


def _spiking(
    w: Writer, network: Network, layer: Spiking, signal: Signal, around: tuple[Signal, Spiking | None] | None = None
) -> Signal:
    """A map and its neurons, with an optional shortcut from ``around``."""
    made = _current(w, layer, signal)
    if around is not None:
        before, shortcut = around
        beside = before if shortcut is None else _current(w, shortcut, before)
        made = Signal(w.op("Add", _expanded(w, made), _expanded(w, beside)), made.shape)
    if not network.is_spiking:
        a, x = network.architecture, _expanded(w, made)
        if layer is network.layers.get_submodule("output"):
            return Signal(x, made.shape)
        units = w.op("Relu", x) if a.neuron == "relu" else w.op("Cast", w.op("Greater", x, float(a.threshold)), to=FLOAT)
        return Signal(units, made.shape)
    current = _expanded(w, made)
    if isinstance(layer, Readout):
        return Signal(_synapse(w, current, layer.neuron.tau_m), made.shape)
    psc = _recurrent(w, layer, current) if isinstance(layer, Recurrent) else _neurons(w, layer.neuron, current)
    return Signal(psc, made.shape)


def _current(w: Writer, layer: Spiking, signal: Signal) -> Signal:
    """Output of a layer's map with its bias."""
    weight = layer.weight
    if isinstance(layer, Convolution):
        sizes = tuple(signal.shape[1:])
        stride, padding, dilation = ([*each_axis(x, len(sizes))] for x in (layer.stride, layer.padding, layer.dilation))

        def convolved(x: str) -> str:
            more = {"strides": stride, "pads": padding * 2, "dilations": dilation, "group": layer.groups}
            return w.op("Conv", x, weight, kernel_shape=list(weight.shape[2:]), **more)

        made = _each_step(w, signal, convolved, (len(weight), *layer.sizes(sizes)))
    else:
        assert isinstance(layer, Linear | Recurrent)
        made = Signal(w.op("MatMul", signal.name, weight.T), (len(weight),), signal.response)
    if layer.bias is None:
        return made
    bias = layer.bias.view(-1, *[1] * (len(made.shape) - 1))
    return Signal(w.op("Add", _expanded(w, made), bias), made.shape)


def _expanded(w: Writer, signal: Signal) -> str:
    """``[T, N, ...]``."""
    if signal.response is None:
        return signal.name
    response = signal.response.view(-1, *[1] * (len(signal.shape) + 1))
    return w.op("Mul", w.op("Unsqueeze", signal.name, [0]), response)


def _value(x: float | Tensor) -> float | Tensor:
    """A constant of neurons; a number as a float, since whole numbers would become int64."""
    return x if isinstance(x, Tensor) else float(x)


def _synapse(w: Writer, train: str, tau_s: float | Tensor) -> str:
    """Equation (3) of ``neuron.py``."""
    if not isinstance(tau_s, Tensor) and tau_s == 1:
        return train
    neuron = LIF(1.0, tau_s)

    def step(states: list[str], item: str) -> tuple[list[str], str]:
        psc = _psc(w, neuron, item, states[0])
        return [psc], psc

    return w.scan([w.zeros_like_item(train)], train, step)


def _psc(w: Writer, neuron: LIF, spikes: str, before: str) -> str:
    if not isinstance(neuron.tau_s, Tensor) and neuron.tau_s == 1:
        return spikes
    return w.op("Add", w.op("Div", spikes, _value(neuron.tau_s)), w.op("Mul", before, _value(neuron.synapse_decay)))


def _neurons(w: Writer, neuron: LIF, current: str) -> str:
    def step(states: list[str], item: str) -> tuple[list[str], str]:
        u, spikes = _fire(w, neuron, item, states[0])
        psc = _psc(w, neuron, spikes, states[1])
        return [u, psc], psc

    rest = w.zeros_like_item(current)
    return w.scan([rest, rest], current, step)


def _fire(w: Writer, neuron: LIF, current: str, before: str) -> tuple[str, str]:
    """Membrane potential and spikes, equations (1) and (2) of ``neuron.py``; NaN stays NaN."""
    kept = w.op("Mul", before, _value(neuron.membrane_decay))
    if neuron.reset:
        kept = w.op("Mul", kept, w.op("Cast", w.op("LessOrEqual", before, _value(neuron.threshold)), to=FLOAT))
    u = w.op("Add", current, kept)
    spikes = w.op("Cast", w.op("Greater", u, _value(neuron.threshold)), to=FLOAT)
    return u, w.op("Where", w.op("IsNaN", u), u, spikes)


def _recurrent(w: Writer, layer: Recurrent, current: str) -> str:
    """Equations (1) to (3) of ``layers/recurrent.py``."""
    neuron, adaptation, lateral = layer.neuron, layer.adaptation, w.constant(layer.lateral.T)

    def step(states: list[str], item: str) -> tuple[list[str], str]:
        u, psc, *adapting = states
        item = w.op("Add", item, w.op("MatMul", psc, lateral))
        if adaptation is not None:
            b, s = adapting
            after = w.op("Add", s, w.op("Mul", b, float(1 - 1 / adaptation.tau_a)))
            kept = w.op("Mul", b, w.op("Sub", 1.0, s)) if neuron.reset else b
            rise = w.op("Sub", after, w.op("Mul", kept, _value(neuron.membrane_decay)))
            item, adapting = w.op("Sub", item, w.op("Mul", rise, float(adaptation.beta))), [after]
        u, spikes = _fire(w, neuron, item, u)
        psc = _psc(w, neuron, spikes, psc)
        return [u, psc, *adapting, *([spikes] if adaptation is not None else [])], psc

    rest = w.zeros_like_item(current)
    return w.scan([rest] * (2 if adaptation is None else 4), current, step)
