"""Distances between spike trains: by hand, against elephant and PySpike, and the axioms they must keep."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tsslbp import UserError
from tsslbp.metrics import spike_trains as metrics

MEASURES = {
    "van_rossum": lambda a, b: metrics.van_rossum(a, b, 3.0),
    "victor_purpura": lambda a, b: metrics.victor_purpura(a, b, 0.3),
    "spike_distance": metrics.spike_distance,
    "coincidence_factor": lambda a, b: metrics.coincidence_factor(a, b, 1),
    "precision": lambda a, b: metrics.agreement(a, b, 1).precision,
    "recall": lambda a, b: metrics.agreement(a, b, 1).recall,
    "f1": lambda a, b: metrics.agreement(a, b, 1).f1,
}
DISTANCES = ["van_rossum", "victor_purpura", "spike_distance"]
every_measure = pytest.mark.parametrize("name", MEASURES)
every_distance = pytest.mark.parametrize("name", DISTANCES)


def several(count):
    """Trains of one shape ``[T, B]`` that share spikes, sparse and dense, silent ones among them."""
    return st.tuples(st.integers(1, 12), st.integers(1, 3)).flatmap(
        lambda shape: st.tuples(
            *[hnp.arrays(float, shape, elements=st.sampled_from([0.0, 0.0, 0.0, 1.0]), fill=st.nothing()).map(torch.from_numpy)]
            * count
        )
    )


def train(steps, *times):
    x = torch.zeros(steps, dtype=torch.float64)
    x[list(times)] = 1
    return x


def random_trains(steps, batch, rate, seed):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(steps, batch, generator=generator, dtype=torch.float64) < rate).double()


# By hand


def test_known_distances_of_two_trains_with_three_spikes():
    a, b = train(31, 10, 20, 30), train(31, 12, 24, 30)
    assert float(metrics.victor_purpura(a, b, 0.1)) == pytest.approx(0.6)
    assert math.sqrt(2) * float(metrics.van_rossum(a, b, 10)) == pytest.approx(0.98397, abs=5e-6)
    assert metrics.agreement(a, b, 2) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    # w ν = 5 · 3/31, so Γ = (2 - 3 · 15/31) / 3 / (1 - 15/31)
    assert float(metrics.coincidence_factor(a, b, 2)) == pytest.approx((2 / 3 - 15 / 31) / (1 - 15 / 31))


def test_van_rossum_is_the_integral_of_the_filtered_difference():
    tau, fine = 4.0, 200
    a, b = train(15, 2, 3, 9), train(15, 4, 9, 14)
    t = torch.arange(0, 120, 1 / fine, dtype=torch.float64)

    def filtered(x):
        return sum(torch.where(t >= k, torch.exp(-(t - k) / tau), 0.0) for k in x.nonzero().flatten().tolist())

    squared = ((filtered(a) - filtered(b)) ** 2).sum() / fine / tau
    assert float(metrics.van_rossum(a, b, tau)) ** 2 == pytest.approx(float(squared), rel=0.02)


@pytest.mark.parametrize("tau", [0.1, 3.0, math.inf])
def test_a_lone_spike_against_silence(tau):
    a, silent = train(9, 4), train(9)
    assert float(metrics.van_rossum(a, silent, tau)) == pytest.approx(1 / math.sqrt(2))
    assert float(metrics.victor_purpura(a, silent, 1 / tau)) == 1


def test_limits_of_time_scales():
    a, b = train(20, 1, 5, 9), train(20, 2, 14)
    assert float(metrics.victor_purpura(a, b, 0)) == 1, "a move is free: the difference of counts"
    assert float(metrics.victor_purpura(a, b, 100)) == 5, "a move is too dear: all spikes that do not coincide"
    assert float(metrics.van_rossum(a, b, math.inf)) == pytest.approx(1 / math.sqrt(2))
    assert float(metrics.van_rossum(a, b, 1e-3)) == pytest.approx(math.sqrt(5 / 2))


@given(trains=several(2), cost=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]))
def test_victor_purpura_by_trying_every_pairing(trains, cost):
    a, b = (x[:, 0].nonzero().flatten().tolist() for x in trains)
    assume(len(a) <= 5 and len(b) <= 5)
    cheapest = min(
        len(a) + len(b) - 2 * k + cost * sum(abs(i - j) for i, j in zip(chosen, partners, strict=True))
        for k in range(min(len(a), len(b)) + 1)
        for chosen in itertools.combinations(a, k)
        for partners in itertools.combinations(b, k)
    )
    assert float(metrics.victor_purpura(*trains, cost)[0]) == pytest.approx(cheapest, abs=1e-12)


@given(trains=several(2), window=st.integers(0, 4))
def test_no_pairing_has_more_pairs(trains, window):
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    got = metrics.agreement(*trains, window)
    for column, (first, second) in enumerate(zip(*(x.T for x in trains), strict=True)):
        a, b = first.nonzero(), second.nonzero()
        if len(a) and len(b):
            near = csr_array((a - b.T).abs().le(window).int().numpy())
            pairs = int((maximum_bipartite_matching(near, perm_type="column") >= 0).sum())
            assert float(got.precision[column]) == pytest.approx(pairs / len(a))
            assert float(got.recall[column]) == pytest.approx(pairs / len(b))
            assert float(got.f1[column]) == pytest.approx(2 * pairs / (len(a) + len(b)))


def test_agreement_of_silence():
    a, silent = train(9, 4), train(9)
    assert [float(x) for x in metrics.agreement(silent, silent, 2)] == [1, 1, 1]
    assert [float(x) for x in metrics.agreement(a, silent, 2)] == [0, 0, 0]
    assert [float(x) for x in metrics.agreement(silent, a, 2)] == [0, 0, 0]
    assert float(metrics.coincidence_factor(silent, silent, 2)) == 1
    assert float(metrics.coincidence_factor(silent, a, 2)) == 0


def test_each_partner_serves_once():
    got = metrics.agreement(train(9, 3, 4, 5), train(9, 4), 1)
    assert [float(x) for x in got] == pytest.approx([1 / 3, 1, 1 / 2])


def test_coincidence_factor_of_unrelated_trains_is_about_zero():
    a, b = random_trains(2000, 400, 0.01, 0), random_trains(2000, 400, 0.01, 1)
    for window in (0, 2):
        gamma = metrics.coincidence_factor(a, b, window)
        assert abs(float(gamma.mean())) < 0.01
        assert float(metrics.coincidence_factor(a, a, window).min()) == pytest.approx(1)


def test_coincidence_factor_is_undefined_where_chance_alone_would_do():
    dense = train(10, *range(0, 10, 3))
    assert float(metrics.coincidence_factor(dense, dense, 0)) == pytest.approx(1)
    assert math.isnan(float(metrics.coincidence_factor(dense, dense, 1)))
    assert math.isnan(float(metrics.coincidence_factor(train(9, 0, 3, 6), train(9, 0, 1), 1)))  # chance is exactly 1


# Against other libraries

CASES = [(30, 0.2, 0.2), (12, 0.1, 0.15), (5, 0.3, 0.3), (40, 0.05, 0.5), (2, 0.5, 0.5), (1, 0.5, 0.5)]
"""Steps and rates, so that silent trains, lone spikes and spikes at the edges all occur."""
cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
def test_spike_distance_is_that_of_pyspike(case):
    pyspike = pytest.importorskip("pyspike", reason="PySpike is not installed (pip install pyspike)")
    steps, rate, other_rate = case
    a, b = random_trains(steps, 200, rate, 0), random_trains(steps, 200, other_rate, 1)

    def theirs(x):
        return [pyspike.SpikeTrain(row.nonzero().flatten().double().numpy(), (0, steps)) for row in x.T]

    expected = [pyspike.spike_distance(x, y) for x, y in zip(theirs(a), theirs(b), strict=True)]
    torch.testing.assert_close(metrics.spike_distance(a, b), torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


@cases
@pytest.mark.filterwarnings("ignore:van_rossum_distance. very small negative values")
def test_van_rossum_and_victor_purpura_are_those_of_elephant(case):
    elephant = pytest.importorskip(
        "elephant.spike_train_dissimilarity", reason="elephant is not installed (pip install elephant)"
    )
    import neo
    import quantities

    steps, rate, other_rate = case
    a, b = random_trains(steps, 8, rate, 0), random_trains(steps, 8, other_rate, 1)
    step = quantities.ms
    theirs = [neo.SpikeTrain(row.nonzero().flatten().numpy() * step, t_stop=steps * step) for row in [*a.T, *b.T]]
    first, second = torch.arange(8), torch.arange(8, 16)
    for tau in (1.5, 8.0):
        matrix = torch.from_numpy(elephant.van_rossum_distance(theirs, tau * step, sort=False))
        ours = math.sqrt(2) * metrics.van_rossum(a, b, tau)
        torch.testing.assert_close(
            ours, matrix[first, second].double(), atol=1e-7, rtol=0
        )  # they take a root of rounding errors
    for cost in (0.0, 0.2, 1.3):
        matrix = torch.from_numpy(elephant.victor_purpura_distance(theirs, cost / step, sort=False))
        torch.testing.assert_close(metrics.victor_purpura(a, b, cost), matrix[first, second].double(), atol=1e-12, rtol=0)


# Axioms


@every_distance
@given(trains=several(2))
def test_distances_are_symmetric_and_not_negative(name, trains):
    a, b = trains
    forth, back = MEASURES[name](a, b), MEASURES[name](b, a)
    torch.testing.assert_close(forth, back, atol=1e-12, rtol=0)
    assert (forth >= 0).all()


@every_distance
@given(trains=several(2))
def test_distances_are_zero_for_equal_trains_and_no_others(name, trains):
    a, b = trains
    assert (MEASURES[name](a, a) == 0).all()
    differs = (a != b).any(0)
    if name == "spike_distance":  # a train without a spike at 0 may be completed to one with it
        differs &= (a[1:] != b[1:]).any(0)
    assert (MEASURES[name](a, b)[differs] > 1e-6).all()


@pytest.mark.parametrize("name", ["van_rossum", "victor_purpura"])
@given(trains=several(3))
def test_no_detour_is_shorter(name, trains):
    a, b, c = trains
    measure = MEASURES[name]
    assert (measure(a, c) <= measure(a, b) + measure(b, c) + 1e-9).all()


@given(trains=several(2))
def test_spike_distance_is_at_most_one(trains):
    assert (metrics.spike_distance(*trains) <= 1).all()


@given(trains=several(2), window=st.integers(0, 3))
def test_precision_of_one_is_recall_of_the_other(trains, window):
    a, b = trains
    forth, back = metrics.agreement(a, b, window), metrics.agreement(b, a, window)
    assert torch.equal(forth.precision, back.recall)
    assert torch.equal(forth.f1, back.f1)
    assert (metrics.agreement(a, a, window).f1 == 1).all()


# Shapes, types, errors


@every_measure
def test_a_batch_is_its_trains_one_by_one(name):
    a, b = random_trains(25, 24, 0.15, 0), random_trains(25, 24, 0.25, 1)
    a[:, 0] = b[:, 1] = 0
    one_by_one = torch.stack([MEASURES[name](x, y) for x, y in zip(a.T, b.T, strict=True)])
    whole = MEASURES[name](a.view(25, 2, 3, 4), b.view(25, 2, 3, 4))
    assert whole.shape == (2, 3, 4)
    torch.testing.assert_close(whole.flatten(), one_by_one, atol=1e-12, rtol=1e-12, equal_nan=True)


@every_measure
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.uint8, torch.bool])
def test_types(name, dtype):
    a, b = random_trains(25, 6, 0.15, 0), random_trains(25, 6, 0.2, 1)
    got = MEASURES[name](a.to(dtype), b.to(dtype))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), MEASURES[name](a, b), atol=1e-5, rtol=1e-5)


@every_measure
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_of_16_bits_count_all_steps(name, dtype):
    """bfloat16 has whole numbers up to 256 only, float16 up to 2048."""
    a, b = random_trains(3000, 2, 0.15, 0), random_trains(3000, 2, 0.2, 1)
    got = MEASURES[name](a.to(dtype), b.to(dtype))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), MEASURES[name](a, b), atol=1e-6, rtol=1e-5)


@every_measure
def test_empty_batch(name):
    assert MEASURES[name](torch.zeros(5, 0), torch.zeros(5, 0)).shape == (0,)


@every_measure
def test_trains_that_are_none(name):
    measure = MEASURES[name]
    for a, b in ((torch.zeros(5), torch.zeros(6)), (torch.zeros(0), torch.zeros(0)), (torch.tensor(1.0), torch.tensor(1.0))):
        with pytest.raises(UserError, match=r"\Aspike trains have shapes .* one shape \[T, \.\.\.\]\Z"):
            measure(a, b)
    for value in (0.5, 2.0, math.nan):
        with pytest.raises(UserError, match=r"0 and 1; give spikes_from_psc\(psc, tau_s\)\.round\(\)"):
            measure(torch.zeros(5), torch.full((5,), value))


def test_time_scales_that_are_none():
    x = torch.zeros(5)
    for call, message in (
        (lambda: metrics.van_rossum(x, x, 0), "tau is 0; it must be positive"),
        (lambda: metrics.van_rossum(x, x, math.nan), "tau is nan"),
        (lambda: metrics.van_rossum(x, x, "5"), "tau is '5'; it must be a plain number"),
        (lambda: metrics.victor_purpura(x, x, "1"), "cost is '1'; it must be a plain number"),
        (lambda: metrics.agreement(x, x, "1"), "window is '1'; it must be a plain number"),
        (lambda: metrics.victor_purpura(x, x, -1), "cost is -1; it must be finite and at least 0"),
        (lambda: metrics.victor_purpura(x, x, math.inf), "cost is inf; it must be finite"),
        (lambda: metrics.agreement(x, x, -1), "window is -1; it must be a whole number of steps, at least 0"),
        (lambda: metrics.agreement(x, x, math.nan), "window is nan; it must be a whole number"),
        (lambda: metrics.coincidence_factor(x, x, 1.5), "window is 1.5; it must be a whole number"),
        (lambda: metrics.coincidence_factor(x, x, -1), "window is -1"),
    ):
        with pytest.raises(UserError, match=message):
            call()
