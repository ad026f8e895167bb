"""The scikit-learn face: its own checks, and what they leave out."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

from tsslbp import SpikingClassifier, UserError, cli, load

TINY = {"network": "auto", "epochs": 15, "batch_size": 1000, "learning_rate": 0.02, "time_steps": 5, "random_state": 0}


@parametrize_with_checks([SpikingClassifier(**TINY)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)
