"""Recurrent layers in one call of the C++ kernels, against the loop of ``Recurrent.step_by_step``."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import assert_calls_return_or_raise, digests_under, hash_of
from test_kernels import CPP, FALLBACKS, HOSTILE, NEURON, NEURONS, SURROGATE_NUMBERS, TSSL_NUMBERS, Recorder, built, poisoned

import tsslbp
from tsslbp import TSSL, Surrogate, UserError
from tsslbp.layers import Adaptation, Recurrent
from tsslbp.neuron import CONSTANTS, LIF, ByConstant
from tsslbp.rules.surrogate import DERIVATIVES

__all__ = ["poisoned"]  # a fixture

pytestmark = built
OPERATORS = torch.ops.tsslbp
PUBLISHED, LASTING = LIF(5, 3, 0.5), Adaptation(tau_a=7, beta=0.4)
RULES = [
    *(TSSL(fallback=fallback) for fallback in FALLBACKS if fallback != "rate"),
    TSSL(psc_derivative="timing", fallback="no-spike", clip=1.0),
    TSSL(reset=False, leak=False, error_reset=True),
    TSSL(inter=False, fallback="never"),
    *(Surrogate(name, through_reset=through) for name in DERIVATIVES for through in (False, True)),
    tsslbp.rules.get("e-prop"),
]
ADAPTATIONS = st.none() | st.builds(Adaptation, tau_a=st.floats(1, 50) | st.just(math.inf), beta=st.floats(0, 2))
VARYING = [(), ("tau_m", "threshold"), ("tau_s",), CONSTANTS]
SIZES = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 15, 17, 33, 40])


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(n, neuron=PUBLISHED, rule=None, adaptation=None, strength=1.0, dtype=torch.float64):
    """A layer that takes what enters its neurons as it comes."""
    made = Recurrent(max(n, 1), max(n, 1), neuron=neuron, rule=rule, adaptation=adaptation)
    made.lateral = torch.nn.Parameter(strength * random(n, n, seed=3, dtype=dtype) / math.sqrt(max(n, 1)))
    return made


def varied(neuron, names, n, dtype=torch.float64):
    """The neurons with constants of their own, which are learned, above those that are given."""
    made = {name: getattr(neuron, name) * (1 + random(n, seed=k, dtype=dtype).abs()) for k, name in enumerate(names)}
    return neuron.having(ByConstant(**{name: torch.nn.Parameter(value) for name, value in made.items()}))


def learned(made):
    """A layer's constants that are learned."""
    return [value for name, value in made.named_parameters() if name in CONSTANTS]


def a_state(made, batch, n, seed):
    """A state as a layer hands it on: a stands there twice, and a, b and s are 0 or more."""
    u, a, b, s = random(4, batch, n, seed=seed, dtype=made.lateral.dtype)
    return torch.stack([u, a.abs(), a.abs(), *([] if made.adaptation is None else [b.abs(), (s > 1).to(s.dtype)])])


def whole(made, drive, state, half=False):
    """The layer by the kernels."""
    adaptation = None if made.adaptation is None else (made.adaptation.tau_a, made.adaptation.beta)
    result = tsslbp.functional.recurrent(drive, made.lateral, state, made.neuron, made.rule, "cpp", adaptation, half)
    assert result is not None
    return result


def by_steps(made, drive, state, backend="reference"):
    made.backend = backend
    return made.step_by_step(drive, state)


def results(run, made, drive, state, seed=9):
    """Output, state after and every gradient, of random gradients of output and state."""
    drive = drive.clone().requires_grad_()
    state = None if state is None else state.clone().requires_grad_()
    psc, after = run(made, drive, state)
    inputs = [drive, made.lateral, *([] if state is None else [state]), *learned(made)]
    outputs = [psc, after] if state is not None else [psc]
    cotangents = [random(*x.shape, seed=seed + k, dtype=x.dtype) for k, x in enumerate(outputs)]
    return [psc.detach(), after.detach(), *torch.autograd.grad(outputs, inputs, cotangents, materialize_grads=True)]


