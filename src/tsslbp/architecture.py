"""What determines a network but its weights: its settings, the shape of its samples, and the layers they make."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import nn

from tsslbp import ann, rules
from tsslbp.declared import AT_LEAST_1, BELOW_1, FINITE, NOT_NEGATIVE, POSITIVE, Group, Means, kinds_of
from tsslbp.errors import UserError, unknown
from tsslbp.layers import Conv2d, ConvInit, Dropout, Flatten, Linear, SumPool2d, Vote
from tsslbp.neuron import LIF
from tsslbp.notation import (
    AdaptiveSpec,
    ConvSpec,
    LinearSpec,
    PoolSpec,
    RecurrentSpec,
    VoteSpec,
    contains,
    parse,
)
from tsslbp.recurrent import Adaptation, Recurrent
from tsslbp.rules.base import Rule


@dataclass(frozen=True, kw_only=True)
class NetworkSettings(Group):
    """The network and its neurons: what a model file says of it beside the shape of its samples."""

    network: Annotated[str | None, Means(parse)] = None
    """Network in the field's notation, such as 15C5-P2-40C5-P2-300-10. Default: 100 hidden neurons and as many output neurons
    as the data have classes."""
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
    time_steps: Annotated[int | None, POSITIVE] = None
    """Steps per sample, T. Default: as many as the data's sequences have, and 5 for static samples."""
    tau_m: Annotated[float, AT_LEAST_1] = 5.0
    """Membrane time constant in steps, at least 1."""
    tau_s: Annotated[float, AT_LEAST_1, FINITE] = 3.0
    """Synaptic time constant in steps, at least 1."""
    threshold: Annotated[float, POSITIVE, FINITE] = 1.0
    """Firing threshold."""
    reset: bool = True
    """A spike resets the membrane potential. --no-reset is a control for studies, and is computed by the slow reference."""
    neuron: ann.Unit = "spiking"
    """What follows a linear map: spiking neurons, or the binary or rectified-linear units of an ANN, which makes one pass
    without time."""
    rule: Annotated[str, Means(rules.get)] = "tssl"
    """Learning rule, with options in brackets if you want other than the defaults: tssl, "tssl(reset=False)",
    "surrogate(name=atan)"."""

    def idle(self) -> dict[str, str]:
        idle: dict[str, str] = {}
        if not contains(self.network, AdaptiveSpec):
            idle |= dict.fromkeys(("tau_a", "beta"), "a layer of adaptive thresholds in --network, such as 100A")
        if not contains(self.network, ConvSpec):
            idle |= dict.fromkeys(("conv_init", "conv_scale"), "a convolution in --network, such as 15C5")
        if self.neuron != "spiking":
            idle |= dict.fromkeys(("rule", "tau_m", "tau_s", "reset"), "--neuron spiking")
        return idle


@dataclass(frozen=True, kw_only=True)
class Architecture(NetworkSettings):
    """Settings of a network, none of them left open, and the shape of its samples at one step."""

    network: str
    input_shape: tuple[int, ...]
    time_steps: int
    rule: str | Rule = "tssl"  # type: ignore[assignment]  # of a network made in Python it may be an object

    def to_json(self) -> str:
        """What :meth:`from_json` reads."""
        return json.dumps({**self.to_dict(), "rule": rules.spec(rules.get(self.rule))})

    @staticmethod
    def from_json(text: str) -> "Architecture":
        """An architecture from its JSON; that of version 0.1.0 calls the network its notation.

        Raises:
            UserError: an unknown setting. Other damage leads to whatever Python raises.
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


_autumn: dict[str, Any] = {"rule": "tssl-paper", "conv_init": "kaiming"}
_image: dict[str, Any] = {"time_steps": 5, "tau_m": 5, "tau_s": 2, **_autumn}
_grey: dict[str, Any] = {**_image, "input_shape": (1, 28, 28)}
_cifar: dict[str, Any] = {**_image, "input_shape": (3, 32, 32), "padding": (1,), "dropout": 0.2}
_nmnist: dict[str, Any] = {"input_shape": (2, 34, 34), "time_steps": 30, "tau_m": 8, "tau_s": 4, "padding": (1, 0)}

PAPER: dict[str, Architecture] = {
    "mnist-cnn": Architecture(network="15C5-P2-40C5-P2-300-10", **_grey),
    "nmnist-cnn": Architecture(network="12C5-P2-64C5-P2-10", **_nmnist, **_autumn),
    "fashion-mnist-fc": Architecture(network="400-400-10", **_grey),
    "fashion-mnist-cnn": Architecture(network="32C5-P2-64C5-P2-1024-10", padding=(2,), **{**_grey, "tau_m": 4}),
    "cifar10-cnn1": Architecture(network="96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024-10", **_cifar),
    "cifar10-cnn2": Architecture(network="128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512-10", **_cifar),
}
"""The networks of the paper's six experiments with the constants of 1 October 2020, the code behind its table."""

