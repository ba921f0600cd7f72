"""One interface for all engines: share tensors once, submit items, receive results as they finish."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from dua_lightning.errors import InputError
from dua_lightning.store.tensorfile import Tensors

Shared = Mapping[str, Tensors]
"""Tensors that all items read and none writes to, by key."""
Worker = Callable[[Any, Shared], Any]
"""Of an item and what it shares with others, the result; pure, so that a lost item is computed again elsewhere."""

MOST_WORKERS = 10_000
"""More than any cluster would give one run."""
AHEAD = 2
"""Items under way for each worker: one that it computes, and the next, so that it never waits."""


@dataclass(frozen=True)
class Work:
    """What a process computes with. `make` gives the worker, once in each process; `own` is it in the present one."""

    key: str
    make: Callable[[], Worker]
    own: Worker


@runtime_checkable
class Engine(Protocol):
    """Computes items; a context manager that ends what it started, at once where an exception passes through it.

    `room`: how many items are worth having under way. `by_path`: tensors are shared by the file that holds them, so
    that they must lie in the store.
    """

    room: int
    by_path: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def pending(self) -> int:
        """Items submitted whose results have not been received."""

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        """Make `tensors`, which the entry of the store at `path` holds if `by_path`, known to all workers."""

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        """Have the item computed with what was shared under `keys`. Raises `InputError` if no worker can be started."""

    def receive(self) -> tuple[int, Any]:
        """Place and result of an item that has finished; waits for one.

        Raises what the worker raised, and `InputError` if workers were killed.
        """


class Pending:
    """Items under way as futures; waiting for them lets signals through."""

    def __init__(self) -> None:
        self._pending: dict[Future[Any], int] = {}

    @property
    def pending(self) -> int:
        return len(self._pending)

    def _next(self) -> tuple[int, Future[Any]]:
        done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
        future = next(iter(done))
        return self._pending.pop(future), future


_made: dict[str, Worker] = {}


def once(key: str, make: Callable[[], Worker]) -> Worker:
    """The worker of this process under `key`; one of another key before it is let go."""
    if key not in _made:
        _made.clear()
        _made[key] = make()
    return _made[key]


def computed(worker: Worker, item: Any, shared: Shared) -> Any:
    """The result; raises `RuntimeError` if the worker has written to what it shares with others."""
    result = worker(item, shared)
    for key, tensors in shared.items():
        # PyTorch counts the writes to a tensor.
        if written := [name for name, tensor in tensors.items() if tensor._version]:
            raise RuntimeError(f"{written[0]} of {key} was written to, and other users' results depend on it")
    return result


def workers_or_all(workers: int | None, threads: int) -> int:
    """The number of workers, checked; with `None` as many as this process may use cores, each with its threads."""
    if threads < 1 or (workers is not None and not 1 <= workers <= MOST_WORKERS):
        raise InputError(
            f"engine.workers={workers} with engine.threads={threads} cannot be used: at least 1 thread, and 1 to "
            f"{MOST_WORKERS} workers, or null for one on each core"
        )
    return workers or max(1, len(os.sched_getaffinity(0)) // threads)


def killed(engine: str, error: Exception) -> InputError:
    """The refusal to go on without workers."""
    return InputError(
        f"a worker of engine={engine} was killed, mostly for want of memory ({type(error).__name__}); start fewer by "
        "engine.workers=N and run again: what is done is in the store"
    )
