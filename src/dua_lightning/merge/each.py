"""No merging: an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, UserModel


@dataclass(frozen=True)
class Each:
    """Every task keeps its own expert: Task Experts, an upper bound that stores one model for each task."""

    needs_prior: ClassVar[bool] = False
    keeps_statistics: ClassVar[bool] = True

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Prior], start: State) -> UserModel:
        return {expert.task.name: expert.state for expert in experts}
