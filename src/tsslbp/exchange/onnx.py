"""ONNX: a trained network as a graph that onnxruntime and other runtimes compute, from raw samples to answers.

    proto = to_onnx(model)                # an onnx.ModelProto
    write(proto, "network.onnx")

The graph has the inputs and outputs of :class:`Whole`, with a batch of any size N:

    samples   [N, ...]          as they are stored, uint8 or float32; normalisation, bins and changes are part of the graph
    lengths   [N], int64        of sequences only: how many stored steps each has before its padding
    output    [T, N, classes]   output currents; of an ANN its class probabilities, T = 1
    answer    [N], int64        the class with the largest sum over t, -1 where no output neuron spikes

Time is written out step by step, so the graph grows with T. ``torch.export`` traces the readable reference (``neuron.py``),
because the C++ kernels have no form in ONNX.
"""

import copy
import json
import warnings
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from tsslbp import encoding, files
from tsslbp.data import Split
from tsslbp.errors import UserError, shown
from tsslbp.layers import Spiking
from tsslbp.metrics import decode
from tsslbp.networks import Network
from tsslbp.signal import within
from tsslbp.training import Model
from tsslbp.training.model import alone

OPSET = 18
"""Version of ONNX's operators that a graph is written in."""
MOST_STEPS = 300
"""Steps of all spiking layers together that are written out."""
MOST_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which has to stay below 2 GiB."""
AT_ONCE = 100
"""Samples in memory together."""
ROUNDING = 1e-4
"""Output currents that differ by less come from the same spikes: one spike changes a current by 1/τs, shared among voters."""


def _library(name: str) -> ModuleType:
    """A package of the extra ``onnx``. Raises UserError if it is not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f"ONNX files need the package {name}: pip install 'tsslbp[onnx]'") from None


class Whole(nn.Module):
    """A model as one function of raw samples, which is what the graph computes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        network = copy.deepcopy(model.network).cpu()
        network.fold()
        for layer in network.modules():
            if isinstance(layer, Spiking):
                layer.quantise("float")  # the folded weights already are what they are rounded to
                layer.backend = "reference"
        self.network, self.inputs = network, model.inputs
        self.requires_grad_(False).eval()

    def forward(self, samples: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output ``[T, N, classes]`` and answers ``[N]`` for samples ``[N, ...]``, whose sequences have ``lengths`` ``[N]``."""
        output = self.network.evidence(self.network(self.inputs(samples, 0, lengths)))
        if lengths is not None:
            output = within(output, self.inputs.lengths(lengths))
        return output, decode(output)


def to_onnx(network: Network | Model) -> Any:
    """A network, or a model with its preparation of samples, as an ``onnx.ModelProto``.

    Raises:
        UserError: what the graph cannot say: Poisson spikes, filters of series, more steps than it makes sense to write out.
            onnx or onnxscript is not installed.
    """
    for name in ("onnx", "onnxscript"):
        _library(name)
    model = network if isinstance(network, Model) else alone(network)
    _check(model)
    given: list[Tensor] = [torch.zeros(2, *model.sample_shape, dtype=_stored_as(model))]
    if model.inputs.sequence:
        given.append(torch.full((2,), model.inputs.raw_steps))
    n = torch.export.Dim("N", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on its own insides
        program = torch.onnx.export(
            Whole(model),
            tuple(given),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: n},) * len(given),
            input_names=["samples", "lengths"][: len(given)],
            output_names=["output", "answer"],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    # Instead of failing, the exporter falls back to a graph for as many samples as it was shown.
    assert all(value.type.tensor_type.shape.dim[0].dim_param == "N" for value in proto.graph.input)
    _remove_traces(proto)
    _describe(proto, model)
    return proto


