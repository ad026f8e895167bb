"""Recurrent layers and adaptive thresholds: against scalar loops, written-out backpropagation through time, and in networks."""

import math

import pytest
import torch
import torch.nn.functional as F
from shared import fails

import tsslbp
from tsslbp import TSSL, Rule, Surrogate, UserError, build, kernels, rules, training
from tsslbp.encoding import Constant
from tsslbp.layers import Adaptation, Linear, Recurrent
from tsslbp.layers.recurrent import LATERAL_GAIN
from tsslbp.network.architecture import Architecture
from tsslbp.network.network import Network
from tsslbp.neuron import LIF
from tsslbp.rules.surrogate import DERIVATIVES

NEURONS = [LIF(5, 3, 0.5), LIF(math.inf, 1, 1.0), LIF(1, 4, 0.3)]
ADAPTATIONS = [None, Adaptation(tau_a=7, beta=0.4), Adaptation(tau_a=math.inf, beta=0.1)]
RULES = [TSSL(), TSSL(psc_derivative="timing", fallback="no-spike"), TSSL(reset=False), Surrogate()]
BACKENDS = [name for name in ("reference", "cpp") if kernels.backends()[name].usable]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_adaptation = pytest.mark.parametrize("adaptation", ADAPTATIONS, ids=["fixed", "adaptive", "lasting"])


