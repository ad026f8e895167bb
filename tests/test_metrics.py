"""From output currents to answers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shared import fails

import tsslbp
from tsslbp import UserError
from tsslbp.metrics import NO_ANSWER, confidence, decode, settled, settled_step, wilson_interval

outputs = hnp.arrays(
    float,
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5)),
    elements=st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]),
    fill=st.nothing(),
).map(torch.from_numpy)


def answer(sums):
    return max(range(len(sums)), key=lambda c: (sums[c], -c)) if max(sums) > 0 else -1


def sums_until(psc, b, steps):
    return [sum(psc[t, b, c].item() for t in range(steps)) for c in range(psc.shape[2])]


def test_decode_by_hand():
    psc = torch.zeros(3, 4, 3)
    psc[:, 0, 1] = 0.2  # one neuron, all the time
    psc[2, 1] = torch.tensor([0.1, 0.2, 0.9])  # late
    psc[0, 2, 0], psc[1:, 2, 2] = 0.5, 0.3  # the sum counts, not the peak
    assert decode(psc).tolist() == [1, 2, 2, -1]


def test_silence_is_no_answer_and_never_right():
    assert NO_ANSWER == -1
    psc = torch.zeros(5, 3, 4)
    assert decode(psc).tolist() == [-1, -1, -1]
    assert confidence(psc).tolist() == [0, 0, 0]
    assert settled_step(psc).tolist() == [0, 0, 0]
    assert not any((decode(psc) == c).any() for c in range(4))


@given(psc=outputs)
@settings(max_examples=100, deadline=None)
def test_decode_confidence_and_settled_step_by_brute_force(psc):
    steps, batch, _ = psc.shape
    answers = [[answer(sums_until(psc, b, t + 1)) for t in range(steps)] for b in range(batch)]
    assert decode(psc).tolist() == [row[-1] for row in answers]
    last_changes = [next(t for t in range(steps) if all(a == row[-1] for a in row[t:])) for row in answers]
    assert settled_step(psc).tolist() == last_changes
    for b, share in enumerate(confidence(psc).tolist()):
        sums = sums_until(psc, b, steps)
        assert share == pytest.approx(max(sums) / sum(sums) if sum(sums) else 0, rel=1e-12)


def test_settled_step_by_hand():
    psc = torch.zeros(4, 3, 2)
    psc[:, 0, 1] = 1  # right from the start
    psc[0, 1, 0], psc[2, 1, 1] = 0.5, 1  # changes its mind at step 2
    psc[3, 2, 0] = 1  # speaks at the last step
    assert settled_step(psc).tolist() == [0, 2, 3]


def test_confidence_by_hand():
    psc = torch.tensor([[[0.5, 0.25]], [[0.25, 0.0]]])
    assert confidence(psc).item() == pytest.approx(0.75)
    assert confidence(torch.ones(2, 1, 4)).item() == pytest.approx(0.25)


def test_confidence_of_a_network_that_hardly_spikes():
    """A share is a share however small the whole: one spike of a slow synapse is 1/τs."""
    assert confidence(torch.tensor([[[0.003, 0.001]]])).item() == pytest.approx(0.75)
    assert confidence(torch.tensor([[[1e-30, 1e-30]]])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("metric", [decode, settled_step])
def test_nan_is_no_answer(metric):
    psc = torch.zeros(4, 3, 2)
    psc[2, 1, 0] = math.nan
    with fails("output holds NaN, which is no answer"):
        metric(psc)
    torch.testing.assert_close(confidence(psc), torch.tensor([0, math.nan, 0]), equal_nan=True)


@pytest.mark.parametrize("metric", [decode, confidence, settled_step])
def test_empty_batch(metric):
    assert metric(torch.empty(4, 0, 3)).shape == (0,)


# Published values: Wilson's interval at 95 %.
@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (5, 10, 0.2366, 0.7634),
        (8, 10, 0.4902, 0.9433),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_known_values(right, total, low, high):
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("given", [("1", 3), (1, "3"), (1, 3, None), (1, True)])
def test_wilson_interval_of_no_numbers(given):
    with pytest.raises(UserError, match="it must be a number"):
        wilson_interval(*given)


@pytest.mark.parametrize(("right", "total"), [(5, 3), (-1, 3), (1, 0), (math.nan, 3)])
def test_wilson_interval_of_no_share(right, total):
    with pytest.raises(UserError, match=r"of \d is no share; the first number must be from 0 to the second"):
        wilson_interval(right, total)


@given(total=st.integers(1, 10**6), data=st.data(), z=st.floats(0.1, 5))
@settings(max_examples=100, deadline=None)
def test_wilson_interval_ends_are_z_standard_errors_away(total, data, z):
    right = data.draw(st.integers(0, total))
    share = right / total
    low, high = wilson_interval(right, total, z)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        assert (share - end) ** 2 * total == pytest.approx(z**2 * end * (1 - end), rel=1e-6, abs=1e-9)


def test_wilson_interval_of_nothing():
    """Without a single answer nothing is known; a division by zero is not an answer."""
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_narrows():
    widths = [high - low for low, high in (wilson_interval(n // 2, n) for n in (10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[2] == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 1000), rel=0.01)


@given(
    trains=hnp.arrays(float, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.sampled_from([0.0, 1.0])),
    steps=st.integers(1, 8),
    tau_s=st.sampled_from([1.0, 1.5, 3.0, 10.0]),
)
@settings(max_examples=200)
def test_a_settled_answer_is_one_that_nothing_can_change(trains, steps, tau_s):
    """Against the worst that can come: the leader falls silent and one other neuron spikes in every step to the end."""
    past = torch.from_numpy(trains)[:, None]
    now = tsslbp.neuron.synapse(past, tau_s)
    (answer,), classes = decode(now), past.shape[2]
    leads = []
    for other in range(classes):
        rest = torch.zeros(steps, 1, classes, dtype=torch.float64)
        rest[..., other] = 1
        total = tsslbp.neuron.synapse(torch.cat([past, rest]), tau_s).sum(0)[0]
        if other != answer:
            leads.append(float(total[answer] - total[other]) if answer != NO_ANSWER else -1.0)
    said = bool(settled(now.sum(0), now[-1], steps, tau_s))
    if said:
        assert min(leads, default=1.0) > 0
    elif classes > 1:
        assert min(leads) < 2e-3  # what is kept for rounding


@pytest.mark.parametrize("tau_s", [1.0, 3.0, 8.0])
def test_a_settled_answer_is_the_last_one_whatever_came_before(tau_s):
    """All pairs of trains of eight steps: one that will be ahead in the end need not be ahead yet."""
    steps, number = 8, torch.arange(2**16)
    trains = torch.stack([number >> bit & 1 for bit in range(16)]).view(steps, 2, -1).transpose(1, 2).double()
    psc = tsslbp.neuron.synapse(trains, tau_s)
    total, final, told = psc.cumsum(0), decode(psc), 0
    for t in range(steps - 1):
        done = settled(total[t], psc[t], steps - 1 - t, tau_s)
        assert torch.equal(decode(total[t : t + 1])[done], final[done])
        told += int(done.sum())
    assert told > 1000


def test_classes_that_differ_by_rounding_tie():
    psc = torch.full((20, 1, 1), 1 / 3) * torch.tensor([0.5, 1.0, 1.0 + 1e-6])
    assert decode(psc).tolist() == [1]
    assert decode(torch.cat([psc, psc[..., 1:2] * 1.001], 2)).tolist() == [3]
    assert decode(torch.tensor([[[0, 10**9, 10**9 + 1]]])).tolist() == [2]
    assert decode(0 * psc).tolist() == [NO_ANSWER]


def test_settled_by_hand():
    """Spikes themselves (τs = 1): a lead of three is settled with two steps to come, and not with three."""
    total, psc = torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert settled(total, psc, 2, 1.0).tolist() == [True]
    assert settled(total, psc, 3, 1.0).tolist() == [False]


def test_confidence_of_counts():
    assert confidence(torch.tensor([[[3, 1], [0, 0]]])).tolist() == [0.75, 0.0]


@pytest.mark.parametrize("shape", [(3, 2), (0, 3, 2), (4, 3, 0)])
@pytest.mark.parametrize("metric", [decode, confidence, settled_step])
def test_output_of_another_shape_is_refused(metric, shape):
    with pytest.raises(UserError, match=r"output has shape .*; it must be \[T, B, C\], before any sum over time"):
        metric(torch.ones(shape))


def test_output_that_is_summed_already_is_refused():
    with pytest.raises(UserError, match=r"output has shape \[3, 4\]; it must be \[T, B, C\], before any sum over time"):
        decode(torch.rand(3, 4))


def test_voltages_are_refused_where_no_class_has_an_answer():
    voltage = torch.tensor([[[0.5, -0.2], [-0.5, -0.2]]])
    assert decode(voltage[:, :1]).tolist() == [0]
    with pytest.raises(UserError, match="the output has sums below 0, as voltages may"):
        decode(voltage)


def test_the_confidence_of_voltages_is_asked_for_elsewhere():
    with pytest.raises(UserError, match=r"sums below 0, as voltages may; take net.evidence\(output\)"):
        confidence(torch.tensor([[[2.0, -3.0]]]))
