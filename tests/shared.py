"""What several files of tests do the same way."""

import hashlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tsslbp import UserError, cli, kernels, training
from tsslbp.kernels import cpp
from tsslbp.layers import sparse

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(not usable, reason=reason))
    for name, (usable, reason) in kernels.backends().items()
    if name != "triton"  # takes no CPU tensors; tests/test_kernels_gpu.py
]
every_backend = pytest.mark.parametrize("backend", BACKENDS)


def run(capsys, *arguments):
    """Exit code, output and messages of the command line."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def fails(message):
    """Expects a UserError whose message is one line that contains this."""
    return pytest.raises(UserError, match=rf"\A[^\n]*(?:{message})[^\n]*\Z")


def assert_same(ours, theirs):
    """In float64, and not because all is 0."""
    assert theirs.abs().max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * theirs.abs().max().item())


def save(path, **arrays):
    """The name of an .npz file with these arrays."""
    np.savez(path, **arrays)
    return str(path)


class StopAt(training.Progress):
    """Ctrl-C after a step."""

    def __init__(self, epoch, step):
        self.at = (epoch, step)

    def stepped(self, epoch, step, loss, accuracy):
        if (epoch, step) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


class Listens(training.Progress):
    """Keeps warnings."""

    def __init__(self):
        self.warnings = []

    def warned(self, message):
        self.warnings.append(message)


def assert_calls_return_or_raise(program, names, calls, least):
    """Calls of these operators, with what the program draws for them, do not end a process. Of each of two seeds some return
    and some raise."""
    program += f"""
for seed in (0, 1):
    draw.seed(seed)
    returned = raised = 0
    for i in range({calls}):
        name = draw.choice({names})
        try:
            getattr(torch.ops.tsslbp, name)(*call(name))
            returned += 1
        except Exception:
            raised += 1
    print(returned, raised)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr[-2000:]}"
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [sum(pair) for pair in counts] == [calls, calls]
    assert min(map(min, counts)) > least, counts


def hash_of(results):
    """A hash of the bits of tensors."""
    return hashlib.sha256(b"".join(x.contiguous().view(torch.uint8).numpy().tobytes() for x in results)).hexdigest()


def digests_under(capability, module):
    """The instruction set in use and the digests of a module of tests, in a process that may use no higher one than named."""
    if capability == "avx2" and cpp.capability() == "baseline":
        pytest.skip("this processor has no AVX2")
    program = f"""
import sys; sys.path.insert(0, sys.argv[1])
import torch, {module} as tests
from tsslbp.kernels import cpp
print(cpp.capability(), tests.digest(torch.float32), tests.digest(torch.float64))
"""
    environment = {**os.environ, "TSSLBP_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def map_by_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every map go by changes that can."""
    for name in ("WORK", "OUTPUTS", "BF16_OUTPUTS"):
        monkeypatch.setattr(sparse, name, 0)
    for name in ("FLAT", "CONVOLVED", "BF16"):
        monkeypatch.setattr(sparse, name, sparse.Most(math.inf, 0))
