"""How busy a network is, and what that costs: on hardware that skips zeros, and on hardware that skips nothing.

Where zeros are skipped:

- A spike, or a binary unit that is 1, costs one addition (AC) per connection.
- A real number costs one multiplication with addition (MAC) per connection. A ReLU unit that is 0 costs none.
- The first layer on a picture costs a MAC per connection in every network, also where a pixel is 0. It is computed once per
  sample, because a constant current does not change.
- A spiking network takes a sequence of whole numbers as spikes. It computes the first layer on a sequence of real numbers at
  every step, also where they are 0. An ANN takes the mean of a sequence, in which zeros cost nothing.

Where nothing is skipped, every connection is a MAC: in an ANN and in the first layer on a picture once per sample, elsewhere at
every step.

In both ways:

- A spiking neuron itself does 2 MACs at every step, for the leak and the synapse, and a third if its threshold adapts. This
  holds for every time constant, although 1 and infinity need fewer. A unit of an ANN only does a comparison.
- The zeros of a convolution's padding are no connections, and steps after the end of a sequence do not count.
- Pooling adds no operations. A spike goes through a sum or average pool to all connections after it; real numbers are summed
  first and then multiplied, unless all of them are 0. Those sums, at most one addition per unit, are left out. After max
  pooling its own spikes count.
- A bias is one more connection for each neuron and acts at every step. A normalised layer counts as the weights and bias that
  it is folded into. The shortcut of a residual block belongs to the block's last layer; without a map it is one connection for
  each neuron.
- Moving data, which costs more than arithmetic on real chips, is left out.

Source of the energies: M. Horowitz, "Computing's energy problem", ISSCC 2014: 45 nm, 32-bit floating point, 3.7 pJ for a
multiplication and 0.9 pJ for an addition.
"""

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from tsslbp.data import Split
from tsslbp.encoding import CONSTANT
from tsslbp.layers import Convolution, Joined, MaxPool, Recurrent, Spiking, SumPool
from tsslbp.network.network import Network
from tsslbp.training import Model
from tsslbp.utils.signals import Signal, within

MAC_PJ, AC_PJ = 4.6, 0.9
"""Energy of one operation in picojoules."""


@dataclass(frozen=True)
class Operations:
    """Operations per sample or per batch, and their energy."""

    macs: float
    """Multiplications with addition of connections, where zeros are skipped."""
    acs: float
    """Additions of connections, where zeros are skipped."""
    own_macs: float
    """Multiplications with addition in the neurons."""
    dense_macs: float
    """Multiplications with addition of connections, where nothing is skipped."""

    @property
    def energy_nj(self) -> float:
        """Energy in nanojoules where zeros are skipped, neurons included."""
        return (MAC_PJ * (self.macs + self.own_macs) + AC_PJ * self.acs) / 1000

    @property
    def dense_nj(self) -> float:
        """Energy in nanojoules where nothing is skipped, neurons included."""
        return MAC_PJ * (self.dense_macs + self.own_macs) / 1000


def total(parts: Iterable[Operations], samples: int = 1) -> Operations:
    """The sum of some operations, divided by the number of samples."""
    return Operations(*(sum(kind) / samples for kind in zip(*map(astuple, parts), strict=True)))


@dataclass(frozen=True)
class Activity(Operations):
    """Activity of neurons per sample. Units of an ANN count as spiking once if they are not 0."""

    spikes: float | None
    """Per neuron and sample; None if there are no neurons to count, as in an ANN of a single layer."""
    silent: float | None
    """Share of neurons that spiked for no sample, from 0 to 1; None likewise."""


def measure(model: Model, samples: Split, batch_size: int = 100) -> Activity:
    """Activity of a model on stored samples, in evaluation mode, up to the end of each sequence."""
    network, made, trains = model.network, [], enter_as_spikes(model, samples, batch_size)
    fired: dict[str, Tensor] = {}
    with model.evaluating(samples, batch_size) as batches:
        for part, inputs in batches:
            counts = spike_counts(network, inputs, part.lengths)
            for name, count in counts.items():
                if isinstance(network.layers.get_submodule(name), Spiking):
                    fired[name] = fired.get(name, 0) + count.sum(0, dtype=torch.float64)
            made.append(operations(network, inputs, counts, part.lengths, trains))
    n, spikes, silent = len(samples), None, None
    if fired:
        neurons = torch.cat([count.flatten() for count in fired.values()])
        spikes, silent = float(neurons.mean()) / n, float((neurons == 0).double().mean())
    return Activity(**asdict(total(made, n)), spikes=spikes, silent=silent)


