"""Compiles written C, runs it, and compares its spikes with Python's."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsslbp.data import Split
from tsslbp.exchange.program import Program
from tsslbp.metrics import decode
from tsslbp.utils.errors import UserError

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""Strict compiler options."""
AT_ONCE = 500
"""Samples given to a program at a time."""


class Computed(NamedTuple):
    """Responses of a program to samples."""

    answers: Tensor
    """``[N]``, -1 where no output neuron has spiked."""
    evidence: Tensor
    """``[N, classes]``, of int64 or float64."""
    spikes: dict[str, Tensor]
    """Of every population, ``[T, N, channels, rows, columns]`` of bool."""


def compiler() -> list[str]:
    """The command of a C compiler: that in ``$CC``, else the first of cc, gcc and clang. Raises UserError if there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named,) if named else (["cc"], ["gcc"], ["clang"]):
        if shutil.which(command[0]):
            return command
    tried = named[0] if named else "cc, gcc or clang"
    raise UserError(f"there is no C compiler {tried}; install one, or name one by setting CC")


def compiled(folder: Path, program: Path, options: Sequence[str] = ("-O2",)) -> Path:
    """Compile what :func:`tsslbp.exchange.c.write` wrote, strictly.

    Args:
        folder: that holds it.
        program: the executable to make.
        options: further ones of the compiler.

    Returns:
        ``program``.

    Raises:
        UserError: no compiler, or its first error.
    """
    command = [*compiler(), *STRICT, *options, "network.c", "test.c", "-o", str(program.absolute())]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.splitlines() or [""]
        first = next((line for line in said if re.search("(error|warning):", line)), said[0])
        raise UserError(f"{shlex.join(command)} fails in {folder}: {first}")
    return program


def run(program: Path, of: Program, samples: Split) -> Computed:
    """Run samples through a compiled program. Raises UserError if it fails."""
    populations, classes, steps = of.chain.populations, of.chain.classes, of.entry.model.network.time_steps
    value = np.dtype(np.int64 if of.whole else np.float64)
    row = np.dtype(
        [("answer", np.int32), ("evidence", value, classes), ("marks", np.uint8, (steps, sum(p.neurons for p in populations)))]
    )
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "samples"
        x = of.entry.of_samples(samples, of.whole is not None)
        if of.entry.varies:
            given = np.empty(len(x), [("steps", np.int32), ("x", x.dtype, x.shape[1])])
            given["steps"], given["x"] = of.entry.lengths(samples), x
            x = given
        x.tofile(path)
        done = subprocess.run([program.absolute(), path], capture_output=True, check=False)
    if done.returncode or len(done.stdout) != len(samples) * row.itemsize:
        raise UserError(f"{program} returns {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    found = np.frombuffer(done.stdout, row)
    spikes, first = {}, 0
    for population in populations:
        channels, *sizes = population.shape
        marks = torch.from_numpy(found["marks"][..., first : first + population.neurons].astype(bool)).transpose(0, 1)
        spikes[population.name] = marks.unflatten(2, (*sizes, channels)).movedim(-1, 2)
        first += population.neurons
    answers, evidence = (torch.from_numpy(found[name].copy()) for name in ("answer", "evidence"))
    return Computed(answers.long(), evidence.long() if of.whole else evidence, spikes)


class Difference(NamedTuple):
    """Differences between a program and Python."""

    samples: int
    spikes: int
    """All spikes in Python."""
    differing: int
    """Neuron-steps in which only one of them has a spike."""
    answers: int
    """Samples with another answer, or in an integer network other evidence."""


def compare(program: Path, of: Program, samples: Split) -> Difference:
    """Run samples through a compiled program and through Python."""
    parts = [_compare(program, of, samples.select(index)) for index in torch.arange(len(samples)).split(AT_ONCE)]
    return Difference(*map(sum, zip(*parts, strict=True)))


def _compare(program: Path, of: Program, samples: Split) -> Difference:
    found, (spikes, evidence) = run(program, of, samples), of.response(samples)
    differing = sum(int((mark != spikes[name].reshape(mark.shape)).sum()) for name, mark in found.spikes.items())
    wrong = decode(evidence[None]) != found.answers
    if of.whole:
        wrong |= (evidence != found.evidence).any(1)
    return Difference(len(samples), sum(int(wanted.sum()) for wanted in spikes.values()), differing, int(wrong.sum()))


def check(folder: Path, of: Program, samples: Split) -> Iterator[str]:
    """Compile a written folder elsewhere, run samples through it, and say in a line what differs.

    Raises:
        UserError: there is no compiler, it fails, or an integer network differs.
    """
    with tempfile.TemporaryDirectory() as place:
        found = compare(compiled(folder, Path(place) / "test"), of, samples)
    counts = f"{found.differing} of {found.spikes:,} spikes and {found.answers} of {found.samples:,} answers"
    line = f"compiled by {compiler()[0]}: {counts} differ from Python"
    if of.whole and (found.differing or found.answers):
        raise UserError(f"{line}; whole numbers must not, so do not use {folder}, and report it")
    yield line
