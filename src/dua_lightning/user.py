"""The device: measures priors and adapts on the user's own data. Only what `measure` returns is sent to the server."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from dua_lightning.adapt import Unchanged
from dua_lightning.adapt.base import Adapt, OfExpert
from dua_lightning.adapt.cost import Cost, measured
from dua_lightning.data.user import UserData
from dua_lightning.evaluation import accuracy
from dua_lightning.importance.base import Importance
from dua_lightning.params import State
from dua_lightning.tasks import Expert, Prior, Task, UserModel


def measure(importance: Importance, net: nn.Module, experts: Sequence[Expert], data: UserData) -> list[Prior]:
    """Measure Psi = (Omega_1 .. Omega_N): each expert on the user-validation data of its task.

    Args:
        importance: psi.
        net: A workspace.
        experts: The experts, in the order of the tasks.
        data: The user's data.

    Returns:
        One prior for each expert, on its device.
    """
    return [importance(net, expert, data.of(expert.task).validation_batches()) for expert in experts]


def personalise(
    net: nn.Module, expert: Expert, state: State, adapt: Adapt, data: UserData
) -> tuple[State, Cost | None]:
    """Make the final state of one task: the personal model's, adapted on the user's own data.

    Args:
        net: A workspace.
        expert: The task's unmerged expert, for adaptations that ask for it.
        state: The state of the personal model that serves the task.
        adapt: phi.
        data: The user's data.

    Returns:
        The final state, and what the adaptation cost; with `Unchanged` the very state, and nothing.
    """
    if type(adapt) is Unchanged:
        return state, None
    phi = adapt.of(expert) if isinstance(adapt, OfExpert) else adapt
    return measured(phi, net, state, expert.task, data.of(expert.task).adaptation_batches())


def evaluate(
    net: nn.Module,
    experts: Sequence[Expert],
    models: Iterable[tuple[int, UserModel]],
    adapt: Adapt,
    data: UserData,
) -> tuple[np.ndarray, list[tuple[Task, Cost]]]:
    """Adapt and evaluate the personal models of a user.

    A state that serves a task after several prefixes is adapted and evaluated once.

    Args:
        net: A workspace.
        experts: The unmerged experts, for adaptations that ask for them.
        models: Pairs of t and the personal model of the first t tasks.
        adapt: phi.
        data: The user's data.

    Returns:
        R `(N, N)` in percent, and the cost of each adaptation in the order in which they were made, none for
        `Unchanged`. `R[t-1, j]` is the accuracy of personal model t, adapted, on the evaluation data of task j, counted
        from 0. Rows of prefixes that are not among `models` and entries above the diagonal are NaN.
    """
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
            final, cost = personalise(net, experts[j], state, adapt, data)
            if cost is not None:
                costs.append((task, cost))
            seen[task.name] = state, accuracy(net, final, task, data.of(task).evaluation_batches())
        R[t - 1, :t] = [seen[task.name][1] for task in tasks]
    return R, costs
