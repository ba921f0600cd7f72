"""Accuracy of states of a network."""

from collections.abc import Iterable

import torch
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, device_of, eval_mode, fitted, inputs, moved, not_finite, task_logits
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
        InputError: The state is not one of this network, the data have no images or no labels, or the largest of the
            task's logits of an image is NaN or infinite.
    """
    state = fitted(net, state)
    device = device_of(state)
    correct, finite = torch.zeros(2, dtype=torch.int64, device=device)
    total = 0
    with eval_mode(net), torch.no_grad():
        for x, y in data:
            if y is None:
                raise InputError(f"accuracy on task {task.name} needs labels, and these data have none")
            logits = task_logits(net, state, inputs(net, x, device), task.classes)
            # The sums stay on the device: to read them would be to wait for every batch.
            correct += (logits.argmax(1) + task.classes.start == moved(y, device)).sum()
            # The largest is NaN where any logit is. Minus infinity is a fair logit of a class that is ruled out.
            finite += logits.amax(1).isfinite().sum()
            total += len(y)
    if not total:
        raise InputError(f"accuracy on task {task.name} needs at least one image, and the data have none")
    right, fair = map(int, torch.stack([correct, finite]))
    if fair < total:
        holding = not_finite(state)
        cause = f"{holding[0]} of the state holds such numbers" if holding else "look at the images and the network"
        raise InputError(
            f"accuracy on task {task.name} is not defined: the largest logit of {total - fair} of {total} images is "
            f"NaN or infinite; {cause}"
        )
    return 100 * right / total
