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
    benchmark = scenes(images, {}, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
    users = (user(images, place, crop, seed, user_batch_size, users_labelled) for place in range(len(images.users)))
    return replace(benchmark, users=tuple(users))


def user(images: Pool, place: int, crop: int, seed: int, batch_size: int, labelled: bool) -> UserData:
    """Give the data of one user of a pool.

    Args:
        images: A pool whose pictures belong to users.
        place: The user's place in the pool.
        crop: The side of the central cut that the network sees, in pixels.
        seed: The run's seed.
        batch_size: Images of a batch in which phi takes a step.
        labelled: Whether labels of the user-validation images may be seen, where there are some.

    Returns:
        The data, in the halves of the first draw.
    """
    own = images.owners == place
    of_tasks = [(own & (images.places == task)).nonzero()[:, 0] for task in range(len(images.tasks))]
    unsorted = (own & (images.places < 0)).nonzero()[:, 0]
    halves = images.halves if images.halves is not None and images.halves.any() else None
    return UserData(
        images.users[place],
        [images.take(index, crop) for index in of_tasks],
        images.tasks,
        seed,
        batch_size=batch_size,
        labelled=labelled,
        halves=None if halves is None else [halves[index] for index in of_tasks],
        unsorted=images.take(unsorted, crop) if len(unsorted) else None,
    )
