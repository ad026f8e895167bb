"""Losses: numbers worked out by hand, gradients by autograd, the optimum of each target, errors."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from shared import fails

from tsslbp import UserError, losses, training
from tsslbp.losses import CountLoss, KernelLoss, SoftmaxLoss, SpikeLoss, desired_train
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.training.settings import TrainConfig

LABEL = torch.tensor([0])


def train_of(spikes, classes=1):
    """Spikes of one sample's first class as ``[T, 1, classes]``; the other classes are silent."""
    train = torch.zeros(len(spikes), 1, classes, dtype=torch.float64)
    train[:, 0, 0] = torch.tensor(spikes, dtype=torch.float64)
    return train


def rand_psc(steps=5, batch=4, classes=3, seed=0):
    psc = torch.rand(steps, batch, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return psc.requires_grad_()


def gradient(loss, psc, label):
    return torch.autograd.grad(loss(psc, label), psc)[0]


@pytest.mark.parametrize(
    ("steps", "train"),
    [
        (1, [1]),
        (2, [0, 1]),
        (5, [0, 1, 1, 1, 1]),
        (7, [0, 1, 1, 1, 1, 0, 1]),
        (9, [0, 1, 1, 1, 1, 0, 1, 1, 1]),
        (10, [0, 1] * 5),
        (12, [0, 1] * 6),
        (13, [0, 1] * 6 + [0]),
    ],
)
def test_desired_train(steps, train):
    assert desired_train(steps).tolist() == train


def test_kernel_target_by_hand():
    # τs = 3, train 0,1,1,1,1: 1 - (2/3)^t; the gradient at a silent output is minus the target.
    psc = torch.zeros(5, 1, 2, dtype=torch.float64, requires_grad=True)
    delta = gradient(KernelLoss(time_steps=5, tau_s=3), psc, LABEL)
    assert (-delta[:, 0, 0]).tolist() == pytest.approx([0, 1 / 3, 5 / 9, 19 / 27, 65 / 81], rel=1e-6)
    assert (delta[:, 0, 1] == 0).all()
    # Twice through the kernel: Σ_k ε[k]·d[t-k].
    delta = gradient(KernelLoss(time_steps=5, tau_s=3, target="double"), psc, LABEL)
    assert (-delta[:, 0, 0]).tolist() == pytest.approx([0, 1 / 9, 7 / 27, 33 / 81, 131 / 243], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 7, 12])
@pytest.mark.parametrize("target", ["single", "double"])
def test_kernel_gradient_is_output_minus_target(steps, target):
    psc, label = rand_psc(steps), torch.tensor([2, 0, 1, 2])
    d = torch.zeros(steps, 4, 3, dtype=torch.float64)
    for b, c in enumerate(label):
        d[:, b, c] = desired_train(steps)
    for _ in range(1 if target == "single" else 2):
        d = synapse(d, 3)
    loss = KernelLoss(time_steps=steps, tau_s=3, target=target)
    assert loss(psc, label).item() == pytest.approx(0.5 * ((psc - d) ** 2).sum().item(), rel=1e-12)
    torch.testing.assert_close(gradient(loss, psc, label), psc.detach() - d, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("target", "best"), [("single", (0, 1, 1, 1, 1)), ("double", (0, 0, 1, 0, 1))])
def test_the_second_kernel_moves_the_optimum_to_another_train(target, best):
    loss = KernelLoss(time_steps=5, tau_s=3, target=target)
    losses = {train: loss(synapse(train_of(train), 3), LABEL).item() for train in itertools.product((0, 1), repeat=5)}
    assert len(losses) == 32
    assert min(losses, key=losses.get) == best
    assert sorted(losses.values())[1] > losses[best] + 1e-3
    if target == "single":
        assert losses[best] == pytest.approx(0, abs=1e-12)


