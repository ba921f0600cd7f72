"""Small workers, by name, for engines of every kind."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dua_lightning.engines import Engine, Serial, Shared, Work, Worker
from dua_lightning.errors import InputError
from dua_lightning.store.store import Recipe, Store
from dua_lightning.store.tensorfile import Tensors


def add(item: tuple[str, Any], shared: Shared) -> Any:
    """Do what the item asks for."""
    wish, value = item
    if wish == "sum":
        return sum(float(tensor.sum()) for tensors in shared.values() for tensor in tensors.values()) + value
    if wish == "threads":
        return torch.get_num_threads()
    if wish == "process":
        return os.getpid()
    if wish == "write":
        shared["a"]["x"].add_(1)
    if wish == "refuse":
        raise InputError(f"value={value} cannot be used; give another")
    if wish == "sleep":
        time.sleep(value)
    if wish == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if wish == "die once" and not Path(value).exists():
        Path(value).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return wish


def made(folder: str) -> Worker:
    """Notes in `folder` which process made it."""
    (Path(folder) / str(os.getpid())).open("x").close()
    return add


def work(folder: Path) -> Work:
    return Work(str(folder), partial(made, str(folder)), add)


def entry(root: Path, key: str, tensors: Tensors) -> Path:
    """An entry of a store, for engines that read it from there."""
    store, recipe = Store(root), Recipe("priors", {"key": key})
    store.put(recipe, tensors)
    return store.path(recipe)


def shared(engine: Engine, root: Path) -> None:
    """Tensors of several types, one without dimensions, under `a` and `b`."""
    for key, start in (("a", 0.0), ("b", 100.0)):
        tensors = {"x": torch.arange(1000.0) + start, "count": torch.tensor(3)}
        engine.share(key, entry(root, key, tensors), tensors)


def results(engine: Engine, work: Work, items: list[Any], keys: tuple[str, ...] = ()) -> list[Any]:
    """The results of the items in their order, as many under way as the engine likes."""
    found: dict[int, Any] = {}
    for place, item in enumerate(items):
        engine.submit(work, place, item, keys)
        while engine.pending >= engine.room:
            found |= [engine.receive()]
    while engine.pending:
        found |= [engine.receive()]
    return [found[place] for place in range(len(items))]


class Backwards(Serial):
    """Keeps some items under way, and gives the last of them first."""

    room = 7

    def receive(self) -> tuple[int, Any]:
        return self._done.pop()
