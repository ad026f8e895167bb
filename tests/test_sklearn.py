"""The scikit-learn face: scikit-learn's own checks, and what they leave out."""

import importlib
import json
import pickle
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils import estimator_checks, validation

from tsslbp import SpikingClassifier, Surrogate, UserError, cli, data, load, metrics, training
from tsslbp import sklearn as classifier

ROOT = Path(__file__).parent.parent
TINY = SpikingClassifier(epochs=15, batch_size=1000, learning_rate=0.02, time_steps=5, random_state=0)
"""Quick to train. One batch holds everything, without which weights and repeated samples would meet in different batches."""


@estimator_checks.parametrize_with_checks([TINY])  # none is expected to fail
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("loss", ["count(desired=3)", "softmax"])
def test_weights_are_repetitions_under_every_kind_of_loss(loss):
    estimator_checks.check_sample_weight_equivalence_on_dense_data("SpikingClassifier", clone(TINY).set_params(loss=loss))


def test_class_weights_count_in_the_loss_alone():
    x, y = make_classification(60, weights=[0.7], random_state=0)
    plain, weighted = (clone(TINY).set_params(class_weight=weight).fit(x, y) for weight in (None, {0: 1, 1: 3}))
    assert weighted.class_prior_ == pytest.approx(plain.class_prior_)
    means = [each.model_.inputs.normalisation.mean for each in (plain, weighted)]
    assert means[1] == pytest.approx(means[0])
    assert weighted.predict_proba(x)[:, 1].mean() > plain.predict_proba(x)[:, 1].mean()


def test_samples_count_in_everything():
    x, y = make_classification(60, weights=[0.7], random_state=0)
    weighted = clone(TINY).fit(x, y, 1 + 2 * y)
    assert weighted.class_prior_[1] == pytest.approx(3 * y.sum() / (1 + 2 * y).sum())
    assert weighted.model_.inputs.normalisation.mean == pytest.approx(np.average(x, 0, 1 + 2 * y))


@pytest.fixture(scope="module")
def iris():
    """Samples, labels, and a classifier fitted on every second of them."""
    x, y = load_iris(return_X_y=True, as_frame=False)
    return x, y, SpikingClassifier(epochs=20, random_state=0).fit(x[::2], y[::2])


def test_iris_is_learned_with_defaults(iris):
    x, y, classifier = iris
    assert classifier.score(x[1::2], y[1::2]) > 0.8
    assert classifier.config_.network.endswith("-V20")
    assert len(classifier.history_) == 20
    assert 20 <= SpikingClassifier().fit(x, y).config_.epochs <= 100


def test_pipelines_searches_and_copies(iris):
    x, y, classifier = iris
    pipeline = make_pipeline(PolynomialFeatures(include_bias=False), clone(TINY))
    assert cross_val_score(pipeline, x, y, cv=2).mean() > 0.5
    search = GridSearchCV(pipeline, {"spikingclassifier__rule": ["tssl+", "surrogate"]}, cv=2).fit(x, y)
    assert search.best_params_.keys() == {"spikingclassifier__rule"}
    numbers = {"time_steps": np.array([4, 6]), "learning_rate": np.float32([0.5, 1e-3])}  # as NumPy makes them
    assert GridSearchCV(clone(TINY), numbers, cv=2).fit(x, y).best_params_["learning_rate"] > 0
    again = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(again.predict_proba(x), classifier.predict_proba(x))
    np.testing.assert_array_equal(clone(classifier).fit(x[::2], y[::2]).predict_proba(x), classifier.predict_proba(x))


@pytest.fixture
def sequences():
    """Real-valued sequences ``[60, 12, 3]``, the first or the second feature of which is the stronger one."""
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = random.normal(size=(60, 12, 3)).astype(np.float32)
    x[y == 0, :, 0] += 3
    x[y == 1, :, 1] += 3
    return x, np.where(y, "right", "left")


