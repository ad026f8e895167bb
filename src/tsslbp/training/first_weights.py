"""First weights of a training: those of a trained network, or random ones whose size is fitted to the data."""

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tsslbp.data import Split
from tsslbp.data.dataset import AS_STORED
from tsslbp.kernels import Pool
from tsslbp.layers import BatchNorm, MaxPool, Recurrent, Spiking
from tsslbp.network.architecture import Architecture
from tsslbp.network.network import Network
from tsslbp.neuron import CONSTANTS
from tsslbp.training.inputs import Inputs
from tsslbp.training.model import Model
from tsslbp.training.reading import as_stored
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Signal, length_mask

LOW, HIGH = 0.02, 0.5
"""Rates, in spikes per neuron and step, between which a hidden layer is to start."""
STEP, MOST = 1.3, 30
"""Factor by which weights are changed at a time, and how often at most."""
RATE_SAMPLES = 100
"""Training samples on which rates are measured."""


def take(network: Network, path: Path) -> None:
    """Give a network the weights of a trained one, fitted to its bits; with the same bits, also the limits.

    Normalised and standardised layers go on as such in a network that has the same; in any other they are folded first. From
    few bits to others, weights begin as the numbers that the network computed with, unless they stay standardised.

    Args:
        network: to change in place.
        path: a run's folder or a model file.

    Raises:
        UserError: no model there, or one of other layers.
    """
    given = as_stored(path).network
    a, b = given.architecture, network.architecture
    if (a.network, a.standardise) != (b.network, b.standardise):
        given.fold()
    if a.bits not in ("float", b.bits):  # the numbers that it computes with, not those from which they were rounded
        for rounded in (layer for layer in given.modules() if isinstance(layer, Spiking) and layer.gain is None):
            rounded.weight.data.copy_(rounded.effective_weight())
            if isinstance(rounded, Recurrent):
                rounded.lateral.data.copy_(rounded.effective_lateral())
    own, theirs = network.state_dict(), given.state_dict()
    spiking = given.is_spiking and network.is_spiking
    constants = () if spiking else tuple(f".{name}" for name in CONSTANTS)  # which an ANN has not
    theirs = {name: x for name, x in theirs.items() if not name.endswith(constants)}
    drawn_here = (".limit", *constants)
    weights, wanted = ({name: x for name, x in each.items() if not name.endswith(drawn_here)} for each in (theirs, own))
    if {name: weight.shape for name, weight in weights.items()} != {name: weight.shape for name, weight in wanted.items()}:
        raise _other_layers(a, b, path, wanted.keys() ^ weights.keys())
    if spiking:
        _need_same_constants(a, b, path)
    for layer, drawn in zip(_standardised(given), _standardised(network), strict=True):
        layer.gain.data.mul_(layer.size / drawn.size)  # for the same effective weight
    same = a.bits == b.bits
    network.load_state_dict({**own, **(theirs if same else weights)})
    if not same:
        for layer in network.modules():
            if isinstance(layer, Spiking):
                layer.quantise(layer.bits)


def _other_layers(a: Architecture, b: Architecture, path: Path, others: Collection[str]) -> UserError:
    """The error for a network ``b`` that the model ``a`` at a path does not fit; ``others`` are weights of one of the two."""
    found = f"--init {path} holds {a.network} for samples of {list(a.input_shape)}"
    if (a.network, a.input_shape) != (b.network, b.input_shape):
        return UserError(f"{found}, not {b.network} for {list(b.input_shape)}; give --network {a.network}, or another file")
    ways = [f"{'give' if a.standardise else 'leave out'} --standardise"] * (a.standardise != b.standardise)
    for flag, here, there in (("--learn", b.learn, a.learn), ("--per-neuron", b.per_neuron, a.per_neuron)):
        if here != there:
            ways.append(f"give {flag} {' '.join(there)}" if there else f"leave out {flag}")
    fix = " and ".join(ways) or "give its other settings, too"
    return UserError(f"{found}, which differ in {', '.join(sorted(others))}: {fix}")


def _need_same_constants(a: Architecture, b: Architecture, path: Path) -> None:
    """Raises UserError if constants that come with the weights of ``a`` began with another value than ``b`` has."""
    # Fixed constants of neurons need a spread, also where they were learned without one.
    spread = ["spread"] if a.spread or {*b.per_neuron} <= {*b.learn} else []
    for name in (*b.learn, *b.per_neuron, *spread):
        there, here = getattr(a, name), getattr(b, name)
        if here != there:
            brings = f"--init {path} brings its own, which began at {there:g}: give that"
            raise UserError(f"--{name.replace('_', '-')} is {here:g}; {brings}")


