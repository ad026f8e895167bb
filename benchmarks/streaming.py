"""How soon a network that listens knows which digit is spoken: the numbers of docs/streaming.md.

python benchmarks/streaming.py DATA_ROOT   train three networks, and let them listen to digits with silence between them
python benchmarks/streaming.py latency     what a step costs, beside an LSTM of the same size, with one thread

DATA_ROOT holds FSDD. The first writes answers.json into results/streaming, the second latency.json. Both write README.md there
and print its table. The network of seed 0 goes to models/. Runs lie in runs/streaming-SEED; those that are there are used.
"""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import command
import torch
from torch import Tensor, nn

import tsslbp
from tsslbp import training
from tsslbp.bench.measure import interleaved
from tsslbp.cli import publishing
from tsslbp.data import Dataset, Split, audio, speech
from tsslbp.data.dataset import hold_out
from tsslbp.data.sample_values import fitted
from tsslbp.training.recipes import RECIPES
from tsslbp.utils import files, machine
from tsslbp.utils.tables import markdown

ROOT = Path(__file__).parent.parent
RESULTS, MODEL = ROOT / "results/streaming", ROOT / "models/spoken-digits-stream.safetensors"
SEEDS = (0, 1, 2)
HOP, STEPS = 80, 60
"""Samples from frame to frame, 10 ms, and the frames of a word that the network is trained on."""
BACKGROUND = 3e-4
"""Standard deviation of the noise that silence is made of; the quietest speaker's recordings have 0.004 and more."""
LOUD = -8.3
"""Mean log-mel energy of a frame that is no silence, which has -8.7."""
PAUSE = 20
"""Silent frames after which a word is over."""


def frames(signal: Tensor) -> Tensor:
    """Log-mel energies of every frame, ``[n] -> [frames, BANDS]``."""
    return audio.energies(signal.unfold(0, audio.frame_size(speech.RATE), HOP), speech.RATE, speech.BANDS)


def silence(seconds: float, generator: torch.Generator) -> Tensor:
    return BACKGROUND * torch.randn(round(seconds * speech.RATE), generator=generator)


def from_onset(recordings: list[speech.Recording], seed: int) -> Split:
    """The first STEPS frames of each recording from the first that is loud on, with silence around the recording."""
    generator, x, y = torch.Generator().manual_seed(seed), [], []
    for one in recordings:
        before, after = silence(0.2, generator), silence(1.0, generator)
        energy = frames(torch.cat([before, one.signal, after]))
        loud = (energy.mean(1) > LOUD).nonzero()
        if len(loud):
            x.append(energy[int(loud[0]) :][:STEPS])
            y.append(one.digit)
    return Split(torch.stack(x), torch.tensor(y))


