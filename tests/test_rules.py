"""Learning rules: against scalar arithmetic, against autograd through an explicit network in time, and by name."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import oracle
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shared import BACKENDS, every_backend, fails

import tsslbp
from tsslbp import TSSL, EventProp, Rule, Surrogate, UserError, rules
from tsslbp.neuron import spikes_from_psc, synapse
from tsslbp.rules.surrogate import DERIVATIVES

FALLBACKS = ["quiet", "no-spike", "rate", "never", "always"]
PSC_DERIVATIVES = ["amplitude", "timing"]
ON_OFF = [True, False]


def gradient(current, psc_gradient, rule, **constants):
    current = torch.as_tensor(current).clone().requires_grad_()
    tsslbp.lif(current, rule=rule, **constants).backward(torch.as_tensor(psc_gradient))
    return current.grad


def assert_matches_oracle(current, psc_gradient, constants, options, backend, tolerance=1e-12, of_maximum=False):
    """Errors are measured against the sum of the sizes of the terms, which is what rounding scales with."""
    ours = gradient(current, psc_gradient, TSSL(**options), backend=backend, **constants).double()
    current, psc_gradient = current.double(), psc_gradient.double()
    theirs = torch.tensor(oracle.layer(current.tolist(), psc_gradient.tolist(), **constants, **options), dtype=torch.float64)
    positive = {**options, "psc_derivative": "amplitude"}
    size = torch.tensor(
        oracle.layer(current.tolist(), psc_gradient.abs().tolist(), **constants, **positive), dtype=torch.float64
    )
    size = size.max() if of_maximum else size
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs() <= tolerance * size + 1e-300).all()


def random_case(seed, steps=25, neurons=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(steps, neurons, generator=generator, dtype=dtype) * 0.8 + 0.4
    return current, torch.randn(steps, neurons, generator=generator, dtype=dtype)


@every_backend
@pytest.mark.parametrize("fallback", FALLBACKS)
@pytest.mark.parametrize("psc_derivative", PSC_DERIVATIVES)
@pytest.mark.parametrize("terms", [*itertools.product(ON_OFF, repeat=4)], ids=lambda t: "".join("01"[x] for x in t))
def test_every_combination_of_options_matches_the_oracle(fallback, psc_derivative, terms, backend):
    options = dict(
        zip(("inter", "reset", "leak", "error_reset"), terms, strict=True), fallback=fallback, psc_derivative=psc_derivative
    )
    for clip, constants in itertools.product(
        (0.6, 8.0),
        ({"tau_m": 5.0, "tau_s": 3.0, "threshold": 1.0}, {"tau_m": 9.0, "tau_s": 2.0, "threshold": 0.7}),
    ):
        assert_matches_oracle(*random_case(seed=1), constants, {**options, "clip": clip}, backend)


OPTIONS = st.fixed_dictionaries(
    {
        "psc_derivative": st.sampled_from(PSC_DERIVATIVES),
        "inter": st.sampled_from([True, True, True, False]),
        "reset": st.booleans(),
        "leak": st.booleans(),
        "error_reset": st.booleans(),
        "fallback": st.sampled_from(FALLBACKS),
        "clip": st.sampled_from([8.0, 1.0, 0.25, 1000.0]),
    }
)
CONSTANTS = st.fixed_dictionaries(
    {
        "tau_m": st.sampled_from([1.0, 2.0, 5.0, math.inf]) | st.floats(1, 50),
        "tau_s": st.sampled_from([1.0, 2.0, 3.0]) | st.floats(1, 30),
        "threshold": st.sampled_from([1.0, 0.7]) | st.floats(0.05, 3),
    }
)


@every_backend
@given(data=st.data(), options=OPTIONS, constants=CONSTANTS)
@settings(max_examples=200, deadline=None)
def test_tssl_matches_the_oracle(data, options, constants, backend):
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 3)))
    numbers = st.floats(-3, 4, allow_subnormal=False)
    current = torch.from_numpy(data.draw(hnp.arrays(float, shape, elements=numbers, fill=st.nothing())))
    error = torch.from_numpy(data.draw(hnp.arrays(float, shape, elements=numbers, fill=st.nothing())))
    # Powers and running products round differently: leave out currents within that of the quiet level.
    psc = tsslbp.lif(current, backend="reference", **constants)
    assume(((psc - 1 / (4 * constants["tau_s"])).abs() > 1e-12).all())
    assert_matches_oracle(current, error, constants, options, backend)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("fired", "falls_back"), [(0, True), (99, True), (100, True), (101, False), (1000, False)])
def test_rate_fallback_is_for_layers_firing_at_most_ten_percent(fired, falls_back, dtype, backend):
    current = torch.full((1000,), 0.3, dtype=dtype)
    current[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:fired]] = 1.5
    current = current.view(10, 25, 4)
    error = torch.randn(10, 25, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    constants = {"tau_m": 1.0, "tau_s": 3.0, "threshold": 1.0}
    by_rate, surrogate, by_time = (
        gradient(current, error, TSSL(fallback=f), backend=backend, **constants) for f in ("rate", "always", "never")
    )
    assert not torch.equal(surrogate, by_time)
    assert torch.equal(by_rate, surrogate if falls_back else by_time)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    flat = current.flatten(1), error.flatten(1)
    assert_matches_oracle(*flat, constants, {"fallback": "rate"}, backend, tolerance, of_maximum=True)


@every_backend
def test_a_current_exactly_at_the_quiet_level_is_not_quiet(backend):
    # τs = 2: two steps after a spike the current is 1/8, the quiet level itself, without rounding.
    current, error = [2.0, 0.0, 0.3, 0.3, 1.5], [0.0, 0.0, 1.0, 1.0, 1.0]
    case = torch.tensor(current, dtype=torch.float64), torch.tensor(error, dtype=torch.float64)
    quiet, never = (gradient(*case, TSSL(fallback=f), tau_m=5, tau_s=2, backend=backend) for f in ("quiet", "never"))
    assert tsslbp.lif(case[0], tau_m=5, tau_s=2, backend=backend)[2] == 1 / 8
    assert quiet[2] == never[2]
    assert quiet[3] != never[3]


@every_backend
@pytest.mark.parametrize("distance", [-100.0, -1.6000001, -1.5, -0.2, 0.0, 0.1, 1.5, 1.7, 100.0])
def test_fallback_is_a_logistic_held_at_its_argument_of_eight(distance, backend):
    x = max(-8.0, min(8.0, distance / 0.2))
    slope = math.exp(-x) / (1 + math.exp(-x)) ** 2 / 0.2
    current = torch.tensor([1 + distance], dtype=torch.float64)
    delta = gradient(current, torch.ones_like(current), TSSL(fallback="always"), tau_m=5, tau_s=1, backend=backend)
    assert delta.item() == pytest.approx(slope, rel=1e-9)


@every_backend
@pytest.mark.parametrize("rule", [TSSL(), TSSL(fallback="rate"), Surrogate(), Surrogate("atan", through_reset=True)])
def test_gradient_is_linear_in_the_error_and_never_looks_back(rule, backend):
    current, error = random_case(seed=3)
    constants = {"tau_m": 5, "tau_s": 3, "backend": backend}
    first = gradient(current, error, rule, **constants)
    torch.testing.assert_close(gradient(current, -2.5 * error, rule, **constants), -2.5 * first, rtol=1e-12, atol=1e-12)
    changed = error.clone()
    changed[:10] = 7.0
    after = gradient(current, changed, rule, **constants)
    assert torch.equal(after[10:], first[10:])
    assert not torch.equal(after[:10], first[:10])


@every_backend
@pytest.mark.parametrize("name", oracle.PRIMITIVES)
@pytest.mark.parametrize(("slope", "scale"), [(None, 1.0), (3.0, 0.5)])
def test_surrogate_shape_is_the_derivative_of_its_primitive(name, slope, scale, backend):
    # One step and no synapse: the gradient is ψ itself. No point lies on a kink.
    distance = torch.linspace(-1.73, 1.71, 100, dtype=torch.float64)
    threshold = 0.8
    delta = gradient(
        (threshold + distance).unsqueeze(0),
        torch.ones(1, 100, dtype=torch.float64),
        Surrogate(name, slope=slope, scale=scale),
        tau_m=5,
        tau_s=1,
        threshold=threshold,
        backend=backend,
    )
    expected = oracle.psi(name, slope or DERIVATIVES[name][1], scale, distance)
    assert expected.max() > 0.1
    torch.testing.assert_close(delta[0], expected, rtol=1e-11, atol=1e-13)


@every_backend
@pytest.mark.parametrize("through_reset", ON_OFF)
@pytest.mark.parametrize("name", oracle.PRIMITIVES)
def test_surrogate_is_autograd_through_the_unrolled_neuron(name, through_reset, backend):
    for seed, tau_m, tau_s, threshold in [(4, 5.0, 3.0, 1.0), (5, math.inf, 1.0, 0.6), (6, 1.0, 2.0, 1.3)]:
        rule = Surrogate(name, slope=1.5, scale=0.7, through_reset=through_reset)
        current, error = random_case(seed, steps=17)
        leaf = current.clone().requires_grad_()
        psc = oracle.unrolled(leaf, rule, tau_m, tau_s, threshold)
        psc.backward(error)
        constants = {"tau_m": tau_m, "tau_s": tau_s, "threshold": threshold, "backend": backend}
        torch.testing.assert_close(tsslbp.lif(current, **constants), psc.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(current, error, rule, **constants), leaf.grad, rtol=1e-12, atol=1e-12)


# Rules by name.

TSSL_RULES = st.builds(
    TSSL,
    psc_derivative=st.sampled_from(PSC_DERIVATIVES),
    inter=st.booleans(),
    reset=st.booleans(),
    leak=st.booleans(),
    error_reset=st.booleans(),
    fallback=st.sampled_from(FALLBACKS),
    clip=st.floats(min_value=0, exclude_min=True) | st.integers(1, 100),
)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SURROGATE_RULES = st.builds(
    Surrogate,
    name=st.sampled_from(sorted(DERIVATIVES)),
    slope=st.none() | POSITIVE,
    scale=POSITIVE,
    through_reset=st.booleans(),
)


@given(rule=TSSL_RULES | SURROGATE_RULES)
@settings(max_examples=200, deadline=None)
def test_spec_round_trip(rule):
    text = rules.spec(rule)
    assert rules.get(text) == rule
    assert rules.spec(rules.get(text)) == text


def test_spec_is_short_and_readable():
    assert rules.spec(TSSL()) == "tssl"
    assert rules.spec(TSSL(leak=False, fallback="no-spike")) == "tssl(leak=False, fallback=no-spike)"
    assert rules.spec(Surrogate("atan")) == "surrogate(name=atan)"


def test_the_versions_of_the_published_code_by_name():
    """METHOD: the code of 1 October 2020, of 2 June 2020, and of December 2020."""
    paper = TSSL(reset=False, leak=False, fallback="rate", clip=10.0, error_reset=True)
    assert rules.get("tssl-paper").options() == rules.get("tssl-submission").options() == {}
    for name, terms in (("tssl-paper", paper), ("tssl-submission", replace(paper, error_reset=False))):
        for layer in random_case(seed=2), tuple(x * 0.3 for x in random_case(seed=2)):  # above and below 10 % firing
            case = (*layer, name), (*layer, terms)
            constants = {"tau_m": 5.0, "tau_s": 2.0}
            assert torch.equal(*(gradient(*args, **constants) for args in case))
    assert rules.spec(rules.get("tssl-paper(fallback=quiet)")) == "tssl-paper(fallback=quiet)"


@pytest.mark.parametrize(
    ("options", "parts"),
    [({}, False), ({"fallback": "quiet"}, True), ({"fallback": "quiet", "leak": True}, False), ({"fallback": "always"}, True)],
)
def test_what_of_the_papers_rule_takes_parts(options, parts):
    assert replace(rules.get("tssl-paper"), **options).takes_parts == parts


class Whole:
    def current_gradient(self, psc_gradient, membrane, neuron):
        return torch.zeros_like(membrane)


class InParts:
    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return torch.zeros_like(membrane), carry


@pytest.mark.parametrize(
    ("bases", "parts"),
    [((Whole, TSSL), False), ((InParts, TSSL), True), ((Whole, InParts, TSSL), False), ((InParts, Whole, TSSL), True)],
)
def test_a_class_that_overrides_the_gradient_of_whole_sequences_takes_no_parts(bases, parts):
    """Parts of a sequence would have the gradient of the class before."""
    assert type("Mine", bases, {})().takes_parts == parts
    derived = type("Derived", (type("Mine", bases, {}),), {"summary": ""})
    assert derived().takes_parts == parts


def test_rules_by_name():
    assert rules.get(None) == rules.get("tssl") == rules.get(" tssl ( ) ") == TSSL()
    assert rules.get("tssl( fallback = no-spike,leak=False , clip=1)") == TSSL(fallback="no-spike", leak=False, clip=1)
    assert rules.get("surrogate(name=atan, slope=2.5)") == Surrogate("atan", slope=2.5)
    rule = TSSL(reset=False)
    assert rules.get(rule) is rule


def test_the_published_rule_is_the_default():
    assert TSSL() == TSSL(psc_derivative="amplitude", inter=True, reset=True, leak=True, fallback="quiet", clip=8.0)
    case = random_case(seed=8)
    constants = {"tau_m": 5, "tau_s": 3}
    assert torch.equal(gradient(*case, None, **constants), gradient(*case, TSSL(), **constants))
    assert torch.equal(gradient(*case, "tssl(reset=False)", **constants), gradient(*case, TSSL(reset=False), **constants))


def test_every_available_rule_trains():
    assert {"tssl", "surrogate"} <= set(rules.available())
    for name in rules.available():
        rule = rules.get(name)
        assert rule.summary
        assert rule.paper
        assert gradient(*random_case(seed=9), name, tau_m=5, tau_s=3).abs().sum() > 0


@dataclass(frozen=True)
class StraightThrough(Rule):
    """A rule of somebody else's."""

    gain: float = 1.0
    summary: ClassVar[str] = "the gradient goes through unchanged"
    paper: ClassVar[str] = "none"

    def current_gradient(self, psc_gradient, membrane, neuron):
        return self.gain * psc_gradient * neuron.threshold


