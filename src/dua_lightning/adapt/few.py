"""Another adaptation on a few of the user's images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from torch import nn

from dua_lightning.adapt.base import Adapt, NormalisesTogether, OfExpert, OfServer
from dua_lightning.errors import InputError
from dua_lightning.params import State
from dua_lightning.tasks import Batch, Expert, Task


@dataclass(frozen=True)
class Few:
    """Adapt by another adaptation on a few images: how many does a user need?

    They are the first of the first pass over the data, and each further pass is over the same batches. Where the data
    come in random order they are a random subset, and fewer of them are a part of more.

    Args:
        adapt: The other adaptation.
        images: The number of images; all of them where there are fewer.

    Raises:
        InputError: The number is less than 1, or the other adaptation raises it.
    """

    adapt: Adapt
    images: int = 20

    def __post_init__(self) -> None:
        if self.images < 1:
            raise InputError(f"an adaptation takes at least 1 image, got images={self.images}")

    @property
    def steps(self) -> tuple[Adapt, ...]:
        """The other adaptation, under the name by which `base.asks` looks for it."""
        return (self.adapt,)

    @property
    def needs_labels(self) -> bool:
        """Whether the other adaptation needs labels."""
        return self.adapt.needs_labels

    def check(self, net: nn.Module) -> None:
        self.adapt.check(net)

    def trainable(self, net: nn.Module) -> int:
        return self.adapt.trainable(net)

    def normalised_together(self, sizes: Sequence[int]) -> int:
        ends = [min(end, self.images) for end in accumulate(sizes, initial=0)]
        taken = [end - begin for begin, end in pairwise(ends) if end > begin]
        return self.adapt.normalised_together(taken) if isinstance(self.adapt, NormalisesTogether) else 2

    def of(self, expert: Expert) -> "Few":
        """Make the adaptation with the task's unmerged expert, where the other one asks for it.

        Args:
            expert: The task's unmerged expert.

        Returns:
            The adaptation.
        """
        return replace(self, adapt=self.adapt.of(expert)) if isinstance(self.adapt, OfExpert) else self

    def with_server(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> "Few":
        """Make the adaptation with what the server measures, where the other one asks for it.

        Args:
            net: The network that lends its architecture, a workspace.
            state: The task's state of the personal model, which the server is about to send.
            task: The task.
            data: The server's labelled validation batches of the task.

        Returns:
            The adaptation.
        """
        if not isinstance(self.adapt, OfServer):
            return self
        return replace(self, adapt=self.adapt.with_server(net, state, task, data))

    def __call__(self, net: nn.Module, state: State, task: Task, data: Iterable[Batch]) -> State:
        few: list[Batch] = []
        left = self.images
        for x, y in data:
            few.append((x[:left], None if y is None else y[:left]))
            left -= len(x)
            if left <= 0:
                break
        return self.adapt(net, state, task, few)