def unlike(model: Model, path: Path) -> str:
    """The flags that would give a model what the one at ``path`` has in place of its own; empty if there are none."""
    given = as_stored(path)
    a, b = given.network.architecture, model.network.architecture
    if not (given.network.is_spiking and model.network.is_spiking) or a.bits != b.bits:  # leaks follow from the bits
        return ""
    names = ["tau_m", "tau_s", "threshold", *([] if model.inputs.sequence else ["time_steps"])]
    flags = [f"--{name.replace('_', '-')} {getattr(a, name)!r}" for name in names if getattr(a, name) != getattr(b, name)]
    stored = given.inputs.normalisation == AS_STORED != model.inputs.normalisation
    return " ".join([*flags, *["--normalise none"] * stored])


def _standardised(network: Network) -> list[Any]:
    """Layers with standardised weights."""
    return [layer for layer in network.modules() if isinstance(layer, Spiking) and layer.gain is not None]


def scale(network: Network, inputs: Inputs, train: Split, config: TrainConfig) -> None:
    """Scale a network's initial weights in place by ``first_rates``, ``hidden_scale`` and ``output_scale``.

    Raises UserError if weights of ``init``, times their scale, are beyond ``weight_clamp``, which would cut them in the first
    step.
    """
    with torch.no_grad():
        shortcuts = [(name, layer) for name, layer in network.named_modules() if name.endswith("shortcut")]
        for name, layer in (*network.named_layers(), *shortcuts):
            factor = config.output_scale if name == "output" else config.hidden_scale
            if isinstance(layer, Spiking) and factor != 1:
                _multiply(layer, factor)
        largest = max((float(weight.abs().max()) for weight in clamped(network) if weight.numel()), default=0.0)
        if config.init is not None and 0 < config.weight_clamp < largest:
            cut = f"--weight-clamp {config.weight_clamp:g} would cut in the first step"
            raise UserError(f"weights of --init reach {largest:.3g}, which {cut}; give a larger --weight-clamp, or 0 for none")
        if config.first_rates and network.is_spiking:
            few = train.few(RATE_SAMPLES)
            running = [buffer.clone() for buffer in network.buffers()]
            for layer in network.eval().modules():
                if isinstance(layer, BatchNorm):
                    layer.train()  # there are no running statistics yet
            steps = inputs.steps(few.lengths)
            inside = None if steps is None else length_mask(steps, inputs.time_steps)
            _into_range(network, inputs(few.x, 0, few.lengths), inside, config.weight_clamp or math.inf)
            network.train()
            for buffer, before in zip(network.buffers(), running, strict=True):
                buffer.copy_(before)


def clamped(network: Network) -> list[nn.Parameter]:
    """The weights that ``weight_clamp`` bounds: not the gains of normalisation, whose size follows from the threshold."""
    gains = {id(layer.gain) for layer in network.modules() if isinstance(layer, BatchNorm)}
    constants = network.constants()
    return [weight for name, weight in network.named_parameters() if name not in constants and id(weight) not in gains]


def _into_range(network: Network, x: torch.Tensor, inside: torch.Tensor | None, most: float) -> None:
    """Bring every layer's rate between LOW and HIGH, as far as weights up to ``most`` can."""

    def cross(name: str, layer: Spiking | MaxPool, signal: Signal, pool: Pool | None, bf16: bool) -> torch.Tensor:
        if isinstance(layer, MaxPool):
            return layer(signal)
        if name == "output" or layer.norm is not None:  # normalisation sets the size
            return layer(signal, pool, bf16, inside)
        drawn = {name: weight.clone() for name, weight in layer.state_dict().items()}
        for _ in range(MOST):
            fired = network.fired(layer(signal), name)
            rate = float((fired if inside is None else fired[inside]).float().mean())
            if LOW <= rate <= HIGH or (rate < LOW and STEP * float(_sized(layer).abs().max()) > most):
                break
            _multiply(layer, STEP if rate < LOW else 1 / STEP)
        else:  # the layer's weights are not what its rate depends on
            layer.load_state_dict(drawn)
        return layer(signal, pool, bf16)

    for _ in network.walk(network.encode(x), cross):
        pass


def _sized(layer: Spiking) -> torch.Tensor:
    """What the size of a layer's effective weights follows from."""
    return layer.weight if layer.gain is None else layer.gain


def _multiply(layer: Spiking, factor: float) -> None:
    """Multiply a layer's effective weights."""
    _sized(layer).mul_(factor)
    layer.quantise(layer.bits)
