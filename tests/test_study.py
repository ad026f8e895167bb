"""Studies: what they say of networks whose firing is known, of disturbances that change nothing, and of runs they train."""

import copy
import importlib
import json
import math
import re
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from shared import StopAt
from test_report import Page

from tsslbp import UserError, build, cli, metrics, rules, study, training
from tsslbp.data import Normalisation, Split
from tsslbp.layers import Conv2d, Linear
from tsslbp.neuron import LIF, spikes_from_psc, synapse
from tsslbp.study import paired, runs
from tsslbp.study.runs import Run
from tsslbp.training.inputs import Inputs
from tsslbp.training.settings import TrainConfig

firing, robustness, dynamics, ablation = (
    importlib.import_module(f"tsslbp.study.{name}") for name in ("firing", "robustness", "dynamics", "ablation")
)
ROOT = Path(__file__).parent.parent


def hand_made(*weights, y=(0, 0), x=(1.0, 0.0), lengths=None, batch=1, rule="tssl", tau_s=1.0):
    """Without leak and with one input a neuron of weight w fires at step 1/w, and again: 2: each of 4, 0.6: 2 and 4, 0.3: 4."""
    layers = [torch.tensor(weight) for weight in weights]
    notation = "-".join(str(len(layer)) for layer in layers)
    net = build(notation, input_shape=(1,), time_steps=4, tau_m=math.inf, tau_s=tau_s, rule=rule).eval()
    with torch.no_grad():
        for weight, value in zip(net.parameters(), layers, strict=True):
            weight.copy_(value)
    sequence = lengths is not None
    stored = torch.tensor(x).view(-1, 1)
    if sequence:
        stored = stored.unsqueeze(1).expand(-1, 4, 1)
        lengths = torch.tensor(lengths)
    model = training.Model(net, Inputs("constant", Normalisation(1.0, (0.0,), (1.0,)), 4, sequence), ("a", "b"), "hand")
    return Run("hand", model, Split(stored, torch.tensor(y), lengths), {"batch_size": batch, "rule": rule, "seed": 0})


HIDDEN = [[2.0], [0.6], [0.3], [0.0]]
SILENT = [[0.0] * 4] * 2

# Firing.


def test_the_example_of_a_shorter_sequence_hears_nothing_after_its_end():
    spikes = study.firing(hand_made(HIDDEN, SILENT, lengths=[2, 4]))["example"]["spikes"]
    assert spikes["linear1"] == ["1000", "1100"]


def test_firing_of_a_hand_made_network():
    found = study.firing(hand_made(HIDDEN, SILENT))
    hidden, output = found["layers"].values()
    assert found["example"] == {
        "label": "a",
        "answer": None,
        "classes": ["a", "b"],
        "spikes": {"linear1": ["1000", "1100", "1000", "1110"], "output": ["00"] * 4},
    }
    assert hidden["neurons"] == 4
    assert hidden["per_sample"] == {"silent": 5 / 8, "once": 1 / 8, "more": 2 / 8}
    assert hidden["over_set"] == {"silent": 1 / 4, "once": 1 / 4, "more": 2 / 4}
    assert hidden["rate"] == 7 / 32
    assert hidden["first"] == [1 / 8, 1 / 8, 0, 1 / 8]
    assert hidden["fallback"] == 25 / 32  # without a synapse: wherever there is no spike
    assert output["per_sample"]["silent"] == output["fallback"] == 1
    assert found["all"]["neurons"] == 6
    assert found["all"]["rate"] == pytest.approx(7 / 48)
    assert found["all"]["first"] == pytest.approx([1 / 12, 1 / 12, 0, 1 / 12])


@pytest.mark.parametrize("batch", [1, 2])
def test_over_the_set_counts_the_sample_a_neuron_fires_most_for(batch):
    found = study.firing(hand_made(HIDDEN, SILENT, x=(1.0, 1.0), batch=batch))
    assert found["layers"]["linear1"]["over_set"] == {"silent": 1 / 4, "once": 1 / 4, "more": 2 / 4}


@pytest.mark.parametrize(
    ("rule", "batch", "share"),
    [
        ("tssl(fallback=never)", 1, 0),
        ("tssl(fallback=always)", 1, 1),
        ("tssl(fallback=no-spike, leak=False)", 1, 25 / 32),
        ("tssl(fallback=rate)", 1, 0.5),  # the batch of the silent sample
        ("tssl(fallback=rate)", 2, 0),
        ("tssl+", 1, 25 / 32),
        ("surrogate", 1, None),
    ],
)
def test_fallback_is_that_of_the_rule(rule, batch, share):
    found = study.firing(hand_made(HIDDEN, SILENT, rule=rule, batch=batch))
    assert found["layers"]["linear1"]["fallback"] == share


def test_quiet_is_a_small_post_synaptic_current():
    neuron = LIF(5.0, 3.0)
    train = (torch.rand(12, 50, generator=torch.Generator().manual_seed(0)) < 0.15).float()
    quiet = synapse(train, 3.0) < 1 / 12
    assert 0.2 < quiet.float().mean() < 0.8
    assert torch.equal(firing.fallback(rules.get("tssl"), train, neuron), quiet.float())


def test_steps_after_the_end_do_not_count():
    found = study.firing(hand_made(HIDDEN, SILENT, x=(1.0, 1.0), lengths=[4, 1]))
    assert "more than once in up to 4 steps" in study.section(found).answer
    found = found["layers"]["linear1"]
    assert found["rate"] == (7 + 1) / (4 * 5)
    assert found["fallback"] == (20 - 8) / 20
    assert found["per_sample"] == {"silent": 4 / 8, "once": 2 / 8, "more": 2 / 8}


def test_fallback_where_each_channel_has_its_synapse(quick):
    config = quick(network="3C3-10", rule="tssl", learn=("tau_s",), per_neuron=("tau_s",), spread=0.5)
    config, dataset = training.with_data(config)
    model, _ = training.prepare(config, dataset)
    test = dataset.test.select(torch.arange(7))
    found = study.firing(Run("run", model, test, {"batch_size": 7, "rule": "tssl", "seed": 0}))["layers"]["conv1"]
    network = model.network.eval()
    train = network.trains(network.activity(model.inputs(test.x)))["conv1"].float()
    quiet = rules.get("tssl").falls_back(train, synapse(train, network.neuron_of("conv1").tau_s), network.neuron_of("conv1"))
    assert found["fallback"] == pytest.approx(quiet.double().mean().item())
    assert 0.1 < found["fallback"] < 0.99


