"""A network as a program: its stages, each a linear map and then units, as one small immutable description.

    modules  ── lower() ──►  Program  ──►  training (train.py), inference (infer.py), the table that a network prints

A program holds no numbers of weights. It names them by :class:`Ref`, so that training reads them anew in each step.
``lower.py`` makes programs. What an executor cannot compute is in one table, :data:`CASES`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any, Literal

from torch import Tensor, nn

from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError

Shape = tuple[int, ...]
"""Of a signal for one sample and step: features, or channels and then pixels along one axis or two."""
INPUT = -1
"""Number of the network's input, in place of a stage."""


@dataclass(frozen=True)
class Ref:
    """A tensor of the network by name, such as ``layers.conv1.weight``."""

    path: str
    shape: Shape

    def __call__(self, net: nn.Module) -> Tensor:
        """The tensor that the network has now."""
        found: Tensor = attrgetter(self.path)(net)
        return found


Constant = float | Ref
"""A constant of neurons: a number, or a tensor of one number or of one for each neuron or channel."""


@dataclass(frozen=True)
class Op:
    """What happens to a signal on its way to a map: pooling over windows of ``size`` pixels along each axis, or a change of
    form.

    Sums are multiplied by ``factor``. Max pooling makes one spike of those of a window. Dropout has the probability ``factor``.
    """

    kind: Literal["sum", "max", "flatten", "dropout"]
    name: str
    """Of the layer."""
    shape: Shape
    """After it."""
    size: int = 1
    factor: float = 1.0


@dataclass(frozen=True)
class Map:
    """A linear map from a stage, or from the input, to the units of another stage."""

    source: int
    """Number of the stage whose output it takes, or INPUT."""
    ops: tuple[Op, ...]
    """Between the source and the map, in order."""
    entering: Shape
    """After these."""
    kind: Literal["dense", "convolution", "identity"]
    layer: str = ""
    """Path of the module that has the weight."""
    weight: Ref | None = None
    """``[out, in]`` or ``[out, in/groups, k, ...]``; None for the identity."""
    bias: Ref | None = None
    normalised: bool = False
    """Whether normalisation follows, in place of a bias."""
    standardised: bool = False
    bits: str = "float"
    """Bits of the weight."""
    stride: Shape = ()
    padding: Shape = ()
    dilation: Shape = ()
    groups: int = 1

    def pooled(self, kind: str) -> int:
        """Windows of all pooling of a kind in front of it, along each axis."""
        return math.prod(op.size for op in self.ops if op.kind == kind)

    @property
    def factor(self) -> float:
        """Factor of all sum pooling in front of it."""
        return math.prod(op.factor for op in self.ops if op.kind == "sum")


@dataclass(frozen=True)
class Unit:
    """What the current of a map drives, with constants in steps: neurons that spike, leaky integrators that are read from their
    voltage, units of an ANN, or nothing (an ANN's logits)."""

    kind: Literal["lif", "integrator", "relu", "binary", "none"]
    tau_m: Constant = 1.0
    tau_s: Constant = 1.0
    threshold: Constant = 1.0
    reset: bool = True
    adaptation: tuple[float, float] | None = None
    """τa and β of an adaptive threshold."""
    rule: Rule | None = None
    """How the gradient crosses the neurons."""

    @property
    def constants(self) -> dict[str, Constant]:
        return {"tau_m": self.tau_m, "tau_s": self.tau_s, "threshold": self.threshold}


@dataclass(frozen=True)
class Stage:
    """A map and its units. ``shortcut`` is the map of a residual block's input, added to the same current; ``lateral`` the
    weights ``[out, out]`` from the units' own output, one step later."""

    name: str
    shape: Shape
    map: Map
    unit: Unit
    shortcut: Map | None = None
    lateral: Ref | None = None

    @property
    def maps(self) -> tuple[Map, ...]:
        return (self.map,) if self.shortcut is None else (self.map, self.shortcut)

    @property
    def size(self) -> int:
        """How many units."""
        return math.prod(self.shape)

    @property
    def connections(self) -> int:
        """Weights that meet, counted once for every pair of neurons, padding included."""
        lateral = self.size**2 if self.lateral else 0
        return lateral + sum(self.size * math.prod(by.weight.shape[1:]) if by.weight else self.size for by in self.maps)