def assert_same(ours, theirs, tolerance):
    for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        size = float(b.detach().abs().max()) if b.numel() else 0.0
        assert math.isfinite(size)
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * (1 + size), msg=lambda text, k=k: f"result {k}: {text}")


def check(steps, batch, n, neuron, varying, rule, adaptation, with_state, strength, seed):
    """Compare one case with the reference in float64."""
    made = layer(n, varied(neuron, varying, max(n, 1)), rule, adaptation, strength)
    drive = 0.8 * random(steps, batch, n, seed=seed) + 0.2
    state = a_state(made, batch, n, seed + 1) if with_state else None
    theirs = results(by_steps, made, drive, state)
    if all(bool((x.abs() < 1e12).all()) for x in theirs):  # or a gradient exploded, and rounding with it
        assert_same(results(whole, made, drive, state), theirs, 1e-9)


CASE = {
    "steps": st.integers(1, 9) | st.sampled_from([33]),
    "batch": st.sampled_from([0, 1, 2, 8, 9, 17]),
    "n": SIZES,
    "neuron": NEURONS,
    "varying": st.sampled_from(VARYING),
    "rule": st.sampled_from(RULES),
    "adaptation": ADAPTATIONS,
    "with_state": st.booleans(),
    "strength": st.sampled_from([0.0, 0.5, 2.0]),
    "seed": st.integers(0, 2**16),
}


@given(**CASE)
@settings(max_examples=80)
def test_a_call_equals_the_loop(**case):
    check(**case)


