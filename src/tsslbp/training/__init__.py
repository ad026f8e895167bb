"""Training runs, from settings to a folder with a trained model."""

from tsslbp.training.baselines import BASELINES, verdict
from tsslbp.training.checkpoint import RunState
from tsslbp.training.evaluation import (
    Samples,
    data_of,
    dataset_of,
    dataset_of_run,
    samples_of_file,
    samples_to_predict,
    samples_to_test,
)
from tsslbp.training.folder import CHECKPOINT, MODEL, ended, files_of
from tsslbp.training.loop import Diverged, Interrupted, Loop
from tsslbp.training.model import Model
from tsslbp.training.preparation import prepare, resolved, with_data
from tsslbp.training.progress import Progress
from tsslbp.training.reading import load
from tsslbp.training.records import CONFIG, METRICS, final_of, history, read_metrics, summary
from tsslbp.training.run import train
from tsslbp.training.stream import Step, Stream
from tsslbp.training.watch import watcher

__all__ = [
    "BASELINES",
    "CHECKPOINT",
    "CONFIG",
    "METRICS",
    "MODEL",
    "Diverged",
    "Interrupted",
    "Loop",
    "Model",
    "Progress",
    "RunState",
    "Samples",
    "Step",
    "Stream",
    "data_of",
    "dataset_of",
    "dataset_of_run",
    "ended",
    "files_of",
    "final_of",
    "history",
    "load",
    "prepare",
    "read_metrics",
    "resolved",
    "samples_of_file",
    "samples_to_predict",
    "samples_to_test",
    "summary",
    "train",
    "verdict",
    "watcher",
    "with_data",
]
