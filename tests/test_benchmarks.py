"""The scripts of benchmarks/: nets that are trained side by side, and what is made of their results."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsslbp
from tsslbp.neuron import synapse

ROOT = Path(__file__).parent.parent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.fixture
def task(script):
    return replace(script("spike_trains").TASKS["easy"], time_steps=40, hidden=20, outputs=3, spikes=2, steps=20)


@pytest.mark.parametrize("rule", ["tssl", "tssl-paper"])
def test_nets_side_by_side_are_those_alone(rule, script, task):
    rules = [tsslbp.rules.get(rule)] * 2
    together, alone = script("spike_trains").Nets(task, [3, 4], 2), script("spike_trains").Nets(task, [4], 2)
    before = together.weights[0].clone()
    for nets in (together, alone):
        nets.train(rules, 1e-2, task.steps)
    assert (together.weights[0] - before).abs().amax((1, 2)).min() > 0.01
    for ours, single in zip(together.weights, alone.weights, strict=True):
        torch.testing.assert_close(ours[1], single[0], atol=1e-4, rtol=1e-3)
    assert together.scores()["f1"][1] == pytest.approx(alone.scores()["f1"][0])


def test_they_are_the_librarys_networks(script, task):
    nets = script("spike_trains").Nets(task, [3], 2)
    net = tsslbp.build("20-3", input_shape=(100,), time_steps=40, tau_m=10, tau_s=4, rule="tssl")
    linear = [layer for layer in net.layers if isinstance(layer, tsslbp.layers.Linear)]
    with torch.no_grad():
        for layer, weight in zip(linear, nets.weights, strict=True):
            layer.weight.copy_(weight[0].T)
    pattern = "spike-pattern(outputs=3, spikes=2, patterns=2, repeats=1, seed=3)"
    samples = tsslbp.data.load(pattern, Path(), time_steps=40).train
    wanted = synapse(samples.y.transpose(0, 1).float(), 4)
    loss = 0.5 * (net(samples.x.transpose(0, 1).float()) - wanted).square().sum()
    ours = nets.loss([tsslbp.TSSL()] * 2)
    torch.testing.assert_close(ours[0], loss)
    for layer, gradient in zip(linear, torch.autograd.grad(ours.sum(), nets.weights), strict=True):
        torch.testing.assert_close(gradient[0].T, torch.autograd.grad(loss, layer.weight, retain_graph=True)[0])
        assert gradient.count_nonzero() > 0


@pytest.mark.parametrize(
    ("best", "tried"),
    [(1e-3, [3e-4, 1e-3, 3e-3]), (3e-3, [1e-3, 3e-3, 1e-2]), (1e-1, [1e-2, 3e-2, 1e-1])],
)
def test_a_learning_rate_at_an_end_is_not_taken_for_the_best(script, best, tried):
    module = script("spike_trains")
    chosen, f1 = module.choose(lambda rate: {"f1": [-abs(math.log(rate / best))], "loss": [0.0]})
    assert chosen == best
    assert set(tried) <= set(f1) <= set(module.RATES)
    assert module.choose(lambda rate: {"f1": [1.0], "loss": [abs(rate - 1e-2)]})[0] == 1e-2


def test_capacity_is_the_largest_number_that_is_learned(script, task, monkeypatch):
    module, asked = script("spike_trains"), []

    def train(_task, name, _rate, seeds, patterns):
        asked.append(patterns)
        return {"f1": [{1: 1.0, 2: 0.96, 4: 0.9, 8: 0.97, 16: 0.5}[patterns]] * len(seeds)}

    monkeypatch.setattr(module, "train", train)
    found = module.capacity(task, "tssl", 1e-3, [0, 1])
    assert asked == [1, 2, 4, 8, 16]  # not 32: hopeless
    assert found["capacity"] == 8
    monkeypatch.setattr(module, "train", lambda *_: {"f1": [0.1]})
    assert module.capacity(task, "tssl", 1e-3, [0]) == {"f1": {1: [0.1]}, "capacity": 0}


def test_parts_of_the_gradient_add_up(script, monkeypatch):
    module, taken = script("spike_train_causes"), []
    monkeypatch.setattr(module, "STEPS_BEFORE", 60)
    judged = module._judged
    monkeypatch.setattr(module, "_judged", lambda nets, part, control: taken.append(part) or judged(nets, part, control))
    found = module.parts()
    torch.testing.assert_close(sum(taken[:4]), taken[list(found).index("together: `tssl`")])
    assert all(part.norm() > 0 for part in taken)
    assert found["`always`"]["fall"] > 0.02
    assert found["`always`"]["cosine"] == pytest.approx(1)
    assert 0 < module.crossings()["share of steps without a spike and not quiet"] < 0.5


def test_without_fallback_silent_outputs_stay_silent(script, quick):
    module = script("without_fallback")
    config = quick(network="30-10", learning_rate=1e-3, threshold=20.0)
    silent, firing = module.trained(config, 1), module.trained(config, 100)
    assert [silent["first"], *(record["rates"]["output"] for record in silent["epochs"])] == [0, 0, 0]
    assert firing["first"] > 0
    assert firing["epochs"][0]["rates"]["output"] > 0
