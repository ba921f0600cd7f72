"""Ten common corruptions of photographs, one for each user of TransPrior.

[Hendrycks2019] D. Hendrycks, T. Dietterich. Benchmarking neural network robustness to common corruptions and
perturbations. ICLR 2019.
"""

import io
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.streams import derive

Array = npt.NDArray[np.float64]
"""Numbers in float64."""
Bytes = npt.NDArray[np.uint8]
"""Numbers of eight bits."""
Draws = Iterator[np.random.Generator]
"""A random number generator for each image."""

NAMES = (
    "spatter",
    "elastic",
    "saturate",
    "defocus",
    "gaussian_noise",
    "brightness",
    "gaussian_blur",
    "jpeg",
    "contrast",
    "impulse_noise",
)
"""The corruptions in the order of the paper's users 1 to 10."""

WATER = (175, 238, 238)
MUD = (63, 42, 20)
"""Colours of the spatter: RGB, out of 255."""

CONSTANTS: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {
    "tiny_imagenet_c": {
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        "elastic": ((0, 0, 5.12), (3.2, 19.2, 3.84), (6.4, 5.12, 3.84), (6.4, 1.92, 1.92), (10.24, 1.92, 1.28)),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        "defocus": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "gaussian_noise": ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "gaussian_blur": ((0.5,), (0.75,), (1,), (1.25,), (1.5,)),
        "jpeg": ((65,), (58,), (50,), (40,), (25,)),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        "impulse_noise": ((0.01,), (0.02,), (0.05,), (0.08,), (0.14,)),
    },
    "imagenet_c": {
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        "elastic": (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        "defocus": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "gaussian_blur": ((1,), (2,), (3,), (4,), (6,)),
        "jpeg": ((25,), (18,), (15,), (10,), (7,)),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    },
}
"""The arguments of each corruption at severities 1 to 5, by set of constants and corruption.

Lengths are in pixels of the image as it is: `tiny_imagenet_c` was made for images of 64 pixels, `imagenet_c` for images
of 224.
"""

CHUNK = 2**22
"""Values worked on at a time, 32 MiB in float64; results do not depend on it."""


def corrupt(
    name: str,
    pixels: Tensor,
    severity: int,
    sources: Tensor,
    seed: int,
    user: str | int,
    constants: str = "tiny_imagenet_c",
) -> Tensor:
    """Corrupt images as [Hendrycks2019] does.

    An image's random numbers are those of its stream `(seed, "corrupt", user, source)`: it comes out the same in every
    pass, process, batch and order. The stream does not depend on name and severity, so stronger Gaussian noise is the
    same noise scaled, and stronger impulse noise hits the same values and more.

    Args:
        name: The corruption, one of `NAMES`.
        pixels: `(n, 3, height, width)` uint8, RGB; they stay as they are.
        severity: 1 (mild) to 5 (strong).
        sources: `(n,)` int64, the picture behind each image.
        seed: The run's seed.
        user: The user for whom random numbers are drawn.
        constants: The set of constants, a key of `CONSTANTS`.

    Returns:
        `(n, 3, height, width)` uint8, truncated and not rounded, as the published images are.

    Raises:
        InputError: There is no such name, severity or set of constants, or the corruption cannot take the images.
    """
    if name not in NAMES:
        raise InputError(f"there is no corruption {name!r}; choose one of {', '.join(NAMES)}")
    if severity not in range(1, 6):
        raise InputError(f"a corruption's severity is 1, 2, 3, 4 or 5, got {severity!r}")
    if constants not in CONSTANTS:
        raise InputError(f"there is no set of corruption constants {constants!r}; choose {' or '.join(CONSTANTS)}")
    if pixels.dtype != torch.uint8 or pixels.dim() != 4 or pixels.shape[1] != 3 or 0 in pixels.shape[2:]:
        raise InputError(f"corruptions take (n, 3, height, width) uint8, got {tuple(pixels.shape)} {pixels.dtype}")
    if sources.shape != pixels.shape[:1]:
        raise InputError(f"{len(pixels)} images need as many sources, got {tuple(sources.shape)}")
    arguments = CONSTANTS[constants][name][int(severity) - 1]
    corrupted = torch.empty_like(pixels, memory_format=torch.contiguous_format)
    step = max(1, CHUNK // pixels[:1].numel()) if len(pixels) else 1
    for start in range(0, len(pixels), step):
        part = slice(start, start + step)
        draws = (np.random.default_rng(derive(seed, "corrupt", user, source)) for source in sources[part].tolist())
        x = TRANSFORMS[name](pixels[part].numpy() / 255, draws, *arguments)
        corrupted[part] = torch.from_numpy(_truncated(x))
    return corrupted


def _truncated(x: Array) -> Bytes:
    """Turn numbers into bytes; a value just below a whole level, by rounding, is that level: flat areas stay."""
    levels: Array = x.clip(0, 1) * 255 + 1e-6
    return levels.astype(np.uint8)


def _spatter(
    x: Array, draws: Draws, loc: float, scale: float, sigma: float, threshold: float, mix: float, mud: float
) -> Array:
    """Add water, or cover with mud, the places where a smoothed layer of Gaussian noise exceeds `threshold`."""
    layers = np.stack([rng.normal(loc, scale, x.shape[2:]) for rng in draws])
    layers = ndimage.gaussian_filter(layers, (0, sigma, sigma), mode="nearest")
    if mud:
        cover = ndimage.gaussian_filter(np.where(layers > threshold, 1.0, 0.0), (0, mix, mix), mode="nearest")
        cover[cover < 0.8] = 0
        return np.asarray(x + cover[:, None] * (_colour(MUD) - x))
    cv2 = _opencv()
    layers[layers < threshold] = 0
    # Without the clip, a liquid thicker than 1 would wrap round to a thin one.
    water = np.stack([_water(cv2, (layer.clip(0, 1) * 255).astype(np.uint8)) for layer in layers])
    peak = water.max((1, 2), keepdims=True)
    # An image that no drop hits has a peak of 0.
    return np.asarray(x + (mix * water / np.where(peak > 0, peak, 1))[:, None] * _colour(WATER))


def _water(cv2: ModuleType, liquid: Bytes) -> Array:
    """Brightness of the drops: thickest away from their edges, lit from one corner. `(height, width)`, no unit.

    After the distance every step is on bytes, as it was published: the rounding shapes the drops.
    """
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    smooth = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = cv2.blur(cv2.filter2D(cv2.equalizeHist(smooth), cv2.CV_8U, light), (3, 3))
    return np.asarray(liquid * embossed.astype(np.float64))


def _colour(rgb: tuple[int, int, int]) -> Array:
    return np.array(rgb, np.float64)[:, None, None] / 255


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "the corruption spatter needs OpenCV, which is not installed; pip install opencv-python-headless"
        ) from error
    return cv2


def _elastic(x: Array, draws: Draws, amplitude: float, sigma: float, jitter: float) -> Array:
    """An affine map that moves three points by up to `jitter` pixels, then a smooth random displacement field.

    The points lie a third of the shorter side from the centre, along both axes. The affine map reads beyond the border
    by mirroring about the border pixels, the displacement by mirroring about the border itself.
    """
    height, width = x.shape[2:]
    third = min(height, width) // 3
    if third == 0:
        raise InputError(f"the corruption elastic needs images of at least 3x3 pixels, got {height}x{width}")
    # The published code swaps the centre's coordinates, which matters only for images that are not square; not done
    # here: it would make the images' far ends move by more than their near ones.
    centre = np.array([height // 2, width // 2])
    before = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moves, fields = [], []
    for rng in draws:
        moves.append(rng.uniform(-jitter, jitter, (3, 2)))
        fields.append(rng.uniform(-1, 1, (2, height, width)))
    shifts = amplitude * ndimage.gaussian_filter(np.stack(fields), (0, 0, sigma, sigma), mode="reflect", truncate=3)
    grid = np.indices((height, width), np.float64)
    ones = np.ones((3, 1))
    bent = np.empty_like(x)
    for picture, move, shift, out in zip(x, moves, shifts, bent, strict=True):
        back = np.linalg.solve(np.hstack([before + move, ones]), before)
        where = np.tensordot(back[:2].T, grid, 1) + back[2][:, None, None]
        for channel, into in zip(picture, out, strict=True):
            moved = ndimage.map_coordinates(channel, where, order=1, mode="mirror")
            ndimage.map_coordinates(moved, grid + shift, into, order=1, mode="reflect")
    return bent


def _saturate(x: Array, _: Draws, factor: float, offset: float) -> Array:
    """The saturation S of hue, saturation and value becomes factor * S + offset, within [0, 1].

    A colour is V (1 - S d), d its channels' distances below V in units of the greatest one: hue alone decides d.
    """
    value = x.max(1, keepdims=True)
    below = value - x
    span = below.max(1, keepdims=True)
    grey = span == 0
    # Grey has no hue; by convention it is red's, so an offset turns grey reddish, as in the published images.
    d = np.where(grey, np.array([0.0, 1.0, 1.0])[:, None, None], below / np.where(grey, 1, span))
    saturation = factor * span / np.where(value == 0, 1, value) + offset
    return np.asarray(value * (1 - saturation.clip(0, 1) * d))


def _brightness(x: Array, _: Draws, offset: float) -> Array:
    """The value V of hue, saturation and value becomes V + offset, at most 1: all channels grow by one factor."""
    value = x.max(1, keepdims=True)
    brighter = np.minimum(value + offset, 1)
    return np.asarray(np.where(value == 0, brighter, x * brighter / np.where(value == 0, 1, value)))


def _contrast(x: Array, _: Draws, factor: float) -> Array:
    """Distances from the mean of an image's channel shrink by `factor`."""
    mean = x.mean((2, 3), keepdims=True)
    return np.asarray(mean + factor * (x - mean))


def _defocus(x: Array, _: Draws, radius: float, sigma: float) -> Array:
    """Mean over a disk whose edge is softened by a Gaussian, the border mirrored about its pixels."""
    kernel = disk(radius, sigma)
    return np.asarray(ndimage.correlate(x, kernel[None, None], mode="mirror"))


def disk(radius: float, sigma: float) -> Array:
    """Make the kernel of the corruption defocus.

    From radius 8 on the disk touches the kernel's edge, and the softening mirrors it there, as published: the weights
    then add up to 1.013 (radius 8) or 1.011 (radius 10), and such images get that much brighter.

    Args:
        radius: The disk's radius in pixels.
        sigma: The standard deviation, in pixels, of the Gaussian that softens its edge.

    Returns:
        `(17, 17)` weights, softened by 3x3 weights; above radius 8 as large as the disk, softened by 5x5.
    """
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    row = np.arange(-half, half + 1)
    kernel: Array = np.where(row[:, None] ** 2 + row**2 <= radius**2, 1.0, 0.0)
    kernel /= kernel.sum()
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weights / weights.sum(), axis, mode="mirror")
    return kernel


def _gaussian_blur(x: Array, _: Draws, sigma: float) -> Array:
    """Gaussian weights cut at 4 sigma, the border's pixels repeated."""
    return np.asarray(ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest"))


def _gaussian_noise(x: Array, draws: Draws, std: float) -> Array:
    """Independent noise on every value."""
    return np.asarray(x + std * np.stack([rng.standard_normal(x.shape[1:]) for rng in draws]))


def _impulse_noise(x: Array, draws: Draws, fraction: float) -> Array:
    """A `fraction` of the values becomes 0 or 1, either as likely; each channel on its own."""
    uniform = np.stack([rng.random(x.shape[1:]) for rng in draws])
    return np.where(uniform < fraction / 2, 0, np.where(uniform >= 1 - fraction / 2, 1, x))


def _jpeg(x: Array, _: Draws, quality: float) -> Array:
    """Through a JPEG file with halved colour resolution, Pillow's default."""
    decoded = np.empty_like(x)
    for picture, out in zip((x * 255).round().astype(np.uint8), decoded, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as image:
            out[:] = np.asarray(image).transpose(2, 0, 1) / 255
    return decoded


TRANSFORMS: dict[str, Callable[..., Array]] = {
    "spatter": _spatter,
    "elastic": _elastic,
    "saturate": _saturate,
    "defocus": _defocus,
    "gaussian_noise": _gaussian_noise,
    "brightness": _brightness,
    "gaussian_blur": _gaussian_blur,
    "jpeg": _jpeg,
    "contrast": _contrast,
    "impulse_noise": _impulse_noise,
}
"""Functions `(images, draws, *arguments) -> images`, images being `(n, 3, height, width)` in [0, 1], by corruption."""
