"""`dua init`: a folder of example pictures, laid out as `data=own_users` reads it, and a text that explains it."""

import csv
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dua_lightning.commands.report import Parser
from dua_lightning.data.listing import shown
from dua_lightning.errors import InputError
from dua_lightning.report.terminal import Terminal
from dua_lightning.run.folders import quoted
from dua_lightning.store.files import refusing

TASKS = {"ground": ("brick", "grass", "gravel"), "table": ("coffee", "coins", "page")}
"""The categories of each task: photographs that come with scikit-image."""
SIDE = 144
"""The side of a picture, in pixels: the network of the README's command sees 128 of them at most."""
SERVER, LABELLED, UNLABELLED, UNSORTED = 12, 6, 8, 16
"""Pictures of a category of the server and of ann, of a task of bob, and of carl altogether."""
LIGHT = {"": (1.0, 1.0, 1.0), "ann": (0.5, 0.5, 0.6), "bob": (1.2, 0.9, 0.6), "carl": (0.7, 0.9, 1.2)}
"""The factors of red, green and blue by which the pictures of the server, and of each user, are lit."""
README = """\
This is an example of pictures as dua_lightning reads them. Put your own in their place.

  server/TASK/CATEGORY/*       the pictures that the server trains on. Here are two tasks, ground and table,
                               of three categories each. A task is what one model learns at a time; it needs two
                               categories or more, and a category two pictures or more (forty are better).
  users/ann/TASK/CATEGORY/*    a user whose pictures have labels, the names of the server's categories.
                               Half of them score the personal model, the others are what it adapts to.
  users/bob/TASK/*             a user without labels. The model is personalised all the same, and not scored.
  users/carl/*                 a user without tasks either. Each picture goes to the task of which the experts are
                               most certain; a line of the run says how many went where.
  pictures.csv                 the same as a table, for pictures that lie elsewhere: path (from the table's folder),
                               user (empty: the server's), task, category (empty: no label) and split (empty: drawn;
                               for users evaluation or adaptation). Commas or semicolons, in UTF-8.

A user may mix all three. Each needs at least two pictures of every task, or two without a task; a user who has fewer
is named and left out. So is a file that cannot be read. JPEG, PNG, WebP, AVIF, TIFF, BMP and GIF are read, and HEIC
after pip install 'dua_lightning[heif]'; endings and their case do not matter.

To run it on the folders, and on the table (the network's ImageNet weights are downloaded once, 14 MB):

  dua +experiment=own_users {root}
  dua +experiment=own_users data/images=table {table}

Without a network connection, put the file that the error names where it says, or start from the small weights that come
with the package (good enough to see that all works):

  dua +experiment=own_users {root} model=vgg11_bn model.weights=embedded \\
    model.width=0.125 model.pooled=1 data.images.size=36 data.input_size=32

Then read outputs/DATE/TIME/summary.json, or make a page of it:

  dua report outputs/DATE/TIME

The pictures are parts of photographs that come with scikit-image; the server's and the users' show different parts.
"""
"""The text of README.txt, with the settings that name the folder and the table left open."""


def main(arguments: Sequence[str]) -> int:
    """Lay out an example in a folder.

    Args:
        arguments: The words of the command line.

    Returns:
        The exit status.

    Raises:
        InputError: The folder has something in it, or cannot be made.
    """
    parser = Parser(prog="dua init", description=__doc__)
    parser.add_argument("DIR", type=Path, help="the folder; it is made, or is empty")
    folder: Path = parser.parse_args(arguments).DIR
    with refusing(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{shown(folder)} is there already and is no empty folder; name another one")
        folder.mkdir(parents=True, exist_ok=True)
        # Nothing half made is left where writing fails.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
            _fill(Path(temporary), folder)
            for path in Path(temporary).iterdir():
                path.rename(folder / path.name)
    Terminal().print(
        f"{shown(folder)} has an example; {shown(folder / 'README.txt')} explains it. To run it:\n"
        f"  dua +experiment=own_users {_setting('data.images.root', folder)}"
    )
    return 0


def _setting(name: str, path: Path) -> str:
    """A setting with a path as a shell takes it."""
    return shlex.quote(f"{name}={quoted(str(path))}")


def _fill(root: Path, folder: Path) -> None:
    """Write everything into `root`, by the name of the folder that it will be."""
    lines = [["path", "user", "task", "category", "split"]]
    for name, user, task, category, picture in _pictures():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=75)
        lines.append([name, user, task, category, ""])
    with (root / "pictures.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)
    text = README.format(
        root=_setting("data.images.root", folder), table=_setting("data.images.table", folder / "pictures.csv")
    )
    (root / "README.txt").write_text(text, encoding="utf-8", errors="surrogateescape")


def _pictures() -> Iterator[tuple[str, str, str, str, Image.Image]]:
    """Each picture, with its path, its user, and the task and category that are told."""
    random = np.random.default_rng(0)
    places = [(task, category) for task, categories in TASKS.items() for category in categories]
    halves = {category: _halves(category) for _, category in places}
    for task, category in places:
        for i in range(SERVER):
            name = f"server/{task}/{category}/{i:02}.jpg"
            yield name, "", task, category, _cut(halves[category][0], random, "")
        for i in range(LABELLED):
            name = f"users/ann/{task}/{category}/{i}.jpg"
            yield name, "ann", task, category, _cut(halves[category][1], random, "ann")
    for task, categories in TASKS.items():
        for i in range(UNLABELLED):
            picture = _cut(halves[categories[i % len(categories)]][1], random, "bob")
            yield f"users/bob/{task}/IMG_{i:04}.JPG", "bob", task, "", picture
    for i in range(UNSORTED):
        picture = _cut(halves[places[i % len(places)][1]][1], random, "carl")
        yield f"users/carl/photo {i + 1}.jpg", "carl", "", "", picture


def _halves(name: str) -> tuple[Image.Image, Image.Image]:
    """The left half of a photograph, for the server, and the right half, for the users."""
    import skimage.data

    picture = Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")
    middle = picture.width // 2
    return picture.crop((0, 0, middle, picture.height)), picture.crop((middle, 0, *picture.size))


def _cut(half: Image.Image, random: np.random.Generator, user: str) -> Image.Image:
    """A square of random place and size, in the user's light."""
    side = int(min(half.size) * random.uniform(0.5, 1))
    left, top = (int(random.integers(0, length - side + 1)) for length in half.size)
    square = half.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    lit = np.asarray(square) * np.array(LIGHT[user])
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))
