"""One number for each channel, layer or expert."""

from dataclasses import dataclass
from typing import get_args

import torch

from dua_lightning.errors import InputError
from dua_lightning.importance.averaged import Level, averaged
from dua_lightning.privacy.release.base import Released, size
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class Levels:
    """Send the mean over each channel, each tensor or the whole expert.

    Args:
        level: The weights that share one number, as in `importance.averaged`.

    Raises:
        InputError: There is no such level.
    """

    level: Level = "channel"

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise InputError(f"a prior is averaged at a level of {', '.join(get_args(Level))}, got {self.level}")

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        coarse = averaged(prior, self.level)
        return Released(coarse, size(coarse))
