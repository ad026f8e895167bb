"""Products of matrices by oneDNN (products.py) against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tsslbp.layers import products
from tsslbp.layers.products import product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """oneDNN is taken for matrices of every size, whatever the processor; the list holds the shapes."""
    monkeypatch.setattr(products, "PREFERS_ONEDNN", True)
    for limit in ("ROWS", "WEIGHTS", "TRANSPOSED"):
        monkeypatch.setattr(products, limit, 0)
    taken, by_onednn = [], products._by_onednn
    monkeypatch.setattr(products, "_by_onednn", lambda *factors: (taken.append([*map(len, factors)]), by_onednn(*factors))[1])
    return taken


def factors(n, inputs, outputs, layout, seed):
    """Two matrices in one of the layouts that views give, and a gradient for their product."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows, columns, how):
        whole = torch.randn(2 * rows, 2 * columns, generator=generator)
        made = {"plain": whole[:rows, :columns].contiguous(), "transposed": whole[:rows, :columns].t().contiguous().t()}
        return (
            made | {"strided": whole[::2, 1::2], "cut": whole[rows:, :columns], "same": whole[:1, :columns].expand(rows, -1)}
        )[how]

    x, weight = (drawn(rows, inputs, how).requires_grad_() for rows, how in zip((n, outputs), layout, strict=True))
    return x, weight, torch.randn(n, outputs, generator=generator)


LAYOUTS = st.sampled_from(["plain", "transposed", "strided", "cut", "same"])


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.tuples(LAYOUTS, LAYOUTS), st.integers(0, 999))
def test_products_and_gradients_are_those_of_pytorch(n, inputs, outputs, layout, seed):
    x, weight, gradient = factors(n, inputs, outputs, layout, seed)
    found = product(x, weight)
    expected = F.linear(x.double(), weight.double())
    assert torch.allclose(found.double(), expected, atol=1e-4)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), gradient),
        torch.autograd.grad(expected, (x, weight), gradient.double()),
        strict=True,
    ):
        assert one.dtype == torch.float32
        assert torch.allclose(one, other, atol=1e-4)


def test_products_have_second_derivatives():
    x, weight, gradient = factors(5, 4, 3, ("plain", "plain"), 0)
    second = []
    for multiplied in (product, F.linear):
        by_x, by_weight = torch.autograd.grad(multiplied(x, weight), (x, weight), gradient, create_graph=True)
        second.append(torch.autograd.grad(by_x.square().sum() + by_weight.pow(3).sum(), (x, weight)))
    for one, other in zip(*second, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_only_needed_gradients_are_computed(always):
    x, weight, gradient = factors(5, 4, 3, ("plain", "plain"), 0)
    product(x.detach(), weight).backward(gradient)
    assert always == [[5, 3], [3, 4]]  # the product itself, and the gradient by the weight


@pytest.mark.parametrize("case", ["float64", "bfloat16", "autocast", "counted", "func", "compiled", "without oneDNN"])
def test_everything_else_is_left_to_pytorch(always, case):
    x, weight, _ = factors(5, 4, 3, ("plain", "plain"), 0)
    x, weight = x.detach(), weight.detach()
    if case in ("float64", "bfloat16"):
        product(x.to(getattr(torch, case)), weight.to(getattr(torch, case)))
    elif case == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            assert product(x, weight).dtype == torch.bfloat16
    elif case == "counted":
        with FlopCounterMode(display=False) as counter:
            product(x, weight)
        assert counter.get_total_flops() == 2 * 5 * 4 * 3
    elif case == "func":
        torch.func.jacrev(product)(x, weight)
        torch.func.jvp(product, (x, weight), (x, weight))
    elif case == "compiled":
        torch.compile(product, backend="eager", fullgraph=True)(x, weight)
    else:
        with torch.backends.mkldnn.flags(enabled=False):
            product(x, weight)
    assert not always


def test_only_large_products_on_amd_processors_are_taken(always, monkeypatch):
    monkeypatch.undo()
    taken, x, weight = [], torch.ones(250, 200), torch.ones(150, 200)
    monkeypatch.setattr(products, "_by_onednn", lambda *factors: taken.append(1) or F.linear(*factors))
    for prefers, count in ((False, 0), (True, 2)):
        monkeypatch.setattr(products, "PREFERS_ONEDNN", prefers)
        product(x, weight)
        product(x[:249], weight)
        product(x, weight[:149])
        product(torch.ones(9, 1000).t(), torch.ones(4000, 9))  # a gradient by a weight
        product(torch.ones(9, 249).t(), torch.ones(4000, 9))
        assert len(taken) == count