def test_sequences_come_with_steps_or_channels_first(sequences):
    x, y = sequences
    classifier = SpikingClassifier("20-2", epochs=10, random_state=0).fit(x, y)
    assert classifier.score(x, y) > 0.9
    assert classifier.n_features_in_ == 3
    assert classifier.config_.time_steps == 12
    turned = SpikingClassifier("20-2", rule=None, epochs=10, random_state=0, channels_first=True).fit(x.transpose(0, 2, 1), y)
    np.testing.assert_array_equal(turned.predict_proba(x.transpose(0, 2, 1)), classifier.predict_proba(x))
    np.testing.assert_array_equal(classifier.predict(torch.from_numpy(x)), classifier.predict(x.tolist()))
    with pytest.raises(UserError, match=re.escape("X has samples of shape [11, 3]; those of the training had [12, 3]")):
        classifier.predict(x[:, 1:])
    objects = np.empty(len(x), object)
    objects[:] = list(x)
    for given in (tuple(x), objects):
        np.testing.assert_array_equal(classifier.predict(given), classifier.predict(x))
    objects[0] = objects[0][1:]
    for given in (objects, [x[0][1:], *x[1:]]):
        with pytest.raises(UserError, match=r"^X holds sequences of different lengths; all must have the same"):
            classifier.predict(given)
    with pytest.raises(UserError, match=r"^time_steps is 5; the sequences of X have 12$"):
        SpikingClassifier("20-2", time_steps=5).fit(x, y)


def test_spikes_stay_as_they_are_and_bytes_are_scaled(sequences):
    x, y = sequences
    tiny = SpikingClassifier("20-2", epochs=1)
    assert tiny.fit(x > 1, y).model_.inputs.normalisation.std == (1.0,)
    flat = (x[:, 0] > 1).astype(np.uint8) * 255
    assert tiny.fit(flat, y).model_.inputs.normalisation.scale == 255


def test_what_is_chosen_for_sequences_and_what_is_given(sequences):
    x, y = sequences
    classifier = SpikingClassifier(epochs=1, tau_m=7, random_state=0).fit(x, y)
    config = classifier.config_
    assert (config.network, config.loss, config.tau_m, config.epochs) == ("20-V10", "softmax", 7, 1)
    assert config.filters == 2000
    assert classifier.predict(x).shape == (60,)
    assert SpikingClassifier("20R-2", epochs=1).fit(x, y).config_.filters == 0


def test_what_float32_cannot_hold_is_told(sequences):
    x, y = sequences
    tiny = SpikingClassifier("20-2", epochs=1)
    far = x.astype(np.float64)
    far[..., 1] += 1.7e9
    for shaped in (far, far.tolist(), far[:, 0]):
        with pytest.warns(UserWarning, match=r"^feature 1 of X varies so little that float32"):
            tiny.fit(shaped, y)


