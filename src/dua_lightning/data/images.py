"""Labelled images in memory or in a memory map, and loaders of batches that are cut from them whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from dua_lightning.streams import generator
from dua_lightning.tasks import Batch

EVALUATION_BATCH = 500
"""Images per batch where no step is taken; results do not depend on it."""

Loader = DataLoader[Batch]
"""A PyTorch loader of whole batches."""


COLUMNS = ("labels", "sources", "scale", "shift")
"""Tensors of `Images` with a row for each image."""


class PixelStore(Protocol):
    """Pictures `(N, channels, height, width)` uint8, by row, made when they are read."""

    def __getitem__(self, rows: Tensor) -> Tensor: ...

    def digest(self, rows: Tensor) -> str:
        """Compute the digest of everything that makes some rows, without making them.

        Args:
            rows: `(n,)` int64.

        Returns:
            The SHA-256 in hexadecimal.
        """


@dataclass(frozen=True)
class Images:
    """Images as bytes, which are read, cut and normalised only when they are needed.

    The network sees `pixels * scale + shift`, cut to the central `crop` pixels.

    Args:
        store: `(N, channels, height, width)` uint8; several `Images` may share it.
        rows: `(n,)` int64, the places of these images in `store`.
        labels: `(n,)` int64, classes of the whole benchmark; -1 where an image has no label.
        sources: `(n,)` int64, the original picture behind each image; two images of one source must not stand on two
            sides of a split.
        scale: `(n, channels)` float32.
        shift: `(n, channels)` float32.
        crop: The side of the cut, in pixels; with `None` the images stay whole.
    """

    store: Tensor | PixelStore
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

    def __getstate__(self) -> dict[str, Any]:
        """For another process these images alone, by value: they may be a few of a large store."""
        columns = {name: getattr(self, name).numpy() for name in COLUMNS}
        return {"crop": self.crop, "store": self.pixels.numpy(), **columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns = {name: torch.from_numpy(state[name]) for name in ("store", *COLUMNS)}
        self.__dict__.update(columns, crop=state["crop"], rows=torch.arange(len(columns["store"])))

    @property
    def pixels(self) -> Tensor:
        """The images `(n, channels, height, width)` uint8, uncut; a copy."""
        # Indexing a tensor copies it byte by byte, which takes ten times as long.
        return self.store.index_select(0, self.rows) if isinstance(self.store, Tensor) else self.store[self.rows]

    def inputs(self, chances: Tensor | None = None) -> Tensor:
        """The images as the network sees them.

        Args:
            chances: `(n, 3)` numbers in [0, 1) that place the cut and mirror it, for training; without them the cut is
                central. Row k decides about image k alone.

        Returns:
            `(n, channels, crop, crop)` float32, normalised; `(n, channels, height, width)` without a cut.
        """
        pixels = self.pixels
        if chances is not None:
            pixels = _cut_and_mirror(pixels, self.crop, chances)
        elif self.crop is not None:
            top, left = ((side - self.crop) // 2 for side in pixels.shape[2:])
            pixels = pixels[:, :, top : top + self.crop, left : left + self.crop]
        x = pixels.float()
        # In place: for many images the system takes longer to clear fresh memory than the arithmetic takes.
        return torch.addcmul(self.shift[:, :, None, None], x, self.scale[:, :, None, None], out=x)

    def digest(self) -> str:
        """Compute the digest of all that the network may see of these images, in their order.

        Returns:
            The SHA-256 in hexadecimal; it is computed once.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        found = sha256(repr((len(self), self.crop)).encode())
        for tensor in (getattr(self, name) for name in COLUMNS):
            found.update(tensor.contiguous().numpy().tobytes())
        if isinstance(self.store, Tensor):
            for rows in self.rows.split(EVALUATION_BATCH):
                found.update(self.store.index_select(0, rows).numpy().data)
        else:
            found.update(self.store.digest(self.rows).encode())
        return found.hexdigest()

    @staticmethod
    def cat(parts: Sequence["Images"]) -> "Images":
        """Join several parts; those of one store go on sharing it.

        Args:
            parts: At least one part, all with the same cut.

        Returns:
            All images in the order of the parts.
        """
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
    """Make `Images` of one domain, normalised as `(pixels / 255 - mean) / std`.

    Args:
        pixels: `(n, height, width)` or `(n, 3, height, width)` uint8; grey ones get three equal channels.
        labels: `(n,)` classes of the whole benchmark.
        sources: `(n,)` numbers of the original pictures.
        mean: One number, or one for each channel, on the scale [0, 1].
        std: One number, or one for each channel, on the same scale.
        crop: The side of the central cut that the network sees, in pixels; with `None` the images stay whole.

    Returns:
        The images.
    """
    if pixels.dim() == 3:
        pixels = pixels[:, None].expand(-1, 3, -1, -1).contiguous()
    n = len(pixels)
    centre, spread = torch.tensor(mean).expand(n, 3), torch.tensor(std).expand(n, 3)
    return Images(pixels, torch.arange(n), labels.long(), sources.long(), 1 / (255 * spread), -centre / spread, crop)


