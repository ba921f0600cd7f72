"""The paper's supervised variant of AdaBN."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.adapt.adabn import require_batch_norm, take_statistics
from dua_lightning.adapt.finetune import check_steps, descend
from dua_lightning.errors import InputError
from dua_lightning.params import State, batch_norms, clone, loaded
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class AdaBNS:
    """AdaBN-S (Section 3.3): gamma and beta of the batch-norm layers are trained on the user's labels, all else frozen.

    While they are trained the layers normalise by each batch's own statistics, and dropout is off. At the end the
    layers take the statistics of all of the user's images through the tuned model, as `AdaBN` does, so that they fit
    what is then evaluated. Only gamma, beta and the running statistics change.

    Raises `InputError` for a network without batch-norm layers, and for data without images or labels.
    """

    epochs: int = 5
    lr: float = 1e-3
    momentum: float = 0.9
    images_at_once: int | None = None
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"adapt=adabn_s takes 0 or more epochs, got {self.epochs}")
        check_steps(self.lr, self.momentum, "adapt=adabn_s")

    def check(self, net: nn.Module) -> None:
        require_batch_norm(net, "adabn_s")
        if not self.trainable(net):
            raise InputError("adapt=adabn_s trains gamma and beta, and no BatchNorm layer has them; use adapt=adabn")

    def trainable(self, net: nn.Module) -> int:
        return sum(p.numel() for layer in batch_norms(net) for p in layer.parameters())

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        self.check(net)
        adapted = loaded(net, state)
        tune(adapted, task, data, self.epochs, self.lr, self.momentum)
        take_statistics(adapted, [x for x, _ in data], self.images_at_once, task)
        return clone(adapted.state_dict())


def tune(net: nn.Module, task: Task, data: Iterable[Batch], epochs: int, lr: float, momentum: float) -> None:
    """Train gamma and beta by SGD, the layers normalising by each batch's own statistics, in place."""
    net.eval().requires_grad_(False)
    for layer in batch_norms(net):
        layer.train().requires_grad_(True)
    parameters = [p for layer in batch_norms(net) for p in layer.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=momentum)
    descend(net, optimizer, task, data, epochs)
