"""Engines, which compute the neurons: their interface, and how one is found and chosen.

An engine is one file beside this one, ``kernels/NAME.py`` for ``backend="NAME"``, with an instance of :class:`Engine` named
``ENGINE``. It is found by that name and imported on first use. An engine knows arrays, and of a rule only its numbers. Only the
reference runs the equations in ``neuron.py`` and ``rules/`` themselves; all others are tested against it.
"""

import functools
import importlib
import logging
import pkgutil
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor

from tsslbp import kernels
from tsslbp.neuron import LIF, ByConstant
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError, unknown

Backend = str
"""``"auto"`` or an engine's name. ``"auto"`` uses the C++ kernels where they can run and the reference elsewhere. ``"triton"``
must be named: no GPU has run it yet. Naming a backend that cannot run is an error."""

logger = logging.getLogger("tsslbp.kernels")


class Usable(NamedTuple):
    """Whether a backend can run here, and the reason in one line."""

    usable: bool
    reason: str


class Pool(NamedTuple):
    """Sums over windows of ``size × size`` pixels, times ``factor``; incomplete windows are left out."""

    size: int
    factor: float


class Form(NamedTuple):
    """Special forms of incoming and outgoing currents.

    Args:
        response: ``[T]``; the current is constant, a value ``[...]`` that stands for ``response[t] · value``, and its gradient
            is ``Σ_t response[t]·∂L/∂I[t]``, ``[...]``.
        pool: the post-synaptic current of ``[T, B, C, H, W]`` neurons comes out pooled.
        bf16_current: the current is bfloat16, and so is its gradient (unless there is a ``response``).
        bf16_psc: the post-synaptic current comes out as bfloat16.
    """

    response: Tensor | None = None
    pool: Pool | None = None
    bf16_current: bool = False
    bf16_psc: bool = False


PLAIN = Form()


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type of a neuron's state and gradient for a current's type."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


