"""What importances differentiate: a number for each sample's logits, and its derivative where there is a formula."""

from collections.abc import Callable

from torch import Tensor

Scalar = Callable[[Tensor, Tensor], Tensor]
"""Logits `(..., classes of the task)` and side values `(...)` to the numbers `(...)` that are differentiated."""


def squared_norm(logits: Tensor, _: Tensor) -> Tensor:
    return logits.square().sum(-1)


def _of_squared_norm(logits: Tensor, _: Tensor) -> Tensor:
    return 2 * logits


def log_likelihood(logits: Tensor, column: Tensor) -> Tensor:
    """log p(column)."""
    chosen: Tensor = logits.log_softmax(-1).gather(-1, column[..., None])[..., 0]
    return chosen


def _of_log_likelihood(logits: Tensor, column: Tensor) -> Tensor:
    # One at the column, less the softmax.
    derivative = logits.softmax(-1).neg_()
    return derivative.scatter_add_(-1, column[..., None], derivative.new_ones(()).expand(*column.shape, 1))


def log_likelihood_sampled(logits: Tensor, uniform: Tensor) -> Tensor:
    """log p of a column drawn from p by inverting its cumulative distribution at `uniform`."""
    return log_likelihood(logits, _drawn(logits, uniform))


def _of_log_likelihood_sampled(logits: Tensor, uniform: Tensor) -> Tensor:
    return _of_log_likelihood(logits, _drawn(logits, uniform))


def _drawn(logits: Tensor, uniform: Tensor) -> Tensor:
    """No gradient flows through the draw."""
    below = logits.detach().softmax(-1).cumsum(-1) <= uniform[..., None]
    # A cumulative sum that rounds to less than 1 must not push the draw past the last column.
    return below.sum(-1).clamp(max=logits.shape[-1] - 1)


DERIVATIVES: dict[Scalar, Scalar] = {
    squared_norm: _of_squared_norm,
    log_likelihood: _of_log_likelihood,
    log_likelihood_sampled: _of_log_likelihood_sampled,
}
"""With respect to the logits `(n, classes of the task)`, of the same shape."""
