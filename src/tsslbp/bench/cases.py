"""Networks to measure, and ways to run them.

A subject is a way of running one network: a whole training step (forward, loss, backward, gradient clipping, AdamW) and an
inference. All subjects of a case have layers of the same sizes and the same batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.kernels import Backend
from tsslbp.layers import Conv2d, Flatten, Linear, Recurrent, Spiking, SumPool2d
from tsslbp.losses import KernelLoss
from tsslbp.network.architecture import PAPER, Architecture
from tsslbp.network.network import Network
from tsslbp.utils.signals import Constant, Signal


@dataclass(frozen=True)
class Case:
    """A network and a batch size; ``sequence`` input is ``[T, B, ...]`` spikes, otherwise static images.

    A ``large`` one takes minutes and is measured only if named. ``gains`` multiply the first weights of the hidden layers, so
    that about as much of what they pass on changes as in trained networks: silence would cost too little.
    """

    name: str
    architecture: Architecture
    batch: int
    sequence: bool = False
    large: bool = False
    gains: tuple[float, ...] = ()

    @property
    def recurrent(self) -> bool:
        """Whether it has a recurrent layer."""
        return any(isinstance(layer, Recurrent) for layer in self.network().layers)

    def network(self, backend: Backend = "auto") -> Network:
        """The network, the same weights at every call."""
        torch.manual_seed(0)
        net = Network(self.architecture)
        layers = [layer for layer in net.layers if isinstance(layer, Spiking)]
        for layer, gain in zip(layers[:-1], self.gains, strict=True) if self.gains else ():
            layer.weight.data.mul_(gain)
        for layer in layers:
            layer.backend = backend
        return net

    def rates(self) -> list[float]:
        """Spikes per step of a neuron of each hidden layer."""
        net, found = self.network(), list[float]()

        def cross(name: str, layer: Spiking, signal: Signal, *how: Any) -> Tensor:
            found.append(float(net.fired(layer(signal), name).float().mean()))
            return layer(signal, *how)

        with torch.no_grad():
            list(net.walk(net.encode(self.samples()[0]), cross))
        return found[:-1]

    def samples(self) -> tuple[Tensor, Tensor]:
        """A batch of network input and labels, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        a = self.architecture
        label = torch.randint(0, 10, (self.batch,), generator=generator)
        if self.sequence:
            x = torch.rand(a.time_steps, self.batch, *a.input_shape, generator=generator)
            return (x < 0.05).float(), label
        return torch.randn(self.batch, *a.input_shape, generator=generator), label


@dataclass(frozen=True)
class Subject:
    """A way to run a case: functions for a training step and an inference."""

    step: Callable[[], Any]
    infer: Callable[[], Any]


def cases() -> dict[str, Case]:
    """The cases by name."""
    nmnist = PAPER["nmnist-cnn-head"]
    recurrent = [(80, 200, 50, 50), (80, 400, 100, 50), (12, 200, 76, 50), (700, 128, 100, 128)]  # inputs, neurons, T, batch
    return {
        case.name: case
        for case in (
            Case("fashion-mnist-fc", PAPER["fashion-mnist-fc-head"], 100, gains=(0.33, 3.3)),
            Case("mnist-cnn", PAPER["mnist-cnn-head"], 50, gains=(0.83, 2.7, 1.3)),
            Case("fashion-mnist-cnn", PAPER["fashion-mnist-cnn-head"], 50, gains=(0.86, 3.0, 1.3)),
            Case("nmnist-cnn, T = 30", nmnist, 10, sequence=True, gains=(2.7, 4.5)),
            Case("nmnist-cnn, T = 100", replace(nmnist, time_steps=100), 10, sequence=True, gains=(2.5, 4.0)),
            *(
                Case(
                    f"{inputs}-{n}R, T = {steps}",
                    Architecture(network=f"{n}R-10", input_shape=(inputs,), time_steps=steps, tau_m=5, tau_s=3),
                    batch,
                    sequence=True,
                    gains=(3.9,),
                )
                for inputs, n, steps, batch in recurrent
            ),
            Case("cifar10-cnn1", PAPER["cifar10-cnn1-head"], 10, large=True, gains=(0.34, 1.3, 0.53, 0.67, 2.8, 5.2, 5.1)),
            Case("cifar10-cnn2", PAPER["cifar10-cnn2-head"], 10, large=True, gains=(0.34, 1.3, 0.52, 0.63, 3.0, 5.4, 5.0)),
        )
    }


