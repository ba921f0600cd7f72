"""MagMax.

[Marczak2024] D. Marczak, B. Twardowski, T. Trzcinski, S. Cygert. MagMax: Leveraging model merging for seamless
continual learning. ECCV 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor

from dua_lightning.merge.task_vectors import check_scale, moved, task_vectors
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class MagMax:
    """Each shared weight moves from the start by scale times the largest change that an expert has made [Marczak2024].

    It is made for experts like those of this package, which are trained one from another.

    Args:
        scale: The factor of the change; 0.5 in the authors' code.

    Raises:
        InputError: The scale is not finite, or `task_vectors` or `moved` raises it.
    """

    scale: float = 0.5
    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale(self.scale, "MagMax")

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        vectors = task_vectors(experts, start)
        return moved(experts, start, ((name, self.scale * _largest(tau)) for name, tau in vectors))


def _largest(tau: Tensor) -> Tensor:
    """The change of the largest magnitude for each entry."""
    largest: Tensor = reduce(lambda a, b: torch.where(b.abs() > a.abs(), b, a), tau)
    return largest
