"""The notation and its specs: what is read is what is written, and whatever is no network is refused in one line."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tsslbp import UserError, build
from tsslbp.network.architecture import PAPER
from tsslbp.network.notation import (
    LONGEST,
    AdaptiveSpec,
    AvgPoolSpec,
    ConvSpec,
    LinearSpec,
    MaxPoolSpec,
    PoolSpec,
    RecurrentSpec,
    ResidualSpec,
    VoteSpec,
    classes,
    contains,
    folded,
    parse,
    unpacked,
    voters,
    written,
)
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import LARGEST

SIZES = st.integers(1, 4) | st.integers(1, LARGEST)
SHAPES = st.sampled_from([(4,), (2, 7), (1, 6, 5)])
SUFFIXES = st.sampled_from(["", "b", "n"])


def hidden_of(sizes):
    """Hidden layers of every kind."""
    neurons = st.one_of(
        st.builds(ConvSpec, sizes, sizes, sizes, sizes, sizes, suffix=SUFFIXES),
        *(st.builds(kind, sizes, suffix=SUFFIXES) for kind in (LinearSpec, RecurrentSpec, AdaptiveSpec)),
    )
    pools = st.one_of(st.builds(PoolSpec, sizes), st.builds(AvgPoolSpec, sizes), st.builds(MaxPoolSpec, sizes))
    blocks = st.builds(lambda inner, last: ResidualSpec((*inner, last)), st.lists(neurons | pools, max_size=2), neurons)
    return neurons | pools | blocks


HIDDEN = hidden_of(SIZES)


@given(hidden=st.lists(HIDDEN, max_size=6), of_class=st.integers(1, 1000), count=st.integers(1, 1000), vote=st.booleans())
@settings(max_examples=200)
def test_specs_are_written_and_read(hidden, of_class, count, vote):
    specs = (*hidden, LinearSpec(of_class * count), *([VoteSpec(of_class)] if vote else []))
    text = written(specs)
    assert parse(text) == specs
    assert (classes(text), voters(text)) == ((count, of_class) if vote else (count * of_class, 1))
    for kind in (ConvSpec, PoolSpec, RecurrentSpec, AdaptiveSpec, VoteSpec):
        assert contains(text, kind) == any(isinstance(spec, kind) for spec in unpacked(specs))


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
    assert parse("8C3s1-10") == parse("8C3d1g1-10") == parse("8C3-10")
    assert parse("8C3s12d3g4b-10")[0] == ConvSpec(8, 3, 12, 3, 4, suffix="b")
    assert written(parse("11C1s1d11g1n-1")) == "11C1d11n-1"
    assert parse("8C3s2n-A2-[8C3-M2-8C3b]-20Rn-10b") == (
        ConvSpec(8, 3, 2, suffix="n"),
        AvgPoolSpec(2),
        ResidualSpec((ConvSpec(8, 3), MaxPoolSpec(2), ConvSpec(8, 3, suffix="b"))),
        RecurrentSpec(20, suffix="n"),
        LinearSpec(10, suffix="b"),
    )
    assert written(folded(parse("8C3s2n-[8C3b-8C3n]-20An-10"))) == "8C3s2b-[8C3b-8C3b]-20Ab-10"
    assert contains("20A-10", RecurrentSpec)
    assert not contains("20R-10", AdaptiveSpec)


def test_a_notation_that_is_too_long_is_refused_at_once():
    longest = "-".join(["7"] * (LONGEST // 2))
    assert len(parse(longest)) == LONGEST // 2
    message = refused(lambda: parse(f"{longest}-10"))
    assert message.endswith("has 10,002 characters; it must have at most 10,000")
    assert len(message) < 200
    assert refused(lambda: parse("8-[8-x]-10")).startswith("'x' in layer 2 ('[8-x]') of '8-[8-x]-10' is not a layer")
    assert refused(lambda: parse("8-x-10")).startswith("layer 2 ('x') of '8-x-10' is not a layer")


def refused(call):
    """What ``call`` raises, which can only be a UserError of one line; None if it goes well."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@given(st.text(alphabet="0123456789CPRAVMsbn[]-. x\n٣²", max_size=20) | st.text(max_size=20))
@example("9" * 5000 + "-10")
@example(f"{LARGEST + 1}-10")
@example("10-" + "V" + "9" * 5000)
@example("-" * 1000)
@example("[" * 100_000 + "-" * 100_000)
@example("[3C3]]-10")
@example("[[3C3]]-10")
@example("[]-10")
@example("[3-10]")
@example("[3-10]-V2")
@example("3C3bn-10")
@example("3C3s0-10")
@example("3s2-10")
@example("P2b-10")
@example("[3C3-P2]-10")
@settings(max_examples=1000)
def test_what_is_no_notation_is_a_user_error(text):
    """And what is one says what it has read."""
    if message := refused(lambda: parse(text)):
        assert "\n" not in message
        assert refused(lambda: TrainConfig(network=text))
        assert text in PAPER or refused(lambda: build(text, input_shape=(1, 5, 5), time_steps=2, tau_m=5, tau_s=3))
        return
    specs = parse(text)
    assert parse(written(specs)) == specs
    assert TrainConfig(network=text).network == text


@given(hidden=st.lists(hidden_of(st.integers(1, 4)), max_size=3), end=st.sampled_from(["3", "6-V2"]), shape=SHAPES)
@settings(max_examples=1000)
def test_a_network_is_built_or_a_user_error_says_why_not(hidden, end, shape):
    text = "-".join([*map(str, hidden), end])
    message = refused(lambda: build(text, input_shape=shape, time_steps=2, tau_m=5, tau_s=3))
    assert message is None or "\n" not in message
