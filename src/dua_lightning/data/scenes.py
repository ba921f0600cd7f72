"""The common part of the scene benchmarks: they divide a pool of pictures."""

from collections.abc import Mapping

from dua_lightning.data.benchmark import Benchmark, assemble
from dua_lightning.data.images import Images
from dua_lightning.data.pool import SERVER, Pool
from dua_lightning.errors import InputError


def scenes(
    pool: Pool,
    users: Mapping[str, Images],
    seed: int,
    input_size: int,
    augment: bool,
    batch_size: int,
    user_batch_size: int,
    users_labelled: bool,
    iterations: int,
) -> Benchmark:
    """Make a benchmark whose server trains on the pool's server side, with the users' images as given.

    Args:
        pool: The pool.
        users: Each user's images, by the user's name.
        seed: The run's seed.
        input_size: The side of the network's input, in pixels.
        augment: Whether training images are cut and mirrored at random.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: A number cannot be met.
    """
    crop = cut(pool, input_size)
    return assemble(
        pool.tasks,
        pool.take(pool.where(SERVER), crop),
        users,
        seed,
        batch_size,
        user_batch_size,
        users_labelled,
        iterations,
        augment,
        pool.categories,
        pool.preprocessing(crop),
    )


def unowned(pool: Pool, benchmark: str) -> None:
    """Refuse a pool whose pictures already belong to users, whom a benchmark would mix up.

    Args:
        pool: The pool.
        benchmark: The name of the benchmark, for the message.

    Raises:
        InputError: The pool has users.
    """
    if pool.users:
        raise InputError(
            f"the pictures of the pool {pool.name} belong to users, and {benchmark} would divide them anew; use the "
            "benchmark own_users, or leave ROOT/users out"
        )


def cut(pool: Pool, input_size: int) -> int:
    """Check that an input can be cut from the pool's stored pictures.

    Args:
        pool: The pool.
        input_size: The side of the network's input, in pixels.

    Returns:
        `input_size`.

    Raises:
        InputError: The stored pictures are smaller, or `input_size` is less than 1.
    """
    stored = pool.pixels.shape[2]
    if not 1 <= input_size <= stored:
        raise InputError(
            f"input_size={input_size} cannot be cut from pictures stored at {stored} pixels; "
            "make it smaller, or the stored size larger"
        )
    return input_size
