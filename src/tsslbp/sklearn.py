"""The scikit-learn interface: a spiking network that fits, predicts and can be tuned like any other classifier."""

import copy
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from tsslbp.data import MADE, Dataset, Split, sample_values
from tsslbp.data.dataset import class_names
from tsslbp.data.labels import alike
from tsslbp.metrics.decoding import NO_ANSWER, largest
from tsslbp.training import Diverged, Interrupted, Loop, Progress, RunState, automatic, prepare, resolved, watcher
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import LARGEST, UserError, shown

Array = NDArray[Any]
STORED = [np.float32, np.uint8]
"""Types of stored samples; any other becomes the first."""
SOME = 500
"""Training samples, evenly spread, among which those without an answer are counted."""
MUTE = 0.1
"""Share of samples without an answer from which on ``fit`` warns."""
_DRAWING = threading.Lock()
"""For the thread that draws from PyTorch's generator, which all share."""


class SpikingClassifier(ClassifierMixin, BaseEstimator):
    """A spiking network trained by spike timing, as a scikit-learn classifier.

    It takes vectors ``[N, F]``, which enter as constant currents, and sequences ``[N, T, F]``. Each feature is normalised over
    the training samples, except bytes (``uint8``) and whole numbers from 0 to 15 in sequences, which are spikes or events; the
    normalisation is part of the trained model. Parameters that are None are chosen from the data; see ``config_``.

    Args:
        network: the network in the field's notation, such as ``"100-3"`` or ``"100R-30-V10"``
            (:mod:`tsslbp.network.notation`), which ends with the number of classes; ``"auto"`` chooses one.
        rule: the learning rule, with options in brackets if wanted (``tsslbp rules`` lists them).
        loss: the loss on the output, such as ``"kernel"``, ``"count(desired=5)"`` or ``"softmax"``.
        time_steps: steps T that a vector is shown for. A sequence has its own steps.
        tau_m: membrane time constant in steps, at least 1.
        tau_s: synaptic time constant in steps, at least 1.
        dropout: probability of dropping an input of any layer but the first, from 0 to below 1.
        epochs: passes over the training samples.
        batch_size: samples per step of training.
        learning_rate: peak of AdamW's learning rate, which rises and falls once.
        class_weight: weights of the classes in the loss: a dict by class, ``"balanced"`` to make up for unequal numbers of
            samples, or None for equal weights.
        channels_first: sequences are ``[N, F, T]``, as in aeon and sktime, and not ``[N, T, F]``.
        random_state: seed of initial weights and order of samples.
        verbose: whether training shows its progress.

    Attributes:
        classes_: the classes, sorted, ``[C]``.
        n_features_in_: F.
        model_: the trained :class:`~tsslbp.training.Model`; ``model_.save(path)`` writes a file that ``tsslbp`` reads.
        config_: the settings, including those chosen from the data.
        history_: a record for every epoch: loss, accuracy on the training samples, firing rates by layer.
        class_prior_: share of each class in the training samples, ``[C]``.

    Source: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, for the learning rule ``tssl``, of which ``tssl+`` is a variant.
    """

    def __init__(
        self,
        network: str = "auto",
        *,
        rule: str | None = "tssl+",
        loss: str | None = None,
        time_steps: int | None = None,
        tau_m: float | None = None,
        tau_s: float | None = None,
        dropout: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        class_weight: dict[Any, float] | str | None = None,
        channels_first: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.rule = rule
        self.loss = loss
        self.time_steps = time_steps
        self.tau_m = tau_m
        self.tau_s = tau_s
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.channels_first = channels_first
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803 (scikit-learn's)
        """Train a new network.

        Args:
            X: samples, ``[N, F]``, ``[N, T, F]`` or, with ``channels_first``, ``[N, F, T]``.
            y: their classes ``[N]``, numbers or text.
            sample_weight: how much each sample counts, ``[N]``, 0 or more; None is 1 each.

        Raises:
            UserError: a parameter out of range, fewer than two classes, a training that diverged.
            ValueError: samples, classes or weights that do not fit, as scikit-learn words it.
        """
        with _all_or_nothing(self):
            self._fit(X, y, sample_weight)
        return self

    def predict_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """Each class's share of the output current, ``[N, C]``, which is the confidence of ``tsslbp predict``.

        If no output neuron spikes, there is no answer, and the shares are those of the classes in the training samples.
        """
        check_is_fitted(self)
        sample_values.refuse_masked(X, "X")
        x = _stored(validate_data(self, self._features_second(X), dtype=STORED, allow_nd=True, reset=False))
        if x.shape[1:] != self.model_.sample_shape:
            shapes = [list(shape) for shape in (x.shape[1:], self.model_.sample_shape)]
            raise UserError(f"X has samples of shape {shapes[0]}; those of the training had {shapes[1]}")
        # In float32 the rounding of products, and so a sample's spikes, may depend on the batch.
        network = copy.deepcopy(self.model_.network).double().eval()
        with self.model_.evaluating(Split(x, torch.zeros(len(x)))) as batches:
            total = torch.cat([network(inputs.double()).sum(0) for _, inputs in batches]).numpy()
        if np.isnan(total).any():
            raise UserError("X holds values that are too large for this network, as its output is NaN; remove or scale them")
        total = np.where(total.any(axis=1, keepdims=True), total, self.class_prior_)
        return total / total.sum(1, keepdims=True)

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """The class of every sample, ``[N]``."""
        shares = torch.from_numpy(self.predict_proba(X))
        return self.classes_[largest(shares).numpy()]

    def _fit(self, data: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> None:
        for name in ("verbose", "channels_first"):
            if not isinstance(value := getattr(self, name), int | np.integer | np.bool_):  # verbose is often 0 or 1
                raise UserError(f"{name} is {shown(repr(value))}; it must be True or False")
        sample_values.refuse_masked(data, "X")
        given = self._features_second(data)
        checked: tuple[Array, Array] = validate_data(self, given, y, dtype=STORED, allow_nd=True)
        x, labelled = checked
        for number in sample_values.lost_in_float32(np.asarray(given).swapaxes(1, -1)):
            warnings.warn(sample_values.LOST.format(f"feature {number} of X"), stacklevel=3)
        check_classification_targets(labelled)
        weights = in_loss = None
        if sample_weight is not None or self.class_weight is not None:
            weights = _check_sample_weight(sample_weight, x, ensure_non_negative=True)
            x, labelled, weights = x[weights > 0], labelled[weights > 0], weights[weights > 0]
            in_loss = weights * compute_sample_weight(self.class_weight, labelled)
            if in_loss.size and not (np.isfinite(in_loss).all() and in_loss.min() >= 0 < in_loss.max()):
                raise UserError("weights of samples and class_weight must be finite, 0 or more, and not all 0")
        classes, labels = np.unique(labelled, return_inverse=True)
        names = alike(map(str, classes)) if classes.dtype.kind == "f" else map(str, classes)  # 1.0 is class 1 in files
        if len(classes) < 2:
            raise UserError(f"y has only 1 class, {classes[0]}; give samples of at least two classes")
        prior = np.bincount(labels, weights) / (len(labels) if weights is None else weights.sum())
        counts, terms = (None if each is None else torch.from_numpy(each) for each in (weights, in_loss))
        columns = tuple(getattr(self, "feature_names_in_", ())) if x.ndim == 2 else ()
        dataset = _dataset(_stored(x), torch.from_numpy(labels), class_names(names, "y"), counts, columns)
        with _parameters_named():
            config = resolved(self._config(dataset), dataset)
            with _DRAWING, torch.inference_mode(False):
                model, optimizer = prepare(config, dataset)
                without_filters, samples = model.filtered(dataset)
        state = RunState()
        progress = watcher(every=max(1, config.epochs // 10)) if self.verbose else Progress()
        try:
            with _parameters_named(), torch.inference_mode(False):
                Loop(config, samples, without_filters, optimizer, state, progress, weights=terms).run(lambda record: None)
        except Interrupted:
            raise KeyboardInterrupt from None
        finally:
            progress.close()
        model.network.eval()
        mute = float((without_filters.answers(samples.train.few(SOME)) == NO_ANSWER).double().mean())
        if mute >= MUTE:
            told = (
                f"no output neuron fires for about {100 * mute:.0f} % of the training samples, so predict gives these the most"
            )
            warnings.warn(f"{told} frequent class; raise epochs or learning_rate, or choose another network", stacklevel=3)
        self.classes_, self.class_prior_ = classes, prior  # only now: a fit that fails leaves the one before
        self.model_, self.config_, self.history_ = model, config, state.history

    def _config(self, dataset: Dataset) -> TrainConfig:
        names = ("rule", "loss", "time_steps", "tau_m", "tau_s", "dropout", "epochs", "batch_size", "learning_rate")
        given = {name: getattr(self, name) for name in names} | {"network": None if self.network == "auto" else self.network}
        given = {name: value for name, value in given.items() if value is not None}
        seed = int(check_random_state(self.random_state).randint(LARGEST))
        given["data"] = MADE + dataset.name
        return TrainConfig(
            **given, **automatic.choose(dataset, given), seed=seed, validation=0, choose="last", precision="float32"
        )

    def _features_second(self, x: Any) -> Any:
        """Sequences as ``[N, F, T]``, so that scikit-learn finds features on the second axis."""
        if isinstance(x, Tensor):
            x = sample_values.in_numpy(x)
        if isinstance(x, np.ndarray) and x.dtype.hasobject and x.ndim == 1 and len(x):  # of arrays, one for each sample
            x = list(x)
        try:
            three = (x.ndim if hasattr(x, "ndim") else np.asarray(x).ndim) == 3
        except ValueError:
            raise UserError("X holds sequences of different lengths; all must have the same, so cut or pad them") from None
        return np.swapaxes(x, 1, 2) if three and not self.channels_first else x


def _stored(x: Array) -> Tensor:
    """Samples ``[N, F]`` or ``[N, F, T]`` in a data set's layout, ``[N, F]`` or ``[N, T, F]``."""
    if x.ndim > 3:
        raise UserError(f"X has shape {list(x.shape)}; it must be [N, features] or [N, steps, features]")
    return torch.from_numpy(np.require(np.swapaxes(x, 1, -1), requirements=["C", "W"]))  # PyTorch warns of what is read-only


def _dataset(x: Tensor, labels: Tensor, classes: tuple[str, ...], weights: Tensor | None, columns: tuple[str, ...]) -> Dataset:
    train, none = Split(x, labels), Split(x[:0], labels[:0])
    normalisation = sample_values.fitted(train, x.dim() == 3, sample_values.white(x), weights)
    return Dataset("X", train, none, none, classes, normalisation, sequence=x.dim() == 3, columns=columns)


@contextmanager
def _all_or_nothing(estimator: SpikingClassifier) -> Iterator[None]:
    """A fit that fails inside leaves the features of the one before, which scikit-learn notes before anything else."""
    noted = ("n_features_in_", "feature_names_in_")
    before = {name: value for name, value in vars(estimator).items() if name in noted}
    try:
        yield
    except BaseException:
        estimator.__dict__ = {**{name: x for name, x in vars(estimator).items() if name not in noted}, **before}
        raise


@contextmanager
def _parameters_named() -> Iterator[None]:
    """Inside, errors about settings name parameters instead of command-line flags."""
    try:
        yield
    except Diverged as error:  # nothing is on disk here, and the other settings it names are no parameters
        raise UserError(f"{str(error).split(';')[0]}; lower learning_rate, or scale the features") from None
    except UserError as error:
        raise UserError(re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), str(error))) from None
