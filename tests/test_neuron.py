"""The neuron's forward pass and the contract of ``lif``: shapes, types, memory, causality, errors."""

import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shared import every_backend, fails

import tsslbp
from tsslbp import TSSL, EventProp, Surrogate, UserError
from tsslbp.encoding import Constant
from tsslbp.functional import neurons
from tsslbp.kernels import Pool
from tsslbp.layers import Linear
from tsslbp.neuron import LIF, kept, membrane_potential, postsynaptic_current, spikes, spikes_from_psc, synapse

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


def forward_and_gradient(current, error, rule=None, backend="auto"):
    current = current.detach().requires_grad_()
    psc = tsslbp.lif(current, rule=rule, backend=backend, **CONSTANTS)
    psc.backward(error)
    return psc.detach(), current.grad


# The equations.


@every_backend
@given(current=currents, tau_m=taus | st.just(math.inf), tau_s=taus, threshold=st.just(1.0) | st.floats(0.05, 3))
@settings(max_examples=100, deadline=None)
def test_forward_matches_the_oracle(current, tau_m, tau_s, threshold, backend):
    neuron = LIF(tau_m, tau_s, threshold)
    u = membrane_potential(current, neuron)
    s = spikes(u, neuron)
    psc = tsslbp.lif(current, tau_m=tau_m, tau_s=tau_s, threshold=threshold, backend=backend)
    for n, column in enumerate(current.T.tolist()):
        expected_u, expected_s = oracle.potentials(column, tau_m, threshold)
        assert u[:, n].tolist() == pytest.approx(expected_u, rel=1e-12, abs=1e-12)
        assert s[:, n].tolist() == expected_s
        assert psc[:, n].tolist() == pytest.approx(oracle.postsynaptic(expected_s, tau_s), rel=1e-12, abs=1e-12)


@every_backend
def test_the_threshold_is_strict_and_the_reset_is_to_zero(backend):
    current = torch.tensor([1.0, 0.2000001, 0.0, 5.0, 0.0])
    neuron = LIF(tau_m=5, tau_s=1)
    assert membrane_potential(current, neuron).tolist() == pytest.approx([1.0, 1.0000001, 0.0, 5.0, 0.0])
    assert tsslbp.lif(current, tau_m=5, tau_s=1, backend=backend).tolist() == [0, 1, 0, 1, 0]


@given(train=currents, tau_s=taus)
@settings(max_examples=50, deadline=None)
def test_synapse_is_a_sum_over_its_kernel(train, tau_s):
    psc = synapse(train, tau_s)
    for n, column in enumerate(train.T.tolist()):
        assert psc[:, n].tolist() == pytest.approx(oracle.postsynaptic(column, tau_s), rel=1e-12, abs=1e-12)


@given(
    shape=st.sampled_from([(1,), (6,), (5, 3), (4, 2, 3)]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64]),
    tau_s=st.sampled_from([1.0, 3.0]) | st.floats(1, 20),
    goes_on=st.booleans(),
)
def test_without_a_gradient_the_synapse_is_the_same_bit_for_bit(shape, dtype, tau_s, goes_on):
    train = (torch.rand(shape) < 0.5).to(dtype)
    before = torch.rand(shape[1:], requires_grad=True) if goes_on else None
    made = synapse(train, tau_s, None if before is None else before.detach())
    expected = synapse(train.clone().requires_grad_() if train.is_floating_point() else train, tau_s, before)
    if not goes_on and not train.is_floating_point():
        expected = synapse(train.float().requires_grad_(), tau_s)
    assert made.dtype == expected.dtype
    assert torch.equal(made, expected)
    assert not made.requires_grad


def test_synapse_passes_all_of_a_spike():
    impulse = torch.zeros(400, dtype=torch.float64)
    impulse[0] = 1
    for tau_s in (1, 2.5, 10):
        assert synapse(impulse, tau_s).sum().item() == pytest.approx(1, abs=1e-12)


