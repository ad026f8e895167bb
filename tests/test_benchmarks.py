"""The scripts of benchmarks/: nets that are trained side by side, and what is made of their results."""

import importlib
import json
import math
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tsslbp
from tsslbp import UserError, training
from tsslbp.data import speech
from tsslbp.network.notation import NeuronSpec, parse, unpacked
from tsslbp.neuron import LIF, membrane_potential, synapse
from tsslbp.rivals.eventprop import random_case
from tsslbp.study.fidelity import grid_gradient
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig

ROOT = Path(__file__).parent.parent
LIMITS = ("FLAT", "CONVOLVED", "BF16")


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


def test_amplitude_is_added_to_the_exact_gradient_of_a_lone_spike(script):
    # u = 0.5, 1.1, 0.44, 0.35: a spike at 1 with Δu = 0.6, so p = 1/0.6; E[1] = e[1]/3 + 2/3·e[2]/3 + 4/9·e[3]/3.
    neuron, weighed = LIF(5, 3), script("eventprop_speech").WithAmplitude(amplitude=0.3)
    membrane = membrane_potential(torch.tensor([0.5, 0.7, 0.44, 0.0], dtype=torch.float64).view(4, 1), neuron)
    e = torch.tensor([7.0, 1.0, -2.0, 3.0], dtype=torch.float64).view(4, 1)
    added = weighed.current_gradient(e, membrane, neuron) - tsslbp.EventProp().current_gradient(e, membrane, neuron)
    expected = 0.3 / 0.6 * (1 / 3 - 2 * 2 / 9 + 3 * 4 / 27)
    assert added[1].item() == pytest.approx(expected)
    assert added[0].item() == pytest.approx(0.8 * expected)


def test_batches_with_spike_time_gradient_are_counted(script):
    module = script("paper_fallback")
    network = tsslbp.build("8-3", input_shape=(4,), time_steps=5, tau_m=5.0, tau_s=2.0, rule="tssl-paper")
    busy, silent, loud = module.counted(network), torch.full((6, 4), -9.0), torch.full((6, 4), 9.0)
    network.layers.linear1.weight.data.abs_()
    for x in (silent, loud, silent):
        network(x)
    network.eval()(loud)
    assert busy["linear1"] == [False, True, False]
    assert busy["output"][0] is False


def test_fallback_is_weighed(script):
    module, neuron = script("fallback_size"), LIF(tau_m=5.0, tau_s=2.0)
    e, membrane = torch.randn(5, 4, 3), torch.linspace(-2, 1.5, 60).view(5, 4, 3)
    for fallback in ("never", "no-spike", "always"):
        rule, sums = tsslbp.rules.get(f"tssl(fallback={fallback})"), torch.zeros(4)
        delta = module.Weighed(rule, sums).current_gradient(e, membrane, neuron)
        fills = {"never": membrane > 9, "no-spike": membrane <= 1, "always": membrane < 9}[fallback]
        assert torch.equal(delta, rule.current_gradient(e, membrane, neuron))
        torch.testing.assert_close(
            sums, torch.stack([torch.tensor(60.0), fills.sum(), delta.abs().sum(), delta[fills].abs().sum()])
        )


def test_layers_have_the_rules_of_their_row(script):
    module = script("eventprop_speech")
    for hidden, share, output, _ in module.NETWORKS.values():
        network = tsslbp.build("30-10", input_shape=(1, 8, 8), time_steps=5, tau_m=5.0, tau_s=3.0)
        module.adapted(network, hidden, share, output)
        clip = {"clip": 8.0, "amplitude": share}
        assert network.layers.linear1.rule == (module.WithAmplitude(**clip) if share else tsslbp.rules.get(hidden))
        assert network.layers.output.rule == tsslbp.rules.get(output)


def test_share_of_the_reset_term_by_hand(script):
    # u = 0.5, 1.1, 0.2, 1.06: spikes at 1 and 3, of which the second has no next one; (7) is 1.1/5/0.6 and (8) would be 4/5.
    neuron = LIF(5, 3)
    membrane = membrane_potential(torch.tensor([0.5, 0.7, 0.2, 0.9], dtype=torch.float64).view(4, 1), neuron)
    reset = 1.1 / 5 / 0.6
    assert script("gradient_terms").shares(membrane, neuron).tolist() == pytest.approx([reset / (reset + 4 / 5)])


