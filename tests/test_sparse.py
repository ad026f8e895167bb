"""Linear maps by what changes (sparse.py) against dense products, and when they are taken."""

import math
import random
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import map_by_changes
from torch.utils.flop_counter import FlopCounterMode

from tsslbp import UserError, build, report, training
from tsslbp.kernels import cpp
from tsslbp.layers import Conv1d, Conv2d, Linear, Recurrent, Spiking, sparse
from tsslbp.neuron import LIF, synapse
from tsslbp.training.settings import TrainConfig

pytestmark = pytest.mark.skipif(cpp.NOT_LOADED is not None, reason="the C++ kernels are not built")

NEURON = LIF(5.0, 3.0)


@pytest.fixture
def always(monkeypatch):
    """Every map goes by changes that can."""
    map_by_changes(monkeypatch)


def trains(*shape, rate=0.1, seed=0):
    """Trains of which few neurons fire, and those that do mostly repeat, as of a trained network."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(shape[1:], generator=generator) < 3 * rate
    first = torch.randint(0, shape[0], shape[1:], generator=generator)
    steps = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
    return (fires & (steps >= first)).double()


def computed(layer, signal, gradient):
    """Current and gradients by signal and weight."""
    x = signal.clone().requires_grad_()
    layer.weight.grad = None
    current = layer.current(x)
    current.backward(gradient)
    return current.detach(), x.grad, layer.weight.grad


def assert_equal_to_dense(layer, signal, tolerance):
    """Every number, as far as rounding goes: compared with the largest sum of magnitudes, as sums may cancel out."""
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(layer.current(signal).shape, generator=generator, dtype=signal.dtype)
    found = computed(layer, signal, gradient)
    layer.by_changes = False
    expected = computed(layer, signal, gradient)
    with torch.no_grad():
        layer.weight.abs_()
    for one, other, size in zip(found, expected, computed(layer, signal.abs(), gradient.abs()), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, rtol=0, atol=tolerance * float(size.max()))


@st.composite
def cases(draw):
    """A layer and a signal for it."""
    axes, inputs, outputs = draw(st.integers(0, 2)), draw(st.integers(1, 70)), draw(st.integers(1, 140))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    stride = [draw(st.integers(1, 3)) for _ in range(axes)]
    padding = [draw(st.integers(0, 3)) for _ in range(axes)]
    sizes = [draw(st.integers(max(1, k - 2 * p), 9)) for k, p in zip(kernel, padding, strict=True)]
    steps, batch = draw(st.integers(1, 7)), draw(st.integers(1, 11))
    return axes, inputs, outputs, kernel, stride, padding, sizes, steps, batch, draw(st.integers(0, 10**6))


def check(case, dtype, tolerance):
    axes, inputs, outputs, kernel, stride, padding, sizes, steps, batch, seed = case
    torch.manual_seed(seed)
    draw = random.Random(seed)
    neuron = LIF(5.0, draw.choice([1.0, 1.7, 3.0, 20.0]))
    if axes:
        options = {"stride": tuple(stride), "padding": tuple(padding)}
        layer = (Conv1d, Conv2d)[axes - 1](inputs, outputs, tuple(kernel), neuron=neuron, **options)
    else:
        layer = draw.choice([Linear, Recurrent])(inputs, outputs, neuron=neuron)
    scale = draw.choice([1.0, 1.1, 1 / 0.7])
    train = scale * trains(steps, batch, inputs, *sizes, rate=draw.choice([0.02, 0.2]), seed=seed)
    signal = synapse(train, draw.choice([neuron.tau_s, neuron.tau_s, 2.5])).to(dtype)
    if draw.random() < 0.1:
        signal = torch.randn_like(signal)  # nothing that a synapse made
    if draw.random() < 0.3:
        signal = signal.transpose(0, 1).contiguous().transpose(0, 1)
    layer.to(dtype)
    assert_equal_to_dense(layer, signal, tolerance)


@pytest.mark.usefixtures("always")
@given(case=cases())
@settings(max_examples=120, deadline=None)
def test_it_equals_the_dense_map(case):
    check(case, torch.float64, 1e-12)


@pytest.mark.usefixtures("always")
@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_it_equals_the_dense_map_in_float32(case):
    check(case, torch.float32, 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("always")
@given(case=cases())
@settings(max_examples=10_000, deadline=None)
def test_it_equals_the_dense_map_many_times(case):
    check(case, torch.float64, 1e-12)
    check(case, torch.float32, 1e-5)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: Conv2d(3, 20, 3, neuron=NEURON, padding=1), (3, 28, 28)),  # a few steps at a time
        (lambda: Conv2d(2, 70, 3, neuron=NEURON, padding=1), (2, 28, 28)),  # one step at a time
        (lambda: Linear(1100, 150, neuron=NEURON), (1100,)),  # fewer outputs at a time
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_of_many_numbers_equals_the_dense_map(layer, shape, dtype):
    torch.manual_seed(0)
    signal = synapse(trains(7, 3, *shape), NEURON.tau_s).to(dtype)
    assert_equal_to_dense(layer().to(dtype), signal, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("kind", "sizes", "pixels"), [(Linear, (20, 24), ()), (Conv1d, (4, 9, 3), (5,)), (Conv2d, (2, 5, 2), (3, 4))]
)
def test_rounding_does_not_grow_with_the_steps(kind, sizes, pixels):
    torch.manual_seed(0)
    layer, train = kind(*sizes, neuron=NEURON), (torch.rand(20_000, 1, sizes[0], *pixels) < 0.05).double()
    train[10_000:] = 0
    signal = synapse(train, NEURON.tau_s)
    gradient = torch.randn_like(layer.current(signal.float()))
    current, _, by_weight = computed(layer, signal.float(), gradient)
    assert layer.multiplied < 0.5
    assert not current[-5_000:].any()
    layer.by_changes = False
    exact, _, exact_by_weight = computed(layer.double(), signal, gradient.double())
    torch.testing.assert_close(current.double(), exact, rtol=0, atol=1e-5)
    assert (by_weight - exact_by_weight).norm() < 1e-5 * exact_by_weight.norm()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: Linear(30, 40, neuron=NEURON), (30,)),
        (lambda: Recurrent(30, 40, neuron=NEURON), (30,)),
        (lambda: Conv1d(5, 9, 3, neuron=NEURON, stride=2, padding=1), (5, 11)),
        (lambda: Conv2d(5, 9, (3, 2), neuron=NEURON, padding=(1, 0)), (5, 8, 7)),
    ],
)
def test_it_is_taken_where_it_can_be(layer, shape):
    torch.manual_seed(0)
    made = layer()
    made.current(synapse(trains(6, 3, *shape), NEURON.tau_s).float())
    assert made.multiplied < 0.5


@pytest.mark.usefixtures("always")
def test_a_train_costs_its_changes():
    """0 1 1 1 1 is one change, 0 1 0 1 0 is four, silence none; a pooled count changes as often as it moves."""
    layer = Linear(3, 4, neuron=NEURON)
    train = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]]).T.float().unsqueeze(1)
    layer.current(synapse(train, NEURON.tau_s))
    assert layer.multiplied == 5 / 15


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(("layer", "shape"), [(partial(Linear, 20, 8), (20,)), (partial(Conv2d, 3, 8, 3), (3, 5, 5))])
def test_without_a_synapse_a_silent_step_has_no_current(layer, shape):
    """What is left of a sum of changes would cross a threshold that another current reaches exactly."""
    made, train = layer(neuron=LIF(5.0, 1.0)).double(), trains(40, 4, *shape)
    train[20:] = 0
    made.weight.data.mul_(0.7)  # float32 numbers would have exact sums
    current = made.current(train)
    assert 0 < made.multiplied < 0.5
    assert current[:20].any()
    assert not current[20:].any()


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_shows(odd):
    layer, signal = Linear(20, 8, neuron=NEURON), synapse(trains(5, 3, 20), NEURON.tau_s).float()
    signal[2, 1, 4] = odd
    current = layer.current(signal)
    assert not current[2 if math.isinf(odd) else slice(2, None), 1].isfinite().any()
    assert current[:2].isfinite().all()
    assert current[:, [0, 2]].isfinite().all()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_does_not_go_by_the_changes_of_its_example(monkeypatch):
    monkeypatch.setattr(sparse, "WORK", 0)
    layer = Linear(20, 400, neuron=NEURON)
    silent, busy = torch.zeros(5, 3, 20), torch.rand(5, 3, 20)
    with torch.no_grad():
        traced = torch.jit.trace(layer, silent)
        torch.testing.assert_close(traced(busy), layer(busy))


def test_changes_of_the_largest_numbers_count():
    """Each half of what bounds their rounding is finite, where the sum of the two numbers is not."""
    signal = torch.tensor([3e38, 1e38] * 2).view(2, 2, 1, 1, 1).transpose(0, 1)
    changes = torch.ops.tsslbp.changes(signal, 1.0, 1.0)
    current = torch.ops.tsslbp.map_changes(signal, torch.full((1, 1, 1, 1), 0.5), *changes, [1.0, 1, 1, 1, 0, 0, 1.0])
    torch.testing.assert_close(current, signal / 2)


class Twice(Linear):
    def map(self, x):
        return 2 * super().map(x)


class Thrice(Conv2d):
    def convolve(self, x, weight):
        return 3 * super().convolve(x, weight)


@pytest.mark.parametrize(("kind", "sizes", "pixels"), [(Twice, (40, 35), ()), (Thrice, (3, 35, 2), (6, 6))])
def test_a_map_of_ones_own_is_not_replaced(always, kind, sizes, pixels):
    layer, plain = kind(*sizes, neuron=NEURON), kind.__base__(*sizes, neuron=NEURON)
    plain.load_state_dict(layer.state_dict())
    signal = synapse(trains(5, 4, sizes[0], *pixels).float(), 3.0)
    mapped = layer.current(signal)
    torch.testing.assert_close(mapped, (2 if kind is Twice else 3) * plain.current(signal))
    assert plain.multiplied < 1 == layer.multiplied
    name = "map" if kind is Twice else "convolve"
    setattr(plain, name, getattr(layer, name))
    torch.testing.assert_close(mapped, plain.current(signal))
    assert plain.multiplied == 1


@pytest.mark.usefixtures("always")
def test_groups_and_dilation_stay_dense():
    for options in ({"groups": 2}, {"dilation": 2}):
        layer = Conv2d(4, 6, 3, neuron=NEURON, **options)
        layer.current(synapse(trains(5, 3, 4, 8, 8), NEURON.tau_s).float())
        assert layer.multiplied == 1


@pytest.mark.usefixtures("always")
def test_beside_bfloat16_maps_only_the_gradient_by_the_signal_is_bfloat16():
    layer, signal = Conv2d(5, 9, 3, padding=1, neuron=NEURON), synapse(trains(6, 7, 5, 8, 8), NEURON.tau_s).float()
    gradient = torch.randn(6, 7, 9, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = computed(layer, signal, gradient)
    with torch.autocast("cpu", torch.bfloat16):
        current, by_signal, by_weight = computed(layer, signal, gradient)
        assert 0 < layer.multiplied < 1
    assert torch.equal(current, expected[0])
    assert torch.equal(by_weight, expected[2])
    folded = torch.nn.functional.conv_transpose2d(gradient.flatten(0, 1).bfloat16(), layer.weight.bfloat16(), padding=1)
    torch.testing.assert_close(by_signal, folded.float().view_as(signal), rtol=0.01, atol=0.01)
    assert not torch.allclose(by_signal, expected[1], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "settings", [{}, {"standardise": True}, {"bits": "4"}, {"network": "[8C3n-8C3n]-[12C3s2n-12C3n]-6"}], ids=str
)
def test_beside_bfloat16_maps_convolutions_have_the_spikes_of_float32(settings):
    torch.manual_seed(0)
    settings = {"network": "8C3-12C3-6", **settings}
    net = build(settings.pop("network"), input_shape=(2, 10, 10), time_steps=5, tau_m=5, tau_s=3, padding=1, **settings).train()
    x = 6 * trains(5, 6, 2, 10, 10).float()
    with torch.autocast("cpu", torch.bfloat16):
        beside = net.activity(x)
    for (name, psc), alone in zip(beside.items(), net.activity(x).values(), strict=True):
        assert name == "output" or (psc.any() and torch.equal(psc, alone)), name


@pytest.mark.usefixtures("always")
def test_beside_bfloat16_maps_products_and_coarse_signals_stay_dense():
    flat, convolution = Linear(20, 8, neuron=NEURON), Conv2d(5, 9, 3, neuron=NEURON)
    trains_of = {flat: trains(5, 3, 20), convolution: trains(6, 7, 5, 8, 8)}
    with torch.autocast("cpu", torch.bfloat16):
        assert flat.current(synapse(trains_of[flat], NEURON.tau_s).float()).dtype == torch.bfloat16
        assert convolution.current(synapse(trains_of[convolution], NEURON.tau_s).bfloat16()).dtype == torch.bfloat16
        double = synapse(trains_of[convolution], NEURON.tau_s)
        assert convolution.double().current(double).dtype == torch.float64
    assert [flat.multiplied, convolution.multiplied] == [1, 1]


@pytest.mark.parametrize("amd", [True, False])
def test_currents_that_a_map_may_take_by_changes_stay_in_full(monkeypatch, amd):
    monkeypatch.setattr(sparse, "BF16", sparse.Most(float(amd), 0))
    net = build("32C3-64C3-P2-40C3-70-6", input_shape=(2, 14, 14), time_steps=5, tau_m=5, tau_s=3)
    entering = {name: torch.empty(0) for name, _ in net.named_layers()}
    for name, layer in net.named_layers():
        if isinstance(layer, Spiking):
            layer.register_forward_pre_hook(lambda _, given, name=name: entering.update({name: given[0]}))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.rand(5, 3, 2, 14, 14))
    full, half = torch.float32, torch.bfloat16
    assert entering["conv2"].dtype == (full if amd else half)  # the only convolution of currents with 64 channels or more
    assert [entering[name].dtype for name in ("conv3", "linear4", "output")] == [half] * 3
    net.layers.conv2.by_changes = False
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.rand(5, 3, 2, 14, 14))
    assert entering["conv2"].dtype == half
    net.layers.conv2.by_changes = True
    assert net.layers.conv2.takes_full == amd
    assert not net.to("meta").layers.conv2.takes_full  # only on the CPU


def sequence(layer_sizes, batch=50, rate=0.03):
    torch.manual_seed(0)
    net = build(layer_sizes, input_shape=(400,), time_steps=5, tau_m=5, tau_s=3)
    return net, trains(5, batch, 400, rate=rate).float()


def shares(net):
    return [layer.multiplied for _, layer in net.named_layers() if isinstance(layer, Spiking)]


def test_it_is_taken_where_it_pays():
    net, x = sequence("400-10")
    net(x)
    first, output = shares(net)
    assert 0 < first < 0.1
    assert output == 1  # ten outputs do not repay the search
    net(torch.randn_like(x))
    assert shares(net) == [1, 1]
    net(x[:, :2])
    assert shares(net) == [1, 1]  # so little work that the search would cost more


@pytest.mark.usefixtures("always")
def test_an_outlier_leaves_no_rounding_behind():
    layer, trains_ = Linear(30, 8, neuron=NEURON), trains(40, 3, 30)
    trains_[3, 1, 4] = 1e6
    signal = synapse(trains_, NEURON.tau_s)
    exact = signal @ layer.weight.double().T
    torch.testing.assert_close(layer.current(signal.float())[30:].double(), exact[30:], rtol=0, atol=1e-5)
    assert layer.multiplied == 1


def test_maps_with_few_outputs_gain_less():
    most = sparse.Most(0.5, 64)
    assert most.of(64) == 0.125
    assert most.of(66) < most.of(64) < most.of(80)  # 66 leave most of their last vector of 16 empty
    assert sparse.Most(math.inf, 0).of(64) == 1


def test_a_training_step_is_the_same():
    net, x = sequence("400-10")
    gradients = []
    for by_changes in (True, False):
        for _, layer in net.named_layers():
            layer.by_changes = by_changes
        net.zero_grad()
        output = net(x)
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
        gradients.append([weight.grad.clone() for weight in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.usefixtures("always")
def test_threads_change_no_bit():
    layer, signal = Conv2d(5, 9, 3, neuron=NEURON), synapse(trains(6, 7, 5, 8, 8), NEURON.tau_s).float()
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made.append(computed(layer, signal, torch.ones(6, 7, 9, 6, 6)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for more in made[1:] for one, other in zip(made[0], more, strict=True))


@pytest.mark.usefixtures("always")
def test_the_gradient_has_no_derivative():
    layer, x = Linear(20, 8, neuron=NEURON), synapse(trains(5, 3, 20), NEURON.tau_s).float().requires_grad_()
    (gradient,) = torch.autograd.grad(layer.current(x).square().sum(), x, retain_graph=True)
    assert gradient.shape == x.shape
    with pytest.raises(UserError, match="no derivative of its own"):
        torch.autograd.grad(layer.current(x).square().sum(), x, create_graph=True)


@pytest.mark.usefixtures("always")
def test_modes_see_a_dense_map_and_currents_may_be_changed_in_place():
    layer, x = Linear(20, 8, neuron=NEURON), synapse(trains(5, 3, 20), NEURON.tau_s).float()
    assert sparse.changes(x, layer.weight, sparse.SparseMap(), 3.0)
    with FlopCounterMode(display=False) as counter:
        assert not sparse.changes(x, layer.weight, sparse.SparseMap(), 3.0)
        layer(x)
    assert counter.get_total_flops() > 0
    layer.current(x).mul_(2)


def test_changes_of_something_else_are_refused():
    signal, weight = torch.zeros(5, 3, 1, 1, 20), torch.randn(8, 1, 1, 20)
    numbers = sparse.SparseMap().numbers(3.0)
    where, value, start = torch.ops.tsslbp.changes(signal, 3.0, 1.0)
    wrong = {
        "where": (torch.tensor([20], dtype=torch.int32), torch.ones(1), torch.tensor([0] + [1] * 15)),
        "start": (where, value, torch.tensor([0] * 15 + [4])),
        "length": (where, value, start[:-1]),
        "type": (where, value.double(), start),
        "order": (torch.tensor([7, 3], dtype=torch.int32), torch.ones(2), torch.tensor([0] + [2] * 15)),
    }
    for changes in wrong.values():
        with pytest.raises(RuntimeError, match="not the changes of the current"):
            torch.ops.tsslbp.map_changes(signal, weight, *changes, numbers)
        with pytest.raises(RuntimeError, match="not the changes of the current"):
            torch.ops.tsslbp.map_changes_backward(signal, torch.zeros(5, 3, 1, 1, 8), *changes, numbers)


@pytest.mark.parametrize("on", [True, False])
def test_a_run_records_what_was_multiplied(tmp_path, monkeypatch, on):
    monkeypatch.setattr(sparse, "FLAT", sparse.Most(0.5, 0))
    monkeypatch.setattr(sparse, "WORK", 0)
    config = TrainConfig(
        **{"data": "digits", "network": "300-200-10", "time_steps": 5, "tau_m": 5.0, "tau_s": 3.0, "learning_rate": 3e-3},
        **{"epochs": 1, "precision": "float32", "sparse": on, "runs_dir": tmp_path},
    )
    folder, _ = training.train(config)
    (record,) = training.history(folder)
    assert ("multiplied" in record) == on
    if on:
        shares = record["multiplied"]
        assert list(shares) == list(record["rates"])
        assert 0 < shares["linear2"] < 0.5
        assert shares["linear1"] == shares["output"] == 1
        assert "share of inputs" in report.write(folder).read_text()
