"""The counts behind the energy study against other counters: PyTorch's of operations, SpikingJelly's of synaptic ones."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tsslbp.layers import Conv2d, Spiking, SumPool2d
from tsslbp.network.network import Network
from tsslbp.neuron import spikes_from_psc
from tsslbp.study.activity import layer_operations, spike_counts
from tsslbp.training import recipes

SHAPES = {"quickstart": (1, 8, 8), "mnist-cnn": (1, 28, 28), "fashion-mnist-fc": (1, 28, 28), "fashion-mnist-cnn": (1, 28, 28)}


def network(name, **changes):
    """A recipe's network at its first weights."""
    torch.manual_seed(0)
    architecture = replace(recipes.get(name), time_steps=5).architecture(SHAPES[name])
    return Network(replace(architecture, **changes)).eval()


def multiplied_by_padding(net, name):
    """Multiplications of convolutions by the zeros around their input, which are no connections: only PyTorch counts them."""
    size, found = SHAPES[name][1], 0
    for layer in net.layers:
        if isinstance(layer, Conv2d):
            out, channels, kernel, _ = layer.weight.shape
            padding = F.pad(torch.zeros(1, channels, size, size), [layer.padding] * 4, value=1.0)
            found += out * int(F.unfold(padding, kernel).sum())
            size += 2 * layer.padding - kernel + 1
        elif isinstance(layer, SumPool2d):
            size //= layer.pool.size
    return found


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_dense_operations_are_those_of_pytorchs_counter(name):
    net, x = network(name, neuron="relu"), torch.rand(2, *SHAPES[name])
    with FlopCounterMode(display=False) as counter:
        net(x)
    made = layer_operations(net, x, spike_counts(net, x))
    dense = sum(layer.dense_macs for layer in made.values())
    assert dense == counter.get_total_flops() / 2 - 2 * multiplied_by_padding(net, name)
    assert sum(layer.macs for layer in made.values()) < 0.9 * dense  # as zeros are skipped there
    assert (multiplied_by_padding(net, name) > 0) == any(isinstance(x, Conv2d) and x.padding for x in net.layers)


def layers_with_what_they_hear(net, x):
    """Every spiking layer but the first by name, the spikes of the one before, ``[T * B, ...]``, and the pool between."""
    trains = {name: (spikes_from_psc(psc, 3.0) > 0.5).float().flatten(0, 1) for name, psc in net.activity(x).items()}
    before, pool = None, 1
    for name, layer in net.layers.named_children():
        if isinstance(layer, SumPool2d):
            pool = layer.pool.size
        elif isinstance(layer, Spiking):
            if before is not None:
                yield name, layer, before, pool
            before, pool = trains[name], 1


def reached(position, pool, size, kernel, padding):
    """Outputs along one axis that a spike reaches, through a pool and a convolution over ``size`` pooled inputs."""
    pooled = position // pool
    return sum(0 <= pooled + padding - output < kernel for output in range(size + 2 * padding - kernel + 1)) * (pooled < size)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_accumulations_are_spikes_times_the_connections_each_has(name):
    net, x = network(name), torch.rand(3, *SHAPES[name], generator=torch.Generator().manual_seed(0)) * 2
    made = layer_operations(net, x, spike_counts(net, x))
    for layer_name, layer, train, pool in layers_with_what_they_hear(net, x):
        assert 0.005 < train.mean() < 0.9, layer_name
        if isinstance(layer, Conv2d):
            rows, columns = (
                torch.tensor([reached(at, pool, size // pool, layer.weight.shape[2], layer.padding) for at in range(size)])
                for size in train.shape[2:]
            )
            expected = len(layer.weight) * float((train.sum((0, 1)) * rows.unsqueeze(1) * columns).sum(dtype=torch.float64))
        else:
            train = train[..., : train.shape[-2] // pool * pool, : train.shape[-1] // pool * pool] if pool > 1 else train
            with FlopCounterMode(display=False) as counter:
                F.linear(train.flatten(1), torch.ones(len(layer.weight), math.prod(train.shape[1:])))
            expected = counter.get_total_flops() / 2 * float(train.mean(dtype=torch.float64))
        assert (made[layer_name].macs, made[layer_name].acs) == (0, pytest.approx(expected, rel=1e-9)), layer_name


@pytest.mark.parametrize("name", ["quickstart", "fashion-mnist-fc"])
@torch.no_grad()
def test_accumulations_are_those_of_spikingjellys_counter(name):
    op_counter = pytest.importorskip("spikingjelly.activation_based.op_counter", reason="only where SpikingJelly is installed")
    net, x = network(name), torch.rand(3, *SHAPES[name], generator=torch.Generator().manual_seed(0)) * 2
    made = layer_operations(net, x, spike_counts(net, x))
    for layer_name, layer, train, pool in layers_with_what_they_hear(net, x):
        train = train[..., : train.shape[-2] // pool * pool, : train.shape[-1] // pool * pool] if pool > 1 else train
        same: nn.Module = nn.Linear(math.prod(train.shape[1:]), len(layer.weight), bias=False)
        if isinstance(layer, Conv2d):  # with the pool as part of the kernel, as sums of spikes are no spikes to that counter
            out, channels, kernel, _ = layer.weight.shape
            same = nn.Conv2d(channels, out, kernel * pool, stride=pool, padding=layer.padding * pool, bias=False)
        counter = op_counter.SynOpCounter()
        with op_counter.DispatchCounterMode([counter]):
            same(train if isinstance(layer, Conv2d) else train.flatten(1))
        assert (made[layer_name].macs, made[layer_name].acs) == (0, counter.get_total()), layer_name
