"""Learn precise spike times: the raster of the trained network's output shows a picture.

    python examples/learn_a_picture.py [--steps 1500] [--out picture.svg]

A network gets one frozen pattern of input spikes and is to answer with given spikes, each at its step. The target is a picture:
output neuron i is to spike at step t where the pixel in row i and column t is dark. docs/results.md shows the
result; from the repository's root, ``--out docs/picture.svg`` draws that file again.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

import tsslbp
from tsslbp.metrics import spike_trains

T, INPUTS, ROWS = 120, 150, 26


def picture(text: str = "tssl-bp") -> NDArray[np.bool_]:
    """The outline of a text as ``[T, ROWS]`` of bool."""
    shape = TextPath((0, 0), text, size=10)
    low, high = shape.vertices.min(0), shape.vertices.max(0)
    drawn = np.zeros((T, ROWS), dtype=bool)
    for outline in shape.to_polygons(closed_only=False):
        points = Curve(outline).interpolated(60).vertices
        scaled = (points - low) / (high - low)
        drawn[(15 + scaled[:, 0] * (T - 20)).astype(int), ((1 - scaled[:, 1]) * (ROWS - 3) + 1).astype(int)] = True
    return drawn


def learn(target: NDArray[np.bool_], steps: int) -> tuple[torch.Tensor, float]:
    """Train; returns the output spikes ``[T, ROWS]`` and their F1 with the target within one step."""
    torch.manual_seed(0)
    inputs = (torch.rand(T, 1, INPUTS) < 0.05).float()  # [T, batch, inputs]: frozen Poisson trains
    wanted = torch.from_numpy(target).float().unsqueeze(1)  # [T, batch, outputs]
    net = tsslbp.build(f"400-{ROWS}", input_shape=(INPUTS,), time_steps=T, tau_m=10, tau_s=4, rule="tssl+")
    loss = tsslbp.losses.KernelLoss(time_steps=T, tau_s=4)  # the loss takes target trains in place of labels
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net(inputs), wanted).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        spikes = tsslbp.spikes_from_psc(net(inputs), tau_s=4).round()
    return spikes[:, 0], float(spike_trains.agreement(spikes, wanted, 1).f1.mean())


def draw(target: NDArray[np.bool_], spikes: NDArray[np.bool_], f1: float, path: Path) -> None:
    """Target and output side by side."""
    with matplotlib.rc_context({"svg.hashsalt": "picture", "font.size": 8}):
        figure = Figure(figsize=(7.5, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        for axes, trains, title in zip(
            figure.subplots(2, sharex=True),
            (target, spikes),
            ("target", f"output of the trained network, F1 {f1:.3f}"),
            strict=True,
        ):
            t, row = np.nonzero(trains)
            axes.scatter(t + 1, row + 1, s=9, marker="s", color="black", linewidths=0)
            axes.set(title=title, ylabel="output neuron", xlim=(0, T + 1), ylim=(ROWS + 1, 0))
        axes.set_xlabel("time step")
        figure.savefig(path, metadata={"Date": None})


def main(steps: int, out: Path) -> float:
    target = picture()
    spikes, f1 = learn(target, steps)
    draw(target, spikes.bool().numpy(), f1, out)
    return f1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("picture.svg"))
    options = parser.parse_args()
    known = sorted(FigureCanvasAgg.get_supported_filetypes())
    if options.steps < 1:
        parser.error(f"--steps is {options.steps}; it must be positive")
    if options.out.suffix.removeprefix(".") not in known:
        parser.error(f"--out is {options.out}; it must end in one of {', '.join(f'.{kind}' for kind in known)}")
    try:
        options.out.open("a").close()  # where it cannot be written, better fail now than after the training
    except OSError as error:
        parser.error(f"cannot write {options.out}: {error.strerror}; choose another --out")
    print(f"F1 {main(options.steps, options.out):.3f}, {options.out}")
