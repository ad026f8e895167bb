"""The field's notation for networks: ``15C5-P2-40C5-P2-300-10``.

``nCk`` is a spiking convolution with n channels and a k×k kernel, ``Pk`` sum pooling over k×k, a number a fully connected
spiking layer; the last number is the output layer, one neuron per class. ``nR`` is a fully connected layer whose n neurons are
recurrently connected as well, ``nA`` such a layer with adaptive thresholds: ``100R-10``. After the output layer ``Vk`` makes k
neurons vote for each class: ``100-V10`` has ten.

:func:`parse` reads that text into specs, and nothing else reads it. :func:`make_layers` builds layers from them.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from tsslbp.errors import LARGEST, UserError, shown


@dataclass(frozen=True)
class Spec:
    """A layer as the notation has it: sizes, and how they are written."""

    written: ClassVar[str]

    def __str__(self) -> str:
        return self.written.format(**vars(self))


@dataclass(frozen=True)
class ConvSpec(Spec):
    """A spiking convolution."""

    written = "{channels}C{kernel_size}"
    channels: int
    kernel_size: int


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
        raise UserError(
            f"network {notation!r} must end with the number of output neurons, such as 10, or with that and a vote: 100-V10"
        )
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
                f"network {notation!r} ends with {tokens[-1]} neurons, which do not divide into classes of {vote.voters} each"
            )
        specs.append(vote)
    return tuple(specs)


def _read(token: str) -> Spec | None:
    for kind in SPECS:
        if match := re.fullmatch(re.sub(r"{\w+}", "0*([1-9][0-9]*)", kind.written), token):
            sizes = [int(size[:11]) for size in match.groups()]  # Python reads no number of thousands of digits
            if max(sizes) > LARGEST:
                raise UserError(f"a size in layer {shown(token)} is too large; it must be at most {LARGEST}")
            return kind(*sizes)
    return None


def contains(notation: str | None, kind: type[Spec]) -> bool:
    """Whether a network has a layer of a kind; None, one yet to be chosen, has none. Raises UserError as :func:`parse`."""
    return notation is not None and any(isinstance(spec, kind) for spec in parse(notation))


def classes(notation: str) -> int:
    """How many classes a network tells apart. Raises UserError as :func:`parse`."""
    *_, output = (spec.features for spec in parse(notation) if isinstance(spec, LinearSpec))
    return output // voters(notation)


def voters(notation: str) -> int:
    """How many neurons vote for each class, 1 without a vote. Raises UserError as :func:`parse`."""
    last = parse(notation)[-1]
    return last.voters if isinstance(last, VoteSpec) else 1