def spike_counts(network: Network, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
    """Spikes of every neuron by layer, and of max pooling, ``[B, ...]`` each, for network input ``x``. An output that does not
    spike is left out.

    ``lengths`` ``[B]``: steps of each sequence, the rest being padding.
    """
    walk = network.walk(network.encode(x))
    outputs = {name: cast(Tensor, signal) for name, layer, signal in walk if isinstance(layer, Spiking | MaxPool)}
    if network.is_spiking:
        return {name: within(train.float(), lengths).sum(0) for name, train in network.trains(outputs).items()}
    *hidden, _ = outputs
    return {name: (outputs[name][0] > 0).float() for name in hidden}


def enter_as_spikes(model: Model, samples: Split, batch_size: int) -> bool:
    """Whether samples enter the network as sequences of spikes or events, and not of real numbers: one decision for all."""
    if not model.inputs.sequence:
        return model.inputs.encoding != CONSTANT
    with model.evaluating(samples, batch_size) as batches:
        return all(_count_events(x) for _, x in batches)


def _count_events(x: Tensor) -> bool:
    return bool(((x >= 0) & (x == x.round())).all())


def operations(
    network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None, trains: bool | None = None
) -> Operations:
    """Operations of a batch, given its :func:`spike_counts`.

    ``trains``: whether a sequence is of spikes or events (:func:`enter_as_spikes`); None looks at the batch.
    """
    return total(layer_operations(network, x, counts, lengths, trains).values())


def layer_operations(
    network: Network, x: Tensor, counts: dict[str, Tensor], lengths: Tensor | None = None, trains: bool | None = None
) -> dict[str, Operations]:
    """:func:`operations` by layer, for its map, lateral connections and neurons."""
    made: dict[str, Operations] = {}
    static, spiking = network.is_static(x), network.is_spiking
    samples = len(x) if static else x.shape[1]
    steps = samples * network.time_steps if lengths is None else int(lengths.sum())
    passes = steps if spiking else samples
    # The signal is how often each input acts; a real number acts in every pass.
    entering = (x if static else within(x, lengths).sum(0)).unsqueeze(0)
    trains = spiking and not static and (_count_events(x) if trains is None else trains)
    kind = _Kind(trains, samples if static else passes, dense=static or (spiking and not trains))
    kinds = _kinds(network, kind, passes)

    def cross(name: str, layer: Spiking | MaxPool, signal: Tensor | Joined, *_: Any) -> Tensor:
        if isinstance(layer, MaxPool):
            return counts[name].unsqueeze(0)
        of_signal, of_entering = kinds[name]
        ways: list[tuple[Spiking | None, Signal, _Kind]] = [(layer, signal, of_signal)] if isinstance(signal, Tensor) else []
        if isinstance(signal, Joined):
            ways = [(layer, signal.signal, of_signal), (signal.shortcut, signal.entering, of_entering)]
        macs = acs = dense = 0.0
        for map_, input_, of in ways:
            assert isinstance(input_, Tensor)
            all_ = of.passes * _reached(map_, torch.ones_like(input_[0, :1]))
            times = (input_[0] / of.factor).round() if of.spikes else (input_[0] != 0).float()
            acted = all_ if of.dense else _reached(map_, times)
            macs, acs, dense = macs + acted * (not of.spikes), acs + acted * of.spikes, dense + all_
        after = counts[name].unsqueeze(0) if name in counts else torch.zeros(1, samples, len(layer.weight))
        neurons = after[0, 0].numel()
        if any(map_ is not None and not (map_.bias is None and map_.norm is None) for map_, *_ in ways):
            acs, dense = acs + passes * neurons, dense + passes * neurons
        if isinstance(layer, Recurrent):
            acs += float(counts[name].sum(dtype=torch.float64)) * len(layer.lateral)
            dense += steps * layer.lateral.numel()
        own = steps * neurons * (3 if getattr(layer, "adaptation", None) else 2) if spiking else 0
        made[name] = Operations(macs, acs, own, dense)
        return after

    for _ in network.walk(entering, cross):
        pass
    return made


@dataclass(frozen=True)
class _Kind:
    """The kind of a signal on its way through the layers."""

    spikes: bool
    """Whether it is spikes, not real numbers."""
    passes: int
    """How often its map is computed where nothing is skipped."""
    dense: bool = False
    """Whether it acts in every pass even where it is 0, as a picture does, and real numbers in a sequence."""
    factor: float = 1.0
    """Factor of pooling."""


def _kinds(network: Network, kind: _Kind, passes: int) -> dict[str, tuple[_Kind, _Kind]]:
    """Kinds of the inputs of each layer, by name, and of the residual block it is in, given that of the network's input."""
    kinds, block, entering = {}, None, kind
    for name, layer, inside in network.unpacked():
        if (inside and inside.name) != block:
            block, entering = inside and inside.name, kind
        kinds[name] = kind, entering
        if isinstance(layer, Spiking):
            kind = _Kind(network.architecture.neuron != "relu", passes)
        elif isinstance(layer, SumPool):
            kind = replace(kind, factor=kind.factor * layer.pool.factor)
    return kinds


def _reached(layer: Spiking | None, signal: Tensor) -> float:
    """Connections of a layer's map (None: one for each input), each counted as often as its input acts."""
    if layer is None:
        return float(signal.sum(dtype=torch.float64))
    outputs = len(layer.weight)
    if isinstance(layer, Convolution):  # the channels of a group reach the same pixels
        signal, outputs = layer.convolve(signal, torch.ones_like(layer.weight[: layer.groups])), outputs // layer.groups
    return float(signal.sum(dtype=torch.float64)) * outputs
