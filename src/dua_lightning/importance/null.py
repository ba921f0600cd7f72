"""Null importances: priors that know nothing of what a user's images show.

A gain of a user's prior that these have as well does not come from the user.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dua_lightning.importance.base import Importance
from dua_lightning.params import Params, body_names
from dua_lightning.streams import generator
from dua_lightning.tasks import Batch, Expert


@dataclass(frozen=True)
class Noise:
    """Measure an importance on noise: as many images as the data have, of their shape, of independent N(0, 1) numbers.

    Nothing of the data but their number, their shape and, where the importance needs them, their labels counts. The
    images are drawn on the processor from the stream `(seed, "noise", task)`, so that all users have the same ones.

    Args:
        of: The importance that is measured.
        seed: The seed of the stream.
    """

    of: Importance
    seed: int = 0

    @property
    def needs_labels(self) -> bool:
        return self.of.needs_labels

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        stream = generator(self.seed, "noise", expert.task.name)

        def noise(x: Tensor) -> Tensor:
            # Each image is drawn by itself: the numbers that torch draws at once depend on how many they are.
            return (
                torch.stack([torch.randn(one.shape, generator=stream, dtype=one.dtype) for one in x]) if len(x) else x
            )

        return self.of(net, expert, ((noise(x), y) for x, y in data))


@dataclass(frozen=True)
class Permuted:
    """Measure an importance, and permute its entries within each tensor.

    Each tensor keeps its distribution of values, and loses which weight has which. The permutation comes from the
    stream `(seed, "permuted", task, weight)`, drawn on the processor, and is the same for all users.

    Args:
        of: The importance that is measured.
        seed: The seed of the streams.
    """

    of: Importance
    seed: int = 0

    @property
    def needs_labels(self) -> bool:
        return self.of.needs_labels

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        # A tied weight has one permutation under all of its names.
        first = body_names(net)
        return {
            name: self._permuted(omega, expert.task.name, first.get(name, name))
            for name, omega in self.of(net, expert, data).items()
        }

    def _permuted(self, omega: Tensor, task: str, weight: str) -> Tensor:
        """The entries of a tensor in the order of its stream."""
        order = torch.randperm(omega.numel(), generator=generator(self.seed, "permuted", task, weight))
        return omega.flatten()[order.to(omega.device)].view_as(omega)
