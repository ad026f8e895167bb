"""Settings of a network, the shape of its samples, and the layers they make."""

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from torch import Tensor, nn

from tsslbp import rules
from tsslbp.layers import (
    Adaptation,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    ConvInit,
    Convolution,
    Dropout,
    Flatten,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Pooling,
    Readout,
    Recurrent,
    Residual,
    Spiking,
    SumPool1d,
    SumPool2d,
    Vote,
    convolved,
    quantisation,
    varied,
)
from tsslbp.network import ann
from tsslbp.network.notation import (
    AdaptiveSpec,
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
    contains,
    parse,
    unpacked,
)
from tsslbp.neuron import LIF, ConstantName
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import LARGEST, UserError, shown, unknown
from tsslbp.utils.fields import AT_LEAST_1, BELOW_1, FINITE, NOT_NEGATIVE, POSITIVE, Group, Means, faults, kinds_of

ReadBy = Literal["spikes", "voltage"]
"""How the output layer is read."""


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Group):
    """The network and its neurons, as a model file stores them beside the shape of the samples."""

    network: Annotated[str | None, Means(parse)] = None
    """Network in the field's notation, such as 15C5-P2-40C5-P2-300-10 or 8C3n-[8C3n-8C3n]-10. Default: 100 hidden neurons and
    as many output neurons as the data have classes; tsslbp train without a recipe chooses a network that suits the data."""
    padding: Annotated[tuple[int, ...], NOT_NEGATIVE] = (0,)
    """Zeros around the input of the convolutions: one number for all, or one for each."""
    dropout: Annotated[float, BELOW_1] = 0.0
    """Probability of dropping an input of any layer but the first; the mask is constant in time."""
    conv_init: ConvInit = "uniform"
    """Initial weights of convolutions: uniform (PyTorch's default) or kaiming (normal, as in fully connected layers)."""
    conv_scale: Annotated[float, POSITIVE, FINITE] = 1.0
    """Factor on the initial weights of convolutions."""
    standardise: bool = False
    """Standardise the weights of feed-forward hidden layers, neuron by neuron, and learn their size separately."""
    tau_a: Annotated[float, AT_LEAST_1] = 100.0
    """Time constant of adaptive thresholds (100A) in steps, at least 1."""
    beta: Annotated[float, NOT_NEGATIVE, FINITE] = 0.1
    """How much one spike raises an adaptive threshold. (In other libraries beta is often the membrane's decay, here tau_m.)"""
    bits: quantisation.Bits = "float"
    """Train with weights of this many bits: whole multiples of a step size that each output channel has for itself; ternary
    ones are -1, 0 and 1. With bits, tau_m and tau_s become the nearest values whose leak is a small fraction of a power of two,
    and input is rounded to 1/64."""
    time_steps: Annotated[int | None, POSITIVE] = None
    """Steps per sample, T. Default: as many as the data's sequences have, and 5 for static samples."""
    tau_m: Annotated[float, AT_LEAST_1] = 5.0
    """Membrane time constant in steps, at least 1."""
    tau_s: Annotated[float, AT_LEAST_1, FINITE] = 3.0
    """Synaptic time constant in steps, at least 1."""
    threshold: Annotated[float, POSITIVE, FINITE] = 1.0
    """Firing threshold."""
    learn: tuple[ConstantName, ...] = ()
    """Constants that are learned with the weights: any of tau_m, tau_s and threshold. Each starts at its setting, and is one
    number for each layer unless --per-neuron names it too."""
    per_neuron: tuple[ConstantName, ...] = ()
    """Constants that each neuron (each channel of a convolution) has for itself: learned if --learn names them too, else fixed
    with a --spread."""
    spread: Annotated[float, BELOW_1] = 0.0
    """How far the constants of --per-neuron are spread at the start: 0.5 draws them evenly from 0.5 to 1.5 times their
    setting."""
    reset: bool = True
    """A spike resets the membrane potential. --no-reset is a control for studies; it runs on the slow reference."""
    neuron: ann.Unit = "spiking"
    """What follows a linear map: spiking neurons, or the binary or rectified-linear units of an ANN, which makes one pass
    without time."""
    readout: ReadBy = "spikes"
    """What the answer is read from: the spikes of the output layer, or the voltage (membrane potential) of an output layer that
    never spikes. A voltage needs a softmax loss."""
    rule: Annotated[str, Means(rules.get)] = "tssl"
    """Learning rule, with options in brackets to change the defaults: tssl, "tssl(reset=False)", "surrogate(name=atan)"."""

    @property
    def spikes_last(self) -> bool:
        """Whether the output layer spikes."""
        return self.neuron == "spiking" and self.readout == "spikes"

    def idle(self) -> dict[str, str]:
        idle: dict[str, str] = {}
        if not contains(self.network, AdaptiveSpec):
            idle |= dict.fromkeys(("tau_a", "beta"), "a layer of adaptive thresholds in --network, such as 100A")
        if not contains(self.network, ConvSpec):
            names = ("conv_init", "conv_scale", *(("padding",) if any(self.padding) else ()))
            idle |= dict.fromkeys(names, "a convolution in --network, such as 15C5")
        if self.neuron == "relu":
            idle["threshold"] = "units that have one"
        if self.neuron != "spiking":
            names = ("rule", "tau_m", "tau_s", "reset", *NO_ANN)
            idle |= dict.fromkeys(names, "--neuron spiking")
        if not self.per_neuron:
            idle["spread"] = "--per-neuron"
        return idle


