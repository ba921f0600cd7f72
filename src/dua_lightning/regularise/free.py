"""No regulariser."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class Free:
    """Nothing is added: Joint training, and plain fine-tuning from task to task."""

    acts_on_first_task: ClassVar[bool] = False

    def loss(self, net: nn.Module, x: Tensor, logits: Tensor) -> None:
        return None

    def add_gradient_(self, name: str, theta: Tensor, gradient: Tensor) -> None:
        return None

    def consolidate(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> "Free":
        return self

    def on(self, device: torch.device) -> "Free":
        return self
