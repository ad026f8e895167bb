"""Nothing that a training step does assumes that its tensors are the CPU's."""

from dataclasses import replace

import pytest
import torch

from tsslbp import UserError, encoding, training
from tsslbp.data import Split
from tsslbp.data.augment import crop_and_flip
from tsslbp.training.settings import TrainConfig
from tsslbp.utils import distributed

CASES = {
    "fully connected": {"network": "12-10"},
    "deep": {"network": "4C3n-[4C3n-4C3n]-M2-10b", "padding": (1,)},
    "pooled": {"network": "4C3-P2-10", "rule": "tssl-paper(fallback=quiet)"},
    "recurrent": {"network": "8R-10", "rule": "e-prop"},
    "drawn": {"network": "12-10", "standardise": True, "dropout": 0.2, "encoding": "poisson", "shift": 1},
    "latencies": {"network": "12-10", "encoding": "latency", "rule": "eventprop(clip=8)"},
    "rates in bounds": {"network": "12-10", "rate_penalty": 1.0},
    "no spikes": {"network": "12-10", "neuron": "relu"},
    "sequences of several lengths": {"data": "japanese-vowels", "bin": 2},
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_all_tensors_of_a_step_are_where_the_network_is(case, samples, monkeypatch):
    """On the meta device, which refuses tensors of the CPU beside its own as a GPU does."""
    monkeypatch.setattr(encoding, "_check", lambda x, time_steps: None)  # it looks at values, and there are none
    config, dataset = training.with_data(TrainConfig(**case, data_root=samples, precision="float32"))
    model, optimizer = training.prepare(config, dataset)
    model.network.to("meta")
    few, keys = dataset.train.select(torch.arange(4)), torch.arange(4)
    part = Split(*(x.to("meta") for x in (few.x, few.y, *([] if few.lengths is None else [few.lengths]))))
    x = crop_and_flip(part.x, keys, config.shift, config.flip) if config.shift else part.x
    loop = training.Loop(config, dataset, model, optimizer)
    steps = None if part.lengths is None else model.inputs.lengths(part.lengths)
    output, penalty = loop._output(model.inputs(x, keys, part.lengths), keys, steps)
    (output.sum() if penalty is None else output.sum() + penalty).backward()
    assert output.device.type == "meta"
    assert {weight.grad.device.type for weight in model.network.parameters()} == {"meta"}


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CPU", ""])
def test_devices_that_are_none(name):
    with pytest.raises(UserError, match="is no device; it must be cpu, cuda or cuda:N"):
        TrainConfig(device=name)


def test_a_gpu_that_is_not_there_is_missed_before_training(quick):
    with pytest.raises(UserError, match=r"--device is cuda:99; PyTorch finds \d+ GPUs here"):
        training.train(quick(device="cuda:99"))
    assert distributed.device("cpu") == torch.device("cpu")


def test_processes_do_not_share_a_gpu(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "job", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="is cuda:0, which 2 processes would share; --device cuda gives each its own"):
        distributed.device("cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
@pytest.mark.parametrize("case", [*CASES.values(), {"network": "12-10", "precision": "bfloat16", "accumulate": 2}])
def test_a_gpu_trains_and_resumes(case, quick, samples):
    config = quick(**{"epochs": 3, "data_root": samples, "precision": "float32", **case}, device="cuda", average=0.9)
    training.train(replace(config, epochs=2, name="run"))
    folder, final = training.train(replace(config, name="run", resume=True))
    assert training.load(folder).accuracy(training.with_data(config)[1].test) == pytest.approx(final["test_accuracy"], abs=2)
    first = training.train(replace(config, device="cpu", epochs=1, name="cpu"))[0]
    one, other = (training.read_metrics(run)[0][0]["train_loss"] for run in (folder, first))
    assert one == pytest.approx(other, rel=0.05)
