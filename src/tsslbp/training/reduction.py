"""Adds up the gradients of processes, large ones while the backward pass still computes others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from tsslbp.utils import distributed
from tsslbp.utils.distributed import Group


class Reduction:
    """Adds up the gradients of parameters, ``learned`` from the input on, over the processes of a group.

    Large ones begin in a fixed order, from the output back, so that all processes begin the same sums in the same order. A
    gradient that is there before its turn waits for those before it.
    """

    def __init__(self, learned: Sequence[nn.Parameter], group: Group) -> None:
        self._group, self._learned = group, learned
        self._large = [x for x in reversed(learned) if x.requires_grad and x.numel() * x.element_size() >= distributed.LARGE]
        self._there: set[int] = set()
        self._begun: list[tuple[nn.Parameter, Callable[[], Tensor]]] = []

    @contextmanager
    def early(self) -> Iterator[None]:
        """Around the last backward pass of a step: begin to add up each large gradient when it is there. Raises Lost."""
        if self._group.world_size == 1:
            yield
            return
        self._there.clear()
        self._begun.clear()
        hooks = [x.register_post_accumulate_grad_hook(partial(self._noticed, n)) for n, x in enumerate(self._large)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _noticed(self, number: int, _: Tensor) -> None:
        self._there.add(number)
        while (turn := len(self._begun)) in self._there:
            learned = self._large[turn]
            assert learned.grad is not None
            self._begun.append((learned, self._group.all_reduce_async(learned.grad.flatten())))

    def end(self, numbers: Sequence[float]) -> list[float]:
        """Wait for all gradients, and add up the small ones and some ``numbers``, which are returned. Raises Lost."""
        if self._group.world_size == 1:
            return [*numbers]
        begun = {id(learned) for learned, _ in self._begun}
        late = [x.grad for x in self._learned if x.grad is not None and id(x) not in begun]
        device = next(x.device for x in self._learned)
        dtype = torch.promote_types(torch.float32, next(x.dtype for x in self._learned))
        added = [*late, torch.tensor(numbers, dtype=dtype, device=device)]
        sums = self._group.all_reduce_(torch.cat([x.flatten() for x in added])).split([x.numel() for x in added])
        for own, whole in zip(added, sums, strict=True):
            own.copy_(whole.view_as(own))
        for learned, wait in self._begun:
            whole, gradient = wait(), learned.grad
            assert gradient is not None
            if whole.data_ptr() != gradient.data_ptr():  # it was not contiguous, as those of convolutions may be
                gradient.copy_(whole.view_as(gradient))
        self._begun.clear()
        made: list[float] = added[-1].tolist()
        return made