def parts(root: Path) -> dict[str, list[speech.Recording]]:
    """The recordings to train, to choose and to test with. A tenth of those that are no test are held out, as always."""
    known, test = [], []
    for one in speech.recordings(root):
        (test if one.index < speech.TEST_INDEX else known).append(one)
    numbers = Split(torch.arange(len(known)), torch.tensor([one.digit for one in known]))
    train, held = ([known[number] for number in part.x.tolist()] for part in hold_out(numbers, len(known) // 10))
    return {"train": train, "validation": held, "test": test}


def run(seed: int) -> Path:
    return Path(f"runs/streaming-{seed}")


def trained(recordings: dict[str, list[speech.Recording]], seed: int) -> training.Model:
    """The network of a seed, in the epoch chosen on validation recordings."""
    folder = run(seed)
    if not (folder / "metrics.jsonl").exists() or training.read_metrics(folder)[1] is None:
        train, held, test = (from_onset(part, number) for number, part in enumerate(recordings.values()))
        made = Dataset("words", train, held, test, tuple("0123456789"), fitted(train, True), sequence=True, computed=True)
        dataset = replace(made, kind="speech", delta=speech.DELTA)
        recipe = RECIPES["spoken-digits"].config
        training.train(replace(recipe, rule="tssl+", time_steps=STEPS, seed=seed, name=folder.name), dataset=dataset)
    return training.load(folder)


def spoken(recordings: list[speech.Recording], seed: int) -> tuple[Tensor, list[int]]:
    """Recordings in random order with 0.3 to 0.8 s of silence around each: the sound, and where each recording begins in it."""
    generator = torch.Generator().manual_seed(seed)
    pauses = (0.3 + 0.5 * torch.rand(len(recordings) + 1, generator=generator)).tolist()
    sound, starts, length = [silence(pauses[0], generator)], [], 0
    for one, pause in zip(recordings, pauses[1:], strict=True):
        length += len(sound[-1])
        starts.append(length)
        length += len(one.signal)
        sound += [one.signal, silence(pause, generator)]
    return torch.cat(sound), starts


@dataclass
class Word:
    """What a network made of a word, from its onset until it was over or STEPS frames long."""

    onset: int
    """Number of the first loud frame."""
    answer: Tensor
    """After each step, ``[t]``; so is the rest."""
    lead: Tensor
    share: Tensor
    may_change: Tensor


def listen(model: training.Model, sound: Tensor) -> Iterator[Word]:
    """The words that a stream hears in a sound."""
    stream, state, quiet, steps, onset = tsslbp.stream(model), "waiting", 0, [], 0
    for number, energy in enumerate(frames(sound)):
        quiet = 0 if energy.mean() > LOUD else quiet + 1
        if state == "waiting" and not quiet:
            stream.reset()
            state, steps, onset = "listening", [], number
        if state == "listening":
            steps.append(stream(energy[None]))
            if len(steps) == STEPS or quiet == PAUSE:
                fields = ([getattr(step, name) for step in steps] for name in ("answer", "lead", "confidence", "may_change"))
                yield Word(onset, *map(torch.cat, fields))
                state = "answered"
        if state == "answered" and quiet >= PAUSE:
            state = "waiting"


def agreement(answer: Tensor) -> Tensor:
    """For how many steps each answer has stood, ``[t] -> [t]``; 0 where there is none."""
    stood = []
    for step, now in enumerate(answer.tolist()):
        stood.append(0 if now < 0 else stood[-1] + 1 if step and answer[step - 1] == now else 1)
    return torch.tensor(stood)


RULES: dict[str, tuple[Callable[[Word, float], Tensor], tuple[float, ...]]] = {
    "when the word is over": (lambda word, _: torch.zeros_like(word.may_change), (0,)),
    "cannot change any more": (lambda word, _: ~word.may_change, (0,)),
    "share of the output at least {:g} %": (lambda word, least: 100 * word.share >= least, (50, 60, 70, 80, 90, 95)),
    "the same for {:g} steps": (lambda word, least: agreement(word.answer) >= least, (2, 3, 5, 7, 10, 15, 20, 30)),
    "lead of at least {:g}": (lambda word, least: word.lead >= least, (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)),
}
"""When an answer is given: in the first step for which the function of a word and a number says so, or else when the word is
over. The numbers are those tried on validation recordings."""
LOSS = 1.0
"""Points of accuracy that an early answer may cost on validation recordings. Of the numbers that cost no more, the one with the
earliest answers is taken; if all cost more, the largest."""


@dataclass
class Heard:
    """Answers to recordings by one network under one rule."""

    right: list[bool]
    """Of every recording; a missed word is wrong."""
    seconds: list[float]
    """From the beginning of the recording to the end of the frame that gives the answer, of every word that was not missed."""
    before_end: list[bool]
    """Whether that frame ends before the recording does."""


def judged(
    found: list[Word], recordings: list[speech.Recording], starts: list[int], rule: Callable[[Word], Tensor]
) -> tuple[Heard, int]:
    """The answers to recordings that begin at ``starts``, and how many words were heard where there was none."""
    heard, firsts, more = Heard([], [], []), {}, 0
    for word in found:
        end = word.onset * HOP + audio.frame_size(speech.RATE)
        number = sum(start < end for start in starts) - 1
        more += number in firsts
        firsts.setdefault(number, word)
    for number, (one, start) in enumerate(zip(recordings, starts, strict=True)):
        if (word := firsts.get(number)) is None:
            heard.right.append(False)
            continue
        given = rule(word).nonzero()
        step = int(given[0]) if len(given) else len(word.answer) - 1
        end = (word.onset + step) * HOP + audio.frame_size(speech.RATE)
        heard.right.append(int(word.answer[step]) == one.digit)
        heard.seconds.append((end - start) / speech.RATE)
        heard.before_end.append(end < start + len(one.signal))
    return heard, more


def over_seeds(heard: list[Heard]) -> dict[str, Any]:
    """Accuracy of every network in percent, and times of all their answers in seconds."""
    seconds = sorted(second for one in heard for second in one.seconds)
    return {
        "accuracy": [100 * statistics.fmean(one.right) for one in heard],
        "mean": statistics.fmean(seconds),
        "median": statistics.median(seconds),
        "90 %": seconds[int(0.9 * len(seconds))],
        "before the end": 100 * statistics.fmean(early for one in heard for early in one.before_end),
    }


def answers(root: Path) -> dict[str, Any]:
    """Train the networks, choose each rule's number on validation recordings, and measure with it on test recordings."""
    recordings, result = parts(root), {"machine": machine.describe(), "seeds": SEEDS, "rules": {}}
    models = [trained(recordings, seed) for seed in SEEDS]
    publishing.export(run(SEEDS[0]), MODEL)
    sounds = {part: spoken(recordings[part], number) for number, part in enumerate(recordings) if part != "train"}
    words = {part: [list(listen(model, sound)) for model in models] for part, (sound, _) in sounds.items()}

    def measured(part: str, name: str, least: float) -> dict[str, Any]:
        rule, (_, starts) = RULES[name][0], sounds[part]
        found = [judged(each, recordings[part], starts, lambda word: rule(word, least)) for each in words[part]]
        return over_seeds([heard for heard, _ in found]) | {
            "missed": sum(len(starts) - len(heard.seconds) for heard, _ in found),
            "heard twice": sum(more for _, more in found),
        }

    wanted = 0.0
    for name, (_, numbers) in RULES.items():
        tried = {number: measured("validation", name, number) for number in numbers}
        wanted = wanted or statistics.fmean(tried[0]["accuracy"]) - LOSS  # of the first rule
        good = [number for number in numbers if statistics.fmean(tried[number]["accuracy"]) >= wanted]
        chosen = min(good or numbers, key=lambda number: tried[number]["mean"] if good else -number)
        result["rules"][name] = {"chosen": chosen, "validation": tried, "test": measured("test", name, chosen)}
    result["seconds of sound"] = {part: len(sound) / speech.RATE for part, (sound, _) in sounds.items()}
    return result


def answers_table(result: dict[str, Any]) -> str:
    rows = []
    for name, found in result["rules"].items():
        test = found["test"]
        accuracy = f"{statistics.fmean(test['accuracy']):.1f} ± {statistics.stdev(test['accuracy']):.1f}"
        times = [f"{1000 * test[which]:.0f}" for which in ("median", "90 %")]
        rows.append([name.format(found["chosen"]), accuracy, *times, f"{test['before the end']:.0f}"])
    heads = ["the answer is given", "accuracy, %", "median, ms", "90 %, ms", "before the word ends, %"]
    return markdown(heads, rows)


class Stepped(nn.Module):
    """An LSTM and a linear readout, a step at a time."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.cell, self.out, self.state = nn.LSTMCell(inputs, hidden), nn.Linear(hidden, classes), None

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        self.state = self.cell(x, self.state)
        return self.out(self.state[0]).argmax(-1)


class SteppedLayer(Stepped):
    """The same with ``nn.LSTM``, which is given sequences of one step."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__(inputs, hidden, classes)
        self.cell = nn.LSTM(inputs, hidden)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        out, self.state = self.cell(x[None], self.state)
        return self.out(out[0]).argmax(-1)


def steppers(streams: int) -> dict[str, nn.Module | tsslbp.stream]:
    """What takes a step of 80 inputs and has 200 hidden neurons and 10 classes."""
    torch.manual_seed(0)
    inputs, found = 2 * speech.BANDS, {}
    for notation in ("200-10", "200R-10", "200A-10"):
        net = tsslbp.build(notation, input_shape=(inputs,), time_steps=STEPS, tau_m=10, tau_s=5, rule="tssl+")
        found[f"`tsslbp.stream`, `{notation}`"] = tsslbp.stream(net, streams)
    found["`nn.LSTMCell(80, 200)`"] = Stepped(inputs, 200, 10).eval()
    found["`nn.LSTM(80, 200)`"] = SteppedLayer(inputs, 200, 10).eval()
    return found


def latency(seconds: float = 30) -> dict[str, Any]:
    """Median microseconds of a step and its answer, for 1 and for 32 streams; each network by itself, as a step right after one
    of ``nn.LSTM`` takes twice as long."""
    result: dict[str, Any] = {"machine": machine.describe(), "weights": {}, "microseconds": {}}
    for streams in (1, 32):
        found, x = steppers(streams), (torch.rand(streams, 2 * speech.BANDS) < 0.1).float()
        for name, stepper in found.items():
            milliseconds = interleaved({name: partial(answered, stepper, x)}, seconds / len(found))[name]
            network = getattr(stepper, "network", stepper)
            result["weights"][name] = sum(weight.numel() for weight in network.parameters())
            result["microseconds"].setdefault(name, {})[str(streams)] = 1000 * milliseconds
    return result


def answered(stepper: Any, x: Tensor) -> Tensor:
    """The answer after one more step."""
    step = stepper(x)
    return step.answer if isinstance(stepper, tsslbp.stream) else step


def latency_table(result: dict[str, Any]) -> str:
    rows = [
        [name, f"{result['weights'][name]:,}", *(f"{found[streams]:.0f}" for streams in ("1", "32"))]
        for name, found in result["microseconds"].items()
    ]
    return markdown(["network", "weights", "1 stream, µs", "32 streams, µs"], rows)


PAGE = """# Streams of spoken digits

How soon a network knows which digit is spoken, and what a step costs. [Streaming](../../docs/streaming.md) says what it means.
"""
TABLES = {
    "answers": ("## Onset to answer\n\n    python benchmarks/streaming.py DATA_ROOT\n", answers_table),
    "latency": ("## A step\n\n    python benchmarks/streaming.py latency\n", latency_table),
}


def main(what: str) -> None:
    torch.set_num_threads(1)
    name = "latency" if what == "latency" else "answers"
    result = latency() if name == "latency" else answers(Path(what))
    files.make_folder(RESULTS, "choose another folder")
    files.write_json(RESULTS / f"{name}.json", result)
    page = [PAGE]
    for stored, (head, table) in TABLES.items():
        if (path := RESULTS / f"{stored}.json").exists():
            page += [head, table(json.loads(path.read_text(encoding="utf-8")))]
    files.write_text(RESULTS / "README.md", "\n".join(page))
    print(TABLES[name][1](result))


if __name__ == "__main__":
    command.run(main, __doc__)
