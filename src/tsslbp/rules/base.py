"""What a learning rule is: how the gradient crosses a spiking neuron.

The forward pass is the same under every rule. A rule turns the gradient with respect to the post-synaptic current,
``∂L/∂a``, into the gradient with respect to the input current, ``∂L/∂I``, knowing the membrane potential. Everything
else (the weights' gradient, the error sent to the layer below) is PyTorch's ordinary chain rule, so tools for autograd
(gradient clipping, DDP, autocast) work with any rule.

A rule defines its equations. It may also give its parameters as numbers, with which an engine's compiled formulas compute the
same. Rules know nothing of engines; ``functional.py`` connects the two.
"""

from abc import ABC
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from tsslbp.neuron import LIF, advanced, passed, synapse_adjoint
from tsslbp.utils.errors import UserError
from tsslbp.utils.imports import is_ours

Numbers = tuple[Any, ...]
"""Parameters of a rule: a ``NamedTuple`` whose type says which equations they are for."""

CARRY = 2
"""Numbers per neuron that the backward pass of a part hands to the part before it, in place of the gradient of its state."""


@dataclass(frozen=True)
class Rule(ABC):
    """Base of all rules. A new rule is a frozen dataclass with its options as fields and one method.

    The method is :meth:`part_gradient` if the rule can take a sequence in parts, else :meth:`current_gradient`. If it does not
    return the promised tensors, the backward pass raises a UserError.
    """

    summary: ClassVar[str]
    """One line for ``tsslbp rules``."""
    paper: ClassVar[str]
    """Where the rule comes from."""
    cites: ClassVar[tuple[str, ...]] = ()
    """Keys of its papers in ``papers.bib``, for ``tsslbp cite``."""
    through_lateral: ClassVar[bool] = True
    """Whether the gradient flows through the lateral connections of a recurrent layer."""
    depends_on_padding: ClassVar[bool] = False
    """Whether a spike after the end of a padded sequence would change the gradient; layers then let none come about."""
    _in_parts: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        owner = next(base for base in cls.__mro__ if "numbers" in vars(base))  # the numbers are for its equations
        descriptions = {"options", "code"}  # of which a class may have its own with the same equations
        equations = (
            name for name in {*dir(owner)} - descriptions if not name.startswith("__") and callable(getattr(owner, name))
        )
        if any(getattr(cls, name) is not getattr(owner, name) for name in equations):
            cls.numbers = None  # type: ignore[assignment]
        methods = {"current_gradient", "part_gradient"}
        last = next(base for base in cls.__mro__ if methods & vars(base).keys())
        cls._in_parts = last is not Rule and "part_gradient" in vars(last)

    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        """``∂L/∂I`` from ``∂L/∂a`` and the membrane potential; all three ``[T, ...]``, same shape and dtype."""
        rest = membrane.new_zeros(CARRY, *membrane.shape[1:])
        made = self.part_gradient(psc_gradient, membrane, neuron, rest, rest)
        return as_promised(f"{type(self).__name__}.part_gradient", made, membrane, rest)[0]

    def part_gradient(
        self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, state: Tensor, carry: Tensor
    ) -> tuple[Tensor, Tensor]:
        """:meth:`current_gradient` of a part of a sequence.

        Args:
            psc_gradient, membrane: of the part, ``[T, ...]``.
            neuron: constants of the neuron.
            state: membrane potential and post-synaptic current of the step before the part, ``[2, ...]``.
            carry: what the rule handed back from the step after the part, ``[2, ...]``, zeros at the end of the sequence.

        Returns:
            ``∂L/∂I``, ``[T, ...]``, and what the rule hands to the step before the part, ``[2, ...]``.
        """
        raise UserError(f"{type(self).__name__} needs the whole sequence at once; it cannot carry a state from part to part")

    def carried_error(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, carry: Tensor) -> Tensor:
        """E, the error that the rule carries back through the synapse, ``[T, ...]``. It gives a learned τs its gradient.

        The arguments are those of :meth:`part_gradient`; ``carry`` is zeros for a whole sequence. A rule that takes parts
        overrides this unless the second row of its ``carry`` is E of the step after the part.
        """
        return synapse_adjoint(psc_gradient, neuron, carry[1])

    def spike_gradient(
        self, gradient: Tensor, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, state: Tensor, carry: Tensor
    ) -> Tensor:
        """η, the share of ∂L/∂I that comes through the spike of the same step, ``[T, ...]``. It gives a learned θ its
        gradient. The rest comes through the membrane, which carries a current on to the next step:

            η[t] = δ[t] - (1 - 1/τm)·(1 - s[t])·δ[t+1]

        ``gradient`` is δ, which :meth:`current_gradient` or :meth:`part_gradient` computed from the other arguments; ``state``
        and ``carry`` are zeros for a whole sequence. A rule that takes parts overrides this unless the first row of its
        ``carry`` is δ of the step after the part.
        """
        return gradient - neuron.membrane_decay * passed(membrane, neuron) * advanced(gradient, carry[0])

    @property
    def numbers(self) -> Numbers | None:
        """Parameters for engines with compiled formulas. With None, the default, the backward pass runs the equations above. A
        subclass that overrides a method of a rule has None, unless it defines its own numbers."""
        return None

    @property
    def carries(self) -> int:
        """How many numbers per neuron the rule carries from a step to the one before. Parts allow at most ``CARRY``."""
        return CARRY

    @property
    def statistic(self) -> Literal["rate"] | None:
        """What the equations compute from the whole sequence and batch; ``"rate"`` is a layer's mean firing. Where several
        processes share a batch, each sees a part of it, and :meth:`knowing` tells the rule."""
        return None

    def knowing(self, statistic: float) -> "Rule":
        """The rule for a known statistic; only called where several processes share a batch."""
        raise UserError(f"{type(self).__name__} needs a method knowing(statistic) to learn in several processes")

    @property
    def takes_parts(self) -> bool:
        """Whether a sequence may come in parts that hand a state to each other. It may not if a class overrides
        :meth:`current_gradient` alone."""
        return self._in_parts and self.carries <= CARRY and self.statistic is None

    def code(self) -> tuple[object, ...]:
        """The classes and functions that compute it; a run records the user's files they come from."""
        return (type(self),)

    def options(self) -> dict[str, Any]:
        """The rule's options that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def promised(rule: Rule, method: str, made: Any, given: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors that a rule's method returned, if they are like those wanted and, from a user's own rule, finite.

    Raises:
        UserError: anything else; NaN and infinity only if all its arguments are finite.
    """
    who = f"{type(rule).__name__}.{method}"
    found = as_promised(who, made, *wanted)
    if is_ours(rule) or torch.compiler.is_compiling():  # a look at values would break the graph
        return found
    if not all(bool(x.isfinite().all()) for x in found) and all(bool(x.isfinite().all()) for x in given):
        raise UserError(f"{who} returned NaN or infinity; it must be finite where what it gets is")
    return found


def as_promised(who: str, made: Any, *promised: Tensor) -> tuple[Tensor, ...]:
    """The tensors that a rule's method or a user's function returned. Raises UserError unless they are like those promised."""
    if isinstance(made, tuple) and list(map(_described, made)) == list(map(_described, promised)):
        return made
    raise UserError(f"{who} returned {_listed(made)}; it must return {_listed(promised)}")


def _listed(made: Any) -> str:
    return (" and ".join(map(_described, made)) or "nothing") if isinstance(made, tuple) else _described(made)


def _described(made: Any) -> str:
    if isinstance(made, tuple):
        return f"a tuple of {_listed(made)}"
    if not isinstance(made, Tensor):
        return f"a {type(made).__name__}"
    return f"{list(made.shape)} of {made.dtype}{'' if made.device.type == 'cpu' else f' on {made.device}'}"
