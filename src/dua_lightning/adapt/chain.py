"""Several adaptations, one after another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from dua_lightning.adapt.base import Adapt, NormalisesTogether, OfExpert, OfServer
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Expert, Task


@dataclass(frozen=True)
class Chain:
    """Each step adapts the state that the step before it has made, on the same data.

    Args:
        steps: The adaptations in their order.

    Raises:
        InputError: There is no step, or one is no adaptation.
    """

    steps: Sequence[Adapt]

    def __post_init__(self) -> None:
        check_adaptations(self.steps, "a chain", "steps")

    @property
    def needs_labels(self) -> bool:
        """Whether a step needs labels."""
        return any(step.needs_labels for step in self.steps)

    def check(self, net: nn.Module) -> None:
        for step in self.steps:
            step.check(net)

    def trainable(self, net: nn.Module) -> int:
        return max(step.trainable(net) for step in self.steps)

    def normalised_together(self, sizes: Sequence[int]) -> int:
        return fewest_together(self.steps, sizes)

    def of(self, expert: Expert) -> "Chain":
        """Make the chain whose steps have the task's unmerged expert, where they ask for it.

        Args:
            expert: The task's unmerged expert.

        Returns:
            The chain.
        """
        return replace(self, steps=[step.of(expert) if isinstance(step, OfExpert) else step for step in self.steps])

    def with_server(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> "Chain":
        """Make the chain whose steps have what the server measures on the model that it sends, where they ask for it.

        Args:
            net: The network that lends its architecture, a workspace.
            state: The task's state of the personal model, which the server is about to send.
            task: The task.
            data: The server's labelled validation batches of the task.

        Returns:
            The chain.
        """
        return replace(self, steps=with_server(self.steps, net, state, task, data))

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        for step in self.steps:
            state = step(net, state, task, data)
        return state


def check_adaptations(found: Sequence[object], what: str, argument: str) -> None:
    """Refuse a list that is empty or holds anything but adaptations.

    Args:
        found: The list.
        what: The name of what it is for, for the message.
        argument: The argument's name, for the message.

    Raises:
        InputError: It is empty, or holds something else.
    """
    if not found:
        raise InputError(f"{what} takes at least one adaptation in {argument}, and there is none")
    for place, one in enumerate(found):
        if not isinstance(one, Adapt):
            raise InputError(f"{argument}[{place}] of {what} is a {type(one).__name__}, which is no adaptation")


def with_server(
    adaptations: Sequence[Adapt], net: nn.Module, state: State, task: Task, data: Iterable[Batch]
) -> list[Adapt]:
    """Give several adaptations what the server measures on the model that it sends, where they ask for it.

    Args:
        adaptations: The adaptations.
        net: The network that lends its architecture, a workspace.
        state: The task's state of the personal model, which the server is about to send.
        task: The task.
        data: The server's labelled validation batches of the task.

    Returns:
        The adaptations in their order.
    """
    return [one.with_server(net, state, task, data) if isinstance(one, OfServer) else one for one in adaptations]


def fewest_together(adaptations: Iterable[Adapt], sizes: Sequence[int]) -> int:
    """Tell the fewest images that one of several adaptations normalises by their own moments.

    Args:
        adaptations: The adaptations.
        sizes: The number of images of each batch of the data.

    Returns:
        The number of images; all of them, and at least 2, where none takes moments.
    """
    counts = [one.normalised_together(sizes) for one in adaptations if isinstance(one, NormalisesTogether)]
    return min(counts, default=max(2, sum(sizes)))
