"""Training in blocks of time, which keeps only the state between blocks and computes each block again for its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tsslbp.layers import Spiking
from tsslbp.network.state import State, count_fused_steps, version
from tsslbp.neuron import CONSTANTS
from tsslbp.utils.errors import UserError

Part = Callable[[Tensor, State, int], tuple[Tensor, State]]
"""The output of a part of a sequence and the state after it, as :meth:`tsslbp.network.Network.part`."""


def in_blocks(layers: nn.Module, part: Part, x: Tensor, static: bool, time_steps: int, block: int, state: State) -> Tensor:
    """The output ``[T, B, ...]`` of ``part``, which computes with these layers, over a whole sequence or T steps of a sample.

    Raises:
        UserError: a block that is no number of steps; in the backward pass, layers that have changed since the forward pass.
    """
    if not hasattr(block, "__index__") or block < 0:
        raise UserError(f"time_block is {block}; it must be a whole number of steps, or 0 for none")
    count_fused_steps()
    before: list[tuple[Any, Any]] = []

    def computed(x: Tensor, state: State, steps: int) -> tuple[Tensor, State]:
        if before and not _same(before, _computed_with(layers)):
            raise UserError(
                "the network's weights, constants, rules or mode have changed since the forward pass, and time_block computes "
                "blocks again for their gradient; call backward() before you change the network, or set time_block to 0"
            )
        try:
            return part(x, state, steps)
        finally:  # PyTorch ends it by an exception
            if before:  # what computing itself changes, as a hook that bounds weights does, is no other network
                before[:] = _computed_with(layers)

    made = []
    for start in range(0, time_steps, block):
        steps = min(block, time_steps - start)
        psc, state = checkpoint(computed, x if static else x[start : start + steps], state, steps, use_reentrant=False)
        made.append(psc)
    before += _computed_with(layers)
    return torch.cat(made)


def _computed_with(layers: nn.Module) -> list[tuple[Any, Any]]:
    """What layers compute with: objects that must stay the same, each with a value that must stay equal."""
    found = list[tuple[Any, Any]]()
    for module in layers.modules():
        tensors: list[Tensor | None] = [*module._parameters.values()]
        if isinstance(module, Spiking):
            tensors += [module._buffers.get(name) for name in CONSTANTS]
            numbers = [value for value in vars(module.neuron).values() if not isinstance(value, Tensor)]
            found.append((module.rule, numbers))
        found += [(module, module.training), *((x, version(x)) for x in tensors if x is not None)]
    return found


def _same(before: list[tuple[Any, Any]], now: list[tuple[Any, Any]]) -> bool:
    return len(before) == len(now) and all(x is y and m == n for (x, m), (y, n) in zip(before, now, strict=True))
