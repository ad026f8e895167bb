"""e-prop: its traces against sums written out, its gradients against autograd through the network unrolled in time."""

import gc
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import assert_same, fails

from tsslbp import UserError
from tsslbp.rivals import eprop
from tsslbp.rivals.eprop import Network, Online, Weights, apply, cue_trials, initial, run

SIZES = [(4, 0), (0, 4), (3, 2)]  # LIF, ALIF


class Spike(torch.autograd.Function):
    """A step forward, a triangle backward; nothing either way while refractory."""

    @staticmethod
    def forward(ctx, above, ready, height, width):
        ctx.save_for_backward(above, ready)
        ctx.height, ctx.width = height, width
        return (above > 0) * ready

    @staticmethod
    def backward(ctx, gradient):
        above, ready = ctx.saved_tensors
        return gradient * ready * ctx.height / ctx.width * (1 - above.abs() / ctx.width).clamp(min=0), None, None, None


def unrolled(net, weights, inputs, local):
    """Readouts, spikes and ψ, ``[T, B, ...]``, differentiable; ``local`` cuts the paths through recurrent spikes and reset.

    The adaptation sees its own neuron's spike by another way than everybody else, so that the spikes' gradients leave it out.
    """
    w_in, w_rec = weights.hidden.split([net.inputs, net.neurons], 1)
    alpha, rho, kappa = (math.exp(-1 / tau) for tau in (net.tau_m, net.tau_a, net.tau_out))
    beta = torch.tensor([0.0] * net.lif + [net.beta] * net.alif, dtype=inputs.dtype)
    v = a = z = own = torch.zeros(inputs.shape[1], net.neurons, dtype=inputs.dtype)
    last = torch.full_like(v, -math.inf)
    y = torch.zeros(inputs.shape[1], net.outputs, dtype=inputs.dtype)
    ys, zs, psis = [], [], []
    for t, x in enumerate(inputs):
        sent = z.detach() if local else z
        v = alpha * v + x @ w_in.T + sent @ w_rec.T - net.threshold * sent
        a = rho * a + own
        above, ready = v - net.threshold - beta * a, (t - last > net.refractory).to(v)
        z, own = (Spike.apply(above, ready, net.damping, net.threshold) for _ in range(2))
        if z.requires_grad:
            z.retain_grad()
        last = torch.where(z > 0, t, last)
        y = kappa * y + z @ weights.readout.T
        ys.append(y)
        zs.append(z)
        psis.append(ready * net.damping / net.threshold * (1 - above.detach().abs() / net.threshold).clamp(min=0))
    return torch.stack(ys), zs, torch.stack(psis)


def case(lif, alif, seed=0, steps=30, batch=3, feedback="symmetric", **constants):
    generator = torch.Generator().manual_seed(seed)
    defaults = {"tau_m": 8.0, "tau_out": 5.0, "tau_a": 30.0, "beta": 0.3, "threshold": 0.6}
    net = Network(inputs=3, lif=lif, alif=alif, outputs=2, **{**defaults, **constants})
    weights = initial(net, feedback, generator, torch.float64)
    inputs = (torch.rand(steps, batch, 3, generator=generator) < 0.4).double()
    target = torch.randn(steps, batch, 2, generator=generator, dtype=torch.float64)
    return net, weights, inputs, target


def without_self(net, gradient):
    gradient = gradient.clone()
    gradient[:, net.inputs :].fill_diagonal_(0)
    return gradient


def differentiable(weights):
    return Weights(*(w.clone().requires_grad_() for w in weights))


@given(
    seed=st.integers(0, 10**6),
    sizes=st.sampled_from(SIZES),
    taus=st.tuples(*[st.floats(1, 50)] * 3),
    beta=st.floats(0, 1),
    refractory=st.integers(0, 3),
)
def test_symmetric_eprop_is_backpropagation_without_the_recurrent_paths(seed, sizes, taus, beta, refractory):
    constants = dict(zip(("tau_m", "tau_out", "tau_a"), taus, strict=True), beta=beta, refractory=refractory)
    net, weights, inputs, target = case(*sizes, seed=seed, steps=15, **constants)
    online, y = run(net, weights, inputs, lambda t, y: y - target[t])
    leaves = differentiable(weights)
    theirs, _, _ = unrolled(net, leaves, inputs, local=True)
    torch.testing.assert_close(y, theirs.detach(), rtol=1e-10, atol=1e-12)
    (0.5 * (theirs - target).square().sum()).backward()
    for ours, leaf in ((online.hidden, without_self(net, leaves.hidden.grad)), (online.readout, leaves.readout.grad)):
        torch.testing.assert_close(ours, leaf, rtol=1e-10, atol=1e-10 * max(1.0, leaf.abs().max().item()))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("refractory", [0, 2])
