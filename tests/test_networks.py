"""Networks: the paper's six, the notation and its errors, activity, what is saved and read back."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from shared import fails

import tsslbp
from tsslbp import TSSL, Surrogate, UserError
from tsslbp.layers import Adaptation, Conv2d, Dropout, Linear, MaxPool2d, Recurrent, Spiking, SumPool2d
from tsslbp.network.architecture import PAPER, Architecture
from tsslbp.network.network import Network, build
from tsslbp.network.notation import classes
from tsslbp.neuron import LIF
from tsslbp.rules import TSSLPaper

SETTINGS = {"input_shape": (2, 9, 8), "time_steps": 4, "tau_m": 5.0, "tau_s": 3.0}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rand(*shape, seed=0):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PAPER_SHAPES = {
    "mnist-cnn": [(15, 1, 5, 5), (40, 15, 5, 5), (300, 640), (10, 300)],
    "nmnist-cnn": [(12, 2, 5, 5), (64, 12, 5, 5), (10, 2304)],
    "fashion-mnist-fc": [(400, 784), (400, 400), (10, 400)],
    "fashion-mnist-cnn": [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)],
    "cifar10-cnn1": [
        (96, 3, 3, 3),
        (256, 96, 3, 3),
        (384, 256, 3, 3),
        (384, 384, 3, 3),
        (256, 384, 3, 3),
        (1024, 16384),
        (1024, 1024),
        (10, 1024),
    ],
    "cifar10-cnn2": [
        (128, 3, 3, 3),
        (256, 128, 3, 3),
        (512, 256, 3, 3),
        (1024, 512, 3, 3),
        (512, 1024, 3, 3),
        (1024, 32768),
        (512, 1024),
        (10, 512),
    ],
}
PAPER_CONSTANTS = {  # input shape, T, and τm and τs of October 2020 and of December 2020
    "mnist-cnn": ((1, 28, 28), 5, (5, 2), (5, 3)),
    "nmnist-cnn": ((2, 34, 34), 30, (8, 4), (8, 4)),
    "fashion-mnist-fc": ((1, 28, 28), 5, (5, 2), (5, 3)),
    "fashion-mnist-cnn": ((1, 28, 28), 5, (4, 2), (5, 3)),
    "cifar10-cnn1": ((3, 32, 32), 5, (5, 2), (5, 3)),
    "cifar10-cnn2": ((3, 32, 32), 5, (5, 2), (5, 3)),
}


def test_the_papers_six_networks():
    assert PAPER.keys() == {*PAPER_SHAPES, *(f"{name}-head" for name in PAPER_SHAPES)}


@pytest.mark.parametrize("name", PAPER_SHAPES)
@pytest.mark.parametrize("head", [False, True], ids=["october", "december"])
def test_paper_network(name, head):
    with torch.device("meta"):
        net = build(f"{name}-head" if head else name)
    assert [tuple(p.shape) for p in net.parameters()] == PAPER_SHAPES[name]
    a = net.architecture
    assert (a.input_shape, a.time_steps) == PAPER_CONSTANTS[name][:2]
    assert (a.tau_m, a.tau_s) == PAPER_CONSTANTS[name][3 if head else 2]
    assert (a.threshold, rule_of(net), a.conv_init) == (1, TSSL(), "uniform") if head else (1, TSSLPaper(), "kaiming")
    for batch in ((3, *a.input_shape), (a.time_steps, 3, *a.input_shape)):
        assert net(torch.empty(batch, device="meta")).shape == (a.time_steps, 3, 10)


def rule_of(net):
    (rule,) = {layer.rule for layer in net.modules() if isinstance(layer, Linear | Conv2d)}
    return rule


@pytest.mark.parametrize("name", ["cifar10-cnn1", "cifar10-cnn2"])
@pytest.mark.parametrize(("head", "scale"), [("", 1.0), ("-head", 5.0)])
def test_cifar_settings(name, head, scale):
    with torch.device("meta"):
        net = build(f"{name}{head}")
    assert (net.architecture.padding, net.architecture.conv_scale) == ((1,), scale)
    assert [layer.p for layer in net.modules() if isinstance(layer, Dropout)] == [0.2] * 7
    assert not isinstance(next(net.layers.children()), Dropout)


def test_paper_settings_are_defaults_that_can_be_changed():
    net = build("fashion-mnist-fc", time_steps=7, rule="surrogate", threshold=0.5)
    assert (net.time_steps, rule_of(net), net.neuron.threshold, net.neuron.tau_m) == (7, Surrogate(), 0.5, 5)
    assert net(rand(2, 1, 28, 28)).shape == (7, 2, 10)


# The notation.


def test_notation_in_order():
    net = build("4C3-P2-5C2-7-3", dropout=0.1, padding=(1, 0), **SETTINGS)
    assert [name for name, _ in net.layers.named_children()] == [
        "conv1",
        "pool1",
        "dropout1",
        "conv2",
        "flatten",
        "dropout2",
        "linear3",
        "dropout3",
        "output",
    ]
    # 9×8, padded 3×3: 9×8; pooled 4×4; 2×2 convolution: 3×3.
    assert [tuple(p.shape) for p in net.parameters()] == [(4, 2, 3, 3), (5, 4, 2, 2), (7, 45), (3, 7)]
    assert [layer.padding for layer in net.modules() if isinstance(layer, Conv2d)] == [1, 0]
    assert net(rand(2, 2, 9, 8)).shape == (4, 2, 3)


@pytest.mark.parametrize("notation", ["3", "7-3", "P3-3", "4C3-3", "P2-4C3-3", "4C3-5C3-P3-3", "12C9-3"])
def test_output_shape(notation):
    net = build(notation, padding=1, **SETTINGS)
    for shape in ((2, 2, 9, 8), (4, 2, 2, 9, 8), (0, 2, 9, 8)):
        assert net(rand(*shape)).shape == (4, shape[-4], 3)


@pytest.mark.parametrize("neuron", ["spiking", "relu"])
def test_neurons_that_vote(neuron):
    torch.manual_seed(0)
    net, x = build("4C3-P2-12-V4", threshold=0.3, neuron=neuron, **SETTINGS), rand(2, 2, 9, 8)
    *_, output = net.activity(x).values()
    assert output.shape[2] == 12
    output = output.unflatten(2, (3, 4)).mean(3)
    assert output.abs().max() > 0
    torch.testing.assert_close(net(x), output)


def test_classes_of_a_notation():
    notations = {"4C3-P2-12-V4": 3, "12": 12, "12R-10": 10, "12-V1": 12}
    assert {notation: classes(notation) for notation in notations} == notations
    for notation in ("12-3C3", "12R", "V4", ""):
        with pytest.raises(UserError, match="must end with the number"):
            classes(notation)


def test_standardised_weights_fold_into_plain_ones():
    net = build("4C3-P2-20-10-V5", **SETTINGS, conv_scale=3.0, standardise=True)
    assert [name for name in net.state_dict() if name.endswith("gain")] == ["layers.conv1.gain", "layers.linear2.gain"]
    for layer in (net.layers.conv1, net.layers.linear2):
        layer.gain.data.uniform_(0.5, 3)
    x = rand(3, 2, 9, 8)
    output = net(x)
    assert output.count_nonzero() > 0
    net.fold()
    assert torch.equal(net(x), output)
    same = Network(net.architecture)
    same.load_state_dict(net.state_dict())
    assert torch.equal(same(x), output)


def test_a_vote_in_bfloat16_is_of_single_precision_currents():
    torch.manual_seed(0)
    net, x = build("12-V4", threshold=0.3, **SETTINGS), rand(2, 2, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        output = net(x)
    assert output.dtype == torch.float32
    assert output.unique().numel() > 2


def test_settings_reach_every_layer():
    net = build("4C3-P3-7-3", rule=TSSL(leak=False), threshold=0.7, **SETTINGS)
    layers = [layer for layer in net.modules() if isinstance(layer, Linear | Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        assert (layer.neuron.tau_m, layer.neuron.tau_s, layer.neuron.threshold) == (5, 3, 0.7)
        assert layer.rule == TSSL(leak=False)
    assert [layer.pool.size for layer in net.modules() if isinstance(layer, SumPool2d)] == [3]


@pytest.mark.parametrize(
    ("name", "own"),
    [("rule", "rule"), ("backend", "backend"), ("threshold", "neuron"), ("sparse", "by_changes"), ("dropout", "p")],
)
def test_what_only_layers_have_is_not_set_on_the_network(name, own):
    net = tsslbp.build("5-4", input_shape=(3,), time_steps=2, tau_m=5, tau_s=3)
    with pytest.raises(UserError, match=f"a network has no {name} of its own; set layer.{own} of each layer"):
        setattr(net, name, "slayer")


def test_conv_scale_scales_convolutions_only():
    torch.manual_seed(0)
    plain = [p.clone() for p in build("4C3-7-3", **SETTINGS).parameters()]
    torch.manual_seed(0)
    scaled = list(build("4C3-7-3", conv_scale=5.0, **SETTINGS).parameters())
    assert torch.equal(scaled[0], 5 * plain[0])
    assert torch.equal(scaled[1], plain[1])


def test_the_same_seed_gives_the_same_network_and_result():
    def make():
        torch.manual_seed(5)
        net = build("4C3-P2-7-3", dropout=0.3, threshold=0.3, **SETTINGS)
        output = net(rand(5, 2, 9, 8))
        output.square().sum().backward()
        return output, *[p.grad for p in net.parameters()]

    for first, second in zip(make(), make(), strict=True):
        assert first.abs().max() > 0
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("notation", "message"),
    [
        ("4c3-10", r"layer 1 \('4c3'\) of '4c3-10' is not a layer; write 15C5"),
        ("4C-10", r"layer 1 \('4C'\)"),
        ("C3-10", r"layer 1 \('C3'\)"),
        ("4C3--10", r"layer 2 \(''\) of '4C3--10' is not a layer"),
        ("4C3-Q2-10", r"layer 2 \('Q2'\)"),
        ("4C3-P-10", r"layer 2 \('P'\)"),
        ("4C3-7.5-10", r"layer 2 \('7.5'\)"),
        ("0C3-10", r"layer 1 \('0C3'\).*sizes from 1"),
        ("4C0-10", r"layer 1 \('4C0'\).*sizes from 1"),
        ("00C3-10", r"layer 1 \('00C3'\).*sizes from 1"),
        ("4C00-10", r"layer 1 \('4C00'\).*sizes from 1"),
        ("P00-10", r"layer 1 \('P00'\).*sizes from 1"),
        ("4C3-P0-10", r"layer 2 \('P0'\).*sizes from 1"),
        ("4C3-0", r"layer 2 \('0'\).*sizes from 1"),
        ("4C3-00", r"layer 2 \('00'\).*sizes from 1"),
        ("7-4C3-10", r"layer 2 \('4C3'\) of '7-4C3-10' needs a \[channels, height, width\] input.*\[7\]"),
        ("7-P2-10", r"layer 2 \('P2'\).*here it is flat, \[7\]"),
        ("P2-4C5-10", r"layer 2 \('4C5'\).* is larger than its 4×4 input with padding 0"),
        ("4C3-P7-10", r"layer 2 \('P7'\).* pools 7×7 of a 7×6 input"),
        ("4C3-P2", "network '4C3-P2' must end with the number of output neurons"),
        ("4C3", "must end with the number"),
        ("20-V3", "network '20-V3' ends with 20 neurons, which do not divide into classes of 3 each"),
        ("20-V0", "must end with the number of output neurons, such as 10, or with that and a vote: 100-V10"),
        ("4C3-V2", "must end with the number"),
        ("V2", "must end with the number"),
        ("20-V2-10", r"layer 2 \('V2'\)"),
        ("10-", "must end with the number"),
        ("", "network '' must end with the number"),
    ],
)
def test_notation_errors_name_the_layer(notation, message):
    with fails(message):
        build(notation, **SETTINGS)


def test_a_convolution_cannot_follow_flat_input():
    with pytest.raises(UserError, match=r"layer 1 \('4C3'\).*here it is flat, \[5\]"):
        build("4C3-10", **{**SETTINGS, "input_shape": (5,)})


def test_every_convolution_has_its_padding():
    net = build("2C3-3C3-2C3-10", padding=(2, 1, 0), **SETTINGS)
    assert [layer.padding for layer in net.modules() if isinstance(layer, Conv2d)] == [2, 1, 0]


@pytest.mark.parametrize("padding", [(), (1, 1, 1), -1, (-1,), (1, -1), 1.5, (1, 0.5)])
def test_padding_errors(padding):
    with pytest.raises(UserError, match=r"padding .* must be one number >= 0, or one for each of the 2 convolutions"):
        build("4C3-P2-5C3-10", padding=padding, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("mnist-cn", "mnist-cnn"),
        ("fashion-mnist-cn", "fashion-mnist-cnn"),
        ("cifar-cnn1", "cifar10-cnn1"),
        ("n-mnist-cnn", "nmnist"),
    ],
)
@pytest.mark.parametrize("settings", [{}, SETTINGS], ids=["bare", "with settings"])
def test_names_are_suggested(name, suggestion, settings):
    with pytest.raises(UserError, match=f"unknown network '{name}'; did you mean '{suggestion}"):
        build(name, **settings)


def test_missing_settings_are_named():
    with pytest.raises(UserError, match=r"build\('7-10'\) also needs input_shape, time_steps, tau_m, tau_s"):
        build("7-10")
    with pytest.raises(UserError, match=r"also needs tau_m$"):
        build("7-10", input_shape=(3,), time_steps=4, tau_s=3)


def test_lists_are_taken_for_tuples():
    net = build("2C3-3C3-10", input_shape=[1, 8, 8], padding=[1, 0], learn=["tau_m"], time_steps=4, tau_m=5, tau_s=3)
    assert (net.architecture.input_shape, net.architecture.padding, net.architecture.learn) == ((1, 8, 8), (1, 0), ("tau_m",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_steps": 0}, "time_steps is 0; it must be a whole number from 1"),
        ({"time_steps": 2.5}, "time_steps is 2.5"),
        ({"time_steps": True}, "time_steps is True"),
        ({"spread": "a", "per_neuron": "tau_m", "learn": "tau_m"}, "spread is 'a'; it must be a plain number"),
        ({"tau_m": 0.5}, "tau_m is 0.5"),
        ({"tau_s": math.nan}, "tau_s is nan"),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": 1.0, "notation": "10"}, "dropout is 1.0"),
        ({"rule": "tsll"}, "did you mean 'tssl'"),
        ({"standardise": True, "notation": "7R-10"}, "standardise wants a feed-forward hidden layer; this network has none"),
        ({"learn": {"tau_m"}}, r"learn is \{'tau_m'\}; it must be a tuple: write \('tau_m',\)"),
        ({"learn": "tau_x"}, "learn is tau_x; it must be one of tau_m, tau_s, threshold"),
        ({"notation": ["7-10"]}, r"notation is \['7-10'\]; it must be text"),
        ({"notation": 10}, "notation is 10; it must be text"),
        ({"input_shape": (1, 2, 9, 8)}, r"input_shape \(1, 2, 9, 8\) must be \(channels, height, width\), \(channels, leng"),
        ({"input_shape": (0,)}, r"input_shape \(0,\)"),
        ({"input_shape": (1, 0, 4)}, "input_shape"),
        ({"input_shape": ()}, "input_shape"),
    ],
)
def test_impossible_settings(settings, message):
    with fails(message):
        build(**{"notation": "7-10", **SETTINGS, **settings})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(3, 2, 8, 9), r"network input has shape \[3, 2, 8, 9\]; it must be \[B, 2, 9, 8\], or \[4, B, 2, 9, 8\]"),
        (torch.ones(5, 3, 2, 9, 8), r"shape \[5, 3, 2, 9, 8\].*with time first"),
        (torch.ones(2, 9, 8), r"shape \[2, 9, 8\]"),
        (torch.tensor(1.0), r"shape \[\]"),
        (torch.ones(3, 2, 9, 8).numpy(), r"network input is of type ndarray; it must be a torch.Tensor"),
        (torch.ones(3, 2, 9, 8, dtype=torch.uint8), "network input is torch.uint8; it must be floating point"),
    ],
    ids=["transposed", "wrong T", "one sample", "scalar", "array", "bytes"],
)
def test_inputs_that_do_not_fit(x, message):
    for neuron in ("spiking", "relu"):
        with fails(message):
            build("7-10", neuron=neuron, **SETTINGS)(x)
    for call in (build("7-10", **SETTINGS).encode, build("7-10", **SETTINGS).activity):
        with pytest.raises(UserError, match=message):
            call(x)


def test_flat_inputs():
    net = build("7-3", **{**SETTINGS, "input_shape": (6,), "threshold": 0.3})
    x = rand(5, 6)
    assert net(x).shape == (4, 5, 3)
    assert net(x).count_nonzero() > 0
    torch.testing.assert_close(net(x.expand(4, 5, 6)), net(x))
    with pytest.raises(UserError, match=r"\[B, 6\], or \[4, B, 6\]"):
        net(rand(5, 7))


# Activity.


def test_activity_is_every_spiking_layer_in_order():
    net = build("4C3-P2-5C2-7-3", threshold=0.3, dropout=0.2, **SETTINGS).eval()
    x = rand(3, 2, 9, 8)
    activity = net.activity(x)
    assert list(activity) == ["conv1", "conv2", "linear3", "output"]
    assert [tuple(a.shape) for a in activity.values()] == [(4, 3, 4, 7, 6), (4, 3, 5, 2, 2), (4, 3, 7), (4, 3, 3)]
    assert torch.equal(activity["output"], net(x))
    # Each is what the layer itself returned.
    seen = {}
    for name in activity:
        net.layers.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    net(x)
    for name, psc in activity.items():
        assert psc.count_nonzero() > 0
        assert torch.equal(psc, seen[name])


def test_a_network_learns():
    net = build("20-2", input_shape=(6,), time_steps=5, tau_m=5, tau_s=3)
    x, label = rand(8, 6), torch.arange(8) % 2
    loss_function = tsslbp.losses.KernelLoss(time_steps=5, tau_s=3)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = loss_function(net(x), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (tsslbp.metrics.decode(net(x)) == label).all()


# What is saved and read back.

ARCHITECTURES = [
    *PAPER.values(),
    Architecture(network="4C3-P2-5C2-3", padding=(1, 0), rule="tssl(leak=False, clip=1)", dropout=0.1, **SETTINGS),
    Architecture(network="3", input_shape=(5,), time_steps=1, tau_m=math.inf, tau_s=1, threshold=0.1, rule="surrogate"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.network)
def test_architecture_json_round_trip(architecture):
    text = architecture.to_json()
    assert Architecture.from_json(text) == architecture
    assert Architecture.from_json(text).to_json() == text


@pytest.mark.parametrize("rule", [None, TSSL(), TSSL(fallback="no-spike", leak=False, clip=1.0), Surrogate("atan", slope=3.0)])
def test_architecture_json_keeps_a_rule_object(rule):
    architecture = Architecture(network="7-3", rule=rule, **SETTINGS)
    again = Architecture.from_json(architecture.to_json())
    assert isinstance(again.rule, str)
    assert rule_of(Network(again)) == rule_of(Network(architecture)) == (rule or TSSL())


def test_state_dict_round_trip(tmp_path):
    net = build("4C3-P2-5C2-7-3", threshold=0.3, **SETTINGS)
    assert list(net.state_dict()) == [f"layers.{name}.weight" for name in ("conv1", "conv2", "linear3", "output")]
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = Network(Architecture.from_json(net.architecture.to_json()))
    x = rand(3, 2, 9, 8)
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for ours, theirs in zip(other.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert net(x).count_nonzero() > 0
    assert torch.equal(other(x), net(x))


EXPORTED = {
    "feed-forward": ("6-V2", (8,), {}),
    "recurrent": ("6R-3b", (8,), {}),
    "adaptive": ("6A-3", (8,), {"tau_a": 30.0}),
    "one axis": ("8C3-P2-6", (2, 9), {}),
    "residual": ("4C3n-M2-[4C3n-4C3n]-3", (2, 6, 6), {"padding": 1}),
    "learned": ("6-3", (8,), {"learn": ("tau_m",)}),
}


@pytest.mark.parametrize(("static", "backend"), [(True, "reference"), (False, "auto")])
@pytest.mark.parametrize("kind", EXPORTED)
def test_torch_export_takes_any_batch(kind, static, backend):
    notation, shape, settings = EXPORTED[kind]
    net = build(notation, input_shape=shape, time_steps=3, tau_m=5, tau_s=3, **settings).eval()
    for _, layer in net.named_layers():
        if isinstance(layer, Spiking):
            layer.backend, layer.weight.data = backend, 3 * layer.weight.data
    few, many = (rand(*(() if static else (3,)), size, *shape) for size in (2, 5))
    dynamic = {0 if static else 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(net, (few,), dynamic_shapes=(dynamic,)).module()
    with torch.no_grad():
        for x in (few, many):
            assert torch.equal(exported(x), net(x))
        assert net(many).count_nonzero() > 0, "or nothing was compared"


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, Fraction])
def test_constants_of_other_types_become_plain_numbers(kind, tmp_path):
    neuron = LIF(kind(5), kind(3), kind(1))
    layers = [
        Linear(4, 3, neuron=neuron),
        Recurrent(4, 3, neuron=neuron, adaptation=Adaptation(kind(9), kind(1))),
        MaxPool2d(2, tau_s=kind(3)),
    ]
    for layer in layers:
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        layer.load_state_dict(torch.load(tmp_path / "layer.pt"))
    assert {type(x) for x in (neuron.tau_m, neuron.tau_s, neuron.threshold)} == {float}


def test_the_rule_of_a_layer_may_be_named():
    layer = Linear(4, 3, neuron=LIF(5, 3))
    layer.rule = "surrogate"
    layer(torch.rand(5, 2, 4)).sum().backward()
    assert layer.rule == Surrogate()
    with pytest.raises(UserError, match="unknown rule 'surogate'"):
        layer.rule = "surogate"


def test_numbers_of_numpy_are_numbers(tmp_path):
    one = {"padding": np.int64(1), "bits": np.int64(4), "tau_m": np.float32(5), "tau_s": np.int32(3), "time_steps": np.int64(6)}
    net = build("8C3-6", input_shape=tuple(np.array([1, 6, 6])), **one)
    net.save(tmp_path / "a.safetensors")
    x = rand(2, 1, 6, 6)
    assert torch.equal(tsslbp.load(tmp_path / "a.safetensors").network(x), net.eval()(x))
    assert torch.equal(net.part(x, steps=np.int64(2))[0], net(x)[:2])


def test_unknown_layers_are_named():
    net = tsslbp.build("8-2", input_shape=(4,), time_steps=5, tau_m=5, tau_s=3)
    for call in (net.neuron_of, lambda name: net.fired(torch.rand(5, 1, 8), name)):
        with pytest.raises(UserError, match=r"unknown layer 'linear'; did you mean 'linear1'\?"):
            call("linear")
        with pytest.raises(UserError, match="unknown layer '1'; known: linear1, output"):
            call(1)
    pooling = tsslbp.build("2C3-P2-2", input_shape=(1, 6, 6), time_steps=5, tau_m=5, tau_s=3)
    with pytest.raises(UserError, match="unknown layer 'pool1'; known: conv1, output"):
        pooling.neuron_of("pool1")
