"""Every engine against the readable reference, as one table: outputs and every gradient, over rules, neurons, forms and types.

``make test-triton`` runs the rows marked ``triton`` in Triton's interpreter on the CPU; without TRITON_INTERPRET, on a machine
with a GPU, ``pytest -m triton`` runs them there. What no reference can show (threads, memory, wrong operands) follows below.
"""

import ctypes
import gc
import itertools
import logging
import math
import mmap
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shared import assert_calls_return_or_raise, digests_under, fails, hash_of
from torch.utils._python_dispatch import TorchDispatchMode

import tsslbp
from tsslbp import TSSL, EventProp, Rule, Surrogate, UserError, kernels
from tsslbp.encoding import Constant
from tsslbp.functional import sum_pool
from tsslbp.kernels import PLAIN, Form, Pool, cpp, engine
from tsslbp.neuron import LIF, ByConstant, membrane_potential
from tsslbp.rules import tssl
from tsslbp.rules.surrogate import DERIVATIVES

CPP = kernels.find("cpp")
built = pytest.mark.skipif(cpp.NOT_LOADED is not None, reason=str(cpp.NOT_LOADED))

PUBLISHED = LIF(tau_m=5, tau_s=3)
FALLBACKS = ["quiet", "no-spike", "rate", "never", "always"]
TERMS = [dict(zip(("inter", "reset", "leak"), on, strict=True)) for on in itertools.product([True, False], repeat=3)]
TSSL_RULES = [
    TSSL(fallback=fallback, psc_derivative=derivative, **terms)
    for fallback in FALLBACKS
    for derivative in ("amplitude", "timing")
    for terms in TERMS
]
TSSL_RULES += [
    TSSL(fallback=fallback, psc_derivative=derivative, reset=more, leak=more, clip=10.0, error_reset=True)
    for fallback in FALLBACKS
    for derivative in ("amplitude", "timing")
    for more in (True, False)
]
SURROGATE_RULES = [Surrogate(name, through_reset=through) for name in DERIVATIVES for through in (False, True)]
EVENTPROP_RULES = [EventProp(clip=clip, wake=wake) for clip in (math.inf, 8.0, 0.5) for wake in (0.0, 0.01)]
RULES = TSSL_RULES + SURROGATE_RULES + EVENTPROP_RULES
SOME_RULES = [
    TSSL(),
    TSSL(fallback="always", width=0.55),
    TSSL(psc_derivative="timing", fallback="no-spike"),
    TSSL(fallback="rate"),
    TSSL(reset=False, leak=False, error_reset=True),
    Surrogate("gaussian"),
    EventProp(clip=8.0, wake=0.01),
]

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])
STEPS = st.one_of(st.integers(1, 12), st.sampled_from([31, 32, 33, 63, 64, 65, 129, 300]))
SHAPES = st.one_of(  # of one step; a block is 1024 neurons of float32 or 512 of float64, a vector up to 16
    st.sampled_from([(), (0,), (1,), (3, 0, 2), (511,), (1025,), (2, 513)]),
    st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
)
NEURONS = st.builds(
    LIF,
    tau_m=st.sampled_from([1.0, 2.0, 5.0, math.inf]) | st.floats(1, 50),
    tau_s=st.sampled_from([1.0, 2.0, 3.0]) | st.floats(1, 30),
    threshold=st.sampled_from([1.0, 0.4]) | st.floats(0.1, 3),
)
SEEDS = st.integers(0, 2**16)
SURROGATES = st.builds(
    Surrogate, st.sampled_from(sorted(DERIVATIVES)), st.none() | st.floats(0.1, 50), st.sampled_from([1.0, 0.3]), st.booleans()
)


def case(steps, shape, dtype=torch.float32, seed=0):
    """A current that makes neurons fire now and then, and a gradient."""
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, *shape, generator=generator, dtype=torch.float64) * 0.8 + 0.2
    return current.to(dtype), torch.randn(steps, *shape, generator=generator, dtype=torch.float64).to(dtype)


USABLE, WHY = kernels.backends()["triton"]
DEVICE = "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"
on_triton = [pytest.mark.triton, pytest.mark.skipif(not USABLE, reason=f"the Triton kernels cannot run: {WHY}")]
every_engine = pytest.mark.parametrize("name", [pytest.param("cpp", marks=built), pytest.param("triton", marks=on_triton)])

LAYOUTS = {
    "contiguous": lambda x: x,
    "axes reversed within a step": lambda x: (
        x.permute(0, *range(x.dim() - 1, 0, -1)).contiguous().permute(0, *range(x.dim() - 1, 0, -1))
    ),
    "channels last": lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2) if x.dim() > 3 else x,
    "every other step": lambda x: x.repeat_interleave(2, 0)[::2],
    "part of a step": lambda x: x.unsqueeze(-1).repeat_interleave(2, -1)[..., 0],
    "time innermost": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "the same in every step": lambda x: x[:1].expand_as(x),
    "one number": lambda x: x.flatten()[:1].view([1] * x.dim()).expand_as(x) if x.numel() else x,
}

DENSE = ("contiguous", "channels last", "axes reversed within a step")


class Case(NamedTuple):
    """A row of the table. ``spread`` is the shape of constants that are tensors, None for numbers."""

    rule: Rule
    steps: int = 33
    shape: tuple[int, ...] = (3, 37)
    dtype: torch.dtype = torch.float32
    neuron: LIF = PUBLISHED
    spread: tuple[int, ...] | None = None
    constant: bool = False
    pool: Pool | None = None
    chunk: bool = False
    of_current: str = "contiguous"
    of_error: str = "contiguous"
    seed: int = 0
    nan: bool = False


def drawn(case, *shape, seed, dtype=None):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(1000 * case.seed + seed), dtype=torch.float64)
    return made.to(DEVICE, dtype or case.dtype)


def pooled(psc, pool):
    return psc if pool is None else sum_pool(psc.flatten(0, 1), pool).unflatten(0, psc.shape[:2])


