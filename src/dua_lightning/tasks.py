"""The values that travel between server and user."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

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


@dataclass(frozen=True)
class Expert:
    """Task-specific model M_t of the server: the full state (body, buffers and head) after learning `task`."""

    task: Task
    state: State


UserModel = Mapping[str, State]
"""Task name -> full state; tasks that share weights share the tensors, so this is cheap."""
