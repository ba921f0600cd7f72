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
"""No run could visit more users than this."""
LEAST_CONCENTRATION, MOST_CONCENTRATION = 1e-2, 1e6
"""Below the first, users know one category as far as floating point can tell; above the second, all alike."""


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
    """Make a population of users, each with a transform, a severity, preferences and sizes of their own.

    User k, whatever the number of users, draws from the stream `(seed, "population", k)`: one transform of
    `corruptions.NAMES` at severity 1 to 5, and for each task a number of pictures and preferences over its categories
    from a symmetric Dirichlet distribution [Hsu2019]. Pictures are drawn from those that are not the server's; no user
    has a picture twice. Two users may have the same picture, each behind their own transform.

    Args:
        seed: The run's seed.
        images: The pool that pictures are drawn from.
        users: The number of users.
        fewest_images: The smallest number of pictures of a task.
        most_images: The largest one; the number is drawn so that twice as many are as likely as half.
        concentration: The parameter of the Dirichlet distribution: small for users who know one category, large for
            users who know all alike.
        constants: The set of constants of the transforms, a key of `corruptions.CONSTANTS`.
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
    unowned(images, "population")
    crop = cut(images, input_size)
    if not 1 <= users <= MOST_USERS:
        raise InputError(f"users={users} cannot be used: a population has 1 to {MOST_USERS} users")
    largest = max(task.classes.stop - task.classes.start for task in images.tasks)
    if not largest < fewest_images <= most_images:
        raise InputError(
            f"fewest_images={fewest_images} and most_images={most_images} cannot be used: a user has more "
            f"pictures of a task than it has categories, here at least {largest + 1}, and the fewest are not more than "
            "the most"
        )
    if not LEAST_CONCENTRATION <= concentration <= MOST_CONCENTRATION:
        raise InputError(
            f"concentration={concentration} cannot be used: it is between {LEAST_CONCENTRATION:g} and "
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
    """A sequence of users, each made when it is asked for and not kept.

    Args:
        size: The number of users.
        tasks: The tasks.
        plain: The pictures that users may have, without a transform.
        places: For each label, the places in `plain` of the pictures of that category.
        seed: The run's seed.
        sizes: The smallest and the largest number of a user's pictures of a task.
        concentration: The parameter of the Dirichlet distribution of preferences.
        constants: The set of constants of the transforms.
        batch_size: Images of a batch in which phi takes a step.
        labelled: Whether the users' images have labels.
    """

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
        """Draw places in `plain` for a user's pictures of one task.

        A task's pictures are more than its categories, so that one category has at least two to be split.
        """
        fewest, most = self.sizes
        count = round(float(np.exp(random.uniform(np.log(fewest), np.log(most)))))
        places = self.places[task.classes]
        wanted = random.multinomial(count, random.dirichlet([self.concentration] * len(places)))
        chosen = [of[random.permutation(len(of))[:size]] for of, size in zip(places, wanted.tolist(), strict=True)]
        return torch.cat(chosen)
