"""The device: measures priors and adapts on the user's own data. Only what `measure` returns is sent to the server."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from dua_lightning.adapt import Unchanged
from dua_lightning.adapt.base import Adapt, OfExpert
from dua_lightning.adapt.cost import Cost, measured
from dua_lightning.data.user import UserData
from dua_lightning.evaluation import accuracy, accuracy_per_task
from dua_lightning.importance.base import Importance
from dua_lightning.params import State, eval_mode
from dua_lightning.tasks import Expert, Prior, Task, UserModel


def measure(importance: Importance, net: nn.Module, experts: Sequence[Expert], data: UserData) -> list[Prior]:
    """Psi = (Omega_1 .. Omega_N): each expert on the user-validation data of its task."""
    # Once for all: in each measurement of a small network it would take as long as a layer.
    with eval_mode(net):
        return [
            importance(net, expert, batches) for expert, batches in zip(experts, data.predict_dataloader(), strict=True)
        ]


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
    held_out, images = data.test_dataloader(), data.test_images()
    R = np.full((len(data.tasks), len(data.tasks)), np.nan)
    seen: dict[str, tuple[State, float]] = {}
    costs: list[tuple[Task, Cost]] = []
    for t, model in models:
        tasks = data.tasks[:t]
        states = [model[task.name] for task in tasks]
        new = [j for j in range(t) if tasks[j].name not in seen or seen[tasks[j].name][0] is not states[j]]
        if type(adapt) is Unchanged and images is not None and len(new) == t:
            found = accuracy_per_task(net, states, tasks, images)
            seen |= {task.name: (state, one) for task, state, one in zip(tasks, states, found, strict=True)}
            new = []
        # One by one: of adapted states, which may be copies of the whole network, no two are held at once.
        for j in new:
            final = states[j]
            if type(adapt) is not Unchanged:
                phi = adapt.of(experts[j]) if isinstance(adapt, OfExpert) else adapt
                final, cost = measured(phi, net, final, tasks[j], data.train_dataloader()[j])
                costs.append((tasks[j], cost))
            seen[tasks[j].name] = states[j], accuracy(net, final, tasks[j], held_out[j])
        R[t - 1, :t] = [seen[task.name][1] for task in tasks]
    return R, costs
