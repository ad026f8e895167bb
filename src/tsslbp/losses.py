"""Losses on the output's post-synaptic current.

Every loss is called as ``loss(output_psc, label)`` with ``output_psc`` ``[T, B, C]`` and ``label`` ``[B]`` (class numbers)
and returns a scalar. :class:`KernelLoss` and :class:`SpikeLoss` also take the desired spike trains themselves,
``[T, B, C]`` of 0 and 1, in place of labels. Losses are sums over the batch, as published, except :class:`SoftmaxLoss`.

Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, section 3.1 and the published code.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.errors import UserError, unknown
from tsslbp.neuron import spikes_from_psc, synapse


def desired_train(time_steps: int) -> Tensor:
    """The published spike train for the labelled class, ``[T]``: 0,1,1,1,1 repeated below ten steps, 0,1 repeated from ten on.

    With a single step that would ask for silence, so there the train is one spike.
    """
    if time_steps == 1:
        return torch.ones(1)
    pattern = [0.0, 1.0, 1.0, 1.0, 1.0] if time_steps < 10 else [0.0, 1.0]
    return torch.tensor(pattern).repeat(-(-time_steps // len(pattern)))[:time_steps]


@dataclass(frozen=True)
class _TrainLoss(ABC):
    """Shared by the losses that compare with a desired spike train.

    Args:
        time_steps: T, at least 1.
        tau_s: synaptic time constant of the output neurons, in steps.
        desired: spike train of the labelled class, ``[T]`` of 0 and 1; the published one if left out.
        undesired: spike train of every other class, ``[T]``; silence if left out.

    Raises:
        UserError: a train of another length than T.
    """

    time_steps: int
    tau_s: float
    desired: Sequence[float] | None = None
    undesired: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.time_steps < 1 or not 1 <= self.tau_s < math.inf:
            raise UserError(f"time_steps {self.time_steps} and tau_s {self.tau_s} must be finite and at least 1")
        for name in ("desired", "undesired"):
            train = getattr(self, name)
            if train is not None and len(train) != self.time_steps:
                raise UserError(f"{name} train has {len(train)} steps, time_steps is {self.time_steps}")

    @property
    def filters(self) -> int:
        """How often the desired trains go through the synapse."""
        return 0

    def wanted(self, psc: Tensor, label: Tensor) -> Tensor:
        """The desired trains, filtered, ``[T, B, C]``."""
        if psc.shape[0] != self.time_steps:
            raise UserError(f"output has {psc.shape[0]} steps, the loss was made for {self.time_steps}")
        if label.shape == psc.shape:
            return self._filtered(label.to(psc))
        yes, no = (train.to(psc).view(-1, 1, 1) for train in self._by_label)
        return torch.where(_one_hot(psc, label), yes, no)

    @cached_property
    def _by_label(self) -> tuple[Tensor, Tensor]:
        """The filtered trains of the labelled class and of the others, ``[T]``; every step of training needs them."""
        yes = desired_train(self.time_steps) if self.desired is None else torch.as_tensor(self.desired)
        no = torch.zeros(self.time_steps) if self.undesired is None else torch.as_tensor(self.undesired)
        return self._filtered(yes.double()), self._filtered(no.double())

    def _filtered(self, train: Tensor) -> Tensor:
        for _ in range(self.filters):
            train = synapse(train, self.tau_s)
        return train

    @abstractmethod
    def __call__(self, psc: Tensor, label: Tensor) -> Tensor:
        """The loss, a scalar."""


@dataclass(frozen=True)
class KernelLoss(_TrainLoss):
    """``½ Σ (a[t] - d[t])²`` with ``d`` the desired train through the synapse's kernel: a van Rossum distance.

    ``target="double"`` puts the desired train through the kernel twice, as the published code does; that moves the
    optimum to another spike train (T = 5, τs = 3: 0,0,1,0,1 instead of 0,1,1,1,1).
    """

    target: Literal["single", "double"] = "single"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target not in ("single", "double"):
            raise unknown("target", str(self.target), ("single", "double"))

    @property
    def filters(self) -> int:
        return 2 if self.target == "double" else 1

    def __call__(self, psc: Tensor, label: Tensor) -> Tensor:
        return 0.5 * (psc - self.wanted(psc, label)).square().sum()


@dataclass(frozen=True)
class SpikeLoss(_TrainLoss):
    """``½ Σ (s[t] - desired[t])²`` on the spikes themselves: the kernel loss without its smoothing."""

    def __call__(self, psc: Tensor, label: Tensor) -> Tensor:
        return 0.5 * (spikes_from_psc(psc, self.tau_s) - self.wanted(psc, label)).square().sum()


@dataclass(frozen=True)
class CountLoss:
    """``½ Σ D²`` over steps and neurons, with ``D = (Σ_t a[t] - n)/T`` and ``n`` the wanted number of spikes.

    ``D`` is 0 where the labelled class has more than ``desired`` or another class fewer than ``undesired``. Its gradient is
    ``∂L/∂a[t] = D`` at every step.

    Args:
        desired: spike count of the labelled class.
        undesired: spike count of every other class, below ``desired``.
    """

    desired: float
    undesired: float

    def __post_init__(self) -> None:
        if not 0 <= self.undesired < self.desired:
            raise UserError(f"counts must be 0 <= undesired < desired; got {self.undesired} and {self.desired}")

    def __call__(self, psc: Tensor, label: Tensor) -> Tensor:
        labelled = _one_hot(psc, label)
        time_steps = psc.shape[0]
        excess = (psc.sum(0) - torch.where(labelled, psc.new_tensor(self.desired), psc.new_tensor(self.undesired))) / time_steps
        enough = torch.where(labelled, excess > 0, excess < 0)
        return 0.5 * time_steps * excess.masked_fill(enough, 0).square().sum()


@dataclass(frozen=True)
class SoftmaxLoss:
    """Cross-entropy of ``Σ_t a[t]``, the mean over the batch."""

    def __call__(self, psc: Tensor, label: Tensor) -> Tensor:
        _one_hot(psc, label)
        return F.cross_entropy(psc.sum(0), label.long())


Loss = KernelLoss | SpikeLoss | CountLoss | SoftmaxLoss


def _one_hot(psc: Tensor, label: Tensor) -> Tensor:
    """``[B, C]``, true at the label; the place where labels are checked."""
    if psc.dim() != 3 or label.shape != psc.shape[1:2] or label.is_floating_point():
        raise UserError(
            "a loss takes output [T, B, C] and integer labels [B]; "
            f"got {list(psc.shape)} and {list(label.shape)} ({label.dtype})"
        )
    classes = psc.shape[2]
    if label.numel() and not 0 <= int(label.min()) <= int(label.max()) < classes:
        raise UserError(f"labels run from {int(label.min())} to {int(label.max())}; the network has {classes} classes")
    return F.one_hot(label.long(), classes).bool()
