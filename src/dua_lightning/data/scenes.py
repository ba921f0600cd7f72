"""What CatPrior and TransPrior share: a benchmark from a pool of pictures."""

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
    """The server trains on the pool's server side, each user has the images given."""
    return assemble(
        pool.tasks,
        pool.take(pool.where(SERVER), cut(pool, input_size)),
        users,
        seed,
        batch_size,
        user_batch_size,
        users_labelled,
        iterations,
        augment,
    )


def unowned(pool: Pool, benchmark: str) -> None:
    """Raise `InputError` if the pool's pictures already belong to users, whom `benchmark` would mix up."""
    if pool.users:
        raise InputError(
            f"the pictures of data/images={pool.name} belong to users, and data={benchmark} would divide them anew; "
            "use data=own_users, or leave ROOT/users out"
        )


def cut(pool: Pool, input_size: int) -> int:
    """`input_size`, checked: what the network sees is cut from the pool's stored pictures."""
    stored = pool.pixels.shape[2]
    if not 1 <= input_size <= stored:
        raise InputError(
            f"data.input_size={input_size} cannot be cut from pictures stored at {stored} pixels; "
            "make it smaller, or data.images.size larger"
        )
    return input_size
