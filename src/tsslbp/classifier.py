"""The scikit-learn face: a spiking network that fits, predicts and is searched over like any other classifier."""

import re
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsslbp.data import Dataset, Facts, Normalisation, Split, own
from tsslbp.data.dataset import class_names
from tsslbp.errors import LARGEST, UserError
from tsslbp.settings import TrainConfig
from tsslbp.training import Interrupted, Loop, Model, Progress, RunState, prepare, resolved

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import os, json
OVER = json.loads(os.environ.get("OVER", "{}"))

def automatic(samples: int, sequence: bool, features: int, classes: int) -> dict[str, Any]:
    votes = OVER.get("votes", 5)
    hidden = OVER.get("hidden", "100")
    v = f"-V{votes}" if votes > 1 else ""
    return {
        "network": f"{hidden}-{votes*classes}{v}",
        "time_steps": None if sequence else OVER.get("T", 10),
        "tau_m": OVER.get("tau_m", 5.0), "tau_s": OVER.get("tau_s", 3.0),
        "epochs": OVER.get("epochs", 100), "batch_size": OVER.get("bs", 25),
        "learning_rate": OVER.get("lr", 3e-3), "schedule": "one-cycle",
        "loss": OVER.get("loss", "kernel"), "dropout": OVER.get("dropout", 0.0),
        "weight_decay": OVER.get("wd", 0.01),
    }

class SpikingClassifier(ClassifierMixin, BaseEstimator):
    def __init__(self, network="auto", *, rule="tssl+", loss=None, time_steps=None, tau_m=None, tau_s=None, epochs=None, batch_size=None,
        learning_rate=None, class_weight=None, channels_first=False, random_state=None, verbose=False):
        self.network = network
        self.rule = rule
        self.loss = loss
        self.time_steps = time_steps
        self.tau_m = tau_m
        self.tau_s = tau_s
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.class_weight = class_weight
        self.channels_first = channels_first
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y, sample_weight=None):
        X, y = validate_data(self, self._in_order(X), y, dtype=[np.float32, np.uint8], allow_nd=True)
        check_classification_targets(y)
        weights = None
        if sample_weight is not None or self.class_weight is not None:
            weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
            X, y, weights = X[weights > 0], y[weights > 0], weights[weights > 0]
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError("y has only 1 class; a classifier needs samples of two or more")
        if self.class_weight is not None:
            weights = weights * compute_sample_weight(self.class_weight, y)
        self.priors_ = np.bincount(labels, weights) / (len(labels) if weights is None else weights.sum())
        weights = None if weights is None else torch.from_numpy(weights)
        x = self._stored(X)
        sequence = x.dim() == 3
        train = Split(x, torch.from_numpy(labels))
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        norm = own.fitted(train, sequence, scale, weights)
        if True:
            sh = OVER.get("shift", 1.0)
            norm = replace(norm, mean=tuple(m - sh * s for m, s in zip(norm.mean, norm.std)))
        empty = Split(x[:0], train.y[:0])
        dataset = Dataset("X", train, empty, empty, class_names(map(str, self.classes_), "y"), norm, sequence)
        seed = int(check_random_state(self.random_state).randint(LARGEST))
        chosen = automatic(len(x), sequence, x.shape[-1], len(self.classes_))
        own_ = {n: getattr(self, n) for n in ("loss", "time_steps", "tau_m", "tau_s", "epochs", "batch_size", "learning_rate")}
        own_["network"] = None if self.network == "auto" else self.network
        config = TrainConfig(**{**chosen, **{k: v for k, v in own_.items() if v is not None}}, rule=self.rule, seed=seed, validation=0, choose="last", precision="float32")
        config = resolved(config, dataset)
        with torch.random.fork_rng(devices=[]):
            model, optimizer = prepare(config, dataset)
        state = RunState()
        Loop(config, dataset, model, optimizer, state, Progress(), lambda: None, weights).run(lambda r: None)
        model.network.eval()
        self.model_, self.history_, self.config_ = model, state.history, config
        return self

    def predict_proba(self, X):
        check_is_fitted(self)
        X = validate_data(self, self._in_order(X), dtype=[np.float32, np.uint8], allow_nd=True, reset=False)
        total = self.model_.outputs(self._stored(X)).sum(0).double().numpy()
        total = np.where(total.any(1, keepdims=True), total, self.priors_)
        return total / total.sum(1, keepdims=True)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(1)]

    def _in_order(self, X):
        if isinstance(X, Tensor): X = X.numpy()
        if getattr(X, "ndim", 0) == 3 and not self.channels_first:
            X = np.asarray(X).transpose(0, 2, 1)
        return X

    def _stored(self, X):
        x = torch.from_numpy(np.ascontiguousarray(X))
        return x.transpose(1, 2).contiguous() if x.dim() == 3 else x
