"""Progress of a training run: a live bar in a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import tsslbp.training as training

PLAIN_EVERY = 30.0
"""Seconds between lines inside an epoch when there is no terminal."""


def watcher() -> training.Progress:
    """The progress display that fits standard error."""
    return Bar() if sys.stderr.isatty() else Lines()


def watch(run: str) -> training.Progress:
    """Says which of many runs begins; shows how it goes."""
    print(run, file=sys.stderr, flush=True)
    return watcher()


@contextlib.contextmanager
def same_command_goes_on() -> Iterator[None]:
    """Around a command of many runs, which an interruption stops; given again, it goes on where it was."""
    try:
        yield
    except training.Interrupted:
        print("stopped; give the same command again to go on", file=sys.stderr)
        raise KeyboardInterrupt from None


def _line(record: dict[str, Any], epochs: int) -> str:
    kind = "test" if record["validation_accuracy"] is None else "validation"
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.4f}"
        f"  train {record['train_accuracy']:.2f} %  {kind} {record[f'{kind}_accuracy']:.2f} %"
        f"  {record['seconds']:.0f} s"
    )


class Lines(training.Progress):
    """One line an epoch, and one every half minute inside long epochs."""

    def prepared(self, lines: list[str]) -> None:
        print("\n".join(lines), file=sys.stderr, flush=True)

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        self.epochs, self.steps, self.last = epochs, steps, time.monotonic()

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        if time.monotonic() - self.last > PLAIN_EVERY:
            self._print(f"epoch {epoch}/{self.epochs}  step {step}/{self.steps}  loss {loss:.4f}  train {accuracy:.2f} %")

    def finished_epoch(self, record: dict[str, Any]) -> None:
        self._print(_line(record, self.epochs))

    def warned(self, message: str) -> None:
        self._print(f"warning: {message}")

    def _print(self, text: str) -> None:
        self.last = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bar(training.Progress):
    """A bar over all steps with loss, accuracy, speed and time left; finished epochs stay above it."""

    def prepared(self, lines: list[str]) -> None:
        print("\n".join(lines), file=sys.stderr, flush=True)

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        self.epochs, self.steps = epochs, steps
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn(
                "loss {task.fields[loss]:.4f}  train {task.fields[accuracy]:.2f} %  {task.fields[speed]:.1f} steps/s  left"
            ),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.began, self.before = time.monotonic(), (first_epoch - 1) * steps
        fields: dict[str, Any] = {"epoch": first_epoch, "loss": 0.0, "accuracy": 0.0, "speed": 0.0}
        self.task = self.bar.add_task("", total=epochs * steps, completed=self.before, **fields)
        self.bar.start()

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        done = (epoch - 1) * self.steps + step
        speed = (done - self.before) / max(time.monotonic() - self.began, 1e-9)
        fields: dict[str, Any] = {"epoch": f"{epoch}/{self.epochs}", "loss": loss, "accuracy": accuracy, "speed": speed}
        self.bar.update(self.task, completed=done, **fields)

    def finished_epoch(self, record: dict[str, Any]) -> None:
        self.bar.console.print(_line(record, self.epochs), highlight=False)

    def warned(self, message: str) -> None:
        self.bar.console.print(f"warning: {message}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()
