"""Labelled images in memory or in a memory map, and batches sliced from them whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from dua_lightning.streams import generator
from dua_lightning.tasks import Batch

EVALUATION_BATCH = 500
"""Images per batch where no step is taken; results do not depend on it."""

READ_BYTES = 4 * 2**20
"""Bytes of pictures read at once, in whole batches and at least one: indexing costs as much for 20 small images as for
500. They become float32 batch by batch, so that no more than a batch is held four times as large."""


class Store(Protocol):
    """Pictures `(N, channels, height, width)` uint8, by row, made when they are read."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...

    def digest(self, rows: Tensor) -> str:
        """SHA-256, in hexadecimal, of what makes these rows, without making them."""


@dataclass(frozen=True)
class Images:
    """`n` images as bytes, read, cut and normalised only when they are needed.

    `store` holds `(N, channels, height, width)` uint8, several `Images` may share it, and `rows`: `(n,)` int64, says
    which of them these are. `labels`: `(n,)` int64, classes of the whole benchmark. `sources`: `(n,)` int64, the
    original picture behind each image; two images with one source must not stand on two sides of a split. `scale`,
    `shift`: `(n, channels)` float32; the network sees `pixels * scale + shift`, cut to its central `crop x crop` pixels
    or, with `None`, whole.
    """

    store: Tensor | Store
    rows: Tensor
    labels: Tensor
    sources: Tensor
    scale: Tensor
    shift: Tensor
    crop: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(
            self.store,
            self.rows[index],
            self.labels[index],
            self.sources[index],
            self.scale[index],
            self.shift[index],
            self.crop,
        )

    @property
    def pixels(self) -> Tensor:
        """`(n, channels, height, width)` uint8, uncut; a copy."""
        # Indexing a tensor copies it byte by byte, which takes ten times as long.
        return self.store.index_select(0, self.rows) if isinstance(self.store, Tensor) else self.store[self.rows]

    def inputs(self, augment: torch.Generator | None = None, out: Tensor | None = None) -> Tensor:
        """`(n, channels, crop, crop)` float32, normalised; `(n, channels, height, width)` without a cut.

        The central cut; with `augment` a cut at random, mirrored with probability one half, each image on its own.
        Written into `out` where it is given.
        """
        return _inputs(self.pixels, self.scale[:, :, None, None], self.shift[:, :, None, None], self.crop, augment, out)

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that the network may see of these images, in their order; made once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = sha256(repr((len(self), self.crop)).encode())
        for tensor in (self.labels, self.sources, self.scale, self.shift):
            found.update(tensor.contiguous().numpy().tobytes())
        if isinstance(self.store, Tensor):
            for rows in self.rows.split(EVALUATION_BATCH):
                found.update(self.store.index_select(0, rows).numpy().data)
        else:
            found.update(self.store.digest(self.rows).encode())
        return found.hexdigest()

    @staticmethod
    def cat(parts: Sequence["Images"]) -> "Images":
        """All parts as one; those of one store go on sharing it."""
        shared = all(part.store is parts[0].store for part in parts)
        count = sum(map(len, parts))
        return Images(
            parts[0].store if shared else torch.cat([part.pixels for part in parts]),
            torch.cat([part.rows for part in parts]) if shared else torch.arange(count),
            torch.cat([part.labels for part in parts]),
            torch.cat([part.sources for part in parts]),
            torch.cat([part.scale for part in parts]),
            torch.cat([part.shift for part in parts]),
            parts[0].crop,
        )


def images(
    pixels: Tensor,
    labels: Tensor,
    sources: Tensor,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    crop: int | None = None,
) -> Images:
    """`Images` of one domain: grey or colour `pixels` to three channels, normalised as `(pixels / 255 - mean) / std`.

    `pixels`: `(n, height, width)` or `(n, 3, height, width)` uint8; `mean`, `std`: one number, or one for each channel.
    """
    if pixels.dim() == 3:
        pixels = pixels[:, None].expand(-1, 3, -1, -1).contiguous()
    n = len(pixels)
    centre, spread = torch.tensor(mean).expand(n, 3), torch.tensor(std).expand(n, 3)
    return Images(pixels, torch.arange(n), labels.long(), sources.long(), 1 / (255 * spread), -centre / spread, crop)