def by_reference(case, x, error, membrane, neuron, form, state, carry):
    """Every gradient, in the type of the membrane."""
    reference, full = kernels.find("reference"), membrane.dtype
    if form.pool is not None:
        a = torch.zeros_like(membrane).requires_grad_()
        (error,) = torch.autograd.grad(pooled(a, form.pool), a, error.to(full))
    neuron = neuron.having(ByConstant(*(c if c is None else c.to(full) for c in neuron.tensors)))
    state, carry = (None if each is None else each.to(full) for each in (state, carry))
    delta, back, constants = reference.backward(case.rule, error.to(full), membrane, neuron, state, carry, PLAIN)
    if form.response is not None:
        delta = torch.tensordot(form.response.to(full), delta, 1) if delta.numel() else delta.sum(0)
    shapes = [None if c is None else c.shape for c in neuron.tensors]
    return delta, back, *(c if c is None else c.sum_to_size(s) for c, s in zip(constants, shapes, strict=True))


def assert_rounded(ours, theirs, exact):
    """``ours`` is as near to ``exact`` (in float64) as the reference in the same type, ``theirs``, within a factor."""
    assert (ours is None) == (theirs is None)
    if ours is None:
        return
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if not ours.numel():
        return
    eps, largest = torch.finfo(ours.dtype).eps, exact[exact.isfinite()].abs().max() if exact.isfinite().any() else 0.0
    if largest > torch.finfo(ours.dtype).max / 1e6:  # a gradient exploded
        return
    assert torch.equal(ours.isnan(), theirs.isnan())
    noise = (theirs.double() - exact).nan_to_num(0, 0, 0).abs().max()
    torch.testing.assert_close(
        ours.double(), theirs.double(), rtol=0, atol=float(50 * noise + 1e3 * eps * largest), equal_nan=True
    )


def check(name, case):
    """One row: everything that the engine computes for it."""
    engine = kernels.find(name)
    full = kernels.computed_in(case.dtype)
    neuron = case.neuron
    if case.spread is not None and engine.varies:
        least = drawn(case, *case.spread, seed=1, dtype=full).abs()
        neuron = neuron.having(ByConstant(*(x * (1 + least) for x in (neuron.tau_m, neuron.tau_s, neuron.threshold))))
    pool = case.pool if engine.pools and len(case.shape) == 4 else None
    current = LAYOUTS[case.of_current](0.8 * drawn(case, case.steps, *case.shape, seed=2) + 0.2)
    if case.nan:
        current[case.steps // 2, ::3] = math.nan
    response = torch.linspace(0.2, 1.5, case.steps, dtype=full, device=DEVICE) if case.constant else None
    x = current if response is None else current[0]
    state = carry = None
    if case.chunk and case.rule.takes_parts and name != "triton":
        state, carry = (drawn(case, 2, *case.shape, seed=seed, dtype=full).abs() for seed in (3, 4))

    form, wide = Form(response, pool), x.to(full)
    membrane, psc, after = engine.forward(wide, neuron, state, form)
    expected, plain, end = kernels.find("reference").forward(
        wide if response is None else Constant(wide, response).expand(), neuron, state
    )
    eps = torch.finfo(full).eps
    torch.testing.assert_close(membrane, expected, rtol=0, atol=0, equal_nan=True)  # not one spike may differ
    torch.testing.assert_close(psc, pooled(plain, pool), rtol=8 * eps, atol=4 * eps, equal_nan=True)
    assert (after is None) == (state is None)
    if state is not None:
        torch.testing.assert_close(after, end, rtol=8 * eps, atol=4 * eps)
    nothing, alone, _ = engine.forward(wide, neuron, state, form, keep=False)
    assert nothing is None
    torch.testing.assert_close(alone, psc, rtol=0, atol=0, equal_nan=True)

    error = LAYOUTS[case.of_error](drawn(case, *psc.shape, seed=5))
    if case.nan:
        error[case.steps // 2 + 1, 1::3] = math.nan
    formula = engine.formula(case.rule)
    delta, back, constants = engine.backward(formula, error.to(full), membrane, neuron, state, carry, form)
    ours = delta, back, *(c if c is None else c.sum_to_size(case.spread) for c in constants)
    theirs, exact = (by_reference(case, x, error, u, neuron, form, state, carry) for u in (membrane, membrane.double()))
    for each in zip(ours, theirs, exact, strict=True):
        assert_rounded(*each)
    if case.of_current in DENSE and min(case.shape, default=0) > 1 and case.steps > 1 and not case.constant and pool is None:
        assert membrane.stride() == psc.stride() == delta.stride() == current.stride()
    if case.dtype == torch.bfloat16:  # what comes in is computed in float32, and what goes out is that rounded once
        half = form._replace(bf16_current=True, bf16_psc=True)
        same_membrane, half_psc, _ = engine.forward(x, neuron, state, half)
        assert torch.equal(same_membrane, membrane)
        assert torch.equal(half_psc, stored(name, psc))
        half_delta, *_ = engine.backward(formula, error, membrane, neuron, state, carry, half)
        assert torch.equal(half_delta, delta if case.constant else stored(name, delta))


def stored(name, x):
    """float32 as bfloat16, rounded to nearest, but for Triton's interpreter, which cuts off."""
    cut = name == "triton" and DEVICE == "cpu"
    return (x.contiguous().view(torch.int32) >> 16 << 16).view(torch.float32).bfloat16() if cut else x.bfloat16()


@every_engine
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
def test_every_rule_equals_the_reference(rule, dtype, name):
    if kernels.find(name).formula(rule) is None:
        pytest.skip("the engine has no formula for it, so that its gradient is the reference's")
    quieter = LIF(tau_m=9, tau_s=1.5, threshold=2.5)  # firing below the limit of the "rate" fallback
    check(name, Case(rule, dtype=dtype))
    check(name, Case(rule, dtype=dtype, neuron=quieter, constant=True, chunk=True, seed=1))
    check(name, Case(rule, 9, (2, 3, 5, 4), dtype, spread=(3, 1, 1), pool=Pool(2, 1.1), chunk=True, seed=2))
    if dtype != torch.bfloat16:
        check(name, Case(rule, 9, (4, 6), dtype, nan=True, seed=3))


@every_engine
@pytest.mark.parametrize("of_error", LAYOUTS)
@pytest.mark.parametrize("of_current", LAYOUTS)
def test_every_memory_layout_equals_the_reference(of_current, of_error, name):
    for pool, constant in itertools.product((None, Pool(2, 1.1)), (False, True)):
        case = Case(TSSL(), 7, (2, 3, 5, 4), torch.float64, pool=pool, constant=constant)
        check(name, case._replace(of_current=of_current, of_error=of_error))


@every_engine
@given(data=st.data())
@settings(max_examples=400 if not USABLE else 60)
def test_any_case_equals_the_reference(data, name):
    rule = data.draw(st.sampled_from(RULES) | SURROGATES)
    if isinstance(rule, TSSL):
        rule = replace(rule, clip=data.draw(st.sampled_from([8.0, 1.0, 0.25, math.inf])))
    assume(kernels.find(name).formula(rule) is not None)
    shape = data.draw(SHAPES)
    axes = [st.sampled_from((1, size)) for size in shape]
    check(
        name,
        Case(
            rule,
            data.draw(STEPS),
            shape,
            data.draw(DTYPES),
            data.draw(NEURONS),
            data.draw(st.none() | st.tuples(*axes)),
            data.draw(st.booleans()),
            data.draw(st.none() | st.builds(Pool, st.integers(1, min(shape[-2:])), st.just(1.1))) if len(shape) == 4 else None,
            data.draw(st.booleans()),
            data.draw(st.sampled_from(sorted(LAYOUTS))),
            data.draw(st.sampled_from(sorted(LAYOUTS))),
            data.draw(SEEDS),
        ),
    )


def lif_forward(current, neuron, form=PLAIN):
    """Membrane potential and post-synaptic current of a whole sequence by the kernels."""
    membrane, psc, state = CPP.forward(current, neuron, None, form)
    assert state is None
    return membrane, psc


def lif_psc(current, neuron, form=PLAIN):
    membrane, psc, state = CPP.forward(current, neuron, None, form, keep=False)
    assert membrane is state is None
    return psc


def kernel_gradient(rule, psc_gradient, membrane, neuron, form=PLAIN):
    gradient, back, _ = CPP.backward(CPP.formula(rule), psc_gradient, membrane, neuron, None, None, form)
    assert back is None
    return gradient


@built
@pytest.mark.skipif(sys.platform != "linux", reason="it asks the system for a page that nobody may read")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 12, 15, 16, 17])
def test_pooling_reads_nothing_beyond_its_gradient(channels, dtype):
    """Pixels are copied in whole vectors; here the page behind the last pixel ends the process if it is read."""
    images, pool = (2, channels, 4, 7), Pool(2, 0.25)
    membrane, _ = case(3, images, torch.float64 if dtype == torch.float64 else torch.float32)
    given_ = torch.randn(3, 2, 2, 3, channels, generator=torch.Generator().manual_seed(1)).to(dtype)
    size = given_.numel() * given_.element_size()
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + room), mmap.PAGESIZE, 0) == 0
    last = torch.frombuffer(memory, dtype=dtype, count=given_.numel(), offset=room - size).view(given_.shape)
    last.copy_(given_)
    deltas = [kernel_gradient(TSSL(), x.permute(0, 1, 4, 2, 3), membrane, PUBLISHED, Form(None, pool)) for x in (last, given_)]
    assert torch.equal(*deltas)


