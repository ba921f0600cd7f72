"""Importances to which no single image adds more than a bound.

[Abadi2016] M. Abadi et al. Deep learning with differential privacy. CCS 2016.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.importance.base import Importance
from dua_lightning.importance.fim import FIM
from dua_lightning.importance.mas import MAS
from dua_lightning.params import Params
from dua_lightning.tasks import Batch, Expert

TINY = 1e-300
"""A norm of 0 is not divided by."""


@dataclass(frozen=True)
class Clipped:
    """Measure an importance in which each image counts with a norm of at most `norm`, as gradients in [Abadi2016].

    The result is (1/n) sum_i Omega_i min(1, norm / ||Omega_i||). Omega_i is the importance of image i alone, and its
    norm is the Euclidean one over all weights of the body; a tied weight counts once. Adding or removing an image moves
    the sum by at most `norm`. Replacing one moves it by at most sqrt(2) norm, since no entry is negative.

    Each image takes a pass of its own, so that it is slower than the importance itself.

    Args:
        of: MAS, or the FIM of true labels, both of the estimator per sample. Others are not means over images, each of
            which can be measured alone.
        norm: The bound; infinity changes nothing.

    Raises:
        InputError: Another importance, or a bound that is not positive.
    """

    of: Importance
    norm: float

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise InputError(f"the norm of an image's importance is clipped at a positive number, got {self.norm}")
        if not isinstance(self.of, MAS | FIM) or self.of.estimator != "per_sample":
            raise InputError(
                "only MAS and the FIM of the estimator per_sample are means over images whose norms can be clipped, "
                f"got {self.of}"
            )
        if isinstance(self.of, FIM) and self.of.labels != "true":
            raise InputError(
                "the FIM of sampled labels draws those of all images from one stream, and cannot be clipped; use MAS, "
                "or the FIM of true labels"
            )

    @property
    def needs_labels(self) -> bool:
        return self.of.needs_labels

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        total: Params = {}
        count = 0
        for x, y in data:
            for i in range(len(x)):
                own = self.of(net, expert, [(x[i : i + 1], None if y is None else y[i : i + 1])])
                factor = min(1.0, self.norm / max(norm(own), TINY))
                if total:
                    for name, omega in different(total).items():
                        omega.add_(own[name], alpha=factor)
                else:
                    total = own
                    for omega in different(total).values():
                        omega.mul_(factor)
                count += 1
        if not count:
            # The importance refuses, in its own words, to be measured on nothing.
            return self.of(net, expert, ())
        for omega in different(total).values():
            omega.div_(count)
        return total


def different(prior: Params) -> dict[str, Tensor]:
    """Give the tensors of a prior, each once: a tied weight has one tensor under several names.

    Args:
        prior: Tensors by name.

    Returns:
        The tensors by the first of their names.
    """
    first: dict[int, str] = {}
    return {name: omega for name, omega in prior.items() if first.setdefault(id(omega), name) == name}


def norm(prior: Params) -> float:
    """Compute the Euclidean norm of a prior over all entries; a tied weight counts once.

    Args:
        prior: Tensors by name.

    Returns:
        The norm.
    """
    return math.sqrt(sum(float(torch.linalg.vector_norm(omega.double())) ** 2 for omega in different(prior).values()))
