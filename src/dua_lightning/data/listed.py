"""Picture files of which somebody has listed what they show and whose they are become a pool."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dua_lightning.data.decode import decoded
from dua_lightning.data.listing import form, shown
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.data.splits import DRAWN, FOR_EVALUATION
from dua_lightning.errors import InputError
from dua_lightning.streams import generator
from dua_lightning.tasks import Task

log = logging.getLogger(__name__)

DIVIDED_LEAST, SERVER_LEAST, USER_LEAST = 4, 2, 2
"""Fewest pictures of a category that makes all three sides, of one that is the server's alone, and of a user's task."""


@dataclass(frozen=True)
class Category:
    """A category of the server.

    Args:
        name: Its name.
        task: The place of its task.
        where: The words for it in messages.
    """

    name: str
    task: int
    where: str


@dataclass(frozen=True)
class Listed:
    """A picture file.

    Args:
        path: The file.
        task: The place of its task; -1 where it is not known.
        label: The place of its category; -1 where it is not known.
        owner: The place of the user whose picture it is; -1 for the server.
        half: The half that a user's picture is for, as in `UserData`.
    """

    path: Path
    task: int
    label: int
    owner: int = -1
    half: int = DRAWN


def gathered(
    name: str,
    root: Path,
    tasks: Sequence[str],
    categories: Sequence[Category],
    pictures: Sequence[Listed],
    users: Sequence[str],
    size: int,
    cache: Path,
    skip_unreadable: bool,
    most_pixels: int,
) -> Pool:
    """Make a pool of listed pictures, which are decoded and turned upright; each is its own source.

    Without users the pictures of each category are divided: half for the server, a fifth for evaluation, the rest
    extra, in the order of the stream `(0, "folder", task, category)`. With users the pictures without an owner are the
    server's, and a user's are extra and that user's own. A user who lacks pictures is left out, with a warning.

    Args:
        name: The pool's name.
        root: The folder that messages name, and from which they name pictures within it.
        tasks: The names of the tasks in the order of learning.
        categories: The categories, those of a task together and in the order of the tasks.
        pictures: The pictures.
        users: The names of the users.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether pictures that cannot be read are left out, and listed in a warning.
        most_pixels: Pictures with more are not read.

    Returns:
        The pool.

    Raises:
        InputError: A task has fewer than two categories, a category too few pictures, no user enough, or a picture
            cannot be read and may not be left out.
    """
    counts = [sum(category.task == place for category in categories) for place in range(len(tasks))]
    for task, count in zip(tasks, counts, strict=True):
        if count < 2:
            raise InputError(f"task {shown(task)} has {count} category; give it at least two with pictures")
    ends = torch.tensor(counts).cumsum(0).tolist()
    of_task, labels, owners, halves = _columns(pictures)
    _check_server(categories, bool(users), labels, owners)

    paths = [picture.path for picture in pictures]
    pixels, places = decoded(
        paths, root, size, cache, upright=True, skip_unreadable=skip_unreadable, most_pixels=most_pixels
    )
    of_task, labels, owners, halves = (column[places] for column in (of_task, labels, owners, halves))
    _check_server(categories, bool(users), labels, owners)
    lacking = _lacking(users, tasks, of_task, owners, halves)
    for reason in lacking.values():
        log.warning("%s, and is left out; each user needs at least %d of every task", reason, USER_LEAST)
    left = [place for place in range(len(users)) if place not in lacking]
    new = torch.full((len(users) + 1,), -1)
    new[left] = torch.arange(len(left))
    forms = [(form(tasks[category.task]), form(category.name)) for category in categories]
    return Pool(
        name,
        tuple(Task(task, slice(end - count, end)) for task, count, end in zip(tasks, counts, ends, strict=True)),
        tuple(category.name for category in categories),
        pixels,
        labels,
        places,
        torch.where(owners < 0, SERVER, EXTRA).to(torch.uint8) if users else _divided(labels, forms),
        # The last entry stands for the server, whose pictures have no owner.
        new[owners],
        tuple(users[place] for place in left),
        of_task,
        halves.to(torch.uint8),
    )


def of_user(
    name: str,
    root: Path,
    tasks: Sequence[Task],
    categories: Sequence[str],
    pictures: Sequence[Listed],
    size: int,
    cache: Path,
    skip_unreadable: bool,
    most_pixels: int,
) -> Pool:
    """Make a pool of the pictures of one user, of tasks and categories that are known from elsewhere.

    Args:
        name: The user's name.
        root: The folder that messages name, and from which they name pictures within it.
        tasks: The tasks in the order of learning.
        categories: The name of each class, by label.
        pictures: The pictures, whose owner is 0.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether pictures that cannot be read are left out, and listed in a warning.
        most_pixels: Pictures with more are not read.

    Returns:
        The pool.

    Raises:
        InputError: The user lacks pictures, or one cannot be read and may not be left out.
    """
    of_task, labels, owners, halves = _columns(pictures)
    paths = [picture.path for picture in pictures]
    pixels, places = decoded(
        paths, root, size, cache, upright=True, skip_unreadable=skip_unreadable, most_pixels=most_pixels
    )
    of_task, labels, owners, halves = (column[places] for column in (of_task, labels, owners, halves))
    lacking = _lacking((name,), [task.name for task in tasks], of_task, owners, halves)
    assert not lacking
    side = torch.full((len(places),), EXTRA, dtype=torch.uint8)
    halves = halves.to(torch.uint8)
    return Pool(
        "device", tuple(tasks), tuple(categories), pixels, labels, places, side, owners, (name,), of_task, halves
    )


def _columns(pictures: Sequence[Listed]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Task, label, owner and half of each picture."""
    of_task, labels, owners, halves = (
        torch.tensor([getattr(picture, column) for picture in pictures], dtype=torch.int64)
        for column in ("task", "label", "owner", "half")
    )
    return of_task, labels, owners, halves


