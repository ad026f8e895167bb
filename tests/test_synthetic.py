"""Sequence tasks that are drawn: what they ask, and that nothing but what they ask for helps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tsslbp import UserError, data, training
from tsslbp.data import synthetic
from tsslbp.training.settings import TrainConfig


def load(name, time_steps=None):
    return data.load(name, Path("nowhere"), time_steps=time_steps)


@given(steps=st.integers(40, 120), spikes=st.integers(1, 12), outputs=st.integers(1, 5), patterns=st.integers(1, 3))
def test_random_targets_have_their_spikes_and_no_neighbours(steps, spikes, outputs, patterns):
    made = load(f"spike-pattern(spikes={spikes}, outputs={outputs}, patterns={patterns})", steps)
    x, y = made.train.x, made.test.y
    assert x.shape == (50 * patterns, steps, 100)
    assert torch.equal(x[:patterns], made.test.x)
    assert y.shape == (patterns, steps, outputs)
    assert (y.sum(1) == spikes).all()
    assert not (y[:, 1:] & y[:, :-1]).any()
    assert not y[:, : steps // 10].any()
    assert made.sequence
    assert len(made.classes) == outputs


def test_regular_targets_are_evenly_spaced():
    y = load("spike-pattern(target=regular, spikes=6, outputs=4)", 200).train.y[0]
    for train in y.T:
        gaps = train.nonzero()[:, 0].diff()
        assert len(gaps) == 5
        assert gaps.max() - gaps.min() <= 1 or 20 in gaps.tolist()


def test_a_pattern_is_frozen_and_its_seed_draws_another():
    one, same, other = (load(f"spike-pattern(seed={seed})", 100) for seed in (0, 0, 1))
    assert torch.equal(one.train.x, same.train.x)
    assert torch.equal(one.train.y, same.train.y)
    assert not torch.equal(one.train.x, other.train.x)
    assert one.validation is one.test
    assert one.tested_on == "the training patterns"
    rate = one.train.x.float().mean()
    assert 0.04 < rate < 0.06


def test_transparent_and_deep_pictures_become_what_is_seen(tmp_path):
    line = np.full((10, 20), 255, np.uint8)
    line[4:6] = 0
    plain, clear = Image.fromarray(line), Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (0, 4, 20, 6))
    pictures = {"plain": plain, "clear": clear, "deep": Image.fromarray(line.astype(np.uint16) * 257)}
    hole = np.where(line == 0, 0, 7).astype(np.uint16)  # 7 is what is transparent
    pictures["deep and clear"] = Image.fromarray(hole)
    found = []
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png", **({"transparency": 7} if name == "deep and clear" else {}))
        found.append(synthetic._picture(tmp_path / f"{name}.png", 20, 10))
    assert 0.1 < found[0].mean() < 0.4
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0], found[3])


def test_a_picture_becomes_target_trains(tmp_path):
    from PIL import Image

    picture = Image.new("L", (50, 20), 255)
    picture.paste(0, (10, 5, 20, 6))
    picture.save(tmp_path / "line.png")
    y = load(f"spike-pattern(target={tmp_path}/line.png, outputs=20)", 50).train.y[0]
    assert y[10:20, 5].all()
    assert y.sum() == 10
    Image.new("L", (5, 5), 255).save(tmp_path / "white.png")
    (tmp_path / "no.png").write_text("no picture")
    for name, message in (("white", "no dark pixel"), ("missing", "no image at"), ("no", "cannot read")):
        with pytest.raises(UserError, match=message):
            load(f"spike-pattern(target={tmp_path}/{name}.png)", 50)


def test_delayed_xor_needs_both_pulses_and_memory():
    made = load("delayed-xor(pulse=8, delay=20, answer=5, group=6)")
    x, y = made.train.x.float(), made.train.y
    assert made.time_steps == 41
    first, second = (x[:, start : start + 8].sum(1) for start in (0, 28))
    bits = [(pulse[:, 6:12].sum(1) > pulse[:, :6].sum(1)).long() for pulse in (first, second)]
    assert torch.equal(bits[0] ^ bits[1], y)
    for bit in bits:  # one pulse alone says nothing
        assert abs(float((bit == y).float().mean()) - 0.5) < 0.01
    assert not x[:, 8:28].any()
    assert not x[:, :36, 12:].any()
    assert x[:, 36:, 12:].any()
    assert y.float().mean() == 0.5


def test_evidence_is_the_side_with_more_cues():
    made = load("evidence(cues=3, cue=20, gap=4, delay=10, recall=6, group=5, noise=0.01)")
    x, y = made.train.x.float().unflatten(2, (4, 5)), made.train.y
    assert made.time_steps == 88
    sides = torch.stack(
        [x[:, start : start + 20, 1].sum((1, 2)) > x[:, start : start + 20, 0].sum((1, 2)) for start in (0, 24, 48)]
    )
    assert torch.equal((sides.sum(0) > 1).long(), y)
    assert not x[:, 72:, :2].any()
    assert not x[:, :-6, 2].any()
    assert 0.005 < x[:, :, 3].mean() < 0.015
    assert 0.4 < y.float().mean() < 0.6


@pytest.mark.parametrize("name", ["delayed-xor", "evidence"])
def test_the_parts_of_a_task_are_different_samples(name):
    made = load(name)
    assert (len(made.train), len(made.validation), len(made.test)) == (1000, 250, 250)
    assert not torch.equal(made.validation.x, made.test.x)


@pytest.mark.parametrize("name", ["spike-pattern", "delayed-xor(samples=100)", "evidence(samples=100)"])
def test_a_small_task_keeps_its_validation_samples_under_automatic_settings(name):
    config, dataset = training.with_data(TrainConfig(data=name), given={"data"})
    assert config.choose == "validation"
    assert config.validation == len(dataset.validation) == (1 if name == "spike-pattern" else 25)
    with pytest.raises(
        UserError, match=f"{'1 validation sample' if name == 'spike-pattern' else '25 validation samples'} of its"
    ):
        data.load(name, Path("nowhere"), validation=0)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("spike-pattern(spikes=60)", 100, "raise --time-steps"),
        ("spike-pattern(rate=2)", 100, "rate is 2"),
        ("spike-pattern(outputs=0)", 100, "outputs is 0"),
        ("spike-pattern(spike=3)", 100, "did you mean 'spikes'"),
        ("spike-pattern(spikes)", 100, "write option=value"),
        ("spike-pattern(spikes=many)", 100, "spikes is .many.; it must be a whole number"),
        ("spike-pattern(rate=many)", 100, "rate is .many.; it must be a number"),
        ("spike-pattern(inputs=1e999)", 100, "inputs is inf; it must be a whole number"),
        ("spike-pattern(repeats=2.5)", 100, "repeats is 2.5; it must be a whole number"),
        ("spike-pattern(seed=None)", 100, "seed is None; it must be a whole number from 0"),
        ("spike-pattern(target=None)", 100, "no image at None"),
        ("spike-pattern(inputs=100000000)", 100000, "GiB of memory"),
        ("delayed-xor(samples=100000000)", None, "delayed-xor needs .* GiB of memory"),
        ("delayed-xor(pulse=True)", None, "pulse is True; it must be a whole number"),
        ("evidence(gap=-20)", None, "gap is -20; it must be a whole number from 0"),
        ("evidence(seed=-1)", None, "seed is -1"),
        ("evidence(noise=nan)", None, "noise is nan spikes per step"),
        ("evidence(noise=-1)", None, "noise is -1 spikes per step; it must be from 0 to 1"),
        ("evidence(samples=100000000)", None, "evidence needs .* GiB of memory"),
        ("spike-pattern(", 100, "cannot read"),
        ("delayed-xor", 50, "--time-steps is 50; delayed-xor with these options has 60"),
        ("delayed-xor(delay=-1)", None, "delay is -1"),
        ("delayed-xor(samples=3)", None, "samples is 3"),
        ("evidence(cues=4)", None, "even number"),
        ("evidence(rate=0)", None, "rate is 0"),
    ],
)
def test_what_does_not_fit_is_named(name, steps, message):
    with pytest.raises(UserError, match=message):
        load(name, steps)
