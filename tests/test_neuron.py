"""The neuron's forward pass and the contract of ``lif``: shapes, types, memory, causality, errors."""

import math

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tsslbp
from tsslbp import TSSL, Surrogate, UserError
from tsslbp.neuron import LIF, membrane_potential, spikes, spikes_from_psc, synapse

CONSTANTS = {"tau_m": 5.0, "tau_s": 3.0}
RULES = [TSSL(), TSSL(fallback="no-spike", leak=False, psc_derivative="timing"), Surrogate(through_reset=True)]

taus = st.sampled_from([1.0, 2.0, 5.0]) | st.floats(1, 50)
currents = hnp.arrays(
    float,
    st.tuples(st.integers(1, 40), st.integers(1, 4)),
    elements=st.floats(-3, 4, allow_subnormal=False),
    fill=st.nothing(),
).map(torch.from_numpy)


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype) * 0.8 + 0.4


def forward_and_gradient(current, error, rule=None):
    current = current.detach().requires_grad_()
    psc = tsslbp.lif(current, rule=rule, **CONSTANTS)
    psc.backward(error)
    return psc.detach(), current.grad


# The equations.


@given(current=currents, tau_m=taus | st.just(math.inf), tau_s=taus, threshold=st.just(1.0) | st.floats(0.05, 3))
@settings(max_examples=100, deadline=None)
def test_forward_matches_the_oracle(current, tau_m, tau_s, threshold):
    neuron = LIF(tau_m, tau_s, threshold)
    u = membrane_potential(current, neuron)
    s = spikes(u, neuron)
    psc = tsslbp.lif(current, tau_m=tau_m, tau_s=tau_s, threshold=threshold)
    for n, column in enumerate(current.T.tolist()):
        expected_u, expected_s = oracle.potentials(column, tau_m, threshold)
        assert u[:, n].tolist() == pytest.approx(expected_u, rel=1e-12, abs=1e-12)
        assert s[:, n].tolist() == expected_s
        assert psc[:, n].tolist() == pytest.approx(oracle.postsynaptic(expected_s, tau_s), rel=1e-12, abs=1e-12)


def test_the_threshold_is_strict_and_the_reset_is_to_zero():
    current = torch.tensor([1.0, 0.2000001, 0.0, 5.0, 0.0])
    neuron = LIF(tau_m=5, tau_s=1)
    assert membrane_potential(current, neuron).tolist() == pytest.approx([1.0, 1.0000001, 0.0, 5.0, 0.0])
    assert tsslbp.lif(current, tau_m=5, tau_s=1).tolist() == [0, 1, 0, 1, 0]


def test_extreme_time_constants():
    current = torch.tensor([0.4, 0.4, 0.4, 0.4])
    assert tsslbp.lif(current, tau_m=1, tau_s=1, threshold=0.39).tolist() == [1, 1, 1, 1]
    assert tsslbp.lif(current, tau_m=1, tau_s=1, threshold=0.5).tolist() == [0, 0, 0, 0]
    assert tsslbp.lif(current, tau_m=math.inf, tau_s=1, threshold=1.1).tolist() == [0, 0, 1, 0]


def test_decays():
    assert LIF(tau_m=5, tau_s=4).membrane_decay == 0.8
    assert LIF(tau_m=5, tau_s=4).synapse_decay == 0.75
    assert LIF(tau_m=math.inf, tau_s=1).membrane_decay == 1
    assert LIF(tau_m=1, tau_s=1).synapse_decay == 0
    assert LIF(5, 3).threshold == 1


@given(train=currents, tau_s=taus)
@settings(max_examples=50, deadline=None)
def test_synapse_is_a_sum_over_its_kernel(train, tau_s):
    psc = synapse(train, tau_s)
    for n, column in enumerate(train.T.tolist()):
        assert psc[:, n].tolist() == pytest.approx(oracle.postsynaptic(column, tau_s), rel=1e-12, abs=1e-12)


