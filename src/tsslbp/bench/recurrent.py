"""Other ways to run a case with a recurrent layer: PyTorch's recurrent networks, and other spiking libraries.

All have one recurrent layer of the case's size and a linear output layer, and their output is the mean over time. A spiking
layer of the other libraries is a linear map of all steps at once, then a loop over time, as in their examples. Optional
packages are imported only here and in ``peers.py``.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.bench import peers
from tsslbp.bench.cases import Case, Subject, trainer
from tsslbp.layers import Recurrent

Loop = Callable[[Tensor], Tensor]
"""Part after the first map: currents ``[T, B, n]`` -> spikes ``[T, B, n]``."""


def contestants() -> dict[str, Callable[[Case], Subject]]:
    """The installed ones, by name."""
    spiking = {"SpikingJelly": spikingjelly, "snnTorch": snntorch, "Norse": norse}
    made = {name: partial(_spiking, spiking[name]) for name in peers.installed()}
    return {"nn.RNN": partial(_torch, nn.RNN), "nn.LSTM": partial(_torch, nn.LSTM), **made}


def _sizes(case: Case) -> tuple[int, int]:
    """Inputs and neurons of the recurrent layer."""
    (layer,) = (layer for layer in case.network().layers if isinstance(layer, Recurrent))
    return layer.weight.shape[1], layer.weight.shape[0]


def _torch(make: type[nn.RNN | nn.LSTM], case: Case) -> Subject:
    inputs, n = _sizes(case)
    net = nn.ModuleList([make(inputs, n), nn.Linear(n, 10)])
    x, label = case.samples()
    return trainer(net, lambda: net[1](net[0](x)[0]).mean(0), lambda out: F.cross_entropy(out, label))


def _spiking(make: Callable[[Case, int, int], tuple[nn.Module, Loop]], case: Case) -> Subject:
    inputs, n = _sizes(case)
    neurons, loop = make(case, inputs, n)
    net = nn.ModuleList([neurons, nn.Linear(n, 10, bias=False)])
    x, label = case.samples()
    target = F.one_hot(label, 10).float()
    return trainer(net, lambda: net[1](loop(x)).mean(0), lambda rate: F.mse_loss(rate, target))


def spikingjelly(case: Case, inputs: int, n: int) -> tuple[nn.Module, Loop]:
    """SpikingJelly's LIF neuron step by step, between two linear maps."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    tau, atan = float(case.architecture.tau_m), surrogate.ATan()
    lif = neuron.LIFNode(tau=tau, decay_input=False, v_reset=0.0, surrogate_function=atan, detach_reset=True)
    weight, lateral = nn.Linear(inputs, n, bias=False), nn.Linear(n, n, bias=False)

    def loop(x: Tensor) -> Tensor:
        functional.reset_net(lif)
        spikes = [torch.zeros(x.shape[1], n)]
        for drive in weight(x):
            spikes.append(lif(drive + lateral(spikes[-1])))
        return torch.stack(spikes[1:])

    return nn.ModuleList([weight, lateral, lif]), loop


def snntorch(case: Case, inputs: int, n: int) -> tuple[nn.Module, Loop]:
    """snnTorch's ``RLeaky``."""
    import snntorch as snn
    from snntorch import surrogate

    beta = 1 - 1 / case.architecture.tau_m
    lif = snn.RLeaky(beta=beta, linear_features=n, spike_grad=surrogate.atan(), reset_mechanism="zero")
    weight = nn.Linear(inputs, n, bias=False)

    def loop(x: Tensor) -> Tensor:
        (spike, membrane), spikes = lif.init_rleaky(), []
        for drive in weight(x):
            spike, membrane = lif(drive, spike, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return nn.ModuleList([weight, lif]), loop


def norse(case: Case, inputs: int, n: int) -> tuple[nn.Module, Loop]:
    """Norse's ``LIFRecurrent``, which has both maps."""
    import norse.torch as norse_torch

    lif = norse_torch.LIFRecurrent(inputs, n)
    return lif, lambda x: lif(x)[0]