# Latency.


def test_latency_of_a_hand_made_network():
    found = study.latency(hand_made([[0.6], [0.3]], x=(1.0, 0.0)))
    assert found["accuracy"] == [0, 50, 50, 50]
    assert found["no_answer"] == [1, 0.5, 0.5, 0.5]
    assert found["spikes"] == [0, 0.5, 0.5, 1.5]
    assert found["exit"] == {"accuracy": 50, "steps": 4, "spikes": 1.5, "taken": [0, 0, 0, 1]}


def test_early_exit_spends_no_more_spikes():
    found = study.latency(hand_made([[2.0], [0.0]]))  # 3 spikes to 0 with one step left; the other sample waits to the end
    assert found["spikes"] == [0.5, 1, 1.5, 2]
    assert found["exit"] == {"accuracy": 50, "steps": 3.5, "spikes": 1.5, "taken": [0, 0, 0.5, 0.5]}


def small(folder, network):
    """A run on the digits that gets more than half right."""
    return training.train(
        TrainConfig(runs_dir=folder, name="small", network=network, epochs=6, batch_size=100, learning_rate=1e-2)
    )[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return small(tmp_path_factory.mktemp("runs"), "40-30-10")


@pytest.fixture(scope="module")
def run(trained):
    return runs.load(trained)


@pytest.mark.parametrize(("network", "neurons"), [("40-30-10", 80), ("40-50-V5", 90)])
def test_latency_at_the_last_step_is_accuracy(network, neurons, run, tmp_path):
    run = run if network == "40-30-10" else runs.load(small(tmp_path, network))
    found, accuracy = study.latency(run), run.model.accuracy(run.test)
    assert accuracy > 50
    # Batches of other sizes may round otherwise, and so may decide a sample or two of 360.
    assert found["accuracy"][-1] == pytest.approx(accuracy, abs=1)
    assert found["exit"]["accuracy"] == pytest.approx(accuracy, abs=1)
    assert found["spikes"][-1] == pytest.approx(neurons * study.measure(run.model, run.test).spikes)
    assert found["spikes"][-2] < found["exit"]["spikes"] <= found["spikes"][-1] or found["exit"]["steps"] < 4
    assert 1 <= found["exit"]["steps"] <= 5


# Robustness.


def trouble(name, level, run, seed=0):
    return robustness.disturbed(run, robustness.DISTURBANCES[name], level, seed)


def test_weights_of_few_bits_are_disturbed_as_they_are(run):
    model = replace(run.model, network=copy.deepcopy(run.model.network))
    layers = [layer for layer in model.network.layers if isinstance(layer, Linear)]
    for layer in layers:
        layer.quantise(2)
    seen = []
    same = robustness.Disturbance("weights", lambda x, *_: seen.append(x.clone()) or x, "", (0,))
    accuracy = robustness.disturbed(replace(run, model=model), same, 0, 0)
    assert accuracy == pytest.approx(model.accuracy(run.test), abs=1)
    for weight, layer in zip(seen, layers, strict=True):  # and no step sizes
        assert torch.equal(weight, layer.effective_weight())


@pytest.mark.parametrize(
    ("name", "level"),
    [("input noise", 0), ("weight noise", 0), ("weight quantisation", 24), ("dropped spikes", 0), ("jittered spikes", 0)],
)
def test_no_disturbance_changes_nothing(name, level, run):
    # Weights and spikes are computed in another way then, and rounding may decide a sample or two of 360 otherwise.
    assert trouble(name, level, run) == pytest.approx(run.model.accuracy(run.test), abs=1)


def test_noise_is_relative_to_the_spread():
    random = torch.Generator().manual_seed(0)
    assert robustness.add_noise(torch.tensor([2.0]), 0.5, random).tolist() == [2.0]
    x = torch.arange(10_000.0)
    noise = robustness.add_noise(x, 0.5, random) - x
    assert float(noise.std() / x.std()) == pytest.approx(0.5, rel=0.05)


def test_disturbances_do_harm_and_leave_the_model_alone(run):
    before = run.model.accuracy(run.test)
    levels = {"input noise": 4.0, "weight noise": 2.0, "weight quantisation": 2, "dropped spikes": 0.7, "jittered spikes": 4}
    for name, level in levels.items():
        assert trouble(name, level, run) < before - 3, name
        assert trouble(name, level, run) == trouble(name, level, run), name
    assert run.model.accuracy(run.test) == before


def test_without_spikes_there_is_no_answer(run):
    assert trouble("dropped spikes", 1.0, run) == 0
    x = run.model.inputs(run.test.x[:20], seed=0)
    output = robustness.through(run.model.network, x, torch.zeros_like)
    assert (metrics.decode(output) == metrics.NO_ANSWER).all()


def test_spikes_that_pass_unharmed_give_the_network(run):
    x = run.model.inputs(run.test.x[:50], seed=0)
    with torch.no_grad():
        torch.testing.assert_close(robustness.through(run.model.network, x, lambda train: train), run.model.network(x))


def test_quantised_weights_take_few_values():
    weight = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    top = weight.abs().max()
    three = robustness.quantise(weight, 2, torch.Generator())
    assert three.unique().tolist() == pytest.approx([-top.item(), 0, top.item()])
    eight = robustness.quantise(weight, 8, torch.Generator())
    assert 100 < len(eight.unique()) <= 255
    assert (eight - weight).abs().max() <= 0.5001 * top / 127
    assert torch.equal(robustness.quantise(torch.zeros(3), 4, torch.Generator()), torch.zeros(3))


def test_dropped_and_jittered_spikes():
    random = torch.Generator().manual_seed(0)
    train = (torch.rand(20, 4000, generator=random) < 0.1).float()
    kept = robustness.drop(train, 0.3, random)
    assert (kept <= train).all()
    assert float(kept.sum() / train.sum()) == pytest.approx(0.7, abs=0.03)
    alone = torch.zeros(20, 6000)
    alone[10] = 1
    moved = robustness.jitter(alone, 2, random)
    assert torch.equal(moved.sum(0), torch.ones(6000))
    shares = moved.mean(1)
    assert shares[8:13].tolist() == pytest.approx([0.2] * 5, abs=0.03)
    assert shares.sum() == pytest.approx(1)
    edge = robustness.jitter(torch.ones(3, 50), 5, random)
    assert set(edge.unique().tolist()) == {0, 1}
    assert 50 < edge.sum() < 150


def test_padding_is_not_disturbed_and_does_not_count():
    random, lengths = torch.Generator().manual_seed(0), torch.tensor([6, 3])
    moved = robustness.jitter(torch.ones(6, 2, 500), 5, random, lengths)
    assert moved[:, 0].any(1).all()
    assert moved[:3, 1].any(1).all()
    assert not moved[3:, 1].any()
    padding = torch.ones(6, 2, 500)
    padding[:3, 1] = 0
    assert not robustness.jitter(padding, 5, random, lengths)[:, 1].any()
    x = torch.randn(6, 2, 5000, generator=random)
    x[3:, 1] = 0
    noise = robustness.add_noise(x, 1.0, random, lengths) - x
    assert not noise[3:, 1].any()
    assert noise[:, 0].std() == pytest.approx(1, rel=0.05)
    run, seen = hand_made(HIDDEN, SILENT, lengths=[4, 1], batch=2), []
    for where in ("input", "spikes"):
        see = robustness.Disturbance(where, lambda x, level, random, lengths: seen.append(lengths) or x, "", ())
        robustness.disturbed(run, see, 0, 0)
    assert len(seen) == 3  # the input, and the spikes of two layers
    assert all(lengths.tolist() == [4, 1] for lengths in seen)


def test_robustness_counts_its_draws(run, monkeypatch):
    monkeypatch.setattr(
        robustness, "DISTURBANCES", {name: robustness.DISTURBANCES[name] for name in ("weight noise", "dropped spikes")}
    )
    found = study.robustness(run, draws=2)["troubles"]["dropped spikes"]
    assert found["accuracies"][-1] == [trouble("dropped spikes", 0.5, run, seed) for seed in (0, 1)]
    assert found["mean"][-1] == pytest.approx(sum(found["accuracies"][-1]) / 2)


# Energy.


def test_energy_of_a_hand_made_network():
    found = study.energy([hand_made(HIDDEN, SILENT)], "hand")
    rule = found["rules"]["tssl"]
    hidden = {"macs": 4, "acs": 0, "own_macs": 4 * 4 * 2, "dense_macs": 4}
    output = {"macs": 0, "acs": 7, "own_macs": 2 * 4 * 2, "dense_macs": 4 * 8}
    hidden |= {"energy_nj": pytest.approx(36 * 4.6 / 1000), "dense_nj": pytest.approx(36 * 4.6 / 1000)}
    output |= {"energy_nj": pytest.approx((16 * 4.6 + 7 * 0.9) / 1000), "dense_nj": pytest.approx(48 * 4.6 / 1000)}
    assert rule["layers"] == {"linear1": hidden, "output": output}
    assert rule["total"] == {key: pytest.approx(sum(layer[key] for layer in rule["layers"].values())) for key in rule["total"]}
    assert found["dense_relu"] == {"linear1": pytest.approx(4 * 4.6 / 1000), "output": pytest.approx(8 * 4.6 / 1000)}
    assert study.section(found).answer == (
        "Where zeros are skipped, the network takes 0.245 nJ. "
        "Where nothing is skipped, it takes 0.386 nJ and a ReLU network 0.0552 nJ."
    )


def test_energy_is_that_of_the_activity_and_averages_seeds(run):
    twice = replace(run, settings={**run.settings, "seed": 1})
    found = study.energy([run, twice], "two")["rules"]["tssl"]
    total = study.measure(run.model, run.test)
    assert found["seeds"] == [0, 1]
    assert all(value == pytest.approx(getattr(total, key)) for key, value in found["total"].items())
    assert sum(layer["energy_nj"] for layer in found["layers"].values()) == pytest.approx(total.energy_nj)


def test_the_energy_of_several_networks_is_told_with_what_they_share(run):
    one, two = (replace(run, settings={**run.settings, "seed": seed, "rule": "tssl"}) for seed in (0, 1))
    other = replace(run, settings={**run.settings, "seed": 0, "rule": "surrogate"})
    found = study.energy([one, two, other], "three")
    assert not {"rule", "seed"} & set(found["settings"])
    assert found["settings"]["network"] == run.settings["network"]
    count = len(run.test)
    assert study.section(found).notes[-1] == f"{count} test samples. Seeds: tssl: 0, 1; surrogate: 0."
    found = study.energy([one, two], "two")
    assert found["settings"]["rule"] == "tssl"
    assert study.section(found).notes[-1] == f"{count} test samples. Seeds: 0, 1."


def test_what_lies_behind_filters_is_told(run, monkeypatch):
    monkeypatch.setattr(robustness, "DISTURBANCES", {"input noise": robustness.DISTURBANCES["input noise"]})
    found = study.energy([run], "run") | {"sequence": True}, study.robustness(run, draws=1)

    def told(filters):
        energy, robust = (study.section(one | {"settings": run.settings | {"filters": filters}}) for one in found)
        return " ".join(energy.notes), robust.drawings[0][1]

    notes, caption = told(0)
    assert "except the real numbers of a sequence that enter a spiking network's first layer" in notes
    assert "The ReLU network sees a sequence once, as its mean over time." in notes
    assert caption == "Gaussian noise added to the input."
    notes, caption = told(2000)
    assert "except the rates of the filters that enter the first layer" in notes
    assert "The filters before the network are not counted." in notes
    assert "mean over time" not in notes
    assert caption.startswith("Gaussian noise added to the rates behind the filters")


# Studies that train.


@pytest.fixture
def tiny(quick):
    return quick(recipe="tiny", network="20-10", epochs=1, learning_rate=5e-3, seed=1)


def test_the_binary_network_beside_dynamics_learns_no_constants(tiny):
    binary = dynamics._binary(replace(tiny, learn=("threshold",), per_neuron=("threshold",), spread=0.3))
    config, dataset = training.with_data(binary)
    assert not training.prepare(config, dataset)[0].network.constants()


def test_dynamics_leaves_out_steps_in_which_the_loss_asks_for_silence(tiny, monkeypatch):
    tried, short = [], replace(tiny, loss="kernel(desired=001)")
    with pytest.raises(UserError, match="desired has no spike in 1 steps"):
        study.dynamics(short, seeds=1, steps=dynamics.STEPS)  # these were asked for
    monkeypatch.setattr(dynamics, "variants", lambda steps: tried.append(list(steps)) or {})
    for steps in (None, (3, 4)):
        study.dynamics(short, seeds=1, steps=steps)
    assert tried == [[3, 5, 10, 20], [3, 4]]


def test_dynamics_shuffles_no_network_without_a_hidden_layer(tiny, monkeypatch):
    all_of = dynamics.variants(())
    monkeypatch.setattr(dynamics, "variants", lambda steps: {name: all_of[name] for name in ("no leak", dynamics.SHUFFLED)})
    for network, shuffles in (("10", False), ("5-10", True)):
        found = study.dynamics(replace(tiny, network=network, runs_dir=tiny.runs_dir / network), seeds=1)
        assert (dynamics.SHUFFLED in found["variants"]) == shuffles
        assert ("order of steps" in str(dynamics.section(found))) == ("Shuffled" in str(dynamics.section(found))) == shuffles


def test_dynamics_keeps_weights_and_trains_again(tiny):
    found = study.dynamics(tiny, seeds=1, steps=(1, 5))
    base = training.load(tiny.runs_dir / "base-seed1")
    dataset = training.with_data(tiny)[1]
    assert found["base"]["accuracies"] == [pytest.approx(base.accuracy(dataset.test))]
    assert {path.name for path in tiny.runs_dir.iterdir()} == {
        f"{name}-seed1" for name in ("base", "tau_m-inf", "tau_m-1", "reset-0", "tau_s-1", "shuffled", "time_steps-1", "binary")
    }
    same = found["variants"]["T = 5"]
    assert same["kept"]["accuracies"] == same["retrained"]["accuracies"] == found["base"]["accuracies"]
    other = build("20-10", input_shape=(1, 8, 8), time_steps=5, tau_m=math.inf, tau_s=3.0).eval()
    other.load_state_dict(base.network.state_dict())
    no_leak = found["variants"]["no leak"]
    assert no_leak["kept"]["accuracies"] == [replace(base, network=other).accuracy(dataset.test)]
    again = training.load(tiny.runs_dir / "tau_m-inf-seed1")
    assert again.network.neuron.tau_m == math.inf
    assert no_leak["retrained"]["accuracies"] == [pytest.approx(again.accuracy(dataset.test))]
    assert training.load(tiny.runs_dir / "binary-seed1").network.architecture.neuron == "binary"
    no_reset = found["variants"]["no reset"]
    assert not training.load(tiny.runs_dir / "reset-0-seed1").network.neuron.reset
    other = build("20-10", input_shape=(1, 8, 8), time_steps=5, tau_m=5.0, tau_s=3.0, reset=False).eval()
    other.load_state_dict(base.network.state_dict())
    assert no_reset["kept"]["accuracies"] == [replace(base, network=other).accuracy(dataset.test)]
    shuffled = found["variants"]["shuffled steps"]
    again = training.load(tiny.runs_dir / "shuffled-seed1")
    assert shuffled["kept"]["accuracies"] == [dynamics.shuffled(base, 1, dataset.test)]
    assert shuffled["retrained"]["accuracies"] == [pytest.approx(dynamics.shuffled(again, 1, dataset.test))]
    assert again.network.state_dict()["layers.linear1.weight"].ne(base.network.state_dict()["layers.linear1.weight"]).any()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_failed_measurement_leaves_no_steps_shuffled(tiny):
    model, _ = training.prepare(*training.with_data(tiny))
    wrong = Split(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError):
        dynamics.shuffled(model, 0, wrong)
    assert not any(layer._forward_hooks for layer in model.network.modules())


def test_shuffled_steps_are_the_spikes_in_another_order_before_the_synapse():
    net = build("4C3-P2-7-3", input_shape=(1, 6, 6), time_steps=9, tau_m=5.0, tau_s=3.0).double()
    drawn = torch.Generator().manual_seed(1)
    for weight, size in zip(
        net.parameters(), (2, 1, 2), strict=True
    ):  # every layer fires in a third to two thirds of the steps
        weight.data = size * (torch.rand(weight.shape, generator=drawn, dtype=torch.float64) - 0.4)
    x = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = net(x)
    random = torch.Generator().manual_seed(3)
    first, second = (torch.randperm(9, generator=random) for _ in range(2))
    conv, linear = (layer for layer in net.layers if isinstance(layer, (Conv2d, Linear)) and layer is not net.layers.output)
    train = spikes_from_psc(conv(net.encode(x)), 3.0)
    assert 0.05 < train.mean() < 0.95
    current = net.layers.flatten(net.layers.pool1(synapse(train[first], 3.0)))
    expected = net.layers.output(synapse(spikes_from_psc(linear(current), 3.0)[second], 3.0))
    hooks = dynamics.shuffle(net, 3)
    assert len(hooks) == 2
    torch.testing.assert_close(net(x), expected)
    assert not torch.allclose(net(x), plain)
    net(x).sum().backward()
    shuffled = net.layers.conv1.weight.grad.clone()
    net.zero_grad()
    expected.sum().backward()
    torch.testing.assert_close(shuffled, net.layers.conv1.weight.grad)
    for hook in hooks:
        hook.remove()
    assert torch.equal(net(x), plain)


def padded(folder):
    """The file of sequences of 9 and of 4 steps, in two classes."""
    x, lengths = np.random.default_rng(0).random((60, 9, 3)).astype("f4") + 0.5, np.tile([9, 4], 30)
    x[1::2, 4:] = 0
    np.savez(folder / "padded.npz", x=x, y=np.repeat([0, 1], 30), lengths=lengths)
    return str(folder / "padded.npz")


def test_padded_sequences_are_shuffled_up_to_their_end(quick, tmp_path):
    config, dataset = training.with_data(
        quick(
            data=padded(tmp_path), network="20R-2", rule="tssl+", normalise="none", rate_penalty=0.1, epochs=1, name="shuffled"
        )
    )
    network = training.prepare(config, dataset)[0].network.eval()
    x = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0)) + 0.5
    x[4:, 1] = 0

    def spikes():
        return spikes_from_psc(network.activity(x)["recurrent1"], 3.0).round()

    train, order = spikes(), torch.randperm(9, generator=torch.Generator().manual_seed(3))
    dynamics.shuffle(network, 3, padded=True)
    assert train[:4].sum() > 9
    assert torch.equal(spikes()[:, 0], train[order, 0])
    assert torch.equal(spikes()[:4, 1], train[order[order < 4], 1])
    assert torch.equal(spikes()[4:, 1], train[4:, 1])
    folder = runs.finished(config, lambda name: training.Progress(), partial(dynamics.shuffle, seed=3, padded=True))
    assert runs.accuracy(folder) == pytest.approx(dynamics.shuffled(training.load(folder), 3, dataset.test))