def test_label_weight_counts_the_labelled_class_so_many_times():
    psc, label = rand_psc(), torch.tensor([2, 0, 1, 2])
    plain, weighted = (gradient(KernelLoss(5, 3, label_weight=weight), psc, label) for weight in (1, 6))
    factor = torch.ones(4, 3, dtype=torch.float64)
    factor[range(4), label] = 6
    torch.testing.assert_close(weighted, factor * plain, rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match=r"integer labels \[B\]"):
        KernelLoss(5, 3, label_weight=6)(psc, torch.zeros(5, 4, 3))  # trains have no labelled class


# Spike loss.


@pytest.mark.parametrize("steps", [1, 5, 7, 12])
def test_spike_loss_counts_wrong_spikes(steps):
    label, loss = torch.tensor([2, 0, 1, 2]), SpikeLoss(time_steps=steps, tau_s=3)
    generator = torch.Generator().manual_seed(1)
    s = torch.randint(0, 2, (steps, 4, 3), generator=generator).double().requires_grad_()
    desired = torch.zeros(steps, 4, 3, dtype=torch.float64)
    for b, c in enumerate(label):
        desired[:, b, c] = desired_train(steps)
    value = loss(synapse(s, 3), label)
    assert value.item() == pytest.approx(0.5 * (s != desired).sum().item(), rel=1e-12)
    # Pulled back through the synapse, the gradient is the error of the spikes.
    value.backward()
    torch.testing.assert_close(s.grad, s.detach() - desired, rtol=1e-12, atol=1e-12)


# Desired trains.


@pytest.mark.parametrize("loss", [KernelLoss, SpikeLoss])
def test_trains_in_place_of_labels(loss):
    psc, label = rand_psc(7), torch.tensor([2, 0, 1, 2])
    loss = loss(time_steps=7, tau_s=3)
    trains = torch.zeros(7, 4, 3)
    for b, c in enumerate(label):
        trains[:, b, c] = desired_train(7)
    assert loss(psc, trains).item() == loss(psc, label).item()
    assert loss(psc, trains.long()).item() == loss(psc, label).item()
    assert loss(synapse(trains.double(), 3), trains).item() == pytest.approx(0, abs=1e-12)
    assert loss(synapse(trains.double(), 3), 1 - trains).item() > 1


@pytest.mark.parametrize("loss", [KernelLoss, SpikeLoss])
@pytest.mark.parametrize("as_type", [list, tuple, torch.tensor])
def test_trains_of_ones_own(loss, as_type):
    yes, no = [1, 0, 0, 1], [0, 0, 0, 1]
    loss = loss(time_steps=4, tau_s=2, desired=as_type(yes), undesired=as_type(no))
    psc = synapse(torch.tensor([[no, yes, no]], dtype=torch.float64).permute(2, 0, 1), 2)
    assert loss(psc, torch.tensor([1])).item() == pytest.approx(0, abs=1e-12)
    # The wrong label exchanges two trains that differ in one spike.
    expected = (synapse(torch.tensor([1.0, 0, 0, 0]), 2) ** 2).sum().item() if isinstance(loss, KernelLoss) else 1.0
    assert loss(psc, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 7, 12])
def test_count_gradient_is_the_excess_at_every_step(steps):
    psc, label = rand_psc(steps, batch=6), torch.tensor([2, 0, 1, 2, 1, 0])
    loss = CountLoss(desired=0.6 * steps, undesired=0.4 * steps)
    excess, value = torch.zeros(6, 3, dtype=torch.float64), 0.0
    for b, c in itertools.product(range(6), range(3)):
        total = psc[:, b, c].sum().item()
        if c == label[b]:
            excess[b, c] = min(0.0, (total - 0.6 * steps) / steps)
        else:
            excess[b, c] = max(0.0, (total - 0.4 * steps) / steps)
        value += 0.5 * steps * excess[b, c].item() ** 2
    assert (excess == 0).any()
    assert (excess != 0).any()
    assert loss(psc, label).item() == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(gradient(loss, psc, label), excess.expand(steps, 6, 3), rtol=1e-12, atol=1e-12)


# Softmax loss.


