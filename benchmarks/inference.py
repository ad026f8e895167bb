"""How long inference takes, event by event and densely: python benchmarks/inference.py --data-root DIR

Networks with trained weights (models/) and with their first weights, one thread, single samples and batches of 50. They and
their ReLU twins see the same test samples and take turns; the times are medians. Writes
benchmarks/results/inference-PROCESSOR-DATE.json and prints the tables of docs/speed.md.

The other libraries and the linear maps take turns among themselves, with random inputs and first weights of their own. ReLU
twins are dense maps of the same sizes in one pass; those of onnxruntime need the packages onnx and onnxruntime. The one of
int8 is quantised by onnxruntime.quantization with 100 training images. Event streams (N-MNIST) have no such twin, and no
trained model here.

--old DIR also compares with another version of this library, the folder src of which lies there with its kernels built. It runs
in a process of its own, with the same weights and samples, and the two take turns.
"""

import argparse
import copy
import importlib.util
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import command
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import bench, data
from tsslbp.bench import peers
from tsslbp.bench.against import Runner, in_turns, ratio
from tsslbp.bench.cases import Case, plain_layers, weighted
from tsslbp.bench.measure import interleaved
from tsslbp.layers import Spiking
from tsslbp.network import infer as events
from tsslbp.network.network import Network
from tsslbp.utils import machine
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
STREAMS = "nmnist-cnn, T = 100"
CASES = {"fashion-mnist-fc": "fashion-mnist", "mnist-cnn": "mnist", "fashion-mnist-cnn": "fashion-mnist", STREAMS: "nmnist"}
"""Networks, each with its data set; the trained one, but of streams, is models/NAME-best."""
TSSLBP, IMAGES, CALIBRATION = "tsslbp", 50, 100
OLD = """
import itertools, sys, time, torch, tsslbp
torch.set_num_threads(1)
given = torch.load(sys.argv[1])
x, axis = given["x"], given["axis"]
net = tsslbp.build(given["notation"], **given["settings"]).eval()
for weight, own in zip(given["weights"], net.parameters(), strict=True):
    own.data.copy_(weight)
with torch.inference_mode():
    torch.save(net(x), sys.argv[2])
    turns = {size: itertools.cycle([part.clone() for part in x.split(size, axis)]) for size in (1, x.shape[axis])}
    for line in sys.stdin:
        size, calls = map(int, line.split())
        start = time.perf_counter()
        for _ in range(calls):
            net(next(turns[size]))
        print(time.perf_counter() - start, flush=True)
"""
"""What the process of another version runs. It keeps to names that every release has had."""
TURN = 0.1
"""Seconds of a version's turn, about."""
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


