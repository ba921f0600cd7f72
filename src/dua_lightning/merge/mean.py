"""The plain mean of the experts.

[Lee2017] S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang. Overcoming catastrophic forgetting by incremental moment
matching. NeurIPS 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from dua_lightning.errors import InputError
from dua_lightning.merge.base import check_finite, check_head, check_norms, shared
from dua_lightning.params import State, lacks
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class Mean:
    """Each shared weight is the mean of the experts': theta = sum_t theta_t / N; mean-IMM of [Lee2017].

    It is `Mode` with the priors of `Uniform`, and asks nobody for them.

    Raises:
        InputError: Experts cannot be merged: their weights differ in name or shape, are not finite, belong to tasks, or
            are divided by a norm that their states hold.
    """

    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = False

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        names = shared(experts[0].state)
        check_head([expert.task for expert in experts], experts[0].state, names)
        check_norms(experts[0].state)
        mean: State = {}
        for name in names:
            for expert in experts:
                if name not in expert.state:
                    raise InputError(f"the expert of task {expert.task.name} {lacks(expert.state, name)}")
                shape, first = (tuple(e.state[name].shape) for e in (expert, experts[0]))
                if shape != first:
                    raise InputError(
                        f"the expert of task {expert.task.name} has {name} {shape}, the first expert {first}; merge "
                        "experts of one network"
                    )
            mean[name] = torch.stack([expert.state[name] for expert in experts]).mean(0)
            check_finite(mean[name], experts, name)
        return {expert.task.name: expert.state | mean for expert in experts}
