"""This process, or several where they are quicker."""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import torch

from dua_lightning.engines.base import Work, workers_or_all
from dua_lightning.engines.loky import Loky, cores
from dua_lightning.engines.serial import Serial
from dua_lightning.store.tensorfile import Tensors, save

PAYS = 20.0
"""Processes pay where this process would still take so many seconds: to start, each loads the program and the data."""


class Auto:
    """Begins in this process, and goes on in several, by loky, where what is left is worth their start.

    It stays in this process on a GPU, where there is one core, and in a process that another one has started, such as a
    job of a sweep that runs beside others. There are no more workers than draws that are left, nor than fit into the
    memory that is available if each takes as much as this process has taken.

    Where there are at least as many items as cores, one thread computes an item, here and in workers; otherwise all of
    torch's threads do, here. So the results do not depend on where an item is computed.

    The photographs' run (`+experiment=photos seed=1`, one thread, nothing stored) took 166 s with it on two cores, and
    228 s with `engine=serial`.

    Args:
        workers: The largest number of processes; by default one for each core.

    Raises:
        InputError: A number cannot be used.
    """

    by_path = False

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers_or_all(workers, 1)
        if multiprocessing.parent_process() is not None:
            self.workers = 1
        self._serial = Serial()
        self._loky: Loky | None = None
        self._seconds = 0.0
        self._shared: dict[str, tuple[Path, Tensors]] = {}
        self._ending = ExitStack()

    @property
    def room(self) -> int:
        """The number of items that are worth having under way."""
        return self._serial.room if self._loky is None else self._loky.room

    @property
    def pending(self) -> int:
        """The number of items that were submitted and whose results have not been received."""
        return self._serial.pending + (0 if self._loky is None else self._loky.pending)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.__exit__(kind, error, trace)
        self._serial.__exit__(kind, error, trace)

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        self._shared[key] = path, tensors
        self._serial.share(key, path, tensors)
        if self._loky is not None:
            self._give(self._loky, key)

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        left = work.items - place
        threads = torch.get_num_threads()
        several = self.workers > 1 and work.device == "cpu" and (threads == 1 or work.items >= self.workers)
        if self._loky is None and several and left > 1 and left * self._seconds > PAYS:
            self._loky = self._started(left)
        if self._loky is not None:
            self._loky.submit(work, place, item, keys)
            return
        began = time.monotonic()
        torch.set_num_threads(1 if several else threads)
        try:
            self._serial.submit(work, place, item, keys)
        finally:
            torch.set_num_threads(threads)
        self._seconds = time.monotonic() - began

    def receive(self) -> tuple[int, Any]:
        if self._loky is None or self._serial.pending:
            return self._serial.receive()
        return self._loky.receive()

    def _started(self, left: int) -> Loky | None:
        """Start as many workers as are of use; none where the memory holds no second one."""
        self.workers = min(self.workers, left, cores(), max(1, _available() // _taken()))
        if self.workers == 1:
            return None
        self._folder = Path(self._ending.enter_context(TemporaryDirectory(prefix="dua_lightning-")))
        loky = self._ending.enter_context(Loky(self.workers))
        for key in self._shared:
            self._give(loky, key)
        return loky

    def _give(self, loky: Loky, key: str) -> None:
        """Share tensors by their file, which is made for the time of the run where the store does not keep them."""
        path, tensors = self._shared[key]
        if not path.exists():
            path = self._folder / f"{key}.safetensors"
            save(path, tensors, {})
        loky.share(key, path, tensors)


def _available() -> int:
    """The bytes of memory that are available to the machine and to a container; all there are where neither tells."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    # A container without a limit says "max".
    with suppress(OSError, ValueError):
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")) - _taken())
    return min(found)


def _taken() -> int:
    """The most bytes of memory that this process has taken, which holds a network and the data as each worker will."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
