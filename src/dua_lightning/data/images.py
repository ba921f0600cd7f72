"""Labelled images in memory, and batches sliced from them whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dua_lightning.streams import generator
from dua_lightning.tasks import Batch

EVALUATION_BATCH = 500
"""Images per batch where no step is taken; results do not depend on it."""


@dataclass(frozen=True)
class Images:
    """`n` images as bytes, normalised only when they are read.

    `pixels`: `(n, channels, height, width)` uint8. `labels`: `(n,)` int64, classes of the whole benchmark.
    `sources`: `(n,)` int64, the original picture behind each image; two images with one source must not stand on
    two sides of a split. `scale`, `shift`: `(n, channels)` float32; the network sees `pixels * scale + shift`.
    """

    pixels: Tensor
    labels: Tensor
    sources: Tensor
    scale: Tensor
    shift: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(*(getattr(self, f.name)[index] for f in fields(self)))

    def inputs(self) -> Tensor:
        """`(n, channels, height, width)` float32, normalised."""
        return torch.addcmul(self.shift[:, :, None, None], self.pixels.float(), self.scale[:, :, None, None])

    @staticmethod
    def cat(parts: Sequence["Images"]) -> "Images":
        return Images(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Images)))


def images(pixels: Tensor, labels: Tensor, sources: Tensor, mean: float, std: float) -> Images:
    """`Images` of one domain: grey or colour `pixels` to three channels, normalised as `(pixels / 255 - mean) / std`.

    `pixels`: `(n, height, width)` or `(n, 3, height, width)` uint8.
    """
    if pixels.dim() == 3:
        pixels = pixels[:, None].expand(-1, 3, -1, -1)
    ones = torch.ones(len(pixels), 3)
    return Images(pixels.contiguous(), labels.long(), sources.long(), ones / (255 * std), ones * (-mean / std))


class Batches:
    """Iterable of batches, each one slice of `Images`; a torch `DataLoader` would fetch and collate image by image.

    With `stream` every pass reshuffles, pass p by the stream `(*stream, p)`; without it the order is kept. Without
    `labelled` the labels stay behind, and a batch is `(x, None)`.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        stream: tuple[int, *tuple[str | int, ...]] | None = None,
        labelled: bool = True,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.stream = stream
        self.labelled = labelled
        self.passes = 0

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self.stream is None:
            order = torch.arange(len(self.images))
        else:
            order = torch.randperm(len(self.images), generator=generator(*self.stream, self.passes))
            self.passes += 1
        for index in order.split(self.batch_size):
            batch = self.images[index]
            yield batch.inputs(), batch.labels if self.labelled else None
