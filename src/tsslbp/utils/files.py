"""Files that are written whole or not at all."""

import contextlib
import errno
import json
import math
import os
import secrets
import shutil
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tsslbp.utils.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

CACHE_FIX = "set TSSLBP_CACHE to another folder"
"""What to do where the folder of the cache cannot be written."""
LONGEST_ZIP_END = 22 + 2**16
"""Bytes of the last record of a zip file with the longest comment."""
TEMPORARY = ".*.tmp"
"""Names of unfinished files, which a killed process leaves behind."""
NO_FOLDER = "there is no folder {}; make it first"
"""What is wrong where a file is to be written, and how to fix it."""


def check_readable(path: Path) -> None:
    """Raises UserError for a file that cannot be opened, where a library would say something else."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


class Taken(UserError):
    """A folder that another process is at work in, or that is there and must not be."""


def cache_folder() -> Path:
    """Folder that may be deleted at any time: ``$TSSLBP_CACHE``, else ``tsslbp`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``.

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


def check_folder(path: Path, fix: str) -> None:
    """Raises UserError if a folder cannot be made or written to. Nothing is made, so that commands may check it at once."""
    wanted = "make"
    if path.is_symlink() and not path.exists():
        raise UserError(f"cannot make {path}: it is a link that leads nowhere; {fix}")
    try:
        there = next((one for one in (path, *path.parents) if one.exists()), path)  # a drive may not be there
        wanted = "write to" if there == path else wanted
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"cannot {wanted} {path}: {error.strerror}; {fix}") from None


def make_folder(path: Path, fix: str) -> None:
    """Make a folder and those above it, unless it exists.

    Raises:
        UserError: it cannot be made; ``fix`` says what to do, such as ``choose another --out``.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}; {fix}") from None


@contextlib.contextmanager
def replacing(path: Path, fix: str = "choose another folder", new: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends, whole and on the disk.

    Args:
        path: where it goes.
        fix: what to do if it cannot be written.
        new: whether ``path`` must not exist yet. If several processes write it at once, one succeeds.

    Raises:
        UserError: it cannot be written (full disk, no permission); an existing ``path`` is kept.
        FileExistsError: ``path`` exists and must not.
    """
    if not path.name:
        raise UserError(f"cannot write {str(path)!r}: it is not the name of a file; {fix}")
    temporary = path.with_name(f".tsslbp-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:  # neither an existing file nor a link is followed
            yield file
            file.flush()
            os.fsync(file.fileno())
        if new:
            _place(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        if isinstance(error, FileNotFoundError):
            raise UserError(f"cannot write {path}: {NO_FOLDER.format(path.parent)}") from None
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or {fix}") from error
    finally:
        _delete(temporary)


def output(path: Path, *needed: Path, makes: bool = False) -> Path:
    """Where a command is to write the file that its user names: a link leads to what it points at.

    Args:
        path: the name.
        needed: files that it must not be.
        makes: whether the command makes the folder that the file lies in.

    Raises:
        UserError: it is one of the ``needed`` files, or a folder, pipe or device; its folder is not there, or not writable.
    """
    special = Path("/dev") in path.absolute().parents  # /dev/stdout leads to any file
    if path.exists() and (special or not path.is_file()):
        raise UserError(f"{path} is a {'folder' if path.is_dir() else 'pipe or device'}; choose the name of a file")
    if path.exists() and any(os.path.exists(one) and path.samefile(one) for one in needed):
        raise UserError(f"{path} is a file that is still needed; choose another name")
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    if path.is_symlink():
        raise UserError(f"{path} is a link that leads to itself; remove it, or choose another name")
    if not makes and not path.parent.exists():
        raise UserError(f"cannot write {path}: {NO_FOLDER.format(path.parent)}")
    check_folder(path.parent, "choose another folder")
    return path


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``path`` when the block ends; if the block fails, it is deleted.

    Raises:
        UserError: ``path`` exists or cannot be written.
    """
    taken = f"{path} exists; choose another folder, or delete it"
    if path.exists() or path.is_symlink():
        raise UserError(taken)
    make_folder(path.parent, "choose another folder")
    temporary = path.with_name(f".tsslbp-{secrets.token_hex(8)}.tmp")
    try:
        try:
            temporary.mkdir()
            yield temporary
            temporary.rename(path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
                raise UserError(taken) from None
            raise UserError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path, fix: str) -> Iterator[None]:
    """Lock a folder until the block or this process ends, however it ends.

    Nothing is checked if the system or the file system has no locks.

    Raises:
        Taken: another process has locked it; ``fix`` says what to do.
    """
    path = folder / ".lock"
    with contextlib.ExitStack() as kept:
        for _ in range(10 if fcntl else 0):
            try:
                file = kept.enter_context(open(path, "a", opener=_itself))
            except OSError:  # writing there will raise the error, and a link or a pipe is no lock
                break
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise Taken(f"another process is at work in {folder}; {fix}") from None
            except OSError:  # this file system has no locks
                pass
            with contextlib.suppress(FileNotFoundError):  # its last user may have deleted it
                if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                    kept.callback(_delete, path)
                    break
        yield


def place_of(folder: Path, kept: contextlib.ExitStack) -> Callable[[], None]:
    """A function that raises UserError once the path leads to another folder, as if this one was removed and made anew."""
    if not fcntl:  # Windows removes no folder that is in use
        return lambda: None
    number = os.open(folder, os.O_RDONLY)  # while it is open, no other folder gets its number
    kept.callback(os.close, number)

    def check() -> None:
        with contextlib.suppress(OSError):  # writing there will raise it
            if os.path.samestat(os.fstat(number), os.stat(folder)):
                return
            raise UserError(f"{folder} is another folder now, perhaps of a newer run; this run ends, and writes nothing there")

    return check


@contextlib.contextmanager
def in_turn(folder: Path, fix: str) -> Iterator[None]:
    """:func:`locked` in a folder, which is made if it is missing; waits while another process has locked it."""
    make_folder(folder, fix)
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(folder, fix))
                break
            except Taken:
                time.sleep(1)
        yield


def _itself(path: str, flags: int) -> int:
    """Open a file but no link, which may lead anywhere, and without waiting for the other end of a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _place(temporary: Path, path: Path) -> None:
    """Rename a file to a name that is free. Raises FileExistsError if it is not."""
    try:
        path.hardlink_to(temporary)
    except OSError:
        path.open("xb").close()  # no hard links here, or the name is taken, which this raises
        temporary.replace(path)


def zip_entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """All entries of an archive. Raises BadZipFile if its directory, which has no checksum, lacks some."""
    file = archive.fp
    assert file is not None
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - LONGEST_ZIP_END))
    end = file.read()
    (count,) = struct.unpack_from("<H", end, end.rfind(b"PK\5\6") + 10)
    entries = archive.infolist()
    if count not in (len(entries), 0xFFFF):  # which stands for more than fit, and the true number elsewhere
        raise zipfile.BadZipFile(f"its directory has {len(entries)} entries and should have {count}")
    return entries


def refuse_special(path: Path) -> None:
    """Raises OSError for a pipe or device in place of a file: reading it might not end. A user may name one in ``/dev``."""
    if path.exists() and not (path.is_file() or path.is_dir() or Path("/dev") in path.absolute().parents):
        raise OSError(errno.EINVAL, "it is a pipe or device")


def content(path: Path) -> bytes:
    """A whole file. Raises OSError, also as :func:`refuse_special` does."""
    refuse_special(path)
    return path.read_bytes()


def read_bytes(path: Path) -> bytes:
    """A whole file. Raises UserError if it cannot be read."""
    try:
        return content(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; restore it, or train again under another --name") from None


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file in place of ``path``. Raises UserError as :func:`replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of a text in UTF-8; characters that UTF-8 lacks (as in file names) are escaped."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object, ensure_ascii: bool = True) -> None:
    """:func:`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=ensure_ascii) + "\n")


def remove_leftovers(folder: Path, older: float = -math.inf) -> None:
    """Delete unfinished files of a killed process in a folder where no other process writes files that are ``older``, in
    seconds."""
    for path in folder.glob(TEMPORARY):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > older:
                path.unlink()


def _delete(path: Path) -> None:
    """Delete a file if it exists and this is allowed."""
    with contextlib.suppress(OSError):
        path.unlink()
