"""Clipped importances: one image at a time, its importance as one long list of numbers."""

from collections.abc import Callable, Sequence

from torch import Tensor


def clipped(of_image: Callable[[int], dict[str, Tensor]], count: int, bound: float, tied: Sequence[str] = ()) -> dict:
    """The mean over images of Omega_i min(1, bound / norm of Omega_i); names in `tied` are second names of a weight."""
    total: dict[str, Tensor] = {}
    for i in range(count):
        omega = of_image(i)
        entries = [value for name, o in omega.items() if name not in tied for value in o.flatten().tolist()]
        size = sum(value**2 for value in entries) ** 0.5
        for name, o in omega.items():
            total[name] = total.get(name, 0) + o * (bound / size if size > bound else 1.0)
    return {name: o / count for name, o in total.items()}
