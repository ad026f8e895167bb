"""ONNX graphs: what they compute in onnxruntime, what they say of themselves, and what is refused."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from graphs import lively

import tsslbp
from tsslbp import UserError, cli, training
from tsslbp.data import Normalisation, Split
from tsslbp.data.filters import Filters
from tsslbp.exchange import c, compiled
from tsslbp.exchange.onnx import OPSET, check, described, to_onnx, write
from tsslbp.exchange.program import Program
from tsslbp.training.inputs import Inputs
from tsslbp.training.model import as_model

needs_onnx = pytest.mark.usefixtures("packages")
STEPS = 4
MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture
def packages():
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason="ONNX files need the extra onnx")


def model_of(notation, shape, **settings):
    """A model of a network whose neurons spike, and samples for it."""
    settings = {"time_steps": STEPS, "tau_m": 5, "tau_s": 3, "threshold": 0.3, **settings}
    net = tsslbp.build(notation, input_shape=shape, **settings)
    for _ in range(20):
        net(torch.randn(9, *shape))  # running statistics
    return as_model(lively(net))


def of_series(delta=0.0, network="6R-4", **settings):
    """A model of sequences of 7 stored steps, in bins of 2, whose changes may be spikes."""
    inputs = Inputs("constant", Normalisation(2.0, (0.1,), (0.5,)), STEPS, True, bin=2, stored_steps=7, delta=delta)
    return replace(model_of(network, (6 if delta else 3,), **{"threshold": 0.1, **settings}), inputs=inputs)


def of_filters(channels, steps=40, bin=1):
    """A model behind the filters of series."""
    inputs = Inputs("constant", Normalisation(2.0, (0.1,), (0.5,)), -(-steps // bin), True, bin=bin, stored_steps=steps)
    series = torch.randn(30, steps, channels).cumsum(1)
    filters = Filters.fitted(inputs.series(series), None, 400)
    model = model_of("8-V2" if channels == 1 else "6-4", (filters.size,))
    return replace(model, inputs=replace(inputs, time_steps=STEPS, filters=filters))


def samples_for(model, count=5):
    x = torch.randn(count, *model.sample_shape)
    lengths = None
    if model.inputs.sequence:
        lengths = (torch.tensor([7, 1, 4, 5, 7])[:count] * model.inputs.raw_steps // 7).clamp(min=1)
    return Split(x, torch.zeros(count, dtype=torch.int64), lengths)


def twice(model):
    """The model, two equal layers of which are one: those before the output, or the last two of its block."""
    layers = model.network.layers
    inside = getattr(layers, "block1", layers)
    first, second = [name for name, _ in inside.named_children() if name.startswith("linear")][-2:]
    setattr(inside, first, getattr(inside, second))
    return model


CASES = {
    "fully connected": lambda: model_of("8-4", (5,)),
    "average pooling, normalised, votes": lambda: model_of("4C3n-A2-6n-V2", (1, 9, 9)),
    "residual, max pooling": lambda: model_of("4C3b-[4C3-4C3]-M2-5", (1, 9, 9), padding=1),
    "strides, groups and dilation": lambda: model_of("4C3s2-6C3g2-4C3d2b-P2-7", (2, 20, 19), padding=(1, 0, 1)),
    "residual, strided, votes": lambda: model_of("P2-[4C3s2n-4C3n]-[9-9b]-10-V2", (2, 18, 18), padding=1),
    "sequences": lambda: of_series(delta=0.4, network="6Ab-[7-7]-4", rule="surrogate"),
    "relu on sequences": lambda: of_series(network="6-4", neuron="relu"),
    "binary": lambda: model_of("6C3-M2-4", (1, 9, 9), neuron="binary"),
    "no synapse, no leak": lambda: model_of("9-4", (5,), tau_s=1, tau_m=math.inf),
    "one axis": lambda: model_of("4C3-P2-3C3-M2-5", (2, 30)),
    "adaptive thresholds": lambda: model_of("6A-4R-3", (5,), rule="surrogate"),
    "few bits": lambda: model_of("6-4", (5,), bits="4"),
    "constants by neuron": lambda: model_of("6-4", (5,), learn=("tau_m",), per_neuron=("tau_m",), spread=0.2),
    "no reset": lambda: model_of("6-4", (5,), reset=False),
    "voltages of sequences": lambda: of_series(network="6R-4", readout="voltage"),
    "voltages": lambda: model_of("6-4", (5,), readout="voltage"),
    "relu": lambda: model_of("6-4", (5,), neuron="relu"),
    "a layer twice": lambda: twice(model_of("8-8-8-4", (5,))),
    "the last of a block twice": lambda: twice(model_of("8-[8-8-8]-4", (5,))),
    "bins and changes": lambda: of_series(delta=0.4),
    "bins": lambda: of_series(),
    "filters": lambda: of_filters(channels=3),
    "filters of many channels, binned": lambda: of_filters(channels=11, steps=200, bin=8),
    "filters of very short series": lambda: of_filters(channels=1, steps=1),
    "latency": lambda: replace(
        model_of("6-4", (5,)), inputs=Inputs("latency", Normalisation(1.0, (0.0,), (1.0,)), STEPS, sequence=False)
    ),
}


@needs_onnx
@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_computes_what_the_model_does(name):
    model = CASES[name]()
    samples = samples_for(model) if name != "latency" else Split(torch.rand(5, 5), torch.zeros(5))
    assert model.outputs(samples.x, samples.lengths).any()
    proto = to_onnx(model)
    for count in (0, 1, 5):  # the graph takes any number of samples
        part = samples.select(torch.arange(count))
        (line,) = check(proto, model, part)
        steps, _, classes = model.outputs(part.x, part.lengths).shape
        ends = None if steps == 1 else model.inputs.steps(part.lengths)
        numbers = (steps * count if ends is None else int(ends.sum())) * classes
        assert f": 0 of {numbers} output currents and 0 of {count} answers differ" in line


@needs_onnx
@pytest.mark.parametrize("name", ["fashion-mnist-fc-best", "mnist-cnn-best", "spoken-digits", "cifar10-small"])
def test_onnxruntime_computes_the_shipped_models(name, samples):
    model = tsslbp.load(MODELS / f"{name}.safetensors")
    test = training.samples_to_test(model, None, samples).split
    few = test.select(torch.arange(min(20, len(test))))
    (line,) = check(to_onnx(model), model, few)
    wrong, answers = map(int, re.search(r": ([\d,]+) of .* and (\d+) of \d+ answers", line.replace(",", "")).groups())
    assert wrong <= 0.01 * model.outputs(few.x, few.lengths).numel(), "a rounding of floats, at most"
    assert answers <= 1


@needs_onnx
def test_a_graph_says_what_it_is_and_nothing_of_the_machine(tmp_path):
    import onnx

    model = replace(CASES["bins and changes"](), data="net.csv")
    proto = to_onnx(replace(model, data="/home/ann/clinic/net.csv"))
    write(proto, tmp_path / "net.onnx")
    proto = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    told = {entry.key: entry.value for entry in proto.metadata_props}
    assert (told["classes"], told["time_steps"]) == ("0\n1\n2\n3", "4")
    assert json.loads(told["tsslbp"]) == json.loads(json.dumps(model.about()))
    assert described(proto).endswith("opset 18, samples [N, 7, 3], lengths [N], output [4, N, 4], answer [N]")
    content = proto.SerializeToString()
    assert b"site-packages" not in content
    assert b".py" not in content
    assert b"clinic" not in content


@needs_onnx
def test_a_fault_in_a_graph_is_seen():
    import onnx

    model = CASES["fully connected"]()
    proto = to_onnx(model)
    weight = next(x for x in proto.graph.initializer if list(x.dims) in ([8, 5], [5, 8]))
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(-values, weight.name))
    (line,) = check(proto, model, samples_for(model))
    assert ": 0 of" not in line


@needs_onnx
def test_onnxruntime_that_refuses_is_told_in_a_line():
    model = CASES["fully connected"]()
    proto = to_onnx(model)
    proto.graph.node[0].op_type = "NoSuchThing"
    with pytest.raises(UserError, match=r"onnxruntime does not run it \(InvalidGraph"):
        list(check(proto, model, samples_for(model)))


@needs_onnx
def test_random_spikes_are_refused():
    model = model_of("8-4", (5,))
    with pytest.raises(UserError, match="random spikes"):
        to_onnx(replace(model, inputs=Inputs("poisson", Normalisation(1.0, (0.0,), (1.0,)), STEPS, False)))


@needs_onnx
def test_a_graph_does_not_grow_with_its_steps():
    short, long = (to_onnx(model_of("8R-6-4", (5,), time_steps=steps)) for steps in (4, 1000))
    assert len(short.graph.node) == len(long.graph.node)
    assert long.ByteSize() < short.ByteSize() + 5000  # the response to a constant current has a number for each step
    model = model_of("8R-6-4", (5,), time_steps=1000)
    (line,) = check(to_onnx(model), model, samples_for(model))
    assert ": 0 of 20,000 output currents and 0 of 5 answers differ" in line


def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    model = CASES["fully connected"]()
    model.save(tmp_path / "model.safetensors")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["export", str(tmp_path / "model.safetensors"), str(tmp_path / "net.onnx")]) == 2
    assert "need the package onnx: pip install 'tsslbp[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "net.onnx").exists()


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    class Proto:
        def SerializeToString(self):  # noqa: N802 (protobuf's name)
            return b"whole"

    with pytest.raises(UserError, match="cannot write"):
        write(Proto(), tmp_path / "nowhere/net.onnx")
    (tmp_path / "net.onnx").write_bytes(b"before")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        write(Proto(), tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_bytes() == b"before"
    monkeypatch.undo()
    write(Proto(), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"whole"


@needs_onnx
def test_ties_of_votes_go_to_the_first_class_in_every_program(tmp_path):
    """Thirds of votes add up differently in another order, and more than one sample in a hundred has a tie.

    All weights and inputs are sixteenths and nothing leaks, so every processor computes the same spikes.
    """
    import onnxruntime

    steps, count = 20, 400
    net = tsslbp.build("30-24-V3", input_shape=(8,), time_steps=steps, tau_m=1, tau_s=1).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_((32 * weight).round() / 16)
    x = torch.randint(0, 16, (count, steps, 8)) / 16
    model = replace(as_model(net), inputs=Inputs("constant", Normalisation(1.0, (0.0,), (1.0,)), steps, True))
    votes = net.trains(net.activity(x.transpose(0, 1)))["output"].sum(0).unflatten(1, (8, 3)).sum(2)
    first, second = votes.sort(1).values[:, -1], votes.sort(1).values[:, -2]
    assert int((first == second).sum()) > count / 100
    wanted, stream = torch.where(first > 0, votes.argmax(1), tsslbp.metrics.NO_ANSWER), tsslbp.stream(net, count)
    session, samples = onnxruntime.InferenceSession(to_onnx(model).SerializeToString()), Split(x, torch.zeros(count).long())
    given = {"samples": x.numpy(), "lengths": torch.full((count,), steps).numpy()}
    answers = {
        "decode": model.answers(samples),
        "early exit": model.decide(x)[0],
        "stream": [stream(step) for step in x.transpose(0, 1)][-1].answer,
        "onnxruntime": torch.from_numpy(session.run(["answer"], given)[0]),
    }
    for name, found in answers.items():
        assert torch.equal(found, wanted), name
    program = Program.of(model)
    c.write(program, tmp_path / "c")
    assert f"and 0 of {count} answers differ" in next(compiled.check(tmp_path / "c", program, samples))
