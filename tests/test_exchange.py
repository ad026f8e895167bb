"""NIR graphs: written, read, refused. What other libraries make of them is in test_simulators.py."""

import contextlib
import copy
import json
import logging
import math
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from graphs import NETWORKS, cuba, foreign, full, lif, lively, network_of, samples, spikes, weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tsslbp
from tsslbp import UserError, cli, layers, training
from tsslbp.exchange import layers as same
from tsslbp.layers.pooling import POOL_FACTOR
from tsslbp.neuron import LIF, delayed, membrane_potential
from tsslbp.training.model import as_model
from tsslbp.utils.signals import expanded, within

nir = pytest.importorskip("nir", reason="NIR files need the package nir")
h5py = pytest.importorskip("h5py")

from tsslbp.exchange.certificate import guaranteed  # noqa: E402
from tsslbp.exchange.check import check, driven, lines  # noqa: E402
from tsslbp.exchange.graph import write as content  # noqa: E402
from tsslbp.exchange.nir import from_nir, read, to_nir, write  # noqa: E402
from tsslbp.exchange.simulators import Simulator, _quiet, equations  # noqa: E402

SHIPPED = Path(__file__).parent.parent / "models/fashion-mnist-fc-best.safetensors"


def differing(net, graph, x, dtype=torch.float64):
    """Spikes of the network, and how many of a graph's differ, by layer."""
    ours, theirs = spikes(net, x, dtype), spikes_by_layer(graph, x.to(dtype))
    return {name: (int(train.sum()), int((train ^ theirs[name][..., : train.shape[2]]).sum())) for name, train in ours.items()}


def spikes_by_layer(graph, x):
    made = {name.removesuffix("_neurons"): train for name, train in equations(graph, driven(graph, x)).items()}
    return {name.replace("_", ".") if name.startswith("block") else name: train for name, train in made.items()}


@pytest.mark.parametrize("bias", ["leak", "onset"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_graph_has_the_networks_spikes(name, bias):
    net = network_of(name)
    found = differing(net, to_nir(net, bias), samples(net))
    assert all(fired and not wrong for fired, wrong in found.values()), found


def test_an_onset_spikes_at_the_first_step_alone():
    net = network_of("normalised")
    graph = to_nir(net, "onset")
    assert list(graph.nodes["input"].input_type["input"]) == [2, 10, 10]
    own = spikes(net, samples(net), torch.float64)
    for name, train in spikes_by_layer(graph, samples(net).double()).items():
        if name != "output":
            onset = train[..., own[name].shape[2] :]
            assert onset[0].all()
            assert not onset[1:].any()


def test_an_onset_leaves_biases_of_maps():
    """Those behind a synapse of τs = 1, while others have leaks."""
    net = tsslbp.build("12b-6b", input_shape=(7,), time_steps=5, tau_m=5, tau_s=1, learn="tau_s")
    with torch.no_grad():
        for name, x in net.named_parameters():
            x.fill_(2.0) if name.endswith("tau_s") else x.fill_(0.3) if name.endswith("bias") else None
    found = differing(net.eval(), to_nir(net, "onset"), samples(net))
    assert all(fired and not wrong for fired, wrong in found.values()), found
    x = samples(net)
    assert torch.equal(from_nir(to_nir(net, "onset"))(x), net(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: setattr(net.layers.output, "neuron", LIF(5, 2)), r"\(tau_m, tau_s, reset\) of output is \(5, 2, True\)"),
        (lambda net: setattr(net.layers[-1], "voters", 3), r"the votes for a class is \[3\]"),
        (lambda net: setattr(net, "time_steps", 9), "time_steps is 9, where the network's settings say 6"),
    ],
)
def test_what_a_file_would_give_back_otherwise_is_refused(change, said):
    net = tsslbp.build("9-6-V2", input_shape=(7,), time_steps=6, tau_m=5, tau_s=3)
    change(net)
    with pytest.raises(UserError, match=said):
        to_nir(net)


def test_an_onset_that_was_changed_is_refused():
    graph = to_nir(network_of("biased"), "onset")
    graph.nodes["linear1_weights"].weight[0, -1] += 1
    with pytest.raises(UserError, match=r"'linear1_weights' .* has other weights from the onset"):
        from_nir(graph)


def test_an_onset_around_a_block_is_refused():
    net = lively(tsslbp.build("[7b-7b]-5", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3))
    assert all(fired and not wrong for fired, wrong in differing(net, to_nir(net), samples(net)).values())
    with pytest.raises(UserError, match=r"an onset channel does not go around a residual block; export with --bias leak"):
        to_nir(net, "onset")


def test_an_onset_needs_a_weight_that_meets_no_padding():
    net = tsslbp.build("3C3b-5", input_shape=(1, 6, 6), time_steps=5, tau_m=5, tau_s=3, padding=3)
    with pytest.raises(UserError, match=r"'conv1_weights' .* is padded too far"):
        to_nir(lively(net), "onset")


def test_importers_are_quiet_and_leave_the_users_logging_as_it_was():
    logging.disable(logging.ERROR)
    try:
        with _quiet():
            assert logging.root.manager.disable == logging.ERROR
        assert logging.root.manager.disable == logging.ERROR
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("bias", ["leak", "onset"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_trip_keeps_every_bit(name, bias, tmp_path):
    net = network_of(name)
    write(to_nir(net, bias), tmp_path / "a.nir")
    back = from_nir(tmp_path / "a.nir")
    net.fold()
    assert back.architecture == net.architecture
    assert back.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(weight, back.state_dict()[key]) for key, weight in net.state_dict().items())
    x = samples(net, sequence=False)
    assert torch.equal(back(x), net(x))
    assert to_nir(net).nodes.keys() == nir.read(tmp_path / "a.nir").nodes.keys()  # nir's own type check passes


@pytest.mark.parametrize(
    "conv",
    [
        {"groups": 2},
        {"dilation": 2},
        {"dilation": (1, 2), "stride": (2, 1), "padding": (0, 2)},
        {"kernel_size": (1, 5), "padding": (0, 2)},
        {"kernel_size": (3, 1), "padding": (1, 0), "groups": 4, "bias": True},
    ],
    ids=str,
)
def test_any_convolution_of_the_layers_is_written(conv, tmp_path):
    torch.manual_seed(1)
    net = tsslbp.build("4C3-8C3-5", input_shape=(2, 11, 12), time_steps=6, tau_m=5, tau_s=3, padding=1)
    made = layers.Conv2d(4, 8, **{"kernel_size": 3, "neuron": LIF(5, 3), "scale": 2.0, **conv})
    net.layers.conv2 = made
    width = made(torch.zeros(1, 1, 4, 11, 12)).flatten(2).shape[2]
    net.layers.output = layers.Linear(width, 5, neuron=LIF(5, 3))
    write(to_nir(lively(net)), tmp_path / "a.nir")
    graph, x = nir.read(tmp_path / "a.nir"), samples(net)
    found = differing(net, graph, x)
    assert all(fired and not wrong for fired, wrong in found.values()), found
    if "stride" not in conv:
        assert torch.equal(from_nir(tmp_path / "a.nir")(x), net(x))


sizes = st.integers(1, 4)


@given(
    kernel=st.tuples(sizes, sizes),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    groups=st.integers(1, 3),
)
def test_zeros_among_the_weights_change_nothing(kernel, padding, dilation, stride, groups):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-3, 4, (2 * groups, 2, *kernel), generator=generator).double()
    x = torch.randint(0, 5, (2, 2 * groups, 13, 11), generator=generator).double()
    wanted = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    dense = same.ungrouped(weight.numpy(), groups)
    assert np.array_equal(same.grouped(dense, groups), weight.numpy())
    assert groups == 1 or same.grouped(dense + 1, groups) is None
    assert torch.equal(F.conv2d(x, torch.from_numpy(dense), None, stride, padding, dilation), wanted)
    if square := same.squared(dense, padding, dilation):
        whole, more = square
        assert whole.shape[2] == whole.shape[3]
        assert torch.equal(F.conv2d(x, torch.from_numpy(whole), None, stride, more, dilation), wanted)
    plain = same.undilated(dense, dilation)
    assert torch.equal(F.conv2d(x, torch.from_numpy(plain), None, stride, padding), wanted)
    if found := same.common(plain, padding, stride, x.shape[2:], wanted.shape[2:]):
        whole, wide = found
        assert whole.shape[2] == whole.shape[3]
        assert torch.equal(F.conv2d(x, torch.from_numpy(whole), None, stride, wide), wanted)
    else:
        assert len(set(zip(plain.shape[2:], padding, strict=True))) > 1


def test_a_model_keeps_preparation_and_classes():
    model = tsslbp.load(SHIPPED)
    found = read(to_nir(model))
    assert found.assumed == ()
    assert found.model.about() == {key: value for key, value in model.about().items() if key != "trained"}
    metadata = to_nir(model).metadata
    assert (metadata["dt"], metadata["time_steps"]) == (1e-4, 5)
    assert metadata["classes"].split("\n") == list(model.classes)


def test_constants_are_written_in_float64():
    hidden = to_nir(network_of("linear")).nodes["linear1_neurons"]
    assert (hidden.tau_mem == 4.5 * 1e-4).all()
    assert (hidden.tau_syn == 2.5 * 1e-4).all()
    assert (hidden.r == 4.5).all()


def test_the_metadata_tell_how_to_decode():
    net = network_of("linear")
    x = samples(net)
    train = equations(to_nir(net), x.double())["output_neurons"].double()
    a = net.double()(x.double()).sum(0)
    left = net.time_steps - torch.arange(net.time_steps).view(-1, 1, 1)
    torch.testing.assert_close((train * (1 - (1 - 1 / net.neuron.tau_s) ** left)).sum(0), a)


def swapped(name, layer):
    net = network_of("linear")
    setattr(net.layers, name, layer)
    return net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: tsslbp.build("9A-5", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3),
            "'recurrent1' has adaptive thresholds",
        ),
        (
            lambda: tsslbp.build("9-5", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3, reset=False),
            "'linear1' has neurons without",
        ),
        (lambda: tsslbp.build("9-5", input_shape=(7,), time_steps=5, tau_m=math.inf, tau_s=3), "'linear1' has tau_m inf"),
        (lambda: tsslbp.build("3C3-M2-5", input_shape=(1, 9, 9), time_steps=5, tau_m=5, tau_s=3), "'pool1' is MaxPool2d"),
        (lambda: tsslbp.build("3C3-P2-5", input_shape=(1, 9), time_steps=5, tau_m=5, tau_s=3), "'pool1' is SumPool1d"),
        (
            lambda: tsslbp.build("9-5", input_shape=(7,), time_steps=5, tau_m=5, tau_s=3, neuron="relu"),
            "relu units has no spikes",
        ),
        (lambda: swapped("linear1", layers.Conv2d(1, 1, (2, 3), neuron=LIF(4.5, 2.5))), "2×3 kernel"),
        (lambda: swapped("linear1", nn.ReLU()), "'linear1' is ReLU"),
    ],
)
def test_what_nir_cannot_say_is_refused(make, said):
    net = make()
    if "kernel" in said:
        net.architecture = replace(net.architecture, input_shape=(1, 7, 7))
    with pytest.raises(UserError, match=said):
        to_nir(net)


