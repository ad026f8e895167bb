"""The notation and its specs: what is read is what is written, and whatever is no network is refused in one line."""

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tsslbp import UserError, build
from tsslbp.errors import LARGEST
from tsslbp.notation import (
    AdaptiveSpec,
    ConvSpec,
    LinearSpec,
    PoolSpec,
    RecurrentSpec,
    VoteSpec,
    classes,
    contains,
    parse,
    voters,
)
from tsslbp.settings import TrainConfig

SIZES = st.integers(1, LARGEST)
HIDDEN = st.one_of(
    st.builds(ConvSpec, SIZES, SIZES),
    st.builds(PoolSpec, SIZES),
    st.builds(LinearSpec, SIZES),
    st.builds(RecurrentSpec, SIZES),
    st.builds(AdaptiveSpec, SIZES),
)


@given(hidden=st.lists(HIDDEN, max_size=6), of_class=st.integers(1, 1000), count=st.integers(1, 1000), vote=st.booleans())
@settings(max_examples=200)
def test_specs_are_written_and_read(hidden, of_class, count, vote):
    specs = (*hidden, LinearSpec(of_class * count), *([VoteSpec(of_class)] if vote else []))
    text = "-".join(map(str, specs))
    assert parse(text) == specs
    assert (classes(text), voters(text)) == ((count, of_class) if vote else (count * of_class, 1))
    for kind in (ConvSpec, PoolSpec, RecurrentSpec, AdaptiveSpec, VoteSpec):
        assert contains(text, kind) == any(isinstance(spec, kind) for spec in specs)


def test_notation_by_hand():
    assert parse("15C5-P2-100R-20A-30-V3") == (
        ConvSpec(15, 5),
        PoolSpec(2),
        RecurrentSpec(100),
        AdaptiveSpec(20),
        LinearSpec(30),
        VoteSpec(3),
    )
    assert parse("007-10") == parse("7-10")
    assert contains("20A-10", RecurrentSpec)
    assert not contains("20R-10", AdaptiveSpec)


def refused(call):
    """What ``call`` raises, which can only be a UserError of one line; None if it goes well."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@given(st.text(alphabet="0123456789CPRAV-. x\n٣²", max_size=20) | st.text(max_size=20))
@example("9" * 5000 + "-10")
@example(f"{LARGEST + 1}-10")
@example("10-" + "V" + "9" * 5000)
@example("-" * 1000)
@settings(max_examples=1000)
def test_what_is_no_notation_is_a_user_error(text):
    """And what is one says what it has read."""
    if message := refused(lambda: parse(text)):
        assert "\n" not in message
        assert refused(lambda: TrainConfig(network=text))
        assert refused(lambda: build(text, input_shape=(1, 5, 5), time_steps=2, tau_m=5, tau_s=3))
        return
    specs = parse(text)
    assert parse("-".join(map(str, specs))) == specs
    assert TrainConfig(network=text).network == text


@given(text=st.text(alphabet="123CPRAV-", min_size=1, max_size=12), shape=st.sampled_from([(4,), (1, 6, 5)]))
@settings(max_examples=1000)
def test_a_network_is_built_or_a_user_error_says_why_not(text, shape):
    small = refused(lambda: parse(text)) or all(max(vars(spec).values()) < 100 for spec in parse(text))
    assume(small)
    message = refused(lambda: build(text, input_shape=shape, time_steps=2, tau_m=5, tau_s=3))
    assert message is None or "\n" not in message
