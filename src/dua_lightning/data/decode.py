"""Picture files to squares of bytes: decoded once, on all cores, into a memory map."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from torch import Tensor

from dua_lightning.data.cache import Rows, cached
from dua_lightning.errors import InputError
from dua_lightning.progress import stage
from dua_lightning.store.versions import version

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Formats that may be opened, told by content and not by the file's ending; Pillow runs programs for some others."""

MOST_PIXELS = 89_478_485
"""Pictures with more are refused unread, as decompression bombs: Pillow's own limit, a quarter of a gibibyte in RGB."""

CHUNK = 256
"""Pictures that are decoded before their bytes are written away."""


def decoded(
    paths: Sequence[Path],
    root: Path,
    size: int,
    cache: Path,
    upright: bool,
    skip_unreadable: bool,
    resize: Sequence[bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode all readable pictures once, on all cores, into a memory map.

    The map lies in `cache` under the names below `root`, bytes and times of last change of all files, `size`, `upright`
    and `resize`, and the versions of `decode` and of the libraries that it uses; while these stay, nothing is decoded
    again.

    Args:
        paths: The files.
        root: A folder above all of them.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map.
        upright: Whether pictures are turned as their EXIF orientation says.
        skip_unreadable: Whether unreadable pictures are left out, and listed in a warning.
        resize: For each path, whether the picture is resized before its centre is cut; by default all are.

    Returns:
        `(m, 3, size, size)` uint8 pictures and their `(m,)` places in `paths`.

    Raises:
        InputError: A picture cannot be read and may not be left out; the message has the first one's name.
    """
    if size < 1:
        raise InputError(f"pictures are at least 1 pixel wide, got size={size}")
    names = [path.relative_to(root).as_posix() for path in paths]
    stats = [path.stat() for path in paths]
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in zip(names, stats, strict=True)]
    count, per_picture = len(paths), 3 * size * size
    scales = [True] * count if resize is None else list(resize)
    # Behind the pictures stands one byte for each file, 1 if it could be read. They take whole rows.
    shape = (count + -(-count // per_picture), 3, size, size)

    def write(rows: Rows) -> None:
        readable = rows[count:].reshape(-1)
        found = 0
        with (
            stage(f"reading the pictures in {root.name}", count) as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            for start in range(0, count, CHUNK):
                chunk = slice(start, start + CHUNK)
                squares = pool.map(
                    lambda path, scale: _attempt(path, size, upright, scale), paths[chunk], scales[chunk]
                )
                for place, square in enumerate(squares, start):
                    if not isinstance(square, InputError):
                        rows[found], readable[place] = square, 1
                        found += 1
                    advance()

    rows = cached(cache, ["pictures", version(f"{__name__}.decode"), size, upright, files, scales], shape, write)
    readable = rows[count:].flatten()[:count].bool()
    lost = [names[place] for place in (~readable).nonzero()[:, 0].tolist()]
    if lost and not skip_unreadable:
        first = _attempt(root / lost[0], size, upright, True)
        raise InputError(
            f"{len(lost)} of {count} pictures cannot be read; {first}, or leave such pictures out with "
            "skip_unreadable=true"
        )
    if lost:
        log.warning("%d of %d pictures in %s cannot be read and are left out: %s", len(lost), count, root, lost)
    places = readable.nonzero()[:, 0]
    return rows[: len(places)], places


def decode(path: Path, size: int, upright: bool, resize: bool = True) -> npt.NDArray[np.uint8]:
    """Read the central square of a picture, its short side resized to `size` (bilinear, antialiased).

    This is torchvision's `Resize(size)` and `CenterCrop(size)`, at the cost of the part that is kept. Grey, palette and
    CMYK pictures become RGB, transparency is dropped, 16 bits are scaled to 8, and the first frame of an animation is
    taken.

    Args:
        path: The file.
        size: The side of the square, in pixels.
        upright: Whether the picture is turned as its EXIF orientation says; torchvision ignores it.
        resize: Whether the picture is resized; otherwise the centre is cut at the picture's own scale, with zeros
            around a smaller picture.

    Returns:
        `(3, size, size)` uint8, RGB.

    Raises:
        InputError: The file is no picture, is damaged, or has more than `MOST_PIXELS` or values that are floating-point
            or of 32 bits.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width}x{height} is more than {MOST_PIXELS} pixels")
            picture = _rgb(ImageOps.exif_transpose(opened) if upright else opened)
        square = _square(picture, size) if resize else _centre(picture, size)
        return np.asarray(square).transpose(2, 0, 1)
    # Damaged files make Pillow's readers raise nearly anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is not a picture that can be used ({reason}); repair or remove it") from error


def _attempt(path: Path, size: int, upright: bool, resize: bool) -> npt.NDArray[np.uint8] | InputError:
    try:
        return decode(path, size, upright, resize)
    except InputError as error:
        return error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its values are floating-point, and their range is not known")
    if picture.mode.startswith("I"):
        # Pillow would cut 16-bit values off at 255.
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def _square(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    short = min(width, height)
    # Sides after the resize and corner of the crop, as torchvision rounds them.
    wide, high = size * width // short, size * height // short
    left, top = round((wide - size) / 2), round((high - size) / 2)
    box = (
        left * width / wide,
        top * height / high,
        min(width, (left + size) * width / wide),
        min(height, (top + size) * height / high),
    )
    return picture.resize((size, size), Image.Resampling.BILINEAR, box)


def _centre(picture: Image.Image, size: int) -> Image.Image:
    left, top = round((picture.width - size) / 2), round((picture.height - size) / 2)
    return picture.crop((left, top, left + size, top + size))
