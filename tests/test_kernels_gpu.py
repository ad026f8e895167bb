"""The Triton kernels: that a GPU's compiler takes them, and when they are chosen. Their results: ``test_kernels.py``.

``make test-triton`` runs those marked ``triton`` in Triton's interpreter on the CPU. Without TRITON_INTERPRET, on a machine
with a GPU, ``pytest -m triton`` runs them there.
"""

import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import tsslbp
from tsslbp import TSSL, Surrogate, UserError, kernels
from tsslbp.encoding import Constant
from tsslbp.functional import neurons
from tsslbp.kernels import PLAIN, Pool, engine
from tsslbp.neuron import LIF
from tsslbp.rules.surrogate import DERIVATIVES

USABLE, WHY = kernels.backends()["triton"]
DEVICE = "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"

NEURON = LIF(5.0, 3.0)
FALLBACKS = ["quiet", "no-spike", "rate", "never", "always"]
FAMILY = [
    TSSL(derivative, inter, reset, leak, fallback)
    for derivative, inter, reset, leak, fallback in itertools.product(
        ["amplitude", "timing"], [True, False], [True, False], [True, False], FALLBACKS
    )
]
FAMILY += [TSSL(fallback=fallback, reset=more, leak=more, error_reset=True) for fallback in FALLBACKS for more in (True, False)]
SURROGATES = [Surrogate(name, through_reset=through) for name in DERIVATIVES for through in (False, True)]


def on_triton(test):
    """Marks a test of the kernels: not in the default run, skipped with the reason where they cannot run."""
    return pytest.mark.triton(pytest.mark.skipif(not USABLE, reason=f"the Triton kernels cannot run: {WHY}")(test))


def rand(steps, shape, dtype, seed=0):
    x = torch.randn((steps, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * 0.8 + 0.4).to(DEVICE, dtype)


def backward(rule, error, membrane, neuron=NEURON, form=PLAIN):
    triton = kernels.find("triton")
    gradient, _, _ = triton.backward(triton.formula(rule), error, membrane, neuron, None, None, form)
    return gradient


def assert_rounded(actual, expected):
    """Equal but for the rounding of sums; NaN in the same places."""
    tolerance = 1e-5 if expected.dtype == torch.float32 else 1e-13
    finite = expected[expected.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


@on_triton
@pytest.mark.parametrize("rule", [TSSL(), Surrogate()], ids=tsslbp.rules.spec)
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
import math, torch, triton
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
rules = [r for r in t.FAMILY + t.SURROGATES if len(r.options()) < 2] + [t.TSSL(clip=math.inf)]
for dtype in (torch.float32, torch.float64):
    for steps in (1, 40):
        x, response = torch.zeros(steps, 16 * steps, dtype=dtype), torch.ones(steps, dtype=dtype)
        gpu.forward(x, t.NEURON)
        gpu.forward(x[0], t.LIF(math.inf, 1), None, Form(response), keep=False)
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
