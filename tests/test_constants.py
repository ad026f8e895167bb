"""Constants as tensors: what they do, the gradients they get, and that learning keeps them in range."""

import copy
import itertools
import logging
import math
import warnings
from dataclasses import replace

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import fails
from torch import nn

import tsslbp
from tsslbp import TSSL, EventProp, Surrogate, UserError, kernels, rules, training
from tsslbp.layers import Adaptation, Conv2d, Linear, Recurrent, varied
from tsslbp.neuron import CONSTANTS, LIF, membrane_potential, spikes, synapse
from tsslbp.rivals.eventprop import Train, random_case, simulate, van_rossum
from tsslbp.rules.surrogate import DERIVATIVES
from tsslbp.study.fidelity import smoothed

SIZES = {"tau_m": 5.0, "tau_s": 3.0, "threshold": 0.8}
EVERY_RULE = [*rules.available(), "tssl(fallback=no-spike)", "tssl(fallback=never)", "stbp(slope=2)"]
IN_PARTS = [rule for rule in EVERY_RULE if rules.get(rule).takes_parts]
BACKENDS = [name for name, (usable, _) in kernels.backends().items() if usable and kernels.find(name).varies]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def current_of(*shape, seed=0, dtype=torch.float64):
    return 1.6 * rand(*shape, seed=seed, dtype=dtype) - 0.3


def spread_constants(*shape, seed=0, dtype=torch.float64):
    """Constants of a shape, each a leaf with a gradient, in range."""
    made = {}
    for number, (name, size) in enumerate(SIZES.items()):
        made[name] = (size * (0.7 + 0.6 * rand(*shape, seed=seed + number, dtype=dtype))).requires_grad_()
    return made


def results(current, error, rule, backend, **constants):
    """Output, gradient by the current, and gradients by the constants that require one."""
    leaf = current.clone().requires_grad_()
    psc = tsslbp.lif(leaf, rule=rule, backend=backend, **constants)
    wanted = [leaf, *(x for x in constants.values() if isinstance(x, torch.Tensor) and x.requires_grad)]
    return psc, *torch.autograd.grad(psc, wanted, error)


# What they do.


@every_backend
@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_of_one_number_are_that_number(rule, backend, dtype):
    current, error = current_of(9, 4, 6, dtype=dtype), current_of(9, 4, 6, seed=1, dtype=dtype)
    expected = results(current, error, rule, backend, **SIZES)
    for shape in ((), (6,), (4, 1), (4, 6)):
        tensors = {name: torch.full(shape, size, dtype=dtype) for name, size in SIZES.items()}
        for ours, theirs in zip(results(current, error, rule, backend, **tensors), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)


@every_backend
@pytest.mark.parametrize("rule", ["tssl", "tssl+", "eventprop", "surrogate"])
def test_each_neuron_goes_by_its_own(rule, backend):
    current, error, constants = current_of(12, 3, 5), current_of(12, 3, 5, seed=1), spread_constants(5)
    psc, delta, *by_constant = results(current, error, rule, backend, **constants)
    for n in range(5):
        own = {name: float(value.detach()[n]) for name, value in constants.items()}
        alone, by_current = results(current[:, :, n], error[:, :, n], rule, "reference", **own)
        torch.testing.assert_close(psc[:, :, n], alone)
        torch.testing.assert_close(delta[:, :, n], by_current)
        one = {name: torch.tensor(size, dtype=torch.float64, requires_grad=True) for name, size in own.items()}
        _, _, *expected = results(current[:, :, n], error[:, :, n], rule, "reference", **one)
        torch.testing.assert_close(torch.stack([gradient[n] for gradient in by_constant]), torch.stack(expected))


@every_backend
def test_some_may_be_numbers_and_some_need_no_gradient(backend):
    current, error, constants = current_of(8, 2, 4), current_of(8, 2, 4, seed=1), spread_constants(4)
    whole = results(current, error, "tssl", backend, **constants)
    frozen = {**constants, "tau_m": constants["tau_m"].detach()}
    psc, delta, *gradients = results(current, error, "tssl", backend, **frozen)
    assert torch.equal(psc, whole[0])
    assert torch.equal(delta, whole[1])
    assert [torch.equal(ours, theirs) for ours, theirs in zip(gradients, whole[3:], strict=True)] == [True, True]
    (only,) = results(current, error, "tssl", backend, tau_m=5.0, tau_s=constants["tau_s"], threshold=1)[2:]
    assert only.shape == (4,)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 1), (4, 1)])
