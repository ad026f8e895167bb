"""How busy a network is, and what that costs on hardware that works only where there is something to do.

A spike is added up once at every neuron that its layer's map connects it to: one accumulation (AC) per spike and connection.
Pooling adds no operations, its sum being part of the connections, and the zeros of a convolution's padding have none. A real
number costs a multiplication and an addition (MAC) per connection instead: the first layer on a constant current, once per
sample because that current does not change, on a sequence of real numbers at every step; and every layer of a ReLU network. An
input sequence of whole numbers counts as spikes.
The neurons' own arithmetic, a few operations per neuron and step, is left out, and so is the cost of moving data.

Source of the energies: M. Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 32-bit floating point, 3.7 pJ for a
multiplication and 0.9 pJ for an addition.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.data import Split
from tsslbp.layers import Conv2d, Flatten, Spiking, SumPool2d
from tsslbp.losses import length_mask
from tsslbp.networks import Network
from tsslbp.recurrent import Recurrent
from tsslbp.training import Model

MAC_PJ, AC_PJ = 4.6, 0.9
"""Energy of one operation in picojoules."""


@dataclass(frozen=True)
class Activity:
    """What neurons did on a set of samples. Of an ANN: its units, which count as spiking where they are not 0, once."""

    spikes: float
    """Per neuron and sample."""
    silent: float
    """Share of neurons that spiked for no sample, from 0 to 1."""
    macs: float
    """Multiplications with addition per sample."""
    acs: float
    """Additions per sample."""

    @property
    def energy_nj(self) -> float:
        """Energy per sample in nanojoules."""
        return (MAC_PJ * self.macs + AC_PJ * self.acs) / 1000


@torch.inference_mode()
def measure(model: Model, samples: Split, batch_size: int = 100) -> Activity:
    """Activity of a model on stored samples, in evaluation mode; what comes after the end of a sequence does not count."""
    network, macs, acs = model.network, 0.0, 0.0
    was_training = network.training
    network.eval()
    fired: dict[str, Tensor] = {}
    for part, inputs in model.batches(samples, batch_size):
        counts = spike_counts(network, inputs, part.lengths)
        for name, count in counts.items():
            fired[name] = fired.get(name, 0) + count.sum(0, dtype=torch.float64)
        batch_macs, batch_acs = operations(network, inputs, counts, part.lengths)
        macs, acs = macs + batch_macs, acs + batch_acs
    network.train(was_training)
    neurons = torch.cat([count.flatten() for count in fired.values()]) if fired else torch.zeros(1)
    n = len(samples)
    return Activity(float(neurons.mean()) / n, float((neurons == 0).double().mean()), macs / n, acs / n)


def spike_counts(network: Network, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """Spikes of every neuron by layer, ``[B, ...]`` each, for network input ``x``. The logits of an ANN are no neurons.

    ``lengths`` ``[B]``: steps of each sequence, the rest being padding.
    """
    outputs = network.activity(x)
    if network.is_spiking:
        trains = {name: network.fired(psc) for name, psc in outputs.items()}
        return {name: within(train.float(), lengths).sum(0) for name, train in trains.items()}
    *hidden, _ = outputs
    return {name: (outputs[name][0] > 0).float() for name in hidden}


def operations(network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None) -> tuple[float, float]:
    """MACs and ACs of a batch in all, given what its neurons did (:func:`spike_counts`)."""
    macs, acs = zip(*layer_operations(network, x, counts, lengths).values(), strict=True)
    return sum(macs), sum(acs)


def layer_operations(
    network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None
) -> dict[str, tuple[float, float]]:
    """:func:`operations` by layer: what its map, with its lateral connections, has to do."""
    made: dict[str, tuple[float, float]] = {}
    signal, spikes = _entering(network, x, lengths)
    for name, layer in network.layers.named_children():
        if isinstance(layer, Spiking):
            reached, lateral = _reached(layer, signal), 0.0
            if isinstance(layer, Recurrent):
                lateral = float(counts[name].sum(dtype=torch.float64)) * len(layer.lateral)
            made[name] = (0.0, reached + lateral) if spikes else (reached, lateral)
            spikes = network.architecture.neuron != "relu"
            if name in counts:
                signal = counts[name] if spikes else torch.ones_like(counts[name])
        elif isinstance(layer, SumPool2d):
            size = layer.pool.size
            signal = F.avg_pool2d(signal, size) * (size**2 if spikes else 1)
        elif isinstance(layer, Flatten):
            signal = signal.flatten(1)
    return made


def within(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``[T, B, ...]``, 0 after the end of each sequence."""
    if lengths is None:
        return x
    return x * length_mask(lengths, len(x)).view(len(x), -1, *[1] * (x.dim() - 2))


def _entering(network: Network, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, bool]:
    """How often each input acts on its connections, ``[B, ...]``, and whether as spikes."""
    if x.shape[1:] == network.architecture.input_shape:
        return torch.ones_like(x), False
    if not network.is_spiking:  # takes the mean over time
        return torch.ones_like(x[0]), False
    if bool(((x >= 0) & (x == x.round())).all()):
        return within(x, lengths).sum(0), True
    return within(torch.ones_like(x), lengths).sum(0), False


def _reached(layer: Spiking, signal: Tensor) -> float:
    """Connections of a layer's map, each counted as often as its input acts."""
    if isinstance(layer, Conv2d):
        signal = F.conv2d(signal, torch.ones_like(layer.weight[:1]), padding=layer.padding)
    return float(signal.sum(dtype=torch.float64)) * len(layer.weight)
