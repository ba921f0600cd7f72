"""Pictures of one's own, from folders."""

from pathlib import Path

import torch
from torch import Tensor

from dua_lightning.data.decode import decoded
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.streams import generator
from dua_lightning.tasks import Task

NO_PICTURES = ("Thumbs.db", "desktop.ini")
"""Files that file managers leave behind; they are passed over, as are hidden ones."""


DIVIDED_LEAST, SERVER_LEAST, USER_LEAST = 4, 2, 2
"""Fewest pictures of a category that makes all three sides, of one that is the server's alone, and of a user's task."""


def folder(root: str | Path, size: int, cache: str | Path, skip_unreadable: bool = False) -> Pool:
    """Make a pool of pictures in `root/server/TASK/CATEGORY/*` and, optionally, `root/users/USER/TASK/CATEGORY/*`.

    Tasks, categories and users are sorted by name; every file is its own source. Pictures become squares as `decode`
    says, turned upright by their EXIF orientation.

    - Without `users`, the pictures of each category are divided: half for the server, a fifth for evaluation, the rest
      extra, in the order of the stream `(0, "folder", task, category)`; four are the fewest. `owners` are -1, the
      benchmark divides the users' part.
    - With `users`, all pictures under `server` are the server's, at least two of each category. All pictures of a user
      are extra and that user's own, as `owners` says; the benchmark draws the evaluation half. A user need not have
      every category, but at least two pictures of every task.

    The same picture stored twice counts as two: leave out copies that could land on two sides of a split.

    Args:
        root: The folder that holds `server` and perhaps `users`.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether files that are no pictures are left out, and listed in a warning.

    Returns:
        The pool.

    Raises:
        InputError: A folder is missing, a task has fewer than two categories, a category too few pictures, a user a
            task or category that the server has not, or a file is no picture and may not be left out.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root.absolute()} is not a folder; give the one that holds server/TASK/CATEGORY")
    if not (root / "server").is_dir():
        raise InputError(f"{root} has no folder server; put the server's pictures there, as server/TASK/CATEGORY/*")
    tasks, names = _tasks(root / "server")
    users = _folders(root / "users") if (root / "users").is_dir() else []
    if not users and (root / "users").is_dir():
        raise InputError(f"{root / 'users'} has no users; put their pictures there, as users/USER/TASK/*, or remove it")
    files = [(path, label, -1) for label, name in enumerate(names) for path in _files(root / "server" / name)]
    for place, user in enumerate(users):
        for category in [category for task in _folders(user) for category in _folders(task)]:
            name = category.relative_to(user).as_posix()
            if name not in names:
                raise InputError(
                    f"the server has no task and category like {category}; rename it or make server/{name}"
                )
            files += [(path, names.index(name), place) for path in _files(category)]
    labels, owners = torch.tensor([label for _, label, _ in files]), torch.tensor([user for _, _, user in files])
    _check(root, tasks, names, users, labels, owners)

    paths = [path for path, _, _ in files]
    pixels, places = decoded(paths, root, size, Path(cache), upright=True, skip_unreadable=skip_unreadable)
    labels, owners = labels[places], owners[places]
    _check(root, tasks, names, users, labels, owners)
    return Pool(
        "folder",
        tasks,
        tuple(name.partition("/")[2] for name in names),
        pixels,
        labels,
        places,
        torch.where(owners < 0, SERVER, EXTRA).to(torch.uint8) if users else _divided(labels, names),
        owners,
        tuple(user.name for user in users),
    )


def _tasks(server: Path) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks, and `TASK/CATEGORY` of every label."""
    tasks: list[Task] = []
    names: list[str] = []
    for of_task in _folders(server):
        categories = _folders(of_task)
        if len(categories) < 2:
            raise InputError(
                f"task {of_task} has {len(categories)} categories; give it at least two folders of pictures"
            )
        tasks.append(Task(of_task.name, slice(len(names), len(names) + len(categories))))
        names += [category.relative_to(server).as_posix() for category in categories]
    if not tasks:
        raise InputError(f"{server} has no tasks; put the server's pictures there, as server/TASK/CATEGORY/*")
    return tuple(tasks), names


def _folders(within: Path) -> list[Path]:
    return sorted(path for path in within.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(category: Path) -> list[Path]:
    """The files of a category, sorted by name; a folder among them raises `InputError`."""
    paths = sorted(p for p in category.iterdir() if not p.name.startswith(".") and p.name not in NO_PICTURES)
    if not paths:
        raise InputError(f"{category} has no pictures; put some there or remove the folder")
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is no file; a category's pictures lie in its folder, without folders in between")
    return paths


def _check(
    root: Path, tasks: tuple[Task, ...], names: list[str], users: list[Path], labels: Tensor, owners: Tensor
) -> None:
    """Raises `InputError` for a side that is too small to be split."""
    least = SERVER_LEAST if users else DIVIDED_LEAST
    for label, name in enumerate(names):
        if (count := int(((labels == label) & (owners < 0)).sum())) < least:
            raise InputError(
                f"{root / 'server' / name} has {count} pictures that can be read; at least {least} are needed"
            )
    for place, user in enumerate(users):
        for task in tasks:
            of_task = (owners == place) & (labels >= task.classes.start) & (labels < task.classes.stop)
            if (count := int(of_task.sum())) < USER_LEAST:
                raise InputError(
                    f"{user} has {count} pictures of task {task.name} that can be read; each user needs at least "
                    f"{USER_LEAST} of every task, of any of its categories"
                )


def _divided(labels: Tensor, names: list[str]) -> Tensor:
    """`(n,)` uint8 side of each picture where the pool itself divides them."""
    side = torch.full((len(labels),), EXTRA, dtype=torch.uint8)
    for label, name in enumerate(names):
        of_category = (labels == label).nonzero()[:, 0]
        order = of_category[torch.randperm(len(of_category), generator=generator(0, "folder", *name.split("/")))]
        first, second = round(0.5 * len(order)), round(0.7 * len(order))
        side[order[:first]] = SERVER
        side[order[first:second]] = EVALUATION
    return side
