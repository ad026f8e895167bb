"""Networks to export, and graphs as other programs would write them."""

import numpy as np
import torch
from torch import nn

import tsslbp
from tsslbp import layers
from tsslbp.exchange.outgoing import as_written

NETWORKS = {
    "linear": ("12-10", (7,), {}),
    "biased": ("12b-10b", (7,), {}),
    "biased, no synapse": ("12b-10b", (7,), {"tau_s": 1}),
    "convolutional": ("4C3-P2-6C3s2-A2-10", (2, 17, 15), {"padding": (1, 0)}),
    "grouped and dilated": ("4C3d2-8C3g2-6C3s2g2-10", (2, 15, 14), {"padding": (1, 1, 0)}),
    "few bits": ("4C3n-P2-12R-10b", (1, 10, 10), {"bits": "4", "tau_s": 4, "tau_m": 4}),
    "every neuron its own": ("4C3b-P2-12-10", (1, 10, 10), {"per_neuron": ("tau_m", "threshold"), "spread": 0.3}),
    "learned": ("12-9R-10", (7,), {"learn": ("tau_m", "tau_s", "threshold"), "per_neuron": ("tau_m",)}),
    "two pools": ("3C3-P2-A2-9R-4", (1, 16, 16), {}),
    "normalised": ("4C3n-P2-12n-10n", (1, 10, 10), {}),
    "standardised": ("4C3-12-10", (1, 10, 10), {"standardise": True}),
    "recurrent": ("12R-9R-10", (7,), {}),
    "recurrent and biased": ("12Rb-10", (7,), {}),
    "one axis": ("4C3b-12-V3", (2, 20), {}),
    "voting": ("12-20-V2", (7,), {"threshold": 0.7}),
    "residual": ("4C3-P2-[4C3-4C3]-[6C3s2-6C3]-A2-[9-12]-[12]-10", (2, 16, 16), {"padding": (1,) * 5}),
    "straight shortcuts": ("4C3-[4C3-4C3]-[4C3-4C3]-A2-9-[9-9]-10", (2, 6, 6), {"padding": (1,) * 5}),
    "residual, pooled": ("[4C3-6C3]-P2-[6C3-P2-6C3]-10", (2, 16, 16), {"padding": (1,) * 4}),
    "residual and biased": ("[4C3b-6C3b]-P2-[6C3b-P2-6C3b]-10", (2, 16, 16), {"padding": (1,) * 4, "tau_s": 1}),
    "pooled input": ("P2-12-5", (1, 9, 8), {}),
}
"""Notation, shape of a sample, settings."""


@torch.no_grad()
def spikes(network, x, dtype):
    """The network's own spikes by layer, ``[T, B, neurons]`` of bool, computed in ``dtype``."""
    own = as_written(network, dtype)
    return {name: train.flatten(2) for name, train in own.trains(own.activity(x.to(dtype))).items()}


def network_of(name, seed=0):
    """A lively network in evaluation mode, none of whose constants is a default."""
    notation, shape, more = NETWORKS[name]
    torch.manual_seed(seed)
    return lively(tsslbp.build(notation, input_shape=shape, **{"time_steps": 7, "tau_m": 4.5, "tau_s": 2.5, **more}))


def lively(net):
    """The network with weights that make every layer spike, in evaluation mode."""
    for part in net.modules():
        if isinstance(part, layers.Spiking):
            part.weight.data = 2 * (part.weight.data + 0.3 * part.weight.data.std())
            if part.gain is not None:
                part.gain.data *= 4
            if part.bias is not None:
                nn.init.uniform_(part.bias, -0.2, 0.3)
        if isinstance(part, layers.BatchNorm):
            nn.init.uniform_(part.variance, 0.1, 0.5)
            nn.init.uniform_(part.shift, -0.2, 0.5)
    return net.eval()


def samples(net, count=20, sequence=True):
    shape = net.architecture.input_shape
    return torch.rand(*((net.time_steps,) if sequence else ()), count, *shape) * 2


def foreign(*nodes, shape=(7,), edges=None, made=None):
    """A graph as another program would write it, without metadata; ``made`` outputs, as many as the last weights by default."""
    import nir

    names = [f"n{i}" for i in range(len(nodes))]
    inside = dict(zip(names, nodes, strict=True))
    made = made or ([1] + [len(node.weight) for node in nodes if hasattr(node, "weight")])[-1]
    whole = {"in": nir.Input(np.array(shape)), **inside, "out": nir.Output(np.array([made]))}
    return nir.NIRGraph(whole, edges or list(zip(["in", *names], [*names, "out"], strict=True)), type_check=False)


def weights(out, entering, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1, (out, entering)).astype(np.float32)


def full(n, value, dtype=np.float64):
    return np.full(n, value, dtype)


def lif(n=5, tau=3e-4, r=1.0, threshold=0.4, leak=0.0):
    import nir

    return nir.LIF(tau=full(n, tau), r=full(n, r), v_leak=full(n, leak), v_threshold=full(n, threshold), v_reset=full(n, 0))


def cuba(n=5, **changes):
    import nir

    plain = {"tau_syn": 2e-4, "tau_mem": 4e-4, "r": 3.0, "v_leak": 0.0, "v_threshold": 0.8, "v_reset": 0.0, "w_in": 1.5}
    return nir.CubaLIF(**{key: full(n, value) for key, value in {**plain, **changes}.items()})
