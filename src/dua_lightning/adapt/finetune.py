"""Supervised training of every weight on the user's data."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dua_lightning.errors import InputError
from dua_lightning.params import State, clone, device_of, loaded, moved, reset_batch_norms
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Task

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Functions that multiply their input by random numbers."""


@dataclass(frozen=True)
class Finetune:
    """Train all parameters by SGD on the cross-entropy over the task's classes; with `Each` the paper's Task Experts.

    The last weights are kept: a device has no spare labelled data to select with. The batches of the data are the
    steps; let them reshuffle at each pass.

    Args:
        epochs: The number of passes over the data.
        lr: The learning rate.
        momentum: The momentum.
        seed: Dropout draws from the stream `(seed, "finetune", task)`, on the processor for every device.
        reset_batch_norm: Whether the batch-norm layers start as they are built, as in the authors' release.

    Raises:
        InputError: A number cannot be used, or the data have no images or no labels.
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
        tuned = loaded(net, state)
        tuned.train().requires_grad_(True)
        if self.reset_batch_norm:
            reset_batch_norms(tuned)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=self.lr, momentum=self.momentum)
        with torch.random.fork_rng(devices=[]), _DropoutOfTheProcessor():
            torch.default_generator.manual_seed(derive(self.seed, "finetune", task.name))
            descend(tuned, optimizer, task, data, self.epochs)
        return clone(tuned.state_dict())


class _DropoutOfTheProcessor(TorchFunctionMode):
    """Inside it, dropout on any device leaves out what the processor would leave out: its numbers are drawn there."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in DROPOUTS or args[0].device.type == "cpu":
            return func(*args, **kwargs)
        x, *rest = args
        mask = func(torch.ones(x.shape, dtype=x.dtype), *rest, **kwargs)
        return x * moved(mask, x.device)


def check_steps(lr: float, momentum: float, adaptation: str) -> None:
    """Refuse a learning rate or a momentum that no step can be taken with.

    Args:
        lr: The learning rate.
        momentum: The momentum.
        adaptation: The adaptation's name, for the message.

    Raises:
        InputError: A number cannot be used.
    """
    if not 0 < lr < math.inf:
        raise InputError(f"the learning rate of {adaptation} is positive and finite, got {lr}")
    if not 0 <= momentum < 1:
        raise InputError(f"the momentum of {adaptation} is in [0, 1), got {momentum}")


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, task: Task, data: Iterable[Batch], epochs: int) -> None:
    """Take steps on the cross-entropy over the task's classes, one for each batch of the data, in place.

    Args:
        net: The network; the batches are moved to its device.
        optimizer: The optimizer of the weights that are trained.
        task: The task.
        data: Labelled batches.
        epochs: The number of passes over the data.

    Raises:
        InputError: The data have no images or no labels.
    """
    device = device_of(net.state_dict())
    for _ in range(epochs):
        images = 0
        for x, y in data:
            if y is None:
                raise InputError(
                    "training on the device needs labels, and these data have none; adapt without labels, or not at all"
                )
            logits = net(moved(x, device))[:, task.classes]
            loss = nn.functional.cross_entropy(logits, moved(task.columns(y), device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images += len(y)
        if not images:
            raise InputError(f"training on the device needs at least one image of task {task.name}; the user has none")
