"""Figures for notebooks, and what models and runs look like there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tsslbp
from tsslbp import UserError, study, training
from tsslbp.data import load, of_arrays
from tsslbp.data.dataset import AS_STORED
from tsslbp.report import plot

pytestmark = pytest.mark.painted


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("runs")
    config = tsslbp.training.settings.TrainConfig(
        runs_dir=folder, network="30-10", epochs=2, batch_size=100, learning_rate=5e-3, test_every=1
    )
    return training.train(config)[0]


def test_raster_has_a_mark_for_every_spike(run):
    model, x = tsslbp.load(run), load("digits", run).test.x[0]
    spikes, _ = model.response(x[None])
    for sample in (x, x.numpy(), x.tolist()):
        figure = plot.raster(model, sample)
        assert [axes.get_ylabel() for axes in figure.axes] == list(spikes) == ["linear1", "output"]
        for axes, fired in zip(figure.axes, spikes.values(), strict=True):
            marks = {(int(step) - 1, int(neuron)) for step, neuron in axes.collections[0].get_offsets()}
            assert marks == set(map(tuple, fired.nonzero().tolist()))
    assert figure._suptitle.get_text().removeprefix("answer: ") in (*model.classes, "no answer")
    with pytest.raises(UserError, match=r"^x has shape \[1, 1, 8, 8\]; one sample of this model has \[1, 8, 8\]$"):
        plot.raster(model, x[None])
    for wrong, message in (("abc", "x is of type str; give an array"), (x * 1j, "x is complex.*; it must hold real numbers")):
        with pytest.raises(UserError, match=message):
            plot.raster(model, wrong)
    with pytest.raises(UserError, match="length is 3; it must be a whole number from 1"):
        plot.raster(model, x, length="3")
    with pytest.raises(UserError, match=r"^raster draws a model, as tsslbp.load returns it, not a PosixPath$"):
        plot.raster(run, x)


def test_a_single_epoch_is_seen(run):
    for axes in plot.curves(training.history(run)[:1]).axes:
        assert {line.get_marker() for line in axes.lines} == {"."}


def test_a_padded_series_is_drawn_to_its_end(tmp_path):
    x, lengths = np.random.default_rng(0).normal(5, 1, (12, 9, 3)), np.arange(12) % 5 + 5
    dataset = of_arrays(x, np.arange(12) % 2, lengths=lengths, x_test=x, y_test=np.arange(12) % 2, lengths_test=lengths)
    config = tsslbp.training.settings.TrainConfig(runs_dir=tmp_path, network="9-2", epochs=1, choose="last")
    folder, _ = training.train(config, dataset=dataset)
    model = tsslbp.load(folder)
    answers = [model.classes[n] if n >= 0 else None for n in model.answers(dataset.test).tolist()]
    figures = [plot.raster(model, sample, length=int(end)) for sample, end in zip(dataset.test.x, lengths, strict=True)]
    assert [figure._suptitle.get_text() for figure in figures] == [f"answer: {one}" if one else "no answer" for one in answers]
    assert figures[0].axes[0].get_xlim() == (0.5, 5.5)
    for find in (plot.confusion, study.runs.load):
        with pytest.raises(UserError, match="give it as the argument dataset in Python, or save it with numpy"):
            find(folder)
    assert study.runs.load(str(folder), dataset=dataset).test is dataset.test
    (axes,) = plot.confusion(folder, dataset).axes
    assert sum(int(text.get_text()) for text in axes.texts) == 12


def test_a_voltage_without_layers_before_has_no_spikes():
    net = tsslbp.build("2", input_shape=(3,), time_steps=4, tau_m=5, tau_s=3, readout="voltage")
    inputs = training.inputs.Inputs("constant", AS_STORED, 4, sequence=False)
    with pytest.raises(UserError, match="has one layer, read from its voltage, and so no spikes to draw"):
        plot.raster(training.Model(net, inputs, ("a", "b"), ""), torch.zeros(3))


def test_curves_are_those_of_the_records(run):
    history = training.history(run)
    for given in (run, str(run), history):
        loss, accuracy = plot.curves(given).axes
        assert loss.lines[0].get_ydata() == pytest.approx([record["train_loss"] for record in history])
        drawn = {line.get_label(): list(line.get_ydata()) for line in accuracy.lines}
        assert list(drawn) == ["training", "validation", "test"]
        assert drawn["test"] == [record["test_accuracy"] for record in history]
    without = [{**record, "validation_accuracy": None, "test_accuracy": None} for record in history]
    assert [line.get_label() for line in plot.curves(without).axes[1].lines] == ["training"]
    every_other = [{**history[0], "epoch": epoch, "test_accuracy": 90.0 if epoch % 2 else None} for epoch in range(1, 6)]
    test = plot.curves(every_other).axes[1].lines[-1]
    assert (test.get_label(), list(test.get_xdata()), list(test.get_ydata())) == ("test", [1, 3, 5], [90.0] * 3)
    with pytest.raises(UserError, match="no run at"):
        plot.curves(run / "nowhere")
    with pytest.raises(UserError, match="no epoch is finished"):
        plot.curves([])
    for other in (3, ["a"], [{}], training.load(run)):
        with pytest.raises(UserError, match="run must be a run's folder, or a list of the records of its epochs"):
            plot.curves(other)


def test_confusion_counts_every_test_sample(run):
    (axes,) = plot.confusion(run).axes
    counts = [int(text.get_text()) for text in axes.texts]
    assert sum(counts) == 360
    share = axes.images[0].get_array()
    np.testing.assert_allclose(share.sum(1), 1)
    right = sum(int(text.get_text()) for text in axes.texts if len(set(text.get_position())) == 1)
    chosen = training.read_metrics(run)[1]["test_accuracy"]
    assert 100 * right / 360 == pytest.approx(chosen)


def test_only_the_test_set_of_the_run_is_confused(run):
    dataset = load("digits", run)
    scaled = replace(dataset.test, x=dataset.test.x / 2)
    others = {
        r"must be a tsslbp\.data\.Dataset": dataset.test,
        "other test samples": replace(dataset, test=dataset.train),
        "give the run's own data set": replace(dataset, test=scaled),
        r"the classes of dataset are 9, 8, .*; the model's are 0, 1, ": replace(dataset, classes=dataset.classes[::-1]),
    }
    for why, other in others.items():
        with pytest.raises(UserError, match=why):
            plot.confusion(run, other)
        with pytest.raises(UserError, match=why):
            study.runs.load(run, dataset=other)
    assert len(plot.confusion(run, dataset).axes[0].texts) == len(plot.confusion(run).axes[0].texts)


def test_a_notebook_shows_a_figure_without_pyplot(run):
    assert plot.curves(run)._repr_png_().startswith(b"\x89PNG")


def test_records_are_a_list_of_dicts_that_a_table_takes(run):
    history = training.history(run)
    assert [record["epoch"] for record in history] == [1, 2]
    assert len({frozenset(record) for record in history}) == 1


def test_reprs_are_short_and_say_what_there_is(run):
    model = tsslbp.load(run)
    network = "'30-10', rule=tssl, tau_m=5, tau_s=3, 5 steps, 2,220 weights"
    assert repr(model) == f"Model(samples [1, 8, 8] -> 10 classes, {network})"
    assert network in repr(model.network)
    assert "(linear1): Linear(64, 30)" in repr(model.network)
    own = tsslbp.build("5-2", input_shape=(3,), time_steps=1, tau_m=5, tau_s=3, rule=tsslbp.TSSL())
    assert "rule=TSSL, tau_m=5, tau_s=3, 1 step, 25 weights" in repr(own)
    state = training.RunState(history=training.history(run), average=[torch.zeros(1000)])
    assert len(repr(state)) < 100