def _inputs(
    pixels: Tensor,
    scale: Tensor,
    shift: Tensor,
    crop: int | None,
    augment: torch.Generator | None,
    out: Tensor | None = None,
) -> Tensor:
    if augment is not None:
        pixels = _cut_and_mirror(pixels, crop, augment)
    elif crop is not None:
        top, left = ((side - crop) // 2 for side in pixels.shape[2:])
        pixels = pixels[:, :, top : top + crop, left : left + crop]
    x = pixels.float() if out is None else out.copy_(pixels)
    # In place: the system clears fresh memory first, which for many images takes longer than the arithmetic.
    return torch.addcmul(shift, x, scale, out=x)


def _cut_and_mirror(pixels: Tensor, crop: int | None, stream: torch.Generator) -> Tensor:
    n, channels, height, width = pixels.shape
    high, wide = (height, width) if crop is None else (crop, crop)
    rows = torch.randint(height - high + 1, (n, 1), generator=stream) + torch.arange(high)
    columns = torch.randint(width - wide + 1, (n, 1), generator=stream) + torch.arange(wide)
    mirrored = torch.rand(n, 1, generator=stream) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return pixels[
        torch.arange(n)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


class Batches:
    """Iterable of batches, each one slice of `Images`; a torch `DataLoader` would fetch and collate image by image.

    With `stream` every pass reshuffles, pass p by the stream `(*stream, p)`, and a last batch of one image joins the
    one before it, since batch normalisation cannot train on a single one; without it the order is kept. With `augment`
    the images of a pass are cut and mirrored at random. Without `labelled` the labels stay behind: `(x, None)`.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        stream: tuple[int, *tuple[str | int, ...]] | None = None,
        labelled: bool = True,
        augment: bool = False,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.stream = stream
        self.labelled = labelled
        self.augment = augment
        self.passes = 0

    def __len__(self) -> int:
        return len(self._split(torch.arange(len(self.images))))

    def __iter__(self) -> Iterator[Batch]:
        if self.stream is None:
            random = None
            order = torch.arange(len(self.images))
        else:
            random = generator(*self.stream, self.passes)
            order = torch.randperm(len(self.images), generator=random)
            self.passes += 1
        for indices in self._ahead(self._split(order)):
            read = self.images[torch.cat(indices)]
            columns = read.pixels, read.scale[:, :, None, None], read.shift[:, :, None, None], read.labels
            for pixels, scale, shift, labels in zip(*(c.split([*map(len, indices)]) for c in columns), strict=True):
                x = _inputs(pixels, scale, shift, read.crop, random if self.augment else None)
                yield x, labels if self.labelled else None

    def _ahead(self, parts: list[Tensor]) -> Iterator[list[Tensor]]:
        """`parts`, as many together as are read at once."""
        if parts:
            size = max(1, READ_BYTES // (self.images[:1].pixels.nbytes * len(parts[0])))
            for start in range(0, len(parts), size):
                yield parts[start : start + size]

    def _split(self, order: Tensor) -> list[Tensor]:
        parts = list(order.split(self.batch_size)) if len(order) else []
        if self.stream is not None and len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts


class Kept:
    """The images of several tasks, made at the first use, in one tensor, and handed out again at later ones.

    All inputs are of one shape. Readers share the tensors. PyTorch counts the writes to a tensor: where one has been
    written to, the next use makes all of them anew.
    """

    def __init__(self, parts: Sequence[Images], labelled: bool = True) -> None:
        self.parts = parts
        self.labelled = labelled
        ends = list(accumulate(map(len, parts), initial=0))
        self.places = [slice(first, end) for first, end in pairwise(ends)]
        self._kept: tuple[Tensor, Tensor] | None = None
        self._writes: list[int] = []

    def batches(self) -> list["Rows"]:
        """For each task those of `Batches` without a stream, `EVALUATION_BATCH` images each."""
        return [Rows(self, place) for place in self.places]

    def rows(self, rows: slice) -> Batch:
        """The rows counted through all tasks, whose own are at `places`; views."""
        if self._kept is None or [tensor._version for tensor in self._kept] != self._writes:
            # Tensors that are made in inference mode have no count.
            with torch.inference_mode(False):
                self._kept = self._made()
            self._writes = [tensor._version for tensor in self._kept]
        x, labels = self._kept
        return x[rows], labels[rows] if self.labelled else None

    def _made(self) -> tuple[Tensor, Tensor]:
        shape = self.parts[0][:1].inputs().shape[1:]
        x = torch.empty(self.places[-1].stop, *shape)
        for part, place in zip(self.parts, self.places, strict=True):
            part.inputs(out=x[place])
        return x, torch.cat([part.labels for part in self.parts])


@dataclass(frozen=True)
class Rows:
    """Batches of consecutive rows of `Kept`."""

    kept: Kept
    rows: slice

    def __len__(self) -> int:
        return len(range(self.rows.start, self.rows.stop, EVALUATION_BATCH))

    def __iter__(self) -> Iterator[Batch]:
        for start in range(self.rows.start, self.rows.stop, EVALUATION_BATCH):
            yield self.kept.rows(slice(start, min(start + EVALUATION_BATCH, self.rows.stop)))
