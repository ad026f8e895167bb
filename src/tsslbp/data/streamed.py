"""Pictures that stay in files and are read ahead of their use by worker processes.

Memory holds only their names, sizes and labels, and a bounded number of batches. The workers are those of a PyTorch
``DataLoader``. They are sent the paths of a batch, so none of them holds the names of all files.
"""

import atexit
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tsslbp.data.dataset import Request, Split
from tsslbp.data.pictures import Broken, Member, Unread, opened
from tsslbp.utils import distributed, machine, prng
from tsslbp.utils.errors import UserError, all_of, needed, one_line

AT_ONCE = 64
"""Default batch size."""
AHEAD = 2
"""Most batches that a worker has ready."""
PATIENCE = 600
"""Seconds that a worker lives on after SIGTERM, which a scheduler sends to all processes: the main one first ends its step or
evaluation."""
MOST_WORKERS = 8
MOST_PIXELS = 2**26
"""Pixels that a picture may have once its shorter side is scaled, before the middle is cut out."""

Pictures = list[str | Member]


class Fault(NamedTuple):
    """Index in its batch of a picture that was not read, why, and whether the picture is broken, not the way to it."""

    place: int
    text: str
    broken: bool = True


Decoded = tuple[Tensor, list[Fault]]
"""Pictures ``[B, 3, size, size]``, and what is wrong with those that were not read."""


@dataclass(frozen=True)
class Streaming:
    """How pictures are read from their files.

    Args:
        size: pixels of a side. Default: that of the pictures if it is the same for all, else 224.
        random_crop: least share of a picture's area that training cuts out of it; 0 turns this off.
        skip_broken: leave out pictures that cannot be read.
        workers: processes that read them; 0 reads in this one. The default depends on the number of cores.
    """

    size: int | None = None
    random_crop: float = 0.0
    skip_broken: bool = False
    workers: int | None = None


def default_workers() -> int:
    """One less than the cores that each process of a job has on its machine, and at most ``MOST_WORKERS``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class Decoder(Dataset[Decoded]):
    """Reads pictures. In evaluation the shorter side is scaled to ``size`` and the middle is cut out. With keys and ``least``
    above 0, a random piece of at least this share of the area, between 3:4 and 4:3, is scaled to ``size``.

    Raises:
        UserError: torchvision or Pillow is not installed.
    """

    def __init__(self, size: int, least: float) -> None:
        v2 = needed("torchvision.transforms.v2", "pictures that stay in files need torchvision", "vision")
        self.size = size
        self._middle = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
        self._piece = v2.RandomResizedCrop(size, scale=(least, 1.0)) if least else None

    def __getitem__(self, request: tuple[Pictures, list[int] | None]) -> Decoded:
        paths, keys = request
        x, faults = torch.zeros(len(paths), 3, self.size, self.size, dtype=torch.uint8), []
        for place, path in enumerate(paths):
            try:
                x[place] = self._read(path, None if keys is None else keys[place])
            except UserError as error:
                faults.append(Fault(place, str(error), not isinstance(error, Unread)))
            except MemoryError:
                raise
            except Exception as error:  # every format fails in its own ways
                faults.append(Fault(place, f"cannot read {path} as an image ({one_line(error)})"))
        return x, faults

    def _read(self, path: str | Member, key: int | None) -> Tensor:
        image = opened(path, "RGB")
        if max(image.size) * self.size**2 > MOST_PIXELS * min(image.size):
            raise UserError(
                f"{path} is {image.width} × {image.height} pixels, too thin to be brought to {self.size} × {self.size}"
            )
        if key is None or self._piece is None:
            made = self._middle(image)
        else:
            with torch.random.fork_rng(devices=[]):  # torchvision draws from PyTorch's global generator
                torch.default_generator.manual_seed(key)
                made = self._piece(image)
        return torch.from_numpy(np.array(made)).permute(2, 0, 1)


class Pool:
    """Worker processes that decode batches ahead of their use, and live as long as this object."""

    def __init__(self, decoder: Decoder, workers: int) -> None:
        self.decoder, self.workers = decoder, workers
        self._requests, self._busy = _Requests(), False
        self._loaders: list[DataLoader[Any]] = []

    @classmethod
    def of(cls, how: Streaming, size: int, least: float) -> Self:
        """Processes that bring pictures to ``size``; see :class:`Decoder` for ``least``."""
        return cls(Decoder(size, least), default_workers() if how.workers is None else how.workers)

    def decoded(self, requests: Iterable[tuple[Pictures, list[int] | None]]) -> Iterator[Decoded]:
        """The decoded pictures of each request, in order.

        Raises:
            Unread: a worker has ended, because memory was short or because it was killed.
        """
        if not self.workers or self._busy:  # a request during others does not wait for these
            yield from map(self.decoder.__getitem__, requests)
            return
        self._busy, self._requests.left = True, iter(requests)
        try:
            if not self._loaders:
                self._loaders.append(self._made())
            for x, faults in _noticed_in_turn(self._loaders[0]):
                yield torch.from_numpy(x), faults
        except (RuntimeError, EOFError, OSError) as error:  # the last two if it ends while handing over a batch
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            self._loaders.clear()
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise Unread(
                f"a process that reads pictures has ended ({reason}); memory may be short: give fewer --workers, or --workers 0"
            ) from None
        finally:
            self._busy = False

    def end(self) -> None:
        """End the workers; new ones start when they are needed."""
        for loader in self._loaders:
            if loader._iterator is not None:
                loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        self._loaders.clear()

    def _made(self) -> DataLoader[Any]:
        atexit.register(_end, weakref.ref(self))
        return DataLoader(
            self.decoder,
            batch_size=None,
            sampler=self._requests,
            num_workers=self.workers,
            collate_fn=_with_array,
            worker_init_fn=_outlive_signals,
            prefetch_factor=AHEAD,
            persistent_workers=True,
            multiprocessing_context="fork" if sys.platform == "linux" else None,  # a fork server would end at a SIGTERM
            generator=torch.Generator(),  # so that the global one is not advanced
        )


class _Requests:
    """What a pool is to decode next."""

    left: Iterator[Any] = iter(())

    def __iter__(self) -> Iterator[Any]:
        return self.left


def _end(pool: "weakref.ref[Pool]") -> None:
    """End the workers of a pool with the program, before ``multiprocessing`` waits for them."""
    if (left := pool()) is not None:
        left.end()


def _with_array(batch: Any) -> tuple[NDArray[np.uint8], list[Fault]]:
    """A batch as a worker hands it over. A tensor would need shared memory and a socket; where these fail, PyTorch loses the
    error and the main process waits for ever."""
    return batch[0].numpy(), batch[1]


def _outlive_signals(_: int) -> None:
    """These signals reach all processes, but the main one must first end its step and write a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in distributed.STOPS:
        if not distributed.lets_hang_up(number):
            signal.signal(number, lambda *_: signal.alarm(PATIENCE) and None)