def test_synapse_passes_all_of_a_spike():
    impulse = torch.zeros(400, dtype=torch.float64)
    impulse[0] = 1
    for tau_s in (1, 2.5, 10):
        assert synapse(impulse, tau_s).sum().item() == pytest.approx(1, abs=1e-12)


@given(current=currents, tau_s=taus)
@settings(max_examples=50, deadline=None)
def test_spikes_from_psc_undoes_the_synapse(current, tau_s):
    torch.testing.assert_close(spikes_from_psc(synapse(current, tau_s), tau_s), current, rtol=1e-10, atol=1e-12)
    fired = spikes(membrane_potential(current, LIF(5, tau_s)), LIF(5, tau_s))
    psc = tsslbp.lif(current, tau_m=5, tau_s=tau_s)
    torch.testing.assert_close(tsslbp.spikes_from_psc(psc, tau_s), fired, rtol=0, atol=1e-12)


# Shapes, strides and types.


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("shape", [(7,), (7, 5), (7, 2, 3, 5, 4), (1,), (1, 3), (1, 2, 3, 1, 5)], ids=str)
def test_every_shape_is_a_list_of_neurons(shape, rule):
    current, error = rand(*shape), rand(*shape, seed=1)
    psc, delta = forward_and_gradient(current, error, rule)
    assert psc.shape == delta.shape == shape
    flat_psc, flat_delta = forward_and_gradient(current.view(shape[0], -1), error.view(shape[0], -1), rule)
    torch.testing.assert_close(psc, flat_psc.view(shape))
    torch.testing.assert_close(delta, flat_delta.view(shape))


@pytest.mark.parametrize("rule", [*RULES, TSSL(fallback="rate")], ids=repr)
@pytest.mark.parametrize("shape", [(5, 0), (5, 0, 3, 4, 4), (1, 2, 0)], ids=str)
def test_empty_batch(shape, rule):
    psc, delta = forward_and_gradient(torch.empty(shape), torch.empty(shape), rule)
    assert psc.shape == delta.shape == shape


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_non_contiguous_input_and_error(rule):
    current, error = rand(6, 5), rand(6, 5, seed=1)
    expected = forward_and_gradient(current, error, rule)
    views = {
        "transposed": lambda x: x.T.contiguous().T,
        "every other": lambda x: torch.repeat_interleave(x, 2, dim=1)[:, ::2],
    }
    for name, view in views.items():
        assert not view(current).is_contiguous(), name
        psc, delta = forward_and_gradient(view(current), view(error), rule)
        torch.testing.assert_close(psc, expected[0])
        torch.testing.assert_close(delta, expected[1])
    expanded = forward_and_gradient(current, torch.ones(()).expand(6, 5), rule)
    torch.testing.assert_close(expanded[1], forward_and_gradient(current, torch.ones(6, 5), rule)[1])


