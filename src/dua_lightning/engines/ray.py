"""Ray: workers on this machine, or on all machines of a running cluster."""

import os
import signal
import socket
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import current_thread, main_thread
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from dua_lightning.engines.base import AHEAD, Pending, Work, Worker, computed, killed, once, workers_or_all
from dua_lightning.errors import InputError
from dua_lightning.store.tensorfile import Tensors

PROBE_SECONDS = 5.0
"""So many seconds a cluster's address has to answer; Ray itself would try for minutes."""
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment variables: Ray reports nothing, and processes started here listen on the loopback address alone."""


class Ray(Pending):
    """Workers of Ray, on this machine or on all machines of a running cluster.

    Shared tensors are put into Ray's object store once and read there without a copy. An item whose worker is killed is
    computed again.

    Args:
        workers: The number of workers on this machine; by default as many as fit on the cores.
        threads: The threads of each worker.
        address: `HOST:PORT` of a cluster that this machine belongs to, which has workers of its own, or `auto`: that of
            RAY_ADDRESS, or else the one that was started here.
        retries: How often an item is computed again.

    Raises:
        InputError: Ray is not installed, a number cannot be used, or the cluster does not answer or is too small.
    """

    by_path = False

    def __init__(
        self, workers: int | None = None, threads: int = 1, address: str | None = None, retries: int = 3
    ) -> None:
        super().__init__()
        if find_spec("ray") is None:
            raise InputError(
                "the engine ray needs the package ray; pip install 'dua_lightning[ray]', or use the engine loky"
            )
        if retries < 0:
            raise InputError(f"retries={retries} cannot be used: it is at least 0")
        if address is not None and workers is not None:
            raise InputError(
                f"workers={workers} is for workers that are started here, and address={address} has its "
                "own; leave one of them out"
            )
        self.workers = workers_or_all(workers, threads)
        self.threads = threads
        self.address = address
        self._found = ""
        self.retries = retries
        self.room = AHEAD * self.workers
        self._ray: Any = None
        self._compute: Any = None
        self._shared: dict[str, Any] = {}
        self._makers: dict[str, Any] = {}
        self._references: dict[Any, Any] = {}

    def __enter__(self) -> Self:
        if self.address is not None:
            self._found = _answering(self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ray is not None:
            for future in self._pending:
                self._ray.cancel(self._references[future], force=True)
            self._ray.shutdown()
        self._pending.clear()

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        if key not in self._shared:
            self._start()
            self._shared[key] = self._ray.put({name: tensor.numpy() for name, tensor in tensors.items()})

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        self._start()
        if work.key not in self._makers:
            self._makers[work.key] = self._ray.put(work.make)
        shared = [self._shared[key] for key in keys]
        reference = self._compute.remote(self.threads, work.key, self._makers[work.key], item, list(keys), *shared)
        future = reference.future()
        self._pending[future] = place
        self._references[future] = reference

    def receive(self) -> tuple[int, Any]:
        place, future = self._next()
        del self._references[future]
        errors = self._ray.exceptions
        try:
            return place, future.result()
        except errors.RayTaskError as error:
            raise (error.cause or error) from error
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError) as error:
            raise killed("ray", error) from error

    def _start(self) -> None:
        if self._ray is not None:
            return
        place: dict[str, Any] = {"address": self.address}
        if self.address is None:
            for name, value in SETTINGS.items():
                os.environ.setdefault(name, value)
            cores = self.workers * self.threads
            # No public argument says at which address it listens.
            place = {"address": "local", "num_cpus": cores, "_node_ip_address": "127.0.0.1"}
        import ray

        # Ray takes SIGTERM for itself, in the one thread that can.
        taken = (signal.SIGINT, signal.SIGTERM) if current_thread() is main_thread() else ()
        handlers = [(number, signal.getsignal(number)) for number in taken]
        try:
            ray.init(**place, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ray.exceptions.AuthenticationError) as error:
            raise InputError(
                f"address={self.address} answers at {self._found}, but is no Ray cluster or wants its token; if "
                "it is one, set RAY_AUTH_MODE=token and see that ~/.ray/auth_token is that of its head"
            ) from error
        finally:
            for number, handler in handlers:
                signal.signal(number, handler)
        self._ray = ray
        self._compute = ray.remote(num_cpus=self.threads, max_retries=self.retries)(_compute)
        if self.address is not None:
            machines = [int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"]]
            self.room = AHEAD * sum(cores // self.threads for cores in machines)
            if not self.room:
                # Ray would wait for a larger machine.
                raise InputError(
                    f"threads={self.threads} is more than any machine of the cluster at {self._found} has cores "
                    f"({max(machines, default=0)}); give fewer, or add a machine by `ray start --address={self._found}`"
                )


def _answering(address: str) -> str:
    """Find `HOST:PORT` of the cluster, for `auto` as Ray does, and see that it answers."""
    found = address
    try:
        if address == "auto":
            # Nothing public says which cluster `auto` is; `ray.init` would wait minutes for one that is gone.
            from ray._private.services import canonicalize_bootstrap_address

            found = os.environ.get("RAY_ADDRESS") or str(canonicalize_bootstrap_address(address))
        host, _, port = found.rpartition(":")
        socket.create_connection((host, int(port)), PROBE_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        named = address if found == address else f"{address}, which is {found},"
        raise InputError(
            f"address={named} is no running Ray cluster; start one by `ray start --head`, give HOST:PORT or "
            "auto, or leave it out to start workers here"
        ) from error
    return found


def _compute(
    threads: int,
    key: str,
    make: Callable[[], Worker],
    item: Any,
    keys: Sequence[str],
    *shared: dict[str, np.ndarray],
) -> Any:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    with warnings.catch_warnings():
        # The arrays cannot be written to, and tensors would not know; `computed` looks.
        warnings.simplefilter("ignore", UserWarning)
        tensors = [{name: torch.from_numpy(array) for name, array in arrays.items()} for arrays in shared]
    return computed(once(key, make), item, dict(zip(keys, tensors, strict=True)))
