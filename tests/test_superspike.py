"""SuperSpike: its traces against convolutions written out, its updates against autograd through the van Rossum loss."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import assert_same, fails

from tsslbp import UserError
from tsslbp.rivals import superspike
from tsslbp.rivals.superspike import DoubleExponential, Layer, SuperSpike, episode, feedback_weights, rmaxprop

FEEDBACK = ["symmetric", "random", "uniform"]


def kernel(steps, rule):
    """α, ``[T]``, as the closed form of the double exponential, divided by its own infinite sum."""
    rise, decay = math.exp(-1 / rule.tau_syn), math.exp(-1 / rule.tau_mem)
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    return (decay**k - rise**k) / (decay / (1 - decay) - rise / (1 - rise))


def convolved(x, rule):
    """``α*x`` over the first axis, as a sum over all earlier steps."""
    alpha = kernel(len(x), rule)
    return torch.stack([sum(alpha[t - s] * x[s] for s in range(t + 1)) for t in range(len(x))])


def simulated(inputs, weight, rule):
    """Potentials and spikes from the differential form: synaptic current, leaky membrane, hard reset, rest."""
    rise, decay = math.exp(-1 / rule.tau_syn), math.exp(-1 / rule.tau_mem)
    current = u = torch.zeros(inputs.shape[1], len(weight), dtype=inputs.dtype)
    last = torch.full_like(u, -math.inf)
    potentials, fired = [], []
    for t, x in enumerate(inputs):
        current = rise * current + (1 - rise) * x @ weight.T
        u = decay * torch.where(last == t - 1, 0, u) + (1 - decay) * current
        u = torch.where(t - last <= rule.refractory, 0, u)
        last = torch.where(u > rule.threshold, t, last)
        potentials.append(u)
        fired.append((u > rule.threshold).to(u))
    return torch.stack(potentials), torch.stack(fired)


def slope(u, rule):
    return rule.beta / (1 + (rule.beta * (u - rule.threshold)).abs()).square()


def case(sizes, seed=0, steps=60, batch=2):
    generator = torch.Generator().manual_seed(seed)
    inputs = (torch.rand(steps, batch, sizes[0], generator=generator) < 0.1).double()
    target = (torch.rand(steps, batch, sizes[-1], generator=generator) < 0.05).double()
    weights = [12 * torch.randn(b, a, generator=generator, dtype=torch.float64) / a**0.5 for a, b in pairwise(sizes)]
    return inputs, target, weights


@given(rise=st.floats(0.3, 30), decay=st.floats(0.3, 30))
def test_kernel_has_unit_sum(rise, decay):
    alpha, impulse = DoubleExponential(rise, decay), torch.zeros(2000, dtype=torch.float64)
    impulse[0] = 1
    response = [alpha(x).item() for x in impulse]
    assert min(response) >= 0
    assert math.fsum(response) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("rule", [SuperSpike(), SuperSpike(tau_mem=4, tau_syn=9)])
def test_kernel_is_the_double_exponential(rule):
    x = torch.randn(50, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha = rule.filter()
    assert_same(torch.stack([alpha(x_t) for x_t in x]), convolved(x, rule))


@given(seed=st.integers(0, 10**6), refractory=st.integers(0, 6), taus=st.tuples(st.floats(1, 20), st.floats(1, 20)))
def test_neuron_is_leaky_integrate_and_fire_with_a_synaptic_current_and_hard_reset(seed, refractory, taus):
    inputs, target, weights = case([5, 3], seed)
    rule = SuperSpike(tau_mem=taus[0], tau_syn=taus[1], refractory=refractory)
    _, fired = simulated(inputs, weights[0], rule)
    assert torch.equal(episode(inputs, target, weights, rule).spikes, fired)


def test_eligibility_trace_is_the_convolution_written_out():
    rule = SuperSpike(refractory=3)
    inputs, _, (weight,) = case([5, 3])
    u, fired = simulated(inputs, weight, rule)
    assert 5 < fired.sum() < 0.3 * fired.numel()
    theirs = convolved(slope(u, rule).unsqueeze(3) * convolved(inputs, rule).unsqueeze(2), rule)
    layer, ours = Layer(weight, rule), []
    for x in inputs:
        layer.step(x)
        ours.append(layer.eligibility)
    assert_same(torch.stack(ours), theirs)


class Spike(torch.autograd.Function):
    """A step forward, the derivative of the fast sigmoid backward."""

    @staticmethod
    def forward(ctx, u, rule):
        ctx.save_for_backward(u)
        ctx.rule = rule
        return (u > rule.threshold).to(u)

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return gradient * slope(u, ctx.rule), None


@pytest.mark.parametrize("refractory", [0, 3])
def test_single_layer_ascends_the_surrogate_gradient_of_the_van_rossum_distance(refractory):
    rule = SuperSpike(refractory=refractory)
    inputs, target, (weight,) = case([6, 3])
    leaf = weight.clone().requires_grad_()
    free = convolved(inputs, rule) @ leaf.T
    potential, _ = simulated(inputs, weight, rule)
    u = free - (free.detach() - potential)  # the reset is a number, not a function of the weights
    loss = 0.5 * convolved(target - Spike.apply(u, rule), rule).square().sum()
    loss.backward()
    ours = episode(inputs, target, [weight], rule)
    assert ours.loss == pytest.approx(loss.item(), rel=1e-12)
    assert_same(ours.ascent[0], -leaf.grad)


@pytest.mark.parametrize("kind", FEEDBACK)
def test_hidden_layer_learns_from_the_error_fed_back(kind):
    rule = SuperSpike()
    inputs, target, weights = case([6, 4, 3])
    feedback = feedback_weights(kind, weights[1], torch.Generator().manual_seed(1))
    by_hand = {"symmetric": weights[1].T, "uniform": torch.ones(4, 3, dtype=torch.float64), "random": feedback}[kind]
    ours = episode(inputs, target, weights, rule, feedback)
    hidden_u, hidden = simulated(inputs, weights[0], rule)
    output_u, output = simulated(hidden, weights[1], rule)
    assert hidden.sum() > 5
    assert torch.equal(ours.spikes, output)
    error = convolved(target - output, rule)
    layers = [(inputs, hidden_u, error @ by_hand.T), (hidden, output_u, error)]
    for ascent, (pre, u, wrong) in zip(ours.ascent, layers, strict=True):
        traces = convolved(slope(u, rule).unsqueeze(3) * convolved(pre, rule).unsqueeze(2), rule)
        assert_same(ascent, torch.einsum("tbi,tbij->ij", wrong, traces))


def test_feedback_weights():
    readout = torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric, random, again, uniform = (
        feedback_weights(kind, readout, torch.Generator().manual_seed(1))
        for kind in ("symmetric", "random", "random", "uniform")
    )
    readout += 1
    assert torch.equal(symmetric, readout.T)  # also after a step in place
    assert random.shape == (50, 40)
    assert random.dtype == readout.dtype
    assert random.mean().item() == pytest.approx(0, abs=0.1)
    assert random.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(random, again)
    assert torch.equal(uniform, torch.ones(50, 40, dtype=torch.float64))
    with pytest.raises(UserError, match="did you mean 'uniform'"):
        feedback_weights("unifrom", readout, torch.Generator())


def test_rmaxprop_divides_by_the_leaky_maximum():
    ascent = torch.tensor([2.0, -3.0, 0.0], dtype=torch.float64)
    step, peak = rmaxprop(ascent, 0.0, 0.1, 0.5)
    torch.testing.assert_close(step, torch.tensor([0.1, -0.1, 0.0], dtype=torch.float64))
    torch.testing.assert_close(peak, ascent.square())
    step, peak = rmaxprop(torch.tensor([1.0, 9.0, 1.0], dtype=torch.float64), peak, 0.1, 0.5)
    torch.testing.assert_close(peak, torch.tensor([2.0, 81.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(step, torch.tensor([0.1 / 2**0.5, 0.1, 0.1], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_input(dtype):
    inputs, target, weights = case([6, 4, 3], steps=5)
    weights = [w.to(dtype) for w in weights]
    weights = [torch.nn.Parameter(w) for w in weights]  # autograd has no part in it, whatever the weights are
    trial = episode(inputs.to(dtype), target.to(dtype), weights, SuperSpike(), weights[1].T)
    assert {(x.dtype, x.requires_grad) for x in (trial.spikes, *trial.ascent)} == {(dtype, False)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau_mem": 0}, "tau_mem is 0; it must be positive"),
        ({"tau_syn": math.inf}, "tau_syn is inf"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"beta": -1}, "beta is -1"),
        ({"refractory": -1}, "refractory is -1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with fails(message):
        SuperSpike(**changes)


def test_shapes_that_do_not_fit_are_refused():
    inputs, target, weights = case([6, 4, 3], steps=5)
    feedback = weights[1].T
    for arguments, message in [
        ((inputs, target, weights), "one weight, or two and the feedback"),
        ((inputs, target, weights[:1], SuperSpike(), feedback), "one weight, or two and the feedback"),
        ((inputs[0], target, weights, SuperSpike(), feedback), r"\[T, B, n_in\]"),
        ((inputs, target[1:], weights, SuperSpike(), feedback), r"\[T, B, n_in\]"),
        ((inputs[..., 1:], target, weights, SuperSpike(), feedback), "has 6 inputs; the layer below has 5"),
        ((inputs, target, weights, SuperSpike(), weights[1]), r"feedback has shape \[3, 4\]; .* \[4, 3\]"),
    ]:
        with pytest.raises(UserError, match=message):
            episode(*arguments) if len(arguments) > 3 else episode(*arguments, SuperSpike())


def test_quick_experiment_learns_and_repeats_itself():
    assert superspike.experiment(seed=0, quick=True)["passed"]
    first, again = (superspike.five_spikes([10, 3, 2], "random", 30, 3, 1.0, seed=5) for _ in range(2))
    assert first == again


@pytest.mark.slow
def test_experiment():
    assert superspike.experiment()["passed"]