def test_softmax_loss_by_hand():
    # Sums are log 1, log 2, log 5: the probabilities are 1/8, 2/8, 5/8.
    sums = torch.tensor([[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]], dtype=torch.float64).log()
    psc = (sums / 4).expand(4, 2, 3).clone().requires_grad_()
    value = SoftmaxLoss()(psc, torch.tensor([2, 0]))
    assert value.item() == pytest.approx(-(math.log(5 / 8) + math.log(1 / 8)) / 2, rel=1e-12)
    delta = gradient(SoftmaxLoss(), psc, torch.tensor([2, 0]))
    assert delta[3, 0].tolist() == pytest.approx([1 / 16, 2 / 16, -3 / 16], rel=1e-12)
    assert (delta == delta[0]).all()


# All of them.

LOSSES = [
    KernelLoss(time_steps=5, tau_s=3),
    KernelLoss(time_steps=5, tau_s=3, target="double"),
    KernelLoss(time_steps=5, tau_s=3, label_weight=6),
    SpikeLoss(time_steps=5, tau_s=3),
    CountLoss(desired=4, undesired=1),
    SoftmaxLoss(),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_sum_over_the_batch_and_mean_for_softmax(loss):
    psc, label = rand_psc(), torch.tensor([2, 0, 1, 2])
    alone = [loss(psc[:, b : b + 1], label[b : b + 1]).item() for b in range(4)]
    assert len({round(value, 9) for value in alone}) == 4
    expected = sum(alone) / (4 if isinstance(loss, SoftmaxLoss) else 1)
    assert loss(psc, label).shape == ()
    assert loss(psc, label).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradient_is_the_gradient(loss):
    psc, label = rand_psc(), torch.tensor([2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: loss(x, label), psc)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_labels_of_any_integer_type(loss):
    psc, label = rand_psc(), torch.tensor([2, 0, 1, 2])
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64):
        assert loss(psc, label.to(dtype)).item() == loss(psc, label).item()


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), "labels run from 0 to 3; the network has 3 classes"),
        (torch.tensor([0, 1, -1, 2]), "labels run from -1 to 2"),
        (torch.tensor([0.0, 1.0, 2.0, 0.0]), r"integer labels \[B\].*torch.float32"),
        (torch.tensor([0, 1, 2]), r"output \[T, B, C\].*\[5, 4, 3\] and \[3\]"),
        (torch.tensor([[0], [1], [2], [0]]), r"\[5, 4, 3\] and \[4, 1\]"),
        (torch.tensor(1), r"\[5, 4, 3\] and \[\]"),
        (torch.zeros(5, 4, 2), r"\[5, 4, 2\]"),
    ],
    ids=["too large", "negative", "float", "too few", "two axes", "no axis", "trains of other classes"],
)
def test_labels_that_do_not_fit(loss, label, message):
    with fails(message):
        loss(rand_psc(), label)