def test_a_rule_of_ones_own_is_a_dataclass_with_one_method():
    case = random_case(seed=10)
    torch.testing.assert_close(gradient(*case, StraightThrough(2.0), tau_m=5, tau_s=3, threshold=0.5), case[1])
    assert StraightThrough(2.0).options() == {"gain": 2.0}
    with pytest.raises(UserError, match=r"StraightThrough.* has no name"):
        rules.spec(StraightThrough())


class NothingPast(TSSL):
    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return torch.zeros_like(membrane), carry


class Mixed:
    part_gradient = NothingPast.part_gradient


class NothingMixedIn(Mixed, TSSL):
    pass


class NoStandIn(Surrogate):
    def _psi(self, distance):
        return 0 * distance


class NoTimes(EventProp):
    def current_gradient(self, psc_gradient, membrane, neuron):
        return torch.zeros_like(membrane)


@every_backend
@pytest.mark.parametrize("rule", [NothingPast(), NothingMixedIn(), NoStandIn(), NoTimes()], ids=repr)
def test_a_class_with_other_equations_is_computed_by_them(backend, rule):
    current, error = random_case(seed=11)
    assert (gradient(current, error, rule, tau_m=5, tau_s=3, backend=backend) == 0).all()


def test_a_class_with_the_same_equations_keeps_the_kernels():
    class Named(TSSL):
        summary = "the same under another name"

        def options(self):
            return {"name": "other"}

    assert Named(clip=3).numbers == TSSL(clip=3).numbers


