"""Networks as one operation: the same bits as layer by layer, and left to the layers where these do anything else."""

import contextlib
import copy
import gc
import math
import pickle
import re
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from shared import map_by_changes
from torch import nn
from torch.nn.utils import parametrizations, prune

import tsslbp
from tsslbp import UserError, kernels, rules
from tsslbp.layers import Linear, Spiking
from tsslbp.layers.convolution import convolved
from tsslbp.network import train as as_one
from tsslbp.network.network import Network
from tsslbp.neuron import LIF
from tsslbp.utils import distributed

pytestmark = pytest.mark.skipif(not kernels.backends()["cpp"].usable, reason="the C++ kernels are not built")

SETTINGS = {"input_shape": (6,), "time_steps": 5, "tau_m": 5, "tau_s": 3}
RULES = ["tssl", "tssl+", "tssl-paper", "stbp", "slayer", "superspike", "eventprop", "tssl(clip=0.1,fallback=no-spike)"]


@pytest.fixture
def ran(monkeypatch):
    """How often a network ran as one operation."""
    calls, apply = [], as_one._Layers.apply
    monkeypatch.setattr(as_one._Layers, "apply", lambda *given: calls.append(given) or apply(*given))
    return calls


def results(net, x, half=False):
    """Output, gradients, and how much each layer multiplied."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(1)  # dropout draws its masks
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = net(x)
    (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape)).sum().backward()
    multiplied = torch.tensor([layer.multiplied for layer in net.layers if isinstance(layer, Spiking)])
    return [output.detach(), multiplied, *(weight.grad for weight in net.parameters())]


def by_layers(net, x, half=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(as_one, "output", lambda *_, **__: None)
        return results(net, x, half)


def assert_same_bits(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (torch.equal(one, other) and one.stride() == other.stride())


@st.composite
def networks(draw):
    """A network of small layers, and its input shape."""
    axes = draw(st.integers(0, 2))
    shape = (draw(st.integers(1, 3)), *(draw(st.integers(3, 6)) for _ in range(axes)))
    names, pixels, paddings = list[str](), shape[1:], list[int]()
    for _ in range(draw(st.integers(0, 2)) if axes else 0):
        kernel, stride, padding = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
        after = convolved(pixels, kernel, stride, padding)
        if min(after) < 1 or min(pixels) < stride:  # left to the layers
            break
        names.append(f"{draw(st.integers(1, 4))}C{kernel}s{stride}{'b' * draw(st.booleans())}")
        pixels, _ = after, paddings.append(padding)
        if axes == 2 and min(pixels) > 1 and draw(st.booleans()):
            names.append(draw(st.sampled_from(["P2", "A2"])))
            pixels = tuple(size // 2 for size in pixels)
    kinds = st.sampled_from(["", "", "R", "A"])
    names += [f"{draw(st.integers(1, 9))}{draw(kinds)}{'b' * draw(st.booleans())}" for _ in range(draw(st.integers(0, 2)))]
    names += [f"4{'b' * draw(st.booleans())}", *(["V2"] if draw(st.booleans()) else [])]
    return "-".join(names), {"input_shape": shape, "padding": tuple(paddings)}


@pytest.mark.parametrize("by_changes", [False, True])
@given(data=st.data())
def test_output_and_gradients_are_bit_for_bit_those_of_the_layers(by_changes, data):
    draw = data.draw
    notation, shaped = draw(networks())
    shape = shaped["input_shape"]
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(int(by_changes), 4))
    net = tsslbp.build(
        notation,
        **shaped,
        time_steps=steps,
        tau_m=draw(st.sampled_from([1.0, 4.0, 1e9])),
        tau_s=draw(st.sampled_from([1.0, 3.0])),
        tau_a=draw(st.sampled_from([1.0, 9.0])),
        beta=draw(st.sampled_from([0.0, 0.5])),
        rule=draw(st.sampled_from([x for x in RULES if rules.get(x).takes_parts or not re.search("[RA]", notation)])),
        dropout=draw(st.sampled_from([0.0, 0.4])),
    )
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.copy_(torch.randn(weight.shape) * (0.3 if name.endswith("bias") else 1.5))
            weight.requires_grad_(draw(st.sampled_from([True, True, False])))
    if not any(weight.requires_grad for weight in net.parameters()):
        next(net.parameters()).requires_grad_()
    x = torch.randn(*draw(st.sampled_from([(), (steps,)])), batch, *shape)
    assume("C" not in notation or x[..., 0].numel() * shape[-1] > math.prod(shape))
    half = draw(st.booleans())
    if not half and draw(st.booleans()):
        net, x = net.double(), x.double()
    if draw(st.booleans()):
        x = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    with pytest.MonkeyPatch.context() as patch:
        if by_changes:
            map_by_changes(patch)
        calls, apply = [], as_one._Layers.apply
        patch.setattr(as_one._Layers, "apply", lambda *given: calls.append(given) or apply(*given))
        found = results(net, x, half)
        assert calls
        assert_same_bits(found, by_layers(net, x, half))


def test_maps_go_by_changes(ran, monkeypatch):
    map_by_changes(monkeypatch)
    net = tsslbp.build("40b-35-4", **SETTINGS)
    found = results(net, torch.rand(20, 6))
    assert len(ran) == 1
    assert found[1][0] == 1 > found[1][1] > 0
    for layer in net.layers:
        layer.by_changes = False
    dense = results(net, torch.rand(20, 6))
    assert dense[1].tolist() == [1, 1, 1]
    assert len(ran) == 2


def test_every_step_runs_so(quick, ran):
    config = quick(epochs=1)
    tsslbp.training.train(config)
    assert len(ran) > 5


class Own(Network):
    pass


class Doubled(Linear):
    def forward(self, *given, **named):
        return 2 * super().forward(*given, **named)


class Mine(rules.TSSL):
    def current_gradient(self, psc_gradient, membrane, neuron):
        return 2 * super().current_gradient(psc_gradient, membrane, neuron)


LEARNED = LIF(nn.Parameter(torch.tensor(5.0)), 3.0)
OTHERWISE = {
    "a hook": lambda net: net.layers.linear1.register_forward_hook(lambda *_: None) and None,
    "a backward hook": lambda net: net.layers.output.register_full_backward_hook(lambda *_: None) and None,
    "a class of one's own": lambda net: net.layers.add_module("linear1", Doubled(6, 5, neuron=net.neuron)),
    "another class": lambda net: setattr(net.layers.linear1, "__class__", Doubled),
    "a method that a tool replaced": lambda net: setattr(net.layers.linear1, "map", lambda x: 2 * x[:, :5]),
    "a weight from others": lambda net: parametrizations.weight_norm(net.layers.linear1) and None,
    "pruning": lambda net: prune.identity(net.layers.linear1, "weight") and None,
    "bits": lambda net: net.layers.linear1.quantise(4),
    "an engine": lambda net: setattr(net.layers.linear1, "backend", "reference"),
    "a learned constant": lambda net: setattr(net.layers.linear1, "neuron", LEARNED),
    "a rule of one's own": lambda net: setattr(net.layers.linear1, "rule", Mine()),
    "neurons without reset": lambda net: setattr(net.layers.linear1, "neuron", replace(net.neuron, reset=False)),
    "blocks of time": lambda net: setattr(net, "time_block", 2),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_layers_do_otherwise_is_left_to_them(what, ran):
    """Also where it is done to a network that has run as one."""
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(5, 3, 6)
    results(net, x)
    assert len(ran) == 1
    OTHERWISE[what](net)
    results(net, x)
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("notation", "settings"),
    [
        ("5Rn-4", {}),
        ("5n-4", {}),
        ("5-4", {"standardise": True}),
        ("5-4", {"readout": "voltage"}),
        ("5-4", {"bits": "4"}),
        ("5-4", {"neuron": "relu"}),
        ("5-4", {"learn": ("threshold",)}),
        ("[5-6]-4", {}),
        ("[2C1-2C1]-4", {"input_shape": (1, 3, 3)}),
        ("2C1n-4", {"input_shape": (1, 3, 3)}),
        ("2C3s2-4", {"input_shape": (1, 1, 1), "padding": (1,)}),
        ("2C2d2-4", {"input_shape": (1, 3, 3)}),
        ("2C2g2-4", {"input_shape": (2, 3, 3)}),
        ("2C2-M2-4", {"input_shape": (1, 3, 3)}),
        ("P2-4", {"input_shape": (1, 3, 3)}),
        ("2C2-P2-P1-4", {"input_shape": (1, 3, 3)}),
        ("2C2-P2-4", {"input_shape": (1, 3)}),
    ],
)
def test_other_networks_run_layer_by_layer(notation, settings, ran):
    net = tsslbp.build(notation, **{**SETTINGS, **settings})
    results(net, torch.rand(3, *net.architecture.input_shape))
    assert not ran


def test_other_ways_to_call_it(ran):
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(5, 3, 6)
    net(x.clone().requires_grad_()).sum().backward()
    net.part(x)
    with torch.autocast("cpu", dtype=torch.float16):
        net(x)
    with torch.no_grad():
        net(x)
    list(net.walk(net.encode(x)))
    assert not ran
    own = copy.deepcopy(net)
    own.__class__ = Own
    own(x)
    assert not ran
    net(x)
    net(x, lengths=torch.tensor([2, 3, 5]))
    net.eval()(x)
    assert len(ran) == 3
    with pytest.raises(UserError, match="network input has shape"):
        net(x[..., :4])
    with pytest.raises(UserError, match=r"signal|weights"):
        net(x.double())
    with pytest.raises(UserError, match="lengths run from"):
        net(x, lengths=torch.tensor([2, 3, 6]))
    assert len(ran) == 3


def test_what_changes_between_two_steps_counts(ran):
    net, x = tsslbp.build("5-4", **SETTINGS), 4 * torch.rand(5, 3, 6)
    for change in (
        lambda: setattr(net.layers.linear1, "rule", rules.get("stbp")),
        lambda: net.layers.linear1.weight.data.mul_(3),
        lambda: setattr(net.layers.linear1, "weight", nn.Parameter(torch.rand(5, 6))),
        lambda: setattr(net.layers.output, "neuron", replace(net.neuron, threshold=0.5)),
        lambda: net.layers.output.weight.requires_grad_(False),
        lambda: net.layers.add_module("output", Linear(5, 2, neuron=net.neuron, bias=True)),
    ):
        before = results(net, x)
        change()
        found = results(net, x)
        assert_same_bits(found, by_layers(copy.deepcopy(net), x))
        with pytest.raises(AssertionError):
            assert_same_bits(found, before)
    assert len(ran) == 12


@pytest.mark.parametrize(
    ("notation", "rule", "runs"), [("5-4", "tssl-paper", False), ("5-4", "tssl", True), ("512-512-4", "tssl", False)]
)
def test_in_a_job_of_several_processes(notation, rule, runs, ran, monkeypatch):
    """Layers ask for the firing of all, and begin to add up large gradients while the backward pass goes on."""
    net, x = tsslbp.build(notation, rule=rule, **SETTINGS), torch.rand(5, 3, 6)
    results(net, x)
    assert len(ran) == 1
    monkeypatch.setattr(distributed, "group", lambda: distributed.Group(2))
    assert (as_one.output(net, x) is not None) == runs


@pytest.mark.parametrize("retain", [False, True])
def test_what_the_backward_pass_needs_is_kept_if_wanted(retain):
    net = tsslbp.build("5-4", **SETTINGS)
    made = net(4 * torch.rand(5, 3, 6)).sum()
    made.backward(retain_graph=retain)
    once = net.layers.output.weight.grad.clone()
    if retain:
        made.backward()
        assert torch.equal(net.layers.output.weight.grad, 2 * once)
    with pytest.raises(RuntimeError, match="a second time"):
        made.backward()


def test_a_second_derivative_is_refused():
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(5, 3, 6)
    with pytest.raises(UserError, match="has no derivative of its own; leave out create_graph=True"):
        torch.autograd.grad(net(x).square().sum(), list(net.parameters()), create_graph=True)


def test_outputs_may_be_changed_in_place(ran):
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(5, 3, 6)
    net(x).mul_(2).sum().backward()
    twice = net.layers.output.weight.grad.clone()
    net.zero_grad()
    net(x).sum().mul(2).backward()
    assert len(ran) == 2
    torch.testing.assert_close(net.layers.output.weight.grad, twice)


def test_a_call_in_inference_mode_spoils_no_training():
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(3, 6)
    with torch.inference_mode(), torch.enable_grad(), contextlib.suppress(RuntimeError):
        net(x)
    net(x).sum().backward()
    assert net.layers.linear1.weight.grad is not None


def test_copies_make_their_own_plans():
    net, x = tsslbp.build("5-4", **SETTINGS), torch.rand(3, 6)
    net(x)
    for twin in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        twin.time_steps = 7
        assert twin(x).shape[0] == 7
    assert net(x).shape[0] == 5


@pytest.mark.parametrize("probe", [False, True])
def test_a_network_is_freed(probe):
    net = tsslbp.build("5-4", **SETTINGS)
    if probe:
        net.layers.linear1.register_forward_hook(lambda *_, net=net: None)
    net(torch.rand(3, 6)).sum().backward()
    with torch.no_grad():
        net.eval()(torch.rand(3, 6))
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("learning", [True, False])
def test_one_replaced_method_after_another(learning):
    """As many attributes as before, with other names."""
    net, x = tsslbp.build("5-4", **SETTINGS).train(learning), 4 * torch.rand(5, 3, 6)
    with torch.set_grad_enabled(learning):
        plain, layer = net(x), net.layers.output
        layer.map = lambda x: 0 * x[:, :4]
        assert not net(x).any()
        forward = type(layer).forward
        del layer.map
        layer.forward = lambda *given: 2 * forward(layer, *given)
        torch.testing.assert_close(net(x), 2 * plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: setattr(layer, "neuron", LIF(2.0, 1.5, 0.7)),
        lambda layer: setattr(layer, "rule", rules.get("e-prop")),
        lambda layer: setattr(layer, "adaptation", None),
    ],
)
def test_a_backward_pass_belongs_to_its_forward_pass(change, ran):
    settings = SETTINGS | {"rule": "surrogate", "tau_a": 9.0}
    net, x = tsslbp.build("9A-4", **settings), 4 * torch.rand(5, 3, 6)
    other = copy.deepcopy(net)
    other.layers.recurrent1.register_forward_hook(lambda *_: None)  # layer by layer
    for each in (net, other):
        output = each(x)
        change(each.layers.recurrent1)
        (output - 0.5).square().sum().backward()
    assert len(ran) == 1
    for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_numbers_of_a_rule_of_ones_own_may_change(ran):
    class Annealed(rules.Surrogate):
        now = 1.0

        @property
        def numbers(self):
            return super().numbers._replace(slope=self.now)

    rule = Annealed("fast_sigmoid")
    net, x = tsslbp.build("9-4", rule=rule, **SETTINGS), 4 * torch.rand(5, 3, 6)
    for Annealed.now in (1.0, 25.0):
        assert_same_bits(results(net, x), by_layers(net, x))
    assert not ran


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("notation", ["4", "4b", "8R-4"])
def test_half_precision_is_refused(notation, dtype):
    with pytest.raises(UserError, match="both must be float32 or both float64"):
        tsslbp.build(notation, **SETTINGS).to(dtype)(torch.rand(3, 6).to(dtype))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("static", [False, True])
def test_input_of_16_bits_is_heard_in_32(half, static):
    """A synapse of 16 bits would lose current in each of many steps."""
    torch.manual_seed(0)
    net = tsslbp.build("30-4", input_shape=(9,), time_steps=200, tau_m=20, tau_s=100, rule="tssl+")
    x = torch.randint(0, 5, (3, 9)) / 4 if static else (torch.rand(200, 3, 9) < 0.1).float()
    for autocast in (False, True):
        with torch.autocast("cpu", enabled=autocast):
            assert torch.equal(net(x.to(half)), net(x))
            assert torch.equal(net.part(x.to(half), steps=200)[0], net.part(x, steps=200)[0])
    with torch.no_grad():
        assert torch.equal(net.eval()(x.to(half)), net(x))
