"""Draws that follow from seed, epoch and sample: their statistics, and that nothing else decides them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tsslbp import TSSL, UserError, build, data, training
from tsslbp.kernels import cpp
from tsslbp.layers import Dropout, dropout
from tsslbp.network.state import State
from tsslbp.training.loop import Loop
from tsslbp.utils import prng
from tsslbp.utils.signals import Constant

SAMPLES, UNITS = 400, 500


def masks(p=0.5, seed=0, epoch=1, number=1, samples=SAMPLES, units=UNITS):
    """Which units are kept, ``[samples, units]``, as the training loop draws them."""
    keys = prng.mix(seed, epoch, torch.arange(samples))
    return (Dropout(p, number)(torch.ones(1, samples, units), keys)[0] != 0).double()


# Statistics. Bounds are five standard deviations of what independent draws would give, of the largest of many six.


@pytest.mark.parametrize("p", [0.01, 0.1, 0.2, 0.5, 0.9, 0.999])
def test_a_mask_drops_its_share_in_all_and_of_each_unit_and_sample(p):
    kept = masks(p)
    for mean, count in ((kept.mean(), kept.numel()), (kept.mean(0), SAMPLES), (kept.mean(1), UNITS)):
        sd = math.sqrt(p * (1 - p) / count)
        assert (mean - (1 - p)).abs().max() < 6 * sd + 1 / count
    scaled = Dropout(p)(torch.ones(1, SAMPLES, UNITS), prng.mix(torch.arange(SAMPLES)))
    assert scaled.mean().item() == pytest.approx(1, abs=6 * math.sqrt(p / (1 - p) / scaled.numel()))


OTHERS = {
    "the next unit": lambda: masks().roll(1, 1),
    "the unit after that": lambda: masks().roll(2, 1),
    "the next sample": lambda: masks().roll(1, 0),
    "another layer": lambda: masks(number=2),
    "another epoch": lambda: masks(epoch=2),
    "another seed": lambda: masks(seed=1),
    "a seed that is an epoch": lambda: masks(seed=1, epoch=0),
    "another unit of another layer": lambda: masks(number=2).roll(1, 1),
    "another sample of another epoch": lambda: masks(epoch=2).roll(1, 0),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_mask_tells_nothing_of_another(other):
    together = (masks() - 0.5) * (OTHERS[other]() - 0.5) * 4
    n = together.numel()
    assert abs(together.mean()) < 5 / math.sqrt(n)
    assert together.mean(0).abs().max() < 6 / math.sqrt(SAMPLES)  # of each unit over samples
    assert together.mean(1).abs().max() < 6 / math.sqrt(UNITS)  # of each sample over units


@pytest.mark.skipif(cpp.NOT_LOADED is not None, reason="the C++ kernels are not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    p=st.floats(0, 1, exclude_max=True),
    samples=st.integers(0, 5),
    count=st.integers(0, 9),
    seed=st.integers(-(2**63), 2**63 - 1),
)
def test_the_kernel_draws_the_same_masks(dtype, p, samples, count, seed):
    drawn = prng.mix(seed, torch.arange(samples)), (prng.DROPOUT, seed), count, p, dtype
    made = dropout.mask_of(*drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpp, "NOT_LOADED", "not built")
        expected = dropout.mask_of(*drawn)
    assert made.shape == (samples, count)
    assert torch.equal(made, expected)


@pytest.mark.parametrize("axis", [0, 1], ids=["samples", "units"])
def test_all_pairs_of_units_and_of_samples_are_independent(axis):
    signs = 2 * masks(samples=1000, units=300) - 1
    signs = signs if axis == 0 else signs.T
    agreement = (signs.T @ signs / len(signs)).fill_diagonal_(0) * math.sqrt(len(signs))
    assert agreement.abs().max() < 6
    # Were all pairs alike to a small part, no single one would show it: their squares are 1 each on average.
    pairs = agreement.shape[0] * (agreement.shape[0] - 1)
    assert agreement.square().sum().item() / pairs == pytest.approx(1, abs=0.03)


def test_counts_of_kept_units_spread_as_independent_ones_do():
    kept = masks(0.2, samples=20_000, units=50)
    counts = kept.sum(1).long().bincount(minlength=51).double()
    expected = torch.tensor([math.comb(50, k) * 0.8**k * 0.2 ** (50 - k) for k in range(51)], dtype=torch.float64) * len(kept)
    large = expected > 5
    chi = ((counts - expected)[large].square() / expected[large]).sum().item()
    assert chi < int(large.sum()) + 6 * math.sqrt(2 * int(large.sum()))


def test_every_bit_is_even_and_runs_are_as_long_as_chance_makes_them():
    bits = prng.bits(prng.mix(torch.arange(2000)), 501)
    assert (bits.dtype, bits.shape) == (torch.int32, (2000, 501))
    planes = torch.stack([bits >> position & 1 for position in range(32)]).double()
    assert (planes.mean((1, 2)) - 0.5).abs().max() < 6 * 0.5 / math.sqrt(bits.numel())
    for plane in planes:
        changes = (plane[:, 1:] != plane[:, :-1]).double().mean()
        assert abs(changes - 0.5) < 6 * 0.5 / math.sqrt(bits.numel())
    buckets = (bits.flatten().long() + 2**31 >> 22).bincount(minlength=1024).double()
    expected = bits.numel() / 1024
    chi = ((buckets - expected).square() / expected).sum().item()
    assert abs(chi - 1023) < 6 * math.sqrt(2 * 1023)


def test_keys_differ_by_every_number_and_by_their_order():
    several = prng.mix(torch.arange(50).view(-1, 1, 1), torch.arange(50).view(-1, 1), torch.arange(50))
    assert several.shape == (50, 50, 50)
    assert several.unique().numel() == 50**3
    assert prng.mix(-1) == prng.mix(2**64 - 1) != prng.mix(2**63 - 1)
    assert prng.mix(7, torch.tensor([8])) == prng.mix(7, 8)
    assert prng.mix(10**30).dtype == torch.int64


def test_keys_and_bits_are_splitmix64_with_signed_shifts():
    """By Python's own whole numbers, so that they are the same on every machine."""

    def scrambled(z):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z + 2**63) % 2**64 - 2**63
            z = (z ^ z >> shift) * factor
        return (z + 2**63) % 2**64 - 2**63

    golden, key = 0x9E3779B97F4A7C15, 0
    for number in (7, -8, 2**40):
        key = scrambled(key + golden + number)
    assert prng.mix(7, -8, 2**40).item() == key
    words = [scrambled(key + n * golden) % 2**64 for n in range(3)]
    halves = [half for word in words for half in (word % 2**32, word >> 32)]
    assert [bits % 2**32 for bits in prng.bits(torch.tensor([key]), 5)[0].tolist()] == halves[:5]


