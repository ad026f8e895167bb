"""An output read from its voltage: written out, in parts, from training to answers, and refused where it must be."""

import itertools
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared import run
from sklearn.datasets import load_digits

import tsslbp
from tsslbp import UserError, cli, report, training
from tsslbp.data import Split, of_arrays
from tsslbp.exchange.check import check
from tsslbp.exchange.nir import from_nir, to_nir, write
from tsslbp.exchange.simulators import SIMULATORS, _step
from tsslbp.layers import Readout
from tsslbp.losses import SoftmaxLoss
from tsslbp.metrics import decode
from tsslbp.network.network import Network
from tsslbp.neuron import LIF
from tsslbp.report import figures
from tsslbp.study import activity, search
from tsslbp.study.ablation import variants
from tsslbp.training import automatic
from tsslbp.training.settings import TrainConfig

T = 7
SEQUENCE = {"input_shape": (6,), "time_steps": T, "tau_m": 4.0, "tau_s": 3.0}


def made(notation="12-3", readout="voltage", **more):
    torch.manual_seed(0)
    return tsslbp.build(notation, readout=readout, **{**SEQUENCE, "rule": "tssl+", **more}).double()


def rand(*shape, seed=0):
    return 3 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(tau_m=st.floats(1, 30), steps=st.integers(1, 9), bias=st.booleans(), seed=st.integers(0, 99))