class Engine(ABC):
    """Neurons on arrays. None of the methods is differentiable: :class:`tsslbp.functional.Neurons` is."""

    title: ClassVar[str]
    """Its name in messages, in the plural: ``"the C++ kernels"``."""
    forms: ClassVar[bool] = True
    """Whether it takes currents of any :class:`Form`; if not, it gets them written out, in full precision."""
    pools: ClassVar[bool] = True
    """Whether it takes forms with a ``pool``."""
    varies: ClassVar[bool] = False
    """Whether it takes constants that are tensors."""
    recurs: ClassVar[bool] = False
    """Whether it takes recurrent layers, whole sequences at once."""

    @abstractmethod
    def status(self) -> Usable:
        """Whether it can run on this machine and why, as ``tsslbp doctor`` shows it."""

    def refuses(self, device: torch.device) -> str | None:
        """Why it cannot run on a device, in one line, or None if it can."""
        return None

    @abstractmethod
    def formula(self, rule: Rule) -> Any:
        """The rule's formula for :meth:`backward`, from its numbers; None if it has none, or none that are known here."""

    def declines(self, current: Tensor, neuron: LIF, rule: Rule | None, parts: bool) -> str | None:
        """Why it cannot compute neurons fed by ``current``, in one line, or None if it can.

        Args:
            current, neuron: see :meth:`forward`; of the current only device and type matter.
            rule: whose gradient is wanted, None if none is. A rule without numbers is no reason to decline: its backward pass
                always runs on the reference.
            parts: the sequence is one of several that hand a state to each other.
        """
        if (reason := _needs_reference(neuron) or self.refuses(current.device)) is not None:
            return reason
        if neuron.varies and not self.varies:
            return f"{self.title} take constants that are plain numbers, not tensors"
        if current.dtype not in (torch.float32, torch.float64, torch.bfloat16):
            return f"{self.title} take float32, float64 and bfloat16, not {current.dtype}"
        if rule is not None and self.formula(rule) is None and rule.numbers is not None:
            return f"{self.title} have no formula for {rule.numbers!r}"
        return None

    @abstractmethod
    def forward(
        self, current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN, *, keep: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Equations (1) to (3) of ``neuron.py``.

        Args:
            current: ``[T, ...]``, or as ``form`` says.
            neuron: constants of the neuron; tensors broadcast over one step and are of the type that state and gradient have.
            state: membrane potential and post-synaptic current of the step before, ``[2, ...]``; None is rest.
            form: how currents come in and go out.
            keep: keep the membrane potential, which the backward pass needs.

        Returns:
            Membrane potential, ``[T, ...]``, or None if it was not to be kept; post-synaptic current, ``[T, ...]``; given a
            state, that after the last step, ``[2, ...]``, else None.
        """

    @abstractmethod
    def backward(
        self, formula: Any, error: Tensor, membrane: Tensor, neuron: LIF, state: Tensor | None, carry: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor | None, ByConstant]:
        """The gradient of a rule from ``∂L/∂a``.

        Args:
            formula: of the rule, from :meth:`formula`.
            error: ``∂L/∂a``, ``[T, ...]``, in the form of the output.
            membrane, neuron, state, form: as in the forward pass.
            carry: see :meth:`tsslbp.rules.Rule.part_gradient`; None without a state.

        Returns:
            ``∂L/∂I``, in the form of the input; given a state, the carry for the step before, ``[2, ...]``, else None; for
            constants that are tensors, gradients (:func:`tsslbp.neuron.constants_gradient`) of each neuron, ``[...]``, or
            summed over some that share a constant. ``sum_to_size`` gives the constant's gradient.
        """

    def recurrent_forward(
        self,
        drive: Tensor,
        lateral: Tensor,
        state: Tensor | None,
        neuron: LIF,
        adaptation: tuple[float, float] | None,
        bf16_psc: bool,
        *,
        keep: bool = True,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """A recurrent layer, equations (1) to (3) of ``layers/recurrent.py``; only of an engine that ``recurs``.

        Args:
            drive: W·x, ``[T, B, N]``; may be bfloat16, as in a form with ``bf16_current``.
            lateral: V, ``[N, N]``, of the membrane's type.
            state: of the layer, ``[3, B, N]`` or with adaptation ``[5, B, N]``; None is rest.
            adaptation: τa and β of adaptive thresholds, None for fixed ones.
            bf16_psc: the post-synaptic current comes out as bfloat16.
            neuron, keep: see :meth:`forward`.

        Returns:
            Membrane potential, ``[T, B, N]``, or None if it was not to be kept; post-synaptic current, ``[T, B, N]``; the state
            after the last step.
        """
        raise NotImplementedError

    def recurrent_backward(
        self,
        formula: Any,
        error: Tensor,
        after: Tensor | None,
        membrane: Tensor,
        lateral: Tensor,
        state: Tensor | None,
        neuron: LIF,
        adaptation: tuple[float, float] | None,
        bf16_drive: bool,
        *,
        through_lateral: bool,
        learns: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, ByConstant]:
        """The gradient of a rule from ``∂L/∂a`` in a recurrent layer.

        Args:
            formula: of the rule, from :meth:`formula`.
            error: ``∂L/∂a``, ``[T, B, N]``.
            after: gradient of the state after the last step; None for none.
            membrane, lateral, state, neuron, adaptation: as in the forward pass.
            bf16_drive: the gradient of the drive is wanted as bfloat16.
            through_lateral: that of the rule.
            learns: whether the gradient of ``lateral`` is wanted.

        Returns:
            Gradient of the drive; of the state, None without one; of ``lateral``, or None; and of constants that are tensors,
            as in :meth:`backward`.
        """
        raise NotImplementedError


def refuse_batch(*_: object) -> NoReturn:
    """What is called in place of a backward pass if autograd hands it a batch of errors. Raises UserError."""
    raise UserError(
        "spiking neurons take one error at a time; leave out is_grads_batched=True and vmap, and loop over the errors"
    )


def _needs_reference(neuron: LIF) -> str | None:
    """Why only the reference computes neurons with these constants, in one line, or None."""
    return None if neuron.reset else "only the reference computes neurons without a reset"


_FOUND: dict[str, Engine] = {}  # a cache


def names() -> list[str]:
    """Every engine's name: the files beside this one, except ``layout.py``."""
    found = (module.name for module in pkgutil.iter_modules(kernels.__path__))
    return [name for name in found if name not in ("engine", "layout") and not name.startswith("_")]


def find(backend: str) -> Engine:
    """The engine of a name.

    Raises:
        UserError: there is none.
        ImportError: it needs a missing package; the message says what to do, in one line.
    """
    backend = str(backend)
    if backend not in _FOUND:
        if backend not in (known := names()):
            raise unknown("backend", backend, ["auto", *known])
        _FOUND[backend] = importlib.import_module(f"tsslbp.kernels.{backend}").ENGINE
    return _FOUND[backend]


def backends() -> dict[str, Usable]:
    """Whether each backend can run on this machine and why, as ``tsslbp doctor`` shows it."""
    found = {}
    for name in names():
        try:
            found[name] = find(name).status()
        except ImportError as error:
            found[name] = Usable(False, str(error))
    return found


def choose(backend: Backend, current: Tensor, neuron: LIF, rule: Rule | None = None, parts: bool = False) -> Engine:
    """The engine for a job, described as for :meth:`Engine.declines`. The choice is logged once; a missing build is a warning.

    Raises:
        UserError: an unknown backend, or a named one that declines.
    """
    try:
        engine = find("cpp" if backend == "auto" else backend)
        reason = engine.declines(current, neuron, rule, parts)
    except ImportError as error:
        reason = _needs_reference(neuron) or str(error)
    if reason is None:
        level, message = logging.INFO, "neurons run on " + engine.title
    elif backend != "auto":
        raise UserError(f"backend {backend!r} cannot run: {reason}")
    else:
        missing = current.device.type == "cpu" and not engine.status().usable
        level, message = logging.WARNING if missing else logging.INFO, f"neurons run on the slow reference: {reason}"
        engine = find("reference")
    if not torch.compiler.is_compiling():
        _log(level, message)
    return engine


@functools.cache
def _log(level: int, message: str) -> None:
    logger.log(level, message)
