"""The device: measures priors and adapts on the user's own data. Only what `measure` returns is sent to the server."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dua_lightning.adapt import Unchanged
from dua_lightning.adapt.base import Adapt, OfExpert
from dua_lightning.adapt.cost import Cost, measured
from dua_lightning.data.user import UserData
from dua_lightning.errors import InputError
from dua_lightning.evaluation import accuracy
from dua_lightning.importance.base import Importance
from dua_lightning.params import State, device_of, eval_mode, fitted, inputs, task_logits
from dua_lightning.tasks import Batch, Expert, Prior, Task, UserModel


def tasks_by_confidence(net: nn.Module, experts: Sequence[Expert], data: Iterable[Batch]) -> Tensor:
    """Find the task of images of which nobody has told it: the one whose expert is the most confident.

    An expert is as confident as the largest probability of its softmax over the classes of its own task. The fewer
    classes a task has, the more confident its expert is by chance.

    Args:
        net: A workspace.
        experts: The experts, in the order of the tasks.
        data: Batches; labels are not read.

    Returns:
        `(n,)` the place of each image's task, on the processor; of equally confident experts the first.

    Raises:
        InputError: The logits of an expert are not finite.
    """
    confidence = []
    with eval_mode(net), torch.no_grad():
        for task, state in ((expert.task, fitted(net, expert.state)) for expert in experts):
            logits = [task_logits(net, state, inputs(net, x, device_of(state)), task.classes) for x, _ in data]
            confidence.append(torch.cat(logits).softmax(1).amax(1))
            if not confidence[-1].isfinite().all():
                raise InputError(f"the expert of task {task.name} gives logits that are NaN or infinite; train it anew")
    return torch.stack(confidence).argmax(0).cpu()


def measure(importance: Importance, net: nn.Module, experts: Sequence[Expert], data: UserData) -> list[Prior]:
    """Measure Psi = (Omega_1 .. Omega_N): each expert on the user-validation data of its task.

    The expert of a task that the user has no images of is of no importance to them: its prior is 0 everywhere.

    Args:
        importance: psi.
        net: A workspace.
        experts: The experts, in the order of the tasks.
        data: The user's data.

    Returns:
        One prior for each expert, on its device.

    Raises:
        InputError: The user has no images of any task.
    """
    of_tasks = [data.of(expert.task) for expert in experts]
    found = [
        importance(net, expert, own.validation_batches()) if len(own.validation) else None
        for expert, own in zip(experts, of_tasks, strict=True)
    ]
    some = next((prior for prior in found if prior is not None), None)
    if some is None:
        raise InputError(f"user {data.user} has no images of any task to measure an importance on; give them some")
    nothing = {name: torch.zeros_like(omega) for name, omega in some.items()}
    return [nothing if prior is None else prior for prior in found]


def measure_oracle(importance: Importance, net: nn.Module, experts: Sequence[Expert], data: UserData) -> list[Prior]:
    """Measure Psi on the user's evaluation images, the very ones that accuracies are measured on.

    It is a bound to be compared with, and no method: no user has these images when a model is made.

    Args:
        importance: psi.
        net: A workspace.
        experts: The experts, in the order of the tasks.
        data: The user's data, with evaluation images of every task.

    Returns:
        One prior for each expert, on its device.
    """
    return [importance(net, expert, data.of(expert.task).evaluation_batches()) for expert in experts]


Informed = Callable[[Adapt, Task, State], Adapt]
"""Gives an adaptation what the server measures for it on a task's state that it sends, where it asks for that."""


def uninformed(adapt: Adapt, task: Task, state: State) -> Adapt:
    """Give the adaptation as it is: the server sends the model alone.

    Args:
        adapt: phi.
        task: The task.
        state: The state of the personal model that serves the task.

    Returns:
        The adaptation.
    """
    return adapt


def personalise(
    net: nn.Module, expert: Expert, state: State, adapt: Adapt, data: UserData, informed: Informed = uninformed
) -> tuple[State, Cost | None]:
    """Make the final state of one task: the personal model's, adapted on the user's own data.

    Args:
        net: A workspace.
        expert: The task's unmerged expert, for adaptations that ask for it.
        state: The state of the personal model that serves the task.
        adapt: phi.
        data: The user's data.
        informed: The server's part in an adaptation that asks for it.

    Returns:
        The final state, and what the adaptation cost; the very state, and nothing, with `Unchanged` and where the user
        has no images of the task.
    """
    own = data.of(expert.task)
    if type(adapt) is Unchanged or not len(own.validation):
        return state, None
    phi = adapt.of(expert) if isinstance(adapt, OfExpert) else adapt
    phi = informed(phi, expert.task, state)
    return measured(phi, net, state, expert.task, own.adaptation_batches())


def evaluate(
    net: nn.Module,
    experts: Sequence[Expert],
    models: Iterable[tuple[int, UserModel]],
    adapt: Adapt,
    data: UserData,
    informed: Informed = uninformed,
) -> tuple[np.ndarray, list[tuple[Task, Cost]]]:
    """Adapt and evaluate the personal models of a user.

    A state that serves a task after several prefixes is adapted and evaluated once; where there is nothing to adapt on,
    it stays as it is. A user who has no labelled images of some task is not scored.

    Args:
        net: A workspace.
        experts: The unmerged experts, for adaptations that ask for them.
        models: Pairs of t and the personal model of the first t tasks.
        adapt: phi.
        data: The user's data.
        informed: The server's part in an adaptation that asks for it.

    Returns:
        R `(N, N)` in percent, and the cost of each adaptation in the order in which they were made, none for
        `Unchanged`. `R[t-1, j]` is the accuracy of personal model t, adapted, on the evaluation data of task j, counted
        from 0. Rows of prefixes that are not among `models` and entries above the diagonal are NaN; of a user who is
        not scored all are.
    """
    scored = not data.unscored
    R = np.full((len(data.tasks), len(data.tasks)), np.nan)
    seen: dict[str, tuple[State, float]] = {}
    costs: list[tuple[Task, Cost]] = []
    for t, model in models:
        tasks = data.tasks[:t]
        for j, task in enumerate(tasks):
            state = model[task.name]
            if task.name in seen and seen[task.name][0] is state:
                continue
            # An adapted state may be a copy of the whole network, so that no two are held at once.
            final, cost = personalise(net, experts[j], state, adapt, data, informed)
            if cost is not None:
                costs.append((task, cost))
            batches = data.of(task).evaluation_batches()
            seen[task.name] = state, accuracy(net, final, task, batches) if scored else math.nan
        R[t - 1, :t] = [seen[task.name][1] for task in tasks]
    return R, costs
