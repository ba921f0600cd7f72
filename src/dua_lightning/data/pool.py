"""A pool of pictures of many categories: what the scene benchmarks divide over the server and the users."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dua_lightning.data.images import Images, images
from dua_lightning.tasks import Task

SERVER, EVALUATION, EXTRA = 0, 1, 2
"""Sides of a pool: the server trains on the first; users are scored on the second and get to know the third."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pool:
    """`n` square pictures as bytes, usually a memory map, so that only what is read is loaded.

    `name`: the source's. `tasks`: in the order they are learnt; `categories[label]`: a class's name, tasks owning
    contiguous labels. `pixels`: `(n, 3, size, size)` uint8; `labels`, `sources`: `(n,)` int64, `sources` as in
    `Images`; `side`: `(n,)` uint8, one of `SERVER`, `EVALUATION`, `EXTRA`; no source is on two sides. `owners`: `(n,)`
    int64, the user whose picture it is by the source's own division, an index of `users`, or -1 where the benchmark
    divides.
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

    def take(self, index: Tensor, crop: int) -> Images:
        """The pictures at `index`, cut to `crop` pixels and normalised as ImageNet's are; no pixel is copied."""
        every = images(self.pixels, self.labels, self.sources, IMAGENET_MEAN, IMAGENET_STD, crop)
        return every[index]

    def where(self, side: int, labels: Sequence[int] | None = None) -> Tensor:
        """Indices of the pictures of one side, and of some classes only if `labels` are given."""
        chosen = self.side == side
        if labels is not None:
            chosen &= torch.isin(self.labels, torch.tensor(labels))
        return chosen.nonzero()[:, 0]