@built
def test_rounding_to_bfloat16_is_pytorchs():
    """Without synapse a spike's current is 1/τs · s; the gradient passes any number through the narrowing store."""
    numbers = torch.randn(2, 4096, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 30, 4096)
    nans = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF, -1], dtype=torch.int32).view(torch.float32)  # rounding up overflows
    special = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 1.00390625])
    numbers = torch.cat([numbers.flatten(), special, nans])[None]
    identity = Surrogate("rectangular", slope=1e-6)
    form = Form(bf16_current=True)
    delta = kernel_gradient(identity, numbers, torch.zeros_like(numbers), LIF(tau_m=1, tau_s=1), form)
    assert delta[0, -4:].isnan().all()
    torch.testing.assert_close(delta, numbers.bfloat16(), rtol=0, atol=0, equal_nan=True)


@built
def test_autocast_hands_on_bfloat16_and_ends_in_float32():
    torch.manual_seed(0)
    net = tsslbp.build("6C3-P2-7-3", input_shape=(2, 9, 11), time_steps=4, tau_m=5, tau_s=3, threshold=0.4)
    x = torch.randn(3, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    seen = {}
    for name, layer in net.layers.named_children():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: getattr(out, "dtype", None)}))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        psc = net(x)
    assert (seen["conv1"], seen["linear2"], psc.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    psc.sum().backward()
    exact = net(x)
    assert (psc - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert all(weight.grad.dtype == torch.float32 and bool(weight.grad.any()) for weight in net.parameters())


@built
@pytest.mark.parametrize("gradients", [True, False])
def test_autocast_leaves_float64_alone(gradients):
    torch.manual_seed(0)
    net, x = tsslbp.build("20-20-10", input_shape=(7,), time_steps=4, tau_m=5, tau_s=3).double(), torch.rand(3, 7).double() * 4
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype=torch.bfloat16):
        under = net(x)
    assert under.any()
    assert torch.equal(under, net(x))


def run_all(current, psc_gradient):
    """Every operation, plain and on a constant current, with a few rules; all results."""
    response = torch.linspace(0.2, 1, len(current), dtype=current.dtype)
    results = [lif_psc(current, PUBLISHED), lif_psc(current[0], PUBLISHED, Form(response))]
    membrane, psc = lif_forward(current, PUBLISHED)
    results += [membrane, psc, *lif_forward(current[0], PUBLISHED, Form(response))]
    for rule in [*SOME_RULES, *(Surrogate(name, through_reset=True) for name in DERIVATIVES), TSSL(fallback="never")]:
        results += [kernel_gradient(rule, psc_gradient, membrane, PUBLISHED, form) for form in (Form(), Form(response))]
    return results


def images_of(steps, dtype, count=2, height=11, width=14):
    return LAYOUTS["channels last"](case(steps, (count, 5, height, width), dtype)[0])


def run_forms(images, rules=SOME_RULES):
    """Every form, with a few rules, on some images; all results."""
    response = torch.linspace(0.2, 1, len(images), dtype=images.dtype)
    results = []
    halves = [False] if images.dtype == torch.float64 else [False, True]
    for half, g, pool in itertools.product(halves, (None, response), (None, Pool(2, 1.1), Pool(3, 1.1))):
        form, x = Form(g, pool, half, half), images if g is None else images[0]
        x = x.bfloat16() if half else x
        membrane, psc = lif_forward(x, PUBLISHED, form)
        results += [lif_psc(x, PUBLISHED, form), membrane, psc]
        results += [kernel_gradient(rule, psc - 0.5, membrane, PUBLISHED, form) for rule in rules]
        state = carry = images[:1].expand(2, *images.shape[1:])
        results += CPP.forward(x, PUBLISHED, state, form, keep=False)[1:]
        membrane, psc, after = CPP.forward(x, PUBLISHED, state, form)
        results += [membrane, psc, after]
        for rule in rules:
            if not isinstance(rule, EventProp):
                results += CPP.backward(CPP.formula(rule), psc - 0.5, membrane, PUBLISHED, state, carry, form)[:2]
    return results


@built
@pytest.mark.parametrize(
    ("of_current", "of_gradient", "copied"),
    [
        ("contiguous", "contiguous", False),
        ("channels last", "channels last", False),
        ("axes reversed within a step", "axes reversed within a step", False),
        ("contiguous", "the same in every step", False),
        ("channels last", "contiguous", True),
        ("time innermost", "contiguous", True),
    ],
)
def test_dense_operands_are_not_copied(of_current, of_gradient, copied):
    current, psc_gradient = case(5, (2, 3, 5, 4))
    current, psc_gradient = LAYOUTS[of_current](current), LAYOUTS[of_gradient](psc_gradient)
    with torch.profiler.profile() as profile:
        run_all(current, psc_gradient)
    names = {event.key for event in profile.key_averages()}
    assert "tsslbp::tssl_backward" in names
    assert bool(names & {"aten::clone", "aten::copy_"}) == copied


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "neurons"), [(5, 40_001), (70, 3_001), (300, 129)])
def test_the_number_of_threads_changes_no_bit(steps, neurons, dtype):
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(run_all(*case(steps, (neurons,), dtype)) + run_forms(images_of(steps, dtype)))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *results))


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_large_sequence_gives_what_its_samples_give(dtype):
    """It is written past the caches, they are not."""
    images = images_of(3, dtype, count=7, height=101, width=103)
    assert images.nbytes > 4 << 20
    rules = [TSSL(), *SOME_RULES[-2:]]
    small = [run_forms(part, rules) for part in images.split(3, dim=1)]
    for result, *parts in zip(run_forms(images, rules), *small, strict=True):
        assert torch.equal(result, torch.cat(parts, result.dim() - 4))


