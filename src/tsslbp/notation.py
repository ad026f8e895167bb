"""The field's notation for networks: ``15C5-P2-40C5-P2-300-10``.

``nCk`` is a spiking convolution with n channels and a k×k kernel, ``Pk`` sum pooling over k×k, a number a fully connected
spiking layer; the last number is the output layer, one neuron per class. ``nR`` is a fully connected layer whose n neurons are
recurrently connected as well, ``nA`` such a layer with adaptive thresholds: ``100R-10``. After the output layer ``Vk`` makes k
neurons vote for each class: ``100-V10`` has ten.

:func:`parse` reads that text into specs, and nothing else reads it. :func:`make_layers` builds layers from them.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from torch import nn

from tsslbp import ann, rules
from tsslbp.errors import LARGEST, UserError
from tsslbp.layers import Conv2d, ConvInit, Dropout, Flatten, Linear, SumPool2d, Vote
from tsslbp.neuron import LIF
from tsslbp.recurrent import Adaptation, Recurrent
from tsslbp.rules.base import Rule


@dataclass(frozen=True)
class Spec:
    """A layer as the notation has it: sizes, and how they are written."""

    written: ClassVar[str]

    def __str__(self) -> str:
        return self.written.format(**vars(self))


@dataclass(frozen=True)
class ConvSpec(Spec):
    """A spiking convolution."""

    written = "{channels}C{kernel}"
    channels: int
    kernel: int


@dataclass(frozen=True)
class PoolSpec(Spec):
    """Sum pooling."""

    written = "P{size}"
    size: int


@dataclass(frozen=True)
class LinearSpec(Spec):
    """A fully connected spiking layer."""

    written = "{features}"
    features: int


@dataclass(frozen=True)
class RecurrentSpec(Spec):
    """A fully connected spiking layer with lateral connections."""

    written = "{features}R"
    features: int


@dataclass(frozen=True)
class AdaptiveSpec(RecurrentSpec):
    """A recurrent layer whose neurons have adaptive thresholds."""

    written = "{features}A"


@dataclass(frozen=True)
class VoteSpec(Spec):
    """Output neurons that vote for each class; comes last."""

    written = "V{voters}"
    voters: int


SPECS = (ConvSpec, PoolSpec, LinearSpec, RecurrentSpec, AdaptiveSpec, VoteSpec)


@lru_cache
def parse(notation: str) -> tuple[Spec, ...]:
    """The layers of a network, the output layer last or before its vote. ``"-".join(map(str, specs))`` writes them again.

    Raises:
        UserError: what is no layer, a size beyond all measure, no output layer, one whose neurons do not make classes.
    """
    tokens = notation.split("-")
    vote = _read(tokens[-1])
    if isinstance(vote, VoteSpec):
        tokens.pop()
    if not tokens or not tokens[-1].isdecimal():
        raise UserError(f"network {notation!r} must end with a number, the output layer, or that and its vote: 100-V10")
    specs: list[Spec] = []
    for position, token in enumerate(tokens, 1):
        spec = _read(token)
        if spec is None or isinstance(spec, VoteSpec):
            raise UserError(
                f"layer {position} ({token!r}) of {notation!r} is not a layer; write 15C5 (convolution), P2 (pooling), "
                "300 (fully connected), 100R (recurrent) or 100A (with adaptive thresholds), sizes from 1"
            )
        specs.append(spec)
    if isinstance(vote, VoteSpec):
        if int(tokens[-1]) % vote.voters:
            raise UserError(
                f"network {notation!r} ends with {tokens[-1]} neurons, which do not make classes of {vote.voters} each"
            )
        specs.append(vote)
    return tuple(specs)


def _read(token: str) -> Spec | None:
    for kind in SPECS:
        if match := re.fullmatch(re.sub(r"{\w+}", "0*([1-9][0-9]*)", kind.written), token):
            sizes = [int(size[:11]) for size in match.groups()]  # Python reads no number of thousands of digits
            if max(sizes) > LARGEST:
                raise UserError(f"the size of a layer must be at most {LARGEST}")
            return kind(*sizes)
    return None


def contains(notation: str, kind: type[Spec]) -> bool:
    """Whether a network has a layer of a kind. Raises UserError as :func:`parse`."""
    return any(isinstance(spec, kind) for spec in parse(notation))


def classes(notation: str) -> int:
    """How many classes a network tells apart. Raises UserError as :func:`parse`."""
    *_, output = (spec.features for spec in parse(notation) if isinstance(spec, LinearSpec))
    return output // voters(notation)


def voters(notation: str) -> int:
    """How many neurons vote for each class, 1 without a vote. Raises UserError as :func:`parse`."""
    last = parse(notation)[-1]
    return last.voters if isinstance(last, VoteSpec) else 1


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


def make_layers(a: Architecture, neuron: LIF) -> Iterator[tuple[str, nn.Module]]:
    """Named layers of an architecture. Raises UserError for specs that do not fit its shapes or its kind of neuron."""
    specs, shape = parse(a.notation), a.input_shape
    convolutions = sum(isinstance(spec, ConvSpec) for spec in specs)
    paddings = list(a.padding) if isinstance(a.padding, (tuple, list)) else [a.padding] * convolutions
    if len(paddings) != convolutions or any(not isinstance(p, int) or p < 0 for p in paddings):
        raise UserError(f"padding {a.padding} must be one number >= 0, or one for each of the {convolutions} convolutions")
    if not isinstance(shape, tuple) or len(shape) not in (1, 3) or any(size < 1 for size in shape):
        raise UserError(f"input_shape {shape} must be (channels, height, width) or (features,)")

    weighted, pooled = 0, 0
    spiking: dict[str, Any] = {"neuron": neuron, "rule": rules.get(a.rule)}
    output = len(specs) - 1 - isinstance(specs[-1], VoteSpec)
    for position, spec in enumerate(specs):
        where = f"layer {position + 1} ({str(spec)!r}) of {a.notation!r}"
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
            case ConvSpec(channels, kernel):
                padding = paddings[weighted - 1]
                height, width = (size + 2 * padding - kernel + 1 for size in shape[1:])
                if min(height, width) < 1:
                    raise UserError(f"{where} is larger than its {shape[1]}×{shape[2]} input with padding {padding}")
                drawn: dict[str, Any] = {"init": a.conv_init, "scale": a.conv_scale, "standardise": a.standardise}
                yield f"conv{weighted}", Conv2d(shape[0], channels, kernel, padding=padding, **drawn, **spiking)
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
