"""Accuracy of states of a network."""

from collections.abc import Iterable

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, device_of, eval_mode, fitted, moved, task_logits
from dua_lightning.tasks import Batch, Task


def accuracy(net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> float:
    """Compute the percentage of images whose class is the largest of the task's logits, in evaluation mode.

    Args:
        net: The network, a workspace that is left as it was.
        state: The weights and buffers; everything is computed on their device, to which the batches are moved.
        task: The task whose columns are compared.
        data: Labelled batches.

    Returns:
        Percent, higher is better.

    Raises:
        InputError: The state is not one of this network, or the data have no images or no labels.
    """
    state = fitted(net, state)
    device = device_of(state)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    total = 0
    with eval_mode(net), torch.no_grad():
        for x, y in data:
            if y is None:
                raise InputError(f"accuracy on task {task.name} needs labels, and these data have none")
            logits = task_logits(net, state, moved(x, device), task.classes)
            # The sum stays on the device: to read it would be to wait for every batch.
            correct += (logits.argmax(1) + task.classes.start == moved(y, device)).sum()
            total += len(y)
    if not total:
        raise InputError(f"accuracy on task {task.name} needs at least one image, and the data have none")
    return 100 * int(correct) / total