def rand(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def layer(inputs=6, n=9, neuron=NEURONS[0], rule=None, adaptation=None, backend="auto", lateral=2.0):
    made = Recurrent(inputs, n, neuron=neuron, rule=rule, adaptation=adaptation).double()
    made.backend = backend
    with torch.no_grad():
        made.weight.copy_(rand(n, inputs, seed=1))
        made.lateral.copy_(lateral * rand(n, n, seed=2) / math.sqrt(n))
    return made


def gradients(psc, inputs, seed=5):
    return torch.autograd.grad(psc, inputs, rand(*psc.shape, seed=seed).to(psc.dtype), retain_graph=True)


def by_scalars(x, weight, lateral, neuron, adaptation):
    """One sample, ``[T, in] -> [T, n]``, number by number; the threshold moves, nothing is shifted."""
    n, tau_a, beta = len(weight), *((1, 0.0) if adaptation is None else (adaptation.tau_a, adaptation.beta))
    u, b, s, a, made = [0.0] * n, [0.0] * n, [0] * n, [0.0] * n, []
    for x_t in x.tolist():
        heard = list(a)
        for i in range(n):
            current = sum(w * x_j for w, x_j in zip(weight[i].tolist(), x_t, strict=True))
            current += sum(v * a_j for v, a_j in zip(lateral[i].tolist(), heard, strict=True))
            u[i] = (1 - 1 / neuron.tau_m) * u[i] * (1 - s[i]) + current
            b[i] = (1 - 1 / tau_a) * b[i] + s[i]
            s[i] = int(u[i] > neuron.threshold + beta * b[i])
            a[i] = (1 - 1 / neuron.tau_s) * a[i] + s[i] / neuron.tau_s
        made.append(list(a))
    return torch.tensor(made, dtype=torch.float64)


@each_backend
@each_adaptation
@pytest.mark.parametrize("neuron", NEURONS)
def test_forward_equals_a_loop_over_numbers(backend, adaptation, neuron):
    made, x = layer(neuron=neuron, adaptation=adaptation, backend=backend), rand(25, 2, 6)
    psc = made(x)
    assert psc.shape == (25, 2, 9)
    for sample in range(2):
        expected = by_scalars(x[:, sample], made.weight, made.lateral, neuron, adaptation)
        torch.testing.assert_close(psc[:, sample], expected, rtol=1e-10, atol=1e-10)
    spikes = tsslbp.spikes_from_psc(psc, neuron.tau_s).round()
    assert 0.05 < spikes.mean() < 0.8


def test_by_hand():
    """One neuron excites itself: I = 1.2, 0, 0, 0 and V = 3, without a leak and τs = 2."""
    made = Recurrent(1, 1, neuron=LIF(math.inf, 2.0)).double()
    with torch.no_grad():
        made.weight.fill_(1), made.lateral.fill_(3)
    x = torch.tensor([1.2, 0, 0, 0], dtype=torch.float64).view(4, 1, 1)
    assert made(x).flatten().tolist() == [0.5, 0.75, 0.875, 0.9375]  # it hears 1.5, 2.25, 2.625 one step later
    made.adaptation = Adaptation(tau_a=2.0, beta=1.0)  # thresholds 1, 2, 1.5, 2.25; it hears 1.5, 0.75, 1.875
    assert made(x).flatten().tolist() == [0.5, 0.25, 0.625, 0.3125]


class Spike(torch.autograd.Function):
    """A step whose derivative is ψ."""

    @staticmethod
    def forward(ctx, above, psi):
        ctx.save_for_backward(psi(above))
        return (above > 0).to(above.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


def through_time(x, weight, lateral, neuron, adaptation, rule):
    """The same layer in plain autograd, with a threshold that moves."""
    shape, slope = DERIVATIVES[rule.name]
    rho, beta = (0.0, 0.0) if adaptation is None else (1 - 1 / adaptation.tau_a, adaptation.beta)
    u = b = s = a = torch.zeros(x.shape[1], len(weight), dtype=x.dtype)
    made = []
    for x_t in x:
        kept = u * (1 - (s if rule.through_reset else s.detach()))
        u = (1 - 1 / neuron.tau_m) * kept + x_t @ weight.T + a @ lateral.T
        b = rho * b + s
        s = Spike.apply(u - neuron.threshold - beta * b, lambda above: rule.scale * shape((rule.slope or slope) * above))
        a = (1 - 1 / neuron.tau_s) * a + s / neuron.tau_s
        made.append(a)
    return torch.stack(made)


@each_backend
@each_adaptation
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("rule", [Surrogate(), Surrogate("atan", through_reset=True), Surrogate("sigmoid", 2.0, 0.3, True)])
def test_surrogate_gradients_equal_backpropagation_through_time(backend, adaptation, neuron, rule):
    made, x = layer(neuron=neuron, rule=rule, adaptation=adaptation, backend=backend), rand(15, 4, 6).requires_grad_()
    inputs = (made.weight, made.lateral, x)
    expected = through_time(x, made.weight, made.lateral, neuron, adaptation, rule)
    torch.testing.assert_close(made(x), expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients(made(x), inputs), gradients(expected, inputs), strict=True):
        assert theirs.count_nonzero() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * theirs.abs().max().item())


@each_backend
@each_adaptation
def test_eprop_equals_eligibility_traces_going_forward(backend, adaptation):
    """Σ_t ∂L/∂s[t] · e[t]: learning signal, by the layer's own output alone, times trace, by the neuron's own past alone."""
    neuron, rule, n = LIF(5, 3, 0.5), rules.get("e-prop"), 9
    made, x = layer(neuron=neuron, rule=rule, adaptation=adaptation, backend=backend), rand(25, 2, 6)
    psc = made(x)
    weight, lateral = gradients(psc, [made.weight, made.lateral])

    a = psc.detach()
    s = tsslbp.spikes_from_psc(a, neuron.tau_s).round()
    signal, later = torch.zeros_like(a), torch.zeros_like(a[0])
    for t in reversed(range(len(a))):
        later = signal[t] = rand(*a.shape, seed=5)[t] / neuron.tau_s + neuron.synapse_decay * later
    tau_a, beta = (1, 0.0) if adaptation is None else (adaptation.tau_a, adaptation.beta)
    potential, rise, trace = (torch.zeros(2, n, 6 + n, dtype=torch.float64) for _ in range(3))  # of v, b and s by the weights
    v, b, expected = torch.zeros(2, n, dtype=torch.float64), torch.zeros(2, n, dtype=torch.float64), 0
    for t in range(len(x)):
        before_s, before_a = (s[t - 1], a[t - 1]) if t else (torch.zeros_like(v), torch.zeros_like(v))
        kept = neuron.membrane_decay * (1 - before_s)
        after = (1 - 1 / tau_a) * b + before_s
        heard = torch.cat([x[t], before_a], 1)
        current = x[t] @ made.weight.T + before_a @ made.lateral.T
        v, b = kept * v + current - beta * (after - kept * b), after
        risen = (1 - 1 / tau_a) * rise + trace
        potential = kept[..., None] * (potential + beta * rise) + heard[:, None] - beta * risen
        rise = risen
        psi = 0.3 * (1 - (v - neuron.threshold).abs()).clamp(min=0)
        trace = psi[..., None] * potential
        expected = expected + (signal[t][..., None] * trace).sum(0)
    torch.testing.assert_close(torch.cat([weight, lateral], 1), expected.detach(), rtol=1e-10, atol=1e-10)

    made.rule = Surrogate("triangular", scale=0.3)
    assert not torch.allclose(gradients(made(x), [made.weight])[0], weight, rtol=0.1)  # the paths that are left out matter


@each_backend
@each_adaptation
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
def test_every_rule_gives_the_gradient_of_its_own_whole_sequence(backend, adaptation, rule):
    """Given the errors that come back through V and b, the rule must return from the whole what the loop returned in steps."""
    neuron, n, steps = NEURONS[0], 9, 20
    made = layer(n, n, rule=rule, adaptation=adaptation, backend=backend)
    with torch.no_grad():
        made.weight.copy_(torch.eye(n))
    x = (0.7 * rand(steps, 4, n)).requires_grad_()
    psc = made(x)
    delta, lateral_gradient = gradients(psc, (x, made.lateral))
    error, a = rand(*psc.shape, seed=5), psc.detach()

    def earlier(signal):
        return torch.cat([torch.zeros_like(signal[:1]), signal[:-1]])

    def later(signal):
        return torch.cat([signal[1:], torch.zeros_like(signal[:1])])

    current, s = x.detach() + earlier(a) @ made.lateral.T, tsslbp.spikes_from_psc(a, neuron.tau_s).round()
    error = error + later(delta) @ made.lateral
    if adaptation is not None:
        rho, beta, decay = 1 - 1 / adaptation.tau_a, adaptation.beta, neuron.membrane_decay
        b, to_b = torch.zeros_like(s), torch.zeros_like(s)
        for t in range(1, steps):
            b[t] = rho * b[t - 1] + s[t - 1]
        direct = -beta * (delta - decay * (1 - s) * later(delta))
        for t in reversed(range(steps)):
            to_b[t] = direct[t] + (rho * to_b[t + 1] if t + 1 < steps else 0)
        to_s = later(to_b)
        error = error + neuron.tau_s * to_s - (neuron.tau_s - 1) * later(to_s)
        current = current - beta * (b - decay * earlier(b * (1 - s)))
    current.requires_grad_()
    whole = tsslbp.lif(current, tau_m=neuron.tau_m, tau_s=neuron.tau_s, threshold=neuron.threshold, rule=rule)
    torch.testing.assert_close(whole, psc, rtol=1e-10, atol=1e-10)
    (expected,) = torch.autograd.grad(whole, current, error)
    torch.testing.assert_close(delta, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lateral_gradient, torch.einsum("tbi,tbj->ij", delta, earlier(a)), rtol=1e-10, atol=1e-10)
    assert delta.count_nonzero() > 0
    assert lateral_gradient.count_nonzero() > 0


@each_backend
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
@pytest.mark.parametrize("adaptation", [None, Adaptation(tau_a=5, beta=0)], ids=["fixed", "adaptive"])
def test_without_lateral_weights_and_adaptation_it_is_the_feed_forward_layer(backend, rule, adaptation):
    made, x = layer(rule=rule, adaptation=adaptation, backend=backend, lateral=0), rand(20, 4, 6).requires_grad_()
    plain = Linear(6, 9, neuron=NEURONS[0], rule=rule).double()
    plain.weight, plain.backend = made.weight, backend
    torch.testing.assert_close(made(x), plain(x), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(made(x), (made.weight, x)), gradients(plain(x), (plain.weight, x)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@each_backend
@each_adaptation
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
def test_parts_equal_the_whole(backend, adaptation, rule):
    made, x = layer(rule=rule, adaptation=adaptation, backend=backend), rand(20, 4, 6).requires_grad_()
    state, parts = None, []
    for part in x.split([7, 1, 12]):
        psc, state = made.part(part, state)
        parts.append(psc)
    whole, parts, inputs = made(x), torch.cat(parts), (made.weight, made.lateral, x)
    assert state.shape == (3 if adaptation is None else 5, 4, 9)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(parts, inputs), gradients(whole, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@each_adaptation
def test_a_constant_signal_is_the_same_as_its_expansion_and_crosses_once(adaptation, monkeypatch):
    made, value, response = layer(adaptation=adaptation), rand(4, 6).requires_grad_(), torch.linspace(0.2, 1, 12).double()
    crossed = []
    monkeypatch.setattr(made, "map", lambda x: crossed.append(len(x)) or F.linear(x, made.weight))
    ours, theirs = made(Constant(value, response)), made(Constant(value, response).expand())
    assert crossed == [4, 48]
    assert ours.count_nonzero() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    inputs = (made.weight, made.lateral, value)
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), rtol=1e-10, atol=1e-10)


# In networks.

SETTINGS = {"input_shape": (6,), "time_steps": 12, "tau_m": 5, "tau_s": 3, "threshold": 0.5}


def network(notation="20R-15A-7-4", rule="tssl", **settings):
    torch.manual_seed(0)
    return build(notation, rule=rule, tau_a=8, beta=0.3, **{**SETTINGS, **settings})


def test_notation():
    net = network("8A-7-5R-3", dropout=0.1)
    names = ["recurrent1", "dropout1", "linear2", "dropout2", "recurrent3", "dropout3", "output"]
    assert [name for name, _ in net.layers.named_children()] == names
    assert [tuple(p.shape) for p in net.parameters()] == [(8, 6), (8, 8), (7, 8), (5, 7), (5, 5), (3, 5)]
    assert (net.layers.recurrent1.adaptation, net.layers.recurrent3.adaptation) == (Adaptation(8, 0.3), None)
    assert net.layers.recurrent1.neuron == net.layers.recurrent3.neuron == LIF(5, 3, 0.5)
    assert "Recurrent(6, 8, Adaptation(tau_a=8, beta=0.3))" in repr(net)
    for x in (rand(2, 6).float(), rand(12, 2, 6).float()):
        assert net(x).shape == (12, 2, 3)
        assert [psc.shape[2] for psc in net.activity(x).values()] == [8, 7, 5, 3]
    assert build("4C3-P2-5R-3", **{**SETTINGS, "input_shape": (1, 6, 6)})(rand(2, 1, 6, 6).float()).shape == (12, 2, 3)


@pytest.mark.parametrize(
    ("notation", "settings", "message"),
    [
        ("5R", {}, "network '5R' must end with the number of output neurons"),
        ("R-3", {}, r"layer 1 \('R'\).*write 15C5 .*100R \(recurrent\) or 100A \(with adaptive thresholds\)"),
        ("5r-3", {}, r"layer 1 \('5r'\)"),
        ("5RA-3", {}, r"layer 1 \('5RA'\)"),
        ("0R-3", {}, r"layer 1 \('0R'\).*sizes from 1"),
        ("5R-P2-3", {}, r"layer 2 \('P2'\).*here it is flat, \[5\]"),
        ("5A-3", {"tau_a": 0.5}, "tau_a is 0.5; a time constant is in steps and at least 1"),
        ("5-3", {"tau_a": math.nan}, "tau_a is nan"),
        ("5A-3", {"beta": -0.1}, "beta is -0.1; it must be finite and 0 or more"),
        ("5A-3", {"beta": math.inf}, "beta is inf"),
        ("5R-3", {"rule": "tssl(fallback=rate)"}, "whole sequence at once; recurrent layers need a rule that takes parts"),
        ("5R-3", {"neuron": "relu"}, "needs spiking neurons"),
        ("5R-3", {"rule": "tsll"}, "did you mean 'tssl'"),
    ],
)
def test_errors(notation, settings, message):
    with fails(message):
        build(notation, **{**SETTINGS, **settings})


def test_a_rule_that_takes_no_parts():
    class WholeOnly(Rule):
        def current_gradient(self, psc_gradient, membrane, neuron):
            return psc_gradient

    with pytest.raises(UserError, match="recurrent layers need a rule that takes parts"):
        Recurrent(3, 2, neuron=NEURONS[0], rule=WholeOnly())


def test_shape_error():
    with pytest.raises(UserError, match=r"Recurrent wants \[T, B, 6\]; got \[5\] per sample"):
        layer()(rand(4, 2, 5))


def test_a_named_backend_that_cannot_run():
    with pytest.raises(UserError, match="triton"):
        layer(backend="triton")(rand(4, 2, 6))


def test_initial_weights():
    torch.manual_seed(0)
    made = Recurrent(200, 500, neuron=NEURONS[0])
    assert made.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.01)
    assert made.lateral.std().item() == pytest.approx(LATERAL_GAIN / math.sqrt(500), rel=0.01)
    assert torch.linalg.eigvals(made.lateral).abs().max().item() == pytest.approx(LATERAL_GAIN, rel=0.1)
    assert made.lateral.diagonal().count_nonzero() == 500


def test_what_is_saved_comes_back():
    net = network()
    back = Network(Architecture.from_json(net.architecture.to_json()))
    back.load_state_dict(net.state_dict())
    x = rand(3, 6).float()
    assert torch.equal(back(x), net(x))
    assert back.architecture == net.architecture


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("rule", ["tssl", "surrogate(through_reset=True)"])
def test_parts_and_blocks_of_time_equal_the_whole(static, rule):
    net = network(rule=rule).double()
    x = 2 * rand(5, 6) if static else 2 * rand(12, 5, 6)
    whole, state, made, start = net(x), None, [], 0
    assert whole.count_nonzero() > 20
    for steps in (5, 1, 6):
        psc, state = net.part(x if static else x[start : start + steps], state, steps)
        made.append(psc)
        start += steps
    net.time_block = 5
    for result in (torch.cat(made), net(x)):
        torch.testing.assert_close(result, whole)
        inputs = list(net.parameters())
        for ours, theirs in zip(gradients(result, inputs), gradients(whole, inputs), strict=True):
            assert theirs.count_nonzero() > 0
            torch.testing.assert_close(ours, theirs)


@each_backend
def test_static_equals_its_repetition(backend):
    net, x = network().double(), 2 * rand(5, 6)
    for spiking in net.layers:
        spiking.backend = backend
    inputs = list(net.parameters())
    once, repeated = net(x), net(x.expand(12, 5, 6))
    torch.testing.assert_close(once, repeated)
    torch.testing.assert_close(gradients(once, inputs), gradients(repeated, inputs))


def test_under_autocast_products_are_bfloat16_and_sums_float32():
    made, x = layer(adaptation=ADAPTATIONS[1]).float(), rand(12, 5, 6).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        psc, half = made(x), made(x, bf16=True)
    weight, lateral, a, b, s = made.weight.bfloat16(), made.lateral, *torch.zeros(3, 5, 9)
    u, (rho, beta) = torch.zeros(5, 9), (1 - 1 / 7, 0.4)
    for t in range(12):
        u = 0.8 * u * (1 - s) + (x[t].bfloat16() @ weight.T).float() + a @ lateral.T
        b = rho * b + s
        s = (u > 0.5 + beta * b).float()
        a = 2 / 3 * a + s / 3
        torch.testing.assert_close(psc[t], a)
    assert psc.dtype == torch.float32
    assert torch.equal(half, psc.bfloat16())
    for gradient in gradients(half, (made.weight, made.lateral)):
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() > 0


def test_training_learns_the_digits(quick):
    config = quick(network="30R-20A-10", epochs=4, tau_a=5.0, beta=0.2, learning_rate=5e-3, batch_size=50, precision="float32")
    folder, final = training.train(config)
    assert final["test_accuracy"] > 30  # chance is 10
    assert tsslbp.load(folder).network.layers.recurrent2.adaptation == Adaptation(5, 0.2)