def test_a_shape_that_does_not_broadcast_over_a_step(shape):
    with pytest.raises(UserError, match=r"tau_s has shape .*; it must broadcast over one step of the current, \[2, 4\]"):
        tsslbp.lif(torch.ones(3, 2, 4), tau_m=5, tau_s=torch.full(shape, 3.0))


def test_what_takes_no_tensors_says_so(monkeypatch, caplog):
    tensors = {"tau_m": torch.tensor(5.0), "tau_s": 3.0}
    monkeypatch.setattr(kernels.find("cpp"), "varies", False, raising=False)
    kernels.engine._log.cache_clear()
    with caplog.at_level(logging.INFO, "tsslbp.kernels"):
        tsslbp.lif(torch.ones(3, 2), **tensors)
    if kernels.backends()["cpp"].usable:
        assert "constants that are plain numbers, not tensors" in caplog.text
        with pytest.raises(UserError, match=r"backend 'cpp' cannot run: .* plain numbers, not tensors"):
            tsslbp.lif(torch.ones(3, 2), **tensors, backend="cpp")


# Their gradients. Surrogates: finite differences of the smooth function whose derivative they are, as in test_gradcheck.py.


def stand_in(current, rule, held, tau_m, tau_s, threshold):
    """The post-synaptic current with ``held + Ψ(u) - Ψ(u0)`` for the spike. ``held`` is u0, s0 and θ0 of the point itself."""
    u0, s0, threshold0 = held
    slope = rule.slope or DERIVATIVES[rule.name][1]

    def primitive(u, threshold):
        return rule.scale / slope * oracle.PRIMITIVES[rule.name](slope * (u - threshold))

    u = s = a = torch.zeros_like(current[0])
    psc = []
    for t, current_t in enumerate(current):
        before = s if rule.through_reset else (s0[t - 1] if t else s)
        u = (1 - 1 / tau_m) * u * (1 - before) + current_t
        s = s0[t] + primitive(u, threshold) - primitive(u0[t], threshold0)
        a = (1 - 1 / tau_s) * a + s / tau_s
        psc.append(a)
    return torch.stack(psc)


@every_backend
@pytest.mark.parametrize(
    "rule",
    [Surrogate(n, through_reset=r) for n in ("fast_sigmoid", "sigmoid", "atan", "gaussian") for r in (False, True)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1), (2, 3)])
def test_surrogates_are_the_derivative_of_the_smooth_stand_in(rule, shape, backend):
    current, constants = current_of(9, 2, 3), spread_constants(*shape)
    at = [x.detach() for x in constants.values()]
    u0 = membrane_potential(current, LIF(*at))
    held = u0, spikes(u0, LIF(*at)), at[2]
    error = current_of(9, 2, 3, seed=5)
    psc, _, *gradients = results(current, error, rule, backend, **constants)
    torch.testing.assert_close(psc, stand_in(current, rule, held, *at))
    assert 3 < held[1].sum() < held[1].numel() - 3
    for place, (ours, value) in enumerate(zip(gradients, at, strict=True)):
        numeric = torch.empty_like(value)
        for index in itertools.product(*map(range, value.shape)):
            sides = []
            for shift in (1e-6, -1e-6):
                moved = [x.clone() for x in at]
                moved[place][index] += shift
                sides.append((error * stand_in(current, rule, held, *moved)).sum())
            numeric[index] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(ours, numeric, rtol=1e-5, atol=1e-7)
        assert ours.abs().max() > 1e-3


@every_backend
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_the_synapse_has_its_exact_derivative_under_every_rule(rule, backend):
    current, constants = current_of(10, 3, 4), spread_constants(4)
    error = current_of(10, 3, 4, seed=7)
    _, _, _, by_tau_s, _ = results(current, error, rule, backend, **constants)
    train = spikes(
        membrane_potential(current, LIF(**{name: x.detach() for name, x in constants.items()})),
        LIF(5, 3, constants["threshold"].detach()),
    )
    (exact,) = torch.autograd.grad(synapse(train, constants["tau_s"]), constants["tau_s"], error)
    if not getattr(rules.get(rule), "error_reset", False):  # whose error has the reset in it
        torch.testing.assert_close(by_tau_s, exact)
    assert by_tau_s.abs().max() > 1e-2