def test_share_of_the_reset_term_tends_to_that_in_continuous_time(script):
    module, seen = script("gradient_terms"), []

    class Seen(module.PassedOn):
        def current_gradient(self, psc_gradient, membrane, neuron):
            seen.append(module.shares(membrane, neuron).sort().values)
            return super().current_gradient(psc_gradient, membrane, neuron)

    for step in (1 / 16, 1 / 128):
        grid_gradient(random_case(0, module.LAYERS), Seen(), step)
    coarse, fine = ((share - module.exact_shares(0).sort().values).abs().max() for share in seen)
    assert fine < 0.02 < coarse


def test_share_is_of_every_spike_of_a_trained_network_that_another_follows(script, quick):
    config = quick(epochs=1)
    model, samples = training.load(training.train(config)[0]), training.with_data(config)[1].test
    shares = script("gradient_terms").model_shares(model, samples)
    with model.evaluating(samples) as batches:
        ((_, inputs),) = batches
        counts = [model.network.fired(psc).sum(0) for psc in model.network.activity(inputs).values()]
    assert len(shares) == sum(int((count - 1).clamp(min=0).sum()) for count in counts) > 100


def test_leak_term_at_spikes_makes_the_gradient_exact(script):
    module = script("gradient_terms")
    published, passed_on, without_reset = (
        module.closeness(rule, range(3), (1 / 32,))[0]["cosine"]["median"]
        for rule in (module.PUBLISHED, module.PassedOn(), module.PassedOn(reset=False))
    )
    assert passed_on > 0.995
    assert max(published, without_reset) < 0.97


def test_without_the_inter_neuron_term_there_is_no_spike_time_gradient(script):
    found = script("gradient_terms").without_inter(range(1))
    assert found["tssl(inter=False, fallback=never)"] == 0 < found["tssl(fallback=never)"]
    assert found["tssl(inter=False) minus tssl(inter=False, reset=False, leak=False)"] == 0 < found["tssl(inter=False)"]


@pytest.mark.parametrize(
    ("tau_s", "one", "two"), [(1.9, ["1"], ["01"]), (2, ["0", "1"], ["00", "01"]), (2.1, ["0"], ["00"]), (3, ["0"], ["00"])]
)
def test_doubled_target_asks_for_silence_beyond_two_steps_of_synapse(script, tau_s, one, two):
    best = script("gradient_terms").best_trains
    assert [best(steps, tau_s, "double") for steps in (1, 2)] == [one, two]
    assert [best(steps, tau_s, "single") for steps in (1, 2)] == [["1"], ["01"]]


def test_overhead_is_told_apart(script, quick, capsys, monkeypatch):
    module = script("overhead")
    found = module.fixed_cost(0.0)
    assert next(iter(found)) == "whole step"
    assert all(ms > 0 for ms in found.values())
    whole, evaluating = module.evaluation(quick(epochs=1))
    assert 0 < evaluating < whole
    monkeypatch.setattr(module, "fixed_cost", lambda: {"whole step": 1.0})
    monkeypatch.setattr(module, "evaluation", lambda config: (10.0, 2.0 if config.test_every else 1.0))
    module.main("quickstart")
    assert "| after every epoch | 10.0 | 2.0 | 20.0 |" in capsys.readouterr().out


@pytest.mark.slow
def test_table_without_flags(script, tmp_path, capsys, monkeypatch):
    automatic = script("automatic")
    monkeypatch.setattr(automatic, "SEEDS", (0,))
    log, sets = tmp_path / "log.jsonl", (ROOT / "tests/samples/TimeSeries", ["JapaneseVowels"])
    automatic.table(log, *sets)
    printed = capsys.readouterr().out
    assert "| JapaneseVowels | " in printed
    automatic.table(log, *sets)
    assert capsys.readouterr().out == printed
    (line,) = map(json.loads, log.read_text().splitlines())
    first = line["final"]["test_accuracy"]
    other = {**line, "seed": 1, "final": {**line["final"], "test_accuracy": first - 10}}
    log.write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
    monkeypatch.setattr(automatic, "SEEDS", (0, 1))
    automatic.table(log, *sets)  # nothing is left to train
    assert f"| {first - 5:.1f} ({first:.1f}, {first - 10:.1f}) | " in capsys.readouterr().out
    assert len(log.read_text().splitlines()) == 2


