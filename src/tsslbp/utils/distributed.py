"""Several processes that train one network together, as ``torchrun`` starts them.

Code that needs all samples of a batch gets the :func:`group` and lets it add numbers. A single process is a group of one, for
which all of this does nothing.

:meth:`Group.share` divides a batch. The losses of the processes add up to that of the batch, and so do their gradients
(:meth:`Group.all_reduce_`).
"""

import functools
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

if dist.is_available():  # PyTorch may be built without it
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

from tsslbp.utils.errors import UserError

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others. The end of one is noticed at once."""
ANSWER, END = 15.0, 25.0
"""Seconds after torchrun's SIGTERM in which a process waits for others, and in which it ends. After 30 torchrun kills it."""
GLANCE = timedelta(seconds=1)
"""How long it waits at a time."""
LARGE = 2**20
"""Bytes of a gradient that is added up by itself. Smaller ones are added up together, as a separate sum would not pay."""

ASKED = "this process was asked to stop (SIGTERM), as happens when another process of its job has ended"


class Lost(UserError):
    """Another process of the job has ended, or cannot be reached."""


_NOTICED = threading.Event()  # whether this process knows that the job ends
_LATE = threading.Event()  # whether it is to wait no longer
_SUMS: list[Any] = []  # what it has begun with others, and not seen the end of

STOPS = (signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))
"""Signals that ask a program to end: of a scheduler, and of a terminal that closes."""


def lets_hang_up(number: signal.Signals) -> bool:
    """Whether this is SIGHUP and ignored, as ``nohup`` has it."""
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def handling(handler: Callable[[int, Any], object], *numbers: signal.Signals) -> Iterator[dict[signal.Signals, Any]]:
    """Inside, ``handler`` gets these signals where Python takes them, in the main thread; yields the handlers before.
    SIGHUP that is ignored, as under ``nohup``, stays so, and so do handlers of C, as in R, which cannot be put back."""
    main = threading.current_thread() is threading.main_thread()
    taken = [each for each in numbers if main and not lets_hang_up(each) and signal.getsignal(each) is not None]
    before: dict[signal.Signals, Any] = {number: signal.signal(number, handler) for number in taken}
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass(frozen=True)
class Group:
    """The processes of a job, seen from one of them.

    Args:
        world_size: number of processes.
        rank: of this one, from 0. Rank 0 writes files and prints.
        store: kept by torchrun's agent, also across restarts; None for a single process.
    """

    world_size: int = 1
    rank: int = 0
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def share(self, samples: Tensor) -> Tensor:
        """This process's part of the samples of a batch, ``[B]``; it may be empty."""
        return samples if self.world_size == 1 else samples.tensor_split(self.world_size)[self.rank]

    def all_reduce_(self, x: Tensor) -> Tensor:
        """Replace ``x`` by its sum over all processes, with the same bits in each. Raises Lost."""
        return self.all_reduce_async(x)()

    def all_reduce_async(self, x: Tensor) -> Callable[[], Tensor]:
        """Begin to replace ``x`` by its sum over all processes; the returned function waits for it and returns it.

        All processes must begin their sums in the same order. Raises Lost, here or there.
        """
        if self.world_size == 1:
            return lambda: x
        with _noticing():
            work = _begun(dist.all_reduce(x, async_op=True))

        @functools.cache
        def added() -> Tensor:
            _wait(work, x)
            return x

        return added

    def broadcast_(self, x: Tensor) -> Tensor:
        """Replace ``x`` by that of the leading process. Raises Lost."""
        if self.world_size > 1:
            with _noticing():
                work = _begun(dist.broadcast(x, 0, async_op=True))
            _wait(work, x)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the samples of all processes, ``[B, ...] -> [...]``, through which gradients flow. Raises Lost."""
        if self.world_size == 1:
            return x.mean(0)
        return _Total.apply(x.sum(0), self) / self.all_reduce_(torch.tensor(float(len(x)), dtype=torch.float64)).item()

    def broadcast(self, message: bytes | None) -> bytes:
        """The message of the leading process; those of others are ignored. Raises Lost."""
        if self.world_size == 1:
            assert message is not None
            return message
        size = self.all_reduce_(torch.tensor(len(message or b"") if self.leads else 0))
        sent = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads and message:
            sent.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
        return self.broadcast_(sent).numpy().tobytes()

    def all_gather_text(self, text: str) -> list[str]:
        """The texts of all processes, in order. Raises Lost."""
        said = text.encode()
        sizes = torch.zeros(self.world_size, dtype=torch.int64)
        sizes[self.rank] = len(said)
        ends = self.all_reduce_(sizes).cumsum(0).tolist()
        spoken = torch.zeros(ends[-1], dtype=torch.uint8)
        spoken[ends[self.rank] - len(said) : ends[self.rank]] = torch.tensor(list(said), dtype=torch.uint8)
        whole = self.all_reduce_(spoken).numpy().tobytes()
        return [whole[start:end].decode() for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Inside, a UserError in one process is raised in all. Raises Lost."""
        fault, raised = "", None
        try:
            yield
        except UserError as error:
            fault, raised = str(error), error
        told = self.all_gather_text(f"process {self.rank} on {socket.gethostname()}: {fault}" if fault else "")
        found = [text for text in told if text]
        if raised is not None and (self.world_size == 1 or len(found) == self.world_size):
            raise raised
        if found:
            raise UserError("; ".join(dict.fromkeys(found)))

    def same(self, what: str, text: str) -> None:
        """Raises UserError with ``what`` unless all processes have the same ``text``; or Lost."""
        said = self.all_gather_text(text)
        if other := [number for number, one in enumerate(said) if one != said[0]]:
            raise UserError(f"process {other[0]} has {what} than process 0; give every node the same files")

    def remembered(self, key: str, value: str | None = None) -> str | None:
        """A value that is kept when torchrun restarts the job; sets it if one is given."""
        if self.store is None:
            return None
        if value is not None and self.leads:
            self.store.set(key, value)
        return self.store.get(key).decode() if self.store.check([key]) else None

    def speaks(self) -> bool:
        """Whether this process is the first to report the end of the job."""
        try:
            return self.store is None or self.store.add(f"said {restarts()}", 1) == 1
        except RuntimeError:  # the machine that keeps the store is gone
            return True


