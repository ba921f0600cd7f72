"""No local adaptation."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dua_lightning.params import State
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class Unchanged:
    """The device uses the personal model as the server sent it; its data are not read."""

    needs_labels: ClassVar[bool] = False

    def check(self, net: nn.Module) -> None:
        return None

    def trainable(self, net: nn.Module) -> int:
        return 0

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        return state