# Streams of spoken digits


@pytest.fixture
def words(script):
    return script("streaming")


def test_an_onset_is_heard_where_the_training_samples_begin(words):
    recordings = speech.recordings(ROOT / "tests/samples")
    sound, starts = words.spoken(recordings, 0)
    assert len(starts) == len(recordings) == 25
    for one, start, next_start in zip(recordings, starts, [*starts[1:], len(sound)], strict=True):
        assert torch.equal(sound[start : start + len(one.signal)], one.signal)
        pause = (next_start - start - len(one.signal)) / speech.RATE
        assert 0.299 < pause < 0.801
    model = training.load(words.MODEL)
    found = list(words.listen(model, sound))
    assert [word.onset for word in found] == sorted({word.onset for word in found})
    heard, more = words.judged(found, recordings, starts, lambda word: torch.zeros_like(word.may_change))
    assert len(heard.seconds) == 25
    assert more <= 1
    assert sum(heard.right) >= 20, "all but the five test recordings were trained on"
    assert all(0.1 < seconds < 1.2 for seconds in heard.seconds)
    energy, samples = words.frames(sound), words.from_onset(recordings, 1)
    assert samples.x.shape == (25, words.STEPS, 40)
    assert (samples.x[:, 0].mean(1) > words.LOUD).all()
    assert (energy[[word.onset for word in found]].mean(1) > words.LOUD).all()
    quiet = words.frames(words.silence(60, torch.Generator().manual_seed(3))).mean(1)
    assert quiet.max() < words.LOUD - 0.05


def test_an_answer_is_judged_by_hand(words):
    recordings = [speech.Recording(digit, "", 0, torch.zeros(2400)) for digit in (3, 4, 5)]  # 0.3 s each
    starts = [4000, 12000, 20000]  # 0.5, 1.5 and 2.5 s
    answer, lead = torch.tensor([-1, 3, 4, 4]), torch.tensor([0.0, 1.0, 0.5, 2.0])

    def word(onset):
        return words.Word(onset, answer, lead, lead, torch.tensor([True, True, True, False]))

    found = [
        word(49),
        word(148),
        word(170),
    ]  # a frame of 40 ms begins every 10; the third is a second word in the second recording
    expected = {
        "lead of at least {:g}": (1, [True, False, False], [0.04, 0.03], [True, True]),
        "when the word is over": (0, [False, True, False], [0.06, 0.05], [True, True]),
        "cannot change any more": (0, [False, True, False], [0.06, 0.05], [True, True]),
        "the same for {:g} steps": (2, [False, True, False], [0.06, 0.05], [True, True]),
    }
    for name, (number, right, seconds, early) in expected.items():
        heard, more = words.judged(found, recordings, starts, lambda each, n=name, k=number: words.RULES[n][0](each, k))
        assert (heard.right, heard.before_end, more) == (right, early, 1), name
        assert heard.seconds == pytest.approx(seconds), name
    assert words.agreement(torch.tensor([-1, 2, 2, 3, 3, 3, -1, 3])).tolist() == [0, 1, 2, 1, 2, 3, 0, 1]
    summary = words.over_seeds([heard, words.Heard([True, True, True], [0.5], [False])])
    assert summary["accuracy"] == pytest.approx([100 / 3, 100])
    assert (summary["median"], summary["before the end"]) == pytest.approx((0.06, 200 / 3))


@pytest.mark.slow
def test_every_stepper_answers(words):
    result = words.latency(0.2)
    assert result["microseconds"].keys() == result["weights"].keys()
    assert all(found.keys() == {"1", "32"} for found in result["microseconds"].values())
    assert result["weights"]["`tsslbp.stream`, `200R-10`"] == 80 * 200 + 200 * 200 + 200 * 10
    assert words.latency_table(result).count("\n") == 2 + 5