def _check_server(categories: Sequence[Category], users: bool, labels: Tensor, owners: Tensor) -> None:
    """Raises `InputError` for a category of the server that is too small to be split."""
    least = SERVER_LEAST if users else DIVIDED_LEAST
    for label, category in enumerate(categories):
        if (count := int(((labels == label) & (owners < 0)).sum())) < least:
            raise InputError(f"{category.where} has {count} pictures that can be read; at least {least} are needed")


def _lacking(
    users: Sequence[str], tasks: Sequence[str], of_task: Tensor, owners: Tensor, halves: Tensor
) -> dict[int, str]:
    """Tell what each user lacks who lacks pictures, by the user's place; raises `InputError` where nobody is left."""
    lacking: dict[int, str] = {}
    for place, user in enumerate(users):
        own = owners == place
        if not own.any():
            lacking[place] = f"user {shown(user)} has no pictures that can be read"
        # Pictures without a task get one each, and nobody knows which.
        if int((own & (of_task < 0)).sum()) >= USER_LEAST:
            continue
        for number, task in enumerate(tasks):
            mine = own & (of_task == number)
            count = int(mine.sum())
            if count < USER_LEAST:
                reason = f"user {shown(user)} has {count} pictures of task {shown(task)} that can be read"
                lacking.setdefault(place, reason)
            elif (halves[mine] == FOR_EVALUATION).all():
                lacking.setdefault(place, f"user {shown(user)} has pictures of task {shown(task)} for evaluation alone")
    if users and len(lacking) == len(users):
        raise InputError(
            f"no user is left: {next(iter(lacking.values()))}; each user needs at least {USER_LEAST} of every task, of "
            "any of its categories or of none"
        )
    return lacking


def _divided(labels: Tensor, names: list[tuple[str, str]]) -> Tensor:
    """`(n,)` uint8 side of each picture where the pool itself divides them."""
    side = torch.full((len(labels),), EXTRA, dtype=torch.uint8)
    for label, name in enumerate(names):
        of_category = (labels == label).nonzero()[:, 0]
        order = of_category[torch.randperm(len(of_category), generator=generator(0, "folder", *name))]
        first, second = round(0.5 * len(order)), round(0.7 * len(order))
        side[order[:first]] = SERVER
        side[order[first:second]] = EVALUATION
    return side
