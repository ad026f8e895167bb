"""A trained network as C: ``network.h``, ``network.c``, ``test.c`` with vectors, and ``README.md``.

The C is C99 and allocates nothing. It goes from spike to spike: what does not spike takes no time in the layer behind it. A
network with weights of few bits becomes one of whole numbers, that of ``integer.py`` bit for bit; another one becomes one in
``float``.
"""

import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from tsslbp import data, encoding, files
from tsslbp.errors import UserError
from tsslbp.exchange.chain import Array, Chain, Population
from tsslbp.exchange.integer import SPIKE, IntegerNetwork, whole_input
from tsslbp.exchange.program import Entry, Program
from tsslbp.metrics import decode
from tsslbp.quantisation import INPUT_LARGEST, INPUT_UNIT
from tsslbp.training import samples_to_test

TEMPLATES = Path(__file__).parent / "templates"
VECTORS = 10
"""Samples in test.c."""


def write(program: Program, folder: Path, data_root: Path = Path("data")) -> str:
    """Write a program into a new folder.

    Args:
        program: what to write.
        folder: where to, whole or not at all.
        data_root: folder that may hold the model's data set; test.c then has samples of that.

    Returns:
        A line that says what was written.

    Raises:
        UserError: a folder that is there or cannot be written.
    """
    samples, which = vectors(program, data_root)
    context = described(program, samples, which)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)
    with files.replacing_folder(folder) as place:
        for path in sorted(TEMPLATES.iterdir()):
            files.write_text(place / path.name, environment.get_template(path.name).render(context) + "\n")
    return f"wrote {folder}: {context['constant_bytes']} bytes of constants, {context['state_bytes']} of state; {which}"


def vectors(program: Program, data_root: Path) -> tuple[data.Split, str]:
    """Samples for test.c, and which they are: of the model's test set if it is there, else drawn."""
    model = program.entry.model
    try:
        found = samples_to_test(model, None, data_root).split
    except UserError:
        return _drawn(program), f"{VECTORS} random samples, as there is no test set of the model in {data_root}"
    if found.lengths is not None:  # test.c goes through all steps
        found = found.select((found.lengths == model.inputs.raw_steps).nonzero()[:, 0])
    if not len(found):
        return _drawn(program), f"{VECTORS} random samples, as no test sample of {model.data} has all steps"
    few = found.select(torch.linspace(0, len(found) - 1, min(len(found), 10 * VECTORS)).long())
    if program.whole is None:  # clear answers, which no rounding changes
        best = program.response(few)[1].topk(min(2, len(model.classes))).values
        few = few.select((best[:, 0] - best[:, -1]).argsort(descending=True, stable=True))
    few = few.select(torch.arange(min(len(few), VECTORS)))
    return few, f"{len(few)} samples of the test set of {model.data}"


def _drawn(program: Program) -> data.Split:
    entry, generator = program.entry, torch.Generator().manual_seed(0)
    shape = (VECTORS, *entry.model.sample_shape)
    if entry.meaning is not None:
        x = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    elif encoding.get(entry.model.inputs.encoding):
        x = torch.rand(shape, generator=generator) * entry.model.inputs.normalisation.scale
    else:
        norm = entry.model.inputs.normalisation
        x = (torch.randn(shape, generator=generator) * norm.std[0] + norm.mean[0]) * norm.scale
    return data.Split(x, torch.zeros(VECTORS, dtype=torch.int64))


