"""The Triton kernels against the reference, and when they are chosen.

``make test-triton`` runs those marked ``triton`` in Triton's interpreter on the CPU. Without TRITON_INTERPRET, on a machine
with a GPU, ``pytest -m triton`` runs them there.
"""

import itertools
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tsslbp
from tsslbp import TSSL, Surrogate, UserError, kernels
from tsslbp.encoding import Constant
from tsslbp.functional import neurons
from tsslbp.kernels import PLAIN, Form, Pool, engine
from tsslbp.neuron import LIF, membrane_potential, postsynaptic_current, spikes, synapse
from tsslbp.rules import TSSLPaper
from tsslbp.rules.surrogate import DERIVATIVES

USABLE, WHY = kernels.backends()["triton"]
DEVICE = "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"

NEURON = LIF(5.0, 3.0)
SHAPES = [(1, (1,)), (2, ()), (5, (7,)), (13, (130,)), (40, (5, 2, 13)), (3, (1025,)), (4, (0,))]
FALLBACKS = ["quiet", "no-spike", "rate", "never", "always"]
FAMILY = [
    TSSL(derivative, inter, reset, leak, fallback)
    for derivative, inter, reset, leak, fallback in itertools.product(
        ["amplitude", "timing"], [True, False], [True, False], [True, False], FALLBACKS
    )
]
FAMILY += [TSSL(fallback=fallback, reset=more, leak=more, error_reset=True) for fallback in FALLBACKS for more in (True, False)]
SURROGATES = [Surrogate(name, through_reset=through) for name in DERIVATIVES for through in (False, True)]
RULES = [TSSL(fallback=fallback) for fallback in FALLBACKS] + [TSSLPaper(), Surrogate(through_reset=True)]


def on_triton(test):
    """Marks a test of the kernels: not in the default run, skipped with the reason where they cannot run."""
    return pytest.mark.triton(pytest.mark.skipif(not USABLE, reason=f"the Triton kernels cannot run: {WHY}")(test))


both_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def describe(rule):
    return f"{type(rule).__name__}({', '.join(str(v) for v in rule.options().values())})"


