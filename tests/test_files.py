"""Files are whole or not there, a run's folder is had by one run, and what a file says is checked before it is believed."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tsslbp import UserError, bench, cli, data, training
from tsslbp.data import cache
from tsslbp.data.pictures import opened
from tsslbp.rivals import check
from tsslbp.training import folder as run_folder
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import files, machine


def failing(number: int):
    """A system call that fails."""

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return fail


# Reading.


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "checkpoint.pt", "7.png"])
@pytest.mark.parametrize("lead", [None, "/dev/zero"], ids=["pipe", "device"])
def test_a_pipe_or_device_in_place_of_a_file_is_refused(name, lead, tmp_path):
    """Reading a pipe would wait for ever, and ``/dev/zero`` fills the memory."""
    path = tmp_path / name
    os.mkfifo(path) if lead is None else path.symlink_to(lead)
    read = {
        "config.toml": TrainConfig.from_toml,
        "metrics.jsonl": lambda path: training.read_metrics(path.parent),
        "7.png": lambda path: opened(path, "L"),
    }
    with pytest.raises(UserError, match=r"cannot read .* pipe or device"):
        read.get(name, files.read_bytes)(path)


def test_settings_may_come_from_another_command(tmp_path):
    reader, writer = os.pipe()
    os.write(writer, b"epochs = 7")
    os.close(writer)
    assert TrainConfig.from_toml(Path(f"/dev/fd/{reader}")).epochs == 7
    os.close(reader)


def test_a_lock_follows_no_link_and_waits_for_no_pipe(tmp_path):
    for number, make in enumerate((lambda path: path.symlink_to(tmp_path / "elsewhere"), os.mkfifo)):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / ".lock")
        with files.locked(folder, "wait"):
            assert not (tmp_path / "elsewhere").exists()


# Writing.


def test_a_link_under_the_old_temporary_name_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".file.txt.{os.getpid()}.tmp").symlink_to(victim)
    files.write_text(tmp_path / "file.txt", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "file.txt").is_symlink()


def test_a_link_under_the_very_temporary_name_is_refused(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / ".tsslbp-guessed.tmp").symlink_to(victim)
    with pytest.raises(UserError, match="cannot write"):
        files.write_text(tmp_path / "file.txt", "new")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        files.write_text(tmp_path / "file.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == mode


def test_an_output_file_is_where_its_link_leads_and_nothing_that_is_needed(tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("real", "needed", "run/model"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-needed").symlink_to("needed")
    os.mkfifo(tmp_path / "pipe")
    needed = tmp_path / "needed", tmp_path / "run/model", tmp_path / "run", tmp_path / "missing"
    assert files.output(tmp_path / "link", *needed) == tmp_path / "real"
    assert files.output(tmp_path / "new", *needed) == tmp_path / "new"
    said = {"pipe": "pipe or device", "run": "folder", "to-needed": "file that is still", "run/model": "file that is still"}
    for name, why in said.items():
        with pytest.raises(UserError, match=f"{name} is a {why}.*; choose"):
            files.output(tmp_path / name, *needed)
    assert files.output(tmp_path / "none/new", *needed, makes=True) == tmp_path / "none/new"
    with pytest.raises(UserError, match=r"cannot write .*/none/new: there is no folder .*/none; make it first"):
        files.output(tmp_path / "none/new", *needed)
    with pytest.raises(UserError, match=r"cannot write to .*/real: .*; choose another folder"):
        files.output(tmp_path / "real/new", *needed)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "real", "needed", "link", "to-needed", "pipe"}
    with pytest.raises(UserError, match="/dev/stdout is a pipe or device"):
        files.output(Path("/dev/stdout"))
    with pytest.raises(UserError, match=r"cannot write '\.': it is not the name of a file; choose"):
        files.write_text(Path(), "")


def test_a_name_as_long_as_names_can_be(tmp_path):
    files.write_text(tmp_path / ("x" * 255), "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path):
    (tmp_path / "cache").mkdir()

    def rows():
        yield np.zeros(2, np.uint8)
        raise UserError("the source is damaged")

    with pytest.raises(UserError, match="the source"):
        cache._write(tmp_path / "cache/a.npy", (2, 2), rows())
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
def test_a_new_file_takes_no_place_that_is_taken(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", failing(errno.EPERM))
    for content in (b"first", b"second"):
        try:
            with files.replacing(tmp_path / "file", new=True) as file:
                file.write(content)
        except FileExistsError:
            assert content == b"second"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"first"}


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: bench.save({"machine": {"processor": "x"}, "date": "today"}, folder),
        lambda folder: check.save({"name": "x"}, folder),
    ],
    ids=["bench", "check"],
)
def test_folders_that_cannot_be_made_are_told(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make .*/file/folder: .*; choose another"):
        write(tmp_path / "file/folder")


def test_a_folder_is_checked_without_making_it(tmp_path, monkeypatch):
    """Of two commands that start at once, each would find the other's."""
    monkeypatch.setattr(Path, "mkdir", failing(errno.EEXIST))
    monkeypatch.setattr(Path, "rmdir", failing(errno.ENOENT))
    files.check_folder(tmp_path / "a/b", "choose another --out")
    files.check_folder(tmp_path, "choose another --out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot make .*/file/folder: Not a directory; choose another --out"):
        files.check_folder(tmp_path / "file/folder", "choose another --out")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", failing(errno.EACCES))
    for path, done in ((tmp_path, "write to"), (tmp_path / "a", "make")):
        with pytest.raises(UserError, match=f"cannot {done} {path}: Permission denied; choose another --out"):
            files.check_folder(path, "choose another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# A run's folder.


@pytest.mark.parametrize("left", [(), (".config.toml.123.tmp", ".tsslbp-0123456789abcdef.tmp")], ids=["empty", "left-overs"])
def test_a_start_that_was_killed_leaves_the_folder_free(quick, left):
    config = quick(name="run", epochs=1)
    folder = config.runs_dir / "run"
    folder.mkdir(parents=True)
    for name in left:
        (folder / name).write_text("half")
    with pytest.raises(UserError, match="nothing to resume"):
        training.train(replace(config, resume=True))
    assert training.train(config)[0] == folder
    assert not list(folder.glob(files.TEMPORARY))
    (folder / ".tsslbp-0123456789abcdef.tmp").write_text("half")
    training.train(replace(config, resume=True))
    assert not list(folder.glob(files.TEMPORARY))


def test_a_folder_with_anything_else_is_not_free(quick):
    config = quick(name="run")
    (config.runs_dir / "run").mkdir(parents=True)
    (config.runs_dir / "run/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="exists; choose another --name"):
        training.train(config)
    assert [path.name for path in (config.runs_dir / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["run", None], ids=["named", "numbered"])
def test_of_runs_that_start_at_once_none_shares_a_folder(quick, name):
    config, count = quick(name=name), 8
    together = threading.Barrier(count)

    def start(_number: int) -> Path:
        together.wait()
        return run_folder._started(config)

    with ThreadPoolExecutor(count) as pool:
        starts = [pool.submit(start, number) for number in range(count)]
    folders = [start.result() for start in starts if not start.exception()]
    errors = [str(start.exception()) for start in starts if start.exception()]
    assert all("exists; add --resume" in error for error in errors), errors
    assert len(folders) == len(set(folders)) == (1 if name else count)
    for folder in folders:
        assert TrainConfig.from_toml(folder / "config.toml").name == folder.name
        assert [path.name for path in folder.iterdir()] == ["config.toml"]


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_that_another_process_trains_is_left_alone(quick):
    config = quick(name="run", schedule="constant")
    folder, _ = training.train(config)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert folder / ".lock" not in before
    lock = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught:
            training.train(replace(config, resume=True, epochs=3))
        assert str(caught.value) == f"another process is at work in {folder}; wait for it, stop it, or choose another --name"
        (folder / ".lock").unlink()  # of a lock that its user has deleted nobody is in the way
        with files.locked(folder, ""):
            assert (folder / ".lock").exists()
        other.kill()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (folder / ".lock").write_text("")  # a killed process leaves it behind
    training.train(replace(config, resume=True, epochs=3))
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("missing", ["system", "file system", "permission"])
def test_without_locks_runs_are_trained_all_the_same(quick, monkeypatch, missing):
    if missing == "system":
        monkeypatch.setattr(files, "fcntl", None)
    elif missing == "file system":
        monkeypatch.setattr(files.fcntl, "lockf", failing(errno.ENOLCK))
    else:
        opened, denied = os.open, mock.Mock(side_effect=failing(errno.EACCES))
        monkeypatch.setattr(
            os, "open", lambda path, *a, **k: (denied if str(path).endswith(".lock") else opened)(path, *a, **k)
        )
    folder, _ = training.train(quick(name="run", epochs=1))
    assert not (folder / ".lock").exists()
    assert missing != "permission" or denied.called


def test_a_start_that_fails_leaves_no_folder(quick, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(UserError, match="No space left on device; free space"):
        training.train(quick(name="run"))
    assert not quick().runs_dir.exists()


def test_tensorboard_that_is_missing_leaves_no_folder(quick, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="--tensorboard needs a package"):
        training.train(quick(name="run", tensorboard=True))
    assert not quick().runs_dir.exists()


# Names and numbers.

NAMES = ["", ".", "..", "a/b", "../../evil", "/tmp/evil", "line\nbreak", "\x1b[31mred", "\udcff", "x" * 256, "ü" * 128, "a\0b"]


@pytest.mark.parametrize("setting", ["name", "recipe"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, monkeypatch, capsys, setting, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"--{setting} is .*; it must be") as error:
        TrainConfig(**{setting: name})
    assert str(error.value).isprintable()
    if "\udcff" not in name:
        text = "".join(f"\\u{ord(sign):04x}" for sign in name)
        (tmp_path / "config.toml").write_text(f'{setting} = "{text}"\nruns_dir = "deep/er/runs"')
        assert cli.main(["train", "--config", "config.toml", "--epochs", "1"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"][: "\udcff" not in name]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("name", ["a", "Ünïcode ☃", "we\"ird\\'name", "x" * 255, ".hidden", "-dash"])
def test_a_plain_folder_name_is_taken(name):
    assert TrainConfig(name=name, recipe=name).name == name


@pytest.mark.parametrize("setting", ["data", "network", "rule", "runs_dir", "data_root"])
@pytest.mark.parametrize("text", ["\udcff", "a\0b"], ids=ascii)
def test_text_that_no_file_can_hold_is_refused(setting, text):
    value = Path(text) if setting.endswith(("dir", "root")) else text
    with pytest.raises(UserError, match=f"--{setting.replace('_', '-')} is .*; it must be Unicode text"):
        TrainConfig(**{setting: value})


@pytest.mark.parametrize("setting", ["runs_dir", "init"])
def test_text_is_no_path(setting):
    with pytest.raises(UserError, match=f"^--{setting.replace('_', '-')} is a/b; it must be a pathlib.Path$"):
        TrainConfig(**{setting: "a/b"})


@pytest.mark.parametrize(("value", "write"), [(1, r"\(1,\)"), ([1, 0], r"\(1, 0\)")])
def test_a_number_or_a_list_is_no_tuple(value, write):
    with pytest.raises(UserError, match=f"it must be a tuple: write {write}$"):
        TrainConfig(padding=value)


HUGE = "10000000000000000000000"


@pytest.mark.parametrize(
    "command",
    [
        *(
            f"train quickstart --{flag} {HUGE}"
            for flag in ("epochs", "batch-size", "time-steps", "seed", "shift", "validation")
        ),
        f"train quickstart --padding 0 {HUGE}",
        f"train quickstart --network {HUGE}-10",
        f"train quickstart --network {'9' * 5000}-10",
        f"train quickstart --epochs -{HUGE}",
        f"compare quickstart --seeds {HUGE}",
        f"compare quickstart --seeds 3 --tune-epochs {HUGE}",
        "compare quickstart --seeds 2000000000 --seed 2000000000 --data-root nowhere",
        f"study dynamics quickstart --seeds {HUGE}",
        f"study ablation quickstart --seeds {HUGE}",
        f"study robustness nowhere --seeds {HUGE}",
        f"study fidelity tssl --seeds {HUGE}",
        f"check tempotron --seeds {HUGE}",
        f"reproduce mnist-cnn --seeds {HUGE}",
        "compare quickstart --seeds 0",
        "study dynamics quickstart --seeds -1",
        "train quickstart --epochs 2147483648",
    ],
    ids=lambda command: command[:60],
)
def test_numbers_beyond_all_measure_are_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"tsslbp: --[a-z-]+(: .*)? is .*; .*must .*\n", error)
    assert len(error) < 250
    assert not list(tmp_path.iterdir())


# Settings from a file.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = true", "epochs is True; it must be a whole number"),
        ("epochs = 2.0", "epochs is 2.0; it must be a whole number"),
        ("epochs = 'two'", "epochs is 'two'; it must be a whole number"),
        ('epochs = "2"', "epochs is '2'; it must be a whole number"),
        ("epochs = 0xffffffffffff", "epochs is 281474976710655; it must be a whole number of at most 2147483647"),
        (f"epochs = 0x{'f' * 9000}", "epochs is a number of thousands of digits"),
        (f"epochs = {'9' * 9000}", "not valid TOML"),
        ("epochs = -1", "--epochs is -1; it must be positive"),
        ("tau_m = false", "tau_m is False; it must be a number"),
        (f"tau_m = 0x{'f' * 300}", "tau_m is "),
        ("reset = 1", "reset is 1; it must be true or false"),
        ("loss = 'kernl'", "--loss: unknown loss 'kernl'; did you mean 'kernel'?"),
        ("loss = []\ntarget = 'double'", "unknown setting 'target'"),
        ("loss = 'kernel(desired=1)'\ntarget = 'double'", "unknown setting 'target'"),
        ("loss = []", "loss is []; it must be text"),
        ("data = 3", "data is 3; it must be text"),
        ("runs_dir = 3", "runs_dir is 3; it must be text"),
        ("padding = ['a']", "padding is 'a'; it must be a whole number"),
        ("padding = {a = 1}", "padding is {'a': 1}; it must be a whole number"),
        ("name = 2026-11-26", "name is 2026-11-26; it must be text"),
        ("rule = 'tsl'", "unknown rule 'tsl'; did you mean 'tssl'"),
        ("epoks = 3", "unknown setting 'epoks'; did you mean 'epochs'?"),
        ("[train]\nepochs = 3", "unknown section 'train'; did you mean 'training'"),
        ("epochs = 0\nbatch_size = 0", "--epochs is 0; it must be positive; --batch-size is 0; it must be positive"),
        ("epoks = 3\nbatch_size = 'a'", "'epoks'; did you mean 'epochs'?; batch_size is 'a'; it must be a whole number"),
        (f"padding = {'[' * 5000}{']' * 5000}", "not valid TOML"),
        (b"data = '\xff'", "not valid TOML"),
        (b"\0", "not valid TOML"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else ascii(value),
)
def test_bad_settings_in_a_file_are_one_line(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert cli.main(["train", "--config", "config.toml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tsslbp: config.toml")
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_changes_what_it_names_and_flags_change_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("epochs = 3\ntau_m = 7\npadding = 1\nruns_dir = 'elsewhere'\nvalidation = 5")
    base = TrainConfig(batch_size=7, epochs=9)
    expected = replace(base, epochs=3, tau_m=7.0, padding=(1,), runs_dir=Path("elsewhere"), validation=5)
    assert TrainConfig.from_toml(path, base) == expected


def test_settings_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "config.toml").write_text("\ufeffepochs = 3", encoding="utf-8")
    assert TrainConfig.from_toml(tmp_path / "config.toml").epochs == 3


@pytest.mark.parametrize("command", ["report", "export", "study firing", "train --resume"])
def test_an_altered_config_is_told_by_every_reader(quick, capsys, command, tmp_path):
    folder, _ = training.train(quick(name="run", epochs=1))
    path = folder / "config.toml"
    path.write_text(path.read_text().replace("data_root = ", "data_root = 7 #"))
    more = {"export": [str(tmp_path / "a.safetensors")], "train --resume": ["--runs-dir", str(folder.parent)]}.get(command, [])
    target = ["--name", "run"] if command.startswith("train") else [str(folder)]
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert cli.main([*command.split(), *target, *more]) == 2
    assert f"{path}: data_root is 7; it must be text" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# What else can go wrong in a command.


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "not enough memory (none is left); take a smaller"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:119] .\nDefaultCPUAllocator: can't allocate memory: you tried ..."),
            "can't allocate memory: you tried ...); take a smaller",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[2, 3]"), "not enough memory (Storage size"),
        (RuntimeError('torch_call_dispatcher("aten::new_empty", ...) API call failed'), "not enough memory (none is left)"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
    ],
    ids=["MemoryError", "allocator", "sizes", "kernel", "RecursionError"],
)
def test_what_the_machine_has_too_little_of_is_one_line(monkeypatch, capsys, error, message):
    def fail(arguments):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "train", fail)
    assert cli.main(["train"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("tsslbp: ")
    assert message in told
    assert told.count("\n") == 1


def test_other_errors_of_the_program_are_not_hidden(monkeypatch):
    def fail(arguments):
        raise RuntimeError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "train", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["train"])


def test_a_record_of_bfloat16_that_is_nested_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TSSLBP_CACHE", str(tmp_path))
    for content in ("[" * 100_000, json.dumps({machine._environment(): [2.0]})):
        (tmp_path / "bfloat16.json").write_text(content)
        assert not machine.bfloat16_pays()


def test_links_that_lead_nowhere_are_told(tmp_path):
    for name, target in (("loop", "loop"), ("dangling", "nowhere/x")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(UserError, match=f"cannot make .*{name}: it is a link that leads nowhere; choose another --out"):
            files.check_folder(tmp_path / name, "choose another --out")
    with pytest.raises(UserError, match="loop is a link that leads to itself; remove it, or choose another name"):
        files.output(tmp_path / "loop")


@pytest.mark.parametrize(
    ("name", "read"), [("a.npz", lambda path: data.load(str(path), ".")), ("a.safetensors", training.load)]
)
def test_a_file_that_must_not_be_read_is_not_called_damaged(tmp_path, monkeypatch, name, read):
    def denied(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / name).write_bytes(b"whole")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(UserError, match=f"cannot read .*{name}: Permission denied"):
        read(tmp_path / name)


def test_archives_of_more_entries_than_an_old_directory_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(2**16):
            archive.writestr(str(number), b"")
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert len(files.zip_entries(archive)) == 2**16