def digest(dtype):
    """A hash of every result's bits, for other processes to compare."""
    return hash_of(run_all(*case(40, (531,), dtype)) + run_forms(images_of(40, dtype)))


@built
@pytest.mark.parametrize("name", ["baseline", pytest.param("avx2", marks=pytest.mark.slow)])
def test_the_instruction_set_changes_no_bit(name):
    other = digests_under(name, "test_kernels")
    assert other == [name, digest(torch.float32), digest(torch.float64)]


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h: ten sizes, of which the eighth, ``uordblks``, is what is in use."""

    _fields_ = (("sizes", ctypes.c_size_t * 10),)


@built
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library does not tell what is allocated")
def test_a_call_leaves_no_memory_behind():
    """Not even a few bytes: strewn over the heap they break up the large blocks, and the heap grows by gigabytes."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = MallocInfo
    operands = case(5, (40,))

    def allocated():
        for _ in range(5):
            run_all(*operands)
            run_forms(images_of(5, torch.float32))
            cpp.capability()
        gc.collect()
        return mallinfo().sizes[7]

    amounts = [allocated() for _ in range(8)]  # a leak grows every time; what else lives in the process grows now and then
    assert min(after - before for before, after in itertools.pairwise(amounts)) < 5 * 32, amounts  # the smallest block a round


@pytest.fixture
def poisoned():
    """New memory is filled with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.ones(3).new_empty(1000).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@built
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "shape"), [(1, (1,)), (5, (3, 17)), (33, (1025,)), (300, (63,))])
def test_nothing_is_left_unwritten(steps, shape, dtype):
    for result in run_all(*case(steps, shape, dtype)) + run_forms(images_of(steps, dtype)):
        assert not result.isnan().any()


@built
def test_infinite_currents_are_as_in_the_reference():
    current, psc_gradient = case(9, (40,))
    current[4, ::3], current[5, 1::3] = math.inf, -math.inf
    membrane, _ = lif_forward(current, PUBLISHED)
    torch.testing.assert_close(membrane, membrane_potential(current, PUBLISHED), rtol=0, atol=0, equal_nan=True)
    ours, theirs = (
        kernel_gradient(TSSL(), psc_gradient, membrane, PUBLISHED),
        TSSL().current_gradient(psc_gradient, membrane, PUBLISHED),
    )
    assert torch.equal(ours.isnan(), theirs.isnan())


class Recorder(TorchDispatchMode):
    """Records every operator that runs, with its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.calls.append((operator, args))
        return operator(*args, **kwargs or {})

    def kinds(self):
        """One call of our operators for each kind of arguments."""
        found = {}
        for operator, args in self.calls:
            if operator.namespace == "tsslbp":
                kind = tuple(str(arg.dtype) if isinstance(arg, torch.Tensor) else bool(arg) for arg in args)
                found[operator, kind] = operator, args
        return found


