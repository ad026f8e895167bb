"""This installation of tsslbp against another one: the same training steps, each installation in a process of its own.

The two processes take turns, a few steps at a time and with alternating first one, so that other load on the machine affects
both alike. Each pair gives a ratio of times, this one's over the other's. The result is their median, which is robust to
disturbed turns. For sorted ratios r(1) ≤ ... ≤ r(n),

    r(k) to r(n + 1 - k)        k the 2.5 % quantile of Binomial(n, 1/2)        (1)

is its 95 % confidence interval, for any distribution of the ratios.
"""

import itertools
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tsslbp.utils.errors import UserError
from tsslbp.utils.tables import markdown

TURN = 0.25
"""Approximate seconds of a turn."""
PAIRS = 10
"""Least number of pairs of turns."""
PROGRAM = """
import sys, time
from tsslbp import bench
from tsslbp.utils import machine
from tsslbp.bench.cases import cases
machine.keep_memory()
step = bench.subjects(cases()[sys.argv[1]])["tsslbp"]().step
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        step()
    sys.stdout.write(f"{time.perf_counter() - start}\\n")
    sys.stdout.flush()
"""
"""Program of each process. It only uses names that exist in every release."""
Timed = Callable[[int], float]
"""Seconds of so many calls."""
INSTALLATION = str(Path(__file__).parents[2])
"""Folder of this installation."""


class Runner:
    """An installation that makes steps of a case on demand.

    Args:
        python: its interpreter.
        case: the case's name.
        path: its folder, if its interpreter does not find it. It must not find our files by our ``PYTHONPATH``.
        program: another program that answers a line of numbers with seconds, and its arguments.

    Raises:
        UserError: it cannot be run, or has no such case.
    """

    def __init__(self, python: str, case: str, path: str = "", program: Sequence[str] = ()) -> None:
        self.python, self.case = python, case
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [python, "-P", "-W", "ignore", "-c", *(program or (PROGRAM, case))]
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        except OSError as error:
            raise UserError(
                f"--against is {python}, which cannot be run ({error.strerror}); give a Python interpreter"
            ) from None

    def seconds(self, *asked: int) -> float:
        """Seconds of this many steps, or of what another program is asked for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{' '.join(map(str, asked))}\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (OSError, ValueError):
            _, said = self.process.communicate()
            reason = (said.strip().splitlines() or ["it ended"])[-1]
            raise UserError(f"{self.python} cannot run the case {self.case!r}: {reason}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def against(python: Path, names: Sequence[str], seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Training steps of this installation against another one's, equation (1).

    Args:
        python: the other installation's interpreter.
        names: of the cases (``bench.cases()``).
        seconds: time for each case.
        say: gets a line about progress.

    Returns:
        By case ``ratio``, this one's time over the other's, its interval from ``low`` to ``high``, the number of ``pairs``, and
        the median milliseconds of a step of both, ``ours_ms`` and ``theirs_ms``.

    Raises:
        UserError: the other installation cannot be run, or does not know a case.
    """
    found = {}
    for name in names:
        say(f"{name}: this installation and {python} in turns")
        runners: list[Runner] = []
        try:
            runners += [Runner(sys.executable, name, INSTALLATION), Runner(str(python), name)]
            found[name] = ratio(in_turns(runners[0].seconds, runners[1].seconds, seconds, TURN))
        finally:
            for runner in runners:
                runner.close()
    return found


def in_turns(one: Timed, other: Timed, seconds: float, turn: float) -> list[tuple[float, float]]:
    """Seconds of one call of both, in turns that take about ``turn`` seconds each."""
    for timed in (one, other):
        timed(3)  # warms up
    calls = {timed: max(1, round(turn / (timed(3) / 3))) for timed in (one, other)}
    end = time.perf_counter() + seconds
    pairs: list[tuple[float, float]] = []
    while time.perf_counter() < end or len(pairs) < PAIRS:
        order = (one, other) if len(pairs) % 2 else (other, one)
        taken = {timed: timed(calls[timed]) / calls[timed] for timed in order}
        pairs.append((taken[one], taken[other]))
    return pairs


def ratio(pairs: Sequence[tuple[float, float]], names: tuple[str, str] = ("ours_ms", "theirs_ms")) -> dict[str, Any]:
    """The median of ratios of seconds, with its interval (1), of at least six pairs; and both medians, by name."""
    ratios = sorted(one / other for one, other in pairs)
    n = len(ratios)
    below = itertools.accumulate(math.comb(n, i) for i in range(n + 1))  # of 2^n outcomes
    k = next(i for i, outcomes in enumerate(below) if 40 * outcomes >= 2**n)  # the 2.5 % quantile of a binomial distribution
    return {
        "ratio": statistics.median(ratios),
        "low": ratios[k - 1],
        "high": ratios[-k],
        "pairs": len(ratios),
        **{name: 1000 * statistics.median(side) for name, side in zip(names, zip(*pairs, strict=True), strict=True)},
    }


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = []
    for name, row in found.items():
        times = (f"{row['ours_ms']:.2f}", f"{row['theirs_ms']:.2f}", f"{row['ratio']:.3f}")
        rows.append([name, *times, f"{row['low']:.3f} to {row['high']:.3f}"])
    return markdown(["training step", "ours, ms", "theirs, ms", "ours / theirs", "95 % interval"], rows)
