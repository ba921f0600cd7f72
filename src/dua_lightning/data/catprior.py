"""CatPrior, the paper's first scene benchmark: five users, each with a taste for some categories."""

import logging
from collections import Counter
from importlib.resources import files
from io import StringIO
from typing import Literal

import pandas as pd
import torch

from dua_lightning.data.benchmark import Benchmark
from dua_lightning.data.pool import EVALUATION, EXTRA, Pool
from dua_lightning.data.scenes import cut, scenes, unowned
from dua_lightning.errors import InputError
from dua_lightning.streams import generator

log = logging.getLogger(__name__)

Preferences = dict[tuple[int, str], list[int]]
"""The labels of the preferred categories, by user (from 1) and task name."""


def catprior(
    seed: int,
    images: Pool,
    users: int = 5,
    preferences: Literal["published", "drawn", "balanced"] = "published",
    preferred_categories: int = 3,
    images_per_preference: int = 70,
    scarce: Literal["refuse", "share"] = "refuse",
    input_size: int = 224,
    augment: bool = True,
    batch_size: int = 30,
    user_batch_size: int = 20,
    users_labelled: bool = True,
    iterations: int = 5,
) -> Benchmark:
    """Make CatPrior: users who each have extra pictures of the categories that they prefer.

    The evaluation pictures of each category are divided equally over the users, drawn from the stream
    `(seed, "catprior", category)`; a remainder goes to the first of a drawn order. No picture belongs to two users.

    Args:
        seed: The run's seed.
        images: The pool that is divided.
        users: The number of users.
        preferences: `published` takes those that the authors' release ships, three categories of MIT Indoor Scenes for
            each of five users and tasks; `drawn` draws them from the stream `("preferences", user, task)` of seed 0, so
            that they stay fixed over seeds and iterations.
        preferred_categories: How many categories of each task are drawn for a user.
        images_per_preference: Extra pictures of each preferred category. The paper's 250 are more than the data set
            has; 70 is the number that the release used.
        scarce: `share` gives those who prefer a category with too few extra pictures equal parts of them, which a line
            of the log says; `refuse` makes it an error.
        input_size: The side of the network's input, in pixels.
        augment: Whether training images are cut and mirrored at random.
        batch_size: Images of a training batch on the server.
        user_batch_size: Images of a batch in which phi takes a step.
        users_labelled: Whether the users' images have labels.
        iterations: The number of Monte-Carlo draws of each user's halves.

    Returns:
        The benchmark.

    Raises:
        InputError: A number cannot be met; the message has the category and its capacity.
    """
    unowned(images, "catprior")
    cut(images, input_size)
    if preferences == "published":
        chosen = _published(images, users)
    else:
        chosen = _drawn(images, users, preferred_categories, preferences == "balanced")
    shares = _shares(images, chosen, images_per_preference, scarce == "share")
    owned: list[list[torch.Tensor]] = [[] for _ in range(users)]
    for label, category in enumerate(images.categories):
        stream = generator(seed, "catprior", category)
        extra = images.where(EXTRA, [label])
        extra = extra[torch.randperm(len(extra), generator=stream)]
        fans = [user for user in range(users) if any(u == user + 1 and label in c for (u, _), c in chosen.items())]
        for place, user in enumerate(fans):
            owned[user].append(extra[place * shares[label] : (place + 1) * shares[label]])
        evaluation = images.where(EVALUATION, [label])
        evaluation = evaluation[torch.randperm(len(evaluation), generator=stream)]
        for place, user in enumerate(torch.randperm(users, generator=stream).tolist()):
            owned[user].append(evaluation[place::users])
    return scenes(
        images,
        {f"user_{u + 1}": images.take(torch.cat(parts).sort().values, input_size) for u, parts in enumerate(owned)},
        seed,
        input_size,
        augment,
        batch_size,
        user_batch_size,
        users_labelled,
        iterations,
    )


def _published(pool: Pool, users: int) -> Preferences:
    text = files("dua_lightning.data").joinpath("tables", "catprior_preferences.csv").read_text(encoding="utf-8")
    table = pd.read_csv(StringIO(text))
    if users > table["user"].nunique():
        raise InputError(
            f"preferences are published for {table['user'].nunique()} users, and users={users} asks for more; "
            "use preferences=drawn"
        )
    chosen: Preferences = {}
    for user, task, category in table[table["user"] <= users].itertuples(index=False):
        if category not in pool.categories:
            raise InputError(
                f"the published preferences are of MIT Indoor Scenes, and {pool.name} has no category {category}; "
                "use preferences=drawn"
            )
        chosen.setdefault((int(user), str(task)), []).append(pool.categories.index(category))
    return chosen


def _drawn(pool: Pool, users: int, count: int, balanced: bool) -> Preferences:
    if users < 1:
        raise InputError(f"catprior has at least 1 user, got users={users}")
    chosen: Preferences = {}
    for task in pool.tasks:
        size = task.classes.stop - task.classes.start
        if not 1 <= count <= size:
            raise InputError(f"task {task.name} has {size} categories, got preferred_categories={count}")
        dealt = torch.randperm(size, generator=generator(0, "preferences", task.name)).repeat(users)
        for user in range(1, users + 1):
            if balanced:
                places = dealt[(user - 1) * count : user * count]
            else:
                places = torch.randperm(size, generator=generator(0, "preferences", user, task.name))[:count]
            chosen[user, task.name] = sorted(task.classes.start + int(place) for place in places)
    return chosen


def _shares(pool: Pool, chosen: Preferences, wanted: int, share: bool) -> list[int]:
    """The number of extra pictures of each category that everybody gets who prefers it."""
    fans = Counter(label for labels in chosen.values() for label in labels)
    shares = [wanted] * len(pool.categories)
    for label, count in sorted(fans.items()):
        capacity, name = len(pool.where(EXTRA, [label])) // count, pool.categories[label]
        if wanted < 0 or (wanted > capacity and not share):
            raise InputError(
                f"category {name} has extra pictures for {capacity} to each of the {count} users who prefer it, got "
                f"images_per_preference={wanted}"
            )
        if wanted > capacity:
            log.warning(
                "each of the %d users who prefer %s gets %d pictures of it, since no more are there, and not %d",
                count,
                name,
                capacity,
                wanted,
            )
            shares[label] = capacity
    return shares
