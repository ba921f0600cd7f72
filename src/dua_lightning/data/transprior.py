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
    """Make TransPrior: one user for each transform of `corruptions.NAMES`, in the paper's order (Figure 2).

    Under the transform all users have identical pictures: all evaluation ones, and extra ones of each task that are
    drawn from the stream `(seed, "transprior", task)`. The random numbers of a transform come from seed, user and
    picture.

    Args:
        seed: The run's seed.
        images: The pool.
        severity: 1 (mild) to 5 (strong).
        constants: The set of constants of the transforms, a key of `corruptions.CONSTANTS`.
        extra_per_task: Extra pictures of each task; all of them with `None`.
        input_size: The side of the network's input, in pixels.
        augment: Whether training images are cut and mirrored at random.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: A number cannot be met, as for a task with fewer extra pictures than asked for.
    """
    unowned(images, "transprior")
    cut(images, input_size)
    drawn = [images.where(EVALUATION)]
    for task in images.tasks:
        extra = images.where(EXTRA, range(task.classes.start, task.classes.stop))
        wanted = len(extra) if extra_per_task is None else extra_per_task
        if not 0 <= wanted <= len(extra):
            raise InputError(
                f"task {task.name} has {len(extra)} extra pictures, and extra_per_task={wanted} asks for others; "
                "give at most as many, or None for all"
            )
        order = torch.randperm(len(extra), generator=generator(seed, "transprior", task.name))
        drawn.append(extra[order[:wanted]])
    plain = images.take(torch.cat(drawn).sort().values, input_size)
    users = {name: seen_through(name, plain, severity, constants, seed, user=name) for name in NAMES}
    return scenes(images, users, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
