"""The store: expensive results are made once and kept on disk under the digest of everything that made them."""

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
from dua_lightning.store.files import TEMPORARY, locked, refusing, sealed, touch
from dua_lightning.store.tensorfile import Tensors, Values, damaged, load, save

log = logging.getLogger(__name__)

Kind = Literal["experts", "priors", "results"]
"""The kinds of entries that have a recipe, each of which is a folder of the store."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""All of them."""
PICTURES = "pictures"
"""The kind of decoded pictures, which lie beside the data."""
LOCK = "lock"
"""The kind of locks that no process holds any more."""
PARTIAL = ".partial"
"""The end of the names of folders with the checkpoints of unfinished trainings."""

DAY = 24 * 3600.0
"""The seconds of a day."""


def digest(*parts: Mapping[str, Any] | str) -> str:
    """Compute the digest of plain values, whatever the order of their keys.

    Args:
        *parts: Texts, or mappings of plain values.

    Returns:
        The SHA-256 of their canonical JSON, in hexadecimal.

    Raises:
        InputError: A number is infinite or NaN, which JSON cannot hold.
    """
    try:
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    except ValueError as error:
        raise InputError(f"a setting is infinite or not a number ({error}); give it a finite value") from error


@dataclass(frozen=True)
class Recipe:
    """Everything that an entry's bits depend on.

    Args:
        kind: The kind of entry.
        values: Plain values.
    """

    kind: Kind
    values: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """The digest that the entry is kept under."""
        return digest(self.kind, self.values)


@dataclass(frozen=True)
class Entry:
    """A file of the store, or a folder of checkpoints, as it lies on the disk.

    Args:
        kind: The entry's kind, or a word for what a dead process left.
        path: The file or the folder.
        bytes: Its size.
        used: When it was last written or read, in seconds since 1970.
    """

    kind: str
    path: Path
    bytes: int
    used: float

    @property
    def key(self) -> str:
        """The digest that the entry is kept under."""
        return self.path.stem


class Store:
    """A folder with a file `KIND/DIGEST.safetensors` for each entry, which holds its tensors and what made them.

    A file appears whole or not at all, and is believed only if its content has the digests that it names; another one
    is neither read nor written over, but named in an `InputError`. Nothing is unpickled. Several processes, also of
    several machines on a shared file system, may use one store at a time.

    Args:
        root: The folder.
        say: A function that is given one line when this process waits for another.
        data_dir: The folder of downloads; decoded pictures in the folders `cache` below it are looked after as well.
    """

    def __init__(self, root: Path, say: Callable[[str], None] = log.warning, data_dir: Path | None = None) -> None:
        self.root = root
        self.say = say
        self.data_dir = data_dir

    def get(self, recipe: Recipe) -> Tensors | None:
        """Read an entry.

        Args:
            recipe: The entry's recipe.

        Returns:
            The tensors, mapped into memory, or `None` where there is no such entry.

        Raises:
            InputError: The file is damaged or foreign.
        """
        path = self.path(recipe)
        if not path.exists():
            return None
        tensors, _ = read(path)
        touch(path)
        return tensors

    def put(self, recipe: Recipe, tensors: Tensors) -> None:
        """Keep an entry, and remove the checkpoints of its unfinished training.

        Args:
            recipe: The entry's recipe.
            tensors: The tensors; no two may share memory.

        Raises:
            InputError: It cannot be written.
        """
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
        """Read an entry, or make and keep it where there is none. Of several processes one makes it.

        Args:
            recipe: The entry's recipe.
            make: A function that makes the tensors.

        Returns:
            The tensors.

        Raises:
            InputError: The file is damaged or foreign, or cannot be written.
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
        """Tell the file of an entry, whether it is there or not.

        Args:
            recipe: The entry's recipe.

        Returns:
            The file.
        """
        return self.root / recipe.kind / f"{recipe.key}.safetensors"

    def partial(self, recipe: Recipe) -> Path:
        """Tell the folder of the checkpoints of an unfinished training.

        Args:
            recipe: The recipe of the expert in training.

        Returns:
            The folder.
        """
        return self.root / recipe.kind / f".{recipe.key}{PARTIAL}"

    def entries(self) -> list[Entry]:
        """List all entries without reading them.

        Returns:
            The entries by kind, the last used first.
        """
        return [
            entry
            for kind, folders, ending in self._places()
            for entry in sorted(
                (entry for folder in folders for path in folder.glob(f"[!.]*{ending}") for entry in _seen(kind, path)),
                key=lambda entry: (-entry.used, entry.key),
            )
        ]

    def verify(self) -> Iterator[tuple[Entry, str | None]]:
        """Read every entry and compare it with its digests.

        Yields:
            Each entry and what is wrong with it, or `None`.
        """
        for entry in self.entries():
            try:
                (_check_pictures if entry.kind == PICTURES else read)(entry.path)
            except InputError as error:
                yield entry, str(error)
            else:
                yield entry, None

    def gc(self, keep_days: float, dry_run: bool = False) -> list[Entry]:
        """Remove entries that have not been used for some time, and whatever dead processes left.

        Checkpoints of unfinished trainings go like entries, temporary files and free locks after a day.

        Args:
            keep_days: For how many days an entry is kept after its last use.
            dry_run: Whether everything stays and is only listed.

        Returns:
            The entries that went.

        Raises:
            InputError: The number of days is negative, or a file cannot be removed.
        """
        if not keep_days >= 0:
            raise InputError(f"keep_days={keep_days:g} cannot be used: it is at least 0")
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
    """Read the file of an entry and compare it with its digests.

    Args:
        path: The file.

    Returns:
        The tensors, mapped into memory, and the plain values of the entry's provenance.

    Raises:
        InputError: The file is cut short or changed, or its name is not the digest of its recipe.
    """
    tensors, provenance = load(path)
    if not {"kind", "made_of"} <= provenance.keys():
        raise damaged(path, "it does not say what made it")
    if provenance["kind"] != path.parent.name or digest(provenance["kind"], provenance["made_of"]) != path.stem:
        raise damaged(path, "its name is not that of what it holds")
    return tensors, provenance


def _check_pictures(path: Path) -> None:
    """Raise `InputError` for a file that is no array of bytes, or not what was written."""
    try:
        rows = np.lib.format.open_memmap(path, mode="r")
        whole = sealed(path, path.stem)
    except (OSError, ValueError, SyntaxError) as error:
        raise damaged(path, " ".join(str(error).split())) from error
    if rows.dtype != np.uint8 or not whole:
        raise damaged(path, "it is not the array of bytes that was written")


def _seen(kind: str, path: Path) -> list[Entry]:
    """List the file, or the folder of checkpoints, as an entry; none where another process has just removed it."""
    try:
        stats = [file.stat() for file in ([*path.iterdir()] if path.is_dir() else [path])]
    except FileNotFoundError:
        return []
    used = max((stat.st_mtime for stat in stats), default=path.stat().st_mtime)
    return [Entry(kind, path, sum(stat.st_size for stat in stats), used)]


def _left_over(path: Path, keep_days: float) -> tuple[float, str]:
    """Tell for how many days a hidden file is kept, and its kind; no kind for a file that is not the store's."""
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
