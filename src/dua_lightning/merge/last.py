"""The newest model serves every task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class Last:
    """The state after the last task serves all tasks: EWC, MAS, LwF and Joint."""

    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = True

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        return {expert.task.name: experts[-1].state for expert in experts}
