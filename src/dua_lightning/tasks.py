"""The values that travel between server and user."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import State

Batch = tuple[Tensor, Tensor | None]
"""Inputs `(n, ...)` and their labels `(n,)`, classes of the whole benchmark; `None` where the data are unlabelled."""


@dataclass(frozen=True)
class Task:
    """A task: its columns of the one shared head, `net(x)[:, task.classes]`.

    `classes` is a contiguous slice with both ends given, so that a label's column within the task is
    `label - classes.start`.
    """

    name: str
    classes: slice

    def columns(self, labels: Tensor) -> Tensor:
        """`(n,)` columns within the task of `(n,)` labels; raises `InputError` for a label of another task."""
        if ((labels < self.classes.start) | (labels >= self.classes.stop)).any():
            low, high = int(labels.min()), int(labels.max())
            raise InputError(
                f"task {self.name} has the classes {self.classes.start} to {self.classes.stop - 1}, and labels from "
                f"{low} to {high} were given"
            )
        columns: Tensor = labels - self.classes.start
        return columns


@dataclass(frozen=True)
class Expert:
    """Task-specific model M_t of the server: the full state (body, buffers and head) after learning `task`."""

    task: Task
    state: State


Prior = dict[str, Tensor]
"""What an importance returns for one expert (Omega), and all that a user sends: named tensors.

What they hold is the importance's business. `MAS`, `FIM` and `Uniform` name the weights of the body, with a tensor of
the weight's shape for each; another importance may give a number per channel, or a Gram matrix of each layer's inputs,
for a merge that can use them.
"""

UserModel = Mapping[str, State]
"""Task name -> full state; tasks that share weights share the tensors, so this is cheap."""
