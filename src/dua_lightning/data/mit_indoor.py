"""MIT Indoor Scenes, the pictures behind the paper's CatPrior and TransPrior benchmarks.

[Quattoni2009] A. Quattoni, A. Torralba. Recognizing indoor scenes. CVPR 2009.
"""

from collections.abc import Mapping
from importlib.resources import files
from io import StringIO
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock

from dua_lightning.data.decode import decoded
from dua_lightning.data.download import obtain, obtain_archive, remember_archive
from dua_lightning.data.listing import entries, form
from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.tasks import Task

ARCHIVE = "indoorCVPR_09.tar"
"""The name of the official archive."""
TRAIN, TEST = "TrainImages.txt", "TestImages.txt"
"""The names of the official lists."""
URLS = {
    ARCHIVE: "http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar",
    TRAIN: "http://web.mit.edu/torralba/www/TrainImages.txt",
    TEST: "http://web.mit.edu/torralba/www/TestImages.txt",
}
"""Addresses of the official files; the archive has about 2.4 GB and unpacks to `Images/CATEGORY/*.jpg`."""

PICTURES = 15_620
"""The number of pictures in the archive, by its authors' page."""
TASKS = ("home", "leisure", "public", "store")
"""The supercategories that are learnt, in this order; the fifth, `work`, is dropped as in the paper."""


def mit_indoor(
    root: str | Path,
    size: int,
    sha256: str | None = None,
    download: bool = True,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    urls: Mapping[str, str] = URLS,
    pictures: int = PICTURES,
    resize_users: bool = True,
) -> Pool:
    """Make a pool of the 51 categories of four supercategories, each of which is a task; pictures are decoded once.

    The pictures of the official training list are the server's, about 80 of each category; users are scored on those of
    the test list, about 20; all others of the category are the extra ones. A picture on both lists is on the test side.
    Categories are in alphabetical order within a task, pictures in that of their names in the pool, and `sources` are
    places in the sorted names of all pictures of all categories. Pictures become squares as `decode` says, their EXIF
    orientation ignored as in the authors' release.

    The two lists and the unpacked archive, as `Images` or `indoorCVPR_09/Images`, are looked for under `root`; then the
    archive itself. No digest of the archive is published: without `sha256` the digest of the first archive that proved
    complete is kept beside it and compared whenever one is unpacked. Pictures that are unpacked already are taken as
    they are. Every use checks that all categories, all `pictures` of the archive and all on the lists are there.

    Args:
        root: The folder of the data set.
        size: The side of the squares, in pixels.
        sha256: The digest that the archive must have, in hexadecimal.
        download: Whether missing files are downloaded.
        skip_unreadable: Whether pictures that cannot be decoded are left out, and listed in a warning.
        cache: The folder of the memory map, by default `root/cache`; it takes 0.2 MB for each picture at 256 pixels.
        urls: The address of each file.
        pictures: The number of pictures in the archive.
        resize_users: Whether the users' pictures are resized like the server's; otherwise they are cut at their own
            scale, as the release does for TransPrior, whose users therefore also see a nearer picture.

    Returns:
        The pool.

    Raises:
        InputError: A file is missing, cannot be had, has another digest, or cannot be decoded and may not be left out.
    """
    root = Path(root)
    folder = _prepare(root, sha256, download, urls, pictures)
    names = _pictures(folder)
    supercategory = _supercategories()
    of_task = {task: sorted(c for c, s in supercategory.items() if s == task) for task in TASKS}
    categories = tuple(category for task in TASKS for category in of_task[task])
    label = {category: place for place, category in enumerate(categories)}
    train, test = _listed(root / TRAIN), _listed(root / TEST)

    wanted = [(source, name) for source, name in enumerate(names) if _category(name) in label]
    sides = [EVALUATION if form(name) in test else SERVER if form(name) in train else EXTRA for _, name in wanted]
    pixels, places = decoded(
        [folder / name for _, name in wanted],
        folder,
        size,
        root / "cache" if cache is None else Path(cache),
        upright=False,
        skip_unreadable=skip_unreadable,
        resize=[resize_users or side == SERVER for side in sides],
    )
    wanted, sides = ([column[place] for place in places.tolist()] for column in (wanted, sides))
    ends = torch.tensor([len(of_task[task]) for task in TASKS]).cumsum(0).tolist()
    return Pool(
        "mit_indoor",
        tuple(Task(task, slice(end - len(of_task[task]), end)) for task, end in zip(TASKS, ends, strict=True)),
        categories,
        pixels,
        torch.tensor([label[_category(name)] for _, name in wanted]),
        torch.tensor([source for source, _ in wanted]),
        torch.tensor(sides, dtype=torch.uint8),
        torch.full((len(wanted),), -1),
    )


