"""The field's notation for networks: ``15C5-P2-40C5-P2-300-10``.

``nCk`` is a spiking convolution with n channels and a k×k kernel, ``Pk`` sum pooling over k×k, a number a fully connected
spiking layer; the last number is the output layer, one neuron per class. ``nR`` is a fully connected layer whose n neurons are
recurrently connected as well, ``nA`` such a layer with adaptive thresholds: ``100R-10``. After the output layer ``Vk`` makes k
neurons vote for each class: ``100-V10`` has ten.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from tsslbp import ann, rules
from tsslbp.errors import UserError
from tsslbp.layers import Conv2d, ConvInit, Dropout, Flatten, Linear, SumPool2d, Vote
from tsslbp.neuron import LIF
from tsslbp.recurrent import Adaptation, Recurrent
from tsslbp.rules.base import Rule


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that determines a network but its weights. Arguments: see :func:`tsslbp.build`."""

    notation: str
    input_shape: tuple[int, ...]
    time_steps: int
    tau_m: float
    tau_s: float
    threshold: float = 1.0
    reset: bool = True
    padding: int | tuple[int, ...] = 0
    rule: str | Rule | None = "tssl"
    dropout: float = 0.0
    conv_init: ConvInit = "uniform"
    conv_scale: float = 1.0
    standardise: bool = False
    tau_a: float = 100.0
    beta: float = 0.1
    neuron: ann.Neuron = "spiking"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "rule": rules.spec(rules.get(self.rule))})

    @staticmethod
    def from_json(text: str) -> "Architecture":
        fields: dict[str, Any] = json.loads(text)
        fields["input_shape"] = tuple(fields["input_shape"])
        if isinstance(fields["padding"], list):
            fields["padding"] = tuple(fields["padding"])
        return Architecture(**fields)


_autumn: dict[str, Any] = {"rule": "tssl-paper", "conv_init": "kaiming"}
_image: dict[str, Any] = {"time_steps": 5, "tau_m": 5, "tau_s": 2, **_autumn}
_grey: dict[str, Any] = {**_image, "input_shape": (1, 28, 28)}
_cifar: dict[str, Any] = {**_image, "input_shape": (3, 32, 32), "padding": 1, "dropout": 0.2}
_nmnist: dict[str, Any] = {"input_shape": (2, 34, 34), "time_steps": 30, "tau_m": 8, "tau_s": 4, "padding": (1, 0)}

PAPER: dict[str, Architecture] = {
    "mnist-cnn": Architecture(notation="15C5-P2-40C5-P2-300-10", **_grey),
    "nmnist-cnn": Architecture(notation="12C5-P2-64C5-P2-10", **_nmnist, **_autumn),
    "fashion-mnist-fc": Architecture(notation="400-400-10", **_grey),
    "fashion-mnist-cnn": Architecture(notation="32C5-P2-64C5-P2-1024-10", padding=2, **{**_grey, "tau_m": 4}),
    "cifar10-cnn1": Architecture(notation="96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024-10", **_cifar),
    "cifar10-cnn2": Architecture(notation="128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512-10", **_cifar),
}
"""The networks of the paper's six experiments with the constants of 1 October 2020, the code behind its table."""

_december: dict[str, Any] = {"rule": "tssl", "conv_init": "uniform", "tau_m": 5, "tau_s": 3}

PAPER |= {
    **{f"{name}-head": replace(PAPER[name], **_december) for name in ("mnist-cnn", "fashion-mnist-fc", "fashion-mnist-cnn")},
    "nmnist-cnn-head": replace(PAPER["nmnist-cnn"], **{**_december, "tau_m": 8, "tau_s": 4}),
    **{f"{name}-head": replace(PAPER[name], **_december, conv_scale=5.0) for name in ("cifar10-cnn1", "cifar10-cnn2")},
}
"""The same with the constants of the last version of the published code, December 2020: ``NAME-head``."""


def classes(notation: str) -> int:
    """How many classes a network tells apart, 0 if its notation does not say."""
    tokens, voters = _without_vote(notation)
    return int(tokens[-1]) // voters if tokens and tokens[-1].isdecimal() else 0


