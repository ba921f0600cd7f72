"""A benchmark: tasks, the server's data and the users'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dua_lightning.data.images import Images
from dua_lightning.data.server import ServerTask
from dua_lightning.data.splits import by_task, split
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.streams import generator
from dua_lightning.tasks import Task


@dataclass(frozen=True)
class Benchmark:
    """What a run works on.

    `users` may make each user only when it is asked for. `shape` is one input's, `classes` the number of columns of the
    shared head, `iterations` the number of Monte-Carlo draws of each user's halves.
    """

    tasks: tuple[Task, ...]
    server: tuple[ServerTask, ...]
    users: Sequence[UserData]
    shape: tuple[int, ...]
    classes: int
    iterations: int


def digit_tasks(count: int = 5) -> tuple[Task, ...]:
    """{0, 1}, {2, 3}, ...: the tasks of the Numbers benchmark.

    >>> [task.name for task in digit_tasks(2)]
    ['0-1', '2-3']
    """
    if not 1 <= count <= 5:
        raise InputError(f"ten digits make 1 to 5 tasks of two, got data.tasks={count}")
    return tuple(Task(f"{d}-{d + 1}", slice(d, d + 2)) for d in range(0, 2 * count, 2))


def assemble(
    tasks: Sequence[Task],
    server: Images,
    users: Mapping[str, Images],
    seed: int,
    batch_size: int,
    user_batch_size: int,
    users_labelled: bool,
    iterations: int,
    augment: bool = False,
) -> Benchmark:
    """A benchmark from the server's images and each user's, of all tasks together.

    The server's images are split 80/20 into training and validation, per class, by the stream
    `(seed, "validation", task)`; with `augment` the training ones are cut and mirrored at random. Raises `InputError`
    for a side that lacks a task.
    """
    for name, size in (
        ("batch_size", batch_size),
        ("user_batch_size", user_batch_size),
        ("iterations", iterations),
    ):
        if size < 1:
            raise InputError(f"data.{name} is at least 1, got {size}")
    columns = [task.classes for task in tasks]
    parts = {who: by_task(images, columns) for who, images in {"the server": server, **users}.items()}
    for who, of_tasks in parts.items():
        for task, images in zip(tasks, of_tasks, strict=True):
            if len(images.sources.unique()) < 2:
                raise InputError(f"{who} has {len(images)} images of task {task.name}; two sides of a split need two")
    return Benchmark(
        tuple(tasks),
        tuple(
            ServerTask(task, *split(images, 0.8, generator(seed, "validation", task.name)), batch_size, seed, augment)
            for task, images in zip(tasks, parts["the server"], strict=True)
        ),
        tuple(
            UserData(name, parts[name], tasks, seed, batch_size=user_batch_size, labelled=users_labelled)
            for name in users
        ),
        server[:1].inputs().shape[1:],
        tasks[-1].classes.stop,
        iterations,
    )
