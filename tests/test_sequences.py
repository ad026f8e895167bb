"""Speech, events and series: what is read, how it becomes steps, and one clear line for everything that can be wrong."""

import io
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import wave
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shared import fails, save

from tsslbp import cli, data, training
from tsslbp.data import audio, cache, speech, vowels
from tsslbp.data.dataset import Normalisation, Split, hold_out
from tsslbp.data.events import Events, by_count, by_time, by_width, frames, read_bin, stabilise
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files

SAMPLES = Path(__file__).parent / "samples"
FULL = Path(__file__).parents[2] / "shared" / "data"
SIZES = {  # of the samples: training, validation, test, and the default T and shape of a step
    "nmnist": ((10, 10, 10), 30, (2, 34, 34)),
    "nmnist-stabilised": ((10, 10, 10), 30, (2, 34, 34)),
    "spoken-digits": ((10, 10, 5), 50, (80,)),
    "spoken-digits-by-speaker": ((5, 10, 10), 50, (80,)),
    "japanese-vowels": ((9, 9, 9), 26, (12,)),
}
every_name = pytest.mark.parametrize("name", SIZES)


def needs_full(folder):
    return pytest.mark.skipif(not (FULL / folder).is_dir(), reason=f"the full set is not in {FULL / folder}")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of its own for every test."""
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """A copy of the samples, to damage."""
    for folder in ("FSDD", "NMNIST", "TimeSeries"):
        shutil.copytree(SAMPLES / folder, tmp_path / "data" / folder)
    return tmp_path / "data"


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


# All of them


@every_name
def test_samples_load(name):
    dataset = data.load(name, SAMPLES)
    sizes, steps, shape = SIZES[name]
    assert tuple(map(len, parts(dataset))) == sizes
    assert (dataset.name, dataset.sequence, dataset.time_steps, dataset.sample_shape) == (name, True, steps, shape)
    assert (dataset.normalisation == Normalisation(1, (0.0,), (1.0,))) == (name != "japanese-vowels")
    for part in parts(dataset):
        assert part.x.shape[1:] == (steps, *shape)
        assert part.y.dtype == torch.int64
        assert 0 <= part.y.min() <= part.y.max() < len(dataset.classes)
        assert part.x.dtype == (torch.float32 if name == "japanese-vowels" else torch.uint8)
        assert part.x.dtype == torch.float32 or set(part.x.unique().tolist()) == {0, 1}
    again = data.load(name, SAMPLES)
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(parts(dataset), parts(again), strict=True))


@every_name
def test_the_caller_chooses_steps_and_validation(name):
    count = len(data.load(name, SAMPLES).classes) + 1
    dataset = data.load(name, SAMPLES, time_steps=37, validation=count)
    assert dataset.time_steps == 37
    assert len(dataset.validation) == count
    usual = data.load(name, SAMPLES, time_steps=37)
    assert torch.equal(usual.test.y, dataset.test.y)
    with fails("time_steps is 0; it must be a whole number from 1"):
        data.load(name, SAMPLES, time_steps=0)
    with fails("validation is 3; of these"):
        data.load(name, SAMPLES, validation=3)


@every_name
@pytest.mark.parametrize("download", [False, True])
def test_missing_sets_say_where_and_how(tmp_path, monkeypatch, name, download):
    monkeypatch.setitem(sys.modules, "tonic.datasets", None)
    what = {"n": "no nmnist", "s": "no recordings", "j": "no japanese-vowels"}[name[0]]
    message = f"{what} in {re.escape(str(tmp_path))}.*--data-root DIR"
    if download and name.startswith("nmnist"):
        message = r"need a package: pip install 'tsslbp\[events\]'"
    with fails(message):
        data.load(name, tmp_path, download=download)


@every_name
def test_nothing_is_written_beside_the_files(root, name):
    before = sorted(root.rglob("*"))
    data.load(name, root)
    assert sorted(root.rglob("*")) == before


# Splits with lengths


def test_lengths_stay_with_their_samples():
    x = torch.arange(40)
    split = Split(x, x % 4, x + 100)
    chosen = split.select(torch.tensor([7, 3, 3]))
    assert [t.tolist() for t in (chosen.x, chosen.y, chosen.lengths)] == [[7, 3, 3], [3, 3, 3], [107, 103, 103]]
    assert Split(x, x % 4).select(torch.tensor([1])).lengths is None
    for part in hold_out(split, 8):
        assert torch.equal(part.lengths, part.x + 100)
        assert torch.equal(part.y, part.x % 4)


def test_lengths_of_own_files(tmp_path):
    lengths = np.arange(24) % 7 + 1
    x = np.broadcast_to(lengths[:, None, None], (24, 7, 2)).astype(np.float32)
    y = np.arange(24) % 2
    dataset = data.load(save(tmp_path / "own.npz", x=x, y=y, lengths=lengths), Path())
    for part in parts(dataset):
        assert torch.equal(part.lengths, part.x[:, 0, 0].long())
    tested = data.load(
        save(tmp_path / "own.npz", x=x, y=y, lengths=lengths, x_test=x[:5], y_test=y[:5], lengths_test=lengths[:5]), Path()
    )
    assert tested.test.lengths.tolist() == lengths[:5].tolist()


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [
        (np.full(12, 8), (12, 7, 2)),
        (np.zeros(12, int), (12, 7, 2)),
        (np.full(11, 3), (12, 7, 2)),
        (np.full(12, 3.0), (12, 7, 2)),
        (np.full((12, 1), 3), (12, 7, 2)),
        (np.full(12, 1), (12, 7)),
    ],
    ids=["long", "zero", "few", "real", "2d", "static"],
)
def test_wrong_lengths_of_own_files(tmp_path, lengths, shape):
    path = save(tmp_path / "own.npz", x=np.zeros(shape), y=np.arange(12) % 2, lengths=lengths)
    static = r"x holds samples without steps, \[12, 7\]; leave lengths out"
    with fails(f"own.npz: {'lengths must be 12 integers from 1 to 7, the steps' if len(shape) == 3 else static}"):
        data.load(path, Path())


def test_lengths_of_one_part_only(tmp_path):
    x, y = np.zeros((12, 7, 2)), np.arange(12) % 2
    with fails("only one of lengths and lengths_test"):
        data.load(save(tmp_path / "own.npz", x=x, y=y, lengths=np.full(12, 3), x_test=x, y_test=y), Path())


# Sound


def test_mel_bands_are_triangles_between_points_evenly_spaced_in_mel():
    weights = audio.mel_bands(20, 8000, 512).numpy()
    mels = np.linspace(2595 * math.log10(1 + 60 / 700), 2595 * math.log10(1 + 4000 / 700), 22)
    corners = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.linspace(0, 4000, 257)
    for band in range(20):
        expected = np.interp(frequencies, corners[band : band + 3], [0, 1, 0])
        np.testing.assert_allclose(weights[:, band], expected, atol=1e-12)


def test_spectra_are_those_of_scipy():
    from scipy import signal as scipy_signal

    rate, steps, bands = 8000, 9, 16
    x = torch.randn(320 + 8 * 160, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # a frame every 20 ms
    window = scipy_signal.get_window("hann", 320)
    spectra = scipy_signal.ShortTimeFFT(window, hop=160, fs=rate, mfft=512).stft(x.numpy(), p0=1, p1=1 + steps)
    energy = np.abs(spectra.T) ** 2 @ audio.mel_bands(bands, rate, 512).numpy()
    np.testing.assert_allclose(audio.log_mel([x], rate, steps, bands)[0].numpy(), np.log(energy + 1e-4), rtol=1e-9)


def test_a_tone_lights_up_the_band_around_it():
    t = torch.arange(4000, dtype=torch.float64) / 8000
    for hertz in (300, 1000, 2500):
        loudest = audio.log_mel([torch.sin(2 * math.pi * hertz * t)], 8000, 5, 40)[0].argmax(1)
        assert (loudest == audio.mel_bands(40, 8000, 512)[round(hertz / 8000 * 512)].argmax()).all()


def test_frames_cover_signals_of_any_length():
    lengths = (1, 100, 320, 321, 9999)
    signals = [torch.full((length,), 0.5) for length in lengths]
    energy = audio.log_mel(signals, 8000, 12, 8)
    assert energy.shape == (5, 12, 8)
    silence = audio.log_mel([torch.zeros(length) for length in lengths], 8000, 12, 8)
    torch.testing.assert_close(silence, torch.full((5, 12, 8), math.log(1e-4)))
    for position in (160, 9999 - 160):  # the middles of the first and the last frame
        signal = torch.zeros(9999)
        signal[position] = 1
        heard = audio.log_mel([signal], 8000, 12, 8)[0].mean(1)
        assert heard.argmax() == (0 if position == 160 else 11)
    for signal, row in zip(signals, energy, strict=True):
        torch.testing.assert_close(audio.log_mel([signal], 8000, 12, 8)[0], row)


def test_frames_of_a_live_sound_are_those_of_the_recording():
    x = torch.randn(2, 320 + 8 * 160, generator=torch.Generator().manual_seed(0))  # a frame every 20 ms
    whole = audio.log_mel(list(x), 8000, 9, 16)
    frames = x.unfold(1, audio.frame_size(8000), 160)
    torch.testing.assert_close(audio.energies(frames, 8000, 16), whole)
    torch.testing.assert_close(audio.energies(frames[1, 3], 8000, 16), whole[1, 3])
    assert audio.energies(frames.double(), 8000, 16).dtype == torch.float64
    for wrong in (frames[..., :319], torch.tensor(0.5)):
        with fails(r"frames have shape \[.*\]; the last axis must be 320, 0.04 s of 8000 Hz"):
            audio.energies(wrong, 8000, 16)


@given(
    x=hnp.arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-3, 3)),
    delta=st.sampled_from([0.25, 0.5, 2.0]),
)
def test_send_on_delta_by_its_definition(x, delta):
    spikes = audio.send_on_delta(torch.from_numpy(x), delta)
    N, T, F = x.shape
    assert spikes.shape == (N, T, 2 * F)
    assert spikes.dtype == torch.uint8
    for n in range(N):
        for f in range(F):
            received = 0.0
            for t in range(T):
                up, down = x[n, t, f] - received >= delta, received - x[n, t, f] >= delta
                assert spikes[n, t, f].item() == up
                assert spikes[n, t, F + f].item() == down
                received += delta * (float(up) - float(down))


def test_the_receiver_is_never_further_off_than_delta_if_the_signal_is_slow():
    walk = torch.rand(4, 200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sub(0.5).mul(0.9).cumsum(1)
    spikes = audio.send_on_delta(walk, 0.5).double()
    received = 0.5 * (spikes[..., :3] - spikes[..., 3:]).cumsum(1)
    assert (received - walk).abs().max() < 0.5 + 1e-9


def test_delta_must_be_positive():
    with fails("delta is 0; it must be positive"):
        audio.send_on_delta(torch.zeros(1, 2, 3), 0)


# Spoken digits


def test_recordings_are_what_their_names_say(root):
    found = speech.recordings(root)
    with zipfile.ZipFile(root / "FSDD/recordings.zip") as archive:
        names = sorted(Path(name).stem for name in archive.namelist())
    assert [f"{one.digit}_{one.speaker}_{one.index}" for one in found] == names
    assert all(one.signal.dim() == 1 and 0.001 < one.signal.abs().max() <= 1 for one in found)


def test_recordings_may_be_unpacked(root):
    packed = data.load("spoken-digits", root)
    with zipfile.ZipFile(root / "FSDD/recordings.zip") as archive:
        archive.extractall(root / "FSDD")
    (root / "FSDD/recordings.zip").unlink()
    unpacked = data.load("spoken-digits", root)
    for a, b in zip(parts(packed), parts(unpacked), strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_test_sets_of_spoken_digits_are_what_they_say(root, monkeypatch):
    with zipfile.ZipFile(root / "FSDD/recordings.zip") as archive:
        names = sorted(archive.namelist())
    by_index = [int(speech._parts(n)[0]) for n in names if speech._parts(n)[2] < 5]
    by_speaker = [int(speech._parts(n)[0]) for n in names if speech._parts(n)[1] == "yweweler"]
    assert data.load("spoken-digits", root).test.y.tolist() == by_index
    assert data.load("spoken-digits-by-speaker", root).test.y.tolist() == by_speaker


def test_constants_of_speech_have_not_seen_validation_and_test(root, monkeypatch):
    given_to_encoder = []
    monkeypatch.setattr(speech, "send_on_delta", lambda x, delta: given_to_encoder.append(x) or x.to(torch.uint8))
    data.load("spoken-digits", root)
    train, held, test = given_to_encoder
    assert [len(x) for x in given_to_encoder] == [10, 10, 5]
    torch.testing.assert_close(train.mean((0, 1)), torch.zeros(40), atol=1e-4, rtol=0)
    torch.testing.assert_close(train.std((0, 1), correction=0), torch.ones(40), atol=1e-4, rtol=0)
    for other in (held, test):
        assert other.mean((0, 1)).abs().max() > 0.05


def wav(count=800, channels=1, width=2, rate=8000):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(bytes(count * channels * width))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0_ann_7.wav is not a wav file"),
        (b"no wav at all, but long enough to look at", "is not a wav file"),
        (wav()[:-2], "is cut short or not one channel"),
        (wav(0), "is cut short or not"),
        (wav(channels=2), "not one channel of 16 bits at 8000 Hz; fetch it again"),
        (wav(width=1), "not one channel of 16 bits at 8000 Hz"),
        (wav(rate=16000), "not one channel of 16 bits at 8000 Hz"),
    ],
    ids=["empty", "text", "cut", "silent", "stereo", "bytes", "rate"],
)
def test_damaged_recordings(tmp_path, content, message):
    folder = tmp_path / "FSDD/recordings"
    folder.mkdir(parents=True)
    (folder / "0_ann_7.wav").write_bytes(content)
    with fails(message):
        data.load("spoken-digits", tmp_path)


def test_damaged_archive_of_recordings(root):
    path = root / "FSDD/recordings.zip"
    whole = path.read_bytes()
    for content in (b"", whole[:5000], whole[:500] + bytes(50) + whole[550:]):
        path.write_bytes(content)
        with fails(r"cannot read the recordings in .*FSDD: .*; fetch them again"):
            data.load("spoken-digits", root)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "nothing here")
    with fails("recordings.zip holds no .wav files"):
        data.load("spoken-digits", root)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recordings/seven.wav", wav())
    with fails("seven.wav is not named DIGIT_SPEAKER_INDEX.wav"):
        data.load("spoken-digits", root)


@pytest.mark.parametrize(
    ("name", "kept", "use"),
    [
        ("spoken-digits", lambda p: p[2] >= 5, "test"),
        ("spoken-digits", lambda p: p[2] < 5, "train"),
        ("spoken-digits-by-speaker", lambda p: p[1] != "yweweler", "test"),
        ("spoken-digits-by-speaker", lambda p: p[1] == "yweweler", "train"),
    ],
)
def test_recordings_that_leave_a_part_empty(root, name, kept, use):
    with zipfile.ZipFile(root / "FSDD/recordings.zip") as archive:
        archive.extractall(root / "FSDD")
    for path in (root / "FSDD/recordings").iterdir():
        if not kept(speech._parts(path.name)):
            path.unlink()
    with fails(f"recordings, none to {use} on; fetch all"):
        data.load(name, root)


# Events


def random_events(seed, count=500, size=(2, 34, 34), last=300_000):
    rng = np.random.default_rng(seed)
    P, H, W = size
    t = np.sort(rng.integers(0, last, count))
    return Events(rng.integers(0, W, count), rng.integers(0, H, count), rng.integers(0, 2, count) % P, t)


def test_events_are_read_bit_by_bit():
    records = [(3, 33, 1, 0x7FFFFF), (0, 0, 0, 1), (33, 7, 1, 0x010203)]
    for x, y, p, t in records:
        got = read_bin(bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]))
        assert [int(field[0]) for field in got] == [x, y, p, t]


def test_marks_of_an_overflow_move_the_clock():
    mark, event = bytes([0, 240, 0, 0, 0]), bytes([3, 5, 128, 0, 9])
    events = read_bin(event + mark + event + mark + mark + event)
    assert events.t.tolist() == [9, 2**13 + 9, 3 * 2**13 + 9]
    assert [set(field.tolist()) for field in events[:3]] == [{3}, {5}, {1}]
    with fails("there are no events"):
        read_bin(mark)


def test_a_real_recording_is_read():
    events = read_bin((SAMPLES / "NMNIST/Train/5/00001.bin").read_bytes())
    assert len(events.t) > 3000
    assert (events.x.max(), events.y.max()) <= (33, 33)
    assert set(events.p.tolist()) == {0, 1}
    assert 290_000 < events.t[-1] < 340_000
    assert (np.diff(events.t) >= 0).all()
    thinned = read_bin((SAMPLES / "NMNIST/Train/0/00002.bin").read_bytes())
    assert thinned.t[-1] - thinned.t[0] > 250_000


@given(count=st.integers(1, 200), steps=st.integers(1, 40), seed=st.integers(0, 9))
def test_no_event_is_lost(count, steps, seed):
    events = random_events(seed, count, (2, 5, 4), last=1000)
    width = 37
    ways = {"time": (by_time(events, steps), steps), "count": (by_count(events, steps), steps)}
    wide = by_width(events, width)
    ways["width"] = wide, int(wide.max()) + 1
    for step, total in ways.values():
        counted = frames(events, step, total, (2, 5, 4), spikes=False)
        assert counted.sum() == count
        for polarity in (0, 1):
            assert counted[:, polarity].sum() == (events.p == polarity).sum()
        np.testing.assert_array_equal(frames(events, step, total, (2, 5, 4), spikes=True), counted > 0)
        assert (np.diff(step) >= 0).all()
        assert 0 <= step.min() <= step.max() < total


def test_frames_are_where_and_when_the_events_were():
    events = Events(*(np.array(field) for field in ([3, 3, 0], [1, 1, 2], [1, 1, 0], [10, 11, 30])))
    counted = frames(events, by_time(events, 2), 2, (2, 3, 4), spikes=False)
    assert counted[0, 1, 1, 3] == 2
    assert counted[1, 0, 2, 0] == 1
    assert counted.sum() == 3
    assert frames(events, by_time(events, 2), 2, (2, 3, 4), spikes=True).sum() == 2


@given(count=st.integers(1, 200), steps=st.integers(1, 40), seed=st.integers(0, 9))
def test_steps_are_equal_parts(count, steps, seed):
    events = random_events(seed, count, last=1000)
    shares = np.bincount(by_count(events, steps), minlength=steps)
    assert shares.max() - shares.min() <= 1
    since = events.t - events.t[0]
    duration = since[-1] + 1
    for step, t in zip(by_time(events, steps), since, strict=True):
        assert step * duration <= t * steps < (step + 1) * duration
    for step, t in zip(by_width(events, 7), since, strict=True):
        assert 7 * step <= t < 7 * (step + 1)


def test_recordings_without_events():
    empty = Events(*[np.zeros(0, np.int64)] * 4)
    for step in (by_time(empty, 3), by_count(empty, 3), by_width(empty, 3)):
        assert frames(empty, step, 3, (2, 5, 4), spikes=False).sum() == 0


def test_events_that_do_not_fit():
    one = random_events(0, 1)
    with fails("events lie outside 4 × 2 × 34 × 34 steps, polarities, rows and columns"):
        frames(one, np.array([4]), 4, (2, 34, 34), spikes=True)
    with fails("events lie outside"):
        frames(one._replace(x=np.array([-1])), np.array([0]), 4, (2, 34, 34), spikes=True)
    many = Events(*[np.zeros(300, np.int64)] * 4)
    assert frames(many, many.t, 1, (2, 3, 3), spikes=True).sum() == 1
    with fails("300 events at one pixel in one step, a byte counts to 255; take more steps"):
        frames(many, many.t, 1, (2, 3, 3), spikes=False)
    with fails("width is 0; a step must last at least 1 microsecond"):
        by_width(one, 0)


def test_stabilise_undoes_the_saccades():
    t = np.arange(0, 315_000, 500)
    phase = t / 105_000
    x = 12 + np.select([phase < 2], [3.5 * phase], 7 - 7 * (phase - 2))
    y = 9 + np.select([phase < 1, phase < 2], [7 * phase, 7 - 7 * (phase - 1)], 0)
    dot = Events(np.rint(x).astype(int), np.rint(y).astype(int), np.zeros_like(t), t)
    still = stabilise(dot, 34, 34)
    assert len(still.t) == len(t)
    assert np.ptp(still.x) <= 1
    assert np.ptp(still.y) <= 1
    assert (abs(still.x - 15.5).max(), abs(still.y - 12.5).max()) <= (1, 1)


def test_stabilised_recordings_are_sharper_and_keep_nearly_all_events():
    events = read_bin((SAMPLES / "NMNIST/Train/5/00001.bin").read_bytes())
    still = stabilise(events, 34, 34)
    assert len(still.t) > 0.98 * len(events.t)

    def sharpness(e):
        return (np.bincount(e.y * 34 + e.x, minlength=34 * 34).astype(float) ** 2).sum() / len(e.t)

    assert sharpness(still) > 1.2 * sharpness(events)


# N-MNIST


def test_nmnist_is_the_frames_of_its_recordings():
    dataset = data.load("nmnist", SAMPLES, time_steps=12)
    paths = sorted((SAMPLES / "NMNIST/Test").glob("*/*.bin"), key=lambda path: path.name)
    assert dataset.test.y.tolist() == [int(path.parent.name) for path in paths]
    for row, path in zip(dataset.test.x, paths, strict=True):
        events = read_bin(path.read_bytes())
        expected = frames(events, by_time(events, 12), 12, (2, 34, 34), spikes=True)
        assert np.array_equal(row.numpy(), expected)
    stabilised = data.load("nmnist-stabilised", SAMPLES, time_steps=12)
    assert not torch.equal(stabilised.test.x, dataset.test.x)


def test_folders_train_and_test_may_be_the_root():
    assert torch.equal(data.load("nmnist", SAMPLES / "NMNIST").test.x, data.load("nmnist", SAMPLES).test.x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no recording of events"),
        (bytes(7), "7 bytes are no recording of events, which take 5 bytes each"),
        (bytes([34, 0, 0, 0, 1]), "events lie outside"),
        (bytes([0, 34, 0, 0, 1]), "events lie outside"),
        (bytes([0, 0, 0, 0, 9, 0, 0, 0, 0, 8]), "times of events fall"),
    ],
    ids=["empty", "cut", "x", "y", "time"],
)
def test_damaged_recordings_of_events(root, content, message):
    path = root / "NMNIST/Test/7/00001.bin"
    assert path.is_file()
    path.write_bytes(content)
    with fails(f"recording {re.escape(str(path))}: {message}.*; fetch it again"):
        data.load("nmnist", root)


# The cache


def test_the_cache_is_used_until_recordings_or_settings_change(root, own_cache, monkeypatch):
    first = data.load("nmnist", root, time_steps=4)
    assert len(list(own_cache.iterdir())) == 3
    with monkeypatch.context() as patch:
        patch.setattr("tsslbp.data.nmnist.read_bin", lambda content: pytest.fail("read again"))
        again = data.load("nmnist", root, time_steps=4)
    assert torch.equal(first.train.x, again.train.x)
    data.load("nmnist", root, time_steps=5)
    data.load("nmnist-stabilised", root, time_steps=4)
    assert len(list(own_cache.iterdir())) == 9
    path = root / "NMNIST/Test/7/00001.bin"
    path.write_bytes(path.read_bytes()[:-5])
    changed = data.load("nmnist", root, time_steps=4)
    assert not torch.equal(first.test.x, changed.test.x)
    held = data.load("nmnist", root, time_steps=4, validation=11)
    assert torch.equal(
        torch.cat([held.train.x, held.validation.x]).sum(0), torch.cat([first.train.x, first.validation.x]).sum(0)
    )


def samples_of(count):
    return Split(torch.arange(count), torch.arange(count) % 2)


def test_a_damaged_cache_is_made_anew(own_cache):
    made = []

    def make(number):
        made.append(number)
        return np.full((3, 2), number, np.uint8)

    expected = torch.arange(5)[:, None, None].expand(5, 3, 2)
    assert torch.equal(cache.mapped("set", {}, samples_of(5), (3, 2), make).x, expected)
    (path,) = own_cache.iterdir()
    whole = path.read_bytes()
    other = io.BytesIO()
    np.save(other, np.zeros((5, 3, 2), np.int16))
    for damaged in (b"", whole[:50], whole[:-1], whole[:20] + b"\xff" + whole[21:], other.getvalue()):
        path.write_bytes(damaged)
        made.clear()
        assert torch.equal(cache.mapped("set", {}, samples_of(5), (3, 2), make).x, expected)
        assert made == [0, 1, 2, 3, 4]
        assert path.read_bytes() == whole
    made.clear()
    cache.mapped("set", {}, samples_of(5), (3, 2), make)
    assert made == []


def test_an_interrupted_cache_leaves_nothing_behind(own_cache):
    def make(number):
        if number == 3:
            raise KeyboardInterrupt
        return np.zeros((3, 2), np.uint8)

    with pytest.raises(KeyboardInterrupt):
        cache.mapped("set", {}, samples_of(5), (3, 2), make)
    assert list(own_cache.iterdir()) == []


def test_a_cache_is_made_by_one_process_and_without_what_killed_ones_left(own_cache):
    left, new = own_cache / ".tsslbp-0.tmp", own_cache / ".tsslbp-1.tmp"
    own_cache.mkdir(exist_ok=True)
    left.touch()
    new.touch()
    os.utime(left, (0, 0))
    program = f"""
