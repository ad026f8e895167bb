"""Where training starts: the size of the first weights, fitted to the data."""

import torch

from tsslbp.data import Split
from tsslbp.kernels import Pool
from tsslbp.layers import BatchNorm, MaxPool, Spiking
from tsslbp.networks import Network
from tsslbp.settings import TrainConfig
from tsslbp.signal import Signal, length_mask
from tsslbp.training.inputs import Inputs

LOW, HIGH = 0.02, 0.5
"""Rates, in spikes per neuron and step, between which a hidden layer is to start."""
STEP, MOST = 1.3, 30
"""Factor by which weights are changed at a time, and how often at most."""
LOOKED_AT = 100
"""Training samples that rates are measured on."""


def scale(network: Network, inputs: Inputs, train: Split, config: TrainConfig) -> None:
    """Scale a network's initial weights in place as ``first_rates`` and ``output_scale`` of the settings have it."""
    with torch.no_grad():
        if config.output_scale != 1:
            network.layers.get_parameter("output.weight").mul_(config.output_scale)
        if config.first_rates and network.is_spiking:
            few = train.select(torch.linspace(0, len(train) - 1, min(LOOKED_AT, len(train)), dtype=torch.float64).long())
            for layer in network.eval().modules():
                if isinstance(layer, BatchNorm):
                    layer.train()  # there are no running statistics yet
            steps = None if few.lengths is None or inputs.filters else inputs.lengths(few.lengths)
            inside = None if steps is None else length_mask(steps, inputs.time_steps).bool()
            _into_range(network, inputs(few.x, 0, few.lengths), inside)
            network.train()


def _into_range(network: Network, x: torch.Tensor, inside: torch.Tensor | None) -> None:
    def cross(name: str, layer: Spiking | MaxPool, signal: Signal, pool: Pool | None, half: bool) -> torch.Tensor:
        if isinstance(layer, MaxPool):
            return layer(signal)
        if name == "output" or layer.norm is not None:  # what is normalised has its size from that
            return layer(signal, pool, half, inside)
        weight = layer.weight if layer.gain is None else layer.gain
        for _ in range(MOST):
            rate = float(network.fired(layer(signal), name).float().mean())
            if LOW <= rate <= HIGH:
                break
            weight.mul_(STEP if rate < LOW else 1 / STEP)
        return layer(signal, pool, half)

    for _ in network.walk(network.encode(x), cross):
        pass
