"""Users as the pictures come: the folders under `users/` of a folder of pictures."""

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.pool import Pool
from dua_lightning.data.scenes import cut, scenes
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
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: The pool has no users.
    """
    if not images.users:
        raise InputError(
            f"the pictures of the pool {images.name} belong to no users; put them under ROOT/users/USER/TASK/CATEGORY, "
            "or use the benchmark catprior or transprior, which divide them"
        )
    crop = cut(images, input_size)
    users = {
        name: images.take((images.owners == place).nonzero()[:, 0], crop) for place, name in enumerate(images.users)
    }
    return scenes(images, users, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