import os, time, numpy as np, torch
from tsslbp.data import Split, cache
os.environ["TSSLBP_CACHE"] = {str(own_cache)!r}
def make(number):
    print("made", flush=True)
    time.sleep(0.2)
    return np.zeros(3, np.uint8)
cache.mapped("set", {{}}, Split(torch.arange(5), torch.arange(5)), (3,), make)
"""
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert "".join(one.communicate()[0] for one in both).split() == ["made"] * 5
    assert [one.returncode for one in both] == [0, 0]
    assert len([*own_cache.glob("set-*.npy")]) == 1
    assert (left.exists(), new.exists()) == (False, True)


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "file"))
    with fails("cannot make .*; set TSSLBP_CACHE to another folder"):
        cache.mapped("set", {}, samples_of(2), (3,), lambda number: np.zeros(3, np.uint8))


def test_cached_samples_stay_on_the_disk_until_they_are_taken():
    """200 MB of samples, of which a batch takes 4 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("memory is read from /proc")

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    block, before = np.zeros((1000, 1000), np.uint8), resident()
    samples = cache.mapped("large", {}, samples_of(200), (1000, 1000), lambda number: block + number % 7)
    x = samples.select(torch.tensor([199, 3, 50, 8])).x
    assert x[:, 5, 5].tolist() == [199 % 7, 3, 50 % 7, 1]
    assert resident() - before < 50
    assert samples.x.shape == (200, 1000, 1000)


