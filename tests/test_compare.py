"""Comparisons: alike but for the rule, counted right, not run twice, and told as they came out."""

import copy
import functools
import importlib
import json
import math
import os
import re
import shutil
import signal
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared import StopAt
from test_report import Page

from tsslbp import UserError, build, cli, data, layers, losses, study, training
from tsslbp.data import Normalisation, Split
from tsslbp.data.filters import Filters
from tsslbp.neuron import membrane_potential, spikes, synapse
from tsslbp.study import activity, comparison, runs, search, step, tuning
from tsslbp.study.compare import Compare
from tsslbp.study.tuning import Tuning
from tsslbp.training import folder as run_folder
from tsslbp.training.inputs import Inputs
from tsslbp.training.settings import TrainConfig

comparing = importlib.import_module("tsslbp.study.compare")  # its name in the package is that of the function
RULES = ["tssl", "tssl(leak=False, clip=2)", "relu"]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(comparing, "SECONDS", 0.0)
    monkeypatch.setattr(comparing, "peak_memory", lambda config: 1.5)


# The cost of a step.


def test_filters_are_no_part_of_a_step(monkeypatch):
    x = np.random.default_rng(0).random((40, 12, 2), np.float32)
    dataset = data.of_arrays(x, np.arange(40) % 2)
    config = TrainConfig(network="5-2", filters=84, loss="softmax", time_steps=4)
    one = step.step(config, dataset)
    monkeypatch.setattr(Filters, "__call__", None)
    one()


# Entries.


def test_commas_in_brackets_do_not_split():
    text = "tssl, tssl(leak=False, clip=2),surrogate(name=atan,slope=3) ,relu,"
    assert comparing.split(text) == ["tssl", "tssl(leak=False, clip=2)", "surrogate(name=atan,slope=3)", "relu"]


def test_an_ann_beside_learned_constants_has_none(quick):
    own = {"learn": ("threshold",), "per_neuron": ("threshold",), "spread": 0.1}
    made = study.contestants(quick(**own), ["tssl", "relu"])
    assert {name: getattr(made["tssl"], name) for name in own} == own
    assert (made["relu"].learn, made["relu"].per_neuron, made["relu"].spread) == ((), (), 0)


def test_contestants_differ_in_rule_and_units_only(quick):
    config = quick(loss="count", seed=3)
    made = study.contestants(config, ["tssl( clip=2,leak = False )", "surrogate", "binary"])
    assert list(made) == ["tssl(leak=False, clip=2)", "surrogate", "binary"]
    assert [(c.rule, c.neuron, c.with_loss().loss) for c in made.values()] == [
        ("tssl(leak=False, clip=2)", "spiking", "count"),
        ("surrogate", "spiking", "count"),
        ("tssl", "binary", "softmax"),
    ]
    assert {replace(c, rule="tssl", neuron="spiking", loss="count") for c in made.values()} == {config}


def test_first_weights_are_the_same_under_every_rule(quick):
    config = quick(seed=4, network="8C3-P2-20-10", dropout=0.1)
    weights = []
    for settings in study.contestants(config, ["tssl", "surrogate(name=atan)", "binary", "relu"]).values():
        model, _ = training.prepare(*training.with_data(settings))
        weights.append(torch.cat([weight.flatten() for weight in model.network.parameters()]))
    assert all(torch.equal(weights[0], other) for other in weights[1:])


# Activity.


def network(notation="3C3-P2-4C2-6-5", static=True, neuron="spiking", **changes):
    torch.manual_seed(0)
    settings = {"input_shape": (2, 9, 8), "time_steps": 4, "tau_m": 5.0, "tau_s": 3.0, "padding": (1, 0)}
    net = build(notation, neuron=neuron, conv_scale=3.0, **{**settings, **changes}).eval()
    return training.Model(
        net, Inputs("constant", Normalisation(1.0, (0.0,), (1.0,)), net.time_steps, not static), tuple("abcde"), "none"
    )


def stored(x, lengths=None):
    return Split(x, torch.zeros(len(x), dtype=torch.int64), lengths)


def fan_out(net, shapes):
    """Connections of every input of every spiking layer, from the Jacobian of all that lies between it and the layer before."""
    found, chain = [], []
    for layer in net.layers:
        if not isinstance(layer, layers.Spiking):
            chain.append(layer)
            continue
        torch.nn.init.ones_(layer.weight)
        chain.append(functools.partial(layers.linear_map, layer.map))
        shape = shapes[len(found)]
        jacobian = torch.autograd.functional.jacobian(
            lambda x, chain=chain: functools.reduce(lambda y, part: part(y), chain, x), torch.zeros(1, 1, *shape)
        )
        found.append((jacobian.reshape(-1, *shape) != 0).double().sum(0))
        chain = []
    return found


SHAPES = [(2, 9, 8), (3, 9, 8), (4, 3, 3), (6,)]
BEHIND = [4 * 3 * 3 * 12, 36 * 6, 6 * 5]
"""Connections of the layers behind the first: 4 channels of 3×3 outputs take 3 channels of 2×2 pooled inputs each."""


