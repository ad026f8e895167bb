"""Pictures in a folder, a folder a class, as bytes ``[N, C, H, W]``: grey ones with one channel, others with three."""

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Made, Wanted, kind_fact
from tsslbp.data.storage import stored
from tsslbp.errors import UserError, each_of

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
GREY = ("1", "L", "LA", "I", "I;16", "F")
"""Pillow's modes without colour."""


def read(path: Path, wanted: Wanted) -> Found:
    """The pictures below a folder.

    Raises:
        UserError: no pictures, no folder a class, files that cannot be read, pictures of different sizes.
    """
    listing = listed(path, SUFFIXES, wanted, "pictures")
    headers = dict(zip(listing.paths, each_of(header, listing.paths), strict=True))
    sizes, modes = {file: size for file, (size, _) in headers.items()}, {mode for _, mode in headers.values()}
    (size, most), *others = Counter(sizes.values()).most_common()
    if others:
        odd = next(file for file in sizes if sizes[file] != size)
        raise UserError(
            f"{path}: {most} of {len(sizes)} pictures have {size[0]} × {size[1]} pixels, but {odd} has {sizes[odd][0]} × "
            f"{sizes[odd][1]}; bring all to one size: magick mogrify -resize {size[0]}x{size[1]}! FILES"
        )
    channels = wanted.shape[0] if wanted.shape and len(wanted.shape) == 3 else 1 if modes <= set(GREY) else 3
    shape = (channels, size[1], size[0])

    def pixels(file: Path) -> Tensor:
        made = np.asarray(opened(file, "L" if channels == 1 else "RGB"))
        return torch.from_numpy(made.reshape(shape[1], shape[2], channels).copy()).permute(2, 0, 1)

    parts = {
        part: Made(torch.arange(len(files)), listing.y[part], make=stored(path, part, files, shape, pixels, "pictures"))
        for part, files in listing.files.items()
    }
    note = f"pictures are {'grey' if channels == 1 else 'in colour'}, {size[0]} × {size[1]} pixels"
    facts = kind_fact("pictures", note)
    return Found(parts, listing.classes, False, 255.0, listing.tested_on, listing.names, facts)


class Member(NamedTuple):
    """A picture that is a part of a file, as in a tar file."""

    path: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    def content(self) -> BytesIO:
        """Its bytes. Raises OSError if the file ends before."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the file ends before the picture does")
        return BytesIO(content)


Picture = str | Path | Member


def _source(picture: Picture) -> str | Path | BytesIO:
    return picture.content() if isinstance(picture, Member) else picture


def header(path: Picture) -> tuple[tuple[int, int], str]:
    """Width, height and mode, without decoding the picture. Raises UserError if there is none."""
    from PIL import Image

    try:
        with Image.open(_source(path)) as file:
            width, height = file.size
            turned = file.getexif().get(0x0112, 1) >= 5  # on its side, as a camera was held
            return ((height, width) if turned else (width, height)), file.mode
    except Exception as error:  # every format fails in its own ways
        raise UserError(
            f"cannot read {path} as an image ({' '.join(str(error).split())}); remove it or save it again"
        ) from None


def opened(path: Picture, mode: str) -> "Image":
    """An image file as grey ("L") or "RGB", turned as its camera says, on white where it is transparent.

    Raises:
        UserError: no such file, or one that cannot be read as an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(_source(path)) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert(mode)
    except FileNotFoundError:
        raise UserError(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read {path} as an image ({error})") from None
