"""What every regulariser is."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dua_lightning.tasks import Batch, Expert


@runtime_checkable
class Regulariser(Protocol):
    """A strategy object injected into the training of a task.

    A penalty acts through `loss`, by autograd, or through `add_gradient_`, in closed form, which costs a tenth of a
    small network's step where autograd costs half of one. `consolidate` is called once after each task with the network
    at its best validation weights, and returns the regulariser of the next task.
    """

    def loss(self, net: nn.Module, x: Tensor, logits: Tensor) -> Tensor | None:
        """`()` term added to the loss of a batch with inputs `x` and logits `(n, classes)`, or nothing."""

    def add_gradient_(self, name: str, theta: Tensor, gradient: Tensor) -> None:
        """Add the penalty's gradient at `theta`, the network's parameter called `name`, to `gradient`."""

    def consolidate(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> "Regulariser":
        """The regulariser of the next task; `data` are the training data of `expert.task`."""

    def on(self, device: torch.device) -> "Regulariser":
        """The same regulariser with what it holds on `device`."""
