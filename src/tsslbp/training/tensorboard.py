"""Records of a run for TensorBoard."""

from typing import Any

from tsslbp.utils.errors import needed


def writer_class() -> Any:
    """TensorBoard's ``SummaryWriter``. Raises UserError without the package."""
    return needed("torch.utils.tensorboard", "--tensorboard needs a package", "tensorboard").SummaryWriter


def write(writer: Any, record: dict[str, Any]) -> None:
    """Add the numbers of an epoch's record."""
    for key, value in record.items():
        scalars = {f"{key}/{layer}": one for layer, one in value.items()} if isinstance(value, dict) else {key: value}
        for tag, scalar in scalars.items():
            if scalar is not None:
                writer.add_scalar(tag, scalar, record["epoch"])
    writer.flush()
