"""The records of a run in ``metrics.jsonl``: one for each finished epoch, and a final one when the run has ended."""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tsslbp.data import Dataset
from tsslbp.training.baselines import BASELINES
from tsslbp.training.settings import Choice
from tsslbp.utils import files, imports
from tsslbp.utils.errors import LARGEST, UserError, shown
from tsslbp.utils.fields import FLOAT32_MAX

CONFIG, METRICS = "config.toml", "metrics.jsonl"
Record = dict[str, Any]
Check = Callable[[Any], bool]


def number(low: float = -FLOAT32_MAX, high: float = FLOAT32_MAX) -> Check:
    """Whether a value is a finite number in a range; a bool is no number."""
    return lambda value: type(value) in (int, float) and low <= value <= high


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """Whether a value is an integer in a range."""
    return lambda value: type(value) is int and low <= value <= high


def by_layer(value: Any) -> bool:
    """Whether a value is a number from 0 on for each layer that spikes; there may be none."""
    return isinstance(value, dict) and all(map(number(0), value.values()))


PERCENT = number(0, 100)


def or_none(check: Check) -> Check:
    """Whether a value is None (not measured) or passes a check."""
    return lambda value: value is None or check(value)


PERCENT_OR_NONE = or_none(PERCENT)


def texts(value: Any) -> bool:
    """Whether a value is a dictionary of short texts without control characters."""
    return isinstance(value, dict) and all(isinstance(x, str) and len(x) < 200 and x.isprintable() for x in value.values())


EPOCH: dict[str, Check] = {
    "epoch": whole(1),
    "train_loss": number(),
    "train_accuracy": PERCENT,
    "validation_accuracy": PERCENT_OR_NONE,
    "test_accuracy": PERCENT_OR_NONE,
    "learning_rate": number(0),
    "seconds": number(0),
}
"""Fields of every epoch's record."""
FIRING: dict[str, Check] = {"rates": by_layer, "fallback": by_layer, "multiplied": by_layer}
"""Further fields for spiking networks, optional."""
WAITING: dict[str, Check] = {"data_wait": number(0, 1)}
"""Further field for samples in files: the share of the epoch's training time spent waiting for a batch."""
FINAL: dict[str, Check] = {
    "event": lambda value: value == "final",
    "test_accuracy": PERCENT,
    "best_epoch": whole(1),
    "validation_accuracy": PERCENT_OR_NONE,
    "best_test_accuracy": PERCENT_OR_NONE,
    "best_test_epoch": or_none(whole(1)),
    "epochs": whole(1),
    "seconds": number(0),
}
"""Fields of the final record."""
SAMPLES: dict[str, Check] = {
    "f1": number(0, 1),
    "van_rossum": number(0),
    "choose": lambda value: value in get_args(Choice),
    **dict.fromkeys(("train_samples", "validation_samples", "test_samples"), whole()),
    **dict.fromkeys(BASELINES, PERCENT),
    "machine": texts,
    **dict.fromkeys(("model", "fingerprint"), lambda value: isinstance(value, str)),
}
"""Its optional fields."""


def fault(record: Any, needed: Mapping[str, Check], possible: Mapping[str, Check] | None = None) -> str | None:
    """What is wrong with a record of needed and possible fields; None if nothing is."""
    if not isinstance(record, dict):
        return f"{shown(record)} is no record"
    for key, holds in {**needed, **(possible or {})}.items():
        if key not in record and key in needed:
            return f"it has no {key}"
        if key in record and not holds(record[key]):
            return f"{key} is {shown(record[key])}"
    return None


def history_fault(history: Any, epochs: int | None = None) -> str | None:
    """What is wrong with the records of a run's epochs, which count from 1 (to ``epochs``); None if nothing is."""
    if not isinstance(history, list):
        return f"{shown(history)} is no list of records"
    layers: dict[str, list[str]] = {}
    for expected, record in enumerate(history, 1):
        if wrong := fault(record, EPOCH, FIRING | WAITING):
            return f"line {expected}: {wrong}"
        if record["epoch"] != expected:
            return f"line {expected}: epoch is {record['epoch']}"
        if (record["validation_accuracy"] is None) != (history[0]["validation_accuracy"] is None):
            return f"line {expected}: validation_accuracy is {record['validation_accuracy']}, unlike before"
        for key in FIRING.keys() & record.keys():
            if list(record[key]) != layers.setdefault(key, list(record[key])):
                return f"line {expected}: {key} names other layers than before"
    return None if epochs in (None, len(history)) else f"it holds {len(history)} epochs"


