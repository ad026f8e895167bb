"""A user's image file as a sample of the network's training set."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tsslbp import data
from tsslbp.data.pictures import opened
from tsslbp.training import Model
from tsslbp.utils.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def read(path: Path, model: Model, invert: bool | None = None) -> tuple[Tensor, list[str]]:
    """An image file of any size and mode as a batch of one stored sample.

    It is rotated as its camera says, put on white where it is transparent, converted to grey or RGB, padded to the network's
    shape with the colour of its border, and scaled: black and white become the smallest and the largest value of the training
    samples. Digits are not cut out or centred.

    Args:
        path: the file.
        model: that takes the sample.
        invert: exchange light and dark. Default: for a grey network, if training images are dark and this image's border is
            light, or the other way round; but never for an image of the size of the user's own pictures.

    Returns:
        ``[1, C, H, W]`` in the units of the training set, and notes for the user.

    Raises:
        UserError: a model of other samples than images, or one that does not remember their range; a file that cannot be read
            as an image.
    """
    shape = model.sample_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise UserError(f"predict takes models of grey or RGB images; this one reads samples of shape {list(shape)}")
    shades = model.shades()
    if shades is None:
        raise UserError(
            "this model, of version 0.1.0 or of Network.save, does not say which values its training samples had for black and "
            "white; give the picture as an array in an .npz file"
        )
    black, white = shades
    image = opened(path, "L" if shape[0] == 1 else "RGB")
    # of its short side nothing would be left
    if 2 * shape[2] * image.height <= image.width or 2 * shape[1] * image.width <= image.height:
        raise UserError(f"{path} is {image.width} × {image.height} pixels, too thin for {shape[2]} × {shape[1]}; cut it")
    ground, said = _ground(image), []
    normalisation = model.inputs.normalisation
    if invert is None and shape[0] == 1 and model.data not in data.NAMES:
        if image.size == (shape[2], shape[1]):
            invert = False  # like the user's own pictures
        elif (normalisation.mean, normalisation.std) == ((0.0,), (1.0,)):
            invert, unknown = False, "it is not known whether training images were light or dark"
            said.append(f"{unknown}, so nothing was exchanged (--invert yes does it)")
    if invert is None:
        mean = normalisation.scale * normalisation.mean[0]  # of the training samples; grey images are mostly background
        dark = mean < float(black[0] + white[0]) / 2
        invert = shape[0] == 1 and (ground[0] < 128) != dark
        if invert:
            grounds = ("light", "dark") if dark else ("dark", "light")
            said.append(
                f"the image has a {grounds[0]} background and the training images a {grounds[1]} one, so light and dark were "
                "exchanged (--invert no prevents it)"
            )
    pixels = torch.from_numpy(_fitted(image, ground, shape[1], shape[2])).reshape(shape[1], shape[2], shape[0]).permute(2, 0, 1)
    pixels = (255 - pixels if invert else pixels) / 255
    if model.facts and (model.facts.dtype == "float32" or model.inputs.normalisation.scale == 1):
        said.append(f"black became {float(black.min()):g} and white {float(white.max()):g}, as in the training samples")
    return (black + (white - black) * pixels).unsqueeze(0), said


def _ground(image: "Image") -> tuple[int, ...]:
    """The median colour of the border, per channel, 0 to 255."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return tuple(int(value) for value in np.median(border, axis=0))


def _fitted(
    image: "Image", ground: tuple[int, ...], height: int, width: int
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """The image inside ``height × width``, as large as its proportions allow, on its background."""
    from PIL import Image, ImageOps

    color = ground[0] if len(ground) == 1 else ground
    return np.asarray(ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, color=color), dtype=np.float32).copy()
