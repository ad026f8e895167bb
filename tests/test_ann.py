"""Networks without spikes: the same maps and weights as the spiking network, other units, one pass."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import prune

from tsslbp import UserError, build, cli, data, losses, metrics, training
from tsslbp.layers import Linear
from tsslbp.network.ann import Binary
from tsslbp.training import first_weights
from tsslbp.training.settings import TrainConfig

SETTINGS = {"input_shape": (2, 9, 8), "time_steps": 4, "tau_m": 5.0, "tau_s": 3.0}
NOTATION = "4C3-P2-5C2-7-3"


def made(neuron, notation=NOTATION, **changes):
    torch.manual_seed(0)
    return build(notation, neuron=neuron, **{**SETTINGS, "padding": (1, 0), **changes})


def rand(*shape):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("neuron", ["binary", "relu"])
def test_weights_are_those_of_the_spiking_network(neuron):
    spiking, ann = made("spiking"), made(neuron)
    assert spiking.state_dict().keys() == ann.state_dict().keys()
    assert all(torch.equal(*pair) for pair in zip(spiking.parameters(), ann.parameters(), strict=True))


@pytest.mark.parametrize("neuron", ["binary", "relu"])
def test_one_pass_written_out(neuron):
    net, x = made(neuron, threshold=0.5), rand(6, 2, 9, 8)

    def units(x):
        return F.relu(x) if neuron == "relu" else (x > 0.5).float()

    w = [p.detach() for p in net.parameters()]
    y = units(F.conv2d(x, w[0], padding=1))
    y = units(F.conv2d(1.1 * 4 * F.avg_pool2d(y, 2), w[1]))
    logits = F.linear(units(F.linear(y.flatten(1), w[2])), w[3])
    output = net(x)
    assert output.shape == (1, 6, 3)
    torch.testing.assert_close(output[0], logits)
    assert (logits < 0).any()
    activity = net.activity(x)
    assert list(activity) == ["conv1", "conv2", "linear3", "output"]
    torch.testing.assert_close(activity["conv2"][0], y)
    sequence = torch.stack([x + 1, x - 1, x + 2, x - 2])
    torch.testing.assert_close(net(sequence), output)  # the mean over time enters


def test_straight_through_estimator():
    x = torch.tensor([-0.6, -0.4, 0.4, 0.6, 1.4, 1.6], dtype=torch.float64, requires_grad=True)
    y = Binary.apply(x, 0.5)
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    y.backward(torch.arange(1.0, 7.0, dtype=torch.float64))
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0]
    assert Binary.apply(torch.tensor(0.5), 0.5) == 0  # strictly above, as a spike


def test_nan_goes_on_and_a_second_derivative_is_refused():
    x = torch.tensor([math.nan, 1.0], requires_grad=True)
    torch.testing.assert_close(Binary.apply(x, 0.5), torch.tensor([math.nan, 1.0]), equal_nan=True)
    with pytest.raises(UserError, match="gradient of a binary unit has no derivative of its own; leave out create_graph=True"):
        torch.autograd.grad(Binary.apply(x, 0.5).sum(), x, create_graph=True)
    for neuron in ("binary", "relu"):
        assert made(neuron)(torch.full((2, 2, 9, 8), math.nan)).isnan().all()


def test_relu_gradient_is_that_of_the_function():
    net = made("relu", "3C3-P2-4-3", padding=0).double()
    x = rand(2, 2, 9, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(net, x)


def test_an_ann_starts_from_a_network_with_learned_constants(quick):
    folder, _ = training.train(quick(learn=("tau_m",), epochs=1))
    config, dataset = training.with_data(quick(neuron="relu", init=folder))
    network = training.prepare(config, dataset)[0].network
    given = training.load(folder).network
    assert torch.equal(network.layers.output.weight, given.layers.output.weight)


def test_weights_to_start_from_are_not_cut(quick):
    folder, _ = training.train(quick(epochs=1))
    with pytest.raises(UserError, match=r"weights of --init reach .*, which --weight-clamp 0.01 would cut in the first step"):
        training.train(quick(init=folder, weight_clamp=0.01))
    largest = max(float(weight.detach().abs().max()) for weight in first_weights.clamped(training.load(folder).network))
    with pytest.raises(UserError, match=r"weights of --init reach .*, which --weight-clamp 4 would cut"):
        training.train(quick(init=folder, weight_clamp=4.0, hidden_scale=5 / largest, output_scale=5 / largest))
    resumed, _ = training.train(quick(name="on", init=folder, epochs=1))
    training.train(quick(name="on", init=folder, epochs=2, resume=True))
    assert training.read_metrics(resumed)[1]["epochs"] == 2


@pytest.mark.parametrize("one_pass", [{"neuron": "relu"}, {"time_steps": 1, "loss": "softmax"}])
def test_a_last_batch_of_one_that_cannot_be_normalised_is_told_before_training(one_pass, quick):
    x, y = torch.rand(61, 4), torch.arange(61) % 2
    dataset = data.of_arrays(x, y, x[:4], y[:4], x_val=x[:4] + 1, y_val=y[:4])
    config = quick(network="6n-2", batch_size=20, **one_pass)
    for wrong in (config, replace(config, batch_size=19, accumulate=4), replace(config, batch_size=6, accumulate=6)):
        with pytest.raises(
            UserError, match=r"a batch, or a part of one, has one sample, .* change --batch-size or --accumulate"
        ):
            training.with_data(wrong, dataset)
    training.with_data(replace(config, batch_size=19), dataset)


def test_dropout_and_autocast():
    net = made("relu", dropout=0.5)
    x = rand(5, 2, 9, 8)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.float32


def test_a_block_of_time_means_nothing():
    net = made("binary")
    net.time_block = 2
    assert net(rand(5, 2, 9, 8)).shape == (1, 5, 3)
    with pytest.raises(UserError, match="binary units is one pass"):
        net.part(rand(5, 2, 9, 8))


def test_unknown_neuron_and_wrong_input():
    with pytest.raises(UserError, match="did you mean 'relu'"):
        made("relux")
    with pytest.raises(UserError, match="network input has shape"):
        made("relu")(rand(3, 5, 2, 9, 8))
    with pytest.raises(UserError, match="'recurrent1' needs spiking neurons"):
        made("relu", "7R-3", padding=0)


def test_every_answer_is_an_answer():
    net, x = made("relu"), rand(20, 2, 9, 8)
    with torch.no_grad():
        net.layers.output.weight.copy_(-net.layers.output.weight.abs())
        logits = net(x)
    assert (logits <= 0).all()
    assert torch.equal(metrics.decode(net.evidence(logits)), logits[0].argmax(-1))
    spiking = made("spiking")
    assert torch.equal(spiking.evidence(psc := spiking(x)), psc)


@pytest.mark.parametrize("neuron", ["binary", "relu"])
def test_training_evaluation_and_report(neuron, quick, tmp_path, capsys):
    folder, final = training.train(quick(neuron=neuron, epochs=4, learning_rate=5e-3))
    assert final["test_accuracy"] > 60  # chance is 10
    history, _ = training.read_metrics(folder)
    assert 0.2 < history[0]["train_loss"] < 2 * math.log(10)  # a mean over samples, not over batches
    stored = TrainConfig.from_toml(folder / "config.toml")
    assert (stored.loss, stored.neuron) == ("softmax", neuron)
    assert cli.main(["evaluate", str(folder)]) == 0
    assert f"{final['test_accuracy']:.2f} %" in capsys.readouterr().out
    assert cli.main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "without spikes" in page
    assert "What the neurons do" not in page


def test_the_loss_of_an_ann_is_softmax_unless_told():
    assert TrainConfig(neuron="relu").make_loss() == losses.SoftmaxLoss()
    assert isinstance(TrainConfig(time_steps=5).make_loss(), losses.KernelLoss)
    weighted = losses.KernelLoss(time_steps=1, tau_s=1, label_weight=3)
    assert TrainConfig(neuron="relu", loss="kernel(label_weight=3)").make_loss() == weighted
    for loss in ("count", "kernel(target=double)", "kernel(desired=01)"):
        with pytest.raises(UserError, match=r"--loss: loss is .*; it must be kernel or softmax for an ANN"):
            TrainConfig(neuron="binary", loss=loss)
    with pytest.raises(UserError, match="--rate-penalty is 1; it must be 0 for an ANN"):
        TrainConfig(neuron="binary", rate_penalty=1)
    with pytest.raises(UserError, match="--encoding is latency; it must be constant for an ANN"):
        TrainConfig(neuron="relu", encoding="latency")


def test_same_order_and_first_weights_in_a_run(quick):
    seen = {}
    for neuron in ("spiking", "binary", "relu"):
        config = quick(neuron=neuron, dropout=0.2)
        model, _ = training.prepare(*training.with_data(config))
        seen[neuron] = [weight.detach().clone() for weight in model.network.parameters()]
    assert all(torch.equal(a, b) for other in ("binary", "relu") for a, b in zip(seen["spiking"], seen[other], strict=True))


@pytest.mark.parametrize("notation", ["8-4", "8-[8-8]-4"])
def test_hooks_of_an_ann_see_its_layers_and_pruned_weights_are_used(notation):
    net, x = build(notation, input_shape=(6,), neuron="relu", time_steps=5, tau_m=5, tau_s=3), torch.randn(7, 6)
    before, seen = net(x), []
    names = [name for name, layer in net.named_layers() if isinstance(layer, Linear)]
    for name in names:
        net.layers.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    assert seen == names
    layer = net.layers.get_submodule(names[0])
    prune.l1_unstructured(layer, "weight", 0.3)
    pruned = net(x)
    with torch.no_grad():
        layer.weight_orig.mul_(3)
    assert not torch.equal(net(x), pruned)
    layer.forward = lambda signal: signal
    with pytest.raises(UserError, match="Linear has its own forward, which cannot be called without neurons"):
        net(x)
