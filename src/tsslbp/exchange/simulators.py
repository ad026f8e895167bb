"""Programs that run a NIR graph: NIR's equations, implemented here, and other libraries by their own importers.

Each takes the prepared sample at every step and returns spikes. All workarounds for other libraries are in this file.
"""

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.exchange.graph import INTEGRATORS, laterals, neurons_of
from tsslbp.exchange.outgoing import DT
from tsslbp.utils.errors import UserError

Spikes = dict[str, Tensor]
"""By node of neurons: ``[T, B, neurons]`` of bool; the voltage itself where they never spike."""


class Simulator(NamedTuple):
    """A program that runs a graph."""

    package: str
    """Its package; empty for this one."""
    run: Callable[[Any, Tensor], Spikes]
    """From a graph and its input ``[T, B, ...]`` to spikes, computed in the input's type."""

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package) if self.package else ""


@torch.no_grad()
def equations(graph: Any, x: Tensor) -> Spikes:
    """NIR's equations by forward Euler with steps of ``DT``.

    Lateral connections act one step later. Before the first step there are no spikes, and as NIR's Affine is W·x + b at all
    times, the bias of a lateral map acts from the first step on.
    """
    edges = {(a, b) for a, b in graph.edges}
    late = {(name, back) for name in neurons_of(graph) for back in laterals(name, edges)}
    before_it = {name: {a for a, b in edges - late if b == name} for name in graph.nodes}
    order = list(TopologicalSorter(before_it).static_order())
    sources = {name: [a for a, b in edges if b == name] for name in graph.nodes}
    steps = {name: _step(node, x.dtype) for name, node in graph.nodes.items()}
    before = {name: x.new_zeros(x.shape[1], *graph.nodes[back].input_type["input"]) for name, back in late}
    voltages = neurons_of(graph, INTEGRATORS)
    made: dict[str, list[Tensor]] = {name: [] for name in (*neurons_of(graph), *voltages)}
    for x_t in x:
        now: dict[str, Tensor] = {}
        for name in order:
            heard = [before[a] if (a, name) in late else now[a] for a in sources[name]]
            now[name] = steps[name](sum(heard[1:], heard[0])) if heard else x_t
        before = now
        for name, train in made.items():
            train.append(now[name].flatten(1) if name in voltages else now[name].flatten(1) > 0)
    return {name: torch.stack(train) for name, train in made.items()}


