"""How close each rule comes to the exact gradient as the step shrinks."""

import math
import statistics

import pytest
import torch

from tsslbp import TSSL, Surrogate, UserError
from tsslbp.neuron import LIF
from tsslbp.rivals.eventprop import Train, loss_gradient, random_case, simulate, van_rossum
from tsslbp.rivals.fidelity import fidelity, grid_gradient, smoothed
from tsslbp.rules.eventprop import EventProp

FINEST = 1 / 64
# Without fallback and bound, so that what is judged is the spike-time gradient itself.
TIMING = TSSL("timing", fallback="never", clip=math.inf)
AMPLITUDE = TSSL("amplitude", fallback="never", clip=math.inf)


def compare(case, rule, step, smoothing=1):
    """Cosine, ratio of norms and relative error of the first layer's gradient."""
    ours, true = grid_gradient(case, rule, step, smoothing)[0][0], loss_gradient(case, smoothing)[0][0]
    cosine = torch.nn.functional.cosine_similarity(ours.flatten(), true.flatten(), dim=0).item()
    return cosine, (ours.norm() / true.norm()).item(), ((ours - true).norm() / true.norm()).item()


def one_spike_each():
    case = random_case(4, (12, 6), spikes=1)
    case = case._replace(neuron=LIF(6, 3, 0.8), inputs=case.inputs._replace(times=case.inputs.times / 3))
    (layer,) = simulate(case.weights, case.inputs, case.neuron, case.until)
    assert torch.bincount(layer.train.source).tolist() == [0, 1, 1, 1, 1, 1]
    return case


@pytest.mark.parametrize("smoothing", [1, 2])
def test_eventprop_tends_to_the_exact_gradient_of_one_layer(smoothing):
    for seed in range(3):
        (row,) = fidelity(EventProp(), seed=seed, steps=(FINEST,), smoothing=smoothing)
        assert row["matched"]
        assert row["cosine"] > 0.99
        assert row["norm"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", [0, 5])
def test_eventprop_tends_to_the_exact_gradient_of_two_layers(seed):
    for row in fidelity(EventProp(), seed=seed, layers=(12, 8, 6), steps=(FINEST,)):
        assert row["matched"]
        assert row["cosine"] > 0.95
        assert row["norm"] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_eventprop_tends_to_the_exact_gradient_of_two_layers_whatever_the_net():
    # Grid and truth can agree only where they have the same spikes. A crossing that is slow, or close to an arrival, has
    # a gradient that is sensitive to its time and converges last: hence a wider bound for each and the median for size.
    nets = [fidelity(EventProp(), seed=seed, layers=(12, 8, 6), steps=(1 / 256,)) for seed in range(12)]
    comparable = [rows for rows in nets if all(row["matched"] for row in rows)]
    assert len(comparable) >= 8
    assert min(row["cosine"] for rows in comparable for row in rows) > 0.8
    for layer in (0, 1):
        assert statistics.median(rows[layer]["cosine"] for rows in comparable) > 0.999
        assert statistics.median(rows[layer]["norm"] for rows in comparable) == pytest.approx(1, abs=0.05)


def test_eventprop_errs_in_proportion_to_the_step():
    case = random_case(6, (12, 6))  # no crossing slower than 0.09
    coarse, fine = (compare(case, EventProp(), step)[2] for step in (1 / 8, 1 / 64))
    assert fine < 0.03
    assert coarse > 5 * fine


def test_timing_is_exact_for_lone_spikes_and_an_error_that_does_not_jump():
    case = one_spike_each()
    cosine, norm, _ = compare(case, TIMING, 1 / 32, smoothing=2)
    assert cosine > 0.999
    assert norm == pytest.approx(1, abs=0.1)
    # An error that jumps at the spike is taken after the jump alone, which here even turns the gradient round.
    assert compare(case, TIMING, 1 / 32, smoothing=1)[0] < 0
    assert compare(case, EventProp(), 1 / 32, smoothing=1)[0] > 0.99


def test_timing_is_not_exact_where_neurons_fire_again():
    for smoothing, most in ((1, 0.7), (2, 0.97)):
        cosines = [compare(random_case(seed, (12, 6)), TIMING, 1 / 16, smoothing)[0] for seed in range(3)]
        assert statistics.median(cosines) < most


@pytest.mark.parametrize("rule", [AMPLITUDE, TSSL(), Surrogate(), "surrogate(name=sigmoid)"], ids=str)
def test_neither_amplitude_nor_surrogates_tend_to_the_exact_gradient(rule):
    assert compare(one_spike_each(), rule, 1 / 32, smoothing=2)[0] < 0.5


def test_size_of_the_amplitude_gradient_grows_as_the_step_shrinks():
    coarse, fine = (compare(one_spike_each(), AMPLITUDE, step, smoothing=2)[1] for step in (1 / 8, 1 / 32))
    assert fine / coarse == pytest.approx(4, rel=0.3)


def test_rows_are_complete_and_repeat():
    rows = fidelity("tssl", seed=1, layers=(4, 3, 2), steps=(1, 0.5))
    assert rows == fidelity("tssl", seed=1, layers=(4, 3, 2), steps=(1, 0.5))
    assert rows != fidelity("tssl", seed=2, layers=(4, 3, 2), steps=(1, 0.5))
    assert [(row["step"], row["layer"]) for row in rows] == [(1, 1), (1, 2), (0.5, 1), (0.5, 2)]
    assert all(row.keys() == {"step", "layer", "cosine", "norm", "spikes", "true_spikes", "matched"} for row in rows)


def test_grid_fires_as_the_network_does():
    case = random_case(6, (12, 6))
    _, (counts,) = grid_gradient(case, EventProp(), 1 / 32)
    (layer,) = simulate(case.weights, case.inputs, case.neuron, case.until)
    assert counts.tolist() == torch.bincount(layer.train.source, minlength=6).tolist()


def test_a_grid_too_coarse_for_some_spikes_says_so():
    for row in fidelity(EventProp(), seed=1, layers=(12, 8, 6), steps=(1,)):
        assert row["matched"] == (row["layer"] == 1)
        assert (row["spikes"] == row["true_spikes"]) == (row["layer"] == 1)


@pytest.mark.parametrize("smoothing", [1, 2])
def test_smoothed_target_is_that_of_the_distance(smoothing):
    target = random_case(0, (2, 3)).target
    times = torch.arange(80_000, dtype=torch.float64) / 1000
    integral = 0.5 * smoothed(target, times, 3, 3.0, smoothing).square().sum() / 1000
    nothing = Train(target.times[:0], target.source[:0])
    assert van_rossum(nothing, target, 3.0, smoothing).item() == pytest.approx(integral.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": (1, 0)}, "steps is .*positive and at most tau_s"),
        ({"steps": (4,)}, "steps is .*positive and at most tau_s"),
        ({"smoothing": 3}, "smoothing is 3"),
        ({"layers": (5,)}, "sizes of input and output"),
        ({"rule": "tsl"}, "did you mean 'tssl'"),
    ],
)
def test_errors_name_the_fix_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        fidelity(**{"rule": "tssl", **options})
    assert "\n" not in str(error.value)
