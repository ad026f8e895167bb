"""Inference from events against the layers one by one: the same spikes, for every network, in parts, and whatever changes."""

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import tsslbp
from tsslbp import UserError, cli
from tsslbp.kernels.cpp import NOT_LOADED
from tsslbp.layers import Conv1d, Conv2d
from tsslbp.network import infer as events
from tsslbp.network.state import State

pytestmark = pytest.mark.skipif(NOT_LOADED is not None, reason=str(NOT_LOADED))

FLAT, ROW, IMAGE = (11,), (3, 14), (3, 10, 9)
NOTATIONS = [
    *(("7", FLAT), ("20-7", FLAT), ("9b-17n-12-V2", FLAT), ("20R-7", FLAT), ("9-13Ab-7", FLAT), ("16Rn-12A-6", FLAT)),
    *(("12-[9n-12]-[7-5b]-5", FLAT), ("6-7", IMAGE), ("9-20R-7", ROW), ("150-140b-7", FLAT), ("190-180R-7", FLAT)),
    *(("5C3-P2-7", ROW), ("18C3b-A2-4C2n-7", ROW), ("6C5s2-M2-7", ROW), ("4C3n-[4C3-4C3b]-[6C3s2n-6C3n]-5", ROW)),
    *(("5C3-P2-7C3-9-6", IMAGE), ("17C3b-A2-4C2n-7", IMAGE), ("6C3s2-M2-7", IMAGE), ("4C2-P2-P2-7", IMAGE)),
    *(("4C3n-M2-[4C3-4C3b]-[6C3s2n-6C3n]-P2-6b", IMAGE), ("3C3-P2-[8C3-5C3]-10R-6", IMAGE), ("5C1-M2-M2-7", IMAGE)),
]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def lively(net, gain, seed):
    """The network in evaluation, with weights, biases and statistics that make its neurons spike."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in net.state_dict().items():
        if x.dim() > 1:
            x *= gain * (2.5 if x.dim() > 2 and x[0].numel() > 1 else 1)  # convolutions begin smaller
        elif "variance" in name or "gain" in name:
            x += torch.rand(x.shape, generator=generator)
        else:
            x += 0.2 * torch.randn(x.shape, generator=generator)
    return net.eval()


def inputs(net, kind, batch, seed, dtype):
    generator, shape = torch.Generator().manual_seed(seed), net.architecture.input_shape
    if kind == "static":
        x = torch.rand(batch, *shape, generator=generator, dtype=dtype)
        return on_a_background(x * (torch.rand(x.shape, generator=generator) < 0.4))
    x = torch.rand(net.time_steps, batch, *shape, generator=generator, dtype=dtype)
    return (x < 0.3).to(dtype) if kind == "spikes" else 2 * x - 0.5


def on_a_background(x):
    """Some channels of some samples get a background other than 0."""
    for n, channel in ((0, 0), (1, -1)):
        if len(x) > n:
            x[n, channel][x[n, channel] == 0] = 0.7 - n
    return x


def dense(net, x):
    with mock.patch.object(events, "plan", return_value=None):
        return net(x)


def by_events(net, x):
    """The network's output; fails where it did not come from the kernel."""
    assert events.plan(net, x) is not None
    output = net(x)
    assert torch.equal(output, events.whole(net, x))
    return output


def made(case, steps=7, tau_m=6.0, tau_s=3.0, gain=2.5, seed=0, dtype=torch.float64, **more):
    notation, shape = case
    torch.manual_seed(seed)
    axes = len(shape) - 1
    padding = 1 if axes and "C3" in notation else 0
    settings_ = {
        "time_steps": steps,
        "tau_m": tau_m,
        "tau_s": tau_s,
        "rule": "tssl+",
        "padding": padding,
        "tau_a": 20.0,
        "beta": 0.2,
    }
    return lively(tsslbp.build(notation, input_shape=shape, **settings_, **more).to(dtype), gain, seed)


