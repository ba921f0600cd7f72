"""Logits of a user's unlabelled images, and the features of which the head makes them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dua_lightning.errors import InputError
from dua_lightning.params import State, device_of, eval_mode, inputs, task_logits
from dua_lightning.tasks import Task


def linear_head(net: nn.Module, adaptation: str, bias: bool = False) -> nn.Linear:
    """Find the head of a network, a linear layer.

    Args:
        net: The network.
        adaptation: The adaptation's name, for the message.
        bias: Whether it needs a bias.

    Returns:
        The layer.

    Raises:
        InputError: The network has no such head.
    """
    head = getattr(net, "head", None)
    if not isinstance(head, nn.Linear) or (bias and head.bias is None):
        raise InputError(
            f"{adaptation} needs a network whose head is a linear layer{' with a bias' if bias else ''}, and this "
            f"{type(net).__name__} has none; name it by +model.head=NAME, or use another adaptation, such as adabn"
        )
    return head


def name_of(net: nn.Module, parameter: Tensor) -> str:
    """Tell the name of a parameter in the network's states.

    Args:
        net: The network.
        parameter: One of its parameters.

    Returns:
        The name.
    """
    return next(name for name, p in net.named_parameters() if p is parameter)


def shifted_head(net: nn.Module, state: State, task: Task, shift: Tensor, adaptation: str) -> State:
    """Add numbers to the head's biases of a task.

    Args:
        net: The network.
        state: A state of it.
        task: The task.
        shift: `(classes of the task,)` the numbers.
        adaptation: The adaptation's name, for the message.

    Returns:
        The state with another bias; all other tensors are shared.

    Raises:
        InputError: The network has no linear head with a bias.
    """
    name = name_of(net, linear_head(net, adaptation, bias=True).bias)
    bias = state[name].clone()
    bias[task.classes] += shift.to(bias)
    return state | {name: bias}


def logits_of(net: nn.Module, state: State, task: Task, images: Sequence[Tensor]) -> Tensor:
    """Compute the task's logits of some images in evaluation mode.

    Args:
        net: The network, a workspace that is left as it was.
        state: The weights and buffers; everything is computed on their device.
        task: The task.
        images: Batches of inputs.

    Returns:
        `(n, classes of the task)`, float64 and on the processor.

    Raises:
        InputError: There is no image, or a logit is not finite.
    """
    device = device_of(state)
    with eval_mode(net), torch.no_grad():
        found = [task_logits(net, state, inputs(net, x, device), task.classes).cpu().double() for x in images if len(x)]
    if not found:
        raise InputError(f"the device needs at least one image of task {task.name} to adapt on; the user has none")
    logits = torch.cat(found)
    if not logits.isfinite().all():
        raise InputError(
            f"the logits of the personal model on task {task.name} are NaN or infinite; look at the images and the "
            "model's training"
        )
    return logits


def features_of(net: nn.Module, state: State, task: Task, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute the inputs of the head and the task's logits of some images in evaluation mode.

    Args:
        net: The network, whose head is a linear layer.
        state: The weights and buffers; everything is computed on their device.
        task: The task.
        images: Batches of inputs.

    Returns:
        Features `(n, features)` and logits `(n, classes of the task)`, float64 and on the processor.

    Raises:
        InputError: There is no image, or a logit is not finite.
    """
    found: list[Tensor] = []
    hook = linear_head(net, "it").register_forward_pre_hook(lambda _, args: found.append(args[0].cpu().double()))
    try:
        logits = logits_of(net, state, task, images)
    finally:
        hook.remove()
    return torch.cat(found), logits
