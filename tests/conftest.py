"""Shared by all tests: a small data root, a quick configuration, bounded property tests.

It imports what takes long only in fixtures: the process that starts the others runs no tests.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tsslbp.training.settings import TrainConfig

settings.register_profile("bounded", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("bounded")

# One thread for small tensors, as the tests run in two processes, also in programs that tests start: another number may round
# differently. Who sets it is taken at their word; the tests pass with any number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever is cached goes to a folder of the session; programs that tests start inherit it."""
    os.environ["TSSLBP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def undelayed() -> Iterator[None]:
    """No test waits for a disk, which matters only where power may fail, and the digits are read once."""
    import sklearn.datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(sklearn.datasets, "load_digits", functools.cache(sklearn.datasets.load_digits))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def unpainted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not painted, which takes longer than a small training, unless a test looks at them."""
    if "painted" not in request.keywords:
        monkeypatch.setattr("tsslbp.report.figures._painted", lambda figure: "<svg></svg>")


@pytest.fixture
def samples() -> Path:
    """A data root with a few real images of every set."""
    return SAMPLES


@pytest.fixture
def quick(tmp_path: Path) -> Any:
    """Makes settings that train on the digits in about a second, in a folder of their own."""
    from tsslbp.training.settings import TrainConfig

    def make(**changes: Any) -> "TrainConfig":
        defaults: dict[str, Any] = {"runs_dir": tmp_path / "runs", "network": "30-10", "epochs": 2, "batch_size": 100}
        return TrainConfig(**{**defaults, **changes})

    return make