TERMS = [
    {"fallback": fallback, "leak": leak, "psc_derivative": derivative}
    for fallback in ("quiet", "no-spike", "never", "always")
    for leak in (True, False)
    for derivative in ("amplitude", "timing")
]


@every_backend
@pytest.mark.parametrize("options", TERMS, ids=str)
def test_tssl_in_plain_numbers(options, backend):
    """A longer memory is a current, a higher threshold moves spikes and fallbacks as a lower potential does."""
    rule, tau_m, tau_s, threshold = TSSL(**options), 4.0, 2.5, 0.7
    current, error = current_of(14, 1), current_of(14, 1, seed=3) - 0.5
    tensors = {
        name: torch.tensor(x, dtype=torch.float64, requires_grad=True)
        for name, x in zip(CONSTANTS, (tau_m, tau_s, threshold), strict=True)
    }
    _, delta, by_tau_m, _, by_threshold = results(current, error, rule, backend, **tensors)

    T = len(current)
    x, e = current[:, 0].tolist(), error[:, 0].tolist()
    u, s, a = [], [], []
    for t in range(T):
        left = u[t - 1] * (1 - s[t - 1]) if t else 0.0
        u.append((1 - 1 / tau_m) * left + x[t])
        s.append(float(u[t] > threshold))
        a.append((1 - 1 / tau_s) * (a[t - 1] if t else 0.0) + s[t] / tau_s)
    expected_m = sum(float(delta[t]) * u[t - 1] * (1 - s[t - 1]) / tau_m**2 for t in range(1, T))
    E = R = 0.0
    expected_threshold = 0.0
    for t in reversed(range(T)):
        tail = (1 - 1 / tau_s) * E
        E = e[t] / tau_s + tail
        du = u[t] - (u[t - 1] * (1 - s[t - 1]) if t else 0.0)
        p = s[t] * min(max(1 / du, 0.0), rule.clip)
        moved = (e[t] - tail) / tau_s if rule.psc_derivative == "timing" else E
        by_spike = p * moved + R * u[t] / tau_m * p
        g = by_spike + (R * (1 - 1 / tau_m) * (1 - s[t]) if rule.leak else 0.0)
        R = g if s[t] else R * (1 - 1 / tau_m)
        y = min(max((u[t] - threshold) / rule.width, -8.0), 8.0)
        surrogate = E / (2 + math.exp(y) + math.exp(-y)) / rule.width
        if rule.fallback == "always" or (rule.fallback == "quiet" and a[t] < 1 / (4 * tau_s)):
            by_spike = surrogate
        elif rule.fallback == "no-spike" and not s[t]:
            by_spike += surrogate
        expected_threshold -= by_spike
    assert sum(s) >= 3
    assert float(by_tau_m) == pytest.approx(expected_m, rel=1e-8)
    assert float(by_threshold) == pytest.approx(expected_threshold, rel=1e-8)


def test_eventprop_comes_to_the_derivative_in_continuous_time():
    """τm and θ move spike times. The rule on finer and finer grids against differences of exactly simulated spike trains."""
    case = random_case(3, (4, 3))
    weight, until, h = case.weights[0], 60.0, 1e-5

    def loss(neuron, n):
        (layer,) = simulate([weight[n : n + 1]], case.inputs, neuron, until)
        wanted = case.target.times[case.target.source == n]
        return float(van_rossum(layer.train, Train(wanted, torch.zeros(len(wanted), dtype=torch.long)), 3.0)), len(
            layer.current
        )

    moved = {"tau_m": lambda x: LIF(6 + x, 3), "threshold": lambda x: LIF(6, 3, 1 + x)}
    exact = {
        name: torch.tensor([(loss(of(h), n)[0] - loss(of(-h), n)[0]) / (2 * h) for n in range(3)]) for name, of in moved.items()
    }

    errors = []
    for step in (0.08, 0.02):
        count = round(until / step)
        train = torch.zeros(count, 4, dtype=torch.float64)
        train.index_put_(
            ((case.inputs.times / step).long(), case.inputs.source), torch.ones_like(case.inputs.times), accumulate=True
        )
        middles = step * (torch.arange(count, dtype=torch.float64) + 0.5)
        wanted = step * smoothed(case.target, middles, 3, 3.0, 1)
        tau_m = torch.full((3,), 6 / step, dtype=torch.float64, requires_grad=True)
        threshold = torch.ones(3, dtype=torch.float64, requires_grad=True)
        current = synapse(train, 3 / step) @ weight.T
        psc = tsslbp.lif(current, tau_m=tau_m, tau_s=3 / step, threshold=threshold, rule="eventprop")
        (0.5 * (psc - wanted).square().sum() / step).backward()
        ours = {"tau_m": tau_m.grad / step, "threshold": threshold.grad}
        errors.append(max(float((ours[name] - exact[name]).norm() / exact[name].norm()) for name in exact))
        fired = (tsslbp.spikes_from_psc(psc.detach(), 3 / step) > 0.5).sum(0).tolist()
        assert fired == [loss(LIF(6, 3), n)[1] for n in range(3)]
    assert errors[1] < 0.03
    assert errors[1] < 0.6 * errors[0]


