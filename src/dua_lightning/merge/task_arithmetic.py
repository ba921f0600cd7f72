"""Task arithmetic.

[Ilharco2023] G. Ilharco, M. T. Ribeiro, M. Wortsman, S. Gururangan, L. Schmidt, H. Hajishirzi, A. Farhadi. Editing
models with task arithmetic. ICLR 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dua_lightning.merge.task_vectors import check_scale, moved, task_vectors
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class TaskArithmetic:
    """theta = theta_0 + scale * sum_t (theta_t - theta_0) over the shared weights [Ilharco2023].

    With scale = 1 / N it is the mean of the experts. It is published for experts that are trained from the start
    itself; those of this package are trained one from another (see `merge.task_vectors`), so that the sum of many of
    them goes beyond the experts at any fixed scale.

    Args:
        scale: The factor of the sum; the authors take 0.3 where there is nothing to choose it on.

    Raises:
        InputError: The scale is not finite, or `task_vectors` or `moved` raises it.
    """

    scale: float = 0.3
    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale(self.scale, "task arithmetic")

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        vectors = task_vectors(experts, start)
        return moved(experts, start, ((name, self.scale * tau.sum(0)) for name, tau in vectors))
