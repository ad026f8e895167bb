"""Losses on the output's post-synaptic current.

Every loss is called as ``loss(output_psc, label)`` with ``output_psc`` ``[T, B, C]`` and ``label`` ``[B]`` (class numbers)
and returns a scalar. :class:`KernelLoss` and :class:`SpikeLoss` also take the desired spike trains themselves,
``[T, B, C]`` of 0 and 1, in place of labels; :class:`StepLoss` takes a class for every step, ``[T, B]``. Losses are sums over
the batch, as in the published code, except those with a softmax, which are means (``is_mean``).

Padded sequences come with a third argument ``mask``, ``[T, B]`` of 0 and 1 (:func:`length_mask`). Steps of 0 do not count.

Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, and the published code.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.neuron import check_tau_s, spikes_from_psc, synapse
from tsslbp.utils import distributed
from tsslbp.utils.errors import UserError, check_number, check_positive, check_tensors, check_whole, shown, unknown
from tsslbp.utils.signals import check_lengths, check_mask, within
from tsslbp.utils.signals import length_mask as length_mask
from tsslbp.utils.spec import construct, parse_spec, write_spec


def desired_train(time_steps: int) -> Tensor:
    """The spike train for the labelled class, ``[T]``, as in the last version of the published code.

    It repeats 0,1,1,1,1 for T below ten and 0,1 from ten on. For a single step it is one spike, as 0 would ask for silence.
    """
    pattern = [1.0] if time_steps == 1 else [0.0, 1.0, 1.0, 1.0, 1.0] if time_steps < 10 else [0.0, 1.0]
    return torch.tensor(pattern).repeat(-(-time_steps // len(pattern)))[:time_steps]


SOON = 256
"""Steps after the first desired spike in which a spike that is better than silence is looked for."""


@dataclass(frozen=True)
class _TrainLoss(ABC):
    """Shared by the losses that compare with a desired spike train.

    Args:
        time_steps: T, at least 1.
        tau_s: synaptic time constant of the output neurons, in steps.
        desired: spike train of the labelled class, ``[T]`` of 0 and 1, or text of these, repeated if shorter than T, such as
            ``"01011"``; :func:`desired_train` if left out.
        undesired: spike train of every other class, likewise; silence if left out.

    Raises:
        UserError: a train of another length than T, text of other characters, or one without a desired spike.
    """

    is_mean: ClassVar[bool] = False
    time_steps: int
    tau_s: float
    desired: Sequence[float] | str | None = None
    undesired: Sequence[float] | str | None = None

    def __post_init__(self) -> None:
        check_positive("tau_s", self.tau_s, least=1)
        check_whole("time_steps", self.time_steps)
        for name in [each for each in ("desired", "undesired") if getattr(self, each) is not None]:
            train = str(given) if isinstance(given := getattr(self, name), int | float) else given
            try:
                wrong = not len(train) or {*map(float, train)} - {0.0, 1.0}
            except (TypeError, ValueError):
                wrong = True
            if wrong:
                raise UserError(f"{name} is {shown(train)}; it must be of 0 and 1, such as 00001")
            if isinstance(train, str):
                train = tuple(float(train[step % len(train)]) for step in range(self.time_steps))
                object.__setattr__(self, name, train)
            if name == "desired" and not any(train):
                raise UserError(f"desired has no spike in {self.time_steps} steps; begin it with one, as in desired=1")
            if len(train) != self.time_steps:
                raise UserError(f"{name} train has {len(train)} steps, time_steps is {self.time_steps}")

    @property
    def begins(self) -> int:
        """Steps that a sample needs for some spike to be better than silence; T + 1 if no spike is.

        Kernels do not cancel each other, so no train is better than silence where no single spike is.
        """
        wanted = self._by_label[0]
        first = int(wanted.nonzero()[0])
        wanted = wanted[first : first + SOON]
        spikes = torch.eye(len(wanted), dtype=wanted.dtype)
        spikes = synapse(spikes, self.tau_s) if self.filters else spikes
        better = ((2 * wanted.unsqueeze(1) - spikes) * spikes).cumsum(0).amax(1) > 0  # by the steps that count
        return first + 1 + next(iter(better.nonzero().flatten().tolist()), len(wanted))

    @property
    def filters(self) -> int:
        """How often the desired trains go through the synapse."""
        return 0

    def wanted(self, psc: Tensor, label: Tensor) -> Tensor:
        """The desired trains, filtered, ``[T, B, C]``."""
        check_tensors(output=psc, label=label)
        if psc.shape[0] != self.time_steps:
            raise UserError(f"output has {psc.shape[0]} steps, the loss was made for {self.time_steps}")
        if label.shape == psc.shape:
            if not torch.compiler.is_compiling() and bool(((label != 0) & (label != 1)).any()):
                raise UserError("target trains hold numbers other than 0 and 1; round what spikes_from_psc returns")
            return self._filtered(label.to(psc))
        if label.dim() == 3:
            raise UserError(f"target trains are {list(label.shape)}; they must be as the output, [T, B, C], {list(psc.shape)}")
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
    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        """The loss, a scalar."""


@dataclass(frozen=True)
class KernelLoss(_TrainLoss):
    """``½ Σ (a[t] - d[t])²`` with ``d`` the desired train through the synapse's kernel: a van Rossum distance.

    ``target="double"`` puts the desired train through the kernel twice, as the last version of the published code does. That
    moves the optimum to another spike train (T = 5, τs = 3: 0,0,1,0,1 instead of 0,1,1,1,1). At T = 1 and 2 silence is at
    least as good as any spike train if τs is 2 or more.

    ``label_weight`` multiplies the labelled class's part. At 1, as published, silence is best for an output neuron less sure of
    its class than 1/2 (T or τs = 1) or 1/5 (T = 5, τs = 3). At C - 1, that class weighs as much as all others together.
    """

    target: Literal["single", "double"] = "single"
    label_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("label_weight", self.label_weight)
        if self.target not in ("single", "double"):
            raise unknown("target", str(self.target), ("single", "double"))

    @property
    def filters(self) -> int:
        return 2 if self.target == "double" else 1

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        wanted = self.wanted(psc, label)
        squares = F.mse_loss(_masked(psc, mask, wanted), wanted, reduction="none")
        if self.label_weight != 1:
            squares = torch.where(_one_hot(psc, label), self.label_weight * squares, squares)
        return 0.5 * squares.sum()


@dataclass(frozen=True)
class SpikeLoss(_TrainLoss):
    """``½ Σ (s[t] - desired[t])²`` on the spikes: the kernel loss without its smoothing."""

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        wanted = self.wanted(psc, label)
        spikes = spikes_from_psc(psc, self.tau_s)
        return 0.5 * F.mse_loss(_masked(spikes, mask, wanted), wanted, reduction="none").sum()


@dataclass(frozen=True)
class CountLoss:
    """``½ Σ D²`` over steps and neurons, with ``D = (Σ_t a[t] - n)/T`` and ``n`` the wanted number of spikes.

    ``D`` is 0 where the labelled class has more than ``desired`` or another class fewer than ``undesired``. Its gradient is
    ``∂L/∂a[t] = D`` at every step.

    Args:
        desired: spike count of the labelled class.
        undesired: spike count of every other class, below ``desired``.
    """

    is_mean: ClassVar[bool] = False
    desired: float = 4.0
    undesired: float = 0.0

    def __post_init__(self) -> None:
        check_number("desired", self.desired)
        check_number("undesired", self.undesired)
        if not 0 <= self.undesired < self.desired < math.inf:
            raise UserError(f"counts must be finite and 0 <= undesired < desired; got {self.undesired} and {self.desired}")

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        labelled = _one_hot(psc, label)
        wanted = torch.where(labelled, psc.new_tensor(self.desired), psc.new_tensor(self.undesired))
        beyond = _masked(psc, mask).sum(0) - wanted
        steps = psc.shape[0] if mask is None else mask.sum(0).clamp(min=1).to(psc).unsqueeze(1)
        excess = beyond / steps
        enough = torch.where(labelled, excess > 0, excess < 0)
        return 0.5 * (steps * excess.masked_fill(enough, 0).square()).sum()


@dataclass(frozen=True)
class SoftmaxLoss:
    """Cross-entropy of ``Σ_t a[t]``, the mean over the batch."""

    is_mean: ClassVar[bool] = True

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        _one_hot(psc, label)
        return F.cross_entropy(_masked(psc, mask).sum(0), label.long())


@dataclass(frozen=True)
class StepLoss:
    """Cross-entropy of ``scale·a[t]`` with a class for every step, the mean over steps and batch. Labels are ``[T, B]``.

    Args:
        scale: factor on currents, which lie in [0, 1]; larger ones allow surer answers.
    """

    is_mean: ClassVar[bool] = True
    scale: float = 10.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        check_tensors(output=psc, label=label)
        if label.shape != psc.shape[:2]:
            raise UserError(f"StepLoss takes a label for every step, {list(psc.shape[:2])}; got {list(label.shape)}")
        if mask is not None and mask.shape == label.shape:
            label = label.masked_fill(mask == 0, 0)  # padding may be labelled in any way
        _one_hot(psc.flatten(0, 1)[None], label.flatten())
        evidence = self.scale * _masked(psc, mask).flatten(0, 1)
        each = F.cross_entropy(evidence, label.flatten().long(), reduction="none").view(*label.shape, 1)
        return each.mean() if mask is None else _masked(each, mask).sum() / mask.sum().clamp(min=1)


@dataclass(frozen=True)
class FirstSpikeLoss:
    """Cross-entropy of ``-t/scale``, the mean over the batch, with ``t`` the step of an output neuron's first spike, T if none:
    the labelled class, or more than half of its voters, is to spike first. Answers are still those of the whole currents.

    ``t = Σ_k Π_{j<=k} (1 - s[j])``, k from 0 to T - 1, counts the steps before the first spike. Its derivative is the effect
    of adding a spike before the first one, or of removing the first one. EventProp wants that of moving it, which is another.

    Args:
        tau_s: synaptic time constant of the output neurons, in steps.
        scale: steps by which a first spike must be earlier to be e times as likely.
    """

    is_mean: ClassVar[bool] = True
    tau_s: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("tau_s", self.tau_s, least=1)
        check_positive("scale", self.scale)

    def __call__(self, psc: Tensor, label: Tensor, mask: Tensor | None = None) -> Tensor:
        _one_hot(psc, label)
        s = _masked(spikes_from_psc(psc, self.tau_s), mask)
        silent = 1 - (s + ((s > 0.501).to(s) - s).detach())  # 0 or 1, as cumprod's derivative divides by else; half is 0
        return F.cross_entropy(-_masked(silent.cumprod(0), mask).sum(0) / self.scale, label.long())


Loss = KernelLoss | SpikeLoss | CountLoss | SoftmaxLoss | StepLoss | FirstSpikeLoss

LOSSES: dict[str, type[Loss]] = {
    "kernel": KernelLoss,
    "spike": SpikeLoss,
    "count": CountLoss,
    "softmax": SoftmaxLoss,
    "first-spike": FirstSpikeLoss,
}
"""The losses of a run by name. Options are written like a rule's: ``kernel(target=double)``."""
ANN = ("kernel", "softmax")
"""Losses of a network without spikes."""


