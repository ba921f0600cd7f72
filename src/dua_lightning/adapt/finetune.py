"""Supervised training of every weight on the user's data."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dua_lightning.adapt.finite import require_finite
from dua_lightning.errors import DivergedError, InputError
from dua_lightning.params import State, clone, device_of, inputs, loaded, moved, reset_batch_norms
from dua_lightning.streams import derive
from dua_lightning.tasks import Batch, Task, refusing_batch

DROPOUTS = (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)
"""Functions that multiply their input by random numbers."""

DIVERGED = 10
"""The mean loss of the last pass, in units of the loss at the start and of that of guessing, from which a training has
diverged: a network whose units are all dead is finite, and would be counted as an accuracy of chance."""

Objective = Callable[[Tensor, Tensor | None], Tensor]
"""The loss of a batch of its logits `(n, classes of the task)` and labels `(n,)`, a number to be minimised.

A number without a gradient takes no step.
"""


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
        InputError: A number cannot be used, the data have no images or no labels, a batch is too small to be
            normalised, or the training diverges.
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

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return min(sizes, default=0)

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        tuned = loaded(net, state)
        tuned.train().requires_grad_(True)
        if self.reset_batch_norm:
            reset_batch_norms(tuned)
        optimizer = torch.optim.SGD(tuned.parameters(), lr=self.lr, momentum=self.momentum)
        with torch.random.fork_rng(devices=[]), _DropoutOfTheProcessor():
            torch.default_generator.manual_seed(derive(self.seed, "finetune", task.name))
            descend(tuned, optimizer, task, data, self.epochs)
        final = clone(tuned.state_dict())
        require_finite(final, state, data, f"fine-tuning on task {task.name}", self.lr)
        return final


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
    if not 0 < lr <= torch.finfo(torch.float32).max:
        raise InputError(f"the learning rate of {adaptation} is positive and finite in float32, got {lr}")
    if not 0 <= momentum < 1:
        raise InputError(f"the momentum of {adaptation} is in [0, 1), got {momentum}")


def cross_entropy(task: Task) -> Objective:
    """Make the supervised objective.

    Args:
        task: The task, which turns labels into columns.

    Returns:
        The mean cross-entropy over the task's classes, which refuses data without labels.
    """

    def loss(logits: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            raise InputError(
                "training on the device needs labels, and these data have none; adapt without labels, or not at all"
            )
        return nn.functional.cross_entropy(logits, moved(task.columns(y), logits.device))

    return loss


def descend(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    data: Iterable[Batch],
    epochs: int,
    objective: Objective | None = None,
) -> None:
    """Take steps on an objective over the task's classes, one for each batch of the data, in place.

    Args:
        net: The network; the batches are moved to its device.
        optimizer: The optimizer of the weights that are trained.
        task: The task.
        data: Batches, labelled where the objective needs it.
        epochs: The number of passes over the data.
        objective: The loss of a batch; by default its `cross_entropy`.

    Raises:
        InputError: The data have no images or no labels, or a batch is too small to be normalised.
        DivergedError: The loss has grown beyond `DIVERGED`. One that is not finite is left to the caller, who can tell
            whether the steps are the cause.
    """
    objective = objective or cross_entropy(task)
    device = device_of(net.state_dict())
    first: Tensor | None = None
    total, images = torch.zeros((), device=device), 0
    for _ in range(epochs):
        total, images = torch.zeros((), device=device), 0
        for x, y in data:
            # An optimizer may ask for the loss and its gradient more than once; torch declares that it is a float.
            closure: Any = partial(_differentiated, net, optimizer, task, objective, x, y, device)
            loss: Tensor = optimizer.step(closure)
            first = loss if first is None else first
            # The sum stays on the device: to read it would be to wait for every step.
            total += loss * len(x)
            images += len(x)
        if not images:
            raise InputError(f"training on the device needs at least one image of task {task.name}; the user has none")
    if first is not None:
        start, end = float(first), float(total) / images
        if DIVERGED * max(start, math.log(task.classes.stop - task.classes.start)) < end < math.inf:
            raise DivergedError(
                f"training on the device on task {task.name} diverged with lr={optimizer.param_groups[0]['lr']}: the "
                f"loss was {start:.3g} before it and {end:.3g} in its last pass; lower the learning rate"
            )


def _differentiated(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    objective: Objective,
    x: Tensor,
    y: Tensor | None,
    device: torch.device,
) -> Tensor:
    """The loss of a batch, whose gradient is left at the weights; none of a loss that has none."""
    with refusing_batch(x, task):
        logits = net(inputs(net, x, device))[:, task.classes]
    loss = objective(logits, y)
    optimizer.zero_grad()
    if loss.requires_grad:
        loss.backward()
    return loss.detach()