@built
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_operators_pass_opcheck(dtype):
    with Recorder() as recorder:
        run_all(*case(6, (33,), dtype))
        run_forms(images_of(6, dtype))
    checked = recorder.kinds()
    assert {operator.name() for operator, _ in checked.values()} == {
        f"tsslbp::{name}" for name in ("lif", "tssl_backward", "surrogate_backward", "eventprop_backward")
    }
    for operator, args in checked.values():
        torch.library.opcheck(operator, args)
        laid = [arg.t().contiguous().t() if isinstance(arg, torch.Tensor) and len(arg) == 2 else arg for arg in args]
        torch.library.opcheck(operator, laid, test_utils="test_faketensor")  # states of other strides


@built
@pytest.mark.parametrize("rule", SOME_RULES, ids=tsslbp.rules.spec)
def test_compiled_by_torch_without_a_break(rule):
    torch.compiler.reset()
    current, psc_gradient = case(6, (3, 5))

    def gradient(run):
        x = current.clone().requires_grad_()
        psc = run(x)
        psc.backward(psc_gradient)
        return psc.detach(), x.grad

    def plain(x):
        return tsslbp.lif(x * 1.5, tau_m=5, tau_s=3, rule=rule, backend="cpp")

    compiled = torch.compile(plain, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(gradient(compiled), gradient(plain), strict=True):
        assert torch.equal(ours, theirs)
    with torch.no_grad():
        assert torch.equal(compiled(current), plain(current))


@built
def test_a_gain_that_needs_a_gradient_gets_one():
    value, response = case(1, (7,))[0][0], torch.linspace(0.2, 2, 5).requires_grad_()
    gradients = []
    for backend in ("reference", "cpp"):
        psc = tsslbp.lif(Constant(value, response), tau_m=5, tau_s=3, backend=backend)
        gradients += torch.autograd.grad(psc.sum(), response)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


@built
def test_wrong_operands_are_refused():
    current, psc_gradient = case(4, (6,))
    membrane, _ = lif_forward(current, PUBLISHED)
    for gradient, response in [
        (psc_gradient[:3], None),
        (psc_gradient.double(), None),
        (psc_gradient, torch.ones(3)),
        (psc_gradient, torch.ones(4, dtype=torch.float64)),
    ]:
        with pytest.raises(RuntimeError, match="tsslbp: "):
            kernel_gradient(TSSL(), gradient, membrane, PUBLISHED, Form(response))
    x = torch.ones(4, 6)
    with pytest.raises(RuntimeError, match="tsslbp: "):
        torch.ops.tsslbp.tssl_backward(x[:, :5].contiguous(), x, None, None, None, None, NEURON, TSSL_NUMBERS, [], False)


NEURON, TSSL_NUMBERS = [5.0, 3.0, 1.0], [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 8.0, 0.2]
SURROGATE_NUMBERS, EVENTPROP_NUMBERS, POOL = [0.0, 10.0, 1.0, 0.0], [8.0, 0.01], [2.0, 2.0, 3.0, 1.0, 1.1]


@built
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"neuron": [0.5, 3.0, 1.0]}, r"neuron\.tau_m is 0.5; it must be from 1 to inf"),
        ({"neuron": [5.0, math.inf, 1.0]}, r"neuron\.tau_s is inf"),
        ({"neuron": [5.0, 3.0, 0.0]}, r"neuron\.threshold is 0; it must be above 0"),
        ({"neuron": [5.0, math.nan, 1.0]}, r"neuron\.tau_s is nan"),
        ({"neuron": [5.0, 3.0]}, r"neuron\.threshold is missing"),
        ({"neuron": [*NEURON, 1.0]}, r"neuron has too many numbers"),
        ({"tssl": [2.0, *TSSL_NUMBERS[1:]]}, r"tssl\.timing is 2"),
        ({"tssl": [*TSSL_NUMBERS[:5], 5.0, *TSSL_NUMBERS[6:]]}, r"tssl\.fallback is 5; it must be from 0 to 4"),
        ({"tssl": [*TSSL_NUMBERS[:5], 0.5, *TSSL_NUMBERS[6:]]}, r"tssl\.fallback is 0.5; it must be a whole number"),
        ({"tssl": [*TSSL_NUMBERS[:6], -1.0, 0.2]}, r"tssl\.clip is -1; it must be above 0"),
        ({"tssl": [*TSSL_NUMBERS[:7], math.inf]}, r"tssl\.width is inf"),
        ({"tssl": []}, r"tssl\.timing is missing"),
        ({"surrogate": [7.0, *SURROGATE_NUMBERS[1:]]}, r"surrogate\.shape is 7; it must be from 0 to 6"),
        ({"surrogate": [0.0, -5e-324, 1.0, 0.0]}, r"surrogate\.slope is -"),
        ({"surrogate": [0.0, 1.0, math.nan, 0.0]}, r"surrogate\.scale is nan"),
        ({"surrogate": [*SURROGATE_NUMBERS, 0.0]}, r"surrogate has too many numbers"),
        ({"eventprop": [0.0, 0.01]}, r"eventprop\.clip is 0; it must be above 0"),
        ({"eventprop": [math.inf, -0.01]}, r"eventprop\.wake is -0.01; it must be from 0"),
        ({"eventprop": [8.0]}, r"eventprop\.wake is missing"),
        ({"pool": [3.0, *POOL[1:]]}, r"pool\.height is 2; it must be from 3"),
        ({"pool": [1.0, 2.0**60, *POOL[2:]]}, r"pool\.height is 1.15292e\+18"),
        ({"pool": [1.0, 2.0**52, 2.0**52, *POOL[3:]]}, r"not whole images"),
        ({"pool": [1.0, 5.0, *POOL[2:]]}, r"not whole images"),
        ({"pool": POOL[:4]}, r"pool\.factor is missing"),
        ({"constants": NEURON}, r"neuron beside constants has too many numbers"),
    ],
    ids=str,
)
def test_a_wrong_number_is_named_with_its_group_and_field(groups, message):
    x = torch.ones(3, 6)
    ((group, numbers),) = groups.items()
    if group in ("tssl", "surrogate", "eventprop"):
        call = getattr(torch.ops.tsslbp, f"{group}_backward"), x, x, None, None, None, None, NEURON, numbers, [], False
    elif group == "constants":
        call = torch.ops.tsslbp.lif, x, None, None, torch.ones(3, 2), numbers, [], False, True
    else:
        neuron, pool = groups.get("neuron", NEURON), groups.get("pool", [])
        call = torch.ops.tsslbp.lif, x, None, None, None, neuron, pool, False, True
    with pytest.raises(RuntimeError, match=f"tsslbp: .*{message}"):
        call[0](*call[1:])