@pytest.mark.parametrize(
    "train",
    [
        lambda config: study.compare(config, ["tssl"], seeds=1),
        lambda config: study.ablation(config, seeds=2),
        lambda config: study.dynamics(config, seeds=1),
    ],
)
def test_data_too_small_to_hold_any_out_are_refused(train, quick, tmp_path):
    x, y = np.random.default_rng(0).random((6, 4)).astype("f4"), np.arange(6)
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y, x_test=x + 1, y_test=y)  # one training sample of each class
    said = (
        r"^one has no validation samples, on which comparisons and studies choose the epoch; hold some out with --validation N"
    )
    with pytest.raises(UserError, match=said):
        train(quick(data=str(tmp_path / "one.npz"), network="9-6"))


def test_interrupted_study_goes_on(tiny, tmp_path):
    whole = study.ablation(replace(tiny, runs_dir=tmp_path / "whole"), seeds=2, groups=["terms"])

    begun = []

    def watch(name):
        begun.append(name)
        return StopAt(1, 3) if len(begun) == 3 else training.Progress()

    with pytest.raises(training.Interrupted):
        study.ablation(tiny, seeds=2, groups=["terms"], watch=watch)
    result = study.ablation(tiny, seeds=2, groups=["terms"], watch=watch)
    assert begun[:4] == ["base-seed1", "inter-False-seed1", "reset-False-seed1", "reset-False-seed1"]
    assert len(begun) == 9
    assert {**result, "machine": None} == {**whole, "machine": None}