def test_changing_samples_does_not_change_the_cache(own_cache):
    def make(number):
        return np.zeros(3, np.uint8)

    cache.mapped("set", {}, samples_of(2), (3,), make).x[0] = 1
    assert cache.mapped("set", {}, samples_of(2), (3,), make).x.sum() == 0


def test_where_the_cache_lies(monkeypatch, tmp_path):
    assert files.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("TSSLBP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert files.cache_folder() == Path("/somewhere/tsslbp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_folder() == Path.home() / ".cache/tsslbp"


# tonic


class Recordings:
    """What a data set of tonic looks like: recordings as structured arrays, and labels."""

    sensor_size = (5, 4, 2)
    fields: tuple[str, ...] = ("x", "y", "t", "p")
    listed = True

    def __init__(self, save_to, train=True, transform=None):
        self.seeds = list(range(40 if train else 10)) if train else list(range(100, 110))
        self.targets = [seed % 2 for seed in self.seeds] if self.listed else []

    def __len__(self):
        return len(self.seeds)

    def __getitem__(self, index):
        W, H, P = self.sensor_size
        events = random_events(self.seeds[index], 30, (P, H, W))
        record = np.zeros(30, dtype=[(field, np.int32) for field in self.fields])
        for field in self.fields:
            record[field] = 1 if (field, P) == ("p", 1) else getattr(events, field)
        return record, np.int64(self.seeds[index] % 2)


class Cochlea(Recordings):
    sensor_size, fields, listed = (7, 1, 1), ("t", "x", "p"), False


class Whole(Recordings):
    def __init__(self, save_to):
        super().__init__(save_to)


class Parted(Recordings):
    def __init__(self, save_to, split="train"):
        super().__init__(save_to, train={"train": True, "test": False}[split])


class Uneven(Recordings):
    sensor_size = None


class Unlabelled(Recordings):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], np.zeros(3)

    listed = False


