"""Calibrated probabilities: the logits of a task are divided by one number.

[Guo2017] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger. On calibration of modern neural networks. ICML 2017.
"""

from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.merge.base import HEAD, head
from dua_lightning.params import State
from dua_lightning.tasks import Task

LOWEST, HIGHEST = 0.05, 20.0
"""The range of temperatures; labels that all logits get right would ask for 0, and logits that say nothing for more."""
HALVINGS = 50
"""Halvings of the range after which a temperature is exact up to rounding."""


def temperature(logits: Tensor, columns: Tensor) -> float:
    """Find the temperature T with the smallest cross-entropy of softmax(logits / T), as in [Guo2017].

    The cross-entropy is convex in 1 / T, so that its slope there has one zero, which is found by halving.

    Args:
        logits: `(n, C)` logits of a task.
        columns: `(n,)` the right column of each.

    Returns:
        T, between `LOWEST` and `HIGHEST`: more than 1 where the logits are too sure of themselves.

    Examples:
        >>> import torch
        >>> round(temperature(torch.tensor([[3.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])), 2)
        2.73
    """
    z = logits.double()
    right = z.gather(1, columns[:, None])[:, 0].mean()
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((z * middle).softmax(1) * z).sum(1).mean()
        low, high = (low, middle) if expected > right else (middle, high)
    return 2 / (low + high)


def calibrated(state: State, task: Task, T: float) -> State:
    """Divide a task's columns of the head, and so its logits, by a temperature: no prediction changes.

    Args:
        state: A full state.
        task: The task.
        T: The temperature.

    Returns:
        The state with another head; all other tensors are shared.

    Raises:
        InputError: The head is not one linear layer.
    """
    names = head(state)
    if not names or any(name.split(".")[-2:] not in ([HEAD, "weight"], [HEAD, "bias"]) for name in names):
        raise InputError(
            "statistics.calibrate divides the weight and bias of the last layer, and this network's head has "
            f"{', '.join(names) or 'none'}; use a network whose head is one linear layer, or statistics=server"
        )
    scaled = {name: state[name].clone() for name in names}
    for tensor in scaled.values():
        tensor[task.classes] /= T
    return state | scaled