@dataclass(frozen=True)
class Program:
    """A network. Its input goes through a synapse of ``tau_s``; ``voters`` units of the last stage speak for each class."""

    input_shape: Shape
    time_steps: int
    tau_s: float
    stages: tuple[Stage, ...]
    voters: int = 1
    bits: str = "float"
    """Bits of the weights; with few of them, input is rounded, too."""

    @property
    def classes(self) -> int:
        return self.stages[-1].size // self.voters

    def shape_of(self, source: int) -> Shape:
        """Output shape of a stage, or of the input."""
        return self.input_shape if source == INPUT else self.stages[source].shape

    def __str__(self) -> str:
        """A table: stage, output shape, parameters, connections, unit, and bytes of float32 state for a sample."""
        rows: list[tuple[str, ...]] = [("stage", "shape", "parameters", "connections", "unit", "memory")]
        rows.append(("input", _times(self.input_shape), "", "", "", _bytes(math.prod(self.input_shape))))
        for stage in self.stages:
            for by in stage.maps:
                rows += [(f"  {op.name}", _times(op.shape), "", "", op.kind, "") for op in by.ops if by is stage.map]
            held = _bytes((2 + (stage.unit.adaptation is not None)) * stage.size)
            rows.append(
                (stage.name, _times(stage.shape), f"{_parameters(stage):,}", f"{stage.connections:,}", _unit(stage.unit), held)
            )
        total = (sum(map(_parameters, self.stages)), sum(stage.connections for stage in self.stages))
        rows.append(("total", f"{self.classes} classes", *(f"{n:,}" for n in total), f"T = {self.time_steps}", ""))
        return aligned(rows)


def _parameters(stage: Stage) -> int:
    refs = [ref for by in stage.maps for ref in (by.weight, by.bias)] + [stage.lateral]
    refs += [value for value in stage.unit.constants.values() if isinstance(value, Ref)]
    extra = sum(stage.shape[0] * (2 * by.normalised + by.standardised + (by.bits != "float")) for by in stage.maps)
    return extra + sum(math.prod(ref.shape) for ref in refs if ref is not None)


def _times(shape: Shape) -> str:
    return "×".join(map(str, shape))


def _bytes(numbers: int) -> str:
    return f"{4 * numbers:,} B" if numbers < 256 else f"{4 * numbers / 1024:,.1f} KiB"


