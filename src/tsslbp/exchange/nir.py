"""NIR, the Neuromorphic Intermediate Representation: a trained network as a graph that other simulators and chips read.

    graph = to_nir(network)               # a nir.NIRGraph
    network = from_nir("network.nir")     # of a file or a graph

For a :class:`~tsslbp.training.Model`, :func:`to_nir` also writes the preparation of samples and the names of the classes into
the metadata, from where :func:`read` gets them back.

A graph takes a prepared sample at every step of ``dt`` seconds, and gives the spikes of the output neurons. The answer is the
class with the largest output current, which is a sum over those spikes:

    Σ_t a[t] = Σ_t s[t]·(1 - (1 - 1/τs)^(T-t))        t from 0 to T-1

An output that is read from its voltage is a CubaLI node; the answer is the class with the largest sum of its output.

Source: J. E. Pedersen et al., Neuromorphic intermediate representation, Nature Communications 15, 8122 (2024).
"""

import importlib.metadata
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tsslbp.exchange import graph as graphs
from tsslbp.exchange.incoming import network_of
from tsslbp.exchange.onset import ONSET, with_onset, without_onset
from tsslbp.exchange.outgoing import DT, UNIT, nodes_and_edges, plain
from tsslbp.layers import Recurrent, Spiking, Vote
from tsslbp.layers.quantisation import INPUT_UNIT, SMALLEST_LIMIT
from tsslbp.network.model_file import LONGEST
from tsslbp.network.network import Network
from tsslbp.network.notation import classes, voters
from tsslbp.training import Model
from tsslbp.training.model import as_model
from tsslbp.training.reading import model_of
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, shown

Bias = Literal["leak", "onset"]
"""How biases are written."""
DESCRIPTION = "tsslbp"
"""Entry of the metadata with a model's description; the others are for people."""
LIMITS = "limits"
"""Entry of the metadata that holds the grids of weights of few bits."""
DECODE = "class with the largest sum over t of spike[t]*(1-(1-1/tau_s)**(T-t)), t from 0 to T-1, T the steps of the sample"
DECODE_TRAINS = "the spikes of the output neurons"
DECODE_VOLTAGE = "class with the largest sum over the sample's steps of the output"
TIME_STEPS = 5
"""Default T of a graph, as for static samples elsewhere."""


def to_nir(network: Network | Model, bias: Bias = "leak") -> Any:
    """A network as a ``nir.NIRGraph`` whose spikes are exactly its own; ``exchange/outgoing.py`` has the equations.

    Args:
        network: a trained network, or a model, whose preparation of samples and classes then go into the metadata.
        bias: how biases are written if τs is above 1. "leak" makes them the leaks of the neurons, as in NIR's equations.
            "onset" makes a graph that also runs in simulators without leaks. It takes one more input channel, which is 1 at the
            first step and then 0 (``exchange/onset.py``).

    Raises:
        UserError: features that NIR lacks, with the layer named: adaptive thresholds, neurons without reset or leak, max
            pooling, pooling over one axis, kernels of even and odd sides; filters of series. Steps, votes or time constants
            that are not what the network's settings say, which would come back. nir is not installed.
    """
    model = network if isinstance(network, Model) else as_model(network)
    if model.inputs.filters:
        raise UserError("the model filters series, which NIR cannot say; write it as .onnx, or train it with --filters 0")
    _check_noted(model.network)
    network = plain(model.network)
    nodes, edges = nodes_and_edges(network)
    a, version = model.network.architecture, importlib.metadata.version("tsslbp")
    metadata = {
        "producer": f"tsslbp {version}",
        "dt": DT,
        "time_steps": a.time_steps,
        "tau_m": float(a.tau_m),
        "tau_s": float(torch.as_tensor(network.neuron_of().tau_s, dtype=torch.float64).detach().view(-1)[0]),
        "threshold": float(a.threshold),
        "classes": "\n".join(model.classes),
        "decode": DECODE_TRAINS if model.trains else DECODE if network.spikes_last else DECODE_VOLTAGE,
        **({UNIT: 1 / INPUT_UNIT} if a.bits != "float" else {}),
        DESCRIPTION: json.dumps(model.given_away().about()),
        LIMITS: json.dumps(_limits(network)),
    }
    graph = graphs.library().NIRGraph(nodes, edges, metadata=metadata)
    if bias == "onset" and not network.spikes_last:
        raise UserError("an onset channel does not reach an output that is read from its voltage; export with --bias leak")
    return with_onset(graph) if bias == "onset" else graph