def test_a_rule_of_ones_own_gets_them_from_its_gradient():
    class Own(EventProp):
        def current_gradient(self, psc_gradient, membrane, neuron):
            return super().current_gradient(psc_gradient, membrane, neuron)

    current, error, constants = current_of(8, 3), current_of(8, 3, seed=1), spread_constants(3)
    ours = results(current, error, Own(), "auto", **constants)
    for one, other in zip(ours, results(current, error, EventProp(), "reference", **constants), strict=True):
        assert torch.equal(one, other)


@every_backend
@pytest.mark.parametrize("rule", IN_PARTS)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    shape=st.sampled_from([(), (3,), (2, 3)]),
)
@settings(max_examples=8)
def test_parts_have_the_gradients_of_the_whole(rule, backend, lengths, seed, shape):
    steps = sum(lengths)
    current, error, constants = (
        current_of(steps, 2, 3, seed=seed),
        current_of(steps, 2, 3, seed=seed + 1),
        spread_constants(*shape, seed=seed),
    )
    current[:1] = 0  # a step at rest is a step like any other
    whole = results(current, error, rule, backend, **constants)
    leaf, state, made = current.clone().requires_grad_(), torch.zeros(2, 2, 3, dtype=torch.float64), []
    for part in leaf.split(lengths):
        psc, state = tsslbp.lif_part(part, state, rule=rule, backend=backend, **constants)
        made.append(psc)
    psc = torch.cat(made)
    for ours, theirs in zip((psc, *torch.autograd.grad(psc, [leaf, *constants.values()], error)), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


# Layers.


def learned(size=None, **changes):
    sizes = {**SIZES, **changes}
    return LIF(**{name: nn.Parameter(torch.full(() if size is None else (size,), x)) for name, x in sizes.items()})


def test_parameters_become_the_layers_and_tensors_its_buffers():
    layer = Linear(4, 6, neuron=LIF(nn.Parameter(torch.full((6,), 5.0)), torch.tensor(3.0), 0.5))
    assert [name for name, _ in layer.named_parameters()] == ["tau_m", "weight"]
    assert [name for name, _ in layer.named_buffers()] == ["tau_s"]
    assert "tau_m of each neuron learned, tau_s" in repr(layer)
    assert (layer.neuron.threshold, layer.neuron.tau_s) == (0.5, 3.0)
    layer(torch.randn(5, 2, 4)).sum().backward()
    assert layer.tau_m.grad.shape == (6,)
    layer.neuron = LIF(5, 3)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    assert not dict(layer.named_buffers())
    assert layer.neuron == LIF(5, 3)


@pytest.mark.parametrize("value", [10, nn.Parameter(torch.tensor(10.0))])
def test_a_constant_that_nothing_would_read_is_refused(value):
    layer = Linear(4, 6, neuron=LIF(nn.Parameter(torch.tensor(5.0)), 3))
    layer.tau_m = nn.Parameter(torch.tensor(7.0))
    assert layer.neuron.tau_m == 7
    with pytest.raises(UserError, match=r"tau_s is a constant of the layer's neuron; set layer.neuron = LIF"):
        layer.tau_s = value
    assert not hasattr(layer, "tau_s")


def test_a_layer_of_ones_own_may_name_a_property_so():
    class Firm(Linear):
        threshold = property(lambda self: self.neuron.threshold, lambda self, value: setattr(self, "neuron", LIF(5, 3, value)))

    layer = Firm(4, 6, neuron=LIF(5, 3))
    layer.threshold = 0.5
    assert layer.neuron.threshold == 0.5


def test_a_channel_has_one():
    conv = Conv2d(2, 3, 3, neuron=learned(3), scale=3.0)
    x = torch.randn(5, 2, 2, 6, 6)
    conv(x).square().sum().backward()
    alone = [
        tsslbp.lif(conv.current(x).detach()[:, :, c], **{n: float(getattr(conv, n)[c]) for n in CONSTANTS}) for c in range(3)
    ]
    torch.testing.assert_close(conv(x).detach(), torch.stack(alone, 2))
    assert conv.tau_m.grad.shape == (3,)


@pytest.mark.parametrize(
    "make", [lambda n: Linear(4, 5, neuron=n), lambda n: Recurrent(4, 5, neuron=n), lambda n: Conv2d(4, 5, 3, neuron=n)]
)
def test_one_for_each_or_one_for_all(make):
    with pytest.raises(UserError, match=r"tau_m has shape \[4\]; it must be \[\], one for all, or \[5\], one for each"):
        make(LIF(torch.full((4,), 5.0), 3))
    make(learned())
    layer = make(learned(5))
    with pytest.raises(UserError, match=r"tau_m has shape \[4\]"):
        layer.neuron = learned(4)
    assert layer.tau_m.shape == (5,), "a refused constant leaves those before it"


def test_what_is_computed_from_parameters_is_no_parameter():
    with pytest.raises(UserError, match=r"tau_m requires a gradient; make it a torch.nn.Parameter"):
        Linear(4, 5, neuron=LIF(nn.Parameter(torch.tensor(5.0)) + 1, 3))


def test_learning_ends_at_the_range_and_that_is_said_once(caplog):
    layer, x = Linear(4, 6, neuron=learned(6)), torch.randn(5, 3, 4)
    optimizer = torch.optim.SGD([layer.tau_m, layer.threshold], lr=1.0)
    with caplog.at_level(logging.WARNING, "tsslbp.layers"):
        for _ in range(3):
            layer.tau_m.grad, layer.threshold.grad = torch.full((6,), 3.0), torch.full((6,), 0.6)
            optimizer.step()
            layer(x)
            assert layer.tau_m.min() >= 1
            assert layer.threshold.min() > 0
    assert [record.message for record in caplog.records] == [
        "Linear: learning took tau_m below 1, where it is kept from now on",
        "Linear: learning took threshold below 0.01, where it is kept from now on",
    ]


@pytest.mark.parametrize("kind", [Linear, Recurrent])
def test_a_constant_that_is_computed_stays_in_range(kind):
    class Tenth(nn.Module):
        def forward(self, x):
            return x / 10

    torch.manual_seed(0)
    layer, plain, x = kind(4, 6, neuron=learned(6)), kind(4, 6, neuron=learned(6)), torch.randn(5, 3, 4)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        plain.tau_m.fill_(1.0)
    torch.nn.utils.parametrize.register_parametrization(layer, "tau_m", Tenth())  # 0.5
    made, wanted = layer(x), plain(x)
    assert torch.equal(made, wanted)
    made.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(layer.parametrizations.tau_m.original.grad, plain.tau_m.grad / 10)


def test_a_compiled_layer_computes_in_range():
    layer, x = Linear(4, 6, neuron=learned(6)), torch.randn(5, 3, 4)
    with torch.no_grad():
        layer.tau_m.fill_(0.5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    made = compiled(x)
    made.sum().backward()
    assert torch.equal(layer.tau_m.detach(), torch.full((6,), 0.5))
    assert torch.equal(made, layer(x))
    assert torch.equal(layer.tau_m.detach(), torch.ones(6))


# Networks.


def network(notation="6C3-P2-12R-10", **changes):
    constants = {"tau_m": 5, "tau_s": 3, "threshold": 0.5}
    return tsslbp.build(notation, input_shape=(2, 8, 8), time_steps=6, conv_scale=3.0, **{**constants, **changes})


def test_every_layer_has_its_own_and_the_weights_do_not_feel_it():
    torch.manual_seed(1)
    plain = network()
    torch.manual_seed(1)
    net = network(learn=("tau_m", "threshold"), per_neuron=("tau_m", "tau_s"), spread=0.5)
    for (name, weight), other in zip(plain.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    shapes = {name.removeprefix("layers."): list(x.shape) for name, x in net.constants().items()}
    assert shapes == {
        f"{layer}.{name}": [size] if name == "tau_m" else []
        for layer, size in (("conv1", 6), ("recurrent2", 12), ("output", 10))
        for name in ("tau_m", "threshold")
    }
    assert {name for name, _ in net.named_buffers()} == {f"layers.{layer}.tau_s" for layer in ("conv1", "recurrent2", "output")}
    for size, values in ((5, net.layers.conv1.tau_m), (3, net.layers.output.tau_s)):
        assert 0.5 * size <= values.min() < values.max() <= 1.5 * size
    net(torch.rand(3, 2, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("static", [True, False])
def test_a_network_in_parts_and_in_blocks(static):
    net = network("6C3-P2-12A-10", learn=CONSTANTS, per_neuron=CONSTANTS, spread=0.3, rule="tssl+", beta=0.1).double()
    x = rand(3, 2, 8, 8) if static else rand(6, 3, 2, 8, 8)
    whole = net(x)
    whole.square().sum().backward()
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    net.zero_grad()
    net.time_block = 2
    blocks = net(x)
    blocks.square().sum().backward()
    torch.testing.assert_close(blocks, whole)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_they_are_in_files(tmp_path):
    net = network(learn=("tau_m",), per_neuron=("tau_m", "threshold"), spread=0.5).eval()
    with torch.no_grad():
        net.layers.output.tau_m.mul_(1.3)
    net.save(tmp_path / "net.safetensors")
    again = tsslbp.load(tmp_path / "net.safetensors").network
    x = torch.rand(3, 2, 8, 8)
    assert torch.equal(again(x), net(x))
    assert torch.equal(again.layers.output.tau_m, net.layers.output.tau_m)
    assert torch.equal(copy.deepcopy(net)(x), net(x))

    with torch.no_grad():
        net.layers.conv1.tau_m[1] = 0.5
    net.save(tmp_path / "net.safetensors")  # as after a last step of training, without a forward pass
    assert tsslbp.load(tmp_path / "net.safetensors").network.layers.conv1.tau_m[1].item() == 1


def test_a_plain_state_dict_for_other_constants_is_noticed(recwarn):
    net = network(learn=("tau_m",), per_neuron=("tau_m",))
    with pytest.raises(RuntimeError, match="tau_m"):
        network().load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match="tau_m"):
        net.load_state_dict(network().state_dict())
    assert not recwarn.list
    network(tau_m=7, learn=("tau_m",), per_neuron=("tau_m",)).load_state_dict(net.state_dict())  # it gets what was learned
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"threshold 0.5 \(here 1\)"):
        network(threshold=1, learn=("tau_m",), per_neuron=("tau_m",)).load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("changes", "said"), [({"conv_init": "kaiming"}, "standardised size of conv1"), ({"bits": 4}, r"bits float \(here 4\)")]
)
def test_a_state_dict_for_other_sizes_or_bits_is_noticed(changes, said, recwarn):
    net = network(standardise=True)
    network(standardise=True).load_state_dict(net.state_dict())
    assert not recwarn.list
    with pytest.warns(UserWarning, match=said):
        network(standardise=True, **changes).load_state_dict(net.state_dict(), strict=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn": "tau"}, "learn is tau; it must be one of tau_m, tau_s, threshold"),
        ({"per_neuron": ("tau",)}, "per_neuron is tau; it must be one of tau_m, tau_s, threshold"),
        ({"per_neuron": ("tau_m",)}, "per_neuron has no effect on tau_m without a spread, or without learning it"),
        ({"spread": 0.5}, "spread is 0.5; it has no effect without per_neuron"),
        ({"spread": 1.0, "per_neuron": ("tau_m",)}, "spread is 1.0; it must be at least 0 and below 1"),
        ({"learn": ("tau_m",), "tau_m": math.inf}, "tau_m is infinite; it must be finite where it is learned"),
        ({"learn": ("tau_m",), "neuron": "relu"}, "a network of relu units has no constants to learn"),
        ({"learn": ("tau_s",), "notation": "6C3-M2-10"}, "max pooling, as in 6C3-M2-10, takes one fixed tau_s"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes, message):
    with fails(message):
        network(changes.pop("notation", "6C3-P2-10"), **changes)


def test_max_pooling_goes_with_the_others():
    net = network("6C3-M2-10", learn=("tau_m", "threshold"), per_neuron=("tau_m",))
    net(torch.rand(3, 2, 8, 8)).sum().backward()
    assert net.layers.conv1.threshold.grad is not None


def test_spread_stays_in_range():
    constants = varied(LIF(1.2, 1.0), 500, per_neuron=CONSTANTS, spread=0.9)
    assert constants.tau_m.min() == constants.tau_s.min() == 1
    assert constants.threshold.min() >= 0.1


# Training.


def test_a_run_learns_them_resumes_and_is_kept(quick):
    config = quick(
        learn=CONSTANTS,
        per_neuron=("tau_m", "tau_s"),
        spread=0.2,
        learning_rate=5e-3,
        epochs=3,
        weight_clamp=1.0,
        rate_penalty=0.01,
        rate_upper=0.3,
    )
    whole, final = training.train(replace(config, name="whole"))
    training.train(replace(config, name="part", epochs=1))
    part, again = training.train(replace(config, name="part", resume=True))
    ours, theirs = tsslbp.load(whole).network.state_dict(), tsslbp.load(part).network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert final["test_accuracy"] == again["test_accuracy"] > 50  # chance is 10
    network = tsslbp.load(whole).network
    assert network.layers.output.tau_m.max() > 1  # weights are bounded by 1, constants are not
    assert float(network.layers.linear1.threshold) != 1
    assert all(
        float((network.layers.linear1.get_parameter(name) - size).abs().max()) > 1e-3
        for name, size in (("tau_m", 5), ("tau_s", 3))
    )


def test_constants_do_not_decay_and_take_steps_of_their_size(quick):
    learn = ("tau_m", "threshold", "tau_m")  # one is named twice
    config, dataset = training.with_data(quick(learn=learn, tau_m=20.0, learning_rate=1e-3, weight_decay=0.5))
    model, optimizer = training.prepare(config, dataset)
    weights, tau_m, threshold = optimizer.param_groups
    assert (weights["weight_decay"], tau_m["weight_decay"], threshold["weight_decay"]) == (0.5, 0, 0)
    loop = training.Loop(config, dataset, model, optimizer)
    loop.step(torch.arange(50))
    layer = model.network.layers.linear1
    assert abs(float(layer.tau_m) - 20) == pytest.approx(20e-3, rel=0.05)  # Adam's first step has the size of its learning rate
    assert abs(float(layer.threshold) - 1) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("learned", ["tau_m", "weight"])
def test_only_constants_or_only_weights_may_be_trained(quick, learned):
    config, dataset = training.with_data(quick(learn=("tau_m",), weight_clamp=0))
    model, optimizer = training.prepare(config, dataset)
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_(name.endswith(learned))
    before = copy.deepcopy(model.network.state_dict())
    loop = training.Loop(config, dataset, model, optimizer)
    loop.step(torch.arange(50))
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, before[name]) != name.endswith(learned), name


def test_losses_that_read_spikes_need_one_synapse(quick):
    with pytest.raises(UserError, match="--loss spike reads spikes by one fixed --tau-s; leave tau_s out of --learn"):
        quick(learn=("tau_s",), loss="spike")


def test_answers_settle_no_earlier_than_with_the_slowest_or_the_fastest_synapse():
    total, psc = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.1, 0.4]])
    for remaining in range(6):
        both = tsslbp.metrics.settled(total, psc, remaining, torch.tensor([2.0, 6.0]))
        each = [tsslbp.metrics.settled(total, psc, remaining, tau) for tau in (2.0, 6.0)]
        assert bool(both) <= bool(each[0] & each[1])
        assert torch.equal(tsslbp.metrics.settled(total, psc, remaining, torch.tensor([2.0, 2.0])), each[0])


