"""Layers: the linear maps against explicit loops, the maps without neurons, initialisation, shape errors."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from shared import fails

import tsslbp
from tsslbp import Surrogate, UserError
from tsslbp.encoding import Constant
from tsslbp.layers import Conv1d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, Recurrent, SumPool1d, SumPool2d, Vote
from tsslbp.neuron import LIF
from tsslbp.utils.signals import length_mask

NEURON = LIF(tau_m=5, tau_s=3, threshold=0.4)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lif(current, rule=None):
    return tsslbp.lif(current, tau_m=5, tau_s=3, threshold=0.4, rule=rule)


def constant(*shape):
    return Constant(rand(*shape), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))


# Linear maps with neurons.


@pytest.mark.parametrize("rule", [None, Surrogate()])
def test_linear(rule):
    layer = Linear(5, 7, neuron=NEURON, rule=rule).double()
    x = rand(6, 2, 5).requires_grad_()
    expected = lif(torch.stack([torch.stack([layer.weight @ x[t, b] for b in range(2)]) for t in range(6)]), rule)
    psc = layer(x)
    assert psc.shape == (6, 2, 7)
    assert 0 < psc.count_nonzero() < psc.numel()
    torch.testing.assert_close(psc, expected, rtol=1e-12, atol=1e-12)
    error, inputs = rand(6, 2, 7, seed=1), (layer.weight, x)
    ours, theirs = torch.autograd.grad(psc, inputs, error), torch.autograd.grad(expected, inputs, error)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_conv2d(padding):
    layer = Conv2d(2, 3, 3, neuron=NEURON, padding=padding, scale=2.0).double()
    x = 3 * rand(4, 2, 2, 5, 7).requires_grad_()
    padded = F.pad(x, (padding,) * 4)
    height, width = 5 + 2 * padding - 2, 7 + 2 * padding - 2
    windows = [padded[..., i : i + 3, j : j + 3] for i, j in itertools.product(range(height), range(width))]
    current = torch.stack([torch.einsum("tbcij,ocij->tbo", window, layer.weight) for window in windows], dim=-1)
    expected = lif(current.unflatten(-1, (height, width)))
    psc = layer(x)
    assert psc.shape == (4, 2, 3, height, width)
    assert 0 < psc.count_nonzero() < psc.numel()
    torch.testing.assert_close(psc, expected, rtol=1e-12, atol=1e-12)
    error, inputs = rand(4, 2, 3, height, width, seed=1), (layer.weight, x)
    ours, theirs = torch.autograd.grad(psc, inputs, error), torch.autograd.grad(expected, inputs, error)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (partial(Linear, 18, neuron=NEURON), (4, 5, 18)),
        (partial(Conv2d, 2, kernel_size=3, neuron=NEURON, scale=4.0), (4, 2, 2, 5, 7)),
    ],
    ids=["Linear", "Conv2d"],
)
def test_standardised_kernel(make, shape):
    layer, drawn = make(3, standardise=True).double(), make(300).weight.std().item()
    weights = layer.effective_weight().flatten(1)
    assert weights.std(1, correction=0).tolist() == pytest.approx([drawn] * 3, rel=0.05)
    with torch.no_grad():
        layer.gain.copy_(torch.tensor([0.5, 1.0, -2.0]))
        layer.weight += 0.3
    kernel = layer.effective_weight()
    assert kernel.stride() == layer.weight.stride()
    for w, k, gain in zip(layer.weight, kernel, (0.5, 1.0, -2.0), strict=True):
        expected = gain * layer.size * (w - w.mean()) / w.std(correction=0)
        torch.testing.assert_close(k, expected, rtol=1e-7, atol=1e-9)
    w, parameters = layer.weight.flatten(1), (layer.weight, layer.gain)
    centred = w - w.mean(1, keepdim=True)
    expected = layer.size * layer.gain[:, None] * centred / (centred.square().mean(1, keepdim=True) + 1e-10).sqrt()
    error = rand(*kernel.shape, seed=1)
    ours, theirs = (torch.autograd.grad(k, parameters, error) for k in (kernel, expected.view_as(kernel)))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

    x, plain = 5 * rand(*shape), make(3).double()
    plain.weight.data = kernel.detach()
    output = layer(x)
    assert 0 < output.count_nonzero() < output.numel()
    assert torch.equal(output, plain(x))
    layer.fold()
    assert torch.equal(output, layer(x))
    assert list(layer.state_dict()) == ["weight"]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Linear(5, 7, neuron=NEURON), (4, 5)),
        (lambda: Conv2d(2, 3, 3, neuron=NEURON, padding=1, scale=3.0), (4, 2, 5, 7)),
    ],
    ids=["Linear", "Conv2d"],
)
def test_a_constant_signal_is_the_same_as_its_expansion(make, shape):
    layer = make().double()
    signal = constant(*shape)
    assert layer(signal).count_nonzero() > 0
    torch.testing.assert_close(layer(signal), layer(signal.expand()), rtol=1e-12, atol=1e-12)


def test_linear_is_initialised_kaiming_normal():
    layer = Linear(200, 1000, neuron=NEURON)
    assert layer.weight.shape == (1000, 200)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.01)
    assert layer.weight.mean().abs().item() < 0.001
    assert layer.weight.abs().max() > 4 * math.sqrt(2 / 200)  # normal, not uniform


@pytest.mark.parametrize("stride", [1, 2, (2, 1), (1, 2), (1, 3)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [(4, 3), (5, 5), (8, 4), (9, 28)])
def test_a_convolution_of_float32_equals_one_of_float64(size, channels, stride):
    layer, x = Conv2d(channels, 3, 3, neuron=NEURON, stride=stride), torch.randn(3, channels, *size)
    expected = F.conv2d(x.double(), layer.weight.double(), stride=stride)
    torch.testing.assert_close(layer.map(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "size", "options"),
    [
        (Conv2d, (1, 1), {"kernel_size": 3, "padding": 1, "stride": 2}),
        (Conv2d, (1, 1), {"kernel_size": 5, "padding": 2, "stride": 2}),
        (Conv2d, (1, 1), {"kernel_size": 3, "padding": 2, "stride": 2}),
        (Conv1d, (1,), {"kernel_size": 5, "padding": 2, "stride": 2}),
        (Conv2d, (9, 1), {"kernel_size": (2, 1), "padding": (1, 2), "stride": (2, 3), "dilation": (1, 2), "groups": 4}),
        (Conv2d, (9, 7), {"kernel_size": (1, 5), "stride": (1, 3), "groups": 8}),
        (Conv2d, (8, 3), {"kernel_size": 2, "padding": (1, 0), "stride": (1, 2), "groups": 8}),
    ],
)
def test_convolutions_are_right_in_bfloat16(kind, size, options):
    """PyTorch's own leave what was in memory, which is NaN here, in some of these; in the fifth it crashes."""
    layer, x = kind(8, 16, **options, neuron=NEURON), torch.randn(10, 8, *size).requires_grad_()

    def results(dtype):
        signal = x.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            made = layer.to(dtype).map(signal.contiguous(memory_format=torch.channels_last) if len(size) == 2 else signal)
        for shape, full in itertools.product((layer.weight.shape, made.shape), (torch.float32, torch.bfloat16)):
            [torch.full(shape, math.nan, dtype=full) for _ in range(10)]
        return [found.detach().double() for found in (made, *torch.autograd.grad(made.double().sum(), (x, layer.weight)))]

    for found, expected in zip(results(torch.float32), results(torch.float64), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_conv2d_is_initialised_as_pytorch_does_times_the_scale():
    torch.manual_seed(0)
    layer = Conv2d(3, 6, 5, neuron=NEURON, scale=5.0)
    torch.manual_seed(0)
    expected = torch.nn.Conv2d(3, 6, 5, bias=False).weight.detach() * 5
    assert layer.weight.shape == (6, 3, 5, 5)
    assert torch.equal(layer.weight.detach(), expected)


def test_layers_own_one_weight_and_no_bias():
    for layer in (Linear(3, 2, neuron=NEURON), Conv2d(3, 2, 3, neuron=NEURON)):
        assert [name for name, _ in layer.named_parameters()] == ["weight"]
        assert layer.weight.requires_grad
        assert layer.rule == tsslbp.TSSL()


def test_unknown_rule_is_refused_when_the_layer_is_made():
    with pytest.raises(UserError, match="did you mean 'tssl'"):
        Linear(3, 2, neuron=NEURON, rule="tsll")


@pytest.mark.parametrize("shape", [(4, 2, 5), (4, 2, 7), (4, 2, 6, 1), (4, 2, 3, 6)])
def test_linear_shape_error(shape):
    layer = Linear(6, 2, neuron=NEURON)
    with fails(r"Linear wants \[T, B, 6\]; got \["):
        layer(torch.ones(shape))
    with pytest.raises(UserError, match=r"Linear wants \[T, B, 6\]"):
        layer(Constant(torch.ones(shape[1:]), torch.ones(4)))


@pytest.mark.parametrize(
    "shape", [(4, 2, 3, 8, 8), (4, 2, 1, 8, 8), (4, 2, 2, 2, 8), (4, 2, 2, 8, 2), (4, 2, 2, 8), (4, 2, 128)]
)
def test_conv2d_shape_error(shape):
    layer = Conv2d(2, 3, 5, neuron=NEURON, padding=1)
    with fails(r"Conv2d wants \[T, B, 2, H, W\] at least 5×5 with padding 1; got \["):
        layer(torch.ones(shape))
    assert layer(torch.ones(4, 2, 2, 3, 3)).shape == (4, 2, 3, 1, 1)


# Pooling.


LAYERS = {
    "Linear": (lambda: Linear(6, 5, neuron=NEURON), (6,)),
    "Recurrent": (lambda: Recurrent(6, 5, neuron=NEURON), (6,)),
    "Conv2d": (lambda: Conv2d(2, 3, 3, neuron=NEURON), (2, 5, 5)),
}
MAPS = {
    "SumPool2d": (SumPool2d, (2, 5, 5)),
    "MaxPool2d": (lambda: MaxPool2d(tau_s=3), (2, 5, 5)),
    "Flatten": (Flatten, (2, 5, 5)),
    "Dropout": (lambda: Dropout(0.5), (6,)),
}


@pytest.mark.parametrize("name", LAYERS | MAPS)
def test_a_signal_has_at_least_one_step(name):
    make, shape = (LAYERS | MAPS)[name]
    layer = make()
    calls = [layer, lambda x: layer.part(x, None)] if name in LAYERS else [layer]
    for call in calls:
        with pytest.raises(UserError, match=r"signal has shape \[0, 4, .*; it must be \[T, .*with T at least 1, time first"):
            call(torch.zeros(0, 4, *shape))
        with pytest.raises(
            UserError, match=r"response of a constant signal has shape \[0\]; it must be \[T\] with T at least 1"
        ):
            call(Constant(torch.zeros(4, *shape), torch.zeros(0)))
        with pytest.raises(UserError, match=r"signal is of type ndarray; it must be a torch.Tensor"):
            call(torch.zeros(3, 4, *shape).numpy())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("of_weight", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("of_signal", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_weights_and_signals_are_of_one_full_precision(name, of_weight, of_signal):
    make, shape = LAYERS[name]
    layer, x = make().to(of_weight), torch.rand(3, 4, *shape).to(of_signal)
    for signal in (x, Constant(x[0], torch.ones(3))):
        for call in (layer, lambda x: layer.part(x, None)[0]):
            if of_weight == of_signal and of_weight in (torch.float32, torch.float64):
                assert call(signal).dtype == of_weight
                continue
            with fails(f"{name} has {of_weight} weights and a {of_signal} signal; both must be"):
                call(signal)


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_makes_the_maps_bfloat16(name):
    make, shape = LAYERS[name]
    layer, x = make(), torch.rand(3, 4, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.current(x).dtype == torch.bfloat16
        assert layer(x).dtype == torch.float32


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pooling_sums_windows_of_odd_images(size):
    x = rand(3, 2, 4, 5, 7)
    expected = torch.zeros(3, 2, 4, 5 // size, 7 // size, dtype=torch.float64)
    for i, j in itertools.product(range(5 // size), range(7 // size)):
        for di, dj in itertools.product(range(size), range(size)):
            expected[..., i, j] += 1.1 * x[..., i * size + di, j * size + dj]
    torch.testing.assert_close(SumPool2d(size)(x), expected, rtol=1e-12, atol=1e-12)
    signal = constant(2, 4, 5, 7)
    pooled = SumPool2d(size)(signal)
    assert isinstance(pooled, Constant)
    torch.testing.assert_close(pooled.expand(), SumPool2d(size)(signal.expand()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("shape", [(40, 3, 22), (40, 3, 22, 15)])
def test_sums_of_spikes_are_whole(size, shape):
    """A neuron at its threshold would notice the rounding of a mean."""
    sums = (SumPool1d if len(shape) == 3 else SumPool2d)(size, 1.0)((torch.rand(2, *shape) < 0.5).float())
    assert torch.equal(sums, sums.round())


def test_pooling_by_hand():
    assert SumPool2d()(torch.ones(1, 1, 1, 2, 2)).item() == pytest.approx(4.4)


@pytest.mark.parametrize("channel", range(3))
def test_pooling_never_mixes_channels_samples_or_steps(channel):
    x = torch.zeros(2, 2, 3, 5, 7)
    x[1, 0, channel] = 1
    pooled = SumPool2d()(x)
    assert (pooled[1, 0, channel] > 0).all()
    assert pooled.sum().item() == pytest.approx(pooled[1, 0, channel].sum().item())


# Dropout.


def test_dropout_mask_is_held_over_time_and_drawn_per_input_and_sample():
    dropped = Dropout(0.5)(torch.ones(6, 4, 3, 5, 7))
    assert (dropped == dropped[0]).all()
    assert dropped.unique().tolist() == [0, 2]
    masks = dropped[0]
    for axis in range(4):  # samples, channels, rows, columns
        assert not (masks == masks.narrow(axis, 0, 1)).all()


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_dropout_keeps_the_expectation_and_drops_its_share(p):
    for dropped in (Dropout(p)(torch.ones(2, 100, 1000))[0], Dropout(p)(Constant(torch.ones(100, 1000), torch.ones(2))).value):
        share = (dropped == 0).double().mean().item()
        assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 1e5))
        assert dropped.max().item() == pytest.approx(1 / (1 - p))


def test_dropout_scales_the_signal_it_keeps():
    x = rand(3, 4, 50) + 0.1
    dropped = Dropout(0.5)(x)
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(dropped[kept], 2 * x[kept])
    signal = constant(4, 50)
    assert torch.equal(Dropout(0.5)(signal).response, signal.response)


def test_dropout_gradient_goes_where_the_signal_went():
    x = rand(3, 4, 50).requires_grad_()
    dropped = Dropout(0.5)(x)
    (grad,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(grad, 2.0 * (dropped != 0))


@pytest.mark.parametrize("signal", [rand(3, 4, 50), constant(4, 50)], ids=["sequence", "constant"])
def test_dropout_is_off_in_evaluation_and_at_zero(signal):
    assert Dropout(0.5).eval()(signal) is signal
    assert Dropout(0.0)(signal) is signal


@pytest.mark.parametrize("signal", [rand(3, 4, 50), constant(4, 50)], ids=["sequence", "constant"])
def test_dropout_is_seeded(signal):
    def draw(seed):
        torch.manual_seed(seed)
        dropped = Dropout(0.5)(signal)
        return dropped.expand() if isinstance(dropped, Constant) else dropped

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_impossible_dropout(p):
    layer = Dropout(0.3)
    for make in (lambda: Dropout(p), lambda: setattr(layer, "p", p)):
        with pytest.raises(UserError, match=f"dropout is {p}; it must be at least 0 and below 1"):
            make()
    assert layer.p == 0.3


# Flatten and vote.


def test_flatten_is_channel_row_column():
    x = rand(2, 3, 4, 5, 7)
    flat = Flatten()(x)
    assert flat.shape == (2, 3, 140)
    for t, b in itertools.product(range(2), range(3)):
        assert torch.equal(flat[t, b], torch.flatten(x[t, b]))
    assert flat[1, 2, (3 * 5 + 4) * 7 + 6] == x[1, 2, 3, 4, 6]
    channels_last = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    assert torch.equal(Flatten()(channels_last), flat)
    signal = constant(3, 4, 5, 7)
    assert torch.equal(Flatten()(signal).value, signal.value.flatten(1))


def test_vote_is_the_mean_over_neurons_in_a_row():
    psc = rand(4, 2, 6)
    expected = torch.stack([psc[..., :3].mean(-1), psc[..., 3:].mean(-1)], -1)
    torch.testing.assert_close(Vote(3)(psc), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "layer",
    [Linear(12, 2, neuron=NEURON), Conv2d(3, 2, 2, neuron=NEURON), SumPool2d(), Dropout(0.5), Flatten()],
    ids=lambda layer: type(layer).__name__,
)
def test_empty_batch(layer):
    x = torch.empty(4, 0, 12) if isinstance(layer, Linear) else torch.empty(4, 0, 3, 5, 7)
    assert layer(x).shape[:2] == (4, 0)


def test_a_convolution_keeps_no_list_of_the_callers():
    stride = [1, 1]
    layer = Conv2d(1, 2, 3, neuron=NEURON, stride=stride)
    stride[0] = 2
    assert layer.stride == (1, 1)


@pytest.mark.parametrize("rule", ["tssl", "eventprop(clip=8)"])
@pytest.mark.parametrize("wrong", [lambda m: m.long(), lambda m: m[:, 0], lambda m: m.float(), lambda m: m.T, lambda m: [True]])
def test_a_mask_of_steps_that_is_none_is_refused(wrong, rule):
    layer = Linear(5, 6, neuron=LIF(4, 2.5), rule=rule, normalise=rule == "tssl")
    x, inside = torch.rand(9, 6, 5), length_mask(torch.tensor([9, 3, 5, 8, 2, 1]), 9)
    assert layer(x, inside=inside).shape == (9, 6, 6)
    with pytest.raises(UserError, match=r"^inside (has shape|is) .*; it must be (\[T, B\], \[9, 6\]|bool|a torch.Tensor)"):
        layer(x, inside=wrong(inside))


@pytest.mark.parametrize("wrong", [[3, 4], torch.tensor([9, -3]), torch.tensor([2.5, 1.0]), torch.tensor([3])])
def test_lengths_that_are_none_are_refused(wrong):
    net = tsslbp.build("4", input_shape=(3,), time_steps=4, tau_m=5, tau_s=3)
    output = net(torch.rand(4, 2, 3))
    with pytest.raises(UserError, match=r"^lengths "):
        net.evidence(output, wrong)
    with pytest.raises(UserError, match=r"^lengths "):
        tsslbp.losses.RateBounds(3.0)(output, wrong)
    if len(wrong) == 2:
        with pytest.raises(UserError, match=r"^lengths "):
            length_mask(wrong, 4)
