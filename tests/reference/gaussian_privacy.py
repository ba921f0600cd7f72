"""The analytic Gaussian mechanism: Theorem 8 of Balle and Wang, 2018, by bisection."""

import math


def delta(sigma: float, epsilon: float) -> float:
    """The delta of noise sigma times the sensitivity."""

    def cdf(t: float) -> float:
        return math.erfc(-t / math.sqrt(2)) / 2

    return cdf(0.5 / sigma - epsilon * sigma) - math.exp(epsilon) * cdf(-0.5 / sigma - epsilon * sigma)


def epsilon(sigma: float, wanted: float) -> float:
    """The smallest epsilon of that delta."""
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if delta(sigma, middle) <= wanted else (middle, high)
    return high
