"""Bias, stride, groups, normalisation, max pooling and residual blocks: what each computes, and networks made of them."""

import copy
import functools
import math
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared import fails
from torch import nn
from torch.nn.modules.module import register_module_full_backward_hook
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import tsslbp
from tsslbp import UserError, build, data, rules, training
from tsslbp.exchange.chain import chain
from tsslbp.exchange.nir import from_nir, to_nir
from tsslbp.exchange.onnx import to_onnx
from tsslbp.kernels import Pool
from tsslbp.layers import (
    Adaptation,
    AvgPool1d,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Flatten,
    Joined,
    Linear,
    MaxPool1d,
    MaxPool2d,
    Readout,
    Recurrent,
    Residual,
    Spiking,
    SumPool1d,
    SumPool2d,
    Vote,
)
from tsslbp.network.architecture import Architecture
from tsslbp.network.network import Network
from tsslbp.neuron import LIF, spikes_from_psc, synapse
from tsslbp.study.activity import layer_operations, spike_counts
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.signals import constant_current

NEURON = LIF(tau_m=5, tau_s=3, threshold=0.4)
SETTINGS = {"input_shape": (2, 8, 8), "time_steps": 5, "tau_m": 5, "tau_s": 3, "threshold": 0.3, "padding": (1,)}
FLAT = {**SETTINGS, "input_shape": (5,)}
DEEP = "6C3n-[6C3n-6C3n]-M2-[8C3s2b-8C3b]-[8C3-P2-8C3]-12Rn-[12-12]-[9Rb-9b]-6b-V2"
NETWORKS = ["6C3b-M2-[6C3-6C3b]-P2-9n-[9-9]-4", "[6C3s2n-6C3n]-A2-4n", "6C3s2-[6C3-6C3]-4", DEEP]


def rand(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(notation, dropout=0.0, **changes):
    """A network in float64 whose biases and statistics are those of some training."""
    net = build(notation, dropout=dropout, conv_scale=2.0, **{**SETTINGS, **changes}).double()
    x = 2 * rand(20, *net.architecture.input_shape)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith(("bias", "shift", "gain")):
                weight += 0.2 * torch.rand(weight.shape, generator=torch.Generator().manual_seed(1))
        for _ in range(5):
            net(x)
    return net.eval(), x[:6]


# Single layers.


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"stride": (2, 1), "padding": (0, 2)},
        {"dilation": (1, 2), "padding": 1},
        {"groups": 2, "bias": True},
        {"kernel_size": (3, 2), "stride": 3, "padding": 1, "groups": 4},
    ],
    ids=str,
)
def test_convolutions_are_pytorchs(options):
    options = {"kernel_size": 3, **options}
    layer = Conv2d(4, 8, neuron=NEURON, **options).double()
    plain = nn.Conv2d(4, 8, **{"bias": False, **options}).double()
    if layer.bias is not None:
        nn.init.uniform_(layer.bias)
    plain.load_state_dict(layer.state_dict())
    x = rand(3, 2, 4, 9, 8)
    torch.testing.assert_close(layer.current(x).flatten(0, 1), plain(x.flatten(0, 1)))
    assert layer.sizes((9, 8)) == layer.current(x).shape[3:]


PICKS = """
import torch
from tsslbp.layers import Conv1d, Conv2d
from tsslbp.neuron import LIF
for kind, sizes in ((Conv2d, (8, 8)), (Conv2d, (9, 8)), (Conv1d, (9,))):
    layer, x = kind(6, 8, 1, stride=2, neuron=LIF(5, 3)), torch.rand(5, 50, *sizes, 6).movedim(-1, 2)
    found = []
    for dtype in (torch.float32, torch.float64):
        given = x.detach().to(dtype).requires_grad_()
        layer.to(dtype).zero_grad()
        for _ in range(4):
            layer.current(given).square().sum().backward()
        found.append((given.grad.double(), layer.weight.grad.double()))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
print("right")
"""


