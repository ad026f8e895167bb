"""Draws crossing.svg, the README's picture: ``python docs/crossing.py [FILE]``."""

import sys
from pathlib import Path

import matplotlib.style
import numpy as np
import torch
from matplotlib.figure import Figure

import tsslbp
from tsslbp.neuron import LIF, membrane_potential

STEPS, TAU_M, TAU_S = 60, 12.0, 6.0
INK, ACCENT, SOFT = "#7a7f87", "#d1495b", "#2e86ab"


def main(path: Path) -> None:
    """Membrane potential, spikes and post-synaptic current of one neuron, and the slope at each crossing."""
    t = torch.arange(STEPS, dtype=torch.float64)
    current = 0.11 + 0.07 * torch.sin(t / 6) + 0.1 * (t > 38)
    u = membrane_potential(current, LIF(TAU_M, TAU_S))
    psc = tsslbp.lif(current, tau_m=TAU_M, tau_s=TAU_S)
    fired = (u > 1).nonzero().flatten().tolist()

    with matplotlib.style.context({"svg.hashsalt": "crossing", "font.size": 10, "text.color": INK}):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        membrane, synapse = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        membrane.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        membrane.annotate("threshold θ", (0, 1.03), color=INK)
        membrane.plot(t, u, color=SOFT, linewidth=1.8)
        for n, step in enumerate(fired):
            rise = float(u[step] - (u[step - 1] if step - 1 not in fired else 0))
            span = np.array([-3.2, 1.6])
            membrane.plot(step + span, float(u[step]) + rise * span, color=ACCENT, linewidth=1.2)
            if n in (1, len(fired) - 1):
                words = "slow crossing: a push on u\nmoves the spike far" if n == 1 else "fast crossing:\nhardly at all"
                membrane.annotate(words, (step + 1.8, float(u[step]) + rise * 1.6), color=ACCENT, va="bottom")
        membrane.set(ylabel="membrane\npotential u", ylim=(0, 1.75), xlim=(0, STEPS + 7))
        synapse.plot(t, psc, color=SOFT, linewidth=1.8)
        synapse.vlines(fired, 0, 0.05, color=ACCENT, linewidth=2.4)
        synapse.annotate("spikes, where ∂t/∂u = -1/u̇", (fired[1] + 4, 0.14), color=ACCENT)
        synapse.set(ylabel="post-synaptic\ncurrent a", xlabel="time (steps)", ylim=(0, None))
        for axes in (membrane, synapse):
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[["left", "bottom"]].set_color(INK)
            axes.tick_params(colors=INK)
            axes.xaxis.label.set_color(INK)
            axes.yaxis.label.set_color(INK)
        figure.savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
