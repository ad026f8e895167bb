"""Settings by kind of data, filters that stand for series, first rates, and baselines beside a result."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tsslbp
from tsslbp import cli, data, study, training
from tsslbp.data import Dataset, Normalisation, Split
from tsslbp.data.filters import ORDERS, SHARE, Filters, channels_of, dilations
from tsslbp.network.network import Network
from tsslbp.study.runs import Run
from tsslbp.training import automatic, first_weights
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import UserError

KINDS = {
    "vectors": (60, 4),
    "pictures": (60, 1, 12, 12),
    "series": (60, 50, 2),
    "events": (60, 6, 2, 16, 16),
}


def waves(count: int = 60, steps: int = 50, channels: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw series of three classes, slow, fast and square waves at random phases, and the classes."""
    random = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    phase = torch.rand(count, 1, channels, generator=random) * 6
    angle = torch.arange(steps).view(1, -1, 1) * torch.tensor([0.3, 0.8, 0.3])[y].view(-1, 1, 1) + phase
    x = torch.where(y.view(-1, 1, 1) == 2, angle.sin().sign(), angle.sin())
    return 150 + 40 * (x + 0.2 * torch.randn(x.shape, generator=random)), y


def made(x: torch.Tensor, sequence: bool, lengths: torch.Tensor | None = None) -> Dataset:
    split = Split(x, torch.arange(len(x)) % 3, lengths)
    none = split.select(torch.arange(0))
    return Dataset("made", split, none, split, ("a", "b", "c"), Normalisation(1.0, (0.0,), (1.0,)), sequence)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_every_kind_make_a_model(kind):
    dataset = made(torch.rand(KINDS[kind]), kind in ("series", "events"))
    config = training.resolved(TrainConfig(validation=0, choose="last", **automatic.choose(dataset, {})), dataset)
    model, _ = training.prepare(config, dataset)
    assert model.outputs(dataset.test.x[:5]).shape == (config.time_steps, 5, 3)


def test_what_a_user_gave_is_left_alone():
    dataset = made(torch.rand(KINDS["series"]), True)
    chosen = automatic.choose(dataset, {"epochs": 1, "rule": "tssl"})
    assert chosen["filters"]
    assert "V" in automatic.choose(dataset, {"filters": 50})["network"]
    assert "R" in automatic.choose(dataset, {"filters": 0})["network"]
    assert not {"epochs", "rule"} & chosen.keys()
    assert "filters" not in automatic.choose(dataset, {"network": "5-2"})  # a network of one's own gets the series itself


@pytest.mark.parametrize("kind", ["vectors", "series"])
def test_trained_weights_to_start_from_are_not_scaled(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("own.npz", x=random.normal(size=KINDS[kind]), y=np.arange(60) % 3)
    given = ["train", "--data", "own.npz", "--epochs", "1"]
    assert cli.main([*given, "--name", "first"]) == 0
    start_from_it = ["--init", "runs/first", "--learning-rate", "1e-20", "--weight-decay", "0", "--name", "second"]
    assert cli.main([*given, *start_from_it]) == 0
    capsys.readouterr()
    first, second = (training.load(f"runs/{name}").network.state_dict() for name in ("first", "second"))
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight)


