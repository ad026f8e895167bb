"""Agreement with the published code in its three versions, by recorded files, and with vectors worked out by hand.

``golden/*.npz`` is of the last version, ``golden/paper`` of that of 1 October 2020, ``golden/submission`` of 2 June 2020.
"""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from shared import every_backend

import tsslbp
from tsslbp import TSSL
from tsslbp.layers import Spiking
from tsslbp.losses import CountLoss, KernelLoss, SoftmaxLoss
from tsslbp.neuron import LIF, membrane_potential, spikes

GOLDEN = Path(__file__).parent / "golden"
RULES = {"": "tssl", "paper/": "tssl-paper", "submission/": "tssl-submission"}
NEURONS = sorted(str(path.relative_to(GOLDEN))[:-4] for path in GOLDEN.rglob("neuron_*.npz"))
NETS = [
    *("fc_kernel", "fc_count", "fc_softmax", "cnn_kernel", "cnn_pad_kernel10"),
    *("paper/fc_kernel", "paper/fc_count", "paper/fc_softmax", "paper/cnn_kernel", "paper/cnn_pad_count"),
]


def load(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(value) if value.ndim else value.item() for key, value in file.items()}


def rule_of(name):
    """The rule by which a file was made."""
    return RULES[name.rpartition("/")[0] + "/" if "/" in name else ""]


def assert_agrees(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_every_golden_file_is_used():
    assert sorted(str(path.relative_to(GOLDEN))[:-4] for path in GOLDEN.rglob("*.npz")) == sorted(NEURONS + NETS)
    assert len(NEURONS) == 5 + 5 + 4


@every_backend
@pytest.mark.parametrize("name", NEURONS)
def test_neuron(name, backend):
    golden = load(name)
    current = golden["current"].requires_grad_()
    constants = {key: golden[key] for key in ("tau_m", "tau_s", "threshold")}
    psc = tsslbp.lif(current, **constants, rule=rule_of(name), backend=backend)
    psc.backward(golden["grad_psc"])
    assert_agrees(psc.detach(), golden["psc"])
    assert_agrees(current.grad, golden["grad_current"])


@every_backend
@pytest.mark.parametrize("name", NETS)
def test_network(name, backend):
    golden = load(name)
    steps, tau_s = golden["n_steps"], golden["tau_s"]
    net = tsslbp.build(
        "48-10" if "fc" in name else "6C3-P2-8C3-P2-10",
        input_shape=tuple(golden["input"].shape[1:]),
        time_steps=steps,
        tau_m=golden["tau_m"],
        tau_s=tau_s,
        padding=1 if "pad" in name else 0,
        rule=rule_of(name),
    )
    for layer in net.modules():
        if isinstance(layer, Spiking):
            layer.backend = backend
    weights = list(net.parameters())
    assert len(weights) == sum(key.startswith("weight_") for key in golden)
    with torch.no_grad():
        for i, weight in enumerate(weights):
            weight.copy_(golden[f"weight_{i}"].view(weight.shape))
    if "count" in name:
        loss_function = CountLoss(desired=golden["desired_count"], undesired=golden["undesired_count"])
    elif "softmax" in name:
        loss_function = SoftmaxLoss()
    elif "paper" in name:
        loss_function = KernelLoss(time_steps=steps, tau_s=tau_s, desired=(0, 1, 0, 1, 1))
    else:
        loss_function = KernelLoss(time_steps=steps, tau_s=tau_s, target="double")

    output = net(golden["input"])
    loss = loss_function(output, golden["label"])
    loss.backward()
    assert_agrees(output.detach(), golden["output_psc"])
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-5)
    for i, weight in enumerate(weights):
        assert_agrees(weight.grad.reshape(golden[f"grad_{i}"].shape), golden[f"grad_{i}"])


# Six steps of one neuron, τm = 5, τs = 3, θ = 1, worked out by hand.
CURRENT = [0.5, 0.7, 0.2, 0.9, 0.4, 0.8]
ERROR = [0.1, -0.2, 0.3, 0.05, -0.1, 0.2]
HEAD = [0.014184, 0.031400, 0.037003, 0.046253, 0.074074, 0.092593]
VECTORS = {
    "head": ({}, dict(enumerate(HEAD))),
    "reset off": ({"reset": False}, {1: 0.017833, 2: 0.022394, 3: 0.027993}),
    "reset and leak off": ({"reset": False, "leak": False}, {1: 0.017833, 2: 0.0, 3: 0.027993, 4: 0.0}),
    "no fallback": ({"fallback": "never"}, {**dict(enumerate(HEAD)), 0: 0.025120}),
    "timing": ({"psc_derivative": "timing"}, {**dict(enumerate(HEAD)), 1: -0.143893, 2: 0.027815, 3: 0.034769}),
}


@every_backend
@pytest.mark.parametrize("name", VECTORS)
def test_hand_vector(name, backend):
    options, expected = VECTORS[name]
    current = torch.tensor(CURRENT, dtype=torch.float64, requires_grad=True)
    psc = tsslbp.lif(current, tau_m=5, tau_s=3, rule=TSSL(**options), backend=backend)
    psc.backward(torch.tensor(ERROR, dtype=torch.float64))
    assert {t: current.grad[t].item() for t in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", VECTORS)
def test_hand_vector_by_the_oracle(name):
    options, expected = VECTORS[name]
    delta = oracle.tssl(CURRENT, ERROR, tau_m=5, tau_s=3, threshold=1, **options)
    assert {t: delta[t] for t in expected} == pytest.approx(expected, abs=1e-6)


def test_hand_vector_forward():
    neuron = LIF(tau_m=5, tau_s=3, threshold=1)
    u = membrane_potential(torch.tensor(CURRENT, dtype=torch.float64), neuron)
    assert u.tolist() == pytest.approx([0.5, 1.1, 0.2, 1.06, 0.4, 1.12], abs=1e-12)
    assert spikes(u, neuron).tolist() == [0, 1, 0, 1, 0, 1]
    assert oracle.potentials(CURRENT, 5, 1) == (pytest.approx(u.tolist(), abs=1e-12), [0, 1, 0, 1, 0, 1])