def test_a_profile_tells_what_the_functions_of_the_kernels_do(script):
    module = script("inference_profile")
    source = "".join(path.read_text() for path in (ROOT / "src/tsslbp/kernels/csrc").glob("*.h"))
    assert all(f"{name}(" in source or f"struct {name} " in source for own in module.PARTS.values() for name in own)
    functions = [
        "tsslbp::events::Vectors<float, 64> load<64, float>(float const*)",
        "void tsslbp::events::add_units<float, 64, 3, true>(float*, float const*, long)",
        "void tsslbp::events::add_up<float>(tsslbp::events::Stage const&)",
    ]
    assert module.part_of(functions) == "products"
    assert module.part_of(functions[2:]) == "finding events and weights"
    assert module.part_of(["bool tsslbp::events::Neurons<float, 64>::go<1>(long, long) const"]) == "neurons"
    assert module.part_of(["tsslbp::infer(torch::stable::Tensor)"]) == module.KERNELS


@pytest.mark.slow
def test_what_changes_and_what_silence_gains(script, monkeypatch):
    net = tsslbp.build("20-40-10", input_shape=(8,), time_steps=5, tau_m=5, tau_s=3).eval()
    monkeypatch.setattr(tsslbp.layers.sparse, "WORK", 0)
    once, limits = script("changes").changing(net, torch.zeros(30, 8)), [getattr(tsslbp.layers.sparse, name) for name in LIMITS]
    assert once["linear2"] == 0  # nothing enters, so nothing changes
    assert script("changes").changing(net, 3 * torch.rand(30, 8))["linear2"] > 0.01
    assert limits == [getattr(tsslbp.layers.sparse, name) for name in LIMITS]
    ((name, weights, changes, *times),) = script("changes").compared(
        "small", {"first": net}, torch.rand(30, 8), torch.arange(30) % 10, 0.0
    )
    assert (name, weights) == ("small", "first")
    assert "linear2" in changes
    assert all(float(time) > 0 for time in times)
    module = script("changes")
    monkeypatch.setattr(module, "measured", lambda root: [("small", {"first": net}, 3 * torch.rand(30, 8), None)])
    head, _, linear2 = module.parts(Path(), 0.0).strip().splitlines()
    assert head.count("by changes") == head.count("dense") == 2
    assert linear2.startswith("| small | linear2 |")
    assert all(ratio > 0 for ratio in script("products").ratios(20, 30, 40, 0.0))
    module = script("silence")
    monkeypatch.setattr(module, "SECONDS", 0.0)
    config = TrainConfig(network="20-40-10", epochs=2, rate_penalty=1.0, rate_upper=0.0)
    found = module.run(config)
    assert [set(epoch["us"]) for epoch in found["epochs"]] == 2 * [{"events", "dense"}]
    chosen = max(found["epochs"], key=lambda epoch: epoch["validation_accuracy"])
    assert found["test_accuracy"] == chosen["test_accuracy"] <= found["best_test_accuracy"]
    assert module.settings("tssl", 0, 1, Path()).rate_upper == 1
    assert module.settings("tssl+", 3, 1, Path()).rate_upper == 0


@pytest.mark.slow
def test_whole_trainings_are_compared(script, monkeypatch):
    module = script("whole")
    monkeypatch.setattr(module, "EPOCHS", {"quickstart": 1})
    row = module.compared("data", Path(tsslbp.__file__).parents[1], 1).splitlines()[2]
    recipe, epochs, old, _, accuracy, new, _, same, ratio = (cell.strip() for cell in row.strip("|").split("|"))
    assert (recipe, epochs) == ("quickstart", "1")
    assert accuracy == same  # the same version twice
    assert float(old) / float(new) == pytest.approx(float(ratio), rel=0.2)


@pytest.mark.slow
def test_what_working_together_costs(script, capsys):
    script("scaling").main("quickstart")
    rows = dict(line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:] if line)
    assert 0 < float(rows["ratio"]) < 2
    assert 0 < float(rows["of it waiting for sums, ms"]) < float(rows["a step, ms"])


