"""Places of pictures in a tar file in WebDataset's layout, from its headers alone. Nothing is extracted.

Consecutive members whose names agree up to the first dot are one sample: ``KEY.jpg`` (or another of ``SUFFIXES``) and
``KEY.cls`` or ``KEY.json``. Tar files may come from strangers, so the sizes they claim are not trusted.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from tsslbp.data.labels import plain
from tsslbp.utils.errors import UserError, shown

SUFFIXES = ("jpg", "jpeg", "png", "webp")
FIELDS = ("cls", "label", "class", "target")
"""Fields that may hold the label in a ``KEY.json`` with an object."""
LARGEST, LONGEST, LONGEST_HEADER = 2**28, 2**20, 2**16
"""Most bytes of a picture, of a label and of a header."""
BLOCK = 512


@dataclass(frozen=True)
class Sample:
    """A picture in a tar file: the name of its member, where it starts, its bytes, and its label, which may be empty."""

    name: str
    start: int
    size: int
    label: str


def samples(path: Path) -> Iterator[Sample]:
    """The pictures in a tar file, in order.

    Raises:
        UserError: no tar file, a truncated, damaged or compressed one, a member that is no plain file within the archive, two
            pictures or no picture under a key, keys with dots, and labels that cannot be read.
    """
    try:
        with open(path, "rb") as file:
            for key, members in groupby(_members(path, file), key=lambda member: _split(member.name)[0]):
                yield from _sample(path, file, key, list(members))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _split(name: str) -> tuple[str, str]:
    """Key and suffix of a member."""
    folder, slash, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return folder + slash + key, suffix.lower()


def _sample(path: Path, file: BinaryIO, key: str, members: list[tarfile.TarInfo]) -> Iterator[Sample]:
    found = {_split(member.name)[1]: member for member in members}
    pictures = [member for suffix, member in found.items() if suffix in SUFFIXES]
    if len(found) < len(members) or len(pictures) > 1:
        raise UserError(f"{path}: {key} has two files of a kind; a sample is one picture and one label")
    label = next((suffix for suffix in ("cls", "json") if suffix in found), None)
    if label == "cls" and not pictures:
        raise UserError(f"{path}: {found[label].name} has no picture beside it ({', '.join(SUFFIXES)})")
    endings = ("cls",) if pictures else ("cls", *SUFFIXES)  # KEY.mask.png may stand beside KEY.png
    if dotted := next((found[suffix].name for suffix in found if suffix.rpartition(".")[2] in endings and "." in suffix), None):
        raise UserError(f"{path}: the key of {dotted} ends at its first dot, as {key}; rename it without other dots")
    if not pictures:
        return
    (picture,) = pictures
    if picture.size > LARGEST:
        raise UserError(f"{path}: {picture.name} has {picture.size:,} bytes; a picture may have {LARGEST:,}")
    text = _label(path, file, found[label]) if label else ""
    yield Sample(picture.name.removeprefix("./"), picture.offset_data, picture.size, text)


def _label(path: Path, file: BinaryIO, member: tarfile.TarInfo) -> str:
    where = f"{path}: {member.name}"
    if member.size > LONGEST:
        raise UserError(f"{where} has {member.size:,} bytes; a label may have {LONGEST:,}")
    content = _read(file, member.offset_data, member.size)
    try:
        text = content.decode()
        value = text.strip() if member.name.lower().endswith(".cls") else json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where} cannot be read; it must be a class number or JSON") from None
    if isinstance(value, dict):
        value = next((value[field] for field in FIELDS if field in value), None)
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not (made := plain(str(value))):
        raise UserError(f"{where} names no class; it must be a number or a name, in JSON as one of {', '.join(FIELDS)}")
    return made


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    """Bytes at a place. The file keeps its position, on which ``tarfile`` relies."""
    here = file.tell()
    file.seek(start)
    content = file.read(size)
    file.seek(here)
    return content


class _Headers:
    """A tar file from which only headers can be read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The plain files in a tar file, except hidden ones."""
    length, end = os.fstat(file.fileno()).st_size, 0
    try:
        tar = tarfile.TarFile(fileobj=_Headers(file), encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
            if member.size < 0 or tar.offset <= end:
                raise tarfile.ReadError("a size below 0")
            end = tar.offset
            _check(path, member, length)
            if member.isreg() and not member.name.rpartition("/")[2].startswith("."):
                yield member
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        packed = _read(file, 0, 4).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd"))
        why = "is compressed; decompress it first" if packed else f"is no whole tar file ({error}); fetch it again"
        raise UserError(f"{path} {why}") from None
    if _read(file, end, BLOCK) != bytes(BLOCK):  # tarfile just stops at an unknown header
        raise UserError(f"{path} is cut off or damaged after {end:,} of {length:,} bytes; fetch it again")


def _check(path: Path, member: tarfile.TarInfo, length: int) -> None:
    """Raises UserError for a member that a folder of pictures cannot have."""
    name = member.name
    if not name.isprintable() or name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"{path}: {shown(ascii(name))} is no name of a file inside the archive; make the archive again")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(f"{path}: {shown(name)} is a link, a device or a sparse file; a shard has plain files only")
    if member.isreg() and member.offset_data + member.size > length:
        raise UserError(f"{path} is cut off: {shown(name)} does not end within its {length:,} bytes; fetch it again")
