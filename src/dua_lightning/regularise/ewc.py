"""Elastic weight consolidation.

[Kirkpatrick2017] J. Kirkpatrick et al. Overcoming catastrophic forgetting in neural networks. PNAS 114(13), 2017.
"""

from typing import ClassVar

from dua_lightning.importance.fim import FIM
from dua_lightning.regularise.quadratic import QuadraticPenalty


class EWC(QuadraticPenalty):
    """EWC [Kirkpatrick2017]: a quadratic penalty weighted by the Fisher information of all earlier tasks.

    The Fisher information is its diagonal, with the labels of the data. All other words are those of
    `QuadraticPenalty`; the paper's lambda is 2 strength.

    Args:
        strength: The factor of the penalty. 400 is what the scripts of De Lange et al. (CVPR 2020) use.
        limit: Where given, 2 strength Omega is cut at it.
    """

    acts_on_first_task: ClassVar[bool] = False

    def __init__(self, strength: float = 400.0, limit: float | None = None) -> None:
        super().__init__(FIM(labels="true"), strength, limit=limit)