@built
def test_the_numbers_above_are_right():
    """Or the test before this one could find fault with something else."""
    x = torch.ones(3, 6)
    assert [len(made) for made in torch.ops.tsslbp.lif(x, None, None, None, NEURON, POOL, False, True)] == [3, 3]
    assert len(torch.ops.tsslbp.lif(x, None, None, torch.ones(3, 2).double(), [], POOL, False, True)) == 2
    for name, numbers in (("tssl", TSSL_NUMBERS), ("surrogate", SURROGATE_NUMBERS), ("eventprop", EVENTPROP_NUMBERS)):
        backward = getattr(torch.ops.tsslbp, f"{name}_backward")
        assert backward(x, x, None, None, None, None, NEURON, numbers, [], False)[0].shape == (3, 6)
        assert backward(x, x, None, None, None, torch.ones(3, 2).double(), [], numbers, [], False)[1].shape == (3, 6)
    assert CPP.formula(TSSL()) == ("tssl", TSSL_NUMBERS)
    assert CPP.formula(Surrogate()) == ("surrogate", SURROGATE_NUMBERS)
    assert CPP.formula(EventProp(clip=8, wake=0.01)) == ("eventprop", EVENTPROP_NUMBERS)


@built
def test_eventprop_takes_no_state():
    x = torch.ones(3, 6)
    with pytest.raises(RuntimeError, match="tsslbp: eventprop takes no state, but whole sequences only"):
        torch.ops.tsslbp.eventprop_backward(x, x, None, x[:2], None, None, NEURON, EVENTPROP_NUMBERS, [], False)


# Draws operands, most of them as they should be.
HOSTILE = """
import math, random, torch
from tsslbp.kernels import cpp
torch.set_num_threads(2)
draw = random.Random()
SIZES = [0, 0, 1, 1, 2, 3, 7, 64]
HUGE = [2**31, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63)]
FULL = [torch.float32, torch.float64]
TYPES = [*FULL, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]

def tensor(axes, sizes, dtype):
    odd = draw.random()
    shape = [draw.choice(SIZES) if draw.random() < 0.1 else size for size in sizes]
    shape = shape[: draw.randint(0, axes)] if odd < 0.05 else [*shape, 2] if odd < 0.1 else shape
    dtype = draw.choice(TYPES) if draw.random() < 0.1 else dtype
    if odd > 0.95:
        return torch.empty(shape, dtype=dtype, device="meta")
    if odd > 0.9:
        return torch.ones([1] * len(shape), dtype=dtype).expand(shape)
    if odd > 0.8:
        return torch.randn([2 * size for size in shape]).to(dtype)[tuple(slice(None, None, 2) for _ in shape)]
    x = torch.randn(shape).to(dtype)
    if odd > 0.75 and x.dim() > 1:
        return x.mT.contiguous().mT
    return x.to_sparse() if odd > 0.74 and x.dim() and dtype in FULL else x

def number(*usual):
    odd = [math.nan, math.inf, -math.inf, 0.0, -1.0, 0.5, 1e300, 1e-300, -5e-324]
    return draw.choice(usual if draw.random() < 0.92 else odd)

def integer(usual):
    return float(usual if draw.random() < 0.93 else draw.choice([-1, 0, 1, 5, 100, 1.5, math.nan, math.inf, *HUGE]))

def on():
    return draw.random() < 0.5

def group(*numbers):
    odd = draw.random()
    return list(numbers if odd > 0.04 else numbers[:-1] if odd > 0.02 else [*numbers, 1.0] if odd > 0.01 else [])

def maybe(make, chance=0.5):
    return make() if draw.random() < chance else None

"""

CALLS = (
    HOSTILE
    + """
def call(name):
    steps, dtype, constant = draw.choice([0, 1, 1, 2, 5, 33]), draw.choice(FULL), draw.random() < 0.3
    n = made = draw.choice([0, 1, 7, 1100])
    pool = []
    if on():
        images, size, height, width, channels = (draw.randint(*ends) for ends in ((0, 2), (1, 3), (1, 5), (1, 5), (1, 3)))
        n, made = images * height * width * channels, images * (height // size) * (width // size) * channels
        pool = group(integer(size), integer(height), integer(width), integer(channels), number(1.1))
    response = tensor(1, [steps], dtype) if constant else None
    half = draw.random() < 0.2
    neuron = [None, group(number(5.0, math.inf), number(3.0, 1.0), number(1.0))]
    if on():
        period = draw.choice([1, 1, 7, n or 1])
        neuron = [tensor(2, [3, period], torch.float64), []]
    handed = lambda: tensor(2, [2, n], dtype)
    if name == "lif":
        current = tensor(2, [1 if constant else steps, n], draw.choice([dtype, torch.bfloat16]))
        return [current, response, maybe(handed), *neuron, pool, half, on()]
    state = maybe(handed)
    psc_gradient = tensor(2, [steps, made], draw.choice([dtype, dtype, torch.bfloat16]))
    operands = [psc_gradient, tensor(2, [steps, n], dtype), response, state]
    operands += [maybe(handed, 0.1 if state is None else 0.8), *neuron]
    if name == "tssl_backward":
        terms = [integer(on()) for _ in range(5)]
        return [*operands, group(*terms, integer(draw.randint(0, 4)), number(8.0, math.inf), number(0.2)), pool, half]
    if name == "eventprop_backward":
        operands[3:5] = [None, None] if draw.random() < 0.9 else operands[3:5]
        return [*operands, group(number(8.0, math.inf), number(0.0, 0.01)), pool, half]
    return [*operands, group(integer(draw.randint(0, 6)), number(2.0), number(1.0), integer(on())), pool, half]
"""
)


