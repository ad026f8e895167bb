"""What users bring along: surrogates, rules, losses and data sets of their own, and networks that are kept."""

import math

import pytest
import torch
from torch import Tensor

import tsslbp
from tsslbp import Surrogate, UserError, rules
from tsslbp.rules.surrogate import DERIVATIVES

CONSTANTS = {"tau_m": 5.0, "tau_s": 3.0}


def quartic(x: Tensor) -> Tensor:
    return 1 / (1 + x**4)


def atan(x: Tensor) -> Tensor:
    return 1 / (1 + (math.pi / 2 * x) ** 2)


def gradient(rule: str | tsslbp.Rule, backend: str = "auto") -> Tensor:
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(12, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    psc = tsslbp.lif(current, rule=rule, backend=backend, **CONSTANTS)
    (found,) = torch.autograd.grad((psc * torch.linspace(-1, 1, psc.numel()).view_as(psc)).sum(), current)
    return found


@pytest.mark.parametrize("through_reset", [False, True])
@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_a_function_is_a_surrogate(backend, through_reset):
    ours = gradient(Surrogate(atan, slope=1.7, scale=0.6, through_reset=through_reset), backend)
    named = gradient(Surrogate("atan", slope=1.7, scale=0.6, through_reset=through_reset), "reference")
    torch.testing.assert_close(ours, named, rtol=1e-12, atol=1e-12)
    assert ours.abs().max() > 0


def test_a_function_has_slope_one_and_may_change_what_it_gets():
    def in_place(x: Tensor) -> Tensor:
        return x.abs_().neg_().exp_()

    assert torch.equal(gradient(Surrogate(in_place)), gradient(Surrogate(lambda x: torch.exp(-x.abs()), slope=1)))


def test_a_function_with_a_name_is_one_of_the_shapes(monkeypatch):
    with pytest.raises(UserError, match="surrogate quartic has no name; add it to .*DERIVATIVES"):
        rules.spec(Surrogate(quartic, slope=2))
    monkeypatch.setitem(DERIVATIVES, "quartic", quartic)
    assert rules.spec(Surrogate(quartic, slope=2)) == "surrogate(name=quartic, slope=2)"
    assert torch.equal(gradient("surrogate(name=quartic, slope=2)"), gradient(Surrogate(quartic, slope=2)))
    assert torch.equal(gradient("stbp(name=quartic)"), gradient(Surrogate(quartic, through_reset=True)))


def test_a_name_that_is_given_a_function_means_that(monkeypatch):
    before = gradient("surrogate(name=atan)")
    monkeypatch.setitem(DERIVATIVES, "atan", quartic)
    assert torch.equal(gradient("surrogate(name=atan)"), gradient(Surrogate(quartic)))
    assert not torch.equal(gradient("surrogate(name=atan)"), before)


def test_networks_layers_and_parts_take_a_function():
    rule = Surrogate(quartic)
    net = tsslbp.build("6R-8-4", input_shape=(5,), time_steps=4, rule=rule, **CONSTANTS)
    x = torch.rand(4, 2, 5) * 3
    net(x).sum().backward()
    whole = [weight.grad.clone() for weight in net.parameters()]
    assert all(bool(grad.any()) for grad in whole)
    net.zero_grad()
    first, state = net.part(x[:2])
    second, _ = net.part(x[2:], state)
    (first.sum() + second.sum()).backward()
    torch.testing.assert_close([weight.grad for weight in net.parameters()], whole, rtol=1e-4, atol=1e-5)
    layer = tsslbp.layers.Linear(5, 3, neuron=net.neuron, rule=rule)
    layer(torch.rand(4, 2, 5) * 5).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[1:], r"<lambda> returned \[11, 3, 4\] of torch.float64; it must return \[12, 3, 4\] of torch.float64"),
        (lambda x: x.float(), r"returned \[12, 3, 4\] of torch.float32; it must return .* of torch.float64"),
        (lambda x: 1.0, "returned a float; it must return"),
        (lambda x: None, "returned a NoneType; it must return"),
        (lambda x: (x, x), r"returned .* and .*; it must return"),
        (lambda x: x.log(), "returned NaN or infinity; it must be finite at every finite distance"),
    ],
)
def test_what_a_function_must_not_return(function, message):
    with pytest.raises(UserError, match=message) as raised:
        gradient(Surrogate(function))
    assert "\n" not in str(raised.value)


def test_nan_that_comes_in_is_not_the_functions_fault():
    current = torch.full((3, 2), math.nan).requires_grad_()
    tsslbp.lif(current, rule=Surrogate(quartic), **CONSTANTS).sum().backward()
