"""The field's notation for networks: ``15C5-P2-40C5-P2-300-10``.

``nCk`` is a spiking convolution with n channels and a kernel of size k. ``Pk`` is sum pooling over windows of size k, ``Ak``
average pooling and ``Mk`` max pooling. A number is a fully connected spiking layer; the last number is the output layer, one
neuron per class. ``nR`` is a fully connected layer with recurrent connections, ``nA`` such a layer with adaptive thresholds:
``100R-10``. After the output layer ``Vk`` makes k neurons vote for each class: ``100-V10`` has ten classes.

Suffixes of a layer with neurons: ``s2`` is a convolution's stride, ``d2`` its dilation, ``g4`` its groups of channels, in this
order; ``b`` is a bias, ``n`` normalisation over batch and time. ``[64C3s2n-64C3n]`` is a residual block.

Only :func:`parse` reads this text. :func:`make_layers` builds layers from the specs it returns.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import ClassVar, Literal

from tsslbp.utils.errors import LARGEST, UserError, shown

Suffix = Literal["", "b", "n"]
"""What a layer has beside its weights: nothing, a bias, normalisation."""


@dataclass(frozen=True)
class Spec:
    """A layer of the notation: sizes, and how they are written."""

    written: ClassVar[str]

    def __str__(self) -> str:
        return self.written.format(**vars(self))


@dataclass(frozen=True)
class NeuronSpec(Spec):
    """A layer with neurons."""

    suffix: Suffix = field(default="", kw_only=True)


@dataclass(frozen=True)
class ConvSpec(NeuronSpec):
    """A spiking convolution."""

    written = "{channels}C{kernel_size}s{stride}d{dilation}g{groups}{suffix}"
    channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __str__(self) -> str:
        return re.sub("[sdg]1(?![0-9])", "", super().__str__())  # 1 is the default of these


@dataclass(frozen=True)
class PoolSpec(Spec):
    """Sum pooling."""

    written = "P{size}"
    size: int


@dataclass(frozen=True)
class AvgPoolSpec(PoolSpec):
    """Average pooling."""

    written = "A{size}"


@dataclass(frozen=True)
class MaxPoolSpec(PoolSpec):
    """Max pooling of spikes."""

    written = "M{size}"


@dataclass(frozen=True)
class LinearSpec(NeuronSpec):
    """A fully connected spiking layer."""

    written = "{features}{suffix}"
    features: int


@dataclass(frozen=True)
class RecurrentSpec(NeuronSpec):
    """A fully connected spiking layer with lateral connections."""

    written = "{features}R{suffix}"
    features: int


@dataclass(frozen=True)
class AdaptiveSpec(RecurrentSpec):
    """A recurrent layer whose neurons have adaptive thresholds."""

    written = "{features}A{suffix}"


@dataclass(frozen=True)
class VoteSpec(Spec):
    """Neurons that vote for each class; comes last."""

    written = "V{voters}"
    voters: int


@dataclass(frozen=True)
class ResidualSpec(Spec):
    """A residual block; the last of its layers has neurons."""

    layers: tuple[Spec, ...]

    def __str__(self) -> str:
        return f"[{written(self.layers)}]"


LONGEST = 10_000
"""Characters of a notation."""
SPECS = (ConvSpec, PoolSpec, AvgPoolSpec, MaxPoolSpec, LinearSpec, RecurrentSpec, AdaptiveSpec, VoteSpec)


def written(specs: tuple[Spec, ...]) -> str:
    """The notation of some layers; :func:`parse` reads it."""
    return "-".join(map(str, specs))


@lru_cache
def parse(notation: str) -> tuple[Spec, ...]:
    """The layers of a network, the output layer last or before its vote. :func:`written` writes them again.

    Raises:
        UserError: an unknown layer, a size that is too large, no output layer, one whose neurons do not divide into classes, a
            notation that is too long.
    """
    if len(notation) > LONGEST:
        raise UserError(f"network {shown(notation)!r} has {len(notation):,} characters; it must have at most {LONGEST:,}")
    tokens = re.findall(r"((?:\[[^\[\]]*\]|[^-])*)-", notation + "-")  # split at dashes outside brackets
    vote = _read(tokens[-1])
    if isinstance(vote, VoteSpec):
        tokens.pop()
    if not tokens or not re.fullmatch("[0-9]+[bn]?", tokens[-1]):
        raise UserError(
            f"network {notation!r} must end with the number of output neurons, such as 10, or with that and a vote: 100-V10; "
            "layers are joined by - without blanks"
        )
    if re.search(r"\[[^\]]*\[", notation):
        raise UserError(f"network {notation!r} has a residual block inside another; blocks follow one another: [8-8]-[8-8]-10")
    specs = tuple(_layer(token, n, notation) for n, token in enumerate(tokens, 1))
    if not isinstance(vote, VoteSpec):
        return specs
    output = specs[-1]
    assert isinstance(output, LinearSpec)
    if output.features % vote.voters:
        raise UserError(
            f"network {notation!r} ends with {output.features} neurons, which do not divide into classes of {vote.voters} each"
        )
    return (*specs, vote)


def _layer(token: str, number: int, notation: str, block: str = "") -> Spec:
    """A layer, one of a block, or a block. Raises UserError for anything else."""
    if token.startswith("[") and token.endswith("]") and not block:
        inner = tuple(_layer(part, number, notation, token) for part in token[1:-1].split("-"))
        if not isinstance(inner[-1], NeuronSpec):
            where = _where(token, number, notation, block)
            raise UserError(f"{where} must end with a layer that has neurons, such as 64C3 or 300")
        return ResidualSpec(inner)
    spec = _read(token)
    if spec is None or isinstance(spec, VoteSpec):
        raise UserError(
            f"{_where(token, number, notation, block)} is not a layer; write 15C5 (convolution), P2, A2 or M2 (sum, average or "
            "max pooling), 300 (fully connected), 100R (recurrent) or 100A (with adaptive thresholds), sizes from 1; behind "
            "these s2, d2, g4 (stride, dilation, groups of a convolution, in this order), then b (bias) or n (normalised); "
            "[64C3-64C3] is a residual block; layers are joined by - without blanks"
        )
    return spec


def _where(token: str, number: int, notation: str, block: str) -> str:
    """The place of a layer, for an error."""
    outer = f"layer {number} ({block or token!r}) of {notation!r}"
    return f"{token!r} in {outer}" if block else outer


def _read(token: str) -> Spec | None:
    for kind in SPECS:
        pattern = re.sub(r"([sdg]){\w+}", r"(?:\g<1>0*([1-9][0-9]*))?", kind.written).replace("{suffix}", "([bn]?)")
        if match := re.fullmatch(re.sub(r"{\w+}", "0*([1-9][0-9]*)", pattern), token):
            found = dict(zip(re.findall(r"{(\w+)}", kind.written), match.groups(), strict=True))
            suffix = {"suffix": found.pop("suffix")} if "suffix" in found else {}
            # Python cannot read a number of thousands of digits
            sizes = {name: int(size[:11]) for name, size in found.items() if size is not None}
            if max(sizes.values()) > LARGEST:
                raise UserError(f"a size in layer {shown(token)} is too large; it must be at most {LARGEST}")
            return kind(**sizes, **suffix)  # type: ignore[arg-type]
    return None


def unpacked(specs: tuple[Spec, ...]) -> Iterator[Spec]:
    """Every layer in order, including those of residual blocks."""
    for spec in specs:
        yield from unpacked(spec.layers) if isinstance(spec, ResidualSpec) else (spec,)


def folded(specs: tuple[Spec, ...]) -> tuple[Spec, ...]:
    """The same layers with normalisation folded into weights and a bias."""
    return tuple(map(_folded, specs))


def _folded(spec: Spec) -> Spec:
    if isinstance(spec, ResidualSpec):
        return ResidualSpec(folded(spec.layers))
    return replace(spec, suffix="b") if isinstance(spec, NeuronSpec) and spec.suffix == "n" else spec


def normalised(notation: str, kind: type[NeuronSpec] = NeuronSpec) -> bool:
    """Whether any layer of a kind is normalised; by default any layer. Raises UserError as :func:`parse`."""
    return any(isinstance(spec, kind) and spec.suffix == "n" for spec in unpacked(parse(notation)))


def contains(notation: str | None, kind: type[Spec]) -> bool:
    """Whether a network has a layer of a kind; None (not chosen yet) has none. Raises UserError as :func:`parse`."""
    return notation is not None and any(isinstance(spec, kind) for spec in unpacked(parse(notation)))


def has_hidden(notation: str) -> bool:
    """Whether a network has neurons before its output layer. Raises UserError as :func:`parse`."""
    return sum(isinstance(spec, NeuronSpec) for spec in unpacked(parse(notation))) > 1


def classes(notation: str) -> int:
    """How many classes a network tells apart. Raises UserError as :func:`parse`."""
    *_, output = (spec.features for spec in parse(notation) if isinstance(spec, LinearSpec))
    return output // voters(notation)


def voters(notation: str) -> int:
    """How many neurons vote for each class, 1 without a vote. Raises UserError as :func:`parse`."""
    last = parse(notation)[-1]
    return last.voters if isinstance(last, VoteSpec) else 1