def test_variants_differ_from_the_base_in_one_thing(quick):
    base = quick(rule="tssl(clip=2.0)", loss="kernel", time_steps=5)
    made = ablation.variants(base, ablation.GROUPS, trains=False)
    assert list(made)[:3] == ["inter=False", "reset=False", "leak=False"]
    assert "clip=2.0" not in made
    assert made["fallback=never"] == ("fallback", replace(base, rule="tssl(fallback=never, clip=2.0)"))
    assert made["target=double"] == ("target", replace(base, loss="kernel(target=double)"))
    assert len({settings for _, settings in made.values()} | {base}) == len(made) + 1 == 3 + 4 + 4 + 1 + 4 + 1 + 4 + 1
    assert "target=double" not in ablation.variants(replace(base, loss="count"), ablation.GROUPS, trains=False)
    assert list(ablation.variants(base, ["loss", "desired"], trains=True)) == ["loss=spike"]
    assert list(ablation.variants(replace(base, loss="count"), ["desired"], trains=False)) == []
    for whole in ({"network": "20R-10"}, {"time_block": 2}):  # rate needs a look at all steps first
        made = ablation.variants(replace(base, **whole), ["fallback"], trains=False)
        assert list(made) == ["fallback=no-spike", "fallback=never", "fallback=always"]


