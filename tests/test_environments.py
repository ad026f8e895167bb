"""The command line in poor surroundings: closed streams, ASCII, no home folder, readers that go away, full disks."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tsslbp
from tsslbp import UserError, cli
from tsslbp.utils import files, machine

TINY = "train quickstart --network 10 --padding 0 --epochs 1 --batch-size 500"
EVERY = [
    TINY,
    "evaluate runs/quickstart",
    "report runs/quickstart",
    "recipes",
    "rules",
    "rules --markdown",
    "doctor --no-measure",
]

PROGRAM = """
import os, sys
from tsslbp import cli
codes = []
for command in sys.argv[2:]:
    exec(sys.argv[1])
    try:
        codes.append(cli.main(command.split()))
    except SystemExit as stop:
        codes.append(stop.code)
with open("codes", "w") as file:  # not on standard output, which is under test
    print(codes, min(file.fileno(), 3), file=file)
"""


def start(
    tmp_path: Path, commands: list[str], before: str = "", redirected: str = "", **environment: str | None
) -> tuple[str, str, str]:
    """Run commands one after the other in one process; what it printed, its complaints, and its exit codes and a descriptor."""
    here = {**os.environ, "PYTHONPATH": str(Path(tsslbp.__file__).parents[1]), **environment}
    here.pop("PYTHONUNBUFFERED", None)  # buffers that are written at the exit are under test, too
    here = {name: value for name, value in here.items() if value is not None}
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-c", PROGRAM]
    done = subprocess.run([*shell, before, *commands], cwd=tmp_path, env=here, capture_output=True, check=True)
    return done.stdout.decode(), done.stderr.decode(), (tmp_path / "codes").read_text().strip()


@pytest.mark.parametrize("redirected", [pytest.param("2>&-", marks=pytest.mark.slow), "0<&- 1>&- 2>&-"])
def test_closed_streams_do_no_harm(redirected, tmp_path):
    out, err, codes = start(tmp_path, [*EVERY, "trian"], redirected=redirected)
    assert codes == f"{[0] * len(EVERY) + [2]} 3", "and no file gets a stream's descriptor"
    assert err == ""
    assert ("report: runs/quickstart/report.html" in out) == (redirected == "2>&-")


NO_HOME = "import pwd; pwd.getpwuid = {}.__getitem__"
NOWHERE = dict.fromkeys(("HOME", "TSSLBP_CACHE", "XDG_CACHE_HOME"))
"""As in a container whose user has no entry."""


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
    ],
    ids=["output", "everything"],
)
def test_what_ascii_lacks_is_replaced_and_no_home_folder_is_needed(environment, tmp_path):
    out, err, codes = start(tmp_path, EVERY, before=NO_HOME, **environment, **NOWHERE)
    assert codes == f"{[0] * len(EVERY)} 3"
    assert "Traceback" not in err
    assert "paper's 99.50 ? 0.02" in out
    assert "takes float32" in out  # as no measurement can be kept
    assert out.isascii()


def test_only_training_waits_until_pytorch_has_imported_its_compiler(samples, tmp_path):
    models = [Path(__file__).parent.parent / f"models/{name}.safetensors" for name in ("mnist-cnn-best", "spoken-digits")]
    commands = [f"evaluate {model} --data-root {samples}" for model in models]
    *_, codes = start(tmp_path, ["recipes", *commands, "rules"], before="assert 'torch._dynamo' not in sys.modules")
    assert codes == "[0, 0, 0, 0] 3"


def test_a_system_without_a_load_trains_all_the_same(monkeypatch):
    def unknown():
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert machine.describe()["load"] == "unknown"
    assert not machine.bfloat16_pays()


def test_a_machine_is_described_with_the_gpu_that_trained(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert machine.lasting(torch.device("cuda:1"))["gpu"] == "GPU 1"
    assert "gpu" not in machine.lasting(torch.device("cpu"))


def test_a_cache_that_has_no_place_says_so(monkeypatch):
    for name in ("HOME", "TSSLBP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(UserError, match="set TSSLBP_CACHE to a folder"):
        files.cache_folder()
    with pytest.raises(UserError, match="set TSSLBP_CACHE to a folder"):
        machine.record_bfloat16({"a": 2.0})
    assert not machine.bfloat16_pays()
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.cache_folder() == Path("/cache/tsslbp")


READER_GONE = "r, w = os.pipe(); os.close(r); os.dup2(w, 1)"
DISK_FULL = "full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1)"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_without_a_reader_is_no_traceback_and_to_a_full_disk_one_line(tmp_path):
    commands = ["rules", "rules --markdown", "cite", "--help", "train --help"]
    full = f"exec({DISK_FULL!r} if len(codes) >= {len(commands)} else {READER_GONE!r})"
    out, err, codes = start(tmp_path, 2 * commands, before=full)
    assert json.loads(codes[:-2]) == [1] * len(commands) + [2] * len(commands)
    assert out == ""
    assert err.splitlines() == ["tsslbp: the output cannot be written, as its disk is full; free space"] * len(commands)


def test_python_m_is_the_command():
    here = {**os.environ, "PYTHONPATH": str(Path(tsslbp.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-m", "tsslbp", "trian"], env=here, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "tsslbp: unknown command 'trian'; did you mean 'train'?\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, a folder where a file is expected, and a file where a folder is."""
    folder = tmp_path_factory.mktemp("place")
    assert cli.main([*TINY.split(), "--runs-dir", str(folder / "runs")]) == 0
    (folder / "plain").touch()
    (folder / "folder.npz").mkdir()
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "train --config folder.npz",
        "train --config /proc/self/mem",
        "train quickstart --data folder.npz",
        "train quickstart --runs-dir plain",
        "train quickstart --runs-dir /proc/nowhere",
        "train mnist-cnn --data-root plain",
        "evaluate plain",
        "evaluate folder.npz",
        "evaluate /proc/self/mem",
        "evaluate runs/quickstart --data folder.npz",
        "predict runs/quickstart folder.npz",
        "predict runs/quickstart /proc/self/mem",
        "report plain",
        "report folder.npz",
        "export plain x.safetensors",
        "export runs/quickstart plain/x.safetensors",
        "export runs/quickstart /proc/x.safetensors",
        "study firing plain",
        "study firing runs/quickstart --out plain",
        "study firing runs/quickstart --out /proc/nowhere",
        "check eventprop-exact --quick --out plain",
        "reproduce mnist-cnn --seeds 1 --data-root plain",
    ],
)
def test_a_path_that_is_not_what_it_should_be_is_one_line(command, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    assert cli.main(command.split()) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("tsslbp: ")