@pytest.fixture(autouse=True, scope="module")
def poisoned_memory():
    """Memory that nobody has written holds NaN, so that a neuron or step left out shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # no GPU library is asked for more
    yield
    torch.use_deterministic_algorithms(False)


def rand(steps, shape, dtype, seed=0):
    x = torch.randn((steps, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * 0.8 + 0.4).to(DEVICE, dtype)


def backward(rule, error, membrane, neuron=NEURON, form=PLAIN):
    triton = kernels.find("triton")
    gradient, back = triton.backward(triton.formula(rule), error, membrane, neuron, None, None, form)
    assert back is None
    return gradient


def assert_rounded(actual, expected):
    """Equal but for the rounding of sums; NaN in the same places."""
    tolerance = 1e-5 if expected.dtype == torch.float32 else 1e-13
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def check_forward(current, neuron, response=None):
    full = current if response is None else Constant(current, response).expand()
    membrane, psc, _ = kernels.find("triton").forward(current, neuron, None, Form(response))
    expected = membrane_potential(full, neuron)
    torch.testing.assert_close(membrane, expected, rtol=0, atol=0, equal_nan=True)
    assert_rounded(psc, postsynaptic_current(expected, neuron))
    nothing, alone, _ = kernels.find("triton").forward(current, neuron, None, Form(response), keep=False)
    assert nothing is None
    torch.testing.assert_close(alone, psc, rtol=0, atol=0, equal_nan=True)


def check_backward(rule, current, error, neuron, response=None):
    """The gradient of a rule, and with ``response`` its sum over time."""
    membrane = membrane_potential(current, neuron)
    actual = backward(rule, error, membrane, neuron, Form(response))
    expected = rule.current_gradient(error, membrane, neuron)
    assert_rounded(actual, expected if response is None else torch.tensordot(response, expected, 1))
    return actual


@on_triton
@both_types
@pytest.mark.parametrize(("steps", "shape"), SHAPES, ids=str)
def test_forward_equals_the_reference(steps, shape, dtype):
    check_forward(rand(steps, shape, dtype), NEURON)
    check_forward(rand(1, shape, dtype)[0], NEURON, response=rand(steps, (), dtype, seed=1))


@on_triton
@both_types
@pytest.mark.parametrize("neuron", [LIF(1, 1), LIF(math.inf, 1.5, 0.3), LIF(2, 50, 2.7), LIF(1.1, 2.3, 0.7)], ids=str)
def test_forward_for_every_kind_of_neuron(neuron, dtype):
    check_forward(rand(17, (9,), dtype), neuron)


@on_triton
@both_types
@pytest.mark.parametrize("rule", FAMILY + SURROGATES, ids=describe)
def test_gradient_of_every_option(rule, dtype):
    current, error = rand(9, (11,), dtype), rand(9, (11,), dtype, seed=1) - 0.4
    check_backward(rule, current, error, NEURON)
    check_backward(rule, current, error, NEURON, response=rand(9, (), dtype, seed=2))


@on_triton
@both_types
@pytest.mark.parametrize("rule", RULES, ids=describe)
@pytest.mark.parametrize(("steps", "shape"), SHAPES, ids=str)
def test_gradient_of_every_shape(steps, shape, rule, dtype):
    check_backward(rule, rand(steps, shape, dtype), rand(steps, shape, dtype, seed=1), NEURON)
    check_backward(rule, rand(steps, shape, dtype), rand(steps, shape, dtype, seed=1), NEURON, rand(steps, (), dtype, seed=2))


@on_triton
@pytest.mark.parametrize("steps", [31, 32, 33, 63, 64, 65, 97])
def test_quiet_steps_are_found_in_long_sequences(steps):
    """One word holds the quiet bits of 32 steps. Sparse spikes, so that a neuron is now quiet, now not."""
    current = rand(steps, (5,), torch.float64) - 0.3
    quiet = synapse(spikes(membrane_potential(current, NEURON), NEURON), NEURON.tau_s) < 1 / (4 * NEURON.tau_s)
    assert 0.1 < float(quiet.double().mean()) < 0.9
    check_backward(TSSL(), current, rand(steps, (5,), torch.float64, seed=1), NEURON)


@on_triton
@settings(max_examples=60)
@given(
    steps=st.integers(1, 40),
    size=st.integers(1, 20),
    neuron=st.builds(
        LIF,
        st.sampled_from([1.0, 1.7, 5.0, math.inf]),
        st.sampled_from([1.0, 1.5, 3.0, 20.0]),
        st.sampled_from([0.4, 1.0]),
    ),
    rule=st.builds(
        TSSL, *map(st.sampled_from, (["amplitude", "timing"], *[[True, False]] * 3, FALLBACKS, [0.5, 8.0, math.inf]))
    )
    | st.builds(Surrogate, st.sampled_from(sorted(DERIVATIVES)), st.sampled_from([None, 0.7]), st.just(1.3), st.booleans()),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    constant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_anything_equals_the_reference(steps, size, neuron, rule, dtype, constant, seed):
    current, error = rand(steps, (size,), dtype, seed), rand(steps, (size,), dtype, seed + 100)
    response = rand(steps, (), dtype, seed + 200) if constant else None
    check_forward(current if response is None else current[0], neuron, response)
    check_backward(rule, current, error, neuron, response)


@on_triton
@pytest.mark.parametrize("fired", [0, 4, 5])
def test_rate_uses_the_fallback_up_to_its_limit(fired):
    """The limit is 10 %: 4 of 40 are not above it."""
    current = torch.full((1, 40), 0.5, device=DEVICE)
    current[0, :fired] = 1.5
    error = rand(1, (40,), torch.float32)
    gradient = check_backward(TSSL(fallback="rate"), current, error, NEURON)
    same_as = TSSL(fallback="always" if fired <= 4 else "never")
    assert torch.equal(gradient, check_backward(same_as, current, error, NEURON))


@on_triton
@pytest.mark.parametrize("rule", RULES, ids=describe)
def test_any_order_in_memory(rule):
    current, error = rand(6, (3, 5, 4, 7), torch.float64), rand(6, (3, 5, 4, 7), torch.float64, seed=1)
    plain = check_backward(rule, current, error, NEURON)
    last = current.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (6, 3))
    every_second = rand(6, (3, 5, 4, 14), torch.float64)[..., ::2]
    for x in (last, current.transpose(0, 2).contiguous().transpose(0, 2), every_second):
        check_forward(x, NEURON)
    membrane = kernels.find("triton").forward(last, NEURON)[0]
    assert membrane.stride() == last.stride()
    for e in (error, error.mT.contiguous().mT, error.flip(0).flip(0)):
        gradient = backward(rule, e, membrane)
        assert gradient.stride() == last.stride()
        assert torch.equal(gradient, plain)
    check_backward(rule, every_second, error, NEURON)


@on_triton
@pytest.mark.parametrize("rule", RULES, ids=describe)
def test_a_gradient_that_is_the_same_in_every_step(rule):
    """The gradient of a sum over time or over everything: its memory is one step, or one number."""
    current = rand(5, (4, 3), torch.float64)
    for one in (rand(1, (4, 3), torch.float64), rand(1, (1, 1), torch.float64)):
        check_backward(rule, current, one.expand(5, 4, 3), NEURON)


@on_triton
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_goes_where_it_goes_in_the_reference(bad):
    current, error = rand(7, (6,), torch.float64), rand(7, (6,), torch.float64, seed=1)
    current[3, 2] = bad
    check_forward(current, NEURON)
    if math.isnan(bad):
        for rule in FAMILY + SURROGATES:
            check_backward(rule, current, error, NEURON)
        error[2, 4] = bad
        for rule in FAMILY + SURROGATES:
            check_backward(rule, rand(7, (6,), torch.float64), error, NEURON)


@on_triton
@pytest.mark.parametrize("rule", RULES, ids=describe)
@pytest.mark.parametrize("constant", [False, True])
def test_lif_runs_on_them(rule, constant):
    results = []
    for backend in ("reference", "triton"):
        x = rand(6, (2, 5), torch.float32)[0 if constant else slice(None)].requires_grad_()
        current = Constant(x, rand(6, (), torch.float32, seed=2)) if constant else x
        psc = tsslbp.lif(current, tau_m=5, tau_s=3, rule=rule, backend=backend)
        psc.backward(rand(6, (2, 5), torch.float32, seed=1))
        with torch.no_grad():
            assert torch.equal(tsslbp.lif(current, tau_m=5, tau_s=3, backend=backend), psc)
        results.append((psc.detach(), x.grad))
    for expected, actual in zip(*results, strict=True):
        assert_rounded(actual, expected)


def stored(x):
    """float32 as bfloat16: a GPU rounds to nearest (``test_compiles_for_a_gpu``), Triton's interpreter cuts off."""
    return (x.view(torch.int32) >> 16 << 16).view(torch.float32).bfloat16() if DEVICE == "cpu" else x.bfloat16()