@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_convolutions_of_single_pixels_keep_to_their_memory(instructions):
    """PyTorch 2.13 writes the weight's gradient past its end on processors without AVX-512, which spoils the heap."""
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}  # where there is glibc
    environment = {**os.environ, **checked, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", PICKS], env=environment, capture_output=True, text=True)
    assert done.stdout == "right\n", done.stderr


def test_a_row_is_convolved_as_an_image_of_one_row():
    layer = Conv1d(4, 6, 3, neuron=NEURON, stride=2, padding=1, dilation=2, groups=2, bias=True).double()
    same = Conv2d(4, 6, (1, 3), neuron=NEURON, stride=(1, 2), padding=(0, 1), dilation=(1, 2), groups=2, bias=True).double()
    nn.init.uniform_(layer.bias)
    same.load_state_dict({"weight": layer.weight[:, :, None], "bias": layer.bias})
    x = 3 * rand(5, 2, 4, 11)
    assert layer(x).count_nonzero()
    torch.testing.assert_close(layer(x), same(x[:, :, :, None])[:, :, :, 0])


@pytest.mark.parametrize("kind", [Linear, Recurrent])
def test_a_bias_is_a_current_at_every_step_from_the_first(kind):
    layer = kind(6, 5, neuron=NEURON, bias=True).double()
    assert torch.equal(layer.bias, torch.zeros(5))  # a network begins as one without
    nn.init.uniform_(layer.bias)
    constant = constant_current(rand(4, 6), 7, 3.0)
    expected = torch.stack([x_t @ layer.weight.T + layer.bias for x_t in constant.expand()])
    torch.testing.assert_close(layer.current(constant), expected)
    torch.testing.assert_close(layer.current(constant.expand()), expected)


def test_max_pooling_beside_bfloat16_maps_makes_spikes():
    """From currents rounded to bfloat16 it would take spikes of 0.02 where there are none."""
    net = build("6C3-M2-[6C3-M2-6C3]-4", **{**SETTINGS, "tau_s": 20.0, "conv_scale": 3.0})
    seen = {}

    def cross(name, layer, signal, pool, half):
        seen[name] = net._cross(name, layer, signal, pool, half)
        return seen[name]

    x = 9 * rand(5, 3, *SETTINGS["input_shape"]).abs().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in net.walk(net.encode(x), cross, fused=True):
            pass
    assert seen["block1.conv3"].dtype == torch.bfloat16
    for name in ("pool1", "block1.pool2"):
        trains = spikes_from_psc(seen[name], 20.0)
        assert 0.01 < trains.mean() < 0.9
        torch.testing.assert_close(trains, trains.round(), atol=1e-4, rtol=0)


def test_the_bias_of_a_bfloat16_map():
    layer = Conv2d(2, 3, 3, neuron=NEURON, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.current(torch.rand(3, 4, 2, 5, 5)).dtype == torch.bfloat16
        assert layer(torch.rand(3, 4, 2, 5, 5)).dtype == torch.float32


def test_normalisation_by_hand():
    norm, current = BatchNorm(3, threshold=0.5).double(), 4 * rand(5, 4, 3, 6, 7) + 2
    norm.shift.data = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    output = norm(current)
    for c in range(3):
        x = current[:, :, c]
        expected = 0.5 * (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt() + norm.shift[c]
        torch.testing.assert_close(output[:, :, c], expected)
        assert norm.mean[c].item() == pytest.approx(0.1 * x.mean().item())
        assert norm.variance[c].item() == pytest.approx(0.9 + 0.1 * x.var().item())
    norm.eval()
    before = copy.deepcopy(norm.state_dict())
    view = (1, 1, 3, 1, 1)
    expected = 0.5 * (current - norm.mean.view(view)) / (norm.variance.view(view) + 1e-5).sqrt() + norm.shift.view(view)
    torch.testing.assert_close(norm(current), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())


def test_a_constant_current_is_normalised_as_if_it_were_repeated():
    norm, constant = BatchNorm(4).eval(), constant_current(torch.rand(3, 4), 5, 3.0)
    assert torch.equal(norm(constant), norm(constant.expand()))


def test_normalisation_keeps_a_deep_network_spiking():
    x = 0.01 * rand(40, 2, 8, 8)  # so faint that nothing would spike
    for notation, alive in (("-".join(["8C3n"] * 6) + "-10n", True), ("-".join(["8C3"] * 6) + "-10", False)):
        net = build(notation, **SETTINGS).double()
        rates = [net.fired(psc).double().mean() for psc in net.activity(x).values()]
        assert (min(rates) > 0.02) == alive


@pytest.mark.parametrize(("kind", "axes"), [(SumPool2d, 2), (SumPool1d, 1), (AvgPool2d, 2), (AvgPool1d, 1)])
def test_sums_and_means_of_windows(kind, axes):
    x = rand(2, 3, 4, 7, 9) if axes == 2 else rand(2, 3, 4, 9)
    windows = x.unfold(3, 3, 3) if axes == 1 else x.unfold(3, 3, 3).unfold(4, 3, 3).flatten(5)
    expected = 1.1 * windows.sum(-1) if kind in (SumPool1d, SumPool2d) else windows.mean(-1)
    torch.testing.assert_close(kind(3)(x), expected)


@pytest.mark.parametrize("tau_s", [1.0, 3.0])
def test_max_pooling_spikes_where_any_neuron_of_a_window_does(tau_s):
    train = (rand(8, 3, 4, 6, 7) > 1).double()
    psc = synapse(train, tau_s)
    expected = train.unfold(3, 2, 2).unfold(4, 2, 2).flatten(5).amax(5)
    assert 0 < expected.mean() < 1
    pooled = MaxPool2d(2, tau_s=tau_s)(psc)
    torch.testing.assert_close(pooled, synapse(expected, tau_s))
    largest = F.max_pool2d(psc.flatten(0, 1), 2).unflatten(0, (8, 3))
    assert torch.allclose(pooled, largest) == (tau_s == 1)  # the maximum of the currents is no spike train's
    row = MaxPool1d(2, tau_s=tau_s)(psc[..., 0])
    torch.testing.assert_close(row, synapse(train[..., 0].unfold(3, 2, 2).amax(4), tau_s))


def test_a_residual_block_by_hand():
    first, last = Linear(6, 8, neuron=NEURON), Linear(8, 5, neuron=NEURON, bias=True)
    shortcut = Linear(6, 5, neuron=NEURON, bias=True)
    block = Residual(first, last, shortcut=shortcut).double()
    nn.init.uniform_(last.bias)
    nn.init.uniform_(shortcut.bias)
    x = 2 * rand(7, 3, 6)
    current = first(x) @ last.weight.T + last.bias + x @ shortcut.weight.T + shortcut.bias
    expected = tsslbp.lif(current, tau_m=5, tau_s=3, threshold=0.4)
    assert expected.count_nonzero()
    torch.testing.assert_close(block(x), expected)
    same = Residual(first, Linear(8, 6, neuron=NEURON)).double()
    expected = tsslbp.lif(first(x) @ same.last.weight.T + x, tau_m=5, tau_s=3, threshold=0.4)
    torch.testing.assert_close(same(x), expected)


def test_the_shortcut_lets_the_gradient_pass_layers_that_are_silent():
    def linear():
        return Linear(6, 6, neuron=NEURON, rule="surrogate")

    x = (0.3 * rand(5, 4, 6).abs()).requires_grad_()
    block = Residual(linear(), linear()).double()
    plain = nn.Sequential(block.get_submodule("0"), block.get_submodule("1"))
    with torch.no_grad():
        for layer in plain:
            layer.weight.zero_()
    for made, flows in ((block, True), (plain, False)):
        (gradient,) = torch.autograd.grad(made(x).sum(), x)
        assert bool(gradient.count_nonzero()) == flows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(3, 2, neuron=NEURON, bias=True, normalise=True), "Linear: bias has no effect with normalise"),
        (lambda: Conv2d(3, 2, 3, neuron=NEURON, standardise=True, normalise=True), "Conv2d: standardise has no effect"),
        (lambda: Conv2d(3, 2, 3, neuron=NEURON, groups=2), "Conv2d: groups is 2; it must divide 3 and 2 channels"),
        (lambda: Conv2d(3, 2, 3, neuron=NEURON, stride=0), "Conv2d: stride is 0; it must be a whole number from 1 or two"),
        (lambda: Conv2d(3, 2, 3, neuron=NEURON, padding=(1, -1)), r"Conv2d: padding is \(1, -1\); it must be"),
        (lambda: Conv2d(3, 2, 3, neuron=NEURON, padding=(1, 1, 1)), r"Conv2d: padding is \(1, 1, 1\)"),
        (lambda: Conv2d(3, 2, 0, neuron=NEURON), "Conv2d: kernel_size is 0"),
        (lambda: Conv2d(0, 2, 3, neuron=NEURON), "in_channels is 0, out_channels 2; they must be whole numbers from 1"),
        (lambda: Conv2d(3, 2.0, 3, neuron=NEURON), "in_channels is 3, out_channels 2.0; they must be whole numbers from 1"),
        (lambda: Conv2d(3, 2, 3, scale=math.nan, neuron=NEURON), "scale is nan; it must be positive and finite"),
        (lambda: Conv1d(3, 2, 3, neuron=NEURON, dilation=1.5), "Conv1d: dilation is 1.5; it must be a whole number from 1$"),
        (lambda: MaxPool2d(0, tau_s=3), "MaxPool2d: size is 0"),
        (lambda: MaxPool1d(2, tau_s=0.5), "tau_s is 0.5; it must be finite and at least 1"),
        (lambda: AvgPool1d(-1), "AvgPool1d: size is -1"),
        (lambda: AvgPool1d(torch.tensor([2, 2])), "AvgPool1d: size is of type Tensor; it must be a whole number from 1"),
        (lambda: AvgPool2d((2, 2)), r"AvgPool2d: size is \(2, 2\); it must be a whole number"),
        (lambda: SumPool2d(2, float("nan")), "SumPool2d: factor is nan; it must be a finite number"),
        (
            lambda: Flatten()(torch.rand(4, 3)),
            r"Flatten wants \[T, B, ...\] with features; got \[\] per sample, as if the axis",
        ),
        (lambda: Vote(0), "voters is 0; it must be a whole number from 1"),
        (lambda: Linear(3, 2, neuron=None), r"Linear: neuron is None; it must be tsslbp.neuron.LIF\(tau_m, tau_s\)"),
        (
            lambda: Recurrent(3, 2, neuron=NEURON, adaptation=(4, 0.3)),
            r"adaptation is \(4, 0.3\); it must be tsslbp.layers.Adap",
        ),
        (lambda: Residual(Linear(3, 3, neuron=NEURON), shortcut=nn.Identity()), "the shortcut is Identity; it must be a layer"),
        (
            lambda: Residual(Linear(3, 3, neuron=NEURON), shortcut=Recurrent(3, 3, neuron=NEURON)),
            "the shortcut is recurrent; without neurons, lateral weights have no effect: give it a Linear",
        ),
        (lambda: Residual({"shortcut": Linear(3, 3, neuron=NEURON)}), "named shortcut; give it as shortcut="),
        (lambda: Residual(), "must end with a layer that has neurons"),
        (lambda: Residual(Linear(3, 3, neuron=NEURON), SumPool2d()), "must end with a layer that has neurons"),
        (
            lambda: Residual(Linear(3, 4, neuron=NEURON))(torch.rand(2, 1, 3)),
            r"the layers of a residual block make \[4\] per sample, what enters it is \[3\]; give it a shortcut",
        ),
        (
            lambda: Residual(Linear(3, 4, neuron=NEURON), shortcut=Linear(3, 2, neuron=NEURON))(torch.rand(2, 1, 3)),
            r"make \[4\] per sample, its shortcut makes \[2\]",
        ),
        (lambda: BatchNorm(3)(torch.rand(1, 1, 3)), r"needs two steps or samples in training; .* \[1, 3\]"),
        (lambda: Linear(5, 0, neuron=NEURON), "in_features is 5, out_features 0; they must be whole numbers"),
        (lambda: Recurrent(5, 2.5, neuron=NEURON), "in_features is 5, out_features 2.5; they must be whole"),
        *(
            (
                lambda layer=layer, shape=shape: layer.part(torch.rand(2, 4, 3), torch.zeros(shape)),
                rf"must be torch.float32 of shape \[{wanted}, 4, 2\]",
            )
            for layer, shape, wanted in (
                (Linear(3, 2, neuron=NEURON), (2, 3, 2), 2),
                (Recurrent(3, 2, neuron=NEURON), (2, 4, 2), 3),
                (Readout(3, 2, neuron=NEURON), (2, 4, 2), 1),
            )
        ),
        (
            lambda: MaxPool1d(2, tau_s=3).part(torch.rand(2, 4, 3, 4), torch.zeros(1, 4, 9)),
            r"must be torch.float32 of shape \[1, 4, 18\]",
        ),
        (
            lambda: build("4-3", **FLAT).part(torch.rand(2, 5), torch.zeros(2)),
            "the state is of type Tensor; it must be the State",
        ),
        (
            lambda: Linear(3, 2, neuron=NEURON).part(torch.rand(2, 4, 3), torch.zeros(2, 4, 2).double()),
            r"the state is torch.float64 of shape \[2, 4, 2\]; it must be torch.float32 of shape \[2, 4, 2\]",
        ),
        (
            lambda: (net := build("4-3", **FLAT)).part(torch.rand(2, 1, 5), net.double().part(torch.rand(2, 1, 5).double())[1]),
            "the state is that of a torch.float64 input, and this is torch.float32; begin again from rest",
        ),
        (lambda: build("4-3", **FLAT, standardise="no"), "standardise is 'no'; it must be true or false"),
        (lambda: build("4-3", **FLAT, conv_scale=-1), "conv_scale is -1; it must be positive"),
        (
            lambda: tsslbp.build(None, input_shape=(3,), time_steps=2, tau_m=5, tau_s=3),
            "notation is None; it must be text",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(make, message):
    with fails(message):
        make()


# Networks from notation.


def test_layers_of_a_notation():
    net = build("6C3n-M2-[6C3b-6C3n]-[8C3s2n-A2-8C3n]-[9-9b]-4", dropout=0.1, **SETTINGS)
    assert [name for name, _ in net.named_layers()] == [
        *("conv1", "pool1", "block1.dropout1", "block1.conv2", "block1.dropout2", "block1.conv3"),
        *("block2.dropout3", "block2.conv4", "block2.pool2", "block2.dropout4", "block2.conv5"),
        *("flatten", "block3.dropout5", "block3.linear6", "block3.dropout6", "block3.linear7", "dropout7", "output"),
    ]
    assert net.layers.block1.shortcut is None
    shortcut = net.layers.block2.shortcut
    assert (shortcut.weight.shape, shortcut.stride, shortcut.bias) == ((8, 6, 1, 1), 4, None)
    assert shortcut.norm is not None
    assert net.layers.block3.shortcut.weight.shape == (9, 8)
    assert net.layers.conv1.norm.gain[0].item() == pytest.approx(0.3)  # the threshold
    assert list(net.activity(torch.rand(2, 2, 8, 8))) == [name for name, x in net.named_layers() if isinstance(x, Spiking)]


def test_rows():
    net = build("6C3-M2-[8C3s2-8C3]-A2-4", **{**SETTINGS, "input_shape": (3, 16)})
    assert [type(layer) for _, layer in net.named_layers()][:5] == [Conv1d, MaxPool1d, Conv1d, Conv1d, AvgPool1d]
    assert net(torch.rand(2, 3, 16)).shape == net(torch.rand(5, 2, 3, 16)).shape == (5, 2, 4)


@pytest.mark.parametrize(
    ("notation", "settings", "message"),
    [
        ("M2-4", {}, r"layer 1 \('M2'\) of 'M2-4' pools spikes; it must come directly behind a layer with neurons"),
        ("4C3-P2-M2-4", {}, "pools spikes"),
        ("4C3-[4C5-4C5]-4", {}, r"layer 2 .* makes \[4, 4, 4\] of \[4, 8, 8\], which no shortcut does; choose --padding"),
        ("[4C3-4]-4", {}, r"makes \[4\] of \[2, 8, 8\]"),
        ("[7-4C3]-4", {}, r"'4C3' in layer 1 .* needs a \[channels, height, width\] input"),
        ("[4C3-4C99]-4", {}, r"'4C99' in layer 1 \('\[4C3-4C99\]'\) .* is larger than its 8×8 input with padding 1"),
        ("[4C3-x]-4", {}, r"'x' in layer 1 .* is not a layer"),
        ("[4C3-P2]-4", {}, "must end with a layer that has neurons"),
        ("4C3bn-4", {}, "is not a layer"),
        ("[4-[4]]-4", {}, "has a residual block inside another"),
        ("4C3g2d2-4", {}, r"is not a layer; .* s2, d2, g4 \(stride, dilation, groups of a convolution, in this order\)"),
        ("6C3g4-4", {}, r"layer 1 \('6C3g4'\) of '6C3g4-4' has 4 groups, which must divide its 2 and 6 channels"),
        ("4C3d5-4", {}, r"layer 1 \('4C3d5'\) .* is larger than its 8×8 input with padding 1"),
        ("[9R-9]-4", {"neuron": "relu"}, "needs spiking neurons"),
        ("9n-4", {"standardise": True}, "standardise wants"),
    ],
)
def test_notation_that_makes_no_network(notation, settings, message):
    with fails(message):
        build(notation, **{**SETTINGS, **settings})


def test_stride_dilation_and_groups_have_a_notation():
    net = build("6C3s2d2g2b-[6C3d2g3-6C3d2]-4", **{**SETTINGS, "padding": (2, 2, 2)})
    own = nn.Sequential(
        Conv2d(2, 6, 3, stride=2, dilation=2, groups=2, padding=2, bias=True, neuron=net.neuron),
        Residual(
            Conv2d(6, 6, 3, dilation=2, groups=3, padding=2, neuron=net.neuron),
            Conv2d(6, 6, 3, dilation=2, padding=2, neuron=net.neuron),
        ),
        Flatten(),
        Linear(96, 4, neuron=net.neuron),
    )
    own.load_state_dict(dict(zip(own.state_dict(), net.state_dict().values(), strict=True)))
    x = 9 * torch.rand(3, 2, 8, 8)
    assert net(x).count_nonzero()
    assert torch.equal(own(net.encode(x)), net(x))
    assert sum(weight.numel() for weight in net.parameters()) == 6 * 9 + 6 + 6 * 2 * 9 + 6 * 6 * 9 + 96 * 4


@pytest.mark.parametrize("notation", NETWORKS)
def test_static_input_is_the_same_as_repeated(notation):
    net, x = network(notation)
    output = net(x)
    assert output.count_nonzero()
    torch.testing.assert_close(net(x.expand(5, *x.shape)), output, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("notation", NETWORKS)
@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
def test_a_network_in_parts_is_the_whole(notation, static):
    net, x = network(notation, dropout=0.2)
    x = x if static else x * torch.arange(1, 6).view(5, 1, 1, 1, 1) / 3
    parts, state = [], None
    for start, steps in ((0, 1), (1, 3), (4, 1)):
        psc, state = net.part(x if static else x[start : start + steps], state, steps)
        parts.append(psc)
    torch.testing.assert_close(torch.cat(parts), net(x), rtol=1e-9, atol=1e-12)
    few, last = torch.tensor([0, 3]), x if static else x[-1:]
    taken, _ = net.part(last[few] if static else last[:, few], state.take(few), 1)
    torch.testing.assert_close(taken, net.part(last, state, 1)[0][:, few], rtol=1e-9, atol=1e-12)


def test_a_layer_may_be_there_twice():
    twice, last, x = (Linear(5, 5, neuron=NEURON).double(), Linear(5, 5, neuron=NEURON).double(), 2 * rand(5, 3, 5).abs())
    block, net = Residual(twice, twice, last), build("5-5-4", **FLAT).double()
    torch.testing.assert_close(block(x), last(Joined(twice(twice(x)), x, None)))
    calls = []
    hook = twice.register_forward_hook(lambda *_: calls.append(1))
    block(x)
    assert len(calls) == 2
    hook.remove()
    net.layers[1] = net.layers[0]
    with torch.no_grad():
        for weight in net.layers.parameters():
            weight.abs_().mul_(2)
    expected = net.layers(net.encode(x))
    assert expected.any()
    torch.testing.assert_close(net(x), expected)
    first, state = net.part(x[:2])
    torch.testing.assert_close(torch.cat([first, net.part(x[2:], state)[0]]), expected)
    alone, pool = build("6C3-P2-P2-4", **SETTINGS).double(), 2 * rand(3, 2, 8, 8).abs()
    alone.layers[2] = alone.layers[1]
    torch.testing.assert_close(alone(pool), alone.layers(alone.encode(pool)))


def test_neurons_in_a_container_that_knows_nothing_of_parts_are_refused():
    def inner():
        return nn.Sequential(Linear(5, 5, neuron=NEURON, normalise=True))

    net, block, x = build("5-4", **FLAT), Residual(inner(), Linear(5, 5, neuron=NEURON)), torch.rand(5, 3, 5)
    net.layers.linear1 = inner()
    for call in (lambda: net(x, lengths=torch.tensor([5, 4, 3])), lambda: block(x, inside=torch.ones(5, 3, dtype=torch.bool))):
        with pytest.raises(UserError, match="holds layers with neurons, and a Sequential hands them neither the state"):
            call()
    net.eval(), block.eval()
    for call in (net.part, lambda x: block.part(x, None)):
        with pytest.raises(UserError, match="into the network, or into a Residual"):
            call(x)
    assert net(x).shape == (5, 3, 4)


def test_a_class_with_its_own_forward_takes_whole_sequences_only():
    class Mine(Linear):
        def forward(self, signal):
            return super().forward(signal) / 2

    net, x = build("5n-5-4", **{**FLAT, "time_steps": np.int64(5)}), torch.rand(5, 3, 5)
    net.layers.linear2.__class__ = Mine
    assert net(x, lengths=torch.tensor([5, 4, 3])).shape == (5, 3, 4)
    assert Residual(Mine(5, 5, neuron=NEURON), Linear(5, 5, neuron=NEURON))(x).shape == (5, 3, 5)
    net.eval().time_block = 2
    for call in (net.part, net):
        with pytest.raises(UserError, match="Mine has its own forward, which hands no state on; call it on whole sequences"):
            call(x)


def test_blocks_of_time_and_parts_need_the_whole_while_normalisation_learns():
    net, x = network("6C3n-4")
    net.train()
    net.time_block = 2
    for call in (net, net.part):
        with pytest.raises(UserError, match="statistics of whole sequences in training"):
            call(x)
    with pytest.raises(UserError, match="--time-block is 2; it must be 0 for normalised layers"):
        TrainConfig(network="6C3-[6C3-6C3n]-4", time_block=2)


def test_blocks_of_time_go_through_residual_blocks():
    net, x = network("6C3b-M2-[6C3-6C3b]-4", dropout=0.3)
    net.train()
    keys, gradients = torch.arange(len(x)), []
    for net.time_block in (0, 2):
        output = net(x, keys=keys)
        gradients.append([output.detach(), *torch.autograd.grad(output.square().sum(), list(net.parameters()))])
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_hook_that_would_never_run_is_refused(gradients):
    net, x = network("6C3b-P2-4")
    output, hook = net(x), net.layers.register_forward_hook(lambda module, inputs, made: made * 0)
    with torch.set_grad_enabled(gradients), pytest.raises(UserError, match=r"net.layers is not called, so its hooks would"):
        net(x)
    hook.remove()
    assert torch.equal(net(x), output)
    seen = set()
    for module in net.modules():  # as tools do that look at every module
        module.register_forward_hook(lambda module, *_: seen.add(module))
    with torch.set_grad_enabled(gradients):
        assert torch.equal(net(x), output)
    assert seen == {*net.modules()} - {net.layers}


@pytest.mark.parametrize("notation", ["6C3b-P2-[6C3-6C3b]-P2-4", "6C3-M2-[6C3-P2-8C3s2]-4"])
def test_hooks_of_every_layer_and_block_are_called(notation):
    """They see what the layers make one after the other, with pooling apart, and what they return goes on."""
    net, x = network(notation)
    output, seen = net(x), {}
    modules = {**dict(net.named_layers()), **dict(net.layers.named_children())}
    hooks = [m.register_forward_hook(lambda _, i, o, name=name: seen.update({name: o})) for name, m in modules.items()]
    assert torch.equal(net(x), output)
    assert set(seen) == set(modules)
    signal = net.encode(x)
    for name, layer in net.layers.named_children():
        signal = layer(signal)
        torch.testing.assert_close(seen[name], signal, rtol=1e-9, atol=1e-12)
    for hook in hooks:
        hook.remove()
    hook = net.layers.block1.register_forward_hook(lambda module, inputs, made: made * 0)
    assert not net(x).any()
    hook.remove()
    assert output.any()
    assert torch.equal(net(x), output)


@pytest.mark.parametrize("notation", ["6C3b-P2-[6C3-6C3b]-P2-4", "6C3-M2-[6C3-P2-8C3s2]-4"])
@pytest.mark.parametrize("training", [True, False])
def test_a_method_that_a_tool_replaces_is_called(notation, training):
    """Tools that place layers on devices do this. Hooks that do the same are the check."""
    net, x = network(notation)
    net.train(training)
    plain, hooked = net(x).detach(), copy.deepcopy(net)

    def softer(forward):
        return functools.wraps(forward)(lambda *given, **named: 0.6 * forward(*given, **named))

    for ours, other in zip(net.modules(), hooked.modules(), strict=True):
        if ours not in (net, net.layers):
            ours.forward = softer(ours.forward)
            other.register_forward_hook(lambda _, __, made: 0.6 * made)
    with torch.set_grad_enabled(training):
        made = net(x)
    torch.testing.assert_close(made, hooked(x))
    assert not torch.allclose(made, plain)


@pytest.mark.parametrize("notation", ["6C3b-P2-[6C3-8C3s2]-M2-4", "9R-[9-8]-4"])
def test_hooks_are_called_for_parts_and_shortcuts(notation):
    settings = SETTINGS if "C" in notation else FLAT
    net, calls = build(notation, conv_scale=2.0, **settings).double(), []
    modules = [*(layer for _, layer in net.named_layers()), net.layers.block1, net.layers.block1.shortcut]
    x = 3 * rand(5, 2, *settings["input_shape"]).abs()
    plain = net(x)
    for module in modules:
        module.register_forward_hook(lambda module, _, made: calls.append(module) or made * 1.5)
    whole = net(x)
    assert calls.count(net.layers.block1.shortcut) == 1
    assert set(calls) == set(modules)
    first, state = net.part(x[:2])
    net.time_block = 3
    for made in (torch.cat([first, net.part(x[2:], state)[0]]), net(x)):
        torch.testing.assert_close(made, whole, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(whole, plain)


def test_a_pruned_network_learns_in_blocks_and_streams_with_its_weights():
    def pruned():
        net = build("9-[7-6]-4", **FLAT)
        for layer in (net.layers.linear1, net.layers.block1.shortcut):
            prune.random_unstructured(layer, "weight", 0.3)
        return net.double()

    net, x = pruned(), 3 * rand(5, 2, 5).abs()
    net.time_block, adam = 2, torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(3):
        adam.zero_grad()
        (-net(x).sum()).backward()
        adam.step()
    assert bool(net.layers.block1.shortcut.weight_orig.grad.any())
    assert net(x).any()
    other = pruned()
    other.load_state_dict(net.state_dict())
    stream = tsslbp.stream(other, 2)
    torch.testing.assert_close([stream(step).total for step in x][-1], net(x).sum(0))


def test_votes_of_a_constant_current():
    signal = constant_current(rand(3, 6), 4, 3.0)
    torch.testing.assert_close(Vote(2)(signal), Vote(2)(signal.expand()))


@pytest.mark.parametrize("compute", [weight_norm, lambda layer: prune.random_unstructured(layer, "weight", 0.3)])
def test_weights_that_are_computed_from_others_are_not_folded(compute):
    net, x = build("5n-5n-4", **FLAT), 3 * torch.rand(5, 2, 5)
    net(x)
    net.eval()
    compute(net.layers.linear2)
    before = net(x)
    with pytest.raises(UserError, match="a weight that is computed from other tensors cannot be folded; make it plain"):
        net.fold()
    assert torch.equal(net(x), before)
    assert net.layers.linear1.norm is not None


class Doubled(BatchNorm):
    def forward(self, current, inside=None):
        return 2 * super().forward(current, inside)


@pytest.mark.parametrize("by", ["hook", "class", "method"])
def test_altered_normalisation_is_not_folded(by):
    net, x = build("5n-5n-4", **FLAT), 3 * torch.rand(5, 2, 5)
    net(x)
    net.eval()
    norm = net.layers.linear2.norm
    if by == "hook":
        norm.register_forward_hook(lambda module, args, output: 2 * output)
    elif by == "class":
        norm.__class__ = Doubled
    else:
        plain = norm.forward
        norm.forward = lambda *args: 2 * plain(*args)
    with torch.no_grad():
        before = net(x)
    torch.testing.assert_close(net(x).detach(), before)
    with pytest.raises(
        UserError, match="normalisation with a forward of its own or with hooks cannot be folded; use BatchNorm"
    ):
        net.fold()
    assert net.layers.linear1.norm is not None


def test_shared_weights_are_folded_and_stored_for_each_layer(tmp_path):
    net, x = build("5n-5n-4", **FLAT), 3 * torch.rand(5, 2, 5)
    net.layers.linear2.weight = net.layers.linear1.weight
    for scale in (1, 5):
        net(scale * x)
    net.eval().save(tmp_path / "net.safetensors")
    before = net(x)
    assert before.any()
    torch.testing.assert_close(tsslbp.load(tmp_path / "net.safetensors").network(x), before)
    net, x = net.double(), x.double()
    before = net(x)
    net.fold()
    torch.testing.assert_close(net(x), before)


def test_a_network_with_another_rule_in_a_layer_is_not_stored(tmp_path):
    net = build("5-4", **FLAT)
    net.layers.linear1.rule = tsslbp.Surrogate("atan")
    with pytest.raises(UserError, match=r"layers.linear1 has rule Surrogate\(.*, and a file holds one for all layers, TSSL\("):
        net.save(tmp_path / "net.safetensors")


def test_state_dicts_tell_of_adaptation_and_of_max_pooling(recwarn):
    def adaptive(notation):
        return build(notation, **FLAT)

    pairs = [
        (Recurrent(3, 2, neuron=NEURON, adaptation=Adaptation(4.0, 0.9)), Recurrent(3, 2, neuron=NEURON), "tau_a 4.0"),
        (Recurrent(3, 2, neuron=NEURON), Recurrent(3, 2, neuron=NEURON, adaptation=Adaptation(4.0, 0.9)), "tau_a None"),
        (adaptive("9A-4"), adaptive("9R-4"), "tau_a 100.0"),
        (nn.Sequential(MaxPool1d(2, tau_s=3.0)), nn.Sequential(MaxPool1d(2, tau_s=9.0)), r"tau_s 3.0 \(here 9.0\)"),
    ]
    for stored, other, message in pairs:
        stored.load_state_dict(stored.state_dict())
        assert not recwarn.list
        with pytest.warns(UserWarning, match=message):
            other.load_state_dict(stored.state_dict())
        recwarn.clear()


@pytest.mark.parametrize("rule", sorted({*rules.available()} - {"tssl-paper"}))  # which looks at the spikes of all steps
def test_no_rule_learns_from_padding(rule):
    torch.manual_seed(0)
    rule = "eventprop(clip=8, wake=1e-5)" if rule == "eventprop" else rule
    net = tsslbp.build("20-10-3", input_shape=(7,), time_steps=9, tau_m=5, tau_s=3, rule=rule).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3)
    x = 2 * torch.randn(9, 5, 7, dtype=torch.float64)
    made = []
    for steps in (6, 9):
        padded = x[:steps].clone()
        padded[6:] = 0
        output = Network(replace(net.architecture, time_steps=steps)).double()
        output.load_state_dict(net.state_dict())
        psc = output(padded, lengths=torch.full((5,), 6))
        made.append(torch.autograd.grad(psc[:6].sum(0).log_softmax(-1)[:, 0].sum(), list(output.parameters())))
    assert any(gradient.any() for gradient in made[0])
    for shorter, longer in zip(*made, strict=True):
        torch.testing.assert_close(shorter, longer, rtol=1e-12, atol=1e-12)


def test_padding_does_not_count_in_networks():
    net, x = network("6C3n-[6C3n-6C3n]-9Rn-4")
    net.train()
    lengths, steps = torch.tensor([5, 3, 2, 4, 5, 1]), torch.arange(5)
    x = (x * torch.arange(1, 6).view(5, 1, 1, 1, 1) / 3).clone()
    beyond = steps[:, None] >= lengths
    gradients = []
    for filled in (0.0, 50.0):
        twin, padded = copy.deepcopy(net), x.clone()
        padded[beyond] = filled
        output = twin(padded, lengths=lengths)
        within = output[~beyond]
        gradients.append(
            [within.detach(), *torch.autograd.grad(within.square().sum(), list(twin.parameters())), *twin.buffers()]
        )
    assert all(map(torch.equal, *gradients))
    assert not torch.equal(copy.deepcopy(net)(x)[~beyond], gradients[0][0])
    for wrong in (lengths[:3], lengths.double(), lengths.to(torch.uint8), lengths.int()):
        with pytest.raises(UserError, match=r"lengths are \[\d\] .*; they are for sequences"):
            net(x, lengths=wrong)
    with pytest.raises(TypeError):  # lengths would be taken for keys
        net(x, lengths)
    with pytest.raises(UserError, match="lengths run from 0 to"):
        net(x, lengths=torch.arange(x.shape[1]))
    with pytest.raises(UserError, match="lengths are"):
        net(x[0], lengths=lengths)


def test_training_tells_the_network_where_sequences_end(quick, monkeypatch):
    """The statistics of a run on padded sequences are those of the sequences."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 6, 3, generator=random).numpy() + 5, (torch.arange(40) % 2).numpy()
    lengths = (torch.arange(40) % 5 + 2).numpy()
    dataset = data.of_arrays(x, y, lengths=lengths)
    found, forward = [], Network.forward
    for name in ("told", "deaf"):
        if name == "deaf":
            monkeypatch.setattr(Network, "forward", lambda net, x, keys=None, lengths=None: forward(net, x, keys=keys))
        config = quick(network="6n-2", rule="tssl+", epochs=1, batch_size=8, name=name, time_steps=None)
        folder, _ = training.train(config, dataset=dataset)
        found.append(tsslbp.load(folder).network.layers.linear1.bias)
    assert not torch.allclose(*found)


@pytest.mark.parametrize("notation", NETWORKS)
def test_a_network_is_its_layers_one_after_the_other(notation):
    """Pooled by the kernels or not, walked through or called: the same."""
    net, x = network(notation)
    modules = nn.Sequential(*net.layers)
    torch.testing.assert_close(modules(net.encode(x)), net(x), rtol=1e-9, atol=1e-12)
    for name, psc in net.activity(x).items():
        spikes = spikes_from_psc(psc, 3.0)
        assert bool(((spikes - spikes.round()).abs() < 1e-9).all()), name


def test_a_walk_shows_where_a_block_ends():
    net, x = network("6C3-[6C3-6C3]-[8C3s2-8C3]-4")
    joined = {}

    def cross(name, layer, signal, pool, half):
        if isinstance(signal, Joined):
            joined[name] = signal
        return layer(signal)

    signals = {name: signal for name, _, signal in net.walk(net.encode(x), cross)}
    assert list(joined) == ["block1.conv3", "block2.conv5"]
    assert joined["block1.conv3"].entering is signals["conv1"]
    assert joined["block2.conv5"].entering is signals["block1.conv3"]
    assert joined["block2.conv5"].shortcut is net.layers.block2.shortcut
    assert torch.equal(signals["output"], net(x))


@pytest.mark.parametrize("notation", [*NETWORKS, "6C3n-[6C3n-8C3s2n]-4n"])
def test_folded_networks(notation):
    net, x = network(notation)
    output = net(x)
    net.fold()
    assert "n" not in net.architecture.network
    torch.testing.assert_close(net(x), output, rtol=1e-9, atol=1e-12)
    other = Network(Architecture.from_json(net.architecture.to_json())).double()  # no longer a matter of training or not
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), output, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("unit", ["binary", "relu"])
def test_anns_have_blocks_too(unit):
    net = build("6C3n-M2-[6C3b-6C3b]-[8C3s2n-8C3n]-4b", neuron=unit, **SETTINGS).double().eval()
    x, activation = rand(3, 2, 8, 8), {"relu": F.relu, "binary": lambda x: (x > 0.3).double()}[unit]
    layers = net.layers

    def current(layer, x):
        return layer.current(x[None])[0]

    y = F.max_pool2d(activation(current(layers.conv1, x)), 2)
    y = activation(current(layers.block1.conv3, activation(current(layers.block1.conv2, y))) + y)
    hidden = current(layers.block2.conv5, activation(current(layers.block2.conv4, y)))
    y = activation(hidden + current(layers.block2.shortcut, y))
    torch.testing.assert_close(net(x)[0], current(layers.output, y.flatten(1)))


def test_a_block_that_is_there_twice_costs_what_two_equal_ones_do():
    net = build("[2C3-2C3]-[2C3-2C3]-4", **SETTINGS).double().eval()
    net.layers.block2 = copy.deepcopy(net.layers.block1)
    x, found = 4 * rand(3, 2, 8, 8), []
    for _ in range(2):
        counts = {name: count.double() for name, count in spike_counts(net, x).items()}
        found.append(layer_operations(net, x, counts))
        net.layers.block2 = net.layers.block1
    assert found[0] == found[1]


def test_operations_of_blocks_by_hand():
    """Counted connection by connection: a map of ones on ones has as many as its outputs sum up to."""
    net, x = network("6C3b-M2-[6C3-6C3n]-[8C3s2-8C3]-4b")
    counts = {name: count.double() for name, count in spike_counts(net, x).items()}
    made = layer_operations(net, x, counts)
    layers, steps = net.layers, 5 * len(x)

    def reached(layer, times):
        weight = torch.ones_like(layer.weight)
        if weight.dim() == 2:
            return float(F.linear(times.flatten(1), weight).sum())
        return float(F.conv2d(times, weight, stride=layer.stride, padding=layer.padding).sum())

    pool, one = counts["pool1"], counts["block1.conv2"]
    assert 0 < float(pool.sum()) < float(counts["conv1"].sum())
    two, three, four = (counts[name] for name in ("block1.conv3", "block2.conv4", "block2.conv5"))
    acs = {
        "conv1": steps * 6 * 64,
        "block1.conv2": reached(layers.block1.conv2, pool),
        "block1.conv3": reached(layers.block1.conv3, one) + float(pool.sum()) + steps * 6 * 16,
        "block2.conv4": reached(layers.block2.conv4, two),
        "block2.conv5": reached(layers.block2.conv5, three) + reached(layers.block2.shortcut, two),
        "output": reached(layers.output, four) + steps * 4,
    }
    assert {name: layer.acs for name, layer in made.items()} == acs
    assert {name: layer.macs for name, layer in made.items() if layer.macs} == {
        "conv1": reached(layers.conv1, torch.ones_like(x))
    }
    dense = steps * (reached(layers.block1.conv3, torch.ones(1, 6, 4, 4).double()) + 6 * 16 + 6 * 16)
    assert made["block1.conv3"].dense_macs == dense


def test_groups_have_fewer_connections():
    whole, x = network("6C3-4", padding=(0,))
    grouped = copy.deepcopy(whole)
    grouped.layers.conv1 = Conv2d(2, 6, 3, neuron=whole.neuron, groups=2).double()
    made = [layer_operations(net, x, spike_counts(net, x))["conv1"].dense_macs for net in (whole, grouped)]
    assert made == [len(x) * 36 * 6 * 2 * 9, len(x) * 36 * 6 * 9]


# Training and files.


def test_a_residual_network_trains_resumes_and_is_kept(quick):
    settings = {"padding": (1,), "learning_rate": 1e-2, "batch_size": 50, "rule": "tssl+"}
    config = quick(network="6C3n-[6C3n-6C3n]-[8C3s2n-8C3n]-10", epochs=3, **settings)
    whole, final = training.train(replace(config, name="whole"))
    assert final["test_accuracy"] > 30  # chance is 10
    part = replace(config, name="part", schedule="constant", average=0.9)
    training.train(replace(part, epochs=1))
    training.train(replace(part, epochs=2, resume=True))

    model = tsslbp.load(whole)
    assert model.network.architecture.network == "6C3b-[6C3b-6C3b]-[8C3s2b-8C3b]-10"
    test = data.load("digits", Path("nowhere")).test
    assert model.accuracy(test) == final["test_accuracy"]
    answers, _ = model.decide(test.x[:50])
    assert torch.equal(answers, tsslbp.metrics.decode(model.outputs(test.x[:50])))
    model.save(whole / "again.safetensors")
    again = tsslbp.load(whole / "again.safetensors")
    assert torch.equal(again.outputs(test.x[:50]), model.outputs(test.x[:50]))
    (record, *_), _ = training.read_metrics(whole)
    assert list(record["rates"]) == ["conv1", "block1.conv2", "block1.conv3", "block2.conv4", "block2.conv5", "output"]


def test_first_rates_leave_what_is_normalised(quick):
    config, dataset = training.with_data(quick(network="6C3n-M2-[6C3-6C3n]-6C3-10", padding=(1,), first_rates=False))
    plain, _ = training.prepare(config, dataset)
    scaled, _ = training.prepare(replace(config, first_rates=True), dataset)
    pairs = zip(plain.network.named_parameters(), scaled.network.parameters(), strict=True)
    changed = [name for (name, before), after in pairs if not torch.equal(before, after)]
    assert set(changed) <= {"layers.block1.conv2.weight", "layers.conv4.weight"}
    assert "layers.conv4.weight" in changed
    for before, after in zip(plain.network.buffers(), scaled.network.buffers(), strict=True):
        assert torch.equal(before, after)


def test_hidden_scale_reaches_shortcuts_and_leaves_lateral_weights(quick):
    for network, padding in (("4C3-[6C3s2-6C3]-20-10", (1,)), ("20R-10", (0,))):
        config, dataset = training.with_data(quick(network=network, padding=padding))
        plain, _ = training.prepare(config, dataset)
        scaled, _ = training.prepare(replace(config, hidden_scale=3.0), dataset)
        weights = dict(plain.network.named_parameters())
        for name, weight in scaled.network.named_parameters():
            factor = 1 if "output" in name or "lateral" in name else 3
            torch.testing.assert_close(weight, factor * weights[name], msg=name)


def test_lateral_weights_of_few_bits_are_fitted_again(quick):
    config, dataset = training.with_data(quick(network="20R-10", bits="4", hidden_scale=0.1))
    layer = training.prepare(config, dataset)[0].network.layers.recurrent1
    fitted = layer.limit.detach().clone()
    layer.quantise("4")
    assert torch.equal(layer.limit, fitted)


def test_gains_of_normalised_layers_may_be_large(quick):
    config, dataset = training.with_data(quick(network="20n-10", threshold=8.0))
    model, optimizer = training.prepare(config, dataset)
    loop = training.Loop(config, dataset, model, optimizer)
    loop.step(torch.arange(50))
    assert model.network.layers.linear1.norm.gain.min().item() > 7


def test_blocks_in_blocks_are_folded():
    def layer():
        return Linear(5, 5, neuron=LIF(4, 3), normalise=True)

    block = Residual(Residual(layer(), layer()), layer()).eval()
    x = rand(6, 2, 5).float()
    before = block(x)
    block.fold()
    assert not [module for module in block.modules() if isinstance(module, BatchNorm)]
    torch.testing.assert_close(block(x), before)


@pytest.mark.parametrize("shared", ["last", "shortcut"])
def test_blocks_that_share_a_layer_are_folded(shared):
    def layer():
        return Linear(5, 5, neuron=LIF(4, 3), normalise=True)

    both, last = layer(), shared == "last"
    blocks = [Residual(both if last else layer(), shortcut=layer() if last else both) for _ in range(2)]
    net, x = nn.Sequential(*blocks), rand(6, 9, 5).float()
    net(x)
    before = net.eval()(x)
    for block in blocks:
        block.fold()
    torch.testing.assert_close(net(x), before)


def test_frozen_layers_stay_frozen_when_folded_or_quantised():
    net = build("5n-[5n-5n]-4", **FLAT).requires_grad_(False)
    net(torch.rand(5, 3, 5))
    net.fold()
    for layer in net.layers.children():
        if isinstance(layer, Spiking):
            layer.quantise(4)
    assert not any(weight.requires_grad for weight in net.parameters())


def test_normalisation_has_a_mode_of_its_own():
    net = build("5n-4", **FLAT).double()
    lengths, x = torch.tensor([5, 2]), torch.rand(5, 2, 5, dtype=torch.float64)
    padded = x.clone()
    padded[2:, 1] = 50
    net.eval()
    net.layers.linear1.norm.train()
    outputs = [copy.deepcopy(net)(given, lengths=lengths)[:2] for given in (x, padded)]
    assert torch.equal(*outputs)
    with pytest.raises(UserError, match="statistics of whole sequences"):
        net.part(x)
    net.train()
    net.layers.linear1.norm.eval()
    first, state = net.part(x[:2])
    torch.testing.assert_close(torch.cat([first, net.part(x[2:], state)[0]]), net(x))


def test_averages_go_with_their_statistics(quick):
    config = quick(network="6C3n-10", padding=(1,), epochs=1, average=0.8)
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    state = training.RunState()
    training.Loop(config, dataset, model, optimizer, state, training.Progress(), lambda: None).run(lambda record: None)
    assert [average.shape for average in state.average] == [tensor.shape for tensor in model.network.state_dict().values()]
    assert not torch.equal(state.average[3], model.network.layers.conv1.norm.mean)


@pytest.mark.parametrize("everywhere", [False, True])
def test_backward_hooks_see_pooling_apart(everywhere):
    net, x = network("6C3b-P2-[6C3-6C3b]-P2-4")
    net(x).sum().backward()
    expected, seen = [weight.grad.clone() for weight in net.parameters()], {}

    def hook(layer, _, gradients):
        seen[layer] = gradients[0].shape[2:]

    register = (
        [register_module_full_backward_hook] if everywhere else [layer.register_full_backward_hook for layer in net.layers]
    )
    handles = [each(hook) for each in register]
    try:
        net.zero_grad()
        net(x).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    for weight, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)
    assert seen[net.layers.conv1] == (6, 8, 8)
    assert seen[net.layers.pool1] == (6, 4, 4)
    assert seen[net.layers.block1] == (6, 4, 4)


# Classes that derive from the library's layers.


class Half(AvgPool2d):
    def forward(self, signal):
        return 0.5 * super().forward(signal)


class Capped(Conv2d):
    def forward(self, signal):
        return super().forward(signal).clamp(max=0.2)


class Third(Conv2d):
    def map(self, x):
        return super().map(x) / 3


class Quarter(Linear):
    def forward(self, signal):
        return super().forward(signal) / 4


OWN = [("conv1", Capped), ("pool1", Half), ("conv2", Third), ("linear3", Quarter), ("output", Quarter)]


def exchanged(name, kind):
    """A network that fires, with one layer made an instance of another class, and samples for it."""
    net = build("8C3-A2-8C3-20-4", conv_scale=4.0, **SETTINGS)
    getattr(net.layers, name).__class__ = kind
    return net, rand(6, 2, 8, 8).float()


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_a_class_that_overrides_a_layer_computes_what_it_says(name, kind):
    net, x = exchanged(name, kind)
    expected = net.encode(x)
    for layer in net.layers:
        expected = layer(expected)
    assert torch.equal(net(x), expected)
    assert not torch.allclose(expected, exchanged(name, kind.__base__)[0](x))
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(x).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize(("name", "kind"), OWN)
def test_no_file_holds_a_class_of_ones_own(name, kind, tmp_path):
    pytest.importorskip("nir")
    pytest.importorskip("onnx")
    net, _ = exchanged(name, kind)
    noted, known = "where its notation says", "only tsslbp's own classes are written"
    writers = ((lambda: net.save(tmp_path / "x"), noted), (lambda: chain(net), noted), (lambda: to_nir(net), known))
    for write, message in (*writers, (lambda: to_onnx(net), known)):
        with fails(rf"{name} is {__name__}\.{kind.__name__}.*{message}"):
            write()
    assert not list(tmp_path.iterdir())


def test_no_file_holds_a_network_of_ones_own_class(tmp_path):
    pytest.importorskip("nir")

    class Twice(Network):
        def forward(self, x, keys=None, lengths=None):
            return 2 * super().forward(x, keys, lengths)

    net = Twice(build("4-3", **{**SETTINGS, "input_shape": (5,), "padding": (0,)}).architecture)
    for write in (lambda: net.save(tmp_path / "net.safetensors"), lambda: to_nir(net)):
        with pytest.raises(UserError, match=rf"^the network is {__name__}\.Twice"):
            write()


def test_exports_take_weights_that_are_computed_from_others():
    pytest.importorskip("nir")
    net, x = exchanged("pool1", AvgPool2d)
    expected = net(x)
    weight_norm(net.layers.linear3)
    torch.testing.assert_close(from_nir(to_nir(net))(x), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: setattr(net.layers.linear3, "neuron", LIF(9, 3, 0.3)), r"layers.linear3 is .*tau_m=9.* says .*tau_m=5"),
        (lambda net: vars(net).update(neuron=LIF(5, 2, 0.3)), r"the network is .*tau_s=2.* says .*tau_s=3"),
        (lambda net: setattr(net, "time_steps", 9), r"the network is .*time_steps=9.* says .*time_steps=5"),
        (lambda net: setattr(net.layers, "pool1", SumPool2d(2)), r"layers.pool1 is SumPool2d.* says AvgPool2d"),
        (lambda net: setattr(net.layers.pool1, "pool", Pool(2, 1.0)), r"layers.pool1 is .*factor=1.0.* says .*factor=0.25"),
        (lambda net: setattr(net.layers.conv2, "stride", 2), r"layers.conv2 is .*stride=2.* says"),
        (lambda net: setattr(net.layers.conv2, "map", torch.sin), r"layers.conv2 is .*Conv2d with methods of its own"),
        (lambda net: weight_norm(net.layers.linear3), r"layers.linear3.parametrizations is .* where its notation says nothing"),
        (lambda net: prune.identity(net.layers.conv1, "weight"), r"layers.conv1.weight_orig is \[8, .*notation says nothing"),
        (lambda net: net.layers.append(nn.ReLU()), r"layers.6 is ReLU\(\), where its notation says nothing"),
    ],
)
def test_no_model_file_holds_what_was_changed(change, message, tmp_path):
    net, _ = exchanged("pool1", AvgPool2d)
    net.save(tmp_path / "before.safetensors")
    change(net)
    for write in (lambda: net.save(tmp_path / "net.safetensors"), lambda: chain(net)):
        with pytest.raises(UserError, match=message):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["before.safetensors"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("notation", "more"),
    [
        ("8C3n-P2-10", {"neuron": "binary"}),
        ("8C3-[8C3n-8C3n]-10", {"neuron": "binary"}),
        ("8C3n-10", {"reset": False}),
        ("16C3n-P2-16C3n-P2-10", {}),
        ("8C3-8C3g2-10", {}),
    ],
)
def test_one_picture_has_half_the_gradient_of_it_twice(notation, more, training):
    """PyTorch's normalisation and its convolutions in groups do not see to that by themselves."""
    shape = {"input_shape": (3, 8, 8), "padding": 1, "conv_scale": 3.0, "threshold": 0.3}
    net = tsslbp.build(notation, **shape, time_steps=1, tau_m=5, tau_s=2, **more).double().train(training)
    x, found = 2 * torch.rand(1, 3, 8, 8, dtype=torch.float64), []
    for batch in (x, torch.cat([x, x])):
        net.zero_grad()
        (net(batch) - 1).square().sum().backward()
        found.append([weight.grad.clone() for weight in net.parameters()])
    assert any(once.any() for once in found[0])
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(2 * once, twice)


@pytest.mark.parametrize(("notation", "size"), [("4C3-[P2-4C3]-5", 2), ("8C3-[P2-16C3]-10", 8)])
def test_a_block_that_begins_with_pooling_has_its_shortcut_around_that(notation, size):
    settings = {"padding": 1, "conv_scale": 4.0, "time_steps": 4, "tau_m": 5, "tau_s": 2}
    net = tsslbp.build(notation, input_shape=(2, size, size), **settings).double()
    x = 2 * torch.rand(3, 2, size, size, dtype=torch.float64)
    assert net.fired(net.activity(x)["output"]).any()
    torch.testing.assert_close(net(x), net.activity(x)["output"])


def test_sizes_of_layers_may_be_numpy_integers():
    two = np.int64(2)
    net = torch.nn.Sequential(Conv2d(two, 2 * two, two, stride=(two, 1), groups=two, neuron=NEURON), SumPool2d(two))
    conv = net[0]
    assert [type(x) for x in (*conv.stride, conv.padding, conv.groups, net[1].size, Vote(two).voters)] == [int] * 6
    assert net(torch.rand(3, 1, 2, 6, 6)).shape == (3, 1, 4, 1, 2)


def test_modules_of_others_take_static_samples_in_full():
    """They know nothing of constant currents: before the first layer, and first in a block."""
    net, x = build("4-3", **FLAT), torch.rand(2, 5)
    block = Residual(nn.Hardtanh(), Linear(5, 5, neuron=NEURON))
    net.layers = nn.Sequential(OrderedDict(before=nn.Hardtanh(), block=block, **dict(net.layers.named_children())))
    whole = net(x)
    torch.testing.assert_close(whole, net(x.expand(net.time_steps, *x.shape)))
    first, state = net.part(x, steps=2)
    torch.testing.assert_close(torch.cat([first, net.part(x, state, net.time_steps - 2)[0]]), whole)