def test_voltage_and_its_gradients_written_out(tau_m, steps, bias, seed):
    layer = Readout(4, 3, neuron=LIF(tau_m, 3), bias=bias).double()
    x, error = rand(steps, 2, 4, seed=seed).requires_grad_(), rand(steps, 2, 3, seed=seed + 1)
    if bias:
        layer.bias.data = rand(3, seed=seed + 2)
    v, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for step in x:
        current = step @ layer.weight.T + (layer.bias if bias else 0)
        v = (1 - 1 / tau_m) * v + current / tau_m
        expected.append(v)
    inputs = [x, *layer.parameters()]
    torch.testing.assert_close(layer(x), torch.stack(expected), rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(layer(x), inputs, error)
    torch.testing.assert_close(ours, torch.autograd.grad(torch.stack(expected), inputs, error), rtol=1e-11, atol=1e-12)


def test_the_network_before_it_is_the_same():
    reads, spikes, x = made(), made(readout="spikes"), rand(T, 5, 6)
    assert all(torch.equal(*pair) for pair in zip(reads.parameters(), spikes.parameters(), strict=True))
    ours, theirs = reads.activity(x), spikes.activity(x)
    assert torch.equal(ours["linear1"], theirs["linear1"])
    assert 0 < reads.trains(ours)["linear1"].double().mean() < 1
    assert reads.trains(ours).keys() == {"linear1"}


@pytest.mark.parametrize(("notation", "shape"), [("12-3", (6,)), ("9R-6-V2", (6,)), ("4C3-P2-[4C3]-3b", (2, 4, 4))])
def test_parts_and_blocks_are_the_whole(notation, shape):
    more = {"padding": 1} if len(shape) == 3 else {}
    net, x, label = made(notation, input_shape=shape, **more), rand(T, 5, *shape), torch.tensor([0, 1, 2, 0, 1])
    whole = net(x)
    first, state = net.part(x[:3])
    rest, _ = net.part(x[3:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(SoftmaxLoss()(whole, label), list(net.parameters()))
    assert all(bool(gradient.any()) for gradient in gradients)
    net.time_block = 3
    in_blocks = torch.autograd.grad(SoftmaxLoss()(net(x), label), list(net.parameters()))
    torch.testing.assert_close(in_blocks, gradients, rtol=1e-10, atol=1e-12)


def test_an_output_of_ones_own_is_read_as_the_settings_say():
    net, x = made(), rand(T, 3, 6)
    with torch.no_grad():
        wanted = net.evidence(net(x))
        net.layers.output = torch.nn.Sequential(net.layers.output)
        torch.testing.assert_close(net.evidence(net(x)), wanted)


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_stream_answers_as_the_whole_sequence(exchanged):
    net, x = made(readout="spikes" if exchanged else "voltage").eval(), rand(T, 50, 6) - 1.5
    net.layers.output = made().layers.output
    stream = tsslbp.stream(net, streams=50)
    steps = [stream(step) for step in x]
    with torch.no_grad():
        voltage = net(x)
    torch.testing.assert_close(steps[-1].total, voltage.sum(0))
    for t, step in enumerate(steps):
        assert torch.equal(step.answer, voltage[: t + 1].sum(0).argmax(-1))
        assert step.layers.keys() == {"linear1"}
        assert step.may_change.unique().tolist() == [t < T - 1]
    torch.testing.assert_close(steps[-1].confidence, net.evidence(voltage)[0].amax(-1))
    assert net.trains(net.activity(x)).keys() == {"linear1"}
    assert to_nir(net).metadata["decode"] == to_nir(made()).metadata["decode"]
    with pytest.raises(UserError, match="does not spike"):
        _ = steps[-1].spikes


def test_evidence_is_probabilities_of_the_largest_sum():
    net, x = made().eval(), rand(T, 50, 6) - 1.5
    with torch.no_grad():
        voltage = net(x)
        evidence = net.evidence(voltage)
    assert evidence.shape == (1, 50, 3)
    torch.testing.assert_close(evidence.sum(-1), torch.ones(1, 50, dtype=torch.float64))
    assert torch.equal(decode(evidence), voltage.sum(0).argmax(-1))
    assert len(decode(evidence).unique()) > 1


def test_only_the_membrane_constant_can_be_learned_there():
    net = made(learn=("tau_m", "tau_s", "threshold"), per_neuron=("tau_m", "threshold"), spread=0.5)
    assert {name for name in net.constants() if "output" in name} == {"layers.output.tau_m"}
    assert net.layers.output.tau_m.unique().numel() == 3
    SoftmaxLoss()(net(rand(T, 5, 6)), torch.tensor([0, 1, 2, 0, 1])).backward()
    assert all(bool(weight.grad.any()) for weight in net.parameters())
    assert not made(learn=("threshold",)).layers.output.neuron.varies


def test_what_follows_a_sequence_counts_for_nothing():
    x, lengths, y = rand(20, T, 6).float(), torch.arange(20) % 4 + 3, torch.arange(20) % 3
    dataset = of_arrays(x, y, x, y, lengths=lengths, lengths_test=lengths, validation=3)
    config = TrainConfig(network="12-3", readout="voltage", time_steps=T)
    model, _ = training.prepare(training.resolved(config, dataset), dataset)
    answers = model.outputs(x, lengths)[0]
    voltage = model.network(model.inputs(x, 0, lengths)).detach()
    sums = torch.stack([voltage[:steps, i].sum(0) for i, steps in enumerate(lengths)])
    torch.testing.assert_close(answers, sums.softmax(-1))
    right = (answers.argmax(-1) == y).double()
    assert torch.equal(model.scores(Split(x, y, lengths)), right)
    assert 0 < right.mean() < 1


@pytest.mark.parametrize("readout", ["spikes", "voltage"])
def test_the_training_accuracy_ends_with_the_sequences(readout, tmp_path, monkeypatch):
    x, lengths, y = rand(20, 2 * T, 6).float(), torch.arange(20) % 9 + 5, torch.arange(20) % 3
    dataset = of_arrays(x, y, x, y, lengths=lengths, lengths_test=lengths, validation=3)
    seen, evidence = [], Network.evidence

    def noted(self, output, lengths=None):
        seen.append((len(output), lengths))
        return evidence(self, output, lengths)

    monkeypatch.setattr(Network, "evidence", noted)
    config = TrainConfig(network="12-3", readout=readout, bin=2, epochs=1, batch_size=20, runs_dir=tmp_path)
    training.train(config, dataset=dataset)
    steps, in_bins = seen[0]
    assert steps == T
    assert in_bins.tolist() != dataset.train.lengths.tolist()
    assert sorted(in_bins.tolist()) == sorted(((dataset.train.lengths + 1) // 2).tolist())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    command = ["train", "--data", "digits", "--network", "30-10", "--readout", "voltage", "--rule", "eventprop(clip=8)"]
    assert cli.main([*command, "--epochs", "6", "--learning-rate", "5e-3", "--runs-dir", str(runs), "--name", "run"]) == 0
    return runs / "run"


def test_a_run_from_training_to_answers(trained, capsys):
    last, final = training.read_metrics(trained)
    assert last[-1]["rates"].keys() == {"linear1"}
    assert final["test_accuracy"] > 80
    code, said, _ = run(capsys, "evaluate", str(trained))
    assert code == 0
    assert f"test accuracy {final['test_accuracy']:.2f} %" in said
    model = tsslbp.load(trained)
    assert "read from the output's voltage" in model.network.describe()
    evidence = model.outputs(training.dataset_of(model, Path()).test.x)
    torch.testing.assert_close(evidence.sum(-1), torch.ones(1, evidence.shape[1]))


def test_a_report_has_probabilities_and_no_currents(trained):
    text = report.write(trained).read_text()
    assert "% is its probability" in text.replace("&nbsp;", " ").replace("\u00a0", " ")
    assert "(top) to the last that spikes (bottom)" in text
    assert "output's current" not in text


def test_operations_leave_the_output_out(trained):
    model = tsslbp.load(trained)
    test = training.dataset_of(model, Path()).test
    counts = activity.spike_counts(model.network, model.inputs(test.x[:9], 0))
    assert counts.keys() == {"linear1"}
    measured = activity.measure(model, test)
    assert 0 < measured.spikes < model.network.time_steps


def test_a_voltage_alone(tmp_path, capsys):
    words = ["train", "--data", "digits", "--network", "10", "--readout", "voltage", "--runs-dir", str(tmp_path), "--name", "v"]
    assert run(capsys, *words, "--epochs", "1")[0] == 0
    assert run(capsys, *words, "--epochs", "1", "--resume")[0] == 0
    assert run(capsys, "report", str(tmp_path / "v"))[0] == 0
    np.savez(tmp_path / "x.npz", x=load_digits().images[:3, None].astype(np.uint8))
    code, out, _ = run(capsys, "predict", str(tmp_path / "v"), str(tmp_path / "x.npz"))
    assert code == 0
    assert "unchanged from" not in out  # there is one answer, after the last step


@pytest.mark.painted
def test_drawn_neurons_of_hidden_layers_are_no_classes():
    spikes = np.arange(24).reshape(6, 4) % 3 == 0
    drawn = {name: figures.raster("r", {name: spikes}, ("cat", "dog", "emu", "fox"), 1, 2) for name in ("linear1", "output")}
    assert [">true  dog<" in svg or "true  dog" in svg for svg in drawn.values()] == [False, True]
    assert all("time step" in svg for svg in drawn.values())


@pytest.mark.parametrize("study", ["firing", "energy", "robustness --seeds 1"])
def test_studies_take_it(trained, tmp_path, study):
    name, *more = study.split()
    assert cli.main(["study", name, str(trained), "--out", str(tmp_path), *more]) == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate RUN --early-exit", "early exit needs an output that spikes"),
        ("study latency RUN --out OUT", "early exit needs an output that spikes"),
        ("study dynamics --data digits --network 9-10 --readout voltage --out OUT", "--readout must be spikes"),
        ("export RUN OUT/c --format c", "no spikes to send; train it with --neuron spiking --readout spikes"),
        ("train --data digits --network 9-10 --readout voltage --loss count", "with --readout voltage take --loss softmax"),
        (
            "train --data digits --network 9-10 --readout voltage --neuron relu",
            "--readout has no effect without",
        ),
        ("train --data digits --network 10 --readout voltage --learn threshold", "has no tau_s or threshold to learn"),
        ("train --data digits --network 9-10 --readout voltage --tau-m inf", "tau_m is infinite; it must be finite"),
        ("train spike-pattern --readout voltage --loss softmax", "--readout voltage makes no spikes; the targets of"),
    ],
)
def test_refused_in_one_line(trained, tmp_path, capsys, command, said):
    words = [word.replace("RUN", str(trained)).replace("OUT", str(tmp_path)) for word in command.split()]
    words += ["--runs-dir", str(tmp_path)] if words[0] == "train" else []
    code, _, error = run(capsys, *words)
    assert code == 2
    assert said in " ".join(error.split())
    assert not list(tmp_path.iterdir())


def test_refused_in_python():
    with pytest.raises(UserError, match="a network of relu units has no spikes and no voltages"):
        made(neuron="relu")
    with pytest.raises(UserError, match="unknown readout 'potential'"):
        made(readout="potential")


def test_data_without_a_recipe_get_a_loss_that_fits():
    dataset = of_arrays(rand(40, 6).float(), torch.arange(40) % 2)
    assert automatic.choose(dataset, {"readout": "voltage"})["loss"] == "softmax"


def test_no_variant_of_an_ablation_has_a_loss_that_does_not_fit():
    config = TrainConfig(network="9-10", readout="voltage", loss="softmax")
    assert variants(config, ["loss", "target", "desired"], False) == {}
    assert variants(config, ["terms"], False)


def test_trials_read_voltages_of_the_rules_that_the_field_trains_so(quick):
    config, dataset = training.with_data(quick(validation=100))
    offered = {}

    class Trial:
        def suggest_float(self, name, low, high, log):
            return low

        def suggest_categorical(self, name, choices):
            offered[name] = choices
            return choices[-1]

    def drawn(rule, **more):
        return search.drawn(Trial(), TrainConfig(**{**vars(config), "rule": rule, **more}), dataset)

    for rule in ("eventprop(clip=8)", "e-prop", "superspike", "surrogate"):
        settings = drawn(rule)
        assert (settings["readout"], settings["loss"]) == ("voltage", "softmax")
        assert drawn(rule, readout="voltage", loss="softmax")["loss"] == "softmax"
    for rule, more in (
        *((rule, {}) for rule in ("tssl", "tssl+", "stbp", "slayer")),
        ("e-prop", {"learn": ("threshold",), "init": Path("run")}),  # a voltage has no threshold to start from
        ("e-prop", {"learn": ("threshold",), "network": "10"}),  # nor one to learn
    ):
        assert "readout" not in drawn(rule, **more)
        assert "voltage" not in offered["loss"]
    assert {"hidden_scale", "output_scale"} <= drawn("eventprop(clip=8)").keys()
    assert not {"hidden_scale", "output_scale"} & drawn("eventprop(clip=8)", init=Path("run")).keys()  # trained weights


def by_euler(graph, x):
    """What leaves the output of a graph of ours, by NIR's equations: ``[T, B, ...]`` to ``[T, B, classes]``."""
    nodes = {name: _step(node, x.dtype) for name, node in graph.nodes.items()}
    after, made = dict(graph.edges), []
    for step in x:
        here = "input"
        while here != "output":
            here = after[here]
            step = nodes[here](step)
        made.append(step)
    return torch.stack(made)


@pytest.mark.parametrize(
    ("notation", "more"),
    [
        ("12-3", {}),
        ("12b-3b", {}),
        ("12-3b", {"tau_s": 1.0}),
        ("12-3", {"learn": ("tau_m",), "per_neuron": ("tau_m", "threshold"), "spread": 0.3}),
        ("3C3-P2-3b", {"input_shape": (2, 6, 6)}),
        ("3", {}),
    ],
)
def test_a_nir_graph_has_its_voltages(notation, more, tmp_path):
    net = made(notation, **more).float().eval()
    with torch.no_grad():
        for _, weight in net.named_parameters():
            weight += 0.3 * torch.rand(weight.shape)
    x = rand(T, 5, *net.architecture.input_shape).float() - 1
    graph = to_nir(net)
    with torch.no_grad():
        voltage = net(x)
        torch.testing.assert_close(by_euler(graph, x), voltage, rtol=1e-4, atol=1e-5)
    write(graph, tmp_path / "a.nir")
    again = from_nir(tmp_path / "a.nir")
    assert again.architecture == net.architecture
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), net.parameters(), strict=True))
    graph.metadata.clear()
    stranger = from_nir(graph, time_steps=T)
    for other in (again, stranger):
        with torch.no_grad():
            torch.testing.assert_close(other(x), voltage, rtol=1e-4, atol=1e-5)
    checked = check(net, to_nir(net), x, {"NIR's equations": SIMULATORS["NIR's equations"]})
    assert all(each.total == 0 and not each.refused for each in checked.comparisons)
    assert checked.comparisons[0].of.keys() == net.trains(net.activity(x)).keys()


