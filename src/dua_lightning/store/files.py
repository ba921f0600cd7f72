"""Files that appear whole or not at all, and locks between processes."""

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from dua_lightning.errors import InputError

log = logging.getLogger(__name__)

TEMPORARY = ".new"
"""The end of the stem of files that are being written, with a dot at the front: a cleaner knows them by these."""
SEAL = 32
"""The bytes at the end of a sealed file: the SHA-256 of those before them, and of what they stand for."""


@contextmanager
def replacing(path: Path, durable: bool = True, mode: int = 0o644) -> Iterator[Path]:
    """Write a file whole or not at all, through a temporary file beside it.

    The temporary file is renamed to `path` at the end, and removed if anything fails.

    Args:
        path: The file.
        durable: Whether the bytes are on the disk before the name is, so that a machine that loses power keeps the old
            file or has the new one. Waiting for the disk takes longer than an epoch of a small network.
        mode: The permissions of the file. Until it is whole, nobody but its owner may read it.

    Yields:
        The path of the temporary file, with the same ending.

    Raises:
        InputError: The file cannot be written.
    """
    with refusing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f"{TEMPORARY}{path.suffix}")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(mode)
            if durable:
                sync(temporary)
            temporary.replace(path)
            if durable:
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Compute the SHA-256 digest of a file.

    Args:
        path: The file.

    Returns:
        The digest in hexadecimal.
    """
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text to a file, whole or not at all.

    Args:
        path: The file.
        text: The text, written as UTF-8; bytes of names that are no UTF-8 are written as they are.

    Raises:
        InputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` that says why the file cannot be written and what to do.

    Args:
        path: The file that the block writes.

    Raises:
        InputError: The block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); make room or get leave to write there, or choose "
            "another folder"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk.

    Args:
        path: The file or the folder.
    """
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some file systems have nothing to wait for, and say so.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def seal(path: Path, name: str) -> None:
    """Append the SHA-256 of a file's bytes, and of what they stand for, to it.

    Args:
        path: The file.
        name: What they stand for.
    """
    with path.open("r+b") as file:
        file.write(_digest(file, path.stat().st_size, name))


def sealed(path: Path, name: str) -> bool:
    """Tell whether a file was sealed under this name, and is unchanged since; all its bytes are read.

    Args:
        path: The file.
        name: What its bytes stand for.

    Returns:
        Whether it is.
    """
    with path.open("rb") as file:
        return _digest(file, path.stat().st_size - SEAL, name) == file.read()


def _digest(file: IO[bytes], length: int, name: str) -> bytes:
    """The SHA-256 of the next `length` bytes, as far as they go, and of the name."""
    found = sha256(name.encode())
    while length > 0 and (piece := file.read(min(length, 1 << 20))):
        found.update(piece)
        length -= len(piece)
    return found.digest()


def touch(path: Path) -> None:
    """Note in a file's time that it was used now; the time of a file that may only be read stays.

    Args:
        path: The file.
    """
    with suppress(OSError):
        os.utime(path)


@contextmanager
def locked(path: Path, say: Callable[[str], None] = log.warning) -> Iterator[None]:
    """Let one process at a time into the block that makes a file; the others wait, and say so once.

    The lock is the file `.STEM.lock` beside it, held through the operating system: it is free as soon as its process
    has ended, however that was, and holds on shared file systems too.

    Args:
        path: The file that the block makes.
        say: A function that is given one line when this process has to wait.

    Raises:
        OSError: The lock cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.stem}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another process that is making {path}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
