"""Progress of a training run on the screen: a live bar in a terminal, plain lines in notebooks, files and pipes."""

import contextlib
import sys
import time
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichBar

from tsslbp.training.progress import Progress
from tsslbp.utils.errors import visible

PLAIN_EVERY = 30.0
"""Seconds between lines inside an epoch when there is no terminal."""


def watcher(every: int = 1) -> Progress:
    """The progress display that fits standard error: ``training.train(config, watcher())``.

    ``every``: epochs between lines; the last epoch always has one.
    """
    return Bar(every) if sys.stderr is not None and sys.stderr.isatty() else Lines(every)


def _line(record: dict[str, Any], epochs: int) -> str:
    held = next((kind for kind in ("validation", "test") if record[f"{kind}_accuracy"] is not None), None)
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}"
        f"  train {record['train_accuracy']:.2f} %"
        + (f"  {held} {record[f'{held}_accuracy']:.2f} %" if held else "")
        + (f"  waited {100 * record['data_wait']:.0f} % of the time for data" if "data_wait" in record else "")
        + f"  {record['seconds']:.0f} s"
    )


class _Unread:
    """A stream whose reader, disk or terminal may go while the training goes on."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Screen(Progress):
    """Base of the displays: a line for every ``every`` epochs, and for the last."""

    def __init__(self, every: int = 1) -> None:
        self.every = every

    def prepared(self, lines: list[str]) -> None:
        self._print(visible("\n".join(lines)))

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        self.epochs, self.steps = epochs, steps

    def finished_epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] % self.every == 0 or record["epoch"] == self.epochs:
            self._print(_line(record, self.epochs))

    def warned(self, message: str) -> None:
        self._print(visible(f"warning: {message}"))

    def _print(self, text: str) -> None:
        if sys.stderr is not None:  # as under pythonw
            stream = _Unread(sys.stderr)
            stream.write(f"{text}\n")
            stream.flush()


class Lines(_Screen):
    """One line an epoch, and one every half minute inside long epochs."""

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        super().started(first_epoch, epochs, steps)
        self.last = time.monotonic()

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        if time.monotonic() - self.last > PLAIN_EVERY:
            self._print(f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  loss {loss:.4f}  train {accuracy:.2f} %")

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        super()._print(text)


class Bar(_Screen):
    """A bar over all steps with loss, accuracy, speed and time left; finished epochs stay above it."""

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        super().started(first_epoch, epochs, steps)
        self.bar = RichBar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn(
                "loss {task.fields[loss]:.4f}  train {task.fields[accuracy]:.2f} %  {task.fields[speed]:.1f} steps/s  left"
            ),
            TimeRemainingColumn(),
            console=Console(file=cast(IO[str], _Unread(sys.stderr))),
        )
        fields: dict[str, Any] = {"epoch": first_epoch, "loss": 0.0, "accuracy": 0.0, "speed": 0.0}
        self.task = self.bar.add_task("", total=epochs * steps, completed=(first_epoch - 1) * steps, **fields)
        self.bar.start()
        self.first: tuple[float, int] | None = None

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        done = (epoch - 1) * self.steps + step
        self.first = self.first or (time.monotonic(), done)  # a resumed run begins in the middle of an epoch
        began, before = self.first
        speed = (done - before) / max(time.monotonic() - began, 1e-9)
        fields: dict[str, Any] = {"epoch": f"{epoch}/{self.epochs}", "loss": loss, "accuracy": accuracy, "speed": speed}
        self.bar.update(self.task, completed=done, **fields)

    def _print(self, text: str) -> None:
        if hasattr(self, "bar"):
            self.bar.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)
        else:
            super()._print(text)

    def close(self) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()
