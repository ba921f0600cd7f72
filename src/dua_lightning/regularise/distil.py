"""Knowledge distillation from the previous model.

[Li2017] Z. Li, D. Hoiem. Learning without forgetting. IEEE TPAMI 40(12), 2017.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.tasks import Batch, Expert, Task


@dataclass(frozen=True)
class Distil:
    """LwF [Li2017]: strength * sum over earlier tasks of the cross-entropy from the previous model's softened outputs.

    For each earlier task the term is the batch mean of - sum_c q_c log p_c, with q and p the softmax over the task's
    classes of the teacher's and the student's logits divided by `temperature`. As in [Li2017] there is no factor
    temperature^2. The teacher is the previous task's model in evaluation mode, on the new task's inputs; the old
    columns of the head keep learning.
    """

    acts_on_first_task: ClassVar[bool] = False
    strength: float = 1.0
    temperature: float = 2.0
    tasks: tuple[Task, ...] = ()
    teacher: nn.Module | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise InputError(f"the strength of distillation is at least 0 and finite, got {self.strength}")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature of distillation is positive and finite, got {self.temperature}")

    def loss(self, net: nn.Module, x: Tensor, logits: Tensor) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            target = self.teacher(x)
        terms = [
            nn.functional.cross_entropy(
                logits[:, task.classes] / self.temperature,
                (target[:, task.classes] / self.temperature).softmax(1),
            )
            for task in self.tasks
        ]
        return self.strength * torch.stack(terms).sum()

    def add_gradient_(self, name: str, theta: Tensor, gradient: Tensor) -> None:
        return None

    def consolidate(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> "Distil":
        teacher = copy.deepcopy(net).eval().requires_grad_(False)
        teacher.load_state_dict(expert.state)
        return replace(self, tasks=(*self.tasks, expert.task), teacher=teacher)

    def on(self, device: torch.device) -> "Distil":
        return replace(self, teacher=copy.deepcopy(self.teacher).to(device) if self.teacher is not None else None)
