"""Accuracy and forgetting from a matrix of accuracies, in plain Python; row t is after learning task t."""

from collections.abc import Sequence


def average_accuracy(R: Sequence[Sequence[float]]) -> float:
    total = 0.0
    for j in range(len(R)):
        total += R[len(R) - 1][j]
    return total / len(R)


def forgetting(R: Sequence[Sequence[float]]) -> float:
    total = 0.0
    for j in range(len(R) - 1):
        total += R[j][j] - R[len(R) - 1][j]
    return total / (len(R) - 1)
