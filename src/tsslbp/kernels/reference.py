"""The reference: ``neuron.py`` and ``rules/`` in plain PyTorch, on every device and in every type."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor, is_legacy_batchedtensor

from tsslbp.kernels.engine import PLAIN, Engine, Form, Usable, refuse_batch
from tsslbp.neuron import LIF, ByConstant, constants_gradient, membrane_potential, postsynaptic_current
from tsslbp.rules.base import CARRY, Rule, promised
from tsslbp.utils.imports import is_ours


class Reference(Engine):
    """Computes every neuron and every rule, but no special form, which PyTorch handles around it."""

    title = "the reference"
    forms = False
    varies = True

    def status(self) -> Usable:
        return Usable(True, "plain PyTorch, runs everywhere")

    def formula(self, rule: Rule) -> Rule:
        return rule  # its equations

    def declines(self, current: Tensor, neuron: LIF, rule: Rule | None, parts: bool) -> None:
        return None

    def forward(
        self, current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN, *, keep: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        membrane_before, psc_before = (0.0, None) if state is None else state
        membrane = membrane_potential(current, neuron, membrane_before)
        psc = postsynaptic_current(membrane, neuron, psc_before)
        return membrane, psc, None if state is None else torch.stack([membrane[-1], psc[-1]])

    def backward(
        self,
        formula: Rule,
        error: Tensor,
        membrane: Tensor,
        neuron: LIF,
        state: Tensor | None,
        carry: Tensor | None,
        form: Form,
    ) -> tuple[Tensor, Tensor | None, ByConstant]:
        if not torch.compiler.is_compiling() and (is_batchedtensor(error) or is_legacy_batchedtensor(error)):
            refuse_batch()
        back, given = None, _given_to(formula)
        if state is None:
            whole = (formula.current_gradient(given(error), given(membrane), neuron),)
            (gradient,) = promised(formula, "current_gradient", whole, (error, membrane), (membrane,))
        else:
            assert carry is not None
            part = formula.part_gradient(given(error), given(membrane), neuron, given(state), given(carry))
            gradient, back = promised(formula, "part_gradient", part, (error, membrane, carry), (membrane, state))
        if not neuron.varies:
            return gradient, back, ByConstant()
        rest = membrane.new_zeros(CARRY, *membrane.shape[1:])
        before, after = (rest, rest) if state is None or carry is None else (state, carry)
        by_spike = formula.spike_gradient(given(gradient), given(error), given(membrane), neuron, before, after)
        carried = formula.carried_error(given(error), given(membrane), neuron, after)
        return gradient, back, constants_gradient(gradient, by_spike, carried, membrane, neuron, state)


def _given_to(rule: Rule) -> Callable[[Tensor], Tensor]:
    """What makes the arguments of a rule's methods: a user's rule gets copies, as it may change them."""
    return (lambda x: x) if is_ours(rule) else Tensor.clone


ENGINE = Reference()