def _cut_and_mirror(pixels: Tensor, crop: int | None, chances: Tensor) -> Tensor:
    n, channels, height, width = pixels.shape
    high, wide = (height, width) if crop is None else (crop, crop)
    room = torch.tensor([height - high + 1, width - wide + 1])
    top, left = (chances[:, :2] * room).long().T
    rows, columns = top[:, None] + torch.arange(high), left[:, None] + torch.arange(wide)
    columns = torch.where(chances[:, 2:] < 0.5, columns.flip(1), columns)
    return pixels[
        torch.arange(n)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


StreamName = tuple[int, *tuple[str | int, ...]]
"""The name of a stream of random numbers: the seed and what it is for; see `streams.derive`."""


class BatchOrder(DistributedSampler[Any]):
    """The batches of an epoch, as pairs of the images' indices and the numbers (`chances`) by which they are augmented.

    With `stream` epoch e has the order of the stream `(*stream, e)`, and a last batch of one image joins the one before
    it, since batch normalisation cannot train on a single image. Without it the order is kept. Lightning tells the
    epoch by `set_epoch`, so that nothing but the epoch's number is needed to continue.

    Args:
        count: The number of images.
        batch_size: Images of a batch, over all processes.
        stream: The name of the stream of random numbers, or `None` for a fixed order.
        augment: Whether each image of an epoch has three numbers of the stream `(*stream, "augment", e)`, as
            `Images.inputs` takes them.
        rank: This process's number, from 0.
        processes: The number of processes, each of which takes its part of every batch.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        stream: StreamName | None = None,
        augment: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        # Lightning leaves samplers of this class as they are.
        super().__init__(range(count), num_replicas=processes, rank=rank)  # type: ignore[arg-type]
        self.count = count
        self.batch_size = batch_size
        self.stream = stream
        self.augment = augment

    def __len__(self) -> int:
        return len(self._split(torch.arange(self.count)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        order, chances = torch.arange(self.count), None
        if self.stream is not None:
            order = torch.randperm(self.count, generator=generator(*self.stream, self.epoch))
            if self.augment:
                chances = torch.rand(self.count, 3, generator=generator(*self.stream, "augment", self.epoch))
        for indices in self._split(order):
            own = self._own(indices)
            yield own, None if chances is None else chances[own]

    def kept(self, number: int) -> Tensor:
        """Give the indices of a batch where the order of the images is kept.

        Args:
            number: The batch's number, from 0.

        Returns:
            This process's part of it, `(n,)`.
        """
        return self._own(self._split(torch.arange(self.count))[number])

    def _own(self, indices: Tensor) -> Tensor:
        # A process that has no part of a small last batch takes its first image, so that all take as many steps.
        return indices[self.rank :: self.num_replicas] if len(indices) > self.rank else indices[:1]

    def _split(self, order: Tensor) -> list[Tensor]:
        parts = list(order.split(self.batch_size)) if len(order) else []
        if self.stream is not None and len(parts) > 1 and len(parts[-1]) == 1:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts


class ImageDataset(Dataset[Batch]):
    """`Images` by batch: an item is a whole batch, since images one by one would be cut and normalised one by one.

    A number names a batch in which the order of the images is kept. Lightning asks so for `overfit_batches`, with a
    sampler of its own.

    Args:
        images: The images.
        order: The batches of an epoch.
        labelled: Whether labels are given.
    """

    def __init__(self, images: Images, order: BatchOrder, labelled: bool) -> None:
        self.images = images
        self.order = order
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, chosen: int | tuple[Tensor, Tensor | None]) -> Batch:
        indices, chances = (self.order.kept(chosen), None) if isinstance(chosen, int) else chosen
        images = self.images[indices]
        return images.inputs(chances), images.labels if self.labelled else None


def loader(images: Images, order: BatchOrder, labelled: bool = True, workers: int = 0, pin: bool = False) -> Loader:
    """Make a PyTorch loader of batches `(x, labels)`, or `(x, None)` without `labelled`.

    Args:
        images: The images that are loaded.
        order: The batches of an epoch.
        labelled: Whether labels are given; otherwise they stay behind.
        workers: Processes that prepare batches; 0 for the calling one, which is faster for images in memory.
        pin: Whether batches lie in pinned memory, from which they are copied to a GPU while it computes.

    Returns:
        The loader.
    """
    return DataLoader(
        ImageDataset(images, order, labelled),
        batch_size=None,
        sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
    )


def sizes(loader: Loader) -> list[int]:
    """Tell the number of images of each batch without making any; it is the same in every epoch.

    Args:
        loader: A loader that `loader` has made.

    Returns:
        The numbers.
    """
    return [len(indices) for indices, _ in iter(loader.sampler)]


def _as_it_is(batch: Any) -> Any:
    return batch


class Passes:
    """A loader as an iterable whose every pass is its next epoch, for those who do not know of epochs.

    Args:
        loader: A loader that `loader` has made.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.passed = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        assert isinstance(self.loader.sampler, BatchOrder)
        self.loader.sampler.set_epoch(self.passed)
        self.passed += 1
        return iter(self.loader)
