"""Model files: safetensors with metadata that describe the network, and a checksum over both."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tsslbp.utils.errors import UserError
from tsslbp.utils.files import write_bytes

METADATA_KEY = "tsslbp"
LONGEST = 2**25
"""Characters of metadata. A table's feature takes up to a hundred: its mean, its standard deviation and its name."""


def write(path: Path, about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a model; the file at ``path`` is replaced whole or not at all.

    Args:
        path: the file.
        about: metadata, JSON values only.
        weights: by name, as they are to be stored; those that share their memory are stored for each name.

    Raises:
        UserError: metadata too long to be read again, or a file that cannot be written.
    """
    weights = {name: weight.detach().cpu().clone(memory_format=torch.contiguous_format) for name, weight in weights.items()}
    about = {**about, "sha256": sha256(about, weights)}
    if len(text := json.dumps(about)) > LONGEST:
        raise UserError(f"{path} would have {len(text):,} characters of metadata, more than {LONGEST:,}; take fewer features")
    write_bytes(path, save(weights, metadata={METADATA_KEY: text}))


def check(weights: Mapping[str, Tensor]) -> None:
    """Raises UserError for weights that a model file does not hold: other than float32, or not finite."""
    for name, weight in weights.items():
        if weight.dtype != torch.float32:
            raise UserError(f"weights {name!r} are {weight.dtype}; a model file holds float32: call float() on the network")
        if not bool(weight.isfinite().all()):
            raise UserError(f"weights {name!r} hold NaN or infinity; a model file holds finite weights")


def sha256(about: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Checksum of metadata and weights."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.contiguous().numpy().data)
    return digest.hexdigest()