def described(program: Program, samples: data.Split, which: str) -> dict[str, Any]:
    """What the templates say of a program."""
    entry, links, whole, model = program.entry, program.chain, program.whole, program.entry.model
    a, neurons = model.network.architecture, sum(population.neurons for population in links.populations)
    value = np.dtype(np.int32 if whole else np.float32)
    made, first = [], 0
    for number, population in enumerate(links.populations):
        made.append(_population(population, number, whole, first))
        first += population.neurons
    table = None
    if entry.meaning is not None:
        table = whole_input(entry.meaning).short().numpy() if whole else entry.meaning.numpy()
    rest = _rest(links.populations[0], table, whole)
    constants = sum(population["bytes"] for population in made) + (0 if table is None else table.nbytes)
    constants += 0 if rest is None else rest.nbytes
    windows = max(_windows(population) for population in links.populations)
    index = np.dtype(np.uint16 if max(population.neurons for population in links.populations) < 2**16 else np.uint32)
    kind = "uint8_t" if entry.meaning is not None or entry.spikes else "int16_t" if whole else "float"
    norm = model.inputs.normalisation
    return {
        "title": f"A spiking network, {a.network}, of {'whole numbers' if whole else 'floating-point numbers'}",
        "integer": whole is not None,
        "bits": a.bits,
        "static": not entry.sequence,
        "recurrent": any(population.lateral is not None for population in links.populations),
        "inputs": int(np.prod(a.input_shape)),
        "shape": " × ".join(map(str, (*([model.network.time_steps] if entry.sequence else []), *a.input_shape))),
        "channel": "channel" if table is not None and len(table) > 1 else "0",
        "steps": model.network.time_steps,
        "bin": model.inputs.bin,
        "classes": model.classes,
        "class_list": ", ".join(model.classes),
        "class_names": ",\n".join(f'    "{_escaped(name)}"' for name in model.classes),
        "voters": links.voters,
        "neurons": neurons,
        "populations": made,
        "parameters": f"{sum(map(_weights, links.populations)):,}",
        "windows": windows,
        "types": {
            "input": kind,
            "value": "int32_t" if whole else "float",
            "weight": "int8_t" if whole else "float",
            "entering": "int16_t" if whole else "float",
            "index": f"{index.name}_t",
            "cast": "(int16_t)" if whole else "",
        },
        "input_means": _means(entry, whole is not None),
        "event_means": f"the number of an input that {'has a spike' if entry.meaning is None else 'is 1'}",
        "event": INPUT_UNIT if whole else 1,
        "prepares": kind in ("int16_t", "float"),
        "gain": _floats(1 / (norm.scale * std) for std in norm.std),
        "offset": _floats(-mean / std for mean, std in zip(norm.mean, norm.std, strict=True)),
        "constant_gain": len(norm.std) == 1,
        "unit": INPUT_UNIT,
        "largest": INPUT_LARGEST,
        "table": None if table is None else ",\n".join(f"{{{_numbers(row)}}}" for row in table),
        "rest": None if rest is None else _numbers(rest),
        "spike": SPIKE if whole else _floats([1 / links.tau_s]),
        "synapse": whole.synapse if whole else _floats([1 - 1 / links.tau_s]),
        "membrane": whole.membrane if whole else _floats([1 - 1 / links.tau_m]),
        "constant_bytes": f"{constants:,}",
        "state_bytes": f"{_state_bytes(links, value, index, windows):,}",
        "samples": _vectors(program, samples),
        "samples_of": which,
    }


def _means(entry: Entry, whole: bool) -> str:
    if entry.meaning is not None:
        return "numbers from 0 to 255 as they are stored"
    if entry.spikes:
        return "spikes, 0 or 1"
    return f"numbers as the network takes them{f', in whole numbers of 1/{INPUT_UNIT}' if whole else ''}"


def _population(population: Population, number: int, whole: IntegerNetwork | None, first: int) -> dict[str, Any]:
    """A population as network.c has it."""
    own = whole.populations[number] if whole else None
    weight, lateral = (own.weight, own.lateral) if own else (population.weight, population.lateral)
    bias, threshold = (own.bias, own.threshold) if own else (population.bias, population.threshold)
    weights = [_in_order(weight, population.groups), *([] if lateral is None else [lateral.T]), bias, threshold]
    if own is None:
        weights = [x.astype(np.float32) for x in weights]
    texts = [_numbers(x) for x in weights]
    return {
        "channels": population.shape[0],
        "neurons": population.neurons,
        "shape": _pair(population.shape[1:]),
        "sent": _pair(population.sent[1:]),
        "largest": _pair(population.largest),
        "summed": _pair(population.summed),
        "entering_channels": population.entering[0],
        "entering": _pair(population.entering[1:]),
        "kernel": _pair(population.weight.shape[2:]),
        "stride": _pair(population.stride),
        "padding": _pair(population.padding),
        "dilation": _pair(population.dilation),
        "groups": population.groups,
        "weights": texts[0],
        "lateral": texts[1] if lateral is not None else "",
        "bias": texts[-2],
        "threshold": texts[-1],
        "shift": own.shift if own else 0,
        "first": first,
        "bytes": sum(x.nbytes for x in weights),
    }


