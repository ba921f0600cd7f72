"""Supervised training of every weight on the user's data."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, reset_batch_norms
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class Finetune:
    """Cross-entropy over the task's classes, SGD with momentum, all parameters; with `Each` the paper's Task Experts.

    The last weights are kept: a device has no spare labelled data to select with. The batches of `data` are the steps;
    let it reshuffle at each pass. Dropout draws from the stream `(seed, "finetune", task)`. With
    `reset_batch_norm` the batch-norm layers start as they are built, as in the authors' release.

    Raises `InputError` for data without images or labels.
    """

    epochs: int = 10
    lr: float = 5e-4
    momentum: float = 0.9
    seed: int = 0
    reset_batch_norm: bool = False
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"fine-tuning takes 0 or more epochs, got {self.epochs}")
        check_steps(self.lr, self.momentum, "fine-tuning")

    def check(self, net: nn.Module) -> None:
        return None

    def trainable(self, net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        tuned = copy.deepcopy(net)
        tuned.load_state_dict(state)
        tuned.train().requires_grad_(True)
        if self.reset_batch_norm:
            reset_batch_norms(tuned)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=self.lr, momentum=self.momentum)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "finetune", task.name))
            descend(tuned, optimizer, task, data, self.epochs)
        return clone(tuned.state_dict())


def check_steps(lr: float, momentum: float, adaptation: str) -> None:
    """Raise `InputError` for a learning rate or a momentum that no step can be taken with."""
    if not 0 < lr < math.inf:
        raise InputError(f"the learning rate of {adaptation} is positive and finite, got {lr}")
    if not 0 <= momentum < 1:
        raise InputError(f"the momentum of {adaptation} is in [0, 1), got {momentum}")


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, task: Task, data: Iterable[Batch], epochs: int) -> None:
    """Steps of `optimizer` on the cross-entropy over the task's classes, one for each batch of `data`, in place."""
    for _ in range(epochs):
        images = 0
        for x, y in data:
            if y is None:
                raise InputError("training on the device needs labels, and these data have none; use adapt=none")
            loss = nn.functional.cross_entropy(net(x)[:, task.classes], task.columns(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(y)
        if not images:
            raise InputError(f"training on the device needs at least one image of task {task.name}; the user has none")
