"""TIES-Merging.

[Yadav2023] P. Yadav, D. Tam, L. Choshen, C. Raffel, M. Bansal. TIES-Merging: Resolving interference when merging
models. NeurIPS 2023.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.task_vectors import check_scale, moved, task_vectors
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class TIES:
    """Trim, elect sign, and average what agrees [Yadav2023].

    Each expert keeps the largest of its changes from the start, counted over all of its weights together. The sign of
    an entry is that of the sum of what is left, and the entry moves by scale times the mean of the changes that have
    this sign. It is published for experts that are trained from the start itself; those of this package are trained
    one from another (see `merge.task_vectors`), and therefore agree on more signs.

    Args:
        keep: The share of its changes that each expert keeps; 0.2 in the paper.
        scale: The factor lambda of the mean; 1 in the paper, where there is nothing to choose it on.

    Raises:
        InputError: An argument cannot be used, or `task_vectors` or `moved` raises it.
    """

    keep: float = 0.2
    scale: float = 1.0
    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale(self.scale, "TIES")
        if not 0 < self.keep <= 1:
            raise InputError(f"TIES keeps a share of changes that is more than 0 and at most 1, got keep={self.keep}")

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        vectors = dict(task_vectors(experts, start))
        least = torch.stack([_least(vectors, t, self.keep) for t in range(len(experts))])
        return moved(experts, start, ((name, self.scale * _agreed(tau, least)) for name, tau in vectors.items()))


def _least(vectors: dict[str, Tensor], t: int, keep: float) -> Tensor:
    """The smallest magnitude that expert t keeps."""
    sizes = torch.cat([tau[t].flatten() for tau in vectors.values()]).abs()
    return sizes.kthvalue(len(sizes) - math.ceil(keep * len(sizes)) + 1).values


def _agreed(tau: Tensor, least: Tensor) -> Tensor:
    """The mean over those experts whose kept change has the sign of the sum."""
    kept = torch.where(tau.abs() >= least.view(-1, *[1] * (tau.dim() - 1)), tau, 0)
    # The product of the numbers themselves may be too small for their type.
    agrees = kept.sign() * kept.sum(0).sign() > 0
    return torch.where(agrees, kept, 0).sum(0) / agrees.sum(0).clamp(min=1)
