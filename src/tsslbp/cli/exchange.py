"""The commands that write a trained network for other programs, and read one of theirs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro

from tsslbp import data, training
from tsslbp.cli.parse import parse
from tsslbp.cli.show import console
from tsslbp.cli.streams import say
from tsslbp.exchange import c, check, compiled, nir, onnx
from tsslbp.exchange.program import Program
from tsslbp.layers import quantisation
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, unknown
from tsslbp.utils.fields import FINITE, POSITIVE, Means, flag


@dataclass(frozen=True)
class Export:
    """Write a trained network in a format that others read. The ending of FILE says which."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_MODEL")]
    """A run's folder; for all formats but .safetensors also a model file."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """What to write, such as models/NAME.safetensors."""
    format: str | None = None
    """The format, if the ending of FILE does not say it: safetensors, nir, onnx or c."""
    half: bool = False
    """Store the weights in float16, in half the space. The card then gives the test accuracy of the rounded weights, which
    needs the data."""
    bias: nir.Bias = "leak"
    """How biases after a synapse are written. leak follows NIR's equations. onset also runs in simulators without leaks: it
    adds an input channel, which is 1 at the first step and then 0."""
    check: int = 0
    """Run this many test samples through the written network, and count the spikes that differ: in every simulator that is
    installed, or in compiled C; in onnxruntime the output currents and answers."""
    data: str | None = None
    """Data set whose test samples --check takes, or a file or folder of your own, of which it takes the first samples. Default:
    the test samples of the data that the model was trained on."""
    bits: Annotated[str | None, Means(quantisation.check)] = None
    """Round weights that were trained in floating point to this many bits: 8, 4, 3, 2 or ternary. Training with them gives
    better accuracy (tsslbp train --bits)."""
    data_root: Path | None = None
    """Folder that holds the data set: for --half, for --check, and for the samples in the test of a C program. Default: the
    run's own; data for a model file."""


class Format(NamedTuple):
    """A format that ``tsslbp export`` writes."""

    ending: str
    """Ending of files; empty for a folder, which needs ``--format``."""
    about: str
    write: Callable[[Export, training.Model], Iterator[str]]
    """Writes FILE of the model and returns the lines to print. Raises UserError for features that the format lacks."""
    options: frozenset[str] = frozenset()
    """Settings of :class:`Export` that it takes, besides the paths and the format."""


def _safetensors(options: Export, _: training.Model) -> Iterator[str]:
    from tsslbp.cli import publishing  # here, because Matplotlib comes with it

    yield f"card: {publishing.export(options.model, options.file, options.half, options.data_root)}"


def _test(options: Export, model: training.Model) -> data.Split | None:
    """The test samples for --check, if any."""
    if options.check < 0:
        raise UserError(f"--check is {options.check}; it must be a number of samples")
    if not options.check:
        return None
    settings = options.model / training.CONFIG
    streaming = TrainConfig.from_toml(settings).streaming if settings.is_file() else None
    if options.data and data.is_own(options.data) and not data.in_files.is_one(options.data):
        found = data.readers.at(Path(options.data))  # of a folder that stands for a file
        test = training.samples_to_predict(model, found[1] if found else Path(options.data), streaming).split
    else:
        place = training.data_of(options.model, options.data, options.data_root)
        test = training.samples_to_test(model, *place, streaming=streaming).split
    return test.select(torch.arange(min(options.check, len(test))))


def _nir(options: Export, model: training.Model) -> Iterator[str]:
    test = _test(options, model)
    graph = nir.to_nir(model, options.bias)
    nir.write(graph, options.file)
    yield f"wrote {options.file}: {nir.described_graph(graph)}"
    if test:
        x, ends = model.inputs(test.x, 0, test.lengths), model.inputs.steps(test.lengths)
        yield from check.lines(check.check(model.network, graph, x, say=say, lengths=ends))


def _onnx(options: Export, model: training.Model) -> Iterator[str]:
    test = _test(options, model)
    proto = onnx.to_onnx(model)
    found = list(onnx.check(proto, model, test)) if test else []  # before anything is written
    onnx.write(proto, options.file)
    yield f"wrote {options.file}: {onnx.described(proto)}"
    yield from found


