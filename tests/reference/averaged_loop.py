"""Averaged importances: entry by entry."""

from itertools import product

import torch
from torch import Tensor


def averaged(prior: dict[str, Tensor], level: str) -> dict[str, Tensor]:
    """Each entry becomes the mean of all entries that are in the same group as it."""

    def group(name: str, place: tuple[int, ...]) -> tuple[object, ...]:
        return {"weight": (name, place), "channel": (name, place[:1]), "layer": (name,), "expert": ()}[level]

    entries = {
        (name, place): float(omega[place])
        for name, omega in prior.items()
        for place in product(*(range(size) for size in omega.shape))
    }
    result = {name: torch.empty_like(omega) for name, omega in prior.items()}
    for name, place in entries:
        same = [value for key, value in entries.items() if group(*key) == group(name, place)]
        result[name][place] = sum(same) / len(same)
    return result
