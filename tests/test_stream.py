"""Streams: step by step as the whole sequence, several at once, begun anew, refused in one line, in memory that stays flat."""

import copy
import gc
from pathlib import Path

import numpy as np
import pytest
import torch

import tsslbp
from tsslbp import SpikingClassifier, UserError
from tsslbp.data import Normalisation
from tsslbp.metrics import NO_ANSWER, decode
from tsslbp.neuron import membrane_potential
from tsslbp.training import Model
from tsslbp.training.inputs import Inputs

T = 12
NETWORKS = {
    "feed-forward": ("20-15-6", (8,), {}),
    "recurrent": ("20R-6", (8,), {}),
    "adaptive": ("20A-6", (8,), {"tau_a": 30.0, "beta": 0.1}),
    "voting": ("20-12-V2", (8,), {}),
    "convolutional": ("4C3-P2-10-6", (2, 6, 6), {"padding": 1}),
    "residual": ("4C3n-M2-[4C3-4C3b]-[6C3s2n-6C3n]-6b", (2, 6, 6), {"padding": 1}),
}


def made(kind, **more):
    torch.manual_seed(0)
    notation, shape, options = NETWORKS[kind]
    net = tsslbp.build(notation, input_shape=shape, time_steps=T, tau_m=6, tau_s=3, rule="tssl+", **options, **more).double()
    for weight in net.parameters():
        weight.data *= 3
    return net.eval(), (torch.rand(T, 5, *shape) < 0.3).double()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_stream_spikes_as_the_whole_sequence(kind):
    net, x = made(kind)
    whole = {name: net.fired(psc) for name, psc in net.activity(x).items()}
    assert all(0 < train.double().mean() < 1 for train in whole.values())
    stream = tsslbp.stream(net, streams=5)
    steps = [stream(step) for step in x]
    for name, train in whole.items():
        found = torch.stack([step.layers[name] for step in steps])
        assert set(found.unique().tolist()) == {0, 1}
        assert torch.equal(found.bool(), train)
    assert torch.equal(torch.stack([step.spikes for step in steps]).bool(), [*whole.values()][-1])
    with torch.no_grad():
        output = net(x)
    for t, step in enumerate(steps):
        assert torch.equal(step.answer, decode(output[: t + 1].cumsum(0)[-1:]))  # added up in the same order: votes may tie


def test_in_float32_only_ties_differ():
    net, _ = made("feed-forward")
    net, x, ties = net.float(), (torch.rand(T, 200, 8) < 0.3).float(), 0
    stream, inside = tsslbp.stream(net, streams=200), {}

    def cross(name, layer, signal, pool, half):
        inside[name] = membrane_potential(layer.current(signal), layer.neuron)
        return layer(signal, pool, half)

    with torch.no_grad():
        for _ in net.walk(net.encode(x), cross):
            pass
    equal = torch.ones(200, dtype=torch.bool)  # streams that have been equal so far
    for t, given in enumerate(x):
        step = stream(given)
        for name, u in inside.items():
            differ = (step.layers[name].bool() != (u[t] > net.neuron.threshold)) & equal[:, None]
            ties += int(differ.sum())
            assert ((u[t] - net.neuron.threshold).abs()[differ] < 1e-5).all(), "not a tie"
            equal &= ~differ.any(1)
    assert ties <= 5
    assert equal.sum() > 190


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_a_step_tells_follows_from_the_output(kind):
    net, x = made(kind)
    stream = tsslbp.stream(net, streams=5)
    steps = [stream(step) for step in x]
    with torch.no_grad():
        totals = net(x).cumsum(0)
    for step, total in zip(steps, totals, strict=True):
        assert torch.equal(step.total, total)
        assert torch.equal(step.lead, total.sort().values[:, -1] - total.sort().values[:, -2])
        torch.testing.assert_close(step.confidence, total.amax(-1) / total.sum(-1).clamp(min=1e-300))
        assert (step.lead[step.answer == NO_ANSWER] == 0).all()
    assert steps[-1].lead.max() > 0


def test_an_answer_that_may_not_change_does_not():
    net, x = made("feed-forward")
    stream = tsslbp.stream(net, streams=5)
    steps = [stream(step) for step in x]
    assert not steps[-1].may_change.any()
    assert steps[0].may_change.all()
    for step in steps:
        assert torch.equal(step.answer[~step.may_change], steps[-1].answer[~step.may_change])
    assert stream(x[0]).may_change.all()  # beyond T everything is open


def test_streams_do_not_touch_each_other_and_begin_anew():
    net, x = made("recurrent")
    both, one = tsslbp.stream(net, streams=2), tsslbp.stream(net)
    both(x[0, :2]), both(x[1, :2])
    both.reset(torch.tensor([1]))
    for t in range(2, T):
        step, alone = both(torch.stack([x[t, 0], x[t, 1]])), one(x[t, 1:2])
        assert torch.equal(step.spikes[1:], alone.spikes)
        assert torch.equal(step.answer[1:], alone.answer)
        assert torch.equal(step.may_change[1:], alone.may_change)
    again = tsslbp.stream(net, streams=2)
    both.reset()
    assert all(torch.equal(a.spikes, b.spikes) for a, b in ((both(step), again(step)) for step in x[:, :2]))