def _check_noted(network: Network) -> None:
    """Raises UserError where :func:`read` would take from the settings what the network has otherwise."""

    def told(net: Network) -> dict[str, object]:
        layers = {name: layer for name, layer in net.named_layers() if isinstance(layer, Spiking) and not layer.neuron.varies}
        taus = {
            f"(tau_m, tau_s, reset) of {name}": (layer.neuron.tau_m, layer.neuron.tau_s, layer.neuron.reset)
            for name, layer in layers.items()
        }
        votes = [layer.voters for _, layer in net.named_layers() if isinstance(layer, Vote)]
        return {"time_steps": net.time_steps, "the votes for a class": votes, **taus}

    with torch.device("meta"):
        noted = told(Network(network.architecture))
    for name, found in told(network).items():
        if noted.get(name, found) != found:
            raise UserError(f"{name} is {found}, where the network's settings say {noted[name]}; build it with these settings")


def write(graph: Any, path: str | Path) -> None:
    """Write a graph to a file, which is replaced whole or not at all. Raises UserError if it cannot be written."""
    files.write_bytes(Path(path), graphs.write(graph))


def described_graph(graph: Any) -> str:
    """A graph in a line: how many nodes and neurons."""
    known = graphs.NEURONS + graphs.INTEGRATORS
    neurons = sum(math.prod(node.r.shape) for node in graph.nodes.values() if type(node).__name__ in known)
    return f"{len(graph.nodes)} nodes, {neurons:,} neurons"


@dataclass(frozen=True)
class Found:
    """A model from a graph, and what the graph did not say."""

    model: Model
    assumed: tuple[str, ...]
    """Settings that were neither in the metadata nor given, such as ``dt 0.0001 s``."""


def read(source: Any, dt: float | None = None, time_steps: int | None = None, sequences: bool = False) -> Found:
    """The model of a NIR file or graph.

    Args:
        source: a path or a ``nir.NIRGraph``.
        dt: seconds of a step. Default: 1e-4, which we write and most programs assume.
        time_steps: T. Default: that of the metadata, else 5.
        sequences: whether samples are sequences ``[B, T, ...]``, if there are no metadata that say so.

    Raises:
        UserError: a broken or hostile file, a graph that none of our networks can be; it names the node. nir is not installed.
    """
    graph = graphs.read(Path(source)) if isinstance(source, str | Path) else source
    if type(graph).__name__ != "NIRGraph":
        raise UserError(f"it is a {type(graph).__name__}, not a NIRGraph or the path of a NIR file")
    where = f"{source}: " if isinstance(source, str | Path) else ""
    try:
        return _model(graph, dt, time_steps, sequences)
    except UserError as error:
        raise UserError(f"{where}{error}") from None
    except Exception as error:  # odd numbers and shapes may raise anything
        raise UserError(
            f"{where}a node or the metadata hold what NIR does not allow ({type(error).__name__}: {shown(error)})"
        ) from None


