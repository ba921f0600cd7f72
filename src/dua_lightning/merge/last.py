"""The newest model serves every task."""

from collections.abc import Sequence
from dataclasses import dataclass

from dua_lightning.params import Params
from dua_lightning.tasks import Expert, UserModel


@dataclass(frozen=True)
class Last:
    """The state after the last task, for all tasks: EWC, MAS, LwF and Joint. Priors are not read."""

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Params]) -> UserModel:
        return {expert.task.name: experts[-1].state for expert in experts}
