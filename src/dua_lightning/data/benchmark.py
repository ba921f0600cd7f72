"""A benchmark: tasks, the server's data and the users'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dua_lightning.data.images import Images
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.data.server import ServerTask
from dua_lightning.data.splits import by_task, split
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.streams import generator
from dua_lightning.tasks import Task


@dataclass(frozen=True)
class Benchmark:
    """Everything that a run works on: tasks, the server's data and the users'.

    Args:
        tasks: The tasks in the order of learning.
        server: The server's data of each task.
        users: The users; the sequence may make each user only when it is asked for.
        shape: The shape of one input.
        categories: The name of each column of the shared head.
        iterations: The number of Monte-Carlo draws of each user's halves.
        preprocessing: How a picture file becomes an input; `None` where inputs do not come from picture files.
    """

    tasks: tuple[Task, ...]
    server: tuple[ServerTask, ...]
    users: Sequence[UserData]
    shape: tuple[int, ...]
    categories: tuple[str, ...]
    iterations: int
    preprocessing: Preprocessing | None = None

    @property
    def classes(self) -> int:
        """The number of columns of the shared head."""
        return len(self.categories)

    def after(self, data: UserData) -> UserData:
        """Give the user who comes after another one; the first one comes after the last.

        Args:
            data: A user's data.

        Returns:
            The next user's data, in the halves of the same draw.

        Raises:
            InputError: There is no other user.
        """
        count = len(self._places)
        if count < 2:
            raise InputError(f"the benchmark has no other user than {data.user}; give it at least two")
        return self.users[(self._places[data.user] + 1) % count].draw(data.iteration)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The place of each user, by name."""
        return {someone.user: place for place, someone in enumerate(self.users)}


def digit_tasks(count: int = 5) -> tuple[Task, ...]:
    """Make the tasks {0, 1}, {2, 3}, ... of the Numbers benchmark.

    Args:
        count: The number of tasks, 1 to 5.

    Returns:
        The first `count` tasks.

    Raises:
        InputError: Ten digits do not make so many tasks.

    Examples:
        >>> [task.name for task in digit_tasks(2)]
        ['0-1', '2-3']
    """
    if not 1 <= count <= 5:
        raise InputError(f"ten digits make 1 to 5 tasks of two, got tasks={count}")
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
    categories: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Benchmark:
    """Assemble a benchmark from the server's images and each user's, of all tasks together.

    The server's images are split 80/20 into training and validation, per class, by the stream
    `(seed, "validation", task)`.

    Args:
        tasks: The tasks in the order of learning.
        server: The server's images.
        users: Each user's images, by the user's name.
        seed: The run's seed.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.
        augment: Whether training images are cut and mirrored at random.
        categories: The name of each class, by label; by default its number.
        preprocessing: How a picture file becomes an input, if inputs come from picture files.

    Returns:
        The benchmark.

    Raises:
        InputError: A number is less than 1, or the server or a user has too few images of a task.
    """
    for name, size in (
        ("batch_size", batch_size),
        ("user_batch_size", user_batch_size),
        ("iterations", iterations),
    ):
        if size < 1:
            raise InputError(f"{name} is at least 1, got {size}")
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
        tuple(map(str, range(tasks[-1].classes.stop)) if categories is None else categories),
        iterations,
        preprocessing,
    )