def _unit(unit: Unit) -> str:
    used = {"lif": ("tau_m", "tau_s", "threshold"), "integrator": ("tau_m",), "binary": ("threshold",)}.get(unit.kind, ())
    each = (f"{name}={'learned or varied' if isinstance(x := unit.constants[name], Ref) else f'{x:g}'}" for name in used)
    return " ".join([unit.kind, *each, *(["adaptive"] if unit.adaptation else [])])


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Rows of texts in columns; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [any(cell[:1].isdigit() for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in rows
    )
    return "\n".join(lines)


def difference(found: Any, wanted: Any, where: str = "the network") -> str | None:
    """Where two programs, or parts of them, differ first, in a line; None if they are equal."""
    if type(found) is not type(wanted) or not (is_dataclass(found) or isinstance(found, tuple)):
        return None if found == wanted else f"{where} is {found}, where its notation says {wanted}"
    if isinstance(found, tuple):
        if len(found) != len(wanted):
            return (
                f"{where} has {len(found)} entries ({_names(found)}), where its notation says {len(wanted)} ({_names(wanted)})"
            )
        pairs = [(getattr(a, "name", where), a, b) for a, b in zip(found, wanted, strict=True)]
    else:
        inner = found.name if isinstance(found, Stage) else where
        pairs = [
            (f"{field.name} of {inner}", getattr(found, field.name), getattr(wanted, field.name)) for field in fields(found)
        ]
    return next((line for name, a, b in pairs if (line := difference(a, b, name))), None)


def _names(found: tuple[Any, ...]) -> str:
    return ", ".join(str(getattr(x, "name", x)) for x in found)


TRAINING, INFERENCE, NIR, ONNX, C = "training", "inference", "NIR", "ONNX", "C"
EXECUTORS = {
    TRAINING: "the whole network in one operation of autograd; other networks train layer by layer",
    INFERENCE: "event by event in one call; other networks run layer by layer",
    NIR: "graphs for other simulators and chips",
    ONNX: "graphs for ONNX Runtime",
    C: "C99, in float or in whole numbers",
}
"""Who computes programs, and how."""
CASES: dict[str, tuple[str, ...]] = {
    "a fully connected map": (TRAINING, INFERENCE, NIR, ONNX, C),
    "a convolution": (TRAINING, INFERENCE, NIR, ONNX, C),
    "dilation or groups": (INFERENCE, NIR, ONNX, C),
    "lateral weights": (TRAINING, INFERENCE, NIR, ONNX, C),
    "adaptive thresholds": (TRAINING, INFERENCE, ONNX, C),
    "a shortcut": (INFERENCE, NIR, ONNX, C),
    "sum or average pooling of images": (TRAINING, INFERENCE, NIR, ONNX, C),
    "sum or average pooling over one axis": (INFERENCE, ONNX, C),
    "max pooling": (INFERENCE, ONNX, C),
    "dropout": (TRAINING, INFERENCE, NIR, ONNX, C),
    "normalisation": (INFERENCE, NIR, ONNX, C),
    "standardised weights": (INFERENCE, NIR, ONNX, C),
    "weights of few bits": (INFERENCE, NIR, ONNX, C),
    "time constants that are learned or vary": (NIR, ONNX),
    "thresholds that are learned or vary": (NIR, ONNX, C),
    "neurons without a reset": (ONNX,),
    "an output that is read from its voltage": (NIR, ONNX),
    "units of an ANN": (ONNX,),
    "votes for a class": (TRAINING, INFERENCE, NIR, ONNX, C),
}
"""What a program may have, and who can compute it. Files hold folded weights, so normalisation costs them nothing."""


def cases(program: Program) -> Iterator[tuple[str, str]]:
    """What a program has, each with the name of a layer: keys of :data:`CASES`."""
    for stage in program.stages:
        for by in stage.maps:
            yield from ((op.name, _of_op(op)) for op in by.ops if op.kind != "flatten")
            yield from ((stage.name, case) for case, has in _of_map(by).items() if has)
        yield from ((stage.name, case) for case, has in _of_stage(stage).items() if has)
    if program.voters > 1:
        yield program.stages[-1].name, "votes for a class"


def _of_op(op: Op) -> str:
    if op.kind == "sum":
        return f"sum or average pooling {'of images' if len(op.shape) == 3 else 'over one axis'}"
    return "max pooling" if op.kind == "max" else "dropout"


def _of_map(by: Map) -> dict[str, bool]:
    return {
        "a fully connected map": by.kind == "dense",
        "a convolution": by.kind == "convolution",
        "dilation or groups": by.groups > 1 or any(d > 1 for d in by.dilation),
        "normalisation": by.normalised,
        "standardised weights": by.standardised,
        "weights of few bits": by.bits != "float",
    }


def _of_stage(stage: Stage) -> dict[str, bool]:
    unit = stage.unit
    return {
        "lateral weights": stage.lateral is not None,
        "adaptive thresholds": unit.adaptation is not None,
        "a shortcut": stage.shortcut is not None,
        "time constants that are learned or vary": isinstance(unit.tau_m, Ref) or isinstance(unit.tau_s, Ref),
        "thresholds that are learned or vary": isinstance(unit.threshold, Ref),
        "neurons without a reset": unit.kind == "lif" and not unit.reset,
        "an output that is read from its voltage": unit.kind == "integrator",
        "units of an ANN": unit.kind in ("relu", "binary", "none"),
    }


def require(program: Program, executor: str) -> None:
    """Raises UserError if an executor cannot compute a program; the line names the layer and what it has."""
    for name, case in cases(program):
        if executor not in CASES[case]:
            raise UserError(
                f"layer {name!r} has {case}, which {executor} does not have here; docs/how-to-own-network.md has a table"
            )


def markdown() -> str:
    """Who can compute what, as a table in Markdown."""
    lines = [f"| A network may have | {' | '.join(EXECUTORS)} |", f"|---|{'---|' * len(EXECUTORS)}"]
    lines += [f"| {case} | {' | '.join('yes' if name in who else '' for name in EXECUTORS)} |" for case, who in CASES.items()]
    return "\n".join(lines)
