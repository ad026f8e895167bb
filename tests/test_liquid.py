"""The liquid state machine: its column, its neurons and synapses against scalar arithmetic, and its two checks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import fails

from tsslbp.rivals.liquid import Column, Liquid, distance, draw, experiment, jitter, poisson, readout_accuracy, simulate, state


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def silent_liquid(current, step=1.0, inhibitory=False):
    """One neuron without recurrent synapses, fed through one channel with the given current in nA."""
    none = torch.zeros(0, dtype=torch.float64)
    number = torch.zeros(0, dtype=torch.long)
    return Liquid(
        step, torch.tensor([inhibitory]), number, number, none, none, none, none, number, torch.full((1, 1), current).double()
    )


# The column.


@pytest.fixture(scope="module")
def columns():
    return [draw(Column(), 2, seeded(seed), torch.float64) for seed in range(30)]


def kinds(liquid):
    return 2 * liquid.inhibitory[liquid.source].long() + liquid.inhibitory[liquid.target].long()


def test_column_has_the_published_neurons_and_density(columns):
    expected = torch.zeros(4, dtype=torch.float64)
    places = [(x, y, z) for x in range(3) for y in range(3) for z in range(15)]
    squared = torch.tensor([[sum((i - j) ** 2 for i, j in zip(a, b, strict=True)) for b in places] for a in places])
    near = torch.exp(-squared / 4.0).double().fill_diagonal_(0)
    for liquid in columns:
        assert liquid.inhibitory.shape == (135,)
        assert liquid.inhibitory.sum() == 27
        assert (liquid.source != liquid.target).all()
        i = liquid.inhibitory.double()
        for kind, (c, a, b) in enumerate([(0.3, 1 - i, 1 - i), (0.2, 1 - i, i), (0.4, i, 1 - i), (0.1, i, i)]):
            expected[kind] += c * (a @ near @ b)
    found = torch.cat([kinds(liquid) for liquid in columns]).bincount(minlength=4)
    assert ((found - expected).abs() < 4 * expected.sqrt()).all()


@pytest.mark.parametrize(
    ("kind", "use", "depression", "facilitation", "scale", "delay"),
    [(0, 0.5, 1100, 50, 30, 2), (1, 0.05, 125, 1200, 60, 1), (2, 0.25, 700, 20, -19, 1), (3, 0.32, 144, 60, -19, 1)],
    ids=["EE", "EI", "IE", "II"],
)
def test_synapses_have_the_published_means_and_spread(columns, kind, use, depression, facilitation, scale, delay):
    for name, mean, spread in [
        ("use", use, 0.5), ("depression", depression, 0.5), ("facilitation", facilitation, 0.5), ("scale", scale, 1.0)
    ]:  # fmt: skip
        values = torch.cat([getattr(liquid, name)[kinds(liquid) == kind] for liquid in columns])
        error = 4 * spread / math.sqrt(len(values))
        # What is drawn again where it is not above 0 adds 0.03 to the mean and takes as much from the deviation, at most.
        assert values.mean().item() / mean == pytest.approx(1.0, abs=error + 0.03)
        assert values.std().item() / abs(mean) == pytest.approx(spread, abs=2 * error + 0.03)
        assert (values * math.copysign(1, mean) > 0).all()
        assert name != "use" or values.max() <= 1
    assert all((liquid.delay[kinds(liquid) == kind] == delay).all() for liquid in columns)


def test_delays_are_whole_steps_of_any_length():
    fine = draw(Column(step=0.1), 1, seeded())
    assert sorted(set(fine.delay.tolist())) == [8, 15]


def test_inputs_reach_their_share_of_neurons(columns):
    current = torch.stack([liquid.input for liquid in columns])
    inhibitory = torch.stack([liquid.inhibitory for liquid in columns])[:, None].expand_as(current)
    assert (current > 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    for kind, mean in ((False, 18), (True, 9)):
        values = current[(inhibitory == kind) & (current > 0)]
        assert values.mean().item() == pytest.approx(mean, rel=0.15)
        assert values.std().item() == pytest.approx(mean, rel=0.2)


def test_farther_neurons_are_connected_with_a_longer_reach():
    short, far = (len(draw(Column(reach=reach), 1, seeded()).source) for reach in (1.0, 4.0))
    assert 3 * short < far


# Neurons and synapses.


@pytest.mark.parametrize("step", [1.0, 0.25])
def test_an_input_spike_fires_a_neuron_from_the_current_that_lifts_it_to_the_threshold(step):
    # Long after the start V is 13.5 mV; a current A e^{-t/3} adds A · 3/27 · (e^{-t/30} - e^{-t/3}) mV.
    rise = [3 / 27 * (math.exp(-k * step / 30) - math.exp(-k * step / 3)) for k in range(int(60 / step))]
    enough = 1.5 / max(rise)
    trains = torch.zeros(int(560 / step), 20, 1)
    at = int(500 / step)
    trains[at] = 1
    below, above = (simulate(trains, silent_liquid(enough * by, step), seeded())[at:, :, 0] for by in (1 - 1e-6, 1 + 1e-6))
    assert not below.any()
    assert (above.sum(0) == 1).all()
    assert (above.int().argmax(0) == rise.index(max(rise))).all()


@pytest.mark.parametrize(("inhibitory", "interval"), [(False, 3), (True, 2)])
def test_refractory_period(inhibitory, interval):
    spikes = simulate(torch.ones(100, 1, 1), silent_liquid(1e4, inhibitory=inhibitory), seeded())
    times = spikes[:, 0, 0].nonzero().squeeze(1)
    assert (times.diff() == interval + 1).all()  # free again after the interval, over the threshold a step later
    assert len(times) > 20


def scalar(trains, liquid, start):
    """One trial by lists and loops: the currents from all arrivals so far, the synapses by their recursion in R."""
    neurons, h = len(liquid.inhibitory), liquid.step
    v, free, spikes = list(start), [0] * neurons, [[] for _ in range(neurons)]
    arrivals = [[] for _ in range(neurons)]  # (step, nA, time constant)
    synapses = [{"u": None, "r": None, "at": None} for _ in liquid.source]

    def lift(age, tau):  # of a unit current that began ``age`` before the step, over the step
        return math.exp(-age / tau) * tau / (30 - tau) * (math.exp(-h / 30) - math.exp(-h / tau))

    for t in range(len(trains)):
        for n in range(neurons):
            v[n] = 13.5 + (v[n] - 13.5) * math.exp(-h / 30) + sum(a * lift((t - 1 - s) * h, tau) for s, a, tau in arrivals[n])
            if t < free[n]:
                v[n] = 13.5
            if v[n] >= 15:
                spikes[n].append(t)
                v[n], free[n] = 13.5, t + 1 + round((2 if liquid.inhibitory[n] else 3) / h)
            arrivals[n] += [(t, liquid.input[c, n].item(), 3.0) for c in range(trains.shape[1]) if trains[t, c]]
        for m, synapse in enumerate(synapses):
            a, b = int(liquid.source[m]), int(liquid.target[m])
            if t - int(liquid.delay[m]) in spikes[a]:
                use, d, f = (x[m].item() for x in (liquid.use, liquid.depression, liquid.facilitation))
                if synapse["at"] is None:
                    u, r = use, 1.0
                else:
                    gap = (t - synapse["at"]) * h
                    r = 1 + (synapse["r"] - synapse["u"] * synapse["r"] - 1) * math.exp(-gap / d)
                    u = use + synapse["u"] * (1 - use) * math.exp(-gap / f)
                synapse.update(u=u, r=r, at=t)
                arrivals[b].append((t, liquid.scale[m].item() * u * r, 6.0 if liquid.inhibitory[a] else 3.0))
    return spikes


@pytest.mark.parametrize("step", [1.0, 0.5])
def test_a_small_column_spikes_as_scalar_arithmetic_says(step):
    column = Column(size=(2, 2, 2), inhibitory=0.4, input_share=0.6, step=step, reach=5.0)
    liquid = draw(column, 3, seeded(1), torch.float64)
    trains = torch.cat([poisson(150, 3, 80, 1.0, seeded(seed)) for seed in range(3)], 2)
    spikes = simulate(trains, liquid, seeded(4))
    start = 13.5 + 1.5 * torch.rand(8, 3, generator=seeded(4), dtype=torch.float64)
    expected = torch.zeros_like(spikes)
    for b in range(3):
        for n, times in enumerate(scalar(trains[:, b], liquid, start[:, b].tolist())):
            expected[times, b, n] = True
    assert spikes.sum() > 60
    assert spikes[:, :, liquid.inhibitory].sum() > 10
    assert torch.equal(spikes, expected)


def test_a_column_is_silent_without_input_whatever_its_start():
    liquid = draw(Column(), 1, seeded())
    assert not simulate(torch.zeros(100, 20, 1), liquid, seeded()).any()


def test_trials_do_not_touch_each_other_and_later_input_not_earlier_spikes():
    liquid = draw(Column(), 1, seeded())
    trains = poisson(200, 3, 60, 1.0, seeded(1))
    other = trains.clone()
    other[100:, 1] = ~other[100:, 1]
    first, second = (simulate(x, liquid, seeded(2)) for x in (trains, other))
    assert torch.equal(first[:, [0, 2]], second[:, [0, 2]])
    assert torch.equal(first[:101, 1], second[:101, 1])
    assert not torch.equal(first[101:, 1], second[101:, 1])
    assert torch.equal(first, simulate(trains, liquid, seeded(2)))


# States, distances and jitter.


def test_state_is_a_sum_of_decaying_spikes():
    train = torch.zeros(20, 1, 2, dtype=torch.float64)
    train[[3, 19], 0, 0] = 1
    expected = torch.tensor([[1 + math.exp(-16 * 0.5 / 30), 0]], dtype=torch.float64)
    torch.testing.assert_close(state(train, 0.5), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(state(train.bool(), 0.5), expected.float())


@given(seed=st.integers(0, 1000), step=st.sampled_from([1.0, 0.5]))
@settings(max_examples=12)
def test_distance_is_that_of_the_trains_seen_through_gaussians(seed, step):
    first, second = (poisson(200, 1, 50, 1.0, seeded(s)) for s in (seed, seed + 1))
    times, fine = step * torch.arange(200).double(), torch.arange(-50, 250, 0.1).double()
    seen = [(torch.exp(-(((fine[:, None] - times) / 5) ** 2)) * x[:, 0, 0]).sum(1) for x in (first, second)]
    norm = ((seen[0] - seen[1]) ** 2).sum() * 0.1 / 1000
    assert distance(first, second, step).item() == pytest.approx(norm.sqrt().item() / (0.2 * step), rel=1e-6, abs=1e-9)


def test_jitter_moves_spikes_by_its_spread():
    trains = torch.zeros(1000, 2000, 1, dtype=torch.bool)
    trains[500] = True
    moved = jitter(trains, torch.full((2000,), 4.0), seeded())
    assert (moved.sum(0) == 1).all()
    by = moved.int().argmax(0).double() - 500
    assert by.mean().item() == pytest.approx(0, abs=0.4)
    assert by.std().item() == pytest.approx(4, abs=0.3)
    assert torch.equal(jitter(trains, torch.zeros(2000), seeded()), trains)
    edge = torch.zeros(10, 2000, 1, dtype=torch.bool)
    edge[0] = True
    assert 700 < jitter(edge, torch.full((2000,), 3.0), seeded()).sum() < 1300


def test_poisson_has_its_rate():
    assert poisson(1000, 500, 20, 0.5, seeded()).sum().item() / 500 == pytest.approx(10, rel=0.05)  # in half a second


def test_readout_finds_what_is_there_and_is_scored_on_trials_it_has_not_seen():
    states, labels = torch.randn(600, 100, generator=seeded()), torch.randint(2, (600,), generator=seeded(1))
    assert readout_accuracy(states, labels, 200) == pytest.approx(0.5, abs=0.1)  # of the 200 themselves it gets 85 % right
    states[:, 7] += 5 * labels
    assert readout_accuracy(states, labels, 200) > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Column(size=(3, 3, 0)), "three edges"),
        (lambda: Column(reach=0.0), "reach 0.0"),
        (lambda: Column(step=2.0), "step 2.0"),
        (lambda: Column(step=math.nan), "step nan"),
        (lambda: Column(inhibitory=1.5), "inhibitory 1.5"),
        (lambda: Column(input_share=-0.1), "input_share -0.1"),
        (lambda: draw(Column(), 0, seeded()), "channels is 0"),
        (lambda: simulate(torch.zeros(5, 2), draw(Column(), 1, seeded()), seeded()), r"\[steps, trials, 1\]"),
        (lambda: simulate(torch.zeros(5, 2, 3), draw(Column(), 2, seeded()), seeded()), r"trials, 2\].* got \[5, 2, 3\]"),
    ],
)
def test_errors_name_the_fix_in_one_line(call, message):
    with fails(message):
        call()


# The paper's checks.


def assert_separates_and_remembers(result):
    noise, *apart = result["mean_state_distance"]
    assert [noise, *apart] == sorted([noise, *apart])
    assert apart[0] > 1.3 * noise
    liquid, direct = (result["mean_accuracy"][name] for name in ("liquid", "input"))
    assert direct[-1] > 0.9  # the readout of the input is no straw man: it knows the segment it has just seen
    assert all(abs(accuracy - 0.5) < 0.1 for accuracy in direct[:-1])  # and nothing of those before
    assert liquid[-1] > 0.9
    assert liquid[-2] > direct[-2] + 0.1
    assert result["passed"]


def test_states_separate_and_remember():
    assert_separates_and_remembers(experiment(quick=True))


@pytest.mark.slow
def test_states_separate_and_remember_in_full():
    result = experiment()
    assert len(result["seeds"]) == 3
    assert_separates_and_remembers(result)
