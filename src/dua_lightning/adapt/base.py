"""What every local adaptation is."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

from dua_lightning.params import State
from dua_lightning.tasks import Batch, Expert, Task


@runtime_checkable
class Adapt(Protocol):
    """phi(d, M^) = M*: one task's state of the personal model and the user's own data of that task -> the final state.

    Pure: neither the network's weights nor the given state change; the network lends its architecture. Each pass over
    `data` is one pass over the user's images.
    """

    @property
    def needs_labels(self) -> bool: ...

    def check(self, net: nn.Module) -> None:
        """Raise `InputError` if this kind of network cannot be adapted so."""

    def trainable(self, net: nn.Module) -> int:
        """Number of parameters of `net` that are trained."""

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State: ...


@runtime_checkable
class OfExpert(Protocol):
    """An adaptation that needs the task's unmerged expert too, which the device has since it measured psi on it."""

    def of(self, expert: Expert) -> Adapt:
        """The adaptation with that expert."""
