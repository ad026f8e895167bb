"""Pictures in tar files: what is found there, hostile archives, and training as on the same pictures in folders."""

import io
import json
import os
import shutil
import signal
import tarfile
from contextlib import suppress
from dataclasses import replace
from itertools import chain

import pytest
import torch
from shared import StopAt, fails, run
from test_image_folder import PICTURES, drawing, load, same_run, spoil
from torch.utils.data import DataLoader

from tsslbp import UserError, data, training
from tsslbp.data import shards, streamed, tar

CLASSES = ("blue", "green", "red")
FIRST = (PICTURES / "train/red/0.jpg").read_bytes()


def written(path, members):
    """A tar file of names with their contents, or of whole entries."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def sharded(source, target, each=10):
    """The pictures of a folder in shards, in the order of their names, labels by turns as .cls and .json."""
    for part in ("train", "val"):
        members = []
        for number, path in enumerate(sorted((source / part).rglob("*.jpg"))):
            label = CLASSES.index(path.parent.name)
            kind = ("json", json.dumps({"label": label, "width": 8})) if number % 3 == 0 else ("cls", f"{label}\n")
            members.append([(f"./{number:04d}.jpg", path.read_bytes()), (f"./{number:04d}.{kind[0]}", kind[1].encode())])
        for start in range(0, len(members), each):
            written(target / f"some-{part}-{start // each:03d}.tar", chain(*members[start : start + each]))
    return target


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return sharded(PICTURES, tmp_path_factory.mktemp("made") / "shards")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def config(tmp_path, there):
    return drawing(f"webdataset:{there}", tmp_path / "runs")


def loaded(name, root="", validation=None, **how):
    return data.load(f"webdataset:{name}", root, validation=validation, streaming=data.Streaming(**{"workers": 0, **how}))


def test_what_is_found(there):
    dataset, usual = loaded(there), load(PICTURES)
    assert (dataset.classes, dataset.tested_on, dataset.name) == (("0", "1", "2"), "the validation shards", "shards")
    for part, split in dataset.parts.items():
        assert split.streamed
        assert torch.equal(split.x, usual.parts[part].x)
        assert torch.equal(split.y, usual.parts[part].y)
    assert dataset.test.files.name(4) == "some-val-000.tar/0004.jpg"
    assert data.Facts.of(dataset).seen(dataset.train) == (1, False)


def test_the_cache_keeps_what_was_found_until_a_shard_changes(there, tmp_path, monkeypatch):
    copied = shutil.copytree(there, tmp_path / "copied")
    whole = loaded(copied)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_indexed", None)
        again = loaded(copied)
    assert torch.equal(again.train.x, whole.train.x)
    for kept in (tmp_path / "cache").iterdir():
        kept.write_bytes(kept.read_bytes()[:-40])
    assert torch.equal(loaded(copied).train.x, whole.train.x)
    written(copied / "some-val-000.tar", [("a.jpg", FIRST), ("a.cls", b"2")])
    assert len(loaded(copied).test) == 1


@pytest.mark.parametrize(
    "pattern",
    ["shards", "shards/*.tar", "shards/some-{train-{000..002},val-000}.tar", "{shards}/some-{train,val}-00[0-9].tar"],
)
def test_ways_to_name_shards(there, pattern, monkeypatch):
    whole = loaded(there)
    assert torch.equal(loaded(pattern, there.parent).train.x, whole.train.x)  # in the data root
    monkeypatch.chdir(there.parent)
    assert torch.equal(loaded(pattern).train.x, whole.train.x)


def test_a_folder_may_have_brackets_in_its_name(there, tmp_path):
    copied = shutil.copytree(there, tmp_path / "take [1]")
    assert torch.equal(loaded(f"{copied}/some-train-{{000..002}}.tar").train.x, loaded(f"{there}/some-train-*.tar").train.x)


def test_linked_folders_are_followed_and_hidden_files_passed_over(there, tmp_path):
    (tmp_path / "all/.Trash").mkdir(parents=True)
    (tmp_path / "all/more").symlink_to(there)
    shutil.copy(there / "some-val-000.tar", tmp_path / "all/.Trash/some-train-003.tar")
    (tmp_path / "all/._some-train-000.tar").write_bytes(b"as macOS leaves them")
    assert shards.are_at(tmp_path / "all")
    assert torch.equal(loaded(tmp_path / "all").train.x, loaded(there).train.x)


def test_shards_are_read_where_there_are_no_calls_of_unix(there, monkeypatch):
    whole = loaded(there)
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(signal, "SIGCHLD")
    assert [sample.label for sample in tar.samples(there / "some-val-000.tar")] == [
        str(label) for label in whole.test.y.tolist()
    ]
    assert list(streamed._noticed_in_turn(DataLoader([1, 2]))) == [1, 2]


def test_parts_without_one_for_training_are_refused(there, tmp_path):
    for name in ("val.tar", "test.tar"):
        shutil.copy(there / "some-train-000.tar", tmp_path / name)
    with fails("there are shards for test and validation and none for train; add these, or name one part"):
        loaded(tmp_path)
    assert loaded(tmp_path / "val.tar").tested_on == "a held-out fifth"


def test_the_part_that_names_say(there, tmp_path):
    for name, source in (("train/0.tar", "train-000"), ("validation/0.tar", "val-000"), ("test/0.tar", "val-000")):
        (tmp_path / "parts" / name).parent.mkdir(parents=True)
        shutil.copy(there / f"some-{source}.tar", tmp_path / "parts" / name)
    with fails("has class 2; the classes are 0, 1; give these only"):  # the first shard has no more of them
        loaded(tmp_path / "parts")
    shutil.copy(there / "some-train-001.tar", tmp_path / "parts/train/1.tar")
    shutil.copy(there / "some-train-002.tar", tmp_path / "parts/train/2.tar")
    dataset = loaded(tmp_path / "parts")
    assert [len(part) for part in dataset.parts.values()] == [24, 9, 9]
    assert dataset.tested_on == "the test shards"
    shutil.copy(there / "some-train-000.tar", tmp_path / "parts/other.tar")
    with fails("the name of .*other.tar has none of the words train, val and test"):
        loaded(tmp_path / "parts")
    (tmp_path / "plain").mkdir()
    for number in range(3):
        shutil.copy(there / f"some-train-00{number}.tar", tmp_path / f"plain/{number}.tar")
    assert loaded(tmp_path / "plain").tested_on == "a held-out fifth"


def test_training_is_that_on_the_same_pictures_in_folders(config):
    ours, _ = training.train(replace(config, name="ours"))
    theirs, _ = training.train(replace(config, data=f"image-folder:{PICTURES}", name="theirs"))
    left, right = ([{**record, "seconds": 0, "data_wait": 0} for record in training.history(at)] for at in (ours, theirs))
    assert left == right


@pytest.mark.slow
def test_training_goes_on_in_mid_epoch_with_any_workers(config):
    whole, _ = training.train(replace(config, name="whole"))
    with pytest.raises(training.Interrupted):
        training.train(replace(config, name="cut", workers=1), StopAt(2, 2))
    cut, _ = training.train(replace(config, name="cut", workers=2, resume=True))
    assert same_run(whole, cut)


def test_the_command_line(config, there, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(
        capsys, "train", "--data", config.data, "--epochs", "1", "--name", "one", "--workers", "0", "--size", "8"
    )
    assert code == 0, err
    code, out, _ = run(capsys, "evaluate", "runs/one", "--workers", "0")
    assert (code, "on the validation shards, 9 samples\n" in out) == (0, True)
    code, _, err = run(capsys, "evaluate", "runs/one", "--all", str(there / "some-train-{000..002}.tar"), "--workers", "0")
    assert code == 0 or "holds the samples that the model was trained on" in err
    assert run(capsys, "evaluate", "runs/one", "--all", str(there / "some-val-000.tar"), "--workers", "0")[0] == 0
    assert run(capsys, "predict", "runs/one", str(PICTURES / "val/red/1.jpg"), "--workers", "0")[0] == 0
    unlabelled = written(tmp_path / "some.tar", [("a/b.jpg", FIRST), ("c.PNG", FIRST)])
    code, out, err = run(capsys, "predict", "runs/one", str(unlabelled), "--workers", "0", "--out", "answers.csv")
    assert (code, err) == (0, "")
    rows = (tmp_path / "answers.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["some.tar/a/b.jpg", "some.tar/c.PNG"]


def test_broken_pictures(config, there, tmp_path):
    source = shutil.copytree(PICTURES, tmp_path / "pictures")
    spoil(source / "train/green/5.jpg")
    broken = sharded(source, tmp_path / "broken")
    with fails(r"cannot read 0013.jpg in .*some-train-001.tar as an image .* with --skip-broken"):
        loaded(broken)
    dataset = loaded(broken, skip_broken=True)
    assert len(dataset.train) + len(dataset.validation) == 23
    assert "(train) cannot be read and are left out: some-train-001.tar/0013.jpg" in dataset.notes[0]
    path = there / "some-val-000.tar"
    split = loaded(there).test
    moved = shutil.copy(path, tmp_path / "kept.tar")
    try:
        path.write_bytes(path.read_bytes()[:4000])  # while it is in use
        with fails("the file ends before the picture does"):
            _ = split.x
    finally:
        shutil.copy(moved, path)


LABEL = ("a.cls", b"0")
HOSTILE = {
    "absolute": ([("/etc/a.jpg", FIRST)], "'/etc/a.jpg' is no name of a file inside the archive"),
    "above": ([("x/../../a.jpg", FIRST)], "is no name of a file inside the archive"),
    "a name of two lines": ([("a\nb.jpg", FIRST)], r"'a\\nb.jpg' is no name"),
    "symbolic": ([(entry("a.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")], "a.jpg is a link, a device"),
    "hard": ([(entry("a.jpg", type=tarfile.LNKTYPE, linkname="b"), b"")], "a.jpg is a link, a device"),
    "device": ([(entry("a.jpg", type=tarfile.CHRTYPE), b"")], "a.jpg is a link, a device"),
    "sparse": ([(entry("a.jpg", type=tarfile.GNUTYPE_SPARSE), b"")], "a.jpg is a link, a device or a sparse file"),
    "a size below 0": ([(entry("a.jpg", pax_headers={"size": "-512"}), FIRST)], "no whole tar file .*; fetch it again"),
    "no label": ([("a.jpg", FIRST), ("b.jpg", FIRST)], r"a.jpg .*has no label \(2 such pictures\); put KEY.cls"),
    "label far away": ([("a.jpg", FIRST), ("b.jpg", FIRST), LABEL], "a.cls has no picture beside it"),
    "no picture": ([("a.gif", FIRST), LABEL], "a.cls has no picture beside it"),
    "nothing": ([("a.txt", b"")], r"has no pictures for training \(jpg, jpeg, png, webp\)"),
    "two pictures": ([("a.jpg", FIRST), ("a.png", FIRST), LABEL], "a has two files of a kind"),
    "one twice": ([("a.jpg", FIRST), LABEL, LABEL], "a has two files of a kind"),
    "no number": ([("a.jpg", FIRST), ("a.cls", b" ")], "a.cls names no class"),
    "no text": ([("a.jpg", FIRST), ("a.cls", b"\xff")], "a.cls cannot be read"),
    "no JSON": ([("a.jpg", FIRST), ("a.json", b"{")], "a.json cannot be read"),
    "deep JSON": ([("a.jpg", FIRST), ("a.json", b"[" * 100_000)], "a.json cannot be read"),
    "JSON of none": ([("a.jpg", FIRST), ("a.json", b'{"width": 3}')], "a.json names no class; .* cls, label, class, target"),
    "JSON of a list": ([("a.jpg", FIRST), ("a.json", b'{"label": [0]}')], "a.json names no class"),
    "long label": ([("a.jpg", FIRST), ("a.cls", b"1" * (tar.LONGEST + 1))], "a.cls has 1,048,577 bytes"),
    "a dot in the key": ([("v1.003.png", FIRST), ("v1.003.cls", b"0")], "the key of v1.003.png ends at its first dot, as v1;"),
    "a dot beside a key": ([("v1.png", FIRST), ("v1.cls", b"0"), ("v1.3.png", FIRST), ("v1.3.cls", b"0")], "of v1.3.cls ends"),
    "a class on two lines": ([("a.jpg", FIRST), ("a.cls", b"a\nb")], "class name 'a.nb' cannot be printed"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_in_one_line(name, tmp_path, capsys):
    members, message = HOSTILE[name]
    path = written(tmp_path / "a.tar", members)
    with fails(message):
        loaded(path)
    assert run(capsys, "train", "--data", f"webdataset:{path}")[0] == 2


def sized(info, size):
    """A header that claims a size in base 256, as sizes beyond 8 GiB and below 0 are written."""
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("size", [-512, -(2**40), 2**20, 2**40, 2**70])
def test_sizes_are_not_believed(kind, size, tmp_path):
    (tmp_path / "a.tar").write_bytes(sized(entry("a.jpg", type=kind), size) + FIRST + bytes(10_240))
    with fails("a.tar"):
        loaded(tmp_path / "a.tar")


def test_a_large_picture_is_refused_unread(tmp_path):
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(sized(entry("a.jpg"), tar.LARGEST + 512))
        file.truncate(tar.LARGEST + 10_240)  # takes no room
    with fails("a.jpg has 268,435,968 bytes; a picture may have"):
        loaded(tmp_path / "a.tar")


def test_a_cut_off_archive_is_noticed_wherever_it_ends(there, tmp_path):
    whole = (there / "some-train-000.tar").read_bytes()
    ends = next(place for place in range(0, len(whole), 512) if not any(whole[place:]))  # where its last member is over
    for cut in range(0, ends + 1, 256):
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"\A[^\n]*a\.tar[^\n]*(fetch it again|no pictures)[^\n]*\Z"):
            list(tar.samples(tmp_path / "a.tar"))
    (tmp_path / "a.tar").write_bytes(whole[: ends + 512])
    assert len(list(tar.samples(tmp_path / "a.tar"))) == 10
    for place in range(0, ends, 512):
        damaged = bytearray(whole)
        damaged[place + 150] ^= 4  # in the checksum, where this is a header
        (tmp_path / "a.tar").write_bytes(damaged)
        with suppress(UserError):  # if it is not noticed, nothing is missing
            assert len(list(tar.samples(tmp_path / "a.tar"))) == 10


def test_what_is_no_shard(there, tmp_path):
    for name, message in (
        ("", "there are no shards at a path without a name; give webdataset:DIR"),
        ("nowhere-{0..3}.tar", "there are no shards at nowhere-"),
        ("https://some.where/train.tar", "is not on this machine; fetch the shards first"),
        ("pipe:cat x.tar", "is not on this machine"),
        (tmp_path, "has no .tar files"),
        (there / "some-train-{000..004}.tar", "there is no .*some-train-003.tar, nor 1 others of"),
        ("{0..999999}{0..999999}.tar", "stands for more than 100,000 files"),
        ("{0..99999}{0..99999}.tar", "stands for more than 100,000 files"),
        ("{0..1}" * 40, "stands for more than 100,000 files"),
        ("x{5..2}.tar", "there are no shards"),
    ):
        with fails(message):
            loaded(name)
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(entry("a.jpg", size=len(FIRST)), io.BytesIO(FIRST))
    with fails("a.tar is compressed; decompress it first"):
        loaded(tmp_path / "a.tar")
    (tmp_path / "b.tar").write_bytes(FIRST)
    with fails(r"a.tar is compressed.*; .*b.tar is no whole tar file"):
        loaded(tmp_path)


def test_members_that_are_no_samples_are_passed_over(tmp_path):
    folder = entry("x/", type=tarfile.DIRTYPE)
    long = "x/" + "n" * 150
    members = [
        (folder, b""),
        ("README", b"about"),
        ("x/._a.jpg", b"mac"),
        ("x/a.jpg", FIRST),
        ("x/a.txt", b"a"),
        ("x/a.mask.png", FIRST),
        ("x/a.cls", b"one"),
    ]
    members += [("y.meta.json", b"{"), ("y.json", b"[]"), (f"{long}.jpg", FIRST), (f"{long}.cls", b"2.0")]
    found = list(tar.samples(written(tmp_path / "a.tar", members)))
    assert [(sample.name, sample.label) for sample in found] == [("x/a.jpg", "one"), (f"{long}.jpg", "2.0")]
    content = (tmp_path / "a.tar").read_bytes()
    assert all(content[sample.start : sample.start + sample.size] == FIRST for sample in found)


@pytest.mark.parametrize(
    ("labels", "classes"), [(("2.0", "2", "3"), ("2", "3")), (("12e4", "12f4", "3"), ("3", "12e4", "12f4"))]
)
def test_labels_are_whole_numbers_if_all_are_numbers(tmp_path, labels, classes):
    pairs = ([(f"{n}.jpg", FIRST), (f"{n}.cls", labels[n % 3].encode())] for n in range(12))
    assert loaded(written(tmp_path / "a.tar", chain(*pairs))).classes == classes
