"""The state of a network between parts of a sequence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from tsslbp.utils.errors import UserError


@dataclass(frozen=True)
class State:
    """The state of a network after some steps of a sequence."""

    steps: int = 0
    """Steps so far."""
    synapse: Tensor | None = None
    """Post-synaptic current of the input, ``[B, ...]``; None while that is a static sample."""
    layers: dict[str, Tensor] = field(default_factory=dict)
    """The layers' states by name: ``[2, B, ...]`` for neurons, with more rows if they are recurrent, ``[1, B, features]`` for
    max pooling."""
    keys: Tensor | None = None
    """Keys of the samples' dropout masks, ``[B]``, so that masks are the same in all parts; None if none are drawn."""
    events: Tensor | None = None
    """The layers' states and the currents between them in the form of ``infer.py``, ``[B, n]``; None after parts that it did
    not compute. It no longer counts if another tensor of the state is replaced or changed in place, which PyTorch does not
    notice under ``torch.inference_mode()``."""
    sample: Tensor | None = None
    """The static sample that has entered in all steps so far, ``[B, ...]``."""
    _made: tuple[Any, list[tuple[Tensor, int]]] | None = field(default=None, init=False, repr=False, compare=False)
    """What made ``events``, and all tensors then with their :func:`version`; not kept by ``dataclasses.replace``."""

    @staticmethod
    def of(state: "State | None") -> "State":
        """The state, which is rest if there is none. Raises UserError for anything else."""
        if state is not None and not isinstance(state, State):
            raise UserError(f"the state is of type {type(state).__name__}; it must be the State that part() returned, or None")
        return state or State()

    def check(self, x: Tensor, static: bool, layers: set[str]) -> None:
        """Raises UserError unless a part ``x``, of static samples or of sequences, can follow in a network of these layers."""
        if self.layers and self.layers.keys() != layers:
            theirs, ours = (", ".join(sorted(names)) for names in (self.layers, layers))
            raise UserError(f"the state is of a network with the layers {theirs}; this one has {ours}: begin again from rest")
        samples = x.shape[0 if static else 1]
        if self.steps and self.synapse is None and self.sample is None:
            raise UserError("the state has neither synapse nor sample, so what came before is unknown; begin again from rest")
        entered = self.sample if self.synapse is None else self.synapse
        tensors = [(x, 0) for x in (entered, self.keys, self.events)] + [(x, 1) for x in self.layers.values()]
        if held := {x.shape[axis] for x, axis in tensors if x is not None} - {samples}:
            raise UserError(f"the state is that of {held.pop()} samples, and the input has {samples}; see State.take")
        if entered is not None and (entered.dtype == torch.float64) != (x.dtype == torch.float64):
            raise UserError(f"the state is that of a {entered.dtype} input, and this is {x.dtype}; begin again from rest")

    def goes_on(self, x: Tensor, static: bool) -> bool:
        """Whether ``x`` is more of what came before, the same static sample or a sequence; anything is after rest."""
        if self.sample is None:
            return not static or self.synapse is None
        # what is compiled must not depend on values
        equal = static and not torch.compiler.is_compiling() and x.dtype == self.sample.dtype
        return equal and torch.equal(x, self.sample)

    def made_by(self, plan: Any) -> "State":
        """This state, whose ``events`` that plan has made."""
        object.__setattr__(self, "_made", (plan, self._versions()))
        return self

    def events_of(self, plan: Any) -> Tensor | None:
        """``events`` if that plan made them and nothing has changed since."""
        return self.events if self._made is not None and self._made[0] is plan and self._unchanged() else None

    def _versions(self) -> list[tuple[Tensor, int]]:
        return [(x, version(x)) for x in (self.synapse, self.events, self.sample, *self.layers.values()) if x is not None]

    def _unchanged(self) -> bool:
        now, then = self._versions(), self._made[1] if self._made is not None else []
        return len(now) == len(then) > 0 and all(x is y and m == n for (x, m), (y, n) in zip(now, then, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_made"}  # a copy has versions of its own

    def map(self, f: Callable[[Tensor, int], Tensor]) -> "State":
        """Every tensor through ``f(tensor, axis of the batch)``."""
        events = self.events if self._unchanged() else None
        synapse, keys, events, sample = (x if x is None else f(x, 0) for x in (self.synapse, self.keys, events, self.sample))
        made = State(self.steps, synapse, {name: f(state, 1) for name, state in self.layers.items()}, keys, events, sample)
        return made if self._made is None else made.made_by(self._made[0])

    def detach(self) -> "State":
        """The same state without gradients, for truncated backpropagation through time."""
        return self.map(lambda x, _: x.detach())

    def take(self, samples: Tensor) -> "State":
        """The state of some samples of the batch, by index or as a mask."""
        return self.map(lambda x, axis: x[samples] if axis == 0 else x[:, samples])


def version(x: Tensor) -> int:
    """PyTorch's count of the changes of a tensor in place; 0 under ``torch.inference_mode()``, where it does not count."""
    return 0 if x.is_inference() else x._version


def count_fused_steps() -> None:
    """Let :func:`version` count the steps of fused optimisers from now on, as those of all others; PyTorch leaves them out."""
    if not _COUNTS_FUSED_STEPS:
        _COUNTS_FUSED_STEPS.append(True)
        register_optimizer_step_post_hook(_count)


_COUNTS_FUSED_STEPS: list[bool] = []


def _count(optimizer: Optimizer, *_: Any) -> None:
    fused = (x for group in optimizer.param_groups if group.get("fused") for x in group["params"])
    increment_version([x for x in fused if not x.is_inference()])


torch.serialization.add_safe_globals([State])  # so that torch.load reads a saved one
