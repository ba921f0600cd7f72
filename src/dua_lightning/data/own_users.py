"""Users as the pictures come: those whose folders are under `users/` of `data/images=folder`."""

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
    """Every user of the pool with the pictures that are theirs. Raises `InputError` for a pool without users."""
    if not images.users:
        raise InputError(
            f"the pictures of data/images={images.name} belong to no users; put them under "
            "ROOT/users/USER/TASK/CATEGORY, or divide them by data=catprior or data=transprior"
        )
    crop = cut(images, input_size)
    users = {
        name: images.take((images.owners == place).nonzero()[:, 0], crop) for place, name in enumerate(images.users)
    }
    return scenes(images, users, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
