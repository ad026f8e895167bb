"""The recipes of CONTRIBUTING.md: every diff applies, and does what the page says."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHAPE, SETTING = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
COMPARE = """
import sys, torch, tsslbp
sys.path.insert(0, "tests")
from oracle import psi

rule, current = tsslbp.Surrogate("parabolic", slope=0.7), torch.randn(9, 50)
found = []
for backend in ("cpp", "reference"):
    x = current.clone().requires_grad_()
    tsslbp.lif(x, tau_m=5, tau_s=3, rule=rule, backend=backend).square().sum().backward()
    found.append(x.grad)
torch.testing.assert_close(*found)
one = torch.linspace(-3, 3, 601, dtype=torch.float64, requires_grad=True)
tsslbp.lif(one[None], tau_m=5, tau_s=1, rule=rule, backend="cpp").sum().backward()
torch.testing.assert_close(one.grad, psi("parabolic", 0.7, 1.0, one - 1.0))
"""


@pytest.fixture
def changed(tmp_path):
    """Applies a diff to a copy of the source; gives a function that runs Python there."""

    def change(diff):
        without_builds = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / "src", tmp_path / "src", ignore=without_builds)
        shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
        subprocess.run(["git", "apply"], input=diff, text=True, cwd=tmp_path, check=True)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
        return lambda *command: subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return change


def copy_what_builds(folder):
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)


def test_without_a_compiler_the_package_installs_and_says_what_is_missing(tmp_path):
    copy_what_builds(tmp_path)
    shutil.copytree(ROOT / "src/tsslbp/kernels/csrc", tmp_path / "src/tsslbp/kernels/csrc")
    (tmp_path / "src/tsslbp/__init__.py").touch()
    for place in ("src/tsslbp/kernels", "built/tsslbp/kernels"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "_cpu.abi3.so").write_bytes(b"of older source")
    build = [sys.executable, "setup.py", "build_ext", "--inplace", "build", "--build-lib", "built"]
    environment = {**os.environ, "CC": "false", "CXX": "false"}
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the C++ kernels could not be built, so the slower reference implementation will" in done.stdout + done.stderr
    assert not list(tmp_path.rglob("*.so"))
    library = tmp_path / "src/tsslbp/kernels/_cpu.abi3.so"
    files = [path for path in sorted((ROOT / "src/tsslbp/kernels/csrc").iterdir()) if path.suffix in (".cpp", ".h")]
    library.write_bytes(hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest().encode())  # of this source
    subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert library.exists()
    assert (tmp_path / "built/tsslbp/__init__.py").exists()
    assert not (tmp_path / "built/tsslbp/kernels/csrc").exists()


TRAIN = """
from tsslbp import cli, training
from tsslbp.training.settings import TrainConfig

print(cli.main(["train", "--network", "10", "--momentum", "1"]))
for momentum in (0.5, 0.9):
    training.train(TrainConfig(network="10", epochs=1, momentum=momentum, name=str(momentum)))
"""


def test_a_setting_is_a_field_and_the_line_that_uses_it(changed, tmp_path):
    done = changed(SETTING)("-c", TRAIN)
    assert (done.stdout, done.stderr) == ("2\n", "tsslbp: --momentum is 1.0; it must be at least 0 and below 1\n")
    runs = [tmp_path / "runs" / momentum for momentum in ("0.5", "0.9")]
    assert all(f"\nmomentum = {run.name}\n" in (run / "config.toml").read_text() for run in runs)
    losses = {(run / "metrics.jsonl").read_text().split('"train_loss"')[1].split(",")[0] for run in runs}
    assert len(losses) == 2


@pytest.mark.slow
def test_a_surrogate_shape_is_a_line_in_each_language(changed, tmp_path):
    python = changed(SHAPE)
    copy_what_builds(tmp_path)
    built = python("setup.py", "build_ext", "--inplace")
    assert built.returncode == 0, built.stderr
    compared = python("-c", COMPARE)
    assert compared.returncode == 0, compared.stderr