def grown() -> dict[str, Case]:
    """A fully connected net that grows along one axis at a time, by ``axis = value``."""
    base = Architecture(network="400-400-10", input_shape=(100,), time_steps=20, tau_m=10, tau_s=4)
    named = [(f"T = {steps}", replace(base, time_steps=steps), 20) for steps in (5, 10, 20, 50, 100, 200, 500, 1000)]
    named += [(f"batch = {batch}", base, batch) for batch in (10, 20, 50, 100, 200)]
    named += [(f"width = {width}", replace(base, network=f"{width}-{width}-10"), 20) for width in (100, 200, 400, 800)]
    gains = 2.3, 2.1
    return {name: Case(name, architecture, batch, sequence=True, gains=gains) for name, architecture, batch in named}


def trainer(net: nn.Module, forward: Callable[[], Tensor], loss: Callable[[Tensor], Tensor]) -> Subject:
    """A subject from a network, its forward pass and its loss."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(forward()).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            forward()

    return Subject(step, infer)


def ours(case: Case, backend: Backend, autocast: bool = False, blocks: bool = False) -> Subject:
    """tsslbp on a backend, optionally with linear maps in bfloat16, or in blocks of √T steps."""
    net = case.network(backend)
    net.time_block = math.isqrt(net.time_steps) if blocks else 0
    x, label = case.samples()
    loss = KernelLoss(time_steps=net.time_steps, tau_s=net.neuron.tau_s)

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            return net(x)

    return trainer(net, forward, lambda psc: loss(psc, label))


def ann(case: Case) -> Subject:
    """The same network with ReLU in place of spiking neurons, one pass over ``[B, ...]``."""
    net = nn.Sequential(
        *(module for layer in plain_layers(case) for module in (layer, *([nn.ReLU()] if weighted(layer) else [])))
    )
    for parameter in net.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    x, label = case.samples()
    x = x[0] if case.sequence else x
    return trainer(net, lambda: net(x), lambda out: F.cross_entropy(out, label))


def floor(case: Case, dtype: torch.dtype) -> Subject:
    """The linear maps alone, each with its input and weight gradient, channels-last, as often as the method needs.

    The first map runs once on ``[B, ...]`` for static input and has no input gradient; the others run on ``[T·B, ...]``.
    """
    net, steps = case.network(), case.architecture.time_steps
    maps: list[tuple[Callable[[Tensor], Tensor], Tensor, Tensor, Tensor]] = []

    def cross(name: str, layer: Spiking, signal: Signal, *_: Any) -> Tensor:
        x = torch.randn_like(signal.value if isinstance(signal, Constant) else signal.flatten(0, 1), dtype=dtype)
        weight = layer.weight.detach().to(dtype).requires_grad_()
        map_ = partial(F.linear, weight=weight)
        if isinstance(layer, Conv2d):
            x = x.contiguous(memory_format=torch.channels_last)
            map_ = partial(F.conv2d, weight=weight, padding=layer.padding)
        x.requires_grad_(bool(maps))
        out = map_(x)
        maps.append((map_, x, weight, torch.randn_like(out)))
        return out.detach().unflatten(0, (-1, case.batch)).expand(steps, case.batch, *out.shape[1:])

    list(net.walk(net.encode(case.samples()[0]), cross))

    def step() -> None:
        for map_, x, weight, gradient in maps:
            torch.autograd.grad(map_(x), [weight, *([x] if x.requires_grad else [])], gradient)

    def infer() -> None:
        with torch.inference_mode():
            for map_, x, _, _ in maps:
                map_(x)

    return Subject(step, infer)


def plain_layers(case: Case) -> Iterator[nn.Module]:
    """The case's layers as PyTorch layers without neurons, for other libraries to insert theirs."""
    for layer in case.network().layers:
        if isinstance(layer, Conv2d):
            out_channels, channels, kernel, _ = layer.weight.shape
            yield nn.Conv2d(channels, out_channels, kernel, padding=layer.padding, bias=False)  # type: ignore[arg-type]
        elif isinstance(layer, Linear):
            yield nn.Linear(layer.weight.shape[1], layer.weight.shape[0], bias=False)
        elif isinstance(layer, SumPool2d):
            yield nn.AvgPool2d(layer.pool.size)
        elif isinstance(layer, Flatten):
            yield nn.Flatten()


def weighted(layer: nn.Module) -> bool:
    """Whether neurons follow a layer."""
    return isinstance(layer, (nn.Conv2d, nn.Linear))
