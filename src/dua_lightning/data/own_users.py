"""Users as the pictures come: those of a pool whose pictures belong to users."""

from dataclasses import replace

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.pool import Pool
from dua_lightning.data.scenes import cut, scenes
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError


def own_users(
    seed: int,
    images: Pool,
    input_size: int = 224,
    augment: bool = True,
    batch_size: int = 30,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 5,
) -> Benchmark:
    """Make a benchmark of the users that a pool has, each with the pictures that are theirs.

    Args:
        seed: The run's seed.
        images: A pool whose pictures belong to users.
        input_size: The side of the network's input, in pixels.
        augment: Whether training images are cut and mirrored at random.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether labels of the users' user-validation images may be seen, where there are some.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: The pool has no users.
    """
    if not images.users:
        raise InputError(
            f"the pictures of the pool {images.name} belong to no users; put them under ROOT/users/USER, or name "
            "users in the table, or use the benchmark catprior or transprior, which divide them"
        )
    crop = cut(images, input_size)
    halves = images.halves if images.halves is not None and images.halves.any() else None

    def user(place: int, name: str) -> UserData:
        own = images.owners == place
        of_tasks = [(own & (images.places == task)).nonzero()[:, 0] for task in range(len(images.tasks))]
        unsorted = (own & (images.places < 0)).nonzero()[:, 0]
        return UserData(
            name,
            [images.take(index, crop) for index in of_tasks],
            images.tasks,
            seed,
            batch_size=user_batch_size,
            labelled=users_labelled,
            halves=None if halves is None else [halves[index] for index in of_tasks],
            unsorted=images.take(unsorted, crop) if len(unsorted) else None,
        )

    benchmark = scenes(images, {}, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
    return replace(benchmark, users=tuple(user(place, name) for place, name in enumerate(images.users)))
