"""How busy a network is, and what that costs: on hardware that skips zeros, and on hardware that skips nothing.

Every network is counted by the same rules, in both ways.

Where zeros are skipped:

- A spike, or a binary unit that is 1, is added up once at every neuron it is connected to: one addition (AC) per connection.
- A real number is multiplied as well: one multiplication with addition (MAC) per connection. A ReLU unit that is 0 costs none.
- The first layer on a picture is a MAC per connection in every network, also where a pixel is 0. It is computed once per
  sample, because a constant current does not change.
- A spiking network computes the first layer on a sequence of real numbers at every step, and takes a sequence of whole numbers
  for spikes. An ANN takes the mean of a sequence.

Where nothing is skipped, every connection is a MAC: in an ANN and in the first layer on a picture once per sample, elsewhere at
every step.

In both ways:

- A spiking neuron does 2 MACs of its own at every step, for the leak and the synapse, and a third if its threshold adapts. This
  holds for every time constant, although 1 and infinity need fewer. A unit of an ANN does none, only a comparison.
- The zeros of a convolution's padding are no connections, and steps after the end of a sequence do not count.
- Pooling adds no operations. A spike goes through the pool to all connections behind it; real numbers are summed first and then
  multiplied, unless all of them are 0. Those sums, at most one addition per unit, are left out.
- Moving data, which costs more than arithmetic on real chips, is left out.

Source of the energies: M. Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 32-bit floating point, 3.7 pJ for a
multiplication and 0.9 pJ for an addition.
"""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.data import Split
from tsslbp.layers import Conv2d, Spiking, SumPool2d
from tsslbp.networks import Network
from tsslbp.recurrent import Recurrent
from tsslbp.signal import Signal, within
from tsslbp.training import Model

MAC_PJ, AC_PJ = 4.6, 0.9
"""Energy of one operation in picojoules."""


@dataclass(frozen=True)
class Operations:
    """Operations, per sample or of a batch, and their energy."""

    macs: float
    """Multiplications with addition of connections, where zeros are skipped."""
    acs: float
    """Additions of connections, where zeros are skipped."""
    own_macs: float
    """Multiplications with addition that the neurons do themselves."""
    dense_macs: float
    """Multiplications with addition of connections, where nothing is skipped."""

    @property
    def energy_nj(self) -> float:
        """Energy in nanojoules where zeros are skipped, with the neurons' own."""
        return (MAC_PJ * (self.macs + self.own_macs) + AC_PJ * self.acs) / 1000

    @property
    def dense_nj(self) -> float:
        """Energy in nanojoules where nothing is skipped, with the neurons' own."""
        return MAC_PJ * (self.dense_macs + self.own_macs) / 1000


def total(parts: Iterable[Operations], samples: int = 1) -> Operations:
    """The sum of some operations, divided by the number of samples."""
    return Operations(*(sum(kind) / samples for kind in zip(*map(astuple, parts), strict=True)))


@dataclass(frozen=True)
class Activity(Operations):
    """What neurons did per sample. Of an ANN: its units, which count as spiking where they are not 0, once."""

    spikes: float
    """Per neuron and sample."""
    silent: float
    """Share of neurons that spiked for no sample, from 0 to 1."""


def measure(model: Model, samples: Split, batch_size: int = 100) -> Activity:
    """Activity of a model on stored samples, in evaluation mode; what comes after the end of a sequence does not count."""
    network, made = model.network, []
    fired: dict[str, Tensor] = {}
    with model.evaluating(samples, batch_size) as batches:
        for part, inputs in batches:
            counts = spike_counts(network, inputs, part.lengths)
            for name, count in counts.items():
                fired[name] = fired.get(name, 0) + count.sum(0, dtype=torch.float64)
            made.append(operations(network, inputs, counts, part.lengths))
    neurons = torch.cat([count.flatten() for count in fired.values()]) if fired else torch.zeros(1)
    n = len(samples)
    return Activity(**asdict(total(made, n)), spikes=float(neurons.mean()) / n, silent=float((neurons == 0).double().mean()))


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


def operations(network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None) -> Operations:
    """Operations of a batch in all, given what its neurons did (:func:`spike_counts`)."""
    return total(layer_operations(network, x, counts, lengths).values())


def layer_operations(
    network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None
) -> dict[str, Operations]:
    """:func:`operations` by layer: what its map, its lateral connections and its neurons have to do."""
    made: dict[str, Operations] = {}
    static = network.is_static(x)
    samples = len(x) if static else x.shape[1]
    steps = samples * network.time_steps if lengths is None else int(lengths.sum())
    passes, factor = (steps if network.is_spiking and not static else samples), 1.0
    spikes = network.is_spiking and not static and bool(((x >= 0) & (x == x.round())).all())
    # How often each input acts is all that goes through the layers; where that is a real number it acts in every pass.
    entering = (x if static else within(x, lengths).sum(0)).unsqueeze(0)

    def cross(name: str, layer: Spiking, signal: Signal, *_: Any) -> Tensor:
        assert isinstance(signal, Tensor)
        times = (signal[0] / factor).round() if spikes else (signal[0] != 0).float()
        dense = passes * _reached(layer, torch.ones_like(signal[0, :1]))
        acted, lateral, own = (_reached(layer, times) if made or spikes else dense), 0.0, 0
        if isinstance(layer, Recurrent):
            lateral = float(counts[name].sum(dtype=torch.float64)) * len(layer.lateral)
            dense += steps * layer.lateral.numel()
        if network.is_spiking:
            own = steps * counts[name][0].numel() * (3 if getattr(layer, "adaptation", None) else 2)
        made[name] = Operations(*((0.0, acted + lateral) if spikes else (acted, lateral)), own, dense)
        return counts[name].unsqueeze(0) if name in counts else signal.new_zeros(1, samples, len(layer.weight))

    for _, layer, _ in network.walk(entering, cross):
        if isinstance(layer, Spiking):
            passes, factor = (steps if network.is_spiking else samples), 1.0
            spikes = network.architecture.neuron != "relu"
        elif isinstance(layer, SumPool2d):
            factor *= layer.pool.factor
    return made


def _reached(layer: Spiking, signal: Tensor) -> float:
    """Connections of a layer's map, each counted as often as its input acts."""
    if isinstance(layer, Conv2d):
        signal = F.conv2d(signal, torch.ones_like(layer.weight[:1]), padding=layer.padding)
    return float(signal.sum(dtype=torch.float64)) * len(layer.weight)
