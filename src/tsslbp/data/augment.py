"""Random changes to training images that keep their label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.utils import prng
from tsslbp.utils.errors import UserError


def crop_and_flip(x: Tensor, keys: Tensor, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift and mirror each image on its own: zero padding, a random crop of the old size, a flip with probability one half.

    Args:
        x: images as stored, before normalisation, ``[B, C, H, W]``, any type: the border is the stored value 0.
        keys: one for each image, ``[B]`` of int64, which determines its changes (``prng.py``).
        padding: zeros on each side in pixels, which is the largest shift; 0 only flips.
        flip: mirror left and right; wrong for digits and letters.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: ``x`` is not a batch of images, there is not one key for each, ``padding`` is negative.
    """
    _check("crop_and_flip", x, keys)
    if padding < 0:
        raise UserError(f"padding is {padding}; it must be at least 0")
    B, C, H, W = x.shape
    down, right, mirrored = prng.bits(prng.mix(keys.to(x.device), prng.CROP), 3).unsqueeze(2).unbind(1)
    rows = down % (2 * padding + 1) + torch.arange(H, device=x.device)
    columns = torch.arange(W, device=x.device)
    columns = right % (2 * padding + 1) + torch.where((mirrored < 0) & flip, W - 1 - columns, columns)
    pixels = rows[:, :, None] * (W + 2 * padding) + columns[:, None, :]
    padded = F.pad(x, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W)


def cutout(x: Tensor, keys: Tensor, size: int, colour: Tensor | float = 0) -> Tensor:
    """Replace a square of each image by one colour. Its middle is any pixel, so a part of it may lie outside.

    Source: T. DeVries and G. W. Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017, arXiv
    1708.04552.

    Args:
        x: images as stored, before normalisation, ``[B, C, H, W]``, any type.
        keys: one for each image, ``[B]`` of int64, which determines its square (``prng.py``).
        size: of the square in pixels; 0 changes nothing.
        colour: the stored value to put there, or one for each channel, ``[C]``; in the paper the mean of the data.

    Returns:
        Images of the same shape and type.

    Raises:
        UserError: ``x`` is not a batch of images, there is not one key for each, ``size`` is negative.
    """
    _check("cutout", x, keys)
    if size < 0:
        raise UserError(f"size is {size}; it must be at least 0")
    middles = prng.bits(prng.mix(keys.to(x.device), prng.ERASE), 2).unsqueeze(2).unbind(1)
    within = (torch.arange(n, device=x.device) - at % n + size // 2 for n, at in zip(x.shape[2:], middles, strict=True))
    rows, columns = ((place >= 0) & (place < size) for place in within)
    colour = torch.as_tensor(colour, device=x.device).to(x.dtype).view(-1, 1, 1)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], colour, x)


def _check(name: str, x: Tensor, keys: Tensor) -> None:
    if x.dim() != 4:
        raise UserError(f"{name} takes images [B, channels, height, width]; got shape {list(x.shape)}")
    if keys.shape != x.shape[:1]:
        raise UserError(f"{name} takes a key for each of {len(x)} images; got shape {list(keys.shape)}")
