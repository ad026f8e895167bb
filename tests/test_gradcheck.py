"""Surrogate gradients against finite differences of the function whose derivative they are.

Around a given input that function is smooth: the spike is s0 + Ψ(u) - Ψ(u0), with s0 and u0 frozen at what the neuron did there
and Ψ the primitive of ψ. At that input it is the neuron itself.
"""

import math

import oracle
import pytest
import torch
from shared import BACKENDS

import tsslbp
from tsslbp import Surrogate, rules
from tsslbp.neuron import LIF, membrane_potential, spikes
from tsslbp.rules.surrogate import DERIVATIVES

KINKS = {"triangular": 1.0, "rectangular": 0.5}  # where |slope·(u - θ)| has no second or no first derivative
RULES = [Surrogate(name, through_reset=through) for name in DERIVATIVES for through in (False, True)]
RULES += [Surrogate(name, slope=1.7, scale=0.6, through_reset=True) for name in DERIVATIVES]
RULES += [rules.get(name) for name in ("stbp", "slayer", "superspike", "e-prop")]


def primitive(u, rule, threshold):
    slope = rule.slope or DERIVATIVES[rule.name][1]
    return rule.scale / slope * oracle.PRIMITIVES[rule.name](slope * (u - threshold))


class Neuron(torch.autograd.Function):
    """The smooth function going forward, and going back the rule's gradient at the point."""

    @staticmethod
    def forward(ctx, current, rule, neuron, backend, u0):
        ctx.save_for_backward(current)
        ctx.of = rule, neuron, backend
        s0 = spikes(u0, neuron)
        u = s = a = torch.zeros_like(u0[0])
        psc = []
        for t, current_t in enumerate(current):
            held = s if rule.through_reset else (s0[t - 1] if t else s)
            u = neuron.membrane_decay * u * (1 - held) + current_t
            s = s0[t] + primitive(u, rule, neuron.threshold) - primitive(u0[t], rule, neuron.threshold)
            a = neuron.synapse_decay * a + s / neuron.tau_s
            psc.append(a)
        return torch.stack(psc)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, psc_gradient):
        rule, neuron, backend = ctx.of
        with torch.enable_grad():
            current = ctx.saved_tensors[0].detach().requires_grad_()
            constants = {"tau_m": neuron.tau_m, "tau_s": neuron.tau_s, "threshold": neuron.threshold}
            psc = tsslbp.lif(current, rule=rule, backend=backend, **constants)
            return torch.autograd.grad(psc, current, psc_gradient)[0], None, None, None, None


def point(rule, neuron, seed):
    """A random current of which no potential is so near to a kink of Ψ that a finite difference would feel it."""
    generator = torch.Generator().manual_seed(seed)
    current = 0.7 * torch.randn(9, 3, generator=generator, dtype=torch.float64) + 0.5
    u0 = membrane_potential(current, neuron)
    x = (rule.slope or DERIVATIVES[rule.name][1]) * (u0 - neuron.threshold)
    assert (x.abs() > 1e-3).all()
    assert ((x.abs() - KINKS.get(rule.name, 0.0)).abs() > 1e-3).all()
    fired = spikes(u0, neuron)
    assert 3 < fired.sum() < fired.numel() - 3
    return current, u0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES, ids=rules.spec)
def test_gradient_passes_gradcheck(rule, backend):
    for seed, neuron in enumerate([LIF(5, 3), LIF(math.inf, 1, 0.6), LIF(2, 7, 1.2)]):
        current, u0 = point(rule, neuron, seed)
        arguments = rule, neuron, backend, u0
        ours = Neuron.apply(current, *arguments)
        hard = tsslbp.lif(current, tau_m=neuron.tau_m, tau_s=neuron.tau_s, threshold=neuron.threshold, backend=backend)
        torch.testing.assert_close(ours, hard, rtol=1e-12, atol=1e-12)
        leaf = current.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, a=arguments: Neuron.apply(x, *a), leaf, eps=1e-6, atol=1e-7, rtol=1e-5)
