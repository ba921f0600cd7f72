"""What every merge is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from dua_lightning.params import Params
from dua_lightning.tasks import Expert, UserModel


@runtime_checkable
class Merge(Protocol):
    """chi(Psi, M): experts in the order they were learnt, and one prior for each -> a state for each task.

    The experts are never changed; a result may share tensors with them.
    """

    def __call__(self, experts: Sequence[Expert], priors: Sequence[Params]) -> UserModel: ...
