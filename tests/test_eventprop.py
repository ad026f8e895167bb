"""EventProp: spike times against an integrator, the adjoint against differences, the rule against its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from shared import fails

import tsslbp
from tsslbp import rules, training
from tsslbp.neuron import LIF, membrane_potential, spikes, synapse
from tsslbp.rivals.eventprop import Train, adjoint, experiment, loss_gradient, random_case, simulate, van_rossum
from tsslbp.rules.eventprop import EventProp
from tsslbp.training.settings import TrainConfig


def train(*times, source=None):
    source = [0] * len(times) if source is None else source
    return Train(torch.tensor(times, dtype=torch.float64), torch.tensor(source, dtype=torch.long))


def of_neuron(spikes_or_train, index):
    return spikes_or_train.times[spikes_or_train.source == index].tolist()


def integrated(arrivals, neuron, until):
    """Spike times of one neuron by a Runge-Kutta method, looked for in small pieces; ``arrivals`` are (time, jump)."""
    found, state, now = [], [0.0, 0.0], 0.0

    def flow(_, y):
        return [-y[0] / neuron.tau_m + y[1], -y[1] / neuron.tau_s]

    for at, jump in [*arrivals, (until, 0.0)]:
        while now < at:
            piece = min(at, now + 0.05)
            solution = solve_ivp(flow, (now, piece), state, method="DOP853", rtol=1e-13, atol=1e-14, dense_output=True)

            def over(t, solution=solution):
                return solution.sol(t)[0] - neuron.threshold

            if over(piece) > 0:
                piece = brentq(over, now, piece, xtol=1e-15)
                found.append(piece)
                state = [0.0, solution.sol(piece)[1]]
            else:
                state = solution.y[:, -1].tolist()
            now = piece
        state[1] += jump
    return found


@pytest.mark.parametrize("neuron", [LIF(6, 3), LIF(3, 6), LIF(4, 4), LIF(math.inf, 2, 0.7)], ids=str)
def test_spike_times_are_those_of_an_integrator(neuron):
    case = random_case(3, (4, 2), spikes=2)
    weight = 2.5 * case.weights[0]
    (layer,) = simulate([weight], case.inputs, neuron, 30.0)
    for index, row in enumerate(weight):
        jumps = (row[case.inputs.source] / neuron.tau_s).tolist()
        expected = integrated(list(zip(case.inputs.times.tolist(), jumps, strict=True)), neuron, 30.0)
        assert of_neuron(layer.train, index) == pytest.approx(expected, rel=0, abs=1e-9)
    assert len(layer.current) >= 3


@given(
    tau_m=st.floats(1, 40),
    tau_s=st.floats(1, 40) | st.none(),
    seed=st.integers(0, 2**32 - 1),
    strength=st.floats(0.2, 3),
)
@settings(max_examples=25)
def test_membrane_is_at_threshold_at_each_spike_and_below_between(tau_m, tau_s, seed, strength):
    # The spike-response form: a sum over all arrivals and all resets since 0, not over gaps.
    neuron = LIF(tau_m, tau_m if tau_s is None else tau_s)
    case = random_case(seed, (4, 1), spikes=3)
    weight = strength * case.weights[0]
    (layer,) = simulate([weight], case.inputs, neuron, 40.0)

    def membrane(at, resets):
        age = at[:, None] - case.inputs.times
        k_m, k_s = torch.exp(-age / neuron.tau_m), torch.exp(-age / neuron.tau_s)
        apart = 1 / neuron.tau_s - 1 / neuron.tau_m
        kernel = (k_m - k_s) / apart if abs(apart) > 1e-6 else age * k_m
        drive = torch.where(age > 0, kernel, 0) @ (weight[0, case.inputs.source] / neuron.tau_s)
        since = at[:, None] - resets
        return drive - neuron.threshold * torch.where(since > 1e-12, torch.exp(-since / neuron.tau_m), 0).sum(1)

    times = layer.train.times
    torch.testing.assert_close(membrane(times, times), torch.ones_like(times), rtol=0, atol=1e-6 if tau_s else 1e-9)
    assert (membrane(torch.linspace(0, 40, 4001, dtype=torch.float64), times) <= 1 + 1e-6).all()


def test_a_peak_between_two_arrivals_is_not_missed():
    # Alone the first arrival lifts u to 1.05 at its maximum; at both ends of the gap u is below the threshold.
    neuron = LIF(6, 3)
    peak = 6 * math.log(2)
    weight = 1.05 / (math.exp(-peak / 6) - math.exp(-peak / 3)) / 2  # K = 6·(...), over τs = 3
    (once,) = simulate([torch.tensor([[weight]], dtype=torch.float64)], train(0.0, 30.0), neuron, 31.0)
    assert len(once.current) == 1
    assert 0 < once.train.times[0] < peak
    (never,) = simulate([torch.tensor([[weight / 1.06]], dtype=torch.float64)], train(0.0, 30.0), neuron, 31.0)
    assert len(never.current) == 0


def test_one_strong_arrival_makes_several_spikes():
    (layer,) = simulate([torch.tensor([[6.0]], dtype=torch.float64)], train(1.0), LIF(6, 3), 50.0)
    assert of_neuron(layer.train, 0) == pytest.approx(integrated([(1.0, 2.0)], LIF(6, 3), 50.0), rel=0, abs=1e-9)
    assert len(layer.current) >= 4


def deep_case(seed):
    case = random_case(seed, (4, 4, 3, 2))
    run = simulate(case.weights, case.inputs, case.neuron, case.until)
    assert min(len(layer.current) for layer in run) >= 4
    return case, run


@pytest.mark.parametrize("seed", [0, 3, 5])
def test_gradient_of_each_spike_time_is_its_difference_quotient(seed):
    case, run = deep_case(seed)
    output = run[-1].train.times
    one_hot = torch.eye(len(output), dtype=torch.float64)
    exact = [adjoint(case.weights, case.inputs, case.neuron, run, row)[0] for row in one_hot]
    width = 1e-6
    for layer, weight in enumerate(case.weights):
        numeric = torch.empty(len(output), *weight.shape, dtype=torch.float64)
        for to in range(weight.shape[0]):
            for source in range(weight.shape[1]):
                value, moved = weight[to, source].item(), []
                for shift in (-2, -1, 1, 2):
                    weight[to, source] = value + shift * width
                    moved.append(simulate(case.weights, case.inputs, case.neuron, case.until)[-1].train.times)
                weight[to, source] = value
                numeric[:, to, source] = (8 * (moved[2] - moved[1]) - (moved[3] - moved[0])) / (12 * width)
        ours = torch.stack([gradients[layer] for gradients in exact])
        assert (ours - numeric).abs().max() < 1e-6 * ours.abs().max()
        assert ours.abs().max() > 0.1


@pytest.mark.parametrize("seed", [0, 3])
def test_gradient_by_input_times_is_its_difference_quotient(seed):
    case, run = deep_case(seed)
    random = torch.randn(len(run[-1].current), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    _, exact = adjoint(case.weights, case.inputs, case.neuron, run, random)
    numeric, width = torch.empty_like(exact), 1e-6
    for event in range(len(exact)):
        moved = []
        for shift in (width, -width):
            times = case.inputs.times.clone()
            times[event] += shift
            moved.append(simulate(case.weights, case.inputs._replace(times=times), case.neuron, case.until)[-1].train.times)
        numeric[event] = random @ (moved[0] - moved[1]) / (2 * width)
    assert (exact - numeric).abs().max() < 1e-6 * exact.abs().max()


def test_a_shift_of_all_inputs_shifts_all_spikes_and_changes_no_weight_gradient():
    case, run = deep_case(3)
    later = case.inputs._replace(times=case.inputs.times + 7)
    shifted = simulate(case.weights, later, case.neuron, case.until + 7)
    ones = torch.ones_like(run[-1].current)
    for before, after in zip(run, shifted, strict=True):
        torch.testing.assert_close(after.train.times, before.train.times + 7, rtol=0, atol=1e-11)
    gradients, by_time = adjoint(case.weights, case.inputs, case.neuron, run, ones)
    for before, after in zip(gradients, adjoint(case.weights, later, case.neuron, shifted, ones)[0], strict=True):
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8)
    assert by_time.sum().item() == pytest.approx(len(ones), rel=1e-9)  # Σ ∂t_out/∂t_in = 1 for every output spike


@pytest.mark.parametrize("smoothing", [1, 2])
def test_van_rossum_is_the_integral_it_stands_for(smoothing):
    ours, theirs, tau = train(1.0, 2.5, 4.0, source=[0, 1, 0]), train(1.5, 3.0, source=[0, 0]), 2.0
    t = torch.linspace(0, 80, 800_001, dtype=torch.float64)
    total = 0.0
    for neuron in (0, 1):
        trace = torch.zeros_like(t)
        for sign, spike_train in ((1, ours), (-1, theirs)):
            for time in of_neuron(spike_train, neuron):
                age = (t - time).clamp(min=0) / tau
                trace += sign * (t >= time) * torch.exp(-age) * (1 if smoothing == 1 else age) / tau
        total += 0.5 * torch.trapezoid(trace**2, t).item()
    assert van_rossum(ours, theirs, tau, smoothing).item() == pytest.approx(total, rel=1e-4)


def test_silence_has_no_gradient():
    case = random_case(0, (3, 2, 2))
    case = case._replace(weights=[0 * weight for weight in case.weights])
    gradients, run = loss_gradient(case)
    assert [len(layer.current) for layer in run] == [0, 0]
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate([torch.ones(1, 1)], train(2.0, 1.0), LIF(6, 3), 9.0), "sorted by time"),
        (lambda: simulate([torch.ones(1, 1)], train(2.0), LIF(6, 3), 1.0), "until = 1.0"),
        (lambda: simulate([torch.full((1, 1), math.nan)], train(2.0), LIF(6, 3), 9.0), "a weight is NaN or infinite"),
        (lambda: simulate([torch.ones(2, 1), torch.ones(2, 3)], train(2.0), LIF(6, 3), 9.0), "one matrix per layer"),
        (lambda: simulate([], train(2.0), LIF(6, 3), 9.0), "one matrix per layer"),
        (lambda: simulate([torch.ones(1, 1)], train(2.0, source=[1]), LIF(6, 3), 9.0), "neurons up to 1; the weights have 1"),
        (lambda: adjoint([torch.zeros(1, 1)], train(), LIF(6, 3), simulate([torch.zeros(1, 1)], train(), LIF(6, 3), 1.0),
                         torch.ones(1)), "output has 0 spikes"),
        (lambda: van_rossum(train(1.0), train(), 3.0, 3), "smoothing is 3"),
        (lambda: random_case(0, (3,)), "sizes of input and output"),
        (lambda: EventProp(clip=0), "clip is 0.*positive"),
        (lambda: EventProp(clip=math.nan), "clip is nan.*positive"),
        (lambda: EventProp(wake=-1), "wake is -1.*not negative"),
        (lambda: EventProp(wake=math.inf), "wake is inf.*finite"),
    ],
)  # fmt: skip
def test_errors_name_the_fix_in_one_line(call, message):
    with fails(message):
        call()


def test_quick_experiment():
    result = experiment(quick=True)
    assert result == experiment(quick=True)
    assert result["passed"]
    assert result["spikes"] > 30


@pytest.mark.slow
def test_full_experiment():
    result = experiment()
    assert result["passed"]
    assert result["weights"] == 1400


# The rule on the grid.


def by_definition(current, error, neuron, clip):
    """The rule's definition in plain numbers: a spike moved by one step either way, and the reset by hand."""
    T = len(current)
    u = membrane_potential(torch.tensor(current, dtype=torch.float64), neuron).tolist()
    s = [x > neuron.threshold for x in u]

    def psc(step):  # of one spike, where moved; beyond the ends nothing is seen
        return [((1 - 1 / neuron.tau_s) ** (k - step) / neuron.tau_s if k >= step else 0.0) for k in range(T)]

    delta, after = [0.0] * T, 0.0
    for t in reversed(range(T)):
        carried = (1 - 1 / neuron.tau_m) * after
        if s[t]:
            du = u[t] - (u[t - 1] if t and not s[t - 1] else 0.0)
            p = min(1 / du, clip)
            earlier = psc(t - 1) if t else [x * (1 - 1 / neuron.tau_s) for x in psc(0)]
            by_time = sum(e * (b - a) for e, a, b in zip(error, earlier, psc(t + 1), strict=True)) / 2
            carried = p * (current[t] * carried - by_time)
        delta[t] = after = carried
    return delta


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 30),
    tau_m=st.sampled_from([1.0, 2.0, 5.0, 20.0, math.inf]),
    tau_s=st.sampled_from([1.0, 2.0, 3.0, 10.0]),
    clip=st.sampled_from([math.inf, 8.0, 0.5]),
)
@settings(max_examples=100)
def test_rule_is_its_definition(seed, steps, tau_m, tau_s, clip):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, 2, generator=generator, dtype=torch.float64) * 0.8 + 0.4
    error = torch.randn(steps, 2, generator=generator, dtype=torch.float64)
    leaf = current.clone().requires_grad_()
    tsslbp.lif(leaf, tau_m=tau_m, tau_s=tau_s, threshold=0.8, rule=EventProp(clip)).backward(error)
    neuron = LIF(tau_m, tau_s, 0.8)
    for index in range(2):
        expected = by_definition(current[:, index].tolist(), error[:, index].tolist(), neuron, clip)
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(leaf.grad[:, index], expected, rtol=1e-8, atol=1e-9 * (1 + expected.abs().max().item()))


