"""A pool of pictures of many categories, which the scene benchmarks divide over the server and the users."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dua_lightning.data.images import Images, images
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.tasks import Task

SERVER, EVALUATION, EXTRA = 0, 1, 2
"""Sides of a pool: the server trains on the first; users are scored on the second and get to know the third."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, on the scale [0, 1]."""


@dataclass(frozen=True)
class Pool:
    """Square pictures as bytes, usually a memory map, so that only the pictures that are read are loaded.

    Args:
        name: The source's name.
        tasks: The tasks in the order of learning; each owns contiguous labels.
        categories: The name of each class, by label.
        pixels: `(n, 3, size, size)` uint8.
        labels: `(n,)` int64; -1 where a user's picture has none.
        sources: `(n,)` int64, as in `Images`; no source is on two sides.
        side: `(n,)` uint8, each one of `SERVER`, `EVALUATION`, `EXTRA`.
        owners: `(n,)` int64, the user whose picture it is by the source's own division, an index of `users`, or -1
            where the benchmark divides.
        users: The names of the users that the source has.
        of_task: `(n,)` int64, the place of each picture's task, -1 where a user's picture has none; by default that of
            its label.
        halves: `(n,)` uint8, the half that each picture of a user is for, as in `UserData`; by default all are drawn.
    """

    name: str
    tasks: tuple[Task, ...]
    categories: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    sources: Tensor
    side: Tensor
    owners: Tensor
    users: tuple[str, ...] = ()
    of_task: Tensor | None = None
    halves: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """The place of each picture's task, `(n,)`; -1 where it has none."""
        if self.of_task is not None:
            return self.of_task
        return torch.bucketize(self.labels, torch.tensor([task.classes.stop for task in self.tasks]), right=True)

    def take(self, index: Tensor, crop: int) -> Images:
        """Take some pictures, normalised as ImageNet's are; no pixel is copied.

        Args:
            index: `(m,)` places in the pool.
            crop: The side of the central cut that the network sees, in pixels.

        Returns:
            The images.
        """
        every = images(self.pixels, self.labels, self.sources, IMAGENET_MEAN, IMAGENET_STD, crop)
        return every[index]

    def preprocessing(self, crop: int) -> Preprocessing:
        """Describe how a file becomes what `take` gives of it.

        Args:
            crop: The side of the central cut that the network sees, in pixels.

        Returns:
            The steps.
        """
        return Preprocessing(self.pixels.shape[2], crop, IMAGENET_MEAN, IMAGENET_STD)

    def where(self, side: int, labels: Sequence[int] | None = None) -> Tensor:
        """Find the pictures of one side.

        Args:
            side: `SERVER`, `EVALUATION` or `EXTRA`.
            labels: The classes; by default all.

        Returns:
            `(m,)` places in the pool.
        """
        chosen = self.side == side
        if labels is not None:
            chosen &= torch.isin(self.labels, torch.tensor(labels))
        return chosen.nonzero()[:, 0]
