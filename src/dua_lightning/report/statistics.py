"""Intervals and tests for a few numbers.

[Student1908] The probable error of a mean. Biometrika 6 (the t interval and test).
[Holm1979] S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
"""The level of every interval; 1 - LEVEL is the level of every test."""
ALIKE = 1e-9
"""Accuracies (percent) that differ by less differ by rounding."""
FEWEST = 3
"""The fewest values of a test.

Two accuracies are counts of images, whose difference is often nearly none, and would pass for a spread.
"""


@dataclass(frozen=True)
class Interval:
    """A mean and its interval, as numbers or arrays; NaN where it is not defined.

    Args:
        mean: The mean.
        half: Half the width of the interval.
    """

    mean: Any
    half: Any


def interval(values: ArrayLike) -> Interval:
    """Compute the t interval of the mean [Student1908] along the last axis.

    Args:
        values: `(..., n)`; NaN is left out, and one value alone has no width.

    Returns:
        The interval at `LEVEL`.

    Examples:
        >>> round(float(interval([1.0, 2.0, 3.0]).half), 2)
        2.48
    """
    x = np.asarray(values, dtype=np.float64)
    with warnings.catch_warnings():
        # NaN says what the warnings say: of too few values, and of values that are all alike.
        warnings.simplefilter("ignore", RuntimeWarning)
        bounds = stats.ttest_1samp(x, 0, axis=-1, nan_policy="omit").confidence_interval(LEVEL)
        return Interval(np.nanmean(x, axis=-1), (bounds.high - bounds.low) / 2)


def needed(mean: float, deviation: float, least: int) -> int:
    """Compute how many values would have an interval that leaves 0 out, were they like those that there are.

    Args:
        mean: Their mean, not 0.
        deviation: Their standard deviation.
        least: The smallest number that is asked for, at least 2.

    Returns:
        The smallest such number.

    Examples:
        >>> needed(1.0, 1.0, 2)
        7
    """
    # The t interval is wider than the normal one, from which the search begins.
    n: int = max(least, math.ceil((stats.norm.ppf((1 + LEVEL) / 2) * deviation / mean) ** 2))
    while stats.t.ppf((1 + LEVEL) / 2, n - 1) * deviation / math.sqrt(n) >= abs(mean):
        n += 1
    return n


def p_value(differences: ArrayLike) -> float:
    """Compute the p-value of the two-sided t test [Student1908] that the mean of the differences is 0.

    Args:
        differences: `(n,)`; NaN is left out.

    Returns:
        The p-value; NaN for fewer than `FEWEST`, and where all are alike: their spread says nothing then.

    Examples:
        >>> round(p_value([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    known = np.asarray(differences, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) < FEWEST or np.ptp(known) < ALIKE:
        return math.nan
    return float(stats.ttest_1samp(known, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number [Holm1979].

    Args:
        p_values: The p-values; NaN stays, and does not count as a test.

    Returns:
        The corrected p-values in the same order.

    Examples:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected
