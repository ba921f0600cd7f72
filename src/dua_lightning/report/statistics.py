"""Intervals and tests for a few numbers.

[Student1908] The probable error of a mean. Biometrika 6 (the t interval and test).
[Holm1979] S. Holm. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics 6.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
"""Of every interval; 1 - LEVEL is the level of every test."""
ALIKE = 1e-9
"""Accuracies (percent) that differ by less differ by rounding."""
FEWEST = 3
"""Of two accuracies, which are counts of images, the difference is often nearly none, and would pass for a spread."""


@dataclass(frozen=True)
class Interval:
    """A mean, and half the width of its interval; NaN where it is not defined."""

    mean: float
    half: float


def interval(values: ArrayLike) -> Interval:
    """The t interval of the mean [Student1908] of the values that are numbers; one value alone has no width.

    >>> round(interval([1.0, 2.0, 3.0]).half, 2)
    2.48
    """
    known = _known(values)
    if not len(known):
        return Interval(math.nan, math.nan)
    half = math.nan
    if len(known) > 1:
        error = known.std(ddof=1) / math.sqrt(len(known))
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * error)
    return Interval(float(known.mean()), half)


def p_value(differences: ArrayLike) -> float:
    """Of the two-sided t test [Student1908] that their mean is 0.

    NaN for fewer than `FEWEST`, and where all are alike: their spread says nothing then.

    >>> round(p_value([1.0, 2.0, 3.0]), 4)
    0.0742
    """
    known = _known(differences)
    if len(known) < FEWEST or np.ptp(known) < ALIKE:
        return math.nan
    return float(stats.ttest_1samp(known, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number [Holm1979]; NaN stays, and does not count as a test.

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


def _known(values: ArrayLike) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    return found[~np.isnan(found)]
