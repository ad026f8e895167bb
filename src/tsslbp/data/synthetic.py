"""Synthetic sequence tasks: frozen spike patterns and memory tasks.

They are named like rules, with their options in brackets: ``"spike-pattern(inputs=100, outputs=10, spikes=5)"``. The
``seed`` of a task is one of its options and independent of the seed of a run.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tsslbp.data.dataset import AS_STORED, Dataset, Split
from tsslbp.data.pictures import opened
from tsslbp.utils import machine
from tsslbp.utils.errors import LARGEST, UserError, shown
from tsslbp.utils.spec import construct, name_of, parse_spec

LEAST = {"seed": 0, "delay": 0, "gap": 0, "samples": 16}
"""The smallest values of whole numbers among the options of tasks; 1 for all others."""


@dataclass(frozen=True)
class SpikePattern:
    """Frozen Poisson input trains, each with target output trains, to learn precise spike times.

    Training, validation and test samples are the same.

    Args:
        inputs: input neurons.
        outputs: output neurons; for a picture, its height.
        spikes: target spikes of an output neuron, unless the target is a picture.
        patterns: input patterns, each with its own targets.
        rate: input spikes per neuron and step.
        repeats: times a pattern is shown in an epoch.
        target: ``"random"`` steps at least two apart, ``"regular"`` ones, or the path of a picture: every output neuron is a
            row of pixels and spikes where the picture is dark. It is scaled to ``outputs`` rows and T columns.
        seed: draws inputs and targets.

    Raises:
        UserError: too little room for the spikes, a picture that cannot be read.
    """

    inputs: int = 100
    outputs: int = 10
    spikes: int = 5
    patterns: int = 1
    rate: float = 0.05
    repeats: int = 50
    target: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "spike-pattern")

    def make(self, time_steps: int | None) -> Dataset:
        """The task over T steps, by default 100: ``x`` ``[patterns, T, inputs]``, ``y`` ``[patterns, T, outputs]``, 0 and 1."""
        time_steps = 100 if time_steps is None else time_steps
        machine.need_memory((9 + self.repeats) * self.patterns * time_steps * (self.inputs + self.outputs), "spike-pattern")
        random = np.random.default_rng(self.seed)
        x = random.random((self.patterns, time_steps, self.inputs)) < self.rate
        y = np.stack([self._targets(time_steps, random) for _ in range(self.patterns)])
        split = Split(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y.astype(np.uint8)))
        classes = tuple(f"neuron {number}" for number in range(y.shape[2]))
        shown = split.select(torch.arange(self.patterns).repeat(self.repeats))
        return Dataset(
            "spike-pattern", shown, split, split, classes, AS_STORED, sequence=True, tested_on="the training patterns"
        )

    def _targets(self, time_steps: int, random: np.random.Generator) -> NDArray[np.bool_]:
        if self.target not in ("random", "regular"):
            return _picture(Path(self.target), time_steps, self.outputs)
        first, room = time_steps // 10, time_steps - time_steps // 10  # no input can have caused the first spikes
        if room < 2 * self.spikes:
            raise UserError(f"spike-pattern: {self.spikes} spikes do not fit into {time_steps} steps; raise --time-steps")
        train = np.zeros((time_steps, self.outputs), dtype=bool)
        for neuron in range(self.outputs):
            if self.target == "regular":
                steps = first + (np.arange(self.spikes) * room + random.integers(room)) // self.spikes % room
            else:  # places in a row from which the gaps were taken out, so that no two are neighbours
                steps = (
                    first + np.sort(random.choice(room - self.spikes + 1, self.spikes, replace=False)) + np.arange(self.spikes)
                )
            train[steps, neuron] = True
        return train


def _picture(path: Path, time_steps: int, rows: int) -> NDArray[np.bool_]:
    try:
        image = opened(path, "L").resize((time_steps, rows))
    except UserError as error:
        raise UserError(f"spike-pattern: {error}; target is random, regular, or an image file") from None
    dark = np.asarray(image).T < 128
    if not dark.any():
        raise UserError(f"spike-pattern: {path} has no dark pixel; nothing would have to be learned")
    return dark


@dataclass(frozen=True)
class DelayedXor:
    """Two pulses with a silent gap between them; was exactly one of them on the second channel?

    Each pulse is a burst of Poisson spikes on one of two groups of inputs. After the second the input says nothing about the
    answer. The output counts over all steps, but no sum over single pulses is their XOR, so the first one must be remembered.
    The classes are balanced.

    Args:
        pulse: steps of a pulse.
        delay: silent steps between the pulses.
        answer: steps after the second pulse.
        group: inputs of a group; a third group spikes in these last steps.
        rate: spikes per input and step within a pulse.
        samples: training samples; validation and test sets are a quarter of it each.
        seed: draws the samples.
    """

    pulse: int = 10
    delay: int = 30
    answer: int = 10
    group: int = 10
    rate: float = 0.3
    samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "delayed-xor")

    @property
    def time_steps(self) -> int:
        return 2 * self.pulse + self.delay + self.answer

    def make(self, time_steps: int | None) -> Dataset:
        """The task: ``x`` ``[N, T, 3·group]`` of 0 and 1, ``y`` ``[N]``."""
        _same("delayed-xor", time_steps, self.time_steps)
        machine.need_memory(18 * self.samples * self.time_steps * 3 * self.group, "delayed-xor")
        rates = torch.zeros(2, 2, self.time_steps, 3 * self.group)
        second = self.pulse + self.delay
        for a in range(2):
            for b in range(2):
                rates[a, b, : self.pulse, a * self.group : (a + 1) * self.group] = self.rate
                rates[a, b, second : second + self.pulse, b * self.group : (b + 1) * self.group] = self.rate
                rates[a, b, second + self.pulse :, 2 * self.group :] = self.rate
        generator = torch.Generator().manual_seed(self.seed)

        def draw(count: int) -> Split:
            bits = torch.arange(count)[torch.randperm(count, generator=generator)] % 4
            a, b = bits // 2, bits % 2
            x = torch.rand(count, self.time_steps, 3 * self.group, generator=generator) < rates[a, b]
            return Split(x.to(torch.uint8), a ^ b)

        return _dataset("delayed-xor", draw, self.samples, ("same", "different"))


@dataclass(frozen=True)
class EvidenceAccumulation:
    """Cues on the left or on the right, then silence, then the question which side had more (Bellec et al. 2020, figure 4).

    Four groups of inputs: cues left, cues right, the recall signal, and background noise in every step. The output counts over
    all steps, unlike in that paper, so a network without memory solves it by votes at each cue.

    Args:
        cues: number of cues, odd.
        cue: steps of a cue.
        gap: silent steps after each cue.
        delay: silent steps before the recall.
        recall: steps of the recall signal, at the end.
        group: inputs of a group.
        rate: spikes per input and step while its group is active.
        noise: the same for the background.
        samples: training samples; validation and test sets are a quarter of it each.
        seed: draws the samples.
    """

    cues: int = 5
    cue: int = 10
    gap: int = 5
    delay: int = 50
    recall: int = 15
    group: int = 10
    rate: float = 0.3
    noise: float = 0.02
    samples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self, "evidence")
        if self.cues % 2 == 0:
            raise UserError(f"evidence: cues is {self.cues}; with an even number neither side need have more")

    @property
    def time_steps(self) -> int:
        return self.cues * (self.cue + self.gap) + self.delay + self.recall

    def make(self, time_steps: int | None) -> Dataset:
        """The task: ``x`` ``[N, T, 4·group]`` of 0 and 1, ``y`` ``[N]``."""
        _same("evidence", time_steps, self.time_steps)
        machine.need_memory(18 * self.samples * self.time_steps * 4 * self.group, "evidence")
        generator = torch.Generator().manual_seed(self.seed)

        def draw(count: int) -> Split:
            sides = torch.randint(2, (count, self.cues), generator=generator)
            rates = torch.zeros(count, self.time_steps, 4, self.group)
            for number in range(self.cues):
                start = number * (self.cue + self.gap)
                rates[torch.arange(count), start : start + self.cue, sides[:, number]] = self.rate
            rates[:, -self.recall :, 2] = self.rate
            rates[:, :, 3] = self.noise
            x = torch.rand(rates.shape, generator=generator) < rates
            return Split(x.flatten(2).to(torch.uint8), (sides.sum(1) > self.cues // 2).long())

        return _dataset("evidence", draw, self.samples, ("left", "right"))


def _check(task: "SpikePattern | DelayedXor | EvidenceAccumulation", name: str) -> None:
    """Raises UserError for options that are no such numbers as their task takes."""
    for field in fields(task):
        value, least, silent = getattr(task, field.name), LEAST.get(field.name, 1), field.name == "noise"
        if field.type is int and not (type(value) is int and least <= value <= LARGEST):
            raise UserError(f"{name}: {field.name} is {shown(value)}; it must be a whole number from {least} to {LARGEST}")
        if field.type is float and not (0 < value <= 1 or (silent and value == 0)):
            wanted = "from 0 to 1" if silent else "above 0 and at most 1"
            raise UserError(f"{name}: {field.name} is {value} spikes per step; it must be {wanted}")


def _same(name: str, asked: int | None, its_own: int) -> None:
    if asked not in (None, its_own):
        raise UserError(f"--time-steps is {asked}; {name} with these options has {its_own}")


def _dataset(name: str, draw: Callable[[int], Split], samples: int, classes: tuple[str, ...]) -> Dataset:
    train, validation, test = draw(samples), draw(samples // 4), draw(samples // 4)
    return Dataset(name, train, validation, test, classes, AS_STORED, sequence=True)


TASKS: dict[str, type[SpikePattern | DelayedXor | EvidenceAccumulation]] = {
    "spike-pattern": SpikePattern,
    "delayed-xor": DelayedXor,
    "evidence": EvidenceAccumulation,
}


def frozen(text: str) -> bool:
    """Whether the validation and test samples of the data set of this name are its training samples."""
    return name_of(text) == "spike-pattern"


def read(text: str, time_steps: int | None) -> Dataset:
    """A task from its name and options. Raises UserError for unknown ones and for a T that does not fit."""
    name, options = parse_spec(text, "data set")
    return construct(TASKS[name], name, options).make(time_steps)