def test_an_interrupted_fit_is_interrupted(monkeypatch, iris):
    def stopped(*_):
        raise training.Interrupted

    monkeypatch.setattr(training.Loop, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        SpikingClassifier(epochs=1).fit(*iris[:2])


def test_an_interrupted_fit_leaves_the_one_before(monkeypatch, iris):
    def stopped(*_):
        raise training.Interrupted

    x, y, _ = iris
    fitted = clone(TINY).fit(x, y)
    before = fitted.predict(x)
    monkeypatch.setattr(training.Loop, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(x[:100], np.array(["a", "b"])[y[:100]])
    np.testing.assert_array_equal(fitted.predict(x), before)
    assert fitted.class_prior_ == pytest.approx([1 / 3] * 3)


def test_a_fit_that_fails_leaves_the_features_of_the_one_before(iris):
    x, y, _ = iris
    fitted = clone(TINY).set_params(epochs=1).fit(x, y)
    before = fitted.predict(x)
    with pytest.raises(UserError, match="y has only 1 class"):
        fitted.fit(x[:, :3], np.zeros(len(x)))
    np.testing.assert_array_equal(fitted.predict(x), before)
    with pytest.raises(UserError, match="y has only 1 class"):
        (new := clone(TINY)).fit(x, np.zeros(len(x)))
    assert not hasattr(new, "n_features_in_")


def test_columns_of_a_frame_are_found_by_name_in_files(monkeypatch, iris, tmp_path, capsys):
    x, y, _ = iris
    names = np.array(["sl", "sw", "pl", "pw"], dtype=object)
    with monkeypatch.context() as framed:  # as of a DataFrame, without pandas
        framed.setattr(validation, "_get_feature_names", lambda _: names)
        fitted = clone(TINY).fit(x, y)
    fitted.model_.save(tmp_path / "m.safetensors")
    said = []
    for n, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        rows = np.column_stack([x[1::2][:, order], y[1::2]])
        np.savetxt(tmp_path / f"{n}.csv", rows, "%g", ",", header=",".join([*names[order], "label"]), comments="")
        assert cli.main(["evaluate", str(tmp_path / "m.safetensors"), "--all", str(tmp_path / f"{n}.csv")]) == 0
        said.append(capsys.readouterr().out.split(" on all")[0])
    assert said[0] == said[1]
    assert fitted.fit(x, y).model_.facts.columns == ()


def test_classes_that_are_floats_are_those_of_files(iris):
    x, y, _ = iris
    model = clone(TINY).set_params(epochs=1).fit(x, y + 1.0).model_
    assert model.classes == ("1", "2", "3")
    assert clone(TINY).set_params(epochs=1).fit(x, np.array(["1", "1.0", "2"])[y]).model_.classes == ("1", "1.0", "2")


def test_a_fit_goes_to_other_systems_and_says_what_it_was_trained_on(iris):
    stored = pickle.dumps(iris[2])
    assert b"PosixPath" not in stored
    again = pickle.loads(stored)
    assert again.config_ == iris[2].config_
    assert again.config_.data == "python:X"


def test_a_fit_seeds_no_gpu_and_no_generator_of_others(iris, monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded"))
    before = torch.get_rng_state()
    fitted = clone(TINY).set_params(epochs=1).fit(*iris[:2])
    classifier.prepare(fitted.config_, data.of_arrays(*iris[:2]))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_overflows_is_no_answer(iris):
    with pytest.raises(UserError, match="too large for this network, as its output is NaN"):
        iris[2].predict_proba(np.full((1, 4), -3.4e38))


def test_what_pytorch_and_numpy_disagree_on_is_taken(iris, recwarn):
    x, y, _ = iris
    fixed = x.astype(np.float32)
    fixed.flags.writeable = False
    with torch.no_grad():
        fitted = clone(TINY).set_params(epochs=1).fit(fixed, y)
    with torch.inference_mode():
        np.testing.assert_array_equal(clone(TINY).set_params(epochs=1).fit(fixed, y).predict(x), fitted.predict(x))
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]
    halves = torch.from_numpy(x).bfloat16()
    np.testing.assert_array_equal(fitted.predict(halves), fitted.predict(halves.float().numpy()))


def test_fits_in_several_threads_are_those_of_one(monkeypatch, iris):
    """The threads share PyTorch's generator, so none draws from it while another does."""
    meeting, met, prepare = threading.Barrier(2), [], classifier.prepare

    def meet(*given):
        with suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(0.1))
        return prepare(*given)

    x, y, _ = iris
    alone, before = clone(TINY).fit(x, y).predict_proba(x), torch.get_rng_state()
    monkeypatch.setattr(classifier, "prepare", meet)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: clone(TINY).fit(x, y).predict_proba(x), range(2)))
    assert not met
    assert torch.equal(torch.get_rng_state(), before)
    for one in found:
        np.testing.assert_array_equal(one, alone)


def test_an_output_that_never_fires_is_told():
    x = np.ones((40, 4))  # normalised, all is 0
    said = (
        "no output neuron fires for about 100 % of the training samples, so predict gives these the most frequent class; raise "
    )
    with pytest.warns(UserWarning, match=f"{said}epochs or learning_rate, or choose another network"):
        SpikingClassifier("10-2", epochs=1, learning_rate=1e-9, random_state=0).fit(x, np.arange(40) % 2)


def test_a_part_without_an_answer_is_told():
    x = np.random.default_rng(0).normal(size=(40, 4))
    x[:10] = x[10:].mean(0)  # normalised, 0
    with pytest.warns(UserWarning, match=r"no output neuron fires for about (2[5-9]|[3-9]\d) % of the training samples"):
        fitted = SpikingClassifier("20-V10", epochs=20, random_state=0).fit(x, (x[:, 0] > 0).astype(int))
    assert (fitted.predict(x[:10]) == np.bincount((x[:, 0] > 0).astype(int)).argmax()).all()


def test_one_silent_sample_is_no_silent_output(recwarn):
    x, y = load_iris(return_X_y=True)
    x = np.concatenate([x.mean(0, keepdims=True), x])  # normalised, the first is 0 and its neurons are silent
    SpikingClassifier(epochs=5, random_state=0).fit(x, np.concatenate([y[:1], y]))
    assert not [each for each in recwarn if "fires" in str(each.message)]


def test_a_diverging_fit_names_its_own_parameters(monkeypatch):
    def diverging(self, loss):
        raise training.Diverged("training diverged in epoch 1, step 1: the loss is not finite; lower --learning-rate")

    monkeypatch.setattr(training.Loop, "_update", diverging)
    with pytest.raises(UserError, match=r"step 1: .* finite; lower learning_rate, or scale the features"):
        SpikingClassifier("2").fit([[0.0], [1.0]], [0, 1])


