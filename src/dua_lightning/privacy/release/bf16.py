"""Two bytes for each number."""

from dataclasses import dataclass

import torch

from dua_lightning.privacy.release.base import Released, each, numbers
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class BF16:
    """Send each number in bfloat16, rounded to the nearest: all the range of float32, and 8 bits of precision."""

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        rounded = each(prior, lambda omega: omega.bfloat16().to(omega.dtype))
        return Released(rounded, 2 * sum(numbers(rounded)))
