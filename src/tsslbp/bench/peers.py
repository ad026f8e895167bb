"""Other spiking libraries on the same layers, each used as its own documentation shows.

All run surrogate gradients through a leaky integrate-and-fire neuron with hard reset (snnTorch, Norse and SpikingJelly name
it differently) and get the static image at every step, as their examples do. Optional packages are imported only here.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.bench.cases import Case, Subject, plain_layers, trainer, weighted

PACKAGES = {"SpikingJelly": "spikingjelly", "snnTorch": "snntorch", "Norse": "norse"}


def installed() -> dict[str, Callable[[Case], Subject]]:
    """The libraries that are installed, by name."""
    builders = {"SpikingJelly": spikingjelly, "snnTorch": snntorch, "Norse": norse}
    return {name: builders[name] for name, package in PACKAGES.items() if importlib.util.find_spec(package)}


def _subject(case: Case, net: nn.Module, forward: Callable[[Tensor], Tensor]) -> Subject:
    """Mean firing of the output against the one-hot label, the loss of these libraries' examples."""
    x, label = case.samples()
    if not case.sequence:
        x = x.unsqueeze(0).repeat(case.architecture.time_steps, *[1] * x.dim())
    target = F.one_hot(label, 10).float()
    return trainer(net, lambda: forward(x), lambda rate: F.mse_loss(rate, target))


def spikingjelly(case: Case) -> Subject:
    """SpikingJelly in multi-step mode, PyTorch backend."""
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    def multi_step(module: nn.Module) -> list[nn.Module]:
        if not weighted(module):
            return [layer.SeqToANNContainer(module)]
        lif = neuron.LIFNode(
            tau=float(case.architecture.tau_m),
            decay_input=False,
            v_reset=0.0,
            surrogate_function=surrogate.ATan(),
            detach_reset=True,
            step_mode="m",
        )
        return [layer.SeqToANNContainer(module), lif]

    net = nn.Sequential(*(part for module in plain_layers(case) for part in multi_step(module)))

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(net)
        return net(x).mean(0)

    return _subject(case, net, forward)


def snntorch(case: Case) -> Subject:
    """snnTorch, a Python loop over time."""
    import snntorch as snn
    from snntorch import surrogate

    layers = nn.ModuleList(plain_layers(case))
    beta = 1 - 1 / case.architecture.tau_m
    neurons = nn.ModuleList(
        snn.Leaky(beta=beta, spike_grad=surrogate.atan(), reset_mechanism="zero") if weighted(layer) else nn.Identity()
        for layer in layers
    )
    net = nn.ModuleList([layers, neurons])

    def forward(x: Tensor) -> Tensor:
        membrane = [neuron.init_leaky() if isinstance(neuron, snn.Leaky) else None for neuron in neurons]
        outputs = []
        for step in x:
            for n, (layer, neuron) in enumerate(zip(layers, neurons, strict=True)):
                step = layer(step)
                if membrane[n] is not None:
                    step, membrane[n] = neuron(step, membrane[n])
            outputs.append(step)
        return torch.stack(outputs).mean(0)

    return _subject(case, net, forward)


def norse(case: Case) -> Subject:
    """Norse's feed-forward LIF with a synapse, a Python loop over time."""
    import norse.torch as norse_torch

    modules: list[Any] = []
    for layer in plain_layers(case):
        modules += [layer, *([norse_torch.LIFCell()] if weighted(layer) else [])]
    net = norse_torch.SequentialState(*modules)

    def forward(x: Tensor) -> Tensor:
        state, outputs = None, []
        for step in x:
            out, state = net(step, state)
            outputs.append(out)
        return torch.stack(outputs).mean(0)

    return _subject(case, net, forward)
