"""A small pool of pictures, each filled with noise of its own."""

import torch

from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.tasks import Task

SIZE = 12


def pool(
    tasks: int = 2,
    categories: int = 3,
    server: int = 6,
    evaluation: int = 10,
    extra: int = 20,
    users: tuple[str, ...] = (),
) -> Pool:
    """`tasks` tasks of `categories` categories; with `users` the extra pictures are theirs, in turn."""
    labels, side = [], []
    for label in range(tasks * categories):
        for where, count in ((SERVER, server), (EVALUATION, evaluation), (EXTRA, extra)):
            labels += [label] * count
            side += [where] * count
    n = len(labels)
    owners = torch.full((n,), -1)
    if users:
        mine = (torch.tensor(side) == EXTRA).nonzero()[:, 0]
        owners[mine] = torch.arange(len(mine)) % len(users)
    stream = torch.Generator().manual_seed(0)
    return Pool(
        "noise",
        tuple(Task(f"t{t}", slice(t * categories, (t + 1) * categories)) for t in range(tasks)),
        tuple(f"c{label}" for label in range(tasks * categories)),
        torch.randint(0, 256, (n, 3, SIZE, SIZE), dtype=torch.uint8, generator=stream),
        torch.tensor(labels),
        torch.arange(n),
        torch.tensor(side, dtype=torch.uint8),
        owners,
        users,
    )