def test_the_saved_model_gives_the_same_answers(iris, tmp_path, capsys):
    x, y, classifier = iris
    classifier.model_.save(tmp_path / "iris.safetensors")
    model = load(tmp_path / "iris.safetensors")
    answers = metrics.decode(model.outputs(torch.from_numpy(x).float()))
    given = answers != metrics.NO_ANSWER
    np.testing.assert_array_equal([int(model.classes[answer]) for answer in answers[given]], classifier.predict(x)[given])
    np.savez(tmp_path / "new.npz", x=x[1::2], y=y[1::2])
    assert cli.main(["evaluate", str(tmp_path / "iris.safetensors"), "--all", str(tmp_path / "new.npz")]) == 0
    right = int((answers[1::2] == torch.from_numpy(y[1::2])).sum())
    assert f"({right} of 75;" in capsys.readouterr().out


def test_a_sample_without_an_answer_gets_the_prior(iris):
    x, *_ = iris
    classifier = pickle.loads(pickle.dumps(iris[2]))
    for weight in classifier.model_.network.parameters():
        weight.data.zero_()
    np.testing.assert_array_equal(classifier.predict_proba(x[:2]), [classifier.class_prior_] * 2)


def test_a_fit_leaves_no_files_and_draws_nothing_from_the_global_generator(tmp_path, monkeypatch, iris):
    x, y, _ = iris
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    clone(TINY).fit(x, y)
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(tmp_path.iterdir())


def test_progress_is_ten_lines(iris, capsys):
    x, y, _ = iris
    SpikingClassifier("5-3", epochs=25, verbose=True, random_state=0).fit(x, y)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert len(lines) == 13
    assert re.fullmatch(r"epoch 25/25  loss \d+\.\d{4}  train \d+\.\d\d %  \d+ s", lines[-1])


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"learning_rate": 0}, "^learning_rate is 0; it must be positive$"),
        ({"rule": "tsll"}, "did you mean 'tssl"),
        ({"rule": Surrogate("atan")}, r"^rule is Surrogate\(.*; it must be text$"),
        ({"network": "20-4"}, "^network 20-4 must end with 3, the classes of X$"),
        ({"verbose": "no"}, "^verbose is 'no'; it must be True or False$"),
        ({"channels_first": "x"}, "^channels_first is 'x'; it must be True or False$"),
        ({"epochs": 0, "tau_m": 0}, "tau_m is 0.*; epochs is 0"),
        (
            {"class_weight": {0: 1, 1: -2, 2: 1}},
            "^weights of samples and class_weight must be finite, 0 or more",
        ),
    ],
)
def test_mistakes_name_the_parameter(parameters, said, iris):
    x, y, _ = iris
    with pytest.raises(UserError, match=said):
        SpikingClassifier(**parameters).fit(x, y)


WITHOUT = """
import sys
sys.modules["sklearn"] = sys.modules["matplotlib"] = None
import tsslbp
for name in ("SpikingClassifier", "plot"):
    try:
        getattr(tsslbp, name)
    except tsslbp.UserError as error:
        print(error)
"""


def test_a_missing_package_is_named():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    for line, wanted in zip(done.stdout.splitlines(), ("scikit-learn>=1.6", "matplotlib"), strict=True):
        assert line.endswith(f": pip install '{wanted}'")


def test_table_is_that_of_the_result(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    result = json.loads((ROOT / "benchmarks/results/tables.json").read_text(encoding="utf-8"))
    tables, page = importlib.import_module("tables"), (ROOT / "docs/how-to-scikit-learn.md").read_text(encoding="utf-8")
    assert tables.table(result) in page
    chosen = json.loads((ROOT / "benchmarks/results/tables-choose.json").read_text(encoding="utf-8"))
    assert tables.choices(chosen) in page
    for name, aim in (("iris", 0.93), ("wine", 0.96), ("breast_cancer", 0.955)):
        assert np.mean(result["sets"][name]["tsslbp"]) >= aim


def test_masked_values_are_refused():
    x, y = load_iris(return_X_y=True)
    fitted = clone(TINY).fit(np.ma.array(x), y)
    for use in (lambda: clone(TINY).fit(np.ma.array(x, mask=x > 5), y), lambda: fitted.predict(np.ma.array(x, mask=x > 5))):
        with pytest.raises(UserError, match="X is a masked array; fill what is masked"):
            use()