@on_triton
@pytest.mark.parametrize("rule", RULES, ids=describe)
@pytest.mark.parametrize("constant", [False, True])
def test_bfloat16_is_how_currents_are_stored_not_how_they_are_computed(rule, constant):
    current = rand(6, (2, 5), torch.bfloat16)[0 if constant else slice(None)]
    error = rand(6, (2, 5), torch.bfloat16, seed=1)
    response = rand(6, (), torch.float32, seed=2) if constant else None
    half, full = Form(response, bf16_current=True, bf16_psc=True), Form(response)
    triton = kernels.find("triton")
    membrane, psc, _ = triton.forward(current, NEURON, None, half)
    exact_membrane, exact_psc, _ = triton.forward(current.float(), NEURON, None, full)
    assert torch.equal(membrane, exact_membrane)
    assert psc.dtype == torch.bfloat16
    assert torch.equal(psc, stored(exact_psc))
    assert torch.equal(triton.forward(current, NEURON, None, half, keep=False)[1], psc)
    assert torch.equal(triton.forward(current, NEURON, None, full, keep=False)[1], exact_psc)
    delta = backward(rule, error, membrane, form=half)
    exact = backward(rule, error.float(), membrane, form=full)
    assert torch.equal(delta, exact if constant else stored(exact))


@on_triton
@pytest.mark.parametrize("rule", [TSSL(), Surrogate()], ids=describe)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_pooling_is_done_after_them(rule, half, constant):
    results = []
    for backend in ("reference", "triton"):
        x = rand(4, (2, 3, 5, 4), torch.float32)[0 if constant else slice(None)].requires_grad_()
        current = Constant(x, rand(4, (), torch.float32, seed=2)) if constant else x
        psc, _ = neurons(current, NEURON, rule, backend, Pool(2, 1.1), half)
        assert psc.shape == (4, 2, 3, 2, 2)
        assert psc.dtype == (torch.bfloat16 if half else torch.float32)
        psc.backward(rand(4, (2, 3, 2, 2), psc.dtype, seed=1))
        results.append((psc.detach().float(), x.grad))
    (psc, gradient), (our_psc, our_gradient) = results
    torch.testing.assert_close(our_psc, psc, rtol=2**-7 if half else 1e-5, atol=1e-6)
    assert_rounded(our_gradient, gradient)


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget

class NoGPU:
    get_current_device = get_current_stream = lambda self, *_: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(NoGPU())
launch, compiled = triton.JITFunction.run, []
triton.JITFunction.run = lambda *a, warmup, **k: compiled.append(launch(*a, warmup=True, **k))

