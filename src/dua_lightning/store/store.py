"""What is expensive, made once and kept on disk under the digest of what made it."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from filelock import FileLock, Timeout

from dua_lightning import __version__
from dua_lightning.errors import InputError
from dua_lightning.store.files import TEMPORARY, locked, refusing, touch
from dua_lightning.store.tensorfile import Tensors, Values, damaged, load, save

log = logging.getLogger(__name__)

Kind = Literal["experts", "priors", "results"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PICTURES = "pictures"
LOCK = "lock"
PARTIAL = ".partial"
"""Ends the names of folders with the checkpoints of unfinished trainings."""

DAY = 24 * 3600.0
"""Seconds."""


def digest(*parts: Mapping[str, Any] | str) -> str:
    """SHA-256, in hexadecimal, of plain values in canonical JSON; the same whatever the order of keys.

    Raises `InputError` for what has no text in JSON, as infinity and NaN.
    """
    try:
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    except ValueError as error:
        raise InputError(f"a setting is infinite or not a number ({error}); give it a finite value") from error


@dataclass(frozen=True)
class Recipe:
    """What makes an entry: its kind, and in plain values everything that its bits depend on."""

    kind: Kind
    values: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """The digest that the entry is kept under."""
        return digest(self.kind, self.values)


@dataclass(frozen=True)
class Entry:
    """A file as it lies on the disk.

    `kind` is the entry's, `pictures` for decoded ones, or says what a dead process left; `used` is when it was last
    written or read, in seconds since 1970.
    """

    kind: str
    path: Path
    bytes: int
    used: float

    @property
    def key(self) -> str:
        return self.path.stem


class Store:
    """`root/experts`, `root/priors` and `root/results`: an entry is one file, `DIGEST.safetensors`, with provenance.

    A file appears whole or not at all, and is believed only if its content is what its digests say; one that is not is
    neither read nor written over, but named in an `InputError`. Nothing is unpickled. Processes, also of several
    machines on a shared file system, may use one store at a time; `say` gets a line when one waits for another.

    `data_dir` is where downloads are kept: decoded pictures in the folders `cache` below it are looked after as well.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = log.warning, data_dir: Path | None = None) -> None:
        self.root = root
        self.say = say
        self.data_dir = data_dir

    def get(self, recipe: Recipe) -> Tensors | None:
        """The entry, or nothing. Raises `InputError` for a file that is damaged or foreign."""
        path = self.path(recipe)
        if not path.exists():
            return None
        tensors, _ = read(path)
        touch(path)
        return tensors

    def put(self, recipe: Recipe, tensors: Tensors) -> None:
        """Keep the entry; what an unfinished training has left of it goes. Raises `InputError` if it cannot be."""
        provenance = {
            "kind": recipe.kind,
            "made_of": recipe.values,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "dua_lightning": __version__,
            "torch": torch.__version__,
        }
        save(self.path(recipe), tensors, provenance)
        with refusing(self.partial(recipe)):
            if self.partial(recipe).exists():
                shutil.rmtree(self.partial(recipe))

    def once(self, recipe: Recipe, make: Callable[[], Tensors]) -> Tensors:
        """The entry; where there is none, what `make` returns, which is kept. Of several processes one makes it.

        Raises as `get` and `put` do.
        """
        found = self.get(recipe)
        if found is not None:
            return found
        path = self.path(recipe)
        with ExitStack() as stack:
            with refusing(path):
                stack.enter_context(locked(path, self.say))
            found = self.get(recipe)
            if found is None:
                found = make()
                self.put(recipe, found)
        return found

    def path(self, recipe: Recipe) -> Path:
        """Where the entry lies, or will."""
        return self.root / recipe.kind / f"{recipe.key}.safetensors"

    def partial(self, recipe: Recipe) -> Path:
        """The folder where the checkpoints of an unfinished training lie."""
        return self.root / recipe.kind / f".{recipe.key}{PARTIAL}"

    def entries(self) -> list[Entry]:
        """All entries, by kind, the last used first; unread."""
        return [
            entry
            for kind, folders, ending in self._places()
            for entry in sorted(
                (entry for folder in folders for path in folder.glob(f"[!.]*{ending}") for entry in _seen(kind, path)),
                key=lambda entry: (-entry.used, entry.key),
            )
        ]

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Each entry, and what is wrong with it, or nothing. Of pictures only the size is known."""
        for entry in self.entries():
            try:
                (_check_pictures if entry.kind == PICTURES else read)(entry.path)
            except InputError as error:
                yield entry, str(error)
            else:
                yield entry, None

    def gc(self, keep_days: float, dry_run: bool = False) -> list[Entry]:
        """Remove what has not been used for `keep_days` days, and what dead processes left; returns what went.

        Checkpoints of unfinished trainings go like entries, temporary files and free locks after a day. With `dry_run`
        nothing is removed. Raises `InputError` for a negative number of days, and for a file that cannot be removed.
        """
        if not keep_days >= 0:
            raise InputError(f"--keep-days {keep_days:g} cannot be used: it is at least 0")
        now = time.time()
        gone = [entry for entry in self.entries() if now - entry.used > keep_days * DAY]
        for _, folders, _ in self._places():
            for path in sorted(path for folder in folders for path in folder.glob(".*")):
                keep, kind = _left_over(path, keep_days)
                gone += [entry for entry in _seen(kind, path) if kind and now - entry.used > keep * DAY]
        gone = [entry for entry in gone if entry.kind != LOCK or _free(entry.path)]
        if not dry_run:
            for entry in gone:
                try:
                    if entry.path.is_dir():
                        shutil.rmtree(entry.path)
                    else:
                        entry.path.unlink(missing_ok=True)
                except OSError as error:
                    raise InputError(
                        f"{entry.path} cannot be removed ({error.strerror}); get leave to write to its folder"
                    ) from error
        return gone

    def _places(self) -> Iterator[tuple[str, list[Path], str]]:
        """Each kind, its folders, and how its files end."""
        for kind in KINDS:
            yield kind, [self.root / kind], ".safetensors"
        if self.data_dir is not None:
            yield PICTURES, sorted(self.data_dir.glob("**/cache")), ".npy"


def read(path: Path) -> tuple[Tensors, Values]:
    """The tensors of an entry's file, mapped into memory and verified, and its provenance.

    Raises `InputError` for a file that is cut short or changed, or not made of what its name is the digest of.
    """
    tensors, provenance = load(path)
    if not {"kind", "made_of"} <= provenance.keys():
        raise damaged(path, "it does not say what made it")
    if provenance["kind"] != path.parent.name or digest(provenance["kind"], provenance["made_of"]) != path.stem:
        raise damaged(path, "its name is not that of what it holds")
    return tensors, provenance


def _check_pictures(path: Path) -> None:
    """Raises `InputError` for a file that is no array of bytes, whole."""
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if rows.dtype != np.uint8 or path.stat().st_size != rows.offset + rows.size:
        raise damaged(path, "it is no whole array of bytes")


def _seen(kind: str, path: Path) -> list[Entry]:
    """The file, or the folder of checkpoints, as an entry; none where another process has just removed it."""
    try:
        stats = [file.stat() for file in ([*path.iterdir()] if path.is_dir() else [path])]
    except FileNotFoundError:
        return []
    used = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
    return [Entry(kind, path, sum(stat.st_size for stat in stats), used)]


def _left_over(path: Path, keep_days: float) -> tuple[float, str]:
    """For how many days a hidden file is kept, and what it is; no name for what is not the store's."""
    if path.name.endswith(PARTIAL):
        return keep_days, "checkpoint"
    # The third is safetensors' own.
    if path.stem.endswith(TEMPORARY) or path.suffix == ".npy" or path.name.startswith(".tmp"):
        return 1, "unfinished"
    return 1, LOCK if path.suffix == ".lock" else ""


def _free(lock: Path) -> bool:
    """Whether no process holds the lock."""
    try:
        with FileLock(lock, blocking=False):
            return True
    except Timeout:
        return False
