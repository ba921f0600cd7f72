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
    """Psi = (Omega_1 .. Omega_N): each expert on the user-validation data of its task."""
    return [importance(net, expert, data.of(expert.task).validation_batches()) for expert in experts]


def evaluate(
    net: nn.Module,
    experts: Sequence[Expert],
    models: Iterable[tuple[int, UserModel]],
    adapt: Adapt,
    data: UserData,
) -> tuple[np.ndarray, list[tuple[Task, Cost]]]:
    """R `(N, N)` in percent, and what each adaptation cost; nothing for `Unchanged`, which is none.

    `R[t-1, j]` is the accuracy of personal model t, adapted, on the evaluation data of task j (0-based). Rows of
    prefixes that are not among `models` and entries above the diagonal are NaN. A state that serves a task after
    several prefixes is adapted and evaluated once.
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
            final = state
            if type(adapt) is not Unchanged:
                phi = adapt.of(experts[j]) if isinstance(adapt, OfExpert) else adapt
                final, cost = measured(phi, net, state, task, data.of(task).adaptation_batches())
                costs.append((task, cost))
            seen[task.name] = state, accuracy(net, final, task, data.of(task).evaluation_batches())
        R[t - 1, :t] = [seen[task.name][1] for task in tasks]
    return R, costs