@pytest.mark.parametrize("change", ["none", "no lateral weights", "transposed", "tau_m", "threshold", "bias"])
def test_a_check_tells_networks_apart(change):
    net = network_of("recurrent and biased")
    graph, x = to_nir(net), samples(net)
    hidden, lateral = graph.nodes["recurrent1_neurons"], graph.nodes["recurrent1_lateral"]
    match change:
        case "no lateral weights":
            lateral.weight = lateral.weight * 0
        case "transposed":
            lateral.weight = lateral.weight.T.copy()
        case "tau_m":
            hidden.tau_mem = hidden.tau_mem * 1.1
        case "threshold":
            hidden.v_threshold = hidden.v_threshold * 1.1
        case "bias":
            hidden.v_leak = hidden.v_leak * 0
    checked = check(net, graph, x, {"here": Simulator("", equations)})
    _, double = checked.comparisons
    assert (double.total > 0) == (change != "none")
    assert double.of == {"recurrent1": 7 * 20 * 12, "output": 7 * 20 * 10}
    assert checked.guaranteed[torch.float64] == checked.samples == 20
    assert "here, float64: " in "\n".join(lines(checked))


@pytest.mark.parametrize("name", ["a longer synapse first", "voltages behind a synapse"])
def test_an_imported_graph_is_checked_again(name):
    net = from_nir(FOREIGN[name](), time_steps=8)
    checked = check(net, to_nir(net), samples(net), {"here": Simulator("", equations)})
    assert [each.total for each in checked.comparisons][1] == 0
    assert checked.guaranteed[torch.float64] == 20
    told = "the output is read from its voltage: its answers are compared, and the spikes of the other layers"
    assert (told in lines(checked)) == (name == "voltages behind a synapse")


@pytest.mark.parametrize("notation", ["10", "12b-20-V2"])
def test_answers_are_compared_where_the_output_is_a_voltage(notation):
    torch.manual_seed(0)
    net = lively(tsslbp.build(notation, input_shape=(7,), time_steps=7, tau_m=4.5, tau_s=2.5, readout="voltage"))
    graph, here = to_nir(net), {"here": Simulator("", equations)}
    assert all(
        "neuron steps and 0 of 20 answers differ" in line for line in list(lines(check(net, graph, samples(net), here)))[:2]
    )
    graph.nodes["output_neurons"].tau_mem *= 4
    graph.nodes["output_neurons"].r[1] *= 9
    _, double = check(net, graph, samples(net), here).comparisons
    assert double.answers > 0
    assert double.total == 0


def test_steps_after_the_end_of_a_sequence_are_not_compared():
    net = network_of("linear")
    x, ends = samples(net, 12), torch.arange(12) % net.time_steps + 1

    def silent_afterwards(graph, x):
        return {name: within(train, ends) for name, train in equations(graph, x).items()}

    for lengths, differ in ((None, True), (ends, False)):
        checked = check(net, to_nir(net), x, {"here": Simulator("", silent_afterwards)}, lengths=lengths)
        assert (checked.comparisons[-1].total > 0) == differ
    assert sum(checked.comparisons[-1].of.values()) == int(ends.sum()) * sum(
        len(layer.weight) for _, layer in net.named_layers() if isinstance(layer, layers.Linear)
    )


@pytest.mark.parametrize("change", [lambda layer: layer.register_forward_hook(print), lambda layer: prune_some(layer)])
def test_hooks_are_refused(change):
    net = network_of("linear")
    change(net.layers.linear1)
    with pytest.raises(UserError, match=r"layers\.linear1 has forward hooks, which no file holds; remove them"):
        to_nir(net)


def prune_some(layer):
    torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.5)


def test_a_simulator_that_refuses_is_told():
    def run(graph, x):
        raise ValueError("no such thing\nat all")

    net = network_of("linear")
    told = list(lines(check(net, to_nir(net), samples(net), {"other": Simulator("", run)})))
    assert told[0] == "other, float32: does not run it (ValueError: no such thing)"