class Broken(Recordings):
    def __init__(self, save_to, train=True):
        raise RuntimeError("no route\nto host")


@pytest.fixture
def tonic(monkeypatch, tmp_path):
    """A stand-in for the package, with sets that are there."""
    module = ModuleType("tonic.datasets")
    kinds = [Recordings, Cochlea, Whole, Parted, Uneven, Unlabelled, Broken]
    module.__all__ = [kind.__name__ for kind in kinds]
    for kind in kinds:
        setattr(module, kind.__name__, kind)
        (tmp_path / "sets" / kind.__name__).mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "tonic", ModuleType("tonic"))
    monkeypatch.setitem(sys.modules, "tonic.datasets", module)
    return tmp_path / "sets"


@pytest.mark.parametrize(
    ("name", "sizes", "shape"),
    [
        ("Recordings", (36, 4, 10), (2, 4, 5)),
        ("Parted", (36, 4, 10), (2, 4, 5)),
        ("Whole", (29, 3, 8), (2, 4, 5)),
        ("Cochlea", (36, 4, 10), (7,)),
    ],
)
def test_sets_of_tonic(tonic, name, sizes, shape):
    dataset = data.load(f"tonic:{name}", tonic, time_steps=6)
    assert tuple(map(len, parts(dataset))) == sizes
    assert (dataset.name, dataset.classes) == (f"tonic:{name}", ("0", "1"))
    assert (dataset.time_steps, dataset.sample_shape, dataset.sequence) == (6, shape, True)
    if name == "Recordings":
        for row, seed, label in zip(dataset.test.x, range(100, 110), dataset.test.y, strict=True):
            events = random_events(seed, 30, (2, 4, 5))
            assert np.array_equal(row.numpy(), frames(events, by_time(events, 6), 6, (2, 4, 5), spikes=True))
            assert label == seed % 2
    if name == "Cochlea":
        events = random_events(100, 30, (1, 1, 7))
        expected = frames(events, by_time(events, 6), 6, (1, 1, 7), spikes=True)
        assert np.array_equal(dataset.test.x[0].numpy(), expected[:, 0, 0])


