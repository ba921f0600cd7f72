"""MiniPlaces, real photographs of scenes: the paper's scene benchmarks on a data set of the same kind.

[Zhou2018] B. Zhou, A. Lapedriza, A. Khosla, A. Oliva, A. Torralba. Places: A 10 million image database for scene
recognition. IEEE TPAMI 40(6), 2018.
"""

import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock

from dua_lightning.data.decode import decoded
from dua_lightning.data.download import obtain, obtain_archive, remember_archive
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.store.files import file_sha256
from dua_lightning.streams import generator
from dua_lightning.tasks import Task

log = logging.getLogger(__name__)

ARCHIVE = "data.tar.gz"
"""The name of the official archive of pictures."""
CATEGORIES, TRAIN, VALIDATION = "categories.txt", "train.txt", "val.txt"
"""The names of the official lists."""
DEVKIT = "https://raw.githubusercontent.com/CSAILVision/miniplaces/b180bffabd727428fe798cbfe01bf19a2e9b19e2/data"
URLS = {
    ARCHIVE: "https://places.csail.mit.edu/miniplaces/data/data.tar.gz",
    **{name: f"{DEVKIT}/{name}" for name in (CATEGORIES, TRAIN, VALIDATION)},
}
"""Addresses of the official files; the archive has `train/LETTER/CATEGORY/*.jpg` and `val/*.jpg`, 128x128 pixels."""
LISTS = {
    CATEGORIES: "8658c6e5154e7502a1377e5ba1530b6f3618c0ddf98c72c14d2ad47bb6138d43",
    TRAIN: "bb701b8ed9129fa8d3b783803aa83abff5e48fd57c249efb0e9f088fbb57f7a7",
    VALIDATION: "0b554c7bc4fe97393a42484c36a28ea69efa1a27aadf5220db78823fa7913737",
}
"""SHA-256 digests of the official lists."""


def miniplaces(
    root: str | Path,
    size: int = 128,
    tasks: Mapping[str, Sequence[str]] | None = None,
    server_per_category: int = 80,
    evaluation_per_category: int = 20,
    sha256: str | None = None,
    download: bool = True,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    urls: Mapping[str, str] = URLS,
    digests: Mapping[str, str] = LISTS,
) -> Pool:
    """Make a pool of some categories of MiniPlaces [Zhou2018], each task a list of them; pictures are decoded once.

    The server's pictures of a category are drawn from the official training list, those on which users are scored from
    the official validation list, by the stream `(0, "miniplaces", category)`; all others are the extra ones. `sources`
    are places in the two lists, one after the other. Categories are in alphabetical order within a task.

    The lists are looked for in `root` and its folders `devkit` and `data`, the unpacked pictures as `images` in `root`
    or `root/data`; then the archive itself. No digest of the archive is published: without `sha256` the digest of the
    first archive that was unpacked is kept beside it and compared whenever one is unpacked again. Pictures of the lists
    that are not there are passed over, and counted in a warning, so that a part of the data set can be used.

    Args:
        root: The folder of the data set.
        size: The side of the squares, in pixels; the official pictures have 128.
        tasks: The categories of each task, in the order of learning. By default 31 indoor categories in four tasks
            named after supercategories of MIT Indoor Scenes, which are near to its own and not the same.
        server_per_category: The server's pictures of each category.
        evaluation_per_category: Pictures of each category on which users are scored.
        sha256: The digest that the archive must have, in hexadecimal.
        download: Whether missing files are downloaded.
        skip_unreadable: Whether pictures that cannot be decoded are left out, and listed in a warning.
        cache: The folder of the memory map, by default `root/cache`; it takes 49 kB for each picture at 128 pixels.
        urls: The address of each file.
        digests: The digest of each list.

    Returns:
        The pool; its pictures belong to no user.

    Raises:
        InputError: A file is missing, cannot be had, has another digest, or cannot be decoded and may not be left out;
            a category is unknown, is in two tasks or has too few pictures; a task has fewer than two categories.
    """
    root = Path(root)
    folder, lists = _prepare(root, sha256, download, urls, digests)
    wanted = {name: list(categories) for name, categories in (_supercategories() if tasks is None else tasks).items()}
    known = [line.split()[0].split("/", 2)[2] for line in lists[CATEGORIES]]
    _check_tasks(wanted, known)
    names = [category for categories in wanted.values() for category in sorted(categories)]
    label = {category: place for place, category in enumerate(names)}

    listed = [line.split() for line in (*lists[TRAIN], *lists[VALIDATION])]
    rows = [(source, path, label.get(known[int(number)], -1)) for source, (path, number) in enumerate(listed)]
    rows = [row for row in rows if row[2] >= 0]
    there = [row for row in rows if (folder / row[1]).is_file()]
    if len(there) < len(rows):
        log.warning("%s: %d of the %d listed pictures of these categories are there", root, len(there), len(rows))
    sources, labels = (torch.tensor([row[column] for row in there], dtype=torch.int64) for column in (0, 2))
    side = _sides(names, labels, sources >= len(lists[TRAIN]), server_per_category, evaluation_per_category, root)
    pixels, places = decoded(
        [folder / path for _, path, _ in there],
        folder,
        size,
        root / "cache" if cache is None else Path(cache),
        upright=False,
        skip_unreadable=skip_unreadable,
    )
    ends = torch.tensor([len(categories) for categories in wanted.values()]).cumsum(0).tolist()
    return Pool(
        "miniplaces",
        tuple(
            Task(task, slice(end - len(categories), end))
            for (task, categories), end in zip(wanted.items(), ends, strict=True)
        ),
        tuple(names),
        pixels,
        labels[places],
        sources[places],
        side[places],
        torch.full((len(places),), -1),
    )