def gradient_of_size(current, rule):
    leaf = current.clone().requires_grad_()
    (tsslbp.lif(leaf, tau_m=20, tau_s=8, rule=rule).square().sum() / 2).backward()
    return leaf.grad


def test_size_of_a_lone_spikes_current_does_not_depend_on_its_time():
    # ½Σa² is the same wherever the spike is, though its error a jumps at it; without both sides this would be far from 0.
    current = torch.zeros(400, dtype=torch.float64)
    current[20:40] = 0.1
    assert spikes(membrane_potential(current, LIF(20, 8)), LIF(20, 8)).sum() == 1
    assert gradient_of_size(current, EventProp()).abs().max() < 1e-12
    one_sided = gradient_of_size(current, tsslbp.TSSL("timing", fallback="never"))
    assert one_sided.abs().max() > 0.01


@pytest.mark.parametrize(("offset", "sign"), [(-3, -1), (3, 1)])
def test_a_spike_wanted_earlier_asks_for_more_current(offset, sign):
    current = torch.full((60,), 0.12, dtype=torch.float64)
    fired = int(spikes(membrane_potential(current, LIF(20, 5)), LIF(20, 5)).argmax())
    current[fired + 1 :] = 0
    wanted = torch.zeros_like(current)
    wanted[fired + offset] = 1
    leaf = current.clone().requires_grad_()
    psc = tsslbp.lif(leaf, tau_m=20, tau_s=5, rule=EventProp())
    (psc - synapse(wanted, 5)).square().sum().backward()
    assert (leaf.grad[: fired + 1] * sign > 0).all()  # descent goes against the gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rule_keeps_dtype_and_gives_nothing_to_silent_neurons(dtype):
    leaf = torch.tensor([[0.3, 1.4], [0.2, 0.1]], dtype=dtype, requires_grad=True)
    tsslbp.lif(leaf, tau_m=5, tau_s=3, rule=EventProp()).sum().backward()
    assert leaf.grad.dtype == dtype
    assert (leaf.grad[:, 0] == 0).all()
    assert leaf.grad[0, 1] != 0
    assert leaf.grad[1, 1] == 0
    woken = leaf.detach().requires_grad_()
    tsslbp.lif(woken, tau_m=5, tau_s=3, rule=EventProp(wake=0.5)).sum().backward()
    assert woken.grad.dtype == dtype
    assert woken.grad[:, 0].tolist() == [-0.5, -0.5]
    assert torch.equal(woken.grad[:, 1], leaf.grad[:, 1])


