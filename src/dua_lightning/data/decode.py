"""Picture files to squares of bytes: decoded once, on all cores, into a memory map."""

import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dua_lightning.data.cache import Rows, cached
from dua_lightning.data.listing import shown, trouble
from dua_lightning.errors import InputError
from dua_lightning.progress import stage
from dua_lightning.store.files import file_sha256
from dua_lightning.store.versions import version

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
"""Formats that may be opened, told by content and not by the file's ending; Pillow runs programs for some others."""
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF"}
"""Formats of telephones that not every installation can read, by the word at the start of such a file."""
INSTALL = {"HEIC": "pip install 'dua_lightning[heif]'", "AVIF": "pip install --upgrade pillow"}
"""The commands after which they can be read."""

MOST_PIXELS = 250_000_000
"""Pictures with more are refused unread, as decompression bombs: telephones make up to 200 million pixels."""
LARGE = 50_000_000
"""Pictures with more pixels are decoded one at a time, and a JPEG in a size below its own.

The 48 million of most telephones are below it. A JPEG of 12,000x9,000 pixels takes 0.26 s and 7 MB, and not 1.7 s and
416 MB; one of 12,000x6,000 takes 0.15 s and 4 MB, and not 0.84 s and 278 MB (squares of 128 pixels, one core). Of a
progressive JPEG all coefficients are in memory at once: 316 and 210 MB. No other format can be shrunk while it is
decoded: a PNG of these sizes takes 4.1 s and 416 MB, or 2.7 s and 278 MB.
"""

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
    most_pixels: int = MOST_PIXELS,
) -> tuple[Tensor, Tensor]:
    """Decode all readable pictures once, on all cores, into a memory map.

    The map lies in `cache` under the digests of the bytes of all files, in their order, `size`, `upright`, `resize` and
    `most_pixels`, and the versions of `decode` and of the libraries that it uses; while these stay, nothing is decoded
    again. Names, sizes and times do not count. All bytes are read each time: 3,100 photographs of 128x128 pixels take
    0.15 s on one core, and are decoded in 2.3 s on two; of larger photographs it is a hundredth of decoding.

    Args:
        paths: The files.
        root: The folder that messages name, and from which they name files within it.
        size: The side of the squares, in pixels.
        cache: The folder of the memory map.
        upright: Whether pictures are turned as their EXIF orientation says.
        skip_unreadable: Whether unreadable pictures are left out, and listed in a warning.
        resize: For each path, whether the picture is resized before its centre is cut; by default all are.
        most_pixels: Pictures with more are not read.

    Returns:
        `(m, 3, size, size)` uint8 pictures and their `(m,)` places in `paths`.

    Raises:
        InputError: A picture cannot be read and may not be left out; the message has the first one's name. Or a file
            has changed meanwhile.
    """
    if size < 1:
        raise InputError(f"pictures are at least 1 pixel wide, got size={size}")
    count, per_picture = len(paths), 3 * size * size
    scales = [True] * count if resize is None else list(resize)
    # Behind the pictures stands one byte for each file, 1 if it could be read. They take whole rows.
    shape = (count + -(-count // per_picture), 3, size, size)
    digests = _digests(paths)

    def attempt(place: int) -> npt.NDArray[np.uint8] | None:
        with suppress(InputError):
            return None if digests[place] is None else decode(paths[place], size, upright, scales[place], most_pixels)
        return None

    def write(rows: Rows) -> None:
        readable = rows[count:].reshape(-1)
        found = 0
        with (
            warnings.catch_warnings(),
            stage(f"reading the pictures in {shown(root.name)}", count) as advance,
            ThreadPoolExecutor(os.cpu_count()) as pool,
        ):
            # Pillow warns of damage beside the pixels, such as in the EXIF block, once more for each place in its code.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            for start in range(0, count, CHUNK):
                squares = pool.map(attempt, range(start, min(start + CHUNK, count)))
                for place, square in enumerate(squares, start):
                    if square is not None:
                        rows[found], readable[place] = square, 1
                        found += 1
                    advance()
        if _digests(paths) != digests:
            raise InputError(f"pictures in {shown(root)} have changed while they were read; run again")

    key = ["pictures", version(f"{__name__}.decode"), size, upright, most_pixels, digests, scales]
    rows = cached(cache, key, shape, write)
    readable = rows[count:].flatten()[:count].bool()
    lost = [paths[place] for place in (~readable).nonzero()[:, 0].tolist()]
    if lost and not skip_unreadable:
        try:
            decode(lost[0], size, upright, True, most_pixels)
            reason = f"{shown(lost[0])} could not be read when {shown(cache)} was made; empty this folder"
        except InputError as error:
            reason = str(error)
        raise InputError(
            f"{len(lost)} of {count} pictures cannot be read; {reason}, or leave such pictures out with "
            "skip_unreadable=true"
        )
    if lost:
        names = [shown((path.relative_to(root) if path.is_relative_to(root) else path).as_posix()) for path in lost]
        log.warning("%d of %d pictures in %s cannot be read and are left out: %s", len(lost), count, shown(root), names)
    places = readable.nonzero()[:, 0]
    return rows[: len(places)], places


def decode(
    path: Path, size: int, upright: bool, resize: bool = True, most_pixels: int = MOST_PIXELS
) -> npt.NDArray[np.uint8]:
    """Read the central square of a picture, its short side resized to `size` (bilinear, antialiased).

    This is torchvision's `Resize(size)` and `CenterCrop(size)`, at the cost of the part that is kept. Grey, palette and
    CMYK pictures become RGB, transparency is dropped, 16 bits are scaled to 8, and the first frame of an animation is
    taken. A JPEG of more than `LARGE` pixels is decoded at an eighth of its size, or at the fraction of which the short
    side still has two times `size`.

    Args:
        path: The file.
        size: The side of the square, in pixels.
        upright: Whether the picture is turned as its EXIF orientation says; torchvision ignores it.
        resize: Whether the picture is resized; otherwise the centre is cut at the picture's own scale, with zeros
            around a smaller picture.
        most_pixels: A picture with more is refused unread.

    Returns:
        `(3, size, size)` uint8, RGB.

    Raises:
        InputError: The file is no picture, is damaged, or has more than `most_pixels` or values that are floating-point
            or of 32 bits.
    """
    try:
        with path.open("rb") as file, _opened(file) as opened:
            width, height = opened.size
            if width * height > most_pixels:
                raise ValueError(f"{width}x{height} is more than most_pixels={most_pixels}")
            with _ONE_AT_A_TIME if width * height > LARGE else nullcontext():
                if resize and width * height > LARGE:
                    opened.draft(None, (2 * size, 2 * size))
                opened.load()
                if upright:
                    # A damaged EXIF block costs no picture; without an orientation it stays as it is.
                    with suppress(Exception):
                        ImageOps.exif_transpose(opened, in_place=True)
                picture = _rgb(opened)
                square = _square(picture, size) if resize else _centre(picture, size)
        return np.asarray(square).transpose(2, 0, 1)
    # Damaged files make Pillow's readers raise nearly anything.
    except Exception as error:
        raise InputError(
            f"{shown(path)} is not a picture that can be used ({_reason(path, error)}); repair or remove it"
        ) from error


_ONE_AT_A_TIME = Lock()
_OPENING = Lock()


def _opened(file: IO[bytes]) -> Image.Image:
    """Read the header of a picture; Pillow's limit of its size, which holds for the process, is lifted meanwhile."""
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@cache
def _formats() -> tuple[str, ...]:
    """The formats that may be opened and that this installation knows."""
    found = [*FORMATS]
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        found += ["AVIF"] if AvifImagePlugin.SUPPORTED else []
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        found += ["HEIF"]
    return tuple(found)


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with suppress(OSError), path.open("rb") as file:
            kind = BRANDS.get(file.read(12)[8:])
            return f"it is {kind}, which can be read after {INSTALL[kind]}" if kind else "it is of no known kind"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it {trouble(path, error)}"
    return shown(" ".join(str(error).split())) or type(error).__name__


def _digests(paths: Sequence[Path]) -> list[str | None]:
    """The SHA-256 of each file's bytes; none where they cannot be read."""

    def digest(path: Path) -> str | None:
        with suppress(OSError):
            return file_sha256(path)
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest, paths))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("its values are floating-point, and their range is not known")
    if picture.mode.startswith("I"):
        # Pillow would cut 16-bit values off at 255.
        values = np.asarray(picture).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values have more than 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("P", "PA") and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


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
