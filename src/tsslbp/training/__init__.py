"""Training runs: settings in, a folder with a trained model out."""

from tsslbp.training.loop import Interrupted
from tsslbp.training.model import Model, load
from tsslbp.training.progress import Progress
from tsslbp.training.run import read_metrics, summary, train

__all__ = ["Interrupted", "Model", "Progress", "load", "read_metrics", "summary", "train"]