def test_no_draws_at_all():
    assert prng.bits(prng.mix(torch.arange(3)), 0).shape == (3, 0)
    assert prng.bits(torch.empty(0, dtype=torch.int64), 4).shape == (0, 4)


# The batch decides nothing.


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (2, 3)])
@pytest.mark.parametrize("constant", [False, True], ids=["sequence", "constant"])
def test_masks_are_the_same_in_every_batch_and_memory_layout(shape, constant):
    layer, keys = Dropout(0.4, 3), prng.mix(5, torch.arange(60))
    x = torch.rand(2, 60, *shape) + 0.1

    def dropped(x, keys):
        return layer(Constant(x[0], torch.ones(2)), keys).expand() if constant else layer(x, keys)

    whole = dropped(x, keys)
    assert torch.equal(whole != 0, (whole[0] != 0).expand_as(whole))
    for size in (1, 10, 59):
        pairs = zip(x.split(size, 1), keys.split(size), strict=True)
        assert torch.equal(torch.cat([dropped(*pair) for pair in pairs], 1), whole)
    order = torch.randperm(60)
    assert torch.equal(dropped(x[:, order], keys[order]), whole[:, order])
    if len(shape) == 3:
        channels_last = x.movedim(2, -1).contiguous().movedim(-1, 2)
        assert torch.equal(dropped(channels_last, keys), whole)


