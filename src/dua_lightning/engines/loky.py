"""Processes on this machine, by loky."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from dua_lightning.engines.base import AHEAD, Pending, Work, Worker, computed, killed, mapped, once, workers_or_all
from dua_lightning.store.tensorfile import Tensors

IDLE_SECONDS = 300
"""After so many seconds without an item a worker ends; it is started again when it is needed."""


class Loky(Pending):
    """Processes on this machine, started with the first item.

    They map shared tensors from the store's files, so that all of them together hold one copy, in the system's cache
    of files.

    Args:
        workers: The number of processes; by default as many as fit on the cores.
        threads: The threads of each process.

    Raises:
        InputError: A number cannot be used.
    """

    by_path = True

    def __init__(self, workers: int | None = None, threads: int = 1) -> None:
        super().__init__()
        self.workers = workers_or_all(workers, threads)
        self.threads = threads
        self.room = AHEAD * self.workers
        self._paths: dict[str, Path] = {}
        self._executor: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
        self._pending.clear()

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        self._paths[key] = path.resolve()

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        # It is loaded only when something is to be computed.
        from loky import BrokenProcessPool, ProcessPoolExecutor

        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self.workers,
                timeout=IDLE_SECONDS,
                initializer=_begin,
                initargs=(self.threads,),
                env={"OMP_NUM_THREADS": str(self.threads)},
            )
        paths = {key: self._paths[key] for key in keys}
        try:
            self._pending[self._executor.submit(_compute, work.key, work.make, item, paths)] = place
        except BrokenProcessPool as error:
            raise killed("loky", error) from error

    def receive(self) -> tuple[int, Any]:
        from loky import BrokenProcessPool

        place, future = self._next()
        try:
            return place, future.result()
        except BrokenProcessPool as error:
            raise killed("loky", error) from error


def cores() -> int:
    """Count the cores that this process may use, in a container too.

    Returns:
        The number of cores.
    """
    from loky import cpu_count

    count: int = cpu_count()
    return count


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    # Ctrl-C reaches every process of a terminal; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _compute(key: str, make: Callable[[], Worker], item: Any, paths: dict[str, Path]) -> Any:
    return computed(once(key, make), item, {name: mapped(path) for name, path in paths.items()})