def _prepare(root: Path, sha256: str | None, download: bool, urls: Mapping[str, str], pictures: int) -> Path:
    """The folder of categories, checked; downloads and unpacks what is missing."""
    if (folder := _unpacked(root)) is None or not all((root / name).exists() for name in (TRAIN, TEST)):
        try:
            root.mkdir(parents=True, exist_ok=True)
            # One process prepares, others wait.
            with FileLock(root / ".mit_indoor.lock"):
                for name in (TRAIN, TEST):
                    obtain(root / name, urls[name], download)
                if (folder := _unpacked(root)) is None:
                    return _unpack(root, sha256, download, urls, pictures)
        except OSError as error:
            raise InputError(
                f"MIT Indoor Scenes cannot be prepared in {root.absolute()} ({error.strerror or error}); choose a "
                "folder that can be written to"
            ) from error
    _verify(folder, root, pictures)
    return folder


def _unpacked(root: Path) -> Path | None:
    return next((f for f in (root / "Images", root / Path(ARCHIVE).stem / "Images") if f.is_dir()), None)


def _unpack(root: Path, sha256: str | None, download: bool, urls: Mapping[str, str], pictures: int) -> Path:
    archive = root / ARCHIVE
    found = obtain_archive(archive, urls[ARCHIVE], download, sha256, root / archive.stem)
    folder = _unpacked(root)
    if folder is None:
        raise InputError(f"{archive} has no folder Images; delete it and {root / archive.stem} to download it again")
    _verify(folder, root, pictures)
    remember_archive(archive, found)
    return folder


def _supercategories() -> dict[str, str]:
    """Category -> supercategory, all 67."""
    text = files("dua_lightning.data").joinpath("tables", "mit_indoor_supercategories.csv").read_text(encoding="utf-8")
    table = pd.read_csv(StringIO(text))
    return dict(zip(table["category"], table["supercategory"], strict=True))


def _category(name: str) -> str:
    return name.partition("/")[0]


def _pictures(folder: Path) -> list[str]:
    """Sorted `CATEGORY/FILE.jpg` below `folder`."""
    categories = (path for path in entries(folder) if path.is_dir())
    found = (path for category in categories for path in entries(category) if path.suffix.lower() == ".jpg")
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_file())


def _listed(path: Path) -> set[str]:
    """The `CATEGORY/FILE.jpg` of an official list, in the form in which names are compared."""
    # File names are bytes; those that are no UTF-8 come back from the file system escaped in this way.
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {form(line.strip()) for line in lines if line.strip()}


def _verify(folder: Path, root: Path, pictures: int) -> None:
    """Raises `InputError` naming what is missing from the unpacked archive."""
    names = _pictures(folder)
    again = f"delete {folder} and {root / ARCHIVE} to download them again"
    there, known = {_category(name) for name in names}, set(_supercategories())
    if missing := sorted(known - there):
        raise InputError(f"{folder} has no pictures of {_some(missing, 'category', 'categories')}; {again}")
    if foreign := sorted(there - known):
        raise InputError(f"{folder} has {_some(foreign, 'unknown category', 'unknown categories')}; remove or rename")
    for path in (root / TRAIN, root / TEST):
        listed = _listed(path)
        if not listed:
            raise InputError(f"{path} is empty; delete it to download it again")
        if missing := sorted(listed - set(map(form, names))):
            raise InputError(
                f"{_some(missing, 'picture', 'pictures')} of {path} cannot be found in {folder}; if the list itself is "
                f"damaged, delete it to download it again, otherwise {again}"
            )
    if len(names) != pictures:
        raise InputError(f"{folder} has {len(names)} pictures, not the {pictures} of the archive; {again}")


def _some(names: list[str], one: str, many: str) -> str:
    """`1 picture (a)`, `9 pictures (a, b, c, ...)`.

    Examples:
        >>> _some(["a", "b"], "picture", "pictures")
        '2 pictures (a, b)'
    """
    return f"{len(names)} {one if len(names) == 1 else many} ({', '.join([*names[:3], *['...'][: len(names) - 3]])})"