def test_spoken_digits_are_evaluated_as_they_were_prepared(samples, tmp_path):
    config = TrainConfig(
        data="spoken-digits", network="5-10", validation=0, choose="last", epochs=1, data_root=samples, runs_dir=tmp_path
    )
    run, _ = training.train(config)
    model = training.load(run)
    test = training.samples_to_test(model, None, samples).split
    assert torch.equal(test.x, training.dataset_of_run(model, config).test.x)
    assert not torch.equal(test.x, data.load("spoken-digits", samples).test.x)


def test_a_set_of_tonic_that_was_fetched_again_is_read_again(tonic):
    (tonic / "Recordings/file").write_text("1")
    data.load("tonic:Recordings", tonic, time_steps=6)
    made = {path.name for path in files.cache_folder().glob("recordings-*.npy")}
    data.load("tonic:Recordings", tonic, time_steps=6)
    assert {path.name for path in files.cache_folder().glob("recordings-*.npy")} == made
    (tonic / "Recordings/file").write_text("12")
    data.load("tonic:Recordings", tonic, time_steps=6)
    assert {path.name for path in files.cache_folder().glob("recordings-*.npy")} > made


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cochleae", "unknown data set of tonic 'Cochleae'; did you mean 'Cochlea'"),
        ("np", "unknown data set of tonic 'np'"),
        ("Uneven", "has recordings of different sizes"),
        ("Unlabelled", "has no class label for each recording"),
        ("Broken", "tonic could not open Broken in .*: no route to host"),
    ],
)
def test_sets_of_tonic_that_cannot_be_used(tonic, name, message):
    with fails(message):
        data.load(f"tonic:{name}", tonic)


