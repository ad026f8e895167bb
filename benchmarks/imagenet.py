"""What ImageNet would cost: python benchmarks/imagenet.py [TFLOPS]

Trains the ResNet-18 of the recipe cifar10-resnet18 for a few steps on generated pictures of 224 × 224 pixels in 1,000 classes,
in float32 and in bfloat16, each in a process of its own. The first convolution is that of the ResNet-18 for ImageNet, 7 × 7
with stride 2 and pooling behind it. From the library's own count of operations follows how many hours a GPU would need that
sustains so many 10¹² floating-point operations per second, 20 if none are given. That is a reckoning: no GPU has been used.

Writes results/imagenet/imagenet.json and prints the table of docs/how-to-own-network.md.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import command
import torch

from tsslbp import training
from tsslbp.data import Dataset, Normalisation, Split
from tsslbp.study.activity import operations, spike_counts
from tsslbp.training import recipes
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

RESULT = Path(__file__).parent.parent / "results/imagenet/imagenet.json"
SIDE, CLASSES, BATCH, STEPS = 224, 1000, 8, 3
EPOCHS, PICTURES = 90, 1_281_167
PASSES = 3
"""A step of training computes each product forward, for the input's gradient and for the weight's."""
NETWORK = (
    "64C7s2n-M2-[64C3n-64C3n]-[64C3n-64C3n]-[128C3s2n-128C3n]-[128C3n-128C3n]-[256C3s2n-256C3n]-[256C3n-256C3n]-"
    f"[512C3s2n-512C3n]-[512C3n-512C3n]-A7-{CLASSES}b"
)


def config(precision: str) -> TrainConfig:
    given = {"network": NETWORK, "padding": (3, *16 * (1,)), "batch_size": BATCH, "validation": 0, "choose": "last"}
    return replace(recipes.get("cifar10-resnet18"), precision=precision, **given)


def pictures(count: int) -> Dataset:
    """Noise in patches, no two pictures alike."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(256, (count, 3, SIDE // 8, SIDE // 8), generator=generator, dtype=torch.uint8)
    x = patches.repeat_interleave(8, 2).repeat_interleave(8, 3)
    train = Split(x, torch.randint(CLASSES, (count,), generator=generator))
    none = train.select(torch.arange(0))
    return Dataset("noise", train, none, none, tuple(map(str, range(CLASSES))), Normalisation(255.0, (0.5,), (0.29,)))


def measure(precision: str) -> dict[str, Any]:
    """Seconds of a step, peak memory in GiB, and of a picture its operations and of a step its bytes between processes."""
    machine.keep_memory()
    settings, dataset = config(precision), pictures(BATCH)
    model, optimizer = training.prepare(settings, dataset)
    loop = training.Loop(settings, dataset, model, optimizer)
    seconds = []
    for _ in range(STEPS + 1):
        began = time.perf_counter()
        loop.step(torch.arange(BATCH))
        seconds.append(time.perf_counter() - began)
    (peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    network = model.network.eval()
    with torch.inference_mode():
        x = model.inputs(dataset.train.x[:1])
        count = operations(network, x, spike_counts(network, x))
    weights = sum(weight.numel() * weight.element_size() for weight in network.parameters())
    return {
        "step": statistics.median(seconds[1:]),
        "first step": seconds[0],
        "peak": int(peak) / 2**20,
        "bytes": weights,
        "macs": count.dense_macs,
        "own_macs": count.own_macs,
        "steps": network.time_steps,
    }


def reckoned(found: dict[str, Any], tflops: float) -> dict[str, float]:
    """Hours of a GPU of this sustained rate, and days of this machine, for all epochs."""
    flop = 2 * PASSES * found["macs"] * EPOCHS * PICTURES
    return {"gpu_hours": flop / (tflops * 1e12) / 3600, "days_here": found["step"] / BATCH * EPOCHS * PICTURES / 86400}


def table(found: dict[str, dict[str, Any]], tflops: float) -> str:
    rows = [
        [f"a step of {BATCH} pictures, s", *(f"{made['step']:.1f}" for made in found.values())],
        ["peak memory, GiB", *(f"{made['peak']:.1f}" for made in found.values())],
        ["gradients that a step sends, MB", *(f"{made['bytes'] / 1e6:.0f}" for made in found.values())],
        ["products forward, 10⁹ a picture", *(f"{made['macs'] / 1e9:.1f}" for made in found.values())],
        [f"{EPOCHS} epochs here, days", *(f"{reckoned(made, tflops)['days_here']:,.0f}" for made in found.values())],
        [
            f"{EPOCHS} epochs at {tflops:g} TFLOP/s, hours",
            *(f"{reckoned(made, tflops)['gpu_hours']:.0f}" for made in found.values()),
        ],
    ]
    return markdown(["", *found], rows)


def main(tflops_given: str = "20") -> None:
    tflops, found = command.positive("TFLOPS", tflops_given), {}
    for precision in ("float32", "bfloat16"):
        words = [sys.executable, __file__, "--measure", precision]
        found[precision] = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    made = {name: {**one, **reckoned(one, tflops)} for name, one in found.items()}
    files.make_folder(RESULT.parent, "choose another folder")
    about = {"machine": machine.describe(), "batch": BATCH, "tflops": tflops, "network": NETWORK}
    files.write_json(RESULT, {**about, "found": made})
    print(table(found, tflops))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        command.run(main, __doc__)
