"""Random changes to training images that keep their label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp import draws
from tsslbp.errors import UserError


def crop_and_flip(x: Tensor, keys: Tensor, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift and mirror each image on its own: zero padding, a random crop of the old size, a flip with probability one half.

    Args:
        x: images as stored, before normalisation, ``[B, C, H, W]``, any type: the border is the stored value 0.
        keys: one for each image, ``[B]`` of int64, which determines its changes (``draws.py``).
        padding: zeros on each side in pixels, which is the largest shift; 0 only flips.
        flip: mirror left and right; wrong for digits and letters.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: ``x`` is not a batch of images, there is not one key for each, ``padding`` is negative.
    """
    if x.dim() != 4:
        raise UserError(f"crop_and_flip takes images [B, channels, height, width]; got shape {list(x.shape)}")
    if keys.shape != x.shape[:1]:
        raise UserError(f"crop_and_flip takes a key for each of {len(x)} images; got shape {list(keys.shape)}")
    if padding < 0:
        raise UserError(f"padding is {padding}; it must be at least 0")
    B, C, H, W = x.shape
    down, right, mirrored = draws.bits(draws.mix(keys.to(x.device), draws.CROP), 3).unsqueeze(2).unbind(1)
    rows = down % (2 * padding + 1) + torch.arange(H, device=x.device)
    columns = torch.arange(W, device=x.device)
    columns = right % (2 * padding + 1) + torch.where((mirrored < 0) & flip, W - 1 - columns, columns)
    pixels = rows[:, :, None] * (W + 2 * padding) + columns[:, None, :]
    padded = F.pad(x, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W)