_december: dict[str, Any] = {"rule": "tssl", "conv_init": "uniform", "tau_m": 5, "tau_s": 3}

PAPER |= {
    **{f"{name}-head": replace(PAPER[name], **_december) for name in ("mnist-cnn", "fashion-mnist-fc", "fashion-mnist-cnn")},
    "nmnist-cnn-head": replace(PAPER["nmnist-cnn"], **{**_december, "tau_m": 8, "tau_s": 4}),
    **{f"{name}-head": replace(PAPER[name], **_december, conv_scale=5.0) for name in ("cifar10-cnn1", "cifar10-cnn2")},
}
"""The same with the constants of the last version of the published code, December 2020: ``NAME-head``."""


def make_layers(a: Architecture, neuron: LIF) -> Iterator[tuple[str, nn.Module]]:
    """Named layers of an architecture. Raises UserError for specs that do not fit its shapes or its kind of neuron."""
    specs, shape = parse(a.network), a.input_shape
    convolutions = sum(isinstance(spec, ConvSpec) for spec in specs)
    given = a.padding if isinstance(a.padding, tuple) else ()
    paddings = given * convolutions if len(given) == 1 else given
    if len(paddings) != convolutions or any(type(p) is not int or p < 0 for p in (*given, *paddings)):
        raise UserError(f"padding {a.padding} must be one number >= 0, or one for each of the {convolutions} convolutions")
    if not isinstance(shape, tuple) or len(shape) not in (1, 3) or any(size < 1 for size in shape):
        raise UserError(f"input_shape {shape} must be (channels, height, width) or (features,)")

    weighted, pooled = 0, 0
    spiking: dict[str, Any] = {"neuron": neuron, "rule": rules.get(a.rule)}
    output = len(specs) - 1 - isinstance(specs[-1], VoteSpec)
    for position, spec in enumerate(specs):
        where = f"layer {position + 1} ({str(spec)!r}) of {a.network!r}"
        if isinstance(spec, ConvSpec | PoolSpec) and len(shape) != 3:
            raise UserError(f"{where} needs a [channels, height, width] input; here it is flat, {list(shape)}")
        if isinstance(spec, LinearSpec | RecurrentSpec) and len(shape) == 3:
            yield "flatten", Flatten()
            shape = (math.prod(shape),)
        if isinstance(spec, ConvSpec | LinearSpec | RecurrentSpec):
            if weighted and a.dropout:
                yield f"dropout{weighted}", Dropout(a.dropout, weighted)
            weighted += 1
        match spec:
            case ConvSpec(channels, kernel_size):
                padding = paddings[weighted - 1]
                height, width = (size + 2 * padding - kernel_size + 1 for size in shape[1:])
                if min(height, width) < 1:
                    raise UserError(f"{where} is larger than its {shape[1]}×{shape[2]} input with padding {padding}")
                drawn: dict[str, Any] = {"init": a.conv_init, "scale": a.conv_scale, "standardise": a.standardise}
                yield f"conv{weighted}", Conv2d(shape[0], channels, kernel_size, padding=padding, **drawn, **spiking)
                shape = (channels, height, width)
            case PoolSpec(size):
                if size > min(shape[1:]):
                    raise UserError(f"{where} pools {size}×{size} of a {shape[1]}×{shape[2]} input")
                pooled += 1
                yield f"pool{pooled}", SumPool2d(size)
                shape = (shape[0], shape[1] // size, shape[2] // size)
            case LinearSpec(features):
                name = "output" if position == output else f"linear{weighted}"
                yield name, Linear(shape[0], features, standardise=a.standardise and name != "output", **spiking)
                shape = (features,)
            case RecurrentSpec(features):
                name = f"recurrent{weighted}"
                if a.neuron != "spiking":
                    what = f"a network of {a.neuron} units is one pass without time"
                    raise UserError(f"layer {name!r} needs spiking neurons; {what}")
                adaptation = Adaptation(a.tau_a, a.beta) if isinstance(spec, AdaptiveSpec) else None
                yield name, Recurrent(shape[0], features, adaptation=adaptation, **spiking)
                shape = (features,)
            case VoteSpec(voters) if voters > 1:
                yield "vote", Vote(voters)
