"""Whether a sample's spikes are the same in every program: a proof by margins.

A sum of products of absolute sum S is off by at most γ_n·S, where γ_n = n·η/(1 - n·η), if each product goes through n roundings
of relative error η, in any order of addition. So the error of a membrane potential stays below the bound E, which follows the
neuron's own equations. With q = 1 - 1/τs, p = 1 - 1/τm and N terms in a neuron's sum,

    S[t] = |W|·|a[t]| + |b|                                                      size of the input current
    M[t] = p·M[t-1]·(1 - s[t-1]) + S[t]                                          size of the potential
    F[t] = q·F[t-1] + γ_C·S[t-1]                                                 synapse computed as i + (x - i)/τs
    E[t] = p·E[t-1]·(1 - s[t-1]) + γ_(N + C·(t+1))·S[t] + F[t] + γ_C·(M[t] + M[t-1]·(1 - s[t-1]))

For the first map, |a[t]| is made from the absolute values of the input, as pooling and the synapse may cancel numbers.

If |u - θ| is above E at every neuron and step, every program makes the same spikes, by induction over steps and layers. Here u
is computed in float64, whose own bound is added.

The program must compute in the type asked for, constants included, by forward Euler. Any order of sums and fused operations are
allowed, fast approximations are not.

Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM 2002, sections 3.1 and 3.4.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.exchange.outgoing import as_written
from tsslbp.layers import Joined, MaxPool, Pooling, Readout, Recurrent, Spiking
from tsslbp.network.network import Network
from tsslbp.neuron import LIF, delayed, membrane_potential, passed
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Constant, Signal, expanded

C = 8
"""Roundings of a number in a step of a synapse or a membrane, including those of the constants."""


def guaranteed(network: Network, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> dict[torch.dtype, Tensor]:
    """Which samples have guaranteed spikes in each type.

    Args:
        network: in evaluation mode.
        x: network input, ``[B, ...]`` or ``[T, B, ...]``.
        dtypes: float32, float64.

    Returns:
        ``[B]`` of bool for each type.
    """
    whole = as_written(network, torch.float64)
    proof, x = _Proof(whole, dtypes), x.double()
    signal = whole.encode(torch.cat([x, x.abs()], 0 if whole.is_static(x) else 1))
    with torch.no_grad():
        for _ in whole.walk(signal, proof.cross):
            pass
    return proof.safe


@dataclass
class _Proof:
    """Follows a network through its layers and keeps which samples are safe so far.

    The second half of the batch has the absolute values of the input, which pooling and the first synapse may otherwise cancel.
    """

    network: Network
    dtypes: tuple[torch.dtype, ...]
    safe: dict[torch.dtype, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.synapse_decay = self.network.neuron.synapse_decay
        """q of the next neurons' input."""
        sizes = copy.deepcopy(self.network)
        for weight in sizes.parameters():
            weight.data.abs_()
        self.sizes: dict[nn.Module, Any] = dict(zip(self.network.modules(), sizes.modules(), strict=True))
        """The same layers with absolute weights."""
        self.terms = dict(_terms(self.network))

    def cross(self, name: str, layer: Any, signal: Any, *form: object) -> Tensor:
        """A signal crosses neurons as usual, and every margin is compared with the bound of rounding."""
        if isinstance(layer, MaxPool):
            raise UserError(f"layer {name!r} is max pooling, for which there is no bound")
        signal, sizes = _halves(signal)
        a = layer(signal)
        if isinstance(layer, Readout):  # nothing spikes there
            for dtype in self.dtypes:
                self.safe.setdefault(dtype, torch.ones(a.shape[1], dtype=torch.bool))
            return torch.cat([a, a], 1)
        current, size = expanded(layer.current(signal)), expanded(self.sizes[layer].current(self._absolute(sizes)))
        terms = self.terms[name]
        if isinstance(layer, Recurrent):
            before = delayed(a)
            current = current + F.linear(before, layer.lateral)
            size = size + F.linear(before, layer.lateral.abs())
            terms += len(layer.lateral)
        u = membrane_potential(current, layer.neuron)
        self._compare(u, size, layer.neuron, terms)
        self.synapse_decay = torch.as_tensor(layer.neuron.synapse_decay).flatten()[0].item()  # outgoing.py demands one
        return torch.cat([a, a], 1)

    def _compare(self, u: Tensor, size: Tensor, neuron: LIF, terms: int) -> None:
        """Compare margins with the bounds; ``u`` and ``size`` (S) are ``[T, B, ...]``."""
        q, p, left = self.synapse_decay, neuron.membrane_decay, passed(u, neuron)
        margins = (u - neuron.threshold).abs()
        for dtype in self.dtypes:
            fine = torch.ones(u.shape[1], dtype=torch.bool)
            few = _gamma(C, dtype)
            potential = error = synapse = torch.zeros_like(u[0])  # M, E and F of the step before
            for t, current in enumerate(size):
                if t:
                    potential, error = potential * left[t - 1], error * left[t - 1]
                    synapse = q * synapse + few * size[t - 1]
                before, potential = potential, p * potential + current
                error = p * error + _gamma(terms + C * (t + 1), dtype) * current + synapse + few * (potential + before)
                allowed = error + few * neuron.threshold
                fine &= (margins[t] > allowed).flatten(1).all(1)
            self.safe[dtype] = self.safe.get(dtype, fine) & fine

    def _absolute(self, signal: Any) -> Any:
        if isinstance(signal, Joined):
            shortcut = None if signal.shortcut is None else self.sizes[signal.shortcut]
            return Joined(_positive(signal.signal), _positive(signal.entering), shortcut)
        return _positive(signal)


def _terms(network: Network) -> Iterator[tuple[str, int]]:
    """Numbers that pooling and maps add up in the input of a neuron, by layer, those of its shortcut included."""
    pooled = before = 0  # numbers of pooling since the last neurons, now and where the block began
    block = None
    for name, layer, inside in network.unpacked():
        if (inside and inside.name) != block:
            block, before = inside and inside.name, pooled
        if isinstance(layer, Pooling):
            pooled += layer.size**2
        elif isinstance(layer, Spiking):
            terms, pooled = pooled + layer.weight[0].numel(), 0
            if inside and inside.last:
                terms += before + (1 if inside.block.shortcut is None else inside.block.shortcut.weight[0].numel())
            yield name, terms


def _halves(signal: Any) -> list[Any]:
    """A signal of half of the batch each."""
    if isinstance(signal, Joined):
        parts = zip(_halves(signal.signal), _halves(signal.entering), strict=True)
        return [Joined(inner, entering, signal.shortcut) for inner, entering in parts]
    if isinstance(signal, Constant):
        return [Constant(value, signal.response) for value in signal.value.chunk(2)]
    return list(signal.chunk(2, 1))


def _positive(signal: Signal) -> Signal:
    return Constant(signal.value.abs(), signal.response) if isinstance(signal, Constant) else signal.abs()


def _gamma(roundings: int, dtype: torch.dtype) -> float:
    """γ_n for a type (η is half its eps), plus that of float64."""
    errors = (roundings * torch.finfo(each).eps / 2 for each in (dtype, torch.float64))
    return sum(error / (1 - error) for error in errors)
