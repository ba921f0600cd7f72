"""The interface of every local adaptation."""

from collections.abc import Iterable, Sequence
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
    def needs_labels(self) -> bool:
        """Whether the data need labels."""

    def check(self, net: nn.Module) -> None:
        """Check a network.

        Args:
            net: The network.

        Raises:
            InputError: This kind of network cannot be adapted so.
        """

    def trainable(self, net: nn.Module) -> int:
        """Count the parameters of a network that are trained.

        Args:
            net: The network.

        Returns:
            The number of parameters with a gradient.
        """

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        """Adapt one task's state.

        Args:
            net: The network that lends its architecture.
            state: The task's state of the personal model; everything is computed on its device.
            task: The task.
            data: The user's own batches of the task, on any device.

        Returns:
            The final state, on the same device; it may share tensors with `state`.
        """


@runtime_checkable
class NormalisesTogether(Protocol):
    """An adaptation whose batch-norm layers take the moments of several images, so that one may be too few."""

    def normalised_together(self, sizes: Sequence[int]) -> int:
        """Tell the fewest images that are normalised by their own moments.

        Args:
            sizes: The number of images of each batch of the data.

        Returns:
            The number of images.
        """


@runtime_checkable
class OfExpert(Protocol):
    """An adaptation that needs the task's unmerged expert too, which the device has since it measured psi on it."""

    def of(self, expert: Expert) -> Adapt:
        """Make the adaptation with that expert.

        Args:
            expert: The task's unmerged expert.

        Returns:
            The adaptation.
        """


def needs_expert(adapt: Adapt) -> bool:
    """Tell whether an adaptation needs the task's unmerged expert.

    Args:
        adapt: The adaptation.

    Returns:
        Whether it does, or one of its steps, where it has `steps`.
    """
    steps = getattr(adapt, "steps", None)
    return isinstance(adapt, OfExpert) if steps is None else any(map(needs_expert, steps))