import test_kernels_gpu as t
from tsslbp.kernels import Form
from tsslbp.kernels.triton import ENGINE as gpu, INTERPRETED
assert not INTERPRETED
rules = [r for r in t.FAMILY + t.SURROGATES if len(r.options()) < 2] + [t.TSSL(clip=t.math.inf)]
for dtype in (torch.float32, torch.float64):
    for steps in (1, 40):
        x, response = torch.zeros(steps, 16 * steps, dtype=dtype), torch.ones(steps, dtype=dtype)
        gpu.forward(x, t.NEURON)
        gpu.forward(x[0], t.LIF(t.math.inf, 1), None, Form(response), keep=False)
        assert all("fma." not in c.asm["ptx"] for c in compiled[-2:]), "the compiler fused a product with a sum"
        for rule in rules:
            for g in (None, response):
                t.backward(rule, x, x, form=Form(g))
half = x.bfloat16()
for g in (None, response.float()):
    gpu.forward(half if g is None else half[0], t.NEURON, None, Form(g, bf16_psc=True))
    assert "cvt.rn.bf16" in compiled[-1].asm["ptx"], "bfloat16 is not rounded to nearest"
    t.backward(rule, half, x.float(), form=Form(g, bf16_current=True))
assert all(c.asm["cubin"] for c in compiled)
print(len(compiled), "compiled", len(rules))
"""


@on_triton
def test_compiles_for_a_gpu(tmp_path):
    """The interpreter runs more of Python than the compiler takes; the compiler needs no GPU as long as nothing is run."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    number, _, rules = done.stdout.split()
    assert int(number) == 2 * 2 * (2 + 2 * int(rules)) + 4
    assert int(rules) >= 18


def seen_as(device, dtype=torch.float32):
    """All that choosing a backend looks at, of a tensor this machine may not be able to hold."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


@on_triton
def test_they_have_to_be_named():
    """As long as no GPU has run them, "auto" leaves CUDA tensors to the reference."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert kernels.choose("triton", seen_as("cuda", dtype), NEURON) is kernels.find("triton")
        assert kernels.choose("auto", seen_as("cuda", dtype), NEURON) is kernels.find("reference")
    for device, dtype in (("meta", torch.float32), ("cuda", torch.float16)):
        with pytest.raises(UserError, match="backend 'triton' cannot run: "):
            kernels.choose("triton", seen_as(device, dtype), NEURON)


@on_triton
def test_what_they_decline_is_said(monkeypatch):
    monkeypatch.setitem(DERIVATIVES, "quartic", (lambda x: 1 / (1 + x**4), 1.0))
    rule, x = Surrogate("quartic"), torch.ones(3, 2, device=DEVICE, requires_grad=True)
    tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule).sum().backward()  # "auto" finds somebody
    assert x.grad.abs().sum() > 0
    with pytest.raises(UserError, match=r"backend 'triton' cannot run: .* no formula for SurrogateNumbers\(shape='quartic'"):
        tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule, backend="triton")
    with pytest.raises(UserError, match=r"backend 'triton' cannot run: .* carry no state from part to part"):
        tsslbp.lif_part(x, torch.zeros(2, 2, device=DEVICE), tau_m=5, tau_s=3, backend="triton")
    with pytest.raises(UserError, match="backend 'triton' cannot run: only the reference computes neurons without a reset"):
        neurons(x, LIF(5, 3, reset=False), TSSL(), "triton")


@pytest.mark.skipif(kernels.backends()["triton"].usable and DEVICE == "cpu", reason="Triton's interpreter takes CPU tensors")
def test_cpu_tensors_are_refused():
    with pytest.raises(UserError, match=r"backend 'triton' cannot run: .*(on a GPU, not on cpu|pip install)"):
        tsslbp.lif(torch.ones(3, 2), tau_m=5, tau_s=3, backend="triton")
    assert kernels.choose("auto", torch.ones(3, 2), NEURON).title != "the Triton kernels"


def test_without_triton_the_reason_names_the_fix(monkeypatch):
    monkeypatch.setattr(engine, "_FOUND", {name: found for name, found in engine._FOUND.items() if name != "triton"})
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "tsslbp.kernels.triton", raising=False)
    usable, reason = kernels.backends()["triton"]
    assert not usable
    assert "pip install 'tsslbp[gpu]'" in reason
    assert kernels.choose("auto", seen_as("cuda"), NEURON) is kernels.find("reference")
    with pytest.raises(UserError, match="pip install"):
        kernels.choose("triton", seen_as("cuda"), NEURON)