@dataclass(frozen=True)
class Weighted(StraightThrough):
    weights: tuple[float, ...] | None = None
    mode: str = "a"


@pytest.mark.parametrize("options", [{"weights": (0.5, 1.0)}, {"mode": "a,b"}, {"mode": " a"}])
def test_options_that_no_text_gives_again_are_not_saved(monkeypatch, options):
    monkeypatch.setitem(rules.RULES, "weighted", Weighted)
    assert rules.spec(Weighted(mode="b")) == "weighted(mode=b)"
    with pytest.raises(
        UserError, match=r"options of Weighted\(.*\) cannot be saved by name; make them numbers, None, or words"
    ):
        rules.spec(Weighted(**options))


@dataclass(frozen=True, kw_only=True)
class Sized(StraightThrough):
    size: float


def test_an_option_that_must_be_given_is_named(monkeypatch):
    monkeypatch.setitem(rules.RULES, "sized", Sized)
    with pytest.raises(UserError, match=r"as options of sized: .*'size'"):
        rules.get("sized")


class InPlace(StraightThrough):
    def current_gradient(self, psc_gradient, membrane, neuron):
        found = super().current_gradient(psc_gradient, membrane, neuron)
        psc_gradient *= 2
        membrane -= neuron.threshold
        return found


def test_a_rule_may_change_what_it_gets():
    current, error = random_case(seed=3)
    found = []
    for rule in (StraightThrough(), InPlace()):
        tau_m, x, given_ = (
            torch.tensor(4.0, dtype=torch.float64, requires_grad=True),
            current.clone().requires_grad_(),
            error.clone(),
        )
        psc = tsslbp.lif(x, tau_m=tau_m, tau_s=3, rule=rule) + tsslbp.lif(x, tau_m=4, tau_s=3, rule="tssl")
        psc.backward(given_)
        assert torch.equal(given_, error)
        found.append((x.grad, tau_m.grad))
    assert all(map(torch.equal, *found))