cases = st.builds(
    made,
    st.sampled_from(NOTATIONS),
    steps=st.sampled_from([1, 2, 5, 8, 9, 20]),
    tau_m=st.sampled_from([1, 4.0, 9, math.inf]),
    tau_s=st.sampled_from([1, 2.0, 3.5]),
    gain=st.sampled_from([1.0, 2.5, 6.0]),
    seed=st.integers(0, 10**6),
    threshold=st.sampled_from([1.0, 0.3]),
)
kinds = st.sampled_from(["static", "spikes", "real"])


def equals_dense(net, kind, batch, seed):
    x = inputs(net, kind, batch, seed, torch.float64)
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)


@given(net=cases, kind=kinds, batch=st.integers(0, 4), seed=st.integers(0, 10**6))
@settings(max_examples=80)
def test_spikes_equal_those_of_the_layers(net, kind, batch, seed):
    equals_dense(net, kind, batch, seed)


@pytest.mark.slow
@given(net=cases, kind=kinds, batch=st.integers(0, 4), seed=st.integers(0, 10**6))
@settings(max_examples=10_000)
def test_spikes_equal_those_of_the_layers_ten_thousand_times(net, kind, batch, seed):
    equals_dense(net, kind, batch, seed)


@pytest.mark.parametrize("case", NOTATIONS, ids=lambda case: case[0])
def test_there_is_something_to_compare(case):
    net = made(case)
    x = inputs(net, "spikes", 6, 0, torch.float64)
    shares = {name: float(net.fired(psc).double().mean()) for name, psc in net.activity(x).items()}
    assert all(0.01 < share < 0.9 for share in shares.values()), shares
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)


geometries = st.fixed_dictionaries(
    {
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
        "padding": st.tuples(st.integers(0, 5), st.integers(0, 5)),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
        "groups": st.sampled_from([1, 2, 4]),
        "bias": st.booleans(),
    }
)


@given(
    geometry=geometries,
    outputs=st.sampled_from([4, 16, 20]),
    axes=st.sampled_from([1, 2]),
    kind=kinds,
    seed=st.integers(0, 999),
)
@settings(max_examples=100)
def test_convolutions_of_every_geometry(geometry, outputs, axes, kind, seed):
    shape = IMAGE if axes == 2 else ROW
    net = made((f"4C1-{outputs}C1-8", shape), seed=seed)
    sizes = {name: value if axes == 2 or isinstance(value, int) else value[0] for name, value in geometry.items()}
    layer = (Conv2d if axes == 2 else Conv1d)(4, outputs, neuron=net.neuron, **sizes).double()
    if min(layer.sizes(shape[1:])) < 1:
        return
    net.layers.conv2 = layer
    neurons = outputs * math.prod(layer.sizes(shape[1:]))
    net.layers.output = tsslbp.layers.Linear(neurons, 8, neuron=net.neuron).double()
    lively(net, 2.0, seed)
    x = inputs(net, kind, 3, seed, torch.float64)
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", NOTATIONS, ids=lambda case: case[0])
def test_in_float32_only_ties_differ(case):
    """A spike differs where two orders of summation round a membrane potential to both sides of its threshold."""
    net = made(case, dtype=torch.float32)
    x = inputs(net, "static", 200, 1, torch.float32)
    differ = (net.fired(by_events(net, x)) != net.fired(dense(net, x))).any(0).any(-1)
    assert int(differ.sum()) <= 2, "samples with a difference"


