"""What a training run tells whoever watches. The library stays silent: these methods do nothing by themselves."""

from typing import Any


class Progress:
    """Watches a run. Subclass and override what you need."""

    def prepared(self, lines: list[str]) -> None:
        """A user's own data are read: what was found and what was chosen for them, a line each."""

    def started(self, first_epoch: int, epochs: int, steps: int) -> None:
        """Training starts (or goes on) at ``first_epoch`` of ``epochs``, each ``steps`` long."""

    def stepped(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """A step is done: mean loss per sample and training accuracy (percent) of the epoch so far."""

    def finished_epoch(self, record: dict[str, Any]) -> None:
        """An epoch is done; the record is the one of ``metrics.jsonl``."""

    def warned(self, message: str) -> None:
        """Something looks wrong, in one line; training goes on."""

    def close(self) -> None:
        """No more will come, whatever happened."""