def _check(model: Model) -> None:
    """Raises UserError for what a graph cannot say."""
    network, inputs = model.network, model.inputs
    if inputs.filters:
        raise UserError("the model filters series, which is not written as ONNX yet; train it with --filters 0")
    if isinstance(encoding.get(inputs.encoding), encoding.Poisson):
        raise UserError("its samples become random spikes, which an ONNX graph cannot draw; train with --encoding constant")
    steps = network.time_steps * sum(isinstance(layer, Spiking) for _, layer in network.named_layers())
    if network.is_spiking and steps > MOST_STEPS:
        raise UserError(
            f"ONNX writes every step out, which would be {steps:,} steps of all layers together; the most is {MOST_STEPS:,}: "
            "take fewer time steps, or --format c"
        )
    if sum(weight.nbytes for weight in network.state_dict().values()) > MOST_BYTES:
        raise UserError("its weights take more than 2 GiB, which an ONNX file cannot hold; train a smaller network")


def _stored_as(model: Model) -> torch.dtype:
    """Type of stored samples, where a file of 0.1.0 does not say as their scale has it."""
    stored = model.facts.dtype if model.facts else "uint8" if model.inputs.normalisation.scale == 255 else "float32"
    return torch.uint8 if stored == "uint8" else torch.float32


def _remove_traces(proto: Any) -> None:
    """Remove what the exporter notes of this machine: lines of source with their paths, at every node and value."""
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]


def _describe(proto: Any, model: Model) -> None:
    version = metadata.version("tsslbp")
    proto.producer_name, proto.producer_version = "tsslbp", version
    told = {
        "time_steps": str(model.network.time_steps),
        "classes": "\n".join(model.classes),
        "tsslbp": json.dumps(model.about()),
    }
    del proto.metadata_props[:]
    for key, value in told.items():
        proto.metadata_props.add(key=key, value=value)


def write(proto: Any, path: str | Path) -> None:
    """Write a graph to a file, which is replaced whole or not at all. Raises UserError if it cannot be written."""
    files.write_bytes(Path(path), proto.SerializeToString())


def described(proto: Any) -> str:
    """A graph in a line."""
    names = ", ".join(f"{value.name} {_shape(value)}" for value in (*proto.graph.input, *proto.graph.output))
    return f"{len(proto.graph.node):,} nodes, opset {proto.opset_import[0].version}, {names}"


def _shape(value: Any) -> str:
    sizes = (size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
    return f"[{', '.join(map(str, sizes))}]"


def check(proto: Any, model: Model, samples: Split) -> Iterator[str]:
    """Run samples in onnxruntime, and say in a line how many output currents and answers differ from the model's own.

    A spike that is made in one and not in the other changes currents; rounding alone does not count (``ROUNDING``).

    Raises:
        UserError: onnxruntime is not installed, or refuses the graph.
    """
    runtime = _library("onnxruntime")
    differ = of = wrong = 0
    try:
        session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        for part in map(samples.select, torch.arange(len(samples)).split(AT_ONCE)):
            found, answers = map(torch.from_numpy, session.run(["output", "answer"], _given(model, part)))
            output = model.outputs(part.x, part.lengths)
            differ += int(((found - output).abs() > ROUNDING).sum())
            of += output.numel()
            wrong += int((answers != decode(output)).sum())
    except UserError:
        raise
    except Exception as error:  # its errors share no class of their own
        raise UserError(f"onnxruntime does not run it ({type(error).__name__}: {shown(error)})") from None
    counts = f"{differ:,} of {of:,} output currents and {wrong:,} of {len(samples):,} answers"
    yield f"onnxruntime {runtime.__version__}: {counts} differ"


def _given(model: Model, samples: Split) -> dict[str, Any]:
    """What a graph takes of samples, by name."""
    given = {"samples": samples.x.to(_stored_as(model)).numpy()}
    if model.inputs.sequence:
        every = torch.full((len(samples),), model.inputs.raw_steps)
        given["lengths"] = (every if samples.lengths is None else samples.lengths).long().numpy()
    return given
