"""Knowledge distillation from the previous model.

[Li2017] Z. Li, D. Hoiem. Learning without forgetting. IEEE TPAMI 40(12), 2017.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, device_of, loaded
from dua_lightning.regularise.base import Regulariser
from dua_lightning.tasks import Batch, Task


class LwF(Regulariser):
    """LwF [Li2017]: strength * sum over earlier tasks of the cross-entropy from the previous model's softened outputs.

    For each earlier task the term is the batch mean of - sum_c q_c log p_c, with q and p the softmax over the task's
    classes of the teacher's and the student's logits divided by `temperature`. As in [Li2017] there is no factor
    temperature^2. The teacher is the module after the previous task, in evaluation mode, on the new task's inputs; the
    old columns of the head keep learning.

    The module's `training_step` has to add `regularisation(self, x, logits)` to its loss.

    Args:
        strength: The factor of the term, at least 0.
        temperature: The number that logits are divided by, positive.

    Raises:
        InputError: For a strength or a temperature that is out of range; while training, for a module that does not
            ask for the term.
    """

    acts_on_first_task: ClassVar[bool] = False

    def __init__(self, strength: float = 1.0, temperature: float = 2.0) -> None:
        if not 0 <= strength < math.inf:
            raise InputError(f"the strength of distillation is at least 0 and finite, got {strength}")
        if not 0 < temperature < math.inf:
            raise InputError(f"the temperature of distillation is positive and finite, got {temperature}")
        self.strength = strength
        self.temperature = temperature
        self.tasks: tuple[Task, ...] = ()
        self.teacher: State = {}
        self._network: nn.Module | None = None
        self._asked = False

    def consolidate(self, module: nn.Module, task: Task, data: Iterable[Batch]) -> None:
        self.tasks = (*self.tasks, task)
        self.teacher = clone(module.state_dict())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._network, self._asked = None, False
        if self.tasks:
            device = device_of(pl_module.state_dict())
            self._network = loaded(pl_module, self.teacher).to(device).eval().requires_grad_(False)

    def loss(self, module: nn.Module, x: Tensor, logits: Tensor) -> Tensor | None:
        self._asked = True
        if self._network is None:
            return None
        with torch.no_grad():
            target = self._network(x)
        terms = [
            nn.functional.cross_entropy(
                logits[:, task.classes] / self.temperature,
                (target[:, task.classes] / self.temperature).softmax(1),
            )
            for task in self.tasks
        ]
        return self.strength * torch.stack(terms).sum()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._network is not None and not self._asked:
            raise InputError(
                f"the training_step of this {type(pl_module).__name__} does not ask for the loss of LwF; add "
                "regularisation(self, x, logits) to its loss (from dua_lightning.regularise import regularisation)"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._network = None

    def state_dict(self) -> dict[str, Any]:
        tasks = [[task.name, task.classes.start, task.classes.stop] for task in self.tasks]
        return {"tasks": tasks, "teacher": self.teacher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tasks = tuple(Task(name, slice(start, stop)) for name, start, stop in state_dict["tasks"])
        self.teacher = state_dict["teacher"]