def test_imagenet_is_reckoned_from_steps_and_operations(script, monkeypatch):
    module = script("imagenet")
    monkeypatch.setattr(module, "NETWORK", "4C7s4n-M2-[4C3s2n-4C3n]-A14-1000b")
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "STEPS", 1)
    settings = module.config("float32")
    monkeypatch.setattr(module, "config", lambda precision: replace(settings, padding=(3, 1, 1)))
    found = module.measure("float32")
    stem, beside, pool = 4 * 3 * 49 * 56**2, 4 * 4 * (2 * 9 + 1) * 14**2, 4 * 1000
    assert found["macs"] > 0.5 * (stem + 4 * (beside + pool))  # padding and the currents of a constant input count less
    made = module.reckoned({"macs": 1e9, "step": 2.0}, 10)
    assert made["gpu_hours"] == pytest.approx(6e9 * 90 * 1_281_167 / 1e13 / 3600)
    assert made["days_here"] == pytest.approx(90 * 1_281_167 / 86400)
    assert "| 90 epochs at 10 TFLOP/s, hours |" in module.table({"float32": found}, 10)


@pytest.mark.slow
def test_few_bits_from_trained_networks(script, tmp_path, monkeypatch, capsys):
    module = script("few_bits")
    small = replace(recipes.get("quickstart"), network="12-10", padding=(0,), batch_size=100, recipe="small")
    monkeypatch.setattr(module.recipes, "RECIPES", {"small": recipes.Recipe("", small)})
    monkeypatch.setattr(module, "BUDGETS", {"small": module.Budget(2, 1)})
    monkeypatch.setattr(module, "SEEDS", (0, 2, 3))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "models").mkdir()
    run, _ = training.train(replace(small, epochs=4, runs_dir=tmp_path / "first"))
    shutil.copy(run / "model.safetensors", tmp_path / "models/small.safetensors")
    monkeypatch.setattr(module, "BITS", ("4", "float"))
    module.train(tmp_path, tmp_path / "runs", ["small"])
    module.table(tmp_path, tmp_path / "runs", ["small"], tmp_path / "out")
    printed = capsys.readouterr().out
    kept = json.loads((tmp_path / "out/few-bits.json").read_text())["results"]["small"]
    assert {name: list(seeds) for name, seeds in kept.items()} == {name: ["0", "2", "3"] for name in ("plain", "float", "4")}
    mean = sum(seed["whole"] - kept["plain"][name]["accuracy"] for name, seed in kept["4"].items()) / 3
    assert f"| `small` | 4 bits | {sum(seed['whole'] for seed in kept['4'].values()) / 3:.2f} (3) | {mean:+.2f} | " in printed
    model = training.load(tmp_path / "runs/small-3-4")
    digits = tsslbp.data.load("digits", tmp_path, validation=0).test
    assert kept["4"]["3"]["accuracy"] == pytest.approx(model.accuracy(digits))
    monkeypatch.setattr(module, "BUDGETS", {**module.BUDGETS, "another": module.Budget(2, 1)})
    module.table(tmp_path, tmp_path / "runs", ["small"], tmp_path / "a-part")
    assert "| `small` | 4 bits |" in capsys.readouterr().out
    assert not (tmp_path / "a-part").exists()
    assert abs(kept["4"]["3"]["whole"] - kept["4"]["3"]["accuracy"]) < 2


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
def test_networks_as_c_are_measured(script, tmp_path):
    module = script("to_c")
    config = TrainConfig(network="12-10", epochs=1, runs_dir=tmp_path)
    run, _ = training.train(config)
    (found,) = module.measured([f"{run}:8"], tmp_path, rounds=1)
    assert (found["weights"], found["samples"], found["differing"], found["answers"]) == ("8", 360, 0, 0)
    assert 0 < found["microseconds"] < 10000
    assert found["constants"] > 12 * 64
    assert "| 8 | " in module.table([found])


def test_the_pages_have_the_spikes_that_were_counted(script):
    module = script("exchange")
    result = json.loads((ROOT / "results/exchange/exchange.json").read_text(encoding="utf-8"))
    assert (ROOT / "results/exchange/README.md").read_text(encoding="utf-8") == module.page(result)
    assert module.table(result) in (ROOT / "docs/exchange.md").read_text(encoding="utf-8")
    assert all(
        sum(each["differ"].values()) == 0
        for found in result["models"].values()
        for each in found["comparisons"]
        if each["dtype"] == "float64" and each["simulator"] != "snnTorch"
    )
    for changed in result["models"][module.CONTROL]["controls"].values():
        assert all(sum(each["differ"].values()) > 0 for each in changed)