def onnx(net: nn.Module, images: Tensor) -> dict[str, Call]:
    """The twin in onnxruntime on one thread, in float32 and in int8, for which images of training calibrate."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        left = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            return next(({"x": x.numpy()} for x in self.left), None)

    def session(path: Path) -> Call:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        made = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda x: made.run(None, {"x": x.numpy()})

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "int8"))
        torch.onnx.export(net, (images[:1],), plain, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})
        quant_pre_process(plain, prepared)
        quantization.quantize_static(prepared, small, Images(), per_channel=True)
        return {"ReLU twin, onnxruntime": session(plain), "ReLU twin, onnxruntime int8": session(small)}


def contestants(net: Network, case: Case, training: Tensor | None) -> dict[str, Call]:
    """Who computes the network, or one of its sizes, by name. Images for training calibrate the twins; streams have none."""
    made: dict[str, Call] = {TSSLBP: net, f"{TSSLBP}, layer by layer": layer_by_layer(net)}
    if training is None:
        return made
    relu = twin(case)
    made["ReLU twin, torch"] = relu
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime")):
        made |= onnx(relu, training)
    return made


class Old(Runner):
    """Another version in a process of its own, with the weights and samples of a network."""

    def __init__(self, source: Path, net: Network, x: Tensor) -> None:
        a, static = net.architecture, net.is_static(x)
        settings = {name: getattr(a, name) for name in ("input_shape", "time_steps", "tau_m", "tau_s", "threshold")}
        settings["padding"] = a.padding if len(a.padding) > 1 else a.padding[0]
        weights = [weight.detach() for weight in net.parameters()]
        given = {"notation": a.network, "settings": settings, "weights": weights, "x": x, "axis": 0 if static else 1}
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / name for name in ("given.pt", "made.pt")]
            torch.save(given, paths[0])
            super().__init__(sys.executable, a.network, str(source), [OLD, *map(str, paths)])
            self.seconds(1, 1)
            made = torch.load(paths[1])
        same = (net.fired(made) == net.fired(net(x))).all(0).all(-1)
        if same.float().mean() < 0.9:
            raise SystemExit(f"{source} makes other spikes of these weights; no speed is measured")

    def against(self, net: Network, x: Tensor, size: int, seconds: float) -> dict[str, Any]:
        """Its time over ours, in turns (``tsslbp.bench.against.ratio``)."""
        turn = itertools.cycle([part.clone() for part in x.split(size, 0 if net.is_static(x) else 1)])

        def ours(calls: int) -> float:
            start = time.perf_counter()
            for _ in range(calls):
                net(next(turn))
            return time.perf_counter() - start

        return ratio(in_turns(partial(self.seconds, size), ours, seconds, TURN), ("old_ms", "tsslbp_ms"))


def density(net: Network, x: Tensor) -> float:
    """Share of hidden neurons that spike for a sample, in percent."""
    *hidden, _ = net.activity(x).items()
    fired = torch.cat([net.fired(psc, name).any(0).flatten(1) for name, psc in hidden], 1)
    return 100 * float(fired.float().mean())


def microseconds(made: dict[str, Call], x: Tensor, axis: int, batch: int, seconds: float) -> dict[str, float]:
    """Of each contestant, for one sample in batches of so many."""
    parts = [part.clone() for part in x.split(batch, axis)]
    calls = {}
    for name, call in made.items():
        turn = itertools.cycle(parts)
        calls[name] = lambda call=call, turn=turn: call(next(turn))
    return {name: 1000 * took / batch for name, took in interleaved(calls, seconds).items()}


def of_others(case: Case, batch: int, seconds: float) -> dict[str, float]:
    """Microseconds of the other spiking libraries, which are installed or not, and of the linear maps alone."""
    case = replace(case, batch=batch)
    names = ("linear maps alone", *(() if case.sequence else peers.installed()))
    calls = {name: bench.subjects(case)[name]().infer for name in names}
    return {name: 1000 * took / batch for name, took in interleaved(calls, seconds).items()}


def table(result: dict[str, Any], weights: str) -> str:
    """Markdown: microseconds for a sample, alone and in batches of 50, and the time of the other version over ours."""
    cases = {name: case[weights] for name, case in result["cases"].items() if weights in case}
    rows = [
        [who, *(_pair(case["us"], who) for case in cases.values())]
        for who in dict.fromkeys(who for case in cases.values() for who in case["us"]["1"])
    ]
    rows.append(["neurons that fire", *(f"{case['fired']:.0f} %" for case in cases.values())])
    if all("old" in case for case in cases.values()):
        rows.append(["old / tsslbp", *(_ratios(case["old"]) for case in cases.values())])
    return markdown(["µs for a sample, alone / in 50", *cases], rows)


def _pair(times: dict[str, dict[str, float]], who: str) -> str:
    return f"{times['1'][who]:.0f} / {times['50'][who]:.0f}" if who in times["1"] else ""


def _ratios(found: dict[str, dict[str, float]]) -> str:
    return " / ".join(f"{found[batch]['ratio']:.1f}" for batch in ("1", "50"))


def nets(name: str, root: Path) -> Iterator[tuple[str, Network, Tensor, Tensor | None]]:
    """Weights by name, the network with these, test samples and, for images, some training images."""
    torch.manual_seed(0)
    case = bench.cases()[name]
    if case.sequence:
        test = data.load(CASES[name], root, time_steps=case.architecture.time_steps).test
        x = test.x[:IMAGES].float().movedim(1, 0).contiguous()
        yield "first", Network(case.architecture).eval(), x, None
        return
    model = tsslbp.load(ROOT / f"models/{name}-best.safetensors")
    loaded = data.load(CASES[name], root)
    x, training = model.inputs(loaded.test.x[:IMAGES]), model.inputs(loaded.train.x[:CALIBRATION])
    yield "trained", model.network, x, training
    yield "first", Network(model.network.architecture).eval(), x, training


def measure(names: list[str], root: Path, seconds: float, old: Path | None = None) -> dict[str, Any]:
    """Microseconds by case, weights, batch and contestant, the share of neurons that fire, and the other version's ratios."""
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "cases": {}}
    for name in names:
        case = bench.cases()[name]
        rows = result["cases"][name] = {}
        others = {str(batch): of_others(case, batch, seconds) for batch in (1, IMAGES)}
        with torch.inference_mode(False):  # or nobody could see weights change, and nothing would be computed by events
            made = list(nets(name, root))
        for weights, net, x, training in made:
            who = contestants(net, case, training)
            axis = 0 if net.is_static(x) else 1
            times = {str(b): microseconds(who, x, axis, b, seconds) | others[str(b)] for b in (1, IMAGES)}
            rows[weights] = {"us": times, "fired": density(net, x)}
            if old is not None:
                other = Old(old, net, x)
                rows[weights]["old"] = {str(b): other.against(net, x, b, seconds) for b in (1, x.shape[axis])}
                other.close()
    return result


