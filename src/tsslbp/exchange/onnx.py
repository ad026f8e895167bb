"""ONNX: a trained network as a graph that onnxruntime and other runtimes compute, from raw samples to answers.

    proto = to_onnx(model)                # an onnx.ModelProto
    write(proto, "network.onnx")

The graph has these inputs and outputs, with a batch of any size N:

    samples   [N, ...]          as they are stored, uint8 or float32; normalisation, bins and changes are part of the graph
    lengths   [N], int64        for sequences only: stored steps of each before its padding
    output    [T, N, classes]   output currents; for outputs that do not spike, class probabilities with T = 1
    answer    [N], int64        the class with the largest sum over t, -1 where no output neuron spikes; not for target trains

``lowering.py`` writes the layers. ``torch.onnx.export`` is not used, as it writes out every step and takes many times as long.
"""

import copy
import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tsslbp import encoding
from tsslbp.data import Split
from tsslbp.exchange.filtering import FLOAT, INT64
from tsslbp.exchange.lowering import Writer, answers, evidence, prepared
from tsslbp.layers.noted import check_kinds
from tsslbp.metrics import decode
from tsslbp.network.network import Network
from tsslbp.training import Model
from tsslbp.training.model import as_model
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, needed, shown
from tsslbp.utils.signals import within

OPSET = 18
"""Version of ONNX's operators in a graph."""
IR = 8
"""Version of the file format for it."""
UINT8 = 2
MOST_BYTES = 2**31 - 2**20
"""An ONNX file is one protobuf message, which has to stay below 2 GiB."""
AT_ONCE, FILTERED_AT_ONCE = 100, 10
"""Samples in memory together. Filters of series need nine times the memory of the series, in double."""
ROUNDING = 1e-4
"""Output currents that differ by less come from the same spikes: one spike changes a current by 1/τs, shared among voters."""


def _library(name: str) -> ModuleType:
    """A package of the extra ``onnx``. Raises UserError if it is not installed."""
    return needed(name, f"ONNX files need the package {name}", "onnx")


def to_onnx(network: Network | Model) -> Any:
    """A network, or a model with its preparation of samples, as an ``onnx.ModelProto``.

    Raises:
        UserError: Poisson spikes, which a graph cannot have. onnx is not installed.
    """
    model = network if isinstance(network, Model) else as_model(network)
    _check(model)
    helper = _library("onnx").helper
    network = copy.deepcopy(model.network).cpu().float()
    network.fold()
    w, inputs = Writer(helper), model.inputs
    lengths = "lengths" if inputs.sequence else None
    static = bool(inputs.filters) or (not inputs.sequence and encoding.get(inputs.encoding) is None)
    x = prepared(w, inputs, "samples", lengths, model.sample_shape)
    steps = None
    if lengths is not None and not inputs.filters:
        steps = w.op("Div", w.op("Add", lengths, torch.tensor(inputs.bin - 1)), torch.tensor(inputs.bin))
    with torch.no_grad():
        made = evidence(w, network, x, static, steps)
    named = {"output": made} if model.trains else {"output": made, "answer": answers(w, made)}
    w.nodes += [helper.make_node("Identity", [source], [name]) for name, source in named.items()]
    stored = UINT8 if model.stores_bytes else FLOAT
    values = [helper.make_tensor_value_info("samples", stored, ["N", *model.sample_shape])]
    values += [helper.make_tensor_value_info("lengths", INT64, ["N"])] if lengths else []
    steps_out = network.time_steps if network.spikes_last else 1
    outputs = [helper.make_tensor_value_info("output", FLOAT, [steps_out, "N", len(model.classes)])]
    outputs += [] if model.trains else [helper.make_tensor_value_info("answer", INT64, ["N"])]
    graph = helper.make_graph(w.nodes, "network", values, outputs, w.constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    _describe(proto, model)
    return proto


def _check(model: Model) -> None:
    """Raises UserError for a model that a graph cannot represent."""
    network, inputs = model.network, model.inputs
    check_kinds(network)
    if isinstance(encoding.get(inputs.encoding), encoding.Poisson):
        raise UserError("its samples become random spikes, which an ONNX graph cannot draw; train with --encoding constant")
    if sum(weight.nbytes for weight in network.state_dict().values()) > MOST_BYTES:
        raise UserError("its weights take more than 2 GiB, which an ONNX file cannot hold; train a smaller network")


def _describe(proto: Any, model: Model) -> None:
    version = metadata.version("tsslbp")
    proto.producer_name, proto.producer_version = "tsslbp", version
    told = {
        "time_steps": str(model.network.time_steps),
        "classes": "\n".join(model.classes),
        "tsslbp": json.dumps(model.given_away().about()),
    }
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

    A spike that only one of them makes changes currents; rounding alone does not count (``ROUNDING``).

    Raises:
        UserError: onnxruntime is not installed, or refuses the graph.
    """
    runtime = _library("onnxruntime")
    differ = of = wrong = 0
    try:
        session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        at_once = FILTERED_AT_ONCE if model.inputs.filters else AT_ONCE
        for part in map(samples.select, torch.arange(len(samples)).split(at_once)):
            found, *answered = map(torch.from_numpy, session.run(None, _given(model, part)))
            output = model.outputs(part.x, part.lengths)
            differ += int(((found - output).abs() > ROUNDING).sum())
            ends = model.inputs.steps(part.lengths)
            of += int(within(torch.ones_like(output), None if len(output) == 1 else ends).sum())
            wrong += sum(int((answers != decode(output)).sum()) for answers in answered)
    except UserError:
        raise
    except Exception as error:  # its errors share no class
        raise UserError(f"onnxruntime does not run it ({type(error).__name__}: {shown(error)})") from None
    counts = f"{differ:,} of {of:,} output currents" + ("" if model.trains else f" and {wrong:,} of {len(samples):,} answers")
    yield f"onnxruntime {runtime.__version__}: {counts} differ"


def _given(model: Model, samples: Split) -> dict[str, Any]:
    """The inputs of a graph for samples, by name."""
    given = {"samples": samples.x.to(torch.uint8 if model.stores_bytes else torch.float32).numpy()}
    if model.inputs.sequence:
        every = torch.full((len(samples),), model.inputs.raw_steps)
        given["lengths"] = (every if samples.lengths is None else samples.lengths).long().numpy()
    return given
