"""What several files of tests do the same way."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tsslbp import cli, sparse


def run(capsys, *arguments):
    """Exit code, output and messages of the command line."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def digests_under(capability, module):
    """The instruction set in use and the digests of a module of tests, in a process that may use no higher one than named."""
    program = f"""
import sys; sys.path.insert(0, sys.argv[1])
import torch, {module} as tests
print(tests.cpp.capability(), tests.digest(torch.float32), tests.digest(torch.float64))
"""
    environment = {**os.environ, "TSSLBP_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def map_by_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every map go by changes that can."""
    for name in ("WORK", "OUTPUTS", "HALF_OUTPUTS"):
        monkeypatch.setattr(sparse, name, 0)
    for name in ("FLAT", "CONVOLVED", "HALF"):
        monkeypatch.setattr(sparse, name, sparse.Most(math.inf, 0))
