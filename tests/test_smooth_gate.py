"""The differentiable synapse: charge, limits known in closed form, continuity, and its gradient against finite differences."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import fails

from tsslbp import UserError
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.rivals.smooth_gate import GatedNeuron, Run, Weights, adjoint, delayed_xor, experiment, simulate

LIF = GatedNeuron("lif", tau_m=10, tau_s=5, threshold=1, width=0.5, peak=1.25, reset=0)
QIF = GatedNeuron("qif", tau_m=10, tau_s=5, threshold=1, width=1.5, peak=3, reset=-3)
UNEVEN_QIF = replace(QIF, reset=-2)
NEURONS = pytest.mark.parametrize("neuron", [LIF, QIF, UNEVEN_QIF], ids=["lif", "qif", "uneven-qif"])


def single(drive, neuron) -> Run:
    """Unconnected neurons, one in each column of the current ``[T, B]``."""
    one, zero = torch.ones(1, 1, dtype=drive.dtype), torch.zeros(1, 1, dtype=drive.dtype)
    return simulate(Weights(zero, one, zero[0], one), drive.unsqueeze(2), neuron)


def network(seed, neuron, steps=80, batch=4, size=6):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = Weights(4 * normal(size, size), normal(size, 3), 1.4 + normal(size) / 2, normal(2, size))
    return weights, normal(steps, batch, 3), normal(steps, batch, 2)


@NEURONS
@pytest.mark.parametrize("which", Weights._fields)
def test_the_adjoint_equals_finite_differences(neuron, which):
    for seed in range(3):
        weights, x, wanted = network(seed, neuron)
        run = simulate(weights, x, neuron)
        assert run.resets.sum() > 20
        gradient = getattr(adjoint(weights, x, neuron, run, 2 * (run.output - wanted)), which)
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

        def cost(step, weights=weights, x=x, wanted=wanted, direction=direction):
            moved = weights._replace(**{which: getattr(weights, which) + step * direction})
            return (simulate(moved, x, neuron).output - wanted).square().sum().item()

        difference = (cost(1e-6) - cost(-1e-6)) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(difference, rel=1e-6)


@NEURONS
def test_the_adjoint_is_autograd_through_the_scheme(neuron):
    """Every entry, not only a direction, against the equations written out anew and differentiated by PyTorch."""
    weights, x, wanted = network(3, neuron)
    leaves = Weights(*(value.clone().requires_grad_() for value in weights))
    v = torch.full((4, 6), neuron.reset, dtype=torch.float64)
    s, output = torch.zeros_like(v), []

    def zone(u):  # the gate's integral, from its definition
        x = ((u - neuron.threshold) / neuron.width + 0.5).clamp(0, 1)
        return x - torch.sin(2 * math.pi * x) / (2 * math.pi)

    def f(u, current):
        return current + (u**2 if neuron.drift == "qif" else -u)

    for x_t in x:
        current = s @ leaves.recurrent.T + x_t @ leaves.input.T + leaves.bias
        free = v + f(v, current) / neuron.tau_m
        late = (free - neuron.peak) / f(neuron.peak, current)  # time since the crossing
        landed = neuron.reset + late * f(neuron.reset, current)
        v, before = torch.where(free > neuron.peak, landed, free), v
        s = s * (1 - 1 / neuron.tau_s) + ((free > neuron.peak) + zone(v) - zone(before)) / neuron.tau_s
        output.append(s @ leaves.readout.T)
    run = simulate(weights, x, neuron)
    torch.testing.assert_close(run.output, torch.stack(output).detach(), rtol=1e-12, atol=1e-12)
    (torch.stack(output) - wanted).square().sum().backward()
    for ours, leaf in zip(adjoint(weights, x, neuron, run, 2 * (run.output - wanted)), leaves, strict=True):
        torch.testing.assert_close(ours, leaf.grad, rtol=1e-9, atol=1e-9 * leaf.grad.abs().max().item())


@given(
    neuron=st.sampled_from([LIF, QIF, UNEVEN_QIF]),
    tau_m=st.floats(8, 60),
    tau_s=st.floats(1, 20),
    width=st.floats(1e-3, 0.5),
    seed=st.integers(0, 2**32 - 1),
    strength=st.floats(0, 300),
)
@settings(max_examples=60, deadline=None)
def test_every_crossing_injects_unit_charge_however_fast(neuron, tau_m, tau_s, width, seed, strength):
    neuron = replace(neuron, tau_m=tau_m, tau_s=tau_s, width=width)
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    run = single(strength * (0.3 + noise).clamp(min=0), neuron)
    v, z, s = (value.squeeze(2) for value in (run.membrane, run.resets, run.synapse))
    assert (v <= neuron.peak).all()
    charge = spikes_from_psc(s, tau_s).cumsum(0)
    torch.testing.assert_close(charge, z.cumsum(0) + neuron.charge(v), rtol=1e-9, atol=1e-9)


@NEURONS
def test_the_integral_of_the_gate_is_its_charge_and_the_zone_holds_one(neuron):
    v = torch.linspace(neuron.reset, neuron.peak, 20001, dtype=torch.float64)
    integral = torch.cumulative_trapezoid(neuron.gate(v), v)
    assert integral[-1].item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(neuron.charge(v)[1:], integral, rtol=0, atol=1e-6)
    assert (neuron.gate(v) >= 0).all()


def test_an_unfinished_crossing_injects_a_part_and_takes_it_back():
    pulse = torch.zeros(200, 1, dtype=torch.float64)
    pulse[:30] = 1.05
    run = single(pulse, LIF)
    height = run.membrane.max()
    assert 0.8 < height < 1.2
    assert run.resets.sum() == 0
    charge = spikes_from_psc(run.synapse, LIF.tau_s).cumsum(0)
    assert charge.max().item() == pytest.approx(LIF.charge(height).item())
    assert charge[-1].abs().max() < 1e-12


def spike_times(neuron, current, steps):
    """Crossings of the threshold under a constant current from the reset on, in closed form."""
    root = math.sqrt(current)

    def travel(v):
        if neuron.drift == "lif":
            return neuron.tau_m * math.log((current - neuron.reset) / (current - v))
        return neuron.tau_m / root * (math.atan(v / root) - math.atan(neuron.reset / root))

    times = [travel(neuron.threshold)]
    while times[-1] < steps:
        times.append(times[-1] + travel(neuron.peak))
    return times[:-1]


def spiking_synapse(times, tau_s, steps):
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    return sum((torch.exp(-(t - time) / tau_s) / tau_s * (t >= time)) for time in times)


@pytest.mark.parametrize(
    ("neuron", "current"),
    [
        (GatedNeuron("lif", tau_m=500, tau_s=250, threshold=1, width=1, peak=1.5, reset=0), 2.0),
        (GatedNeuron("qif", tau_m=1000, tau_s=250, threshold=1, width=1, peak=3, reset=-3), 1.5),
    ],
    ids=["lif", "qif"],
)
def test_narrow_gates_recover_spikes_with_an_exponential_synapse(neuron, current):
    steps, drive = 3500, torch.full((3500, 1), current, dtype=torch.float64)
    times = spike_times(neuron, current, steps)
    assert len(times) >= 2
    expected = spiking_synapse(times, neuron.tau_s, steps)
    widths = 1, 0.2, 0.04
    runs = [single(drive, replace(neuron, width=width)).synapse.flatten() for width in widths]
    errors = [(run - expected).abs().sum().item() / len(times) for run in runs]  # 1: a spike's whole charge misplaced
    assert all(narrow < 0.4 * wide for wide, narrow in pairwise(errors)), errors
    assert errors[0] > 0.1
    assert errors[-1] < 0.03, errors


@NEURONS
def test_the_narrowest_gate_is_a_spike_train_through_the_library_s_synapse(neuron):
    weights, x, _ = network(5, neuron)
    run = simulate(weights, x, replace(neuron, width=1e-9))
    above = (run.membrane > neuron.threshold).double()
    before = torch.cat([torch.zeros_like(above[:1]), above[:-1]])
    train = above - before + run.resets
    assert train.sum() > 20
    torch.testing.assert_close(run.synapse, synapse(train, neuron.tau_s), rtol=1e-9, atol=1e-9)


@NEURONS
def test_moving_spikes_over_grid_points_makes_no_jump(neuron):
    def largest_change(points):
        current = torch.linspace(2.0, 2.6, points, dtype=torch.float64)
        run = single(current.repeat(60, 1), neuron)
        assert run.resets.argmax(0).unique().numel() >= 3  # the first spike's step
        return run.synapse.diff(dim=1).abs().max().item()

    assert largest_change(3201) < 0.35 * largest_change(801)


def test_a_qif_spike_appears_without_a_jump():
    def largest_change(points):
        pulse = torch.zeros(60, points, dtype=torch.float64)
        pulse[:30] = torch.linspace(0.3, 0.8, points, dtype=torch.float64)
        run = single(pulse - 0.25, QIF)
        assert run.resets[..., 0].sum(0).unique().tolist() == [0, 1]
        return run.synapse.diff(dim=1).abs().max().item()

    assert largest_change(6401) < 0.35 * largest_change(1601)


def test_the_gradient_tends_to_that_of_the_continuous_neuron():
    """One constant current, many resets: each spike moves by dt/dI, known in closed form. R is far from 1 here."""
    neuron = GatedNeuron("lif", tau_m=1000, tau_s=1500, threshold=1, width=0.05, peak=1.2, reset=0)
    current, steps = 2.0, 5000
    times, moved = (spike_times(neuron, i, steps) for i in (current, current + 1e-6))
    expected = sum(
        math.exp((time - steps) / neuron.tau_s) / neuron.tau_s**2 * (later - time) / 1e-6
        for time, later in zip(times, moved, strict=True)
    )
    drive, one = torch.zeros(steps, 1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    weights = Weights(0 * one, one, current * one[0], one)
    run = simulate(weights, drive, neuron)
    error = torch.zeros_like(run.output)
    error[-1] = 1
    assert adjoint(weights, drive, neuron, run, error).bias.item() == pytest.approx(expected, rel=0.01)


def test_a_lif_resting_at_its_peak_or_driven_beyond_a_spike_a_step_stays_finite():
    for dtype in (torch.float32, torch.float64):
        drive = torch.tensor([LIF.peak, 30.0, 1e4], dtype=dtype).repeat(500, 1)
        run = single(drive, LIF)
        assert (run.membrane <= LIF.peak).all()
        assert run.resets[:, :, 0].max(0).values.tolist()[0] == 0
        assert run.resets.max() > 1
        one = torch.ones(1, 1, dtype=dtype)
        gradient = adjoint(Weights(0 * one, one, 0 * one[0], one), drive.unsqueeze(2), LIF, run, torch.ones_like(run.output))
        assert all(value.isfinite().all() for value in gradient)


def test_rounding_alone_does_not_reset_a_lif():
    neuron = replace(LIF, tau_m=1.0)  # v + (I - v) rounds to above I for some v
    drive = torch.stack([torch.linspace(-1, 1.2, 5000), torch.full((5000,), neuron.peak)])
    run = single(drive, neuron)
    assert (run.membrane[0] + (neuron.peak - run.membrane[0]) > neuron.peak).any()
    assert run.membrane.isfinite().all()
    assert run.resets.sum() == 0


def test_a_reset_into_strong_inhibition_happens_once_and_has_a_gradient():
    drive = torch.tensor([[20.0], [12.0], [9.5], [-6.0], [-6.0]], dtype=torch.float64).unsqueeze(2)
    one = torch.ones(1, 1, dtype=torch.float64)

    def simulated(bias):
        weights = Weights(0 * one, one, bias * one[0], one)
        return weights, simulate(weights, drive, UNEVEN_QIF)

    weights, run = simulated(0.0)
    assert run.resets.flatten().tolist() == [0, 0, 0, 1, 0]
    assert run.membrane[3] < UNEVEN_QIF.reset
    error = run.output + torch.arange(5, dtype=torch.float64).view(5, 1, 1)
    difference = (((simulated(1e-6)[1].output - simulated(-1e-6)[1].output) * error).sum() / 2e-6).item()
    assert adjoint(weights, drive, UNEVEN_QIF, run, error).bias.item() == pytest.approx(difference, rel=1e-6)


def test_trials_do_not_meet_and_gradients_add_up():
    weights, x, wanted = network(6, QIF)
    whole = simulate(weights, x, QIF)
    gradient = adjoint(weights, x, QIF, whole, whole.output - wanted)
    parts = []
    for b in range(x.shape[1]):
        run = simulate(weights, x[:, b : b + 1], QIF)
        torch.testing.assert_close(run.output, whole.output[:, b : b + 1], rtol=1e-12, atol=1e-12)
        parts.append(adjoint(weights, x[:, b : b + 1], QIF, run, run.output - wanted[:, b : b + 1]))
    for total, *each in zip(gradient, *parts, strict=True):
        torch.testing.assert_close(sum(each), total, rtol=1e-9, atol=1e-9)


def test_the_task_asks_for_the_exclusive_or_after_the_cue_and_silence_before():
    x, wanted, weight = delayed_xor(200, (30, 60), torch.Generator().manual_seed(0))
    signs = x[..., 0].sum(0) / 5
    differ = wanted.squeeze(2).max(0).values == 1
    assert set(signs.tolist()) == {-2, 0, 2}
    assert torch.equal(differ, signs == 0)
    cue = x[..., 1].argmax(0)
    answer = wanted.squeeze(2).abs().argmax(0)
    assert torch.equal(answer, cue + 5)
    assert (wanted.abs().sum(0) == 15).all()
    last_pulse = torch.tensor([column.nonzero().max() for column in x[..., 0].T])
    assert sorted({*(cue - last_pulse - 1).tolist()}) == [*range(30, 61)]
    assert weight.sum().item() == pytest.approx(2)
    assert (weight * wanted.abs()).sum().item() == pytest.approx(1)


def test_the_quick_experiment_passes_and_repeats_itself():
    result = experiment(quick=True)
    assert result["passed"]
    assert result["before"]["accuracy"] < 0.7
    assert result["after"]["accuracy"] > 0.95
    assert experiment(quick=True) == result


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_full_experiment_passes(seed):
    result = experiment(seed)
    assert result["passed"], result
    assert result["before"]["accuracy"] < 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drift": "lfi"}, "unknown drift 'lfi'; did you mean 'lif'"),
        ({"tau_m": 0.5}, "tau_m 0.5 .* at least 1"),
        ({"tau_s": math.inf}, "tau_s inf .*finite"),
        ({"tau_s": math.nan}, "tau_s nan"),
        ({"width": 0}, "width must be positive"),
        ({"width": 3}, r"reset 0 <= zone \[-0.5, 2.5\] <= peak 1.25"),
        ({"peak": 1.1}, "peak 1.1"),
        ({"reset": -math.inf}, "reset -inf"),
        ({"drift": "qif", "reset": -5}, r"tau_m is 10; for a QIF it must exceed .* 10"),
    ],
)
def test_a_bad_neuron_is_refused_in_one_line(change, message):
    with fails(message):
        replace(LIF, **change)


def test_shapes_that_do_not_fit_are_refused():
    weights, x, _ = network(7, LIF)
    for bad in (x[0], x[..., :2]):
        with pytest.raises(UserError, match=r"input \[T, B, C\] takes"):
            simulate(weights, bad, LIF)
    for name, value in (("recurrent", weights.input), ("readout", weights.recurrent[:, 1:]), ("bias", weights.bias[1:])):
        with pytest.raises(UserError, match=r"W \[N, N\]"):
            simulate(weights._replace(**{name: value}), x, LIF)
    run = simulate(weights, x, LIF)
    with pytest.raises(UserError, match=r"error must have the output's shape \[80, 4, 2\]; got \[80, 4\]"):
        adjoint(weights, x, LIF, run, run.output[..., 0])