@every_backend
@given(current=currents, tau_s=taus)
@settings(max_examples=50, deadline=None)
def test_spikes_from_psc_undoes_the_synapse(current, tau_s, backend):
    torch.testing.assert_close(spikes_from_psc(synapse(current, tau_s), tau_s), current, rtol=1e-10, atol=1e-12)
    fired = spikes(membrane_potential(current, LIF(5, tau_s)), LIF(5, tau_s))
    psc = tsslbp.lif(current, tau_m=5, tau_s=tau_s, backend=backend)
    torch.testing.assert_close(tsslbp.spikes_from_psc(psc, tau_s), fired, rtol=0, atol=1e-12)


@every_backend
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype, rule, backend):
    current, error = rand(20, 8).to(dtype), rand(20, 8, seed=1)
    psc, delta = forward_and_gradient(current, error, rule, backend=backend)
    single_psc, single_delta = forward_and_gradient(current.float(), error, rule, backend=backend)
    assert psc.dtype == torch.float32
    assert torch.equal(psc, single_psc)
    assert delta.dtype == dtype
    assert torch.equal(delta, single_delta.to(dtype))


# Memory and side effects.


@every_backend
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_one_tensor_is_saved_for_the_backward_pass(rule, backend):
    current = rand(9, 2, 3, 5, 7).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        psc = tsslbp.lif(current, rule=rule, **CONSTANTS, backend=backend)
    assert saved == [current.numel()]
    psc.sum().backward()
    assert current.grad.abs().sum() > 0


@every_backend
def test_inputs_are_left_alone(backend):
    current, error = rand(6, 5), rand(6, 5, seed=1)
    for rule in RULES:
        forward_and_gradient(current, error, rule, backend=backend)
        assert torch.equal(current, rand(6, 5))
        assert torch.equal(error, rand(6, 5, seed=1))


@every_backend
def test_no_graph_without_need(backend):
    assert not tsslbp.lif(rand(6, 5), **CONSTANTS, backend=backend).requires_grad
    with torch.no_grad():
        assert not tsslbp.lif(rand(6, 5).requires_grad_(), **CONSTANTS, backend=backend).requires_grad


@every_backend
def test_second_derivatives_are_refused_and_not_wrong(backend):
    current = rand(6, 5).requires_grad_()
    for loss in (lambda psc: psc.square().sum(), lambda psc: psc.sum()):  # the error depends on the current, or not
        psc = tsslbp.lif(current, **CONSTANTS, backend=backend)
        with pytest.raises(UserError, match="has no derivative of its own; leave out create_graph=True"):
            torch.autograd.grad(loss(psc), current, create_graph=True)


@every_backend
def test_a_batch_of_errors_is_refused_with_the_way_out(backend):
    current = rand(6, 5).requires_grad_()
    psc = tsslbp.lif(current, **CONSTANTS, backend=backend)
    errors = rand(2, 6, 5)
    for batched in (
        lambda: torch.autograd.grad(psc, current, errors, is_grads_batched=True),
        lambda: torch.func.vmap(lambda error: torch.autograd.grad(psc, current, error, retain_graph=True))(errors),
    ):
        with pytest.raises(UserError, match="take one error at a time; leave out is_grads_batched=True and vmap"):
            batched()


# Constant currents.


