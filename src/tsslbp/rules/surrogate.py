"""Surrogate gradients: backpropagation through time with a smooth stand-in for the derivative of the spike.

    δ[t] = ψ(u[t])·E[t] + δ[t+1]·(1 - 1/τm)·((1 - s[t]) - u[t]·ψ(u[t]))

with ``E`` the error carried back through the synapse and ψ the stand-in for ``∂s/∂u``. The last product is the path
through the reset; ``through_reset=False`` leaves it out (the reset is "detached"). For neurons without a reset the last
bracket is 1. Review: Neftci, Mostafa and Zenke, IEEE Signal Processing Magazine 36(6), 2019.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tsslbp.neuron import LIF, passed, synapse_adjoint
from tsslbp.rules.base import Rule, as_promised
from tsslbp.utils.errors import UserError, check_positive, check_truths, unknown

Derivative = Callable[[Tensor], Tensor]
"""ψ of the scaled distance from the threshold, of the same shape and type."""

# Each is f in ψ(u) = f(slope · (u - θ)), and the default slope. To add a shape, add an entry here and, for speed, a line to
# TSSLBP_SHAPES in csrc/numbers.h. A shape for which an engine has no formula runs on the reference. For a function by itself
# (slope 1), only the backward pass does.
DERIVATIVES: dict[str, tuple[Derivative, float] | Derivative] = {
    "fast_sigmoid": (lambda x: 1 / (1 + x.abs()) ** 2, 10.0),
    "sigmoid": (lambda x: 4 * torch.sigmoid(x) * torch.sigmoid(-x), 5.0),
    "atan": (lambda x: 1 / (1 + (math.pi / 2 * x) ** 2), 2.0),
    "triangular": (lambda x: (1 - x.abs()).clamp(min=0), 1.0),
    "rectangular": (lambda x: (x.abs() < 0.5).to(x.dtype), 1.0),
    "gaussian": (lambda x: torch.exp(-(x**2) / 2), 2.5),
    "exponential": (lambda x: torch.exp(-x.abs()), 5.0),
}


class SurrogateNumbers(NamedTuple):
    """Parameters of a :class:`Surrogate`."""

    shape: str
    slope: float
    scale: float
    through_reset: bool


_BUILT_IN = [entry[0] for entry in DERIVATIVES.values() if isinstance(entry, tuple)]


def _is_step(function: Derivative) -> bool:
    """Whether a function is 1 above the threshold and 0 below it, as the surrogates of other libraries, which hide ψ."""
    if function in _BUILT_IN or torch.compiler.is_compiling():
        return False
    try:
        return function(torch.tensor([-4, -1, -0.1, 0.1, 1, 4])).tolist() == [0, 0, 0, 1, 1, 1]
    except Exception:  # it is told in the backward pass
        return False


@dataclass(frozen=True)
class Surrogate(Rule):
    """A surrogate gradient.

    Args:
        name: shape of ψ, one of ``DERIVATIVES``, whose peak is ``scale``, reached at the threshold; or a function of your own,
            which gets ``slope · (u - θ)``, a tensor of any shape, and returns a finite ψ of the same shape and type. Its
            backward pass runs on the reference, and parameters inside it are not learned.
        slope: steepness, in 1/potential; the default depends on the shape, and is 1 for a function of your own.
        scale: factor on ψ; its height at the threshold for the shapes of ``DERIVATIVES``.
        through_reset: let the gradient flow through the reset too.

    Raises:
        UserError: an unknown shape, a function that returns spikes, or a slope or scale that is not a positive number; in the
            backward pass, a function that does not return such a ψ.
    """

    name: str | Derivative = "fast_sigmoid"
    slope: float | None = None
    scale: float = 1.0
    through_reset: bool = False

    summary: ClassVar[str] = "backpropagation through time with a smooth replacement for the spike's derivative"
    paper: ClassVar[str] = "Neftci, Mostafa & Zenke, IEEE Signal Process. Mag. 2019"
    cites: ClassVar[tuple[str, ...]] = ("neftci2019surrogate",)

    def __post_init__(self) -> None:
        if not callable(self.name) and self.name not in DERIVATIVES:
            raise unknown("surrogate", str(self.name), DERIVATIVES)
        check_positive("scale", self.scale)
        if self.slope is not None:
            check_positive("slope", self.slope)
        check_truths(through_reset=self.through_reset)
        if _is_step(self._function):
            which = "surrogate(name=fast_sigmoid, slope=25)"
            raise UserError(f"the function returns spikes, as in other libraries; give their derivative ψ, or a name: {which}")

    @property
    def numbers(self) -> SurrogateNumbers | None:
        entry = self._entry
        if callable(entry) or callable(self.name):
            return None
        return SurrogateNumbers(self.name, self.slope or entry[1], self.scale, self.through_reset)

    @property
    def _entry(self) -> tuple[Derivative, float] | Derivative:
        return self.name if callable(self.name) else DERIVATIVES[self.name]

    @property
    def _function(self) -> Derivative:
        entry = self._entry
        return entry if callable(entry) else entry[0]

    def code(self) -> tuple[object, ...]:
        return (*super().code(), self._function)

    def options(self) -> dict[str, Any]:
        """The rule's options that differ from their defaults; a function is given by its name in ``DERIVATIVES``.

        Raises:
            UserError: a function without a name there.
        """
        options = super().options()
        if callable(self.name):
            names = (name for name, entry in DERIVATIVES.items() if entry is self.name)
            options["name"] = next(names, None)
            if options["name"] is None:
                raise UserError(f"surrogate {_called(self.name)} has no name; add it to tsslbp.rules.surrogate.DERIVATIVES")
        return options

    def _psi(self, distance: Tensor) -> Tensor:
        entry = self._entry
        if not callable(entry):
            return entry[0]((self.slope or entry[1]) * distance)
        x = (self.slope or 1.0) * distance
        psi = entry(x.clone())  # it may change its argument
        (psi,) = as_promised(f"surrogate {_called(entry)}", (psi,), x)
        # A look at values would break the graph of torch.compile.
        if not torch.compiler.is_compiling() and bool((x.isfinite() & ~psi.isfinite()).any()):
            raise UserError(f"surrogate {_called(entry)} returned NaN or infinity; it must be finite at every finite distance")
        return psi

    def part_gradient(
        self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, state: Tensor, carry: Tensor
    ) -> tuple[Tensor, Tensor]:
        psi = self.scale * self._psi(membrane - neuron.threshold)
        to_previous = neuron.membrane_decay * passed(membrane, neuron)
        if self.through_reset and neuron.reset:
            to_previous -= neuron.membrane_decay * membrane * psi
        carried, error_after = carry
        error, delta = synapse_adjoint(psc_gradient, neuron, error_after), torch.empty_like(membrane)
        for t in reversed(range(len(membrane))):
            carried = delta[t] = psi[t] * error[t] + to_previous[t] * carried
        return delta, torch.stack([carried, error[0]])


def _called(function: Derivative) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


# Published surrogate gradients. The neurons and learning schemes of these papers are not here; constants are for a threshold
# of 1.


@dataclass(frozen=True)
class STBP(Surrogate):
    """Spatio-temporal backpropagation: a box of width and height 1, and the gradient through the reset.

    Source: Y. Wu et al., Frontiers in Neuroscience 12, 331 (2018), its first shape with a = 1.
    """

    name: str | Derivative = "rectangular"
    slope: float | None = 1.0
    through_reset: bool = True

    summary: ClassVar[str] = "surrogate gradient of STBP: a box around the threshold, through the reset"
    paper: ClassVar[str] = "Wu et al., Front. Neurosci. 2018, arXiv 1706.02609"
    cites: ClassVar[tuple[str, ...]] = ("wu2018spatio",)


@dataclass(frozen=True)
class SLAYER(Surrogate):
    """SLAYER's derivative, ``exp(-|u - θ|)``. No gradient goes through the reset, which in SLAYER is a kernel without one.

    Source: S. B. Shrestha and G. Orchard, NeurIPS 2018, arXiv 1810.08646, with the constants of its published examples.
    """

    name: str | Derivative = "exponential"
    slope: float | None = 1.0

    summary: ClassVar[str] = "surrogate gradient of SLAYER: an exponential on both sides of the threshold"
    paper: ClassVar[str] = "Shrestha & Orchard, NeurIPS 2018, arXiv 1810.08646"
    cites: ClassVar[tuple[str, ...]] = ("shrestha2018slayer",)


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """SuperSpike's derivative, ``1/(1 + β|u - θ|)²`` with β = 1/mV and θ 10 mV above rest. None goes through the reset.

    The online three-factor rule is in ``rivals/superspike.py``.

    Source: F. Zenke and S. Ganguli, Neural Computation 30(6), 2018, arXiv 1705.11146.
    """

    name: str | Derivative = "fast_sigmoid"
    slope: float | None = 10.0

    summary: ClassVar[str] = "surrogate gradient of SuperSpike: that of a fast sigmoid, backwards in time instead of online"
    paper: ClassVar[str] = "Zenke & Ganguli, Neural Comput. 2018, arXiv 1705.11146"
    cites: ClassVar[tuple[str, ...]] = ("zenke2018superspike",)


@dataclass(frozen=True)
class EProp(Surrogate):
    """e-prop with symmetric feedback: the gradient stays within each neuron of a recurrent layer.

    A neuron's eligibility trace holds how a weight changed its own spikes so far, without paths through other neurons. The sum
    over time of trace times learning signal is backpropagation through time with the lateral connections cut, which is how it
    is computed here; ``rivals/eprop.py`` goes forward in time. The gradient between layers is that of backpropagation, so
    without recurrent layers this is a plain surrogate gradient.

    Source: G. Bellec, F. Scherr et al., Nature Communications 11, 3625, 2020, with its pseudo-derivative of height 0.3.
    """

    name: str | Derivative = "triangular"
    slope: float | None = 1.0
    scale: float = 0.3

    through_lateral: ClassVar[bool] = False
    summary: ClassVar[str] = "e-prop with symmetric feedback: no gradient through the lateral connections of recurrent layers"
    paper: ClassVar[str] = "Bellec et al., Nat. Commun. 2020"
    cites: ClassVar[tuple[str, ...]] = ("bellec2020solution",)
