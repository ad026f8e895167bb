"""Records of a run for TensorBoard."""

from typing import Any

from tsslbp.errors import UserError


def writer_class() -> Any:
    """TensorBoard's ``SummaryWriter``. Raises UserError without the package."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs a package: pip install 'tsslbp[tensorboard]'") from None
    return SummaryWriter


def write(writer: Any, record: dict[str, Any]) -> None:
    """Add the numbers of an epoch's record."""
    for key, value in record.items():
        scalars = {f"{key}/{layer}": one for layer, one in value.items()} if isinstance(value, dict) else {key: value}
        for tag, scalar in scalars.items():
            if scalar is not None:
                writer.add_scalar(tag, scalar, record["epoch"])
    writer.flush()