@pytest.mark.parametrize("adaptation", [None, LASTING], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
def test_every_rule(rule, adaptation):
    """Wider than a tile of the dense product, and firing."""
    made, drive = layer(300, rule=rule, adaptation=adaptation), 0.5 * random(9, 3, 300, seed=1)
    theirs = results(by_steps, made, drive, a_state(made, 3, 300, 2))
    assert_same(results(whole, made, drive, a_state(made, 3, 300, 2)), theirs, 1e-9)
    assert 0.02 < tsslbp.spikes_from_psc(theirs[0], 3).round().mean() < 0.8
    assert all(x.count_nonzero() > x.numel() / 20 for x in theirs[2:4])


@pytest.mark.parametrize("adaptation", [None, LASTING], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("rule", [TSSL(), Surrogate("atan", through_reset=True)], ids=tsslbp.rules.spec)
@pytest.mark.parametrize("shape", [(), (300,)], ids=["shared", "own"])
def test_constants_that_are_learned(shape, rule, adaptation):
    neuron = LIF(*(torch.nn.Parameter(torch.full(shape, x, dtype=torch.float64)) for x in (5.0, 3.0, 0.5)))
    made, drive = layer(300, neuron, rule, adaptation), 0.5 * random(9, 3, 300, seed=1)
    theirs = results(by_steps, made, drive, a_state(made, 3, 300, 2))
    assert_same(results(whole, made, drive, a_state(made, 3, 300, 2)), theirs, 1e-9)
    assert [x.shape for x in theirs[-3:]] == [shape] * 3
    assert all(x.count_nonzero() > x.numel() / 2 for x in theirs[-3:])
    plain = layer(300, LIF(5.0, 3.0, 0.5), rule, adaptation)
    for one, other in zip(results(whole, plain, drive, None), results(whole, made, drive, None), strict=False):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_many_spikes_and_more_steps_than_a_tile():
    """Of the gradient by lateral weights, which goes through the sequence in tiles."""
    made, drive = layer(130, LIF(5, 1.5, 0.2), TSSL(fallback="no-spike"), None, 0.3), random(70, 9, 130, seed=1).abs()
    theirs = results(by_steps, made, drive, None)
    assert_same(results(whole, made, drive, None), theirs, 1e-9)
    assert tsslbp.spikes_from_psc(theirs[0], 1.5).round().mean() > 0.5


@pytest.mark.parametrize("adaptation", [None, Adaptation(2.0, 0.5)], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("seed", range(5))
def test_single_precision_is_exact_where_numbers_are(adaptation, seed):
    """All numbers are small multiples of powers of 2, so nothing is rounded and not one spike may differ."""
    made = layer(40, LIF(2, 2, 1.0), None, adaptation, dtype=torch.float32)
    with torch.no_grad():
        made.lateral.copy_((8 * random(40, 40, seed=seed)).round() / 16)
    drive = (4 * random(7, 5, 40, seed=seed + 1)).round().float() / 4
    ours, theirs = (run(made, drive, None) for run in (whole, by_steps))
    assert ours[0].count_nonzero() > 100
    assert all(map(torch.equal, ours, theirs))


def backward(error, after, membrane, lateral, state, rule, adaptation, neuron=PUBLISHED):
    numbers = CPP.formula(rule), error, after, membrane, lateral, state, neuron, adaptation, False
    drive, back, weights, by_neuron = CPP.recurrent_backward(*numbers, through_lateral=True, learns=True)
    if isinstance(neuron.tau_s, torch.Tensor):
        weights = None  # PyTorch's product
    return [x for x in (drive, back, weights, *by_neuron) if x is not None]


@pytest.mark.parametrize("adaptation", [None, (7.0, 0.4)], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("rule", RULES, ids=tsslbp.rules.spec)
def test_single_precision_rounds_and_no_more(rule, adaptation):
    """Given the same potentials and a lateral product that damps, float32 gives the gradients of float64."""
    rows = 3 if adaptation is None else 5
    operands = [random(9, 5, 37, seed=1), random(rows, 5, 37, seed=2), random(9, 5, 37, seed=3), random(37, 37, seed=4) / 40]
    operands = [x.float() for x in [*operands, random(rows, 5, 37, seed=5).abs()]]
    for ours, theirs in zip(
        backward(*operands, rule, adaptation), backward(*(x.double() for x in operands), rule, adaptation), strict=True
    ):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))
        assert theirs.count_nonzero() > theirs.numel() / 4


def test_bfloat16_storage_is_rounding_and_nothing_else():
    made = layer(33, dtype=torch.float32)
    drive = random(12, 3, 33).bfloat16()
    half, wide = drive.clone().requires_grad_(), drive.float().requires_grad_()
    (psc, after), (wide_psc, wide_after) = whole(made, half, None, half=True), whole(made, wide, None)
    assert torch.equal(psc, wide_psc.bfloat16())
    assert torch.equal(after, wide_after)
    error = random(12, 3, 33, seed=4).bfloat16()
    ours = torch.autograd.grad(psc, (half, made.lateral), error)
    theirs = torch.autograd.grad(wide_psc, (wide, made.lateral), error.float())
    assert torch.equal(ours[0], theirs[0].bfloat16())
    assert torch.equal(ours[1], theirs[1])


def test_gradients_are_made_only_for_those_who_want_them():
    made, drive = layer(9, dtype=torch.float32), random(5, 2, 9, dtype=torch.float32)
    made.lateral.requires_grad_(False)
    assert not whole(made, drive, None)[0].requires_grad
    state = a_state(made, 2, 9, 1).requires_grad_()
    psc, after = whole(made, drive, state)
    by_state = torch.autograd.grad((psc.sum(), after.sum()), state)[0]
    made.lateral.requires_grad_(True)
    psc, after = whole(made, drive, state)
    both = torch.autograd.grad((psc.sum(), after.sum()), (state, made.lateral))
    assert torch.equal(both[0], by_state)
    with torch.no_grad():
        assert torch.equal(whole(made, drive, state)[0], psc)


def test_of_the_output_or_of_the_state_alone():
    made, drive = layer(9, adaptation=LASTING), random(5, 2, 9).requires_grad_()
    state = a_state(made, 2, 9, 1).requires_grad_()
    for pick in (0, 1):
        ours, theirs = (
            torch.autograd.grad(run(made, drive, state)[pick].square().sum(), (drive, made.lateral, state))
            for run in (whole, by_steps)
        )
        assert_same(ours, theirs, 1e-10)


def test_the_output_may_be_changed_in_place():
    made, drive = layer(9), random(5, 2, 9).requires_grad_()
    psc, _ = whole(made, drive, None)
    (expected,) = torch.autograd.grad(psc.mul(2).sum(), drive, retain_graph=True)
    (ours,) = torch.autograd.grad(psc.mul_(2).sum(), drive)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("tau_s", [1.0, 3.0, torch.linspace(2, 5, 9, dtype=torch.float64)], ids=["1", "3", "own"])
@pytest.mark.parametrize(
    ("where", "bad"), [("drive", math.nan), ("lateral", math.nan), ("state", math.nan), ("drive", math.inf)]
)
def test_nan_and_infinity_go_where_they_go_in_the_loop(where, bad, tau_s):
    made, drive = layer(9, LIF(5, tau_s, 0.5)), random(6, 4, 9)
    state = a_state(made, 4, 9, 1)
    with torch.no_grad():
        {"drive": drive[2, 1], "lateral": made.lateral[3], "state": state[2, 1]}[where][5] = bad
    ours, theirs = (run(made, drive, state) for run in (whole, by_steps))
    assert bool(theirs[0].isnan().any()) or bad == math.inf
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-9, equal_nan=True)
    if where == "drive" and bad != math.inf:
        ours, theirs = (results(run, made, drive, state)[2:] for run in (whole, by_steps))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.isnan(), b.isnan())


