"""The released estimator: one backward pass of each batch's mean; the last, shorter batch counts as much."""

import torch
from torch import Tensor, nn


def batch_mean(net: nn.Module, xs: Tensor, objective, power: int, size: int = 20) -> dict[str, Tensor]:
    """Mean over batches of `|g|` (power 1) or `g^2` (power 2), g the gradient of `objective(net(x), indices)`."""
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    starts = range(0, len(xs), size)
    for start in starts:
        index = torch.arange(start, min(start + size, len(xs)))
        net.zero_grad()
        objective(net(xs[index]), index).backward()
        for name, p in net.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.abs() ** power
    return {name: t / len(starts) for name, t in total.items()}
