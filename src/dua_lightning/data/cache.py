"""Arrays of bytes that are made once, kept on disk under the digest of what made them, and mapped into memory."""

import json
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.store.files import locked, seal, sealed, sync, touch

Rows = np.memmap[Any, np.dtype[np.uint8]]
"""Rows of bytes on the disk, mapped into memory."""


def cached(folder: Path, key: Sequence[Any], shape: tuple[int, ...], write: Callable[[Rows], None]) -> Tensor:
    """Read an array of bytes from the cache; where it is missing, make it first.

    The file is `folder/DIGEST.npy`; the digest is the SHA-256 of `key` and `shape`. It appears whole or not at all,
    nothing in it is unpickled, and one of several processes writes it while the others wait. At its end stands the
    SHA-256 of its bytes and name, which is compared whenever the file is mapped: a gigabyte takes 1.5 s, as does the
    digest of the pictures that experts and results are kept under.

    Args:
        folder: The folder of the cache.
        key: Plain values: everything that the bytes depend on.
        shape: The shape of the array.
        write: A function that fills a new array of zeros.

    Returns:
        The uint8 tensor, a memory map: only the parts that are read are loaded, and writes to it stay private to the
        process.

    Raises:
        InputError: The folder cannot be written to or is full, or the file is damaged. Files appear whole, so that
            damage means that something else has gone wrong with the disk or the folder, and people should know.
    """
    text = json.dumps([*key, list(shape)], sort_keys=True, allow_nan=False)
    path = folder / f"{sha256(text.encode()).hexdigest()}.npy"
    if not path.exists():
        try:
            with locked(path):
                if not path.exists():
                    _write(path, shape, write)
        except OSError as error:
            raise InputError(
                f"the cache {path} of {prod(shape) / 1e9:.2f} GB cannot be written ({error.strerror or error}); "
                "make room for it or choose another cache folder"
            ) from error
    rows = _map(path, shape)
    touch(path)
    return rows


def _write(path: Path, shape: tuple[int, ...], write: Callable[[Rows], None]) -> None:
    # One temporary name for each key, under a lock: what a killed process left is written over, not added to.
    temporary = path.with_name(f".{path.name}")
    try:
        rows: Rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        if hasattr(os, "posix_fallocate"):
            # A map can be larger than the disk; without this the process would be killed on the first byte too many.
            with temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        write(rows)
        rows.flush()
        seal(temporary, path.stem)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _map(path: Path, shape: tuple[int, ...]) -> Tensor:
    try:
        rows = np.lib.format.open_memmap(path, mode="c")
        whole = sealed(path, path.stem)
    # numpy reads the header as Python's own text, with that parser's errors.
    except (OSError, ValueError, SyntaxError, TokenError, TypeError, OverflowError) as error:
        raise InputError(f"the cache {path} cannot be read ({error}); delete it to make it again") from error
    if not whole or rows.dtype != np.uint8 or rows.shape != shape or not rows.flags.c_contiguous:
        raise InputError(
            f"the cache {path} holds another {rows.dtype} array {rows.shape} than the bytes {shape} that were written "
            "under its name; delete it to make it again"
        )
    return torch.from_numpy(rows)
