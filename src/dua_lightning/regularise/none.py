"""No regulariser."""

from collections.abc import Iterable
from typing import ClassVar

from torch import nn

from dua_lightning.regularise.base import Regulariser
from dua_lightning.tasks import Batch, Task


class NoRegulariser(Regulariser):
    """Adds nothing: Joint training, and plain fine-tuning from task to task."""

    acts_on_first_task: ClassVar[bool] = False

    def consolidate(self, module: nn.Module, task: Task, data: Iterable[Batch]) -> None:
        return None
