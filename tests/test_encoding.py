"""Encoders, and the constant signal that crosses the first linear map once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import BACKENDS

import tsslbp
from tsslbp import UserError, encoding
from tsslbp.encoding import constant_current, latency, poisson
from tsslbp.neuron import synapse


@given(steps=st.integers(1, 40), tau_s=st.sampled_from([1.0, 2.0, 3.0]) | st.floats(1, 50), axes=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_constant_current_is_the_repeated_input_through_the_synapse(steps, tau_s, axes):
    x = torch.randn(2, *range(3, 3 + axes), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signal = constant_current(x, steps, tau_s)
    assert signal.value is x
    assert signal.response.shape == (steps,)
    assert signal.expand().shape == (steps, *x.shape)
    torch.testing.assert_close(signal.expand(), synapse(x.expand(steps, *x.shape), tau_s), rtol=1e-12, atol=1e-14)


@given(rate=st.floats(0.01, 1), steps=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_an_encoder_is_named_with_its_options(rate, steps, seed):
    x = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(encoding.get(f"poisson(rate={rate})")(x, steps, seed), poisson(x * rate, steps, seed))
    assert torch.equal(encoding.get("latency")(x, steps, seed), latency(x, steps))
    assert encoding.get("constant") is None


# Static input and its repetition are the same to a network.


NETS = {
    "fully connected": ("9-4", {"input_shape": (7,)}),
    "image, fully connected": ("9-4", {"input_shape": (2, 3, 5)}),
    "convolution": ("3C3-P2-5C2-6-4", {"input_shape": (2, 7, 9), "padding": (1, 0)}),
    "pooling first": ("P2-3C2-4", {"input_shape": (2, 7, 9)}),
}


def make(name, backend="auto", **options):
    notation, shape = NETS[name]
    torch.manual_seed(0)
    net = tsslbp.build(notation, time_steps=6, tau_m=5, tau_s=3, threshold=0.3, **shape, **options).double()
    for layer in net.modules():
        if isinstance(layer, tsslbp.layers.Spiking):
            layer.backend = backend
    x = 2 * torch.randn(4, *shape["input_shape"], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return net, x


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["tssl", "surrogate"])
@pytest.mark.parametrize("name", NETS)
def test_static_input_is_a_repeated_sequence(name, rule, backend):
    net, x = make(name, backend, rule=rule)
    error = torch.randn(6, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def run(signal):
        net.zero_grad()
        signal = signal.clone().requires_grad_()
        output = net(signal)
        output.backward(error)
        return output.detach(), [p.grad.clone() for p in net.parameters()], signal.grad

    static, repeated = run(x), run(x.expand(6, *x.shape))
    assert 0 < static[0].count_nonzero() < static[0].numel()
    torch.testing.assert_close(static[0], repeated[0], rtol=1e-12, atol=1e-12)
    assert len(static[1]) == len(list(net.parameters()))
    for ours, theirs in zip(static[1], repeated[1], strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 * theirs.abs().max().item())
    torch.testing.assert_close(static[2], repeated[2].sum(0), rtol=1e-12, atol=1e-12)


def test_the_first_linear_map_is_computed_once_for_a_constant_input(monkeypatch):
    net, x = make("convolution")
    layers = [layer for layer in net.layers.children() if isinstance(layer, tsslbp.layers.Spiking)]
    seen = {}

    def counted(layer, plain):
        def count(x):
            seen.setdefault(layer, []).append(len(x))
            return plain(x)

        return count

    for i, layer in enumerate(layers):
        monkeypatch.setattr(layer, "map", counted(i, layer.map))
    net(x)
    assert seen == {0: [4], 1: [24], 2: [24], 3: [24]}
    seen.clear()
    net(x.expand(6, *x.shape))
    assert seen == {0: [24], 1: [24], 2: [24], 3: [24]}


# Spike encoders.


def test_poisson_rate_is_the_intensity():
    x = torch.tensor([[0.0, 0.05, 0.3, 0.95, 1.0]], dtype=torch.float64)
    steps = 20000
    train = poisson(x, steps, seed=0)
    assert train.shape == (steps, 1, 5)
    assert train.dtype == x.dtype
    assert train.unique().tolist() == [0, 1]
    mean, spread = train.mean(0), (x * (1 - x) / steps).sqrt()
    assert ((mean - x).abs() <= 5 * spread).all()


def test_poisson_steps_and_inputs_are_independent():
    train = poisson(torch.full((2, 3), 0.5), 4000, seed=3).flatten(1)
    correlation = torch.corrcoef(torch.cat([train[1:], train[:-1]], dim=1).T)
    assert (correlation - torch.eye(12)).abs().max() < 0.1


def test_poisson_is_seeded_and_leaves_the_global_generator_alone():
    x = torch.full((3, 4), 0.5)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first = poisson(x, 50, seed=7)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(poisson(x, 50, seed=7), first)
    assert not torch.equal(poisson(x, 50, seed=8), first)
    assert torch.equal(poisson(x, 50, seed=torch.tensor(7)), first)
    assert torch.equal(poisson(x, 50, seed=7 + torch.arange(len(x))), first)
    assert torch.equal(poisson(x, 50, seed=(7 + torch.arange(len(x))).int()), first)
    for wrong in (None, "7", torch.Generator()):
        with pytest.raises(UserError, match=r"seed is .*; it must be a whole number, or \[B\] of int64"):
            poisson(x, 50, seed=wrong)
    for wrong in (7.9, torch.arange(len(x) + 1), torch.arange(len(x)).float()):
        with pytest.raises(UserError, match=r"seed is torch.* of shape .*; it must be a whole number, or \[B\] of int64"):
            poisson(x, 50, seed=wrong)


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), torch.tensor(0.5), torch.ones(2, 3, dtype=torch.complex64)])
def test_what_is_no_intensity_is_refused(wrong):
    for encode in (latency, lambda x, steps: poisson(x, steps, 0)):
        with pytest.raises(UserError, match=r"x is .*; it must be"):
            encode(wrong, 5)


def test_latency_by_hand():
    # T = 5: intensity 1 at step 0, 3/4 at step 1, ..., just above 0 at the last step, 0 never.
    x = torch.tensor([[1.0, 0.75, 0.5, 0.25, 1e-6, 0.0]])
    train = latency(x, 5)
    assert train.shape == (5, 1, 6)
    assert train.dtype == x.dtype
    assert train[:, 0].T.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0],
    ]


@given(intensities=st.lists(st.floats(0, 1), min_size=1, max_size=12), steps=st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_latency_order_and_number(intensities, steps):
    x = torch.tensor(intensities, dtype=torch.float64)
    train = latency(x.unsqueeze(0), steps)[:, 0]
    assert train.sum(0).tolist() == [float(i > 0) for i in intensities]
    first = [row.index(1) for row in train.T.tolist() if 1 in row]
    brightest_first = sorted((i for i in range(len(intensities)) if intensities[i] > 0), key=lambda i: -intensities[i])
    steps_of = dict(zip((i for i in range(len(intensities)) if intensities[i] > 0), first, strict=True))
    assert [steps_of[i] for i in brightest_first] == sorted(first)
    assert all(abs(steps_of[i] - (1 - intensities[i]) * (steps - 1)) <= 0.5 + 1e-9 for i in steps_of)


def encode(encoder, x, steps):
    return {
        "poisson": lambda: poisson(x, steps, seed=0),
        "latency": lambda: latency(x, steps),
        "constant": lambda: constant_current(x, steps, 3),
    }[encoder]()


@pytest.mark.parametrize("encoder", ["poisson", "latency"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_intensities_outside_the_unit_range(encoder, value):
    with pytest.raises(UserError, match=r"intensities in \[0, 1\]; scale the data"):
        encode(encoder, torch.tensor([[0.5, value]]), 3)


@pytest.mark.parametrize("encoder", ["poisson", "latency", "constant"])
@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_no_steps(encoder, steps):
    with pytest.raises(UserError, match=f"time_steps is {steps}; it must be a whole number from 1"):
        encode(encoder, torch.tensor([[0.5]]), steps)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float16])
def test_latency_spikes_once_in_more_steps_than_the_type_counts(dtype):
    spikes = encode("latency", torch.tensor([[0.0, 1.0]]).to(dtype), 3000)
    assert spikes.dtype == dtype
    assert spikes.float().sum(0).tolist() == [[0, 1]]


@pytest.mark.parametrize("encoder", ["poisson", "latency"])
def test_empty_batch(encoder):
    assert encode(encoder, torch.empty(0, 3), 4).shape == (4, 0, 3)
