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
    """An adaptation that needs the task's unmerged expert too, which the device has, since it measured psi on it."""

    def of(self, expert: Expert) -> Adapt:
        """Make the adaptation with that expert.

        Args:
            expert: The task's unmerged expert.

        Returns:
            The adaptation.
        """


def asks(adapt: Adapt, protocol: type) -> bool:
    """Tell whether an adaptation needs what the device does not have by itself.

    Args:
        adapt: The adaptation.
        protocol: What it may need: `OfExpert`, `OfExperts` or `OfServer`.

    Returns:
        Whether it does, or one of its `steps`, where it has some.
    """
    parts = getattr(adapt, "steps", None)
    if isinstance(parts, Sequence):
        return any(asks(part, protocol) for part in parts)
    return isinstance(adapt, protocol)


def moments(adapt: Adapt) -> str:
    """Name the way in which an adaptation takes batch-norm statistics.

    Args:
        adapt: The adaptation.

    Returns:
        Its `statistics`, such as `exact`, or those of its `steps`, each way once; `none` where it takes none.
    """
    parts = getattr(adapt, "steps", None)
    if isinstance(parts, Sequence):
        ways = dict.fromkeys(map(moments, parts))
        return " and ".join(way for way in ways if way != "none") or "none"
    return str(getattr(adapt, "statistics", "none"))


@runtime_checkable
class OfExperts(Protocol):
    """An adaptation that needs all unmerged experts and their common start, which the device then has to store.

    A row with it is adapted and evaluated after the last task alone.
    """

    def with_experts(self, experts: Sequence[Expert], start: State) -> Adapt:
        """Make the adaptation with those experts.

        Args:
            experts: All unmerged experts, in the order of the tasks.
            start: The full state that the first of them was trained from.

        Returns:
            The adaptation.
        """


@runtime_checkable
class OfServer(Protocol):
    """An adaptation that needs what the server measures on its own labelled images, and sends with the model."""

    def with_server(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> Adapt:
        """Make the adaptation with what the server has measured.

        Args:
            net: The network that lends its architecture, a workspace.
            state: The task's state of the personal model, which the server is about to send.
            task: The task.
            data: The server's labelled validation batches of the task.

        Returns:
            The adaptation.
        """
