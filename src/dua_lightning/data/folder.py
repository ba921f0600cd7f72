"""Pictures of one's own, from folders."""

import logging
import stat
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from dua_lightning.data.decode import MOST_PIXELS, decoded
from dua_lightning.data.listing import entries, form, shown, text, trouble
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.streams import generator
from dua_lightning.tasks import Task

log = logging.getLogger(__name__)

DIVIDED_LEAST, SERVER_LEAST, USER_LEAST = 4, 2, 2
"""Fewest pictures of a category that makes all three sides, of one that is the server's alone, and of a user's task."""
BRING_BACK = "mount or fetch what it stands for, or remove it"
"""The next step where a folder cannot be read."""


def folder(
    root: str | Path,
    size: int,
    cache: str | Path,
    skip_unreadable: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Pool:
    """Make a pool of pictures in `root/server/TASK/CATEGORY/*` and, optionally, `root/users/USER/TASK/CATEGORY/*`.

    Tasks, categories and users are sorted by name; every file is its own source. Pictures become squares as `decode`
    says, turned upright by their EXIF orientation.

    - Without `users`, the pictures of each category are divided: half for the server, a fifth for evaluation, the rest
      extra, in the order of the stream `(0, "folder", task, category)`; four are the fewest. `owners` are -1, the
      benchmark divides the users' part.
    - With `users`, all pictures under `server` are the server's, at least two of each category. All pictures of a user
      are extra and that user's own, as `owners` says; the benchmark draws the evaluation half. A user need not have
      every category, but at least two pictures of every task.

    Names may be of any characters. A user's task or category is the server's of the same name, whichever Unicode form
    either is written in. Hidden files and folders are passed over, and what file managers leave (`listing.STRAY`).

    The same picture stored twice counts as two: leave out copies that could land on two sides of a split.

    Args:
        root: The folder that holds `server` and perhaps `users`.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether pictures that cannot be read, links that lead nowhere, empty folders, and files where
            folders belong are left out, and listed in a warning.
        most_pixels: Pictures with more are not read: files that are meant to do harm promise billions.

    Returns:
        The pool.

    Raises:
        InputError: A folder is missing, a task has fewer than two categories, a category too few pictures, a user a
            task or category that the server has not, two names are written alike, or something cannot
            be read and may not be left out.
    """
    root = Path(root)
    server, of_users = _top(root)
    tree = _Tree([] if skip_unreadable else None)
    tasks: list[Task] = []
    files: dict[Path, list[Path]] = {}
    for of_task in tree.folders(server, "task"):
        found = tree.task(of_task)
        if len(found) == 1:
            raise InputError(f"task {shown(of_task)} has 1 category; give it at least two folders of pictures")
        if found:
            tasks.append(Task(text(of_task.name), slice(len(files), len(files) + len(found))))
            files |= found
    if not tasks:
        raise InputError(f"{shown(server)} has no tasks; put the server's pictures there, as server/TASK/CATEGORY/*")
    categories = list(files)
    known = {_names(category, server): label for label, category in enumerate(categories)}
    rows = [(path, label, -1) for label, category in enumerate(categories) for path in files[category]]
    users: list[Path] = []
    for user in [] if of_users is None else tree.folders(of_users, "user"):
        own: dict[Path, list[Path]] = {}
        for of_task in tree.folders(user, "task"):
            own |= tree.task(of_task)
        if not own:
            tree.drop(f"{shown(user)} has no pictures", "put them there, as TASK/CATEGORY/*, or remove the folder")
            continue
        for category, paths in own.items():
            if (label := known.get(_names(category, user))) is None:
                raise InputError(
                    f"the server has no task and category like {shown(category)}; rename it or make "
                    f"server/{shown(category.relative_to(user))}"
                )
            rows += [(path, label, len(users)) for path in paths]
        users.append(user)
    if of_users is not None and not users:
        raise InputError(
            f"{shown(of_users)} has no users; put their pictures there, as users/USER/TASK/*, or remove it"
        )
    labels, owners = torch.tensor([label for _, label, _ in rows]), torch.tensor([user for _, _, user in rows])
    _check(tasks, categories, users, labels, owners)

    paths = [path for path, _, _ in rows]
    pixels, places = decoded(
        paths, root, size, Path(cache), upright=True, skip_unreadable=skip_unreadable, most_pixels=most_pixels
    )
    if tree.dropped:
        log.warning("%d folders and files in %s are left out: %s", len(tree.dropped), shown(root), tree.dropped)
    labels, owners = labels[places], owners[places]
    _check(tasks, categories, users, labels, owners)
    return Pool(
        "folder",
        tuple(tasks),
        tuple(text(category.name) for category in categories),
        pixels,
        labels,
        places,
        torch.where(owners < 0, SERVER, EXTRA).to(torch.uint8) if users else _divided(labels, list(known)),
        owners,
        tuple(text(user.name) for user in users),
    )


class _Tree:
    """The folders of a pool; what cannot be used raises `InputError`, or is noted where it may be dropped.

    Args:
        dropped: A line for each thing that was dropped; without a list nothing may be.
    """

    def __init__(self, dropped: list[str] | None) -> None:
        self.dropped = dropped

    def drop(self, wrong: str, step: str) -> None:
        if self.dropped is None:
            raise InputError(f"{wrong}; {step}, or leave such things out with skip_unreadable=true")
        self.dropped.append(wrong)

    def folders(self, within: Path, kind: str) -> list[Path]:
        found: dict[str, Path] = {}
        for path in entries(within):
            try:
                if not stat.S_ISDIR(path.stat().st_mode):
                    self.drop(f"{shown(path)} is a file where the folder of a {kind} belongs", "move it elsewhere")
                elif (other := found.setdefault(form(path.name), path)) != path:
                    raise InputError(f"the names {shown(path)} and {shown(other)} are written alike; rename one")
            except OSError as error:
                self.drop(f"{shown(path)} {trouble(path, error)}", BRING_BACK)
        return list(found.values())

    def task(self, of_task: Path) -> dict[Path, list[Path]]:
        """The pictures of each category of a task."""
        found = {path: files for path in self.folders(of_task, "category") if (files := self.files(path))}
        if not found:
            self.drop(f"task {shown(of_task)} has 0 categories", "put pictures there, as CATEGORY/*, or remove it")
        return found

    def files(self, category: Path) -> list[Path]:
        found = entries(category)
        if not found:
            self.drop(f"{shown(category)} has no pictures", "put some there or remove the folder")
        for path in found:
            # A link that leads nowhere counts as a picture that cannot be read.
            with suppress(OSError):
                if not stat.S_ISREG(path.stat().st_mode):
                    raise InputError(
                        f"{shown(path)} is no file; a category's pictures lie in its folder, without folders in between"
                    )
        return found


def _top(root: Path) -> tuple[Path, Path | None]:
    """The folders of the server and, where there are any, of users."""
    if not _is_folder(root):
        raise InputError(f"{shown(root.absolute())} is not a folder; give the one that holds server/TASK/CATEGORY")
    server, users = root / "server", root / "users"
    for path in entries(root):
        like = get_close_matches(path.name.lower(), (server.name, users.name), n=1, cutoff=0.88)
        if like and path.name not in (server.name, users.name) and _is_folder(path):
            raise InputError(f"{shown(path)} would not be read; call it {like[0]}, or by a name that is less like it")
    for path, below in ((server, "TASK/CATEGORY/*"), (users, "USER/TASK/CATEGORY/*")):
        if not _is_folder(path) and path.exists():
            raise InputError(f"{shown(path)} is a file; it should be a folder, with {path.name}/{below}")
    if not _is_folder(server):
        raise InputError(
            f"{shown(root)} has no folder server; put the server's pictures there, as server/TASK/CATEGORY/*"
        )
    return server, users if _is_folder(users) else None


def _is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere raises `InputError`."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not path.is_symlink():
            return False
        raise InputError(f"{shown(path)} {trouble(path, error)}; {BRING_BACK}") from error


def _names(category: Path, above: Path) -> tuple[str, ...]:
    """The names of task and category, in the form in which they are compared."""
    return tuple(form(part) for part in category.relative_to(above).parts)


def _check(tasks: Sequence[Task], categories: list[Path], users: list[Path], labels: Tensor, owners: Tensor) -> None:
    """Raises `InputError` for a side that is too small to be split."""
    least = SERVER_LEAST if users else DIVIDED_LEAST
    for label, category in enumerate(categories):
        if (count := int(((labels == label) & (owners < 0)).sum())) < least:
            raise InputError(f"{shown(category)} has {count} pictures that can be read; at least {least} are needed")
    for place, user in enumerate(users):
        for task in tasks:
            of_task = (owners == place) & (labels >= task.classes.start) & (labels < task.classes.stop)
            if (count := int(of_task.sum())) < USER_LEAST:
                raise InputError(
                    f"{shown(user)} has {count} pictures of task {shown(task.name)} that can be read; each user needs "
                    f"at least {USER_LEAST} of every task, of any of its categories"
                )


def _divided(labels: Tensor, names: list[tuple[str, ...]]) -> Tensor:
    """`(n,)` uint8 side of each picture where the pool itself divides them."""
    side = torch.full((len(labels),), EXTRA, dtype=torch.uint8)
    for label, name in enumerate(names):
        of_category = (labels == label).nonzero()[:, 0]
        order = of_category[torch.randperm(len(of_category), generator=generator(0, "folder", *name))]
        first, second = round(0.5 * len(order)), round(0.7 * len(order))
        side[order[:first]] = SERVER
        side[order[first:second]] = EVALUATION
    return side
