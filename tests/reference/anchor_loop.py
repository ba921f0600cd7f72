"""The quadratic penalty of L2-transfer, EWC and MAS, entry by entry; its gradient is left to autograd."""

from torch import Tensor


def penalty(theta: dict[str, Tensor], anchor: dict[str, Tensor], omega: dict[str, Tensor], strength: float) -> Tensor:
    """strength * sum_k Omega_k (theta_k - theta*_k)^2 over the weights that `theta` names."""
    total = 0
    for name in theta:
        for now, then, importance in zip(
            theta[name].flatten(), anchor[name].flatten(), omega[name].flatten(), strict=True
        ):
            total = total + strength * importance * (now - then) ** 2
    return total
