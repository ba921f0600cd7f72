"""Mean of a power of each sample's own gradient, for any scalar: one image and one backward pass at a time."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dua_lightning.tasks import Expert


def mean_power(
    net: nn.Module,
    expert: Expert,
    xs: Tensor,
    scalar: Callable[[Tensor, Tensor], Tensor],
    power: int,
    sides: Tensor | None = None,
) -> dict[str, Tensor]:
    """Mean over images of |d scalar(logits of the task, side value) / d theta|^power, for every weight of the body.

    `net` takes the expert's weights and stays in evaluation mode.
    """
    net.load_state_dict(expert.state)
    net.eval().requires_grad_(True)
    sides = torch.zeros(len(xs)) if sides is None else sides
    omega = {name: p.detach() * 0 for name, p in net.named_parameters(remove_duplicate=False)}
    for x, side in zip(xs.detach().clone(), sides, strict=True):
        net.zero_grad()
        value = scalar(net(x[None])[0, expert.task.classes], side)
        if value.requires_grad:
            value.backward()
        for name, p in net.named_parameters(remove_duplicate=False):
            if p.grad is not None:
                omega[name] += p.grad.abs() ** power / len(xs)
    return {name: o for name, o in omega.items() if not name.startswith("head.")}