def test_traces_with_the_true_learning_signal_are_backpropagation_through_time(sizes, refractory):
    net, weights, inputs, target = case(*sizes, refractory=refractory)
    leaves = differentiable(weights)
    y, zs, _ = unrolled(net, leaves, inputs, local=False)
    (0.5 * (y - target).square().sum()).backward()
    online, ours = Online(net, weights, inputs.shape[1]), torch.zeros_like(weights.hidden)
    for x, z in zip(inputs, zs, strict=True):
        online.step(x)
        assert torch.equal(online.z, z.detach())
        ours += torch.einsum("bj,bji->ji", z.grad, online.e)
    assert_same(ours, leaves.hidden.grad)
    eprop_only, _ = run(net, weights, inputs, lambda t, y: y - target[t])
    assert not torch.allclose(eprop_only.hidden, without_self(net, ours), rtol=0.01)  # the recurrent paths matter


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_online_form_is_the_whole_sequence_form(sizes, feedback):
    net, weights, inputs, target = case(*sizes, feedback=feedback, refractory=1)
    online, y = run(net, weights, inputs, lambda t, y: y - target[t])
    _, zs, psi = unrolled(net, weights, inputs, local=True)
    z = torch.stack(zs)
    steps = torch.arange(len(inputs), dtype=torch.float64)
    ages = steps.unsqueeze(1) - steps

    def filtered(x, tau):
        return torch.einsum("ts,s...->t...", torch.where(ages >= 0, torch.exp(-ages / tau), 0), x)

    p_bar = filtered(torch.cat([inputs, torch.cat([torch.zeros_like(z[:1]), z[:-1]])], 2), net.tau_m)
    beta = torch.tensor([0.0] * net.lif + [net.beta] * net.alif, dtype=torch.float64).view(-1, 1)
    slow, traces = torch.zeros(*psi[0].shape, p_bar.shape[2], dtype=torch.float64), []
    for t in range(len(inputs)):
        psi_t = psi[t].unsqueeze(2)
        traces.append(psi_t * (p_bar[t].unsqueeze(1) - beta * slow))
        slow = psi_t * p_bar[t].unsqueeze(1) + (math.exp(-1 / net.tau_a) - psi_t * beta) * slow
    signal = (y - target) @ weights.feedback.T
    theirs = torch.einsum("tbj,tbji->ji", signal, filtered(torch.stack(traces), net.tau_out))
    assert_same(online.hidden, without_self(net, theirs))
    assert_same(online.readout, torch.einsum("tbk,tbj->kj", y - target, filtered(z, net.tau_out)))


def live_elements():
    return sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor)


def test_memory_does_not_grow_with_time():
    net, weights, inputs, target = case(3, 2, steps=200)
    online, after = Online(net, weights, inputs.shape[1]), {}
    stream = ((inputs[t].clone(), target[t].clone()) for t in range(len(inputs)))  # one step at a time, never the whole
    for t, (x, wanted) in enumerate(stream):
        online.learn(online.step(x) - wanted)
        if t in (2, 199):
            gc.collect()
            after[t] = live_elements()
    assert after[2] == after[199]


def test_a_batch_is_the_sum_of_its_trials():
    net, weights, inputs, target = case(3, 2)
    together, _ = run(net, weights, inputs, lambda t, y: y - target[t])
    alone = [run(net, weights, inputs[:, b : b + 1], lambda t, y, b=b: y - target[t, b])[0] for b in range(inputs.shape[1])]
    assert_same(together.hidden, sum(one.hidden for one in alone))
    assert_same(together.readout, sum(one.readout for one in alone))


@pytest.mark.parametrize("sizes", SIZES)
def test_rate_gradient_is_that_of_the_mean_rates_without_the_recurrent_paths(sizes):
    net, weights, inputs, _ = case(*sizes)
    leaves = differentiable(weights)
    _, zs, _ = unrolled(net, leaves, inputs, local=True)
    (0.5 * (torch.stack(zs).mean((0, 1)) - 0.05).square().sum()).backward()
    online, _ = run(net, weights, inputs, lambda t, y: None)
    assert_same(online.rate_gradient(0.05), without_self(net, leaves.hidden.grad))
    assert online.hidden.abs().sum() == online.readout.abs().sum() == 0


@pytest.mark.parametrize("refractory", [0, 1, 4])
def test_a_driven_neuron_fires_as_often_as_its_refractory_steps_allow(refractory):
    net = Network(inputs=1, lif=1, alif=0, outputs=1, refractory=refractory)
    weights = Weights(torch.tensor([[100.0, 0.0]]), torch.ones(1, 1), torch.ones(1, 1))
    online, fired = Online(net, weights, 1), []
    for _ in range(20):
        online.step(torch.ones(1, 1))
        fired.append(online.z.item())
    assert fired == [float(t % (refractory + 1) == 0) for t in range(20)]