@every_backend
def test_a_surrogate_named_like_a_fallback_is_what_it_says(monkeypatch, backend):
    monkeypatch.setitem(DERIVATIVES, "rate", (lambda x: torch.zeros_like(x) + 1, 1.0))
    monkeypatch.setitem(DERIVATIVES, "flat", lambda x: torch.zeros_like(x) + 1)
    constants = {"tau_m": 5.0, "tau_s": 3.0}
    expected = gradient(*random_case(seed=4), Surrogate("flat"), backend="reference", **constants)
    found = gradient(
        *random_case(seed=4), Surrogate("rate"), backend="reference" if backend == "reference" else "auto", **constants
    )
    torch.testing.assert_close(found, expected)


@dataclass(frozen=True)
class Returns(Rule):
    """A rule that returns what it is told to, from either method."""

    whole: object = None
    part: object = None

    def current_gradient(self, psc_gradient, membrane, neuron):
        return self.whole

    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return self.part


@dataclass(frozen=True)
class ReturnsPart(Rule):
    part: object = None

    def part_gradient(self, psc_gradient, membrane, neuron, state, carry):
        return self.part


GRADIENT, CARRY = torch.ones(4, 3), torch.ones(2, 3)


@every_backend
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returned a NoneType"),
        (GRADIENT[:2], r"returned \[2, 3\] of torch.float32"),
        ((GRADIENT,), r"returned a tuple of \[4, 3\] of torch.float32"),
    ],
    ids=["nothing", "steps", "one in a tuple"],
)
def test_a_rule_that_returns_no_gradient_is_named(made, message, backend):
    psc = tsslbp.lif(torch.ones(4, 3, requires_grad=True), tau_m=5, tau_s=3, rule=Returns(whole=made), backend=backend)
    promise = r"; it must return \[4, 3\] of torch.float32$"
    with fails(f"Returns.current_gradient {message}{promise}"):
        psc.sum().backward()