def run_all(steps, batch, n, dtype):
    """Every operation, of fixed and of adaptive thresholds, with a few rules; all results."""
    made = []
    for adaptation in (None, (7.0, 0.4)):
        state = random(3 if adaptation is None else 5, batch, n, seed=1, dtype=dtype).abs()
        drive, lateral = random(steps, batch, n, dtype=dtype), random(n, n, seed=2, dtype=dtype) / math.sqrt(n)
        for before in (None, state):
            for names in VARYING:
                constants = (x if x is None else x.detach() for x in varied(PUBLISHED, names, n, dtype).tensors)
                neuron = PUBLISHED.having(ByConstant(*constants))
                membrane, psc, after = CPP.recurrent_forward(drive, lateral, before, neuron, adaptation, False)
                made += [membrane, psc, after]
                for rule in (TSSL(), TSSL(fallback="no-spike"), Surrogate("atan", through_reset=True), Surrogate("triangular")):
                    made += backward(psc - 0.5, after - 0.5, membrane, lateral, before, rule, adaptation, neuron)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "batch", "n"), [(40, 37, 61), (300, 2, 40), (3, 19, 301)])
def test_the_number_of_threads_changes_no_bit(steps, batch, n, dtype):
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(run_all(steps, batch, n, dtype))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *made))


def digest(dtype):
    """A hash of every result's bits, for other processes to compare."""
    return hash_of(run_all(20, 11, 77, dtype))


@pytest.mark.parametrize("name", ["baseline", pytest.param("avx2", marks=pytest.mark.slow)])
def test_the_instruction_set_changes_no_bit(name):
    other = digests_under(name, "test_recurrent_kernels")
    assert other == [name, digest(torch.float32), digest(torch.float64)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("steps", "batch", "n"), [(1, 1, 1), (5, 3, 17), (33, 9, 65)])
def test_nothing_is_left_unwritten(steps, batch, n, dtype):
    assert not any(x.isnan().any() for x in run_all(steps, batch, n, dtype))


def test_operators_pass_opcheck():
    with Recorder() as recorder:
        run_all(4, 3, 5, torch.float64)
        operands = layer(5, dtype=torch.float32), random(4, 3, 5).bfloat16(), None
        results(lambda *operands: whole(*operands, half=True), *operands)
    checked = recorder.kinds()
    names = ("recurrent", "tssl_recurrent_backward", "surrogate_recurrent_backward")
    assert {operator.name() for operator, _ in checked.values()} == {f"tsslbp::{name}" for name in names}
    for operator, args in checked.values():
        torch.library.opcheck(operator, args)


@pytest.mark.parametrize("adaptation", [None, LASTING], ids=["fixed", "adaptive"])
def test_compiled_by_torch_without_a_break(adaptation):
    torch.compiler.reset()
    made = Recurrent(6, 9, neuron=PUBLISHED, adaptation=adaptation)
    x, error = 3 * random(6, 3, 6, dtype=torch.float32), random(6, 3, 9, dtype=torch.float32)
    compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
    inputs = (made.weight, made.lateral)
    ours, theirs = ((psc := run(x), *torch.autograd.grad(psc, inputs, error)) for run in (compiled, made))
    assert all(map(torch.equal, ours, theirs))