ALONE = Group()
_GROUP: ContextVar[Group] = ContextVar("group", default=ALONE)


def group() -> Group:
    """The current group; this process alone outside of :func:`joined`."""
    return ALONE if torch.compiler.is_compiling() else _GROUP.get()  # the compiler cannot trace this


@contextmanager
def alone() -> Iterator[None]:
    """Inside, every process works by itself, on the same samples as all others."""
    token = _GROUP.set(ALONE)
    try:
        yield
    finally:
        _GROUP.reset(token)


def world_size() -> int:
    """How many processes torchrun has started for this job; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _launched() else 1


def _launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def restarts() -> int:
    """How often torchrun has restarted the job."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def leads() -> bool:
    """Whether this is the process of the job that prints, joined or not."""
    return world_size() == 1 or os.environ.get("RANK") == "0"


def check_device(name: str) -> None:
    """Raises UserError for a name that is not ``cpu``, ``cuda`` or ``cuda:N``; whether there is a GPU does not matter."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", name):
        raise UserError(f"{name!r} is no device; it must be cpu, cuda or cuda:N")


def device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda`` (each process on a machine has its own) or ``cuda:N``.

    Raises UserError for another name, for a missing GPU, and for ``cuda:N`` if several processes would share that.
    """
    check_device(name)
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    if number and world_size() > 1 and (each := os.environ["LOCAL_WORLD_SIZE"]) != "1":
        raise UserError(f"--device is {name}, which {each} processes would share; --device cuda gives each its own")
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(number or (os.environ["LOCAL_RANK"] if world_size() > 1 else 0))
    if index >= there:
        raise UserError(f"--device is {name}; PyTorch finds {there} GPUs here" + ("" if there else ", so take --device cpu"))
    return torch.device("cuda", index)


def stuck() -> bool:
    """Whether the end of Python would wait for a process that does not answer."""
    return not all(work.is_completed() for work in _SUMS)


def command() -> str:
    """How this job's command begins."""
    each = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return "tsslbp" if world_size() == 1 else f"torchrun --nproc-per-node {each} -m tsslbp"


