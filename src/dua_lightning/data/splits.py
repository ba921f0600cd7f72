"""Splits by source picture, so that no picture stands on both sides."""

from collections.abc import Sequence

import torch

from dua_lightning.data.images import Images


def split(images: Images, share: float, stream: torch.Generator) -> tuple[Images, Images]:
    """A random `share` of each class's source pictures, and the rest.

    Images of one source stay together. Within a class the first side gets the share rounded to the nearest picture.
    """
    first = torch.zeros(len(images), dtype=torch.bool)
    for label in images.labels.unique():
        of_class = images.labels == label
        sources = images.sources[of_class].unique()
        chosen = sources[torch.randperm(len(sources), generator=stream)[: round(share * len(sources))]]
        first |= of_class & torch.isin(images.sources, chosen)
    return images[first], images[~first]


def by_task(images: Images, tasks: Sequence[slice]) -> list[Images]:
    """The images of each task, by the columns it owns."""
    return [images[(images.labels >= of_task.start) & (images.labels < of_task.stop)] for of_task in tasks]
