"""Patches of photographs that come inside scikit-image: the scene benchmarks in small, without a download."""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dua_lightning.data.pool import EVALUATION, EXTRA, SERVER, Pool
from dua_lightning.errors import InputError
from dua_lightning.tasks import Task

PHOTOGRAPHS = {
    "built": ("brick", "gravel", "rocket", "stereo_motorcycle"),
    "instruments": ("cell", "hubble_deep_field", "moon", "retina"),
    "living": ("astronaut", "camera", "chelsea", "grass"),
    "table": ("coffee", "coins", "immunohistochemistry", "page"),
}
"""The categories of each task.

Each task has two grey and two colour photographs, so that colour alone does not tell its categories apart, and textures
beside objects; photographs that look alike are together where a theme can be found for them: brick and gravel, cell and
moon, camera (half of it a lawn) and grass, coins and page.
"""

PATCHES_PER_TILE = 2
"""The side of a tile, in patches."""
TILES = 6
"""The number of tiles along the short side of a photograph."""
LEAST_STD = 2.0
"""Patches whose pixels vary less than this, of 255, are left out: nobody could tell black corners apart."""
SOURCES = 100_000
"""The sources of each category are counted from a multiple of this."""


def photos(size: int = 36, server_per_category: int = 120, least_std: float = LEAST_STD) -> Pool:
    """Make a pool of patches from sixteen photographs, which are sixteen categories in four tasks.

    This stands in for MIT Indoor Scenes where there is no network. It is not scene recognition: one photograph is one
    category, and its patches share the things, light and grain of one picture.

    Each photograph is resized so that its short side has six tiles of two by two patches, 432 pixels at the default
    size, so that a patch shows the same part of it at any size; its long side is cut to whole tiles. Tiles belong to
    the server and to the users in turn, as the fields of a chessboard: both see all parts of the photograph, and no
    pixel is seen by both. The server's patches overlap by half, nine in a tile, and their source is the tile; the
    users' lie side by side, four in a tile, each its own source, every third one for evaluation and the others extra.
    Nothing is drawn at random.

    Args:
        size: The side of a patch, in pixels.
        server_per_category: How many of the server's patches of a category are kept, evenly spread.
        least_std: Patches whose pixels vary less than this, of 255, are left out.

    Returns:
        The pool; its pictures belong to no user.

    Raises:
        InputError: The sizes leave nothing.
    """
    if size < 2 or server_per_category < 2:
        raise InputError(f"photos need size and server_per_category of at least 2, got {size}, {server_per_category}")
    categories = tuple(name for names in PHOTOGRAPHS.values() for name in names)
    patches, labels, sources, sides = [], [], [], []
    for label, name in enumerate(categories):
        server, users = _corners(picture := photograph(name, size), size)
        evaluated = torch.arange(len(users)) % 3 == 0
        for corners, side in ((server, SERVER), (users[evaluated], EVALUATION), (users[~evaluated], EXTRA)):
            cut = torch.stack([picture[:, top : top + size, left : left + size] for _, top, left in corners.tolist()])
            kept = (cut.float().std((2, 3)).mean(1) >= least_std).nonzero()[:, 0]
            if side == SERVER:
                count = min(len(kept), server_per_category)
                kept = kept[torch.arange(count) * len(kept) // max(count, 1)]
            if len(kept) < 2:
                raise InputError(f"photograph {name} keeps {len(kept)} patches of a side; lower least_std={least_std}")
            patches.append(cut[kept])
            labels.append(torch.full((len(kept),), label))
            sources.append(SOURCES * label + corners[kept, 0])
            sides.append(torch.full((len(kept),), side, dtype=torch.uint8))
    ends = [4, 8, 12, 16]
    return Pool(
        "photos",
        tuple(Task(name, slice(end - 4, end)) for name, end in zip(PHOTOGRAPHS, ends, strict=True)),
        categories,
        torch.cat(patches),
        torch.cat(labels),
        torch.cat(sources),
        torch.cat(sides),
        torch.full((sum(map(len, labels)),), -1),
    )


def _corners(picture: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Find source, top and left of every patch of the server, `(n, 3)`, and of the users, `(m, 3)`, tile by tile.

    The server's sources are its tiles, from 0; the users' are their patches, from there on.
    """
    side = PATCHES_PER_TILE * size
    rows, columns = (length // side for length in picture.shape[1:])
    tiles = [(row * side, column * side, (row + column) % 2) for row in range(rows) for column in range(columns)]
    ours, theirs = ([(top, left) for top, left, whose in tiles if whose == who] for who in (0, 1))

    def within(stride: int) -> list[tuple[int, int]]:
        places = range(0, side - size + 1, stride)
        return [(down, right) for down in places for right in places]

    server = [(i, top + d, left + r) for i, (top, left) in enumerate(ours) for d, r in within(size // 2)]
    users = [(top + d, left + r) for top, left in theirs for d, r in within(size)]
    return torch.tensor(server), torch.tensor([(len(ours) + i, *corner) for i, corner in enumerate(users)])


@cache
def photograph(name: str, size: int) -> Tensor:
    """Read a photograph of scikit-image, its short side as long as `TILES` tiles.

    Args:
        name: Its name in `skimage.data`.
        size: The side of a patch in pixels, of which a tile has several.

    Returns:
        `(3, height, width)` uint8 pixels.
    """
    import skimage.data

    loaded = getattr(skimage.data, name)()
    # A stereo pair comes with its disparity; the left picture is the first.
    array = loaded[0] if isinstance(loaded, tuple) else loaded
    picture = Image.fromarray(np.asarray(array)).convert("RGB")
    short = TILES * PATCHES_PER_TILE * size
    width, height = (round(side * short / min(picture.size)) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())
