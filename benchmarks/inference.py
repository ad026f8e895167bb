"""How long inference takes, event by event and densely: python benchmarks/inference.py --data-root DIR

Three networks with trained weights (models/) and with their first weights, one thread, single images and batches of 50. All
contestants of a network see the same test images and take turns; the times are medians. Writes
benchmarks/results/inference-PROCESSOR-DATE.json and prints the tables of docs/speed.md.

The other libraries start from first weights of their own. ReLU twins are dense maps of the same sizes in one pass;
that of onnxruntime needs the packages onnx and onnxruntime.
"""

import argparse
import copy
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import bench, data, machine
from tsslbp.bench import peers
from tsslbp.bench.cases import Case, plain_layers, weighted
from tsslbp.bench.measure import interleaved
from tsslbp.layers import Spiking
from tsslbp.networks import Network
from tsslbp.tables import markdown

ROOT = Path(__file__).parent.parent
CASES = {"fashion-mnist-fc": "fashion-mnist", "mnist-cnn": "mnist", "fashion-mnist-cnn": "fashion-mnist"}
"""Networks, each with its data set; the trained one is models/NAME-best."""
OURS, IMAGES = "tsslbp", 50
Call = Callable[[Tensor], Any]


def layer_by_layer(net: Network) -> Network:
    """A copy that computes its maps densely."""
    net = copy.deepcopy(net)
    for layer in net.modules():
        if isinstance(layer, Spiking):
            layer.by_changes = False
    return net


def twin(case: Case) -> nn.Module:
    """The ReLU network of the same sizes."""
    return nn.Sequential(
        *(x for layer in plain_layers(case) for x in (layer, *([nn.ReLU()] if weighted(layer) else [])))
    ).eval()


def onnx(net: nn.Module, x: Tensor) -> Call:
    """The twin in onnxruntime, float32 on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        torch.onnx.export(net, (x,), file.name, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
        session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})


def contestants(net: Network, case: Case, x: Tensor) -> dict[str, Call]:
    """Who computes the network, or one of its sizes, by name."""
    relu = twin(case)
    made: dict[str, Call] = {OURS: net, f"{OURS}, layer by layer": layer_by_layer(net), "ReLU twin, torch": relu}
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime")):
        made["ReLU twin, onnxruntime"] = onnx(relu, x[:1])
    return made


def density(net: Network, x: Tensor) -> float:
    """Share of hidden neurons that spike for a sample, in percent."""
    *hidden, _ = net.activity(x).items()
    fired = torch.cat([net.fired(psc, name).any(0).flatten(1) for name, psc in hidden], 1)
    return 100 * float(fired.float().mean())


def microseconds(made: dict[str, Call], x: Tensor, batch: int, seconds: float) -> dict[str, float]:
    """Of each contestant, for one image in batches of so many."""
    parts = [part.clone() for part in x.split(batch)]
    calls = {}
    for name, call in made.items():
        turn = itertools.cycle(parts)
        calls[name] = lambda call=call, turn=turn: call(next(turn))
    return {name: 1000 * took / batch for name, took in interleaved(calls, seconds).items()}


def of_others(case: Case, batch: int, seconds: float) -> dict[str, float]:
    """Microseconds of the other spiking libraries, which are installed or not, and of the linear maps alone."""
    case = replace(case, batch=batch)
    names = ("linear maps alone", *peers.installed())
    calls = {name: bench.subjects(case)[name]().infer for name in names}
    return {name: 1000 * took / batch for name, took in interleaved(calls, seconds).items()}


def table(result: dict[str, Any], weights: str) -> str:
    """Markdown: microseconds for an image, alone and in batches of 50."""
    cases = result["cases"]
    rows = [
        [who, *(_pair(case[weights]["us"], who) for case in cases.values())]
        for who in next(iter(cases.values()))[weights]["us"]["1"]
    ]
    fired = [f"{case[weights]['fired']:.0f} %" for case in cases.values()]
    return markdown(["µs for an image, alone / in 50", *cases], [*rows, ["neurons that fire", *fired]])


def _pair(times: dict[str, dict[str, float]], who: str) -> str:
    return f"{times['1'][who]:.0f} / {times['50'][who]:.0f}"


def measure(names: list[str], root: Path, seconds: float) -> dict[str, Any]:
    """Microseconds by case, weights, batch and contestant, and the share of neurons that fire."""
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "cases": {}}
    for name in names:
        model = tsslbp.load(ROOT / f"models/{name}-best.safetensors")
        x = model.inputs(data.load(CASES[name], root).test.x[:IMAGES])
        case = bench.cases()[name]
        torch.manual_seed(0)
        with torch.inference_mode(False):  # or nobody could see its weights change, and it would not be computed by events
            nets = {"trained": model.network, "first": Network(model.network.architecture).eval()}
        rows = result["cases"][name] = {}
        others = {str(batch): of_others(case, batch, seconds) for batch in (1, IMAGES)}
        for weights, net in nets.items():
            made = contestants(net, case, x)
            times = {str(batch): microseconds(made, x, batch, seconds) | others[str(batch)] for batch in (1, IMAGES)}
            rows[weights] = {"us": times, "fired": density(net, x)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of MNIST and FashionMNIST")
    parser.add_argument("--seconds", type=float, default=10, help="for each comparison")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", help="folder for the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        result = measure(list(CASES), given.data_root, given.seconds)
    print(bench.save(result, given.results, "inference-"))
    for weights in ("trained", "first"):
        print(f"\n{weights} weights\n\n{table(result, weights)}")


if __name__ == "__main__":
    main()