def break_even(seconds: float) -> str:
    """Markdown: the time of events over that of the layers one by one, by the share of inputs that spike, at random.

    The state is kept, as then the kernel does not leave busy batches to the layers.
    """
    wide = {"400-10": ((400,), 200), "1024-10": ((3136,), 50), "64C5-10": ((32, 14, 14), 20), "128C3-10": ((64, 16, 16), 20)}
    rows = []
    for share in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        row = [f"{share:.0%}"]
        for notation, (shape, batch) in wide.items():
            torch.manual_seed(0)
            padding = 2 if "C5" in notation else 0
            net = tsslbp.build(notation, input_shape=shape, time_steps=5, tau_m=5, tau_s=3, padding=padding).eval()
            x = (torch.rand(5, batch, *shape) < share).float()
            calls = {"events": partial(events.plan(net, x).run, x, None, None, True), "layers": partial(layer_by_layer(net), x)}
            times = interleaved(calls, seconds)
            row.append(f"{times['events'] / times['layers']:.2f}")
        rows.append(row)
    return markdown(["spikes", *wide], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder of MNIST and FashionMNIST")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="networks")
    parser.add_argument("--old", type=Path, help="folder src of another version, its kernels built, to compare with")
    parser.add_argument("--break-even", action="store_true", help="only when events are faster than the layers one by one")
    parser.add_argument("--seconds", type=float, default=10, help="for each comparison")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results", help="folder for the result")
    given = parser.parse_args()
    command.positive("--seconds", str(given.seconds))
    old = given.old and command.source(given.old)
    torch.set_num_threads(1)
    if given.break_even:
        with torch.no_grad():
            print(break_even(given.seconds))
        return
    with torch.inference_mode():
        result = measure(given.cases, given.data_root, given.seconds, old)
    print(bench.save(result, given.results, "inference-"))
    for weights in ("trained", "first"):
        print(f"\n{weights} weights\n\n{table(result, weights)}")


if __name__ == "__main__":
    with command.told():
        main()
