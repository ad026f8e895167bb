"""A sequence in parts: the state from part to part, blocks of time, truncated backpropagation."""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

import tsslbp
from tsslbp import TSSL, Rule, Surrogate, UserError, kernels
from tsslbp.layers import Dropout
from tsslbp.network.network import Network
from tsslbp.network.state import State
from tsslbp.neuron import LIF

RULES = [
    *(
        TSSL(psc_derivative=derivative, fallback=fallback)
        for derivative in ("amplitude", "timing")
        for fallback in ("quiet", "no-spike", "never", "always")
    ),
    TSSL(reset=False),
    TSSL(leak=False, inter=False),
    Surrogate(),
    Surrogate("atan", through_reset=True),
]
BACKENDS = [name for name in ("reference", "cpp") if kernels.backends()[name].usable]


def sequence(steps, *shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(steps, *shape, generator=generator, dtype=dtype)


def in_parts(current, lengths, **arguments):
    state, made = None, []
    for part in current.split(lengths):
        psc, state = tsslbp.lif_part(part, state, **arguments)
        made.append(psc)
    return torch.cat(made)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    neuron=st.sampled_from([(5, 3, 1.0), (math.inf, 1, 0.5), (1, 7, 1.0), (10, 2.5, 0.3)]),
    rule=st.sampled_from(RULES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_parts_equal_the_whole(backend, lengths, neuron, rule, dtype, seed):
    tau_m, tau_s, threshold = neuron
    arguments = {"tau_m": tau_m, "tau_s": tau_s, "threshold": threshold, "rule": rule, "backend": backend}
    current = sequence(sum(lengths), 3, 11, seed=seed, dtype=dtype).requires_grad_()
    error = sequence(sum(lengths), 3, 11, seed=seed + 100, dtype=dtype)
    whole, parts = tsslbp.lif(current, **arguments), in_parts(current, lengths, **arguments)
    assert torch.equal(parts, whole)
    (of_whole,), (of_parts,) = (torch.autograd.grad(psc, current, error) for psc in (whole, parts))
    if backend == "cpp":
        assert torch.equal(of_parts, of_whole)
    else:  # PyTorch's logistic rounds by where a number lies in memory
        torch.testing.assert_close(of_parts, of_whole)


def test_the_state_is_the_last_membrane_potential_and_current():
    current = sequence(7, 50)
    psc, state = tsslbp.lif_part(current, torch.zeros(2, 50, dtype=torch.float64), tau_m=5, tau_s=3)
    for made, same in zip(tsslbp.lif_part(current, None, tau_m=5, tau_s=3), (psc, state), strict=True):
        assert torch.equal(made, same)
    assert torch.equal(state[0], tsslbp.neuron.membrane_potential(current, tsslbp.neuron.LIF(5, 3))[-1])
    assert torch.equal(state[1], psc[-1])


@dataclass(frozen=True)
class WholeOnly(Rule):
    def current_gradient(self, psc_gradient, membrane, neuron):
        return psc_gradient


def test_what_takes_no_parts_says_so():
    current, rest = sequence(5, 3).requires_grad_(), torch.zeros(2, 3, dtype=torch.float64)
    for rule in ("tssl(fallback=rate)", WholeOnly()):
        with pytest.raises(UserError, match="whole sequence at once"):
            tsslbp.lif_part(current, rest, tau_m=5, tau_s=3, rule=rule)
        tsslbp.lif_part(current.detach(), rest, tau_m=5, tau_s=3, rule=rule)  # without a gradient any rule will do
        tsslbp.lif(current, tau_m=5, tau_s=3, rule=rule).sum().backward()


@pytest.mark.parametrize("state", [torch.zeros(2, 4), torch.zeros(1, 3), torch.zeros(2, 3, dtype=torch.float64)])
def test_a_state_that_does_not_fit(state):
    with pytest.raises(UserError, match=r"it must be \[2, 3\] of torch.float32"):
        tsslbp.lif_part(torch.zeros(5, 3), state, tau_m=5, tau_s=3)


NETS = {
    "convolutional": ("3C3-P2-6-4", (1, 8, 8)),
    "fully connected": ("12-4", (9,)),
}


def network(name, static, rule="tssl", dropout=0.0, steps=11):
    torch.manual_seed(0)
    notation, shape = NETS[name]
    net = tsslbp.build(notation, input_shape=shape, time_steps=steps, tau_m=5, tau_s=3, rule=rule, dropout=dropout).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 2
    return net, (sequence(5, *shape) if static else (sequence(steps, 5, *shape) > 1).double())


def gradients(net, psc):
    psc = psc - sequence(len(psc), *psc.shape[1:], seed=3)
    return torch.autograd.grad(psc.square().sum(), list(net.parameters()))


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("rule", ["tssl", "tssl(psc_derivative=timing)", "surrogate"])
def test_a_network_in_parts_equals_the_whole(name, static, rule):
    net, x = network(name, static, rule)
    whole, state, made, start = net(x), None, [], 0
    assert whole.count_nonzero() > 20
    for steps in (4, 1, 6):
        psc, state = net.part(x if static else x[start : start + steps], state, steps)
        made.append(psc)
        start += steps
    assert state.steps == 11
    torch.testing.assert_close(torch.cat(made), whole)
    for ours, theirs in zip(gradients(net, torch.cat(made)), gradients(net, whole), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.count_nonzero() > 0


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("block", [1, 4, 11, 50])
def test_blocks_of_time_change_nothing(name, static, block):
    net, x = network(name, static, dropout=0.3)
    torch.manual_seed(1)
    whole = net(x)
    drawn = torch.rand(1)
    net.time_block = block
    torch.manual_seed(1)
    blocks = net(x)
    assert torch.rand(1) == drawn  # the masks are the same, and so is what is drawn next
    torch.testing.assert_close(blocks, whole)
    for ours, theirs in zip(gradients(net, blocks), gradients(net, whole), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("added", [lambda x: x + 0.3 * torch.randn_like(x), Dropout(0.5), torch.nn.Dropout(0.5)])
def test_what_a_module_draws_in_a_block_is_drawn_once(added):
    net, x = network("fully connected", static=True)
    net.layers.linear1.register_forward_hook(lambda module, signal, output: added(output))
    found = []
    for net.time_block in (0, 50):  # one block, or each would draw its own
        torch.manual_seed(1)
        found.append(gradients(net, net(x)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_that_was_put_into_a_network_has_the_same_masks_in_all_parts():
    net, x = network("fully connected", static=False)
    net.layers = torch.nn.Sequential(OrderedDict(dropout=Dropout(0.5), **dict(net.layers.named_children())))
    torch.manual_seed(1)
    whole = net(x)
    torch.manual_seed(1)
    first, state = net.part(x[:3])
    rest, _ = net.part(x[3:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole)


def test_blocks_of_time_keep_less():
    def kept(block):
        net, x = network("convolutional", static=True, steps=100)
        net.time_block = block
        seen = {}
        with saved_tensors_hooks(lambda t: seen.setdefault(t.data_ptr(), t.nbytes) and t, lambda t: t):
            loss = net(x).sum()
        alive = sum(seen.values())
        loss.backward()
        return alive

    assert kept(10) < kept(0) / 3


def test_blocks_are_for_training_only_and_need_a_rule_that_takes_parts():
    net, x = network("fully connected", static=True, rule="tssl(fallback=rate)")
    net.time_block = 4
    with torch.no_grad():
        net(x)
    with pytest.raises(UserError, match="blocks of time"):
        net(x)


def test_a_state_of_another_network_is_refused():
    x = torch.ones(3, 2, 6)
    for layers, others in (("20R-10", "20-10"), ("20-10", "20-20-10")):
        settings = {"input_shape": (6,), "time_steps": 3, "tau_m": 5, "tau_s": 3}
        one, other = (tsslbp.build(notation, **settings) for notation in (layers, others))
        _, state = one.part(x)
        with pytest.raises(
            UserError, match=r"the state is of a network with the layers .*; this one has .*: begin again from rest"
        ):
            other.part(x, state)


def test_an_encode_of_ones_own_takes_no_parts():
    class Doubled(Network):
        def encode(self, x):
            return super().encode(2 * x)

    network = Doubled(tsslbp.build("20-10", input_shape=(6,), time_steps=3, tau_m=5, tau_s=3).architecture)
    for part in (lambda: network.part(torch.ones(3, 2, 6)), lambda: tsslbp.stream(network)):
        with pytest.raises(UserError, match="Doubled has its own encode, which parts do not call; give it a part of its own"):
            part()


def test_no_gradient_flows_through_a_detached_state():
    """Truncated backpropagation through time: the loss of the second part sees the first as given."""
    net, x = network("fully connected", static=False)
    _, state = net.part(x[:6])
    psc, _ = net.part(x[6:], state.detach())
    ours = gradients(net, psc)
    with torch.no_grad():
        _, given = net.part(x[:6])
    theirs = gradients(net, net.part(x[6:], given)[0])
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
    not_cut = gradients(net, net.part(x[6:], net.part(x[:6])[1])[0])
    assert not torch.equal(not_cut[0], ours[0])


def test_the_state_of_some_samples():
    net, x = network("convolutional", static=True)
    with torch.no_grad():
        _, state = net.part(x, steps=3)
        some = torch.tensor([True, False, True, False, False])
        ours, _ = net.part(x[some], state.take(some), steps=4)
        theirs, _ = net.part(x, state, steps=4)
    assert torch.equal(ours, theirs[:, some])


@pytest.mark.parametrize("steps", [0, -1, -2, 1.5])
def test_a_part_has_at_least_one_step(steps):
    net, x = network("fully connected", static=True)
    for state in (None, net.part(x, steps=3)[1]):
        with pytest.raises(UserError, match=f"steps is {steps}; it must be a whole number from 1"):
            net.part(x, state, steps)
    with pytest.raises(UserError, match=r"network input has shape \[0, 5, 9\]"):
        net.part(x.new_zeros(0, 5, 9))
    assert len(net.part(x.new_zeros(2, 5, 9), steps=0)[0]) == 2  # not used for a sequence


@pytest.mark.parametrize("engine", ["layers", "events", "compiled"])
@pytest.mark.parametrize("order", ["aab", "abS", "aSb", "SaabS", "aSS"])
def test_another_picture_or_a_sequence_may_follow(order, engine):
    """``a`` and ``b`` are pictures for two steps, ``S`` is a sequence."""
    net, _ = network("fully connected", static=True, rule="tssl+")
    parts = dict(zip("ab", sequence(2, 5, *net.architecture.input_shape), strict=True))
    parts["S"] = (sequence(3, 5, *net.architecture.input_shape) > 1).double()
    frame = torch.empty_like(parts["a"])  # one that is written over, as of a camera
    net.train(engine == "layers")
    part = torch.compile(net.part, backend="eager", dynamic=False) if engine == "compiled" else net.part
    with torch.set_grad_enabled(engine == "layers"):
        state, made = None, []
        for name in order:
            x = parts[name] if name == "S" or engine == "layers" else frame.copy_(parts[name])
            psc, state = part(x, state, 2)
            made.append(psc)
        shown = torch.cat([parts[name] if name == "S" else parts[name].expand(2, *frame.shape) for name in order])
        net.time_steps = len(shown)
        whole = net(shown)
    assert state.steps == len(whole)
    torch.testing.assert_close(torch.cat(made), whole)
    if engine == "layers":
        for ours, theirs in zip(gradients(net, torch.cat(made)), gradients(net, whole), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("static", [True, False])
def test_a_part_fits_its_state(static):
    net, _ = network("fully connected", static=True, rule="tssl+")
    x = torch.rand(3, *net.architecture.input_shape, dtype=torch.float64)
    first = x if static else x[None]
    _, state = net.part(first)
    with pytest.raises(UserError, match="the state is that of 3 samples, and the input has 2"):
        net.part(first[..., :2, :], state)
    with pytest.raises(UserError, match="the state has neither synapse nor sample"):
        net.part(first, replace(state, synapse=None, sample=None))
    with pytest.raises(UserError, match=r"that of a torch.float64 input, and this is torch.float32"):
        net.float().part(first.float(), state)


def test_parts_of_the_wrong_shape():
    net, _ = network("fully connected", static=True)
    with pytest.raises(UserError, match=r"or \[t, B, 9\] with time first"):
        net.part(torch.zeros(3, 2, 8))
    assert State().layers == {}


def test_parts_of_float16_are_computed_in_float32():
    current = (3 * torch.rand(6, 2, 5)).half()
    psc, state = tsslbp.lif_part(current[:4], torch.zeros(2, 2, 5), tau_m=5, tau_s=3)
    rest, _ = tsslbp.lif_part(current[4:], state, tau_m=5, tau_s=3)
    assert (psc.dtype, state.dtype) == (torch.float32, torch.float32)
    assert torch.equal(torch.cat([psc, rest]), tsslbp.lif(current, tau_m=5, tau_s=3))


def test_a_second_part_of_no_samples():
    net = tsslbp.build("6C3-M2-7", input_shape=(1, 8, 8), time_steps=4, tau_m=4, tau_s=3).eval()
    empty = torch.zeros(2, 0, 1, 8, 8)
    with torch.enable_grad():
        assert net.part(empty, net.part(empty)[1])[0].shape == (2, 0, 7)


@pytest.mark.parametrize("block", [-3, 2.5])
def test_blocks_of_no_whole_number_of_steps_are_refused(block):
    net = tsslbp.build("4-3", input_shape=(5,), time_steps=6, tau_m=5, tau_s=3)
    net.time_block = block
    with pytest.raises(UserError, match=rf"time_block is {block}; it must be a whole number of steps, or 0 for none"):
        net(torch.rand(2, 5))
    net.time_block = np.int64(4)
    assert net(torch.rand(2, 5)).shape == (6, 2, 3)


def test_a_saved_state_is_read_by_torch(tmp_path):
    net = tsslbp.build("4-3", input_shape=(5,), time_steps=6, tau_m=5, tau_s=3)
    x = torch.rand(3, 2, 5)
    torch.save(net.part(x)[1], tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(net.part(x, state)[0], net.part(x, net.part(x)[1])[0])


CHANGES = {
    "a weight": lambda net: net.layers.linear1.weight.detach().add_(0.1),
    "an optimiser's step": lambda net: torch.optim.SGD(net.parameters(), 0.1).step(),
    "a fused optimiser's step": lambda net: torch.optim.Adam(net.parameters(), 0.1, fused=True).step(),
    "another weight": lambda net: setattr(net.layers.linear1, "weight", torch.nn.Parameter(net.layers.linear1.weight * 2)),
    "a constant": lambda net: setattr(net.layers.linear1, "neuron", LIF(7, 3)),
    "constants of each neuron": lambda net: net.layers.output.tau_m.add_(1),
    "a rule": lambda net: setattr(net.layers.linear1, "rule", "superspike"),
    "the mode": lambda net: net.eval(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_network_that_changed_before_its_blocks_are_computed_again_is_refused(change):
    net, x = network("fully connected", static=False)
    size = len(net.layers.output.weight)
    net.layers.output.neuron = LIF(torch.linspace(3, 7, size, dtype=torch.float64), 3)
    net.time_block = 4
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    output, unchanged = net(x), net(x)
    other = torch.nn.Parameter(torch.ones(3))
    other.grad = torch.ones(3)
    torch.optim.Adam([other], fused=True).step()
    torch.autograd.grad(unchanged.sum(), list(net.parameters()))
    change(net)
    with pytest.raises(UserError, match="have changed since the forward pass, and time_block computes blocks again"):
        output.sum().backward()
    net(x).sum().backward()


def test_what_a_block_itself_changes_does_not_refuse_it():
    """A constant at its bound, a hook that keeps weights small, and one that counts calls."""
    net, x = network("fully connected", static=False)
    net.layers.linear1.neuron = LIF(5, 3, torch.nn.Parameter(torch.tensor(0.02)))
    net.layers.linear1.threshold.data.fill_(1e-3)  # is brought back to 0.01, in float32
    net.layers.output.register_forward_pre_hook(lambda layer, _: (layer.weight.detach().clamp_(-1, 1), None)[1])
    net.layers.linear1.register_buffer("calls", torch.zeros(1))
    net.layers.linear1.register_forward_hook(lambda layer, *_: (layer.calls.add_(1), None)[1])
    net(x)  # the first call changes most
    found = []
    for net.time_block in (0, 4):
        found.append(gradients(net, net(x)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_blocks_of_a_functional_call_have_their_gradient_within_it_only():
    net, x = network("fully connected", static=False)
    net.time_block = 4
    others = {name: (weight * 1.5).detach().requires_grad_() for name, weight in net.named_parameters()}
    with pytest.raises(UserError, match="have changed since the forward pass"):
        torch.func.functional_call(net, others, (x,)).sum().backward()


def test_blocks_of_time_refuse_lengths_under_a_rule_that_hears_padding():
    class Hears(Surrogate):
        depends_on_padding = True

    net, x = network("fully connected", static=False, rule=Hears())
    net.time_block = 4
    with pytest.raises(UserError, match="lengths matter to this rule, which then needs whole sequences; set time_block to 0"):
        net(x, lengths=torch.tensor([5, 4, 3, 11, 11]))