@pytest.mark.parametrize("tau_s", [1, 3])
def test_channels_last_strides_are_kept(tau_s):
    current = rand(4, 2, 5, 6, 3).permute(0, 1, 4, 2, 3)
    psc = tsslbp.lif(current, tau_m=5, tau_s=tau_s)
    assert not current.is_contiguous()
    assert psc.shape == current.shape == (4, 2, 3, 5, 6)
    assert psc.stride() == current.stride()
    torch.testing.assert_close(psc, tsslbp.lif(current.contiguous(), tau_m=5, tau_s=tau_s))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype, rule):
    current, error = rand(20, 8).to(dtype), rand(20, 8, seed=1)
    psc, delta = forward_and_gradient(current, error, rule)
    single_psc, single_delta = forward_and_gradient(current.float(), error, rule)
    assert psc.dtype == torch.float32
    assert torch.equal(psc, single_psc)
    assert delta.dtype == dtype
    assert torch.equal(delta, single_delta.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_precision_is_kept(dtype):
    psc, delta = forward_and_gradient(rand(4, 3, dtype=dtype), rand(4, 3, seed=1, dtype=dtype))
    assert psc.dtype == delta.dtype == dtype


# Memory and side effects.


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_tensor_is_saved_for_the_backward_pass(rule):
    current = rand(9, 2, 3, 5, 7).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        psc = tsslbp.lif(current, rule=rule, **CONSTANTS)
    assert saved == [current.numel()]
    psc.sum().backward()
    assert current.grad.abs().sum() > 0


def test_inputs_are_left_alone():
    current, error = rand(6, 5), rand(6, 5, seed=1)
    for rule in RULES:
        forward_and_gradient(current, error, rule)
        assert torch.equal(current, rand(6, 5))
        assert torch.equal(error, rand(6, 5, seed=1))


def test_no_graph_without_need():
    assert not tsslbp.lif(rand(6, 5), **CONSTANTS).requires_grad
    with torch.no_grad():
        assert not tsslbp.lif(rand(6, 5).requires_grad_(), **CONSTANTS).requires_grad


def test_second_derivatives_are_refused_and_not_wrong():
    current = rand(6, 5).requires_grad_()
    (delta,) = torch.autograd.grad(tsslbp.lif(current, **CONSTANTS).square().sum(), current, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        delta.sum().backward()


# Time and batch.


@given(current=currents, data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_future_does_not_change_the_past(current, data):
    step = data.draw(st.integers(0, len(current) - 1))
    changed = current.clone()
    changed[step:] = data.draw(st.floats(-3, 4))
    before, after = (tsslbp.lif(x, **CONSTANTS) for x in (current, changed))
    assert torch.equal(before[:step], after[:step])


def test_a_change_is_seen_from_its_step_on():
    current = torch.zeros(8)
    changed = current.clone()
    changed[3] = 2
    assert (tsslbp.lif(changed, **CONSTANTS) != tsslbp.lif(current, **CONSTANTS)).tolist() == [False] * 3 + [True] * 5


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_samples_do_not_see_each_other(rule):
    current, error = rand(12, 5, 7, dtype=torch.float64), rand(12, 5, 7, seed=1, dtype=torch.float64)
    psc, delta = forward_and_gradient(current, error, rule)
    for b in range(5):
        alone = forward_and_gradient(current[:, b : b + 1], error[:, b : b + 1], rule)
        torch.testing.assert_close(psc[:, b : b + 1], alone[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(delta[:, b : b + 1], alone[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [*RULES, TSSL(fallback="rate")], ids=repr)
def test_the_same_call_gives_the_same_bits(rule):
    current, error = rand(30, 33, 65), rand(30, 33, 65, seed=1)
    first, second = (forward_and_gradient(current, error, rule) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


# Errors.


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"tau_m": 0.99}, "tau_m is 0.99; a time constant is in steps and at least 1"),
        ({"tau_m": -3}, "tau_m is -3"),
        ({"tau_m": math.nan}, "tau_m is nan"),
        ({"tau_s": 0}, "tau_s is 0"),
        ({"tau_s": math.nan}, "tau_s is nan"),
        ({"tau_s": math.inf}, "tau_s is infinite"),
        ({"threshold": 0}, "threshold is 0; it must be positive"),
        ({"threshold": -1.0}, "threshold is -1.0"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"threshold": math.inf}, "threshold is inf"),
    ],
)
def test_impossible_constants(constants, message):
    with pytest.raises(UserError, match=message) as error:
        tsslbp.lif(torch.ones(3, 2), **{**CONSTANTS, **constants})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message):
        LIF(**{**CONSTANTS, **constants})


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (torch.empty(0, 3), r"\[0, 3\].*\[T, ...\] with T at least 1"),
        (torch.tensor(1.0), r"shape \[\].*time first"),
        (torch.ones(3, 2, dtype=torch.int64), "current is torch.int64; it must be floating point"),
        (torch.ones(3, 2, dtype=torch.bool), "torch.bool"),
        (torch.ones(3, 2, dtype=torch.complex64), "torch.complex64"),
    ],
    ids=["no steps", "no time axis", "int", "bool", "complex"],
)
def test_impossible_currents(current, message):
    with pytest.raises(UserError, match=message) as error:
        tsslbp.lif(current, **CONSTANTS)
    assert "\n" not in str(error.value)


def test_user_errors_are_value_errors():
    assert issubclass(UserError, ValueError)