def _c(options: Export, model: training.Model) -> Iterator[str]:
    test, program = _test(options, model), Program.of(model, options.bits)
    if test:
        compiled.compiler()  # before anything is written
    name, root = training.data_of(options.model, None, options.data_root)
    yield c.write(program, options.file, root, (options.data, name))
    if test:
        yield from compiled.check(options.file, program, test)


FORMATS = {
    "safetensors": Format(
        ".safetensors",
        "the model of a run, to give away, and README.md beside it, a card of all models in that folder",
        _safetensors,
        frozenset({"half", "data_root"}),
    ),
    "nir": Format(
        ".nir",
        "a graph for other simulators and chips (NIR), with the same spikes",
        _nir,
        frozenset({"bias", "check", "data", "data_root"}),
    ),
    "onnx": Format(
        ".onnx",
        "a graph from raw samples to answers (ONNX), for onnxruntime and other runtimes",
        _onnx,
        frozenset({"check", "data", "data_root"}),
    ),
    "c": Format(
        "",
        "a new folder with the network as C99, a test with vectors, and a page that says how to use them",
        _c,
        frozenset({"bits", "check", "data", "data_root"}),
    ),
}
"""Formats by their names."""


def export(arguments: list[str]) -> None:
    """``tsslbp export``."""
    about = "; ".join(f"{form.ending or f'--format {name}'}: {form.about}" for name, form in FORMATS.items())
    options = parse(Export, "export", arguments, description=f"{Export.__doc__} {about}.")
    name, form = _format(options)
    for field in fields(Export)[3:]:
        if getattr(options, field.name) != field.default and field.name not in form.options:
            raise UserError(f"{flag(field.name)} has no effect with format {name}")
    if options.data and not options.check:
        raise UserError("--data has no effect without --check")
    measuring = {"safetensors": "half", "nir": "check", "onnx": "check"}.get(name)
    if measuring and options.data_root is not None and not getattr(options, measuring):
        raise UserError(f"--data-root has no effect without --{measuring}")
    model = training.load(options.model)
    if name == "safetensors" and options.model.is_file():
        raise UserError(f"{form.ending} is written from a run's folder, and {options.model} is a model already; copy it")
    if form.ending:
        needed = Path(model.data), *training.files_of(options.model)
        options = replace(options, file=files.output(options.file, *needed, makes=form.ending == ".safetensors"))
    for line in form.write(options, model):
        console.print(line)


def _format(options: Export) -> tuple[str, Format]:
    """The given format, or the one of the file's ending. Raises UserError if there is none."""
    if options.format is not None:
        if options.format not in FORMATS:
            raise unknown("format", options.format, FORMATS)
        if any(form.ending == options.file.suffix != "" for name, form in FORMATS.items() if name != options.format):
            raise UserError(
                f"{options.file} has the ending of another format than --format {options.format}; change one of them"
            )
        return options.format, FORMATS[options.format]
    for name, form in FORMATS.items():
        if form.ending and options.file.suffix == form.ending:
            return name, form
    endings = ", ".join(form.ending for form in FORMATS.values() if form.ending)
    raise UserError(f"the ending of {options.file} names no format; known endings: {endings}; for C: --format c FOLDER")


@dataclass(frozen=True)
class Import:
    """Read a network from a NIR file, and write it as a model, to be used, trained further and exported again."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A NIR file, of this or another program."""
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """What to write, a .safetensors file."""
    dt: Annotated[float | None, POSITIVE, FINITE] = None
    """Seconds of a step. Default: 1e-4, which tsslbp writes and most programs assume."""
    time_steps: Annotated[int | None, POSITIVE] = None
    """Steps per sample, T. Default: what the file says, else 5."""
    sequences: bool = False
    """Its samples are sequences, [T, ...], such as recordings of events. Files of tsslbp say so themselves."""


def import_(arguments: list[str]) -> None:
    """``tsslbp import``."""
    options = parse(Import, "import", arguments)
    if options.model.suffix != ".safetensors":
        raise UserError(f"{options.model} must end in .safetensors")
    out = files.output(options.model, options.file)
    found = nir.read(options.file, options.dt, options.time_steps, options.sequences)
    found.model.save(out)
    if found.assumed:
        console.print(f"the file does not say everything; taken for granted: {', '.join(found.assumed)}")
    console.print(f"model: {options.model}, {found.model.network.describe()}")
