"""Accuracy of states of a network."""

from collections.abc import Iterable

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, eval_mode, task_logits
from dua_lightning.tasks import Batch, Task


def accuracy(net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> float:
    """Percent of images whose class is the largest of the task's logits, in evaluation mode."""
    correct = total = 0
    with eval_mode(net), torch.no_grad():
        for x, y in data:
            if y is None:
                raise InputError(f"accuracy on task {task.name} needs labels, and these data have none")
            correct += int((task_logits(net, state, x, task.classes).argmax(1) + task.classes.start == y).sum())
            total += len(y)
    if not total:
        raise InputError(f"accuracy on task {task.name} needs at least one image, and the data have none")
    return 100 * correct / total