def test_a_tie_is_not_guaranteed():
    net = network_of("linear")
    x = torch.zeros(net.time_steps, 3, 7, dtype=torch.float64)
    first = net.layers.linear1.weight
    first.data[:] = 0.0
    first.data[0, 0] = 2.0
    x[0, :, 0] = torch.tensor([1.25, 1.25 * (1 + 1e-9), 1.26], dtype=torch.float64)  # a tie: 2·1.25/2.5 is the threshold
    proof = guaranteed(net, x, (torch.float32, torch.float64))
    assert proof[torch.float32].tolist() == [False, False, True]
    assert proof[torch.float64].tolist() == [False, True, True]


@pytest.mark.parametrize("name", ["linear", "convolutional", "recurrent", "normalised"])
def test_what_is_guaranteed_holds_in_another_order_of_summation(name):
    net = network_of(name)
    x = samples(net, 60)
    safe = guaranteed(net, x, (torch.float32,))[torch.float32]
    assert safe.any()
    exact, single = spikes(net, x, torch.float64), equations(to_nir(net), x)
    for layer, train in exact.items():
        assert not (train ^ single[f"{layer}_neurons"])[:, safe].any()


@pytest.mark.parametrize(
    ("notation", "shape"),
    [
        ("1-2", (2000,)),
        ("[2-1]-2", (2000,)),
        ("P40-1C1-2", (1, 40, 40)),
        ("[P40-1C1]-2", (1, 40, 40)),
        ("P40-[1C1]-2", (1, 40, 40)),
    ],
)
def test_a_sum_that_float32_may_lose_is_not_guaranteed(notation, shape):
    """Numbers that are each lost if they are added to 1; the neuron spikes by half of their sum."""
    rest = math.prod(shape) - 1
    net = tsslbp.build(notation, input_shape=shape, time_steps=1, tau_m=5, tau_s=1, threshold=1 + rest * 2.0**-26).eval()
    first, *_ = (layer for layer in net.layers if isinstance(layer, layers.Spiking | layers.Residual))
    block = first if isinstance(first, layers.Residual) else None
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(0)
        ones = first if block is None else block.last if len(shape) > 1 else block.shortcut
        ones.weight.fill_("P40-[" not in notation)
    x = torch.full((1, *shape), 2.0**-25)
    x.view(-1)[0] = 1
    x /= POOL_FACTOR if "P" in notation else 1
    *_, hidden, _ = spikes(net, x, torch.float64).values()
    assert hidden.all()
    proof = guaranteed(net, x, (torch.float32, torch.float64))
    assert (proof[torch.float32].tolist(), proof[torch.float64].tolist()) == ([False], [True])


@pytest.mark.parametrize(("notation", "shape"), [("P8-1C1-2", (1, 8, 8)), ("[P8-1C1]-2", (1, 8, 8)), ("2", (2000,))])
def test_a_sum_that_cancels_before_a_map_is_not_guaranteed(notation, shape):
    """Large numbers cancel in a window of pooling, or in the synapse; the neuron spikes by half of what is left."""
    small, images = 2.0**-25, len(shape) > 1
    net = tsslbp.build(notation, input_shape=shape, time_steps=2, tau_m=5, tau_s=1 if images else 3).eval()
    x = torch.full((2, 1, *shape), small)
    x[:, 0].view(2, -1)[:, 0] = torch.tensor([1.0, 1.0] if images else [3.0, -2.0])
    x[:, 0].view(2, -1)[:, -1] = -1 if images else small
    x[0, :, 1:] *= images
    left = POOL_FACTOR * float(x[0].double().sum()) if images else (math.prod(shape) - 1) * small / 3
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(0)
        next(layer for layer in net.modules() if isinstance(layer, layers.Conv2d if images else layers.Linear)).weight.fill_(
            2 / left
        )
    proof = guaranteed(net, x, (torch.float32, torch.float64))
    assert (proof[torch.float32].tolist(), proof[torch.float64].tolist()) == ([False], [True])


FEW = {"bits": "4", "per_neuron": ("threshold",), "spread": 0.1}


@pytest.mark.parametrize(
    ("notation", "shape", "more"),
    [
        ("60-10", (30,), FEW),
        ("40C3-10", (2, 6, 6), FEW),
        ("60R-10", (30,), FEW),
        ("60-10", (30,), {**FEW, "standardise": True}),
        ("[9-30]-10", (9,), FEW),
        ("60n-10", (30,), {"per_neuron": ("threshold",), "spread": 0.1}),
        ("60-10", (30,), {"per_neuron": ("threshold",), "spread": 0.1, "standardise": True}),
    ],
)
def test_no_guaranteed_sample_differs(notation, shape, more):
    torch.manual_seed(0)
    net = lively(tsslbp.build(notation, input_shape=shape, time_steps=7, tau_m=4, tau_s=4, **more))
    x = samples(net, 60)
    on_edge(net, x)
    graph = to_nir(net)
    safe = guaranteed(net, x, (torch.float64,))[torch.float64]
    assert safe.sum() > 50
    ours, theirs = spikes(net, x, torch.float64), spikes_by_layer(graph, x.double())
    assert all(train.any() and not (train ^ theirs[name])[:, safe].any() for name, train in ours.items())


