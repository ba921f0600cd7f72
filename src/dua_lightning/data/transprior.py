"""TransPrior, the paper's second scene benchmark: ten users, the same pictures, a transform for each user."""

from typing import Literal

import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.corrupted import seen_through
from dua_lightning.data.corruptions import NAMES
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
    users = {name: seen_through(name, plain, severity, constants, seed, user=name) for name in NAMES}
    return scenes(images, users, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
