"""Merges of task vectors and RegMean: entry by entry, or by the formula as it is printed."""

import math

import torch
from torch import Tensor


def ties(taus: list[Tensor], keep: float) -> Tensor:
    """The step of TIES for the flat changes of each expert: trim, elect, and mean of those that agree."""
    kept = []
    for tau in taus:
        order = sorted(range(len(tau)), key=lambda i: -abs(tau[i].item()))
        largest = set(order[: math.ceil(keep * len(tau))])
        kept.append([tau[i].item() if i in largest else 0.0 for i in range(len(tau))])
    step = torch.zeros_like(taus[0])
    for i in range(len(step)):
        values = [of_one[i] for of_one in kept]
        total = sum(values)
        agree = [value for value in values if value != 0 and total != 0 and (value > 0) == (total > 0)]
        step[i] = sum(agree) / len(agree) if agree else 0
    return step


def magmax(taus: list[Tensor]) -> Tensor:
    """The change of the largest magnitude."""
    largest = [max((tau[i].item() for tau in taus), key=abs) for i in range(len(taus[0]))]
    return torch.tensor(largest, dtype=taus[0].dtype)


def regmean(thetas: list[Tensor], grams: list[Tensor], shrinkage: float) -> Tensor:
    """W = (sum_t W_t G_t)(sum_t G_t)^-1 for one layer, one group of output channels at a time."""
    merged = torch.empty_like(thetas[0])
    groups, outputs = len(grams[0]), len(thetas[0]) // len(grams[0])
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        left = right = 0
        for theta, gram in zip(thetas, grams, strict=True):
            shrunk = gram[group] * shrinkage
            for i in range(len(shrunk)):
                shrunk[i, i] = gram[group, i, i]
            left = left + theta[rows].flatten(1) @ shrunk
            right = right + shrunk
        merged[rows] = (left @ torch.linalg.inv(right)).view_as(merged[rows])
    return merged