def test_a_model_s_stream_takes_samples_as_they_are_stored():
    net, _ = made("feed-forward")
    norm = Normalisation(1.0, (0.5,) * 8, (2.0,) * 8)
    model = Model(net.float(), Inputs("constant", norm, T, sequence=True), tuple("abcdef"), "")
    raw = 4 * torch.rand(3, T, 8)
    stream = tsslbp.stream(model, streams=3)
    steps = [stream(raw[:, t]) for t in range(T)]
    assert torch.equal(steps[-1].answer, decode(model.outputs(raw)))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_changes_become_spikes_on_the_way(kind):
    torch.manual_seed(0)
    net = tsslbp.build("20R-6", input_shape=(8,), time_steps=T, tau_m=6, tau_s=3, rule="tssl+").to(getattr(torch, kind))
    for weight in net.parameters():
        weight.data *= 3
    model = Model(
        net.eval(), Inputs("constant", Normalisation(1.0, (0.5,) * 4, (0.3,) * 4), T, True, delta=0.35), tuple("abcdef"), ""
    )
    raw = torch.rand(3, T, 4)
    with torch.no_grad():
        whole = net.activity(model.inputs(raw).to(getattr(torch, kind)))
    assert whole["output"].count_nonzero() > 0
    stream = tsslbp.stream(model, streams=3)
    for again in range(2):
        steps = [stream(raw[:, t]) for t in range(T)]
        for name, psc in whole.items():
            assert torch.equal(torch.stack([step.layers[name] for step in steps]).bool(), net.fired(psc)), (again, name)
        stream.reset()


def test_a_model_of_pictures_is_shown_one_in_every_step():
    net, _ = made("convolutional")
    model = Model(net, Inputs("constant", Normalisation(255.0, (0.4, 0.5), (0.3, 0.2)), T, sequence=False), tuple("abcdef"), "")
    pictures = torch.randint(256, (3, 2, 6, 6), dtype=torch.uint8)
    stream = tsslbp.stream(model, streams=3)
    steps = [stream(pictures) for _ in range(T)]
    whole = net.fired(net.activity(model.inputs(pictures).double().expand(T, -1, -1, -1, -1))["output"])
    assert torch.equal(torch.stack([step.spikes for step in steps]).bool(), whole)


@pytest.mark.parametrize("shape", [(60, 8, 3), (60, 5)])
def test_a_classifier_s_model_streams(shape):
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = random.normal(size=shape) + y.reshape(-1, *[1] * (len(shape) - 1))
    classifier = SpikingClassifier("20-2", epochs=15, learning_rate=0.02, random_state=0)
    classifier.set_params(time_steps=None if len(shape) == 3 else 8).fit(x, y)
    with pytest.raises(UserError, match="not SpikingClassifier; of a SpikingClassifier take its model_"):
        tsslbp.stream(classifier)
    model = copy.deepcopy(classifier.model_)
    model.network.double()  # as it predicts
    stream = tsslbp.stream(model, streams=60)
    given = torch.from_numpy(x).float()
    for t in range(8):
        step = stream(given[:, t] if len(shape) == 3 else given)
    answered = (step.answer != NO_ANSWER).numpy()
    assert answered.sum() > 30
    share = step.total / step.total.sum(1, keepdim=True)
    np.testing.assert_allclose(share[answered], classifier.predict_proba(x)[answered], rtol=1e-9)


def test_a_series_read_by_filters_is_no_stream():
    y = np.arange(60) % 2
    x = np.random.default_rng(0).normal(size=(60, 30, 2)) + y[:, None, None]
    classifier = SpikingClassifier(epochs=1, random_state=0).fit(x, y)
    with pytest.raises(UserError, match="prepares its samples by filters, which need more than one step; train one without"):
        tsslbp.stream(classifier.model_)
    encoded = Inputs("poisson", Normalisation(255.0, (0.0,), (1.0,)), T, sequence=False)
    with pytest.raises(UserError, match="prepares its samples by encoding"):
        tsslbp.stream(Model(made("feed-forward")[0], encoded, tuple("abcdef"), ""))


@pytest.fixture
def forgotten():
    """What is there already is looked at no more, as it takes seconds to look at all that other tests have left."""
    gc.freeze()
    yield
    gc.unfreeze()


def living() -> int:
    """Bytes of all tensors that the test has made."""
    gc.collect()
    return sum(thing.untyped_storage().nbytes() for thing in gc.get_objects() if type(thing) is torch.Tensor)


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_tensor_outlives_its_step(kind, forgotten):
    net, x = made(kind)
    stream, sizes = tsslbp.stream(net, streams=5), []
    for t in range(40):
        step = stream(x[t % T])
        assert step.spikes.shape == (5, net.layers.output.weight.shape[0])
        assert step.may_change.shape == (5,)
        if t in (5, 39):
            sizes.append(living())
    assert sizes[0] == sizes[1] > 0


