"""Pictures of one's own, from folders."""

import logging
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from dua_lightning.data.decode import MOST_PIXELS
from dua_lightning.data.listed import Category, Listed, gathered, of_user
from dua_lightning.data.listing import entries, form, meant, shown, text, trouble
from dua_lightning.data.pool import Pool
from dua_lightning.errors import InputError
from dua_lightning.tasks import Task

log = logging.getLogger(__name__)

BRING_BACK = "mount or fetch what it stands for, or remove it"
"""The next step where a folder cannot be read."""


def folder(
    root: str | Path,
    size: int,
    cache: str | Path,
    skip_unreadable: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Pool:
    """Make a pool of pictures in `root/server/TASK/CATEGORY/*` and, optionally, below `root/users/USER`.

    Tasks, categories and users are sorted by name; every file is its own source. Pictures become squares as `decode`
    says, turned upright by their EXIF orientation.

    - Without `users`, the pictures of each category are divided: half for the server, a fifth for evaluation, the rest
      extra, in the order of the stream `(0, "folder", task, category)`; four are the fewest. `owners` are -1, the
      benchmark divides the users' part.
    - With `users`, all pictures under `server` are the server's, at least two of each category. All pictures of a user
      are extra and that user's own, as `owners` says; the benchmark draws the evaluation half of those with labels:
      `USER/TASK/CATEGORY/*` have labels, `USER/TASK/*` have none, and `USER/*` have no task either. All three may be in
      one folder. A user need not have every category, but at least two pictures of every task, or two without a task;
      others are left out, with a warning.

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
            task or category that the server has not, no user enough pictures, two names are written alike, or something
            cannot be read and may not be left out.
    """
    root = Path(root)
    server, of_users = _top(root)
    tree = _Tree([] if skip_unreadable else None)
    tasks: list[str] = []
    categories: list[Category] = []
    pictures: list[Listed] = []
    for of_task in tree.folders(server, "task"):
        found = {path: files for path in tree.folders(of_task, "category") if (files := tree.files(path))}
        if not found:
            tree.drop(f"task {shown(of_task)} has 0 categories", "put pictures there, as CATEGORY/*, or remove it")
            continue
        for path, files in found.items():
            pictures += [Listed(file, len(tasks), len(categories)) for file in files]
            categories.append(Category(text(path.name), len(tasks), shown(path)))
        tasks.append(text(of_task.name))
    if not tasks:
        raise InputError(f"{shown(server)} has no tasks; put the server's pictures there, as server/TASK/CATEGORY/*")
    labels: list[dict[str, int]] = [{} for _ in tasks]
    for label, category in enumerate(categories):
        labels[category.task][form(category.name)] = label
    known = {form(task): (place, labels[place]) for place, task in enumerate(tasks)}
    users = [] if of_users is None else tree.folders(of_users, "user")
    for owner, user in enumerate(users):
        pictures += [Listed(path, task, label, owner) for path, task, label in tree.user(user, known)]
    if of_users is not None and not users:
        raise InputError(f"{shown(of_users)} has no users; put their pictures there, as users/USER/*, or remove it")
    if tree.dropped:
        log.warning("%d folders and files in %s are left out: %s", len(tree.dropped), shown(root), tree.dropped)
    names = [text(user.name) for user in users]
    rest = size, Path(cache), skip_unreadable, most_pixels
    return gathered("folder", root, tasks, categories, pictures, names, *rest)


def of_device(
    root: str | Path,
    name: str,
    tasks: Sequence[Task],
    categories: Sequence[str],
    size: int,
    cache: str | Path,
    skip_unreadable: bool = False,
    most_pixels: int = MOST_PIXELS,
) -> Pool:
    """Make a pool of the pictures on a user's own device: `root` is what `users/USER` is for `folder`.

    Args:
        root: The folder with `TASK/CATEGORY/*`, `TASK/*` and `*`, of any of the three.
        name: The user's name.
        tasks: The server's tasks in the order of learning.
        categories: The name of each class, by label.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map of decoded pictures.
        skip_unreadable: Whether pictures that cannot be read are left out, and listed in a warning.
        most_pixels: Pictures with more are not read.

    Returns:
        The pool, with one user.

    Raises:
        InputError: The folder is missing, has a folder that is no task or category of the server, or too few pictures;
            or one cannot be read and may not be left out.
    """
    root = Path(root)
    if not _is_folder(root):
        raise InputError(f"{shown(root.absolute())} is not a folder; give the one that holds the pictures")
    known = {
        form(task.name): (
            place,
            {form(categories[label]): label for label in range(task.classes.start, task.classes.stop)},
        )
        for place, task in enumerate(tasks)
    }
    tree = _Tree([] if skip_unreadable else None)
    pictures = [Listed(path, task, label, 0) for path, task, label in tree.user(root, known)]
    if not pictures:
        raise InputError(f"{shown(root)} has no pictures; put them there as TASK/*, for {', '.join(map(shown, known))}")
    if tree.dropped:
        log.warning("%d folders and files in %s are left out: %s", len(tree.dropped), shown(root), tree.dropped)
    rest = size, Path(cache), skip_unreadable, most_pixels
    return of_user(name, root, tasks, categories, pictures, *rest)


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

    def contents(self, within: Path) -> tuple[list[Path], list[Path]]:
        """The folders in a folder, and the files beside them; links that lead nowhere are among the files."""
        folders: dict[str, Path] = {}
        files = []
        for path in entries(within):
            mode = stat.S_IFREG
            with suppress(OSError):
                mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                files.append(path)
            elif not stat.S_ISDIR(mode):
                raise InputError(f"{shown(path)} is no file and no folder; remove it")
            elif (other := folders.setdefault(form(path.name), path)) != path:
                raise InputError(f"the names {shown(path)} and {shown(other)} are written alike; rename one")
        return list(folders.values()), files

    def folders(self, within: Path, kind: str) -> list[Path]:
        found, files = self.contents(within)
        for path in files:
            try:
                path.stat()
                self.drop(f"{shown(path)} is a file where the folder of a {kind} belongs", "move it elsewhere")
            except OSError as error:
                self.drop(f"{shown(path)} {trouble(path, error)}", BRING_BACK)
        return found

    def files(self, category: Path) -> list[Path]:
        folders, files = self.contents(category)
        if folders:
            raise InputError(
                f"{shown(folders[0])} is no file; a category's pictures lie in its folder, without folders in between"
            )
        if not files:
            self.drop(f"{shown(category)} has no pictures", "put some there or remove the folder")
        return files

    def user(self, user: Path, known: Mapping[str, tuple[int, Mapping[str, int]]]) -> Iterator[tuple[Path, int, int]]:
        """A user's pictures, with the places of task and category; `known` has those of the server by their forms."""
        of_tasks, files = self.contents(user)
        for of_task in of_tasks:
            if (name := form(of_task.name)) not in known:
                raise InputError(_no_task(of_task, name, known))
            task, labels = known[name]
            of_categories, without = self.contents(of_task)
            for category in of_categories:
                if (of := form(category.name)) not in labels:
                    raise InputError(
                        f"{shown(category)} is no category of the server's task {shown(of_task.name)}; "
                        f"rename it, or make server/{shown(category.relative_to(user))}; {meant(of, labels)}"
                    )
                for path in self.files(category):
                    yield path, task, labels[of]
            for path in without:
                yield path, task, -1
        for path in files:
            yield path, -1, -1


def _no_task(path: Path, name: str, known: Mapping[str, tuple[int, Mapping[str, int]]]) -> str:
    """The error for a folder of a user that is no task of the server."""
    wrong = f"{shown(path)} is no task of the server"
    for task, (_, labels) in known.items():
        if name in labels:
            return f"{wrong}, but a category of task {shown(task)}; move it to {shown(path.parent / task / path.name)}"
    return f"{wrong}; rename it, or make server/{shown(path.name)}; {meant(name, known)}"


def _top(root: Path) -> tuple[Path, Path | None]:
    """The folders of the server and, where there are any, of users."""
    if not _is_folder(root):
        raise InputError(f"{shown(root.absolute())} is not a folder; give the one that holds server/TASK/CATEGORY")
    server, users = root / "server", root / "users"
    for path in entries(root):
        like = get_close_matches(path.name.lower(), (server.name, users.name), n=1, cutoff=0.88)
        if like and path.name not in (server.name, users.name) and _is_folder(path):
            raise InputError(f"{shown(path)} would not be read; call it {like[0]}, or by a name that is less like it")
    for path, below in ((server, "TASK/CATEGORY/*"), (users, "USER/*")):
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
