"""How close each rule comes to the exact gradient as the step shrinks, and what it makes of a gradient through many layers."""

import importlib
import json
import math
import re
import shlex
import statistics
from pathlib import Path

import pytest
import torch
from shared import fails
from test_report import Page

from tsslbp import TSSL, Surrogate, build, cli, study
from tsslbp.neuron import LIF, spikes_from_psc
from tsslbp.rivals.eventprop import Train, loss_gradient, random_case, simulate, van_rossum
from tsslbp.rules.eventprop import EventProp
from tsslbp.study.fidelity import against_exact, grid_gradient, smoothed

fidelity = importlib.import_module("tsslbp.study.fidelity")  # its name in the package is that of the function
ROOT = Path(__file__).parent.parent
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
        (row,) = against_exact(EventProp(), seed=seed, steps=(FINEST,), smoothing=smoothing)
        assert row["matched"]
        assert row["cosine"] > 0.99
        assert row["norm"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("seed", [0, 5])
def test_eventprop_tends_to_the_exact_gradient_of_two_layers(seed):
    for row in against_exact(EventProp(), seed=seed, layers=(12, 8, 6), steps=(FINEST,)):
        assert row["matched"]
        assert row["cosine"] > 0.95
        assert row["norm"] == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_eventprop_tends_to_the_exact_gradient_of_two_layers_whatever_the_net():
    # Grid and truth can agree only where they have the same spikes. A crossing that is slow, or close to an arrival, has
    # a gradient that is sensitive to its time and converges last: hence a wider bound for each and the median for size.
    nets = [against_exact(EventProp(), seed=seed, layers=(12, 8, 6), steps=(1 / 256,)) for seed in range(12)]
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
    rows = against_exact("tssl", seed=1, layers=(4, 3, 2), steps=(1, 0.5))
    assert rows == against_exact("tssl", seed=1, layers=(4, 3, 2), steps=(1, 0.5))
    assert rows != against_exact("tssl", seed=2, layers=(4, 3, 2), steps=(1, 0.5))
    assert [(row["step"], row["layer"]) for row in rows] == [(1, 1), (1, 2), (0.5, 1), (0.5, 2)]
    assert all(row.keys() == {"step", "layer", "cosine", "norm", "spikes", "true_spikes", "matched"} for row in rows)


def test_grid_fires_as_the_network_does():
    case = random_case(6, (12, 6))
    _, (counts,) = grid_gradient(case, EventProp(), 1 / 32)
    (layer,) = simulate(case.weights, case.inputs, case.neuron, case.until)
    assert counts.tolist() == torch.bincount(layer.train.source, minlength=6).tolist()


def test_a_grid_too_coarse_for_some_spikes_says_so():
    for row in against_exact(EventProp(), seed=1, layers=(12, 8, 6), steps=(1,)):
        assert row["matched"] == (row["layer"] == 1)
        assert (row["spikes"] == row["true_spikes"]) == (row["layer"] == 1)


@pytest.mark.parametrize("smoothing", [1, 2])
def test_smoothed_target_is_that_of_the_distance(smoothing):
    target = random_case(0, (2, 3)).target
    times = torch.arange(80_000, dtype=torch.float64) / 1000
    integral = 0.5 * smoothed(target, times, 3, 3.0, smoothing).square().sum() / 1000
    nothing = Train(target.times[:0], target.source[:0])
    assert van_rossum(nothing, target, 3.0, smoothing).item() == pytest.approx(integral.item(), rel=1e-3)


# The study.


def test_fidelity_compares_the_networks_that_fire_alike():
    steps = (1 / 2, 1 / 8)
    found = study.fidelity(("tssl", "eventprop", "tssl"), seeds=4, steps=steps)
    assert list(found["rules"]) == ["tssl", "eventprop"]
    made = [against_exact("eventprop", seed=seed, layers=(12, 8, 6), steps=steps) for seed in range(4)]
    for at in (0, 1):
        alike = [rows[2 * at : 2 * at + 2] for rows in made if rows[2 * at]["matched"] and rows[2 * at + 1]["matched"]]
        assert found["alike"]["12-8-6"][at] == len(alike)
        for layer in (0, 1):
            for key in ("cosine", "norm"):
                one = found["rules"]["eventprop"]["exact"]["12-8-6"][layer][key][at]
                if not alike:
                    assert one is None
                    continue
                values = [rows[layer][key] for rows in alike]
                assert one["median"] == pytest.approx(statistics.median(values))
                assert min(values) <= one["low"] <= one["median"] <= one["high"] <= max(values)
    assert 0 < sum(found["alike"]["12-8-6"]) < 8
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_layers_of_the_deep_networks_fire_alike_and_their_norms_are_those_of_a_network():
    chain = fidelity.Chain(3)
    net = build("64-64-64", input_shape=(64,), time_steps=20, tau_m=5.0, tau_s=3.0, rule="slayer").double()
    with torch.no_grad():
        for weight, value in zip(net.parameters(), chain.weights, strict=False):
            weight.copy_(value)
    x = spikes_from_psc(chain.input, 3.0)
    for psc in net.activity(x).values():
        assert spikes_from_psc(psc, 3.0).mean().item() == pytest.approx(0.1, abs=0.002)
    (0.5 * (net(x) - chain.target).square().sum()).backward()
    *_, output = norms = [weight.grad.norm().item() for weight in net.parameters()]
    assert chain.norms("slayer", 2) == pytest.approx([norm / output for norm in norms])
    assert chain.norms("slayer", 2)[-1] == 1


def test_some_gradients_vanish_and_others_explode_with_depth():
    chain = fidelity.Chain(0)
    first = {rule: [chain.norms(rule, hidden)[0] for hidden in (1, 5, 10)] for rule in ("surrogate", "slayer", "tssl+")}
    assert first["surrogate"] == sorted(first["surrogate"], reverse=True)
    assert first["surrogate"][-1] < 1e-3
    assert first["slayer"] == sorted(first["slayer"])
    assert first["slayer"][-1] > 1e2
    assert 0.1 < first["tssl+"][-1] < 10


def test_what_is_not_finite_or_not_there_is_told():
    assert fidelity.spread([]) is fidelity.spread([1.0, math.nan]) is None
    assert fidelity.spread([3.0]) == {"median": 3.0, "low": 3.0, "high": 3.0}
    assert fidelity.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3, "low": 2, "high": 4}
    found = study.fidelity(("tssl(inter=False, fallback=never)",), seeds=1, steps=(1,))  # a gradient of nothing
    (rule,) = found["rules"].values()
    assert rule["depth"][-1] == [None] * 11
    section = study.section(found)
    assert section.answer == "No network fired alike, and no gradient was finite."
    assert section.rows[0][-1] == "–"
    rule["exact"]["12-8-6"][0]["cosine"][-1] = fidelity.spread([0.5])
    assert study.section(found).answer.endswith("0.500 in networks of 12-8-6 neurons.")