def _model(graph: Any, dt: float | None, time_steps: int | None, sequences: bool) -> Found:
    metadata = graph.metadata if isinstance(graph.metadata, dict) else {}
    if ONSET in metadata:
        graph = without_onset(graph)
    like = _described(metadata)
    if time_steps is None:
        time_steps = like.network.time_steps if like else None
    assumed = [] if dt is not None or like else [f"dt {DT:g} s (--dt)"]
    assumed += [] if time_steps is not None else [f"T = {TIME_STEPS} (--time-steps)"]
    assumed += [] if sequences or like else ["static samples (--sequences)"]
    architecture = like.network.architecture if like else None
    tau_s = metadata.get("tau_s") if like else None
    if tau_s is not None and not 1 <= float(tau_s) < math.inf:
        raise UserError(f"its metadata have tau_s {shown(tau_s)}; it must be a number of steps from 1; remove the metadata")
    dt, time_steps = DT if dt is None else dt, TIME_STEPS if time_steps is None else time_steps
    network = network_of(graph, dt=dt, time_steps=time_steps, like=architecture, tau_s=tau_s)
    if like is None or architecture is None:
        assumed.append("that spikes reset to 0, as NIR says (snnTorch also writes its subtractive reset so)")
        if any(np.any(np.asarray(getattr(node, "v_leak", 0))) for node in graph.nodes.values()):
            assumed.append("that membrane potentials start at 0 (those of Norse start at v_leak)")
        tau = torch.as_tensor(network.neuron_of().tau_s).flatten()[0].item()
        if not network.spikes_last:
            assumed.append("that the answer is the class with the largest sum")
        elif tau > 1:
            assumed.append(f"that the answer is the class with the largest output current (τs = {tau:g}), not with most spikes")
        return Found(as_model(network, sequence=sequences), tuple(assumed))
    if sequences:
        raise UserError("its metadata say what its samples are; leave --sequences out")
    if (network.architecture.input_shape, network.time_steps) != (architecture.input_shape, architecture.time_steps):
        raise UserError(
            f"its metadata describe a model of {architecture.time_steps} steps of {list(architecture.input_shape)}, here are "
            f"{network.time_steps} of {list(network.architecture.input_shape)}; leave --time-steps out, or remove the metadata"
        )
    made, each = network.architecture.network, voters(architecture.network)
    if (classes(made), voters(made)) != (len(like.classes), each):
        raise UserError(
            f"its metadata describe {len(like.classes) * each} output neurons, {each} for each class, here are "
            f"{classes(made) * voters(made)}; remove the metadata"
        )
    if network.architecture.bits != "float":
        _take_limits(network, metadata.get(LIMITS))
    return Found(replace(like, network=network, trained={}), tuple(assumed))


def _limits(network: Network) -> dict[str, list[float]]:
    """The grids of weights of few bits, by name."""
    state = network.state_dict()
    return {name: value.abs().clamp(min=SMALLEST_LIMIT).tolist() for name, value in state.items() if name.endswith(".limit")}


def _take_limits(network: Network, text: object) -> None:
    """Give a network the grids of its weights. Raises UserError if they are damaged, or weights are elsewhere."""
    own = {name: value for name, value in network.state_dict().items() if name.endswith(".limit")}
    try:
        given = {name: torch.tensor(numbers) for name, numbers in json.loads(str(text)).items()}
        if given.keys() != own.keys() or any(not bool(((value > 0) & value.isfinite()).all()) for value in given.values()):
            raise ValueError("other layers, or numbers that are not positive and finite")
        for name, value in given.items():
            if value.shape != own[name].shape:
                raise ValueError(f"{name} has {len(value)} numbers for {len(own[name])} rows")
            own[name].copy_(value)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"its metadata {LIMITS!r} are damaged ({type(error).__name__}: {shown(error)})") from None
    for layer in network.modules():
        if isinstance(layer, Spiking):
            pairs = [(layer.effective_weight(), layer.weight)]
            pairs += [(layer.effective_lateral(), layer.lateral)] if isinstance(layer, Recurrent) else []
            if not all(torch.allclose(rounded, weight, rtol=1e-4, atol=1e-6) for rounded, weight in pairs):
                raise UserError("its weights are not those of few bits that its metadata tell of; remove the metadata")


def _described(metadata: dict[str, Any]) -> Model | None:
    """The model that the metadata describe, without weights; None if they do not. Raises UserError if they are damaged."""
    text = metadata.get(DESCRIPTION)
    if text is None:
        return None
    try:
        if not isinstance(text, str) or len(text) > LONGEST:
            raise ValueError("it is no short text")
        return model_of(json.loads(text))
    except UserError as error:
        raise UserError(f"its metadata {DESCRIPTION!r}: {error}") from None
    except Exception as error:  # damaged descriptions may raise anything
        raise UserError(f"its metadata {DESCRIPTION!r} are damaged ({type(error).__name__}: {shown(error)})") from None


def from_nir(source: Any, dt: float | None = None, time_steps: int | None = None) -> Network:
    """The network of a NIR file or graph, to use, to train further, to save; see :func:`read`.

    Example::

        network = from_nir("network.nir", time_steps=20)
        output = network(x)                     # [20, B, classes]
        network.save("model.safetensors")
    """
    return read(source, dt, time_steps).model.network
