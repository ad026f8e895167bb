"""Streams: step by step as the whole sequence, several at once, begun anew, refused in one line."""

import pytest
import torch

import tsslbp
from tsslbp import UserError
from tsslbp.data import Normalisation
from tsslbp.metrics import decode
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


def test_what_no_stream_takes_leaves_it_as_it_was():
    net, x = made("feed-forward")
    stream, other = tsslbp.stream(net, streams=5), tsslbp.stream(net, streams=5)
    with pytest.raises(UserError, match=r"a step has shape \[5, 7\]; it must be \[5, 8\], with one row a stream"):
        stream(x[0, :, :7])
    with pytest.raises(UserError, match="a step is of type list"):
        stream([1, 2])
    with pytest.raises(UserError, match="a step holds NaN or infinity"):
        stream(torch.full((5, 8), torch.nan))
    assert torch.equal(stream(x[0]).spikes, other(x[0]).spikes)
    with pytest.raises(UserError, match="streams is 0; it must be a whole number from 1"):
        tsslbp.stream(net, streams=0)
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
