"""L2-transfer, the training of IMM.

[Lee2017] S.-W. Lee et al. Overcoming catastrophic forgetting by incremental moment matching. NeurIPS 2017.
"""

from typing import ClassVar

from dua_lightning.importance.uniform import Uniform
from dua_lightning.regularise.quadratic import QuadraticPenalty


class L2Transfer(QuadraticPenalty):
    """L2-transfer [Lee2017]: the weights of a new task stay near those of the task before, all of them alike.

    IMM is this training and a merge afterwards. All other words are those of `QuadraticPenalty`.

    Args:
        strength: The factor of the penalty. 1e-3 is what the scripts of De Lange et al. (CVPR 2020) ask for.
        first_task: The first task, counted from 1, that is penalised; the release of De Lange et al. starts at 3.
        pull_head: Whether a new head is pulled towards its random start, as in that release.
    """

    acts_on_first_task: ClassVar[bool] = False

    def __init__(self, strength: float = 1e-3, first_task: int = 2, pull_head: bool = False) -> None:
        super().__init__(Uniform(), strength, accumulate=False, first_task=first_task, pull_head=pull_head)
