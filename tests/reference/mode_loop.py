"""Mode merge, eq. (1): entry by entry, in exact rational arithmetic."""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor


def mode(thetas: Sequence[Tensor], omegas: Sequence[Tensor]) -> Tensor:
    """sum_t Omega_t theta_t / sum_t Omega_t; the mean where every Omega_t is 0."""
    merged = torch.empty_like(thetas[0])
    for i in range(merged.numel()):
        values = [Fraction(theta.flatten()[i].item()) for theta in thetas]
        weights = [Fraction(omega.flatten()[i].item()) for omega in omegas]
        if sum(weights) == 0:
            weights = [Fraction(1) for _ in thetas]
        merged.view(-1)[i] = float(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return merged
