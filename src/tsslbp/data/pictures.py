"""Folders of pictures by class, as bytes ``[N, C, H, W]``: grey ones with one channel, others with three."""

import errno
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tsslbp.data.folders import listed
from tsslbp.data.found import Found, Wanted, kind_fact
from tsslbp.data.storage import stored
from tsslbp.utils.errors import UserError, each_of, one_line
from tsslbp.utils.files import refuse_special

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM")
"""Pillow's names of their formats, whatever a file's name. Its reader of others may start programs: Ghostscript for EPS."""
GREY = ("1", "L", "LA", "I", "I;16", "I;16B")
"""Pillow's modes without colour."""
WIDE = "I"
"""Prefix of its modes with 16 bits a pixel."""
DEEP_LOOKED_AT = 16
"""Pictures of 16 bits in which the largest value is looked for."""
DIM = 2**13
"""Largest value below which 16-bit pictures lose more than three of the eight bits that are kept."""


def read(path: Path, wanted: Wanted) -> Found:
    """The pictures below a folder.

    Raises:
        UserError: no pictures, no folders for classes, files that cannot be read, pictures of different sizes.
    """
    listing = listed(path, SUFFIXES, wanted, "pictures")
    headers = dict(zip(listing.paths, each_of(header, listing.paths), strict=True))
    sizes, modes = {file: found.size for file, found in headers.items()}, {found.mode for found in headers.values()}
    (size, most), *others = Counter(sizes.values()).most_common()
    if others:
        odd = next(file for file in sizes if sizes[file] != size)
        raise UserError(
            f"{path}: {most} of {len(sizes)} pictures have {size[0]} × {size[1]} pixels, but {odd} has {sizes[odd][0]} × "
            f"{sizes[odd][1]}; bring all to one size (magick mogrify -resize {size[0]}x{size[1]}! FILES), or take "
            f"--data image-folder:{path} --size {min(size)}, which scales them"
        )
    own = wanted.shape[0] if wanted.shape and len(wanted.shape) == 3 else None
    channels = own if own in (1, 3) else 1 if modes <= set(GREY) else 3
    shape = (channels, size[1], size[0])

    def pixels(file: Path) -> Tensor:
        image = opened(file, "L" if channels == 1 else "RGB")
        if image.size != size:
            raise UserError(
                f"{file} has {image.width} × {image.height} pixels, and its header has other numbers; save it again"
            )
        made = np.asarray(image).reshape(shape[1], shape[2], channels)
        return torch.from_numpy(made.copy()).permute(2, 0, 1)

    parts = listing.made(lambda part, files: stored(path, part, files, shape, pixels, "pictures"))
    notes = [f"pictures are {'grey' if channels == 1 else 'in colour'}, {size[0]} × {size[1]} pixels"]
    if several := sum(found.frames > 1 for found in headers.values()):
        notes.append(f"{several:,} pictures have several frames, of which the first is taken; save each in a file to take all")
    facts = kind_fact("pictures", *notes, *dim(headers))
    return Found(parts, listing.classes, False, 255.0, listing.tested_on, listing.names, facts)


class Unread(UserError):
    """Samples could not be read, as from a disk that is away. This says nothing about the settings, and may be over soon."""


class Broken(Unread):
    """Pictures that were read, but are none. A run goes on once they are as they were when it began."""


class Member(NamedTuple):
    """A picture that is a part of a file, as in a tar file."""

    path: str
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    def content(self) -> BytesIO:
        """Its bytes. Raises OSError if the file is too short."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the file ends before the picture does")
        return BytesIO(content)


Picture = str | Path | Member


def _source(picture: Picture) -> str | Path | BytesIO:
    if isinstance(picture, Member):
        return picture.content()
    refuse_special(Path(picture))
    return picture


class Header(NamedTuple):
    """Width and height, Pillow's mode, how many pictures the file holds, and whether a pixel has 16 bits."""

    size: tuple[int, int]
    mode: str
    frames: int
    deep: bool


def header(path: Picture) -> Header:
    """The header of a picture, without decoding it. Raises UserError if there is none, or one that bytes cannot hold."""
    from PIL import Image
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        with Image.open(_source(path), formats=FORMATS) as file:
            _refuse_numbers(file, path)
            deep = file.mode.startswith(WIDE) or any(re.search(";16[BLN]", str(tile.args)) for tile in file.tile)
            width, height = file.size
            if isinstance(file, TiffImageFile):  # whose size may have been turned
                width, height = file.tag_v2[256], file.tag_v2[257]
            turned = file.getexif().get(0x0112, 1) >= 5  # on its side, as a camera was held
            size = (height, width) if turned else (width, height)
            return Header(size, file.mode, getattr(file, "n_frames", 1), deep)
    except UserError:
        raise
    except Exception as error:  # every format fails in its own ways
        raise UserError(f"cannot read {path} as an image ({one_line(error)}); remove it or save it again") from None


def opened(path: Picture, mode: str) -> "Image":
    """An image file as grey ("L") or "RGB", turned as its camera says, on white where it is transparent.

    Raises:
        Unread: no such file, or one that the system does not let be read.
        UserError: a file that cannot be read as an image, or pixels of other than 8 or 16 bits.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(_source(path), formats=FORMATS) as file:
            _refuse_numbers(file, path)
            file.filename = ""  # or Pillow maps a TIFF on its side into memory, with its pixels in the wrong order
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith(WIDE):  # 16 bits a pixel, which Pillow would cut off at 255
                deep, clear = np.asarray(image, dtype=np.float32), image.info.get("transparency")
                image = Image.fromarray((deep / 257).clip(0, 255).astype(np.uint8))
                if clear is not None:
                    image.putalpha(Image.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8)))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert(mode)
    except FileNotFoundError:
        raise Unread(f"no image at {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # Pillow's own, and wrong places in a file
            raise Unread(f"cannot read {path}: {error.strerror}; make it readable, and try again") from None
        raise UserError(f"cannot read {path} as an image ({error})") from None


def _refuse_numbers(file: "Image", path: Picture) -> None:
    """Raises UserError for a file of real numbers or of 32 bits, whose range is unknown."""
    if file.mode == "F" or (file.mode == "I" and file.format == "TIFF"):
        kind = "real numbers" if file.mode == "F" else "whole numbers of 32 bits"
        raise UserError(f"{path} holds {kind}, whose white is unknown; save it with 8 or 16 bits a pixel")


def dim(headers: Mapping[Any, Header]) -> tuple[str, ...]:
    """A note if pictures of 16 bits, by their places, lose most of their shades; the first of them are looked at."""
    deep = [picture for picture, found in headers.items() if found.deep][:DEEP_LOOKED_AT]
    values = list[int]()
    for picture in deep:
        with suppress(OSError, SyntaxError, ValueError):  # reading the picture will raise it
            values.append(_largest(picture))
    if not values or (largest := max(values)) >= DIM:
        return ()
    return (f"pictures of 16 bits hold values up to {largest:,}, of which 8 bits keep little; stretch them to 65,535",)


def _largest(picture: Picture) -> int:
    """The largest value of a picture of 16 bits. In colour, Pillow keeps the upper 8, and the lower ones are taken as set."""
    from PIL import Image

    with Image.open(_source(picture), formats=FORMATS) as file:
        if file.mode.startswith(WIDE):
            return int(np.asarray(file).max())
        return int(np.asarray(file.convert("RGB")).max()) << 8 | 255