def test_tonic_fetches_only_if_asked(tonic, tmp_path):
    with fails("no Parted in .*--data-root DIR, or use --download"):
        data.load("tonic:Parted", tmp_path / "elsewhere")
    assert len(data.load("tonic:Parted", tmp_path / "elsewhere", download=True).test) == 10


def test_nmnist_is_fetched_through_tonic(tonic, tmp_path, monkeypatch):
    fetched = []

    class NMNIST(Recordings):
        def __init__(self, save_to, train=True):
            fetched.append(train)
            if train:
                shutil.copytree(SAMPLES / "NMNIST", Path(save_to) / "NMNIST", dirs_exist_ok=True)

    module = sys.modules["tonic.datasets"]
    module.__all__ = ["NMNIST"]
    monkeypatch.setattr(module, "NMNIST", NMNIST, raising=False)
    for _ in range(2):
        assert len(data.load("nmnist", tmp_path / "new", download=True).test) == 10
    assert fetched == [True, False], "what is there is not fetched again"
    (tmp_path / "new/NMNIST/test.zip").touch()  # as of a fetch that was stopped
    with fails("holds an archive of N-MNIST and a part of its recordings; fetch the rest with --download"):
        data.load("nmnist", tmp_path / "new")
    monkeypatch.setattr("tsslbp.data.nmnist.SIZES", {"Train": 60_000, "Test": 11})
    shutil.rmtree(tmp_path / "new/NMNIST/Train")
    with fails("fetch the rest"):
        data.load("nmnist", tmp_path / "new", download=True)
    assert fetched == [True, False] * 2
    monkeypatch.setattr("tsslbp.data.nmnist.SIZES", {"Train": 20, "Test": 10})
    assert len(data.load("nmnist", tmp_path / "new").test) == 10


