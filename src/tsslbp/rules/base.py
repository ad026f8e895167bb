"""What a learning rule is: how the gradient crosses a spiking neuron.

The forward pass is the same under every rule. A rule turns the gradient with respect to the post-synaptic current,
``∂L/∂a``, into the gradient with respect to the input current, ``∂L/∂I``, knowing the membrane potential. Everything
else (the weights' gradient, the error sent to the layer below) is PyTorch's ordinary chain rule, so whatever works
around autograd (gradient clipping, DDP, autocast) works around a rule.
"""

from abc import ABC
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsslbp import kernels
from tsslbp.errors import UserError
from tsslbp.neuron import LIF, membrane_potential, postsynaptic_current


@dataclass(frozen=True)
class Rule(ABC):
    """Base of all rules. A new rule is a frozen dataclass with its options as fields and one method.

    The method is :meth:`current_gradient`; or :meth:`part_gradient`, where the rule can take a sequence in parts. What it
    returns is checked: anything else than the promised tensors is a UserError in the backward pass.
    """

    summary: ClassVar[str]
    """One line for ``tsslbp rules``."""
    paper: ClassVar[str]
    """Where the rule comes from."""
    cites: ClassVar[tuple[str, ...]] = ()
    """Keys of its papers in ``bibliography.py``, for ``tsslbp cite``."""
    has_kernel: ClassVar[bool] = False
    """Whether :meth:`kernel_gradient` exists; without it the method below does the work."""
    through_lateral: ClassVar[bool] = True
    """Whether the gradient flows through the lateral connections of a recurrent layer, to what its neurons did before."""

    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        """``∂L/∂I`` from ``∂L/∂a`` and the membrane potential; all three ``[T, ...]``, same shape and dtype."""
        rest = membrane.new_zeros(2, *membrane.shape[1:])
        made = self.part_gradient(psc_gradient, membrane, neuron, rest, rest)
        return _as_promised(self, "part_gradient", made, membrane, rest)[0]

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

    @property
    def takes_parts(self) -> bool:
        """Whether a sequence may come in parts that hand a state to each other."""
        return type(self).part_gradient is not Rule.part_gradient

    def kernel_gradient(
        self,
        psc_gradient: Tensor,
        membrane: Tensor,
        neuron: LIF,
        state: Tensor | None = None,
        carry: Tensor | None = None,
        form: kernels.Form = kernels.PLAIN,
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`part_gradient` by a compiled kernel, for currents of any form; only where ``has_kernel``.

        Without a ``state`` the sequence is whole, and so is nothing to be handed on.
        """
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    def options(self) -> dict[str, Any]:
        """The rule's options that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


def refuse_second_derivative(what: str) -> None:
    """To be called in a backward pass: raises UserError if its result is to be differentiated again."""
    if torch.is_grad_enabled():
        raise UserError(f"{what} has no derivative of its own; leave out create_graph=True")


def _as_promised(rule: Rule, method: str, made: Any, *promised: Tensor) -> tuple[Tensor, ...]:
    """What a method of a rule returned, if these are tensors like those promised; else raises UserError."""
    if isinstance(made, tuple) and list(map(_described, made)) == list(map(_described, promised)):
        return made
    raise UserError(f"{type(rule).__name__}.{method} returned {_described(made)}; it must return {_described(promised)}")


def _described(made: Any) -> str:
    if isinstance(made, tuple):
        return " and ".join(map(_described, made)) or "nothing"
    return f"{list(made.shape)} of {made.dtype}" if isinstance(made, Tensor) else f"a {type(made).__name__}"


class Crossing(torch.autograd.Function):
    """Neurons whose backward pass is a rule. Only the membrane potential is kept: spikes and currents follow from it.

    Given a ``state`` it also returns one, to be handed to the next part of the sequence and to nothing else: what flows back
    through it is what the rule carries from step to step.
    """

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, state: Tensor | None, neuron: LIF, rule: Rule, compiled: bool, form: kernels.Form
    ) -> tuple[Tensor, Tensor | None]:
        if compiled:
            membrane, psc, after = kernels.compiled(form.backend).lif_forward(current, neuron, state, form)
            # These may be views of what the kernel made, and autograd lets nobody change a function's view in place.
            psc, after = psc.detach(), None if after is None else after.detach()
        else:
            membrane_before, psc_before = (0.0, None) if state is None else state
            membrane = membrane_potential(current, neuron, membrane_before)
            psc = postsynaptic_current(membrane, neuron, psc_before)
            after = None if state is None else torch.stack([membrane[-1], psc[-1]])
        ctx.save_for_backward(membrane, state)
        ctx.neuron, ctx.rule, ctx.compiled, ctx.form = neuron, rule, compiled, form
        return psc, after

    @staticmethod
    def backward(ctx: Any, psc_gradient: Tensor, carry: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("the gradient of a learning rule")
        membrane, state = ctx.saved_tensors
        back: Tensor | None = None
        if ctx.compiled and ctx.rule.has_kernel:
            gradient, back = ctx.rule.kernel_gradient(psc_gradient, membrane, ctx.neuron, state, carry, ctx.form)
        elif state is None:
            made = ctx.rule.current_gradient(psc_gradient, membrane, ctx.neuron)
            (gradient,) = _as_promised(ctx.rule, "current_gradient", (made,), membrane)
        else:
            made = ctx.rule.part_gradient(psc_gradient, membrane, ctx.neuron, state, carry)
            gradient, back = _as_promised(ctx.rule, "part_gradient", made, membrane, state)
        return gradient, back, None, None, None, None
