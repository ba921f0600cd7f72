"""No merging: an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass

from dua_lightning.params import Params
from dua_lightning.tasks import Expert, UserModel


@dataclass(frozen=True)
class Each:
    """Every task keeps its own expert: Task Experts, an upper bound that stores one model per task. Priors unread."""

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Params]) -> UserModel:
        return {expert.task.name: expert.state for expert in experts}
