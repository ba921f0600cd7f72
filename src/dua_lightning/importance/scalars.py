"""The numbers that importances differentiate: one for each sample's logits."""

from collections.abc import Callable

from torch import Tensor

Scalar = Callable[[Tensor, Tensor], Tensor]
"""Logits `(..., classes of the task)` and side values `(...)` to the numbers `(...)` that are differentiated."""


def squared_norm(logits: Tensor, _: Tensor) -> Tensor:
    """Compute ||F(x)||^2; side values are not read.

    Args:
        logits: `(..., classes of the task)`.

    Returns:
        The numbers `(...)`.
    """
    return logits.square().sum(-1)


def log_likelihood(logits: Tensor, column: Tensor) -> Tensor:
    """Compute log p(column).

    Args:
        logits: `(..., classes of the task)`.
        column: `(...)` columns of the task.

    Returns:
        The numbers `(...)`.
    """
    chosen: Tensor = logits.log_softmax(-1).gather(-1, column[..., None])[..., 0]
    return chosen


def log_likelihood_sampled(logits: Tensor, uniform: Tensor) -> Tensor:
    """Compute log p of a column drawn from p, by inverting its cumulative distribution.

    Args:
        logits: `(..., classes of the task)`.
        uniform: `(...)` numbers in [0, 1).

    Returns:
        The numbers `(...)`; no gradient flows through the draw.
    """
    # No gradient flows through the draw.
    below = logits.detach().softmax(-1).cumsum(-1) <= uniform[..., None]
    # A cumulative sum that rounds to less than 1 must not push the draw past the last column.
    return log_likelihood(logits, below.sum(-1).clamp(max=logits.shape[-1] - 1))