def _step(node: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """One step of a node."""

    def tensor(name: str) -> Tensor:
        return torch.as_tensor(np.asarray(getattr(node, name)), dtype=dtype)

    def sizes(name: str) -> list[int]:
        return [int(n) for n in np.ravel(getattr(node, name))]

    kind = type(node).__name__
    match kind:
        case "Input" | "Output":
            return lambda x: x
        case "Linear":
            weight = tensor("weight")
            return lambda x: F.linear(x, weight)
        case "Affine":
            weight, bias = tensor("weight"), tensor("bias")
            return lambda x: F.linear(x, weight, bias)
        case "Conv1d" | "Conv2d":
            weight, bias = tensor("weight"), tensor("bias")
            more: dict[str, Any] = {name: sizes(name) for name in ("stride", "dilation")}
            more["padding"] = node.padding if isinstance(node.padding, str) else sizes("padding")
            convolution: Any = F.conv2d if kind == "Conv2d" else F.conv1d
            return lambda x: convolution(x, weight, bias, groups=int(node.groups), **more)
        case "SumPool2d" | "AvgPool2d":
            kernel, stride = sizes("kernel_size"), sizes("stride")
            divisor = 1 if kind == "SumPool2d" else None
            return lambda x: F.avg_pool2d(x, kernel, stride, divisor_override=divisor)
        case "Flatten":
            return lambda x: x.flatten(1)
        case "Scale":
            scale = tensor("scale")
            return lambda x: x * scale
        case "CubaLIF" | "CubaLI":
            rate = DT / tensor("tau_mem")
            return _neurons(tensor, DT / tensor("tau_syn"), tensor("w_in"), rate, tensor("v_leak"), kind == "CubaLIF")
        case "LIF" | "LI":
            one = torch.tensor(1.0)
            return _neurons(tensor, one, one, DT / tensor("tau"), tensor("v_leak"), kind == "LIF")
        case "IF":
            return _neurons(tensor, torch.tensor(1.0), torch.tensor(1.0), None, torch.tensor(0.0))
    raise UserError(f"nothing here runs a node of kind {kind}")


def _neurons(
    tensor: Callable[[str], Tensor], synapse: Tensor, w_in: Tensor, rate: Tensor | None, leak: Tensor, spikes: bool = True
) -> Callable[[Tensor], Tensor]:
    """A step of neurons, to their spikes, or to their potential if they never spike; ``synapse`` and ``rate`` are DT over a
    time constant, None if it is infinite."""
    r = tensor("r")
    threshold, reset = (tensor("v_threshold"), tensor("v_reset")) if spikes else (torch.tensor(torch.inf), torch.tensor(0.0))
    state: list[Tensor] = []

    def step(x: Tensor) -> Tensor:
        i, v = state or (torch.zeros_like(x), torch.zeros_like(x))
        i = i + synapse * (w_in * x - i)
        v = v + DT * r * i if rate is None else v + rate * (leak - v + r * i)
        fired = v > threshold
        state[:] = i, torch.where(fired, reset, v)
        return fired.to(x.dtype) if spikes else v

    return step


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what importers print, log and warn."""
    before, silence = logging.root.manager.disable, io.StringIO()
    logging.disable(max(before, logging.WARNING))
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _heard(module: nn.Module, names: list[str], dtype: torch.dtype) -> Iterator[dict[str, list[Tensor]]]:
    """Outputs of the named submodules, step by step. Spikes are converted to ``dtype``; snnTorch makes them float32."""
    made: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str) -> Callable[..., Any]:
        def take(_: nn.Module, __: Any, output: Any) -> Any:
            first, *rest = output if isinstance(output, tuple) else (output,)
            made[name].append(first.flatten(1) > 0)
            return (first.to(dtype), *rest) if isinstance(output, tuple) else first.to(dtype)

        return take

    hooks = [module.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield made
    finally:
        for handle in hooks:
            handle.remove()


def _stepped(module: nn.Module, graph: Any, x: Tensor) -> Spikes:
    """Run a module that takes and returns its state."""
    with torch.no_grad(), _heard(module, neurons_of(graph), x.dtype) as made:
        state, outputs = None, []
        for x_t in x:
            output, state = module(x_t, state)
            outputs.append(output)
        spikes = {name: torch.stack(trains) for name, trains in made.items()}
        return spikes | {name: torch.stack(outputs) for name in neurons_of(graph, INTEGRATORS)}  # only the last never spike


def spikingjelly(graph: Any, x: Tensor) -> Spikes:
    """SpikingJelly, whose state the caller passes on."""
    with _quiet():
        from spikingjelly.activation_based.nir_exchange import import_from_nir

        return _stepped(import_from_nir(copy.deepcopy(graph), dt=DT, dtype=x.dtype), graph, x)


def snntorch(graph: Any, x: Tensor) -> Spikes:
    """snnTorch, whose step is always 1e-4 s, and whose neurons keep their state until it is reset."""
    with _quiet():
        from snntorch.import_nir import import_from_nir

        module = import_from_nir(copy.deepcopy(graph)).to(x.dtype)
        for part in module.modules():
            if hasattr(part, "reset_mem"):
                part.reset_mem()
        return _stepped(module, graph, x)


def norse(graph: Any, x: Tensor) -> Spikes:
    """Norse, whose default step is 1e-3 s, and which keeps constants in float32."""
    with _quiet():
        from norse.torch import from_nir

        return _stepped(from_nir(copy.deepcopy(graph), dt=DT).to(x.dtype), graph, x)


SIMULATORS = {
    "NIR's equations": Simulator("", equations),
    "SpikingJelly": Simulator("spikingjelly", spikingjelly),
    "snnTorch": Simulator("snntorch", snntorch),
    "Norse": Simulator("norse", norse),
}


def installed() -> dict[str, Simulator]:
    """The simulators that are installed."""
    return {name: each for name, each in SIMULATORS.items() if not each.package or importlib.util.find_spec(each.package)}