def _supercategories() -> dict[str, list[str]]:
    text = files("dua_lightning.data").joinpath("tables", "miniplaces_supercategories.csv").read_text(encoding="utf-8")
    table = pd.read_csv(StringIO(text))
    return {str(task): group["category"].tolist() for task, group in table.groupby("supercategory", sort=False)}


def _check_tasks(tasks: Mapping[str, Sequence[str]], known: Sequence[str]) -> None:
    owner: dict[str, str] = {}
    for task, categories in tasks.items():
        if len(categories) < 2:
            raise InputError(f"task {task} has {len(categories)} categories; give it at least two of MiniPlaces")
        for category in categories:
            if category not in known:
                near = get_close_matches(category, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the file {CATEGORIES} lists all of them"
                raise InputError(f"MiniPlaces has no category {category}, which task {task} asks for; {hint}")
            if category in owner:
                raise InputError(f"category {category} is in the tasks {owner[category]} and {task}; leave it in one")
            owner[category] = task


def _sides(
    names: Sequence[str], labels: torch.Tensor, validation: torch.Tensor, server: int, evaluation: int, root: Path
) -> torch.Tensor:
    """`(n,)` uint8 side of each picture: drawn within each category and official list."""
    side = torch.full((len(labels),), EXTRA, dtype=torch.uint8)
    for label, name in enumerate(names):
        stream = generator(0, "miniplaces", name)
        for chosen, listed, count, argument in (
            (SERVER, ~validation, server, "server_per_category"),
            (EVALUATION, validation, evaluation, "evaluation_per_category"),
        ):
            of_category = ((labels == label) & listed).nonzero()[:, 0]
            if not 2 <= count <= len(of_category):
                raise InputError(
                    f"{argument}={count} is out of range for category {name}, of which {root} has {len(of_category)} "
                    f"pictures of the official {'validation' if chosen == EVALUATION else 'training'} list; give 2 to "
                    "that many"
                )
            side[of_category[torch.randperm(len(of_category), generator=stream)[:count]]] = chosen
    return side


def _prepare(
    root: Path, sha256: str | None, download: bool, urls: Mapping[str, str], digests: Mapping[str, str]
) -> tuple[Path, dict[str, list[str]]]:
    """The folder that has `train` and `val`, and the lines of each list; downloads and unpacks what is missing."""
    if (folder := _unpacked(root)) is None or any(_list(root, name) is None for name in digests):
        try:
            root.mkdir(parents=True, exist_ok=True)
            # One process prepares, others wait.
            with FileLock(root / ".miniplaces.lock"):
                for name, expected in digests.items():
                    if _list(root, name) is None:
                        obtain(root / "devkit" / name, urls[name], download, expected)
                if (folder := _unpacked(root)) is None:
                    folder = _unpack(root, sha256, download, urls)
        except OSError as error:
            raise InputError(
                f"MiniPlaces cannot be prepared in {root.absolute()} ({error.strerror or error}); choose a folder that "
                "can be written to"
            ) from error
    lists = {}
    for name, expected in digests.items():
        path = _list(root, name)
        assert path is not None
        if (found := file_sha256(path)) != expected:
            raise InputError(f"{path} has the SHA-256 digest {found}, not the official {expected}; delete it")
        lists[name] = path.read_text(encoding="utf-8").splitlines()
    return folder, lists


def _list(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / "devkit" / name, root / "data" / name) if path.is_file()), None)


def _unpacked(root: Path) -> Path | None:
    folders = (root / "images", root / "data" / "images", root / "data", root)
    return next((folder for folder in folders if (folder / "train").is_dir() and (folder / "val").is_dir()), None)


def _unpack(root: Path, sha256: str | None, download: bool, urls: Mapping[str, str]) -> Path:
    archive, target = root / ARCHIVE, root / "data"
    found = obtain_archive(archive, urls[ARCHIVE], download, sha256, target)
    folder = _unpacked(root)
    if folder is None:
        raise InputError(f"{archive} has no folders train and val; delete it and {target} to download it again")
    remember_archive(archive, found)
    return folder