def test_a_leaky_integrator_of_another_program():
    weight, out = rand(4, 6).numpy(), rand(3, 4, seed=1).numpy()
    four, three = np.ones(4), np.ones(3)
    nodes = {
        "input": nir.Input(np.array([6])),
        "a": nir.Linear(weight),
        "b": nir.LIF(tau=4e-4 * four, r=2 * four, v_leak=0 * four, v_threshold=8 * four, v_reset=0 * four),
        "c": nir.Affine(out, 0.1 * three),
        "d": nir.LI(tau=np.array([2e-4, 3e-4, 5e-4]), r=0.7 * three, v_leak=0.2 * three),
        "output": nir.Output(np.array([3])),
    }
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)))
    x = rand(T, 5, 6).float()
    net = from_nir(graph, time_steps=T)
    with torch.no_grad():
        torch.testing.assert_close(net(x), by_euler(graph, x.double()).float(), rtol=1e-4, atol=1e-5)
    assert 0 < net.trains(net.activity(x))["linear1"].double().mean() < 1
    middle = {**nodes, "b": nir.LI(tau=4e-4 * four, r=four, v_leak=0 * four)}
    with pytest.raises(UserError, match="does not spike, which only the last neurons may do without"):
        from_nir(nir.NIRGraph(middle, list(itertools.pairwise(nodes))), time_steps=T)
    with pytest.raises(UserError, match="export with --bias leak"):
        to_nir(made("12-3b"), bias="onset")


def test_a_part_may_be_changed_in_place():
    net, x = made(), rand(T, 2, 6)
    parts = []
    for change in (False, True):
        first, state = net.part(x[:3])
        if change:
            first.zero_()
        parts.append(net.part(x[3:], state)[0])
    assert torch.equal(*parts)
