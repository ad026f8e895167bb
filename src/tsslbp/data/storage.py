"""Samples made from files: held in memory, or in a mapped file if they are large."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tsslbp.data import cache
from tsslbp.data.dataset import Split
from tsslbp.utils import machine
from tsslbp.utils.errors import each_of

LARGE = 2**29
"""Bytes of samples that are mapped from the cache rather than held in memory."""
VERSION = 2
"""Version of the conversion; part of the cache's key."""


def stored(
    path: Path, part: str, files: Sequence[Path], shape: tuple[int, ...], make: Callable[[Path], Tensor], what: str
) -> Callable[[Tensor], Tensor]:
    """Makes samples ``[B, *shape]``, bytes, from numbers of files ``[B]``. One UserError names all files that cannot be read.

    Args:
        path: the user's folder.
        part: of the data set.
        files: the numbered files.
        shape: of one sample.
        make: a sample from its file.
        what: kind of sample, for the name in the cache.
    """

    def made(numbers: Tensor) -> Tensor:
        size = len(numbers) * math.prod(shape)
        if size <= LARGE:
            machine.need_memory(size, str(path))
            x = torch.zeros(len(numbers), *shape, dtype=torch.uint8)
            each_of(lambda pair: pair[0].copy_(make(files[pair[1]])), zip(x, numbers.tolist(), strict=True))
            return x
        known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        samples = Split(numbers, torch.zeros(len(numbers), dtype=torch.int64))
        return cache.mapped(what, [VERSION, part, known], samples, shape, lambda n: make(files[n]).numpy()).x

    return made