def test_a_spike_is_counted_once_a_connection():
    model, x = network(), 2 * torch.randn(7, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    counts = activity.spike_counts(model.network, x)
    found = activity.operations(model.network, x, counts)
    first, *rest = fan_out(network().network, SHAPES)
    hidden = [count.double().sum(0) for count in counts.values()][:-1]
    assert all(float(count.sum()) > 0 for count in hidden)
    assert found.macs == 7 * float(first.sum())
    assert found.acs == sum(float((count * out).sum()) for count, out in zip(hidden, rest, strict=True))
    assert found.dense_macs == 7 * (float(first.sum()) + 4 * sum(BEHIND))
    assert found.own_macs == 7 * 4 * 2 * (3 * 9 * 8 + 4 * 3 * 3 + 6 + 5)


def test_spikes_are_the_neurons_own():
    model = network("6-5", input_shape=(4,), padding=0)
    x = 3 * torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    net = model.network
    first, second = (weight.detach() for weight in net.parameters())
    train = spikes(membrane_potential(synapse(x.expand(4, 9, 4), 3.0) @ first.T, net.neuron), net.neuron)
    output = spikes(membrane_potential(synapse(train, 3.0) @ second.T, net.neuron), net.neuron)
    fired = torch.cat([train, output], -1).sum(0)
    found = study.measure(model, stored(x), batch_size=4)
    assert found.spikes == pytest.approx(float(fired.mean()))
    assert found.silent == pytest.approx(float((fired.sum(0) == 0).double().mean()))
    assert (found.macs, found.acs) == (24.0, pytest.approx(float(train.sum()) * 5 / 9))
    assert (found.own_macs, found.dense_macs) == (4 * 2 * 11, 24 + 4 * 30)
    assert found.energy_nj == pytest.approx((4.6 * (24 + 88) + 0.9 * found.acs) / 1000)
    assert found.dense_nj == pytest.approx(4.6 * (144 + 88) / 1000)


def test_silence_costs_the_first_layer_only():
    model = network()
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.zero_()
    found = study.measure(model, stored(torch.ones(3, 2, 9, 8)))
    assert (found.spikes, found.silent, found.acs) == (0.0, 1.0, 0.0)
    assert found.macs > 0


@pytest.mark.parametrize("neuron", ["relu", "binary"])
def test_operations_of_an_ann(neuron):
    model = network(neuron=neuron, threshold=0.2)
    x = 2 * torch.randn(7, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    counts = activity.spike_counts(model.network, x)
    assert list(counts) == ["conv1", "conv2", "linear3"]
    assert all(((count == 0) | (count == 1)).all() and 0 < count.mean() < 1 for count in counts.values())
    found = activity.operations(model.network, x, counts)
    first, *rest = fan_out(network().network, SHAPES)
    assert (found.own_macs, found.dense_macs) == (0, 7 * (float(first.sum()) + sum(BEHIND)))
    if neuron == "binary":
        assert found.macs == 7 * float(first.sum())
        assert found.acs == sum(float((n.double().sum(0) * out).sum()) for n, out in zip(counts.values(), rest, strict=True))
    else:
        pooled = counts["conv1"].unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        second = 4 * float(F.unfold(pooled, 2).sum())
        assert 0 < second < 7 * BEHIND[0]
        rest = float(counts["conv2"].sum() * 6 + counts["linear3"].sum() * 5)
        assert (found.macs, found.acs) == (7 * float(first.sum()) + second + rest, 0)


def test_relu_units_that_are_0_cost_nothing():
    """conv 1→1, 2×2, of a 3×3 picture padded by 1: 4×4 units; pooled to 2×2; conv of 2×2, padded by 1: 2 channels of 3×3; 2."""
    model = network("1C2-P2-2C2-2", neuron="relu", input_shape=(1, 3, 3), padding=(1, 1))
    first, second, last = model.network.parameters()
    with torch.no_grad():
        first.copy_(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]]))  # a unit is the pixel of its row and column
        second.copy_(torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]], [[[0.0, 0.0], [0.0, -1.0]]]]))
        last.fill_(1.0)
    x = torch.zeros(2, 1, 3, 3)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1.0  # in the window above left, which reaches all 4 positions of each of the 2 channels
    counts = activity.spike_counts(model.network, x)
    made = activity.layer_operations(model.network, x, counts)
    assert [float(count[0].sum()) for count in counts.values()] == [2, 1]
    assert [layer.macs for layer in made.values()] == [2 * 9 * 4, 1 * 4 * 2, 1 * 2]
    assert [layer.dense_macs for layer in made.values()] == [2 * 9 * 4, 2 * 4 * 4 * 2, 2 * 18 * 2]
    assert [layer.acs for layer in made.values()] == [layer.own_macs for layer in made.values()] == [0, 0, 0]


