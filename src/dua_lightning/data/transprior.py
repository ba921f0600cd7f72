"""TransPrior, the paper's second scene benchmark: ten users, the same pictures, a transform for each user."""

from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from typing import Literal

import torch
from torch import Tensor

from dua_lightning.code import CORRUPTIONS, version
from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.corruptions import NAMES, corrupt
from dua_lightning.data.images import Images
from dua_lightning.data.pool import EVALUATION, EXTRA, Pool
from dua_lightning.data.scenes import cut, scenes, unowned
from dua_lightning.errors import InputError
from dua_lightning.streams import generator


def transprior(
    seed: int,
    images: Pool,
    severity: int = 3,
    constants: Literal["tiny_imagenet_c", "imagenet_c"] = "tiny_imagenet_c",
    extra_per_task: int | None = 1000,
    input_size: int = 224,
    augment: bool = True,
    batch_size: int = 30,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 5,
) -> Benchmark:
    """One user for each transform of `corruptions.NAMES`, in the paper's order (Figure 2).

    Under the transform all users have identical pictures: `extra_per_task` of the extra ones of each task (all of them
    with `None`), drawn from the stream `(seed, "transprior", task)`, and all evaluation ones. The random numbers of a
    transform come from seed, user and picture. Raises `InputError` for a task with fewer extra pictures than asked for.
    """
    unowned(images, "transprior")
    cut(images, input_size)
    drawn = [images.where(EVALUATION)]
    for task in images.tasks:
        extra = images.where(EXTRA, range(task.classes.start, task.classes.stop))
        wanted = len(extra) if extra_per_task is None else extra_per_task
        if not 0 <= wanted <= len(extra):
            raise InputError(
                f"task {task.name} has {len(extra)} extra pictures, and data.extra_per_task={wanted} asks for others; "
                "give at most as many, or leave it null for all"
            )
        order = torch.randperm(len(extra), generator=generator(seed, "transprior", task.name))
        drawn.append(extra[order[:wanted]])
    plain = images.take(torch.cat(drawn).sort().values, input_size)
    users = {name: _seen_through(name, plain, severity, constants, seed) for name in NAMES}
    return scenes(images, users, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)


def _seen_through(name: str, plain: Images, severity: int, constants: str, seed: int) -> Images:
    """The pictures as the user called `name` sees them; transformed when they are first read."""
    store = Corrupted(name, plain, severity, constants, seed)
    return replace(plain, store=store, rows=torch.arange(len(plain)))


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Pictures behind a transform, `(n, 3, height, width)` uint8 when indexed.

    They are transformed once, whole, and kept until another user's are read: ten users' copies of MIT Indoor Scenes
    would not fit in memory, and users are visited one after another.
    """

    name: str
    plain: Images
    severity: int
    constants: str
    seed: int

    def __getitem__(self, rows: Tensor) -> Tensor:
        return _transformed(self)[rows]

    def digest(self, rows: Tensor) -> str:
        made_of = (version(CORRUPTIONS), self.name, self.plain.digest(), self.severity, self.constants, self.seed)
        return sha256(repr((made_of, rows.tolist())).encode()).hexdigest()


@lru_cache(maxsize=1)
def _transformed(lazy: Corrupted) -> Tensor:
    plain = lazy.plain
    return corrupt(
        lazy.name, plain.pixels, lazy.severity, plain.sources, seed=lazy.seed, user=lazy.name, constants=lazy.constants
    )
