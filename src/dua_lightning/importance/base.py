"""What every importance is."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

from dua_lightning.params import Params
from dua_lightning.tasks import Batch, Expert


@runtime_checkable
class Importance(Protocol):
    """psi(d, M_t) = Omega_t: data and one expert -> a non-negative number per weight of the shared body.

    The network is a workspace: it computes with the expert's state in evaluation mode and is left as it was. The
    result does not depend on the order of the data or on how they are cut into batches.
    """

    @property
    def needs_labels(self) -> bool: ...

    def __call__(self, net: nn.Module, expert: Expert, data: Iterable[Batch]) -> Params: ...