def test_tonic_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tonic.datasets", None)
    with fails(r"need a package: pip install 'tsslbp\[events\]'"):
        data.load("tonic:SHD", tmp_path)


# Japanese vowels


def test_vowels_are_the_numbers_in_the_file():
    dataset = data.load("japanese-vowels", SAMPLES, time_steps=30)
    assert dataset.classes == tuple("123456789")
    series = vowels.read_ts(SAMPLES / "TimeSeries/JapaneseVowels_TEST.ts")
    text = (SAMPLES / "TimeSeries/JapaneseVowels_TEST.ts").read_text().splitlines()
    first = text[text.index("@data") + 1].split(":")
    np.testing.assert_allclose(series[0][0][:, 2], np.array(first[2].split(","), np.float32))
    assert series[0][1] == first[-1]
    assert dataset.test.lengths.tolist() == [len(values) for values, _ in series]
    assert [dataset.classes[y] for y in dataset.test.y] == [label for _, label in series]
    np.testing.assert_array_equal(dataset.test.x[3, : len(series[3][0])], series[3][0])


@pytest.mark.parametrize("time_steps", [None, 40])
def test_padding_of_vowels_is_zero_and_outside_of_the_constants(time_steps):
    dataset = data.load("japanese-vowels", SAMPLES, time_steps=time_steps)
    assert dataset.time_steps == (time_steps or max(int(part.lengths.max()) for part in parts(dataset)))
    for part in parts(dataset):
        inside = torch.arange(dataset.time_steps) < part.lengths[:, None]
        assert (part.x[~inside] == 0).all()
        assert (part.x[inside] != 0).any(1).all()
    train = dataset.train
    inside = dataset.normalisation.normalise(train.x)[torch.arange(dataset.time_steps) < train.lengths[:, None]]
    torch.testing.assert_close(inside.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside.std(0, correction=0), torch.ones(12), atol=1e-4, rtol=0)


