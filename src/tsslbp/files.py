"""Files that are whole or not there."""

import os
from pathlib import Path

from tsslbp.errors import UserError


def cache_folder() -> Path:
    """What may be deleted at any time: ``$TSSLBP_CACHE``, else ``tsslbp`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

    Raises:
        UserError: none of these is set and there is no home folder.
    """
    if chosen := os.environ.get("TSSLBP_CACHE"):
        return Path(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "tsslbp"
    try:
        return Path.home() / ".cache/tsslbp"
    except RuntimeError:
        raise UserError("there is no home folder to keep a cache in; set TSSLBP_CACHE to a folder") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside ``path`` and let it take the place of ``path`` only when it is whole and on the disk.

    Raises:
        UserError: it cannot be written (full disk, no permission); what was at ``path`` stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))
