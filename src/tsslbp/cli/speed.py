"""The commands that measure how fast this machine is, and show what works on it."""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tsslbp import bench, kernels
from tsslbp.bench import measure
from tsslbp.cli.parse import parse
from tsslbp.cli.show import console
from tsslbp.cli.streams import say
from tsslbp.utils import files, machine
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.fields import FINITE, POSITIVE
from tsslbp.utils.tables import aligned


@dataclass(frozen=True)
class Bench:
    """Measure speed and memory of a training step against the linear maps alone, a ReLU network and other libraries.

    All take turns in one run, so that other work on the machine affects them alike. Read the ratios and not the milliseconds.
    """

    cases: tuple[str, ...] = tuple(name for name, case in bench.cases().items() if not case.large)
    """Networks to measure. cifar10-cnn1 and cifar10-cnn2 take minutes each, and run only if you name them."""
    seconds: Annotated[float, POSITIVE, FINITE] = 30.0
    """Seconds for each network. More seconds give steadier numbers."""
    memory: bool = True
    """Also measure peak memory, each contestant in a process of its own."""
    growth: bool = True
    """Also measure how the time of a step grows with T, batch size and width."""
    against: Path | None = None
    """The Python interpreter of another installation of tsslbp. Only training steps are then measured, in turns with that
    installation, and the ratio of the times is printed."""
    results: Path = Path("benchmarks/results")
    """Folder for the result, a JSON file named by processor and date."""


def bench_(arguments: list[str]) -> None:
    """``tsslbp bench``."""
    options = parse(Bench, "bench", arguments)
    for name in options.cases:
        if name not in bench.cases():
            raise unknown("case", name, bench.cases())
    if options.against and not (options.memory and options.growth):
        raise UserError("--no-memory and --no-growth have no effect with --against; leave them out")
    if options.memory and not options.against and not measure.CLEAR.exists():
        raise UserError("peak memory cannot be measured on this system; give --no-memory")
    files.check_folder(options.results, "choose another --results")
    machine.keep_memory()  # for all subjects
    if options.against:
        found = bench.against(options.against, options.cases, options.seconds, say)
        console.print(bench.against_table(found))
        about = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe()}
        console.print(f"result: {bench.save({**about, 'against': found}, options.results, 'against-')}")
        return
    result = bench.run(options.cases, options.seconds, options.memory, say)
    if options.growth:
        result["growth"] = bench.growth(options.seconds, options.memory, say)
    console.print(bench.table(result))
    console.print(bench.spent_table(result))
    console.print(f"result: {bench.save(result, options.results)}")


@dataclass(frozen=True)
class Doctor:
    """Show which kernels and packages work here, and measure whether bfloat16 is faster. `--precision auto` follows that
    measurement."""

    measure: bool = True
    """Measure bfloat16. The result is kept in the cache folder."""
    seconds: Annotated[float, POSITIVE, FINITE] = 5.0
    """Seconds for each network measured."""


def doctor(arguments: list[str]) -> None:
    """``tsslbp doctor``."""
    options = parse(Doctor, "doctor", arguments)
    if not options.measure and any(argument.split("=")[0] == "--seconds" for argument in arguments):
        raise UserError("--seconds has no effect with --no-measure; leave one of them out")
    measured = options.measure and kernels.backends()["cpp"].usable and machine.multiplies_bfloat16()
    if measured:
        files.check_folder(files.cache_folder(), f"{files.CACHE_FIX}, or give --no-measure")
    rows = machine.describe()
    for name, backend in kernels.backends().items():
        rows[f"backend {name}"] = f"{'usable' if backend.usable else 'not usable'}: {backend.reason}"
    need = {
        "torchvision": ("downloads, image-folder and webdataset need", "vision"),
        "PIL": ("predict needs", "vision"),
        "tensorboard": ("--tensorboard needs", "tensorboard"),
        "optuna": ("--tune with a number of trials needs", "tune"),
        "tonic": ("tonic:NAME needs", "events"),
        "nir": ("files of NIR need", "nir"),
        "onnx": ("files of ONNX need", "onnx"),
        "onnxruntime": ("the check of files of ONNX needs", "onnx"),
    }
    for package, (purpose, extra) in need.items():
        found = importlib.util.find_spec(package) is not None
        missing = f"missing; {purpose} it: pip install 'tsslbp[{extra}]'"
        rows[f"package {package}"] = "installed" if found else missing
    if measured:
        machine.keep_memory()
        gains = bench.bfloat16_gains(options.seconds)
        machine.record_bfloat16(gains)
        rows["bfloat16"] = ", ".join(f"{gain:.2f} times as fast on {name}" for name, gain in gains.items())
    elif not machine.multiplies_bfloat16():
        rows["bfloat16"] = "not measured: this processor has no fast products in bfloat16"
    rows["--precision auto"] = f"takes {'bfloat16' if machine.bfloat16_pays() else 'float32'}"
    console.print(aligned([*rows.items()]))
