"""Where inference from events spends its time: python benchmarks/inference_profile.py [DATA_ROOT]

The trained networks of models/, and nmnist-cnn-head with its first weights and T = 100, on one thread, with single samples and
batches of 50. Linux's perf looks 2,000 times a second where the process is, and binutils tell which function that is. They
need kernels with debugging information: TSSLBP_DEBUG=1 pip install -e . --no-build-isolation
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import command
import torch
from changes import measured
from inference import IMAGES
from torch import Tensor

from tsslbp.kernels.cpp import NOT_LOADED
from tsslbp.network.network import Network
from tsslbp.utils import machine
from tsslbp.utils.errors import UserError
from tsslbp.utils.tables import markdown

SECONDS, WARM_UP = 10.0, 20
PARTS = {
    "products": ("add_units",),
    "finding events and weights": ("add_up", "add_up_flat"),
    "lists of events": ("list_trains", "list_pooled", "list_input", "take_background", "pool_trains"),
    "neurons": ("Neurons",),
}
"""Functions of csrc/, in which others may be inlined, by what they do."""
KERNELS, LIBRARIES, PYTHON = "rest of the kernels", "PyTorch and C", "Python"


def main(data_root: str = "data") -> None:
    if NOT_LOADED is not None:
        raise UserError(NOT_LOADED)
    torch.set_num_threads(1)
    machine.keep_memory()
    columns: dict[str, tuple[float, Counter[str]]] = {}
    for name, nets, x, _ in measured(Path(data_root)):
        if "T = 30" not in name:
            net = nets.get("trained", nets["first"]).eval()
            for batch in (1, IMAGES):
                columns[f"{name}, {'alone' if batch == 1 else f'in {batch}'}"] = profile(net, x, batch)
    rows = [["µs a sample", *(f"{microseconds:.0f}" for microseconds, _ in columns.values())]]
    rows += (
        [f"{part}, %", *(f"{100 * found[part] / found.total():.0f}" for _, found in columns.values())]
        for part in (*PARTS, KERNELS, LIBRARIES, PYTHON)
    )
    print(markdown(["", *columns], rows))


def profile(net: Network, x: Tensor, batch: int) -> tuple[float, Counter[str]]:
    """Microseconds for a sample, and how often perf found the process in each part."""
    for tool in ("perf", "addr2line", "readelf"):
        if not shutil.which(tool):
            raise UserError(f"{tool} is missing; install Linux's perf and binutils")
    axis = 0 if net.is_static(x) else 1
    turns = itertools.cycle([part.clone() for part in x.narrow(axis, 0, IMAGES).split(batch, axis)])
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        for _ in range(WARM_UP):
            net(next(turns))
        with watched(record := Path(folder) / "perf.data"):
            calls, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < SECONDS:
                net(next(turns))
                calls += 1
        return 1e6 * spent / calls / batch, parts(*places(record))


@contextmanager
def watched(record: Path) -> Iterator[None]:
    """Inside, perf looks at this thread and writes to a file."""
    words = ["perf", "record", "-q", "-F", "2000", "-t", str(os.getpid()), "-o", str(record)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as perf:
        try:
            time.sleep(1)
            yield
        finally:
            perf.send_signal(signal.SIGINT)
    if not record.exists():
        raise UserError("perf may not look at this process; see /proc/sys/kernel/perf_event_paranoid")


def places(record: Path) -> tuple[Path, Counter[int], Counter[str]]:
    """The file of the kernels, how often each of its addresses was found, and how often each other file was."""
    kernels = re.compile(r"^([0-9a-f]+)-\S+ r-xp ([0-9a-f]+) .* (/.*_cpu\.abi3\.so)$", re.MULTILINE)
    mapped = kernels.search(Path("/proc/self/maps").read_text())
    assert mapped is not None
    start, offset, path = int(mapped[1], 16), int(mapped[2], 16), Path(mapped[3])
    for segment in output("readelf", "-lW", str(path)).splitlines():  # a segment's address is not its place in the file
        if (fields := segment.split())[:1] == ["LOAD"] and int(fields[1], 16) == offset:
            offset = int(fields[2], 16)
    inside, outside = Counter[int](), Counter[str]()
    for ip, file in re.findall(
        r"([0-9a-f]+) \((\S+)\)$", output("perf", "script", "-i", str(record), "-F", "ip,dso"), re.MULTILINE
    ):
        if Path(file) == path:
            inside[int(ip, 16) - start + offset] += 1
        else:
            outside[Path(file).name] += 1
    return path, inside, outside


def parts(path: Path, inside: Counter[int], outside: Counter[str]) -> Counter[str]:
    """How often each part was found."""
    found = Counter[str]()
    for file, count in outside.items():
        found[PYTHON if "python" in file else LIBRARIES] += count
    told = output("addr2line", "-e", str(path), "-aifC", *map(hex, inside)).splitlines()
    if inside and not any("Neurons" in line for line in told):
        raise UserError("the kernels have no debugging information: TSSLBP_DEBUG=1 pip install -e . --no-build-isolation")
    begins = [number for number, line in enumerate(told) if line.startswith("0x")]
    for begin, end in zip(begins, [*begins[1:], len(told)], strict=True):
        found[part_of(told[begin + 1 : end : 2])] += inside[int(told[begin], 16)]
    return found


def part_of(functions: Sequence[str]) -> str:
    """The part to which an address belongs, from the functions that are inlined there, the innermost first."""
    names = [re.split(r"[<(]", function)[0].split("::")[-1] for function in functions]
    return next((part for name in names for part, own in PARTS.items() if name in own), KERNELS)


def output(*words: str) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


if __name__ == "__main__":
    command.run(main, __doc__)