@every_backend
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, "returned a NoneType"),
        (GRADIENT, r"returned \[4, 3\] of torch.float32"),
        (((GRADIENT,), (CARRY,)), r"returned a tuple of \[4, 3\] of torch.float32 and a tuple of \[2, 3\] of torch.float32"),
    ],
    ids=["nothing", "one", "in tuples"],
)
def test_a_rule_that_carries_nothing_on_is_named(made, message, backend):
    promise = r"; it must return \[4, 3\] of torch.float32 and \[2, 3\] of torch.float32$"
    arguments = {"tau_m": 5, "tau_s": 3, "backend": backend}
    for rule in (Returns(part=made), ReturnsPart(made)):
        psc, _ = tsslbp.lif_part(torch.ones(4, 3, requires_grad=True), torch.zeros(2, 3), rule=rule, **arguments)
        with pytest.raises(UserError, match=f"{type(rule).__name__}.part_gradient {message}.*{promise}"):
            psc.sum().backward()
    with pytest.raises(UserError, match=f"ReturnsPart.part_gradient {message}.*{promise}"):
        tsslbp.lif(torch.ones(4, 3, requires_grad=True), rule=ReturnsPart(made), **arguments).sum().backward()


def test_what_a_rule_of_ones_own_carries_on_is_finite():
    psc, _ = tsslbp.lif_part(
        torch.ones(4, 3, requires_grad=True), None, tau_m=5, tau_s=3, rule=ReturnsPart((GRADIENT, CARRY / 0))
    )
    with pytest.raises(UserError, match=r"ReturnsPart\.part_gradient returned NaN or infinity"):
        psc.sum().backward()