def test_what_it_does_not_take_goes_step_by_step(monkeypatch):
    made, drive = layer(9, rule=Surrogate(lambda x: 1 / (1 + x**2))), random(5, 2, 9).requires_grad_()
    calls = []
    monkeypatch.setattr(Recurrent, "step_by_step", lambda *operands: calls.append(1) or (drive, drive))
    made.weight = torch.nn.Parameter(torch.eye(9, dtype=torch.float64))
    made(drive)  # a derivative of one's own has no formula
    assert len(calls) == 1
    with torch.no_grad():
        made(drive)  # where nothing is learned, none is needed
    assert len(calls) == 1
    made.rule, made.backend = TSSL(), "reference"
    made(drive)
    assert len(calls) == 2
    made.backend, made.neuron = "auto", LIF(5, 3, reset=False)
    made(drive)
    assert len(calls) == 3
    made.neuron = PUBLISHED
    made(drive)
    assert len(calls) == 3


def test_other_modes_and_second_derivatives_are_refused():
    made, drive = layer(4), random(5, 2, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(whole(made, drive, None)[0].sum(), drive, retain_graph=True)
    with pytest.raises(UserError, match="no derivative of its own"):
        torch.autograd.grad(whole(made, drive, None)[0].sum(), drive, create_graph=True)
    with pytest.raises(UserError, match=r"torch\.func"):
        torch.func.grad(lambda x: whole(made, x, None)[0].sum())(drive)
    assert gradient.count_nonzero()


def test_autocast_leaves_what_neurons_hear_of_each_other_in_full_precision():
    made, x = layer(20, dtype=torch.float32), random(12, 5, 20, dtype=torch.float32)
    made.weight = torch.nn.Parameter(random(20, 20, seed=7, dtype=torch.float32) / 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        psc = made(x)
    drive = (x.bfloat16().flatten(0, 1) @ made.weight.bfloat16().T).unflatten(0, (12, 5))
    assert torch.equal(psc, whole(made, drive, None)[0])
    assert psc.count_nonzero() > 50


WRONG = [
    ({"drive": torch.ones(4, 6)}, "not .T, B, N. on the CPU"),
    ({"drive": torch.ones(0, 2, 3)}, "T at least 1"),
    ({"drive": torch.ones(4, 2, 3, dtype=torch.float16)}, "lateral is not|float32, float64"),
    ({"lateral": torch.ones(3, 4)}, "lateral is not .N, N."),
    ({"lateral": torch.ones(3, 3, dtype=torch.float64)}, "lateral is not .N, N. of the membrane's type"),
    ({"state": torch.ones(2, 2, 3)}, r"state is not \[3, B, N\]"),
    ({"state": torch.ones(3, 2, 3), "adaptation": [5.0, 0.1]}, r"state is not \[5, B, N\]"),
    ({"adaptation": [0.5, 0.1]}, r"adaptation\.tau_a is 0.5; it must be from 1 to inf"),
    ({"adaptation": [5.0, -1.0]}, r"adaptation\.beta is -1; it must be from 0"),
    ({"adaptation": [5.0]}, r"adaptation\.beta is missing"),
    ({"adaptation": [5.0, 1.0, 1.0]}, "adaptation has too many numbers"),
    ({"neuron": [0.5, 3.0, 1.0]}, r"neuron\.tau_m is 0.5"),
    ({"constants": torch.ones(3, 3)}, "neuron beside constants has too many numbers"),
    ({"constants": torch.ones(3, 1), "neuron": []}, r"constants are not \[3, N\]"),
    ({"constants": torch.ones(2, 3), "neuron": []}, r"constants are not \[3, P\]"),
]


@pytest.mark.parametrize(("changed", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_operands_are_refused(changed, message):
    usual = {"drive": torch.ones(4, 2, 3), "lateral": torch.ones(3, 3), "state": None}
    usual |= {"constants": None, "neuron": NEURON, "adaptation": []}
    assert len(OPERATORS.recurrent(*usual.values(), False, True)) == 3
    with pytest.raises(RuntimeError, match=f"tsslbp: .*({message})"):
        OPERATORS.recurrent(*(usual | changed).values(), False, True)


RATE = [*TSSL_NUMBERS[:5], 4.0, *TSSL_NUMBERS[6:]]


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("tssl", {"rule": RATE}, "takes no parts"),
        ("tssl", {"rule": [*TSSL_NUMBERS[:4], 1.0, *TSSL_NUMBERS[5:]]}, "takes no parts"),
        ("tssl", {"rule": []}, r"tssl\.timing is missing"),
        ("surrogate", {"rule": [7.0, *SURROGATE_NUMBERS[1:]]}, r"surrogate\.shape is 7"),
        ("tssl", {"error": torch.ones(4, 2, 4)}, "psc_gradient is not the gradient"),
        ("tssl", {"error": torch.ones(4, 2, 3, dtype=torch.float64)}, "psc_gradient is neither"),
        ("tssl", {"after": torch.ones(3, 2, 4)}, r"state is not \[3, B, N\]"),
        ("tssl", {"learns": 3}, "learns is 3; it must be from 0 to 2"),
        ("tssl", {"constants": torch.arange(1.0, 10).double().view(3, 3), "neuron": []}, "tau_s differs from neuron to neuron"),
    ],
    ids=str,
)
def test_wrong_operands_of_a_gradient_are_refused(name, changed, message):
    x = torch.ones(4, 2, 3)
    usual = {"error": x, "after": None, "membrane": x, "lateral": torch.ones(3, 3), "state": None}
    usual |= {"constants": None, "neuron": NEURON, "adaptation": []}
    usual |= {"rule": TSSL_NUMBERS if name == "tssl" else SURROGATE_NUMBERS, "through": True, "half": False, "learns": 1}
    operator = getattr(OPERATORS, f"{name}_recurrent_backward")
    assert len(operator(*usual.values())) == 2
    with pytest.raises(RuntimeError, match=f"tsslbp: .*{message}"):
        operator(*(usual | changed).values())


CALLS = (
    HOSTILE
    + """
def call(name):
    steps, batch, n = draw.choice([0, 1, 1, 2, 5, 33]), draw.choice([0, 1, 3, 17]), draw.choice([0, 1, 7, 40])
    dtype, half = draw.choice(FULL), draw.random() < 0.2
    adaptation = group(number(7.0, math.inf), number(0.4)) if on() else []
    constants = tensor(2, [3, n], torch.float64) if draw.random() < 0.3 else None
    neuron = group(number(5.0, math.inf), number(3.0, 1.0), number(1.0)) if constants is None else []
    handed = lambda: tensor(3, [5 if adaptation else 3, batch, n], dtype)
    lateral, state = tensor(2, [n, n], dtype), maybe(handed)
    if name == "recurrent":
        drive = tensor(3, [steps, batch, n], draw.choice([dtype, torch.bfloat16]))
        return [drive, lateral, state, constants, neuron, adaptation, half, on()]
    error = tensor(3, [steps, batch, n], draw.choice([dtype, torch.bfloat16]))
    operands = [error, maybe(handed), tensor(3, [steps, batch, n], dtype), lateral, state, constants, neuron, adaptation]
    if name == "tssl_recurrent_backward":
        terms = [integer(on()), integer(on()), integer(on()), integer(on()), integer(draw.random() < 0.1)]
        rule = group(*terms, integer(draw.randint(0, 4)), number(8.0, math.inf), number(0.2))
    else:
        rule = group(integer(draw.randint(0, 6)), number(2.0), number(1.0), integer(on()))
    return [*operands, rule, on(), half, draw.randint(0, 2)]
"""
)


def test_no_call_of_an_operator_ends_the_process():
    names = ["recurrent", "tssl_recurrent_backward", "surrogate_recurrent_backward"]
    assert_calls_return_or_raise(CALLS, names, 800, 100)
