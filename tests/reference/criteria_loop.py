"""Scores of a model on unlabelled images: one image and one class at a time."""

import math


def entropy(p: list[float]) -> float:
    return -sum(q * math.log(q) for q in p if q > 0)


def mean_of(rows: list[list[float]]) -> list[float]:
    return [sum(row[c] for row in rows) / len(rows) for c in range(len(rows[0]))]


def aetta(predicted: list[int], dropped: list[list[list[float]]]) -> float:
    """The estimated accuracy from the classes of the images and, for each draw and image, the softmax with dropout."""
    classes = len(dropped[0][0])
    wrong, everything = 0.0, []
    for draw in dropped:
        for c, row in zip(predicted, draw, strict=True):
            wrong += (row.index(max(row)) != c) / len(predicted) / len(dropped)
            everything.append(row)
    spread = entropy(mean_of(everything)) / math.log(classes)
    return 1 - min(wrong / spread**3, 1 - 1 / classes)


def bhattacharyya(mean: float, variance: float, other_mean: float, other_variance: float) -> float:
    """Minus the logarithm of the integral of sqrt(p q) of two normal densities, by the midpoint rule."""
    steps, low, high = 20000, min(mean, other_mean) - 30, max(mean, other_mean) + 30
    width = (high - low) / steps
    total = 0.0
    for k in range(steps):
        x = low + (k + 0.5) * width
        exponent = (x - mean) ** 2 / variance + (x - other_mean) ** 2 / other_variance
        total += math.exp(-exponent / 4) / math.sqrt(2 * math.pi) / (variance * other_variance) ** 0.25 * width
    return -math.log(total)
