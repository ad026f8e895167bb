"""Programs: what modules lower to, what they refuse, and who can compute them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tsslbp
from tsslbp.exchange import chain, onnx
from tsslbp.exchange.nir import to_nir
from tsslbp.exchange.outgoing import plain
from tsslbp.layers import Conv2d, Flatten, Linear, MaxPool2d, Vote
from tsslbp.network import infer, train
from tsslbp.network.lower import affine, lower
from tsslbp.network.program import CASES, EXECUTORS, INFERENCE, NIR, ONNX, TRAINING, C, cases, difference, markdown
from tsslbp.training.model import as_model
from tsslbp.utils.errors import UserError

ROOT = Path(__file__).parent.parent
IMAGE, ROW, FLAT = (2, 8, 8), (2, 8), (5,)
HAVING = {
    "a fully connected map": ("6-4", FLAT, {}),
    "a convolution": ("3C3-4", IMAGE, {}),
    "dilation or groups": ("4C3g2-4", IMAGE, {}),
    "lateral weights": ("6R-4", FLAT, {}),
    "adaptive thresholds": ("6A-4", FLAT, {}),
    "a shortcut": ("6-[6-6]-4", FLAT, {}),
    "sum or average pooling of images": ("3C3-P2-4", IMAGE, {}),
    "sum or average pooling over one axis": ("3C3-A2-4", ROW, {}),
    "max pooling": ("3C3-M2-4", IMAGE, {}),
    "dropout": ("6-4", FLAT, {"dropout": 0.2}),
    "normalisation": ("6n-4", FLAT, {}),
    "standardised weights": ("6-4", FLAT, {"standardise": True}),
    "weights of few bits": ("6-4", FLAT, {"bits": 4}),
    "time constants that are learned or vary": ("6-4", FLAT, {"learn": ("tau_m",)}),
    "thresholds that are learned or vary": ("6-4", FLAT, {"learn": ("threshold",)}),
    "neurons without a reset": ("6-4", FLAT, {"reset": False}),
    "an output that is read from its voltage": ("6-4", FLAT, {"readout": "voltage"}),
    "units of an ANN": ("6-4", FLAT, {"neuron": "relu"}),
    "votes for a class": ("6-8-V2", FLAT, {}),
}
"""A network for every case."""


def made(notation, shape, more=None):
    return tsslbp.build(notation, input_shape=shape, time_steps=4, tau_m=4, tau_s=2, **(more or {}))


def trains(net):
    if not isinstance(train._plan(net.train()), train.Plan):
        raise UserError("declined")


@torch.no_grad()
def infers(net):
    if infer.plan(net.eval(), torch.zeros(2, *net.architecture.input_shape)) is None:
        raise UserError("declined")


RUNS = {
    TRAINING: trains,
    INFERENCE: infers,
    NIR: to_nir,
    ONNX: lambda net: onnx.to_onnx(as_model(net.eval())),
    C: lambda net: chain.chain(plain(net)),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("case", CASES)
def test_the_table_says_what_an_executor_does(case, executor):
    net = made(*HAVING[case])
    assert case in {case for _, case in cases(lower(net))}
    if executor in CASES[case]:
        RUNS[executor](net)
    else:
        with pytest.raises(UserError):
            RUNS[executor](net)


def test_the_page_has_the_table():
    assert markdown() in (ROOT / "docs/how-to-own-network.md").read_text(encoding="utf-8")


SPIKING = st.sampled_from(["4C3", "4C3n", "4C1b", "3C3s2", "4C3g2d2", "[4C3n-4C3n]", "[6C3s2-6C3]"])
HIDDEN = st.lists(st.one_of(SPIKING, st.sampled_from(["P2", "A2"])), max_size=3)
DENSE = st.lists(st.sampled_from(["6", "6b", "6n", "[6-6]", "6R", "6A", "6Rn"]), max_size=2)


@given(HIDDEN, DENSE, st.booleans())
@settings(max_examples=40, deadline=None)
def test_stages_are_the_layers(images, dense, drops):
    """Shapes are those of the currents, parameters those of PyTorch, and the affine map that of the layer."""
    images = ["4C3", *images]
    try:
        net = made("-".join([*images, *dense, "4"]), (2, 12, 12), {"padding": 1, "dropout": 0.1 * drops}).eval()
    except UserError:  # shapes that do not fit one another
        return
    program = lower(net)
    currents = net.activity(torch.rand(3, 2, 12, 12))
    assert {stage.name: stage.shape for stage in program.stages} == {name: tuple(x.shape[2:]) for name, x in currents.items()}
    total = str(program).splitlines()[-1].replace(",", "")
    assert f" {sum(weight.numel() for weight in net.parameters())} " in total
    assert lower(tsslbp.network.Network(net.architecture)) == program
    for stage in program.stages:
        layer = net.get_submodule(stage.map.layer)
        x = torch.randn(1, 3, *stage.map.entering)
        weight, bias = affine(net, stage.map)
        current = layer.convolve(x[0], weight) if stage.map.kind == "convolution" else x[0] @ weight.T
        current = current if bias is None else current + bias.view(-1, *[1] * (current.dim() - 2))
        torch.testing.assert_close(layer.current(x)[0], current, rtol=1e-4, atol=1e-5)


class Own(Linear):
    pass


def changed(change):
    net = made("4C3-M2-6-4", IMAGE)
    change(net, dict(net.layers.named_children())["conv1"].neuron)
    return net


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net, neuron: setattr(net.layers, "linear2", Own(36, 6, neuron=neuron)), "layers.linear2 is .*Own with methods"),
        (lambda net, neuron: net.layers.linear2.register_forward_hook(print), "layers.linear2 has forward hooks"),
        (lambda net, neuron: setattr(net.layers, "linear2", Linear(35, 6, neuron=neuron)), "'linear2' has weights"),
        (lambda net, neuron: setattr(net.layers, "conv1", Conv2d(3, 4, 3, neuron=neuron)), "'conv1' has weights"),
        (lambda net, neuron: setattr(net.layers, "pool1", MaxPool2d(2, tau_s=9)), "'pool1' has tau_s 9"),
        (lambda net, neuron: setattr(net.layers, "linear2", nn.Identity()), "'linear2' is Identity"),
        (lambda net, neuron: net.layers.add_module("more", Flatten()), "'more' comes last"),
        (lambda net, neuron: setattr(net.layers, "linear2", Vote(2)), "'output' follows the vote"),
        (lambda net, neuron: setattr(net.layers.linear2, "bias", nn.Parameter(torch.ones(1))), "'linear2' has a bias"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_place_is_named(change, said):
    net = changed(change)
    with pytest.raises(UserError, match=said):
        lower(net)
    assert str(net) == repr(net)


def test_a_difference_is_named():
    one, other = (lower(made("6-4", FLAT, {"threshold": threshold})) for threshold in (1, 2))
    assert difference(one, one) is None
    assert difference(one, other) == "threshold of unit of linear1 is 1, where its notation says 2"
    assert "has 2 entries (linear1, output)" in difference(one, lower(made("4", FLAT)))


def test_a_network_prints_its_program():
    said = str(made("3C3-P2-4", IMAGE))
    assert "'3C3-P2-4'" in said
    assert "  pool1" in said
    assert said.endswith("T = 4")


def test_dropout_that_is_left_in_training_drops():
    """As where several masks tell how certain a network is."""
    net = made("20-4", FLAT, {"dropout": 0.5}).eval()
    x = torch.rand(8, *FLAT) * 5
    with torch.no_grad():
        assert infer.plan(net, x) is not None
        net.layers.dropout1.train()
        assert infer.plan(net, x) is None