@pytest.mark.parametrize("loss", [KernelLoss(5, 3), SpikeLoss(5, 3)])
def test_output_of_another_length(loss):
    with pytest.raises(UserError, match="output has 6 steps, the loss was made for 5"):
        loss(rand_psc(6), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(UserError, match="output has 6 steps, the loss was made for 5"):
        loss(rand_psc(6), torch.zeros(6, 4, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelLoss(5, 3, target="doubel"), "unknown target 'doubel'; did you mean 'double'"),
        (lambda: KernelLoss(5, 3, target=None), "unknown target"),
        (lambda: KernelLoss(5, 3, label_weight=0), "label_weight is 0; it must be positive"),
        (lambda: KernelLoss(0, 3), "time_steps is 0; it must be a whole number from 1"),
        (lambda: SpikeLoss(5, 0.5), "tau_s is 0.5; it must be finite and at least 1"),
        (lambda: SpikeLoss(5, math.nan), "tau_s is nan"),
        (lambda: KernelLoss(5.0, 3), "time_steps is 5.0; it must be a whole number"),
        (lambda: SpikeLoss(2, 3)(torch.zeros(2, 1, 1), torch.full((2, 1, 1), math.nan)), "0 and 1; round what spikes_from_psc"),
        (lambda: KernelLoss(5, math.inf), "tau_s"),
        (lambda: losses.StepLoss(scale=0), "scale is 0; it must be positive"),
        (lambda: losses.FirstSpikeLoss(0.5), "tau_s is 0.5; it must be finite and at least 1"),
        (lambda: KernelLoss(5, 3, desired=[0, 1, 5, 1, 1]), "desired is .*; it must be of 0 and 1"),
        (lambda: KernelLoss(1, 3, desired="01011"), "desired has no spike in 1 steps; begin it with one, as in desired=1"),
        (lambda: KernelLoss(2, 3, desired=[0, 0]), "desired has no spike in 2 steps; begin it with one, as in desired=1"),
        (lambda: KernelLoss(2, 3, desired=True), "desired is True; it must be of 0 and 1, such as 00001"),
        (lambda: KernelLoss(2, 3, desired=["a", 0]), "desired is .*; it must be of 0 and 1, such as 00001"),
        (lambda: KernelLoss(2, 3, desired=torch.tensor(1.0)), "desired is .*; it must be of 0 and 1, such as 00001"),
        (lambda: losses.get(None, time_steps=2, tau_s=3), "loss is of type NoneType; give its name, with options if wanted"),
        (lambda: CountLoss(desired=math.inf), "counts must be finite"),
        (lambda: KernelLoss(5, 3, desired=[0, 1]), "desired train has 2 steps, time_steps is 5"),
        (lambda: SpikeLoss(5, 3, undesired=[0] * 6), "undesired train has 6 steps"),
        (lambda: CountLoss(desired=1, undesired=4), "0 <= undesired < desired; got 4 and 1"),
        (lambda: CountLoss(desired=2, undesired=2), "undesired < desired"),
        (lambda: CountLoss(desired=2, undesired=-1), "0 <= undesired"),
        (lambda: CountLoss(desired=math.nan, undesired=1), "got 1 and nan"),
    ],
)
def test_impossible_losses(make, message):
    with fails(message):
        make()


MASKABLE = [
    losses.KernelLoss(time_steps=6, tau_s=3),
    losses.SpikeLoss(time_steps=6, tau_s=3),
    losses.CountLoss(desired=3, undesired=1),
    losses.SoftmaxLoss(),
    losses.FirstSpikeLoss(tau_s=3),
]
ANY_LOSS = [*MASKABLE, losses.StepLoss()]


