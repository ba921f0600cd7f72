"""A user's personal model: a state for each task, the network that they belong to, and how to use them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dua_lightning.adapt import AdaBN, Adapt, Unchanged
from dua_lightning.adapt.base import OfExpert, OfExperts, OfServer, asks
from dua_lightning.data.preprocessing import Preprocessing
from dua_lightning.errors import InputError
from dua_lightning.params import State, device_of, eval_mode, inputs, loaded, task_logits
from dua_lightning.run.build import build
from dua_lightning.tasks import Batch, Task


class TaskNetwork(nn.Module):
    """A network that gives the logits of one task's columns alone.

    Args:
        net: A network that gives the logits of every class.
        task: The task.
    """

    def __init__(self, net: nn.Module, task: Task) -> None:
        super().__init__()
        self.net = net
        self.start, self.stop = task.classes.start, task.classes.stop

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)[:, self.start : self.stop]
        return logits


@dataclass(frozen=True)
class PersonalModel:
    """A user's final model, as the run evaluated it after the last task.

    Args:
        user: The user's name.
        row: The label of the row that made it.
        tasks: The tasks in the order of learning.
        categories: The name of each column of the head.
        shape: The shape of one input.
        net: The network that lends its architecture; its own weights are of no account.
        states: The final state of each task by the task's name, on the processor.
        preprocessing: How a picture file becomes an input; `None` where inputs do not come from picture files.
        network: The settings that the network is built of again, without weights to load.
        seed: The run's seed.
        settings: The settings of the row: regulariser, psi, chi, statistics and phi.
        provenance: Where the model comes from: plain values by name.
    """

    user: str
    row: str
    tasks: tuple[Task, ...]
    categories: tuple[str, ...]
    shape: tuple[int, ...]
    net: nn.Module
    states: Mapping[str, State]
    preprocessing: Preprocessing | None
    network: Mapping[str, Any]
    seed: int
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def task(self, name: str) -> Task:
        """Find a task by its name.

        Args:
            name: The name.

        Returns:
            The task.

        Raises:
            InputError: There is no such task.
        """
        found = [task for task in self.tasks if task.name == name]
        if not found:
            raise InputError(f"there is no task {name}; there are {', '.join(task.name for task in self.tasks)}")
        return found[0]

    def classes(self, task: str) -> tuple[str, ...]:
        """Name the classes of a task.

        Args:
            task: The task's name.

        Returns:
            The names in the order of the task's logits.

        Raises:
            InputError: There is no such task.
        """
        return self.categories[self.task(task).classes]

    def module(self, task: str) -> nn.Module:
        """Make a network of its own that serves one task, in evaluation mode.

        Args:
            task: The task's name.

        Returns:
            A module that maps inputs `(n, *shape)` to the task's logits `(n, classes of the task)`.

        Raises:
            InputError: There is no such task.
        """
        return TaskNetwork(loaded(self.net, self.states[self.task(task).name]), self.task(task)).eval()

    def probabilities(self, task: str, x: Tensor) -> Tensor:
        """Compute the probability of each class of a task, exactly as a run's evaluation computes its logits.

        Args:
            task: The task's name.
            x: Inputs `(n, *shape)`, as `preprocessing` makes them.

        Returns:
            `(n, classes of the task)`, each row with the sum 1.

        Raises:
            InputError: There is no such task, or the network does not take such inputs.
        """
        state = self.states[self.task(task).name]
        with eval_mode(self.net), torch.no_grad():
            x = inputs(self.net, x, device_of(state))
            return task_logits(self.net, state, x, self.task(task).classes).softmax(1)

    def adaptation(self) -> Adapt:
        """Give the adaptation for unlabelled pictures: the row's own where it can do without labels, otherwise AdaBN.

        Returns:
            phi.
        """
        phi: Adapt = build(self.settings["phi"], "adapt", Adapt)
        # Experts stay with the run, and the server's images with the server.
        alone = not any(asks(phi, other) for other in (OfExpert, OfExperts, OfServer))
        own = type(phi) is not Unchanged and not phi.needs_labels and alone
        return phi if own else AdaBN()

    def adapted(self, task: str, data: Iterable[Batch]) -> "PersonalModel":
        """Adapt the state of one task by `adaptation`.

        Args:
            task: The task's name.
            data: Batches of the user's own inputs of the task; labels are not read.

        Returns:
            The model with the adapted state.

        Raises:
            InputError: There is no such task, or the network cannot be adapted so.
        """
        of = self.task(task)
        state = self.adaptation()(self.net, self.states[of.name], of, data)
        return replace(self, states={**self.states, of.name: state})
