"""Memory Aware Synapses, as a penalty while training.

[Aljundi2018] R. Aljundi et al. Memory Aware Synapses: Learning what (not) to forget. ECCV 2018.
"""

from typing import ClassVar

from dua_lightning.importance import mas
from dua_lightning.regularise.quadratic import QuadraticPenalty


class MAS(QuadraticPenalty):
    """MAS [Aljundi2018]: a quadratic penalty weighted by how much the outputs of all earlier tasks react to a weight.

    The importance itself is `dua_lightning.importance.MAS`. All other words are those of `QuadraticPenalty`.

    Args:
        strength: The factor of the penalty. 1 is what the scripts of De Lange et al. (CVPR 2020) use.
        limit: Where given, 2 strength Omega is cut at it.
    """

    acts_on_first_task: ClassVar[bool] = False

    def __init__(self, strength: float = 1.0, limit: float | None = None) -> None:
        super().__init__(mas.MAS(), strength, limit=limit)