@pytest.mark.parametrize("more", [{"network": "8R-10"}, {"time_block": 2}])
def test_rules_that_need_whole_sequences_are_no_variants_of_one_in_parts(more, quick):
    made = ablation.variants(quick(rule="tssl-paper(fallback=quiet)", **more), ["terms"], trains=False)
    assert "inter=False" in made
    assert not {"reset=True", "leak=True"} & set(made)


def test_no_binary_network_stands_beside_first_spikes(tiny):
    assert dynamics._binary(tiny) is not None
    assert dynamics._binary(replace(tiny, encoding="latency")) is None


def test_losses_that_do_not_go_with_a_learned_synapse_are_no_variants(quick):
    made = ablation.variants(quick(learn=("tau_s",)), ["loss"], trains=False)
    assert set(made) & {"loss=count", "loss=spike"} == {"loss=count"}


@pytest.mark.parametrize(
    ("choose", "said"), [("validation", "nothing was chosen by them"), ("test", "a run's epoch was chosen by")]
)
def test_a_page_says_whether_accuracies_chose_the_epoch(choose, said, tmp_path):
    run = hand_made(HIDDEN, SILENT)
    chosen = replace(run, settings={**run.settings, "choose": choose})
    for name in ("energy", "firing"):
        result = (
            study.energy([hand_made(HIDDEN, SILENT, rule="surrogate"), chosen], "x")
            if name == "energy"
            else study.firing(chosen)
        )
        study.write(tmp_path / name, result)
        assert said in Page(tmp_path / name / "report.html").text


@pytest.mark.parametrize(("data", "same"), [("spike-pattern(seed=1)", True), ("spike-pattern-of-mine.npz", False)])
def test_a_page_says_that_frozen_patterns_chose_the_epoch(data, same, tmp_path):
    run = hand_made(HIDDEN, SILENT)
    found = study.firing(replace(run, settings={**run.settings, "data": data}))
    text = Page(study.write(tmp_path, found)).text
    assert ("also those of training and validation, so the epoch was chosen by them" in text) == same
    assert ("nothing was chosen by them" in text) != same


