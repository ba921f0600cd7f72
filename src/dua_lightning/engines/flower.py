"""Flower's simulation: items are messages to nodes, whose app runs in workers on this machine."""

import gc
import logging
import os
import pickle
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

import torch

from dua_lightning.engines.base import Work, computed, killed, mapped, once, workers_or_all
from dua_lightning.engines.ray import SETTINGS as RAY
from dua_lightning.errors import InputError
from dua_lightning.store.tensorfile import Tensors

SETTINGS = {**RAY, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Environment variables: neither Flower nor its Ray reports anything or listens beyond the loopback address."""
NODES = 8
"""Nodes for each worker: Flower hands out one message for each node ten times a second, so several must wait."""
POLL_SECONDS = 0.01
"""Flower's grid is asked so often for replies, since it has no way to wait for one."""
RECORD = "item"
"""The name of the one record in a message."""
YEAR = 365 * 24 * 3600.0
"""The life of a message in seconds; Flower would give an item up after twelve hours."""


class Flower:
    """Flower's simulation: a server app that sends items to nodes, whose client app computes them.

    Flower runs the client app in workers of Ray that it starts on this machine. Shared tensors are mapped from the
    store's files, as by loky, and the messages hold their paths: Flower would copy tensors with every message. An item
    whose worker is killed is computed again.

    The items and results in the messages are pickled. They never leave this machine, and Flower's simulation itself
    gives its apps and messages to its workers by pickle. Between a server and devices nothing is.

    Args:
        workers: The number of workers; by default as many as fit on the cores.
        threads: The threads of each worker.
        retries: How often an item is computed again.

    Raises:
        InputError: Flower or its Ray is not installed, or a number cannot be used.
    """

    by_path = True

    def __init__(self, workers: int | None = None, threads: int = 1, retries: int = 3) -> None:
        if find_spec("flwr") is None or find_spec("ray") is None:
            raise InputError(
                "the engine flower needs the packages flwr and ray; pip install 'dua_lightning[federation,ray]', or "
                "use the engine loky"
            )
        if retries < 0:
            raise InputError(f"retries={retries} cannot be used: it is at least 0")
        self.workers = workers_or_all(workers, threads)
        self.threads = threads
        self.retries = retries
        self.room = NODES * self.workers
        self._paths: dict[str, Path] = {}
        self._asked: dict[str, int] = {}
        self._answered: deque[tuple[int, Any]] = deque()
        self._grid: Any = None
        self._nodes: Iterator[int] = iter(())
        self._simulation: Thread | None = None
        self._ending = Event()
        self._failed: Exception | None = None

    @property
    def pending(self) -> int:
        """The number of items that were submitted and whose results have not been received."""
        return len(self._asked) + len(self._answered)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._simulation is not None and self._simulation.is_alive():
            from ray import kill
            from ray.actor import ActorHandle

            # Flower would wait for messages under way, and has no public name for its workers.
            for worker in [each for each in gc.get_objects() if type(each) is ActorHandle]:
                kill(worker)
            self._simulation.join()
        self._asked.clear()
        self._answered.clear()

    def share(self, key: str, path: Path, tensors: Tensors) -> None:
        self._paths[key] = path.resolve()

    def submit(self, work: Work, place: int, item: Any, keys: Sequence[str]) -> None:
        self._start()
        from flwr.app import ConfigRecord, Message, RecordDict

        paths = {key: self._paths[key] for key in keys}
        content: Any = {RECORD: ConfigRecord({RECORD: pickle.dumps((self.threads, work.key, work.make, item, paths))})}
        message = Message(RecordDict(content), next(self._nodes), "query", ttl=YEAR)
        (name,) = self._grid.push_messages([message])
        self._asked[name] = place

    def receive(self) -> tuple[int, Any]:
        while not self._answered:
            for reply in self._grid.pull_messages(self._asked):
                self._answered.append((self._asked.pop(reply.metadata.reply_to_message_id), reply))
            if not self._answered:
                self._wait()
        place, reply = self._answered.popleft()
        if reply.has_error():
            raise _lost(reply.error.reason)
        # It comes from a worker that this run has started on this machine.
        result, error, trace = pickle.loads(reply.content[RECORD][RECORD])  # noqa: S301
        if error is not None:
            raise error from RuntimeError(trace)
        return place, result

    def _start(self) -> None:
        if self._simulation is not None:
            return
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._simulation = Thread(target=self._simulate, name="flower", daemon=True)
        self._simulation.start()
        while self._grid is None or len(found := list(self._grid.get_node_ids())) < self.room:
            self._wait()
        self._nodes = cycle(found)

    def _wait(self) -> None:
        """Wait a moment for the simulation, and see that it is there."""
        time.sleep(POLL_SECONDS)
        if self._simulation is None or not self._simulation.is_alive():
            raise RuntimeError("Flower's simulation has ended by itself") from self._failed

    def _simulate(self) -> None:
        """Run the simulation until it is to end; its server app hands the grid to the thread of the engine."""
        from flwr.clientapp import ClientApp
        from flwr.serverapp import ServerApp
        from flwr.simulation import run_simulation

        # Flower tells of every step and of each killed worker, and Ray of what a later version will do.
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")

        def serve(grid: Any, context: Any) -> None:
            self._grid = grid
            self._ending.wait()

        server, client = ServerApp(), ClientApp()
        server.main()(serve)
        client.query()(_compute)
        here: Any = {"address": "local", "num_cpus": self.workers * self.threads, "_node_ip_address": "127.0.0.1"}
        quiet: Any = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        # Flower hands these options to Ray; without the last two each killed worker would fail all later items.
        worker: Any = {"num_cpus": self.threads, "max_restarts": -1, "max_task_retries": self.retries}
        try:
            run_simulation(
                server, client, self.room, backend_config={"init_args": here | quiet, "client_resources": worker}
            )
        except Exception as error:
            self._failed = error


def _lost(reason: str) -> Exception:
    """The exception for an item that has no result: its worker was killed, or could not answer."""
    return RuntimeError(reason) if "RayTaskError" in reason else killed("flower", ChildProcessError(reason))


def _compute(message: Any, context: Any) -> Any:
    """Compute an item: the client app."""
    from flwr.app import ConfigRecord, Message, RecordDict

    # It comes from the run that has started this worker on this machine.
    threads, key, make, item, paths = pickle.loads(message.content[RECORD][RECORD])  # noqa: S301
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    answer: tuple[Any, Exception | None, str]
    try:
        answer = computed(once(key, make), item, {name: mapped(path) for name, path in paths.items()}), None, ""
    except Exception as error:
        answer = None, error, traceback.format_exc()
    return Message(RecordDict({RECORD: ConfigRecord({RECORD: pickle.dumps(answer)})}), reply_to=message)
