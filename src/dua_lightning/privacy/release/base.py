"""The interface of every release."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dua_lightning.importance.base import Importance
from dua_lightning.tasks import Prior


@dataclass(frozen=True)
class Released:
    """A prior after a release.

    Args:
        prior: The prior that the server can use, of the names and shapes of the one that was measured.
        sent: The bytes that cross the wire for it, without names and shapes.
        epsilon: The epsilon of differential privacy; `None` where the release gives no such guarantee.
        delta: The delta that goes with it.
    """

    prior: Prior
    sent: int
    epsilon: float | None = None
    delta: float | None = None


@runtime_checkable
class Release(Protocol):
    """A step between psi and the wire: the prior that a device has measured becomes the one that the server gets."""

    def __call__(self, prior: Prior, images: int, stream: torch.Generator) -> Released:
        """Make of a prior what is sent.

        Args:
            prior: Omega of one expert; it is left as it is.
            images: The number of images that it was measured on, at least 1. It is public.
            stream: The random numbers of the release, on the processor.

        Returns:
            What the server gets, and what that costs and guarantees.

        Raises:
            InputError: The prior cannot be sent so.
        """


@runtime_checkable
class WhileMeasuring(Protocol):
    """A release that changes the measurement itself."""

    def check(self) -> None:
        """Check that the release can be made here, before anything is measured for it.

        Raises:
            InputError: Something that it needs is not installed.
        """

    def measured(self, psi: Importance) -> Importance:
        """Give the importance that the device measures for the release.

        Args:
            psi: The importance that is asked for.

        Returns:
            The importance that is measured in its place.

        Raises:
            InputError: There is none for such an importance.
        """


def each(prior: Prior, change: Callable[[Tensor], Tensor]) -> Prior:
    """Change the numbers of a prior, those that several entries or names share once.

    Args:
        prior: Tensors by name. Entries that share a number share its memory, as `importance.averaged` makes them.
        change: A function of a tensor that has each number of one of them once, of the same number of dimensions.

    Returns:
        Tensors of the same names and shapes; entries that shared a number share one again.
    """
    changed: dict[tuple[int, int], Tensor] = {}
    result = {}
    for name, omega in prior.items():
        own = _once(omega)
        key = own.data_ptr(), own.numel()
        if key not in changed:
            changed[key] = change(own)
        result[name] = changed[key].reshape(own.shape).expand_as(omega)
    return result


def numbers(prior: Prior) -> list[int]:
    """Count the numbers of a prior, those that several entries or names share once.

    Args:
        prior: Tensors by name.

    Returns:
        The count of each tensor that differs from those before it.
    """
    counts: list[int] = []

    def count(own: Tensor) -> Tensor:
        counts.append(own.numel())
        return own

    each(prior, count)
    return counts


def size(prior: Prior) -> int:
    """Count the bytes of a prior's numbers as they are.

    Args:
        prior: Tensors by name.

    Returns:
        The bytes, without names and shapes; numbers that entries or names share count once.
    """
    itemsize = next((omega.element_size() for omega in prior.values()), 0)
    return itemsize * sum(numbers(prior))


def _once(omega: Tensor) -> Tensor:
    """The tensor without the copies along dimensions that share their memory."""
    for dim in range(omega.dim()):
        if omega.stride(dim) == 0 and omega.shape[dim] > 1:
            omega = omega.narrow(dim, 0, 1)
    return omega
