"""The reference: what ``neuron.py`` and ``rules/`` say, in plain PyTorch, on every device and in every type."""

import torch
from torch import Tensor

from tsslbp.kernels.engine import PLAIN, Engine, Form, Usable
from tsslbp.neuron import LIF, membrane_potential, postsynaptic_current
from tsslbp.rules.base import Rule, promised


class Reference(Engine):
    """Takes every neuron and every rule, but no form: what is more than a tensor for a tensor is PyTorch's work around it."""

    title = "the reference"
    forms = False

    def status(self) -> Usable:
        return Usable(True, "plain PyTorch, runs everywhere")

    def formula(self, rule: Rule) -> Rule:
        return rule  # its equations

    def declines(self, current: Tensor, neuron: LIF, rule: Rule | None = None, parts: bool = False) -> None:
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
    ) -> tuple[Tensor, Tensor | None]:
        if state is None:
            whole = (formula.current_gradient(error, membrane, neuron),)
            return promised(formula, "current_gradient", whole, (error, membrane), (membrane,))[0], None
        assert carry is not None
        part = formula.part_gradient(error, membrane, neuron, state, carry)
        gradient, back = promised(formula, "part_gradient", part, (error, membrane, carry), (membrane, state))
        return gradient, back


ENGINE = Reference()