def _noticed_in_turn(loader: DataLoader[Any]) -> Iterator[tuple[NDArray[np.uint8], list[Fault]]]:
    """The batches of a loader. When a worker ends, PyTorch raises an error at any point of the main process; here it is raised
    where the worker's batch is missing."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return iterator


def _check_way(faults: list[Fault]) -> None:
    """Raises Unread for pictures that are not broken but could not be read."""
    if unread := [fault.text for fault in faults if not fault.broken]:
        raise Unread(str(all_of(unread)))


@dataclass(frozen=True)
class Files:
    """Names and sizes of files below a folder, in a few bytes each.

    Args:
        folder: that holds them.
        names: relative to it, joined.
        ends: end of each name, ``[N]``.
        sizes: of the files in bytes, ``[N]``.
    """

    folder: str
    names: bytes
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def name(self, number: int) -> str:
        """A file's name, relative to the folder."""
        start = int(self.ends[number - 1]) if number else 0
        return os.fsdecode(self.names[start : self.ends[number]])

    def at(self, number: int) -> str | Member:
        """The place of a picture."""
        return os.path.join(self.folder, self.name(number))


class Streamed(Split):
    """Some of the pictures in files, with their labels; ``x`` reads them all.

    Args:
        files: names and sizes.
        numbers: indices into these, ``[N]``.
        y: labels, ``[N]``.
        pool: decodes them.
    """

    streamed = True
    files: Files
    numbers: Tensor
    pool: Pool

    def __init__(self, files: Files, numbers: Tensor, y: Tensor, pool: Pool) -> None:
        for name, value in {"files": files, "numbers": numbers, "y": y, "pool": pool, "lengths": None}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Streamed({len(self):,} pictures of {self.files.folder})"

    @property
    def x(self) -> Tensor:
        """The pictures ``[N, 3, size, size]``, uint8. Raises UserError if memory is short, or some cannot be read."""
        size = self.pool.decoder.size
        machine.need_memory(len(self) * 3 * size**2, f"{len(self):,} pictures of {self.files.folder}")
        x, start = torch.empty(len(self), *self.shape, dtype=torch.uint8), 0
        for part in self.batches((index, None) for index in torch.arange(len(self)).split(AT_ONCE)):
            x[start : start + len(part)] = part.x
            start += len(part)
        return x

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.pool.decoder.size, self.pool.decoder.size)

    def __add__(self, more: Split) -> Split:
        if not isinstance(more, Streamed) or more.files is not self.files:
            return super().__add__(more)
        return Streamed(self.files, torch.cat([self.numbers, more.numbers]), torch.cat([self.y, more.y]), self.pool)

    def select(self, index: Tensor) -> "Streamed":
        """The samples at ``index`` ``[B]``, not read yet."""
        return Streamed(self.files, self.numbers[index], self.y[index], self.pool)

    def batches(self, requests: Iterable[Request]) -> Iterator[Split]:
        """As in :class:`Split`. Raises Broken or Unread that names the pictures that are broken, or cannot be read now."""
        labels: list[Tensor] = []

        def asked() -> Iterator[tuple[Pictures, list[int] | None]]:
            for index, keys in requests:
                labels.append(self.y[index])
                seeds = None if keys is None else prng.mix(keys, prng.CUT).tolist()
                yield [self.files.at(number) for number in self.numbers[index].tolist()], seeds

        for x, faults in self.pool.decoded(asked()):
            if faults:
                _check_way(faults)
                said = str(all_of([fault.text for fault in faults]))
                raise Broken(f"{said}; mend or remove it, or leave out all that cannot be read with --skip-broken")
            yield Split(x, labels.pop(0))

    def close(self) -> None:
        self.pool.end()

    def broken(self) -> list[tuple[int, str]]:
        """Indices of broken pictures, and why they cannot be read; this reads every picture.

        Raises UserError if the system does not let some be read.
        """
        found, start = [], 0
        chosen = self.numbers.split(AT_ONCE)
        requests = (([self.files.at(number) for number in part.tolist()], None) for part in chosen)
        for part, (_, faults) in zip(chosen, self.pool.decoded(requests), strict=True):
            _check_way(faults)
            found += [(start + fault.place, fault.text) for fault in faults]
            start += len(part)
        return found

    def marks(self) -> Iterator[bytes]:
        """Name, relative to the folder of its part, and size of each file."""
        for number in self.numbers.tolist():
            yield f"{self.files.name(number)} {self.files.sizes[number]}".encode("utf-8", "surrogateescape")
