"""Shares of classes from confusions, by trying every point of a grid of the simplex; mean predictions, one by one."""

from itertools import product

from torch import Tensor


def loss(confusions: list[list[float]], mean: list[float], shares: list[float], strength: float) -> float:
    C = len(mean)
    found = 0.0
    for j in range(C):
        explained = sum(confusions[j][c] * shares[c] for c in range(C))
        found += (explained - mean[j]) ** 2 + strength * (shares[j] - 1 / C) ** 2
    return found


def class_shares(confusions: Tensor, mean: Tensor, strength: float, steps: int) -> list[float]:
    C = len(mean)
    grid = [point for point in product(range(steps + 1), repeat=C) if sum(point) == steps]
    points = [[n / steps for n in point] for point in grid]
    return min(points, key=lambda shares: loss(confusions.tolist(), mean.tolist(), shares, strength))


def confusion(probabilities: Tensor, columns: Tensor) -> list[list[float]]:
    C = probabilities.shape[1]
    rows = [[0.0] * C for _ in range(C)]
    for c in range(C):
        of_class = [p for p, y in zip(probabilities.tolist(), columns.tolist(), strict=True) if y == c]
        for j in range(C):
            rows[j][c] = sum(p[j] for p in of_class) / len(of_class) if of_class else float(j == c)
    return rows