@pytest.mark.slow
def test_fidelity_by_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "fidelity", "tssl", "tssl(clip=1)", "--seeds", "1"]) == 0
    result = json.loads((tmp_path / "studies/fidelity/fidelity.json").read_text())
    section, page = study.section(result), Page(tmp_path / "studies/fidelity/report.html")
    assert section.answer in page.text
    assert section.answer in capsys.readouterr().out
    assert len(page.all("svg")) == len(section.drawings) == 6
    assert len({len(row) for row in [section.heads, *section.rows]}) == 1
    assert "tssl(clip=1)" in page.text


def test_fidelity_prints_medians_of_networks_that_fire_alike(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "fidelity", "surrogate(name=sigmoid)", "--seeds", "2", "--smoothing", "2", "--table"]) == 0
    head, cells, alike = (re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[:3])
    assert head == ["cosine / norm at step", *(f"1/{2**power}" for power in range(7))]
    assert cells[0] == "surrogate(name=sigmoid)"
    for column in (1, 3):
        rows = [against_exact(cells[0], seed=seed, steps=(2 ** (1 - column),), smoothing=2)[0] for seed in range(2)]
        rows = [row for row in rows if row["matched"]]
        medians = [f"{statistics.median(row[key] for row in rows):.2f}" for key in ("cosine", "norm") if rows]
        assert cells[column] == (" / ".join(medians) or "–")
        assert alike[column] == str(len(rows))


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [1, 2])
def test_measured_tables_of_the_derivation(smoothing, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/gradient.md").read_text("utf-8")
    commands = re.findall(r"^    tsslbp (study fidelity .*)$", text, re.MULTILINE)
    tables = re.findall(r"```text\n(cosine.*?)```", text, re.DOTALL)
    assert cli.main(shlex.split(commands[smoothing - 1])) == 0
    written = tables[smoothing - 1].splitlines()
    measured = capsys.readouterr().out.splitlines()[: len(written)]
    assert [row.split("  ")[0] for row in measured] == [row.split("  ")[0] for row in written]
    measured, written = (re.findall(r"-?\d+\.?\d*", "\n".join(table)) for table in (measured, written))
    assert [float(x) for x in measured] == pytest.approx([float(x) for x in written], rel=0.05, abs=0.02)


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
    with fails(message):
        against_exact(**{"rule": "tssl", **options})
