"""Records of a run for TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsslbp.errors import UserError


def tensorboard() -> Callable[[Path], Callable[[dict[str, Any]], None]]:
    """Logs records to a folder. Raises UserError without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs a package: pip install 'tsslbp[tensorboard]'") from None

    def to(folder: Path) -> Callable[[dict[str, Any]], None]:
        writer = SummaryWriter(str(folder))

        def log(record: dict[str, Any]) -> None:
            for key, value in record.items():
                scalars = {f"{key}/{layer}": one for layer, one in value.items()} if isinstance(value, dict) else {key: value}
                for tag, scalar in scalars.items():
                    if scalar is not None:
                        writer.add_scalar(tag, scalar, record["epoch"])
            writer.flush()

        return log

    return to