def test_models_of_built_in_sets_take_files_prepared_as_these(tmp_path, capsys):
    def run(*arguments):
        code = cli.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out.split(" on ")[0], err

    assert {*data.PREPARED} <= {*data.NAMES}
    for name in ("japanese-vowels", "nmnist-stabilised"):
        settings_ = ("--network", "9" if name[0] == "j" else "10", "--epochs", 1, "--runs-dir", tmp_path, "--name", name)
        assert run("train", "--data", name, "--data-root", SAMPLES, *settings_)[0] == 0
    vowels_ = SAMPLES / "TimeSeries/JapaneseVowels_TEST.ts"
    assert run("evaluate", tmp_path / "japanese-vowels", "--all", vowels_) == run(
        "evaluate", tmp_path / "japanese-vowels", "--data-root", SAMPLES
    )
    (tmp_path / "sounds/1").mkdir(parents=True)
    (tmp_path / "sounds/1/one.wav").touch()
    digits = Path(__file__).parent.parent / "models/spoken-digits.safetensors"
    for model, how, folder in (
        (tmp_path / "nmnist-stabilised", "stabilised", SAMPLES / "NMNIST/Test"),
        (digits, "turned into spikes", tmp_path / "sounds"),
    ):
        for command in (
            ("predict", model, folder),
            ("predict", model, next(folder.glob("*/*.*"))),
            ("evaluate", model, "--all", folder),
            ("evaluate", model, "--data", folder),
        ):
            code, out, err = run(*command)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert f"{command[-1]} is not {how}, as the recordings of the training were" in err


def test_time_steps_below_the_longest_vowel():
    with fails("time_steps is 10; the longest utterance of japanese-vowels has 26"):
        data.load("japanese-vowels", SAMPLES, time_steps=10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no .ts file with series after a line @data"),
        ("@problemName x\n1,2:3,4:1\n", "is no .ts file with series"),
        ("@data\n", "is no .ts file with series"),
        ("#\n@data\n1,2:3,4:1\n1,2:3,x:1\n", "line 4, channel 1 is not a series of float32 numbers: it has 'x'"),
        ("@data\n1,2:3:1\n", "line 2 is not a series of numbers of equal length"),
        ("@data\n1,2:3,?:1\n", "line 2, channel 1 has 1 missing values, the first in step 1; fill or remove them"),
        ("@data\n1,2:nan,nan:1\n", "line 2, channel 1 has 2 missing values, the first in step 0"),
        ("@data\n1,2:3,?:1\n1,x:3,4:1\n", "line 2, channel 1 has 1 missing .*; .*line 3, channel 0 is not a series"),
        ("@targetLabel true\n@data\n1,2:0.5\n", r"has numbers to predict \(@targetLabel true\); only classes are learned"),
        ("@timeStamps true\n@data\n(0,2):1\n", "has time stamps, which are not read"),
        ("@data\n1\n", "line 2 is not"),
        ("@data\n1,2:3,4:a\n", "has class a with 2 dimensions, unlike the training file"),
        ("@data\n1,2:3,4:1\n", "has class 1 with 2 dimensions, unlike the training file"),
        (b"\xff\xfe@data", "cannot read .*TEST.ts: .*; fetch it again"),
    ],
)
def test_damaged_series(root, content, message):
    (root / "TimeSeries/JapaneseVowels_TEST.ts").write_bytes(content if isinstance(content, bytes) else content.encode())
    with fails(message):
        data.load("japanese-vowels", root)


# The full sets


@needs_full("FSDD")
def test_full_spoken_digits():
    dataset = data.load("spoken-digits", FULL)
    assert tuple(map(len, parts(dataset))) == (2430, 270, 300)
    assert dataset.test.y.bincount().tolist() == [30] * 10
    assert dataset.validation.y.bincount().tolist() == [27] * 10
    assert 0.08 < float(dataset.train.x.float().mean()) < 0.2
    held_out = data.load("spoken-digits-by-speaker", FULL, time_steps=10)
    assert tuple(map(len, parts(held_out))) == (2250, 250, 500)
    assert held_out.test.y.bincount().tolist() == [50] * 10


@needs_full("TimeSeries-small")
def test_full_japanese_vowels():
    dataset = data.load("japanese-vowels", FULL)
    assert tuple(map(len, parts(dataset))) == (243, 27, 370)
    assert dataset.time_steps == 29
    assert dataset.validation.y.bincount().tolist() == [3] * 9
    lengths = torch.cat([part.lengths for part in parts(dataset)])
    assert (int(lengths.min()), int(lengths.max())) == (7, 29)


@pytest.mark.slow
@needs_full("NMNIST-small")
def test_full_nmnist(tmp_path):
    with tarfile.open(FULL / "NMNIST-small/NMNIST-small.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    dataset = data.load("nmnist", tmp_path)
    assert tuple(map(len, parts(dataset))) == (900, 100, 100)
    assert dataset.train.x.shape[1:] == (30, 2, 34, 34)
    assert 0.03 < float(dataset.test.x.float().mean()) < 0.05
    mnist = data.load("mnist", FULL)
    assert dataset.test.y.tolist() == mnist.test.y[:100].tolist(), "file k is image k - 1"
    sample = data.load("nmnist", SAMPLES)
    assert set(sample.classes) == set(dataset.classes)
