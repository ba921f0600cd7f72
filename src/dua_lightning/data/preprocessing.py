"""The way from a picture file to an input of the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dua_lightning.data.decode import decode
from dua_lightning.data.images import images


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a picture file to an input, which are those of the pool that a network was trained on.

    The picture is turned upright by its EXIF orientation, its short side is resized to `size` (bilinear, antialiased),
    the central `crop` pixels are cut, and each channel is normalised as `(pixels / 255 - mean) / std`.

    Args:
        size: The short side after the resize, in pixels.
        crop: The side of the central cut that the network sees, in pixels.
        mean: The mean of each channel, on the scale [0, 1].
        std: The standard deviation of each channel, on the same scale.
    """

    size: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, paths: Sequence[Path]) -> Tensor:
        """Read pictures.

        Args:
            paths: The files.

        Returns:
            `(n, 3, crop, crop)` float32, normalised.

        Raises:
            InputError: A file is no picture that can be used.
        """
        pixels = torch.stack([torch.tensor(decode(path, self.size, upright=True)) for path in paths])
        places = torch.arange(len(paths))
        return images(pixels, places, places, self.mean, self.std, self.crop).inputs()
