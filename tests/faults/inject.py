"""Faults in the writes of a run, loaded before it starts: `python -c "import tests.faults.inject; ..."`.

Every write below the working directory counts: a file that is opened for writing, each half of what is written to it,
a tensor file, a wait for the disk, a rename. `DUA_FAULT=kill:17` ends the process at the 17th as `kill -9` does,
`enospc:17` and `eio:17` fail there as a full or a broken disk does, and `count:0` only counts. What has been counted
stands in `boundaries.txt` beside the working directory, a line for each: number, what, where.
"""

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}

_kind, _, _at = os.environ["DUA_FAULT"].partition(":")
_here = Path.cwd()
_open, _os_open, _serialize = builtins.open, os.open, safetensors.torch.serialize_file
_noted = _os_open(_here.parent / "boundaries.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
_count = 0


def _boundary(what: str, path: Any, before: Callable[[], object] = lambda: None) -> None:
    """Count one; where it is the one, do `before`, what a half-finished write leaves, and fail."""
    global _count
    if isinstance(path, int) or not Path(os.path.abspath(os.fspath(path))).is_relative_to(_here):
        return
    _count += 1
    os.write(_noted, f"{_count} {what} {path}\n".encode())
    if _count == int(_at):
        before()
        if _kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(ERRORS[_kind], os.strerror(ERRORS[_kind]), str(path))


class _Written:
    """A file whose first write may end in the middle."""

    def __init__(self, file: Any, path: Any) -> None:
        self._file = file
        self._path = path
        self._begun = False

    def write(self, data: Any) -> int:
        if not self._begun:
            self._begun = True
            _boundary("write", self._path, lambda: (self._file.write(data[: len(data) // 2]), self._file.flush()))
        return self._file.write(data)  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Written":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)


def _opened(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
    if isinstance(path, int) or not set(mode) & set("wax+"):
        return _open(path, mode, *args, **more)
    _boundary("open", path)
    return _Written(_open(path, mode, *args, **more), path)


def _os_opened(path: Any, flags: int, *args: Any, **more: Any) -> int:
    if flags & os.O_CREAT:
        _boundary("create", path)
    return _os_open(path, flags, *args, **more)


def _serialized(tensors: Any, path: Any, *args: Any, **more: Any) -> None:
    _boundary("tensors", path, lambda: Path(path).write_bytes(b"\x40\0\0\0\0\0\0\0{"))
    _serialize(tensors, path, *args, **more)
    _boundary("tensors written", path)


def _before(what: str, name: str) -> None:
    plain = getattr(os, name)

    def counted(path: Any, *args: Any, **more: Any) -> Any:
        if what != "folder" or not os.path.exists(path):
            _boundary(what, os.readlink(f"/proc/self/fd/{path}") if name == "fsync" else path)
        return plain(path, *args, **more)

    setattr(os, name, counted)


builtins.open = io.open = _opened  # type: ignore[assignment]
os.open = _os_opened  # type: ignore[assignment]
safetensors.torch.serialize_file = _serialized
_before("rename", "replace")
_before("rename", "rename")
_before("sync", "fsync")
_before("folder", "mkdir")