def test_adaptation_raises_the_threshold_by_beta_and_forgets():
    net = Network(inputs=1, lif=1, alif=1, outputs=1, tau_m=1e-3, tau_a=10.0, beta=0.5, threshold=1.0)
    weights = Weights(torch.tensor([[1.4, 0, 0], [1.4, 0, 0]]), torch.ones(1, 2), torch.ones(2, 1))
    online, fired = Online(net, weights, 1), []
    for t in range(5):
        online.step(torch.full((1, 1), float(t != 1)))  # the membrane keeps nothing: a gap, and the reset is paid off
        fired.append(online.z[0].tolist())
    assert fired[0] == [1, 1]
    # At step t the adaptive neuron needs 1.4 > 1 + 0.5·exp(-(t - 1)/10), so t > 3.2; the plain one is held back for a
    # step by the reset of each spike and by nothing else.
    assert [adaptive for _, adaptive in fired[1:]] == [0, 0, 0, 1]
    assert [plain for plain, _ in fired[1:]] == [0, 1, 0, 1]


@pytest.mark.parametrize("feedback", ["symmetric", "random", "adaptive"])
def test_feedback(feedback):
    net, weights, inputs, target = case(3, 2, feedback=feedback)
    weights = Weights(*(torch.nn.Parameter(w) for w in weights))  # autograd has no part in it, whatever the weights are
    optimizer = torch.optim.SGD([weights.hidden, weights.readout], lr=1e-3)
    first = weights.feedback.detach().clone()
    assert torch.equal(first, weights.readout.T) == (feedback == "symmetric")
    apart = first - weights.readout.T
    for _ in range(20):
        before = weights.readout.detach().clone()
        online, _ = run(net, weights, inputs, lambda t, y: y - target[t])
        assert not online.hidden.requires_grad
        apply(optimizer, weights, online.hidden, online.readout, feedback)
        kept = 1 - eprop.DECAY if feedback == "adaptive" else 1
        assert_same(weights.readout, kept * before - 1e-3 * online.readout)
        assert weights.hidden[:, net.inputs :].diagonal().abs().max() == 0
    if feedback == "symmetric":
        assert torch.equal(weights.feedback, weights.readout.T)
    elif feedback == "random":
        assert torch.equal(weights.feedback, first)
    else:
        assert_same(weights.feedback - weights.readout.T, (1 - eprop.DECAY) ** 20 * apart)


def test_cue_trials():
    inputs, label = cue_trials(200, 5, 30, torch.Generator().manual_seed(0))
    assert inputs.shape == (5 * eprop.CUE + 30 + eprop.RECALL, 200, 40)
    groups = inputs.unflatten(2, (4, 10)).sum(3)
    sides = groups[: 5 * eprop.CUE, :, :2].unflatten(0, (5, eprop.CUE)).sum(1)
    assert (sides.min(2).values == 0).all()  # one side per cue
    assert torch.equal(label, ((sides[..., 1] > sides[..., 0]).sum(0) > 2).long())
    assert 60 < label.sum() < 140
    assert groups[5 * eprop.CUE :, :, :2].sum() == 0
    assert groups[: -eprop.RECALL, :, 2].sum() == 0
    assert groups[-eprop.RECALL :, :, 2].mean().item() == pytest.approx(10 * eprop.CUE_RATE, rel=0.1)
    assert groups[..., 3].mean().item() == pytest.approx(10 * eprop.CUE_RATE / 4, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lif": 0}, "at least"),
        ({"refractory": -1}, "no negative"),
        ({"tau_m": 0}, "tau_m is 0; it must be positive"),
        ({"threshold": math.inf}, "threshold is inf"),
        ({"beta": -1}, "beta is -1"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with fails(message):
        Network(**{"inputs": 1, "lif": 1, "alif": 0, "outputs": 1, **changes})


def test_bad_arguments_are_refused():
    net, weights, inputs, _ = case(1, 1)
    with pytest.raises(UserError, match=r"takes \[B, inputs\], \[3, 3\]"):
        Online(net, weights, 3).step(inputs[0, :2])
    with pytest.raises(UserError, match="did you mean 'adaptive'"):
        initial(net, "adaptiv", torch.Generator())
    with pytest.raises(UserError, match="did you mean 'symmetric'"):
        apply(torch.optim.SGD([weights.hidden], lr=1), weights, weights.hidden, weights.readout, "symetric")


def test_quick_experiment_learns_and_repeats_itself():
    first = eprop.experiment(seed=1, quick=True)
    assert first["passed"]
    assert eprop.pattern_generation(1, 50, 3, "random") == eprop.pattern_generation(1, 50, 3, "random")
    assert eprop.evidence_accumulation(1, 1, 5, 2, "random").keys() == {"accuracy_before", "accuracy_after"}


@pytest.mark.slow
def test_experiment():
    assert eprop.experiment()["passed"]