def test_flags_are_judged_beside_the_network_that_is_chosen(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for kind in ("pictures", "series"):
        np.savez(f"{kind}.npz", x=random.normal(size=KINDS[kind]), y=np.arange(60) % 3)
    given = ["train", "--epochs", "1", "--data"]
    assert cli.main([*given, "series.npz", "--dropout", "0.5"]) == 2
    assert capsys.readouterr().err == "tsslbp: --dropout has no effect without a hidden layer in --network\n"
    assert cli.main([*given, "series.npz", "--conv-scale", "2"]) == 2
    assert not (tmp_path / "runs").exists()
    assert cli.main([*given, "pictures.npz", "--conv-scale", "2"]) == 0
    assert TrainConfig.from_toml(tmp_path / "runs/custom/config.toml").conv_scale == 2


def test_spikes_enter_step_by_step():
    spikes = (torch.rand(30, 20, 4) < 0.2).float()
    assert "R" in automatic.choose(made(spikes, True), {})["network"]
    assert "filters" in automatic.choose(made(spikes + 0.5, True), {})


def test_few_samples_are_not_held_out():
    assert not automatic.holds_out(made(torch.rand(30, 4), False))
    assert automatic.holds_out(made(torch.rand(3000, 4), False))


def test_a_run_without_flags(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, y = waves(90)
    np.savez("waves.npz", x=x.numpy(), y=y.numpy())
    assert cli.main(["train", "--data", "waves.npz", "--epochs", "25"]) in (0, None)
    assert "for comparison: most frequent class 33.33 %, 1-NN" in capsys.readouterr().out
    settings = TrainConfig.from_toml(tmp_path / "runs/custom/config.toml")
    assert (settings.filters, settings.epochs, settings.validation) == (automatic.FILTERS, 25, 0)
    _, final = training.read_metrics(tmp_path / "runs/custom")
    assert final is not None
    assert final["choose"] == "last"
    assert final["test_accuracy"] > 80
    assert 0 <= final["nearest_neighbour_accuracy"] <= 100
    assert "For comparison: most frequent class 33.33 %" in (tmp_path / "runs/custom/report.html").read_text()
    model = training.load(tmp_path / "runs/custom")
    samples = training.samples_to_test(model, None, tmp_path).split
    assert model.accuracy(samples) == pytest.approx(final["test_accuracy"])
    replayed = training.with_data(settings)[0]  # a stored run leaves nothing open
    assert replayed == settings


def test_more_filters_than_there_is_memory_for_are_refused():
    with pytest.raises(UserError, match=r"10,000,000,000 filters of 60 series needs .* GiB of memory"):
        Filters.fitted(waves()[0], None, 10**10)


def test_rates_are_whole_numbers_of_spikes_divided_once():
    x, _ = waves(steps=300)
    lengths = torch.arange(60) + 241
    rates = Filters.fitted(x, lengths, 500).rates(x, lengths)
    spikes = (rates * lengths[:, None]).round()
    assert torch.equal(rates, spikes / lengths[:, None])


def test_filters_spike_at_some_steps_of_training_series():
    x, _ = waves()
    filters = Filters.fitted(x, None, 500)
    rates = filters.rates(x)
    assert rates.shape == (60, len(filters.thresholds))
    assert 500 / 2 < len(filters.thresholds) < 2 * 500
    assert float(((rates.mean(0) > 0.01) & (rates.mean(0) < 0.99)).float().mean()) > 0.9
    standardised = filters(x)
    torch.testing.assert_close(standardised.mean(0), torch.zeros(filters.size), atol=2e-3, rtol=0)
    variance = standardised.var(0, correction=0)
    assert float(variance[len(filters.thresholds) :].sum()) == pytest.approx(SHARE * len(filters.thresholds), rel=0.02)


def test_filters_do_not_see_where_the_padding_begins():
    x, _ = waves(7, 30)
    filters = Filters.fitted(x, None, 500)
    series, zeros = x[:, :20] + 3, torch.zeros(7, 10, x.shape[2])
    rates = filters.rates(torch.cat([series, zeros], 1), torch.full((7,), 20))
    torch.testing.assert_close(rates, filters.rates(series), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("view", [0, 1], ids=["values", "differences"])
@pytest.mark.parametrize("dilation", [0, 1])
@pytest.mark.parametrize("channels", [1, 5, 40])
def test_a_filter_is_the_neuron_of_its_equation(channels, dilation, view):
    x, _ = waves(7, 30, channels)
    filters = Filters.fitted(x, None, 500)
    each = len(filters.thresholds) // (2 * len(dilations(30)) * len(ORDERS))
    order = 5
    place = ((view * len(dilations(30)) + dilation) * len(ORDERS) + order) * each
    weight = np.full(9, -1.0)
    weight[list(ORDERS[order])] = 2
    d = dilations(30)[dilation]
    series = x[3].double()
    series = torch.cat([0 * series[:1], series.diff(dim=0)]) if view else series
    padded = np.pad((series @ channels_of(channels, view, d)[order].double()).numpy(), 4 * d)
    sums = [sum(weight[k] * padded[t + d * k] for k in range(9)) for t in range(30)]
    rate = np.mean(np.array(sums) > filters.thresholds[place])
    assert float(filters.rates(x)[3, place]) == pytest.approx(rate, abs=0.04)  # one step may round to the other side
    count = 2 * len(ORDERS)
    level = Filters(9, 1, (0.0,) * count, (0.0,) * (count + 1), (1.0,) * (count + 1))
    assert not level.rates(torch.zeros(1, 9, 1)).any()  # at the threshold is not above it


def test_a_filter_sums_one_channel_as_often_as_two_or_three():
    counts = torch.cat([channels_of(12, view, dilation).sum(1) for view in (0, 1) for dilation in (1, 2, 4, 8)])
    for few in ([1], [2, 3], [4, 5, 6, 7]):
        assert float(torch.isin(counts, torch.tensor(few)).float().mean()) == pytest.approx(1 / math.log2(10), abs=0.06)
    assert int(counts.max()) == 9


def test_padding_changes_no_rate():
    x, _ = waves(12, 40)
    lengths = torch.full((12,), 25)
    filters = Filters.fitted(x, lengths, 500)
    other = torch.cat([x[:, :25], torch.full((12, 15, 2), 1e3)], 1)
    assert torch.equal(filters(x, lengths), filters(other, lengths))


def test_filters_of_many_channels_need_no_copies_of_them(monkeypatch):
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            made = op(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.numbers = max(self.numbers, made.numel())
            return made

    x = torch.rand(10, 30, 100)
    with Largest() as largest:
        Filters.fitted(x, None, 500)
    assert largest.numbers <= 2 * x.numel()
    x, largest.numbers = torch.rand(50, 10, 400), 0
    filters = Filters.fitted(x, None, 300)
    monkeypatch.setattr("tsslbp.data.filters.AT_ONCE", 8 * 400 * 10)
    with largest:
        rates = filters.rates(x)
    assert largest.numbers <= max(rates.numel(), 3 * 8 * 400 * 10)  # padded for the largest dilation
    assert torch.equal(rates[:8], filters.rates(x[:8]))


def test_short_series_and_many_channels():
    for shape in ((6, 3, 1), (6, 20, 40)):
        x = torch.rand(shape)
        filters = Filters.fitted(x, None, 300)
        assert filters(x).isfinite().all()


def test_damaged_filters_are_refused():
    good = Filters.fitted(waves()[0], None, 300)
    for damage in ({"steps": 0}, {"thresholds": ()}, {"thresholds": good.thresholds[:-2]}, {"std": (0.0,) * good.size}):
        with pytest.raises(UserError, match="damaged"):
            Filters(**{**vars_of(good), **damage})


def vars_of(filters: Filters) -> dict:
    return {name: getattr(filters, name) for name in ("steps", "channels", "thresholds", "mean", "std")}


@pytest.mark.parametrize("shape", [(9, 4), (9, 2, 6, 6)])
def test_filters_are_for_series(shape):
    dataset = made(torch.rand(shape), sequence=False)
    with pytest.raises(UserError, match="--filters is for series"):
        training.resolved(TrainConfig(filters=300, validation=0, choose="last"), dataset)


def test_a_model_with_filters_is_stored_whole(tmp_path):
    x, _ = waves()
    dataset = made(x, True, torch.full((60,), 45))
    config = training.resolved(TrainConfig(validation=0, choose="last", **automatic.choose(dataset, {})), dataset)
    model, _ = training.prepare(config, dataset)
    model.save(tmp_path / "model.safetensors")
    loaded = tsslbp.load(tmp_path / "model.safetensors")
    assert loaded.sample_shape == (50, 2)
    assert torch.equal(loaded.outputs(x, dataset.test.lengths), model.outputs(x, dataset.test.lengths))
    with pytest.raises(UserError, match="lengths run from 1 to 51"):
        loaded.outputs(x[:2], torch.tensor([1, 51]))
    with pytest.raises(UserError, match=r"lengths are \[3\]"):
        loaded.outputs(x[:2], torch.tensor([1, 2, 3]))
    ahead, samples = model.filtered(dataset)  # what a run trains on is what the stored model computes
    assert torch.equal(ahead.outputs(samples.test.x), model.outputs(x, dataset.test.lengths))


def test_first_rates_do_not_depend_on_padding():
    x, weights = torch.rand(40, 12, 5), []
    for padding in (0, 30):
        padded = torch.cat([3e-2 * x, torch.zeros(40, padding, 5)], 1)
        dataset = made(padded, True, torch.full((40,), 12))
        config = TrainConfig(network="30-20-3", first_rates=True, validation=0, choose="last", weight_clamp=0)
        config = training.resolved(config, dataset)
        weights.append(list(training.prepare(config, dataset)[0].network.parameters()))
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other)


def test_what_has_no_test_samples_is_refused(tmp_path):
    dataset = made(torch.rand(9, 4), sequence=False)
    config = TrainConfig(network="5-3", validation=0, choose="last", runs_dir=tmp_path)
    with pytest.raises(UserError, match="made has no test samples"):
        training.train(config, dataset=replace(dataset, test=dataset.test.select(torch.arange(0))))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1e-3, 1e3])
@pytest.mark.parametrize("network", ["30-20-3", "20R-3"])
def test_first_rates_are_brought_into_range(size, network):
    dataset = made(size * torch.rand(40, 12, 5), sequence=True)
    config = TrainConfig(network=network, first_rates=True, validation=0, choose="last", weight_clamp=0)
    config = training.resolved(config, dataset)
    drawn, bounded = (
        training.prepare(replace(config, weight_clamp=2.0, first_rates=scaled), dataset)[0].network for scaled in (False, True)
    )
    with torch.no_grad():
        for before, after in zip(drawn.parameters(), bounded.parameters(), strict=True):
            assert after.abs().max() <= max(2, before.abs().max())
    model, _ = training.prepare(config, dataset)
    assert isinstance(model.network, Network)
    *hidden, _ = model.network.activity(model.inputs(dataset.train.x)).values()
    for psc in hidden:
        assert first_weights.LOW <= float(model.network.fired(psc).float().mean()) <= first_weights.HIGH


def test_small_output_weights():
    dataset = made(torch.rand(9, 4), sequence=False)
    settings = {"network": "5-3", "validation": 0, "choose": "last"}
    plain, small = (
        training.prepare(training.resolved(TrainConfig(output_scale=scale, **settings), dataset), dataset)[0].network
        for scale in (1.0, 0.1)
    )
    for (name, weight), other in zip(plain.named_parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(other, weight * (0.1 if "output" in name else 1.0))


def test_latency_of_a_network_behind_filters_takes_padded_series(tmp_path):
    x, y = waves(90)
    dataset = data.of_arrays(x, y, lengths=torch.randint(x.shape[1] // 2, x.shape[1] + 1, (len(x),)))
    config = TrainConfig(network="8-3", filters=84, loss="softmax", time_steps=4, epochs=1)
    run, _ = training.train(replace(config, runs_dir=tmp_path), dataset=dataset)
    model = training.load(run)
    found = study.latency(Run("run", model, dataset.test, {"batch_size": 50, "seed": 0}))
    assert found["accuracy"][-1] == found["exit"]["accuracy"] == model.accuracy(dataset.test)


def test_baselines_and_their_verdict():
    x, _ = waves(60)
    found = training.baselines.baselines(made(x, True))
    assert found["nearest_neighbour_accuracy"] == 100  # tested on the training samples
    assert found["majority_accuracy"] == pytest.approx(100 / 3)
    assert "not better than 1-NN" in training.verdict({**found, "test_accuracy": 50.0})
    assert "not better" not in training.verdict({"majority_accuracy": 30.0, "test_accuracy": 50.0})
    assert training.verdict({"test_accuracy": 50.0}) == ""


def test_baselines_are_not_computed_where_they_take_long(monkeypatch):
    dataset = data.of_arrays(np.random.default_rng(0).random((60, 3)), np.arange(60) % 2)
    for products, fields in ((48 * 3 * (12 + 2 * 200 * 2), 3), (48 * 3 * (12 + 2 * 200 * 2) - 1, 1)):
        monkeypatch.setattr(training.baselines, "PRODUCTS", products)
        assert len(training.baselines.baselines(dataset)) == fields


def test_what_a_user_sets_beside_automatic_settings_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    y = np.arange(30) % 3
    np.savez("vectors.npz", x=random.normal(size=(30, 1)) + y[:, None], y=y)
    np.savez("series.npz", x=random.normal(size=(30, 40, 2)), y=y)
    np.savez("spikes.npz", x=(random.random((30, 15, 12)) < 0.2).astype(np.uint8), y=y)
    np.savez("events.npz", x=(random.random((30, 5, 2, 12, 12)) < 0.1).astype(np.uint8), y=y)
    np.savez("dots.npz", x=random.integers(0, 256, (30, 1, 2, 3)).astype(np.uint8), y=y)
    for arguments in (
        ("series", "--bin", "4"),
        ("vectors", "--neuron", "relu"),
        ("spikes", "--neuron", "relu"),
        ("spikes", "--rule", "eventprop"),
        ("events",),
        ("dots", "--encoding", "latency"),
        ("dots", "--encoding", "poisson"),
    ):
        name, *flags = arguments
        assert cli.main(["train", "--data", f"{name}.npz", "--epochs", "1", *flags]) == 0, arguments
        capsys.readouterr()
    assert cli.main(["train", "--data", "vectors.npz", "--epochs", "1", "--standardise"]) == 2
    assert "Linear: standardise needs two weights or more for each neuron; this layer has one" in capsys.readouterr().err


def test_rates_of_a_series_do_not_depend_on_the_others():
    """Thresholds are sums of training samples, so sums that are rounded differently would fall on either side."""
    x = torch.randn(64, 60, 2, generator=torch.Generator().manual_seed(0))
    found = Filters.fitted(x, None, 3000)
    alone = torch.cat([found.rates(series[None]) for series in x[:8]])
    torch.testing.assert_close(alone, found.rates(x)[:8], rtol=0, atol=1e-6)