@contextmanager
def joined() -> Iterator[Group]:
    """Work together with the other processes that torchrun has started, if any, until the block ends.

    A UserError or OSError that leaves the block is raised in the process that has it first. The others end silently with exit
    code 2. SIGTERM, which torchrun sends to all when one has ended, raises Lost.
    """
    if not _launched() or group().world_size > 1:
        yield group()
        return
    if world_size() == 1:
        yield Group(store=next(iter(rendezvous("env://", timeout=PATIENCE)))[0])
        return
    # Optimizers import this. If imported while the group exists, it keeps the group's threads until the interpreter ends, where
    # they aborted 2 of 21 short jobs.
    import_module("torch._dynamo")
    store, number, count = next(iter(rendezvous("env://", timeout=PATIENCE)))
    with _answering(Group(count, number, store.clone())):  # a separate store, as the other may wait in a call
        yield from _together(store, number, count)


def _together(store: Any, number: int, count: int) -> Iterator[Group]:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    own = PrefixStore(f"attempt {restarts()}", store)  # it still has addresses of earlier processes
    with _noticing():
        dist.init_process_group(backend, store=own, rank=number, world_size=count, timeout=PATIENCE)
    whole = Group(count, number, store)
    token = _GROUP.set(whole)
    try:
        yield whole
        whole.all_reduce_(torch.zeros(()))  # leave together, or gloo may abort a process whose connections end first
    except BaseException as error:
        _NOTICED.set()
        if isinstance(error, UserError | OSError) and not whole.speaks():
            raise SystemExit(2) from None
        raise
    finally:
        _GROUP.reset(token)
        if not stuck():
            dist.destroy_process_group()


@contextmanager
def _answering(group: Group) -> Iterator[None]:
    """Inside, SIGTERM raises Lost, unless this process is about to end anyway.

    Python runs signal handlers between two of its own instructions, which a process that waits in a call for another does not
    reach. So a thread also listens, and ends the process with a message before torchrun kills it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _NOTICED.clear()
    _LATE.clear()
    _SUMS.clear()
    left, (signals, wakeup) = threading.Event(), socket.socketpair()

    def asked(*_: Any) -> None:
        if not _NOTICED.is_set():
            _NOTICED.set()
            raise Lost(ASKED)

    def listen() -> None:
        for number in iter(lambda: signals.recv(1), b""):  # until the other end is closed
            if number == bytes([signal.SIGTERM]) and not left.wait(ANSWER):
                _LATE.set()
                if left.wait(END - ANSWER):
                    continue
                if group.speaks():
                    told = f"{ASKED}, and did not stop in {END:g} s; if its run had begun, go on with --resume"
                    os.write(sys.stderr.fileno(), f"tsslbp: {told}\n".encode())
                os._exit(2)

    wakeup.setblocking(False)
    _spare_children()
    before = signal.signal(signal.SIGTERM, asked), signal.set_wakeup_fd(wakeup.fileno())
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before[1])
        wakeup.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if _NOTICED.is_set() else before[0])


@functools.cache  # the system keeps what is registered until this process ends
def _spare_children() -> None:
    """Let a child's signals not be this process's."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _wait(work: Any, x: Tensor) -> None:
    """Wait for the other processes to send ``x``, over gloo at most ``ANSWER`` seconds after a SIGTERM. Raises Lost."""
    while x.device.type == "cpu" and not work.is_completed():  # after a timeout NCCL would close its connections
        if _LATE.is_set():
            raise Lost(ASKED)
        with suppress(RuntimeError):  # of the time, or of the work, which says it again
            work.wait(GLANCE)
    with _noticing():
        work.wait()
    with suppress(ValueError):
        _SUMS.remove(work)


def _begun(work: Any) -> Any:
    """Remember what has begun, and forget what has ended and nobody has waited for."""
    _SUMS[:] = [*(before for before in _SUMS if not before.is_completed()), work]
    return work


@contextmanager
def _noticing() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        _NOTICED.set()
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        raise Lost(f"another process of this job has ended or cannot be reached ({reason})") from error


class _Total(torch.autograd.Function):
    """The sum over all processes. Each process's loss may depend on it, so their gradients are added up too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.all_reduce_(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.group.all_reduce_(gradient.clone()), None