def _without_vote(notation: str) -> tuple[list[str], int]:
    """A notation's layers, and how many output neurons vote for each class."""
    *tokens, last = notation.split("-")
    vote = re.fullmatch(r"V([1-9]\d*)", last)
    return (tokens, int(vote[1])) if vote else ([*tokens, last], 1)


def make_layers(a: Architecture, neuron: LIF) -> Iterator[tuple[str, nn.Module]]:
    """Named layers of an architecture; all checks of notation against shapes are here."""
    tokens, voters = _without_vote(a.notation)
    convolutions = sum("C" in token for token in tokens)
    paddings = list(a.padding) if isinstance(a.padding, (tuple, list)) else [a.padding] * convolutions
    if len(paddings) != convolutions or any(not isinstance(p, int) or p < 0 for p in paddings):
        raise UserError(f"padding {a.padding} must be one number >= 0, or one for each of the {convolutions} convolutions")
    if not isinstance(a.input_shape, tuple) or len(a.input_shape) not in (1, 3) or any(size < 1 for size in a.input_shape):
        raise UserError(f"input_shape {a.input_shape} must be (channels, height, width) or (features,)")
    if not tokens or not tokens[-1].isdecimal():
        raise UserError(f"network {a.notation!r} must end with a number, the output layer, or that and its vote: 100-V10")
    if int(tokens[-1]) % voters:
        raise UserError(f"network {a.notation!r} ends with {tokens[-1]} neurons, which do not make classes of {voters} each")

    shape, weighted, pooled, rule = tuple(a.input_shape), 0, 0, rules.get(a.rule)
    for position, token in enumerate(tokens, 1):
        match = re.fullmatch(r"(?P<channels>\d+)C(?P<kernel>\d+)|P(?P<pool>\d+)|(?P<features>\d+)(?P<lateral>[RA]?)", token)
        where = f"layer {position} ({token!r}) of {a.notation!r}"
        if not match or 0 in (sizes := [int(size) for size in match.groups() if size and size.isdecimal()]):
            raise UserError(
                f"{where} is not a layer; write 15C5 (convolution), P2 (pooling), 300 (fully connected), 100R (recurrent) "
                "or 100A (with adaptive thresholds), sizes from 1"
            )
        if match["features"] is None and len(shape) != 3:
            raise UserError(f"{where} needs a [channels, height, width] input; here it is flat, {list(shape)}")

        if match["pool"]:
            (size,) = sizes
            if size > min(shape[1:]):
                raise UserError(f"{where} pools {size}×{size} of a {shape[1]}×{shape[2]} input")
            pooled += 1
            yield f"pool{pooled}", SumPool2d(size)
            shape = (shape[0], shape[1] // size, shape[2] // size)
            continue

        if match["features"] and len(shape) == 3:
            yield "flatten", Flatten()
            shape = (shape[0] * shape[1] * shape[2],)
        if weighted and a.dropout:
            yield f"dropout{weighted}", Dropout(a.dropout)
        weighted += 1
        if match["features"]:
            (features,) = sizes
            name = "output" if position == len(tokens) else f"linear{weighted}"
            if match["lateral"]:
                adaptation = Adaptation(a.tau_a, a.beta) if match["lateral"] == "A" else None
                name = f"recurrent{weighted}"
                yield name, Recurrent(shape[0], features, neuron=neuron, rule=rule, adaptation=adaptation)
            else:
                standardise = a.standardise and name != "output"
                yield name, Linear(shape[0], features, neuron=neuron, rule=rule, standardise=standardise)
            shape = (features,)
        else:
            channels, kernel = sizes
            padding = paddings[weighted - 1]
            height, width = (size + 2 * padding - kernel + 1 for size in shape[1:])
            if min(height, width) < 1:
                raise UserError(f"{where} is larger than its {shape[1]}×{shape[2]} input with padding {padding}")
            of_network: dict[str, Any] = {"neuron": neuron, "rule": rule, "standardise": a.standardise}
            first: dict[str, Any] = {"init": a.conv_init, "scale": a.conv_scale}
            yield f"conv{weighted}", Conv2d(shape[0], channels, kernel, padding=padding, **of_network, **first)
            shape = (channels, height, width)
    if voters > 1:
        yield "vote", Vote(voters)