@pytest.mark.slow
def test_ten_minutes_keep_memory_flat():
    def resident() -> int:
        return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

    torch.manual_seed(0)
    net = tsslbp.build("200R-10", input_shape=(80,), time_steps=60, tau_m=10, tau_s=5, rule="tssl+")
    stream, sizes = tsslbp.stream(net), []
    for t in range(60_000):  # a step is 10 ms
        step = stream((torch.rand(1, 80) < 0.1).float())
        assert step.answer.shape == step.may_change.shape == step.spikes[:, 0].shape
        if t in (10_000, 59_999):
            sizes.append(resident())
    assert sizes[1] - sizes[0] < 2**20


def test_what_no_stream_takes_leaves_it_as_it_was():
    net, x = made("feed-forward")
    stream, other = tsslbp.stream(net, streams=5), tsslbp.stream(net, streams=5)
    with pytest.raises(UserError, match=r"a step has shape \[5, 7\]; it must be \[5, 8\], with one row a stream"):
        stream(x[0, :, :7])
    with pytest.raises(UserError, match="a step is of type list"):
        stream([1, 2])
    with pytest.raises(UserError, match="a step holds NaN or infinity"):
        stream(torch.full((5, 8), torch.nan))
    with pytest.raises(UserError, match=r"a step is torch\.complex64; it must be real"):
        stream(torch.full((5, 8), 1j))
    single = tsslbp.stream(made("feed-forward")[0].float(), streams=5)
    with pytest.raises(UserError, match=r"a step holds NaN or infinity in torch\.float32"):
        single(torch.full((5, 8), 1e39, dtype=torch.float64))
    net.train()
    with pytest.raises(UserError, match=r"the network is in training mode; call its eval\(\) before the next step"):
        stream(x[0])
    net.eval()
    for which in (5, -1, [0, -2], [0, 7], torch.ones(4, dtype=torch.bool), torch.ones(4, dtype=torch.uint8), "all", ["a"]):
        with pytest.raises(UserError, match=r"there is no stream .*; give numbers from 0 to 4, or a mask of 5"):
            stream.reset(which)
    for given in x:
        step, expected = stream(given), other(given)
        assert all(torch.equal(step.layers[name], expected.layers[name]) for name in step.layers)
        assert torch.equal(step.total, expected.total)
    assert step.spikes.any()
    with pytest.raises(UserError, match=r"a stream takes a model or a network of tsslbp\.build, not Linear"):
        tsslbp.stream(torch.nn.Linear(8, 6))

    class Doubled(type(net)):
        def forward(self, x, *, keys=None, lengths=None):
            return super().forward(2 * x, keys=keys, lengths=lengths)

    hooked = type(net)(net.architecture)
    hooked.register_forward_pre_hook(lambda module, given: (0 * given[0],))
    for odd in (Doubled(net.architecture), hooked):
        with pytest.raises(UserError, match=r"has a forward or hooks of its own, which part\(\) does not call: streams and"):
            tsslbp.stream(odd)
    for streams in (0, 2.5):
        with pytest.raises(UserError, match=f"streams is {streams}; it must be a whole number from 1"):
            tsslbp.stream(net, streams=streams)
    whole = Model(
        net, Inputs("constant", Normalisation(1.0, (0.0,), (1.0,)), T, True, bin=2, stored_steps=2 * T), tuple("abcdef"), ""
    )
    with pytest.raises(UserError, match="prepares its samples by bins, which need more than one step; train one without"):
        tsslbp.stream(whole)
    with pytest.raises(UserError, match="a network of relu units is one pass"):
        tsslbp.stream(tsslbp.build("20-6", input_shape=(8,), time_steps=T, tau_m=6, tau_s=3, neuron="relu"))


def test_a_rule_that_takes_no_parts_streams_too():
    torch.manual_seed(0)
    net = tsslbp.build("20-6", input_shape=(8,), time_steps=T, tau_m=6, tau_s=3, rule="tssl-paper").eval()
    stream = tsslbp.stream(net)
    assert stream(torch.rand(1, 8)).spikes.shape == (1, 6)


def test_the_total_still_grows_after_days():
    net = tsslbp.build("2", input_shape=(2,), time_steps=5, tau_m=5, tau_s=5)
    with torch.no_grad():
        net.layers.output.weight.copy_(torch.diag(torch.tensor([10.0, 0.0])))
    stream = tsslbp.stream(net)
    stream(torch.ones(1, 2))
    stream._total = stream._total + 2.0**24  # spikes, as after some days
    for _ in range(100):
        step = stream(torch.ones(1, 2))
    assert step.total[0].tolist() == pytest.approx([2**24 + 101, 2**24], abs=5)
    assert float(step.lead) == pytest.approx(101, abs=5)
