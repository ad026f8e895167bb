"""Reports of a training run. The library stays silent: by default these methods do nothing."""

from typing import Any


class Progress:
    """Watches a run. Subclass and override what you need."""

    def prepared(self, lines: list[str]) -> None:
        """A user's own data are read: lines that say what was found and chosen."""

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        """Training starts (or continues) at ``first_epoch`` of ``epochs``, each ``steps`` long."""

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """A step is done: mean loss per sample and training accuracy (percent) of the epoch so far."""

    def finished_epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; the record is the one of ``metrics.jsonl``."""

    def warned(self, message: str) -> None:
        """Something looks wrong, in one line; training continues."""

    def close(self) -> None:
        """The run has ended, for whatever reason."""