@pytest.mark.parametrize(
    ("steps", "desired", "others"),
    [
        (10, "", ["1", "00001", "10000"]),  # the base's is 01 from ten steps on
        (10, "(desired=0101010101)", ["1", "00001", "10000"]),
        (3, "", ["1", "01", "10000"]),  # three steps of 00001 would be silence
        (2, "", ["1", "10000"]),
        (1, "", []),
    ],
)
def test_desired_trains_that_are_the_bases_or_silent_are_no_variants(steps, desired, others, quick):
    base = quick(loss=f"kernel{desired}", time_steps=steps)
    assert list(ablation.variants(base, ["desired"], trains=False)) == [f"desired={train}" for train in others]


def test_intervals_and_p_values():
    found = paired.paired([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    assert found["differences"] == [1, 2, 6]
    error = math.sqrt(7 / 3)
    half, power = 4.302653 * error, 1.060660 * error
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((3, 3 - half, 3 + half), rel=1e-5)
    assert found["detectable"] == pytest.approx(half + power, rel=1e-5)
    assert found["p"] == pytest.approx(1 - 3 / math.sqrt(2 * error**2 + 9), rel=1e-9)  # Student's t for n = 3
    same = paired.paired([2.0, 3.0], [1.0, 2.0])  # a difference without a spread
    assert (same["mean"], same["low"], same["high"], same["detectable"], same["p"]) == (1, None, None, None, 1)
    assert (paired.interval(same), paired.interval(found)) == ("–", "-3.57 to +9.57")


def test_what_was_planned_is_not_corrected():
    values = {name: [1.0, 2.0, 3.0, 4.0] for name in ("planned", "one", "other")}
    found = paired.differences(values, [0.0] * 4, "planned")
    assert found["planned"]["p"] == pytest.approx(0.0304663, rel=1e-5)
    assert [one["holm"] / one["p"] for one in found.values()] == pytest.approx([1, 2, 2])
    assert [one["real"] for one in found.values()] == [True, False, False]
    assert not any(one["real"] for one in paired.differences(values, [0.0] * 4).values())


def test_holm():
    assert paired.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert paired.holm([0.5, 0.9]) == [1, 1]
    assert paired.holm([]) == []


def test_what_diverges_is_told_and_left_out(tiny, monkeypatch, tmp_path):
    step = training.Loop.step

    def diverging(self, samples, ahead=None):
        if "reset=False" in self.config.rule:
            raise training.Diverged("diverged")
        step(self, samples, ahead)

    monkeypatch.setattr(training.Loop, "step", diverging)
    found = study.ablation(tiny, seeds=2, groups=["terms"])
    assert found["variants"]["reset=False"] == {"group": "terms", "accuracies": None}
    assert len(found["variants"]["leak=False"]["accuracies"]) == 2
    assert "reset=False diverged" in Page(study.write(tmp_path, found)).text
    assert study.section(found).notes[0] == f"Test samples: 360. Epochs: {tiny.epochs}."
    assert study.section({key: value for key, value in found.items() if key != "samples"}).notes[0].startswith("Seeds")  # 0.1.0


# Commands and page.


def test_a_study_is_one_file(trained, tmp_path, capsys, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    assert 20 < len(code.splitlines()) < 30
    (tmp_path / "small.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(study, "__path__", [*study.__path__, str(tmp_path)])
    assert cli.main(["study"]) == cli.main(["study", "small", str(trained), "--out", str(tmp_path)]) == 0
    assert "  small       RUNS: how many weights are small\n" in (out := capsys.readouterr().out)
    result = json.loads((tmp_path / "small.json").read_text())
    weights = torch.cat([weight.abs().flatten() / weight.abs().max() for weight in training.load(trained).network.parameters()])
    assert min(result["shares"].values()) <= 100 * float((weights < 0.1).double().mean()) <= max(result["shares"].values())
    assert study.section(result).answer in Page(tmp_path / "report.html").text
    assert study.section(result).answer in out


@pytest.mark.slow
def test_page_collects_the_studies_of_a_folder(trained, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    few = {
        "weight quantisation": robustness.DISTURBANCES["weight quantisation"],
        "dropped spikes": robustness.DISTURBANCES["dropped spikes"],
    }
    monkeypatch.setattr(robustness, "DISTURBANCES", few)
    questions = []
    for name in ("energy", "robustness", "latency", "firing"):
        assert cli.main(["study", name, str(trained), "--out", str(out)]) == 0
        result = json.loads((out / f"{name}.json").read_text())
        section = study.section(result)
        questions.append(section.question)
        page = Page(out / "report.html")
        assert all(question in page.text for question in questions)
        assert len(page.all("svg")) >= len(section.drawings)
        assert section.answer in page.text
        assert section.answer in capsys.readouterr().out
        assert f"tsslbp study {name} {trained} --out {out}" in page.text
        assert len({len(row) for row in [section.heads, *section.rows]}) == 1
    assert len(page.all("h2")) == 4
    assert [link["href"] for link in page.all("a")] == ["#firing", "#latency", "#robustness", "#energy"]
    assert any("Spikes of " in (drawing["aria-label"] or "") for drawing in page.all("svg"))
    assert [page.text.index(question) for question in reversed(questions)] == sorted(map(page.text.index, questions))
    accuracy = runs.load(trained).model.accuracy(runs.load(trained).test)
    assert f"the accuracy is {accuracy:.2f} %." in page.text


def test_several_runs_are_told_by_their_mean(tiny, capsys):
    folders = [training.train(replace(tiny, name=f"tssl-seed{seed}", seed=seed))[0] for seed in (1, 2)]
    out = tiny.runs_dir / "out"
    for name in ("firing", "latency"):
        assert cli.main(["study", name, *map(str, folders), "--out", str(out)]) == 0
    alone = [study.firing(runs.load(folder)) for folder in folders]
    found = json.loads((out / "firing.json").read_text())
    rates = [one["all"]["rate"] for one in alone]
    assert rates[0] != rates[1]
    assert found["all"]["rate"] == pytest.approx(statistics.fmean(rates))
    assert [one["all"]["rate"] for one in found["each"]] == rates
    assert found["layers"]["linear1"]["neurons"] == 20  # a whole number
    assert found["all"]["first"][0] == pytest.approx(statistics.fmean(one["all"]["first"][0] for one in alone))
    assert (found["subject"], found["runs"]) == ("out", 2)
    assert "seed" not in found["settings"]
    page = Page(out / "report.html")
    assert page.text.count("out, the mean of 2 runs with different seeds") == 2
    assert study.section(found).answer in page.text
    # The folder that holds both does as well.
    assert cli.main(["study", "firing", str(tiny.runs_dir), "--out", str(tiny.runs_dir / "again")]) == 0
    assert json.loads((tiny.runs_dir / "again/firing.json").read_text())["all"] == found["all"]

    other, _ = training.train(replace(tiny, name="surrogate-seed1", rule="surrogate"))
    capsys.readouterr()
    assert cli.main(["study", "robustness", str(folders[0]), str(other)]) == 2
    assert "surrogate-seed1 and tssl-seed1 differ in rule; name runs that differ in their seed only" in capsys.readouterr().err
    assert cli.main(["study", "firing"]) == 2
    wider, _ = training.train(replace(tiny, name="wider", network="12-10"))
    capsys.readouterr()
    for named, message in (
        ([folders[0], folders[0]], "have the same seed, 1; name each run once"),
        ([folders[0], wider], "wider and tssl-seed1 differ in network; name runs of one network on the same data"),
    ):
        assert cli.main(["study", "energy", *map(str, named)]) == 2
        assert message in capsys.readouterr().err


def test_a_comparison_with_a_run_that_diverged_says_to_name_the_others(tiny):
    ended, diverged = (training.train(replace(tiny, name=f"{rule}-seed1", rule=rule))[0] for rule in ("tssl", "tssl+"))
    metrics = diverged / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(diverged))} has not ended; .*; if it diverged, name the runs that ended"
    ):
        runs.load_all(tiny.runs_dir)
    assert runs.load_all(ended)[0].name == "tssl-seed1"


def test_a_run_that_has_not_ended_is_refused(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = training.train(tiny)
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    assert cli.main(["study", "latency", str(folder)]) == 2
    assert "has not ended; go on with: tsslbp train --config" in capsys.readouterr().err


def test_a_command_quotes_the_name_of_its_run(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = training.train(replace(tiny, name="a run"))
    config = f"'{folder}/config.toml'"
    assert cli.main(["report", str(folder), "--markdown"]) == 0
    assert f"    tsslbp train --config {config} --name NEW_NAME\n" in (folder / "README.md").read_text()
    (folder / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    assert cli.main(["study", "latency", str(folder)]) == 2
    assert f"has not ended; go on with: tsslbp train --config {config} --resume" in capsys.readouterr().err


def test_other_test_samples_than_those_of_the_run_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{number % 7},{number % 3},{'ab'[number % 2]}" for number in range(80)]
    Path("own.csv").write_text("\n".join(["p,q,class", *rows]))
    assert cli.main(["train", "--data", "own.csv", "--epochs", "1", "--name", "own"]) == 0
    Path("own.csv").write_text("\n".join(["p,q,class", *reversed(rows)]))
    capsys.readouterr()
    for command in (["report"], ["study", "latency"], ["study", "energy"]):
        assert cli.main([*command, "runs/own"]) == 2
        assert "own.csv has other test samples than those that the run was measured on" in capsys.readouterr().err


def test_results_lie_beside_each_other(tiny, capsys, monkeypatch, tmp_path):
    """Every comparison has a tssl-seed0, and a run's own page is not replaced."""
    monkeypatch.chdir(tmp_path)
    folder, _ = training.train(replace(tiny, runs_dir=Path("runs/compare-a"), name="tssl-seed0"))
    assert cli.main(["study", "latency", str(folder)]) == 0
    assert Path("studies/compare-a-tssl-seed0/latency.json").is_file()
    assert cli.main(["study", "latency", str(folder), "--out", str(folder)]) == 2
    assert "is the folder of a run, which has a report of its own; choose another --out" in capsys.readouterr().err


TINY = ["--network", "20-10", "--padding", "0", "--epochs", "1", "--batch-size", "200"]


def test_studies_that_train_by_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "dynamics", "quickstart", *TINY, "--seeds", "1", "--steps", "2", "5"]) == 0
    assert cli.main(["study", "ablation", "quickstart", *TINY, "--seeds", "2", "--vary", "psc-derivative", "target"]) == 0
    err = capsys.readouterr().err
    assert err.count("base-seed0") == 1  # the second study uses the first one's run
    page = Page(tmp_path / "studies/quickstart/report.html")
    assert "no leak (tau_m = ∞)" in page.text
    assert "of 2 changes" in page.text
    assert (tmp_path / "studies/quickstart/runs/psc_derivative-timing-seed1/model.safetensors").is_file()
    for name in ("dynamics", "ablation"):
        section = study.section(json.loads((tmp_path / f"studies/quickstart/{name}.json").read_text()))
        assert len({len(row) for row in [section.heads, *section.rows]}) == 1


def test_a_real_difference_is_told(tiny):
    found = study.ablation(tiny, seeds=2, groups=["target"])
    variant = found["variants"]["target=double"]
    variant |= {"mean": -3.25, "low": -4.0, "high": -2.5, "real": True}
    assert study.section(found).answer == (
        "With 2 seeds, 1 of 1 changes made a real difference; "
        "the largest is target=double, -3.25 (95 % interval -4.00 to -2.50)."
    )


def test_the_relu_network_beside_learned_constants_has_none(tiny):
    training.train(replace(tiny, name="learned", learn=("threshold",), per_neuron=("threshold",)))
    assert set(study.energy([runs.load(tiny.runs_dir / "learned")], "learned")["dense_relu"]) == {"linear1", "output"}


def test_energy_takes_a_comparison_and_leaves_out_what_was_tuning(tiny):
    for name, changes in (("tssl-seed1", {}), ("relu-seed1", {"neuron": "relu"}), ("tssl-rate0.001", {})):
        training.train(replace(tiny, name=name, **changes))
    found = study.energy(runs.load_all(tiny.runs_dir), "compared")
    assert set(found["rules"]) == {"tssl", "relu"}
    assert found["rules"]["tssl"]["seeds"] == [1]
    relu, tssl = found["rules"]["relu"]["total"], found["rules"]["tssl"]["total"]
    dense = sum(found["dense_relu"].values())
    assert relu["energy_nj"] < 0.95 * dense  # the trained one skips its zeros
    assert relu["dense_nj"] == pytest.approx(dense)
    assert (relu["acs"], relu["own_macs"]) == (0, 0)
    assert tssl["own_macs"] == 30 * 5 * 2

    rows = study.section(found).rows
    assert [row[:2] for row in rows] == [[label, name] for label in found["rules"] for name in ("linear1", "output", "all")]
    found["dense_relu"] = {"linear1": 3.0, "output": 0.3}
    for label, nj, dense_nj in (("tssl", 1.11, 9.9), ("relu", 2.22, 3.3)):
        found["rules"][label] |= {"accuracy": 90.0, "total": tssl | {"energy_nj": nj, "dense_nj": dense_nj}}
    assert study.section(found).answer == (
        "Where zeros are skipped, tssl needs the least energy, 1.11 nJ (90.00 % accuracy); the trained ReLU network "
        "takes 2.22 nJ. "
        "Where nothing is skipped, tssl takes 9.9 nJ and a ReLU network 3.3 nJ."
    )
    found["rules"]["relu"]["total"]["energy_nj"] = 1.0
    assert study.section(found).answer == (
        "Where zeros are skipped, relu needs the least energy, 1 nJ (90.00 % accuracy). "
        "Where nothing is skipped, relu takes 3.3 nJ."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fireing RUN", "unknown study 'fireing'; did you mean 'firing'"),
        ("firing nowhere", "nowhere"),
        ("energy nowhere", "no run at nowhere"),
        ("firing RUN --seeds 3", "unknown option '--seeds'"),
        ("robustness RUN --seeds 0", "--seeds is 0"),
        ("dynamics quickstrat", "did you mean 'quickstart'"),
        ("dynamics quickstart --seeds 0", "--seeds is 0"),
        ("dynamics quickstart --steps 0", "--time-steps is 0"),
        ("dynamics quickstart --runs-dir x", "--runs-dir is for tsslbp train"),
        ("fidelity tsl", "did you mean 'tssl'"),
        ("fidelity --seeds 0", "at least one seed"),
        ("ablation quickstart --seeds 1", "need at least 2"),
        ("ablation quickstart --rate-lower 0.1", "--rate-lower has no effect without a --rate-penalty"),
        ("dynamics quickstart --neuron relu", "--neuron is for tsslbp train"),
        ("ablation quickstart --vary clipp", "did you mean 'clip'"),
        ("ablation quickstart --vary target --loss count", "nothing to vary in target"),
        ("ablation quickstart --rule surrogate", "surrogate is not one; choose tssl"),
        ("ablation quickstart --loss kernel(desired=012)", "--loss: desired is 012; it must be of 0 and 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", *arguments.replace("RUN", str(trained)).split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_studies_of_spikes_need_spikes(tiny):
    ann = runs.load(training.train(replace(tiny, neuron="relu", loss="softmax", name="ann"))[0])
    for measure in (study.firing, study.latency):
        with pytest.raises(UserError, match="ann is a network of relu units, which have none"):
            measure(ann)
    assert set(study.robustness(ann, draws=1)["troubles"]) == {"input noise", "weight noise", "weight quantisation"}
    voltage = replace(tiny, network="10", readout="voltage", loss="softmax", name="one")
    with pytest.raises(UserError, match="one has one layer, read from its voltage: add a hidden one"):
        study.firing(runs.load(training.train(voltage)[0]))


def test_latency_needs_one_length():
    with pytest.raises(UserError, match="differ in length"):
        study.latency(hand_made(HIDDEN, SILENT, lengths=[4, 1]))


def test_a_damaged_study_is_named(run, tmp_path):
    (tmp_path / "energy.json").write_text("{")
    with pytest.raises(UserError, match=r"energy\.json is damaged.*; .*latency\.json holds the new result"):
        study.write(tmp_path, study.latency(run))
    assert (tmp_path / "latency.json").is_file()


def test_a_result_made_in_python_is_written_and_drawn(run, tmp_path):
    assert "<code></code>" not in study.write(str(tmp_path), study.firing(run)).read_text()
    assert "    \n" not in study.draw(str(tmp_path), markdown=True).read_text()


def test_list_of_studies(capsys):
    assert cli.main(["study"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("firing", "latency", "robustness", "energy", "dynamics", "ablation", "fidelity"))


def test_spikes_of_the_hand_made_network_are_as_said():
    run = hand_made(HIDDEN, SILENT)
    train = spikes_from_psc(run.model.network.activity(torch.ones(1, 1))["linear1"], 1.0)[:, 0]
    assert train.T.tolist() == [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    "measure",
    [study.firing, study.latency, lambda folder: study.energy([folder], ""), partial(study.robustness, draws=1)],
    ids=["firing", "latency", "energy", "robustness"],
)
@pytest.mark.parametrize("folder", ["runs/quickstart", Path("runs/quickstart")])
def test_a_folder_is_no_run(measure, folder):
    with pytest.raises(UserError, match=r"runs/quickstart is of type \w+; tsslbp.study.runs.load reads a run from its folder"):
        measure(folder)


@pytest.mark.parametrize("trained", [Path("runs/quickstart"), "runs/quickstart", []])
def test_energy_is_that_of_a_list_of_runs(trained):
    with pytest.raises(
        UserError, match=r"trained is .*; it must be a list of runs, as tsslbp\.study\.runs\.load_all returns it"
    ):
        study.energy(trained, "")