def on_edge(net, x):
    """Put thresholds so close to a potential that the last digit of a weight in float32 decides whether a neuron spikes.

    Half of a recurrent layer hears the other half alone, and so has its potential at the second step.
    """
    for layer in net.modules():
        if isinstance(layer, layers.Recurrent):
            layer.weight.data[len(layer.weight) // 2 :] = 0
    whole = copy.deepcopy(net).double()
    whole.fold()

    def cross(name, layer, signal, *_):
        current, step, first = expanded(layer.current(signal)), 0, 0
        if isinstance(layer, layers.Recurrent):
            current = current + F.linear(delayed(layer(signal)), layer.effective_lateral())
            step, first = 1, len(layer.weight) // 2
        u = membrane_potential(current, layer.neuron)[step].unsqueeze(-1).flatten(2)[..., 0]
        near = u[torch.arange(u.shape[1]) % len(u), torch.arange(u.shape[1])].float()
        near = torch.where((near > 0.1) & (torch.arange(len(near)) >= first), near, layer.threshold.float())
        for each in (layer, net.layers.get_submodule(name)):
            each.threshold.data.copy_(near)
        return layer(signal)

    with torch.no_grad():
        for _ in whole.walk(whole.encode(x.double()), cross):
            pass


def varied(node, seed=3):
    """A neuron node with other thresholds, resistances and leaks for each neuron."""
    random = np.random.default_rng(seed)
    node.v_threshold = node.v_threshold * random.uniform(0.7, 1.3, node.v_threshold.shape)
    node.r = node.r * random.uniform(0.7, 1.3, node.r.shape)
    if hasattr(node, "v_leak"):
        node.v_leak = random.uniform(-0.2, 0.2, node.v_leak.shape)
    return node


def around(shortcut, n=6, **constants):
    """Two layers, the first of which gets a shortcut from the input."""
    nodes = (nir.Linear(weights(n, 7)), lif(n, **constants), nir.Linear(weights(5, n)), lif(), shortcut)
    edges = [*pairwise(["in", "n0", "n1", "n2", "n3", "out"]), ("in", "n4"), ("n4", "n1")]
    return foreign(*nodes, edges=edges)


def three(*more, second=None, edges=()):
    """Three layers and more nodes, with these edges beside those from layer to layer."""
    first = nir.Linear(weights(7, 7)), lif(7), nir.Linear(weights(7, 7, 1)), second or lif(7)
    row = pairwise(["in", *(f"n{i}" for i in range(6)), "out"])
    return foreign(*first, nir.Linear(weights(5, 7, 2)), lif(), *more, edges=[*row, *edges])


def hearing_itself(through, neurons=None):
    """Neurons that hear themselves through a node, and others behind them."""
    edges = [("in", "n0"), ("n0", "n1"), ("n1", "n2"), ("n2", "n1"), ("n1", "n3"), ("n3", "n4"), ("n4", "out")]
    return foreign(nir.Linear(weights(5, 7)), neurons or lif(), through, nir.Linear(weights(5, 5)), lif(), edges=edges)


FOREIGN = {
    "LIF": lambda: foreign(nir.Linear(weights(9, 7)), lif(9), nir.Linear(weights(5, 9, 1)), lif()),
    "LIF, decaying input": lambda: foreign(nir.Affine(weights(5, 7), full(5, 0.1)), lif(r=3.0, threshold=1.0)),
    "IF": lambda: foreign(
        nir.Affine(weights(5, 7), full(5, 0.1)), nir.IF(r=full(5, 1e4), v_threshold=full(5, 2.0), v_reset=full(5, 0))
    ),
    "CubaLIF": lambda: foreign(nir.Linear(weights(9, 7)), cuba(9), nir.Linear(weights(5, 9, 1)), cuba()),
    "every neuron its own": lambda: foreign(
        nir.Linear(weights(9, 7)), varied(cuba(9)), nir.Linear(weights(5, 9, 1)), varied(cuba())
    ),
    "LIF, every neuron its own": lambda: foreign(nir.Affine(weights(5, 7), full(5, 0.1)), varied(lif())),
    "time constants of their own": lambda: foreign(
        nir.Linear(weights(9, 7)),
        cuba(9, tau_mem=np.linspace(3e-4, 8e-4, 9)),
        nir.Linear(weights(5, 9, 1)),
        cuba(tau_syn=4e-4, tau_mem=5e-4),
    ),
    "a longer synapse first": lambda: foreign(
        nir.Linear(weights(9, 7)), cuba(9, tau_syn=4e-4), nir.Linear(weights(5, 9, 1)), cuba(tau_syn=2e-4)
    ),
    "voltages behind a synapse": lambda: foreign(
        nir.Linear(weights(9, 7)),
        cuba(9, tau_syn=5e-4),
        nir.Linear(weights(5, 9, 1)),
        nir.LI(full(5, 3e-4), full(5, 1), full(5, 0)),
    ),
    "shortcuts": lambda: foreign(
        nir.Linear(weights(6, 7)),
        lif(6),
        nir.Linear(weights(9, 6, 1)),
        lif(9),
        nir.Linear(weights(6, 9, 2)),
        lif(6),
        nir.Linear(weights(5, 6, 3)),
        lif(),
        nir.Linear(weights(5, 5, 4)),
        lif(),
        nir.Linear(weights(5, 6, 5)),
        edges=[
            *[(a, b) for a, b in pairwise(["in", *(f"n{i}" for i in range(10)), "out"])],
            *[("n1", "n5"), ("n5", "n10"), ("n10", "n7")],
        ],
    ),
    "a shortcut through a scale": lambda: around(nir.Scale(full(7, 0.5)), 7),
    "a scale beside a straight shortcut": lambda: foreign(
        nir.Linear(weights(6, 7)),
        lif(6),
        nir.Scale(full(6, 2.0)),
        nir.Linear(weights(6, 6, 1)),
        lif(6),
        nir.Linear(weights(5, 6, 2)),
        lif(),
        edges=[*pairwise(["in", *(f"n{i}" for i in range(7)), "out"]), ("n1", "n4")],
    ),
    "a shortcut of kernels": lambda: foreign(
        nir.Conv2d((8, 9), weights(3, 18).reshape(3, 2, 3, 3), (2, 2), (1, 1), (1, 1), 1, full(3, 0.1)),
        lif((3, 4, 5)),
        nir.Linear(weights(5, 60)),
        lif(),
        nir.Conv2d((8, 9), weights(3, 2, 4).reshape(3, 2, 1, 1), (2, 2), (0, 0), (1, 1), 1, full(3, 0.0)),
        nir.Flatten({"input": np.array([3, 4, 5])}, start_dim=0),
        shape=(2, 8, 9),
        made=5,
        edges=[("in", "n0"), ("n0", "n1"), ("in", "n4"), ("n4", "n1"), ("n1", "n5"), ("n5", "n2"), ("n2", "n3"), ("n3", "out")],
    ),
    "scales": lambda: foreign(
        nir.Scale(np.linspace(0.5, 2, 7)),
        nir.Affine(weights(9, 7), full(9, 0.1)),
        nir.Scale(np.linspace(0.5, 2, 9)),
        lif(9),
        nir.Scale(full(9, 0.7)),
        nir.Linear(weights(5, 9, 1)),
        lif(),
    ),
    "scales of channels": lambda: foreign(
        nir.Scale(np.linspace(0.5, 2, 2)[:, None, None] * np.ones((2, 8, 8))),
        nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.Conv2d((4, 4), weights(4, 9).reshape(4, 1, 3, 3), (1, 1), (1, 1), (1, 1), 2, full(4, 0.1)),
        lif((4, 4, 4)),
        nir.Scale(np.linspace(0.5, 2, 64).reshape(4, 4, 4)),
        nir.Flatten({"input": np.array([4, 4, 4])}, start_dim=0),
        nir.Linear(weights(5, 64, 1)),
        lif(),
        shape=(2, 8, 8),
    ),
    "one number for all": lambda: foreign(nir.Linear(weights(5, 7)), cuba(1)),
    "a kernel as large as what enters it": lambda: foreign(
        nir.Conv2d((5, 7), weights(6, 42).reshape(6, 2, 3, 7), (1, 2), (0, 0), (2, 1), 1, full(6, 0.1)),
        lif((6, 1, 1), threshold=2.0),
        nir.Flatten({"input": np.array([6, 1, 1])}, start_dim=0),
        nir.Linear(weights(5, 6, 1)),
        lif(),
        shape=(2, 5, 7),
    ),
    "pools": lambda: foreign(
        nir.Conv2d((10, 10), weights(3, 18).reshape(3, 2, 3, 3), (1, 1), "same", (1, 1), 1, full(3, 0.1)),
        lif((3, 10, 10), threshold=3.0),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.Conv2d((5, 5), weights(4, 12).reshape(4, 3, 2, 2), 1, "valid", 1, 1, full(4, 0.0)),
        lif((4, 4, 4), threshold=1.0),
        nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.Flatten({"input": np.array([4, 2, 2])}, start_dim=0),
        nir.Linear(weights(5, 16)),
        lif(),
        shape=(2, 10, 10),
    ),
    "a layer that hears itself": lambda: nir.NIRGraph(
        {
            "in": nir.Input(np.array([7])),
            "w": nir.Linear(weights(6, 7)),
            "rnn": nir.NIRGraph(
                {
                    "input": nir.Input(np.array([6])),
                    "lif": lif(6),
                    "w_rec": nir.Affine(weights(6, 6, 2), full(6, 0.1)),
                    "output": nir.Output(np.array([6])),
                },
                [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
                type_check=False,
            ),
            "w2": nir.Linear(weights(5, 6, 4)),
            "lif2": lif(),
            "out": nir.Output(np.array([5])),
        },
        [("in", "w"), ("w", "rnn"), ("rnn", "w2"), ("w2", "lif2"), ("lif2", "out")],
        type_check=False,
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_graphs_have_the_same_spikes_here(name):
    graph = FOREIGN[name]()
    net = from_nir(graph, time_steps=8)
    torch.manual_seed(2)
    x = torch.rand(8, 30, *net.architecture.input_shape) * 2
    ours = spikes(net, x, torch.float64)
    flat = nested_free(graph)
    theirs = equations(flat, x.double())
    if not net.architecture.spikes_last:
        *_, voltage = copy.deepcopy(net).double().activity(x.double()).values()
        torch.testing.assert_close(voltage, theirs.pop(list(theirs)[-1]), rtol=1e-5, atol=1e-9)  # weights are float32
    for train, other in zip(ours.values(), theirs.values(), strict=True):
        assert train.any()
        assert not train.all()
        assert not (train ^ other).any()


def nested_free(graph):
    """The same graph without one inside the other."""
    from tsslbp.exchange.graph import _unfolded

    nodes, edges = _unfolded(graph)
    return nir.NIRGraph(nodes, sorted(edges), type_check=False)


@pytest.mark.parametrize("biased", ["n2", "n7"])
def test_a_map_with_a_bias_is_no_shortcut_whatever_its_name(biased):
    maps = {"n2": nir.Linear(weights(5, 9, 1)), "n7": nir.Linear(weights(5, 9, 2))}
    maps[biased] = nir.Affine(maps[biased].weight, full(5, 0.2))
    nodes = (nir.Linear(weights(9, 7)), lif(9), maps["n2"], lif(), nir.Linear(weights(5, 5, 3)), lif(), lif(), maps["n7"])
    edges = [*pairwise(["in", "n0", "n1", "n2", "n3", "n4", "n5", "out"]), ("n1", "n7"), ("n7", "n3")]
    graph = foreign(*nodes, edges=edges)
    del graph.nodes["n6"]
    assert from_nir(graph).architecture.network == "9-[5b]-5"


def test_plain_constants_leave_weights_as_they_are():
    net = from_nir(foreign(nir.Linear(weights(9, 7)), lif(9), nir.Linear(weights(5, 9, 1)), lif(r=1.0)))
    assert net.architecture.threshold == pytest.approx(1.2)  # 0.4·τm/r
    assert torch.equal(net.layers.linear1.weight, torch.from_numpy(weights(9, 7)))


REFUSED = {
    "has tau_syn from 4 to 8": lambda: foreign(nir.Linear(weights(5, 7)), cuba(tau_syn=np.linspace(4e-4, 8e-4, 5))),
    "some neurons are IF, which do not leak": lambda: foreign(
        nir.Linear(weights(5, 7)),
        lif(),
        nir.Linear(weights(5, 5)),
        nir.IF(r=full(5, 1), v_threshold=full(5, 1), v_reset=full(5, 0)),
    ),
    "less than a step of 0.0001 s.*--dt 1e-6": lambda: foreign(nir.Linear(weights(5, 7)), lif(tau=1e-5)),
    "'n1' .* resets to another potential": lambda: foreign(nir.Linear(weights(5, 7)), cuba(v_reset=-0.1)),
    "'n0' .* has a bias that goes through the synapse": lambda: foreign(nir.Affine(weights(5, 7), full(5, 0.1)), cuba()),
    "threshold that is not positive": lambda: foreign(nir.Linear(weights(5, 7)), lif(threshold=0.0)),
    "threshold that is not positive and": lambda: foreign(nir.Linear(weights(5, 7)), lif(threshold=1e-60)),
    "threshold that is not positive and finite in float32": lambda: foreign(nir.Linear(weights(5, 7)), lif(threshold=1e39)),
    "'n1' .* has a v_threshold that is not finite": lambda: foreign(nir.Linear(weights(5, 7)), lif(threshold=np.nan)),
    "'n0' .Linear. has a weight of complex numbers": lambda: foreign(nir.Linear(weights(5, 7) + 0j), lif()),
    "'n2' .Linear. has a weight of complex numbers": lambda: hearing_itself(nir.Linear(weights(5, 5) + 0j)),
    "'n2' .Affine. has a bias of complex numbers": lambda: hearing_itself(nir.Affine(weights(5, 5), full(5, 1j, complex))),
    "weight that is not finite": lambda: foreign(nir.Linear(weights(5, 7) * np.inf), lif()),
    "'n0' .* has weights .5, 8.; what enters it has 7": lambda: foreign(nir.Linear(weights(5, 8)), lif()),
    r"'n1' .* of shape \[4\]; node 'n0' \(Linear\) makes \[5\]": lambda: foreign(nir.Linear(weights(5, 7)), lif(4)),
    "'n1' .Linear. follows node 'n0'": lambda: foreign(nir.Linear(weights(9, 7)), nir.Linear(weights(5, 9)), lif()),
    "'n0' .LIF. has no weights before it": lambda: foreign(lif(7), nir.Linear(weights(5, 7)), lif()),
    "must end with a Linear or Affine map and its neurons": lambda: foreign(nir.Linear(weights(5, 7))),
    "'n0' .Conv2d. makes .200\\d\\d\\d\\d, ": lambda: foreign(
        nir.Conv2d((9, 9), weights(3, 9).reshape(3, 1, 3, 3), 1, 10**6, 1, 1, full(3, 0)),
        lif(3),
        nir.SumPool2d(np.array([10**6] * 2), np.array([10**6] * 2), np.array([0, 0])),
        shape=(1, 9, 9),
    ),
    "by padding .2000000, 1. and a kernel .2000001, 3. wide": lambda: foreign(
        nir.Conv2d((9, 9), weights(30, 270).reshape(30, 30, 3, 3), 1, (2 * 10**6, 1), (10**6, 1), 1, full(30, 0)),
        shape=(30, 9, 9),
    ),
    "has shape .1, 100000, 100000., which is more": lambda: foreign(lif(), shape=(1, 10**5, 10**5)),
    "'n1' .LI. does not spike": lambda: foreign(
        nir.Linear(weights(5, 7)), nir.LI(full(5, 1e-3), full(5, 1), full(5, 0)), nir.Linear(weights(5, 5)), lif()
    ),
    "'n1' .Delay. delays what goes through it": lambda: foreign(nir.Linear(weights(5, 7)), nir.Delay(full(5, 1e-3)), lif()),
    "'n2' .CubaLI. has no weights before it": lambda: foreign(
        nir.Linear(weights(5, 7)),
        lif(),
        nir.CubaLI(full(5, 2e-4), full(5, 1e-3), full(5, 1), full(5, 0)),
    ),
    "'n0' .Scale. has a scale of shape .3.": lambda: foreign(nir.Scale(full(3, 2.0)), nir.Linear(weights(5, 7)), lif()),
    "Linear or Affine map and its neurons, one for each class": lambda: foreign(
        nir.Linear(weights(5, 7)), lif(), nir.Scale(np.arange(5.0))
    ),
    "Linear or Affine map and its neurons": lambda: foreign(nir.Linear(weights(5, 7)), lif(), nir.Scale(full(1, 2.0))),
    "'n1' .Scale. is scaled by factors that differ within a channel": lambda: foreign(
        nir.Conv2d((4, 4), weights(2, 9).reshape(2, 1, 3, 3), 1, 0, 1, 1, full(2, 0)),
        nir.Scale(np.arange(8.0).reshape(2, 2, 2)),
        shape=(1, 4, 4),
    ),
    "hears its shortcut by a synapse of 2 steps, and the block": lambda: foreign(
        nir.Linear(weights(7, 7)),
        cuba(7, tau_syn=3e-4),
        nir.Linear(weights(7, 7)),
        cuba(7),
        nir.Linear(weights(5, 7)),
        cuba(),
        edges=[*pairwise(["in", *(f"n{i}" for i in range(6)), "out"]), ("in", "n3")],
    ),
    "has weights .5, 7. on a shortcut; here these": lambda: around(nir.Linear(weights(5, 7))),
    "'n4' .Affine. has a bias on a shortcut": lambda: foreign(
        nir.Linear(weights(9, 7)),
        lif(9),
        nir.Linear(weights(6, 9)),
        lif(6),
        nir.Affine(weights(6, 7), full(6, 1)),
        nir.Linear(weights(5, 6)),
        lif(),
        edges=[*pairwise(["in", "n0", "n1", "n2", "n3", "n5", "n6", "out"]), ("in", "n4"), ("n4", "n3")],
    ),
    "'n4' .Scale. differs from neuron to neuron": lambda: around(nir.Scale(np.arange(7.0)), 7),
    "gets 0.5 times what enters its block": lambda: three(
        nir.Scale(full(7, 0.5)), edges=[("in", "n6"), ("n6", "n1"), ("n1", "n3")]
    ),
    "'n3' .LIF. gets 0.5 times what enters its block": lambda: three(  # the first of its neurons gets that as it is
        second=lif(7, threshold=np.linspace(0.4, 0.8, 7)), edges=[("n1", "n3")]
    ),
    "'n1' .LIF. gets a shortcut from .7. to .7.; here it has weights": lambda: around(nir.Linear(weights(7, 7)), 7),
    "differs between the axes": lambda: foreign(
        nir.Conv2d((9, 9), weights(3, 9).reshape(3, 1, 3, 3), (1, 2), (0, 0), (1, 1), 1, full(3, 0)), shape=(1, 9, 9)
    ),
    "differs within a channel": lambda: foreign(
        nir.Conv2d((4, 4), weights(2, 9).reshape(2, 1, 3, 3), 1, 0, 1, 1, full(2, 0)),
        varied(lif((2, 2, 2))),
        nir.Linear(weights(5, 8)),
        lif(),
        shape=(1, 4, 4),
    ),
    "larger than what enters it": lambda: foreign(
        nir.Conv2d((2, 2), weights(2, 9).reshape(2, 1, 3, 3), 1, 0, 1, 1, full(2, 0)), shape=(1, 2, 2)
    ),
    "has shape .*; it must be": lambda: foreign(nir.Linear(weights(5, 7)), lif(), shape=(1, 2, 3, 4, 5)),
    "edge .* leads to a node 'nowhere'": lambda: foreign(nir.Linear(weights(5, 7)), edges=[("in", "nowhere")]),
    "'n0' .* is on a cycle": lambda: foreign(
        nir.Linear(weights(7, 7)), lif(7), edges=[("in", "n0"), ("n0", "n1"), ("n1", "n0")]
    ),
    "leads to 'n0', 'n1'": lambda: foreign(
        nir.Linear(weights(5, 7)),
        nir.Linear(weights(5, 7)),
        lif(),
        lif(),
        edges=[("in", "n0"), ("in", "n1"), ("n0", "n2"), ("n1", "n3"), ("n3", "out")],
    ),
    "'n1' .LIF. ends a shortcut around the output": lambda: foreign(
        nir.Linear(weights(5, 7)), lif(), edges=[("in", "n0"), ("in", "n1"), ("n0", "out")]
    ),
    "'n2' .LIF. is not on the way": lambda: foreign(
        nir.Linear(weights(5, 7)), lif(), lif(), edges=[("in", "n0"), ("n0", "n1"), ("n1", "out")]
    ),
    "'out' .Output. has shape .3.; what enters it is .5.": lambda: foreign(nir.Linear(weights(5, 7)), lif(), made=3),
    "'in' .Input. has shape .7.5.; it must be whole numbers from 1": lambda: foreign(
        nir.Linear(weights(5, 7)), lif(), shape=(7.5,)
    ),
    "'n2' .Affine. has a bias that goes through the synapse of node 'n1'": lambda: hearing_itself(
        nir.Affine(weights(5, 5), full(5, 0.1)), cuba()
    ),
    "'out' .Output. leads to other nodes": lambda: foreign(
        nir.Linear(weights(5, 7)), lif(), edges=[("in", "n0"), ("n0", "n1"), ("n1", "out"), ("out", "n0")]
    ),
    "'n1' .LIF. hears itself through a Scale node": lambda: hearing_itself(nir.Scale(full(5, 2.0))),
    "'n1' .LIF. hears itself through a map of 3 biases; it takes 5": lambda: hearing_itself(
        nir.Affine(weights(5, 5), full(3, 0.1))
    ),
    "'n1' .LIF. hears itself, which output neurons here cannot": lambda: foreign(
        nir.Linear(weights(5, 7)),
        lif(),
        nir.Linear(weights(5, 5)),
        edges=[("in", "n0"), ("n0", "n1"), ("n1", "n2"), ("n2", "n1"), ("n1", "out")],
    ),
    "'n1' .CubaLIF. has an r or w_in that is not positive": lambda: foreign(nir.Linear(weights(5, 7)), cuba(r=-1.0)),
    "'n1' .LIF. has an r or w_in that is not positive": lambda: foreign(nir.Linear(weights(5, 7)), lif(r=0.0)),
    "'n3' .LIF. leads to 'n1', 'n4'": lambda: foreign(
        nir.Linear(weights(5, 7)),
        lif(),
        nir.Linear(weights(5, 5)),
        lif(),
        nir.Linear(weights(5, 5)),
        lif(),
        edges=[("in", "n0"), *[(f"n{i}", f"n{i + 1}") for i in range(5)], ("n3", "n1"), ("n5", "out")],
    ),
    "a node or the metadata hold what NIR does not allow": lambda: foreign(
        nir.SumPool2d(np.array([]), np.array([2]), np.array([0])), nir.Flatten(None, 0), shape=(1, 4, 4)
    ),
    "two nodes are called 'n1.n0', one of them in the graph 'n1'; rename one": lambda: nir.NIRGraph(
        {**foreign().nodes, "n1.n0": nir.Linear(weights(5, 5)), "n1": foreign(nir.Linear(weights(5, 7)), lif()), "n2": lif()},
        list(pairwise(["in", "n1", "n1.n0", "n2", "out"])),
        type_check=False,
    ),
    "0 inputs and 1 outputs": lambda: nir.NIRGraph({"out": nir.Output(np.array([1]))}, [], type_check=False),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_our_networks_cannot_do_is_refused(said):
    with pytest.raises(UserError, match=said):
        from_nir(REFUSED[said]())


def test_a_smaller_step_reads_what_norse_wrote():
    net = from_nir(foreign(nir.Linear(weights(5, 7)), lif(tau=1e-5)), dt=1e-6)
    assert (net.neuron.tau_m, net.neuron.tau_s) == (10, 1)


def test_a_name_with_a_slash_is_named(tmp_path):
    graph = foreign(nir.Linear(weights(5, 7)), lif())
    named = {"n0": "fc/1", "n1": "fc/2"}
    edges = [(named.get(a, a), named.get(b, b)) for a, b in graph.edges]
    nodes = {named.get(name, name): node for name, node in graph.nodes.items()}
    assert from_nir(nir.NIRGraph(nodes, edges, type_check=False)).architecture.network == "5"
    nir.write(tmp_path / "a.nir", nir.NIRGraph(nodes, edges, type_check=False))
    with pytest.raises(UserError, match=r"a.nir: its node 'fc' has no type; write .* names of nodes without slashes"):
        from_nir(tmp_path / "a.nir")


def test_metadata_of_another_network_are_noticed():
    graph, other = to_nir(network_of("linear")), to_nir(network_of("convolutional"))
    graph.metadata = other.metadata
    with pytest.raises(UserError, match=r"describe a model of 7 steps of \[2, 17, 15\]"):
        from_nir(graph)
    graph.metadata = {"tsslbp": "{"}
    with pytest.raises(UserError, match="metadata 'tsslbp' are damaged"):
        from_nir(graph)


@pytest.mark.parametrize(
    ("notation", "outputs", "said"), [("8-9", 3, "9 output neurons, 1 for"), ("8-12-V3", 10, "12 output neurons, 3 for")]
)
def test_another_output_than_the_metadata_say_is_noticed(notation, outputs, said):
    graph, cut = (
        to_nir(tsslbp.build(some, input_shape=(4,), time_steps=5, tau_m=5, tau_s=3)) for some in (notation, f"8-{outputs}")
    )
    cut.metadata = graph.metadata
    with pytest.raises(UserError, match=rf"its metadata describe {said} each class, here are {outputs}; remove the metadata"):
        read(cut)


def test_metadata_do_not_make_a_sum_a_maximum():
    net = lively(tsslbp.build("4C3-P2-3", input_shape=(1, 8, 8), time_steps=5, tau_m=5, tau_s=3))
    graph = to_nir(net)
    graph.metadata["tsslbp"] = graph.metadata["tsslbp"].replace("4C3-P2-3", "4C3-M2-3")
    back, x = from_nir(graph), samples(net)
    assert back.architecture.network == "4C3-A2-3"
    torch.testing.assert_close(back(x), net(x))


def test_grids_that_are_not_finite_are_noticed():
    graph = to_nir(network_of("few bits"))
    graph.metadata["limits"] = re.sub(r"\[[^]]*\]", "[Infinity]", graph.metadata["limits"])
    with pytest.raises(UserError, match=r"metadata 'limits' are damaged .*numbers that are not positive and finite"):
        read(graph)


def test_weights_beside_their_grid_are_noticed():
    graph = to_nir(network_of("few bits"))
    node = next(node for node in graph.nodes.values() if type(node).__name__ == "Conv2d")
    node.weight = 0.4 * node.weight
    with pytest.raises(UserError, match="its weights are not those of few bits that its metadata tell of; remove the metadata"):
        read(graph)
    graph = to_nir(network_of("few bits"))
    limits = {name: value[:1] for name, value in json.loads(graph.metadata["limits"]).items()}
    graph.metadata["limits"] = json.dumps(limits)
    with pytest.raises(UserError, match=r"metadata 'limits' are damaged .*has 1 numbers for"):
        read(graph)


def test_a_limit_may_be_negative(tmp_path):
    net = network_of("few bits")
    net.layers.output.limit.data[0] *= -1
    x = samples(net, sequence=False)
    assert torch.equal(from_nir(to_nir(net))(x), net(x))


def test_a_learned_synapse_comes_back_bit_for_bit():
    net = tsslbp.build("6-5-4", input_shape=(7,), time_steps=7, tau_m=5, tau_s=4, learn=("tau_s",))
    for number, layer in enumerate(net.layers):
        layer.tau_s.data *= 1.2345678 + 0.01 * number
    back = from_nir(to_nir(net))
    assert all(torch.equal(weight, back.state_dict()[key]) for key, weight in net.state_dict().items())


@pytest.mark.parametrize("twice", ["a layer", "the last of a block"])
def test_a_layer_that_is_there_twice_is_written_twice(twice):
    torch.manual_seed(0)
    net = lively(tsslbp.build("8-8-[8-8]-4", input_shape=(8,), time_steps=6, tau_m=5, tau_s=3))
    if twice == "a layer":
        net.layers.linear2 = net.layers.linear1
    else:
        (first, _), (_, last) = net.layers.block1.named_layers()
        setattr(net.layers.block1, first, last)
    x = samples(net, sequence=False)
    with torch.no_grad():
        torch.testing.assert_close(from_nir(to_nir(net))(x), net(x))


def test_a_graph_says_nothing_of_where_data_lie():
    graph = to_nir(replace(as_model(network_of("linear")), data="/home/ann/clinic/patients.csv"))
    assert "clinic" not in graph.metadata["tsslbp"]
    assert "patients.csv" in graph.metadata["tsslbp"]


def test_without_nir_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    for use in (lambda: to_nir(network_of("linear")), lambda: from_nir("a.nir")):
        with pytest.raises(UserError, match=r"pip install 'tsslbp\[nir\]'"):
            use()


def good():
    return content(to_nir(network_of("linear")))


def hdf5(fill):
    """A file that starts as a good one, and to which something is done."""

    def make(path):
        path.write_bytes(good())
        with h5py.File(path, "r+") as file:
            fill(file)

    return make


def replaced(file, name, **dataset):
    del file[name]
    file.create_dataset(name, **dataset)


def nested(file):
    group = file["node/nodes"]
    for _ in range(20):
        group = group.create_group("deeper")


def many(file):
    for i in range(200):
        file["node/nodes"].create_group(str(i))


def linked(file):
    file["node/nodes/linear1_weights/self"] = file["node/nodes"]


def endless(path):
    """A file with a text so long that the next one would begin where the heap holds zeros; HDF5 itself reads it for ever."""
    damaged = bytearray(good())
    heap = damaged.index(b"GCOL") + 16
    while (length := int.from_bytes(damaged[heap + 8 : heap + 16], "little")) and damaged[heap] != 20:
        heap += 16 + -(-length // 8) * 8
    damaged[heap + 8] = 130
    path.write_bytes(damaged)


def huge(path):
    """A file that says of one of its texts that it has four billion letters."""
    path.write_bytes(good())
    with h5py.File(path) as file:
        place = file["node/type"].id.get_offset()
    damaged = bytearray(good())
    damaged[place + 3] = 255
    path.write_bytes(damaged)


WEIGHT = "node/nodes/linear1_weights/weight"
HOSTILE = {
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "an ONNX file": lambda path: path.write_bytes(b"\x08\x08\x12\x06tsslbp" + bytes(1000)),
    "cut": lambda path: path.write_bytes(good()[:-1000]),
    "another HDF5 file": hdf5(lambda file: file.move("node", "elsewhere")),
    "no graph": hdf5(lambda file: replaced(file, "node/type", data="Linear")),
    "unknown node": hdf5(lambda file: replaced(file, "node/nodes/linear1_weights/type", data="__import__")),
    "no type": hdf5(lambda file: file.__delitem__("node/nodes/linear1_weights/type")),
    "no weights": hdf5(lambda file: file.__delitem__(WEIGHT)),
    "another parameter": hdf5(lambda file: file.create_dataset("node/nodes/linear1_weights/more", data=1.0)),
    "no edges": hdf5(lambda file: file.__delitem__("node/edges")),
    "weights of text": hdf5(lambda file: replaced(file, WEIGHT, data="many")),
    "compound weights": hdf5(lambda file: replaced(file, WEIGHT, data=np.zeros(3, [("a", "f4"), ("b", "f4")]))),
    "oversized": hdf5(lambda file: replaced(file, WEIGHT, shape=(10**6, 10**6), dtype="f8", chunks=(100, 100))),
    "oversized chunk": hdf5(
        lambda file: replaced(file, WEIGHT, shape=(1, 1), maxshape=(None, None), dtype="f8", chunks=(2**14, 2**15 - 1))
    ),
    "outer file": hdf5(lambda file: replaced(file, WEIGHT, shape=(12, 7), dtype="f4", external=[("/etc/passwd", 0, 336)])),
    "outer link": hdf5(lambda file: file.__setitem__(f"{WEIGHT}2", h5py.ExternalLink("other.nir", "/node"))),
    "soft link": hdf5(lambda file: file.__setitem__(f"{WEIGHT}2", h5py.SoftLink("/node"))),
    "link to itself": hdf5(linked),
    "nested": hdf5(nested),
    "many entries": hdf5(many),
    "texts without end": endless,
    "a text of 4 GB": huge,
    "texts in pieces": hdf5(lambda file: replaced(file, "node/nodes/input/type", data=["a"] * 9, chunks=(3,))),
    "a false input": hdf5(lambda file: replaced(file, "node/nodes/input/shape", data=np.array([10**9, 10**9, 10**9]))),
    "negative sizes": hdf5(lambda file: replaced(file, "node/nodes/input/shape", data=np.array([-7]))),
}

SAID = {
    "unknown node": "its node 'linear1_weights' is of the kind __import__, which NIR does not have",
    "no weights": "its node 'linear1_weights' (Linear) lacks something, or holds something odd (TypeError: ",
    "no edges": "it has no nodes or no edges",
}
"""What is said of files from which the package nir can make no nodes."""


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line_and_nothing_is_written(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tsslbp.exchange.graph.MOST_OBJECTS", 150)
    HOSTILE[name](tmp_path / "a.nir")
    before = sorted(tmp_path.iterdir())
    assert cli.main(["import", str(tmp_path / "a.nir"), str(tmp_path / "a.safetensors")]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("tsslbp: ")
    assert complaint.count("\n") == 1
    assert (f"a.nir: {SAID[name]}" if name in SAID else "a.nir") in complaint
    assert sorted(tmp_path.iterdir()) == before


@given(position=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_a_changed_byte_never_ends_in_a_traceback(position, byte, tmp_path_factory):
    changed = bytearray(GOOD)
    changed[position % len(changed)] = byte
    path = tmp_path_factory.getbasetemp() / "changed.nir"
    path.write_bytes(changed)
    with contextlib.suppress(UserError):
        from_nir(path)


GOOD = content(to_nir(tsslbp.build("3-2", input_shape=(4,), time_steps=3, tau_m=5, tau_s=3)))


def test_the_command_line_exports_checks_and_imports(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network_of("linear")
    as_model(net).save("a.safetensors")
    assert cli.main(["export", "a.safetensors", "a.nir"]) == 0
    assert capsys.readouterr().out == "wrote a.nir: 6 nodes, 22 neurons\n"
    assert cli.main(["import", "a.nir", "b.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("model: b.safetensors, '12-10'")
    assert tsslbp.load("b.safetensors").about() == tsslbp.load("a.safetensors").about()
    for wrong, said in (
        (["export", "a.safetensors", "c.nir", "--half"], "--half has no effect with format nir"),
        (["export", "a.safetensors", "c.nir", "--check", "-1"], "--check"),
        (["export", "a.safetensors", "c.nir", "--check", "3"], "made or trained in Python, or imported"),
        (["import", "a.nir", "c.pt"], "must end in .safetensors"),
        (["import", "a.nir", "c.safetensors", "--dt", "0"], "--dt"),
        (["import", "a.nir", "c.safetensors", "--time-steps", "9"], "leave --time-steps out"),
    ):
        assert cli.main(wrong) == 2
        assert said in capsys.readouterr().err, wrong
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nir", "a.safetensors", "b.safetensors"]


def test_import_says_what_a_file_leaves_open(tmp_path, capsys):
    write(FOREIGN["LIF"](), tmp_path / "a.nir")
    assert cli.main(["import", str(tmp_path / "a.nir"), str(tmp_path / "a.safetensors")]) == 0
    assert (
        "taken for granted: dt 0.0001 s (--dt), T = 5 (--time-steps), static samples (--sequences), that spikes reset"
        in capsys.readouterr().out
    )
    model = training.load(tmp_path / "a.safetensors")
    assert model.network(torch.rand(3, 7)).shape == (5, 3, 5)


def test_an_imported_network_takes_sequences_if_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(FOREIGN["LIF"](), "a.nir")
    np.savez("events.npz", x=np.random.default_rng(0).integers(0, 2, (20, 6, 7)).astype(np.float32), y=np.arange(20) % 5)
    assert cli.main(["evaluate", "a.nir", "--all", "events.npz"]) == 2
    assert "a.nir is a NIR file; make a model of it: tsslbp import a.nir MODEL.safetensors" in capsys.readouterr().err
    for flags, code in (([], 2), (["--sequences"], 0)):
        assert cli.main(["import", "a.nir", "a.safetensors", "--time-steps", "6", *flags]) == 0
        assert ("static samples (--sequences)" in capsys.readouterr().out) == bool(code)
        assert cli.main(["evaluate", "a.safetensors", "--all", "events.npz"]) == code
        assert ("if these are sequences and it was imported, import it" in capsys.readouterr().err) == bool(code)
    assert cli.main(["export", "a.safetensors", "b.nir"]) == 0
    assert training.load("a.safetensors").inputs == read("b.nir").model.inputs
    assert cli.main(["import", "b.nir", "c.safetensors", "--sequences"]) == 2
    assert "its metadata say what its samples are; leave --sequences out" in capsys.readouterr().err


def test_a_network_that_would_run_with_other_constants_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(FOREIGN["LIF"](), "a.nir")
    assert cli.main(["import", "a.nir", "a.safetensors", "--time-steps", "6"]) == 0
    a = training.load("a.safetensors").network.architecture
    assert f"threshold={a.threshold:g}" in capsys.readouterr().out
    rng = np.random.default_rng(0)
    np.savez("mine.npz", x=rng.normal(size=(40, 7)), y=np.arange(40) % 5)
    given = ["train", "--data", "mine.npz", "--network", a.network, "--init", "a.safetensors", "--epochs", "1"]
    flags = f"--tau-m {a.tau_m} --tau-s {a.tau_s} --threshold {a.threshold} --time-steps 6 --normalise none"
    assert cli.main([*given, "--name", "other"]) == 0
    said = f"the network of --init has {flags}; give these to go on from what it has learned"
    assert said in " ".join(capsys.readouterr().err.split())
    assert cli.main([*given, *flags.split(), "--name", "same"]) == 0
    assert "give these" not in capsys.readouterr().err


def test_import_says_how_it_reads_the_answer(tmp_path, capsys):
    write(FOREIGN["CubaLIF"](), tmp_path / "a.nir")
    assert cli.main(["import", str(tmp_path / "a.nir"), str(tmp_path / "a.safetensors")]) == 0
    said = "that the answer is the class with the largest output current (τs = 2), not with most spikes"
    assert said in " ".join(capsys.readouterr().out.split())


def test_an_imported_network_trains_and_is_exported_again(tmp_path):
    net = from_nir(FOREIGN["LIF"](), time_steps=6)
    before = copy.deepcopy(net.state_dict())
    loss = tsslbp.losses.CountLoss(desired=4, undesired=1)
    optimiser = torch.optim.SGD(net.train().parameters(), lr=0.01)
    loss(net(torch.rand(8, 7) * 2), torch.arange(8) % 5).backward()
    optimiser.step()
    assert any(not torch.equal(before[key], weight) for key, weight in net.state_dict().items())
    write(to_nir(net), tmp_path / "b.nir")
    assert all(torch.equal(weight, from_nir(tmp_path / "b.nir").state_dict()[key]) for key, weight in net.state_dict().items())