def test_masks_come_from_the_keys_and_from_no_generator():
    layer, x, keys = Dropout(0.5), torch.ones(2, 30, 40), prng.mix(torch.arange(30))
    before = torch.get_rng_state()
    torch.testing.assert_close(layer(x, keys), layer(x, keys), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(layer(x, keys), Dropout(0.5, 1)(x, keys))


@pytest.mark.parametrize(
    "keys", [torch.zeros(3), torch.zeros(4, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)], ids=str
)
def test_keys_that_do_not_fit(keys):
    with pytest.raises(UserError, match=r"dropout takes signals \[T, B, ...\] and keys \[B\] of int64; got \[3, 5\] per step"):
        Dropout(0.5)(torch.ones(2, 3, 5), keys)
    with pytest.raises(UserError, match=r"keys is of type list; it must be a torch.Tensor"):
        Dropout(0.5)(torch.ones(2, 3, 5), keys.tolist())


def network(static, **settings):
    shape = (2, 8, 8)
    net = build("6C3-P2-20-5", input_shape=shape, time_steps=7, tau_m=5, tau_s=3, threshold=0.3, dropout=0.4, **settings)
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 2
    return net, torch.rand(12, *shape) if static else (torch.rand(7, 12, *shape) < 0.3).float()


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
@pytest.mark.parametrize("neuron", ["spiking", "relu"])
def test_a_network_drops_the_same_in_every_batch(static, neuron):
    net, x = network(static, neuron=neuron)
    keys = prng.mix(3, 1, torch.arange(12))
    whole, by_layer = net(x, keys=keys), net.activity(x, keys=keys)
    assert whole.count_nonzero() > 0
    assert torch.equal(by_layer["output"], whole)
    for size in (1, 5):
        parts = zip(x.split(size, 0 if static else 1), keys.split(size), strict=True)
        torch.testing.assert_close(torch.cat([net(part, keys=some) for part, some in parts], 1), whole)
    assert not torch.equal(net(x, keys=prng.mix(3, 2, torch.arange(12))), whole)


@pytest.mark.parametrize("static", [True, False], ids=["static", "sequence"])
def test_parts_of_a_sequence_have_the_masks_of_the_whole(static):
    net, x = network(static)
    keys = prng.mix(torch.arange(12))
    whole = net(x, keys=keys)

    def in_parts(state):
        made, start = [], 0
        for steps in (3, 1, 3):
            psc, state = net.part(x if static else x[start : start + steps], state, steps)
            made.append(psc)
            start += steps
        return torch.cat(made), state

    output, state = in_parts(State(keys=keys))
    torch.testing.assert_close(output, whole)
    assert torch.equal(state.keys, keys)
    torch.manual_seed(4)
    expected = net(x)
    torch.manual_seed(4)
    torch.testing.assert_close(in_parts(None)[0], expected)  # the first part draws the keys
    some = torch.tensor([3, 1, 8])
    _, state = net.part(x if static else x[:3], State(keys=keys), 3)
    rest, _ = net.part(x[some] if static else x[3:, some], state.detach().take(some), 4)
    torch.testing.assert_close(rest, whole[3:, some])
    net.time_block = 2
    torch.testing.assert_close(net(x, keys=keys), whole)
    net.eval()
    assert net.part(x if static else x[:3])[1].keys is None


def seen_in_training(config, epochs=2):
    """What the network is given in training, input and keys, in the order of the samples; by epoch."""
    config, dataset = training.with_data(config)
    model, optimizer = training.prepare(config, dataset)
    run = Loop(config, dataset, model, optimizer)
    found: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def listen(_, given, named):
        found[-1].append((*given, named["keys"]))

    hook = model.network.register_forward_pre_hook(listen, with_kwargs=True)
    for epoch in range(1, epochs + 1):
        run.state.epoch, run.state.step = epoch, 0
        found.append([])
        for samples in run._batches():
            run.step(samples)
    hook.remove()
    axis = int(config.encoding != "constant")
    return [(torch.cat([x for x, _ in epoch], axis), torch.cat([keys for _, keys in epoch])) for epoch in found]


@pytest.mark.parametrize(
    "changes", [{"shift": 2, "flip": True}, {"cutout": 3}, {"encoding": "poisson"}, {"encoding": "poisson", "shift": 1}]
)
def test_training_draws_the_same_whatever_the_batch_size(quick, changes):
    config = quick(network="4C3-10", dropout=0.3, validation=1000, learning_rate=1e-6, **changes)
    by_size = [seen_in_training(replace(config, batch_size=size)) for size in (10, 100)]
    for (small, small_keys), (large, large_keys) in zip(*by_size, strict=True):
        assert torch.equal(small, large)
        assert torch.equal(small_keys, large_keys)
        assert small_keys.unique().numel() == len(small_keys)
    (first, keys), (second, others) = by_size[0]
    assert not set(keys.tolist()) & set(others.tolist())
    assert not torch.equal(first, second)
    other = seen_in_training(replace(config, seed=1), epochs=1)[0][1]
    assert not set(keys.tolist()) & set(other.tolist())


def test_a_sample_is_changed_otherwise_in_every_epoch_and_alike_wherever_it_stands():
    x = data.load("digits", Path("nowhere")).train.x[:50]
    numbers = torch.arange(50)

    def changed(epoch, chosen=numbers):
        return data.crop_and_flip(x[chosen], prng.mix(0, epoch, chosen), 2)

    assert torch.equal(changed(1, numbers.flip(0)), changed(1).flip(0))
    same = (changed(1) == changed(2)).flatten(1).all(1)
    assert same.sum() < 10


# Evaluation.


def test_evaluating_gives_the_network_back_as_it_was(quick):
    config, dataset = training.with_data(quick(network="5-10", dropout=0.5))
    model, _ = training.prepare(config, dataset)
    network = model.network
    dropout = next(layer for layer in network.layers if isinstance(layer, Dropout))
    for was_training in (True, False):
        network.train(was_training)
        dropout.train(not was_training)
        with model.evaluating(dataset.test, 100) as batches:
            assert torch.is_inference_mode_enabled()
            assert not network.training
            parts = [part for part, inputs in batches if inputs.shape == (len(part), 1, 8, 8)]
        assert [len(part) for part in parts] == [100, 100, 100, 60]
        assert torch.equal(torch.cat([part.y for part in parts]), dataset.test.y)
        assert network.training == was_training != dropout.training
        assert not torch.is_inference_mode_enabled()
        with pytest.raises(ZeroDivisionError), model.evaluating(dataset.test) as batches:
            _ = [1 / 0 for _ in batches]
        assert network.training == was_training
        assert not torch.is_inference_mode_enabled()
    network.train()
    assert torch.equal(model.outputs(dataset.test.x), model.outputs(dataset.test.x))  # nothing is dropped
    assert network.training


@pytest.mark.parametrize("rule", [TSSL(), "surrogate"])
def test_a_walk_gives_every_signal_and_can_be_crossed_otherwise(rule):
    net, x = network(static=True, rule=rule)
    net.eval()
    walked = [(name, signal) for name, _, signal in net.walk(net.encode(x))]
    assert [name for name, _ in walked] == [name for name, _ in net.layers.named_children()]
    assert torch.equal(walked[-1][1], net(x))
    for name, psc in net.activity(x).items():
        assert torch.equal(dict(walked)[name], psc)

    def silent(name, layer, signal, pool, half):
        assert (pool, half) == (None, False)
        return torch.zeros_like(layer(signal)) if name == "conv1" else layer(signal)

    after = {name: signal for name, _, signal in net.walk(net.encode(x), silent)}
    assert after["output"].count_nonzero() == 0
