"""What a learning rule is: how the gradient crosses a spiking neuron.

The forward pass is the same under every rule. A rule turns the gradient with respect to the post-synaptic current,
``∂L/∂a``, into the gradient with respect to the input current, ``∂L/∂I``, knowing the membrane potential. Everything
else (the weights' gradient, the error sent to the layer below) is PyTorch's ordinary chain rule, so whatever works
around autograd (gradient clipping, DDP, autocast) works around a rule.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from tsslbp import kernels
from tsslbp.neuron import LIF, membrane_potential, spikes, synapse


@dataclass(frozen=True)
class Rule(ABC):
    """Base of all rules. A new rule is a frozen dataclass with its options as fields and one method."""

    summary: ClassVar[str]
    """One line for ``tsslbp rules``."""
    paper: ClassVar[str]
    """Where the rule comes from."""
    has_kernel: ClassVar[bool] = False
    """Whether :meth:`kernel_gradient` exists; without it the method below does the work."""

    @abstractmethod
    def current_gradient(self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF) -> Tensor:
        """``∂L/∂I`` from ``∂L/∂a`` and the membrane potential; all three ``[T, ...]``, same shape and dtype."""

    def kernel_gradient(
        self, psc_gradient: Tensor, membrane: Tensor, neuron: LIF, form: kernels.Form = kernels.PLAIN
    ) -> Tensor:
        """:meth:`current_gradient` by a compiled kernel, for currents of any form; only where ``has_kernel``."""
        raise NotImplementedError(f"{type(self).__name__} has no kernel")

    def options(self) -> dict[str, Any]:
        """The rule's options that differ from their defaults."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


class Crossing(torch.autograd.Function):
    """Neurons whose backward pass is a rule. Only the membrane potential is kept: spikes and currents follow from it."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, neuron: LIF, rule: Rule, compiled: bool, form: kernels.Form) -> Tensor:
        if compiled:
            membrane, psc = kernels.compiled(form.backend).lif_forward(current, neuron, form)
        else:
            membrane = membrane_potential(current, neuron)
            psc = synapse(spikes(membrane, neuron), neuron.tau_s)
        ctx.save_for_backward(membrane)
        ctx.neuron, ctx.rule, ctx.compiled, ctx.form = neuron, rule, compiled, form
        return psc

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, psc_gradient: Tensor) -> tuple[Tensor | None, ...]:
        (membrane,) = ctx.saved_tensors
        if ctx.compiled and ctx.rule.has_kernel:
            gradient = ctx.rule.kernel_gradient(psc_gradient, membrane, ctx.neuron, ctx.form)
        else:
            gradient = ctx.rule.current_gradient(psc_gradient, membrane, ctx.neuron)
        return gradient, None, None, None, None
