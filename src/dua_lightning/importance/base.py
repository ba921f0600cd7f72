"""The interface of every importance."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

from dua_lightning.params import Params
from dua_lightning.tasks import Batch, Expert


@runtime_checkable
class Importance(Protocol):
    """psi(d, M_t) = Omega_t: data and one expert -> a non-negative number per weight of the shared body."""

    @property
    def needs_labels(self) -> bool:
        """Whether the data need labels."""

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params:
        """Measure how much each weight of an expert matters for some data.

        Args:
            net: A workspace: it computes with the expert's state in evaluation mode and is left as it was.
            expert: The expert; everything is computed on the device of its state.
            data: Batches, on any device. Neither their order nor their sizes matter.

        Returns:
            A tensor for each weight of the shared body, of the weight's shape, on the expert's device.
        """
