"""A user's own data: preparation that belongs to the model, and the readers of tables and series."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tsslbp import data, training
from tsslbp.errors import UserError
from tsslbp.settings import TrainConfig


def fails(message: str):
    return pytest.raises(UserError, match=message)


def series_npz(path: Path) -> str:
    rng = np.random.default_rng(0)
    x = 150 + 40 * rng.random((20, 6, 3))
    np.savez(path, x=x, y=np.arange(20) % 2)
    return str(path)


def tiny(folder: Path, **settings) -> TrainConfig:
    place = {"runs_dir": folder / "runs", "data": series_npz(folder / "sensor.npz")}
    return TrainConfig(**place, epochs=1, **settings)


def test_the_model_carries_the_normalisation_of_its_training_samples(tmp_path):
    folder, _ = training.train(tiny(tmp_path))
    model = training.load(folder)
    dataset = data.load(str(tmp_path / "sensor.npz"), Path())
    assert model.inputs.normalisation == dataset.normalisation
    x = model.inputs(dataset.train.x)
    assert x.shape == (6, len(dataset.train), 3)
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(3), atol=1e-4, rtol=0)


def test_normalise_none_leaves_values_as_stored(tmp_path):
    folder, _ = training.train(tiny(tmp_path, normalise="none"))
    dataset = data.load(str(tmp_path / "sensor.npz"), Path())
    assert torch.equal(training.load(folder).inputs(dataset.test.x), dataset.test.x.transpose(0, 1))


def test_normalise_none_without_effect_is_refused(tmp_path):
    path = tmp_path / "spikes.npz"
    np.savez(path, x=np.zeros((20, 6, 3), np.uint8), y=np.arange(20) % 2)
    with fails("--normalise none has no effect: spikes is not normalised"):
        training.train(TrainConfig(data=str(path), normalise="none", runs_dir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()