def test_streams_and_decisions_know_every_synapse():
    net = network("12-10", learn=("tau_s",), per_neuron=("tau_s",), spread=0.6).double().eval()
    x = (torch.rand(6, 3, 2, 8, 8) < 0.3).double()
    with torch.no_grad():
        activity = net.activity(x)
        for name, psc in activity.items():
            layer = net.layers.get_submodule(name)
            train = net.fired(psc, name)
            torch.testing.assert_close(synapse(train.double(), layer.tau_s), psc)
    stream = tsslbp.stream(net, 3)
    for t in range(6):
        assert torch.equal(stream(x[t]).spikes.bool(), net.fired(activity["output"])[t])


# The kernels against the reference: every form, layout and rule with a formula.


cpp_varies = pytest.mark.skipif("cpp" not in BACKENDS, reason="the C++ kernels are not built")


@cpp_varies
def test_nothing_about_them_depends_on_the_number_of_threads():
    current, before = current_of(7, 50, 900, dtype=torch.float32), torch.get_num_threads()
    constants, made = spread_constants(900, dtype=torch.float32), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            neuron = LIF(**{name: x.detach() for name, x in constants.items()})
            cpp = kernels.find("cpp")
            membrane, psc, _ = cpp.forward(current, neuron)
            made.append(
                [membrane, psc, *cpp.backward(cpp.formula(TSSL()), current, membrane, neuron, None, None, kernels.PLAIN)[2]]
            )
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_gains_of_normalised_layers_start_at_the_threshold_of_each_neuron():
    net = tsslbp.build(
        "12n-3", input_shape=(8,), time_steps=5, tau_m=5, tau_s=3, threshold=2.0, per_neuron="threshold", spread=0.5
    )
    assert torch.equal(net.layers.linear1.norm.gain, net.layers.linear1.threshold)
    assert net.layers.linear1.threshold.std() > 0