def _in_order(weight: Array, groups: int) -> Array:
    """``[out, in/groups, rows, columns] -> [rows, columns, in, out/groups]``."""
    out, within, *kernel = weight.shape
    grouped = weight.reshape(groups, out // groups, within, *kernel)
    return grouped.transpose(3, 4, 0, 2, 1).reshape(*kernel, groups * within, out // groups)


def _rest(population: Population, table: Array | None, whole: IntegerNetwork | None) -> Array | None:
    """What arrives at every channel if all that is stored is 0, ``[out]``; None if that is nothing, or differs at borders."""
    if table is None or not table[:, 0].any() or population.padding != (0, 0):
        return None
    weight = (whole.populations[0].weight if whole else population.weight).astype(np.float64)
    per_channel = weight.sum((2, 3)).reshape(population.groups, -1, weight.shape[1])
    zero = np.broadcast_to(table[:, 0], population.entering[0]).reshape(population.groups, 1, -1)
    rest = (per_channel * zero).sum(2).flatten()
    return rest.astype(np.int32 if whole else np.float32)


def _weights(population: Population) -> int:
    return population.weight.size + (0 if population.lateral is None else population.lateral.size)


def _windows(population: Population) -> int:
    """Windows of its max pooling; 0 without."""
    if population.largest == (1, 1):
        return 0
    rows, columns = (size // inside for size, inside in zip(population.sent[1:], population.largest, strict=True))
    return population.sent[0] * rows * columns


def _state_bytes(links: Chain, value: np.dtype[Any], index: np.dtype[Any], windows: int) -> int:
    neurons = sum(population.neurons for population in links.populations)
    output = links.populations[-1].neurons
    return (3 * neurons + 2 * output) * value.itemsize + (neurons + len(links.populations)) * index.itemsize + windows


def _vectors(program: Program, samples: data.Split) -> list[dict[str, str]]:
    """Samples with what they set off, as test.c has them."""
    spikes, evidence = program.response(samples)
    counts = torch.stack([each.flatten(2).sum(2) for each in spikes.values()], 2)  # [T, N, populations]
    answers = decode(evidence[None])
    x = program.entry.of_samples(samples, program.whole is not None)
    made = []
    for i in range(len(samples)):
        steps = ", ".join(f"{{{', '.join(map(str, step))}}}" for step in counts[:, i].tolist())
        own = evidence[i].numpy().astype(np.int32 if program.whole else np.float32)
        rows = {"x": _numbers(x[i]), "evidence": _numbers(own), "spikes": steps}
        made.append({"answer": str(int(answers[i])), **{name: f"{{{row}}}" for name, row in rows.items()}})
    return made


def _numbers(x: Array, a_line: int = 20) -> str:
    """An array as C has it, without its braces."""
    flat = x.flatten()
    texts = [f"{text}f" for text in map(str, flat)] if flat.dtype == np.float32 else list(map(str, flat.tolist()))
    return ",\n".join(", ".join(texts[i : i + a_line]) for i in range(0, len(texts), a_line))


def _floats(values: Iterable[float]) -> str:
    return _numbers(np.array(list(values), np.float32))


def _pair(sizes: Iterable[int]) -> str:
    rows, columns = sizes
    return f"{{{rows}, {columns}}}"


def _escaped(name: str) -> str:
    """A name inside a string of C, in UTF-8."""
    plain = string.ascii_letters + string.digits + " -_.,"
    return "".join(chr(byte) if chr(byte) in plain else f"\\{byte:03o}" for byte in name.encode())
