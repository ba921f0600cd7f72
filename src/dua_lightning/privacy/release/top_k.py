"""The largest numbers alone."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.privacy.release.base import Released, each, numbers
from dua_lightning.tasks import Prior

NUMBER = INDEX = 4
"""Bytes of a number and of its place."""


@dataclass(frozen=True)
class TopK:
    """Send the largest numbers of each tensor with their places, and one number for the rest: its mean.

    With 0 for the rest, eq. (1) would take such a weight wholly from another expert.

    Args:
        share: The share of each tensor that is kept, from 0, where its mean alone is sent, to 1. Of a tensor with few
            numbers at least one is kept where the share is not 0.

    Raises:
        InputError: It is no share.
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"the share that is kept is between 0 and 1, got share={self.share}")

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        def kept(omega: Tensor) -> Tensor:
            flat = omega.flatten()
            large = flat.topk(self._kept(flat.numel()))
            rest = (flat.sum() - large.values.sum()).clamp(min=0) / max(1, flat.numel() - len(large.values))
            return rest.expand_as(flat).scatter(0, large.indices, large.values).view_as(omega)

        return Released(each(prior, kept), sum(map(self._bytes, numbers(prior))))

    def _kept(self, count: int) -> int:
        return math.ceil(self.share * count)

    def _bytes(self, count: int) -> int:
        """A bit for each number says whether it is kept, where that takes less than the places."""
        kept = self._kept(count)
        places = 0 if kept in (0, count) else min(INDEX * kept, -(-count // 8))
        return NUMBER * kept + places + (NUMBER if kept < count else 0)