@given(
    case=st.sampled_from([case for case in NOTATIONS if "M" not in case[0]]),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    kind=kinds,
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_parts_hand_on_what_the_layers_do(case, lengths, kind, seed):
    net = made(case, steps=sum(lengths), seed=seed)
    x = inputs(net, kind, 3, seed, torch.float64)
    state, expected, whole, start = None, None, [], 0
    for steps in lengths:
        some = x if kind == "static" else x[start : start + steps]
        output, state = net.part(some, state, steps)
        assert state.events is not None
        with mock.patch.object(events, "plan", return_value=None):
            expected_output, expected = net.part(some, expected, steps)
        whole.append(output)
        torch.testing.assert_close(output, expected_output, rtol=0, atol=1e-9)
        assert state.steps == expected.steps
        assert (state.synapse is None) == (kind == "static")
        for found, wanted in [(state.synapse, expected.synapse), *((state.layers[k], v) for k, v in expected.layers.items())]:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
        start += steps
    torch.testing.assert_close(torch.cat(whole), net(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("how", ["returned", "taken", "copied", "replaced"])
def test_a_state_that_is_changed_in_place_is_what_it_then_holds(how):
    net = made(("20R-7", FLAT), steps=12)
    x = inputs(net, "spikes", 3, 0, torch.float64)
    _, state = net.part(x[:5])
    if how == "taken":
        state = state.take(torch.arange(3))
    elif how == "copied":
        state = copy.deepcopy(state)
    elif how == "replaced":
        state = replace(state, layers={name: layer.clone() for name, layer in state.layers.items()})
    state.synapse[1] = 0
    for layer in state.layers.values():
        layer[:, 1] = 0
    found, _ = net.part(x[5:], state)
    again, _ = net.part(x[5:, 1:2])
    torch.testing.assert_close(found[:, 1:2], again, rtol=0, atol=1e-9)
    assert not torch.equal(dense(net, x)[5:, 1:2], again)


def test_weights_may_change_between_parts():
    net = made(("20-7", FLAT), steps=12)
    x = inputs(net, "real", 3, 0, torch.float64)

    def through():
        own, state, outputs = copy.deepcopy(net), None, []
        for step, factor in zip(x, [0.5, 1.8] * 6, strict=True):
            for weight in own.parameters():
                weight.mul_(factor)
            output, state = own.part(step[None], state)
            outputs.append(output)
        return torch.cat(outputs)

    with mock.patch.object(events, "plan", return_value=None):
        expected = through()
    torch.testing.assert_close(through(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("switch", ["layers", "events"])
def test_a_sequence_may_change_hands(switch):
    net = made(("4C3n-[4C3-4C3b]-12A-6", IMAGE), steps=12)
    x = inputs(net, "spikes", 3, 0, torch.float64)
    wanted = dense(net, x)
    first, state = net.part(x[:5])
    if switch == "layers":
        with mock.patch.object(events, "plan", return_value=None):
            second, state = net.part(x[5:], state)
        assert state.events is None
        third, _ = net.part(x[:2], state)  # goes on layer by layer
        assert len(third) == 2
    else:
        state = state.take(torch.tensor([2, 0]))
        second, _ = net.part(x[5:, [2, 0]], state)
        first, wanted = first[:, [2, 0]], wanted[:, [2, 0]]
    torch.testing.assert_close(torch.cat([first, second]), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "case", [("20-7", FLAT), ("9-13Ab-7", FLAT), ("4C3n-M2-[4C3-4C3b]-6b", IMAGE)], ids=lambda case: case[0]
)
def test_neither_batch_nor_threads_change_a_bit(case):
    net = made(case, steps=20, dtype=torch.float32)
    x = inputs(net, "real", 9, 0, torch.float32)
    whole = by_events(net, x)
    assert torch.equal(torch.cat([by_events(net, x[:, i : i + 1]) for i in range(9)], 1), whole)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(by_events(net, x), whole)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize(
    "case", [("5C3-P2-300-250-7", IMAGE), ("300-300R-7", FLAT), ("300-300A-7", FLAT)], ids=lambda case: case[0]
)
def test_samples_go_through_far_weights_together_and_alike(case, steps):
    net = made(case, steps=steps, dtype=torch.float32)
    x = inputs(net, "spikes", 35, 0, torch.float32)  # more than go together, and not a multiple
    whole = by_events(net, x)
    assert torch.equal(torch.cat([by_events(net, x[:, i : i + 1]) for i in range(35)], 1), whole)
    net.double()
    torch.testing.assert_close(by_events(net, x.double()), dense(net, x.double()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("notation", ["64C3-P2-10", "1200-10"])
def test_busy_batches_go_through_the_layers(notation):
    """The choice follows from the activity of the batch's first samples, and from nothing else."""
    net = made((notation, (32, 12, 12)), steps=5, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(5, 40, 32, 12, 12, generator=generator)
    busy, calm = (noise < 0.5).float(), (noise < 0.01).float()
    for _ in range(2):
        assert events.whole(net, busy) is None
        assert torch.equal(net(busy), dense(net, busy))
        assert events.whole(net, calm) is not None
    assert events.whole(net, busy[:, :4]) is not None, "a few samples"
    assert events.whole(net, torch.cat([calm[:, :2], busy[:, 2:]], 1)) is not None
    assert events.whole(net, torch.cat([busy[:, :2], calm[:, 2:]], 1)) is None
    assert net.part(busy)[1].events is not None, "parts hand on their state"


CALL = """
import sys, torch
from tests.test_events import IMAGE, by_events, inputs, made
with torch.no_grad():
    for case in (("18C3b-M2-[4C3-4C3n]-20A-6b", IMAGE), ("5C3-P2-7C2s2-9", IMAGE)):
        for dtype in (torch.float32, torch.float64):
            net = made(case, steps=11, dtype=dtype)
            print(by_events(net, inputs(net, "real", 3, 0, dtype)).double().numpy().tobytes().hex()[-4000:])
"""


def test_the_instruction_set_changes_no_bit():
    where = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    programs = [
        subprocess.Popen([sys.executable, "-c", CALL], env={**where, "TSSLBP_CPU_CAPABILITY": name}, stdout=subprocess.PIPE)
        for name in ("avx512", "avx2", "baseline")
    ]
    best, *others = (program.communicate()[0] for program in programs)
    assert len(best) > 4000
    assert others == [best, best]


def test_a_constant_current_equals_its_repetition():
    net = made(("5C3-P2-7C3-9-6", IMAGE), steps=20)
    x = inputs(net, "static", 3, 0, torch.float64)
    torch.testing.assert_close(by_events(net, x), by_events(net, x.expand(20, *x.shape)), rtol=0, atol=1e-9)


CHANGES = {
    "a weight": lambda net: net.layers.linear1.weight.mul_(2),
    "a weight by an optimiser": lambda net: stepped(net, fused=False),
    "a weight by a fused optimiser": lambda net: stepped(net, fused=True),
    "memory of a weight by a fused optimiser": lambda net: stepped_apart(net),
    "a bias": lambda net: net.layers.linear2.bias.add_(1),
    "other tensor": lambda net: setattr(net.layers.linear1, "weight", nn.Parameter(2 * net.layers.linear1.weight)),
    "other data": lambda net: setattr(net.layers.linear1.weight, "data", 2 * net.layers.linear1.weight.data),
    "through .data": lambda net: net.layers.linear1.weight.data.mul_(2),
    "noise through .data": lambda net: net.layers.linear2.bias.data.add_(torch.rand_like(net.layers.linear2.bias)),
    "half of a weight through .data": lambda net: net.layers.linear1.weight.data.mul_(torch.arange(20)[:, None] % 2),
    "through NumPy": lambda net: net.layers.linear1.weight.detach().numpy().__imul__(2),
    "a layer": lambda net: setattr(net.layers, "linear2", made(("20-15-6", FLAT), seed=5).layers.linear2),
    "running statistics": lambda net: net.layers.linear3.norm.mean.add_(0.5),
    "folded": lambda net: net.fold(),
    "a state_dict": lambda net: net.load_state_dict({k: 1.5 * v for k, v in net.state_dict().items()}),
    "other neurons": lambda net: setattr(net.layers.linear2, "neuron", tsslbp.neuron.LIF(2.0, 3.0, 0.5)),
    "in inference mode": lambda net: inferred(net),
    "precision and back": lambda net: net.float().double(),
}


def stepped(net, fused):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.3, fused=fused)
    with torch.enable_grad():
        net(inputs(net, "static", 2, 0, torch.float64)).sum().backward()
    optimizer.step()


def stepped_apart(net):
    """The weight is a view of a parameter that the network does not have."""
    weight = net.layers.linear1.weight
    flat = nn.Parameter(weight.detach().flatten())
    flat.grad = torch.ones_like(flat)
    torch.optim.AdamW([flat], lr=0.3, fused=True).step()


@torch.inference_mode()
def inferred(net):
    net.layers.linear1.weight.mul_(2)


def test_a_default_device_changes_nothing():
    """Notebooks set it to the CPU where there is no GPU."""
    net = made(("20-15-6", FLAT), dtype=torch.float32)
    x = inputs(net, "static", 8, 0, torch.float32)
    with torch.no_grad(), torch.device("cpu"):
        assert events.plan(net, x) is not None
    with torch.no_grad(), torch.device("meta"):
        assert events.plan(net, x) is None


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(change):
    net = made(("20-15b-12n-6", FLAT))
    x = inputs(net, "static", 8, 0, torch.float64)
    before = by_events(net, x)
    CHANGES[change](net)
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)
    assert (change in ("folded", "precision and back")) == torch.equal(net(x), before)


@pytest.mark.parametrize("batch", [1, 100])
def test_a_weight_that_is_cut_is_noticed(batch):
    net = made(("20-15-6", FLAT))
    x = inputs(net, "static", batch, 0, torch.float64)
    by_events(net, x)
    last = net.layers.output.weight
    last.data = last.data[:5]
    assert by_events(net, x).shape[2] == 5


def test_a_batch_that_moves_statistics_is_noticed():
    net = made(("20n-6", FLAT))
    x = inputs(net, "static", 1, 0, torch.float64)
    before = by_events(net, x)
    net.train()
    net(inputs(net, "static", 50, 1, torch.float64))
    net.eval()
    assert not torch.equal(by_events(net, x), before)
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)


def test_a_sequence_of_many_samples_is_a_long_call():
    net = made(("20-6", FLAT), steps=5)
    x = inputs(net, "spikes", 100, 0, torch.float64)
    by_events(net, x)
    net.layers.linear1.weight.data.neg_()
    torch.testing.assert_close(by_events(net, x), dense(net, x), rtol=0, atol=1e-9)


def test_a_state_of_another_network_is_refused_in_one_line():
    net, other = made(("20-6", FLAT)), made(("30-6", FLAT))
    x = inputs(net, "spikes", 4, 0, torch.float64)
    with pytest.raises(
        UserError, match=r"the state is torch.float64 of shape \[2, 4, 20\]; it must be torch.float64 of shape \[2, 4, 30\]"
    ):
        other.part(x, net.part(x)[1])


@given(
    shape=st.sampled_from([(), (0,), (1,), (63,), (64,), (65,), (300,), (17, 33), (3, 4, 5, 6)]),
    transposed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_glance_sees_what_most_elements_are(shape, transposed, dtype):
    x, other = (torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x = x.transpose(0, -1) if transposed and x.dim() > 1 else x
    glance = torch.ops.tsslbp.glance
    seen = glance([other, x])
    assert seen == glance([other.clone(), x.clone()])
    x.data.add_(1)
    assert (glance([other, x]) == seen) == (not x.numel())


def test_a_glance_refuses_what_it_cannot_see():
    for x in (torch.ones(3, dtype=torch.int64), torch.ones(3).bfloat16()):
        with pytest.raises(RuntimeError, match="not float32 or float64 on the CPU"):
            torch.ops.tsslbp.glance([x])


def hooked(register):
    def change(net):
        getattr(net.layers.linear2, register)(lambda module, x, *output: None)

    return change


class Doubled(tsslbp.layers.Linear):
    def map(self, x):
        return 2 * super().map(x)


def doubled(net):
    net.layers.linear2 = Doubled(20, 15, neuron=net.neuron).double().eval()


def replaced(net):
    layer = net.layers.linear2
    layer.forward = lambda *given, **more: type(layer).forward(layer, *given, **more) * 2


class Halved(tsslbp.layers.Residual):
    def forward(self, *given, **more):
        return super().forward(*given, **more) * 0.5


DECLINED = {
    "a hook": hooked("register_forward_hook"),
    "a hook before": hooked("register_forward_pre_hook"),
    "training": lambda net: net.train(),
    "a layer in training": lambda net: net.layers.linear3.norm.train(),
    "the reference": lambda net: setattr(net.layers.linear1, "backend", "reference"),
    "no reset": lambda net: setattr(net.layers.linear1, "neuron", tsslbp.neuron.LIF(4.0, 3.0, 1.0, reset=False)),
    "a layer of one's own": doubled,
    "a method put in its place": replaced,
    "a weight that is no number": lambda net: net.layers.linear1.weight[0, 0].fill_(math.nan),
    "a method put in the network's": lambda net: setattr(net, "encode", lambda x: type(net).encode(net, 0 * x)),
    "memory that processes share": lambda net: net.share_memory(),
    "an infinite weight": lambda net: net.layers.linear1.weight[0, 0].fill_(math.inf),
    "a method put in a normalisation's": lambda net: setattr(net.layers.linear3.norm, "forward", lambda x, inside=None: 0 * x),
    "a parametrisation": lambda net: nn.utils.parametrizations.spectral_norm(net.layers.linear1),
}


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("why", DECLINED)
def test_what_is_not_known_goes_through_the_layers(why, again):
    net = made(("20-15-12n-6", FLAT))
    x = inputs(net, "static", 3, 0, torch.float64)
    if again:
        by_events(net, x)
    DECLINED[why](net)
    if again and why.startswith("a method put in") and "network" not in why:
        pytest.skip("a plan is made once (KNOWN_LIMITS.md)")
    assert events.plan(net, x) is None
    torch.testing.assert_close(net(x), dense(net, x), equal_nan=True)


def test_a_block_of_ones_own_goes_through_its_layers():
    net = made(("20-[15-20]-6", FLAT))
    block = net.layers.block1
    block.__class__ = Halved
    x = inputs(net, "static", 3, 0, torch.float64)
    assert events.plan(net, x) is None
    assert torch.equal(net(x), dense(net, x))


def test_a_state_that_was_set_is_gone_on_from():
    net = made(("20-15-6", FLAT))
    x = inputs(net, "real", 3, 0, torch.float64)
    _, state = net.part(x)
    given = State(synapse=state.synapse, layers=state.layers)
    with torch.enable_grad():
        expected, _ = net.part(x, given)
    torch.testing.assert_close(net.part(x, given)[0], expected.detach())


def test_a_state_whose_tensor_was_replaced_is_gone_on_from():
    net = made(("20-15-6", FLAT))
    x = inputs(net, "real", 3, 0, torch.float64)
    _, state = net.part(x)
    state.layers["output"] = torch.full_like(state.layers["output"], 0.9)
    expected = net.part(x, State(synapse=state.synapse, layers=state.layers))[0]
    torch.testing.assert_close(net.part(x, state)[0], expected)


@pytest.mark.parametrize("twice", ["a block", "a block that begins with pooling", "the last layer"])
def test_a_block_and_a_layer_may_be_there_twice(twice):
    inner = "P1-8C3-8C3" if "pooling" in twice else "8C3-8C3"
    net = made((f"8C3-[{inner}]-[{inner}]-10", (2, 8, 8)), gain=4.0)
    block = net.layers.block1
    if twice == "the last layer":
        block.conv2 = block.conv3
        assert [name for name, _ in block.named_layers()] == ["conv2", "conv3"]
    else:
        net.layers.block2 = block
    x = inputs(net, "static", 4, 0, torch.float64)
    expected = nn.Sequential(*net.layers)(net.encode(x))
    assert expected.any()
    torch.testing.assert_close(by_events(net, x), expected)
    with torch.enable_grad():
        torch.testing.assert_close(net(x).detach(), expected)


@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (9, 2)])
def test_a_shortcut_that_does_not_fit_is_refused(channels, stride):
    net = made(("8C3-[16C3s2-16C3]-10", (2, 8, 8)))
    net.layers.block1.shortcut = Conv2d(8, channels, 1, stride=stride, neuron=net.neuron).double().eval()
    with pytest.raises(UserError, match="its shortcut makes"):
        net(inputs(net, "static", 2, 0, torch.float64))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_holds_the_network_and_not_its_numbers():
    net = made(("20-15-6", FLAT))
    x = inputs(net, "static", 3, 0, torch.float64)
    net(x)
    with torch.enable_grad(), pytest.raises(UserError, match=r"trace in torch.no_grad\(\), and write ONNX by tsslbp export"):
        torch.jit.trace(net, x)
    traced = torch.jit.trace(net, x, check_trace=False)
    with torch.no_grad():
        net.layers.linear1.weight.mul_(3)
    torch.testing.assert_close(traced(x), net(x))


def test_gradients_autocast_and_transforms_go_through_the_layers():
    net = made(("20-15-6", FLAT), dtype=torch.float32)
    x = inputs(net, "static", 3, 0, torch.float32)
    by_events(net, x)
    with torch.enable_grad():
        assert net(x).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert events.plan(net, x) is None
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert counter.get_total_flops() > 0
    assert events.plan(net, x.double()) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["static", "real"])
def test_what_is_not_finite_shows(value, kind):
    net = made(("5C3-P2-7C3-9-6", IMAGE))
    x = inputs(net, kind, 3, 0, torch.float64)
    x[..., 1, 0, 3, 3] = value
    assert events.whole(net, x) is None
    torch.testing.assert_close(net(x), dense(net, x), equal_nan=True)
    assert net(x).isnan().any()


def test_copies_have_plans_of_their_own():
    net = made(("20-15-6", FLAT))
    x = inputs(net, "static", 3, 0, torch.float64)
    output = by_events(net, x)
    other = copy.deepcopy(net)
    other.layers.linear1.weight.mul_(-1)
    assert not torch.equal(by_events(other, x), output)
    assert torch.equal(by_events(net, x), output)


def test_early_exit_and_evaluation_take_events(monkeypatch):
    torch.manual_seed(0)
    net = tsslbp.build("30-6", input_shape=(11,), time_steps=8, tau_m=5, tau_s=3).eval()
    norm = tsslbp.data.Normalisation(1.0, (0.0,), (1.0,))
    kept = tsslbp.training.inputs.Inputs("constant", norm, 8, sequence=False)
    model = tsslbp.training.Model(net, kept, tuple("abcdef"), "")
    x = 3 * torch.rand(20, 11)
    whole, decided = model.outputs(x), model.decide(x)
    calls = []
    run = events.Plan.run
    monkeypatch.setattr(events.Plan, "run", lambda *given: calls.append(1) or run(*given))
    assert torch.equal(model.outputs(x), whole)
    assert len(calls) == 1
    assert all(map(torch.equal, model.decide(x), decided))
    assert len(calls) > 2
    assert torch.equal(decided[0], tsslbp.metrics.decode(whole))


def test_whatever_needs_no_gradient_takes_events(monkeypatch, tmp_path, capsys):
    """At any batch size and with any number of threads, no layer is asked: it would raise."""
    torch.manual_seed(0)
    net = tsslbp.build("30-6", input_shape=(11,), time_steps=8, tau_m=5, tau_s=3).eval()
    norm = tsslbp.data.Normalisation(1.0, (0.0,), (1.0,))
    model = tsslbp.training.Model(net, tsslbp.training.inputs.Inputs("constant", norm, 8, sequence=False), tuple("abcdef"), "")
    x, threads = 3 * torch.rand(20, 11), torch.get_num_threads()
    np.savez(tmp_path / "x.npz", x=x.numpy(), y=np.arange(20) % 6)
    model.save(tmp_path / "model.safetensors")

    def refuse(*_):
        raise AssertionError("a layer computes")

    monkeypatch.setattr(tsslbp.layers.Spiking, "current", refuse)
    try:
        for torch_threads in (1, 3):
            torch.set_num_threads(torch_threads)
            for size in (1, 7, 20):
                model.outputs(x, batch_size=size)
                model.decide(x, batch_size=size)
                net(x[:size])
                net.part(x[:size], steps=2)
                tsslbp.stream(net, streams=size)(x[:size])
    finally:
        torch.set_num_threads(threads)
    for command in (["evaluate", "--all"], ["predict"]):
        assert cli.main([command[0], str(tmp_path / "model.safetensors"), *command[1:], str(tmp_path / "x.npz")]) == 0
    with pytest.raises(AssertionError, match="a layer computes"), torch.enable_grad():
        net(x.requires_grad_())


def infer(net, sample, **changed):
    by = events.plan(net, sample)
    response = torch.linspace(0.3, 1, 7, dtype=sample.dtype) if net.is_static(sample) else None
    given = {"x": sample, "weights": by.weights, "plan": by.numbers, "response": response, "before": None, "keep": False}
    return torch.ops.tsslbp.infer(*(given | changed).values())


@given(case=st.sampled_from(NOTATIONS), data=st.data())
@settings(max_examples=100)
def test_the_operator_takes_no_impossible_plan(case, data):
    """It computes or raises, whatever its numbers; a plan that led beyond the weights would crash or read what is not there."""
    net = made(case)
    x = inputs(net, data.draw(kinds), 2, 0, torch.float64)
    numbers = events.plan(net, x).numbers.clone()
    at = data.draw(st.integers(0, len(numbers) - 1))
    numbers[at] = data.draw(st.sampled_from([-3, -1, 0, 1, 2, 3, 7, 100, 2**40, 0.5, math.nan, math.inf]))
    said = ""
    try:
        infer(net, x, plan=numbers)
    except RuntimeError as error:
        said = str(error)
    assert not said or "tsslbp: " in said, said


def test_a_flat_shortcut_without_weights_is_refused():
    net = made(("12-[12-12]-5", FLAT))
    x = inputs(net, "spikes", 2, 0, torch.float64)
    numbers = events.plan(net, x).numbers
    refused = 0
    for at in (numbers == 0).nonzero().flatten():  # one of them says that the shortcut is not flat
        changed = numbers.clone()
        changed[at] = 1
        try:
            infer(net, x, plan=changed)
        except RuntimeError as error:
            refused += "shortcut changes the shape" in str(error)
    assert refused == 1


def test_the_operator_refuses_what_does_not_fit():
    net = made(("20R-7", FLAT))
    x = inputs(net, "spikes", 2, 0, torch.float64)
    by = events.plan(net, x)
    wrong = [
        *({"x": x[:0]}, {"x": x[..., :5]}, {"x": x.float()}, {"weights": by.weights[:-1]}, {"weights": by.weights.float()}),
        *({"plan": by.numbers[:-1]}, {"plan": torch.cat([by.numbers, by.numbers[:1]])}, {"plan": by.numbers.long()}),
        *({"before": torch.zeros(2, 3, dtype=torch.float64), "keep": True}, {"response": torch.ones(0, dtype=torch.float64)}),
        {"before": torch.zeros(2, by.state_size, dtype=torch.float64)},
    ]
    for changed in wrong:
        with pytest.raises(RuntimeError, match="tsslbp: "):
            infer(net, x, **changed)


@pytest.mark.parametrize("notation", ["20b-6", "20n-6"])
def test_one_number_for_all_neurons_is_theirs(notation):
    """As the layers broadcast it, where a kernel would read on behind it."""
    net = made((notation, FLAT))
    layer = net.layers.linear1
    if layer.norm is None:
        layer.bias = nn.Parameter(layer.bias.new_full((1,), 0.3))
    else:
        layer.norm.shift = nn.Parameter(layer.norm.shift.new_full((1,), 0.3))
    x = inputs(net, "static", 8, 0, torch.float64)
    try:
        expected = dense(net, x)
    except RuntimeError:  # PyTorch's normalisation wants a number for each
        with pytest.raises(RuntimeError):
            net(x)
    else:
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tensors_in_place_of_parameters_are_read_anew(name):
    """As a network makes them that computes the weights of another."""
    net = made(("20b-6", FLAT))
    x = inputs(net, "static", 8, 0, torch.float64)
    plain = getattr(net.layers.linear1, name).detach().clone()
    delattr(net.layers.linear1, name)
    setattr(net.layers.linear1, name, plain)
    before = net(x)
    plain.mul_(-1)
    assert not torch.equal(net(x), before)
    torch.testing.assert_close(net(x), dense(net, x), rtol=0, atol=1e-9)
