"""Supervised training of every weight on the user's data."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, clone
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Task


@dataclass(frozen=True)
class Finetune:
    """Cross-entropy over the task's classes, SGD with momentum, all parameters; with `Each` the paper's Task Experts.

    The last weights are kept: a device has no spare labelled data to select with. The batches of `data` are the steps;
    let it reshuffle at each pass. Dropout draws from the stream `(seed, "finetune", task)`.

    Raises `InputError` for data without images or labels.
    """

    epochs: int = 10
    lr: float = 5e-4
    momentum: float = 0.9
    seed: int = 0
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"fine-tuning takes 0 or more epochs, got {self.epochs}")
        if not self.lr > 0:
            raise InputError(f"the learning rate of fine-tuning is positive, got {self.lr}")

    def check(self, net: nn.Module) -> None:
        return None

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        tuned = copy.deepcopy(net)
        tuned.load_state_dict(state)
        tuned.train().requires_grad_(True)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=self.lr, momentum=self.momentum)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(self.seed, "finetune", task.name))
            for _ in range(self.epochs):
                images = 0
                for x, y in data:
                    if y is None:
                        raise InputError("fine-tuning needs labels, and these data have none; use adapt=none")
                    loss = nn.functional.cross_entropy(tuned(x)[:, task.classes], task.columns(y))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    images += len(y)
                if not images:
                    raise InputError(f"fine-tuning needs at least one image of task {task.name}, and the user has none")
        return clone(tuned.state_dict())