def test_a_graph_that_was_changed_on_purpose_is_another(script):
    pytest.importorskip("nir")
    module, nir = script("exchange"), importlib.import_module("tsslbp.exchange.nir")
    net = tsslbp.build("9R-5", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3).eval()
    whole = nir.from_nir(nir.to_nir(net))
    for control in module.CONTROLS:
        other = nir.to_nir(net)
        other.metadata = {}
        other = nir.from_nir(module.changed(other, control), time_steps=5)
        same = all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))
        assert not same or whole.neuron != other.neuron, control


def test_the_page_has_the_table_of_learned_constants(script, monkeypatch):
    constants = script("constants")
    assert constants.table() in (ROOT / "docs/learnable-constants.md").read_text(encoding="utf-8")
    runs = json.loads((constants.FOLDER / "constants.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) == len(constants.TASKS) * len(constants.VARIANTS) * len(constants.SEEDS)


def test_what_learned_constants_cost_is_measured(script, monkeypatch, tmp_path):
    constants = script("constants")
    monkeypatch.setattr(constants, "FOLDER", tmp_path)
    monkeypatch.setattr(constants, "TIMED", ("fashion-mnist-fc",))
    assert constants.clock(rounds=1).count("\n") == 2 + 1
    assert set(json.loads((tmp_path / "time.json").read_text())["milliseconds"]) == {"fashion-mnist-fc"}


def test_inference_is_compared_on_the_same_images(script, samples, monkeypatch):
    inference = script("inference")
    monkeypatch.setattr(inference.peers, "installed", dict)
    with torch.inference_mode():
        result = inference.measure(["fashion-mnist-fc"], samples, 0.0)
    case = result["cases"]["fashion-mnist-fc"]
    assert 0 < case["trained"]["fired"] < 50
    for weights in ("trained", "first"):
        for batch in ("1", "50"):
            times = case[weights]["us"][batch]
            assert {"tsslbp", "tsslbp, layer by layer", "ReLU twin, torch", "linear maps alone"} <= times.keys()
            assert min(times.values()) > 0
        assert "neurons that fire" in inference.table(result, weights)


def test_another_version_makes_the_same_spikes_and_takes_turns(script):
    net, x = tsslbp.build("20-6", input_shape=(11,), time_steps=5, tau_m=5, tau_s=3).eval(), torch.rand(4, 11)
    with torch.inference_mode():
        other = script("inference").Old(ROOT / "src", net, x)
        found = other.against(net, x, 4, 0.0)
        other.process.kill()
        other.seconds = lambda size, calls: 3.0 * calls
        slow = other.against(net, x, 4, 0.0)
    assert 0.1 < found["ratio"] < 10
    assert found["pairs"] >= 10
    assert slow["old_ms"] == 3000 > 10 * slow["tsslbp_ms"]
    assert slow["ratio"] > 10
    net.layers.linear1.neuron = LIF(5, 3, 0.1)  # of which the other version hears nothing
    with torch.inference_mode(), pytest.raises(SystemExit, match="makes other spikes of these weights"):
        script("inference").Old(ROOT / "src", net, x)


def test_inference_layer_by_layer_is_that(script):
    net = tsslbp.build("20-6", input_shape=(11,), time_steps=5, tau_m=5, tau_s=3).eval()
    x = torch.rand(2, 11)
    with torch.no_grad():
        assert tsslbp.network.infer.plan(net, x) is not None
        assert tsslbp.network.infer.plan(script("inference").layer_by_layer(net), x) is None


@pytest.mark.slow
def test_memory_does_not_grow_with_pictures_in_files(script):
    few, more = script("pictures").of_each((200, 5000)).values()
    assert more["training process"] < few["training process"] + 50
    assert more["worker"] < few["worker"] + 30


def test_the_page_has_the_measured_memory(script, tmp_path):
    pictures = script("pictures")
    found = json.loads(pictures.RESULT.read_text())["peaks"]
    assert pictures.table(found).strip() in (ROOT / "docs/how-to-own-data.md").read_text()
    pictures.draw(tmp_path, 100)
    assert len(list(tmp_path.rglob("*.jpg"))) == 100
    assert pictures.peak("self") > 2**20


def test_networks_of_a_depth_have_as_many_layers(script, monkeypatch):
    depth = script("depth")
    for layers in depth.BLOCKS:
        for residual in (True, False):
            specs = list(unpacked(parse(depth.notation(layers, residual))))
            assert sum(isinstance(spec, NeuronSpec) for spec in specs) == layers
    monkeypatch.setattr(depth, "WIDTHS", (2, 3, 4, 5))
    made = depth.norms(depth._config(10, 0))
    assert next(iter(made)) == "conv1"
    assert len(made) == 10
    assert all(norm > 0 for norm in made.values())
    assert depth.share({"a": 1.0, "b": 4.0, "c": 2.0, "output": 9.0}) == 0.5
    assert depth.spread({"a": 1.0, "b": 4.0, "c": 2.0, "output": 9.0}) == 4


def test_the_gradient_that_is_measured_is_that_of_the_loss(script, monkeypatch):
    """Against a difference of losses of a ReLU network, whose gradient is exact."""
    depth = script("depth")
    monkeypatch.setattr(depth, "WIDTHS", (2, 3, 4, 5))
    config, dataset = training.with_data(depth._config(10, 0, neuron="relu"))
    norm = depth.norms(config)["output"]
    model, _ = training.prepare(config, dataset)
    batch, net = dataset.train.select(torch.arange(50)), model.network.double().train()
    x, loss, weight = model.inputs(batch.x).double(), config.make_loss(), net.layers.output.weight
    loss(net(x), batch.y, None).backward()
    with torch.no_grad():
        step = 1e-6 * weight.grad / weight.grad.norm()
        before = loss(net(x), batch.y, None)
        weight += step
        assert float(loss(net(x), batch.y, None) - before) / 1e-6 == pytest.approx(norm, rel=1e-3)


def test_the_page_has_the_measured_gradients(script):
    depth = script("depth")
    found = json.loads(depth.RESULT.read_text())["norms"]
    assert depth.table(found).strip() in (ROOT / "docs/how-to-own-network.md").read_text()


def test_spikes_of_no_model_leave_what_is_there(script, tmp_path, monkeypatch):
    module = script("exchange")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    with pytest.raises(tsslbp.UserError, match="no model was run; give"):
        module.main(str(tmp_path))
    with pytest.raises(tsslbp.UserError, match="unknown model 'mnist-cnn'"):
        module.main(str(tmp_path), "mnist-cnn")
    assert not (tmp_path / "results").exists()


def test_few_bits_that_differ_alike_have_no_interval(script):
    one = {seed: {"accuracy": 90.0 + seed, "whole": 89.0 + seed} for seed in (0, 2)}
    module = script("few_bits")
    *_, last = module.rows("small", {"plain": one, **{bits: {} for bits in module.BITS}, "4": one})
    assert last == ["`small`", "4 bits", "90.00 (2)", "-1.00", "–"]


def test_few_bits_that_nobody_trained_leave_what_is_there(script, tmp_path, monkeypatch):
    module = script("few_bits")
    monkeypatch.setattr(module, "measure", lambda config: {"plain": {}, **{bits: {} for bits in module.BITS}})
    with pytest.raises(tsslbp.UserError, match="has no network of mnist-cnn-best with few bits; train them first"):
        module.table(tmp_path, tmp_path / "runs", ["mnist-cnn-best"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failed_training_is_told_and_finds_data_from_here(script, tmp_path, monkeypatch):
    """Each training runs in a folder of its own, where a path from here would lead to nothing."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"tsslbp: no fashion-mnist in {tmp_path}/data/FashionMNIST/raw"):
        script("whole").main("data", str(ROOT / "src"))


# Command lines


@pytest.fixture
def started(monkeypatch, tmp_path, capsys):
    """Runs a script as ``python benchmarks/NAME.py WORDS...`` in an empty folder; its exit code or usage, and its last line."""

    def start(name, *words):
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [f"benchmarks/{name}.py", *words])
        monkeypatch.setattr("tsslbp.utils.files.write_bytes", lambda *_: pytest.fail("something was written"))
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / f"benchmarks/{name}.py"), run_name="__main__")
        return end.value.code, (capsys.readouterr().err.splitlines() or [""])[-1]

    return start


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("automatic", ("tables", "LOG", ".", "X"), "unknown command 'tables'; did you mean 'table'?"),
        ("automatic", ("choose=none", "LOG", ".", "X"), "unknown command 'choose=none'"),
        ("automatic", ("table", "LOG", ".", "X"), "no X_TRAIN.txt and no X_TRAIN.ts in .; give the folder"),
        ("changes", (".",), "no fashion-mnist in"),
        ("changes", (".", "soon"), "SECONDS is soon; it must be a positive number"),
        ("eventprop_speech", (".",), "no recordings in"),
        ("exchange", (".",), "no model was run"),
        ("exchange", (".", "mnist-cnn"), "unknown model 'mnist-cnn'; did you mean 'mnist-cnn-best'?"),
        ("fallback_size", (".",), "no fashion-mnist in"),
        ("few_bits", ("tabel", ".", "runs", "mnist-cnn-best"), "unknown command 'tabel'; did you mean 'table'?"),
        ("few_bits", ("train", ".", "runs", "mnist-cnn"), "unknown recipe 'mnist-cnn'; did you mean 'mnist-cnn-best'?"),
        ("imagenet", ("0",), "TFLOPS is 0; it must be a positive number"),
        ("inference_profile", (".",), "no fashion-mnist in"),
        ("inference", ("--old", "."), "there is no tsslbp in .; give the folder src of another version"),
        ("overhead", ("mnist-cnn", "."), "no mnist in"),
        ("paper_fallback", (".",), "no mnist in"),
        ("products", ("soon",), "SECONDS is soon; it must be a positive number"),
        ("scaling", ("mnist-cnn", "."), "no mnist in"),
        ("spike_trains", ("easy", "--seeds", "0"), "--seeds is 0; it must be positive"),
        ("spike_trains", ("easy", "--rules", "tssl", "--seeds", "3"), "holds other rules with the seeds [10, 11,"),
        ("spike_trains", ("easy", "--rules", "nope", "--out", "new"), "unknown rule 'nope'"),
        ("streaming", (".",), "no recordings in"),
        ("to_c", (".", "out.json", "none"), "no model at none"),
        ("whole", (".", "."), "there is no tsslbp in ."),
        ("whole", (".", ".", "1.5"), "SEEDS is 1.5; it must be a positive whole number"),
        ("without_fallback", (".",), "no fashion-mnist in"),
    ],
)
def test_bad_input_is_one_line(name, words, message, started):
    code, line = started(name, *words)
    assert code == 2
    assert line.startswith(f"{name}.py: ")
    assert message in line


@pytest.mark.parametrize("name", sorted({path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"command"}))
def test_words_that_a_script_does_not_take_are_not_ignored(name, started):
    takes_many = name in ("automatic", "exchange", "few_bits", "to_c")
    code, _ = started(name, *["x"] * (0 if takes_many else 4))
    assert code == 2 or f"python benchmarks/{name}.py" in code


def test_memory_is_measured_with_the_settings_that_were_chosen(script, tmp_path, monkeypatch):
    comparison, bench = (tmp_path / name for name in ("compare.json", "bench.json"))
    shutil.copy(ROOT / "results/compare-tuned-quickstart/compare.json", comparison)
    shutil.copy(ROOT / "benchmarks/results/growth/amd-epyc-2026-11-30.json", bench)
    before, memory, seen = json.loads(comparison.read_text()), script("memory"), []
    monkeypatch.setattr(memory, "peak_memory", lambda config: seen.append(config) or 7)
    monkeypatch.setattr(memory.measure, "peak_memory", lambda case, who: len(who))
    memory.main("none", str(comparison), str(bench))
    after = json.loads(comparison.read_text())
    assert {rule.pop("peak_mib") for rule in after["rules"].values()} == {7}
    assert all(rule.pop("peak_mib") for rule in before["rules"].values())
    assert after == before
    assert [config.learning_rate for config in seen] == [rule["learning_rate"] for rule in before["rules"].values()]
    rows = json.loads(bench.read_text())["growth"]
    assert {(row["peak_mib"], row["blocks_peak_mib"]) for row in rows if row["axis"] == "T"} == {(6, 22)}
    monkeypatch.setattr(memory, "peak_memory", lambda config: None)
    with pytest.raises(UserError, match="the memory of tssl was not measured"):
        memory.main("none", str(comparison))
    assert json.loads(comparison.read_text())["rules"]["tssl"]["peak_mib"] == 7