@pytest.mark.parametrize(
    "make",
    [lambda x: TSSL(clip=x), lambda x: TSSL(width=x), lambda x: Surrogate(slope=x), lambda x: Surrogate(scale=x), EventProp],
)
def test_options_are_not_learned(make):
    for value, what in (
        (torch.nn.Parameter(torch.tensor(2.0)), "of type Parameter"),
        (torch.tensor(2.0), "of type Tensor"),
        (True, "True"),
    ):
        with fails(f"is {what}; it must be a plain number, as constants are not learned"):
            make(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsl", "unknown rule 'tsl'; did you mean 'tssl'"),
        ("surogate", "did you mean 'surrogate'"),
        ("qqq", "known: .*surrogate.*tssl"),
        ("tssl(rest=False)", "'rest'; did you mean 'reset'"),
        ("tssl(fallback=quite)", "'quite'; did you mean 'quiet'"),
        ("tssl(psc_derivative=time)", "did you mean 'timing'"),
        ("tssl(reset=maybe)", "reset is 'maybe'; it must be True or False"),
        ("tssl(leak=1)", "leak is 1; it must be True or False"),
        ("tssl(clip=0)", "clip is 0.*positive"),
        ("tssl(clip=-1)", "clip is -1.*positive"),
        ("tssl(clip=nan)", "clip"),
        ("tssl(clip=large)", "clip is 'large'; it must be a number"),
        ("tssl(reset)", "write option=value"),
        ("tssl(reset=False", "cannot read rule"),
        ("tssl reset=False", "cannot read rule"),
        ("", "cannot read rule"),
        ("surrogate(name=sigmoyd)", "unknown surrogate 'sigmoyd'; did you mean 'sigmoid'"),
        ("surrogate(slope=0)", "slope is 0; it must be positive"),
        ("surrogate(scale=-1)", "must be positive"),
        ("surrogate(through_reset=maybe)", "through_reset is 'maybe'; it must be True or False"),
    ],
)
def test_errors_name_the_fix_in_one_line(text, message):
    with fails(message):
        tsslbp.lif(torch.ones(2, 3), tau_m=5, tau_s=3, rule=text)


@pytest.mark.parametrize("options", [{"slope": math.inf}, {"scale": math.inf}, {"scale": math.nan}, {"slope": math.nan}])
def test_a_surrogate_without_finite_values_is_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} is .*; it must be positive and finite"):
        Surrogate(**options)


def test_gradient_through_the_synapse_alone_is_exact():
    train = torch.rand(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: synapse(x, 3.0), train)
    assert torch.autograd.gradcheck(lambda x: spikes_from_psc(x, 3.0), train)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tssl_plus_is_a_member_of_the_family(backend):
    generator = torch.Generator().manual_seed(0)
    current = 0.5 + torch.randn(20, 3, 40, generator=generator, dtype=torch.float64)
    error = torch.randn(20, 3, 40, generator=generator, dtype=torch.float64)

    def gradient(rule):
        x = current.clone().requires_grad_()
        tsslbp.lif(x, tau_m=10, tau_s=4, rule=rule, backend=backend).backward(error)
        return x.grad

    ours = gradient("tssl+")
    assert torch.equal(ours, gradient(TSSL(leak=False, fallback="no-spike", clip=0.5, width=0.4)))
    assert rules.spec(rules.get("tssl+(clip=1)")) == "tssl+(clip=1)"
    # At a spike p is at most the clip, elsewhere the logistic of that width: worked out without the rule, R = 0 in one step.
    x = torch.tensor([[1.5, 0.7]], dtype=torch.float64, requires_grad=True)
    tsslbp.lif(x, tau_m=10, tau_s=4, rule="tssl+", backend=backend).sum().backward()
    z = math.exp(-0.3 / 0.4)
    expected = [0.5 / 4, z / (1 + z) ** 2 / 0.4 / 4]
    torch.testing.assert_close(x.grad[0], torch.tensor(expected, dtype=torch.float64))


class Hidden(torch.autograd.Function):
    """A surrogate as in snnTorch and SpikingJelly: spikes, whose derivative is another function."""

    @staticmethod
    def forward(ctx, x):
        return (x > 0).float()


def test_a_function_that_returns_spikes_is_no_derivative(monkeypatch):
    for function in (Hidden.apply, lambda x: (x >= 0).float()):
        with pytest.raises(UserError, match="the function returns spikes, as in other libraries; give their derivative ψ"):
            tsslbp.Surrogate(function)
        monkeypatch.setitem(DERIVATIVES, "hidden", (function, 1.0))
        with pytest.raises(UserError, match="the function returns spikes"):
            tsslbp.Surrogate("hidden")
    for function in (lambda x: (x.abs() < 2).float(), lambda x: x.clamp(0, 1), lambda x: x.nothing):
        tsslbp.Surrogate(function)  # the last is told in the backward pass