@built
def test_no_call_of_an_operator_ends_the_process():
    names = ["lif", "lif", "tssl_backward", "surrogate_backward", "eventprop_backward"]
    assert_calls_return_or_raise(CALLS, names, 1500, 200)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler to build them with")
def test_the_kernels_are_built_where_they_can_be():
    """The build lets a failure pass, so that installing never fails; here it would skip most of this file unseen."""
    assert cpp.NOT_LOADED is None


def test_an_unknown_instruction_set_is_told(monkeypatch):
    monkeypatch.setenv("TSSLBP_CPU_CAPABILITY", "avx3")
    assert cpp._load() == "TSSLBP_CPU_CAPABILITY is 'avx3'; it must be one of avx512, avx2, baseline, or not set"


@built
def test_kernels_of_other_source_are_not_used(monkeypatch, tmp_path):
    (tmp_path / "newer.h").touch()
    monkeypatch.setattr(cpp, "SOURCE", tmp_path)
    assert cpp._load().endswith("were built from other source; in the folder of tsslbp's source: pip install --no-deps -e .")
    monkeypatch.setattr(cpp, "SOURCE", tmp_path / "missing")  # as in a wheel
    assert cpp._load() is None


SCARCE = """
import pathlib, resource, sys, torch, tsslbp
from tsslbp import cli

net = tsslbp.build("1C1-M64-2", input_shape=(1, 1024, 1024), time_steps=8, tau_m=5, tau_s=3).eval()
x, current = torch.rand(2, 1, 1024, 1024), torch.zeros(1, 1, 50, 50, 2000)
CALLS = {"inference": lambda: net(x), "changes": lambda: torch.ops.tsslbp.changes(current, 3.0, 1.0)}

@torch.no_grad()
def call(arguments):
    CALLS[sys.argv[1]]()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (10 << 20), -1))
    CALLS[sys.argv[1]]()

cli.COMMANDS["train"] = call
sys.exit(cli.main(["train"]))
"""


@built
@pytest.mark.skipif(sys.platform != "linux", reason="it asks the system for its memory")
@pytest.mark.parametrize("call", ["inference", "changes"])
def test_too_little_memory_for_a_thread_is_one_line(call):
    done = subprocess.run([sys.executable, "-c", SCARCE, call], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tsslbp: not enough memory (none is left); take a smaller network, batch or data set\n"


def test_backends_say_whether_they_can_run():
    backends = kernels.backends()
    assert set(backends) == {"reference", "cpp", "triton"}
    assert backends["reference"].usable
    assert backends["cpp"].usable == (cpp.NOT_LOADED is None)
    assert all(reason and "\n" not in reason for _, reason in backends.values())


def chosen(backend, current, neuron=PUBLISHED, rule=None, parts=False):
    """The name of the engine that would run."""
    return next(name for name in engine.names() if kernels.find(name) is kernels.choose(backend, current, neuron, rule, parts))


class Own(EventProp):
    def current_gradient(self, psc_gradient, membrane, neuron):
        return super().current_gradient(psc_gradient, membrane, neuron)


@built
def test_auto_takes_the_kernels_where_they_can_run():
    assert chosen("auto", torch.ones(1)) == "cpp"
    assert chosen("auto", torch.ones(1, dtype=torch.float64)) == "cpp"
    assert chosen("reference", torch.ones(1)) == "reference"
    assert chosen("auto", torch.ones(1, device="meta")) == "reference"
    assert chosen("auto", torch.ones(1, dtype=torch.bfloat16)) == "cpp"
    assert chosen("auto", torch.ones(1, dtype=torch.float16)) == "reference"
    assert chosen("auto", torch.ones(1), rule=Own()) == "cpp"  # whose backward pass is the reference's all the same


class Unknown(NamedTuple):
    width: float


@dataclass(frozen=True)
class Boxcar(Surrogate):
    """A rule with numbers that no engine knows."""

    numbers = Unknown(1.0)


DECLINED = [
    (torch.ones(1, device="meta"), PUBLISHED, None, "run on the CPU, not on meta"),
    (torch.ones(1, dtype=torch.float16), PUBLISHED, None, "not torch.float16"),
    (torch.ones(1), LIF(5, 3, reset=False), None, "only the reference computes neurons without a reset"),
    (torch.ones(1), PUBLISHED, Boxcar(), r"the C\+\+ kernels have no formula for Unknown\(width=1.0\)"),
]


@built
@pytest.mark.parametrize(("tensor", "neuron", "rule", "reason"), DECLINED, ids=[reason for *_, reason in DECLINED])
def test_a_named_backend_that_declines_is_an_error_and_auto_takes_the_reference(tensor, neuron, rule, reason, caplog):
    with fails(f"^backend 'cpp' cannot run: .*{reason}"):
        kernels.choose("cpp", tensor, neuron, rule)
    engine._log.cache_clear()
    with caplog.at_level(logging.INFO, "tsslbp"):
        assert [chosen("auto", tensor, neuron, rule) for _ in range(3)] == ["reference"] * 3
    (record,) = caplog.records
    assert re.search(f"^neurons run on the slow reference: .*{reason}", record.getMessage())
    assert record.levelno == logging.INFO


ENGINE = """
from tsslbp.kernels.reference import Reference

class Mine(Reference):
    title = "my kernels"
    def declines(self, current, neuron, rule=None, parts=False):
        return "my kernels carry no state" if parts else None

ENGINE = Mine()
"""


def test_a_new_engine_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(ENGINE)
    monkeypatch.setattr(kernels, "__path__", [*kernels.__path__, str(tmp_path)])
    monkeypatch.setattr(engine, "_FOUND", dict(engine._FOUND))
    assert kernels.backends()["mine"].usable
    current, psc_gradient = case(5, (7,))
    results = []
    for backend in ("reference", "mine"):
        x = current.clone().requires_grad_()
        psc = tsslbp.lif(x, tau_m=5, tau_s=3, backend=backend)
        results.append((psc.detach(), *torch.autograd.grad(psc, x, psc_gradient)))
    assert all(map(torch.equal, *results))
    with pytest.raises(UserError, match="backend 'mine' cannot run: my kernels carry no state"):
        tsslbp.lif_part(current, torch.zeros(2, 7), tau_m=5, tau_s=3, backend="mine")
    with pytest.raises(UserError, match="did you mean 'mine'"):
        tsslbp.lif(current, tau_m=5, tau_s=3, backend="min")
    monkeypatch.delitem(sys.modules, "tsslbp.kernels.mine")


@built
def test_a_shape_that_the_kernels_lack_is_the_references(monkeypatch, caplog):
    monkeypatch.setitem(DERIVATIVES, "quartic", (lambda x: 1 / (1 + x**4), 1.0))
    rule = Surrogate("quartic", through_reset=True)
    current, psc_gradient = case(9, (7,))
    engine._log.cache_clear()
    results = []
    with caplog.at_level(logging.INFO, "tsslbp"):
        for backend in ("reference", "auto"):
            x = current.clone().requires_grad_()
            psc = tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule, backend=backend)
            results.append((psc.detach(), *torch.autograd.grad(psc, x, psc_gradient)))
    assert all(map(torch.equal, *results))
    assert results[0][1].abs().sum() > 0
    assert any("no formula for SurrogateNumbers(shape='quartic'" in record.getMessage() for record in caplog.records)
    with pytest.raises(UserError, match=r"backend 'cpp' cannot run: .* no formula for SurrogateNumbers\(shape='quartic'"):
        tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule, backend="cpp")
    with torch.no_grad():  # where nothing is learned, no formula is needed
        assert torch.equal(tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule, backend="cpp"), results[1][0])


