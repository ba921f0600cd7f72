"""Splits by source picture, so that no picture stands on both sides."""

from collections.abc import Sequence

import torch

from dua_lightning.data.images import Images
from dua_lightning.errors import InputError

DRAWN, FOR_EVALUATION, FOR_VALIDATION = 0, 1, 2
"""The half that a user's image is for: the one that each iteration draws, or always the same one."""


def split(images: Images, share: float, stream: torch.Generator) -> tuple[Images, Images]:
    """Split images at random in two, by the source pictures of each class.

    Images of one source, which are of one class, stay together. Within a class the first side gets the share rounded to
    the nearest picture, and each side at least one where there are two.

    Args:
        images: The images.
        share: The first side's share, between 0 and 1.
        stream: Random numbers.

    Returns:
        The first side and the rest.

    Raises:
        InputError: A side stays empty.
    """
    if not divisible(images):
        raise InputError(f"{len(images)} images cannot be split in two; some class needs at least two pictures")
    first = torch.zeros(len(images), dtype=torch.bool)
    for label in images.labels.unique():
        of_class = images.labels == label
        sources = images.sources[of_class].unique()
        count = min(max(round(share * len(sources)), 1), max(len(sources) - 1, 0))
        chosen = sources[torch.randperm(len(sources), generator=stream)[:count]]
        first |= of_class & torch.isin(images.sources, chosen)
    return images[first], images[~first]


def divisible(images: Images) -> bool:
    """Tell whether images can be split: whether some class has two source pictures.

    Args:
        images: The images.

    Returns:
        Whether it has.
    """
    return any(len(images.sources[images.labels == label].unique()) > 1 for label in images.labels.unique())


def by_task(images: Images, tasks: Sequence[slice]) -> list[Images]:
    """Sort images by the task that owns their class.

    Args:
        images: Images of all tasks.
        tasks: The columns of each task.

    Returns:
        The images of each task.
    """
    return [images[(images.labels >= of_task.start) & (images.labels < of_task.stop)] for of_task in tasks]
