"""The interface of every regulariser."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from lightning import Callback, LightningModule
from torch import Tensor, nn

from dua_lightning.tasks import Batch, Task


class Regulariser(Callback):
    """A Lightning callback that makes training on a new task remember the earlier ones.

    Give the same object to the Trainer of every task, and close each task by `consolidate`. It works in any Trainer
    with any LightningModule that keeps this protocol:

    - `module(x)` gives the logits `(n, classes)` of a batch.
    - If some weights belong to single tasks, they are in `module.head`; all other weights are shared, and protected.
    - `training_step` adds `regularisation(self, x, logits)` to its loss. Quadratic penalties (EWC, MAS, L2-transfer)
      do without it, since they act on the gradients.

    Attributes:
        acts_on_first_task: Whether the regulariser changes the training of a first task, before anything was
            consolidated. If it does not, all trainings that differ in the regulariser alone may share the first expert.
            A subclass says it for itself, since it may do more than its base.
    """

    acts_on_first_task: ClassVar[bool] = True

    def loss(self, module: nn.Module, x: Tensor, logits: Tensor) -> Tensor | None:
        """Compute a term that is added to the loss of a batch.

        Args:
            module: The module in training.
            x: The batch's inputs `(n, ...)`.
            logits: The module's logits for them `(n, classes)`.

        Returns:
            A term `()`, or `None` for nothing.
        """
        return None

    @abstractmethod
    def consolidate(self, module: nn.Module, task: Task, data: Iterable[Batch]) -> None:
        """Close a task: remember what later tasks shall keep.

        Args:
            module: The module with the best weights of the task's training.
            task: The task, which says its columns of the logits.
            data: The task's training images in a fixed order, not augmented.
        """


def regularisation(module: LightningModule, x: Tensor, logits: Tensor) -> Tensor | float:
    """Sum the terms that the Trainer's regularisers add to the loss of a batch; call it in `training_step`.

    Args:
        module: The module in training.
        x: The batch's inputs `(n, ...)`.
        logits: The module's logits for them `(n, classes)`.

    Returns:
        The sum of the regularisers' terms `()`, or 0.0 where they have none.
    """
    total: Tensor | float = 0.0
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Regulariser):
            term = callback.loss(module, x, logits)
            if term is not None:
                total = total + term
    return total