def test_relu_units_of_linear_layers_that_are_0_cost_nothing():
    model = network("3-2-2", neuron="relu", input_shape=(2,), padding=0)
    first, second, _ = model.network.parameters()
    with torch.no_grad():
        first.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]))
        second.copy_(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    found = study.measure(model, stored(torch.tensor([[1.0, 0.0], [0.0, 0.0]])), batch_size=1)
    assert found.macs == (2 * 6 + 2 * 2 + 1 * 2) / 2  # 2 of 3 units, then 1 of 2, for the first sample only
    assert found.dense_macs == 6 + 6 + 4
    assert found.energy_nj == pytest.approx(4.6 * 9 / 1000)
    assert found.dense_nj == pytest.approx(4.6 * 16 / 1000)


def test_a_sequence_enters_as_spikes_or_as_numbers():
    model = network("6-5", static=False, input_shape=(4,), padding=0)
    events = torch.randint(0, 3, (4, 8, 4), generator=torch.Generator().manual_seed(1)).float()
    counts = activity.spike_counts(model.network, events)
    hidden = float(counts["linear1"].sum()) * 5
    rest = (4 * 8 * 2 * 11, 4 * 8 * (4 * 6 + 6 * 5))
    found = activity.operations(model.network, events, counts)
    assert found == activity.Operations(0.0, float(events.sum()) * 6 + hidden, *rest)
    numbers = events + 0.5
    counts = activity.spike_counts(model.network, numbers)
    found = activity.operations(model.network, numbers, counts)
    assert found == activity.Operations(4 * 8 * 4 * 6.0, float(counts["linear1"].sum()) * 5, *rest)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_one_fraction_makes_all_sequences_real_numbers_whatever_the_batches(size):
    torch.manual_seed(0)
    x = (torch.rand(40, 11, 6) < 0.05).float()
    x[3, 5, 2], x[7] = 0.5, 0
    net = build("5-2", input_shape=(6,), time_steps=11, tau_m=3, tau_s=3)
    model = training.Model(net, Inputs("constant", Normalisation(1.0, (0.0,), (1.0,)), 11, True), ("a", "b"), "x.npz")
    samples = Split(x, torch.zeros(40, dtype=torch.int64))
    assert activity.measure(model, samples, size).macs == pytest.approx(11 * 6 * 5)
    samples.x[3, 5, 2] = 1
    assert activity.measure(model, samples, size).macs == 0


@pytest.mark.parametrize("offset", [0, 0.5])
def test_an_ann_takes_a_sequence_once_and_zeros_of_its_mean_cost_nothing(offset):
    model = network("6-5", static=False, neuron="relu", input_shape=(4,), padding=0)
    x = torch.randint(1, 3, (4, 8, 4), generator=torch.Generator().manual_seed(1)).float() + offset
    x[:, :3, 0] = 0
    counts = activity.spike_counts(model.network, x)
    found = activity.operations(model.network, x, counts)
    assert found == activity.Operations((8 * 4 - 3) * 6.0 + float(counts["linear1"].sum()) * 5, 0.0, 0, 8 * (4 * 6 + 6 * 5))


@pytest.mark.parametrize("offset", [0, 0.5])
def test_padding_does_not_count(offset):
    model = network("6-5", static=False, input_shape=(4,), padding=0)
    x = torch.randint(1, 4, (3, 4, 4), generator=torch.Generator().manual_seed(1)).float() + offset
    padded = study.measure(model, stored(x, torch.tensor([4, 2, 1])))
    parts = [network("6-5", static=False, input_shape=(4,), padding=0, time_steps=steps) for steps in (4, 2, 1)]
    alone = [study.measure(part, stored(x[i : i + 1, : part.network.time_steps])) for i, part in enumerate(parts)]
    for what in ("spikes", "macs", "acs", "own_macs", "dense_macs"):
        assert getattr(padded, what) == pytest.approx(statistics.mean(getattr(one, what) for one in alone))
    assert padded.own_macs == pytest.approx(7 / 3 * 2 * 11)
    assert padded.dense_macs == pytest.approx(7 / 3 * (4 * 6 + 6 * 5))


@pytest.mark.parametrize(("layer", "own"), [("6R", 2), ("6A", 3)])
def test_lateral_connections_and_adaptation_count(layer, own):
    model = network(f"{layer}-5", static=False, input_shape=(4,), padding=0)
    events = torch.ones(4, 8, 4) * 2
    counts = activity.spike_counts(model.network, events)
    assert float(counts["recurrent1"].sum()) > 0
    found = activity.operations(model.network, events, counts)
    assert found.acs == 8 * 4 * 8 * 6 + float(counts["recurrent1"].sum()) * (5 + 6)
    assert found.own_macs == 4 * 8 * (6 * own + 5 * 2)
    assert found.dense_macs == 4 * 8 * (4 * 6 + 6 * 6 + 6 * 5)


def test_without_hidden_units_an_ann_has_none_that_spike_or_are_silent(compared):
    found = study.measure(network("5", neuron="relu", input_shape=(4,), padding=0), stored(torch.ones(3, 4)))
    assert (found.spikes, found.silent, found.macs) == (None, None, 4 * 5)
    result = copy.deepcopy(compared[1])
    result["rules"]["relu"]["mean"] |= {"spikes": None, "silent": None}
    heads, rows = comparison.tables(result)[0]
    cells = dict(zip(heads, rows[RULES.index("relu")], strict=True))
    assert (cells["spikes"], cells["silent, %"]) == ("–", "–")


# Runs.


SMALL = {
    "name": "small",
    "network": "20-10",
    "epochs": 2,
    "batch_size": 100,
    "learning_rate": 5e-3,
    "schedule": "cosine",
    "seed": 1,
}


@pytest.fixture
def small(quick):
    return quick(**SMALL)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Settings and what came out, two seeds each."""
    config = TrainConfig(**SMALL, runs_dir=tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "SECONDS", 0.0)
        patch.setattr(comparing, "peak_memory", lambda config: 1.5)
        return config, study.compare(config, RULES, seeds=2)


def without_times(result):
    if isinstance(result, dict):
        timed = ("seconds", "step_ms", "machine", "seconds_to_target", "sd", "mean")
        return {key: without_times(value) for key, value in result.items() if key not in timed}
    return [without_times(value) for value in result] if isinstance(result, list) else result


def test_runs_are_ordinary_runs(compared, tmp_path):
    small, result = compared
    assert list(result["rules"]) == RULES
    assert result["seeds"] == [1, 2]
    assert result["samples"]["test"] == 360
    alone = replace(small, runs_dir=tmp_path / "alone", rule=RULES[1], seed=2, name=None, test_every=1)
    _, final = training.train(alone)
    run = result["rules"][RULES[1]]["runs"][1]
    assert {key: run[key] for key in ("test_accuracy", "best_epoch", "best_test_accuracy")} == {
        key: final[key] for key in ("test_accuracy", "best_epoch", "best_test_accuracy")
    }
    rule = result["rules"]["relu"]
    accuracies = [run["test_accuracy"] for run in rule["runs"]]
    assert rule["mean"]["test_accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert rule["sd"]["test_accuracy"] == pytest.approx(statistics.stdev(accuracies))
    assert rule["step_ms"] > 0
    model = training.load(small.runs_dir / "compare-small/tssl-seed1")
    test = training.with_data(small)[1].test
    assert result["rules"]["tssl"]["runs"][0]["spikes"] == study.measure(model, test).spikes
    json.dumps(result["rules"])


@pytest.mark.parametrize(
    ("entry", "first_rates", "same"), [("relu", True, False), ("relu", False, True), ("surrogate", True, True)]
)
def test_a_page_says_whether_initial_weights_are_shared(compared, tmp_path, entry, first_rates, same):
    result = compared[1]
    entries = {label: rule for label, rule in result["rules"].items() if label not in ("binary", "relu")}
    entries[entry] = result["rules"]["relu"]
    settings = {**result["settings"], "first_rates": first_rates}
    made = {**result, "rules": entries, "settings": settings, "differences": None}
    page = comparison.write_comparison(tmp_path, made).read_text()
    assert ("started with scaled weights (first_rates)." in page) != same


@pytest.mark.parametrize("markdown", [False, True])
@pytest.mark.parametrize(("data", "same"), [("spike-pattern(seed=1)", True), ("spike-pattern-of-mine.npz", False)])
def test_a_page_says_that_patterns_are_learned_and_tested_alike(compared, tmp_path, data, same, markdown):
    result = compared[1]
    made = {**result, "settings": {**result["settings"], "data": data}}
    comparison.write_comparison(tmp_path, made)
    page = comparison.draw_comparison(tmp_path, markdown).read_text()
    assert ("Training, validation and test patterns are the same" in page) == same
    assert ("choosing by it would be too optimistic" in page) != same


@pytest.mark.parametrize("spoilt", ["cut", "gone"])
def test_a_damaged_model_of_a_finished_run_is_found_before_anything_is_trained(small, spoilt):
    study.compare(small, ["tssl"], seeds=1)
    path = small.runs_dir / "compare-small/tssl-seed1/model.safetensors"
    if spoilt == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        path.unlink()
    begun = []

    def watch(run):
        begun.append(run)
        return training.Progress()

    with pytest.raises(UserError) as caught:
        study.compare(small, ["relu", "tssl"], seeds=2, watch=watch)
    assert str(caught.value).startswith(f"{path} is ")
    assert str(caught.value).endswith("; remove that run's folder and give the same command again")
    assert not begun
    shutil.rmtree(path.parent)
    study.compare(small, ["relu", "tssl"], seeds=2, watch=watch)
    assert begun == ["relu-seed1", "tssl-seed1", "relu-seed2", "tssl-seed2"]


def test_a_folder_that_another_comparison_has_begun_is_told(small, monkeypatch):
    started = run_folder._started

    def late(config):
        run_folder._take(config.runs_dir / config.name, config)  # by the other comparison, which is a little ahead
        return started(config)

    monkeypatch.setattr(run_folder, "_started", late)
    folder = small.runs_dir / "compare-small/tssl-seed1"
    with pytest.raises(UserError) as caught:
        study.compare(small, ["tssl"], seeds=1)
    assert str(caught.value) == f"another process is at work in {folder}; when it has ended, give the same command again"


def test_a_run_without_its_settings_is_told(small):
    study.compare(small, ["tssl"], seeds=1)
    folder = small.runs_dir / "compare-small/tssl-seed1"
    (folder / "config.toml").unlink()
    with pytest.raises(UserError) as caught:
        study.compare(small, ["tssl"], seeds=1)
    assert str(caught.value) == f"{folder} exists without a config.toml; remove that folder and give the same command again"


@pytest.mark.parametrize("name", ["a" * 248, "ä" * 127])
def test_a_name_that_is_too_long_for_the_folder_of_a_comparison_is_refused(name, tmp_path, capsys):
    assert cli.main(command(tmp_path, "--name", name)) == 2
    said = f"compare-NAME, a folder, is {8 + len(name.encode())} bytes long, and 255 is the most; choose a shorter --name"
    assert capsys.readouterr().err == f"tsslbp: {said}\n"
    assert not (tmp_path / "runs").exists()


def test_interrupted_comparison_goes_on_and_ended_runs_are_not_run_again(small, tmp_path):
    whole = study.compare(replace(small, runs_dir=tmp_path / "whole"), RULES, seeds=1)

    begun = []

    def watch(run):
        begun.append(run)
        return StopAt(2, 3) if len(begun) == 2 else training.Progress()

    with pytest.raises(training.Interrupted):
        study.compare(small, RULES, seeds=1, watch=watch)
    result = study.compare(small, RULES, seeds=1, watch=watch)
    cut = "tssl-leak-False-clip-2-seed1"
    assert begun == ["tssl-seed1", cut, cut, "relu-seed1"]
    assert without_times(result) == without_times(whole)
    with pytest.raises(UserError, match=r"other settings \(learning_rate\); go on with: tsslbp train --config"):
        study.compare(replace(small, learning_rate=1e-3), RULES, seeds=1)


@pytest.mark.parametrize("how", [Tuning(trials=3, seeds=2), Tuning((1e-3, 1e-2, 0.1), seeds=2)])
def test_of_ended_trials_settings_and_records_are_enough(small, how):
    """And they are used only with the settings and samples that they had."""
    first = study.compare(small, ["relu"], seeds=1, tuning=how)
    folder = Path(small.runs_dir) / "compare-small"
    tried = sorted(path for path in folder.iterdir() if "-seed" not in path.name and path.is_dir())
    for path in (path for run in tried for path in run.iterdir() if path.name not in ("config.toml", "metrics.jsonl")):
        path.unlink()
    again = study.compare(small, ["relu"], seeds=1, tuning=how)
    assert without_times(again) == without_times(first)
    records = tried[0] / "metrics.jsonl"
    records.write_text(re.sub(r'"fingerprint": "\w', '"fingerprint": "other', records.read_text()))
    with pytest.raises(UserError, match=f"{tried[0].name} has no checkpoint.pt to go on from"):
        study.compare(small, ["relu"], seeds=1, tuning=how)


def test_seeds_of_several_calls_make_one_comparison(compared, tmp_path):
    small, whole = compared
    shutil.copytree(small.runs_dir, tmp_path / "runs")
    config, trained = replace(small, runs_dir=tmp_path / "runs", seed=small.seed + 1), []
    part = study.compare(config, RULES, seeds=1, watch=lambda run: trained.append(run) or training.Progress())
    assert (part["seeds"], trained) == (whole["seeds"][1:], [])
    for rule, both in zip(part["rules"].values(), whole["rules"].values(), strict=True):
        assert rule["runs"][0]["test_accuracy"] == both["runs"][1]["test_accuracy"]


def test_target_is_given_or_what_the_worst_rule_reaches(compared):
    small, result = compared
    best = {label: [max(r["curves"]["validation_accuracy"]) for r in rule["runs"]] for label, rule in result["rules"].items()}
    assert result["target"] == {"validation_accuracy": min(map(statistics.fmean, best.values())), "given": False}
    everyone = [accuracy for accuracies in best.values() for accuracy in accuracies]
    middle = (min(everyone) + max(everyone)) / 2  # which some run reaches and some other does not
    given = study.compare(small, RULES, seeds=2, target=middle)
    assert given["target"] == {"validation_accuracy": middle, "given": True}
    reached = set()
    for rule in given["rules"].values():
        for run in rule["runs"]:
            curve = run["curves"]["validation_accuracy"]
            expected = next((i + 1 for i, accuracy in enumerate(curve) if accuracy >= middle), None)
            seconds = None if expected is None else run["curves"]["seconds"][expected - 1]
            assert (run["epochs_to_target"], run["seconds_to_target"]) == (expected, seconds)
            reached.add(expected)
    assert None in reached
    assert len(reached) > 1


def test_learning_rates_are_tried_with_a_seed_of_their_own(small, monkeypatch):
    step, tried = training.Loop.step, []

    def diverging(self, samples, ahead=None):
        tried.append((self.config.rule, self.config.learning_rate, self.config.seed, self.config.epochs))
        if self.config.learning_rate == 0.5:
            raise training.Diverged("diverged")
        step(self, samples, ahead)

    monkeypatch.setattr(training.Loop, "step", diverging)
    result = study.compare(small, ["tssl", "surrogate"], seeds=1, tuning=Tuning((1e-5, 2e-2, 0.5), epochs=1))
    assert result["tuning"] == {"rates": [1e-5, 2e-2, 0.5], "epochs": 1, "seeds": [2]}
    assert result["differences"] is None
    for label in ("tssl", "surrogate"):
        rule = result["rules"][label]
        low, high, diverged = (trial["validation_accuracy"] for trial in rule["tried"])
        assert diverged is None
        assert low < high
        assert rule["learning_rate"] == 2e-2
        assert {entry[1:] for entry in tried if entry[0] == label} == {
            *((rate, 2, 1) for rate in (1e-5, 2e-2, 0.5)),
            (2e-2, 1, 2),
        }
    with pytest.raises(UserError, match="tssl diverged at every learning rate"):
        study.compare(replace(small, name="bad"), ["tssl"], seeds=1, tuning=Tuning((0.5,)))


def test_a_rule_that_diverges_is_told_and_left_out(small, monkeypatch):
    step = training.Loop.step

    def diverging(self, samples, ahead=None):
        if self.config.rule == "surrogate" and self.config.seed == 2:
            raise training.Diverged("training diverged in epoch 1, step 1: layer 2")
        step(self, samples, ahead)

    monkeypatch.setattr(training.Loop, "step", diverging)
    small = replace(small, epochs=1)
    result = study.compare(small, ["tssl", "surrogate", "relu"], seeds=2, against="tssl")
    assert list(result["rules"]) == ["tssl", "relu"]
    assert list(result["differences"]["rules"]) == ["relu"]
    assert result["diverged"] == {"surrogate": "surrogate-seed2: training diverged in epoch 1, step 1: layer 2"}
    folder = comparison.write_comparison(small.runs_dir / "page", result).parent
    page = comparison.draw_comparison(folder, markdown=True).read_text()
    assert "| `surrogate` | diverged | – |" in page
    assert "surrogate diverged with one of the seeds and is left out" in page
    for missing in ({"against": "surrogate"}, {"against": "tssl", "planned": "surrogate"}):
        with pytest.raises(training.Diverged, match="surrogate-seed2: training diverged"):
            study.compare(small, ["tssl", "surrogate"], seeds=2, **missing)


def test_every_rule_gets_its_trials_and_the_best_settings_are_used(small, monkeypatch):
    run, trained = training.Loop.run, []

    def counted(self, end_epoch):
        trained.append(self.config)
        if self.config.learning_rate > 0.05:
            raise training.Diverged("diverged")
        run(self, end_epoch)

    monkeypatch.setattr(training.Loop, "run", counted)
    config = replace(small, epochs=3)
    options = {"seeds": 1, "tuning": Tuning(trials=7, epochs=2)}
    result = study.compare(config, ["tssl", "eventprop(clip=8)", "relu"], **options)
    assert result["tuning"] == {"trials": 7, "epochs": 2, "seeds": [2]}
    for label, rule in result["rules"].items():
        tried = rule["tried"]
        assert [len(trial["settings"]) > 0 for trial in tried] == [False] + 6 * [True]
        ended = sorted((t for t in tried if t["validation_accuracy"] is not None), key=lambda t: -t["validation_accuracy"])
        assert all(t["in_full"] is not None for t in [*ended[: search.LEADERS], tried[0]])
        assert sum(t["in_full"] is not None for t in tried) <= search.LEADERS + 1
        best = max((t for t in tried if t["in_full"] is not None), key=lambda t: t["in_full"])
        (final,) = [one for one in trained if one.name == f"{study.runs.folder_name(label)}-seed1"]
        assert {name: getattr(final, name) for name in best["settings"]} == best["settings"]
        assert (final.seed, final.epochs) == (1, 3)
        assert len({trial["settings"].get("learning_rate") for trial in tried}) == 7
    assert {"output_scale", "encoding", "time_steps"} <= result["rules"]["eventprop(clip=8)"]["tried"][1]["settings"].keys()
    assert all(
        set(trial["settings"]) <= {"learning_rate", "hidden_scale", "loss"} for trial in result["rules"]["relu"]["tried"]
    )
    with pytest.raises(UserError, match=r"trial[4-6] holds another trial; give the same --tune as before"):
        study.compare(config, ["tssl"], **options | {"tuning": Tuning(trials=30, epochs=2)})
    monkeypatch.setattr(comparing, "step", lambda config, dataset: lambda: None)
    monkeypatch.setattr(training.Loop, "step", None)  # what has ended, or was given up, is not trained again
    again = study.compare(config, ["tssl", "eventprop(clip=8)", "relu"], **options)
    assert [rule["tried"] for rule in again["rules"].values()] == [rule["tried"] for rule in result["rules"].values()]
    folder = comparison.write_comparison(small.runs_dir / "page", result).parent
    assert "7 trials of 2" in comparison.draw_comparison(folder, markdown=True).read_text()


def test_trials_and_variants_ask_no_sequence_for_silence(small):
    x = np.random.default_rng(0).random((40, 12, 2), np.float32)
    dataset = data.of_arrays(x, np.arange(40) % 2, lengths=np.array([1, 12] * 20))
    base = training.resolved(replace(small, network=None, loss="count"), dataset)
    assert {"kernel", "spike", "count"} & {*search._losses(base, dataset)} == {"count"}
    tried = [
        train for train in ("1", "01", "00001", "10000") if study.base.fits(base, dataset, loss=f"kernel(desired={train})")
    ]
    assert tried == ["1", "10000"]


@pytest.mark.parametrize("tau_m", [5.0, math.inf])
def test_trials_without_a_leak_stay_without_and_read_no_voltages(small, tau_m):
    optuna = pytest.importorskip("optuna")
    _, dataset = training.with_data(small)
    base = training.resolved(replace(small, tau_m=tau_m, rule="eventprop(clip=8)"), dataset)
    assert set(search._losses(base, dataset)) == {*losses.LOSSES, *([search.VOLTAGE] if math.isfinite(tau_m) else ())}
    numbers = {"learning_rate": 1e-3, "hidden_scale": 1.0, "clip": 8.0, "wake": 1e-5, "output_scale": 1.0}
    made = search.drawn(
        optuna.trial.FixedTrial({**numbers, "loss": "kernel", "steps": 2, "encoding": "latency"}), base, dataset
    )
    assert replace(base, **json.loads(json.dumps(made, allow_nan=False))).tau_m == 2 * tau_m
    assert (made["time_steps"], made["tau_s"]) == (10, 6)


def test_without_a_recipe_the_settings_suit_the_data_as_those_of_a_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random, y = np.random.default_rng(0), np.arange(60) % 2
    np.savez("vectors.npz", x=random.random((60, 3)) + y[:, None], y=y)
    np.savez("spikes.npz", x=(random.random((60, 8, 5)) < 0.2).astype(np.uint8), y=y)
    taken = []
    monkeypatch.setattr(Compare, "run", lambda options, watch: taken.append(options) or sys.exit(0))
    for name, rules in (
        ("vectors", "tssl,relu"),
        ("spikes", "tssl+,surrogate"),
        ("spikes", "tssl+,relu"),
        ("spikes", "tssl+,eventprop"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["compare", "--data", f"{name}.npz", "--rules", rules, "--learning-rate", "0.5"])
        config, _ = training.with_data(TrainConfig(data=f"{name}.npz"), given=("data",))
        same = {key: getattr(config, key) for key in ("tau_m", "loss", "schedule", "batch_size", "epochs")}
        assert {key: getattr(taken[-1], key) for key in same} == same
        assert (taken[-1].learning_rate, taken[-1].validation, taken[-1].choose) == (0.5, None, "validation")
    assert [options.network for options in taken] == ["50b-40b-V20", "200R-2", "200-2", "200-2"]  # one that all can have
    with pytest.raises(SystemExit):
        cli.main(["compare", "--data", "vectors.npz", "--loss", "kernel(desired=0000011111)"])  # for ten steps
    monkeypatch.undo()
    assert cli.main(["compare", "--data", str(tmp_path / "vectors.npz"), "--rules", "tssl,relus"]) == 2
    assert "unknown rule 'relus'; did you mean 'relu'?" in capsys.readouterr().err


def test_a_trial_behind_the_others_is_given_up(small, monkeypatch):
    optuna = pytest.importorskip("optuna")
    create, studies = optuna.create_study, []
    monkeypatch.setattr(optuna, "create_study", lambda **how: studies.append(create(**how)) or studies[0])
    levels = iter(range(100, 0, -5))  # each trial is worse than all before it

    def trial(config, facts, report, watch):
        level = float(next(levels))
        for epoch in range(1, config.epochs + 1):
            report({"epoch": epoch, "validation_accuracy": level})
        return level

    monkeypatch.setattr(search, "_run", trial)
    _, dataset = training.with_data(small)
    base = training.resolved(replace(small, epochs=4), dataset)
    found = search.searched("tssl", [base], dataset, 9, base.epochs, None)
    assert [one["epochs"] for one in found[: search.SURE]] == [4] * search.SURE
    assert {(one["epochs"], one["validation_accuracy"]) for one in found[search.SURE :]} == {(2, None)}
    assert {trial.state.name for trial in studies[0].trials[search.SURE :]} == {"PRUNED"}  # so the draws still learn from it
    assert search.best("tssl", found) is found[0]
    levels = iter(range(100, 0, -5))
    brief = search.searched("tssl", [replace(base, epochs=1)], dataset, 9, 1, None)  # ended when it is known how good it is
    assert [one["validation_accuracy"] for one in brief] == [*range(100, 55, -5)]
    with pytest.raises(UserError, match="diverged in every trial"):
        search.best("tssl", [{"settings": {}, "epochs": 1, "validation_accuracy": None, "in_full": None}])


def test_what_is_best_in_full_is_taken(small, monkeypatch):
    """Of trials that get better with their number in a short time, and worse in a long one."""

    def trial(config, facts, report, watch):
        number, *_, in_full = *map(int, re.findall(r"trial(\d+)", config.name)), "in-full" in config.name
        if in_full and number == 5:
            raise training.Diverged("diverged")
        assert config.epochs == (8 if in_full else 4)
        return 50.0 - number if in_full else 50.0 + number

    monkeypatch.setattr(search, "_run", trial)
    _, dataset = training.with_data(small)
    base = training.resolved(replace(small, epochs=4), dataset)
    found = search.searched("tssl", [base], dataset, 7, 8, None)
    assert [one["in_full"] for one in found] == [50, None, None, 47, 46, None, 44]
    assert search.best("tssl", found) is found[0]
    found[0]["in_full"] = 40.0
    assert search.best("tssl", found) is found[3]


@pytest.mark.parametrize("epochs", [4, 8])
def test_what_is_best_with_all_seeds_is_taken(small, monkeypatch, epochs):
    """Of trials that get worse with their number, of which the first fails with other seeds."""
    names = []

    def trial(config, facts, report, watch):
        names.append((config.name, config.seed, config.epochs))
        number = int(config.name.split("trial")[1].split("-")[0])
        return 10.0 if number == 0 and config.seed > 5 else 50.0 - number

    monkeypatch.setattr(search, "_run", trial)
    _, dataset = training.with_data(small)
    base = training.resolved(replace(small, epochs=4, seed=5), dataset)
    found = search.searched("tssl", [base, replace(base, seed=6)], dataset, 6, epochs, None)
    assert [one["in_full"] for one in found] == [30, 49, 48, 47, None, None]
    assert search.best("tssl", found) is found[1]
    first = "tssl-trial0" if epochs == 4 else "tssl-trial0-in-full"
    assert names[6:8] == [(first, 5, epochs), ("tssl-trial0-6", 6, epochs)]


@pytest.mark.parametrize(("low", "normalise", "some"), [(0.0, "auto", True), (-1.0, "auto", False), (0.0, "none", False)])
def test_trials_draw_first_spikes_where_the_values_allow_them(low, normalise, some):
    x = low + np.random.default_rng(0).random((40, 3), np.float32)
    dataset = data.of_arrays(x, np.arange(40) % 2)
    found = search._encodings(TrainConfig(network="2", time_steps=4, normalise=normalise), dataset)
    assert found == ("constant", "latency")[: 1 + some]


def test_what_a_comparison_began_with_stays(small, monkeypatch):
    """The seeds of trials follow those of the comparison, and auto means what it meant."""
    pays = [False]
    monkeypatch.setattr(comparing.machine, "bfloat16_pays", lambda: pays[0])
    config = replace(small, precision="auto")
    rules = ["tssl(fallback=rate)"]  # whose runs have "rate" in their names, too
    study.compare(config, rules, seeds=1, tuning=Tuning((1e-3,)))
    with pytest.raises(UserError, match=f"holds trials that began with seed {config.seed + 1}, here {config.seed + 2}"):
        study.compare(config, rules, seeds=2, tuning=Tuning((1e-3,)))
    pays[0] = True
    assert study.compare(config, rules, seeds=1, tuning=Tuning((1e-3,)))["settings"]["precision"] == "float32"


@pytest.mark.parametrize("how", [Tuning(trials=3), Tuning((1e-3,))])
def test_trials_are_refused_beside_runs_that_had_none(small, monkeypatch, how):
    path = Path(small.runs_dir) / f"compare-{small.name or small.recipe}/tssl-seed{small.seed}/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(small.to_toml())
    monkeypatch.setattr(training.Loop, "step", None)  # nothing is trained before
    with pytest.raises(UserError, match=f"holds a run without trials, tssl-seed{small.seed}; choose another --name for --tune"):
        study.compare(small, ["tssl"], seeds=1, tuning=how)


def test_trials_of_other_epochs_are_left_as_they_are(small):
    path = Path(small.runs_dir) / f"compare-{small.name or small.recipe}/tssl-trial0/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(replace(small, seed=small.seed + 1, epochs=7).to_toml())
    with pytest.raises(UserError, match="holds trials of 7 epochs, here 2; give --tune-epochs 7, or another --name"):
        study.compare(small, ["tssl"], seeds=1, tuning=Tuning(trials=3, epochs=2))


def test_what_does_not_go_with_trials_is_said(small, monkeypatch):
    with pytest.raises(UserError, match=r"--tune is 'many'; it must be a number of trials, such as 30, or"):
        Tuning.of("many", None, 1)
    with pytest.raises(UserError, match=r"--tune is '0'; it must be"):
        Tuning.of("0", None, 1)
    for wrong in ({"trials": -3}, {"rates": (-1.0,)}, {"rates": (math.nan,)}):
        with pytest.raises(UserError, match="they must be positive"):
            Tuning(**wrong)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"needs Optuna: pip install 'tsslbp\[tune\]'"):
        study.compare(small, ["tssl"], seeds=1, tuning=Tuning(trials=3))


@pytest.mark.parametrize(
    ("best", "rates", "tried", "chosen"),
    [
        (1e-3, [1e-3, 3e-3], [3.3e-4, 1e-3, 3e-3], 1e-3),
        (4e-4, [1e-4, 2e-4], [1e-4, 2e-4, 4e-4, 8e-4], 4e-4),
        (1.0, [1e-4, 1e-3], [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0], 1.0),
        (1e9, [1e-4, 1e-3], [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0], 10.0),  # an end there is
        (2e-3, [5e-3], [5e-3], 5e-3),
    ],
)
def test_learning_rates_go_on_where_the_best_is_at_an_end(small, monkeypatch, best, rates, tried, chosen):
    monkeypatch.setattr(tuning, "_tried", lambda label, trials, facts, rate, watch: -abs(math.log(rate / best)))
    found = tuning.tuned("tssl", [small], None, rates, None)
    assert [trial["learning_rate"] for trial in found] == tried
    assert tuning.best_rate("tssl", found) == chosen


def test_of_equally_good_learning_rates_the_middle_one_is_taken(small, monkeypatch):
    monkeypatch.setattr(tuning, "_tried", lambda label, trials, facts, rate, watch: 100.0 if rate < 1 else None)
    found = tuning.tuned("tssl", [small], None, [1e-3, 1e-2, 1e-1], None)
    assert [trial["learning_rate"] for trial in found] == [1e-3, 1e-2, 1e-1]
    assert tuning.best_rate("tssl", found) == 1e-2


def test_several_seeds_try_a_learning_rate(small, monkeypatch):
    config = replace(small, epochs=1)
    result = study.compare(config, ["relu"], seeds=1, tuning=Tuning((1e-3, 2e-2, 0.9), seeds=2))
    assert result["tuning"]["seeds"] == [2, 3]
    folder = small.runs_dir / "compare-small"
    for trial in result["rules"]["relu"]["tried"]:
        runs = [folder / f"relu-rate{trial['learning_rate']:g}-{seed}" for seed in (2, 3)]
        accuracies = [training.read_metrics(run)[1]["validation_accuracy"] for run in runs]
        assert trial["validation_accuracy"] == pytest.approx(statistics.mean(accuracies))


def test_differences_are_paired_and_the_planned_one_is_not_corrected(compared):
    config, result = compared
    found = study.compare(config, RULES, seeds=2, against="tssl", planned="tssl( clip=2,leak=False )")["differences"]
    assert (found["against"], found["planned"]) == ("tssl", RULES[1])
    reached = {label: [run["test_accuracy"] for run in rule["runs"]] for label, rule in result["rules"].items()}
    assert list(found["rules"]) == RULES[1:]
    for label, one in found["rules"].items():
        assert one["differences"] == [value - base for value, base in zip(reached[label], reached["tssl"], strict=True)]
        assert one["holm"] == one["p"]  # one planned, one explored


def test_an_ann_learns_by_the_kernel_loss_if_told(small):
    made = study.contestants(replace(small, loss="kernel"), ["tssl", "relu"])
    assert [settings.loss for settings in made.values()] == ["kernel", "kernel"]
    logits, label = torch.tensor([[[0.5, -0.25, 2.0]]]), torch.tensor([2])
    squares = made["relu"].make_loss()(logits, label)
    assert float(squares) == pytest.approx((0.5**2 + 0.25**2 + 1.0) / 2)


# The command and its report.


def command(tmp_path, *more, rules="tssl, surrogate(name=atan, slope=3),binary"):
    arguments = ["compare", "quickstart", "--rules", rules, "--network", "20-10", "--padding", "0", "--epochs", "2"]
    return [*arguments, "--batch-size", "100", "--runs-dir", str(tmp_path / "runs"), *more]


def test_command_writes_what_it_prints(tmp_path, capsys):
    arguments = command(tmp_path, "--seeds", "2", "--out", str(tmp_path / "out"), "--tune", "1e-3,2e-3", "--tune-epochs", "1")
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"compare.json", "compare.html"}
    result = json.loads((tmp_path / "out/compare.json").read_text())
    assert list(result["rules"]) == ["tssl", "surrogate(name=atan, slope=3)", "binary"]
    mean, sd = (result["rules"]["binary"][key]["test_accuracy"] for key in ("mean", "sd"))
    text = f"{mean:.2f} ± {sd:.2f}"
    page = Page(tmp_path / "out/compare.html")
    assert cli.main(["report", str(tmp_path / "out"), "--markdown"]) == 0
    short = (tmp_path / "out/README.md").read_text()
    assert all(text in place for place in (out, short, page.text))
    assert {path.name for path in (tmp_path / "out").glob("*.svg")} == set(re.findall(r"!\[.*\]\((.*)\)", short))
    assert "Learning rates" in short
    assert len(page.all("svg")) == 2
    assert "Learning rates" in page.text
    assert "Own MAC" in page.text
    assert "tsslbp compare quickstart --rules" in page.text
    assert str(tmp_path / "out/compare.html") in out


def test_a_damaged_comparison_is_named(tmp_path, capsys):
    (tmp_path / "compare.json").write_text('{"name": "a"}')
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "compare.json is damaged or of an older release; run that comparison again" in capsys.readouterr().err


def test_a_single_seed_has_no_spread_and_some_never_reach_the_target(tmp_path, capsys):
    assert cli.main(command(tmp_path, "--seeds", "1", "--to", "100", rules="relu")) == 0
    assert cli.main(["report", str(tmp_path / "runs/compare-quickstart"), "--markdown"]) == 0
    page = (tmp_path / "runs/compare-quickstart/README.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert "±" not in cells[1]
    assert cells[3:5] == ["–", "–"]
    assert cells[6] == "2"
    Page(tmp_path / "runs/compare-quickstart/compare.html")


def test_rows_count_who_reached_the_target(compared):
    result = copy.deepcopy(compared[1])
    runs = result["rules"]["tssl"]["runs"]
    runs[0]["epochs_to_target"], runs[1]["epochs_to_target"] = 2, None
    assert "(1 of 2)" in comparison.tables(result)[0][1][0][3]


def test_the_answer_is_the_most_accurate_and_the_thriftiest(compared):
    result = copy.deepcopy(compared[1])
    for number, rule in enumerate(result["rules"].values()):
        rule["mean"] |= {"test_accuracy": 90.0 + number, "energy_nj": 1.5 + number}
    answer = "Highest test accuracy: relu, 92.00\u00a0%. Lowest energy: tssl, 1.5\u00a0nJ a sample."
    assert comparison._contents(result)["answer"] == answer


def test_means_are_of_all_seeds_and_of_those_that_reached_the_target():
    def ended(*accuracies):
        return {"test_accuracy": accuracies[-1], "curves": {"validation_accuracy": accuracies, "seconds": (3.0, 5.0)}}

    made = comparing._summary([ended(1.0, 2.0), ended(3.0, 3.0), ended(1.0, 7.0)], 2.5)
    assert made["mean"] == {"test_accuracy": 4, "epochs_to_target": 1.5, "seconds_to_target": 4}


def test_energy_is_told_both_ways_and_that_of_older_results_as_it_was(compared):
    result = copy.deepcopy(compared[1])
    mean = result["rules"]["tssl"]["mean"]
    assert mean["own_macs"] == 30 * 5 * 2
    assert mean["dense_macs"] == 64 * 20 + 200 * 5
    new = ["MAC, thousands", "AC, thousands", "own MAC, thousands", "energy, nJ", "dense, nJ"]
    heads, (row, *_) = comparison.tables(result)[0]
    assert heads[-5:] == new
    cells = row[-5:]
    assert (cells[0], cells[2], cells[4]) == ("1.28", "0.3", f"{4.6 * 2.58:.3g}")
    assert cells[3] == f"{4.6 * 1.58 + 0.9 * mean['acs'] / 1000:.3g}"
    for rule in result["rules"].values():
        del rule["mean"]["own_macs"], rule["mean"]["dense_macs"], rule["mean"]["dense_nj"]
    heads, (row, *_) = comparison.tables(result)[0]
    assert heads[-3:] == [new[0], new[1], new[3]]
    assert row[-3:] == [cells[0], cells[1], cells[3]]
    assert len(heads) == len(row) == 12


@pytest.mark.parametrize(
    ("network", "entries"),
    [("20-10", ["tssl", "surrogate", "binary", "relu"]), ("20R-10", ["tssl", "surrogate"])],
)
def test_a_recurrent_network_is_compared_without_anns(network, entries, monkeypatch, tmp_path):
    def compared(config, given, **_):
        assert given == entries
        raise UserError("as wanted")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparing, "compare", compared)
    with pytest.raises(UserError, match="as wanted"):
        comparing.Compare(network=network, data="digits").run(lambda name: training.Progress())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--rules tsl", "unknown rule 'tsl'; did you mean 'tssl'"),
        ("--rules rely", "did you mean 'relu'"),
        ("--rules tssl(rest=False)", "did you mean 'reset'"),
        ("--rules tssl,tssl(clip=8)", "tssl is named twice"),
        ("--rules ,", "no rule to compare"),
        ("--rules tssl,relu --against stbp", "--against is stbp; it must be one of the rules compared: tssl, relu"),
        ("--rules tssl --against tssl", "--against compares other rules with one of them"),
        ("--rules tssl,relu --planned relu", "--planned needs --against"),
        ("--rules tssl,relu --against relu --seeds 1", "--seeds is 1; the differences of --against need at least 2"),
        ("--rules tssl,relu --tune 1e-3 --tune-seeds 0", "--tune-seeds is 0"),
        ("--rules relu(", "cannot read rule 'relu('"),
        ("--rules tssl --rule tssl", "--rule is for tsslbp train"),
        ("--rules tssl --seeds 0", "--seeds is 0"),
        ("--rules tssl --to 101", "--to is 101"),
        ("--rules tssl --tune high", "--tune is 'high'"),
        ("--rules tssl --tune-epochs 3", "--tune-epochs and --tune-seeds are about trials"),
        ("--rules tssl --tune 0", "--tune is '0'; it must be a number of trials"),
        ("--rules tssl --tune ,", "--tune is ','; it must be a number of trials"),
        ("--rules tssl --tune=-1", "--tune is '-1'"),
        ("--rules tssl --tune 1e-3 --tune-epochs 0", "--tune-epochs is 0"),
        ("--rules tssl --epoch 2", "did you mean '--epochs'"),
        ("--rules tssl --network 20-9", "must end with 10"),
        ("--rules surrogate,relu --network 20R-10 --padding 0", "--network 20R-10 has recurrent layers, which an ANN has not"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(more, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "quickstart", *more.split()]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.toml"))


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise training.Interrupted

    monkeypatch.setattr(comparing, "compare", stopped)
    assert cli.main(command(tmp_path)) == 130
    assert capsys.readouterr().err == "stopped; give the same command again to go on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_runs_says_how_to_go_on(number, tmp_path, capsys, monkeypatch):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # else a failure would end the tests
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where Ctrl-C is ignored
    try:
        mine = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(runs, "finished", lambda *_: os.kill(os.getpid(), number))
        assert cli.main(command(tmp_path)) == 130
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ctrl_c)
    assert capsys.readouterr().err == "stopped; give the same command again to go on\n"


@pytest.mark.slow
def test_peak_memory_is_that_of_a_fresh_process(quick, monkeypatch):
    monkeypatch.undo()
    (config,) = study.contestants(TrainConfig(), ["tssl"]).values()
    peak = step.peak_memory(config)
    assert 0 < peak < 500 if Path("/proc/self/clear_refs").exists() else peak is None


def test_a_fresh_process_does_not_run_the_script_again(monkeypatch, tmp_path, capfd):
    monkeypatch.undo()
    script = ModuleType("__main__")
    script.__file__ = str(tmp_path / "script.py")
    Path(script.__file__).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setitem(data.SETS, "mine", data.load)  # as in a notebook
    (config,) = study.contestants(TrainConfig(data="mine"), ["tssl"]).values()
    assert step.peak_memory(config) is None
    assert sys.modules["__main__"] is script
    assert not (tmp_path / "ran").exists()
    assert capfd.readouterr().err == ""
