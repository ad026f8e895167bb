"""A trained network as C: ``network.h``, ``network.c``, ``test.c`` with vectors, and ``README.md``.

The C is C99 and allocates nothing. It goes from spike to spike: silent neurons cost no time in the next layer. A network with
weights of few bits becomes an integer network, that of ``integer.py`` bit for bit; other networks use ``float``.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from tsslbp import data, encoding
from tsslbp.exchange.chain import INPUT, Array, Chain, Map, Population
from tsslbp.exchange.filtering import in_c
from tsslbp.exchange.integer import SPIKE, IntegerNetwork, whole_input
from tsslbp.exchange.literals import escaped, floats, numbers, pair
from tsslbp.exchange.program import Entry, Program, coded, means, measured
from tsslbp.layers.quantisation import INPUT_LARGEST, INPUT_UNIT, LARGEST
from tsslbp.metrics import decode
from tsslbp.metrics.decoding import NEAR
from tsslbp.training import samples_to_test
from tsslbp.utils import files
from tsslbp.utils.errors import UserError, few
from tsslbp.utils.tables import literal

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("README.md", "network.c", "network.h", "test.c")
VECTORS = 10
"""Samples in test.c."""
AT_ONCE = 32
"""Neurons that network.c computes together in a step."""
IN_A_VECTOR = 16
"""Weights that compilers add with one instruction."""
PACKED = {"8": 1, "4": 2, "3": 2, "2": 4, "ternary": 4}
"""Weights in a byte, by their bits."""
CODES = {"8": (1, 128), "4": (1, 8), "3": (1, 8), "2": (2, 3), "ternary": (1, 1)}
"""Factor and offset of their codes: weight = code·factor - offset."""


def write(program: Program, folder: Path, data_root: Path = Path("data"), names: Sequence[str | None] = ()) -> str:
    """Write a program into a new folder.

    Args:
        program: what to write.
        folder: the new folder, written whole or not at all.
        data_root: folder that may hold the model's data set; if so, test.c has samples of that.
        names: where the model's data set may be found, too; samples of another one are not taken.

    Returns:
        A line that says what was written.

    Raises:
        UserError: a folder that exists or cannot be written.
    """
    samples, which = vectors(program, data_root, names)
    context = described(program, samples, which)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined)
    with files.replacing_folder(folder) as place:
        for name in FILES:
            files.write_text(place / name, environment.get_template(name).render(context) + "\n")
    return f"wrote {folder}: {context['constant_bytes']} bytes of constants, {context['state_bytes']} of state; {which}"


def vectors(program: Program, data_root: Path, names: Sequence[str | None]) -> tuple[data.Split, str]:
    """Samples for test.c and their description: from the model's test set if it is there, else random."""
    model, called = program.entry.model, program.entry.model.given_away().data
    for place in dict.fromkeys((*names, None)):
        with contextlib.suppress(UserError):
            found = samples_to_test(model, place, data_root).split
            if place in (None, model.data) or (model.facts and model.facts.is_test_set(found)):
                break
    else:
        return _drawn(program), f"{VECTORS} random samples, as no test set of the model can be read in {data_root}"
    if found.lengths is not None and not model.inputs.filters:  # test.c goes through all steps
        found = found.select((found.lengths == model.inputs.raw_steps).nonzero()[:, 0])
    if not len(found):
        return _drawn(program), f"{VECTORS} random samples, as no test sample of {called} has all steps"
    chosen = found.few(10 * VECTORS)
    if program.whole is None:  # clear answers, which rounding cannot change
        best = program.response(chosen)[1].topk(min(2, len(model.classes))).values
        chosen = chosen.select((best[:, 0] - best[:, -1]).argsort(descending=True, stable=True))
    chosen = chosen.select(torch.arange(min(len(chosen), VECTORS)))
    return chosen, f"{len(chosen)} samples of the test set of {called}"


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
    """The variables of the templates."""
    entry, links, whole, model = program.entry, program.chain, program.whole, program.entry.model
    a, neurons = model.network.architecture, sum(population.neurons for population in links.populations)
    table, one = _input_table(entry, links, whole is not None)
    parts = _Parts(links, whole, table, a.bits, INPUT_UNIT // one if whole else 1)
    filters, given = None, "network_input"
    if model.inputs.filters:
        filters, given = in_c(model.inputs.filters, 2 if whole else 4), "float"
        size = "NETWORK_SERIES_STEPS * NETWORK_SERIES_CHANNELS"
    else:
        size = "NETWORK_STEPS * NETWORK_INPUTS" if entry.sequence else "NETWORK_INPUTS"
    constants = parts.bytes + (0 if table is None else table.nbytes) + (filters["constants"] if filters else 0)
    windows = max(by.windows for population in links.populations for by in population.maps)
    index = "uint16" if max(population.neurons for population in links.populations) < 2**16 else "uint32"
    kind = "uint8_t" if entry.meaning is not None or entry.spikes else "int16_t" if whole else "float"
    norm = model.inputs.normalisation
    adapting = next((population.rise for population in links.populations if population.rise), None)
    relaxing: Any = None
    if adapting is not None:
        rising = next((own.rising for own in whole.populations if own.rising), None) if whole else None
        relaxing = rising.leak if rising else floats([1 - 1 / adapting.tau_a])
    narrow = whole is not None and parts.in_a_byte == 1 and not all(m["dense"] for m in parts.maps)
    shown = 0 if entry.sequence or links.populations[0].lateral is None else links.populations[0].neurons
    return {
        "title": f"A spiking network, {a.network}, of {'whole numbers' if whole else 'floating-point numbers'}",
        "integer": whole is not None,
        "bits": a.bits,
        "packed": parts.in_a_byte if parts.in_a_byte > 1 else None,
        "stored": {1: "bytes", 2: "packed two to a byte", 4: "packed four to a byte"}[parts.in_a_byte],
        "code": CODES.get(a.bits),
        "largest_weight": LARGEST.get(a.bits),
        "narrow": narrow,
        "shrinks": any(population["shift"] < 0 for population in parts.populations),
        "static": not entry.sequence,
        "filters": filters,
        "varies": entry.varies,
        "given": given,
        "size": size,
        "at_once": AT_ONCE,
        "silent": kind != "float"
        and (table is None or all(m["rest"] or not table[:, 0].any() for m in parts.maps if m["source"] == INPUT)),
        "shown": shown,
        "recurrent": any(population.lateral is not None for population in links.populations),
        "shortcuts": any(population.shortcut is not None for population in links.populations),
        "rises": parts.rises,
        "relaxing": relaxing,
        "sums": parts.sums,
        "small": parts.widest,
        "slots": parts.slots,
        "inputs": int(np.prod(a.input_shape)),
        "shape": " × ".join(map(str, (*([model.network.time_steps] if entry.sequence else []), *a.input_shape))),
        "channel": "channel" if table is not None and len(table) > 1 else "0",
        "steps": model.network.time_steps,
        "bin": model.inputs.bin,
        "classes": model.classes,
        "trains": model.trains,
        "class_list": ", ".join(map(literal, model.classes)),
        "columns": few([literal(name) for name in (model.facts.columns if model.facts else ())], 100),
        "class_names": ",\n".join(f'    "{escaped(name)}"' for name in model.classes),
        "voters": links.voters,
        "nearly": "most" if whole else f"{1 - NEAR} * most",
        "neurons": neurons,
        "maps": parts.maps,
        "populations": parts.populations,
        "parameters": f"{sum(map(_weights, links.populations)):,}",
        "windows": windows,
        "types": {
            "input": kind,
            "value": "int32_t" if whole else "float",
            "sum": "int64_t" if whole else "double",
            "entering": "int16_t" if whole else "float",
            "index": f"{index}_t",
            "cast": "(int16_t)" if whole else "",
        },
        "input_means": means(entry, whole is not None),
        "coded": coded(model) if entry.spikes else "",
        "measured": measured(model),
        "events": entry.spikes or entry.meaning is not None,
        "endless": whole is None or math.isfinite(max(links.tau_m, adapting.tau_a if adapting else 1)),
        "event_when": "once for each input that has events in this step" if entry.once else "for every event of this step",
        "most_events": entry.range[1] // INPUT_UNIT,
        "one": one,
        "spikes": entry.spikes,
        "prepares": kind in ("int16_t", "float"),
        "gain": floats(1 / (norm.scale * std) for std in norm.std),
        "offset": floats(-mean / std for mean, std in zip(norm.mean, norm.std, strict=True)),
        "constant_gain": len(norm.std) == 1,
        "unit": INPUT_UNIT,
        "largest": INPUT_LARGEST,
        "table": None if table is None else ",\n".join(f"{{{numbers(row)}}}" for row in table),
        "spike": SPIKE if whole else floats([1 / links.tau_s]),
        "synapse": whole.synapse if whole else floats([1 - 1 / links.tau_s]),
        "membrane": whole.membrane if whole else floats([1 - 1 / links.tau_m]),
        "constant_bytes": f"{constants:,}",
        "state_bytes": f"{parts.state_bytes(index, narrow, shown, windows):,}",
        "samples": _vectors(program, samples),
        "samples_of": which,
    }


def _input_table(entry: Entry, links: Chain, whole: bool) -> tuple[Array | None, int]:
    """What each byte that enters means, ``[channels or 1, 256]``, None if none does; and what 1 is in these numbers."""
    if entry.meaning is None:
        return None, INPUT_UNIT if whole and not _enters_in_ones(entry, links, None) else 1
    if not whole:
        return entry.meaning.numpy(), 1
    table = whole_input(entry.meaning).short().numpy()
    if _enters_in_ones(entry, links, table):  # the same network without multiplications
        return table // INPUT_UNIT, 1
    return table, INPUT_UNIT


def _enters_in_ones(entry: Entry, links: Chain, table: Array | None) -> bool:
    """Whether all inputs are whole numbers themselves, not only in units of the integer network, and enter only one map."""
    whole = entry.spikes or (table is not None and not (table % INPUT_UNIT).any())
    return whole and all(p.shortcut is None or p.shortcut.source != INPUT for p in links.populations)


class _Parts:
    """Maps and populations in the form of network.c, and the memory they need."""

    def __init__(self, links: Chain, whole: IntegerNetwork | None, table: Array | None, bits: str, coarser: int) -> None:
        self.whole, self.table, self.bits = whole, table, bits
        self.coarser = coarser
        """Inputs are whole numbers of this many units of the integer network."""
        self.in_a_byte = PACKED.get(bits, 1)
        self.maps: list[dict[str, Any]] = []
        self.populations: list[dict[str, Any]] = []
        self.bytes = self.slots = self.sums = self.rises = 0
        self.widest = 1
        """Channels of the widest fully connected map."""
        for number, population in enumerate(links.populations):
            self.populations.append(self._population(population, number))
            self.slots += _filled(population.neurons)
        if any(m["filled"] > m["run"] for m in self.maps):
            self.sums += IN_A_VECTOR  # beyond the last row, where only zeros are added

    def state_bytes(self, index: str, narrow: bool, shown: int, windows: int) -> int:
        """Size of ``network_state`` in network.h, with the bytes between its fields; ``index`` is the type of an index."""
        out, value, total = self.populations[-1]["neurons"], "i4", "i8"
        fields = [(value, self.sums), (value, 2 * self.slots), (value, out), (total, out)]
        fields += [(index, self.slots), (index, len(self.populations)), ("u1", self.slots // AT_ONCE)]
        fields += [("u2", self.widest)] if self.whole else []
        fields += [("i2", self.sums), ("u2", len(self.maps)), ("u1", len(self.maps))] if narrow else []
        fields += [(value, shown), (value, 2 * self.rises), ("u1", windows)]
        if (most := max(count for _, count in fields)) >= 2**31:
            raise UserError(
                f"the program would need an array of {most:,} numbers, and 2^31 - 1 is the most; export a smaller network"
            )
        return np.dtype([(str(n), kind, (count,)) for n, (kind, count) in enumerate(fields) if count], align=True).itemsize

    def _population(self, population: Population, number: int) -> dict[str, Any]:
        own = self.whole.populations[number] if self.whole else None
        lateral, bias, threshold = (getattr(own or population, name) for name in ("lateral", "bias", "threshold"))
        tables, shortcut = {"threshold": threshold}, own.shortcut if own else None
        channels = population.shape[0]
        period = _filled(channels) if channels == population.neurons else math.lcm(channels, AT_ONCE)
        if bias.any():
            tables["bias"] = bias
        if population.rise is not None:
            tables["rise"] = own.rising.by if own and own.rising else np.full(channels, population.rise.by)
        if shortcut is not None:
            tables["m"] = shortcut.m
        made: dict[str, Any] = {
            "channels": channels,
            "period": period,
            "neurons": population.neurons,
            "first": self.slots,
            "map": self._map(population, population.map, own.weight if own else population.map.weight),
            "shift": own.shift + (self.coarser.bit_length() - 1 if population.map.source == INPUT else 0) if own else 0,
            "k": shortcut.k if shortcut else 0,
            "raised": self.rises,
            "shortcut": None,
        }
        if population.shortcut is not None:
            made["shortcut"] = self._map(population, population.shortcut, (shortcut or population.shortcut).weight)
        if population.rise is not None:
            self.rises += _filled(population.neurons)
        values = [(name, "network_value", self._table(np.resize(x, period))) for name, x in tables.items()]
        if lateral is not None:
            values.append(("lateral", "weight", self._rows(lateral.T)))
        return made | {"tables": values, "named": {name for name, *_ in values}}

    def _map(self, population: Population, by: Map, weight: Array) -> int:
        """Number of the map. ``weight`` is its weight, or q for whole numbers."""
        rest, rows, dense = self._rest(by, weight), _in_order(by, weight), _is_dense(by)
        run = rows.shape[1]
        if not dense and self.in_a_byte == 1 and -run % IN_A_VECTOR <= run / 4:  # 2 bits have no 0
            rows = np.pad(rows, ((0, 0), (0, -run % IN_A_VECTOR)))
        made = {
            "source": by.source,
            "sent": pair(by.sent[1:]),
            "largest": pair(by.largest),
            "summed": pair(by.summed),
            "entering_channels": by.entering[0],
            "entering": pair(by.entering[1:]),
            "kernel": pair(by.weight.shape[2:]),
            "stride": pair(by.stride),
            "padding": pair(by.padding),
            "dilation": pair(by.dilation),
            "groups": by.groups,
            "channels": population.shape[0],
            "shape": pair(population.shape[1:]),
            "dense": int(dense),
            "run": run,
            "filled": rows.shape[1],
            "rows": len(rows) // by.entering[0],
            "weights": self._rows(rows),
            "rest": None if rest is None else self._table(rest),
            "to": self.sums,
        }
        self.maps.append(made)
        self.widest = max(self.widest, population.shape[0] if made["dense"] else 0)
        self.sums += _filled(population.neurons)
        return len(self.maps) - 1

    def _table(self, x: Array) -> str:
        x = x if self.whole else x.astype(np.float32)
        self.bytes += x.nbytes
        return numbers(x)

    def _rows(self, x: Array) -> str:
        return self._table(packed(x, self.bits) if self.whole else x)

    def _rest(self, by: Map, weight: Array) -> Array | None:
        """Input of every channel if all stored values are 0, ``[out]``; None if that is 0, or differs at borders."""
        if by.source != INPUT or self.table is None or not self.table[:, 0].any() or by.padding != (0, 0):
            return None
        per_channel = weight.astype(np.float64).sum((2, 3)).reshape(by.groups, -1, weight.shape[1])
        zero = np.broadcast_to(self.table[:, 0], by.entering[0]).reshape(by.groups, 1, -1)
        rest = (per_channel * zero).sum(2).flatten() * np.prod(by.summed)
        return rest.astype(np.int32 if self.whole else np.float32)


def _filled(neurons: int) -> int:
    """Size of a population padded to a multiple of AT_ONCE."""
    return -(-neurons // AT_ONCE) * AT_ONCE


def _is_dense(by: Map) -> bool:
    """Whether it is fully connected."""
    return by.groups == 1 and by.weight.shape[2:] == by.entering[1:] and by.padding == (0, 0)


def _in_order(by: Map, weight: Array) -> Array:
    """Weights ``[out, in/groups, rows, columns]`` as rows of weights that are added together.

    A fully connected map has a row for every input row, column and channel. A convolution has one for every input channel and
    row of the kernel; and for every column, unless neighbours see adjacent pixels.
    """
    out, within, *kernel = weight.shape
    width, channels = out // by.groups, by.groups * within
    grouped = weight.reshape(by.groups, width, within, *kernel)
    if _is_dense(by):
        return grouped[0].transpose(2, 3, 1, 0).reshape(-1, width)
    rows = grouped.transpose(0, 2, 3, 4, 1)[:, :, :, ::-1].reshape(channels * kernel[0], kernel[1], width)
    together = by.groups == by.stride[1] == by.dilation[1] == 1
    return rows.reshape(-1, kernel[1] * width if together else width)


def packed(q: Array, bits: str) -> Array:
    """Rows of whole numbers ``[rows, n]`` as the bytes that network.c reads, several to a byte for few bits."""
    (factor, offset), in_a_byte = CODES[bits], PACKED[bits]
    rows, n = q.shape
    width = -(-n // in_a_byte)
    codes = np.zeros((rows, in_a_byte * width), np.uint8)
    codes[:, :n] = (q.astype(np.int16) + offset) // factor
    shifts = np.arange(in_a_byte, dtype=np.uint8)[:, None] * (8 // in_a_byte)
    return np.bitwise_or.reduce(codes.reshape(rows, in_a_byte, width) << shifts, 1)


def _weights(population: Population) -> int:
    maps = sum(by.weight.size for by in population.maps)
    return maps + (0 if population.lateral is None else population.lateral.size)


def _vectors(program: Program, samples: data.Split) -> list[dict[str, str]]:
    """Samples with their responses, for test.c."""
    spikes, evidence = program.response(samples)
    counts = torch.stack([each.flatten(2).sum(2) for each in spikes.values()], 2)  # [T, N, populations]
    answers = decode(evidence[None])
    x, lengths = program.entry.of_samples(samples, program.whole is not None), program.entry.lengths(samples)
    made: list[dict[str, str]] = []
    for i in range(len(samples)):
        steps = ", ".join(f"{{{', '.join(map(str, step))}}}" for step in counts[:, i].tolist())
        own = (evidence[i] if program.whole else evidence[i].double()).numpy()
        rows = {"x": numbers(x[i]), "evidence": numbers(own), "spikes": steps}
        about = {"answer": str(int(answers[i])), "length": str(int(lengths[i]))}
        made.append({**about, **{name: f"{{{row}}}" for name, row in rows.items()}})
    return made
