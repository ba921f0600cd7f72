"""One interface for all engines: share tensors once, submit items, receive results as they finish."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from dua_lightning.errors import InputError
from dua_lightning.store.tensorfile import Tensors, load

Shared = Mapping[str, Tensors]
"""Tensors that all items read and none writes to, by key."""
Worker = Callable[[Any, Shared], Any]
"""A pure function from an item and shared tensors to the result, so that a lost item can be computed elsewhere."""

MOST_WORKERS = 10_000
"""No cluster would give one run more workers."""
AHEAD = 2
"""Items under way for each worker: one that it computes, and the next, so that it never waits."""


@dataclass(frozen=True)
class Work:
    """The way in which a process comes to its worker.

    Args:
        key: A name for the worker; equal names stand for equal workers.
        make: A function that makes the worker, called once in each process.
        own: The worker of the present process.
        items: The number of its items; their places count from 0.
        device: The type of the device on which the worker computes.
    """

    key: str
    make: Callable[[], Worker]
    own: Worker
    items: int = 1
    device: str = "cpu"


@runtime_checkable
class Engine(Protocol):
    """Computes items; a context manager that ends what it started, at once where an exception passes through it.

    Attributes:
        room: How many items are worth having under way.
        by_path: Whether tensors are shared by the file that holds them, so that they must lie in the store.
    """

    room: int
    by_path: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def pending(self) -> int:
        """The number of items that were submitted and whose results have not been received."""

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        """Make tensors known to all workers.

        Args:
            key: The name under which items ask for them.
            path: The entry of the store that holds them if `by_path`.
            tensors: The tensors.
        """

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        """Have an item computed.

        Args:
            work: The way to the worker.
            place: A number that comes back with the result.
            item: The item, plain values.
            keys: The names of the shared tensors that it needs.

        Raises:
            InputError: No worker can be started.
        """

    def receive(self) -> tuple[int, Any]:
        """Wait for an item that has finished.

        Returns:
            The place that it was submitted with, and its result.

        Raises:
            InputError: Workers were killed. An exception of the worker itself is raised as it is.
        """


class Pending:
    """Items under way as futures; waiting for them lets signals through."""

    def __init__(self) -> None:
        self._pending: dict[Future[Any], int] = {}

    @property
    def pending(self) -> int:
        """The number of items that were submitted and whose results have not been received."""
        return len(self._pending)

    def _next(self) -> tuple[int, Future[Any]]:
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        future = next(iter(done))
        return self._pending.pop(future), future


_made: dict[str, Worker] = {}


def once(key: str, make: Callable[[], Worker]) -> Worker:
    """Give the worker of this process, made if it is not there; a worker of another key is let go.

    Args:
        key: The worker's name.
        make: A function that makes the worker.

    Returns:
        The worker.
    """
    if key not in _made:
        _made.clear()
        _made[key] = make()
    return _made[key]


@cache
def mapped(path: Path) -> Tensors:
    """Map the tensors of an entry of the store into this process, once.

    Args:
        path: The entry.

    Returns:
        The tensors by name; processes that map the same entry share its memory.
    """
    # The parent has compared its name with its recipe.
    return load(path)[0]


def computed(worker: Worker, item: Any, shared: Shared) -> Any:
    """Compute an item, and see that the worker has left the shared tensors as they were.

    Args:
        worker: The worker.
        item: The item.
        shared: The tensors that it shares with others.

    Returns:
        The result.

    Raises:
        RuntimeError: The worker has written to a shared tensor.
    """
    result = worker(item, shared)
    for key, tensors in shared.items():
        # PyTorch counts the writes to a tensor, and has no public name for the count.
        if written := [name for name, tensor in tensors.items() if tensor._version]:
            raise RuntimeError(f"{written[0]} of {key} was written to, and other users' results depend on it")
    return result


def workers_or_all(workers: int | None, threads: int) -> int:
    """Check the number of workers, or take as many as fit.

    Args:
        workers: The number of workers; `None` stands for as many as this process may use cores, each with its threads.
        threads: The threads of each worker.

    Returns:
        The number of workers.

    Raises:
        InputError: A number is less than 1, or too large.
    """
    if threads < 1 or (workers is not None and not 1 <= workers <= MOST_WORKERS):
        raise InputError(
            f"workers={workers} with threads={threads} cannot be used: at least 1 thread, and 1 to "
            f"{MOST_WORKERS} workers, or None for one on each core"
        )
    # Not every system tells which cores a process may use.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return workers or max(1, cores // threads)


def killed(engine: str, error: Exception) -> InputError:
    """Make the error for workers that were killed.

    Args:
        engine: The engine's name.
        error: The exception by which it became known.

    Returns:
        The error, to be raised.
    """
    return InputError(
        f"a worker of the engine {engine} was killed, mostly for want of memory ({type(error).__name__}); start fewer "
        "workers and run again: finished results are in the store"
    )
