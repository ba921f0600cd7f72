"""The accuracy matrix R, and the figures of merit that are read from it.

[LopezPaz2017] D. Lopez-Paz, M. Ranzato. Gradient episodic memory for continual learning. NeurIPS 2017 (R).
[Chaudhry2018] A. Chaudhry et al. Riemannian walk for incremental learning. ECCV 2018 (forgetting).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dua_lightning.errors import InputError


def average_accuracy(R: ArrayLike) -> Any:
    """Compute the mean over tasks of the accuracy after the last one.

    Args:
        R: `(..., N, N)`, accuracy in percent: `R[t, j]` after learning task `t`, on task `j <= t` [LopezPaz2017].
            Entries above the diagonal are not read.

    Returns:
        Percent, higher is better: a float for one matrix, an array `(...)` for several.

    Raises:
        InputError: `R` is no such matrix.

    Examples:
        >>> average_accuracy([[90.0, 0.0], [80.0, 70.0]])
        75.0
    """
    return _plain(_matrix(R)[..., -1, :].mean(-1))


def forgetting(R: ArrayLike) -> Any:
    """Compute the mean over the N-1 earlier tasks of `R[j, j] - R[N-1, j]` [Chaudhry2018].

    Args:
        R: `(..., N, N)`, accuracy in percent, as in `average_accuracy`.

    Returns:
        Percentage points, lower is better, negative where later tasks helped: a float for one matrix, an array `(...)`
        for several. NaN where it is not defined: for a single task, or where the accuracies along the way were not
        measured (Joint training).

    Raises:
        InputError: `R` is no such matrix.

    Examples:
        >>> forgetting([[90.0, 0.0], [80.0, 70.0]])
        10.0
    """
    lost = _lost(R)
    return _plain(lost.mean(-1) if lost.shape[-1] else np.full(lost.shape[:-1], np.nan))


def forgetting_released(R: ArrayLike) -> Any:
    """Compute `forgetting` as the authors' released code does: the sum over the N-1 earlier tasks divided by N.

    Args:
        R: `(..., N, N)`, accuracy in percent, as in `average_accuracy`.

    Returns:
        Percentage points, as `forgetting` returns them.

    Raises:
        InputError: `R` is no such matrix.

    Examples:
        >>> forgetting_released([[90.0, 0.0], [80.0, 70.0]])
        5.0
    """
    n = _matrix(R).shape[-1]
    return forgetting(R) * (n - 1) / n


def _matrix(R: ArrayLike) -> np.ndarray:
    # A tensor of torch's may need gradients, or be on another device.
    if hasattr(R, "detach"):
        R = R.detach().cpu()
    try:
        matrix = np.asarray(R, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"an accuracy matrix is (..., N, N) numbers, and this is not ({error})") from error
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.shape[-1]:
        raise InputError(f"an accuracy matrix is (..., N, N) with N at least 1, got shape {matrix.shape}")
    return matrix


def _lost(R: ArrayLike) -> np.ndarray:
    matrix = _matrix(R)
    learnt: np.ndarray = np.diagonal(matrix, axis1=-2, axis2=-1)
    lost: np.ndarray = learnt[..., :-1] - matrix[..., -1, :-1]
    return lost


def _plain(values: Any) -> Any:
    return float(values) if np.ndim(values) == 0 else values