def read(path: Path) -> tuple[list[Record], Record | None]:
    """The epochs' records in a file, and the final one if the run has ended.

    Raises:
        OSError: it cannot be read.
        UserError: a record is not what a run writes.
    """
    found = [_parsed(line) for line in files.content(path).splitlines()]
    final = found.pop() if found and isinstance(found[-1], dict) and found[-1].get("event") == "final" else None
    wrong, count = history_fault(found), len(found)
    if final is not None and not wrong:
        held_out = count and found[0]["validation_accuracy"] is not None
        of_this_run = {
            "epochs": whole(count, count),
            "best_epoch": whole(1, count),
            "best_test_epoch": or_none(whole(1, count)),
        }
        of_this_run |= {"validation_accuracy": PERCENT if held_out else PERCENT_OR_NONE}
        if wrong := fault(final, FINAL | of_this_run, SAMPLES):
            wrong = f"line {count + 1}: {wrong}"
    if wrong:
        raise UserError(f"{path} is damaged ({wrong}); resume the run to write it again, or restore the file")
    return found, final


def _parsed(line: bytes) -> Any:
    """A line's JSON; if it is not JSON, the line itself, which is no record."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def write(path: Path, records: Sequence[Record]) -> None:
    """Write records, one a line. Raises UserError if the file cannot be written."""
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def read_metrics(folder: Path) -> tuple[list[Record], Record | None]:
    """The epochs' records of a run, and its final one if it has ended. Raises UserError for a missing or damaged file."""
    try:
        return read(folder / METRICS)
    except OSError as error:
        raise UserError(f"no run at {folder}: cannot read metrics.jsonl ({error.strerror})") from None


def final_of(folder: Path) -> Record:
    """The final record of a run. Raises UserError if the run has not ended, or its file is missing or damaged."""
    _, final = read_metrics(folder)
    if final is None:
        raise UserError(f"{folder} has not ended; go on with: tsslbp {resuming(folder)}")
    return final


def resuming(folder: str | Path) -> str:
    """Arguments of the command that goes on with a run, as far as this process knows them."""
    return f"train --config {shlex.quote(f'{folder}/{CONFIG}')} --resume{imports.again()}"


def history(folder: str | Path) -> list[Record]:
    """The records of a run's epochs, a dict each, as ``pandas.DataFrame`` takes them.

    Raises UserError for a missing or damaged file.
    """
    return read_metrics(Path(folder))[0]


def chosen(history: Sequence[Record], choose: Choice) -> Record:
    """The epoch that is kept; the last of equally good ones, since schedules lower the learning rate to the end."""
    if choose == "last":
        return history[-1]
    if any(record[f"{choose}_accuracy"] is None for record in history):
        if choose == "test":
            raise UserError("--choose is test; the run began without --test-every 1, so train it again under another --name")
        raise UserError("no sample was held out for validation; --choose must be last or test")
    return max(reversed(history), key=lambda record: record[f"{choose}_accuracy"])


def summary(history: Sequence[Record], dataset: Dataset, choose: Choice, measure: Callable[[], float]) -> Record:
    """The final record of a run with this history.

    Args:
        history: the records of its epochs.
        dataset: what it was trained on.
        choose: how the epoch was chosen.
        measure: measures the test accuracy of that epoch, if its record does not have it.

    Raises:
        UserError: no epoch is finished, or none can be chosen.
    """
    if not history:
        raise UserError("no epoch is finished; resume the run")
    best, best_test = chosen(history, choose), Record()
    if all(record["test_accuracy"] is not None for record in history):
        best_test = chosen(history, "test")
    accuracy = measure() if best["test_accuracy"] is None else best["test_accuracy"]
    return {
        "event": "final",
        **({} if choose == "validation" else {"choose": choose}),
        "test_accuracy": accuracy,
        "best_epoch": best["epoch"],
        "validation_accuracy": best["validation_accuracy"],
        "best_test_accuracy": best_test.get("test_accuracy"),
        "best_test_epoch": best_test.get("epoch"),
        **({"f1": accuracy / 100} if dataset.trains else {}),
        "epochs": len(history),
        "seconds": round(history[-1]["seconds"], 2),
        "train_samples": len(dataset.train),
        "validation_samples": len(dataset.validation),
        "test_samples": len(dataset.test),
    }