NO_ANN: dict[str, Any] = {"learn": (), "per_neuron": (), "spread": 0.0, "readout": "spikes"}
"""Settings that an ANN does not have, turned off."""


@dataclass(frozen=True, kw_only=True)
class Architecture(NetworkSettings):
    """Complete settings of a network, and the shape of its samples at one step."""

    network: str
    input_shape: tuple[int, ...]
    time_steps: int
    rule: str | Rule = "tssl"  # type: ignore[assignment]  # may be an object if made in Python

    def to_json(self) -> str:
        """The text that :meth:`from_json` reads."""
        return json.dumps({**self.to_dict(), "rule": rules.spec(rules.get(self.rule))})

    @staticmethod
    def from_json(text: str) -> "Architecture":
        """An architecture from its JSON; version 0.1.0 called ``network`` ``notation``.

        Raises:
            UserError: an unknown setting. Other damage may raise any error.
        """
        stored: dict[str, Any] = {}
        for name, value in json.loads(text).items():
            setting = "network" if name == "notation" else name
            if setting not in kinds_of(Architecture):
                raise unknown("setting", setting, kinds_of(Architecture))
            stored[setting] = tuple(value) if isinstance(value, list) else value
        if isinstance(padding := stored.get("padding"), int):  # as version 0.1.0 writes one number for all
            stored["padding"] = (padding,)
        return Architecture(**stored)


_october: dict[str, Any] = {"rule": "tssl-paper", "conv_init": "kaiming"}
_image: dict[str, Any] = {"time_steps": 5, "tau_m": 5, "tau_s": 2, **_october}
_grey: dict[str, Any] = {**_image, "input_shape": (1, 28, 28)}
_cifar: dict[str, Any] = {**_image, "input_shape": (3, 32, 32), "padding": (1,), "dropout": 0.2}
_nmnist: dict[str, Any] = {"input_shape": (2, 34, 34), "time_steps": 30, "tau_m": 8, "tau_s": 4, "padding": (1, 0)}

