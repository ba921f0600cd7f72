"""The plain mean of the experts.

[Lee2017] S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang. Overcoming catastrophic forgetting by incremental moment
matching. NeurIPS 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from dua_lightning.merge.base import shared
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class Mean:
    """Each shared weight is the mean of the experts': theta = sum_t theta_t / N; mean-IMM of [Lee2017].

    It is `Mode` with the priors of `Uniform`, and asks nobody for them.
    """

    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        names = shared(experts[0].state)
        mean = {name: torch.stack([expert.state[name] for expert in experts]).mean(0) for name in names}
        return {expert.task.name: expert.state | mean for expert in experts}