@pytest.mark.parametrize("wake", [0.0, 1e-4])
def test_a_network_that_is_silent_stays_so_unless_its_neurons_are_woken(wake):
    config = TrainConfig(network="30-10", data="digits", rule=rules.spec(EventProp(wake=wake)), hidden_scale=0.1, epochs=5)
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    x = model.inputs(dataset.train.x)
    assert not model.network(x).any()
    training.Loop(config, dataset, model, optimizer).run(lambda _: None)
    assert bool(model.network(x).any()) == (wake > 0)


def test_gradients_in_evaluation_mode_leave_padding_out_as_in_training():
    network = tsslbp.build("20-10", rule="eventprop", input_shape=(6,), time_steps=5, tau_m=5, tau_s=3).double()
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(5, 4, 6, generator=generator) < 0.6).double() * 3
    lengths = torch.tensor([5, 3, 2, 4])
    inside = (torch.arange(5).unsqueeze(1) < lengths).unsqueeze(2)
    found = []
    for mode, told in (("train", lengths), ("eval", lengths), ("eval", None)):
        getattr(network, mode)()
        loss = (network(x, lengths=told) * inside).square().sum()
        found.append(torch.autograd.grad(loss, network.layers.linear1.weight)[0])
    torch.testing.assert_close(found[1], found[0])
    assert not torch.allclose(found[2], found[0])