def output(steps, batch, classes, tau_s=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    train = (torch.rand(steps, batch, classes, generator=generator, dtype=torch.float64) < 0.4).double()
    return train, synapse(train, tau_s)


@pytest.mark.parametrize("loss", MASKABLE, ids=lambda loss: type(loss).__name__)
def test_what_is_masked_counts_for_nothing(loss):
    _, psc = output(6, 4, 3, seed=1)
    label, lengths = torch.tensor([0, 2, 1, 0]), torch.tensor([6, 3, 1, 4])
    mask = losses.length_mask(lengths, 6)
    psc.requires_grad_()
    masked = loss(psc, label, mask)
    assert masked.item() == loss(psc + 7 * ~mask.unsqueeze(2), label, mask).item()  # whatever the padding holds
    assert masked.item() != loss(psc, label).item()
    (gradient,) = torch.autograd.grad(masked, psc)
    if not isinstance(loss, losses.SpikeLoss | losses.FirstSpikeLoss):  # a spike is the difference of two steps' currents
        assert not gradient[~mask].any()
    assert loss(psc, label, torch.ones(6, 4)).item() == pytest.approx(loss(psc, label).item())
    with pytest.raises(UserError, match=r"mask is of type ndarray; it must be a torch.Tensor"):
        loss(psc, label, torch.ones(6, 4).numpy())
    with pytest.raises(UserError, match=r"mask has shape \[6\]; it must be \[T, B\], \[6, 4\]"):
        loss(psc, label, torch.ones(6))


@pytest.mark.parametrize("loss", ANY_LOSS, ids=lambda loss: type(loss).__name__)
def test_what_a_mask_leaves_out_may_be_nan(loss):
    _, psc = output(6, 4, 3, seed=1)
    mask = losses.length_mask(torch.tensor([6, 3, 1, 4]), 6)
    label = torch.tensor([0, 2, 1, 0])
    label = label.expand(6, 4) if isinstance(loss, losses.StepLoss) else label
    padded = psc.masked_fill(~mask.unsqueeze(2), math.nan).requires_grad_()
    psc.requires_grad_()
    assert loss(padded, label, mask).item() == loss(psc, label, mask).item()
    (gradient,), (expected,) = (torch.autograd.grad(loss(x, label, mask), x) for x in (padded, psc))
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("steps", [3, 1])
def test_a_masked_loss_is_that_of_the_shorter_sequence(steps):
    _, psc = output(6, 1, 3)
    label, mask = torch.tensor([2]), losses.length_mask(torch.tensor([steps]), 6)
    for loss in (losses.CountLoss(desired=2, undesired=0), losses.SoftmaxLoss(), losses.FirstSpikeLoss(tau_s=3)):
        assert loss(psc, label, mask).item() == pytest.approx(loss(psc[:steps], label).item())


def test_first_spike_loss_by_hand():
    train = torch.tensor([[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]]).double().unsqueeze(1)  # first spikes: 2, 1, never (4)
    psc = synapse(train, 3).requires_grad_()
    loss = losses.FirstSpikeLoss(tau_s=3, scale=2)(psc, torch.tensor([0]))
    weights = [math.exp(-t / 2) for t in (2, 1, 4)]
    assert loss.item() == pytest.approx(-math.log(weights[0] / sum(weights)))
    # Spike by spike: with s = synapse⁻¹(a), an earlier spike of the labelled neuron lowers the loss, of another raises it.
    trains = train.clone().requires_grad_()
    losses.FirstSpikeLoss(tau_s=3)(synapse(trains, 3), torch.tensor([0])).backward()
    assert (trains.grad[:2, 0, 0] < 0).all()
    assert trains.grad[0, 0, 1] > 0
    assert (trains.grad[:, 0, 2] > 0).all()
    assert trains.grad[3, 0, 0] == 0  # the first spike came before


def test_first_spike_loss_counts_whole_steps():
    """Spikes come back from a current up to rounding, and what is nearly 0 must not be divided by."""
    train = (torch.rand(60, 8, 4, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    label, psc = torch.tensor([0, 1, 2, 3] * 2), synapse(train, 3.0)
    assert not torch.equal(spikes_from_psc(psc, 3.0), train)
    first = torch.where(train.any(0), train.argmax(0), 60)
    loss = losses.FirstSpikeLoss(tau_s=3.0)
    assert torch.equal(loss(psc, label), torch.nn.functional.cross_entropy(-first.float(), label))
    (ours,) = torch.autograd.grad(loss(leaf := psc.clone().requires_grad_(), label), leaf)
    s = train.clone().requires_grad_()
    (of_spikes,) = torch.autograd.grad(losses.FirstSpikeLoss(tau_s=1.0)(s, label), s)
    theirs = 3 * of_spikes
    theirs[:-1] -= 2 * of_spikes[1:]  # s[t] = 3·a[t] - 2·a[t-1]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("tau_s", [1.0, 1.5, 3.0, 4.0])
def test_half_of_the_voters_are_not_more_than_half(tau_s):
    votes = torch.randint(0, 7, (10, 300, 3, 10), generator=torch.Generator().manual_seed(0)) < 2  # 10 voters of 3 classes
    counts, label = votes.sum(-1), torch.arange(300) % 3
    assert (counts == 5).sum() > 500
    fired = counts > 5
    first = torch.where(fired.any(0), fired.int().argmax(0), 10)
    psc = synapse(votes.float(), tau_s).mean(-1)
    expected = torch.nn.functional.cross_entropy(-first.float(), label)
    torch.testing.assert_close(losses.FirstSpikeLoss(tau_s=tau_s)(psc, label), expected)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_first_spike_time_is_linear_in_each_spike(place):
    train, _ = output(4, 1, 2, seed=3)
    loss = losses.FirstSpikeLoss(tau_s=1)

    def time_of_first(train):
        return next((t for t in range(4) if train[t, 0, 0]), 4)

    flipped = train.clone()
    flipped[place, 0, 0] = 1 - flipped[place, 0, 0]
    s = train.clone().requires_grad_()
    (1 - s).cumprod(0).sum(0)[0, 0].backward()
    slope = (time_of_first(flipped) - time_of_first(train)) / (flipped - train)[place, 0, 0]
    assert s.grad[place, 0, 0] == slope
    t = [time_of_first(train), next((k for k in range(4) if train[k, 0, 1]), 4)]
    assert loss(train, torch.tensor([0])).item() == pytest.approx(math.log(1 + math.exp(t[0] - t[1])))


def test_step_loss_is_cross_entropy_at_every_step():
    _, psc = output(5, 3, 4)
    label = torch.randint(4, (5, 3), generator=torch.Generator().manual_seed(1))
    each = torch.nn.functional.cross_entropy(10 * psc.flatten(0, 1), label.flatten(), reduction="none").view(5, 3)
    assert losses.StepLoss()(psc, label).item() == pytest.approx(each.mean().item())
    mask = losses.length_mask(torch.tensor([5, 2, 1]), 5)
    for padding in (label, label.masked_fill(~mask, -100)):
        assert losses.StepLoss()(psc, padding, mask).item() == pytest.approx(each[mask].mean().item())
    with pytest.raises(UserError, match=r"a label for every step, \[5, 3\]; got \[3\]"):
        losses.StepLoss()(psc, label[0])
    with pytest.raises(UserError, match="the network has 4 classes"):
        losses.StepLoss()(psc, label + 1)
    with pytest.raises(UserError, match=r"mask has shape .*; it must be \[T, B\]"):
        losses.StepLoss()(psc, label, mask.T)


def test_a_sequence_of_which_nothing_counts_has_a_finite_loss():
    psc, nothing = rand_psc(5, 3, 4), torch.zeros(5, 3)
    assert losses.StepLoss()(psc, torch.zeros(5, 3, dtype=torch.int64), nothing).item() == 0
    (gradient,) = torch.autograd.grad(losses.CountLoss()(psc, torch.zeros(3, dtype=torch.int64), nothing), psc)
    assert not gradient.any()


def test_rate_bounds_push_from_both_sides():
    train = torch.zeros(10, 2, 3)
    train[:, :, 0], train[::2, 0, 1] = 1, 1  # rates 1, 0.25, 0
    psc = synapse(train, 4).requires_grad_()
    bounds = losses.RateBounds(tau_s=4, lower=0.1, upper=0.5)
    penalty = bounds(psc)
    assert penalty.item() == pytest.approx(0.5 * (0.5**2 + 0.1**2), rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, psc)
    assert (gradient[..., 0] > 0).all()
    assert not gradient[..., 1].any()
    assert (gradient[..., 2] < 0).all()
    assert bounds(synapse(torch.zeros(5, 2, 3, 4, 4), 4)).item() == pytest.approx(0.5 * 0.1**2 * 48)
    assert losses.RateBounds(tau_s=4)(psc).item() == 0
    with pytest.raises(UserError, match="lower <= upper"):
        losses.RateBounds(tau_s=4, lower=0.6, upper=0.5)


def test_rates_are_of_what_is_not_padding():
    train, lengths = torch.zeros(10, 2, 1), torch.tensor([10, 4])
    train[:5, 0], train[1:3, 1] = 1, 1  # 5 of 10 steps and 2 of 4
    psc = synapse(train, 4)
    psc[4:, 1] = 9.0  # whatever the padding holds
    assert losses.RateBounds(4, 0.9, 1.0)(psc, lengths).item() == pytest.approx(0.5 * 0.4**2)


@pytest.mark.parametrize("loss", ANY_LOSS, ids=lambda loss: type(loss).__name__)
def test_losses_take_tensors(loss):
    psc = output(6, 4, 3)[1].float()
    label = torch.zeros(6, 4, dtype=torch.long) if isinstance(loss, losses.StepLoss) else torch.tensor([0, 2, 1, 0])
    assert loss(psc, label).isfinite()
    with pytest.raises(UserError, match=r"output is of type ndarray; it must be a torch.Tensor"):
        loss(psc.numpy(), label)
    with pytest.raises(UserError, match=r"label is of type list; it must be a torch.Tensor"):
        loss(psc, label.tolist())


@pytest.mark.parametrize(
    "make", [lambda x: KernelLoss(5, x), lambda x: KernelLoss(5, 3, label_weight=x), lambda x: losses.StepLoss(scale=x)]
)
def test_constants_of_losses_are_not_learned(make):
    with pytest.raises(UserError, match="is of type Parameter; it must be a plain number, as constants are not learned"):
        make(torch.nn.Parameter(torch.tensor(3.0)))


@pytest.mark.parametrize("name", ["kernel", "spike"])
def test_target_trains_of_another_shape_name_both_shapes(name):
    loss = losses.get(name, time_steps=4, tau_s=3)
    with pytest.raises(UserError, match=r"target trains are \[2, 4, 3\]; they must be as the output, .* \[4, 2, 3\]"):
        loss(torch.zeros(4, 2, 3), torch.zeros(2, 4, 3))


@pytest.mark.parametrize("tau_s", [1.0, 2.0, 2.5, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("desired", [None, "1", "001"])
def test_a_loss_knows_which_samples_it_asks_for_silence(desired, tau_s):
    """By all trains of 9 steps."""
    steps = 9
    trains = torch.tensor(list(itertools.product((0.0, 1.0), repeat=steps)), dtype=torch.float64).T
    kernels = [KernelLoss(steps, tau_s, desired, target=target) for target in ("single", "double")]
    for loss in (*kernels, SpikeLoss(steps, tau_s, desired)):
        outputs = synapse(trains, tau_s) if loss.filters else trains
        error = (outputs - loss._by_label[0].unsqueeze(1)).square().cumsum(0)
        better = [n + 1 for n in range(steps) if bool((error[n] < error[n, 0] - 1e-12).any())]
        assert better == list(range(loss.begins, steps + 1))


def test_samples_of_few_steps_are_not_trained_towards_silence(tmp_path):
    config = TrainConfig(loss="kernel(target=double)", time_steps=2, tau_s=3, runs_dir=tmp_path / "runs", epochs=1)
    said = (
        r"asks samples of fewer than 3 steps for silence, and digits has some of 2; take another, such as kernel\(target=single"
    )
    with pytest.raises(UserError, match=said):
        training.train(config)
    assert not config.runs_dir.exists()


def test_a_run_that_would_learn_silence_is_refused_before_it_has_a_folder():
    settings = TrainConfig(loss="kernel(desired=01011)", time_steps=2)
    with pytest.raises(UserError, match="--loss: desired has no spike in 1 steps"):
        replace(settings, time_steps=1)


@pytest.mark.parametrize("loss", [KernelLoss(5, 3.0), CountLoss(), SoftmaxLoss()])
def test_a_mask_is_no_weight(loss):
    psc, label = torch.rand(5, 3, 4), torch.tensor([0, 1, 2])
    counted = torch.ones(5, 3)
    assert loss(psc, label, counted) == loss(psc, label, counted.bool())
    with pytest.raises(UserError, match="mask holds other numbers than 0 and 1"):
        loss(psc, label, 0.5 * counted)