def get(loss: str, *, time_steps: int, tau_s: float) -> Loss:
    """A loss from its name, with options if wanted: ``"kernel(target=double, desired=01011)"``, ``"count(desired=15)"``.

    Args:
        loss: name and options.
        time_steps: T.
        tau_s: synaptic time constant of the output neurons, in steps.

    Raises:
        UserError: an unknown name or option, a value that does not fit.
    """
    name, options = parse_spec(loss, "loss")
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    context = {"time_steps": time_steps, "tau_s": tau_s}
    needed = {field.name for field in fields(LOSSES[name])}
    return construct(LOSSES[name], name, options, **{key: value for key, value in context.items() if key in needed})


def check_class(name: str) -> None:
    """Raises UserError if what is registered under a name is no class of losses."""
    loss: Any = LOSSES[name]
    if not (isinstance(loss, type) and is_dataclass(loss) and "__call__" in dir(loss) and hasattr(loss, "is_mean")):
        raise UserError(f"losses.LOSSES[{name!r}] is {shown(loss)}; it must be a dataclass with is_mean and __call__")


def suits_ann(loss: str) -> bool:
    """Whether a loss and its options apply to a network without spikes."""
    name, options = parse_spec(loss, "loss")
    return name in ANN and not options.keys() - {"label_weight"}