@every_backend
@pytest.mark.parametrize("rule", [*RULES, TSSL(fallback="rate")], ids=repr)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 5, 4), (0, 3)], ids=str)
def test_a_constant_current_is_its_expansion(shape, rule, backend):
    value, response = 2 * rand(*shape, dtype=torch.float64), torch.linspace(0.3, 1, 7, dtype=torch.float64)
    error = rand(7, *shape, seed=1, dtype=torch.float64)

    def run(make):
        leaf = value.clone().requires_grad_()
        psc = tsslbp.lif(make(Constant(leaf, response)), rule=rule, backend=backend, **CONSTANTS)
        return psc.detach(), *torch.autograd.grad(psc, leaf, error)

    (psc, delta), (expected_psc, expected) = run(lambda x: x), run(Constant.expand)
    assert psc.shape == (7, *shape)
    torch.testing.assert_close(psc, expected_psc, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(tsslbp.lif(Constant(value, response), backend=backend, **CONSTANTS), psc)


@every_backend
@pytest.mark.parametrize("response", [torch.empty(0), torch.ones(3, 2), torch.tensor(1.0)], ids=str)
def test_impossible_gain(response, backend):
    with pytest.raises(UserError, match=r"response of a constant current has shape .*\[T\] with T at least 1"):
        tsslbp.lif(Constant(torch.ones(4), response), backend=backend, **CONSTANTS)


# Time and batch.


@every_backend
@given(current=currents, data=st.data())
@settings(max_examples=50, deadline=None)
def test_the_future_does_not_change_the_past(current, data, backend):
    step = data.draw(st.integers(0, len(current) - 1))
    changed = current.clone()
    changed[step:] = data.draw(st.floats(-3, 4))
    before, after = (tsslbp.lif(x, **CONSTANTS, backend=backend) for x in (current, changed))
    assert torch.equal(before[:step], after[:step])


@every_backend
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_samples_do_not_see_each_other(rule, backend):
    current, error = rand(12, 5, 7, dtype=torch.float64), rand(12, 5, 7, seed=1, dtype=torch.float64)
    psc, delta = forward_and_gradient(current, error, rule, backend=backend)
    for b in range(5):
        alone = forward_and_gradient(current[:, b : b + 1], error[:, b : b + 1], rule, backend=backend)
        torch.testing.assert_close(psc[:, b : b + 1], alone[0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(delta[:, b : b + 1], alone[1], rtol=1e-12, atol=1e-14)


# Errors.


@every_backend
@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"tau_m": torch.nn.Parameter(torch.tensor(0.5))}, "tau_m is 0.5; a time constant is in steps and at least 1"),
        ({"tau_s": torch.tensor([3.0, math.nan])}, "tau_s is nan"),
        ({"tau_s": torch.tensor([3.0, math.inf])}, "tau_s is infinite"),
        ({"threshold": torch.tensor([1.0, 0.0])}, "threshold is 0.0; it must be positive"),
        ({"tau_m": torch.tensor(5)}, r"tau_m is a tensor of torch.int64; it must be floating point"),
        ({"tau_m": True}, "tau_m is True; it must be a plain number or a tensor"),
        ({"tau_m": "5"}, "tau_m is '5'; it must be a plain number"),
        ({"tau_s": None}, r"tau_s is of type NoneType; it must be a plain number"),
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
def test_impossible_constants(constants, message, backend):
    with fails(message):
        tsslbp.lif(torch.ones(3, 2), **{**CONSTANTS, **constants}, backend=backend)
    with pytest.raises(UserError, match=message):
        LIF(**{**CONSTANTS, **constants})


def test_constants_may_be_any_real_number():
    current = rand(6, 5)
    numbers = {"tau_m": np.float32(5), "tau_s": np.int64(3), "threshold": Fraction(1)}
    assert torch.equal(tsslbp.lif(current, **numbers), tsslbp.lif(current, **CONSTANTS))


@every_backend
@pytest.mark.parametrize(
    ("current", "message"),
    [
        (np.ones((3, 2)), r"current is of type ndarray; it must be a torch.Tensor, which torch.as_tensor makes of an array"),
        ([[1.0]], r"current is of type list; it must be a torch.Tensor"),
        (torch.empty(0, 3), r"\[0, 3\].*\[T, ...\] with T at least 1"),
        (torch.tensor(1.0), r"shape \[\].*time first"),
        (torch.ones(3, 2, dtype=torch.int64), "current is torch.int64; it must be floating point"),
        (torch.ones(3, 2, dtype=torch.bool), "torch.bool"),
        (torch.ones(3, 2, dtype=torch.complex64), "torch.complex64"),
    ],
    ids=["array", "list", "no steps", "no time axis", "int", "bool", "complex"],
)
def test_impossible_currents(current, message, backend):
    with fails(message):
        tsslbp.lif(current, **CONSTANTS, backend=backend)


def test_without_a_reset_the_membrane_is_a_filter_of_the_current():
    neuron, current = LIF(4.0, 3.0, reset=False), rand(30, 5, dtype=torch.float64)
    weights = torch.tensor([[0.75 ** (t - k) if k <= t else 0.0 for k in range(30)] for t in range(30)], dtype=torch.float64)
    membrane = membrane_potential(current, neuron)
    torch.testing.assert_close(membrane, weights @ current)
    assert torch.equal(kept(membrane, neuron), membrane)
    assert spikes(membrane, neuron).sum() > spikes(membrane_potential(current, LIF(4.0, 3.0)), LIF(4.0, 3.0)).sum()


@pytest.mark.parametrize("rule", [TSSL(fallback="never"), Surrogate(through_reset=True), EventProp(clip=8.0)], ids=str)
def test_without_a_reset_a_rule_hands_its_gradient_back_through_that_filter(rule):
    """What a step adds to the gradient carried back by the membrane is the rule's for that step alone."""
    neuron, error = LIF(4.0, 3.0, reset=False), rand(30, 5, seed=1, dtype=torch.float64)
    membrane = membrane_potential(rand(30, 5, dtype=torch.float64), neuron)
    found = rule.current_gradient(error, membrane, neuron)
    own = found - neuron.membrane_decay * torch.cat([found[1:], torch.zeros_like(found[:1])])
    e = torch.zeros_like(error)
    for t in reversed(range(30)):
        e[t] = error[t] / 3 + (2 / 3 * e[t + 1] if t < 29 else 0)
    if isinstance(rule, Surrogate):
        torch.testing.assert_close(own, e / (1 + (10 * (membrane - 1)).abs()) ** 2)
        return
    rise = membrane - torch.cat([torch.zeros(1, 5, dtype=torch.float64), membrane[:-1]])
    crossing = (membrane > 1) & (rise > 0)
    assert 0 < crossing.sum() < (membrane > 1).sum()  # a spike on the way down has no time that a push could move
    assert own[~crossing].abs().max() < 1e-12
    if isinstance(rule, TSSL):
        torch.testing.assert_close(own[crossing], ((1 / rise).clamp(max=8) * e)[crossing])
    else:
        assert (own[crossing].abs() > 1e-9).all()


@pytest.mark.parametrize("backend", ["cpp", "triton"])
def test_only_the_reference_computes_neurons_without_a_reset(backend):
    current, neuron = rand(6, 4), LIF(4.0, 3.0, reset=False)
    with pytest.raises(UserError, match="only the reference computes neurons without a reset"):
        neurons(current, neuron, TSSL(), backend)
    (psc, _), (reference, _) = (neurons(current, neuron, TSSL(), backend) for backend in ("auto", "reference"))
    assert torch.equal(psc, reference)
    with pytest.raises(UserError, match="reset is 1; it must be True or False"):
        LIF(4.0, 3.0, reset=1)


# What cannot be computed is refused, not wrong.


TRANSFORMS = {
    "vmap": lambda f, x: torch.func.vmap(f, in_dims=1)(x),
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x: torch.func.hessian(f)(x),
}


@every_backend
@pytest.mark.parametrize("operand", ["current", "value", "response", "state"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_functions_are_refused(transform, operand, backend):
    f, x = call_on(operand, backend)
    with fails(r"cannot go through torch.func .* loop over samples"):
        TRANSFORMS[transform](f, x)


@every_backend
@pytest.mark.parametrize("operand", ["current", "value", "response", "state"])
def test_forward_mode_is_refused(operand, backend):
    f, x = call_on(operand, backend)
    expected = f(x)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(f(x), expected)  # without a tangent it is nothing special
        with pytest.raises(UserError, match="no forward-mode derivative; call backward"):
            f(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))


def call_on(operand, backend):
    """A scalar function of one operand of the neurons, and where to call it."""
    current, arguments = rand(6, 5), {**CONSTANTS, "backend": backend}
    if operand == "current":
        return lambda x: tsslbp.lif(x, **arguments).sum(), current
    if operand == "value":
        return lambda x: tsslbp.lif(Constant(x, torch.ones(6)), **arguments).sum(), current
    if operand == "response":
        return lambda x: tsslbp.lif(Constant(current, x.flatten()[:6]), **arguments).sum(), current
    return lambda x: tsslbp.lif_part(current, torch.zeros(2, 5) + x.flatten()[0], **arguments)[0].sum(), current


def test_a_time_constant_is_checked_under_transforms_too():
    for tau_s in (0.5, torch.tensor(0.5)):
        with fails("tau_s is 0.5; a time constant is in steps and at least 1"):
            torch.func.vmap(lambda train, tau_s=tau_s: synapse(train, tau_s))(torch.ones(2, 3, 4))
    with fails("tau_m is 0.5"):
        torch.func.grad(lambda x: (LIF(torch.tensor(0.5), 3.0), x.sum())[1])(torch.ones(2))
    with fails("tau_s is 0.5"):
        torch.func.grad(lambda tau_s: synapse(torch.ones(3, 4), tau_s).sum())(torch.tensor(0.5))


def test_a_functional_call_is_no_transform():
    layer, x = Linear(5, 3, neuron=LIF(5, 3)), rand(6, 2, 5)
    weight = layer.weight.detach().clone().requires_grad_()
    torch.func.functional_call(layer, {"weight": weight}, (x,)).sum().backward()
    layer(x).sum().backward()
    assert torch.equal(weight.grad, layer.weight.grad)
    assert weight.grad.any()


@every_backend
@pytest.mark.parametrize("form", ["sequence", "constant", "pooled", "half", "channels last", "one axis", "with a state"])
def test_the_output_may_be_changed_in_place(form, backend):
    images = rand(4, 2, 3, 5, 4, dtype=torch.float64)
    if form == "channels last":
        images = images.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    x = {"one axis": 2 + images[:, 0, 0, 0, 0], "half": images.bfloat16()}.get(form, images).clone().requires_grad_()
    response, pool = torch.linspace(0.4, 1, 4, dtype=torch.float64), Pool(2, 1.1) if form == "pooled" else None
    state = torch.zeros_like(images[:2], requires_grad=True) if form == "with a state" else None

    def run():
        current = Constant(x[0], response) if form == "constant" else x
        return neurons(current, LIF(**CONSTANTS), TSSL(), backend, pool, form == "half", state)

    psc, after = run()
    (expected,) = torch.autograd.grad((3 * psc).sum(), x)
    assert psc.count_nonzero() > 0
    psc, after = run()
    assert torch.equal(psc.mul_(3), 3 * run()[0])
    torch.testing.assert_close(torch.autograd.grad(psc.sum(), x, retain_graph=True)[0], expected)
    if after is not None:
        (carried,) = torch.autograd.grad(run()[1].sum(), state)
        torch.testing.assert_close(torch.autograd.grad(after.mul_(2).sum(), state)[0], 2 * carried)
    with torch.no_grad():
        assert torch.equal(run()[0].mul_(3), psc)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_nan_shows(dtype, backend):
    """From the step on in which it comes in, in the neuron that it comes to; with a state, in all parts that follow."""
    current = rand(9, 50).to(dtype)
    clean = tsslbp.lif(current, backend=backend, **CONSTANTS)
    current[4, ::3] = math.nan
    expected = clean.clone()
    expected[4:, ::3] = math.nan
    torch.testing.assert_close(tsslbp.lif(current, backend=backend, **CONSTANTS), expected, rtol=0, atol=0, equal_nan=True)
    leaf = current.clone().requires_grad_()
    torch.testing.assert_close(
        tsslbp.lif(leaf, backend=backend, **CONSTANTS).detach(), expected, rtol=0, atol=0, equal_nan=True
    )
    state = torch.zeros(2, 50, dtype=expected.dtype)
    for steps in (slice(0, 5), slice(5, 9)):
        psc, state = tsslbp.lif_part(current[steps], state, backend=backend, **CONSTANTS)
        torch.testing.assert_close(psc, expected[steps], rtol=0, atol=0, equal_nan=True)
    assert tsslbp.lif(torch.full((3, 4), math.nan), backend=backend, **CONSTANTS).isnan().all()
    value = torch.full((4,), math.nan)
    assert tsslbp.lif(Constant(value, torch.ones(3)), backend=backend, **CONSTANTS).isnan().all()


@every_backend
@pytest.mark.parametrize("half", [False, True])
def test_nan_shows_in_the_window_it_is_pooled_in(half, backend):
    current = rand(4, 2, 3, 5, 6)
    current[2, 1, 2, 3, 4] = math.nan
    psc, _ = neurons(current, LIF(**CONSTANTS), TSSL(), backend, Pool(2, 1.1), half)
    expected = torch.zeros(4, 2, 3, 2, 3, dtype=torch.bool)
    expected[2:, 1, 2, 1, 2] = True
    assert torch.equal(psc.isnan(), expected)
    whole, _ = neurons(current.nan_to_num(0.0), LIF(**CONSTANTS), TSSL(), backend, Pool(2, 1.1), half)
    assert torch.equal(psc[~expected], whole[~expected])


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("before", [torch.ones(3), torch.ones(4, 2), torch.ones(2, dtype=torch.int64), 1.0])
def test_a_current_before_that_is_of_no_step_is_refused(before, gradient):
    for make in (synapse, spikes_from_psc):
        with pytest.raises(UserError, match=r"before is .*; it must be"):
            make(torch.ones(3, 2, requires_grad=gradient), 2.0, before)


@every_backend
def test_an_infinite_current_is_no_nan_before_the_step_after(backend):
    current = torch.zeros(3, 2)
    current[1] = torch.tensor([math.inf, -math.inf])
    psc = tsslbp.lif(current, tau_m=5, tau_s=1, backend=backend)
    torch.testing.assert_close(psc, torch.tensor([[0.0, 0.0], [1.0, 0.0], [math.nan, 0.0]]), equal_nan=True)
    membrane = membrane_potential(current, LIF(5, 1))
    torch.testing.assert_close(psc, postsynaptic_current(membrane, LIF(5, 1)), equal_nan=True)


def test_a_state_that_is_no_tensor():
    with pytest.raises(UserError, match=r"state is of type ndarray; it must be a torch.Tensor"):
        tsslbp.lif_part(rand(6, 5), np.zeros((2, 5)), **CONSTANTS)


@pytest.mark.parametrize("tau_s", [1, 1.0, 3, 3.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64], ids=str)
def test_trains_of_whole_numbers_become_currents(dtype, tau_s):
    train = torch.rand(5, 2, 3) < 0.3
    current = synapse(train.to(dtype), tau_s)
    assert current.dtype == torch.float32
    torch.testing.assert_close(current, synapse(train.float(), tau_s))


@pytest.mark.parametrize("wrong", [0.9, 0.0, -1.0, math.nan, "3"])
def test_a_time_constant_below_1_is_refused(wrong):
    """Who passes a decay, as other libraries take it, would get other currents."""
    for compute in (synapse, spikes_from_psc):
        with pytest.raises(UserError, match=r"^tau_s is "):
            compute(torch.rand(4, 3), wrong)
    with pytest.raises(UserError, match=r"^tau_s is "):
        tsslbp.losses.RateBounds(wrong, 0.1, 0.2)


def test_trains_that_are_no_tensors_are_refused():
    with pytest.raises(UserError, match=r"train is of type ndarray; it must be a torch.Tensor, which torch.as_tensor makes of"):
        synapse(np.ones((3, 2)), 3)
    with pytest.raises(UserError, match=r"psc is of type list; it must be a torch.Tensor"):
        spikes_from_psc([0.5], 3)
