"""The values that travel between server and user."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from dua_lightning.errors import InputError
from dua_lightning.params import State

Batch = tuple[Tensor, Tensor | None]
"""Inputs `(n, ...)` and their labels `(n,)`, classes of the whole benchmark; `None` where the data are unlabelled."""


@dataclass(frozen=True)
class Task:
    """A task owns some columns of the one shared head: its logits are `net(x)[:, task.classes]`.

    Args:
        name: The task's name.
        classes: A contiguous slice with both ends given, so that a label's column within the task is
            `label - classes.start`.
    """

    name: str
    classes: slice

    def columns(self, labels: Tensor) -> Tensor:
        """Turn labels into columns within the task.

        Args:
            labels: `(n,)` classes of the whole benchmark.

        Returns:
            `(n,)` columns, counted from 0.

        Raises:
            InputError: A label belongs to another task.
        """
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
    """A task-specific model M_t of the server.

    Args:
        task: The task that it learnt last.
        state: Its full state: body, buffers and head.
    """

    task: Task
    state: State


@contextmanager
def refusing_batch(x: Tensor, task: Task) -> Iterator[None]:
    """Turn what PyTorch says of a training batch that gives a layer one number to normalise into an `InputError`.

    Args:
        x: The batch.
        task: Its task, for the message.

    Raises:
        InputError: The block cannot normalise the batch.
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1"):
            raise
        raise InputError(
            f"a batch of size {len(x)} of task {task.name} cannot be normalised in training, since one number has no "
            f"variance ({error}); give batches of at least two images, or larger images"
        ) from error


Prior = dict[str, Tensor]
"""The prior (Omega) that an importance returns for one expert, and all that a user sends: named tensors.

What the tensors hold is the importance's business. `MAS`, `FIM` and `Uniform` name the weights of the body, with a
tensor of the weight's shape for each; another importance may give a number per channel, or a Gram matrix of each
layer's inputs, for a merge that can use them.
"""

UserModel = Mapping[str, State]
"""A personal model: the full state that serves each task, by the task's name.

Tasks that share weights share the tensors, so that it is cheap.
"""
