"""The t interval and test by integrating the density, and Holm's procedure as it is stated, step by step."""

import math
from collections.abc import Sequence
from statistics import mean, stdev


def t_area(limit: float, freedom: int, steps: int = 20_000) -> float:
    """The integral of Student's density between -limit and limit, by Simpson's rule."""
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))

    def density(t: float) -> float:
        return scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)

    h = limit / steps
    inner = sum((4 if n % 2 else 2) * density(n * h) for n in range(1, steps))
    return 2 * h / 3 * (density(0) + inner + density(limit))


def p_value(values: Sequence[float]) -> float:
    t = abs(mean(values)) / (stdev(values) / math.sqrt(len(values)))
    return 1 - t_area(t, len(values) - 1)


def half(values: Sequence[float], level: float = 0.95) -> float:
    low, high = 0.0, 100.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if t_area(middle, len(values) - 1, 2_000) < level else (low, middle)
    return low * stdev(values) / math.sqrt(len(values))


def rejected(p_values: Sequence[float], level: float) -> set[int]:
    """Places of the hypotheses that Holm's procedure rejects: the smallest p first, until one is too large."""
    found: set[int] = set()
    for place in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[place] > level / (len(p_values) - len(found)):
            break
        found.add(place)
    return found
