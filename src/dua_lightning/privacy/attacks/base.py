"""The knowledge of every attacker, and intervals of what an attack gets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import nn

from dua_lightning.errors import InputError
from dua_lightning.importance import FIM, Averaged, Clipped, Importance
from dua_lightning.tasks import Expert, Prior

RESAMPLES = 1000
"""Resamples of a bootstrap."""


@dataclass(frozen=True)
class Known:
    """The knowledge of an honest but curious server that got one prior of one user.

    Args:
        net: The network, a workspace.
        expert: The expert that the server sent and the user measured.
        importance: The importance that the user measured.
        prior: Omega as the user sent it.
        images: The number of images that it was measured on.

    Raises:
        InputError: There is no image.
    """

    net: nn.Module
    expert: Expert
    importance: Importance
    prior: Prior
    images: int

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"a prior is measured on at least 1 image, got images={self.images}")

    @property
    def squares(self) -> bool:
        """Whether the prior is a mean of squared gradients (FIM), and not of absolute ones (MAS)."""
        importance = self.importance
        while isinstance(importance, Averaged | Clipped):
            importance = importance.of
        return isinstance(importance, FIM)


class Interval(NamedTuple):
    """A mean and its 95 % interval.

    Attributes:
        mean: The mean.
        low: The lower end; NaN where a single value has none.
        high: The upper end.
    """

    mean: float
    low: float
    high: float


def t_interval(values: Sequence[float]) -> Interval:
    """Compute the mean of some users' scores and its 95 % t interval.

    Args:
        values: A score for each user; the users are the sample.

    Returns:
        The mean and the interval.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def bootstrap(statistic: Callable[..., float], samples: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """Compute a statistic of samples and its 95 % percentile interval by resampling each sample by itself.

    Args:
        statistic: Maps one resample of each sample to a number.
        samples: The samples, each `(n,)` or with n rows.
        seed: The seed of the resamples.

    Returns:
        The statistic of the samples themselves, and the interval.
    """
    draw = np.random.default_rng(seed)
    found = [
        statistic(*(sample[draw.integers(len(sample), size=len(sample))] for sample in samples))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(float(statistic(*samples)), float(low), float(high))