@built
def test_python_and_c_have_the_same_choices_and_constants():
    header = (Path(__file__).parent.parent / "src/tsslbp/kernels/csrc/numbers.h").read_text("utf-8")
    found = re.search(r"FALLBACK_RANGE = ([\d.]+), RATE_LIMIT = ([\d.]+);", header)
    assert tuple(map(float, found.groups())) == (tssl.FALLBACK_RANGE, tssl.RATE_LIMIT)
    *_, fallbacks, shapes = torch.ops.tsslbp.names().split("|")
    assert sorted(fallbacks.split()) == sorted(FALLBACKS)
    assert sorted(shapes.split()) == sorted(DERIVATIVES)


def test_without_the_extension_the_reference_works_and_warns_once(monkeypatch, caplog):
    monkeypatch.setattr(cpp, "NOT_LOADED", "the C++ kernels are not built; do this")
    engine._log.cache_clear()
    current, psc_gradient = case(5, (7,))
    current.requires_grad_()
    gradients = []
    with caplog.at_level(logging.WARNING, "tsslbp"):
        for _ in range(3):
            gradients += torch.autograd.grad(tsslbp.lif(current, tau_m=5, tau_s=3), current, psc_gradient)
    assert [record.getMessage() for record in caplog.records] == [
        "neurons run on the slow reference: the C++ kernels are not built; do this"
    ]
    expected = TSSL().current_gradient(psc_gradient, membrane_potential(current.detach(), PUBLISHED), PUBLISHED)
    assert all(torch.equal(gradient, expected) for gradient in gradients)
    assert not kernels.backends()["cpp"].usable
    with pytest.raises(UserError, match="cannot run: the C\\+\\+ kernels are not built; do this"):
        tsslbp.lif(current, tau_m=5, tau_s=3, backend="cpp")


@built
def test_a_training_step_copies_no_activations():
    """Channels-last from the first layer to the last; only the flatten before a fully connected layer changes the order of
    memory (its weights expect channel, row, column), once forward and once backward."""
    net = tsslbp.build("mnist-cnn")
    x, label = torch.randn(4, 1, 28, 28), torch.arange(4)
    loss = tsslbp.losses.KernelLoss(time_steps=5, tau_s=3)
    loss(net(x), label).backward()
    with torch.profiler.profile(record_shapes=True) as profile:
        loss(net(x), label).backward()
    copied = [tuple(event.input_shapes[0]) for event in profile.events() if event.name == "aten::copy_" and event.input_shapes]
    weights = [tuple(weight.shape) for weight in net.parameters()]
    activations = [shape for shape in copied if len(shape) >= 4 and shape not in weights]
    assert [math.prod(shape) for shape in activations] == [20 * 40 * 4 * 4] * 2


@built
def test_silence_is_not_slow():
    """Currents that decay for hundreds of steps end at 0, not among the numbers that processors are slow with."""
    membrane, psc = lif_forward(torch.cat([torch.full((1, 64), 2.0), torch.zeros(999, 64)]), LIF(tau_m=2, tau_s=2))
    smallest = torch.finfo(torch.float32).tiny
    assert psc[0].min() > 0
    assert psc[-1].max() == 0
    assert ((psc == 0) | (psc >= smallest)).all()
    delta = kernel_gradient(TSSL(), torch.eye(1000)[999][:, None].expand(1000, 64), membrane, LIF(tau_m=2, tau_s=2))
    assert ((delta == 0) | (delta.abs() >= smallest)).all()
    assert torch.tensor(1e-40).item() > 0  # and the calling thread still knows them


@built
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only these processors are told to")
def test_operands_below_the_smallest_normal_number_are_zero():
    """Not results alone: a decaying current is one at the next step, and in memory that others have written."""
    tiny = torch.full((70,), 1e-40)
    assert torch.equal(lif_forward(tiny, PUBLISHED, Form(torch.full((3,), 1e30)))[0], torch.zeros(3, 70))
    identity, neuron = Surrogate("rectangular", slope=1e-6, scale=1e30), LIF(tau_m=1, tau_s=1)
    assert torch.equal(kernel_gradient(identity, tiny[None], torch.zeros(1, 70), neuron), torch.zeros(1, 70))