PAPER: dict[str, Architecture] = {
    "mnist-cnn": Architecture(network="15C5-P2-40C5-P2-300-10", **_grey),
    "nmnist-cnn": Architecture(network="12C5-P2-64C5-P2-10", **_nmnist, **_october),
    "fashion-mnist-fc": Architecture(network="400-400-10", **_grey),
    "fashion-mnist-cnn": Architecture(network="32C5-P2-64C5-P2-1024-10", padding=(2,), **{**_grey, "tau_m": 4}),
    "cifar10-cnn1": Architecture(network="96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024-10", **_cifar),
    "cifar10-cnn2": Architecture(network="128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512-10", **_cifar),
}
"""The networks of the paper's six experiments with the constants of the code behind its table, published on 1 October 2020."""

_december: dict[str, Any] = {"rule": "tssl", "conv_init": "uniform", "tau_m": 5, "tau_s": 3}

PAPER |= {
    **{f"{name}-head": replace(PAPER[name], **_december) for name in ("mnist-cnn", "fashion-mnist-fc", "fashion-mnist-cnn")},
    "nmnist-cnn-head": replace(PAPER["nmnist-cnn"], **{**_december, "tau_m": 8, "tau_s": 4}),
    **{f"{name}-head": replace(PAPER[name], **_december, conv_scale=5.0) for name in ("cifar10-cnn1", "cifar10-cnn2")},
}
"""The same with the constants of the last version of the published code, December 2020: ``NAME-head``."""


def make_layers(a: Architecture, neuron: LIF) -> tuple[OrderedDict[str, nn.Module], int]:
    """Layers of an architecture by name, and how many numbers the largest of them, or the input, holds for a sample and step.

    Raises UserError for settings out of range, and for specs that do not fit its shapes or its kind of neuron.
    """
    if type(a.time_steps) is not int or not 1 <= a.time_steps <= LARGEST:
        raise UserError(f"time_steps is {shown(a.time_steps)}; it must be a whole number from 1 to {LARGEST}")
    for name, known in (("neuron", get_args(ann.Unit)), ("readout", get_args(ReadBy))):
        if (value := getattr(a, name)) not in known:
            raise unknown(name, str(value), known)
    if a.neuron != "spiking" and a.readout != "spikes":
        raise UserError(f"a network of {a.neuron} units has no spikes and no voltages; leave readout out")
    Dropout(a.dropout)  # this and what follows check values that the network may not use
    Adaptation(a.tau_a, a.beta)
    names = ("conv_init", "conv_scale", "standardise", "reset", "learn", "per_neuron")
    if wrong := list(faults(NetworkSettings(**{name: getattr(a, name) for name in names}), called=str)):
        raise UserError("; ".join(wrong))
    maker = _Maker(a, neuron)
    return OrderedDict(maker.layers(parse(a.network))), maker.largest


