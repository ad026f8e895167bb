"""Weights of few bits: the grid, the gradient that goes straight through, leaks as small fractions, training with them."""

import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from shared import run

import tsslbp
from tsslbp import UserError, cli, layers, training
from tsslbp.layers import quantisation
from tsslbp.layers.quantisation import LARGEST, leak, quantised
from tsslbp.neuron import LIF
from tsslbp.training import first_weights
from tsslbp.training.model import as_model

BITS = list(LARGEST)
NUMBERS = {"8": range(-127, 128), "4": range(-7, 8), "3": range(-3, 4), "2": (-3, -1, 1, 3), "ternary": (-1, 0, 1)}


@st.composite
def cases(draw):
    bits = draw(st.sampled_from(BITS))
    shape = draw(st.sampled_from([(1, 1), (3, 7), (4, 2, 3), (2, 3, 2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    weight = torch.randn(shape, generator=generator) * draw(st.sampled_from([1e-3, 0.1, 5.0]))
    limit = weight.flatten(1).abs().amax(1) * draw(st.sampled_from([0.2, 0.7, 1.0, 2.0])) + 1e-4
    return bits, weight, limit


@given(cases())
def test_weights_are_whole_numbers_of_a_step_of_their_channel(case):
    bits, weight, limit = case
    made = quantised(weight, limit, bits)
    step = (limit / max(NUMBERS[bits])).view(-1, *[1] * (weight.dim() - 1))
    q = made / step
    allowed = torch.tensor(list(NUMBERS[bits]), dtype=torch.float32)
    torch.testing.assert_close(q, q.round(), atol=1e-4, rtol=0)
    assert torch.isin(q.round(), allowed).all()
    nearest = (weight.unsqueeze(-1) / step.unsqueeze(-1) - allowed).abs().amin(-1)
    torch.testing.assert_close((weight / step - q).abs(), nearest, atol=1e-4, rtol=1e-4)


@given(cases())
def test_quantising_again_changes_nothing(case):
    bits, weight, limit = case
    once = quantised(weight, limit, bits)
    torch.testing.assert_close(quantised(once, limit, bits), once, atol=0, rtol=1e-6)


@given(cases(), st.floats(0.01, 100))
def test_every_channel_has_its_own_scale(case, factor):
    bits, weight, _ = case
    limit = quantisation.fitted_limit(weight, bits)
    scale = torch.ones(len(weight))
    scale[0] = factor
    shaped = scale.view(-1, *[1] * (weight.dim() - 1))
    scaled = quantisation.fitted_limit(weight * shaped, bits)
    torch.testing.assert_close(scaled[1:], limit[1:])
    torch.testing.assert_close(quantised(weight * shaped, limit * scale, bits), shaped * quantised(weight, limit, bits))


@given(cases())
def test_the_gradient_goes_straight_through_up_to_the_limit(case):
    bits, weight, limit = case
    weight, limit = weight.requires_grad_(), limit.requires_grad_()
    error = torch.randn(weight.shape)
    made = quantised(weight, limit, bits)
    made.backward(error)
    step = (limit / max(NUMBERS[bits])).view(-1, *[1] * (weight.dim() - 1))
    inside = weight.abs() <= (1 + 1e-6) * limit.view(-1, *[1] * (weight.dim() - 1))
    assert torch.equal(weight.grad, error * inside)
    n = weight[0].numel()
    q = made / step
    wanted = (error * torch.where(inside, q - weight / step, q)).flatten(1).sum(1) / max(NUMBERS[bits])
    torch.testing.assert_close(limit.grad, wanted.detach() / math.sqrt(n * max(NUMBERS[bits])), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_a_weight_at_the_limit_is_not_beyond_it(bits):
    weight = torch.randn(400, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantised(weight, weight.detach().abs().amax(1), bits).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_the_gradient_of_the_limit_is_the_derivative_where_all_weights_are_beyond_it():
    weight, limit = torch.tensor([[3.0, -4.0]]), torch.tensor([1.0], requires_grad=True)
    quantised(weight, limit, "4").square().sum().backward()  # 2·limit²
    assert limit.grad.item() * math.sqrt(2 * 7) == pytest.approx(4.0)


def test_weights_without_values_have_limits_without_values():
    limit = quantisation.fitted_limit(torch.empty(3, 4, device="meta", dtype=torch.float64), "4")
    of_values = quantisation.fitted_limit(torch.zeros(3, 4, dtype=torch.float64), "4")
    assert limit.is_meta
    assert (limit.shape, limit.dtype) == (of_values.shape, of_values.dtype)


@pytest.mark.parametrize("bits", BITS)
def test_a_fitted_limit_is_better_than_the_largest_weight(bits):
    weight = torch.randn(5, 400)
    fitted, largest = (
        (quantised(weight, limit, bits) - weight).square().sum(1)
        for limit in (quantisation.fitted_limit(weight, bits), weight.abs().amax(1))
    )
    assert (fitted <= largest).all()
    assert bits == "8" or (fitted < 0.9 * largest).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_channel_of_zeros_is_no_fault(bits):
    weight = torch.zeros(2, 3, requires_grad=True)
    made = quantised(weight, quantisation.fitted_limit(weight, bits), bits)
    assert made.abs().max() < 1e-7
    made.sum().backward()
    assert weight.grad.isfinite().all()


@given(st.floats(1, 2**20))
def test_a_leak_is_a_small_fraction_near_it(tau):
    j, k = leak(tau)
    assert abs(j / 2**k * tau - 1) <= 0.07
    assert j <= 14
    assert leak(2**k / j) == (j, k)
    assert 1 - 1 / (2**k / j) == pytest.approx(1 - j / 2**k, abs=1e-15)


def test_leaks_of_well_known_time_constants():
    assert [leak(tau) for tau in (1, 2, 3, 4, 5, math.inf)] == [(1, 0), (1, 1), (5, 4), (1, 2), (3, 4), (0, 0)]
    with pytest.raises(UserError, match="leaks too little"):
        leak(1e9)


@given(st.floats(-50, 50))
def test_input_is_rounded_to_a_64th(value):
    x = torch.tensor(value)
    made = float(quantisation.on_grid(x))
    assert made * 64 == round(made * 64)
    assert made == max(-31, min(31, math.floor(float(x) * 64 + 0.5) / 64))


def test_a_network_of_few_bits_has_small_leaks_and_takes_rounded_input():
    net = tsslbp.build("7-3", input_shape=(5,), time_steps=4, tau_m=5, tau_s=3, bits=4)
    assert net.neuron == LIF(16 / 3, 16 / 5)
    assert net.architecture.bits == "4"
    x = torch.randn(6, 5)
    assert torch.equal(net(x), net(quantisation.on_grid(x)))
    assert not torch.equal(net.encode(x).value, x)
    parts, state = [], None
    for _ in range(4):
        psc, state = net.part(x, state)
        parts.append(psc)
    torch.testing.assert_close(torch.cat(parts), net(x))
    plain = tsslbp.build("7-3", input_shape=(5,), time_steps=4, tau_m=5, tau_s=3)
    assert plain.neuron == LIF(5, 3)
    assert torch.equal(plain.encode(x).value, x)


def test_parameters_come_in_the_order_that_is_promised():
    net = tsslbp.build("7-3", input_shape=(5,), time_steps=4, tau_m=5, tau_s=3, bits=4)
    assert [list(weight.shape) for weight in net.parameters()] == [[7, 5], [7], [3, 7], [3]]


@pytest.mark.parametrize("notation", ["4C3n-P2-6C3n-5", "[4C3n-4C3n]-5", "4C3-M2-5b"])
def test_folded_weights_of_few_bits_do_the_same_and_stay_on_their_grid(notation):
    net = tsslbp.build(notation, input_shape=(2, 9, 9), time_steps=4, tau_m=5, tau_s=3, threshold=0.3, bits=3, padding=1)
    x = 2 * torch.randn(8, 2, 9, 9)
    for _ in range(3):  # running statistics
        net(x)
    for layer in net.modules():
        if isinstance(layer, layers.BatchNorm):
            layer.gain.data *= torch.where(torch.arange(len(layer.gain)) % 2 == 0, -1.3, 0.7)
    net.eval()
    before = net(x)
    assert before.count_nonzero() > 10
    net.fold()
    torch.testing.assert_close(net(x), before, atol=1e-4, rtol=1e-4)
    for layer in net.modules():
        if isinstance(layer, layers.Spiking):
            torch.testing.assert_close(layer.effective_weight(), layer.weight, rtol=1e-5, atol=1e-7)


def test_standardised_weights_of_few_bits_fold():
    net = tsslbp.build("12-9-5", input_shape=(6,), time_steps=4, tau_m=5, tau_s=3, threshold=0.3, bits=2, standardise=True)
    x = 2 * torch.randn(8, 6)
    before = net(x)
    assert before.count_nonzero() > 10
    net.fold()
    torch.testing.assert_close(net(x), before)
    assert net.layers.linear1.gain is None


def test_the_maps_of_a_recurrent_layer_share_their_steps():
    net = tsslbp.build("9R-3", input_shape=(4,), time_steps=6, tau_m=5, tau_s=3, bits=2, rule="surrogate")
    layer = net.layers.recurrent1
    for weight in (layer.effective_weight(), layer.effective_lateral()):
        q = 3 * weight / layer.limit[:, None]
        assert torch.isin(q.round(), torch.tensor([-3.0, -1.0, 1.0, 3.0])).all()
    net(torch.randn(6, 2, 4)).sum().backward()
    assert layer.lateral.grad.count_nonzero() > 0
    before = net(torch.ones(6, 2, 4))
    net.fold()
    torch.testing.assert_close(net(torch.ones(6, 2, 4)), before)


def test_what_does_not_go_with_few_bits_is_told():
    with pytest.raises(UserError, match=r"bits=4 do not go with a normalised recurrent layer; leave out its normalisation"):
        tsslbp.build("9Rn-3", input_shape=(4,), time_steps=6, tau_m=5, tau_s=3, bits=4)
    with pytest.raises(UserError, match="unknown bits '5'; known: 2, 3, 4, 8, float, ternary"):
        tsslbp.build("9-3", input_shape=(4,), time_steps=6, tau_m=5, tau_s=3, bits=5)
    with pytest.raises(UserError, match="one fixed leak for all neurons; leave tau_m out of --learn and --per-neuron"):
        tsslbp.build("9-3", input_shape=(4,), time_steps=6, tau_m=5, tau_s=3, bits=4, learn=("tau_m",))
    odd = {
        0: "is 0; a time constant is in",
        math.nan: "is nan; a time",
        "5": "is '5'; it",
        torch.tensor(5.0): "is a tensor; give a number",
    }
    for tau_m, said in odd.items():
        with pytest.raises(UserError, match=f"tau_m {said}"):
            tsslbp.build("9-3", input_shape=(4,), time_steps=6, tau_m=tau_m, tau_s=3, bits=4)
    weight = torch.randn(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantised(weight, torch.ones(2), "4").square().sum(), weight, create_graph=False)
    assert gradient.shape == (2, 3)
    with pytest.raises(UserError, match="no derivative of its own"):
        torch.autograd.grad(quantised(weight, torch.ones(2), "4").square().sum(), weight, create_graph=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A trained float network."""
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["--network", "30-10", "--padding", "0", "--epochs", "6", "--learning-rate", "5e-3", "--runs-dir", str(runs)]
    assert cli.main(["train", "quickstart", *arguments]) == 0
    return runs / "quickstart"


def test_training_with_few_bits_starts_from_a_trained_network_and_ends_on_the_grid(plain, tmp_path, capsys):
    arguments = ["--network", "30-10", "--padding", "0", "--epochs", "2", "--runs-dir", str(tmp_path)]
    arguments += ["--bits", "2", "--init", str(plain), "--name", "two"]
    code, _, err = run(capsys, "train", "quickstart", *arguments)
    assert code == 0, err
    model, before = training.load(tmp_path / "two"), training.load(plain)
    assert 'bits = "2"' in (tmp_path / "two/config.toml").read_text()
    assert f'init = "{plain}"' in (tmp_path / "two/config.toml").read_text()
    digits = tsslbp.data.load("digits", tmp_path).test
    assert model.accuracy(digits) > before.accuracy(digits) - 5
    layer = model.network.layers.linear1
    q = 3 * layer.weight / layer.limit[:, None]
    assert torch.isin(q.round(), torch.tensor([-3.0, -1.0, 1.0, 3.0])).all()
    code, _, err = run(capsys, "train", "quickstart", *arguments, "--resume")
    assert code == 0, err
    assert cli.main(["export", str(tmp_path / "two"), str(tmp_path / "given/two.safetensors")]) == 0
    metadata = str(safe_open(tmp_path / "given/two.safetensors", framework="pt").metadata())
    assert str(plain.parent) not in metadata


def test_bits_and_init_are_separate(plain, tmp_path):
    started = {}
    for bits in ("float", "8"):
        config = tsslbp.training.settings.TrainConfig(network="30-10", init=plain, bits=bits, runs_dir=tmp_path)
        config, dataset = training.with_data(config)
        started[bits] = training.prepare(config, dataset)[0]
    given = training.load(plain).network
    for name, weight in given.state_dict().items():
        assert torch.equal(started["float"].network.state_dict()[name], weight)
        assert torch.equal(started["8"].network.state_dict()[name], weight)
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(started["float"].network(x), given(x))
    layer = started["8"].network.layers.linear1
    rounding = layer.effective_weight() - given.layers.linear1.weight
    assert (rounding.abs() <= 2 * layer.limit[:, None] / 127).all()


@pytest.mark.parametrize("notation", ["6-3", "6R-3"])
def test_from_few_bits_training_starts_with_the_numbers_of_the_network(notation, tmp_path):
    given, own = (
        tsslbp.build(notation, input_shape=(5,), time_steps=4, tau_m=5, tau_s=3, rule="surrogate", bits=bits)
        for bits in ("ternary", "float")
    )
    as_model(given).save(tmp_path / "given.safetensors")
    first_weights.take(own, tmp_path / "given.safetensors")
    layer = own.layers[0]
    assert torch.equal(layer.weight, given.layers[0].effective_weight())
    if "R" in notation:
        assert torch.equal(layer.lateral, given.layers[0].effective_lateral())


@pytest.mark.parametrize("neurons", [("relu", "relu"), ("relu", "spiking"), ("spiking", "relu")])
def test_an_ann_of_few_bits_goes_on_with_its_grid(neurons, tmp_path):
    given, own = (
        tsslbp.build("6-3", input_shape=(5,), time_steps=4, tau_m=5, tau_s=3, bits=4, neuron=neuron) for neuron in neurons
    )
    given.layers.linear1.limit.data *= 0.7
    as_model(given).save(tmp_path / "given.safetensors")
    first_weights.take(own, tmp_path / "given.safetensors")
    assert all(torch.equal(weight, given.state_dict()[name]) for name, weight in own.state_dict().items())


def test_a_run_goes_on_without_the_weights_that_it_began_with(plain, tmp_path):
    config = tsslbp.training.settings.TrainConfig(
        network="30-10", init=tmp_path / "plain", runs_dir=tmp_path, name="on", bits="4", epochs=1, schedule="constant"
    )
    shutil.copytree(plain, tmp_path / "plain")
    training.train(config)
    shutil.copytree(tmp_path / "on", tmp_path / "alone")
    ends = []
    for name in ("on", "alone"):
        training.train(replace(config, name=name, epochs=2, resume=True))
        ends.append((tmp_path / name / "model.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "plain", ignore_errors=True)
    assert ends[0] == ends[1]


def test_of_as_many_bits_the_limits_are_taken_too(tmp_path):
    net = tsslbp.build("30-10", input_shape=(1, 8, 8), time_steps=5, tau_m=5, tau_s=3, bits="4")
    net.layers.linear1.limit.data *= 0.5
    net.save(tmp_path / "net.safetensors")
    for bits, same in (("4", True), ("3", False)):
        other = tsslbp.build("30-10", input_shape=(1, 8, 8), time_steps=5, tau_m=5, tau_s=3, bits=bits)
        training.first_weights.take(other, tmp_path / "net.safetensors")
        assert torch.equal(other.layers.linear1.limit, net.layers.linear1.limit) == same


@pytest.mark.parametrize(
    ("network", "folded", "standardise"),
    [("4C3n-[4C3n-4C3n]-10b", "4C3b-[4C3b-4C3b]-10b", False), ("4C3-9-10", "4C3-9-10", True), ("4C3n-9-10", "4C3b-9-10", True)],
)
def test_normalised_and_standardised_layers_start_as_they_ended(network, folded, standardise, tmp_path):
    config = tsslbp.training.settings.TrainConfig(
        network=network, standardise=standardise, conv_scale=3, padding=(1,), runs_dir=tmp_path, name="first", epochs=1
    )
    training.train(config)
    same, plain = (
        training.prepare(*training.with_data(replace(config, init=tmp_path / "first", conv_scale=1, **other)))[0].network
        for other in ({}, {"network": folded, "standardise": False})
    )
    stored, own = load_file(tmp_path / "first/model.safetensors"), same.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], stored[name]) for name in own if name != "layers.conv1.gain")  # drawn with another size
    assert own.keys() != plain.state_dict().keys()
    same.fold()
    loaded = tsslbp.load(tmp_path / "first").network.state_dict()
    torch.testing.assert_close(dict(same.state_dict()), dict(loaded))
    torch.testing.assert_close(dict(plain.state_dict()), dict(loaded), rtol=0, atol=0)


@pytest.mark.parametrize(("standardise", "said"), [(True, "give"), (False, "leave out")])
def test_a_start_says_whether_to_standardise(standardise, said, tmp_path):
    given, other = (
        tsslbp.build("4C3n-9-10", input_shape=(1, 8, 8), time_steps=5, tau_m=5, tau_s=3, padding=1, standardise=each)
        for each in (standardise, not standardise)
    )
    given.save(tmp_path / "given.safetensors")
    with pytest.raises(UserError, match=f": {said} --standardise$"):
        training.first_weights.take(other, tmp_path / "given.safetensors")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--network", "20-10"], r"holds 30-10 for samples of \[1, 8, 8\], not 20-10 for \[1, 8, 8\]; give --network 30-10"),
        (["--network", "30-10", "--standardise"], "which differ in layers.linear1.gain: leave out --standardise"),
        (["--network", "30-10", "--init", "missing"], "no model at missing"),
        (["--network", "30-10", "--bits", "5"], "--bits"),
        (["--network", "9C3-10", "--conv-scale", "2"], "--conv-scale has no effect without random weights, which --init"),
    ],
)
def test_bad_starts_are_told_in_a_line(arguments, said, plain, tmp_path, capsys):
    given = ["train", "--data", "digits", "--runs-dir", str(tmp_path / "runs"), "--epochs", "1"]
    code, _, err = run(capsys, *given, *([] if "--init" in arguments else ["--init", str(plain)]), *arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert re.search(said, err), err
    assert not (tmp_path / "runs").exists()


def test_constants_of_a_start_are_those_it_has(tmp_path, capsys):
    given = ["train", "--data", "digits", "--runs-dir", str(tmp_path), "--epochs", "1", "--network", "9-10"]
    assert run(capsys, *given, "--learn", "threshold", "--name", "a")[0] == 0
    init = ["--init", str(tmp_path / "a"), "--name", "b"]
    assert "--threshold is 3; --init" in run(capsys, *given, *init, "--learn", "threshold", "--threshold", "3")[2]
    assert run(capsys, *given, *init)[2].rstrip().endswith(": give --learn threshold")
    assert run(capsys, *given, *init, "--learn", "threshold")[0] == 0
    spread = ["--per-neuron", "tau_m", "--spread"]
    assert run(capsys, *given, *spread, "0.3", "--name", "c")[0] == 0
    init = ["--init", str(tmp_path / "c"), "--name", "d"]
    assert "--spread is 0.1; --init" in run(capsys, *given, *init, *spread, "0.1")[2]
    assert run(capsys, *given, *init, *spread, "0.3")[0] == 0


def test_a_network_that_starts_from_an_ann_has_constants_of_its_own(tmp_path):
    config = tsslbp.training.settings.TrainConfig(
        network="9-10", neuron="relu", loss="softmax", runs_dir=tmp_path, name="ann", epochs=1
    )
    training.train(config)
    own = {"learn": ("tau_m",), "per_neuron": ("threshold",), "spread": 0.3, "threshold": 2.0}
    config = replace(config, neuron="spiking", loss="auto", init=tmp_path / "ann", **own)
    started = training.prepare(*training.with_data(config))[0].network.state_dict()
    drawn = training.prepare(*training.with_data(replace(config, init=None)))[0].network.state_dict()
    weights = load_file(tmp_path / "ann/model.safetensors")
    assert started.keys() == drawn.keys() > weights.keys()
    assert all(torch.equal(value, weights.get(name, drawn[name])) for name, value in started.items())


def test_an_ann_may_have_few_bits(tmp_path, capsys):
    given = ["train", "quickstart", "--network", "20-10", "--padding", "0", "--epochs", "1", "--runs-dir", str(tmp_path)]
    code, _, err = run(capsys, *given, "--neuron", "relu", "--bits", "2")
    assert code == 0, err
    layer = tsslbp.load(tmp_path / "quickstart").network.layers.linear1
    q = 3 * layer.effective_weight() / layer.limit.abs()[:, None]
    assert set(q.round(decimals=4).abs().unique().tolist()) == {1, 3}


@pytest.mark.parametrize("notation", ["12-5", "4C3-P2-5", "9R-3"])
def test_inference_from_events_rounds_as_the_layers_do(notation):
    shape = (1, 8, 8) if "C" in notation else (6,)
    net = tsslbp.build(notation, input_shape=shape, time_steps=4, tau_m=5, tau_s=3, bits=3, rule="surrogate").eval()
    for x in (3 * torch.randn(20, *shape), 3 * torch.randn(4, 20, *shape)):
        slow = net(x)  # gradients are on
        with torch.no_grad():
            torch.testing.assert_close(net(x), slow.detach())
            torch.testing.assert_close(net.part(x, steps=4)[0], slow.detach())


def test_other_bits_keep_the_limit_that_an_optimiser_learns():
    layer = layers.Linear(4, 3, neuron=LIF(5, 3))
    layer.quantise(4)
    optimiser, limit = torch.optim.SGD(layer.parameters(), 0.1), layer.limit
    layer.quantise("ternary")
    assert layer.limit is limit
    torch.testing.assert_close(limit.detach(), quantisation.fitted_limit(layer.weight, "ternary"))
    layer.effective_weight().sum().backward()
    before = limit.detach().clone()
    optimiser.step()
    assert not torch.equal(limit, before)
