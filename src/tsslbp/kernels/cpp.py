"""The C++ kernels (``csrc/``): loading them, registering them with PyTorch, and the engine that calls them.

They compute the equations of ``neuron.py`` and ``rules/`` on CPU tensors of float32 or float64; currents may also be stored as
bfloat16. Membrane potential and spikes are equal to the reference bit for bit, post-synaptic currents and gradients up to
rounding. Results do not depend on the number of threads or the instruction set. A sequence may have any memory layout that is
dense with time outermost, such as channels-last, and results have the same; anything else is copied first. A recurrent layer's
lateral product is summed in another order than PyTorch's, so its membrane potential is equal only up to rounding.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsslbp.kernels.engine import PLAIN, Engine, Form, Pool, Usable, computed_in, refuse_batch
from tsslbp.kernels.layout import Layout, flatten
from tsslbp.neuron import LIF, ByConstant
from tsslbp.rules.base import Rule
from tsslbp.rules.eventprop import EventPropNumbers
from tsslbp.rules.surrogate import SurrogateNumbers
from tsslbp.rules.tssl import TSSLNumbers

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
VARIABLE = "TSSLBP_CPU_CAPABILITY"
SOURCE = Path(__file__).parent / "csrc"
"""Beside the package in a checkout, and in no wheel."""


def _is_of_source() -> bool:
    """Whether the loaded extension was built from the source beside the package, if there is one."""
    files = sorted([*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h")])
    name = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()  # as in setup.py
    return not files or (hasattr(torch.ops.tsslbp, "names") and name in torch.ops.tsslbp.names())


def _load() -> str | None:
    """Load the extension; returns why not, in one line, or None."""
    spec = importlib.util.find_spec("tsslbp.kernels._cpu")
    if spec is None or spec.origin is None:
        again = "pip install --no-deps --force-reinstall ."
        return (
            f"the C++ kernels are not built; with a C++ compiler (GCC 11 or newer), in the folder of tsslbp's source: {again}"
        )
    if (wanted := os.environ.get(VARIABLE)) and wanted not in INSTRUCTION_SETS:
        return f"{VARIABLE} is {wanted!r}; it must be one of {', '.join(INSTRUCTION_SETS)}, or not set"
    try:
        torch.ops.load_library(spec.origin)
    except (OSError, RuntimeError) as error:
        return f"the C++ kernels in {spec.origin} cannot be loaded: {str(error).splitlines()[0]}"
    if not _is_of_source():
        again = "pip install --no-deps -e ."
        return f"the C++ kernels in {spec.origin} were built from other source; in the folder of tsslbp's source: {again}"
    return None


NOT_LOADED = _load()
"""Why the extension is not loaded; None if it is."""

# The instruction set, and the names of fallbacks and surrogate shapes in the order of their numbers in C++.
_CAPABILITY, _, *_TABLES = torch.ops.tsslbp.names().split("|") if NOT_LOADED is None else ("", "")
_NUMBERED = [{name: float(number) for number, name in enumerate(table.split())} for table in _TABLES]
_NUMBER = dict(zip((TSSLNumbers, SurrogateNumbers), _NUMBERED, strict=False))
_FAMILY: dict[type, str] = {TSSLNumbers: "tssl", SurrogateNumbers: "surrogate", EventPropNumbers: "eventprop"}


def capability() -> str:
    """The instruction set in use, one of ``INSTRUCTION_SETS``. The environment variable ``TSSLBP_CPU_CAPABILITY`` selects a
    lower one than the best of the processor, for tests and comparisons."""
    return _CAPABILITY


class Cpp(Engine):
    """Computes every form, and the rules whose formulas are in ``csrc/rules.h``."""

    title = "the C++ kernels"
    varies = True
    recurs = True

    def status(self) -> Usable:
        return Usable(NOT_LOADED is None, NOT_LOADED or f"loaded, vectorised for {capability()}")

    def refuses(self, device: torch.device) -> str | None:
        return NOT_LOADED or (None if device.type == "cpu" else f"the C++ kernels run on the CPU, not on {device.type}")

    def formula(self, rule: Rule) -> tuple[str, list[float]] | None:
        numbers = rule.numbers
        names = _NUMBER.get(type(numbers), {})
        if numbers is None or type(numbers) not in _FAMILY or any(x not in names for x in numbers if isinstance(x, str)):
            return None
        return _FAMILY[type(numbers)], [names[x] if isinstance(x, str) else float(x) for x in numbers]

    def forward(
        self, current: Tensor, neuron: LIF, state: Tensor | None = None, form: Form = PLAIN, *, keep: bool = True
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        layout, flat = flatten(current if form.response is None else current[None], form.pool)
        before = None if state is None else layout.flatten(state)
        pool = pooling(layout, form.pool)
        made = torch.ops.tsslbp.lif(
            flat, form.response, before, *_constants(neuron, layout.repeating), pool, form.bf16_psc, keep
        )
        membrane = layout.restore(made[1]) if keep else None
        return membrane, layout.pooled(form.pool).restore(made[0]), None if state is None else layout.restore(made[-1])

    def backward(
        self, formula: Any, error: Tensor, membrane: Tensor, neuron: LIF, state: Tensor | None, carry: Tensor | None, form: Form
    ) -> tuple[Tensor, Tensor | None, ByConstant]:
        family, numbers = formula
        layout, u = flatten(membrane, form.pool)
        e = layout.pooled(form.pool).flatten(error)
        before, after = (None if part is None else layout.flatten(part) for part in (state, carry))
        constants, pool = _constants(neuron, layout.repeating), pooling(layout, form.pool)
        made = getattr(torch.ops.tsslbp, f"{family}_backward")(
            e, u, form.response, before, after, *constants, numbers, pool, form.bf16_current
        )
        delta = layout.restore(made[0])
        back = None if state is None else layout.restore(made[1])
        by_constant = ByConstant(*layout.summed(made[-1], _shape(neuron))) if neuron.varies else ByConstant()
        return delta if form.response is None else delta[0], back, by_constant

    def recurrent_forward(
        self,
        drive: Tensor,
        lateral: Tensor,
        state: Tensor | None,
        neuron: LIF,
        adaptation: tuple[float, float] | None,
        bf16_psc: bool,
        *,
        keep: bool = True,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        constants, numbers = _constants(neuron, _of_each(drive.shape[2]))
        made = torch.ops.tsslbp.recurrent(drive, lateral, state, constants, numbers, list(adaptation or ()), bf16_psc, keep)
        return made[2] if keep else None, made[0], made[1]

    def recurrent_backward(
        self,
        formula: Any,
        error: Tensor,
        after: Tensor | None,
        membrane: Tensor,
        lateral: Tensor,
        state: Tensor | None,
        neuron: LIF,
        adaptation: tuple[float, float] | None,
        bf16_drive: bool,
        *,
        through_lateral: bool,
        learns: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, ByConstant]:
        family, numbers = formula
        constants = _constants(neuron, _of_each(membrane.shape[2]))
        operands = error, after, membrane, lateral, state, *constants, list(adaptation or ()), numbers
        backward = getattr(torch.ops.tsslbp, f"{family}_recurrent_backward")
        own_tau_s = isinstance(neuron.tau_s, Tensor) and neuron.tau_s.numel() > 1
        delta, *made = backward(*operands, through_lateral, bf16_drive and not own_tau_s, learns + (learns and own_tau_s))
        back = None if state is None else made.pop(0)
        by_constant = ByConstant(*made.pop(0).sum(1)) if neuron.varies else ByConstant()
        weights = None
        if learns:  # of neurons that each have their τs it is a[t-1] that came
            weights = delta.flatten(0, 1).t() @ made[0].flatten(0, 1) if own_tau_s else made[0].t()
        return delta.bfloat16() if bf16_drive else delta, back, weights, by_constant


def _constants(neuron: LIF, spread: Callable[[Tensor], Tensor]) -> tuple[Tensor | None, list[float]]:
    """Constants for the operators: None and numbers, or a table and no numbers. ``spread`` makes the table from
    ``[3, ...]``."""
    values = [neuron.tau_m, neuron.tau_s, neuron.threshold]
    if not neuron.varies:
        return None, values
    shape = _shape(neuron)
    tensors = (torch.as_tensor(x, dtype=torch.float64) for x in values)  # a number is rounded once, as it is without tensors
    return spread(torch.stack([x if x.shape == shape else x.expand(shape) for x in tensors])), []


def _of_each(n: int) -> Callable[[Tensor], Tensor]:
    """Spreads constants over the n neurons of a recurrent layer, ``[3, N]``."""
    return lambda table: table.view(3, -1).expand(3, n or 1)


def _shape(neuron: LIF) -> Sequence[int]:
    """The broadcast shape of the constants that are tensors."""
    shapes = [value.shape for value in neuron.tensors if value is not None]
    return shapes[0] if len({*shapes}) == 1 else torch.broadcast_shapes(*shapes)


def pooling(layout: Layout, pool: Pool | None) -> list[float]:
    """Pooling for the operators: size, height, width, channels, factor; empty for none."""
    if pool is None:
        return []
    _, channels, height, width = layout.shape
    return [float(pool.size), float(height), float(width), float(channels), pool.factor]


def _register_fakes() -> None:
    """Tell PyTorch the shapes of results, for ``torch.compile`` and ``torch.export``."""

    @torch.library.register_fake("tsslbp::lif")
    def lif(current: Tensor, response: Tensor | None, state: Tensor | None, *groups: Any) -> list[Tensor]:
        *_, pool, bf16, keep = groups
        (steps, n), full = (len(current) if response is None else len(response), current.shape[1]), computed_in(current.dtype)
        size, height, width = (int(x) for x in pool[:3] or (1, 1, 1))
        outputs = n // (height * width) * (height // size) * (width // size)
        psc = current.new_empty(steps, outputs, dtype=torch.bfloat16 if bf16 else full)
        membrane = [current.new_empty(steps, n, dtype=full)] if keep else []
        return [psc, *membrane, *([] if state is None else [state.new_empty(state.shape)])]

    @torch.library.register_fake("tsslbp::tssl_backward")
    @torch.library.register_fake("tsslbp::surrogate_backward")
    @torch.library.register_fake("tsslbp::eventprop_backward")
    def backward(error: Tensor, membrane: Tensor, response: Tensor | None, state: Tensor | None, *groups: Any) -> list[Tensor]:
        _, constants, *_, bf16 = groups
        delta = torch.empty_like(membrane, dtype=torch.bfloat16 if bf16 else membrane.dtype)
        delta = delta if response is None else membrane.new_empty(1, membrane.shape[1])
        by_constant = [] if constants is None else [membrane.new_empty(3, membrane.shape[1])]
        return [delta, *([] if state is None else [state.new_empty(state.shape)]), *by_constant]

    @torch.library.register_fake("tsslbp::recurrent")
    def recurrent(drive: Tensor, lateral: Tensor, state: Tensor | None, *groups: Any) -> list[Tensor]:
        *_, adaptation, bf16, keep = groups
        full, rows = computed_in(drive.dtype), 5 if adaptation else 3
        psc = torch.empty_like(drive, dtype=torch.bfloat16 if bf16 else full, memory_format=torch.contiguous_format)
        membrane = [torch.empty_like(psc, dtype=full)] if keep else []
        return [psc, psc.new_empty(rows, *drive.shape[1:], dtype=full), *membrane]

    @torch.library.register_fake("tsslbp::tssl_recurrent_backward")
    @torch.library.register_fake("tsslbp::surrogate_recurrent_backward")
    def recurrent_backward(
        error: Tensor, after: Tensor | None, membrane: Tensor, lateral: Tensor, state: Tensor | None, *groups: Any
    ) -> list[Tensor]:
        constants, *_, bf16, learns = groups
        delta = membrane.new_empty(membrane.shape, dtype=torch.bfloat16 if bf16 else membrane.dtype)
        back = [] if state is None else [state.new_empty(state.shape)]
        by_constant = [] if constants is None else [membrane.new_empty(3, *membrane.shape[1:])]
        weights = [[], [lateral.new_empty(lateral.shape)], [membrane.new_empty(membrane.shape)]][learns]
        return [delta, *back, *by_constant, *weights]

    @torch.library.register_fake("tsslbp::mask")
    def mask(keys: Tensor, numbers: list[int], count: int, bound: int, value: float, double: bool) -> Tensor:
        return keys.new_empty(len(keys), count, dtype=torch.float64 if double else torch.float32)


def _refusing_batches() -> torch.library.Library:
    """Registers :func:`refuse_batch`, since PyTorch's own errors say no way out; holds for as long as the result is kept."""
    library = torch.library.Library("tsslbp", "IMPL")
    recurrent = (f"{family}_recurrent" for family in ("tssl", "surrogate"))
    for name in (*_FAMILY.values(), *recurrent, "map_changes"):
        for key in ("Batched", "FuncTorchBatched"):
            library.impl(f"{name}_backward", refuse_batch, key)
    return library


if NOT_LOADED is None:
    _register_fakes()
    _LIBRARY = _refusing_batches()

ENGINE = Cpp()