def vary_constants(a: Architecture, neuron: LIF, layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Give layers, by name, constants that are learned or differ from neuron to neuron, where an architecture asks for them.

    They are drawn after all weights, which are thus the same with and without. Raises UserError if they have no effect.
    """
    if not (a.learn or a.per_neuron or a.spread):
        return
    if a.neuron != "spiking":
        raise UserError(f"a network of {a.neuron} units has no constants to learn or to spread; leave these settings out")
    if "tau_s" in {*a.learn, *a.per_neuron} and contains(a.network, MaxPoolSpec):
        raise UserError(
            f"max pooling, as in {a.network}, takes one fixed tau_s; leave tau_s out of what is learned or per neuron, or "
            "pool sums (P2) or means (A2)"
        )
    spiking = [layer for _, layer in layers if isinstance(layer, Spiking)]
    if {*a.learn, *a.per_neuron} - {"tau_m"} and all(isinstance(layer, Readout) for layer in spiking):
        raise UserError("an output read from its voltage has no tau_s or threshold to learn or to spread; leave them out")
    for layer in spiking:
        without = ("tau_s", "threshold") if isinstance(layer, Readout) else ()
        learn, per_neuron = ([name for name in names if name not in without] for names in (a.learn, a.per_neuron))
        spread = 0.0 if without and not per_neuron else a.spread
        layer.neuron = varied(neuron, len(layer.weight), learn, per_neuron, spread)
        if layer.norm is not None and isinstance(threshold := layer.neuron.threshold, Tensor):
            layer.norm.gain.data.copy_(threshold.detach().flatten())  # where it starts


POOLS = {PoolSpec: (SumPool1d, SumPool2d), AvgPoolSpec: (AvgPool1d, AvgPool2d), MaxPoolSpec: (MaxPool1d, MaxPool2d)}
"""Pooling over one axis and over two."""


class _Maker:
    """Makes the layers of an architecture in order; ``shape`` is the input shape of the next."""

    def __init__(self, a: Architecture, neuron: LIF) -> None:
        specs = parse(a.network)
        convolutions = sum(isinstance(spec, ConvSpec) for spec in unpacked(specs))
        given = a.padding if isinstance(a.padding, tuple) else ()
        self.paddings = given * convolutions if len(given) == 1 else given
        if len(self.paddings) != convolutions or any(type(p) is not int or p < 0 for p in (*given, *self.paddings)):
            raise UserError(
                f"padding {a.padding} must be one number >= 0, or one for each of the {convolutions} convolutions of "
                f"{a.network!r}; --padding 0 is none for all"
            )
        shape = a.input_shape
        if not isinstance(shape, tuple) or len(shape) not in (1, 2, 3) or any(size < 1 for size in shape):
            raise UserError(f"input_shape {shape} must be (channels, height, width), (channels, length) or (features,)")
        self.a, self.neuron, self.shape, self.largest = a, neuron, shape, math.prod(shape)
        self.output = specs[-2 if isinstance(specs[-1], VoteSpec) else -1]
        self.spiking: dict[str, Any] = {"neuron": neuron, "rule": rules.get(a.rule)}
        self.weighted = self.convolutions = self.pooled = self.blocks = 0

    def layers(self, specs: tuple[Spec, ...], block: str = "") -> Iterator[tuple[str, nn.Module]]:
        """Layers of a network, or of a block, by name."""
        for position, spec in enumerate(specs):
            where = f"{str(spec)!r} in {block}" if block else f"layer {position + 1} ({str(spec)!r}) of {self.a.network!r}"
            first, axes = next(unpacked((spec,))), len(self.shape) - 1
            if isinstance(first, ConvSpec | PoolSpec) and not axes:
                wanted = "a [channels, height, width] input, or a [channels, length] one"
                raise UserError(f"{where} needs {wanted}; here it is flat, {list(self.shape)}")
            if isinstance(first, LinearSpec | RecurrentSpec) and axes:
                yield "flatten", Flatten()
                self.shape = (math.prod(self.shape),)
            if isinstance(spec, NeuronSpec):
                if self.weighted and self.a.dropout:
                    yield f"dropout{self.weighted}", Dropout(self.a.dropout, self.weighted)
                self.weighted += 1
            match spec:
                case ConvSpec():
                    yield f"conv{self.weighted}", self._convolution(spec, where)
                case LinearSpec(features):
                    name = "output" if spec is self.output else f"linear{self.weighted}"
                    more = self._with_suffix(spec.suffix, standardise=name != "output")
                    kind = Readout if name == "output" and self.a.readout == "voltage" else Linear
                    yield name, kind(self.shape[0], features, **more, **self.spiking)
                    self.shape = (features,)
                case RecurrentSpec():
                    yield f"recurrent{self.weighted}", self._recurrent(spec)
                case ResidualSpec():
                    self.blocks += 1
                    yield f"block{self.blocks}", self._block(spec, where)
                case PoolSpec():
                    self.pooled += 1
                    yield f"pool{self.pooled}", self._pool(spec, specs[position - 1] if position else None, where)
                case VoteSpec(voters) if voters > 1:
                    yield "vote", Vote(voters)
            self.largest = max(self.largest, math.prod(self.shape))

    def _with_suffix(self, suffix: Suffix, standardise: bool = True) -> dict[str, Any]:
        standardise = standardise and self.a.standardise and suffix != "n"
        return {"bias": suffix == "b", "normalise": suffix == "n", "standardise": standardise}

    def _convolution(self, spec: ConvSpec, where: str) -> Convolution:
        padding = self.paddings[self.convolutions]
        self.convolutions += 1
        if self.shape[0] % spec.groups or spec.channels % spec.groups:
            raise UserError(
                f"{where} has {spec.groups} groups, which must divide its {self.shape[0]} and {spec.channels} channels"
            )
        reach = spec.dilation * (spec.kernel_size - 1) + 1
        if min(shape := convolved(self.shape[1:], reach, spec.stride, padding)) < 1:
            raise UserError(f"{where} is larger than its {_times(self.shape[1:])} input with padding {padding}")
        layer = self._conv(spec, padding)
        self.shape = (spec.channels, *shape)
        return layer

    def _conv(self, spec: ConvSpec, padding: int = 0) -> Convolution:
        kind = Conv2d if len(self.shape) == 3 else Conv1d
        more: dict[str, Any] = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups, "padding": padding}
        more |= {"init": self.a.conv_init, "scale": self.a.conv_scale, **self._with_suffix(spec.suffix), **self.spiking}
        return kind(self.shape[0], spec.channels, spec.kernel_size, **more)

    def _recurrent(self, spec: RecurrentSpec) -> Recurrent:
        if self.a.neuron != "spiking":
            what = f"a network of {self.a.neuron} units is one pass without time"
            raise UserError(f"layer 'recurrent{self.weighted}' needs spiking neurons; {what}")
        adaptation = Adaptation(self.a.tau_a, self.a.beta) if isinstance(spec, AdaptiveSpec) else None
        more: dict[str, Any] = {"bias": spec.suffix == "b", "normalise": spec.suffix == "n"}
        layer = Recurrent(self.shape[0], spec.features, adaptation=adaptation, **more, **self.spiking)
        self.shape = (spec.features,)
        return layer

    def _pool(self, spec: PoolSpec, before: Spec | None, where: str) -> Pooling:
        if spec.size > min(self.shape[1:]):
            raise UserError(f"{where} pools {_times([spec.size] * (len(self.shape) - 1))} of a {_times(self.shape[1:])} input")
        kind = POOLS[type(spec)][len(self.shape) - 2]
        self.shape = (self.shape[0], *(size // spec.size for size in self.shape[1:]))
        if not isinstance(spec, MaxPoolSpec):
            return kind(spec.size)
        if not isinstance(before, NeuronSpec | ResidualSpec | MaxPoolSpec):
            raise UserError(f"{where} pools spikes; it must come directly behind a layer with neurons, such as 15C5")
        return kind(spec.size, tau_s=self.neuron.tau_s)

    def _block(self, spec: ResidualSpec, where: str) -> Residual:
        entering = self.shape
        layers = OrderedDict(self.layers(spec.layers, where))
        leaving, self.shape = self.shape, entering
        shortcut: Spiking | None = None
        fits = len(entering) == len(leaving)
        suffix: Suffix = "n" if getattr(spec.layers[-1], "suffix", "") == "n" else ""  # the last layer's bias is enough
        if fits and entering != leaving and len(entering) == 1:
            shortcut = Linear(entering[0], leaving[0], **self._with_suffix(suffix), **self.spiking)
        elif fits and entering != leaving:
            strides = (getattr(part, "stride", getattr(part, "size", 1)) for part in spec.layers)
            shortcut = self._conv(ConvSpec(leaving[0], 1, math.prod(strides), suffix=suffix))
            fits = shortcut.sizes(entering[1:]) == leaving[1:]
        if not fits:
            raise UserError(
                f"{where} makes {list(leaving)} of {list(entering)}, which no shortcut does; choose --padding so that its "
                "convolutions keep the size, as 1 for 3×3 kernels"
            )
        self.shape = leaving
        return Residual(layers, shortcut=shortcut)


def _times(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))
