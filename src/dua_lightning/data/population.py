"""A synthetic population: as many users as asked for, each made when it is visited.

[Hsu2019] T.-M. H. Hsu, H. Qi, M. Brown. Measuring the effects of non-identical data distribution for federated visual
classification. 2019 (preferences drawn from a Dirichlet distribution).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.corrupted import seen_through
from dua_lightning.data.corruptions import NAMES
from dua_lightning.data.images import Images
from dua_lightning.data.pool import SERVER, Pool
from dua_lightning.data.scenes import cut, scenes, unowned
from dua_lightning.data.splits import by_task
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.streams import derive
from dua_lightning.tasks import Task

MOST_USERS = 10**9
"""More users than this no run could visit."""
LEAST_CONCENTRATION, MOST_CONCENTRATION = 1e-2, 1e6
"""Below, a preference is for one category as far as floating point can tell; above, for all alike."""


def population(
    seed: int,
    images: Pool,
    users: int = 1000,
    fewest_images: int = 10,
    most_images: int = 40,
    concentration: float = 1.0,
    constants: Literal["tiny_imagenet_c", "imagenet_c"] = "tiny_imagenet_c",
    input_size: int = 32,
    augment: bool = False,
    batch_size: int = 20,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 1,
) -> Benchmark:
    """`users` users, each with a transform, a severity, preferences and sizes drawn from a stream of its own.

    User k, whatever the number of users, draws from the stream `(seed, "population", k)`: one transform of
    `corruptions.NAMES` at severity 1 to 5, and for each task a number of pictures between `fewest_images` and
    `most_images`, as likely twice as many as half, and preferences over its categories from a symmetric Dirichlet
    distribution [Hsu2019]; `concentration`: small for users who know one category, large for users who know all alike.
    Pictures are drawn from those that are not the server's, of a category as many as there are at most. Two users may
    have the same picture, each behind its own transform. Raises `InputError` for numbers that cannot be met.
    """
    unowned(images, "population")
    crop = cut(images, input_size)
    if not 1 <= users <= MOST_USERS:
        raise InputError(f"data.users={users} cannot be used: a population has 1 to {MOST_USERS} users")
    largest = max(task.classes.stop - task.classes.start for task in images.tasks)
    if not largest < fewest_images <= most_images:
        raise InputError(
            f"data.fewest_images={fewest_images} and data.most_images={most_images} cannot be used: a user has more "
            f"pictures of a task than it has categories, here at least {largest + 1}, and the fewest are not more than "
            "the most"
        )
    if not LEAST_CONCENTRATION <= concentration <= MOST_CONCENTRATION:
        raise InputError(
            f"data.concentration={concentration} cannot be used: it is between {LEAST_CONCENTRATION:g} and "
            f"{MOST_CONCENTRATION:g}"
        )
    mine = images.side != SERVER
    for label, category in enumerate(images.categories):
        if int((images.labels[mine] == label).sum()) < 2:
            raise InputError(f"category {category} has fewer than 2 pictures for users; give it more, or leave it out")
    benchmark = scenes(images, {}, seed, input_size, augment, batch_size, user_batch_size, users_labelled, iterations)
    plain = images.take(mine.nonzero()[:, 0], crop)
    drawn = Population(
        users,
        images.tasks,
        plain,
        tuple((plain.labels == label).nonzero()[:, 0] for label in range(len(images.categories))),
        seed,
        (fewest_images, most_images),
        concentration,
        constants,
        user_batch_size,
        users_labelled,
    )
    return replace(benchmark, users=drawn)


@dataclass(frozen=True)
class Population(Sequence[UserData]):
    """`size` users, none of whom is kept. `plain`: the pictures they may have; `places[label]`: those of a category."""

    size: int
    tasks: tuple[Task, ...]
    plain: Images
    places: tuple[torch.Tensor, ...]
    seed: int
    sizes: tuple[int, int]
    concentration: float
    constants: str
    batch_size: int
    labelled: bool

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> UserData: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[UserData]: ...

    def __getitem__(self, index: int | slice) -> UserData | Sequence[UserData]:
        """User `index`, counted from 0; its name counts from 1. Raises `IndexError` beyond the last one."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self.size))]
        k = range(self.size)[index] + 1
        random = np.random.default_rng(derive(self.seed, "population", k))
        transform, severity = NAMES[random.integers(len(NAMES))], int(random.integers(1, 6))
        rows = torch.cat([self._drawn(task, random) for task in self.tasks]).sort().values
        name = f"user_{k}"
        own = seen_through(transform, self.plain[rows], severity, self.constants, self.seed, user=name)
        images = by_task(own, [task.classes for task in self.tasks])
        return UserData(name, images, self.tasks, self.seed, batch_size=self.batch_size, labelled=self.labelled)

    def _drawn(self, task: Task, random: np.random.Generator) -> torch.Tensor:
        """Places in `plain` of the user's pictures of one task.

        A task's pictures are more than its categories, so that one category has at least two to be split.
        """
        fewest, most = self.sizes
        count = round(float(np.exp(random.uniform(np.log(fewest), np.log(most)))))
        places = self.places[task.classes]
        wanted = random.multinomial(count, random.dirichlet([self.concentration] * len(places)))
        chosen = [of[random.permutation(len(of))[:size]] for of, size in zip(places, wanted.tolist(), strict=True)]
        return torch.cat(chosen)