def exchanged(**changes):
    """A network whose layers have constants that its settings do not say."""
    net = tsslbp.build("30R-4", **SMALL)
    for layer in net.layers:
        layer.neuron = LIF(**{"tau_m": 4.0, "tau_s": 2.5, "threshold": 1.0, **changes})
    return net


SMALL = {"input_shape": (20,), "time_steps": 5, "tau_m": 4.0, "tau_s": 2.5, "rule": "surrogate"}


def test_a_state_dict_holds_the_constants_that_layers_have():
    net = exchanged(tau_m=20.0, threshold=0.5)
    with pytest.warns(UserWarning, match=r"tau_m 20.0 \(here 4.0\), threshold 0.5 \(here 1.0\); build the network"):
        tsslbp.build("30R-4", **SMALL).load_state_dict(net.state_dict())
    alike = tsslbp.build("30R-4", **{**SMALL, "tau_m": 20.0, "threshold": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alike.load_state_dict(net.state_dict())
        exchanged(tau_m=20.0, threshold=0.5).load_state_dict(alike.state_dict())
    net.layers.output.neuron = LIF(7.0, 2.5)
    with pytest.warns(UserWarning, match=r"tau_m of output 7.0 \(here 20.0\), threshold of output 1.0 \(here 0.5\)"):
        alike.load_state_dict(net.state_dict())
    one, other = (Recurrent(3, 4, neuron=LIF(4, 2.5), rule="surrogate", adaptation=Adaptation(tau, 0.5)) for tau in (20.0, 9.0))
    with pytest.warns(UserWarning, match=r"tau_a 20.0 \(here 9.0\); build the layer"):
        other.load_state_dict(one.state_dict())


def test_layers_of_a_network_tell_of_themselves_in_a_module_of_ones_own():
    bodies = []
    for tau_m in (20.0, 4.0):
        net = tsslbp.build("30R-4", **{**SMALL, "tau_m": tau_m})
        net.load_state_dict(net.state_dict())
        bodies.append(torch.nn.Sequential(net.layers))
    with pytest.warns(UserWarning, match=r"tau_m 20.0 \(here 4.0\); build layer '0.recurrent1'") as told:
        bodies[1].load_state_dict(bodies[0].state_dict())
    assert len(told) == 2


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("neuron", LIF(9, 3), "set layer.neuron of each layer"),
        ("reset", False, "set layer.neuron of each layer"),
        ("bits", "4", r"set layer.quantise\(\) of each layer"),
    ],
)
def test_what_only_layers_have_is_refused_of_a_network(name, value, told):
    net = tsslbp.build("30R-4", **SMALL)
    with pytest.raises(UserError, match=f"a network has no {name} of its own; {told}"):
        setattr(net, name, value)
    if name != "neuron":
        with pytest.raises(UserError, match=r"set layer.neuron = LIF|by layer.quantise\(bits\)"):
            setattr(net.layers.recurrent1, name, value)


def test_a_tensor_among_the_settings_of_a_network_is_refused():
    with pytest.raises(UserError, match=r"tau_m is a tensor; give a number here, and tensors to a layer"):
        tsslbp.build("30R-4", **{**SMALL, "tau_m": torch.tensor(3.0)})