def of_ann(loss: str) -> Loss:
    """The loss of a network without spikes, whose output is one step without a synapse.

    Raises:
        UserError: a loss or an option that does not apply.
    """
    if not suits_ann(loss):
        raise UserError(f"loss is {loss}; it must be {' or '.join(ANN)} for an ANN, with label_weight for its only option")
    return get(loss, time_steps=1, tau_s=1)


def changed(loss: str, **options: Any) -> str:
    """A loss's text with other options."""
    name, before = parse_spec(loss, "loss")
    return write_spec(name, {**before, **options})


@dataclass(frozen=True)
class RateBounds:
    """A penalty on neurons that spike too rarely or too often: ``½ Σ (lower - r)₊² + (r - upper)₊²`` over neurons.

    ``r`` is a neuron's mean number of spikes per step over the batch. A sample has ``Σ_t s = Σ_t a + (τs - 1)·a[T-1]`` spikes.

    Args:
        tau_s: synaptic time constant of the neurons, in steps; a tensor broadcasts over one step.
        lower: rate in spikes per step below which a neuron is pushed up; 0 turns it off.
        upper: rate above which it is pushed down; 1 turns it off.

    Raises:
        UserError: bounds outside [0, 1] or in the wrong order, τs below 1.
    """

    tau_s: float | Tensor
    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self) -> None:
        check_tau_s(self.tau_s)
        for name in ("lower", "upper"):
            check_number(name, getattr(self, name))
        if not 0 <= self.lower <= self.upper <= 1:
            raise UserError(f"rate bounds must be 0 <= lower <= upper <= 1 spikes per step; got {self.lower} and {self.upper}")

    def __call__(self, psc: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The penalty on a layer's post-synaptic current ``[T, B, ...]`` of sequences of ``lengths`` ``[B]``, a scalar."""
        if lengths is not None:
            check_lengths(lengths, psc, static=False)
        steps = torch.full(psc.shape[1:2], len(psc), device=psc.device) if lengths is None else lengths
        spikes = within(psc, lengths).sum(0) + (self.tau_s - 1) * psc[steps - 1, torch.arange(len(steps), device=psc.device)]
        rate = distributed.group().mean(spikes / steps.view(-1, *[1] * (psc.dim() - 2)))
        return 0.5 * ((self.lower - rate).relu().square() + (rate - self.upper).relu().square()).sum()


def _masked(x: Tensor, mask: Tensor | None, padding: Tensor | float = 0.0) -> Tensor:
    """``x`` with ``padding`` where the mask is 0. A product with 0 would keep NaN, also in the gradient."""
    if mask is None:
        return x
    check_mask("mask", mask, x, numbers=True)
    return torch.where((mask == 0).unsqueeze(2), padding, x)


def _one_hot(psc: Tensor, label: Tensor) -> Tensor:
    """``[B, C]``, true at the label. Labels are checked here."""
    check_tensors(output=psc, label=label)
    if psc.dim() != 3 or label.shape != psc.shape[1:2] or label.is_floating_point():
        found = f"{list(psc.shape)} and {list(label.shape)} ({label.dtype})"
        raise UserError(f"this loss, or an option of it, takes output [T, B, C] and integer labels [B]; got {found}")
    label, classes = label.long(), psc.shape[2]  # PyTorch knows little of unsigned numbers
    if label.numel() and not torch.compiler.is_compiling():  # which knows no values
        least, most = map(int, label.aminmax())
        if not 0 <= least <= most < classes:
            raise UserError(f"labels run from {least} to {most}; the network has {classes} classes")
    return label.unsqueeze(1) == torch.arange(classes, device=label.device)
